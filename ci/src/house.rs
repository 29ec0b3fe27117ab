// SPDX-License-Identifier: GPL-2.0-or-later

//! House rules that a compiler does not know.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::error::{Error, Result};
use crate::git::Git;
use crate::header::HEADER;
use crate::paths::Paths;
use crate::run::output;

/// Where the crates of the library are.
const LIBRARY: &str = "rust-balloon/";
/// These crates, each with those of them that it may depend on.
const CRATES: [(&str, &[&str]); 4] = [
    ("balloon", &["sparse-bitmap"]),
    ("capi", &["balloon", "dirty-pages", "sparse-bitmap"]),
    ("dirty-pages", &[]),
    ("sparse-bitmap", &[]),
];
/// The only one of them where unsafe code belongs.
const UNSAFE_CRATE: &str = "capi";
/// The one with the device's logic, whose modules have an order.
const BALLOON: &str = "rust-balloon/balloon/src/";
/// The file that gives each of these modules its level.
const LEVELS: &str = "ARCHITECTURE.md";
/// Modules and their levels.
type Levels = BTreeMap<String, u32>;
/// A file that is longer does more than one thing.
const LONGEST: usize = 500;
/// Words by which unsafe code, raw pointers and the C library are known.
const UNSAFE_WORDS: &[&str] = &[
    "unsafe {",
    "unsafe fn",
    "unsafe impl",
    "unsafe extern",
    "*const ",
    "*mut ",
    "libc::",
];

/// Checks all tracked files.
///
/// # Errors
/// With the number of findings, which are printed.
pub(crate) fn check(paths: &Paths) -> Result<()> {
    let git = Git::new(paths.top());
    let files = git.read(&["ls-files"])?;
    let private = private_words(paths);
    let levels = levels(&fs::read_to_string(paths.top().join(LEVELS)).unwrap_or_default());
    let mut findings = Vec::new();
    for name in files.lines() {
        // A file that was removed and not yet committed, or that is not text, has no rules.
        let Ok(text) = fs::read_to_string(paths.top().join(name)) else {
            continue;
        };
        let found = [
            dependencies(name, &text),
            unsafe_room(name, &text),
            imports(name, &text, &levels),
            words(&text, &private),
            form(name, &text),
        ];
        findings.extend(
            found
                .into_iter()
                .flatten()
                .map(|what| format!("{name}: {what}")),
        );
    }
    if findings.is_empty() {
        return Ok(());
    }
    findings.iter().for_each(|finding| println!("  {finding}"));
    Err(Error::new(
        format!("{} house rules are broken", findings.len()),
        "correct the above",
    ))
}

/// Lines of a Rust file without comments, each with its number. What a list of imports goes on with
/// belongs to its first line.
fn lines(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.split("//").next().unwrap_or("");
        match lines.last_mut() {
            Some((_, before)) if is_open_list(before) => before.push_str(line.trim_start()),
            _ => lines.push((index + 1, line.to_owned())),
        }
    }
    lines
}

fn is_open_list(line: &str) -> bool {
    let is_use = ["use ", "pub use ", "pub(crate) use "]
        .iter()
        .any(|start| line.trim_start().starts_with(start));
    is_use && !line.contains(';')
}

/// The same without what is compiled for tests only. It relies on rustfmt: an item ends with a
/// brace below its first word, or on its first line.
fn code(text: &str) -> Vec<(usize, String)> {
    let mut rest = lines(text).into_iter();
    let mut code = Vec::new();
    while let Some((number, line)) = rest.next() {
        let attribute = line.trim_start();
        if !["#[cfg(test)]", "#[cfg(all(test,"]
            .iter()
            .any(|start| attribute.starts_with(start))
        {
            code.push((number, line));
            continue;
        }
        let indent = &line[..line.len() - attribute.len()];
        let end = format!("{indent}}}");
        let item = rest
            .by_ref()
            .find(|(_, line)| !line.trim_start().starts_with("#["));
        if item.is_some_and(|(_, line)| !line.ends_with([';', ',', '}'])) {
            rest.by_ref().find(|(_, line)| line.starts_with(&end));
        }
    }
    code
}

/// What the manifest of a crate of the library depends on beside what the crate may.
fn dependencies(name: &str, manifest: &str) -> Vec<String> {
    let path = name.strip_prefix(LIBRARY);
    let Some(own) = path.and_then(|path| path.strip_suffix("/Cargo.toml")) else {
        return Vec::new();
    };
    let Some((_, allowed)) = CRATES.iter().find(|(crate_name, _)| *crate_name == own) else {
        return vec![format!("crate {own} is not known to the house rules")];
    };
    let mut lines = manifest
        .lines()
        .skip_while(|line| *line != "[dependencies]");
    lines.next();
    let used = lines
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split(['.', ' ', '=']).next());
    used.filter(|used| CRATES.iter().any(|(crate_name, _)| crate_name == used))
        .filter(|used| !allowed.contains(used))
        .map(|used| format!("{own} must not depend on {used}"))
        .collect()
}

fn unsafe_room(name: &str, text: &str) -> Vec<String> {
    let path = name.strip_prefix(LIBRARY);
    let Some((own, file)) = path.and_then(|path| path.split_once("/src/")) else {
        return Vec::new();
    };
    if own == UNSAFE_CRATE {
        return Vec::new();
    }
    let breaks = |line: &str| UNSAFE_WORDS.iter().find(|word| line.contains(**word));
    let mut found: Vec<String> = lines(text)
        .iter()
        .filter_map(|(number, line)| Some((number, breaks(line)?)))
        .map(|(number, word)| format!("line {number}: `{}` belongs to capi", word.trim()))
        .collect();
    if file == "lib.rs" && !text.contains("#![forbid(unsafe_code)]") {
        found.push("does not forbid unsafe code".to_owned());
    }
    found
}

/// The level of each module of the balloon, from lines such as ``1. `bitmap`, `runs` ``.
fn levels(text: &str) -> Levels {
    let mut levels = Levels::new();
    for line in text.lines() {
        let Some((number, rest)) = line.split_once(". `") else {
            continue;
        };
        let Ok(level) = number.parse() else { continue };
        // Words in parentheses or after a comma without a name explain; names come first.
        for name in rest.split("`, `") {
            let name = name.split('`').next().unwrap_or_default();
            levels.insert(name.to_owned(), level);
        }
    }
    levels
}

/// A module uses only those of lower levels; a queue never uses another queue.
fn imports(name: &str, text: &str, levels: &Levels) -> Vec<String> {
    let Some(path) = name.strip_prefix(BALLOON) else {
        return Vec::new();
    };
    let own = path.split(['/', '.']).next().unwrap_or_default();
    if own == "lib" {
        return Vec::new();
    }
    let Some(here) = levels.get(own) else {
        return vec![format!("module {own} has no level in {LEVELS}")];
    };
    let mut found = Vec::new();
    for (number, line) in code(text) {
        let used = line.split("crate::").skip(1).flat_map(imported);
        for module in used.filter(|module| *module != own) {
            if levels.get(module).is_some_and(|there| there >= here) {
                found.push(format!("line {number}: {own} must not use {module}"));
            }
        }
        if let Some(other) = other_queue(path, &line) {
            found.push(format!(
                "line {number}: a queue must not use another ({other})"
            ));
        }
    }
    found
}

/// The modules in what follows `crate::`: `a::b`, or `{a, b::c}`.
fn imported(part: &str) -> Vec<&str> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let head = |text: &'_ str| {
        text.trim_start()
            .find(|c| !is_name(c))
            .unwrap_or(text.trim().len())
    };
    match part.strip_prefix('{') {
        Some(list) => list
            .split(',')
            .map(|item| &item.trim_start()[..head(item)])
            .filter(|module| !module.is_empty())
            .collect(),
        None => vec![&part[..head(part)]],
    }
}

fn other_queue<'a>(path: &str, line: &'a str) -> Option<&'a str> {
    const QUEUES: [&str; 5] = ["inflate", "deflate", "stats", "hint", "report"];
    let own = path.strip_prefix("queue/")?.split(['/', '.']).next()?;
    let own = QUEUES.contains(&own).then_some(own)?;
    let used = ["super::", "crate::queue::"].map(|start| line.split(start).skip(1));
    let mut used = used.into_iter().flatten().flat_map(imported);
    used.find(|used| QUEUES.contains(used) && *used != own)
}

/// Words of this machine that do not belong into the project: its registries and its paths.
fn private_words(paths: &Paths) -> Vec<String> {
    let home =
        std::env::var("CARGO_HOME").or_else(|_| std::env::var("HOME").map(|h| h + "/.cargo"));
    let cargo = home.map(|home| {
        let read = |name| fs::read_to_string(Path::new(&home).join(name)).unwrap_or_default();
        read("config.toml") + &read("config")
    });
    let pip = output(Command::new("pip").args(["config", "list"])).unwrap_or_default();
    let variables =
        std::env::vars().filter(|(name, _)| name.starts_with("PIP_") || name.starts_with("CARGO_"));
    let variables: String = variables.map(|(_, value)| value + "\n").collect();
    let apt = apt_sources();
    let mut words = private_hosts(&(cargo.unwrap_or_default() + &pip + "\n" + &variables + &apt));
    let top = paths.top().to_string_lossy().into_owned();
    // A short path such as `/src` is a word like others.
    if top.len() > 6 {
        words.push(top);
    }
    words
}

/// What apt is told of its mirrors, without comments.
fn apt_sources() -> String {
    let parts = fs::read_dir("/etc/apt/sources.list.d")
        .into_iter()
        .flatten();
    let parts = parts.filter_map(|entry| Some(entry.ok()?.path()));
    let files = parts.chain([Path::new("/etc/apt/sources.list").to_owned()]);
    let text: Vec<String> = files
        .filter_map(|file| fs::read_to_string(file).ok())
        .collect();
    let text = text.join("\n");
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'));
    lines.collect::<Vec<_>>().join("\n")
}

/// The hosts of the URLs in a text.
fn private_hosts(text: &str) -> Vec<String> {
    let is_host = |c: char| c.is_alphanumeric() || c == '.' || c == '-';
    let mut hosts = Vec::new();
    for rest in text.split("://").skip(1) {
        let rest = rest
            .split_once('@')
            .filter(|(user, _)| !user.contains('/'))
            .map_or(rest, |p| p.1);
        let host = &rest[..rest.find(|c| !is_host(c)).unwrap_or(rest.len())];
        if host.contains('.') {
            hosts.push(host.to_owned());
        }
    }
    hosts.sort();
    hosts.dedup();
    hosts
}

fn words(text: &str, private: &[String]) -> Vec<String> {
    let found = private.iter().filter(|word| text.contains(word.as_str()));
    found
        .map(|_| "holds a host name or a path of this machine".to_owned())
        .collect()
}

/// Licence header, length, and no notes of unfinished work.
fn form(name: &str, text: &str) -> Vec<String> {
    let extension = Path::new(name)
        .extension()
        .and_then(|e| e.to_str())
        .unwrap_or_default();
    let mut found = Vec::new();
    if !["rs", "c", "h", "py", "sh"].contains(&extension) {
        return found;
    }
    if !text
        .lines()
        .take(20)
        .any(|line| line.contains("SPDX-License-Identifier: GPL-2.0-or-later"))
    {
        found.push("its licence header is missing".into());
    }
    if text.lines().count() > LONGEST && name != HEADER {
        found.push(format!("has more than {LONGEST} lines"));
    }
    // In two parts, or this file would break its own rule.
    for word in [concat!("TO", "DO"), concat!("FIX", "ME")] {
        if text.contains(word) {
            found.push(format!("holds a {word}"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order() -> Levels {
        levels(
            "text\n0. `page`, `error`\n1. `runs`, `bitmap`\n2. `host`\n\
             3. `queue` (never `another`)\n4. `device`\n5. `state`, the last\n",
        )
    }

    #[test]
    fn levels_are_read() {
        let levels = order();
        assert_eq!(
            (levels["page"], levels["bitmap"], levels["queue"]),
            (0, 1, 3)
        );
        assert_eq!((levels["state"], levels.len()), (5, 8));
    }

    #[test]
    fn unsafe_has_one_room() {
        let text = "fn f() {\n    unsafe { g() } // x\n}\n// unsafe { }\n";
        assert_eq!(
            unsafe_room("rust-balloon/balloon/src/page.rs", text).len(),
            1
        );
        assert!(unsafe_room("rust-balloon/capi/src/guard.rs", text).is_empty());
        assert!(unsafe_room("tests/abi/src/lib.rs", text).is_empty());
        assert_eq!(unsafe_room("rust-balloon/new/src/lib.rs", "").len(), 1);
        let forbids = "#![forbid(unsafe_code)]\n";
        assert!(unsafe_room("rust-balloon/new/src/lib.rs", forbids).is_empty());
    }

    #[test]
    fn crates_depend_one_way() {
        let manifest = "[package]\nname = \"x\"\n\n[dependencies]\nballoon.workspace = true\n\
                        log.workspace = true\n\n[dev-dependencies]\ncapi.workspace = true\n";
        let of = |own: &str| dependencies(&format!("rust-balloon/{own}/Cargo.toml"), manifest);
        assert!(of("capi").is_empty());
        assert_eq!(
            of("dirty-pages"),
            ["dirty-pages must not depend on balloon"]
        );
        assert_eq!(of("new").len(), 1);
        assert!(dependencies("tests/kvm/Cargo.toml", manifest).is_empty());
    }

    #[test]
    fn imports_go_one_way() {
        let up = "use crate::device::Balloon;\n";
        assert_eq!(
            imports("rust-balloon/balloon/src/queue/inflate.rs", up, &order()).len(),
            1
        );
        let list = "use crate::{page::Pfn, state};\n";
        assert_eq!(
            imports("rust-balloon/balloon/src/device.rs", list, &order()).len(),
            1
        );
        let same = "use crate::bitmap::B;\n";
        assert_eq!(
            imports("rust-balloon/balloon/src/runs.rs", same, &order()).len(),
            1
        );
        let down = "use crate::page::{Gpa, Pfn};\n#[cfg(test)]\nuse crate::state;\n";
        assert!(imports("rust-balloon/balloon/src/runs.rs", down, &order()).is_empty());
        let long = "use crate::{\n    page::{Gpa, Pfn},\n    state,\n};\n";
        assert_eq!(
            imports("rust-balloon/balloon/src/device.rs", long, &order()),
            ["line 1: device must not use state"]
        );
        assert_eq!(
            imports("rust-balloon/balloon/src/other.rs", "", &order()).len(),
            1
        );
    }

    /// What is only compiled for tests has no order, and nothing behind it is overlooked.
    #[test]
    fn tests_are_left_out_and_no_more() {
        let tests = [
            "#[cfg(test)]\nuse crate::state;\n",
            "#[cfg(test)]\nmod tests;\n",
            "#[cfg(test)]\n#[path = \"t.rs\"]\nmod tests;\n",
            "#[cfg(all(test, not(loom)))]\nmod tests {\n    use crate::state;\n\n    fn f() {\n    }\n}\n",
            "impl A {\n    #[cfg(test)]\n    fn f() {\n        crate::state::f();\n    }\n}\n",
        ];
        for test in tests {
            let text = format!("{test}use crate::device::D;\n");
            let line = text.lines().count();
            assert_eq!(
                imports("rust-balloon/balloon/src/runs.rs", &text, &order()),
                [format!("line {line}: runs must not use device")],
                "{test}"
            );
            let text = format!("{test}fn f() {{\n    unsafe {{ g() }}\n}}\n");
            assert_eq!(
                unsafe_room("rust-balloon/balloon/src/runs.rs", &text).len(),
                1,
                "{test}"
            );
        }
        let text = "#[cfg(test)]\nmod tests {\n    unsafe { g() }\n}\n";
        assert_eq!(
            unsafe_room("rust-balloon/balloon/src/runs.rs", text).len(),
            1
        );
    }

    #[test]
    fn a_queue_stands_alone() {
        let text = "use super::deflate::D;\nuse super::Batch;\n";
        assert_eq!(
            imports("rust-balloon/balloon/src/queue/inflate.rs", text, &order()).len(),
            1
        );
        let list = "use super::{Work, report::take};\n";
        for file in ["inflate.rs", "hint/asked.rs"] {
            let file = format!("rust-balloon/balloon/src/queue/{file}");
            assert_eq!(imports(&file, list, &order()).len(), 1, "{file}");
        }
        assert!(
            imports(
                "rust-balloon/balloon/src/queue/mod.rs",
                "use crate::page;",
                &order()
            )
            .is_empty()
        );
    }

    #[test]
    fn private_hosts_are_found_in_urls() {
        let text = "index = \"sparse+https://user:key@crates.corp.example:8080/api/\"\n\
                    index-url=http://pip.corp.example/simple\nhttps://localhost/simple";
        assert_eq!(
            private_hosts(text),
            ["crates.corp.example", "pip.corp.example"]
        );
    }

    #[test]
    fn a_source_file_says_its_licence() {
        assert_eq!(form("a.rs", "fn f() {}\n").len(), 1);
        assert!(form("a.rs", "// SPDX-License-Identifier: GPL-2.0-or-later\n").is_empty());
        assert!(form("a.md", "text").is_empty());
    }
}

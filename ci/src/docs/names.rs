// SPDX-License-Identifier: GPL-2.0-or-later

//! Files and functions that the documents name for those who read the code are there.

use std::collections::HashSet;
use std::fs;

use super::{Page, assert_none, pages, spans};
use crate::git::Git;
use crate::paths::Paths;

/// The pages for those who read the code. Others name what belongs to Linux, too.
const PAGES: [&str; 4] = [
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "docs/bounds.md",
    "docs/memory.md",
];
/// Where names of functions and constants come from.
const CODE: [&str; 4] = ["meson-glue", "rust-balloon", "qemu-patches", "tests/qtest"];
/// How names of files end.
const FILES: [&str; 8] = [".rs", ".c", ".h", ".py", ".md", ".txt", ".json", ".toml"];

/// What the name of something that Rust defines comes after.
const KINDS: [&str; 6] = ["fn", "const", "mod", "struct", "enum", "trait"];

/// All that can be named.
struct Names {
    /// Tracked files, and those of QEMU that are patched.
    files: Vec<String>,
    /// The words of all code.
    words: HashSet<String>,
    /// Those of them that Rust defines.
    defined: HashSet<String>,
}

impl Names {
    fn read() -> Names {
        let paths = Paths::new();
        let git = Git::new(paths.top());
        let tracked = git.read(&["ls-files"]).unwrap();
        let mut files: Vec<_> = tracked.lines().map(str::to_owned).collect();
        let code: String = files
            .iter()
            .filter(|name| CODE.iter().any(|place| name.starts_with(place)))
            .filter_map(|name| fs::read_to_string(paths.top().join(name)).ok())
            .collect();
        let patched = code.lines().filter_map(|line| line.strip_prefix("+++ b/"));
        files.extend(patched.map(str::to_owned));
        Names::new(files, &code)
    }

    fn new(files: Vec<String>, code: &str) -> Names {
        let (mut words, mut defined) = (HashSet::new(), HashSet::new());
        let mut last = "";
        for word in code.split(|c: char| !c.is_alphanumeric() && c != '_') {
            if KINDS.contains(&last) {
                defined.insert(word.to_owned());
            }
            words.insert(word.to_owned());
            last = word;
        }
        Names {
            files,
            words,
            defined,
        }
    }

    fn has_file(&self, name: &str) -> bool {
        let end = format!("/{name}");
        self.files
            .iter()
            .any(|file| file == name || file.ends_with(&end))
    }

    /// What there is not of what a word names, if it names a file, a path such as `A::b`, or a
    /// function or constant, which have an underscore.
    fn missing(&self, word: &str) -> Option<String> {
        let is_name = |c: char| c.is_ascii_alphanumeric() || "_:/.-".contains(c);
        if !word.chars().all(is_name) {
            return None;
        }
        if FILES.iter().any(|end| word.ends_with(end)) {
            return (!self.has_file(word)).then(|| format!("there is no file {word}"));
        }
        if word.contains(['/', '.', '-']) || !word.contains(['_', ':']) {
            return None;
        }
        let missing = if word.contains("::") {
            word.split("::")
                .find(|part| !self.defined.contains(*part))?
        } else {
            Some(word).filter(|word| !self.words.contains(*word))?
        };
        Some(format!("the code has no {missing} ({word})"))
    }

    fn check(&self, page: &Page) -> Vec<String> {
        let lines = page.lines().into_iter().filter(|line| line.code.is_none());
        lines
            .flat_map(|line| spans(line.text).map(move |span| (line.number, span)))
            .filter_map(|(number, span)| Some(page.finding(number, &self.missing(span)?)))
            .collect()
    }
}

#[test]
fn what_is_named_is_there() {
    let names = Names::read();
    let found: Vec<_> = pages()
        .iter()
        .filter(|page| PAGES.contains(&page.name.as_str()))
        .flat_map(|page| names.check(page))
        .collect();
    assert_none(&found);
}

#[test]
fn what_is_not_there_is_found() {
    let code = "fn vbr_batch_run() {}\nstruct Runs;\nfn merge() {}\n// to sort\n";
    let names = Names::new(vec!["a/src/bitmap.rs".to_owned()], code);
    let text = "`bitmap.rs` `map.rs` `src/bitmap.rs` `vbr_batch_run` `vbr_batch` `Runs::merge`\n\
                `Runs::sort` `on` `must-tell-host` `cargo xtask a_b` `migration/`\n";
    let wanted = [
        "a.md:1: there is no file map.rs",
        "a.md:1: the code has no vbr_batch (vbr_batch)",
        "a.md:2: the code has no sort (Runs::sort)",
    ];
    assert_eq!(names.check(&Page::new("a.md", text)), wanted);
}

// SPDX-License-Identifier: GPL-2.0-or-later

//! Commands in the documents can be typed: this program has their options, the device and the dirty
//! page list theirs, and the tests that they name are there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use clap::Parser;
use clap::error::ErrorKind;

use super::properties::options_of;
use super::{Page, assert_none, pages, spans};
use crate::Cli;
use crate::git::Git;
use crate::paths::Paths;

/// Where the tests with Linux guests are.
const PROGRAMS: &str = "tests/guest/tests";
/// How a command of this program begins.
const XTASK: &str = "cargo xtask ";
/// What stands for a number in the usage of a command.
const NUMBERS: [&str; 2] = ["N", "MIB"];
/// Options that each device of QEMU has.
const OF_ALL_DEVICES: [&str; 4] = ["id", "bus", "addr", "help"];
/// Options that each object of QEMU has.
const OF_ALL_OBJECTS: [&str; 2] = ["id", "help"];

/// The commands of a page, each with the number of its first line: those of blocks for a shell, and
/// those between backticks.
fn commands(page: &Page) -> Vec<(usize, String)> {
    let mut commands: Vec<(usize, String)> = Vec::new();
    let mut goes_on = false;
    for line in page.lines() {
        match line.code {
            None => commands.extend(spans(line.text).map(|span| (line.number, span.to_owned()))),
            Some("sh" | "console") => {
                let text = line.text.split(" # ").next().unwrap_or_default().trim();
                let text = text.strip_prefix("$ ").unwrap_or(text);
                let (text, more) = match text.strip_suffix('\\') {
                    Some(text) => (text, true),
                    None => (text, false),
                };
                match commands.last_mut().filter(|_| goes_on) {
                    Some((_, command)) => command.push_str(text),
                    None => commands.push((line.number, text.to_owned())),
                }
                goes_on = more;
            }
            Some(_) => {}
        }
    }
    commands
}

/// All that a usage stands for, such as `test [--quick | --all] [FILE]`: each of its alternatives,
/// with all that is optional.
fn expand(usage: &str) -> Vec<Vec<String>> {
    let mut usage = usage.to_owned();
    for sign in ["[", "]", "|"] {
        usage = usage.replace(sign, &format!(" {sign} "));
    }
    let words: Vec<&str> = usage
        .split_whitespace()
        .filter(|word| !word.chars().all(|c| c == '.'))
        .collect();
    sequence(&mut words.into_iter().peekable())
}

/// Up to the end, or the bracket that closes.
fn sequence<'a>(
    words: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>,
) -> Vec<Vec<String>> {
    let mut all: Vec<Vec<String>> = vec![Vec::new()];
    while let Some(word) = words.next() {
        let mut items = match word {
            "]" => break,
            "[" => sequence(words),
            word => vec![vec![word.trim_end_matches("..").to_owned()]],
        };
        while words.next_if_eq(&"|").is_some() {
            items.extend(words.next().map(|other| vec![other.to_owned()]));
        }
        all = all
            .iter()
            .flat_map(|before| items.iter().map(move |item| [&before[..], item].concat()))
            .collect();
    }
    all
}

/// Why this program does not take a command, if so.
fn refused(command: &str) -> Option<String> {
    expand(command).into_iter().find_map(|words| {
        let words = words.iter().skip(1).map(|word| match word.as_str() {
            word if NUMBERS.contains(&word) => "1",
            word => word,
        });
        match Cli::try_parse_from(words) {
            Ok(_) => None,
            Err(error) if error.kind() == ErrorKind::DisplayHelp => None,
            Err(error) => Some(error.to_string().lines().next()?.to_owned()),
        }
    })
}

/// The names of the tests with Linux guests: the function, behind its module if it has one. A file
/// that is a program of tests by itself is no module of it.
fn guest_tests() -> BTreeSet<String> {
    let paths = Paths::new();
    let git = Git::new(paths.top());
    let files = git.read(&["ls-files", "tests/guest/*.rs"]).unwrap();
    let mut names = BTreeSet::new();
    for file in files.lines() {
        let file = Path::new(file);
        let is_program = file.ends_with("main.rs") || file.parent() == Some(Path::new(PROGRAMS));
        let module = file.file_stem().unwrap().to_string_lossy();
        let module = if is_program { "" } else { &*module };
        let text = fs::read_to_string(paths.top().join(file)).unwrap();
        for test in text.split("#[test]").skip(1) {
            let function = test.split("fn ").nth(1).unwrap_or_default();
            let function = function.split('(').next().unwrap_or_default();
            names.insert(format!("{module}::{function}"));
        }
    }
    names
}

/// What is wrong with `-device` and `-object` in a command.
fn wrong_options(command: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let kinds = [
        ("virtio-balloon-rs", &OF_ALL_DEVICES[..]),
        ("dirty-page-list", &OF_ALL_OBJECTS[..]),
    ];
    for word in command.split_whitespace() {
        for (kind, of_all) in kinds {
            let Some(rest) = word.strip_prefix(kind) else {
                continue;
            };
            let known = options_of(kind);
            for option in rest.split(',').skip(1) {
                let name = option.split('=').next().unwrap_or_default();
                if !known.contains(name) && !of_all.contains(&name) {
                    wrong.push(format!("{kind} has no option {name}"));
                }
            }
        }
    }
    wrong
}

fn check(page: &Page, tests: &BTreeSet<String>) -> Vec<String> {
    let mut found = Vec::new();
    for (number, command) in commands(page) {
        let mut wrong = wrong_options(&command);
        if command.starts_with(XTASK) {
            wrong.extend(refused(&command).map(|why| format!("`{command}`: {why}")));
        }
        if let Some(name) = command.strip_prefix("cargo xtask guest ") {
            let name = name.split_whitespace().next().unwrap_or_default();
            let is_name = !name.starts_with(['[', '-']) && name != "NAME";
            if is_name && !tests.iter().any(|test| test.contains(name)) {
                wrong.push(format!("no test with a Linux guest is called {name}"));
            }
        }
        found.extend(wrong.iter().map(|what| page.finding(number, what)));
    }
    found
}

#[test]
fn commands_can_be_typed() {
    let (pages, tests) = (pages(), guest_tests());
    let all: Vec<_> = pages.iter().flat_map(commands).collect();
    let count = |start| all.iter().filter(|(_, c)| c.contains(start)).count();
    assert!(count(XTASK) > 40, "only {} commands", count(XTASK));
    assert!(count("-device virtio-balloon-rs") > 5);
    assert!(tests.len() > 100, "only {} tests", tests.len());
    let found: Vec<_> = pages.iter().flat_map(|page| check(page, &tests)).collect();
    assert_none(&found);
}

#[test]
fn commands_that_cannot_be_typed_are_found() {
    let text = "`cargo xtask tset`, `cargo xtask test --quick`, `cargo xtask guest nobody`\n\
                ```console\n$ cargo xtask bench [--runs N] [--reedme]\n\
                $ qemu -device virtio-balloon-rs,id=a,must-tell-hosts=on \\\n  \
                -object dirty-page-list,id=b,max-dirty=1,active=on\n```\n";
    let tests = BTreeSet::from(["a::b".to_owned()]);
    let found = check(&Page::new("a.md", text), &tests);
    let wanted = [
        "a.md:1: `cargo xtask tset`: error: unrecognized subcommand 'tset'",
        "a.md:1: no test with a Linux guest is called nobody",
        "a.md:3: `cargo xtask bench [--runs N] [--reedme]`: error: unexpected argument \
         '--reedme' found",
        "a.md:4: virtio-balloon-rs has no option must-tell-hosts",
        "a.md:4: dirty-page-list has no option active",
    ];
    assert_eq!(found, wanted);
}

#[test]
fn a_usage_stands_for_all_its_alternatives() {
    let expanded = |usage| -> Vec<String> {
        let all = expand(usage).into_iter();
        all.map(|words| words.join(" ")).collect()
    };
    assert_eq!(expanded("a b [--c D]... [W..]"), ["a b --c D W"]);
    assert_eq!(
        expanded("a b | c [--d | --e]"),
        ["a b --d", "a b --e", "a c --d", "a c --e"]
    );
}

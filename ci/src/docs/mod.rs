// SPDX-License-Identifier: GPL-2.0-or-later

//! What the documents say is held against the code.
//!
//! - [`commands`]: commands can be typed, and name what there is
//! - [`links`]: links lead somewhere
//! - [`names`]: files and functions that are named are there
//! - [`properties`]: the page of properties and counters has all of them, and no others

mod commands;
mod links;
mod names;
mod properties;

use std::fs;

use crate::git::Git;
use crate::paths::Paths;

/// The most bytes of the README: who reads it wants to know what this is, not all of it.
const README_BYTES: usize = 9 * 1024;
/// The longest line, but for tables and links.
const COLUMNS: usize = 100;
/// What was changed is told as it was then.
const CHANGELOG: &str = "CHANGELOG.md";

/// A Markdown file of the project.
struct Page {
    name: String,
    text: String,
}

/// A line of a page.
struct Line<'a> {
    number: usize,
    text: &'a str,
    /// The language of the block of code that the line is in.
    code: Option<&'a str>,
}

impl Page {
    fn new(name: &str, text: &str) -> Page {
        Page {
            name: name.to_owned(),
            text: text.to_owned(),
        }
    }

    /// Its lines, without those that begin and end blocks of code.
    fn lines(&self) -> Vec<Line<'_>> {
        let mut code = None;
        let mut lines = Vec::new();
        for (index, text) in self.text.lines().enumerate() {
            match text.strip_prefix("```") {
                Some(language) => code = code.is_none().then_some(language),
                None => lines.push(Line {
                    number: index + 1,
                    text,
                    code,
                }),
            }
        }
        lines
    }

    /// What a line of it is blamed for.
    fn finding(&self, number: usize, what: &str) -> String {
        format!("{}:{number}: {what}", self.name)
    }
}

/// All Markdown files that git knows.
fn all_pages() -> Vec<Page> {
    let paths = Paths::new();
    let files = Git::new(paths.top()).read(&["ls-files", "*.md"]).unwrap();
    files
        .lines()
        .map(|name| Page::new(name, &fs::read_to_string(paths.top().join(name)).unwrap()))
        .collect()
}

/// Those that say how things are.
fn pages() -> Vec<Page> {
    let mut pages = all_pages();
    pages.retain(|page| page.name != CHANGELOG);
    pages
}

/// The parts of a line between backticks.
fn spans(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// Fails with all findings.
fn assert_none(findings: &[String]) {
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

fn wide_lines(page: &Page) -> Vec<String> {
    let lines = page.text.lines().enumerate();
    lines
        .filter(|(_, line)| line.chars().count() > COLUMNS)
        .filter(|(_, line)| !line.starts_with('|') && !line.contains("]("))
        .map(|(index, _)| page.finding(index + 1, "more than 100 columns"))
        .collect()
}

/// Lines with a backtick that has no other one on it: what is between the two is then not read.
fn open_spans(page: &Page) -> Vec<String> {
    let lines = page.lines().into_iter().filter(|line| line.code.is_none());
    lines
        .filter(|line| line.text.matches('`').count() % 2 == 1)
        .map(|line| page.finding(line.number, "code in backticks goes on in another line"))
        .collect()
}

#[test]
fn the_readme_is_short() {
    let pages = pages();
    let readme = pages.iter().find(|page| page.name == "README.md").unwrap();
    assert!(
        readme.text.len() <= README_BYTES,
        "README.md has {} bytes",
        readme.text.len()
    );
}

#[test]
fn lines_are_not_wide() {
    let long = format!("{}\n|{0}\n[a]({0})\n", "x".repeat(101));
    assert_eq!(wide_lines(&Page::new("a.md", &long)).len(), 1);
    let found: Vec<_> = pages().iter().flat_map(wide_lines).collect();
    assert_none(&found);
}

#[test]
fn code_in_backticks_ends_on_its_line() {
    assert_eq!(
        open_spans(&Page::new("a.md", "`a` `b\nc`\n```\n`\n```\n")).len(),
        2
    );
    let found: Vec<_> = pages().iter().flat_map(open_spans).collect();
    assert_none(&found);
}

#[test]
fn blocks_of_code_are_known() {
    let page = Page::new("a.md", "a\n```sh\nb\n```\nc\n```\nd\n```\n");
    let lines = page.lines();
    let lines: Vec<_> = lines
        .iter()
        .map(|line| (line.number, line.text, line.code))
        .collect();
    let wanted = [
        (1, "a", None),
        (3, "b", Some("sh")),
        (5, "c", None),
        (7, "d", Some("")),
    ];
    assert_eq!(lines, wanted);
}

// SPDX-License-Identifier: GPL-2.0-or-later

//! Links lead to files that are there, and to headings that they have.

use std::fs;
use std::path::Path;

use super::{Page, all_pages, assert_none};
use crate::paths::Paths;

/// The anchors of a page's headings, as GitHub makes them.
fn anchors(page: &Page) -> Vec<String> {
    let mut anchors: Vec<String> = Vec::new();
    for line in page.lines().iter().filter(|line| line.code.is_none()) {
        let Some((_, heading)) = line.text.split_once("# ") else {
            continue;
        };
        if !line.text.starts_with('#') {
            continue;
        }
        let slug: String = heading
            .to_lowercase()
            .chars()
            .filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        let again = (1..).map(|n| format!("{slug}-{n}"));
        let free = [slug.clone()].into_iter().chain(again);
        let free = free.into_iter().find(|anchor| !anchors.contains(anchor));
        anchors.extend(free);
    }
    anchors
}

/// Where the links of a page lead, each with the number of its line.
fn links(page: &Page) -> Vec<(usize, String)> {
    let mut links = Vec::new();
    for line in page.lines().iter().filter(|line| line.code.is_none()) {
        // What is between backticks is shown as it is.
        let text: String = line.text.split('`').step_by(2).collect();
        for rest in text.split("](").skip(1) {
            let target = rest.split(')').next().unwrap_or_default();
            links.push((line.number, target.to_owned()));
        }
    }
    links
}

/// What is wrong with a link of `page`, whose files are below `top`.
fn wrong(top: &Path, page: &Page, target: &str) -> Option<String> {
    if target.starts_with("https://") || target.starts_with("http://") {
        return None;
    }
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    let anchors = if file.is_empty() {
        anchors(page)
    } else {
        let folder = Path::new(&page.name).parent().unwrap_or(Path::new(""));
        let file = top.join(folder).join(file);
        if !file.exists() {
            return Some(format!("there is no {target}"));
        }
        let text = fs::read_to_string(&file).unwrap_or_default();
        anchors(&Page::new("", &text))
    };
    let has = anchor.is_empty() || anchors.iter().any(|known| known == anchor);
    (!has).then(|| format!("there is no heading for {target}"))
}

fn check(top: &Path, page: &Page) -> Vec<String> {
    let found = links(page).into_iter();
    found
        .filter_map(|(number, target)| {
            wrong(top, page, &target).map(|what| page.finding(number, &what))
        })
        .collect()
}

#[test]
fn links_lead_somewhere() {
    let (paths, pages) = (Paths::new(), all_pages());
    let count: usize = pages.iter().map(|page| links(page).len()).sum();
    assert!(count > 50, "only {count} links were found");
    let found: Vec<_> = pages
        .iter()
        .flat_map(|page| check(paths.top(), page))
        .collect();
    assert_none(&found);
}

#[test]
fn links_that_lead_nowhere_are_found() {
    let text = "[a](../README.md#two-commands) and [b](nothing.md), [c](#here)\n\
                [d](memory.md#nowhere) `[e](f)` [g](https://example.org/)\n\
                ```\n[h](i)\n```\n# Here\n";
    let found = check(Paths::new().top(), &Page::new("docs/a.md", text));
    let wanted = [
        "docs/a.md:1: there is no nothing.md",
        "docs/a.md:2: there is no heading for memory.md#nowhere",
    ];
    assert_eq!(found, wanted);
}

#[test]
fn anchors_are_those_of_github() {
    let text = "# Beside QEMU's device\n## A `b`, c-d\ntext # no\n## What?\n### What?\n";
    let wanted = ["beside-qemus-device", "a-b-c-d", "what", "what-1"];
    assert_eq!(anchors(&Page::new("", text)), wanted);
}

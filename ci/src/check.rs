// SPDX-License-Identifier: GPL-2.0-or-later

//! `cargo xtask patches check`: is a series fit to be sent?

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::error::{At, Error, Result};
use crate::git::Git;
use crate::patches;
use crate::paths::Paths;
use crate::series::{Series, patch_files};
use crate::source::BASE;
use crate::stamp;

/// The most changed lines that a series should have.
const AIM: usize = 500;
/// Where it is said how large a series is.
const SIZES: &str = "docs/integrating.md";
/// What `git format-patch --zero-commit` writes first.
const FIRST_LINE: &str = "From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001";

/// Checks one series against its unpatched sources; gives the number of its patches.
///
/// # Errors
/// At the first patch that is not as it should be; the line names it.
pub(crate) fn check(paths: &Paths, series: &Series, git: &Git) -> Result<usize> {
    let files = patch_files(paths, series.name)?;
    let mut lines = 0;
    for file in &files {
        let text = fs::read_to_string(file).at("read", file)?;
        let refuse = |what: String| {
            Error::new(
                format!("{}: {what}", file.display()),
                "correct it or refresh the series",
            )
        };
        form(&text).map_err(refuse)?;
        only_existing_files(&text, git).map_err(refuse)?;
        checkpatch(git, file)?;
        lines += changed_lines(&text);
    }
    patches::tree_of(git, &files)?;
    let count = files.len();
    said(paths, series)?;
    println!(
        "  QEMU {}: {count} patches, {lines} changed lines (aim: at most {AIM})",
        series.name
    );
    Ok(count)
}

/// What is said of the size of a series.
fn size(paths: &Paths, series: &Series) -> Result<String> {
    let files = patch_files(paths, series.name)?;
    let mut lines = 0;
    for file in &files {
        lines += changed_lines(&fs::read_to_string(file).at("read", file)?);
    }
    Ok(sentence(series.name, files.len(), lines))
}

/// Of this form, so that it can be found and written anew.
fn sentence(series: &str, patches: usize, lines: usize) -> String {
    format!("{series}: {patches} patches, {lines} lines")
}

/// Checks that it is said how large the series is.
fn said(paths: &Paths, series: &Series) -> Result<()> {
    let (page, size) = (paths.top().join(SIZES), size(paths, series)?);
    let text = fs::read_to_string(&page).at("read", &page)?;
    if text.contains(&size) {
        return Ok(());
    }
    Err(Error::new(
        format!("{SIZES} does not say of the series what is true: `{size}`"),
        format!(
            "run `cargo xtask patches refresh --series {}`, or write it there",
            series.name
        ),
    ))
}

/// Writes how large the series is.
///
/// # Errors
/// When nothing is said of the series' size.
pub(crate) fn say(paths: &Paths, series: &Series) -> Result<()> {
    let (page, size) = (paths.top().join(SIZES), size(paths, series)?);
    let text = fs::read_to_string(&page).at("read", &page)?;
    let told = with_size(&text, series.name, &size).ok_or_else(|| {
        Error::new(
            format!("{SIZES} does not say how large the series is"),
            format!("write `{size}` where it speaks of the patches"),
        )
    })?;
    stamp::write_whole(&page, &told)
}

/// The text with another size of the series in the place of what it says.
fn with_size(text: &str, series: &str, size: &str) -> Option<String> {
    let is_number = |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_digit());
    let begin = format!("{series}: ");
    text.match_indices(&begin).find_map(|(at, _)| {
        let (patches, rest) = text[at + begin.len()..].split_once(" patches, ")?;
        let (lines, rest) = rest.split_once(" lines")?;
        (is_number(patches) && is_number(lines)).then(|| text[..at].to_owned() + size + rest)
    })
}

/// Whether a patch is as `git format-patch -N --zero-commit --no-signature` writes it.
fn form(text: &str) -> std::result::Result<(), String> {
    if text.lines().next() != Some(FIRST_LINE) {
        return Err("its first line is not that of `git format-patch --zero-commit`".into());
    }
    let subject = text
        .lines()
        .find_map(|line| line.strip_prefix("Subject: [PATCH] "));
    let subject = subject.ok_or("its subject has no plain [PATCH] (use format-patch -N)")?;
    if subject
        .split_once(": ")
        .is_none_or(|(component, _)| component.is_empty())
    {
        return Err(format!(
            "its subject `{subject}` is not `component: summary`"
        ));
    }
    if !text.lines().any(|line| line.starts_with("Signed-off-by: ")) {
        return Err("it has no Signed-off-by".into());
    }
    if text.lines().any(|line| line == "-- ") {
        return Err("it ends with a signature (use format-patch --no-signature)".into());
    }
    Ok(())
}

fn only_existing_files(text: &str, git: &Git) -> std::result::Result<(), String> {
    if text.lines().any(|line| line.starts_with("new file mode")) {
        return Err("it adds a file; new files belong to meson-glue or tests".into());
    }
    for name in touched(text) {
        if git.find(&format!("{BASE}:{name}")).is_none() {
            return Err(format!("it touches {name}, which QEMU does not have"));
        }
    }
    Ok(())
}

fn touched(text: &str) -> Vec<&str> {
    text.lines()
        .filter_map(|line| line.strip_prefix("diff --git a/"))
        .filter_map(|rest| rest.split_once(" b/"))
        .map(|(name, _)| name)
        .collect()
}

/// Lines added and removed.
fn changed_lines(text: &str) -> usize {
    let mut in_hunk = false;
    let mut count = 0;
    for line in text.lines() {
        if line.starts_with("diff --git ") {
            in_hunk = false;
        } else if line.starts_with("@@ ") {
            in_hunk = true;
        } else if in_hunk && line.starts_with(['+', '-']) {
            count += 1;
        }
    }
    count
}

fn checkpatch(git: &Git, file: &Path) -> Result<()> {
    let mut command = Command::new("perl");
    command
        .current_dir(git.dir())
        .args(["scripts/checkpatch.pl", "--no-color"])
        .arg(file);
    let todo = "run it by hand in the QEMU sources and correct the patch";
    let out = command
        .output()
        .map_err(|error| Error::new(format!("cannot start perl: {error}"), "install perl"))?;
    let text = String::from_utf8_lossy(&out.stdout);
    match checkpatch_total(&text) {
        Some((0, 0)) => Ok(()),
        Some((errors, warnings)) => {
            print_findings(&text);
            let what = format!(
                "checkpatch.pl finds {errors} errors and {warnings} warnings in {}",
                file.display()
            );
            Err(Error::new(what, todo))
        }
        None => Err(Error::new(
            format!("checkpatch.pl says nothing of {}", file.display()),
            todo,
        )),
    }
}

fn print_findings(text: &str) {
    for line in text
        .lines()
        .filter(|l| l.starts_with("ERROR:") || l.starts_with("WARNING:"))
    {
        eprintln!("    {line}");
    }
}

/// Errors and warnings from the line `total: 0 errors, 1 warnings, 8 lines checked`.
fn checkpatch_total(text: &str) -> Option<(u32, u32)> {
    let rest = text.lines().find_map(|line| line.strip_prefix("total: "))?;
    let mut numbers = rest
        .split(", ")
        .map(|part| part.split(' ').next()?.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATCH: &str = "\
From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001
From: A B <a@example.org>
Date: Mon, 1 Jan 2024 00:00:00 +0000
Subject: [PATCH] virtio: do a thing

Why.

Signed-off-by: A B <a@example.org>
---
 hw/x.c | 2 +-
 1 file changed, 1 insertion(+), 1 deletion(-)

diff --git a/hw/x.c b/hw/x.c
index 1..2 100644
--- a/hw/x.c
+++ b/hw/x.c
@@ -1,2 +1,2 @@
 same
-old
+new
";

    #[test]
    fn a_good_patch_passes() {
        assert_eq!(form(PATCH), Ok(()));
        assert_eq!(touched(PATCH), ["hw/x.c"]);
        assert_eq!(changed_lines(PATCH), 2);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let wrong = |from: &str, to: &str| form(&PATCH.replace(from, to)).unwrap_err();
        assert!(wrong("From 0000", "From 1234").contains("zero-commit"));
        assert!(wrong("[PATCH]", "[PATCH 1/2]").contains("-N"));
        assert!(wrong("virtio: do", "do").contains("component"));
        assert!(wrong("Signed-off-by", "Acked-by").contains("Signed-off-by"));
        assert!(
            form(&format!("{PATCH}-- \n2.39.5\n"))
                .unwrap_err()
                .contains("signature")
        );
    }

    #[test]
    fn the_size_of_a_series_is_written_anew() {
        let text = "QEMU (10.0: 2 patches, 3 lines; 10.2: 4 patches, 5 lines), 10.2: x patches, ";
        let told = with_size(text, "10.2", &sentence("10.2", 6, 70));
        let wanted =
            "QEMU (10.0: 2 patches, 3 lines; 10.2: 6 patches, 70 lines), 10.2: x patches, ";
        assert_eq!(told.as_deref(), Some(wanted));
        assert_eq!(with_size(text, "9.0", "9.0: 1 patches, 1 lines"), None);
    }

    #[test]
    fn the_size_of_each_series_is_said() {
        let paths = Paths::new();
        for series in Series::newest_first(&paths) {
            said(&paths, series).unwrap();
        }
    }

    #[test]
    fn the_total_of_checkpatch_is_read() {
        let text = "WARNING: x\ntotal: 0 errors, 1 warnings, 8 lines checked\n";
        assert_eq!(checkpatch_total(text), Some((0, 1)));
        assert_eq!(checkpatch_total("nothing"), None);
    }
}

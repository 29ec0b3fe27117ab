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

/// The most changed lines that a series should have.
const AIM: usize = 500;
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
    println!(
        "  QEMU {}: {count} patches, {lines} changed lines (aim: at most {AIM})",
        series.name
    );
    Ok(count)
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
    fn the_total_of_checkpatch_is_read() {
        let text = "WARNING: x\ntotal: 0 errors, 1 warnings, 8 lines checked\n";
        assert_eq!(checkpatch_total(text), Some((0, 1)));
        assert_eq!(checkpatch_total("nothing"), None);
    }
}

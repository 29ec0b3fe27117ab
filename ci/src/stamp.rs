// SPDX-License-Identifier: GPL-2.0-or-later

//! Stamps: a step is done when its stamp holds the same inputs.
//!
//! A stamp is written last, through a rename, and holds the inputs themselves (they are
//! small), so that neither an interrupted step nor a collision is taken for done.

use std::fs::{self, File};
use std::path::Path;

use crate::error::{At, Result};

/// Whether the step that wrote this stamp had exactly these inputs.
pub(crate) fn is_done(stamp: &Path, inputs: &str) -> bool {
    fs::read_to_string(stamp).is_ok_and(|text| text == inputs)
}

/// Says that the step is done with these inputs.
pub(crate) fn done(stamp: &Path, inputs: &str) -> Result<()> {
    write_whole(stamp, inputs)
}

/// Says that the step is not done; a missing stamp is fine.
pub(crate) fn forget(stamp: &Path) -> Result<()> {
    match fs::remove_file(stamp) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).at("remove", stamp)
        }
        _ => Ok(()),
    }
}

/// Writes a file so that it is there whole or not at all.
pub(crate) fn write_whole(path: &Path, text: &str) -> Result<()> {
    let part = path.with_added_extension("part");
    if let Some(dir) = path.parent() {
        make_dir(dir)?;
    }
    fs::write(&part, text).at("write", &part)?;
    fs::rename(&part, path).at("rename to", path)
}

/// Creates a directory and those above it.
pub(crate) fn make_dir(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).at("create", dir)
}

/// Removes a directory and all in it; a missing one is fine.
pub(crate) fn remove_dir(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).at("remove", dir),
        _ => Ok(()),
    }
}

/// Holds `dir` against a second command of this program until it is dropped.
pub(crate) fn lock(dir: &Path) -> Result<File> {
    make_dir(dir)?;
    let path = dir.join(".lock");
    let file = File::create(&path).at("create", &path)?;
    if file.try_lock().is_err() {
        println!(
            "  waiting for another `cargo xtask` that works in {}",
            dir.display()
        );
        file.lock().at("lock", &path)?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_counts_only_for_its_inputs() {
        let dir = std::env::temp_dir().join(format!("xtask-stamp-{}", std::process::id()));
        let stamp = dir.join("stamp");
        assert!(!is_done(&stamp, "a"));
        done(&stamp, "a").unwrap();
        assert!(is_done(&stamp, "a"));
        assert!(!is_done(&stamp, "b"));
        forget(&stamp).unwrap();
        forget(&stamp).unwrap();
        assert!(!is_done(&stamp, "a"));
        remove_dir(&dir).unwrap();
    }
}

// SPDX-License-Identifier: GPL-2.0-or-later
//! A C program on the library's C ABI: how it is built, and what it must call.
//!
//! The program is in `c/`: a small host with guest memory of its own, and one file per theme. It is
//! built with the address and undefined-behaviour sanitizers, so that a pointer that either side
//! follows wrongly ends it, and memory that either side loses fails it.

mod build;
mod header;

pub use build::{Failed, Language, Program, accepts_header};
pub use header::{called, declared};

use std::path::{Path, PathBuf};

/// The workspace's top.
fn top() -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    dir.join("../..").canonicalize().unwrap_or(dir.into())
}

/// Where the header is.
pub fn include_dir() -> PathBuf {
    top().join("rust-balloon/capi/include")
}

/// The program's sources, sorted.
///
/// # Errors
///
/// When they cannot be listed.
pub fn sources() -> Result<Vec<PathBuf>, Failed> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("c");
    let entries = dir
        .read_dir()
        .map_err(|error| Failed(format!("{}: {error}", dir.display())))?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut sources: Vec<PathBuf> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "c"))
        .collect();
    sources.sort();
    Ok(sources)
}

// SPDX-License-Identifier: GPL-2.0-or-later

//! The C header, which cbindgen writes from the crate and which is committed.

use std::fs;

use crate::error::{At, Error, Result};
use crate::paths::Paths;
use crate::stamp;

/// Where it is; made by a program, so rules for those who write do not hold for it.
pub(crate) const HEADER: &str = "rust-balloon/include/virtio_balloon_rs.h";

/// Writes the header anew.
pub(crate) fn write(paths: &Paths) -> Result<()> {
    stamp::write_whole(&paths.top().join(HEADER), &generate(paths)?)
}

/// Compares the committed header with the crate.
///
/// # Errors
/// When they differ.
pub(crate) fn verify(paths: &Paths) -> Result<()> {
    let path = paths.top().join(HEADER);
    let committed = fs::read_to_string(&path).at("read", &path)?;
    if committed == generate(paths)? {
        return Ok(());
    }
    Err(Error::new(
        format!("{HEADER} is not what cbindgen makes of the crate"),
        "run `cargo xtask header` and commit it",
    ))
}

fn generate(paths: &Paths) -> Result<String> {
    let dir = paths.top().join("rust-balloon");
    let todo = "correct rust-balloon/cbindgen.toml or the source it names";
    let config = cbindgen::Config::from_file(dir.join("cbindgen.toml"))
        .map_err(|error| Error::new(format!("cbindgen.toml: {error}"), todo))?;
    let bindings = cbindgen::generate_with_config(&dir, config)
        .map_err(|error| Error::new(format!("cbindgen: {error}"), todo))?;
    let mut bytes = Vec::new();
    bindings.write(&mut bytes);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

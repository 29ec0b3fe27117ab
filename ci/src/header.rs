// SPDX-License-Identifier: GPL-2.0-or-later

//! The C header, which cbindgen writes from the crate and which is committed.

use std::fs;

use crate::error::{At, Error, Result};
use crate::paths::Paths;
use crate::stamp;

/// Where it is; made by a program, so rules for those who write do not hold for it.
pub(crate) const HEADER: &str = "rust-balloon/capi/include/virtio_balloon_rs.h";

/// The list of its functions, for the test that has each of them fail.
const ENTRIES: &str = "tests/qtest/vbr-entries.h";

/// Writes the header anew, and what is made from it.
pub(crate) fn write(paths: &Paths) -> Result<()> {
    let header = generate(paths)?;
    stamp::write_whole(&paths.top().join(ENTRIES), &entries(&header))?;
    stamp::write_whole(&paths.top().join(HEADER), &header)
}

/// Compares what is committed with the crate.
///
/// # Errors
/// When they differ.
pub(crate) fn verify(paths: &Paths) -> Result<()> {
    let header = generate(paths)?;
    for (name, text) in [(HEADER, &header), (ENTRIES, &entries(&header))] {
        let path = paths.top().join(name);
        if fs::read_to_string(&path).at("read", &path)? != *text {
            return Err(Error::new(
                format!("{name} is not what is made of the crate"),
                "run `cargo xtask header` and commit it",
            ));
        }
    }
    Ok(())
}

/// All functions of the header but those that are there for tests, as an array of C.
fn entries(header: &str) -> String {
    let mut text = String::from(
        "/* SPDX-License-Identifier: GPL-2.0-or-later */\n\
         /* Generated from the C header; `cargo xtask header` writes it anew. */\n\n\
         static const char *const vbr_entries[] = {\n",
    );
    for name in functions(header).filter(|name| !name.starts_with("vbr_inject_")) {
        text += &format!("    \"{name}\",\n");
    }
    text + "};\n"
}

/// The names of functions: each is declared at the beginning of a line.
fn functions(header: &str) -> impl Iterator<Item = &str> {
    let declared = header
        .lines()
        .filter(|line| line.starts_with(|c: char| c.is_ascii_alphabetic()));
    declared.filter_map(|line| {
        let before = line.split_once('(')?.0;
        let name = before.rsplit([' ', '*']).next()?;
        name.starts_with("vbr_").then_some(name)
    })
}

fn generate(paths: &Paths) -> Result<String> {
    let dir = paths.top().join("rust-balloon/capi");
    let todo = "correct rust-balloon/capi/cbindgen.toml or the source it names";
    let config = cbindgen::Config::from_file(dir.join("cbindgen.toml"))
        .map_err(|error| Error::new(format!("cbindgen.toml: {error}"), todo))?;
    let bindings = cbindgen::generate_with_config(&dir, config)
        .map_err(|error| Error::new(format!("cbindgen: {error}"), todo))?;
    let mut bytes = Vec::new();
    bindings.write(&mut bytes);
    Ok(must_check(&String::from_utf8_lossy(&bytes)))
}

/// Has the compiler see to it that a status is looked at: a function that is new cannot forget to
/// ask for that.
fn must_check(header: &str) -> String {
    header.replace(
        "\nenum VbrStatus vbr_",
        "\nVBR_MUST_CHECK\nenum VbrStatus vbr_",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_functions_are_listed() {
        let header = "/**\n * vbr_no(x)\n */\nenum VbrStatus vbr_a(int\n vbr_b(void));\n\
                      const char *vbr_c(void);\nbool vbr_inject_x(void);\n  int vbr_d(void);\n";
        assert_eq!(
            functions(header).collect::<Vec<_>>(),
            ["vbr_a", "vbr_c", "vbr_inject_x"]
        );
        let list = entries(header);
        assert!(list.contains("    \"vbr_c\",\n};\n") && !list.contains("inject"));
    }

    #[test]
    fn a_status_has_to_be_looked_at() {
        let header = "/* enum VbrStatus vbr_a */\nenum VbrStatus vbr_b(void);\nvoid vbr_c(void);\n";
        let checked = "/* enum VbrStatus vbr_a */\nVBR_MUST_CHECK\nenum VbrStatus vbr_b(void);\nvoid vbr_c(void);\n";
        assert_eq!(must_check(header), checked);
    }
}

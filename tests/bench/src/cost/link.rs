// SPDX-License-Identifier: GPL-2.0-or-later
//! What the device adds to QEMU's program.
//!
//! A second build of QEMU takes minutes. Instead its last step is done again, as its build folder
//! has it: with everything, without the library, and without the C that connects it as well. What
//! then refers to nothing stays so, as nobody starts these programs. What the patches add to files
//! that QEMU has anyway is not counted.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use guest::{Error, Result};
use serde_json::Value;

/// The parts, in tables.
pub const LIBRARY: &str = "the library, with Rust's own";
/// See [`LIBRARY`].
pub const GLUE: &str = "the C that connects it";

/// How the files of the device are called in QEMU's build folder.
const OURS: &str = "balloon-rs";
/// Rules of meson by which a program is linked.
const RULES: [&str; 2] = ["c_LINKER_RSP", "c_LINKER"];
/// What is missing is no error.
const INCOMPLETE: &str = "-Wl,-z,undefs -Wl,--unresolved-symbols=ignore-all";

/// Bytes of a program, or of a part of it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Parts {
    /// Code, and data that does not change.
    pub text: f64,
    /// Data that may change or is adapted to where the program lies.
    pub data: f64,
    /// Data that begins as zeros and is in no file.
    pub zeros: f64,
}

impl Parts {
    /// All of it.
    pub fn sum(&self) -> f64 {
        self.text + self.data + self.zeros
    }

    fn less(self, other: Parts) -> Parts {
        Parts {
            text: self.text - other.text,
            data: self.data - other.data,
            zeros: self.zeros - other.zeros,
        }
    }
}

/// What the device adds.
#[derive(Debug, Clone, Copy)]
pub struct Added {
    /// The whole program, in bytes.
    pub whole: f64,
    /// Of it the library, with all of Rust's own that it uses.
    pub library: Parts,
    /// Of it the C on QEMU's side.
    pub glue: Parts,
}

impl Added {
    /// All that the device adds.
    pub fn both(&self) -> Parts {
        let (library, glue) = (self.library, self.glue);
        Parts {
            text: library.text + glue.text,
            data: library.data + glue.data,
            zeros: library.zeros + glue.zeros,
        }
    }
}

/// Links the program `qemu` in the folder where it was built.
///
/// # Errors
/// When it is not in such a folder, or ninja, the linker or size are missing or fail.
pub fn added(qemu: &Path) -> Result<Added> {
    let (Some(build), Some(name)) = (qemu.parent(), qemu.file_name()) else {
        return Err(Error::Missing("QEMU's build folder".into()));
    };
    let ninja = build.join("build.ninja");
    if !ninja.exists() {
        return Err(Error::Missing(format!("no {}", ninja.display())));
    }
    let command = link_command(build, &name.to_string_lossy())?;
    let dir = std::env::temp_dir().join(format!("vbr-link-{}", std::process::id()));
    fs::create_dir_all(&dir).map_err(Error::io(dir.display().to_string()))?;
    let sizes = link_all(build, &command, &dir);
    let _ = fs::remove_dir_all(&dir);
    let [with, without_library, without_both] = sizes?;
    Ok(Added {
        whole: with.sum(),
        library: with.less(without_library),
        glue: without_library.less(without_both),
    })
}

fn link_all(build: &Path, command: &str, dir: &Path) -> Result<[Parts; 3]> {
    let link = |name: &str, left_out: &[&str]| {
        let out: PathBuf = dir.join(name);
        let shell = without(command, &out.display().to_string(), left_out)?;
        said(Command::new("sh").args(["-c", &shell]).current_dir(build))?;
        let text = said(Command::new("size").arg(&out))?;
        sizes(&text).ok_or_else(|| Error::Protocol(format!("odd output of size: {text}")))
    };
    Ok([
        link("with", &[])?,
        link("without-library", &[".a"])?,
        link("without-both", &[".a", ".o"])?,
    ])
}

/// How ninja would link the program, with all arguments in the line.
fn link_command(build: &Path, name: &str) -> Result<String> {
    let mut ninja = Command::new("ninja");
    ninja.args(["-t", "compdb", "-x"]).args(RULES);
    let text = said(ninja.current_dir(build))?;
    let all: Value = serde_json::from_str(&text)
        .map_err(|error| Error::Protocol(format!("what ninja says: {error}")))?;
    let all = all.as_array().map(Vec::as_slice).unwrap_or_default();
    let found = all.iter().find(|step| step["output"] == name);
    let command = found.and_then(|step| step["command"].as_str());
    command
        .map(str::to_string)
        .ok_or_else(|| Error::Missing(format!("ninja knows no link of {name}")))
}

/// The command with another output, stripped, and without files of ours that end in one of
/// `endings`.
fn without(command: &str, out: &str, endings: &[&str]) -> Result<String> {
    let ours = |word: &&str| word.contains(OURS) && endings.iter().any(|e| word.ends_with(e));
    let mut words: Vec<&str> = command.split(' ').collect();
    let all = words.len();
    words.retain(|word| !ours(word));
    if words.len() == all && !endings.is_empty() {
        return Err(Error::Missing("our files in the link of QEMU".into()));
    }
    let at = words.iter().position(|word| *word == "-o");
    let name = at.and_then(|at| words.get_mut(at + 1));
    *name.ok_or_else(|| Error::Missing("an output in the link of QEMU".into()))? = out;
    words.extend(["-s", if endings.is_empty() { "" } else { INCOMPLETE }]);
    Ok(words.join(" "))
}

/// Reads what size says: names, then numbers.
fn sizes(text: &str) -> Option<Parts> {
    let mut numbers = text.lines().nth(1)?.split_whitespace();
    let mut next = || numbers.next()?.parse().ok();
    Some(Parts {
        text: next()?,
        data: next()?,
        zeros: next()?,
    })
}

fn said(command: &mut Command) -> Result<String> {
    let what = command.get_program().to_string_lossy().into_owned();
    let out = command.output().map_err(Error::io(format!("run {what}")))?;
    if !out.status.success() {
        let why = String::from_utf8_lossy(&out.stderr);
        let end: Vec<&str> = why.lines().rev().take(3).collect();
        return Err(Error::Tool(format!("{what} failed: {}", end.join("; "))));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMAND: &str = "cc -o qemu a.o x/hw_balloon-rs_b.c.o '-Wl,-rpath,$ORIGIN/balloon-rs' \
                           balloon-rs/lib.a other.a";

    #[test]
    fn only_our_files_are_left_out() {
        let text = without(COMMAND, "/new", &[".a", ".o"]).unwrap();
        let start = "cc -o /new a.o '-Wl,-rpath,$ORIGIN/balloon-rs' other.a -s ";
        assert_eq!(text, format!("{start}{INCOMPLETE}"));
        assert!(without(COMMAND, "/new", &[".a"]).unwrap().contains("b.c.o"));
        assert!(without("cc -o qemu a.o", "/new", &[".a"]).is_err());
    }

    #[test]
    fn sizes_are_in_the_second_line() {
        let text = "   text\tdata\tbss\tdec\thex\tfilename\n 100\t20\t3\t123\t7b\tqemu\n";
        let parts = sizes(text).unwrap();
        assert_eq!((parts.text, parts.data, parts.zeros), (100.0, 20.0, 3.0));
        assert_eq!(parts.sum(), 123.0);
    }
}

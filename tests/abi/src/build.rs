// SPDX-License-Identifier: GPL-2.0-or-later
//! Builds the library and the program.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::{include_dir, sources, top};

/// What did not work, with what the tool said.
#[derive(Clone, Debug)]
pub struct Failed(pub String);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A language that the header is written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// C of this standard.
    C(&'static str),
    /// C++ of this standard.
    Cpp(&'static str),
}

/// What every compilation must bear.
const WARNINGS: [&str; 7] = [
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wpedantic",
    "-Wshadow",
    "-Wstrict-aliasing",
    "-Wundef",
];
/// Every finding of a sanitizer ends the program.
const SANITIZERS: [&str; 3] = [
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    "-fno-omit-frame-pointer",
];
/// What Rust's standard library needs on Linux.
const SYSTEM_LIBRARIES: [&str; 3] = ["-lpthread", "-ldl", "-lm"];

/// The program, ready to run.
#[derive(Clone, Debug)]
pub struct Program(PathBuf);

impl Program {
    /// Builds the library and the program below `dir`, which holds nothing else.
    ///
    /// # Errors
    ///
    /// When one of them does not build; with what cargo or the compiler said.
    pub fn build(dir: &Path) -> Result<Program, Failed> {
        let library = build_library(&dir.join("library"))?;
        let program = dir.join("abi");
        let mut command = compiler(false)?;
        command
            .args(["-std=c11", "-g", "-O1"])
            .args(WARNINGS)
            .args(["-Wstrict-prototypes", "-Wmissing-prototypes"])
            .args(SANITIZERS)
            .args(["-DVBR_INJECT", "-I"])
            .arg(include_dir())
            .args(sources()?)
            .arg(library)
            .args(SYSTEM_LIBRARIES)
            .arg("-o")
            .arg(&program);
        run(command)?;
        Ok(Program(program))
    }

    /// Runs one theme.
    ///
    /// # Errors
    ///
    /// With what the program and the sanitizers said, when something in it does not hold.
    pub fn run(&self, theme: &str) -> Result<(), Failed> {
        let mut command = Command::new(&self.0);
        command
            .arg(theme)
            .env(
                "ASAN_OPTIONS",
                "detect_leaks=1:detect_stack_use_after_return=1",
            )
            .env("UBSAN_OPTIONS", "print_stacktrace=1");
        run(command).map(drop)
    }
}

/// Whether a file that includes the header and nothing else compiles without a warning.
///
/// # Errors
///
/// With what the compiler said, when not.
pub fn accepts_header(language: Language, dir: &Path) -> Result<(), Failed> {
    let (extension, standard, cpp) = match language {
        Language::C(standard) => ("c", standard, false),
        Language::Cpp(standard) => ("cpp", standard, true),
    };
    let file = dir.join(format!("header-{standard}.{extension}"));
    std::fs::write(&file, "#include \"virtio_balloon_rs.h\"\n")
        .map_err(|error| Failed(format!("{}: {error}", file.display())))?;
    let mut command = compiler(cpp)?;
    command
        .args(WARNINGS)
        .arg(format!("-std={standard}"))
        .args(["-fsyntax-only", "-I"])
        .arg(include_dir())
        .arg(&file);
    run(command).map(drop)
}

/// The compiler for the machine that this runs on, as `CC` and `CXX` or the system name it.
fn compiler(cpp: bool) -> Result<Command, Failed> {
    let mut build = cc::Build::new();
    build
        .cpp(cpp)
        .target(env!("ABI_TARGET"))
        .host(env!("ABI_HOST"))
        .opt_level(1)
        .cargo_metadata(false)
        .no_default_flags(true);
    let tool = build
        .try_get_compiler()
        .map_err(|error| Failed(format!("no compiler: {error} (install gcc and g++)")))?;
    Ok(tool.to_command())
}

/// The library as a C program links it, in a target directory of its own: cargo holds a lock on the
/// one that this program was built in.
fn build_library(target: &Path) -> Result<PathBuf, Failed> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(top())
        .args(["build", "--locked", "--package", "capi"])
        .args(["--lib", "--features", "inject", "--target-dir"])
        .arg(target)
        .env_remove("CARGO_BUILD_TARGET");
    run(command)?;
    let library = target.join("debug/libvirtio_balloon_rs.a");
    if library.is_file() {
        Ok(library)
    } else {
        Err(Failed(format!("cargo did not make {}", library.display())))
    }
}

fn run(mut command: Command) -> Result<Output, Failed> {
    let name = command.get_program().to_string_lossy().into_owned();
    let out = command
        .output()
        .map_err(|error| Failed(format!("cannot start {name}: {error}")))?;
    if out.status.success() {
        return Ok(out);
    }
    Err(Failed(format!(
        "{name}: {}\n{}{}",
        out.status,
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    )))
}

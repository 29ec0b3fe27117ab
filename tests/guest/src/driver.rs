// SPDX-License-Identifier: GPL-2.0-or-later
//! Our own balloon driver (`tests/guest/driver`), built for the guest's kernel.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::packages::Packages;
use crate::tools::{copy, empty, path_text, run};
use crate::{Error, Result};

/// The module's name, as modprobe and `/sys/module` have it.
pub const MODULE: &str = "vbr_founding";
/// The word of the kernel's command line that has it loaded instead of the stock driver.
pub const CHOOSE: &str = "vbr.driver=founding";

/// The driver's source files, in order.
///
/// # Errors
/// When they cannot be listed.
pub(crate) fn sources() -> Result<Vec<PathBuf>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("driver");
    let mut files = Vec::new();
    for entry in fs::read_dir(&dir).map_err(Error::io(path_text(&dir)))? {
        let path = entry.map_err(Error::io(path_text(&dir)))?.path();
        let extension = path.extension().and_then(|e| e.to_str());
        if path.ends_with("Makefile") || matches!(extension, Some("c" | "h")) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Which compiler builds the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compiler {
    /// The one that the kernel was built with, or none.
    OfKernel,
    /// That one if it is there, else this machine's.
    Any,
}

/// Builds the module for the kernel `release` and returns its file. What it
/// takes is unpacked in `scratch`.
///
/// # Errors
/// When the kernel's headers or its compiler cannot be had, or the compiler refuses.
pub(crate) fn build(
    release: &str,
    packages: &Packages,
    compiler: Compiler,
    scratch: &Path,
) -> Result<PathBuf> {
    let headers = unpack_headers(release, packages, &scratch.join("headers"))?;
    let dir = copy_sources(&scratch.join("driver"))?;
    run(
        "build the guest's driver",
        &mut make(&headers, compiler, &dir)?,
    )?;
    let module = dir.join(format!("{MODULE}.ko"));
    let mut command = Command::new("strip");
    command.arg("--strip-debug").arg(&module);
    run("strip the guest's driver", &mut command)?;
    Ok(module)
}

/// What the compiler, and sparse if it is installed, have to say about the driver,
/// built in `scratch` for the kernel that a new image would have.
///
/// # Errors
/// When the kernel's headers cannot be had, or the compiler refuses.
pub fn complaints(target: &Path, scratch: &Path) -> Result<Vec<String>> {
    let packages = Packages::of_machine(&target.join("downloads"));
    let release = packages.newest_kernel()?;
    let headers = unpack_headers(&release, &packages, &scratch.join("headers"))?;
    let dir = copy_sources(&scratch.join("driver"))?;
    let mut command = make(&headers, Compiler::Any, &dir)?;
    if has_sparse() {
        command.arg("C=2");
    }
    let out = command
        .stdin(Stdio::null())
        .output()
        .map_err(Error::io("build the guest's driver"))?;
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    if !out.status.success() {
        return Err(Error::Tool(said));
    }
    let is_complaint = |line: &&str| line.contains("warning:") || line.contains("error:");
    Ok(said
        .lines()
        .filter(is_complaint)
        .map(str::to_string)
        .collect())
}

/// Whether sparse, which knows the kernel's rules, is installed.
pub fn has_sparse() -> bool {
    there("sparse")
}

fn copy_sources(dir: &Path) -> Result<PathBuf> {
    empty(dir)?;
    for file in sources()? {
        copy(&file, &dir.join(file.file_name().unwrap_or_default()))?;
    }
    Ok(dir.into())
}

/// The kernel's own way to build a module.
fn make(headers: &Path, compiler: Compiler, dir: &Path) -> Result<Command> {
    let mut command = Command::new("make");
    command
        .arg("--silent")
        .arg("-C")
        .arg(headers)
        .arg(format!("M={}", dir.display()))
        .arg(format!("CC={}", compiler.name(headers)?))
        // Type information would need a program more, and nobody reads it here.
        .arg("CONFIG_DEBUG_INFO_BTF_MODULES=")
        .arg("modules");
    // A make that runs us would hand on its own flags; others change what is built.
    for name in ["MAKEFLAGS", "ARCH", "CROSS_COMPILE", "KBUILD_OUTPUT"] {
        command.env_remove(name);
    }
    Ok(command)
}

/// Unpacks the headers of the kernel `release` below `root`; the folder that
/// modules are built against.
fn unpack_headers(release: &str, packages: &Packages, root: &Path) -> Result<PathBuf> {
    empty(root)?;
    let package = format!("linux-headers-{release}");
    packages.unpack(&package, root)?;
    for needed in packages.dependencies(&package, &["linux-headers-", "linux-kbuild-"])? {
        packages.unpack(&needed, root)?;
    }
    let headers = root.join("usr/src").join(&package);
    // It names the others as if they were installed.
    let makefile = headers.join("Makefile");
    let text = fs::read_to_string(&makefile).map_err(Error::io(path_text(&makefile)))?;
    let here = format!("{}/", root.join("usr/src").display());
    fs::write(&makefile, text.replace("/usr/src/", &here))
        .map_err(Error::io(path_text(&makefile)))?;
    Ok(headers)
}

impl Compiler {
    /// The program.
    fn name(self, headers: &Path) -> Result<String> {
        let config = headers.join(".config");
        let text = fs::read_to_string(&config).map_err(Error::io(path_text(&config)))?;
        let name = compiler_of(&text).unwrap_or("gcc");
        match self {
            _ if there(name) => Ok(name.into()),
            Compiler::Any => Ok("gcc".into()),
            Compiler::OfKernel => Err(Error::Unavailable(format!(
                "this kernel was built with {name}, which this machine has not"
            ))),
        }
    }
}

/// The names of this machine's compilers, one for each version, in order.
///
/// # Errors
/// When they cannot be listed.
pub(crate) fn compilers() -> Result<Vec<OsString>> {
    let dir = Path::new("/usr/bin");
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(Error::io(path_text(dir)))? {
        let name = entry.map_err(Error::io(path_text(dir)))?.file_name();
        let version = name.to_str().and_then(|name| name.split_once("gcc-"));
        if version.is_some_and(|(_, version)| version.parse::<u32>().is_ok()) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Whether this program can be run.
fn there(program: &str) -> bool {
    let mut command = Command::new(program);
    let out = command.arg("--version").stdin(Stdio::null()).output();
    out.is_ok_and(|out| out.status.success())
}

/// The first word of `CONFIG_CC_VERSION_TEXT="gcc-12 (Debian ...) ..."`.
fn compiler_of(config: &str) -> Option<&str> {
    config
        .lines()
        .find_map(|line| line.strip_prefix("CONFIG_CC_VERSION_TEXT=\""))?
        .split_whitespace()
        .next()
}

/// Words for the kernel's command line: our driver with `parameters`
/// (`a=b c=d`, or nothing).
pub(crate) fn kernel_args(parameters: &str) -> String {
    let words = parameters.split_whitespace();
    words.fold(CHOOSE.into(), |line, word| {
        format!("{line} {MODULE}.{word}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compiler_of_the_kernel_is_found() {
        let text = "CONFIG_X=y\nCONFIG_CC_VERSION_TEXT=\"gcc-12 (Debian 12.2.0-14) 12.2.0\"\n";
        assert_eq!(compiler_of(text), Some("gcc-12"));
        assert_eq!(compiler_of("CONFIG_X=y\n"), None);
    }

    #[test]
    fn parameters_are_the_modules() {
        assert_eq!(kernel_args(""), "vbr.driver=founding");
        assert_eq!(
            kernel_args("protocol=ranges batch=9"),
            "vbr.driver=founding vbr_founding.protocol=ranges vbr_founding.batch=9"
        );
    }
}

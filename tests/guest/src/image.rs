// SPDX-License-Identifier: GPL-2.0-or-later
//! The guest: Debian's cloud kernel of this machine's apt, busybox and our agent.
//!
//! What is built lies in `<target>/guest`. A stamp that is written last holds a
//! hash of all that went in; while it fits, nothing is done again.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::{Error, Result};

const META_PACKAGE: &str = "linux-image-cloud-amd64";
const RUST_TARGET: &str = "x86_64-unknown-linux-gnu";
const BUSYBOX: &str = "/bin/busybox";
/// The programs of busybox that the guest's script and the tests call.
const APPLETS: &[&str] = &[
    "sh", "mount", "modprobe", "stty", "reboot", "sleep", "cat", "echo", "ls", "dmesg", "tail",
];
/// Folders of the kernel's modules that hold the drivers and all they need.
const MODULES: &[&str] = &["kernel/drivers/virtio"];
const INIT: &str = "#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
exec >/dev/console 2>&1
modprobe virtio_pci
modprobe virtio_mmio
modprobe virtio_balloon
stty -F /dev/ttyS1 raw -echo
exec /bin/guest-agent </dev/ttyS1 >/dev/ttyS1
";

/// A guest that can be booted.
#[derive(Debug, Clone)]
pub struct GuestImage {
    /// The kernel, as QEMU's `-kernel` takes it.
    pub kernel: PathBuf,
    /// The initramfs, for `-initrd`.
    pub initrd: PathBuf,
    /// The folder of both, where notes about this machine are kept, too.
    pub dir: PathBuf,
}

impl GuestImage {
    fn at(dir: &Path) -> GuestImage {
        GuestImage {
            kernel: dir.join("vmlinuz"),
            initrd: dir.join("initrd.gz"),
            dir: dir.to_path_buf(),
        }
    }

    fn complete(&self, inputs: &str) -> bool {
        let stamp = fs::read_to_string(self.dir.join("stamp"));
        stamp.is_ok_and(|s| s == inputs) && self.kernel.is_file() && self.initrd.is_file()
    }
}

/// Builds the guest in `<target>/guest`, or does nothing when it is there. A
/// built guest keeps its kernel when the package archive has a newer one.
///
/// # Errors
/// When a package cannot be had or a program fails; the next call starts again.
pub fn build(target: &Path) -> Result<GuestImage> {
    let target = &std::path::absolute(target).map_err(Error::io("find the target folder"))?;
    let dir = target.join("guest");
    let image = GuestImage::at(&dir);
    let inputs = inputs()?;
    if image.complete(&inputs) {
        return Ok(image);
    }
    create(&dir)?;
    eprintln!("building the guest's image in {}", dir.display());
    let begun = Instant::now();
    // Of its own for each process: two at once do the work twice, nothing worse.
    let scratch = dir.join(format!("part-{}", std::process::id()));
    empty(&scratch)?;
    let made = assemble(target, &scratch);
    let kept = made.and_then(|made| keep(&made, &image, &inputs));
    fs::remove_dir_all(&scratch).map_err(Error::io("clean up after the guest image"))?;
    kept?;
    let took = begun.elapsed().as_secs_f64();
    eprintln!("built the guest's image in {took:.1} s");
    Ok(image)
}

/// Makes kernel and initramfs in `scratch`.
fn assemble(target: &Path, scratch: &Path) -> Result<GuestImage> {
    let made = GuestImage::at(scratch);
    let agent = build_agent(target)?;
    let unpacked = unpack_kernel(target, scratch)?;
    let root = scratch.join("root");
    lay_out(&root, &unpacked, &agent)?;
    pack(&root, &made.initrd)?;
    copy(&kernel_of(&unpacked)?, &made.kernel)?;
    Ok(made)
}

/// Puts a whole image in its place, the stamp last.
fn keep(made: &GuestImage, image: &GuestImage, inputs: &str) -> Result<()> {
    let _ = fs::remove_file(image.dir.join("stamp"));
    for (from, to) in [(&made.kernel, &image.kernel), (&made.initrd, &image.initrd)] {
        fs::rename(from, to).map_err(Error::io(path_text(to)))?;
    }
    fs::write(image.dir.join("stamp"), inputs).map_err(Error::io("write the guest's stamp"))
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A line that differs whenever the image would.
fn inputs() -> Result<String> {
    let mut hash = DefaultHasher::new();
    (META_PACKAGE, APPLETS, MODULES, INIT).hash(&mut hash);
    let agent = Path::new(env!("CARGO_MANIFEST_DIR")).join("agent");
    let mut files = vec![agent.join("Cargo.toml"), PathBuf::from(BUSYBOX)];
    let sources = agent.join("src");
    for entry in fs::read_dir(&sources).map_err(Error::io(path_text(&sources)))? {
        files.push(entry.map_err(Error::io(path_text(&sources)))?.path());
    }
    files.sort();
    for file in files {
        let bytes = fs::read(&file).map_err(|e| missing_input(&file, e))?;
        bytes.hash(&mut hash);
    }
    Ok(format!("{:016x}\n", hash.finish()))
}

fn missing_input(file: &Path, e: std::io::Error) -> Error {
    if file == Path::new(BUSYBOX) {
        Error::Missing("no /bin/busybox: install the package busybox-static".into())
    } else {
        Error::io(path_text(file))(e)
    }
}

/// Builds the agent without a dynamic linker: the initramfs has no libraries.
fn build_agent(target: &Path) -> Result<PathBuf> {
    let dir = target.join("guest-agent");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(workspace())
        .args(["build", "--quiet", "--release", "--package", "guest-agent"])
        .args(["--target", RUST_TARGET, "--target-dir"])
        .arg(&dir)
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("RUSTFLAGS", "-C target-feature=+crt-static");
    run("build the guest's program", &mut command)?;
    Ok(dir.join(RUST_TARGET).join("release/guest-agent"))
}

/// Unpacks the kernel's package and returns the folder it is in.
fn unpack_kernel(target: &Path, scratch: &Path) -> Result<PathBuf> {
    let package = kernel_package()?;
    let deb = download(&package, &target.join("downloads"))?;
    let unpacked = scratch.join("unpacked");
    empty(&unpacked)?;
    let mut command = Command::new("dpkg-deb");
    command.arg("-x").arg(&deb).arg(&unpacked);
    run("unpack the guest's kernel", &mut command)?;
    Ok(unpacked)
}

/// The package that the archive's newest cloud kernel is in.
fn kernel_package() -> Result<String> {
    let mut command = Command::new("apt-cache");
    command.args(["depends", "--important", META_PACKAGE]);
    let text = run("look for the guest's kernel", &mut command)?;
    dependency(&text).ok_or_else(|| {
        Error::Missing(format!(
            "the package archive has no {META_PACKAGE}: run apt-get update, or add Debian's main archive"
        ))
    })
}

fn dependency(text: &str) -> Option<String> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("Depends:"))
        .map(|name| name.trim().to_string())
        .find(|name| name.starts_with("linux-image-"))
}

/// Downloads `package` unless it is there already; apt checks what it got.
fn download(package: &str, downloads: &Path) -> Result<PathBuf> {
    create(downloads)?;
    if let Some(deb) = find_deb(downloads, package)? {
        return Ok(deb);
    }
    let part = downloads.join(format!("{package}.part-{}", std::process::id()));
    empty(&part)?;
    let mut command = Command::new("apt-get");
    command
        .current_dir(&part)
        // Root's own folders need not be open to apt's unprivileged user.
        .args(["-q", "-o", "APT::Sandbox::User=", "download", package]);
    run("download the guest's kernel", &mut command)?;
    let deb = find_deb(&part, package)?
        .ok_or_else(|| Error::Missing(format!("apt-get download gave no {package}")))?;
    let kept = downloads.join(deb.file_name().unwrap_or_default());
    fs::rename(&deb, &kept).map_err(Error::io("keep the guest's kernel"))?;
    fs::remove_dir_all(&part).map_err(Error::io("clean up after the download"))?;
    Ok(kept)
}

fn find_deb(dir: &Path, package: &str) -> Result<Option<PathBuf>> {
    let prefix = format!("{package}_");
    for entry in fs::read_dir(dir).map_err(Error::io(path_text(dir)))? {
        let path = entry.map_err(Error::io(path_text(dir)))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(&prefix) && name.ends_with(".deb") {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Fills `root` with what the initramfs holds.
fn lay_out(root: &Path, unpacked: &Path, agent: &Path) -> Result<()> {
    empty(root)?;
    for dir in ["bin", "proc", "sys", "dev", "tmp"] {
        create(&root.join(dir))?;
    }
    copy(Path::new(BUSYBOX), &root.join("bin/busybox"))?;
    for applet in APPLETS {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet))
            .map_err(Error::io("link busybox"))?;
    }
    copy(agent, &root.join("bin/guest-agent"))?;
    let init = root.join("init");
    fs::write(&init, INIT).map_err(Error::io("write the guest's init"))?;
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&init, executable).map_err(Error::io("make init executable"))?;
    lay_out_modules(root, unpacked)
}

fn lay_out_modules(root: &Path, unpacked: &Path) -> Result<()> {
    let release = kernel_release(unpacked)?;
    let modules = Path::new("lib/modules").join(&release);
    for folder in MODULES {
        let to = root.join(&modules).join(folder);
        create(&to)?;
        let mut command = Command::new("cp");
        command.arg("-rT");
        command.arg(unpacked.join(&modules).join(folder)).arg(&to);
        run("copy the guest's modules", &mut command)?;
    }
    // depmod looks up what is built into the kernel here.
    for file in ["modules.builtin", "modules.order"] {
        copy(
            &unpacked.join(&modules).join(file),
            &root.join(&modules).join(file),
        )?;
    }
    let mut command = Command::new(BUSYBOX);
    command.args(["depmod", "-b"]).arg(root).arg(&release);
    run("list the guest's modules", &mut command).map(drop)
}

fn kernel_of(unpacked: &Path) -> Result<PathBuf> {
    let release = kernel_release(unpacked)?;
    Ok(unpacked.join("boot").join(format!("vmlinuz-{release}")))
}

fn kernel_release(unpacked: &Path) -> Result<String> {
    let dir = unpacked.join("lib/modules");
    let mut entries = fs::read_dir(&dir).map_err(Error::io(path_text(&dir)))?;
    match entries.next() {
        Some(Ok(entry)) => Ok(entry.file_name().to_string_lossy().into_owned()),
        _ => Err(Error::Missing("the kernel's package has no modules".into())),
    }
}

/// Writes the folder `root` as a compressed newc archive.
fn pack(root: &Path, to: &Path) -> Result<()> {
    let archive = to.with_extension("cpio");
    let out = fs::File::create(&archive).map_err(Error::io(path_text(&archive)))?;
    let mut cpio = Command::new("cpio")
        .args(["--quiet", "-o", "-H", "newc", "-R", "0:0"])
        .current_dir(root)
        .stdin(Stdio::piped())
        .stdout(out)
        .spawn()
        .map_err(|e| Error::Missing(format!("cannot run cpio ({e}): install the package cpio")))?;
    let mut names = Vec::new();
    list(root, Path::new(""), &mut names)?;
    if let Some(mut stdin) = cpio.stdin.take() {
        stdin
            .write_all(names.join("\n").as_bytes())
            .map_err(Error::io("list the guest's files for cpio"))?;
    }
    let status = cpio.wait().map_err(Error::io("wait for cpio"))?;
    if !status.success() {
        return Err(Error::Tool(format!("cpio failed: {status}")));
    }
    let out = fs::File::create(to).map_err(Error::io(path_text(to)))?;
    let mut gzip = Command::new("gzip");
    gzip.args(["-1", "-n", "-c"]).arg(&archive).stdout(out);
    run_to("compress the guest's files", &mut gzip).map(drop)
}

/// All names below `root`, a folder before what is in it.
fn list(root: &Path, dir: &Path, names: &mut Vec<String>) -> Result<()> {
    let here = root.join(dir);
    let mut entries: Vec<PathBuf> = fs::read_dir(&here)
        .map_err(Error::io(path_text(&here)))?
        .filter_map(|e| Some(dir.join(e.ok()?.file_name())))
        .collect();
    entries.sort();
    for entry in entries {
        names.push(entry.to_string_lossy().into_owned());
        let path = root.join(&entry);
        if path.is_dir() && !path.is_symlink() {
            list(root, &entry, names)?;
        }
    }
    Ok(())
}

/// Runs a program to its end and returns what it printed.
fn run(what: &str, command: &mut Command) -> Result<String> {
    run_to(what, command.stdout(Stdio::piped()))
}

/// The same, with the program's output where the caller sent it.
fn run_to(what: &str, command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let out = command
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(|e| Error::Missing(format!("cannot {what}: cannot run {program}: {e}")))?;
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr);
        let last: Vec<&str> = said.trim().lines().rev().take(5).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        return Err(Error::Tool(format!(
            "cannot {what}: {program} failed: {}",
            last.join("\n")
        )));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

fn create(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(Error::io(path_text(dir)))
}

fn empty(dir: &Path) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir).map_err(Error::io(path_text(dir)))?;
    }
    create(dir)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)
        .map(drop)
        .map_err(Error::io(format!("copy {}", from.display())))
}

fn path_text(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_meta_package_names_the_kernel() {
        let text = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-1-cloud-amd64\n";
        assert_eq!(
            dependency(text).as_deref(),
            Some("linux-image-6.1.0-1-cloud-amd64")
        );
        assert_eq!(dependency("linux-image-cloud-amd64\n"), None);
    }
}

// SPDX-License-Identifier: GPL-2.0-or-later
//! The guest: Debian's cloud kernel, busybox, our agent and our own balloon driver.
//!
//! What is built lies in `<target>/guest` with the kernel of this machine's apt, and in
//! `<target>/guest-LINE` with the newest of a line. A stamp that is written last holds a
//! hash of all that went in; while it fits, nothing is done again.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::driver::Compiler;
use crate::kernel::{DRIVERS, Unpacked};
use crate::packages::Packages;
use crate::tools::{copy, create, empty, path_text, run, run_to};
use crate::{Error, Result, driver};

const RUST_TARGET: &str = "x86_64-unknown-linux-gnu";
const BUSYBOX: &str = "/bin/busybox";
/// The programs of busybox that the guest's script and the tests call.
const APPLETS: &[&str] = &[
    "sh", "mount", "modprobe", "rmmod", "stty", "reboot", "sleep", "cat", "echo", "ls", "dmesg",
    "tail",
];
/// The file that says why an image is without our driver.
const NO_DRIVER: &str = "no-driver";
const INIT: &str = "#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
exec >/dev/console 2>&1
modprobe virtio_pci
modprobe virtio_mmio
driver=virtio_balloon
options=
for word in $(cat /proc/cmdline); do
    case $word in
    vbr.driver=founding) driver=vbr_founding ;;
    vbr_founding.*) options=\"$options ${word#vbr_founding.}\" ;;
    esac
done
[ $driver = vbr_founding ] || options=
modprobe $driver $options
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

    /// Why it is without our own driver, if it is.
    pub fn without_driver(&self) -> Option<String> {
        fs::read_to_string(self.dir.join(NO_DRIVER)).ok()
    }

    fn complete(&self, inputs: &str) -> bool {
        let stamp = fs::read_to_string(self.dir.join("stamp"));
        stamp.is_ok_and(|s| s == inputs) && self.kernel.is_file() && self.initrd.is_file()
    }
}

/// The lines of Linux that guests are run with, beside the kernel of this machine's apt.
pub const LINES: &[&str] = &["6.1", "6.12", "6.18", "7.2", "7.3"];

/// Which kernel a guest has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kernel {
    /// The newest cloud kernel of this machine's apt, with our own driver for it.
    Machine,
    /// The newest of this line in any release of the machine's archive. Our own driver is
    /// there only if the kernel's headers and its compiler are.
    Line(String),
}

/// Builds the guest, or does nothing when it is there. A built guest keeps its kernel when
/// the package archive has a newer one.
///
/// # Errors
/// When a package cannot be had or a program fails; the next call starts again.
pub fn build(target: &Path, kernel: &Kernel) -> Result<GuestImage> {
    let target = &std::path::absolute(target).map_err(Error::io("find the target folder"))?;
    let dir = match kernel {
        Kernel::Machine => target.join("guest"),
        Kernel::Line(line) => target.join(format!("guest-{line}")),
    };
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
    let made = assemble(target, kernel, &scratch);
    let kept = made.and_then(|made| keep(&made, &image, &inputs));
    fs::remove_dir_all(&scratch).map_err(Error::io("clean up after the guest image"))?;
    kept?;
    let took = begun.elapsed().as_secs_f64();
    eprintln!("built the guest's image in {took:.1} s");
    Ok(image)
}

/// Makes kernel and initramfs in `scratch`.
fn assemble(target: &Path, kernel: &Kernel, scratch: &Path) -> Result<GuestImage> {
    let made = GuestImage::at(scratch);
    let agent = build_agent(target)?;
    let downloads = target.join("downloads");
    let (packages, release) = match kernel {
        Kernel::Machine => {
            let packages = Packages::of_machine(&downloads);
            let release = packages.newest_kernel()?;
            (packages, release)
        }
        Kernel::Line(line) => {
            let packages = Packages::of_all_releases(&downloads)?;
            let release = packages.newest_of_line(line)?;
            (packages, release)
        }
    };
    let root = &scratch.join("unpacked");
    packages.unpack_kernel(&release, root)?;
    let unpacked = Unpacked {
        root,
        release: &release,
    };
    let compiler = match kernel {
        Kernel::Machine => Compiler::Any,
        Kernel::Line(_) => Compiler::OfKernel,
    };
    let module = match (
        driver::build(&release, &packages, compiler, scratch),
        kernel,
    ) {
        (Ok(module), _) => Some(module),
        (Err(Error::Unavailable(why)), Kernel::Line(_)) => {
            fs::write(made.dir.join(NO_DRIVER), why)
                .map_err(Error::io("note why there is no driver"))?;
            None
        }
        (Err(error), _) => return Err(error),
    };
    let root = scratch.join("root");
    lay_out(&root, &agent)?;
    lay_out_modules(&root, &unpacked, module.as_deref())?;
    pack(&root, &made.initrd)?;
    copy(&unpacked.kernel()?, &made.kernel)?;
    Ok(made)
}

/// Puts a whole image in its place, the stamp last.
fn keep(made: &GuestImage, image: &GuestImage, inputs: &str) -> Result<()> {
    for stale in ["stamp", NO_DRIVER] {
        let _ = fs::remove_file(image.dir.join(stale));
    }
    if let Some(reason) = made.without_driver() {
        fs::write(image.dir.join(NO_DRIVER), reason).map_err(Error::io("keep the reason"))?;
    }
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
    (APPLETS, DRIVERS, INIT).hash(&mut hash);
    let agent = Path::new(env!("CARGO_MANIFEST_DIR")).join("agent");
    let mut files = vec![agent.join("Cargo.toml"), PathBuf::from(BUSYBOX)];
    let sources = agent.join("src");
    for entry in fs::read_dir(&sources).map_err(Error::io(path_text(&sources)))? {
        files.push(entry.map_err(Error::io(path_text(&sources)))?.path());
    }
    files.extend(driver::sources()?);
    // A kernel that was built with a compiler that is here since has our driver now.
    driver::compilers()?.hash(&mut hash);
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

/// Fills `root` with what the initramfs holds, but for the kernel's modules.
fn lay_out(root: &Path, agent: &Path) -> Result<()> {
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
    fs::set_permissions(&init, executable).map_err(Error::io("make init executable"))
}

/// The kernel's drivers, and ours beside them.
fn lay_out_modules(root: &Path, kernel: &Unpacked<'_>, module: Option<&Path>) -> Result<()> {
    let modules = root.join("lib/modules").join(kernel.release);
    kernel.lay_out_modules(&modules)?;
    if let Some(module) = module {
        let ours = modules.join("extra");
        create(&ours)?;
        copy(module, &ours.join(format!("{}.ko", driver::MODULE)))?;
    }
    let mut command = Command::new(BUSYBOX);
    command.args(["depmod", "-b"]).arg(root).arg(kernel.release);
    run("list the guest's modules", &mut command).map(drop)
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

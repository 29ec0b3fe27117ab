// SPDX-License-Identifier: GPL-2.0-or-later
//! How a guest is started: QEMU's command line.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::PATIENCE;
use crate::accel::Accel;
use crate::driver;
use crate::image::GuestImage;

/// Two to four seconds when nothing else runs.
const BOOT_LIMIT: Duration = Duration::from_secs(60 * PATIENCE as u64);

/// What a guest's RAM is made of on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    /// QEMU's default: anonymous memory, with transparent huge pages where the host has them.
    Anonymous,
    /// Shared memory in 4 KiB pages.
    Shared4k,
    /// Reserved pages of 2 MiB.
    Huge2m,
}

/// How to start a guest.
#[derive(Debug, Clone)]
pub struct VmConfig {
    /// QEMU's program.
    pub qemu: PathBuf,
    /// The kernel and the initramfs.
    pub image: GuestImage,
    /// RAM in MiB.
    pub memory_mib: u64,
    /// Room for memory that is plugged in later, in MiB; 0 for none.
    pub pluggable_mib: u64,
    /// What the RAM is made of.
    pub backing: Backing,
    /// The machine type.
    pub machine: String,
    /// The balloon device's type and properties, as after `-device`; its id is added.
    pub device: Option<String>,
    /// More arguments for QEMU, such as the objects that the device names.
    pub more_arguments: Vec<String>,
    /// More words for the kernel's command line.
    pub kernel_args: String,
    /// Wait for a migration instead of booting.
    pub incoming: bool,
    /// Do not run before the monitor says so.
    pub paused: bool,
    /// The accelerator, or `None` to choose.
    pub accel: Option<Accel>,
    /// How long the guest may take to boot.
    pub boot_limit: Duration,
}

impl VmConfig {
    /// A guest of 512 MiB on machine `pc` without a balloon.
    pub fn new(qemu: &Path, image: &GuestImage) -> VmConfig {
        VmConfig {
            qemu: qemu.into(),
            image: image.clone(),
            memory_mib: 512,
            pluggable_mib: 0,
            backing: Backing::Anonymous,
            machine: "pc".into(),
            device: None,
            more_arguments: Vec::new(),
            kernel_args: String::new(),
            incoming: false,
            paused: false,
            accel: None,
            boot_limit: BOOT_LIMIT,
        }
    }

    /// Has the guest use our own driver with these parameters (`a=b c=d`, or nothing)
    /// instead of its kernel's.
    #[must_use]
    pub fn founding_driver(mut self, parameters: &str) -> VmConfig {
        let words = driver::kernel_args(parameters);
        self.kernel_args = format!("{} {words}", self.kernel_args).trim().into();
        self
    }

    /// QEMU's arguments; the sockets named console, agent and monitor are in `dir`.
    pub(crate) fn arguments(&self, accel: Accel, dir: &Path) -> Vec<String> {
        let mut args = Arguments(vec!["-nodefaults".into()]);
        // The threads of the processors are told from QEMU's own by their names.
        args.add("-name", "guest,debug-threads=on");
        args.add("-accel", accel.name());
        args.add("-display", "none");
        for firmware in ["/usr/share/qemu", "/usr/share/seabios"] {
            args.add("-L", firmware);
        }
        self.add_memory(&mut args);
        self.add_kernel(&mut args);
        for (id, kind) in [
            ("console", "-serial"),
            ("agent", "-serial"),
            ("monitor", "-mon"),
        ] {
            let path = dir.join(id).display().to_string();
            args.add("-chardev", &format!("socket,id={id},path={path}"));
            match kind {
                "-mon" => args.add(kind, &format!("chardev={id},mode=control")),
                _ => args.add(kind, &format!("chardev:{id}")),
            }
        }
        args.0.extend(self.more_arguments.iter().cloned());
        if let Some(device) = &self.device {
            args.add("-device", &format!("{device},id=balloon0,addr=4"));
        }
        if self.incoming {
            args.add("-incoming", "defer");
        }
        if self.paused {
            args.0.push("-S".into());
        }
        args.0
    }

    fn add_memory(&self, args: &mut Arguments) {
        let mut machine = self.machine.clone();
        let size = self.memory_mib;
        let pages = match self.backing {
            Backing::Anonymous => None,
            Backing::Shared4k => Some(""),
            Backing::Huge2m => Some(",hugetlb=on,hugetlbsize=2M"),
        };
        if let Some(pages) = pages {
            let backend = format!("memory-backend-memfd,id=ram0,size={size}M{pages}");
            args.add("-object", &backend);
            machine += ",memory-backend=ram0";
        }
        args.add("-machine", &machine);
        let mut memory = format!("{size}M");
        if self.pluggable_mib > 0 {
            let most = size + self.pluggable_mib;
            memory += &format!(",slots=4,maxmem={most}M");
        }
        args.add("-m", &memory);
    }

    fn add_kernel(&self, args: &mut Arguments) {
        args.add("-kernel", &self.image.kernel.display().to_string());
        args.add("-initrd", &self.image.initrd.display().to_string());
        // A guest that panics restarts at once, which the tests notice; they also look for
        // warnings, which are of level 4. Linux panics where its timer is late, which on a
        // busy host says nothing about the machine.
        let line = format!(
            "console=ttyS0 loglevel=5 panic=-1 no_timer_check {}",
            self.kernel_args
        );
        args.add("-append", line.trim_end());
    }
}

struct Arguments(Vec<String>);

impl Arguments {
    fn add(&mut self, name: &str, value: &str) {
        self.0.extend([name.to_string(), value.to_string()]);
    }
}

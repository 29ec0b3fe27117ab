// SPDX-License-Identifier: GPL-2.0-or-later
//! What the integration tests share: which QEMU, which guest, which device.
//!
//! - `VBR_QEMU`: QEMU's program; else the newest of `target/qemu/*/build`
//! - `VBR_GUEST`: the folder of the guest's image; else `target/guest`
//! - `VBR_KERNEL`: the line of the guest's kernel, such as 7.3; else this machine's own
//! - `VBR_DEVICE`: the device under test; `virtio-balloon-pci` runs what can be
//!   run with QEMU's own, for a comparison

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::agent::Worker;
use crate::config::VmConfig;
use crate::image::{self, GuestImage, Kernel};
use crate::vm::Vm;
use crate::{Error, MIB, Result};

/// QEMU's own balloon.
pub const STOCK: &str = "virtio-balloon-pci";
const OURS: &str = "virtio-balloon-rs";
const PROGRAM: &str = "qemu-system-x86_64";

/// Guests at a time: each emulated processor keeps one of the host's busy.
const SLOTS: u32 = 2;

/// The device under test.
pub fn device() -> String {
    std::env::var("VBR_DEVICE").unwrap_or_else(|_| OURS.into())
}

/// Whether it is ours, with the counters and properties that only ours has.
pub fn is_ours() -> bool {
    device() != STOCK
}

/// A guest's configuration with the device under test and `properties`
/// (`a=b,c=d`, or nothing).
///
/// # Errors
/// When there is no QEMU or no guest image.
pub fn config(properties: &str) -> Result<VmConfig> {
    let kernel = match std::env::var("VBR_KERNEL") {
        Ok(line) => Kernel::Line(line),
        Err(_) => Kernel::Machine,
    };
    config_on(&kernel, properties)
}

/// The same with a guest of this kernel.
///
/// # Errors
/// When there is no QEMU or no such guest.
pub fn config_on(kernel: &Kernel, properties: &str) -> Result<VmConfig> {
    Ok(VmConfig {
        device: Some(with_properties(&device(), properties)),
        ..VmConfig::new(&qemu()?, &guest(kernel)?)
    })
}

/// `device` with `properties`, as `-device` takes it.
pub fn with_properties(device: &str, properties: &str) -> String {
    match properties {
        "" => device.into(),
        _ => format!("{device},{properties}"),
    }
}

/// QEMU's program.
///
/// # Errors
/// When it was not built.
pub fn qemu() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("VBR_QEMU") {
        return Ok(path.into());
    }
    newest_build(&target().join("qemu")).ok_or_else(|| {
        Error::Missing("there is no patched QEMU: run cargo xtask qemu, or set VBR_QEMU".into())
    })
}

/// Whether the device under test has this property in this QEMU.
///
/// # Errors
/// When QEMU cannot be run.
pub fn has_property(name: &str) -> Result<bool> {
    let out = Command::new(qemu()?)
        .args(["-device", &format!("{},help", device())])
        .output()
        .map_err(Error::io("ask QEMU for a device's properties"))?;
    let text = String::from_utf8_lossy(&out.stdout);
    let start = format!("{name}=");
    Ok(text.lines().any(|line| line.trim().starts_with(&start)))
}

/// The newest machine type `pc-i440fx-VERSION` of this QEMU before `version`.
///
/// # Errors
/// When QEMU cannot be run.
pub fn machine_before(version: (u32, u32)) -> Result<Option<String>> {
    let out = Command::new(qemu()?)
        .args(["-machine", "help"])
        .output()
        .map_err(Error::io("ask QEMU for its machine types"))?;
    let text = String::from_utf8_lossy(&out.stdout);
    Ok(newest_machine(&text, version))
}

fn newest_machine(text: &str, before: (u32, u32)) -> Option<String> {
    let machines = text.lines().filter_map(|line| {
        let name = line.split_whitespace().next()?;
        let (major, minor) = name.strip_prefix("pc-i440fx-")?.split_once('.')?;
        let version = (major.parse().ok()?, minor.parse().ok()?);
        (version < before).then(|| (version, name.to_string()))
    });
    machines.max().map(|(_, name)| name)
}

fn newest_build(dir: &Path) -> Option<PathBuf> {
    let series = |path: &Path| -> Option<Vec<u32>> {
        let name = path.file_name()?.to_str()?;
        name.split('.').map(|part| part.parse().ok()).collect()
    };
    let builds = std::fs::read_dir(dir).ok()?.filter_map(|entry| {
        let path = entry.ok()?.path();
        let program = path.join("build").join(PROGRAM);
        program.is_file().then(|| Some((series(&path)?, program)))?
    });
    builds.max().map(|(_, program)| program)
}

fn guest(kernel: &Kernel) -> Result<GuestImage> {
    static BUILT: Mutex<Vec<(Kernel, GuestImage)>> = Mutex::new(Vec::new());
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, image)) = built.iter().find(|(known, _)| known == kernel) {
        return Ok(image.clone());
    }
    let target = match std::env::var_os("VBR_GUEST") {
        Some(dir) => Path::new(&dir).parent().unwrap_or(Path::new(".")).into(),
        None => target(),
    };
    let image = image::build(&target, kernel)?;
    built.push((kernel.clone(), image.clone()));
    Ok(image)
}

fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target")
}

/// Permission to run a guest; a test holds it as long as its guest lives.
#[derive(Debug)]
pub struct Slot(());

static FREE: Mutex<u32> = Mutex::new(SLOTS);
static FREED: Condvar = Condvar::new();

/// Waits until there is room for one more guest.
pub fn slot() -> Slot {
    let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
    while *free == 0 {
        free = FREED.wait(free).unwrap_or_else(PoisonError::into_inner);
    }
    *free -= 1;
    Slot(())
}

impl Drop for Slot {
    fn drop(&mut self) {
        *FREE.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        FREED.notify_one();
    }
}

/// Says in one line why a test is not run, even where output is captured. Others may be in the
/// middle of a line, and must not come into the middle of this one.
pub fn skip(test: &str, why: &str) {
    let line = format!("\nskipped: {test}: {why}\n");
    let _ = io::stderr().write_all(line.as_bytes());
}

impl Vm {
    /// Waits until the checking program has filled its memory.
    ///
    /// # Errors
    /// When it ends before, or takes longer than a minute.
    pub fn wait_filled(&mut self, worker: Worker) -> Result<()> {
        let limit = Duration::from_secs(60);
        self.wait_until("filled memory in the guest", limit, |vm| {
            let now = vm.guest(|agent| agent.worker(worker))?;
            match now.state.as_str() {
                "filling" => Ok(false),
                "checking" => Ok(true),
                other => Err(vm.explain(Error::Protocol(format!("the program {other}")))),
            }
        })
    }

    /// Uses `mib` MiB of the guest's memory once and gives them back to the
    /// guest's kernel, so that the host has memory behind them.
    ///
    /// # Errors
    /// When the guest has not that much.
    pub fn touch(&mut self, mib: u64) -> Result<()> {
        let worker = self.guest(|agent| agent.start_worker(mib, 0, false))?;
        self.wait_filled(worker)?;
        self.guest(|agent| agent.stop_worker(worker))
    }

    /// Starts a checking program that keeps every second 128 KiB of `mib` MiB: what is
    /// free then, or in the balloon, is in pieces.
    ///
    /// # Errors
    /// When the guest has not that much.
    pub fn fill_with_holes(&mut self, mib: u64) -> Result<Worker> {
        let worker = self.guest(|agent| agent.start_worker(mib, mib, true))?;
        self.wait_filled(worker)?;
        Ok(worker)
    }

    /// Lets the guest's kernel compact its memory; how many pages of the balloon it moved.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub fn compact(&mut self) -> Result<u64> {
        let before = self.guest(|agent| agent.vmstat("balloon_migrate"))?;
        self.guest(|agent| agent.call("write /proc/sys/vm/compact_memory 1"))?;
        let after = self.guest(|agent| agent.vmstat("balloon_migrate"))?;
        Ok(after - before)
    }

    /// Waits for two more whole looks of the checking program at its memory.
    ///
    /// # Errors
    /// When a word is wrong or the program ended.
    pub fn assert_intact(&mut self, worker: Worker) -> Result<()> {
        let from = self.guest(|agent| agent.worker(worker))?.passes;
        let limit = Duration::from_secs(60);
        self.wait_until("look of the guest at its memory", limit, |vm| {
            let now = vm.guest(|agent| agent.worker(worker))?;
            if !now.mismatch.is_empty() || now.state != "checking" {
                let text = format!("the guest's memory changed: {now:?}");
                return Err(vm.explain(Error::Protocol(text)));
            }
            Ok(now.passes >= from + 2)
        })
    }

    /// Waits until the host memory behind the guest's RAM is at most `mib` MiB.
    ///
    /// # Errors
    /// When it is not within `limit`, with what it is then.
    pub fn wait_resident(&mut self, mib: u64, limit: Duration) -> Result<()> {
        let mut last = 0;
        let reached = self.wait_until("fall of the host memory used", limit, |vm| {
            last = vm.resident_mib()?;
            Ok(last <= mib)
        });
        if reached.is_err() {
            let text = format!("the host still uses {last} MiB, not {mib} MiB");
            return Err(self.explain(Error::Protocol(text)));
        }
        Ok(())
    }

    /// Host memory behind the guest's RAM, in MiB.
    ///
    /// # Errors
    /// When QEMU is gone.
    pub fn resident_mib(&self) -> Result<u64> {
        Ok(self.resident()? / MIB)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_types_are_ordered_by_number() {
        let text = "pc   Standard PC (alias)\npc-i440fx-10.2 x\npc-i440fx-9.2 x\npc-q35-9.3 x\n";
        assert_eq!(
            newest_machine(text, (9, 3)).as_deref(),
            Some("pc-i440fx-9.2")
        );
        assert_eq!(newest_machine(text, (5, 1)), None);
    }

    #[test]
    fn the_newest_series_is_not_the_first_in_the_alphabet() {
        let dir = std::env::temp_dir().join(format!("vbr-series-{}", std::process::id()));
        for series in ["9.2", "10.0", "10.2", "notes"] {
            let build = dir.join(series).join("build");
            std::fs::create_dir_all(&build).unwrap();
            std::fs::write(build.join(PROGRAM), "").unwrap();
        }
        let found = newest_build(&dir);
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!(found, Some(dir.join("10.2/build").join(PROGRAM)));
    }
}

// SPDX-License-Identifier: GPL-2.0-or-later
//! The accelerator for Linux guests: KVM where a Linux guest really boots under
//! it, else emulation. A nested KVM may be there and still hang every guest.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::config::VmConfig;
use crate::image::GuestImage;
use crate::vm::Vm;
use crate::{PATIENCE, Result};

/// A guest is up under KVM within two seconds, or never.
const PROBE_LIMIT: Duration = Duration::from_secs(10 * PATIENCE as u64);

/// How QEMU runs a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// By emulation.
    Tcg,
    /// On the processor.
    Kvm,
}

impl Accel {
    /// The name that QEMU's `-accel` takes.
    pub fn name(self) -> &'static str {
        match self {
            Accel::Tcg => "tcg",
            Accel::Kvm => "kvm",
        }
    }
}

/// The accelerator for `image` in `qemu`: what `VBR_ACCEL` says, or what a probe
/// found. The answer is about this machine: it is noted beside the images of all kernels until the
/// machine restarts.
pub fn choose(qemu: &Path, image: &GuestImage) -> Accel {
    match std::env::var("VBR_ACCEL").as_deref() {
        Ok("kvm") => return Accel::Kvm,
        Ok("tcg") => return Accel::Tcg,
        _ => {}
    }
    if fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_err()
    {
        return Accel::Tcg;
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let note = image.dir.with_file_name("guest-accel");
    let known = fs::read_to_string(&note).unwrap_or_default();
    if let Some(name) = known.strip_prefix(&boot) {
        return if name == "kvm" {
            Accel::Kvm
        } else {
            Accel::Tcg
        };
    }
    eprintln!("trying whether KVM boots a Linux guest here");
    let Some(found) = answer(&probe(qemu, image)) else {
        return Accel::Tcg;
    };
    // Without the note the next run probes again, nothing worse.
    let _ = fs::write(note, format!("{boot}{}", found.name()));
    found
}

fn probe(qemu: &Path, image: &GuestImage) -> Result<()> {
    let config = VmConfig {
        memory_mib: 256,
        device: None,
        boot_limit: PROBE_LIMIT,
        accel: Some(Accel::Kvm),
        ..VmConfig::new(qemu, image)
    };
    Vm::start(&config).map(drop)
}

/// What a probe tells about this machine: nothing, if QEMU could not be run.
fn answer(probe: &Result<()>) -> Option<Accel> {
    match probe {
        Ok(()) => Some(Accel::Kvm),
        Err(error) if error.is_timeout() => Some(Accel::Tcg),
        Err(error) => {
            eprintln!("it is not known whether KVM boots a Linux guest here: {error}");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn only_a_guest_that_was_up_or_was_not_in_time_is_an_answer() {
        let late = || Error::Timeout {
            what: "guest".into(),
            after: PROBE_LIMIT,
        };
        let explained = Error::Machine {
            source: Box::new(late()),
            said: String::new(),
        };
        assert_eq!(answer(&Ok(())), Some(Accel::Kvm));
        assert_eq!(answer(&Err(late())), Some(Accel::Tcg));
        assert_eq!(answer(&Err(explained)), Some(Accel::Tcg));
        assert_eq!(answer(&Err(Error::Tool("QEMU ended".into()))), None);
    }
}

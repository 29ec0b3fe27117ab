// SPDX-License-Identifier: GPL-2.0-or-later
//! Free memory of the host that can be used at once.
//!
//! A host that is a virtual machine itself may give memory that was free for some
//! seconds back to its own host. The first use of such memory then takes
//! milliseconds for each MiB, more than all else in a migration, and whoever comes
//! first pays it. So the memory for the next guests is kept in use, and becomes
//! free only when they need it. On other machines this changes nothing.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::{Error, Result};

/// What one process holds, in MiB.
const PART_MIB: u64 = 1024;

/// Memory that is held.
#[derive(Debug)]
pub struct Warm {
    qemu: PathBuf,
    parts: Vec<Holder>,
}

impl Warm {
    /// Nothing yet; `qemu` is what holds it later.
    pub fn new(qemu: &Path) -> Warm {
        Warm {
            qemu: qemu.into(),
            parts: Vec::new(),
        }
    }

    /// Holds `mib` MiB, rounded up; what is too much is free when this returns.
    ///
    /// # Errors
    /// When there is not that much memory.
    pub fn hold(&mut self, mib: u64) -> Result<()> {
        let parts = mib.div_ceil(PART_MIB) as usize;
        self.parts.truncate(parts);
        while self.parts.len() < parts {
            self.parts.push(Holder::start(&self.qemu, PART_MIB)?);
        }
        Ok(())
    }
}

/// A QEMU without a machine. It backs its memory with huge pages where it would do
/// so for a guest: small pages, once free, are not what the next guest is given.
#[derive(Debug)]
struct Holder(Child);

impl Holder {
    fn start(qemu: &Path, mib: u64) -> Result<Holder> {
        let memory =
            format!("memory-backend-ram,id=warm,size={mib}M,prealloc=on,prealloc-threads=2");
        let child = Command::new(qemu)
            .args(["-nodefaults", "-display", "none", "-machine", "none"])
            .args(["-object", &memory, "-qmp", "stdio"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(Error::io(format!("start {}", qemu.display())))?;
        let mut holder = Holder(child);
        holder.wait_filled(mib)?;
        Ok(holder)
    }

    /// A command is answered when the memory is there.
    fn wait_filled(&mut self, mib: u64) -> Result<()> {
        let what = || format!("hold {mib} MiB of memory");
        let Holder(child) = self;
        if let Some(input) = &mut child.stdin {
            let command = b"{\"execute\":\"qmp_capabilities\"}\n";
            input.write_all(command).map_err(Error::io(what()))?;
        }
        for line in child
            .stdout
            .take()
            .map(BufReader::new)
            .into_iter()
            .flat_map(BufRead::lines)
        {
            if line.map_err(Error::io(what()))?.contains("\"return\"") {
                return Ok(());
            }
        }
        Err(Error::Missing(format!(
            "this machine has no {mib} MiB of free memory"
        )))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

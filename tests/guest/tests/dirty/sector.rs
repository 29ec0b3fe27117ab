// SPDX-License-Identifier: GPL-2.0-or-later
//! A guest whose memory says which pages it has written to, with each accelerator.

use std::collections::BTreeSet;
use std::fs::File;
use std::thread::sleep;
use std::time::Duration;

use guest::bare::{Bare, BareConfig};
use guest::boot::Boot;
use guest::dirty::{self, Fetched, Ram, Replica};
use guest::testing::{qemu, skip};
use guest::{Error, Result};

use crate::{SOON, difference, go_on, halt};

/// By emulation.
pub(crate) const TCG: &str = "tcg";
/// KVM with a ring of what each processor has written to.
pub(crate) const RING: &str = "kvm,dirty-ring-size=4096";
/// KVM with a bitmap for each piece of memory.
pub(crate) const LOG: &str = "kvm";

/// More pages than the ring has room for.
pub(crate) const MANY: u64 = 6000;
const ROUNDS: u64 = 20;
/// That the guest runs in each round.
pub(crate) const MOMENT: Duration = Duration::from_millis(15);
const MEMORY_MIB: u64 = 64;

/// KVM's clock would be a page that the firmware chose and that KVM writes to at each start.
pub(crate) fn config(accel: &str, boot: Boot, properties: &str) -> Result<BareConfig> {
    let words = [
        "-trace",
        "dirty_page_list_sync",
        "-cpu",
        "qemu64,kvmclock=off",
    ];
    let mut more_arguments: Vec<String> = words.map(Into::into).to_vec();
    more_arguments.extend(dirty::object(properties));
    Ok(BareConfig {
        qemu: qemu()?,
        accel: accel.into(),
        memory_mib: MEMORY_MIB,
        processors: boot.processors,
        disk: boot.disk(),
        more_arguments,
    })
}

/// Whether a machine without the list starts with this accelerator, and says in one line if
/// KVM is why it does not.
pub(crate) fn works(test: &str, accel: &str) -> Result<bool> {
    if accel == TCG {
        return Ok(true);
    }
    let opened = File::options().read(true).write(true).open("/dev/kvm");
    if let Err(e) = opened {
        skip(test, &format!("/dev/kvm: {e}"));
        return Ok(false);
    }
    let boot = Boot {
        processors: 1,
        pages: 1,
    };
    let plain = BareConfig {
        more_arguments: Vec::new(),
        ..config(accel, boot, "max-dirty=1")?
    };
    match Bare::start(&plain) {
        Ok(_) => Ok(true),
        // Another reason is not one to skip a test for.
        Err(Error::Machine { said, .. }) if said.to_lowercase().contains("kvm") => {
            skip(test, &format!("QEMU does not start with {accel}: {said}"));
            Ok(false)
        }
        Err(e) => Err(e),
    }
}

/// A machine that is stopped after each of its processors has written to all of its pages.
pub(crate) fn boot(accel: &str, boot: Boot, properties: &str) -> Result<(Bare, Ram)> {
    let mut vm = Bare::start(&config(accel, boot, properties)?)?;
    let ram = Ram::of(&vm)?;
    go_on(&mut vm)?;
    vm.wait_until("writes of all processors", SOON, |_| {
        let written = boot.written(&ram)?;
        Ok(written.iter().all(|&n| n >= boot.pages))
    })?;
    halt(&mut vm)?;
    Ok((vm, ram))
}

/// Rounds of a guest that runs for a moment: exactly what it wrote to is listed, and a copy
/// that is kept with it is its memory. In every second round some pages are copied early.
pub(crate) fn exact(accel: &str, boot_of: Boot, properties: &str) -> Result<()> {
    let (mut vm, ram) = boot(accel, boot_of, properties)?;
    dirty::start(&mut vm)?;
    let mut replica = Replica::new(Ram::of(&vm)?)?;
    let mut before = boot_of.written(&ram)?;
    let mut written = 0;
    for round in 0..ROUNDS {
        go_on(&mut vm)?;
        sleep(MOMENT);
        let mut fetched = Fetched::default();
        if round % 2 == 1 {
            for _ in 0..4 {
                let some = dirty::fetch(&mut vm, 500)?;
                replica.copy(&some)?;
                fetched.add(&some);
            }
        }
        halt(&mut vm)?;
        let rest = dirty::fetch_all(&mut vm, 65536)?;
        replica.copy(&rest)?;
        fetched.add(&rest);
        let now = boot_of.written(&ram)?;
        let expected = boot_of.between(&before, &now);
        assert_eq!(fetched.others, BTreeSet::new());
        assert_eq!(difference(&fetched.pages, &expected), None, "round {round}");
        assert_eq!(replica.differing()?, [0; 0], "round {round}");
        written += expected.len();
        before = now;
        dirty::reset(&mut vm)?;
    }
    println!(
        "{accel}, {boot_of:?}, {properties}: {} pages a round",
        written as u64 / ROUNDS
    );
    assert!(written as u64 > ROUNDS, "the guest hardly ran");
    assert_eq!(dirty::fetch_all(&mut vm, 1)?, Fetched::default());
    Ok(())
}

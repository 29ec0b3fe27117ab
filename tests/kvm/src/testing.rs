// SPDX-License-Identifier: GPL-2.0-or-later
//! What the tests share: whether they can run here.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use kvm_bindings::KVM_API_VERSION;
use kvm_ioctls::Kvm;

use crate::MIB;
use crate::machine::{self, Config};
use crate::memory::Backing;
use crate::program::Program;
use crate::tracking::Tracking;

/// KVM's only version.
const API_VERSION: i32 = KVM_API_VERSION as i32;
/// A guest that writes one word answers within a millisecond, or never: a KVM that
/// is itself in a virtual machine may be there and hang.
const PROBE_LIMIT: Duration = Duration::from_secs(20);

/// A test with one of KVM's ways to tell of writes.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// Its name, with that of its module.
    pub name: &'static str,
    /// The way.
    pub tracking: Tracking,
}

impl Case {
    /// KVM, if it is here and can do what the test needs; else it says in one line why
    /// the test is not run, even where output is captured.
    pub fn kvm(self) -> Option<Kvm> {
        let found = Kvm::new()
            .map_err(|error| format!("/dev/kvm cannot be opened: {error}"))
            .and_then(|kvm| match kvm.get_api_version() {
                API_VERSION => Ok(kvm),
                other => Err(format!("/dev/kvm has an interface of version {other}")),
            })
            .and_then(|kvm| self.tracking.check(&kvm).map(|()| kvm))
            .and_then(|kvm| if hangs() { Err(HANGS.into()) } else { Ok(kvm) });
        match found {
            Ok(kvm) => Some(kvm),
            Err(why) => {
                skip(self.name, &why);
                None
            }
        }
    }
}

/// Says in one line why a test is not run. Others may be in the middle of a line, and
/// must not come into the middle of this one.
fn skip(name: &str, why: &str) {
    let line = format!("\nskipped: {name}: {why}\n");
    let _ = io::stderr().write_all(line.as_bytes());
}

const HANGS: &str = "a guest that writes one word hangs under this KVM";

/// Whether a guest hangs here. One that fails does not: the tests say how it fails.
fn hangs() -> bool {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    *KNOWN.get_or_init(|| {
        let (say, said) = channel();
        // If it hangs, the thread is left behind until the process ends.
        thread::spawn(move || say.send(write_one_word().is_ok()));
        said.recv_timeout(PROBE_LIMIT) == Err(RecvTimeoutError::Timeout)
    })
}

fn write_one_word() -> io::Result<()> {
    let config = Config {
        ram_bytes: 2 * MIB,
        backing: Backing::Small,
        tracking: Tracking::ReadClears,
    };
    let (_machine, mut cpu) = machine::build(&Kvm::new()?, config)?;
    cpu.start(Program::Step, 0)?;
    cpu.write(0, 1)
}

/// Makes tests of functions: `cases!(RUN, MODULE, TRACKING: NAME...)` calls
/// `RUN(case, NAME)` for each NAME, in a module.
#[macro_export]
macro_rules! cases {
    ($run:ident, $module:ident, $tracking:ident: $($name:ident)*) => {
        mod $module {
            $(#[test]
            fn $name() {
                let case = $crate::testing::Case {
                    name: concat!(stringify!($module), "::", stringify!($name)),
                    tracking: $crate::tracking::Tracking::$tracking,
                };
                super::$run(case, super::$name);
            })*
        }
    };
}

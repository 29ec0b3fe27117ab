// SPDX-License-Identifier: GPL-2.0-or-later
//! Random input for the library, its C ABI and the models of its tests.
//!
//! A target is a function that takes bytes and panics where something is wrong. `cargo xtask fuzz`
//! runs them under libFuzzer where there is a nightly toolchain, and in a plain loop
//! ([`plain`]) where there is none; `cargo test -p fuzz` runs what is in `corpus`.
//!
//! - [`hostile`]: a guest that sends anything over all queues
//! - [`honest`]: guests that keep to the protocol, in the models of the library's tests
//! - [`state`]: what a device saved, damaged
//! - [`pageset`]: the coding of a set of pages
//! - [`dirty`]: the dirty list
//! - [`abi`]: calls of the C ABI in any order, with pointers that lead nowhere
//!
//! Some of what they send is what real guests sent ([`traffic`]).

pub mod abi;
mod bitmaps;
pub mod dirty;
pub mod honest;
pub mod hostile;
mod input;
mod message;
pub mod pageset;
pub mod plain;
pub mod random;
pub mod state;
pub mod traffic;
mod worlds;

use std::panic::{set_hook, take_hook};

/// A target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// Runs it once.
    pub run: fn(&[u8]),
    /// Longer input says no more.
    pub most: usize,
    /// Whether an input can end the whole process. It is written down before it runs, which takes
    /// longer than a run of the quickest target.
    pub may_end: bool,
}

/// All targets.
pub const TARGETS: [Target; 6] = [
    Target {
        name: "hostile",
        run: hostile::run,
        most: 1024,
        may_end: true,
    },
    Target {
        name: "honest",
        run: honest::run,
        most: 1024,
        may_end: true,
    },
    Target {
        name: "state",
        run: state::run,
        most: 512,
        may_end: true,
    },
    Target {
        name: "pageset",
        run: pageset::run,
        most: 64,
        may_end: false,
    },
    Target {
        name: "dirty",
        run: dirty::run,
        most: 512,
        may_end: true,
    },
    Target {
        name: "abi",
        run: abi::run,
        most: 1024,
        may_end: true,
    },
];

/// For libFuzzer, whose own panic hook ends the process, even where the library is asked to panic
/// and catches it. A panic that nobody catches leaves the target, and ends the process there.
pub fn tell_of_panics() {
    // Taking libFuzzer's hook away leaves that of the standard library.
    drop(take_hook());
    let tell = take_hook();
    set_hook(Box::new(move |info| {
        let said = info.payload().downcast_ref::<&str>();
        if said != Some(&"a panic was asked for") {
            tell(info);
        }
    }));
}

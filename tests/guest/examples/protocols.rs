// SPDX-License-Identifier: GPL-2.0-or-later
//! The benchmark of protocols with a QEMU that is already built; its arguments are
//! those of `cargo xtask bench protocols`.

use guest::Result;
use guest::bench::protocols::{plan::Options, run};

fn main() -> Result<()> {
    run(&Options::parse(std::env::args().skip(1))?)
}

// SPDX-License-Identifier: GPL-2.0-or-later
//! The demonstration with a QEMU that is already built: `[FILE.svg]`.

use guest::Result;
use guest::demo::{Config, run};
use guest::testing;

fn main() -> Result<()> {
    let config = testing::config("")?;
    run(&Config {
        qemu: config.qemu,
        image: config.image,
        plot: std::env::args().nth(1).map(Into::into),
    })
}

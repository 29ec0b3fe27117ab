// SPDX-License-Identifier: GPL-2.0-or-later
//! Builds the image of the guest that the tests would run, and says on the first line which
//! kernel it has, and on the others why it is without our own driver, if it is.

use guest::{Result, testing};

fn main() -> Result<()> {
    let image = testing::config("")?.image;
    println!("{}", image.kernel.display());
    if let Some(why) = image.without_driver() {
        println!("{why}");
    }
    Ok(())
}

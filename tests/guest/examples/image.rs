// SPDX-License-Identifier: GPL-2.0-or-later
//! Builds the image of the guest that the tests would run, and says which kernel it has and why
//! it is without our own driver, if it is; or why there cannot be such a guest here.

use guest::{Error, Result, testing};

fn main() -> Result<()> {
    let image = match testing::config("") {
        Err(Error::Unavailable(why)) => {
            println!("no kernel: {why}");
            return Ok(());
        }
        made => made?.image,
    };
    println!("kernel: {}", image.kernel.display());
    if let Some(why) = image.without_driver() {
        println!("no driver: {why}");
    }
    Ok(())
}

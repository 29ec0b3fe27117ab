// SPDX-License-Identifier: GPL-2.0-or-later
//! Our own driver, as its compiler sees it.

use std::path::Path;

use guest::testing::skip;
use guest::{Error, Result, driver};

#[test]
#[ignore = "needs the headers of the guest's kernel: run cargo xtask test"]
fn the_driver_is_clean() -> Result<()> {
    if !driver::has_sparse() {
        skip("sparse in the_driver_is_clean", "it is not installed");
    }
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    let target = std::path::absolute(target).map_err(Error::io("find the target folder"))?;
    let scratch = target.join(format!("guest-driver-{}", std::process::id()));
    let found = driver::complaints(&target, &scratch);
    std::fs::remove_dir_all(&scratch).map_err(Error::io("clean up after the driver"))?;
    let found = found?;
    assert!(found.is_empty(), "{}", found.join("\n"));
    Ok(())
}

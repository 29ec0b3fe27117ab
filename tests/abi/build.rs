// SPDX-License-Identifier: GPL-2.0-or-later
//! Hands on the target, which cargo tells to build scripts only and the search for a C compiler needs.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for name in ["TARGET", "HOST"] {
        let value = std::env::var(name).unwrap_or_default();
        println!("cargo::rustc-env=ABI_{name}={value}");
    }
}

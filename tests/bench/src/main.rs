// SPDX-License-Identifier: GPL-2.0-or-later
//! The benchmarks with a QEMU that is already built, which `VBR_QEMU` names; the arguments are
//! those of `cargo xtask bench`.

#![forbid(unsafe_code)]

use bench::figures::Samples;
use bench::{device, latency, linux, table};
use clap::{Parser, Subcommand};
use guest::{Result, testing};

/// Measures what the balloon costs.
#[derive(Parser)]
#[command(name = "cargo xtask bench")]
struct Cli {
    #[command(subcommand)]
    command: Door,
}

#[derive(Subcommand)]
enum Door {
    /// What a page costs on the device's side, without a guest
    Device(device::Options),
    /// How long QEMU's monitor waits while a guest does its worst
    Latency(latency::Options),
    /// A Linux guest: inflate to half, deflate, use the memory again
    Guest(linux::Options),
}

fn main() -> Result<()> {
    let qemu = testing::qemu()?;
    match Cli::parse().command {
        Door::Device(options) => {
            let mut samples = Samples::default();
            let outcome = device::run(&qemu, &options, &mut samples);
            // What was measured before a failure is worth a look.
            table::device(&samples);
            outcome
        }
        Door::Guest(options) => {
            let mut runs = Vec::new();
            let outcome = linux::run(&options, &mut runs);
            linux::print(&runs);
            outcome
        }
        Door::Latency(options) => {
            let mut all = Vec::new();
            let outcome = latency::run(&qemu, &options, &mut all);
            latency::print(&all);
            outcome
        }
    }
}

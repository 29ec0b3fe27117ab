// SPDX-License-Identifier: GPL-2.0-or-later
//! QEMU without a guest: how long it takes to start, and what memory it has then.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use guest::{Error, Result};

use crate::machine::FIRMWARE;
use crate::plan::Device;
use crate::smaps::Own;
use crate::sys::SmallPages;

/// A machine that has no balloon.
pub const NONE: &str = "none";
/// QEMU's own.
pub const STOCK: &str = "stock";
/// Ours.
pub const OURS: &str = "ours";

const DEVICES: [(&str, Option<Device>); 3] = [
    (NONE, None),
    (STOCK, Some(Device::Stock)),
    (OURS, Some(Device::Ours)),
];

/// A figure's name in files and its title in tables.
pub const FIGURES: [(&str, &str); 4] = [
    ("ready_ms", "until the monitor has answered, ms"),
    ("private_kib", "memory that it wrote to, KiB"),
    ("heap_kib", "  of it the main thread's heap, KiB"),
    ("resident_kib", "resident, with parts of the program, KiB"),
];

/// What the monitor is told.
const QUESTIONS: &str = "{\"execute\": \"qmp_capabilities\"}\n{\"execute\": \"query-status\"}\n";
/// The greeting, and two answers.
const LINES: usize = 3;

/// QEMU, just started.
#[derive(Debug, Clone)]
pub struct Start {
    /// The device's name, or [`NONE`].
    pub device: &'static str,
    /// Values in the order of [`FIGURES`].
    pub values: [f64; FIGURES.len()],
}

/// Starts QEMU `count` times with each device and without one, in turn.
///
/// # Errors
/// When QEMU does not start.
pub fn run(qemu: &Path, count: u32, starts: &mut Vec<Start>) -> Result<()> {
    // The first one reads the program from the disk.
    one(qemu, None)?;
    for round in 0..count as usize {
        for turn in 0..DEVICES.len() {
            let (name, device) = DEVICES[(round + turn) % DEVICES.len()];
            let values = one(qemu, device)?;
            let device = name;
            starts.push(Start { device, values });
        }
    }
    println!("  {count} starts each without a balloon, with stock and with ours");
    Ok(())
}

fn one(qemu: &Path, device: Option<Device>) -> Result<[f64; FIGURES.len()]> {
    let mut command = Command::new(qemu);
    command.args(["-nodefaults", "-display", "none", "-accel", "qtest", "-S"]);
    command.args(["-machine", "pc,pit=off,hpet=off", "-m", "1024M"]);
    command.args(["-qmp", "stdio"]);
    for firmware in FIRMWARE {
        command.args(["-L", firmware]);
    }
    if let Some(device) = device {
        command.args(["-device", &format!("{},id=balloon0", device.argument())]);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    // A huge page on a heap would hide what a device adds.
    let small = SmallPages::for_children().map_err(Error::io("turn THP off"))?;
    let begun = Instant::now();
    let child = command.spawn();
    drop(small);
    let child = child.map_err(Error::io(format!("start {}", qemu.display())))?;
    let mut running = Running(child);
    running.ask()?;
    let ready = begun.elapsed();
    let own = Own::of(running.0.id())?;
    let kib = |bytes: u64| bytes as f64 / 1024.0;
    Ok([
        ready.as_secs_f64() * 1000.0,
        kib(own.private),
        kib(own.heap),
        kib(own.resident),
    ])
}

/// A process that is ended when this is dropped.
struct Running(Child);

impl Running {
    fn ask(&mut self) -> Result<()> {
        let (Some(input), Some(output)) = (self.0.stdin.as_mut(), self.0.stdout.take()) else {
            return Err(Error::Missing("pipes to QEMU".into()));
        };
        let sent = input.write_all(QUESTIONS.as_bytes());
        sent.map_err(Error::io("ask QEMU's monitor"))?;
        let mut lines = BufReader::new(output).lines();
        for _ in 0..LINES {
            let line = lines.next().transpose();
            let line = line.map_err(Error::io("read from QEMU's monitor"))?;
            let line = line.ok_or_else(|| Error::Tool("QEMU did not start".into()))?;
            if line.contains("\"error\"") {
                return Err(Error::Protocol(line));
            }
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

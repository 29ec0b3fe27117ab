// SPDX-License-Identifier: GPL-2.0-or-later
//! The demonstration: a Linux guest gives memory back to the host and gets it again.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use crate::accel::{self, Accel};
use crate::config::VmConfig;
use crate::image::GuestImage;
use crate::plot::{self, Sample, Series};
use crate::vm::Vm;
use crate::{Error, MIB, Result, testing};

const GUEST_MIB: u64 = 2048;
const HALF_MIB: u64 = GUEST_MIB / 2;
/// What a program in the guest fills: nearly all that its kernel leaves.
const USED_MIB: u64 = 1700;
const USED_AGAIN_MIB: u64 = 600;
/// Far more than any step takes on a slow machine.
const STEP_LIMIT: Duration = Duration::from_secs(120);
const SAMPLE_EVERY: Duration = Duration::from_millis(100);
/// Between the steps, so that the drawing shows where each ends.
const PAUSE: Duration = Duration::from_millis(700);

/// What the demonstration needs.
#[derive(Debug, Clone)]
pub struct Config {
    /// The patched QEMU.
    pub qemu: PathBuf,
    /// The guest.
    pub image: GuestImage,
    /// Where to draw the figures, as SVG.
    pub plot: Option<PathBuf>,
}

/// Runs the demonstration and prints its account.
///
/// # Errors
/// When a step fails, with what QEMU and the guest last said; when the host's
/// memory did not shrink with the balloon; when the drawing cannot be written.
pub fn run(config: &Config) -> Result<()> {
    let device = testing::device();
    let accel = accel::choose(&config.qemu, &config.image);
    let begun = Instant::now();
    let mut vm = Vm::start(&VmConfig {
        accel: Some(accel),
        memory_mib: GUEST_MIB,
        device: Some(device.clone()),
        paused: true,
        ..VmConfig::new(&config.qemu, &config.image)
    })?;
    let accel = match accel {
        Accel::Kvm => "KVM",
        Accel::Tcg => "emulation",
    };
    vm.qmp("cont", serde_json::json!({}))?;
    let kernel = vm.wait_ready()?;
    let boot = begun.elapsed().as_secs_f64();
    println!("A guest of {GUEST_MIB} MiB with -device {device}");
    println!("Linux {kernel} under {accel}, up after {boot:.1} s\n");
    let mut film = Film::new(vm)?;
    film.play()?;
    account_of_device(&mut film.vm)?;
    account_of_statistics(&mut film.vm)?;
    if let Some(path) = &config.plot {
        plot::draw(path, &film.series)?;
        println!("\nDrawn in {}", path.display());
    }
    Ok(())
}

/// The guest and what was measured while it ran.
struct Film {
    vm: Vm,
    begun: Instant,
    series: Series,
}

impl Film {
    fn new(mut vm: Vm) -> Result<Film> {
        vm.set_polling(1)?;
        Ok(Film {
            vm,
            begun: Instant::now(),
            series: Series::default(),
        })
    }

    fn play(&mut self) -> Result<()> {
        println!(
            "{:<34}{:>12}{:>17}{:>9}",
            "", "guest has", "host memory used", "time"
        );
        self.step("booted", |_| Ok(()))?;
        self.step("a program uses memory", |film| film.use_memory(USED_MIB))?;
        let full = self.vm.resident()?;
        self.step("inflate to half", |film| film.balloon(HALF_MIB))?;
        let half = self.vm.resident()?;
        self.step("deflate", |film| film.balloon(GUEST_MIB))?;
        self.step("memory is used again", |film| {
            film.use_memory(USED_AGAIN_MIB)
        })?;
        let saved = full.saturating_sub(half) / MIB;
        println!("\nThe balloon gave {saved} MiB back to the host.");
        if half > (HALF_MIB + HALF_MIB / 4) * MIB {
            let text = format!("the host still uses {} MiB for half a guest", half / MIB);
            return Err(Error::Protocol(text));
        }
        Ok(())
    }

    /// Does one thing and prints its line of the account.
    fn step(
        &mut self,
        name: &'static str,
        act: impl FnOnce(&mut Film) -> Result<()>,
    ) -> Result<()> {
        let begun = Instant::now();
        self.series.marks.push((self.seconds(), name));
        self.sample()?;
        act(self)?;
        let took = begun.elapsed().as_secs_f64();
        let last = self.sample()?;
        println!(
            "{name:<34}{:>8} MiB{:>13} MiB{took:>7.1} s",
            last.guest / MIB,
            last.resident / MIB
        );
        let until = Instant::now() + PAUSE;
        self.wait("end of a pause", |_| Ok(Instant::now() > until))
    }

    fn use_memory(&mut self, mib: u64) -> Result<()> {
        let worker = self.vm.guest(|agent| agent.start_worker(mib, 1, false))?;
        self.wait("filled memory in the guest", |film| {
            let now = film.vm.guest(|agent| agent.worker(worker))?;
            Ok(now.state != "filling")
        })?;
        self.vm.guest(|agent| agent.stop_worker(worker))
    }

    fn balloon(&mut self, mib: u64) -> Result<()> {
        self.vm.set_balloon(mib)?;
        self.wait("balloon at its target", |film| {
            Ok(film.vm.balloon_actual()? == mib * MIB)
        })
    }

    /// Waits, measuring meanwhile.
    fn wait(&mut self, what: &str, mut done: impl FnMut(&mut Film) -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + STEP_LIMIT;
        while !done(self)? {
            if Instant::now() > deadline {
                return Err(self.vm.explain(Error::Timeout {
                    what: what.into(),
                    after: STEP_LIMIT,
                }));
            }
            thread::sleep(SAMPLE_EVERY);
            self.sample()?;
        }
        Ok(())
    }

    fn sample(&mut self) -> Result<Sample> {
        let sample = Sample {
            seconds: self.seconds(),
            guest: self.vm.balloon_actual()?,
            resident: self.vm.resident()?,
        };
        self.series.samples.push(sample);
        Ok(sample)
    }

    fn seconds(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }
}

fn account_of_device(vm: &mut Vm) -> Result<()> {
    if !testing::is_ours() {
        return Ok(());
    }
    let inflated = vm.counter("inflated-bytes")? / MIB;
    let deflated = vm.counter("deflated-bytes")? / MIB;
    let discarded = vm.counter("discarded-bytes")?;
    let discards = vm.counter("discards")?;
    let batches = vm.counter("batches")?;
    let errors = vm.counter("discard-errors")?;
    println!(
        "The device: {inflated} MiB inflated and {deflated} MiB deflated in {batches} batches;"
    );
    println!(
        "{} MiB discarded in {discards} ranges, {} KiB each, {errors} errors.",
        discarded / MIB,
        discarded / discards.max(1) / 1024,
    );
    Ok(())
}

fn account_of_statistics(vm: &mut Vm) -> Result<()> {
    let before = vm.stats()?.last_update;
    let stats = vm.wait_stats(before, STEP_LIMIT)?;
    println!("\nStatistics that the guest reports, polled every second:");
    for (name, value) in stats.reported() {
        if in_bytes(name) {
            println!("  {name:<24}{:>8} MiB", value / MIB);
        } else {
            println!("  {name:<24}{value:>8}");
        }
    }
    Ok(())
}

/// The statistics of memory are in bytes, all others are counts.
fn in_bytes(name: &str) -> bool {
    const BYTES: [&str; 6] = [
        "stat-swap-in",
        "stat-swap-out",
        "stat-free-memory",
        "stat-total-memory",
        "stat-available-memory",
        "stat-disk-caches",
    ];
    BYTES.contains(&name)
}

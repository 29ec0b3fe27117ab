// SPDX-License-Identifier: GPL-2.0-or-later
//! What it costs to have KVM's log armed at the start of a migration: the calls,
//! by the size of their slices, and what a running guest sees of them.
//!
//! `cargo run --release -p kvm --bin arming -- [GIB]... [small] [huge]`
//! (default: 1 and 8 GiB, and both sizes of pages)

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn main() -> std::io::Result<()> {
    figures::print()
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn main() {
    eprintln!("this needs KVM on x86_64");
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod figures {
    use std::arch::x86_64::_rdtsc;
    use std::io;
    use std::sync::atomic::Ordering;
    use std::sync::mpsc;
    use std::thread;
    use std::time::{Duration, Instant};

    use kvm::machine::{self, Config, Cpu, Machine, Stop};
    use kvm::memory::Backing;
    use kvm::program::{Program, mailbox};
    use kvm::tracking::Tracking;
    use kvm::{MIB, PAGE};
    use kvm_ioctls::Kvm;

    const GIB: u64 = 1024 * MIB;
    /// Only the 1st and 3rd for guests of more than 1 GiB: a guest that writes each
    /// page takes a minute where KVM is itself in a virtual machine.
    const SLICES_MIB: [u64; 5] = [1024, 256, 64, 16, 4];
    /// How long the guest runs before and after each call that is looked at.
    const AROUND: Duration = Duration::from_millis(30);
    /// A single pause may have another cause.
    const REPEATS: usize = 5;

    pub(crate) fn print() -> io::Result<()> {
        let given: Vec<String> = std::env::args().skip(1).collect();
        let wants = |word: &str| given.iter().any(|text| text == word);
        let mut sizes: Vec<u64> = given.iter().filter_map(|text| text.parse().ok()).collect();
        if sizes.is_empty() {
            sizes = vec![1, 8];
        }
        let mut backings = vec![Backing::Small, Backing::Huge];
        if wants("small") != wants("huge") {
            backings.retain(|backing| wants("small") == (*backing == Backing::Small));
        }
        let kvm = Kvm::new()?;
        for gib in sizes {
            for backing in backings.iter().copied() {
                println!("\n{gib} GiB, {backing:?} pages, all of it written by the guest");
                for tracking in Tracking::ALL {
                    if let Err(why) = tracking.check(&kvm) {
                        println!("  {tracking:?}: {why}");
                        continue;
                    }
                    let config = Config {
                        ram_bytes: gib * GIB,
                        backing,
                        tracking,
                    };
                    calls(&kvm, config)?;
                    running(&kvm, config)?;
                }
            }
        }
        Ok(())
    }

    /// The calls alone, with a guest that does not run.
    fn calls(kvm: &Kvm, config: Config) -> io::Result<()> {
        let (mut machine, mut cpu) = machine::build(kvm, config)?;
        let gib = config.ram_bytes as f64 / GIB as f64;
        println!("  {:?}, guest stopped", config.tracking);
        let first = sweep(&mut machine, &mut cpu)?;
        let warm = sweep(&mut machine, &mut cpu)?;
        println!(
            "    guest writes each page: first {}, again {}",
            per_page(first, &machine),
            per_page(warm, &machine)
        );
        if config.tracking == Tracking::ManualClear {
            return in_slices(&mut machine, &mut cpu, config.ram_bytes);
        }
        let on = timed(|| machine.set_logging(true))?;
        println!("    log on {}", per_gib(on, gib));
        let has_log = config.tracking == Tracking::ReadClears;
        if has_log {
            let none = timed(|| machine.read_log())?;
            println!("    read, nothing written {}", per_gib(none, gib));
        }
        if config.ram_bytes > GIB {
            return Ok(());
        }
        let faults = sweep(&mut machine, &mut cpu)?;
        println!("    guest writes each page {}", per_page(faults, &machine));
        if has_log {
            let full = timed(|| machine.read_log())?;
            println!("    read, all written {}", per_gib(full, gib));
        }
        Ok(())
    }

    fn slices_for(ram_bytes: u64) -> &'static [u64] {
        if ram_bytes > GIB {
            &[1024, 64]
        } else {
            &SLICES_MIB
        }
    }

    fn in_slices(machine: &mut Machine, cpu: &mut Cpu, ram_bytes: u64) -> io::Result<()> {
        let gib = ram_bytes as f64 / GIB as f64;
        for slice_mib in slices_for(ram_bytes).iter().copied() {
            let on = timed(|| machine.set_logging(true))?;
            let start = Instant::now();
            let log = machine.read_log()?;
            let read = start.elapsed();
            let times = arm(machine, &log, slice_mib)?;
            println!(
                "    {slice_mib:4} MiB slices: log on {}, read {}, clear {}",
                show(on),
                show(read),
                summary(times, gib),
            );
            if slice_mib == 64 && ram_bytes <= GIB {
                let none = arm(machine, &vec![0; log.len()], slice_mib)?;
                let faults = sweep(machine, cpu)?;
                let log = machine.read_log()?;
                let full = arm(machine, &log, slice_mib)?;
                println!(
                    "         then: clear again, nothing written {}; guest writes each page {}; \
                     clear again, all written {}",
                    summary(none, gib),
                    per_page(faults, machine),
                    summary(full, gib),
                );
            }
            machine.set_logging(false)?;
            sweep(machine, cpu)?;
        }
        Ok(())
    }

    /// The same with a guest that writes all the time: its longest pauses.
    fn running(kvm: &Kvm, config: Config) -> io::Result<()> {
        println!(
            "  {:?}, guest writes all the time (least/median/worst)",
            config.tracking
        );
        let slices = match config.tracking {
            Tracking::ManualClear => slices_for(config.ram_bytes),
            _ => &SLICES_MIB[..1],
        };
        let repeats = if config.ram_bytes > GIB { 1 } else { REPEATS };
        for slice_mib in slices {
            let mut seen: Vec<(&str, Vec<Duration>)> = Vec::new();
            for _ in 0..repeats {
                let (mut machine, mut cpu) = machine::build(kvm, config)?;
                sweep(&mut machine, &mut cpu)?;
                for (name, time) in pauses(machine, cpu, *slice_mib)? {
                    match seen.iter_mut().find(|(known, _)| *known == name) {
                        Some((_, times)) => times.push(time),
                        None => seen.push((name, vec![time])),
                    }
                }
            }
            if config.tracking == Tracking::ManualClear {
                print!("    {slice_mib:4} MiB slices:");
            }
            for (name, mut times) in seen {
                let least = times.iter().min().copied().unwrap_or_default();
                let worst = max(&times);
                let median = median(&mut times);
                print!(" {name} {}/{}/{};", show(least), show(median), show(worst));
            }
            println!();
        }
        Ok(())
    }

    /// The time of each call and the guest's longest pause in and after it.
    fn pauses(
        mut machine: Machine,
        mut cpu: Cpu,
        slice_mib: u64,
    ) -> io::Result<Vec<(&'static str, Duration)>> {
        let ticks = ticks_per_us();
        let mut seen = Vec::new();
        cpu.start(Program::Pulse, 0)?;
        thread::scope(|scope| {
            let (say, said) = mpsc::channel();
            let runner = scope.spawn(move || {
                // SAFETY: the call takes and changes nothing.
                say.send(unsafe { libc::gettid() }).ok();
                while cpu.run()? == Stop::RingFull {}
                io::Result::Ok(())
            });
            let guest = said.recv().map_err(io::Error::other)?;
            let longest = |machine: &Machine| {
                thread::sleep(AROUND);
                let word = machine.mail(mailbox::LONGEST);
                let ns = word.swap(0, Ordering::Relaxed) as f64 * 1000.0 / ticks;
                Duration::from_nanos(ns as u64)
            };
            longest(&machine);
            seen.push(("log on", timed(|| machine.set_logging(true))?));
            seen.push(("its pause", longest(&machine)));
            // Not before: when the log is switched on, KVM waits for threads of the kernel.
            [0, guest]
                .iter()
                .for_each(|thread| real_time(*thread, true));
            longest(&machine);
            seen.push(("undisturbed pause", longest(&machine)));
            if machine.tracking() != Tracking::Ring {
                let start = Instant::now();
                let log = machine.read_log()?;
                seen.push(("read", start.elapsed()));
                seen.push(("pause by reading", longest(&machine)));
                if machine.tracking() == Tracking::ManualClear {
                    let start = Instant::now();
                    let times = arm(&machine, &log, slice_mib)?;
                    seen.push(("clear", start.elapsed()));
                    seen.push(("its longest call", max(&times)));
                    seen.push(("pause by clearing", longest(&machine)));
                }
            }
            machine.mail(mailbox::STOP).store(1, Ordering::Relaxed);
            [0, guest]
                .iter()
                .for_each(|thread| real_time(*thread, false));
            while !runner.is_finished() {
                while machine.pop_ring().is_some() {}
                machine.reset_ring().ok();
                thread::sleep(Duration::from_micros(100));
            }
            runner
                .join()
                .map_err(|_| io::Error::other("the runner died"))??;
            Ok(seen)
        })
    }

    /// Keeps others off the processor of a thread, 0 for this one, if that is allowed:
    /// so a pause is KVM's own.
    fn real_time(thread: libc::pid_t, on: bool) {
        let (policy, sched_priority) = match on {
            true => (libc::SCHED_FIFO, 1),
            false => (libc::SCHED_OTHER, 0),
        };
        let param = libc::sched_param { sched_priority };
        // SAFETY: the call reads `param` and changes how the thread is scheduled.
        unsafe { libc::sched_setscheduler(thread, policy, &raw const param) };
    }

    /// Clears the log in slices; the time of each.
    fn arm(machine: &Machine, log: &[u64], slice_mib: u64) -> io::Result<Vec<Duration>> {
        let slice = slice_mib * MIB / PAGE;
        let mut times = Vec::new();
        for first in (0..machine.pages()).step_by(slice as usize) {
            let pages = slice.min(machine.pages() - first);
            let bits = &log[first as usize / 64..(first + pages) as usize / 64];
            times.push(timed(|| machine.clear_log(first, pages as u32, bits))?);
        }
        Ok(times)
    }

    /// The guest writes each page once; the ring, if there is one, is read as it fills.
    fn sweep(machine: &mut Machine, cpu: &mut Cpu) -> io::Result<Duration> {
        cpu.start(Program::Sweep, 1)?;
        let start = Instant::now();
        while cpu.run()? == Stop::RingFull {
            while machine.pop_ring().is_some() {}
            machine.reset_ring()?;
        }
        Ok(start.elapsed())
    }

    fn timed<T>(call: impl FnOnce() -> io::Result<T>) -> io::Result<Duration> {
        let start = Instant::now();
        call()?;
        Ok(start.elapsed())
    }

    fn ticks_per_us() -> f64 {
        // SAFETY: every x86_64 processor has a clock.
        let ticks = || unsafe { _rdtsc() };
        let (start, first) = (Instant::now(), ticks());
        thread::sleep(Duration::from_millis(50));
        (ticks() - first) as f64 / start.elapsed().as_micros() as f64
    }

    fn max(times: &[Duration]) -> Duration {
        times.iter().max().copied().unwrap_or_default()
    }

    fn median(times: &mut [Duration]) -> Duration {
        times.sort_unstable();
        times.get(times.len() / 2).copied().unwrap_or_default()
    }

    fn summary(mut times: Vec<Duration>, gib: f64) -> String {
        let total: Duration = times.iter().sum();
        let (max, median) = (max(&times), median(&mut times));
        format!(
            "max {} median {} total {}",
            show(max),
            show(median),
            per_gib(total, gib)
        )
    }

    fn per_gib(time: Duration, gib: f64) -> String {
        format!("{} ({}/GiB)", show(time), show(time.div_f64(gib)))
    }

    fn per_page(time: Duration, machine: &Machine) -> String {
        format!(
            "{:.0} ns/page",
            time.as_nanos() as f64 / machine.pages() as f64
        )
    }

    fn show(time: Duration) -> String {
        let us = time.as_nanos() as f64 / 1000.0;
        match us {
            ..1000.0 => format!("{us:.0} us"),
            _ => format!("{:.1} ms", us / 1000.0),
        }
    }
}

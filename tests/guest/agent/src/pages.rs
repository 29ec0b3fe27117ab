// SPDX-License-Identifier: GPL-2.0-or-later
//! Pages whose place in the guest's physical memory is known, and which are written to one
//! by one.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::Answer;
use crate::memory::{STEP, pattern};

const PAGE: usize = 4096;
/// Whether the kernel may move locked pages.
const MAY_MOVE: &str = "/proc/sys/vm/compact_unevictable_allowed";
/// The bits of /proc/self/pagemap with the number of the frame.
const FRAME: u64 = (1 << 55) - 1;
const PRESENT: u64 = 1 << 63;

#[repr(align(4096))]
struct Page([AtomicU64; PAGE / 8]);

/// The pages, and what was stored to the first word of each.
#[derive(Default)]
pub(crate) struct Pages {
    pages: Vec<Page>,
    seed: u64,
    stored: Vec<u64>,
}

impl Pages {
    /// `COUNT SEED`: fills as many pages and locks them where they are; those of the
    /// request before are gone.
    pub(crate) fn take(&mut self, args: &str) -> Answer {
        let [count, seed] = numbers(args)?;
        *self = Pages::default();
        fs::write(MAY_MOVE, "0").map_err(|e| format!("{MAY_MOVE}: {e}"))?;
        self.seed = seed;
        self.pages = (0..count).map(|n| filled(n, seed)).collect();
        self.stored = (0..count).map(|n| pattern(n, seed)).collect();
        mlockall(MlockAllFlags::CURRENT).map_err(|e| format!("mlockall: {e}"))?;
        Ok(String::new())
    }

    /// Answers where the pages are, in their order: `FRAME+COUNT ...`, in hexadecimal.
    pub(crate) fn frames(&self) -> Answer {
        let path = "/proc/self/pagemap";
        let map = File::open(path).map_err(|e| format!("{path}: {e}"))?;
        let first = self.pages.as_ptr().addr() / PAGE;
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for nth in 0..self.pages.len() {
            let mut entry = [0; 8];
            map.read_exact_at(&mut entry, (first + nth) as u64 * 8)
                .map_err(|e| format!("{path}: {e}"))?;
            let entry = u64::from_le_bytes(entry);
            if entry & PRESENT == 0 {
                return Err("a page is not in memory".into());
            }
            let frame = entry & FRAME;
            match runs.last_mut() {
                Some((start, count)) if *start + *count == frame => *count += 1,
                _ => runs.push((frame, 1)),
            }
        }
        let runs: Vec<String> = runs.iter().map(|(f, n)| format!("{f:x}+{n:x}")).collect();
        Ok(runs.join(" "))
    }

    /// `COUNT VALUE THREADS`: stores the value to the first word of each of the first
    /// pages. The threads take them in turn; each has a processor of its own.
    pub(crate) fn store(&mut self, args: &str) -> Answer {
        let [count, value, threads] = numbers(args)?;
        let (count, threads) = (count as usize, threads as usize);
        let pages = self.pages.get(..count).ok_or("there are not so many")?;
        thread::scope(|scope| {
            let run = |nth| scope.spawn(move || store_every(pages, nth, threads, value));
            let running: Vec<_> = (0..threads).map(run).collect();
            let mut ended = running.into_iter().map(|thread| thread.join());
            ended.try_for_each(|how| how.unwrap_or_else(|_| Err("panicked".into())))
        })?;
        self.stored[..count].fill(value);
        Ok(String::new())
    }

    /// Looks at every word of every page.
    pub(crate) fn check(&self) -> Answer {
        for (n, (page, &stored)) in self.pages.iter().zip(&self.stored).enumerate() {
            let mut want = pattern(n as u64, self.seed);
            for (w, word) in page.0.iter().enumerate() {
                let want_here = if w == 0 { stored } else { want };
                let got = word.load(Relaxed);
                if got != want_here {
                    return Err(format!("page {n} word {w}: {got:#x}, not {want_here:#x}"));
                }
                want = want.wrapping_add(STEP);
            }
        }
        Ok(String::new())
    }
}

fn filled(number: u64, seed: u64) -> Page {
    let first = pattern(number, seed);
    let word = |w: usize| first.wrapping_add(STEP.wrapping_mul(w as u64));
    Page(std::array::from_fn(|w| AtomicU64::new(word(w))))
}

fn store_every(pages: &[Page], nth: usize, threads: usize, value: u64) -> Result<(), String> {
    let mut processor = CpuSet::new();
    processor.set(nth);
    sched_setaffinity(None, &processor).map_err(|e| format!("processor {nth}: {e}"))?;
    for page in pages.iter().skip(nth).step_by(threads) {
        store_one(page, value);
    }
    Ok(())
}

/// A function of its own: the compiler would store to several pages in one piece of code, and
/// an emulated processor stops between pieces only.
#[inline(never)]
fn store_one(page: &Page, value: u64) {
    page.0[0].store(value, Relaxed);
}

fn numbers<const N: usize>(args: &str) -> Result<[u64; N], String> {
    let all: Option<Vec<u64>> = args.split_whitespace().map(|a| a.parse().ok()).collect();
    all.and_then(|all| all.try_into().ok())
        .ok_or_else(|| format!("{N} numbers expected"))
}

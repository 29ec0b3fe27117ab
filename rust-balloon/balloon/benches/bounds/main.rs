// SPDX-License-Identifier: GPL-2.0-or-later
//! How long the longest call of each kind works, with the set of pages that is worst for it, in
//! guests of 64 GiB and of 1 TiB: the prices that the bounds of `docs/bounds.md` are made from.
//!
//! `cargo xtask bench bounds`, or `cargo bench -p balloon --bench bounds`. Each kind of
//! work is done some times over, and of each of its calls the shortest processor time counts: a
//! machine that does something else, too, makes it longer, never shorter.

mod device;
mod dirty;
#[path = "../../tests/bounds/guest.rs"]
mod guest;
#[path = "../../tests/bounds/idle.rs"]
mod idle;
mod migration;

use guest::SIZES;
use std::time::Duration;

/// What no call may exceed in a guest of 1 TiB.
const LIMIT: Duration = Duration::from_millis(2);
/// How often each kind of work is done.
const RUNS: usize = 5;

/// The calls of one kind of work, in order, with the time that each took.
pub(crate) type Calls = Vec<Duration>;

/// Does one call, and notes how long it took.
pub(crate) fn timed<R>(calls: &mut Calls, call: impl FnOnce() -> R) -> R {
    let begun = processor_time();
    let result = call();
    calls.push(processor_time() - begun);
    result
}

/// The processor time of this thread, with what the kernel does for it: another program that has
/// the processor meanwhile is not part of it.
fn processor_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: it writes to a timespec.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(failed, 0, "a thread has a clock");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Of each call the shortest time that it took.
fn shortest(work: impl Fn() -> Calls) -> Calls {
    let mut all = work();
    for _ in 1..RUNS {
        let again = work();
        assert_eq!(again.len(), all.len(), "the same calls each time");
        for (call, took) in all.iter_mut().zip(again) {
            *call = took.min(*call);
        }
    }
    all
}

/// A kind of work: for a guest of so many GiB.
pub(crate) struct Row {
    /// What is done.
    pub(crate) what: String,
    /// Does it.
    pub(crate) work: Box<dyn Fn(u64) -> Calls>,
}

/// A row of the table.
pub(crate) fn row(what: impl Into<String>, work: impl Fn(u64) -> Calls + 'static) -> Row {
    Row {
        what: what.into(),
        work: Box::new(work),
    }
}

fn print(row: &Row) {
    let sizes = SIZES.map(|gib| {
        let calls = shortest(|| (row.work)(gib));
        let longest = calls.iter().max().copied().unwrap_or_default();
        (calls.len(), longest)
    });
    let cells = sizes.map(|(calls, longest)| {
        let ms = longest.as_secs_f64() * 1e3;
        let of_limit = longest.as_secs_f64() / LIMIT.as_secs_f64();
        format!("{calls:>8}{ms:>9.3}{of_limit:>7.2}")
    });
    println!("{:<62}{}", row.what, cells.concat());
}

fn main() {
    // `cargo bench` hands options of its own over; a word is a part of the rows' names.
    let only: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    println!("Measured on two sizes of guests: the longest call of each kind, and of 2 ms");
    let size = |gib: u64| format!("{:>8}{:>9}{:>7}", format!("{gib} GiB"), "ms", "of it");
    println!("{:<62}{}", "", SIZES.map(size).concat());
    let rows = [migration::rows(), device::rows(), dirty::rows()];
    for row in rows.iter().flatten() {
        if only.is_empty() || only.iter().any(|word| row.what.contains(word)) {
            print(row);
        }
    }
}

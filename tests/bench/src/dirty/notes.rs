// SPDX-License-Identifier: GPL-2.0-or-later
//! What it costs to note a page: rings without a lock, and a queue with one.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Barrier, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use dirty_pages::DirtyList;
use guest::{Error, Result};

use crate::dirty::list::{library, options};
use crate::dirty::plan::{Case, Place};
use crate::figures::Spread;

/// Notes of each thread in a round, each of another page of a guest of 4 GiB: so few that other programs
/// disturb few of the rounds.
const NOTES: usize = 1 << 16;
const ROUNDS: usize = 99;
/// A round counts if its threads were at work at the same time for most of it, which other programs may
/// prevent. So often it is tried.
const TRIES: usize = 4 * ROUNDS;
const MOST_OF_IT: f64 = 0.7;
/// Pages that the reader takes at a time.
const BATCH: usize = 4096;

/// How pages are noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The dirty list.
    Ring,
    /// The same with NO_DUPS: it remembers which pages are on it.
    RingMarks,
    /// A queue with a lock, for all threads; it remembers nothing.
    Lock,
}

impl Way {
    /// All, in the order of the tables.
    pub const ALL: [Way; 3] = [Way::Ring, Way::RingMarks, Way::Lock];

    /// In tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Way::Ring => "the list",
            Way::RingMarks => "the list, NO_DUPS",
            Way::Lock => "Mutex<VecDeque>",
        }
    }
}

/// Who is at work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    /// One that notes.
    One,
    /// Two that note.
    Two,
    /// One that notes, and one that fetches all the time.
    Fetched,
}

impl Threads {
    /// All, in the order of the tables.
    pub const ALL: [Threads; 3] = [Threads::One, Threads::Two, Threads::Fetched];

    /// In tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Threads::One => "one thread",
            Threads::Two => "two threads",
            Threads::Fetched => "one, and one fetches",
        }
    }

    fn writers(self) -> usize {
        match self {
            Threads::Two => 2,
            Threads::One | Threads::Fetched => 1,
        }
    }
}

/// What a note took.
#[derive(Debug, Clone, Copy)]
pub struct Note {
    /// How.
    pub way: Way,
    /// With whom.
    pub threads: Threads,
    /// Nanoseconds a note of the slower thread, over all rounds.
    pub ns: Spread,
}

/// Where notes go.
trait Notes: Sync {
    fn note(&self, vcpu: usize, page: u64);
    /// Takes some pages; returns how many.
    fn take(&self, out: &mut [u64]) -> Result<usize>;
}

impl Notes for DirtyList {
    fn note(&self, vcpu: usize, page: u64) {
        DirtyList::note(self, vcpu, page, 1);
    }

    fn take(&self, out: &mut [u64]) -> Result<usize> {
        let count = self.fetch(out).map_err(library)?;
        self.reset().map_err(library)?;
        Ok(count)
    }
}

/// What one would write without thinking of threads.
struct Locked {
    pages: Mutex<VecDeque<u64>>,
    most: usize,
}

impl Notes for Locked {
    fn note(&self, _: usize, page: u64) {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        if pages.len() < self.most {
            pages.push_back(page);
        }
    }

    fn take(&self, out: &mut [u64]) -> Result<usize> {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        let count = pages.len().min(out.len());
        for (place, page) in out.iter_mut().zip(pages.drain(..count)) {
            *place = page;
        }
        Ok(count)
    }
}

/// Measures all ways with all threads.
///
/// # Errors
/// When notes are lost.
pub fn run(notes: &mut Vec<Note>) -> Result<()> {
    for threads in Threads::ALL {
        for way in Way::ALL {
            let ns = match way {
                Way::Lock => measure(&locked(), threads)?,
                Way::Ring => measure(&list(false)?, threads)?,
                Way::RingMarks => measure(&list(true)?, threads)?,
            };
            let Some(ns) = ns else {
                println!(
                    "  note, {}: other programs took the processors",
                    threads.name()
                );
                continue;
            };
            println!(
                "  note: {}, {}: {:.1} ns",
                way.name(),
                threads.name(),
                ns.median
            );
            notes.push(Note { way, threads, ns });
        }
    }
    Ok(())
}

fn list(no_dups: bool) -> Result<DirtyList> {
    let list = DirtyList::new(options(NOTES, no_dups, 2)).map_err(library)?;
    list.start().map_err(library)?;
    Ok(list)
}

fn locked() -> Locked {
    let most = 2 * NOTES;
    Locked {
        pages: Mutex::new(VecDeque::with_capacity(most)),
        most,
    }
}

/// None if the threads were never at work together.
fn measure(notes: &impl Notes, threads: Threads) -> Result<Option<Spread>> {
    let case = Case {
        ram_gib: 4,
        ppm: 1_000_000,
        place: Place::Scattered,
    };
    let pages = case.pages(0);
    let mut rounds = Vec::new();
    for round in 0..TRIES {
        let ns = one(notes, threads, &pages)?;
        // In the first round memory is new.
        rounds.extend(ns.filter(|_| round > 0));
        if rounds.len() == ROUNDS {
            break;
        }
    }
    Ok(Spread::of(rounds))
}

/// Nanoseconds a note, if the round counts.
fn one(notes: &impl Notes, threads: Threads, pages: &[u64]) -> Result<Option<f64>> {
    let writers = threads.writers();
    let fetched = threads == Threads::Fetched;
    let barrier = Barrier::new(writers + usize::from(fetched));
    let done = AtomicBool::new(false);
    let (times, taken) = thread::scope(|scope| {
        let (barrier, done) = (&barrier, &done);
        let write = move |vcpu: usize| {
            let pages = &pages[vcpu * NOTES..(vcpu + 1) * NOTES];
            barrier.wait();
            let begun = Instant::now();
            pages.iter().for_each(|&page| notes.note(vcpu, page));
            (begun, Instant::now())
        };
        let reader = fetched.then(|| {
            scope.spawn(move || {
                barrier.wait();
                read(notes, done)
            })
        });
        let writers: Vec<_> = (0..writers)
            .map(|vcpu| scope.spawn(move || write(vcpu)))
            .collect();
        let times: Option<Vec<_>> = writers.into_iter().map(|w| w.join().ok()).collect();
        done.store(true, Ordering::Release);
        let taken = reader.map(|reader| reader.join().map_err(|_| failed())?);
        let taken = taken.transpose()?.unwrap_or_default();
        Ok::<_, Error>((times.ok_or_else(failed)?, taken))
    })?;
    let rest = read(notes, &AtomicBool::new(true))?;
    let all = taken.all + rest.all;
    if all != writers * NOTES {
        let what = format!("{all} of {} pages came out", writers * NOTES);
        return Err(Error::Tool(what));
    }
    let together = match fetched {
        true => taken.before as f64 / NOTES as f64,
        false => overlap(&times),
    };
    let slowest = times.iter().map(|(begun, ended)| *ended - *begun).max();
    let ns = slowest.map(|time| time.as_nanos() as f64 / NOTES as f64);
    Ok(ns.filter(|_| together >= MOST_OF_IT))
}

/// Which part of the longest of these times lies in all of them.
fn overlap(times: &[(Instant, Instant)]) -> f64 {
    let begun = times.iter().map(|(begun, _)| *begun).max();
    let ended = times.iter().map(|(_, ended)| *ended).min();
    let longest = times.iter().map(|(begun, ended)| *ended - *begun).max();
    let (Some(begun), Some(ended), Some(longest)) = (begun, ended, longest) else {
        return 0.0;
    };
    let together = ended.saturating_duration_since(begun);
    together.as_secs_f64() / longest.as_secs_f64()
}

/// How many pages a reader took.
#[derive(Debug, Clone, Copy, Default)]
struct Taken {
    all: usize,
    /// Before the writers were done.
    before: usize,
}

/// Takes what comes until all is done and nothing is left.
fn read(notes: &impl Notes, done: &AtomicBool) -> Result<Taken> {
    let mut batch = vec![0; BATCH];
    let mut taken = Taken::default();
    loop {
        let last = done.load(Ordering::Acquire);
        let count = notes.take(&mut batch)?;
        taken.all += count;
        if !last {
            taken.before += count;
        } else if count == 0 {
            return Ok(taken);
        }
    }
}

fn failed() -> Error {
    Error::Tool("a thread has failed".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_overlap_in_what_is_in_all_of_them() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        assert!((overlap(&[(at(0), at(10)), (at(4), at(9))]) - 0.5).abs() < 1e-9);
        assert_eq!(overlap(&[(at(0), at(3)), (at(4), at(9))]), 0.0);
        assert_eq!(overlap(&[(at(0), at(3))]), 1.0);
    }

    #[test]
    fn a_queue_with_a_lock_gives_back_what_was_noted() {
        let notes = locked();
        (0..10).for_each(|page| notes.note(0, page));
        let mut out = [0; 4];
        assert_eq!(notes.take(&mut out).unwrap(), 4);
        assert_eq!(out, [0, 1, 2, 3]);
        let none = AtomicBool::new(true);
        let taken = read(&notes, &none).unwrap();
        assert_eq!((taken.all, taken.before), (6, 0));
    }
}

// SPDX-License-Identifier: GPL-2.0-or-later
//! What it costs to note a page: rings without a lock, and a queue with one.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Barrier, Mutex, PoisonError};
use std::thread;

use guest::{Error, Result};
use virtio_balloon_rs::migration::dirty::DirtyList;

use crate::dirty::list::{library, options};
use crate::dirty::plan::{Case, Place};
use crate::dirty::timer::Timer;
use crate::figures::Spread;

/// Notes of each thread in a round, each of another page of a guest of 4 GiB.
const NOTES: usize = 1 << 19;
const ROUNDS: usize = 9;
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

fn measure(notes: &impl Notes, threads: Threads) -> Result<Spread> {
    let case = Case {
        ram_gib: 4,
        ppm: 1_000_000,
        place: Place::Scattered,
    };
    let pages = case.pages(0);
    let mut rounds = Vec::new();
    // In the first round memory is new.
    for round in 0..=ROUNDS {
        let ns = one(notes, threads, &pages)?;
        if round > 0 {
            rounds.push(ns);
        }
    }
    Spread::of(rounds).ok_or_else(|| Error::Tool("no round".into()))
}

fn one(notes: &impl Notes, threads: Threads, pages: &[u64]) -> Result<f64> {
    let writers = threads.writers();
    let barrier = Barrier::new(writers);
    let done = AtomicBool::new(false);
    let (ns, mut taken) = thread::scope(|scope| {
        let write = |vcpu: usize| {
            let pages = &pages[vcpu * NOTES..(vcpu + 1) * NOTES];
            barrier.wait();
            let mut timer = Timer::start();
            pages.iter().for_each(|&page| notes.note(vcpu, page));
            timer.lap() / NOTES as f64
        };
        let reader = (threads == Threads::Fetched).then(|| scope.spawn(|| read(notes, &done)));
        let handles: Vec<_> = (0..writers)
            .map(|vcpu| scope.spawn(move || write(vcpu)))
            .collect();
        let mut ns = Vec::new();
        for handle in handles {
            ns.push(handle.join().map_err(|_| failed())?);
        }
        done.store(true, Ordering::Release);
        let taken = reader.map_or(Ok(0), |reader| reader.join().map_err(|_| failed())?)?;
        Ok::<_, Error>((ns.into_iter().fold(0.0, f64::max), taken))
    })?;
    taken += read(notes, &AtomicBool::new(true))?;
    if taken != writers * NOTES {
        let what = format!("{taken} of {} pages came out", writers * NOTES);
        return Err(Error::Tool(what));
    }
    Ok(ns)
}

/// Takes what comes until all is done and nothing is left; gives how many pages.
fn read(notes: &impl Notes, done: &AtomicBool) -> Result<usize> {
    let mut batch = vec![0; BATCH];
    let mut taken = 0;
    loop {
        let last = done.load(Ordering::Acquire);
        let count = notes.take(&mut batch)?;
        taken += count;
        if last && count == 0 {
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

    #[test]
    fn a_queue_with_a_lock_gives_back_what_was_noted() {
        let notes = locked();
        (0..10).for_each(|page| notes.note(0, page));
        let mut out = [0; 4];
        assert_eq!(notes.take(&mut out).unwrap(), 4);
        assert_eq!(out, [0, 1, 2, 3]);
        let none = AtomicBool::new(true);
        assert_eq!(read(&notes, &none).unwrap(), 6);
    }
}

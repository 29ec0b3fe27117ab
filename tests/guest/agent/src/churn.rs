// SPDX-License-Identifier: GPL-2.0-or-later
//! The churning program: several threads that fill, rewrite, free, refill and
//! check memory all the time, in pieces of all sizes.
//!
//! How much they hold together rises and falls: there is a lot of free memory
//! for a while, and little after that. It says `filled` when every thread has
//! something, `pass N` after every thread has looked N times at all it has,
//! `counts ...`, and `mismatch ...` at the first wrong word, where all of it stops.

use std::fs;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use crate::piece::{MOST_PAGES, MOST_PLACES, Piece};

const MIB_PAGES: usize = 256;
/// The largest piece is 2^13 pages: 32 MiB.
const LARGEST_ORDER: u64 = 13;
/// Of each thread.
const PLACES: usize = 40;
/// Between two looks at everything.
const STEPS: u64 = 24;
const TIDE: Duration = Duration::from_millis(1000);
/// In tides.
const COMPACT_EVERY: u32 = 3;
/// The other programs and the driver that is tested need the processor, too.
const REST: Duration = Duration::from_millis(1);

const _: () = assert!(1 << LARGEST_ORDER <= MOST_PAGES);

/// What the threads share.
struct Shared {
    /// Pages that all may hold together just now.
    budget: AtomicUsize,
    used: AtomicUsize,
    stop: AtomicBool,
    mismatch: Mutex<Option<String>>,
    fills: AtomicU64,
    frees: AtomicU64,
    rewrites: AtomicU64,
    checked_pages: AtomicU64,
}

impl Shared {
    fn reserve(&self, pages: usize) -> bool {
        let budget = self.budget.load(Relaxed);
        let more = |used: usize| (used + pages <= budget).then_some(used + pages);
        self.used.fetch_update(Relaxed, Relaxed, more).is_ok()
    }

    fn over_budget(&self) -> bool {
        self.used.load(Relaxed) > self.budget.load(Relaxed)
    }

    /// The first one is kept; all threads stop.
    fn fail(&self, what: String) {
        let mut mismatch = self.mismatch.lock().unwrap_or_else(PoisonError::into_inner);
        mismatch.get_or_insert(what);
        self.stop.store(true, Relaxed);
    }
}

/// `LOW_MIB HIGH_MIB SEED THREADS`: the last thread keeps files, the others memory.
/// Runs until it is killed or a word is wrong.
pub(crate) fn main(args: &[String]) {
    let number = |i: usize| args.get(i).and_then(|a| a.parse::<u64>().ok());
    let (Some(low), Some(high), Some(seed), Some(threads)) =
        (number(0), number(1), number(2), number(3))
    else {
        say("mismatch bad arguments");
        return;
    };
    let threads = threads as usize;
    if threads * PLACES > MOST_PLACES {
        say("mismatch too many threads");
        return;
    }
    let pages = |mib: u64| mib as usize * MIB_PAGES;
    let shared = Shared {
        budget: AtomicUsize::new(pages(high)),
        used: AtomicUsize::new(0),
        stop: AtomicBool::new(false),
        mismatch: Mutex::new(None),
        fills: AtomicU64::new(0),
        frees: AtomicU64::new(0),
        rewrites: AtomicU64::new(0),
        checked_pages: AtomicU64::new(0),
    };
    let sweeps: Vec<AtomicU64> = (0..threads).map(|_| AtomicU64::new(0)).collect();
    thread::scope(|scope| {
        for (nth, sweeps) in sweeps.iter().enumerate() {
            let files = threads > 1 && nth + 1 == threads;
            let churner = Churner::new(&shared, nth, seed, files);
            scope.spawn(move || churner.run(sweeps));
        }
        supervise(&shared, &sweeps, pages(low), pages(high));
    });
    let mismatch = shared.mismatch.lock();
    let mismatch = mismatch.unwrap_or_else(PoisonError::into_inner);
    say(&format!("mismatch {}", mismatch.as_deref().unwrap_or("?")));
}

/// Makes the tide, compacts at times and says how it goes, until a thread fails.
fn supervise(shared: &Shared, sweeps: &[AtomicU64], low: usize, high: usize) {
    let mut tides = 0;
    let mut turned = Instant::now();
    let mut said = None;
    while !shared.stop.load(Relaxed) {
        sleep(Duration::from_millis(50));
        if turned.elapsed() >= TIDE {
            turned = Instant::now();
            tides += 1;
            let is_low = tides % 2 == 1;
            shared
                .budget
                .store(if is_low { low } else { high }, Relaxed);
            if tides % COMPACT_EVERY == 0 {
                // Without it this is less of a test, but as right.
                let _ = fs::write("/proc/sys/vm/compact_memory", "1");
            }
        }
        let passes = sweeps.iter().map(|s| s.load(Relaxed)).min().unwrap_or(0);
        if said.is_none() && passes > 0 {
            say("filled");
        }
        if said != Some(passes) && passes > 0 {
            said = Some(passes);
            say(&format!("pass {passes}"));
        }
        say(&format!(
            "counts {} fills {} frees {} rewrites {} checked-mib",
            shared.fills.load(Relaxed),
            shared.frees.load(Relaxed),
            shared.rewrites.load(Relaxed),
            shared.checked_pages.load(Relaxed) / MIB_PAGES as u64,
        ));
    }
}

/// One thread and what it holds.
struct Churner<'a> {
    shared: &'a Shared,
    first_place: usize,
    pieces: Vec<Option<Piece>>,
    /// The last generation of each place, so that none comes twice.
    generations: Vec<u32>,
    random: u64,
    files: bool,
}

impl<'a> Churner<'a> {
    fn new(shared: &'a Shared, nth: usize, seed: u64, files: bool) -> Churner<'a> {
        Churner {
            shared,
            first_place: nth * PLACES,
            pieces: (0..PLACES).map(|_| None).collect(),
            generations: vec![0; PLACES],
            random: (seed << 8 | nth as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            files,
        }
    }

    fn run(mut self, sweeps: &AtomicU64) {
        loop {
            for _ in 0..STEPS {
                if self.shared.stop.load(Relaxed) {
                    return;
                }
                if let Err(what) = self.step() {
                    self.shared.fail(what);
                }
                sleep(REST);
            }
            for at in 0..PLACES {
                if let Err(what) = self.check(at) {
                    self.shared.fail(what);
                }
                if self.shared.stop.load(Relaxed) {
                    return;
                }
            }
            sweeps.fetch_add(1, Relaxed);
        }
    }

    fn step(&mut self) -> Result<(), String> {
        if self.shared.over_budget() {
            return self.free_largest();
        }
        let at = self.below(PLACES as u64) as usize;
        match (self.pieces[at].is_some(), self.below(6)) {
            (false, _) => self.fill(at),
            (true, 0) => self.free(at),
            (true, 1) => self.rewrite(at, 1),
            (true, 2) => self.rewrite(at, 8),
            (true, 3) => self.check(at),
            (true, _) => match self.pieces.iter().position(Option::is_none) {
                Some(empty) => self.fill(empty),
                None => self.free(at),
            },
        }
    }

    fn fill(&mut self, at: usize) -> Result<(), String> {
        let order = self.below(LARGEST_ORDER + 1);
        // Not only powers of two.
        let most = 1_u64 << order;
        let pages = (most - self.below(most.div_ceil(2))) as usize;
        if !self.shared.reserve(pages) {
            // Something else may go on in the room of another piece.
            let other = self.below(PLACES as u64) as usize;
            return self.free(other);
        }
        let (place, generation) = (self.first_place + at, self.generations[at]);
        let piece = if self.files {
            Piece::file(place, pages, generation).map_err(|e| format!("file {place}: {e}"))?
        } else {
            Piece::memory(place, pages, generation)
        };
        self.pieces[at] = Some(piece);
        self.shared.fills.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Looks at it once more before it goes.
    fn free(&mut self, at: usize) -> Result<(), String> {
        self.check(at)?;
        if let Some(piece) = self.pieces[at].take() {
            let pages = piece.pages();
            self.generations[at] = piece.generation();
            drop(piece);
            self.shared.used.fetch_sub(pages, Relaxed);
            self.shared.frees.fetch_add(1, Relaxed);
        }
        Ok(())
    }

    /// What is used falls quickly so.
    fn free_largest(&mut self) -> Result<(), String> {
        let size = |at: &usize| self.pieces[*at].as_ref().map_or(0, Piece::pages);
        match (0..PLACES).max_by_key(size) {
            Some(at) => self.free(at),
            None => Ok(()),
        }
    }

    /// Writes every `nth` page anew.
    fn rewrite(&mut self, at: usize, nth: usize) -> Result<(), String> {
        let Some(piece) = &mut self.pieces[at] else {
            return Ok(());
        };
        for page in (0..piece.pages()).step_by(nth) {
            piece.rewrite(page).map_err(|e| e.to_string())?;
            self.shared.rewrites.fetch_add(1, Relaxed);
        }
        Ok(())
    }

    fn check(&self, at: usize) -> Result<(), String> {
        let Some(piece) = &self.pieces[at] else {
            return Ok(());
        };
        piece.check()?;
        let pages = piece.pages() as u64;
        self.shared.checked_pages.fetch_add(pages, Relaxed);
        Ok(())
    }

    /// A random number below `bound` (Marsaglia's xorshift).
    fn below(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 16) % bound
    }
}

/// A closed pipe means that nobody is interested any more.
fn say(line: &str) {
    let mut out = io::stdout().lock();
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

// SPDX-License-Identifier: GPL-2.0-or-later
//! One list with one reader: a ring for each virtual CPU, one for the machine, and marks.

use super::Error;
use super::marks::{Marks, PAGES, word_at};
use super::ring::Ring;
use super::sync::{
    AtomicBool, AtomicU64, AtomicUsize, Mutex, MutexGuard, Ordering, Padded, PoisonError, filled,
};
use super::trigger::Trigger;
use super::{DirtyIndices, Noted};
use std::sync::OnceLock;

/// A writer that is no virtual CPU.
pub const MACHINE: usize = usize::MAX;

/// What the reader alone uses.
#[derive(Default)]
struct Reader {
    /// Whether the list was ever started.
    started: bool,
    /// The ring to begin with next time, so that none has to wait for the others.
    next: usize,
    fetch_index: u64,
    reset_index: u64,
    /// Pages that were noted before the list was started.
    noted_before: u64,
    /// Whether `sync_fetch` has to look how much there is.
    look: bool,
    /// Where the sweep over the marks goes on.
    sweep: Option<u64>,
    /// Whether another sweep may begin before the reader looks how much there is.
    may_sweep: bool,
}

/// Which pages a list has marks for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Marked {
    /// None.
    No,
    /// All that are on it (NO_DUPS).
    Listed,
    /// Those that another list's reader took off (the migration's list).
    Owed,
}

pub(super) struct List {
    max_dirty: usize,
    marks: Option<Marks>,
    owed: Option<Marks>,
    /// Made when a virtual CPU first has something to note.
    rings: Box<[OnceLock<Box<Ring>>]>,
    /// How many of them to look at.
    used: AtomicUsize,
    /// Of all that is noted by no virtual CPU.
    machine: Ring,
    /// Whose turn it is to write to `machine`.
    turns: Mutex<()>,
    active: Padded<AtomicBool>,
    /// Pages were left out that nobody will ever hand out.
    missing: Padded<AtomicBool>,
    /// Marks were set whose pages are in no ring.
    unlisted: AtomicBool,
    overflows: AtomicU64,
    trigger: Padded<Trigger>,
    reader: Mutex<Reader>,
}

impl List {
    /// # Errors
    ///
    /// [`Error::Memory`]
    pub(super) fn new(
        max_dirty: usize,
        marked: Marked,
        dirty_trigger: usize,
        vcpus: usize,
    ) -> Result<List, Error> {
        let marks = |which| (marked == which).then(Marks::new).transpose();
        Ok(List {
            max_dirty,
            marks: marks(Marked::Listed)?,
            owed: marks(Marked::Owed)?,
            rings: filled(vcpus, OnceLock::new)?,
            used: AtomicUsize::new(0),
            machine: Ring::new(max_dirty)?,
            turns: Mutex::new(()),
            active: Padded(AtomicBool::new(false)),
            missing: Padded(AtomicBool::new(false)),
            unlisted: AtomicBool::new(false),
            overflows: AtomicU64::new(0),
            trigger: Padded(Trigger::new(dirty_trigger)),
            reader: Mutex::new(Reader::default()),
        })
    }

    pub(super) fn is_active(&self) -> bool {
        // In one order with the bits that the caller sets before, and whoever starts a list looks
        // at after that.
        self.active.0.load(Ordering::SeqCst)
    }

    pub(super) fn start(&self) -> Result<(), Error> {
        let mut reader = self.reader();
        if self.is_active() {
            return Err(Error::Active);
        }
        self.start_anew(&mut reader);
        Ok(())
    }

    /// A note may still be under way since the list was stopped. It may leave a page in a ring
    /// without a mark, which is passed over, or a flag too many. Never a mark without a place: it
    /// would keep its page off the list for good. Hence this order, against that of `put`.
    fn start_anew(&self, reader: &mut Reader) {
        self.all_rings().for_each(Ring::clear);
        self.missing.0.swap(false, Ordering::AcqRel);
        self.unlisted.swap(false, Ordering::AcqRel);
        for marks in self.marks.iter().chain(&self.owed) {
            marks.clear();
        }
        self.overflows.store(0, Ordering::Relaxed);
        self.trigger.0.start();
        *reader = Reader {
            started: true,
            look: true,
            noted_before: self.noted(),
            ..Reader::default()
        };
        self.active.0.store(true, Ordering::SeqCst);
    }

    pub(super) fn stop(&self) {
        self.active.0.store(false, Ordering::SeqCst);
    }

    /// Notes `page` + i for each bit i of `bits`, if the list is active.
    pub(super) fn note(&self, vcpu: usize, page: u64, bits: u64) -> Noted {
        if !self.is_active() {
            return Noted::Done;
        }
        self.put(vcpu, page, bits).unwrap_or_else(|_| {
            self.overflowed(&self.missing.0);
            Noted::Done
        })
    }

    /// Marks `pages`, which are sorted, as owed, if the list is active.
    ///
    /// # Errors
    ///
    /// [`Error::Memory`]: not all of them could be marked.
    pub(super) fn owe(&self, pages: &[u64]) -> Result<(), Error> {
        let Some(owed) = self.owed.as_ref().filter(|_| self.is_active()) else {
            return Ok(());
        };
        let mut next = 0;
        while next < pages.len() {
            let (first, bits) = word_at(pages, &mut next);
            owed.set(first, bits)?;
        }
        self.unlisted.swap(true, Ordering::AcqRel);
        Ok(())
    }

    fn put(&self, vcpu: usize, page: u64, bits: u64) -> Result<Noted, Error> {
        if bits == 0 {
            return Ok(Noted::Done);
        }
        let last = page.checked_add(u64::from(bits.ilog2()));
        if last.is_none_or(|last| last >= PAGES) {
            return Err(Error::Size);
        }
        let new = match &self.marks {
            Some(marks) => marks.set(page, bits)?,
            None => bits,
        };
        if new == 0 {
            return Ok(Noted::Done);
        }
        let left = match self.ring(vcpu) {
            Some(ring) => ring.push(page, new),
            None => {
                let _turn = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
                self.machine.push(page, new)
            }
        };
        if left != 0 {
            // A page with a mark is found by it. Others are gone.
            let marked = self.marks.is_some();
            self.overflowed(if marked {
                &self.unlisted
            } else {
                &self.missing.0
            });
        }
        Ok(self.trigger.0.count(new.count_ones()))
    }

    /// The ring of a virtual CPU; none for all others, or when there is no memory for it.
    fn ring(&self, vcpu: usize) -> Option<&Ring> {
        let place = self.rings.get(vcpu)?;
        if place.get().is_none() {
            // If somebody else was faster, theirs is kept.
            let _lost = place.set(Box::new(Ring::new(self.max_dirty).ok()?));
            self.used.fetch_max(vcpu + 1, Ordering::AcqRel);
        }
        place.get().map(Box::as_ref)
    }

    fn used(&self) -> &[OnceLock<Box<Ring>>] {
        &self.rings[..self.used.load(Ordering::Acquire)]
    }

    /// Says so, after what it is about was marked: whoever takes the flag away then sees the marks.
    fn overflowed(&self, flag: &AtomicBool) {
        if !flag.swap(true, Ordering::AcqRel) {
            self.overflows.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Hands out what is there: see [`super::DirtyList::fetch`]. `before` gets each page, sorted,
    /// before its mark is taken away.
    ///
    /// # Errors
    ///
    /// [`Error::Inactive`], [`Error::Overflow`], or what `before` answers.
    pub(super) fn fetch(
        &self,
        out: &mut [u64],
        before: impl Fn(&[u64]) -> Result<(), Error>,
    ) -> Result<usize, Error> {
        let mut reader = self.reader();
        if !reader.started {
            return Err(Error::Inactive);
        }
        if self.missing.0.load(Ordering::Acquire) {
            return Err(Error::Overflow);
        }
        self.look(&mut reader);
        self.hand_out(&mut reader, out, before)
    }

    /// How far the reader goes is what is there now. Without such a bound a writer that is as fast
    /// as the reader would keep it for ever.
    fn look(&self, reader: &mut Reader) {
        self.all_rings().for_each(Ring::look);
        reader.look = false;
        reader.may_sweep = true;
    }

    fn hand_out(
        &self,
        reader: &mut Reader,
        out: &mut [u64],
        before: impl Fn(&[u64]) -> Result<(), Error>,
    ) -> Result<usize, Error> {
        let mut filled = 0;
        while filled < out.len() {
            let free = &mut out[filled..];
            let gathered = self.gather(reader, free);
            if gathered == 0 {
                break;
            }
            let gathered = &mut free[..gathered];
            gathered.sort_unstable();
            let distinct = dedup(gathered);
            if let Err(error) = before(&gathered[..distinct]) {
                self.put_back(reader);
                return if filled == 0 { Err(error) } else { Ok(filled) };
            }
            // The order that all depends on: see the top of the module.
            let kept = match (&self.marks, &self.owed) {
                (Some(marks), _) => marks.take(&mut gathered[..distinct]),
                (None, Some(owed)) => owed.forget(&gathered[..distinct]),
                (None, None) => distinct,
            };
            reader.fetch_index += match &self.marks {
                Some(_) => kept as u64,
                None => gathered.len() as u64,
            };
            let first = filled == 0;
            filled += kept;
            if !first {
                out[..filled].sort_unstable();
                filled = dedup(&mut out[..filled]);
            }
        }
        Ok(filled)
    }

    /// What was gathered cannot be handed out. Marks are still there; without them it is lost.
    fn put_back(&self, reader: &mut Reader) {
        match &self.marks {
            Some(_) => {
                reader.sweep = None;
                self.unlisted.swap(true, Ordering::AcqRel);
            }
            None => self.overflowed(&self.missing.0),
        }
    }

    /// Fills `out` from the rings, or else from the marks; returns how many. Only 0 says that there
    /// is no more.
    fn gather(&self, reader: &mut Reader, out: &mut [u64]) -> usize {
        let rings = self.used();
        let mut count = 0;
        for _ in 0..=rings.len() {
            let ring = match rings.get(reader.next) {
                Some(ring) => ring.get().map(Box::as_ref),
                None => Some(&self.machine),
            };
            count += ring.map_or(0, |ring| ring.take(&mut out[count..]));
            reader.next = (reader.next + 1) % (rings.len() + 1);
            if count == out.len() {
                return count;
            }
        }
        if count > 0 {
            return count;
        }
        let Some(marks) = self.marks.as_ref().or(self.owed.as_ref()) else {
            return 0;
        };
        loop {
            if reader.sweep.is_none() && reader.may_sweep {
                reader.may_sweep = false;
                let unlisted = self.unlisted.swap(false, Ordering::AcqRel);
                reader.sweep = unlisted.then_some(0);
            }
            let Some(from) = reader.sweep else {
                return 0;
            };
            (count, reader.sweep) = marks.find(from, out);
            if count > 0 {
                return count;
            }
        }
    }

    fn all_rings(&self) -> impl Iterator<Item = &Ring> {
        let rings = self.used().iter().filter_map(OnceLock::get);
        rings.map(Box::as_ref).chain([&self.machine])
    }

    fn noted(&self) -> u64 {
        self.all_rings().map(Ring::noted).sum()
    }

    /// # Errors
    ///
    /// [`Error::Inactive`]
    pub(super) fn reset(&self) -> Result<Noted, Error> {
        let mut reader = self.reader();
        if !reader.started {
            return Err(Error::Inactive);
        }
        reader.reset_index = reader.fetch_index;
        Ok(self.trigger.0.arm(reader.reset_index))
    }

    pub(super) fn indices(&self) -> DirtyIndices {
        let reader = self.reader();
        let unlisted = self.unlisted.load(Ordering::Acquire) || reader.sweep.is_some();
        DirtyIndices {
            dirty_index: self.noted() - reader.noted_before,
            fetch_index: reader.fetch_index,
            reset_index: reader.reset_index,
            overflows: self.overflows.load(Ordering::Relaxed),
            max_dirty: self.max_dirty,
            overflow: unlisted || self.missing.0.load(Ordering::Acquire),
            active: self.is_active(),
        }
    }

    /// See [`super::DirtyList::sync_begin`].
    pub(super) fn sync_begin(&self) -> bool {
        let mut reader = self.reader();
        if !self.is_active() {
            self.start_anew(&mut reader);
            return false;
        }
        reader.look = true;
        let complete = !self.missing.0.swap(false, Ordering::AcqRel);
        if !complete {
            // The caller's look at all bits finds these, too. What is owed has no bit any more.
            self.all_rings().for_each(Ring::clear);
        }
        complete
    }

    /// See [`super::DirtyList::sync_fetch`].
    ///
    /// # Errors
    ///
    /// [`Error::Inactive`]
    pub(super) fn sync_fetch(&self, out: &mut [u64]) -> Result<usize, Error> {
        let mut reader = self.reader();
        if !self.is_active() {
            return Err(Error::Inactive);
        }
        if reader.look {
            self.look(&mut reader);
        }
        self.hand_out(&mut reader, out, |_| Ok(()))
    }

    fn reader(&self) -> MutexGuard<'_, Reader> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Moves the different ones among `pages`, which are sorted, to the front; returns how many.
fn dedup(pages: &mut [u64]) -> usize {
    let mut kept = 0;
    for at in 0..pages.len() {
        if kept == 0 || pages[at] != pages[kept - 1] {
            pages[kept] = pages[at];
            kept += 1;
        }
    }
    kept
}

// SPDX-License-Identifier: GPL-2.0-or-later
//! The pages that one writer noted and one reader has not taken yet.

use super::Error;
use super::sync::{AtomicU64, AtomicUsize, Ordering, Padded, zeroed};

/// One writer and one reader at a time, without a lock between them: the writer fills a place
/// before it moves on past it, the reader empties a place before it gives it back.
///
/// Places are counted from 0 to twice the length and then from 0 again, so that a full ring and an
/// empty one differ, and no length needs a division.
pub(super) struct Ring {
    pages: Box<[AtomicU64]>,
    writer: Padded<Writer>,
    reader: Padded<Reader>,
}

/// Changed by the writer alone.
struct Writer {
    /// The place after the last one that it filled.
    place: AtomicUsize,
    /// The same, for itself: loom takes no notice of others that read what its writer reads, too.
    own: AtomicUsize,
    /// Pages noted, those that did not fit among them.
    noted: AtomicU64,
}

/// Changed by the reader alone.
struct Reader {
    /// The place after the last one that it emptied.
    place: AtomicUsize,
    /// The same, for itself.
    own: AtomicUsize,
    /// How far it may take; the writer is there, or past it.
    until: AtomicUsize,
}

impl Ring {
    /// # Errors
    ///
    /// [`Error::Memory`]
    pub(super) fn new(len: usize) -> Result<Ring, Error> {
        Ok(Ring {
            pages: zeroed(len)?,
            writer: Padded(Writer {
                place: AtomicUsize::new(0),
                own: AtomicUsize::new(0),
                noted: AtomicU64::new(0),
            }),
            reader: Padded(Reader {
                place: AtomicUsize::new(0),
                own: AtomicUsize::new(0),
                until: AtomicUsize::new(0),
            }),
        })
    }

    /// Puts in `page` + i for each bit i of `bits`, in order, as long as there is room; returns the
    /// bits of the rest. By the one writer.
    pub(super) fn push(&self, page: u64, bits: u64) -> u64 {
        let writer = &self.writer.0;
        let mut place = writer.own.load(Ordering::Relaxed);
        // The reader has read a place before it gave it back.
        let taken = self.reader.0.place.load(Ordering::Acquire);
        let mut room = self.pages.len() - self.distance(taken, place);
        let mut left = bits;
        while left != 0 && room > 0 {
            let page = page + u64::from(left.trailing_zeros());
            self.pages[self.index(place)].store(page, Ordering::Relaxed);
            place = self.next(place);
            room -= 1;
            left &= left - 1;
        }
        writer.own.store(place, Ordering::Relaxed);
        writer.place.store(place, Ordering::Release);
        let noted = writer.noted.load(Ordering::Relaxed) + u64::from(bits.count_ones());
        writer.noted.store(noted, Ordering::Relaxed);
        left
    }

    /// What is in now is what `take` may take. By the one reader.
    pub(super) fn look(&self) {
        let place = self.writer.0.place.load(Ordering::Acquire);
        self.reader.0.until.store(place, Ordering::Relaxed);
    }

    /// Takes the oldest pages that were in at the last `look`, as many as there is room for;
    /// returns how many. By the one reader.
    pub(super) fn take(&self, out: &mut [u64]) -> usize {
        let reader = &self.reader.0;
        let mut place = reader.own.load(Ordering::Relaxed);
        let until = reader.until.load(Ordering::Relaxed);
        let count = self.distance(place, until).min(out.len());
        for page in &mut out[..count] {
            *page = self.pages[self.index(place)].load(Ordering::Relaxed);
            place = self.next(place);
        }
        reader.own.store(place, Ordering::Relaxed);
        reader.place.store(place, Ordering::Release);
        count
    }

    /// Drops what is in now. By the one reader.
    pub(super) fn clear(&self) {
        self.look();
        let reader = &self.reader.0;
        let until = reader.until.load(Ordering::Relaxed);
        reader.own.store(until, Ordering::Relaxed);
        reader.place.store(until, Ordering::Release);
    }

    /// How many pages were noted since it was made, those that did not fit among them.
    pub(super) fn noted(&self) -> u64 {
        self.writer.0.noted.load(Ordering::Relaxed)
    }

    fn distance(&self, from: usize, to: usize) -> usize {
        if to >= from {
            to - from
        } else {
            to + 2 * self.pages.len() - from
        }
    }

    fn index(&self, place: usize) -> usize {
        let len = self.pages.len();
        if place < len { place } else { place - len }
    }

    fn next(&self, place: usize) -> usize {
        let next = place + 1;
        if next == 2 * self.pages.len() {
            0
        } else {
            next
        }
    }
}

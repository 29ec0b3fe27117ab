// SPDX-License-Identifier: GPL-2.0-or-later
//! The requests taken from a queue, and how much of them is done at a time.
//!
//! A batch is gathered from everything that its queue holds, up to the bounds below, merged, and
//! then worked off in slices. No request of a batch may be acknowledged before its last slice is
//! done; between slices other work of the host's main loop goes on.

use crate::error::Error;
use crate::features::QueueKind;
use crate::page::{Gpa, GpaRange, PAGE_SIZE};
use crate::runs::Runs;
use crate::wire::PFN_BYTES;

/// PFNs in a batch: 128 MiB of guest memory, all that a Linux driver's queue can hold (128 buffers
/// of 256). Decoding so many takes a tenth of a millisecond, sorting them up to a whole one.
pub const MAX_PFNS: usize = 32768;
/// Requests in a batch: as many as the largest queue holds.
pub const MAX_REQUESTS: usize = 128;
/// Descriptors after which a batch takes no further request: mapping one costs about 100 ns, and a
/// guest can chain 1024 of them in each request. The last request taken may go past it once.
pub const MAX_DESCRIPTORS: usize = 1024;

/// An estimate of what may still be done in this slice, in nanoseconds.
///
/// It is an estimate and not a clock so that the same input is always cut the same way. The prices
/// are measured ones, rounded up, so a slice takes less time than it says.
pub struct Budget {
    left: u64,
}

impl Budget {
    /// Length of a slice: with gathering a batch, a quarter of the two milliseconds that a guest
    /// may stall the main loop for; long against the few microseconds that a turn of the main loop
    /// costs.
    const SLICE_NS: u64 = 500_000;
    /// Looking up a range and keeping account of it, where every range lies somewhere else in a
    /// guest of 1 TiB.
    const STEP_NS: u64 = 250;
    /// Making room for the single pages of a piece of a set of pages.
    const ROOM_NS: u64 = 2_000;
    /// Freeing the memory of such a piece, where the kernel takes it back.
    const FREE_NS: u64 = 1_200;
    /// A range's share in sorting all of a batch.
    const SORT_NS: u64 = 30;
    /// A system call on guest memory, with what QEMU does around it.
    const CALL_NS: u64 = 2_000;
    /// Freeing one backing page.
    const PAGE_NS: u64 = 330;

    /// A new slice's budget.
    pub fn slice() -> Budget {
        Budget {
            left: Budget::SLICE_NS,
        }
    }

    /// Whether there is anything left to spend.
    pub fn is_left(&self) -> bool {
        self.left > 0
    }

    /// How many bytes of backing pages of `page_size` may be discarded in what is left.
    pub fn bytes(&self, page_size: u64) -> u64 {
        (self.left / Budget::PAGE_NS).saturating_mul(page_size)
    }

    /// Accounts for handling a range.
    pub fn spend_step(&mut self) {
        self.spend(Budget::STEP_NS);
    }

    /// Accounts for room that was made in sets of pages, so often.
    pub fn spend_room(&mut self, times: u64) {
        self.spend(times.saturating_mul(Budget::ROOM_NS));
    }

    /// Accounts for freeing so many pieces of memory of sets of pages.
    pub fn spend_free(&mut self, pieces: usize) {
        self.spend((pieces as u64).saturating_mul(Budget::FREE_NS));
    }

    /// Accounts for sorting so many ranges.
    pub fn spend_sort(&mut self, ranges: usize) {
        self.spend((ranges as u64).saturating_mul(Budget::SORT_NS));
    }

    /// Accounts for one call on `bytes` of backing pages of `page_size`.
    pub fn spend_call(&mut self, bytes: u64, page_size: u64) {
        self.spend(
            Budget::CALL_NS.saturating_add(
                (bytes >> page_size.trailing_zeros()).saturating_mul(Budget::PAGE_NS),
            ),
        );
    }

    fn spend(&mut self, ns: u64) {
        self.left = self.left.saturating_sub(ns);
    }
}

/// The batch that is being gathered or worked on. There is one for all queues, so that a deflate
/// is never handled while an inflate is half done.
#[derive(Default)]
pub struct Batch {
    queue: Option<QueueKind>,
    runs: Runs,
    pfns: usize,
    requests: usize,
    descriptors: usize,
    /// The place in `runs` that work has come to, once it has begun.
    work: Option<Cursor>,
}

/// What it took to begin the work on a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Begun {
    /// How many ranges there are.
    pub ranges: usize,
    /// How many there were to be sorted.
    pub sorted: usize,
}

struct Cursor {
    run: usize,
    done: Gpa,
}

impl Batch {
    /// The queue whose requests these are, or `None` while the batch is empty.
    pub fn queue(&self) -> Option<QueueKind> {
        self.queue
    }

    /// How many further bytes of payload the batch takes from `queue`; 0 when it is full, in work,
    /// or another queue's. With `one_request` it is full after a single request.
    pub fn room(&self, queue: QueueKind, one_request: bool) -> usize {
        let max_requests = if one_request { 1 } else { MAX_REQUESTS };
        let taken = self.queue.is_some_and(|owner| owner != queue) || self.work.is_some();
        if taken || self.requests >= max_requests || self.descriptors >= MAX_DESCRIPTORS {
            return 0;
        }
        (MAX_PFNS - self.pfns) * PFN_BYTES
    }

    /// Whether the batch can be opened to requests of `queue`.
    ///
    /// # Errors
    ///
    /// [`Error::BatchInWork`] when it is another queue's or in work already.
    pub fn check(&self, queue: QueueKind) -> Result<(), Error> {
        if self.work.is_some() || self.queue.is_some_and(|owner| owner != queue) {
            return Err(Error::BatchInWork);
        }
        Ok(())
    }

    /// Opens the batch to requests of `queue`.
    ///
    /// # Errors
    ///
    /// As [`Batch::check`].
    pub fn open(&mut self, queue: QueueKind) -> Result<(), Error> {
        self.check(queue)?;
        self.queue = Some(queue);
        Ok(())
    }

    /// Adds the pages of `count` PFNs from `first` on. The caller keeps to [`Batch::room`].
    #[inline]
    pub fn push_pages(&mut self, first: u32, count: u32) {
        let first = u64::from(first);
        self.pfns += count as usize;
        if let Some(pages) = GpaRange::of_page_indices(first..first + u64::from(count)) {
            self.runs.push(pages);
        }
    }

    /// Adds a range that an entry of a message named; see [`Batch::spend`].
    #[inline]
    pub fn push_entry(&mut self, range: GpaRange) {
        self.runs.push(range);
    }

    /// Takes the room of `bytes` bytes of a message, which the caller keeps to, whether they were
    /// of use or not: a guest can send more nonsense than the main loop may read at a time. An
    /// entry is longer than a PFN, so there are no more of them than there may be pages.
    pub fn spend(&mut self, bytes: usize) {
        self.pfns += bytes.div_ceil(PFN_BYTES);
    }

    /// Adds a range of reported memory.
    pub fn push_range(&mut self, range: GpaRange) {
        self.runs.push(range);
    }

    /// Notes that a request of so many descriptors was added as a whole.
    pub fn end_request(&mut self, descriptors: usize) {
        self.requests += 1;
        self.descriptors = self.descriptors.saturating_add(descriptors);
    }

    /// Merges what was gathered, if work has not begun yet.
    pub fn begin(&mut self) -> Begun {
        if self.work.is_some() {
            return Begun::default();
        }
        let sorted = self.runs.merge();
        self.work = Some(Cursor {
            run: 0,
            done: Gpa(0),
        });
        let ranges = self.runs.as_slice().len();
        Begun { ranges, sorted }
    }

    /// The next range to do, or what is left of it; `None` when all is done.
    pub fn next(&self) -> Option<GpaRange> {
        let cursor = self.work.as_ref()?;
        let run = *self.runs.as_slice().get(cursor.run)?;
        GpaRange::new(run.start().max(cursor.done), run.end())
    }

    /// Notes that everything below `done` is done.
    pub fn advance(&mut self, done: Gpa) {
        if let Some(cursor) = &mut self.work {
            cursor.done = done;
            let run = self.runs.as_slice().get(cursor.run);
            if run.is_some_and(|run| run.end() <= done) {
                cursor.run += 1;
            }
        }
    }

    /// Leaves nothing to do of the batch; its requests stay and are still to be acknowledged.
    pub fn drop_ranges(&mut self) {
        self.runs.clear();
    }

    /// Empties the batch, done or not, and keeps its memory for the next one.
    pub fn clear(&mut self) {
        self.runs.clear();
        *self = Batch {
            runs: std::mem::take(&mut self.runs),
            ..Batch::default()
        };
    }
}

const _: () = assert!(
    MAX_PFNS as u64 * PAGE_SIZE <= 1 << 30,
    "a batch is small beside a guest"
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::Pfn;

    #[test]
    fn a_batch_is_full_at_each_of_its_bounds() {
        let mut batch = Batch::default();
        let room = |batch: &Batch| batch.room(QueueKind::Inflate, false);
        batch.open(QueueKind::Inflate).unwrap();
        assert_eq!(room(&batch), MAX_PFNS * PFN_BYTES);
        batch.push_pages(1, 1);
        assert_eq!(room(&batch), (MAX_PFNS - 1) * PFN_BYTES);
        assert_eq!(batch.room(QueueKind::Deflate, false), 0);
        assert_eq!(batch.open(QueueKind::Deflate), Err(Error::BatchInWork));
        batch.end_request(1);
        assert_eq!(batch.room(QueueKind::Inflate, true), 0);
        batch.end_request(MAX_DESCRIPTORS);
        assert_eq!(room(&batch), 0);
        batch.clear();
        for _ in 0..MAX_REQUESTS {
            assert_ne!(room(&batch), 0);
            batch.end_request(0);
        }
        assert_eq!(room(&batch), 0);
    }

    #[test]
    fn work_goes_on_where_it_stopped() {
        let mut batch = Batch::default();
        batch.open(QueueKind::Inflate).unwrap();
        for pfn in [9, 2, 1, 3] {
            batch.push_pages(pfn, 1);
        }
        let begun = Begun {
            ranges: 2,
            sorted: 2,
        };
        assert_eq!(batch.begin(), begun);
        assert_eq!(batch.next().unwrap().page_indices(), (1, 4));
        batch.advance(Pfn(2).gpa());
        assert_eq!(batch.next().unwrap().page_indices(), (2, 4));
        assert_eq!(batch.begin(), Begun::default(), "begun is begun");
        batch.advance(Pfn(4).gpa());
        assert_eq!(batch.next().unwrap().page_indices(), (9, 10));
        assert_eq!(batch.room(QueueKind::Inflate, false), 0);
        batch.advance(Pfn(10).gpa());
        assert_eq!(batch.next(), None);
    }
}

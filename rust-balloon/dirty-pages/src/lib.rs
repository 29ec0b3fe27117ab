// SPDX-License-Identifier: GPL-2.0-or-later
//! Dirty pages as a dense list, for those who would otherwise walk bitmaps of the size of the
//! machine.
//!
//! This is the dirty list of KVM's series of 2017, with the names of its parts: a ring of
//! `max_dirty` pages for each virtual CPU, one for the machine. There are two such lists, fed by
//! the same notes: the *consumer's*, for a tool that makes checkpoints, and the *migration's*.
//!
//! # No dirty page is missed
//!
//! A page is a number of 4 KiB of the host's view of guest RAM. The caller has a bitmap of dirty
//! pages beside the lists; it notes a page when its bit becomes set there, and who fetched a page
//! clears the bit and reads the page then, in this order. While a list is active this holds: a page
//! whose bit is set is on that list and was not fetched yet, or is about to be cleared and read, or
//! the list has overflowed.
//!
//! - A page comes here when it is protected again: its next write sets the bit again.
//! - With NO_DUPS a page is put on a list only if it has no mark there. A mark says that the page
//!   is owed to the reader. It is taken away *before* the page is handed out: who read the page
//!   then sees the write of every note that was left out because of the mark, and a write after
//!   that is noted anew.
//! - A page with a mark whose ring is full is found by a sweep over the marks, once the rings are
//!   empty. Such a list loses nothing; its overflow only says that it was slow. A page in a ring
//!   without a mark was found by a sweep before, and is passed over.
//! - Without NO_DUPS what does not fit is lost to the list, and its consumer is told so until the
//!   next start.
//! - The consumer clears bits that the migration has not seen. So each page that it gets is marked
//!   as owed to the migration before. Otherwise the migration's list has no marks: if a ring is
//!   full the migration looks at all bits, which is quicker then, and at what is owed.
//! - Between a fetch of the consumer and its clearing of those bits there is no synchronization of
//!   the migration: QEMU's big lock sees to that. Otherwise the migration could take what is owed
//!   too early: a page that is written then, and does not fit into its list, would lose the bit by
//!   which it is to be found.
//!
//! A ring has one writer and one reader at a time, and no lock between them. The machine's ring has
//! many writers, who take turns; its reader does not wait for them.

#![forbid(unsafe_code)]

mod error;
mod list;
mod marks;
mod ring;
mod sync;
mod trigger;

#[cfg(all(test, loom))]
mod orders;
#[cfg(all(test, not(loom)))]
mod tests;

pub use error::Error;
pub use list::MACHINE;
use list::{List, Marked};
pub use marks::PAGES;

/// The only version of the dirty list.
pub const VERSION: u32 = 1;
/// `max_dirty` is rounded up to a multiple of this.
pub const GRANULARITY: usize = 256;
/// The most pages that a list can have room for, which are 4 TiB of dirty memory.
pub const MOST: usize = 1 << 30;

/// What a list is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct DirtyOptions {
    /// `VBR_DIRTY_VERSION`.
    pub version: u32,
    /// Whether a page is on the consumer's list once at most.
    pub no_dups: bool,
    /// How many pages each ring has room for; rounded up to a multiple of 256, at most 2^30.
    pub max_dirty: usize,
    /// At how many pages on the consumer's list the machine is to be paused; 0 for never.
    pub dirty_trigger: usize,
    /// How many virtual CPUs there can ever be.
    pub vcpus: usize,
}

impl DirtyOptions {
    /// Whether there can be such a list, but for the memory that it takes.
    ///
    /// # Errors
    ///
    /// [`Error::Version`], [`Error::Zero`], [`Error::Size`],
    /// [`Error::Trigger`].
    pub fn check(&self) -> Result<(), Error> {
        if self.version != VERSION {
            Err(Error::Version)
        } else if self.max_dirty == 0 {
            Err(Error::Zero)
        } else if self.max_dirty > MOST {
            Err(Error::Size)
        } else if self.dirty_trigger > self.rounded() {
            Err(Error::Trigger)
        } else {
            Ok(())
        }
    }

    fn rounded(&self) -> usize {
        self.max_dirty.next_multiple_of(GRANULARITY)
    }
}

/// What came of noting pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noted {
    /// They are on the lists, or nobody wants to know.
    Done,
    /// The same, and the machine is to be paused: the page of the dirty trigger was among them.
    Trigger,
}

/// How far the consumer's list has come, in pages since it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct DirtyIndices {
    /// Pages noted.
    pub dirty_index: u64,
    /// Pages handed out.
    pub fetch_index: u64,
    /// Pages handed out that the consumer is done with.
    pub reset_index: u64,
    /// How often a ring had no room any more.
    pub overflows: u64,
    /// How many pages each ring has room for.
    pub max_dirty: usize,
    /// Whether pages are missing; with `no_dups`, whether they have to be looked for.
    pub overflow: bool,
    /// Whether pages are noted.
    pub active: bool,
}

/// The consumer's list and the migration's.
///
/// ```
/// use dirty_pages::{DirtyList, DirtyOptions, MACHINE, VERSION};
///
/// let list = DirtyList::new(DirtyOptions {
///     version: VERSION,
///     no_dups: true,
///     max_dirty: 4096,
///     dirty_trigger: 0,
///     vcpus: 2,
/// })?;
/// list.start()?;
///
/// // Processor 1 wrote to pages 8, 9 and 11, whose dirty bits were set before this; a device
/// // wrote to page 3.
/// list.note(1, 8, 0b1011);
/// list.note(MACHINE, 3, 1);
///
/// let mut pages = [0; 16];
/// let count = list.fetch(&mut pages)?;
/// assert_eq!(pages[..count], [3, 8, 9, 11]);
/// // Now the consumer clears the dirty bits of these pages, and then reads them.
/// # Ok::<(), dirty_pages::Error>(())
/// ```
pub struct DirtyList {
    consumer: List,
    migration: List,
}

impl DirtyList {
    /// Empty lists that nothing is noted on yet.
    ///
    /// # Errors
    ///
    /// As of [`DirtyOptions::check`], and [`Error::Memory`].
    pub fn new(options: DirtyOptions) -> Result<DirtyList, Error> {
        options.check()?;
        let (max_dirty, vcpus) = (options.rounded(), options.vcpus);
        let marked = if options.no_dups {
            Marked::Listed
        } else {
            Marked::No
        };
        let consumer = List::new(max_dirty, marked, options.dirty_trigger, vcpus)?;
        let migration = List::new(max_dirty, Marked::Owed, 0, vcpus)?;
        Ok(DirtyList {
            consumer,
            migration,
        })
    }

    /// Begins to note pages for the consumer, with nothing on its list. Pages whose bit is set
    /// already are not noted: after this the caller clears all bits, or notes their pages. No
    /// migration must be under way.
    ///
    /// # Errors
    ///
    /// [`Error::Active`] when that has begun already.
    pub fn start(&self) -> Result<(), Error> {
        self.consumer.start()
    }

    /// Notes no more pages for the consumer. What is on its list can still be fetched.
    pub fn stop(&self) {
        self.consumer.stop();
    }

    /// Whether any of the two lists wants pages. If this is asked to spare a call of
    /// [`DirtyList::note`], then after the bit of the page was set.
    pub fn is_active(&self) -> bool {
        self.consumer.is_active() || self.migration.is_active()
    }

    /// Notes `page` + i for each bit i of `bits`, after their bits were set. `vcpu` is the virtual
    /// CPU that wrote to them, for which there is one call at a time, or [`MACHINE`]. A page that
    /// is not below [`PAGES`] counts as one that does not fit.
    pub fn note(&self, vcpu: usize, page: u64, bits: u64) -> Noted {
        self.migration.note(vcpu, page, bits);
        self.consumer.note(vcpu, page, bits)
    }

    /// Hands out the consumer's next pages, sorted, each once, as many as `out` has room for;
    /// returns how many. 0 says that there were none; fewer than there is room for, that there was
    /// no more. The caller clears their bits before the next [`DirtyList::sync_begin`].
    ///
    /// # Errors
    ///
    /// [`Error::Inactive`] before the first start; [`Error::Overflow`] when pages are
    /// missing, until the next start; [`Error::Memory`] when the migration's list could not take
    /// the pages, which without `no_dups` are missing then.
    pub fn fetch(&self, out: &mut [u64]) -> Result<usize, Error> {
        self.consumer.fetch(out, |pages| self.migration.owe(pages))
    }

    /// The consumer is done with all that it fetched. The dirty trigger counts from here on; says
    /// whether it is reached already.
    ///
    /// # Errors
    ///
    /// [`Error::Inactive`] before the first start.
    pub fn reset(&self) -> Result<Noted, Error> {
        self.consumer.reset()
    }

    /// How far the consumer's list has come.
    pub fn indices(&self) -> DirtyIndices {
        self.consumer.indices()
    }

    /// A synchronization of the migration's bitmap begins. Says whether the migration's list has
    /// every page whose bit became set since the last one. If not, because it is started here or
    /// has lost pages, the caller looks at all bits itself, after it fetched what there is.
    ///
    /// A migration that begins has all pages still to be sent: one that the consumer fetched
    /// before, and whose bit it clears after this, is noted for nobody.
    pub fn sync_begin(&self) -> bool {
        self.migration.sync_begin()
    }

    /// Hands out the migration's next pages, as [`DirtyList::fetch`] does; 0 when that were all
    /// that were there at the first call since [`DirtyList::sync_begin`]. Those that come meanwhile
    /// are for the next one.
    ///
    /// # Errors
    ///
    /// [`Error::Inactive`] without a synchronization.
    pub fn sync_fetch(&self, out: &mut [u64]) -> Result<usize, Error> {
        self.migration.sync_fetch(out)
    }

    /// The migration is over; its list notes no more pages.
    pub fn sync_end(&self) {
        self.migration.stop();
    }
}

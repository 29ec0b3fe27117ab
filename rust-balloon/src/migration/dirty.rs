// SPDX-License-Identifier: GPL-2.0-or-later
//! Dirty pages as a dense list, for those who would otherwise walk bitmaps of the size of the machine.
//!
//! This is the dirty list of KVM's series of 2017, with the names of its parts. One list for each virtual
//! CPU takes what is noted there, one for the machine is what a consumer fetches from. Each has room for
//! `max_dirty` pages. What does not fit is not lost but said: the list has overflowed, and its consumer
//! looks at the bitmaps instead.
//!
//! # No dirty page is missed
//!
//! A page is noted after its write was logged and when it is protected again, so a later write is noted
//! again. With NO_DUPS a page is noted only if it is not on the list already. It counts as on the list until
//! it is fetched: the mark is taken away *before* the page is handed out, so whoever then reads the page sees
//! the write of every note that was left out because of the mark, and a write after that is noted anew.
//!
//! A virtual CPU's list has one writer and one reader at a time, and no lock between them: the writer
//! fills a place before it moves `dirty_index` past it, the reader empties a place before it gives it back.

use crate::error::Error;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// The only version of the interface.
pub const VERSION: u32 = 1;
/// `max_dirty` is rounded up to a multiple of this.
pub const GRANULARITY: usize = 256;
/// The most pages that a list can have room for, which are 4 TiB of dirty memory.
pub const MOST: usize = 1 << 30;

/// What a list is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct DirtyOptions {
    /// [`VERSION`].
    pub version: u32,
    /// How many pages each list has room for.
    pub max_dirty: usize,
    /// Whether a page is on the list once at most.
    pub no_dups: bool,
    /// At how many pages the machine is to be paused; 0 for never.
    pub dirty_trigger: usize,
    /// How many virtual CPUs there can ever be.
    pub vcpus: usize,
}

/// What came of noting a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noted {
    /// It is on the list, or nobody wants to know.
    Done,
    /// The same, and the machine is to be paused: that was the page of the dirty trigger.
    Trigger,
}

/// How far a list has come, in pages since it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct DirtyIndices {
    /// Pages noted.
    pub dirty_index: u64,
    /// Pages handed out.
    pub fetch_index: u64,
    /// Pages handed out that the consumer is done with.
    pub reset_index: u64,
    /// Whether pages were left out, so that the bitmaps have to be looked at.
    pub overflow: bool,
}

/// The list of a virtual CPU.
struct Ring {
    pages: Box<[AtomicU64]>,
    dirty_index: AtomicUsize,
    fetch_index: AtomicUsize,
}

impl Ring {
    fn new(max_dirty: usize) -> Ring {
        Ring {
            pages: (0..max_dirty).map(|_| AtomicU64::new(0)).collect(),
            dirty_index: AtomicUsize::new(0),
            fetch_index: AtomicUsize::new(0),
        }
    }

    /// By the one writer. Says whether there was room.
    fn push(&self, page: u64) -> bool {
        let dirty = self.dirty_index.load(Ordering::Relaxed);
        // The reader has read the place before it gave it back.
        let fetched = self.fetch_index.load(Ordering::Acquire);
        if dirty.wrapping_sub(fetched) >= self.pages.len() {
            return false;
        }
        self.pages[dirty % self.pages.len()].store(page, Ordering::Relaxed);
        self.dirty_index
            .store(dirty.wrapping_add(1), Ordering::Release);
        true
    }

    /// By the one reader.
    fn drain(&self, room: usize, mut take: impl FnMut(u64)) {
        let fetched = self.fetch_index.load(Ordering::Relaxed);
        let dirty = self.dirty_index.load(Ordering::Acquire);
        let count = dirty.wrapping_sub(fetched).min(room);
        for n in 0..count {
            let place = fetched.wrapping_add(n) % self.pages.len();
            take(self.pages[place].load(Ordering::Relaxed));
        }
        self.fetch_index
            .store(fetched.wrapping_add(count), Ordering::Release);
    }
}

/// A dirty trigger that is not armed.
const NEVER: u64 = u64::MAX;

/// Bits of a chunk of pages, and how many pages that are.
const CHUNK_WORDS: usize = 512;
const CHUNK_PAGES: u64 = CHUNK_WORDS as u64 * 64;
/// As many chunks as pages can be told apart: 2^34 pages, 64 TiB.
const CHUNKS: usize = 1 << 19;

/// The pages on the list. Memory that is plugged in later has its place already.
struct Marks {
    chunks: Box<[OnceLock<Box<[AtomicU64; CHUNK_WORDS]>>]>,
}

impl Marks {
    fn new() -> Marks {
        Marks {
            chunks: (0..CHUNKS).map(|_| OnceLock::new()).collect(),
        }
    }

    fn word(&self, page: u64) -> Option<(&AtomicU64, u64)> {
        let chunk = self.chunks.get((page / CHUNK_PAGES) as usize)?;
        let words = chunk.get_or_init(|| Box::new([const { AtomicU64::new(0) }; CHUNK_WORDS]));
        let at = page % CHUNK_PAGES;
        Some((&words[(at / 64) as usize], 1 << (at % 64)))
    }

    /// Whether the page had no mark. One that there is no place for never has.
    fn set(&self, page: u64) -> bool {
        self.word(page)
            .is_none_or(|(word, bit)| word.fetch_or(bit, Ordering::AcqRel) & bit == 0)
    }

    fn clear(&self, page: u64) {
        if let Some((word, bit)) = self.word(page) {
            word.fetch_and(!bit, Ordering::AcqRel);
        }
    }

    fn clear_all(&self) {
        let chunks = self.chunks.iter().filter_map(OnceLock::get);
        for word in chunks.flat_map(|chunk| chunk.iter()) {
            word.store(0, Ordering::Release);
        }
    }
}

/// The list of the machine; its consumer's side.
#[derive(Default)]
struct Machine {
    /// Pages from `reset_index` on; those before `fetch_index` were handed out.
    pages: VecDeque<u64>,
    fetch_index: u64,
    reset_index: u64,
    /// The virtual CPU to begin with next time, so that none has to wait for the others.
    next: usize,
}

/// The lists.
pub struct DirtyList {
    max_dirty: usize,
    dirty_trigger: usize,
    marks: Option<Marks>,
    vcpus: Box<[OnceLock<Ring>]>,
    machine: Mutex<Machine>,
    active: AtomicBool,
    dirty_index: AtomicU64,
    /// `dirty_index` at which the machine is to be paused next.
    trigger_at: AtomicU64,
    overflow: AtomicBool,
}

impl DirtyList {
    /// Empty lists that nothing is noted on yet.
    ///
    /// # Errors
    ///
    /// [`Error::DirtyListVersion`], [`Error::DirtyListZero`], [`Error::DirtyListSize`] as `options` are.
    pub fn new(options: DirtyOptions) -> Result<DirtyList, Error> {
        if options.version != VERSION {
            return Err(Error::DirtyListVersion);
        }
        if options.max_dirty == 0 {
            return Err(Error::DirtyListZero);
        }
        if options.max_dirty > MOST {
            return Err(Error::DirtyListSize);
        }
        Ok(DirtyList {
            max_dirty: options.max_dirty.next_multiple_of(GRANULARITY),
            dirty_trigger: options.dirty_trigger,
            marks: options.no_dups.then(Marks::new),
            vcpus: (0..options.vcpus.max(1)).map(|_| OnceLock::new()).collect(),
            machine: Mutex::default(),
            active: AtomicBool::new(false),
            dirty_index: AtomicU64::new(0),
            trigger_at: AtomicU64::new(NEVER),
            overflow: AtomicBool::new(false),
        })
    }

    /// How many pages each list has room for.
    pub fn max_dirty(&self) -> usize {
        self.max_dirty
    }

    /// Begins to note pages, with nothing on the list.
    ///
    /// # Errors
    ///
    /// [`Error::DirtyListActive`] when that has begun already.
    pub fn start(&self) -> Result<(), Error> {
        let mut machine = self.machine();
        if self.active.load(Ordering::Acquire) {
            return Err(Error::DirtyListActive);
        }
        for ring in self.rings() {
            ring.drain(usize::MAX, |_| ());
        }
        if let Some(marks) = &self.marks {
            marks.clear_all();
        }
        *machine = Machine::default();
        self.dirty_index.store(0, Ordering::Release);
        self.overflow.store(false, Ordering::Release);
        self.arm_trigger(0);
        self.active.store(true, Ordering::Release);
        Ok(())
    }

    /// Notes no more pages. What is on the list can still be fetched.
    pub fn stop(&self) {
        self.active.store(false, Ordering::Release);
    }

    /// Whether pages are noted.
    pub fn is_active(&self) -> bool {
        self.active.load(Ordering::Acquire)
    }

    /// Notes `page`, which virtual CPU `vcpu` wrote to. One call at a time for each virtual CPU.
    pub fn note(&self, vcpu: usize, page: u64) -> Noted {
        if !self.is_active() || self.marks.as_ref().is_some_and(|marks| !marks.set(page)) {
            return Noted::Done;
        }
        let ring = self.vcpus.get(vcpu);
        let ring = ring.map(|ring| ring.get_or_init(|| Ring::new(self.max_dirty)));
        if !ring.is_some_and(|ring| ring.push(page)) {
            self.overflow.store(true, Ordering::Release);
        }
        let count = self.dirty_index.fetch_add(1, Ordering::AcqRel) + 1;
        self.look_at_trigger(count)
    }

    /// Hands out the next pages, at most as many as `out` has room for; returns how many. Behind the last
    /// one look at [`DirtyList::indices`]: after an overflow the list is not all.
    pub fn fetch(&self, out: &mut [u64]) -> usize {
        let mut machine = self.machine();
        let held = (machine.fetch_index - machine.reset_index) as usize;
        self.gather(&mut machine, held + out.len());
        let ready = machine.pages.iter().skip(held);
        let mut count = 0;
        for (place, &page) in out.iter_mut().zip(ready) {
            // Before anybody reads the page: see the top of the module.
            if let Some(marks) = &self.marks {
                marks.clear(page);
            }
            *place = page;
            count += 1;
        }
        machine.fetch_index += count as u64;
        count
    }

    /// Gives back the room of all pages that were handed out. The dirty trigger counts from here on; says
    /// whether it is reached already.
    pub fn reset(&self) -> Noted {
        let mut machine = self.machine();
        let held = (machine.fetch_index - machine.reset_index) as usize;
        machine.pages.drain(..held);
        machine.reset_index = machine.fetch_index;
        self.arm_trigger(machine.reset_index);
        self.look_at_trigger(self.dirty_index.load(Ordering::Acquire))
    }

    /// How far the list has come.
    pub fn indices(&self) -> DirtyIndices {
        let machine = self.machine();
        DirtyIndices {
            dirty_index: self.dirty_index.load(Ordering::Acquire),
            fetch_index: machine.fetch_index,
            reset_index: machine.reset_index,
            overflow: self.overflow.load(Ordering::Acquire),
        }
    }

    fn rings(&self) -> impl Iterator<Item = &Ring> {
        self.vcpus.iter().filter_map(OnceLock::get)
    }

    /// Moves pages from the virtual CPUs' lists to the machine's, until that has `wanted` or is full.
    fn gather(&self, machine: &mut Machine, wanted: usize) {
        let wanted = wanted.min(self.max_dirty);
        for _ in 0..self.vcpus.len() {
            let room = wanted.saturating_sub(machine.pages.len());
            if room == 0 {
                return;
            }
            if let Some(ring) = self.vcpus[machine.next].get() {
                ring.drain(room, |page| machine.pages.push_back(page));
            }
            machine.next = (machine.next + 1) % self.vcpus.len();
        }
    }

    fn arm_trigger(&self, from: u64) {
        let at = match self.dirty_trigger {
            0 => NEVER,
            pages => from.saturating_add(pages as u64),
        };
        self.trigger_at.store(at, Ordering::Release);
    }

    /// Whoever comes first at the page of the trigger, or past it, is the one to say so.
    fn look_at_trigger(&self, count: u64) -> Noted {
        let at = self.trigger_at.load(Ordering::Acquire);
        let (yes, no) = (Ordering::AcqRel, Ordering::Relaxed);
        let is_there = count >= at && self.trigger_at.compare_exchange(at, NEVER, yes, no).is_ok();
        if is_there {
            Noted::Trigger
        } else {
            Noted::Done
        }
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::thread;

    fn options() -> DirtyOptions {
        DirtyOptions {
            version: VERSION,
            max_dirty: 1000,
            no_dups: false,
            dirty_trigger: 0,
            vcpus: 2,
        }
    }

    fn started(options: DirtyOptions) -> DirtyList {
        let list = DirtyList::new(options).unwrap();
        list.start().unwrap();
        list
    }

    fn fetch_all(list: &DirtyList) -> Vec<u64> {
        let mut out = vec![0; 100_000];
        let count = list.fetch(&mut out);
        out.truncate(count);
        out
    }

    #[test]
    fn a_list_that_cannot_be_is_refused_by_name() {
        let refused = |options| DirtyList::new(options).err();
        let base = options();
        assert_eq!(
            refused(DirtyOptions { version: 2, ..base }),
            Some(Error::DirtyListVersion)
        );
        assert_eq!(
            refused(DirtyOptions {
                max_dirty: 0,
                ..base
            }),
            Some(Error::DirtyListZero)
        );
        let too_many = DirtyOptions {
            max_dirty: MOST + 1,
            ..base
        };
        assert_eq!(refused(too_many), Some(Error::DirtyListSize));
        let list = started(base);
        assert_eq!(list.max_dirty(), 1024);
        assert_eq!(list.start(), Err(Error::DirtyListActive));
        list.stop();
        assert_eq!(list.start(), Ok(()));
    }

    #[test]
    fn pages_come_out_in_batches_and_once() {
        let list = started(options());
        for page in 0..10 {
            list.note((page % 2) as usize, page);
        }
        let mut out = [0; 4];
        let mut all = Vec::new();
        loop {
            let count = list.fetch(&mut out);
            if count == 0 {
                break;
            }
            all.extend_from_slice(&out[..count]);
        }
        all.sort_unstable();
        assert_eq!(all, (0..10).collect::<Vec<u64>>());
        let indices = list.indices();
        assert_eq!((indices.dirty_index, indices.fetch_index), (10, 10));
        assert_eq!((indices.reset_index, indices.overflow), (0, false));
        list.reset();
        assert_eq!(list.indices().reset_index, 10);
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let list = started(options());
        for page in 0..1025 {
            list.note(0, page);
        }
        assert!(list.indices().overflow);
        assert_eq!(fetch_all(&list).len(), 1024);
        // A virtual CPU that nobody had thought of.
        let list = started(options());
        list.note(2, 7);
        assert!(list.indices().overflow);
        list.stop();
        list.start().unwrap();
        assert_eq!(list.indices(), DirtyIndices::default());
    }

    #[test]
    fn a_page_is_on_the_list_once_until_it_is_fetched() {
        let list = started(DirtyOptions {
            no_dups: true,
            ..options()
        });
        let far = CHUNKS as u64 * CHUNK_PAGES;
        for _ in 0..3 {
            for page in [5, far - 1, far] {
                list.note(0, page);
            }
        }
        let mut pages = fetch_all(&list);
        pages.sort_unstable();
        assert_eq!(pages, [5, far - 1, far, far, far]);
        list.note(1, 5);
        assert_eq!(fetch_all(&list), [5]);
    }

    #[test]
    fn the_trigger_comes_once_a_cycle() {
        let list = started(DirtyOptions {
            dirty_trigger: 3,
            ..options()
        });
        let note = |page| list.note(0, page);
        assert_eq!(
            [1, 2, 3, 4].map(note),
            [Noted::Done, Noted::Done, Noted::Trigger, Noted::Done]
        );
        assert_eq!(fetch_all(&list).len(), 4);
        assert_eq!(list.reset(), Noted::Done);
        assert_eq!(
            [5, 6, 7].map(note),
            [Noted::Done, Noted::Done, Noted::Trigger]
        );
        // Three are there that were not handed out.
        assert_eq!(list.reset(), Noted::Trigger);
    }

    /// Writers and a fetcher at the same time: what is noted is fetched, or the overflow is said.
    #[test]
    fn nothing_is_lost_between_threads() {
        for no_dups in [false, true] {
            let list = started(DirtyOptions {
                no_dups,
                vcpus: 3,
                ..options()
            });
            let mut seen = BTreeSet::new();
            thread::scope(|scope| {
                let list = &list;
                let writers: Vec<_> = (0..3u64)
                    .map(|vcpu| {
                        scope.spawn(move || {
                            for page in 0..20_000 {
                                list.note(vcpu as usize, vcpu * 50_000 + page);
                                if page % 100 == 0 {
                                    thread::yield_now();
                                }
                            }
                        })
                    })
                    .collect();
                while writers.iter().any(|writer| !writer.is_finished()) {
                    seen.extend(fetch_all(list));
                    list.reset();
                }
            });
            seen.extend(fetch_all(&list));
            let indices = list.indices();
            assert_eq!(indices.dirty_index, 60_000);
            assert!(indices.overflow || seen.len() == 60_000, "{indices:?}");
            assert_eq!(indices.overflow, seen.len() < 60_000);
        }
    }
}

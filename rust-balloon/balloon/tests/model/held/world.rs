// SPDX-License-Identifier: GPL-2.0-or-later
//! A guest whose pages wait for their neighbours in the balloon, and what the host may do with
//! them.

#![expect(
    clippy::single_range_in_vec_init,
    reason = "lists of ranges are meant, also of one"
)]

use std::ops::Range;
use std::slice;

use balloon::device::{Balloon, Options, Progress, RequestEnd};
use balloon::features::{Features, QueueKind};
use balloon::host::Inhibit;
use balloon::memory::{MemoryMap, Section};
use balloon::page::PAGE_SIZE;
use balloon::queue::held::Flush;
use balloon::state::{SavedPages, State};
use balloon::wire::ByteOrder;

use super::super::mock::{MockHost, SET_BYTES, part, section};

/// 4 KiB pages of a huge page.
pub(crate) const HUGE: u64 = 512;
/// Pages of the guest. Huge pages of the first block begin where the guest's do, those of the
/// second do not.
pub(crate) const PAGES: u64 = 8 * HUGE;
pub(crate) const SECOND: u64 = 5 * HUGE;
pub(crate) const HOLD_BYTES: u64 = 2 * HUGE * PAGE_SIZE;

fn sections() -> Vec<Section> {
    vec![
        section(1, 0, SECOND, 0, PAGE_SIZE),
        section(2, SECOND, PAGES - SECOND, 100, PAGE_SIZE),
    ]
}

pub(crate) fn device(hold_bytes: u64) -> Balloon {
    let mut balloon = Balloon::new(Options {
        hold_bytes,
        ..Options::default()
    });
    balloon.set_memory(MemoryMap::new(sections()).unwrap());
    balloon.set_features(Features::MUST_TELL_HOST, false);
    balloon
}

/// The guest page behind a page of a block.
pub(crate) fn guest_page(block: usize, page: u64) -> u64 {
    match block {
        1 => page,
        _ => SECOND + page - 100,
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Inflate(Vec<Range<u64>>),
    Deflate(Vec<Range<u64>>),
    /// A deflate of both, of which the second range is written so that nobody understands it.
    DeflateInPart(Range<u64>, Range<u64>),
    /// So many slices; what the guest may do in between comes as other steps.
    Flush(Flush, u32),
    /// A request of which so many slices are done before its queue is reset.
    GiveUp(QueueKind, Range<u64>, u32),
    Reset,
    Migrate,
    /// From now on discards are inhibited, or not any more.
    Inhibit(bool),
    /// So many slices of giving back what could not be given back before.
    Owed(u32),
    /// Other memory behind the pages of the second block, and back.
    Replug,
    Write(Range<u64>),
}

/// Who may do what with a page, and whether the host has memory for it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Page {
    is_given: bool,
    /// The device must have given its memory back when nothing waits any more, and before so many
    /// flushes of what waits for long, two at most.
    owed_since: Option<u32>,
    is_resident: bool,
}

pub(crate) struct World {
    pub(crate) balloon: Balloon,
    pages: Vec<Page>,
    inhibit: Inhibit,
}

impl World {
    pub(crate) fn new() -> World {
        let page = Page {
            is_given: false,
            owed_since: None,
            is_resident: true,
        };
        World {
            balloon: device(HOLD_BYTES),
            pages: vec![page; PAGES as usize],
            inhibit: Inhibit::No,
        }
    }

    fn of(&mut self, ranges: &[Range<u64>], mut change: impl FnMut(&mut Page)) {
        for page in ranges.iter().cloned().flatten() {
            change(&mut self.pages[page as usize]);
        }
    }

    /// What the host was asked for may only be what the guest gave away.
    fn discarded(&mut self, host: &mut MockHost) {
        for range in std::mem::take(&mut host.discards) {
            assert_eq!(self.inhibit, Inhibit::No);
            let first = range.offset / PAGE_SIZE;
            for page in first..first + range.bytes / PAGE_SIZE {
                let number = guest_page(range.block.0, page);
                let page = &mut self.pages[number as usize];
                assert!(page.is_given, "page {number:#x} is the guest's");
                page.is_resident = false;
            }
        }
    }

    /// One batch, at most `slices` of it; says whether that was all.
    fn request(&mut self, queue: QueueKind, ranges: &[Range<u64>], slices: u32) -> bool {
        self.send(queue, &payload(ranges), slices)
    }

    fn send(&mut self, queue: QueueKind, payload: &[u8], slices: u32) -> bool {
        let end = Some(RequestEnd {
            descriptors: 1,
            wrong_way: 0,
        });
        let added = self
            .balloon
            .batch_add(queue, part(payload, ByteOrder::Little, end));
        assert_eq!(added, Ok(()));
        let mut host = MockHost::default();
        for _ in 0..slices {
            let progress = self.balloon.batch_run(&mut host, self.inhibit);
            self.discarded(&mut host);
            if progress == Progress::Done {
                return true;
            }
        }
        false
    }

    fn flush(&mut self, flush: Flush, slices: u32) {
        let mut host = MockHost::default();
        for _ in 0..slices {
            let progress = self.balloon.flush_held(&mut host, flush, self.inhibit);
            self.discarded(&mut host);
            if progress == Progress::Done {
                // Of what was inhibited nothing is left to be done, either, unless it still is.
                self.owed(u32::MAX);
                let is_inhibited = self.inhibit != Inhibit::No;
                let waits_too_long = |page: &Page| match (flush, page.owed_since) {
                    (_, None) => false,
                    _ if is_inhibited => false,
                    (Flush::Aged, Some(age)) => page.is_resident && age > 0,
                    (Flush::All, Some(_)) => page.is_resident,
                };
                assert_eq!(self.pages.iter().position(waits_too_long), None);
                match flush {
                    Flush::Aged => self.of(&[0..PAGES], |page| {
                        page.owed_since = page.owed_since.map(|age| age + 1);
                    }),
                    Flush::All => assert_eq!(self.balloon.held_bytes(), 0),
                }
                return;
            }
        }
    }

    fn owed(&mut self, slices: u32) {
        let mut host = MockHost::default();
        for _ in 0..slices {
            let progress = self.balloon.discard_owed(&mut host, self.inhibit);
            self.discarded(&mut host);
            if progress == Progress::Done {
                assert!(self.balloon.owed_bytes() == 0 || self.inhibit != Inhibit::No);
                return;
            }
        }
    }

    pub(crate) fn step(&mut self, step: Step) {
        match step {
            Step::Inflate(ranges) => {
                self.of(&ranges, |page| page.is_given = true);
                assert!(self.request(QueueKind::Inflate, &ranges, u32::MAX));
                self.of(&ranges, |page| {
                    page.owed_since = page.owed_since.or(Some(0));
                });
                assert!(self.balloon.held_bytes() <= HOLD_BYTES);
            }
            Step::Deflate(ranges) => {
                assert!(self.request(QueueKind::Deflate, &ranges, u32::MAX));
                self.of(&ranges, |page| {
                    (page.is_given, page.owed_since) = (false, None)
                });
            }
            Step::DeflateInPart(understood, lost) => {
                let mut payload = payload(slice::from_ref(&understood));
                payload.push(lost.start as u8);
                assert!(self.send(QueueKind::Deflate, &payload, u32::MAX));
                self.of(&[understood, lost], |page| page.is_given = false);
                // What waits is forgotten: any of it may be the guest's.
                self.of(&[0..PAGES], |page| page.owed_since = None);
                assert_eq!(
                    (self.balloon.held_bytes(), self.balloon.owed_bytes()),
                    (0, 0)
                );
            }
            Step::Flush(flush, slices) => self.flush(flush, slices),
            Step::GiveUp(queue, range, slices) => {
                let ranges = [range];
                let before = self.pages.clone();
                if queue == QueueKind::Inflate {
                    self.of(&ranges, |page| page.is_given = true);
                }
                self.request(queue, &ranges, slices);
                self.balloon.batch_abandon();
                // An inflate that was not acknowledged gave nothing away; of a deflate the guest
                // has the pages back.
                let is_deflate = queue == QueueKind::Deflate;
                for page in ranges[0].clone() {
                    let before = before[page as usize].is_given;
                    self.pages[page as usize].is_given = before && !is_deflate;
                }
                self.of(&[0..PAGES], |page| page.owed_since = None);
            }
            Step::Reset => {
                self.balloon.reset();
                self.balloon.set_features(Features::MUST_TELL_HOST, false);
                self.of(&[0..PAGES], |page| {
                    (page.is_given, page.owed_since) = (false, None)
                });
            }
            Step::Migrate => self.migrate(),
            Step::Inhibit(true) => self.inhibit = Inhibit::BackgroundSnapshot,
            Step::Inhibit(false) => self.inhibit = Inhibit::No,
            Step::Owed(slices) => self.owed(slices),
            Step::Replug => {
                let other = vec![sections()[0], section(9, SECOND, 64, 0, PAGE_SIZE)];
                self.balloon.set_memory(MemoryMap::new(other).unwrap());
                self.balloon.set_memory(MemoryMap::new(sections()).unwrap());
                self.of(&[SECOND..PAGES], |page| {
                    (page.is_given, page.owed_since) = (false, None)
                });
            }
            Step::Write(range) => {
                self.of(&[range], |page| page.is_resident |= !page.is_given);
            }
        }
    }

    /// In the end nothing waits any more.
    pub(crate) fn end(&mut self) {
        self.inhibit = Inhibit::No;
        self.flush(Flush::All, u32::MAX);
    }

    /// The destination has memory for all pages, as if all had been sent.
    fn migrate(&mut self) {
        let mut coded = vec![0; SET_BYTES];
        let written = SavedPages::write(&self.balloon, &mut coded);
        let pages = SavedPages {
            coded: &coded[..written.bytes],
            complete: written.complete,
        };
        let mut to = device(HOLD_BYTES);
        State::save(&self.balloon, 0)
            .load(&mut to, Some(pages), PAGES * PAGE_SIZE)
            .unwrap();
        self.balloon = to;
        self.of(&[0..PAGES], |page| page.is_resident = true);
    }
}

fn payload(ranges: &[Range<u64>]) -> Vec<u8> {
    let pfns = ranges.iter().cloned().flatten();
    pfns.flat_map(|pfn| (pfn as u32).to_le_bytes()).collect()
}

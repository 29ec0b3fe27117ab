// SPDX-License-Identifier: GPL-2.0-or-later
//! A simple model of what the device may do and must do, in sets of pages.

use std::collections::BTreeSet;

use balloon::counters::Counters;
use balloon::features::QueueKind;
use balloon::memory::{BlockRange, Section};
use balloon::page::PAGE_SIZE;

/// A range of guest addresses, `[start, end)`.
pub(crate) type Bytes = (u64, u64);
/// A 4 KiB page of a block: the block, and the page's number in it.
type BlockPage = (usize, u64);

/// A batch that was added and not yet acknowledged.
pub(crate) struct Batch {
    pub(crate) queue: QueueKind,
    /// What can be understood of its requests. Sorted, and none touches the next.
    runs: Vec<Bytes>,
    /// What the guest meant by them.
    meant: Vec<Bytes>,
    /// Counters before it was worked on.
    before: Counters,
    /// Block pages discarded for it, and told to be used again.
    discarded: BTreeSet<BlockPage>,
    populated: BTreeSet<BlockPage>,
    slices: u32,
    inhibited_slices: u32,
    /// Whether memory changed while it was worked on.
    pub(crate) moved: bool,
    /// Whether the host refused to discard, or was not asked because it had refused before.
    pub(crate) refused: bool,
}

/// What is known of guest and device.
pub(crate) struct Model {
    pub(crate) sections: Vec<Section>,
    /// Whether MUST_TELL_HOST was negotiated.
    pub(crate) told: bool,
    pub(crate) poison_val: u32,
    pub(crate) actual: u32,
    /// Pages that the guest gave away and has not taken back.
    may: BTreeSet<u64>,
    /// Those of them that the device must know of; the others are in requests that were cancelled or
    /// abandoned in the middle.
    must: BTreeSet<u64>,
    /// Whether the device can know how large the balloon is.
    complete: bool,
}

/// Merges ranges that overlap or touch.
fn merged(mut ranges: Vec<Bytes>) -> Vec<Bytes> {
    ranges.sort_unstable();
    let mut runs: Vec<Bytes> = Vec::new();
    for (start, end) in ranges {
        match runs.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => runs.push((start, end)),
        }
    }
    runs
}

fn pages_of((start, end): Bytes) -> impl Iterator<Item = u64> {
    start / PAGE_SIZE..end / PAGE_SIZE
}

fn block_pages(range: &BlockRange) -> impl Iterator<Item = BlockPage> {
    let (block, first) = (range.block.0, range.offset / PAGE_SIZE);
    (first..first + range.bytes / PAGE_SIZE).map(move |page| (block, page))
}

/// The block's 4 KiB page behind a guest page of the section.
fn behind(section: &Section, page: u64) -> BlockPage {
    let at = page * PAGE_SIZE - section.gpa.start().0;
    (section.block.0, (section.offset + at) / PAGE_SIZE)
}

fn common(section: &Section, (start, end): Bytes) -> Option<Bytes> {
    let start = start.max(section.gpa.start().0);
    let end = end.min(section.gpa.end().0);
    (start < end).then_some((start, end))
}

/// The backing pages that `part` of the section touches and that lie wholly in the section, as guest
/// addresses.
fn backing_pages(section: &Section, part: Bytes) -> impl Iterator<Item = Bytes> {
    let (start, size) = (section.gpa.start().0, section.page_size);
    let (offset, limit) = (section.offset, section.offset + section.gpa.bytes());
    let first = (offset + part.0 - start) / size * size;
    let end = offset + part.1 - start;
    (first..end)
        .step_by(size as usize)
        .filter(move |&at| at >= offset && at + size <= limit)
        .map(move |at| (start + at - offset, start + at - offset + size))
}

fn holds(runs: &[Bytes], page: u64) -> bool {
    let start = page * PAGE_SIZE;
    let next = runs.partition_point(|run| run.1 <= start);
    let run = runs.get(next);
    run.is_some_and(|run| run.0 <= start && start + PAGE_SIZE <= run.1)
}

impl Batch {
    /// The same for a guest that meant something else than can be understood.
    pub(crate) fn meant(self, ranges: Vec<Bytes>) -> Batch {
        Batch {
            meant: merged(ranges),
            ..self
        }
    }

    /// Whether a 4 KiB page is named as a whole, in what can be understood.
    fn holds(&self, page: u64) -> bool {
        holds(&self.runs, page)
    }

    /// Whether the guest meant it.
    fn means(&self, page: u64) -> bool {
        holds(&self.meant, page)
    }
}

impl Model {
    pub(crate) fn new(sections: Vec<Section>) -> Model {
        Model {
            sections,
            told: false,
            poison_val: 0,
            actual: 0,
            may: BTreeSet::new(),
            must: BTreeSet::new(),
            complete: true,
        }
    }

    pub(crate) fn open(&self, queue: QueueKind, ranges: Vec<Bytes>, before: Counters) -> Batch {
        let runs = merged(ranges);
        Batch {
            queue,
            meant: runs.clone(),
            runs,
            before,
            discarded: BTreeSet::new(),
            populated: BTreeSet::new(),
            slices: 0,
            inhibited_slices: 0,
            moved: false,
            refused: false,
        }
    }

    /// The guest addresses of `bytes` bytes of host memory, up to the first that is not the guest's;
    /// and how many bytes are left from there on.
    pub(crate) fn at_host(&self, mut host: usize, mut bytes: u64) -> (Vec<Bytes>, u64) {
        let mut ranges = Vec::new();
        let inside = |host: usize| {
            let is_in = |s: &&Section| host >= s.host && ((host - s.host) as u64) < s.gpa.bytes();
            self.sections.iter().find(is_in)
        };
        while let Some(section) = inside(host).filter(|_| bytes > 0) {
            let at = section.gpa.start().0 + (host - section.host) as u64;
            let len = bytes.min(section.gpa.end().0 - at);
            ranges.push((at, at + len));
            host += len as usize;
            bytes -= len;
        }
        (ranges, bytes)
    }

    fn ram_bytes(&self, runs: &[Bytes]) -> u64 {
        let parts = self.parts(runs);
        parts.iter().map(|(_, (start, end))| end - start).sum()
    }

    /// The runs, cut at the sections' borders.
    fn parts(&self, runs: &[Bytes]) -> Vec<(Section, Bytes)> {
        let cut = |section: &Section| {
            let section = *section;
            let parts = runs.iter().filter_map(move |&run| common(&section, run));
            parts.map(move |part| (section, part)).collect::<Vec<_>>()
        };
        self.sections.iter().flat_map(cut).collect()
    }

    fn ram_pages(&self, runs: &[Bytes]) -> BTreeSet<u64> {
        let parts = self.parts(runs).into_iter();
        parts.flat_map(|(_, part)| pages_of(part)).collect()
    }

    /// Takes note of a slice: of all that the host was asked for, every page must be one that the
    /// guest gave away.
    pub(crate) fn slice(
        &self,
        batch: &mut Batch,
        inhibited: bool,
        discards: &[BlockRange],
        populates: &[BlockRange],
    ) {
        batch.slices += 1;
        batch.inhibited_slices += u32::from(inhibited);
        assert!(
            !inhibited || discards.is_empty() && populates.is_empty(),
            "the host was asked although discards are inhibited"
        );
        assert!(batch.queue != QueueKind::Deflate || discards.is_empty());
        assert!(batch.queue == QueueKind::Deflate || populates.is_empty());
        for range in discards {
            self.check_discard(batch, range);
            batch.discarded.extend(block_pages(range));
        }
        for range in populates {
            batch.populated.extend(block_pages(range));
        }
    }

    fn check_discard(&self, batch: &Batch, range: &BlockRange) {
        let mut found = 0;
        for section in self.sections.iter().filter(|s| s.block == range.block) {
            assert_eq!(
                (range.offset | range.bytes) % section.page_size,
                0,
                "{range:x?}"
            );
            let start = range.offset.max(section.offset);
            let end = (range.offset + range.bytes).min(section.offset + section.gpa.bytes());
            for offset in (start..end).step_by(PAGE_SIZE as usize) {
                let page = (section.gpa.start().0 + offset - section.offset) / PAGE_SIZE;
                let given = self.given(batch, page);
                assert!(given, "page {page:#x} was discarded and is the guest's");
                found += 1;
            }
        }
        assert_eq!(
            found,
            range.bytes / PAGE_SIZE,
            "{range:x?} is not all guest memory"
        );
    }

    /// Whether the device may do with a page what it likes, in the terms of virtio 1.3, 5.5.6: it is
    /// in a request that is not acknowledged, or in the balloon and MUST_TELL_HOST is negotiated.
    fn given(&self, batch: &Batch, page: u64) -> bool {
        batch.holds(page) || self.told && self.may.contains(&page)
    }

    /// The pages of blocks that a batch must have discarded when it is done.
    fn wanted(&self, batch: &Batch) -> BTreeSet<BlockPage> {
        let mut wanted = BTreeSet::new();
        let poisoned = batch.queue == QueueKind::Reporting && self.poison_val != 0;
        if batch.queue == QueueKind::Deflate || poisoned {
            return wanted;
        }
        let by_set = batch.queue == QueueKind::Inflate && self.told;
        let known = |page: u64| batch.holds(page) || self.must.contains(&page);
        for (section, part) in self.parts(&batch.runs) {
            for page in backing_pages(&section, part) {
                let covered = part.0 <= page.0 && page.1 <= part.1;
                if covered || by_set && pages_of(page).all(known) {
                    wanted.extend(pages_of(page).map(|page| behind(&section, page)));
                }
            }
        }
        wanted
    }

    /// The batch is done and acknowledged.
    pub(crate) fn finish(&mut self, batch: &Batch, after: &Counters) {
        if !batch.moved {
            self.check_done(batch);
            self.check_counters(batch, after);
        }
        let pages = self.ram_pages(&batch.runs);
        match batch.queue {
            QueueKind::Inflate if self.told => {
                self.may.extend(&pages);
                if !batch.moved {
                    self.must.extend(&pages);
                }
            }
            QueueKind::Deflate => {
                // The guest uses what it meant.
                self.may.retain(|&page| !batch.means(page));
                self.must.retain(|&page| !batch.holds(page));
            }
            _ => {}
        }
    }

    fn check_done(&self, batch: &Batch) {
        if batch.inhibited_slices == 0 && !batch.refused {
            let wanted = self.wanted(batch);
            let missing: Vec<_> = wanted.difference(&batch.discarded).take(5).collect();
            assert!(
                missing.is_empty(),
                "not discarded: block pages {missing:x?}, and more"
            );
        }
        if batch.inhibited_slices == 0 && batch.queue == QueueKind::Deflate {
            let parts = self.parts(&batch.runs).into_iter();
            let told = parts.filter(|(section, _)| section.backing.populate);
            let wanted: BTreeSet<BlockPage> = told
                .flat_map(|(section, part)| pages_of(part).map(move |page| behind(&section, page)))
                .collect();
            assert_eq!(batch.populated, wanted, "told to be used again");
        }
    }

    fn check_counters(&self, batch: &Batch, after: &Counters) {
        let before = &batch.before;
        let ram = self.ram_bytes(&batch.runs);
        let all: u64 = batch.runs.iter().map(|(start, end)| end - start).sum();
        let wanted = self.wanted(batch).len() as u64 * PAGE_SIZE;
        let mut expected = *before;
        expected.ranges += batch.runs.len() as u64;
        expected.batches += 1;
        match batch.queue {
            QueueKind::Inflate => {
                expected.inflated_bytes += ram;
                expected.ignored_bad_pfns += (all - ram) / PAGE_SIZE;
                if !self.told {
                    expected.partial_page_bytes += ram - wanted;
                }
            }
            QueueKind::Deflate => {
                expected.deflated_bytes += ram;
                expected.ignored_bad_pfns += (all - ram) / PAGE_SIZE;
            }
            _ => {
                expected.reported_bytes += ram;
                expected.ignored_report_bytes += all - ram;
                if self.poison_val != 0 {
                    expected.ignored_report_poison_bytes += ram;
                } else {
                    expected.ignored_report_unaligned_bytes += ram - wanted;
                }
            }
        }
        if batch.inhibited_slices == batch.slices {
            assert!(after.inhibited_bytes - before.inhibited_bytes >= wanted);
        }
        // These are compared with the host's own, and what is in the balloon now by itself.
        let unrelated = |counters: &Counters| Counters {
            ballooned_bytes: 0,
            owed_bytes: 0,
            discarded_bytes: 0,
            discards: 0,
            discard_errors: 0,
            inhibited_bytes: 0,
            ..*counters
        };
        assert_eq!(unrelated(after), unrelated(&expected));
    }

    /// The requests go back to their queue, of which some may have been carried out.
    pub(crate) fn cancel(&mut self, batch: &Batch) {
        match batch.queue {
            QueueKind::Inflate if self.told => self.may.extend(self.ram_pages(&batch.runs)),
            QueueKind::Deflate if batch.slices > 0 => {
                self.must.retain(|&page| !batch.holds(page));
            }
            _ => {}
        }
    }

    /// The requests are acknowledged without having been carried out, or never will be: those of an
    /// inflate are not given away, those of a deflate are the guest's. The device forgets all it knew.
    pub(crate) fn abandon(&mut self, batch: &Batch) {
        if batch.queue == QueueKind::Deflate {
            self.may.retain(|&page| !batch.means(page));
        }
        self.lose();
    }

    /// The device forgets all it knew: it does not know which pages the guest took back.
    pub(crate) fn lose(&mut self) {
        self.must.clear();
        self.complete = false;
    }

    /// A device reset.
    pub(crate) fn reset(&mut self) {
        self.may.clear();
        self.must.clear();
        self.complete = true;
        self.told = false;
        self.actual = 0;
        self.poison_val = 0;
    }

    /// The device goes on from a stream without the set of pages in the balloon.
    pub(crate) fn forget(&mut self) {
        self.must.clear();
        self.complete = self.told && self.actual == 0;
    }

    /// A driver negotiated, while the device knew of no page in the balloon, or of some.
    pub(crate) fn negotiate(&mut self, told: bool, was_empty: bool) {
        if !told || !self.told {
            self.may.clear();
            self.must.clear();
            self.complete &= was_empty && self.actual == 0;
        }
        self.told = told;
    }

    /// A batch is worked on: what is inflated untold is not known.
    pub(crate) fn work(&mut self, queue: QueueKind) {
        self.complete &= self.told || queue != QueueKind::Inflate;
    }

    /// Memory is somewhere else: pages behind which there is other memory now were never given away.
    pub(crate) fn remap(&mut self, sections: Vec<Section>) {
        let place = |sections: &[Section], page: u64| {
            let range = (page * PAGE_SIZE, (page + 1) * PAGE_SIZE);
            let section = sections
                .iter()
                .find(|section| common(section, range).is_some())?;
            Some(behind(section, page))
        };
        let old = std::mem::replace(&mut self.sections, sections);
        let new = &self.sections;
        let same = |&page: &u64| place(&old, page) == place(new, page);
        self.may.retain(same);
        self.must.retain(same);
    }

    /// Compares how large the device says that the balloon is.
    pub(crate) fn check_size(&self, ballooned_bytes: u64, ram: u64) {
        if self.told && self.complete {
            let least = self.must.len() as u64 * PAGE_SIZE;
            let most = self.may.len() as u64 * PAGE_SIZE;
            assert!(
                (least..=most).contains(&ballooned_bytes),
                "{ballooned_bytes} bytes in the balloon, expected {least} to {most}"
            );
        } else {
            let said = (u64::from(self.actual) * PAGE_SIZE).min(ram);
            assert_eq!(ballooned_bytes, said);
        }
    }
}

// SPDX-License-Identifier: GPL-2.0-or-later
//! A guest that sends anything over all queues, in machines of all sizes, while memory changes and
//! migrations begin and fail. Nothing panics; the host is asked for whole pages of guest RAM only,
//! for not too many at a time, and for none while discards are inhibited.

use balloon::device::{
    AnswerPart, Balloon, Options, Progress, RequestEnd, RequestPart, StatsBuffer,
};
use balloon::error::Error;
use balloon::features::{Features, FreePageSource, Numbering, QueueKind, can_accept};
use balloon::host::Inhibit;
use balloon::memory::{Backing, BlockId, HostRange, MemoryMap, Section, Way};
use balloon::migration::arming::Arm;
use balloon::migration::skips::{DirtyChange, Skips};
use balloon::page::{Gpa, GpaRange, PAGE_SIZE};
use balloon::queue::Advice;
use balloon::queue::held::Flush;
use balloon::queue::hint::Hints;
use balloon::wire::ByteOrder;

mod checker;

use crate::bitmaps::{self, Bitmaps};
use crate::input::Input;
use crate::message::{self, Layout};
use crate::traffic::{self, Kind};
use crate::worlds::model::mock::{MAPS, sections};
use checker::Checker;

/// Steps of a run.
const STEPS: usize = 64;
/// Slices after which a batch is cancelled: one of all that a guest can name takes thousands.
const SLICES: usize = 6;
/// As much guest memory as a processor can address.
const ALL: u64 = 1 << 52;
const GIB: u64 = 1 << 30;
const SOURCES: [FreePageSource; 4] = [
    FreePageSource::FreePageHint,
    FreePageSource::HostRequest,
    FreePageSource::MiscQueue,
    FreePageSource::None,
];

struct Machine {
    balloon: Balloon,
    hints: Hints,
    skips: Skips,
    bitmaps: Bitmaps,
    sections: Vec<Section>,
    now_ms: u64,
}

/// Takes the input for what guest and host do.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let options = Options {
        features: Features::all(),
        numbering: Numbering::Private,
        reporting_advice: input.pick(&[Advice::Discard, Advice::Free]),
        hold_bytes: input.pick(&[4 << 20, 0, 4096, 64 << 20]),
        qemu_4_0_config_size: input.any(),
    };
    let mut machine = Machine {
        balloon: Balloon::new(options),
        hints: Hints::default(),
        skips: Skips::new(12),
        bitmaps: Bitmaps::new(),
        sections: Vec::new(),
        now_ms: 0,
    };
    machine.set_memory(&mut input);
    machine.negotiate(&mut input);
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        machine.step(&mut input);
        machine.check();
    }
}

impl Machine {
    fn step(&mut self, input: &mut Input<'_>) {
        match input.below(32) {
            0..6 => self.request(input, QueueKind::Inflate),
            6..10 => self.request(input, QueueKind::Deflate),
            10..12 => self.report(input),
            12..14 => self.stats(input),
            14..17 => self.hint(input),
            17..20 => self.answer(input),
            20 => self.buffer(input),
            21 | 22 => self.run_batch(input),
            23 => self.other_work(input),
            24 => self.config(input),
            25 => self.set_memory(input),
            26 => self.negotiate(input),
            27 => self.reset(input),
            _ => self.migrate(input),
        }
    }

    fn check(&self) {
        // The set holds pages of guest RAM only, and what waits is part of it.
        let counters = self.balloon.counters(u64::MAX);
        let told = self.balloon.negotiated();
        if told.contains(Features::MUST_TELL_HOST) {
            assert!(counters.held_bytes <= (PAGE_SIZE << 32));
        } else {
            assert_eq!(counters.held_bytes, 0);
        }
    }

    fn host(&self, input: &mut Input<'_>) -> (Checker, Inhibit) {
        let inhibit = match input.below(8) {
            6 => Inhibit::Pinned,
            7 => Inhibit::BackgroundSnapshot,
            _ => Inhibit::No,
        };
        let sections = self.sections.clone();
        let host = Checker::new(sections, inhibit != Inhibit::No, input.one_in(12));
        (host, inhibit)
    }

    /// A part of a request, in whatever format was negotiated, or what looks like another one.
    fn request(&mut self, input: &mut Input<'_>, queue: QueueKind) {
        let layout = input.pick(&[Layout::Pfns, Layout::Ranges, Layout::Chunks]);
        let payload = message::request(input, layout);
        let total = match input.one_in(8) {
            true => input.number(),
            false => payload.len() as u64,
        };
        let room = self.balloon.batch_room(queue);
        let mut parts = input.pick(&[1, 1, 1, 2, 5]);
        let mut rest = &payload[..payload.len().min(room)];
        let order = input.pick(&[ByteOrder::Little, ByteOrder::Big]);
        while parts > 0 {
            parts -= 1;
            let cut = match parts {
                0 => rest.len(),
                _ => input.index(rest.len() + 1),
            };
            let (payload, behind) = rest.split_at(cut);
            rest = behind;
            let end = RequestEnd {
                descriptors: input.pick(&[1, 0, 1024, usize::MAX]),
                wrong_way: input.pick(&[0, 1, 1024]),
            };
            let part = RequestPart {
                payload,
                total,
                order,
                end: (parts == 0 && !input.one_in(10)).then_some(end),
            };
            let answer = self.balloon.batch_add(queue, part);
            let known = [Error::InvalidArgument, Error::BatchInWork];
            assert!(answer.is_ok_and(|()| true) || answer.is_err_and(|e| known.contains(&e)));
        }
        if !input.one_in(4) {
            self.run_batch(input);
        }
    }

    fn report(&mut self, input: &mut Input<'_>) {
        let count = input.below(6);
        let segments: Vec<HostRange> = match count {
            0 => self.recorded_report(input),
            _ => (0..count).map(|_| self.host_range(input)).collect(),
        };
        let end = RequestEnd {
            descriptors: segments.len(),
            wrong_way: input.pick(&[0, 1]),
        };
        let answer = self.balloon.batch_add_report(segments, end);
        assert!(matches!(answer, Ok(()) | Err(Error::BatchInWork)));
        self.run_batch(input);
    }

    /// What a guest reported, as far as it is memory here.
    fn recorded_report(&self, input: &mut Input<'_>) -> Vec<HostRange> {
        let report = traffic::mostly(input, Kind::Report);
        let in_host = |(first, count): (u64, u64)| {
            let (start, bytes) = (first * PAGE_SIZE, count * PAGE_SIZE);
            self.sections.iter().find_map(|section| {
                let offset = start.checked_sub(section.gpa.start().0)?;
                let left = section.gpa.bytes().checked_sub(offset)?;
                Some(HostRange {
                    host: section.host + offset as usize,
                    bytes: bytes.min(left),
                })
            })
        };
        traffic::runs(&report).filter_map(in_host).collect()
    }

    /// A buffer of the guest's: QEMU maps it, so it lies in memory of the host's.
    fn host_range(&self, input: &mut Input<'_>) -> HostRange {
        let at = input.index(self.sections.len().max(1));
        let Some(section) = self.sections.get(at) else {
            return HostRange {
                host: input.number() as usize >> 1,
                bytes: input.number() >> 32,
            };
        };
        let mut offset = input.number() % section.gpa.bytes();
        if !input.one_in(4) {
            offset -= offset % section.page_size.min(offset + 1);
        }
        let left = section.gpa.bytes() - offset;
        HostRange {
            host: section.host + offset as usize,
            // A buffer has 32 bits of length; several of them can be one range.
            bytes: input.number().min(left),
        }
    }

    fn stats(&mut self, input: &mut Input<'_>) {
        let recorded;
        let payload = match input.bytes(200) {
            [] => {
                recorded = traffic::mostly(input, Kind::Stats);
                &recorded
            }
            bytes => bytes,
        };
        let buffer = StatsBuffer {
            len: input.pick(&[payload.len(), usize::MAX, 0]),
            order: input.pick(&[ByteOrder::Little, ByteOrder::Big]),
            wrong_way: input.index(3),
            held: input.any(),
            now: input.any(),
        };
        self.balloon.receive_stats(payload, buffer);
    }

    fn hint(&mut self, input: &mut Input<'_>) {
        if input.any() {
            let id = match input.below(6) {
                0 => 0,
                1 => 1,
                2 => input.any::<u32>(),
                _ => self.hints.shown_id(),
            };
            let len = input.pick(&[4, 4, 4, 0, 3]);
            self.hints
                .receive_id(&id.to_le_bytes()[..len], ByteOrder::Little);
        }
        for _ in 0..input.below(8) {
            self.hints.receive_hint(self.host_range(input));
        }
    }

    fn answer(&mut self, input: &mut Input<'_>) {
        let source = input.pick(&SOURCES);
        let layout = match source {
            FreePageSource::MiscQueue => Layout::MiscChunks,
            _ => Layout::Response,
        };
        let payload = message::request(input, layout);
        let cut = match input.any() {
            true => input.index(payload.len() + 1),
            false => payload.len(),
        };
        let parts = [(&payload[..cut], true), (&payload[cut..], false)];
        for (payload, first) in parts {
            let part = AnswerPart {
                payload,
                total: input.pick(&[cut as u64, 0, u64::MAX, 8]),
                first: first ^ input.one_in(12),
                last: !first ^ input.one_in(12),
            };
            self.balloon.receive_answer(&mut self.hints, source, part);
        }
    }

    fn buffer(&mut self, input: &mut Input<'_>) {
        let source = input.pick(&SOURCES);
        match input.below(6) {
            0 | 1 => self.hints.receive_buffer(source),
            2 => self.hints.lose_buffer(source),
            3 => self.hints.reset_queue(source),
            4 => self.balloon.give_up_answer(&mut self.hints),
            _ => drop(self.hints.take_request(source)),
        }
    }

    fn run_batch(&mut self, input: &mut Input<'_>) {
        let mut slices = input.pick(&[SLICES, 1, SLICES, 2]);
        loop {
            let (mut host, inhibit) = self.host(input);
            if self.balloon.batch_run(&mut host, inhibit) == Progress::Done {
                return;
            }
            slices -= 1;
            if slices > 0 {
                continue;
            }
            match input.below(4) {
                0 | 1 => self.balloon.batch_cancel(),
                2 => self.balloon.batch_abandon(),
                // Other things happen before it goes on.
                _ => {}
            }
            return;
        }
    }

    fn other_work(&mut self, input: &mut Input<'_>) {
        let (mut host, inhibit) = self.host(input);
        let flush = input.pick(&[Flush::Aged, Flush::All]);
        if input.any() {
            self.balloon.flush_held(&mut host, flush, inhibit);
        } else {
            self.balloon.discard_owed(&mut host, inhibit);
        }
    }

    fn config(&mut self, input: &mut Input<'_>) {
        if input.one_in(3) {
            self.balloon.set_target(input.number(), input.number());
        }
        match input.bytes(20) {
            [] => self.balloon.write_config(traffic::any(input, Kind::Config)),
            bytes => self.balloon.write_config(bytes),
        };
        let mut image = [0xff; 24];
        self.balloon.read_config(self.hints.shown_id(), &mut image);
        assert_eq!(image[16..], [0; 8]);
    }

    fn set_memory(&mut self, input: &mut Input<'_>) {
        let sections = match input.below(6) {
            0 => sections(input.index(MAPS)),
            1 => traffic::runs(traffic::any(input, Kind::Memory))
                .map(|(first, count)| {
                    let (start, bytes) = (first * PAGE_SIZE, count * PAGE_SIZE);
                    section(first as usize % 8, start, bytes, PAGE_SIZE)
                })
                .collect(),
            2 => vec![section(1, 0, ALL, PAGE_SIZE)],
            3 => vec![
                section(bitmaps::BLOCK, 0, bitmaps::BYTES, PAGE_SIZE),
                section(2, 1 << 40, 1 << 40, GIB),
                section(3, 3 << 40, 1 << 40, 2 << 20),
            ],
            4 => vec![],
            _ => (0..1 + input.below(5))
                .map(|block| {
                    let size = input.pick(&[PAGE_SIZE, 16 << 10, 2 << 20, GIB]);
                    let start = input.number() % ALL;
                    section(block as usize, start, 1 + input.number() % GIB, size)
                })
                .collect(),
        };
        if let Ok(map) = MemoryMap::new(sections) {
            self.sections = map.sections().to_vec();
            self.balloon.set_memory(map);
        }
    }

    fn negotiate(&mut self, input: &mut Input<'_>) {
        let mut features = Features::from_bits_truncate(input.any());
        features.set(Features::MUST_TELL_HOST, !input.one_in(4));
        if !can_accept(features) {
            features.remove(Features::BALLOON_CHUNKS);
        }
        self.balloon.set_features(features, input.one_in(6));
        let source = FreePageSource::of(self.balloon.negotiated());
        self.hints.set_source(source);
    }

    fn reset(&mut self, input: &mut Input<'_>) {
        self.balloon.reset();
        self.hints.reset();
        if input.any() {
            self.balloon.machine_reset();
        }
        self.negotiate(input);
    }

    fn migrate(&mut self, input: &mut Input<'_>) {
        match input.below(8) {
            0 | 1 => self.synchronize(input),
            2 => {
                self.hints.queue_empty();
                self.hints.request(self.hints.wanted());
            }
            3 => {
                let taken = self.hints.take();
                let mut change = DirtyChange::default();
                self.skips
                    .leave_out_hinted(&mut self.bitmaps, &taken, &mut change);
                self.bitmaps.count(change);
            }
            4 => {
                let which = input.pick(&[Arm::All, Arm::Wanted]);
                let block = BlockId(input.pick(&[bitmaps::BLOCK, 2, 99]));
                self.skips.arm(&mut self.bitmaps, block, which);
                self.skips.trust(self.hints.epoch());
            }
            5 => {
                self.now_ms = self.now_ms.saturating_add(input.number());
                let (left_out, bandwidth) = (input.number(), input.number());
                self.hints.hold_ms(self.now_ms, left_out, bandwidth);
            }
            6 => self.hints.finish(),
            _ => {
                let record = self.hints.save();
                self.hints.set_window_ms(input.any());
                // Without a queue to ask over nobody saves this.
                if self.hints.source() != FreePageSource::None {
                    assert_eq!(self.hints.load(record), Ok(()), "{record:?}");
                }
            }
        }
    }

    fn synchronize(&mut self, input: &mut Input<'_>) {
        self.hints.before_sync();
        self.bitmaps.dirty(input.any(), input.any());
        if input.one_in(6) {
            self.skips.begin();
        }
        let mut change = DirtyChange::default();
        self.skips.synced();
        // The last steps may not be done before the next synchronization.
        for _ in 0..input.below(4) {
            let words = input.number() as usize;
            let balloon = self.balloon.left_out();
            self.skips
                .sweep_words(words, &mut self.bitmaps, balloon.as_ref(), &mut change);
        }
        self.bitmaps.count(change);
        self.hints.after_sync(!input.one_in(6));
    }
}

/// `bytes` of a block from the guest's address `start` on; blocks lie far apart in the host.
fn section(block: usize, start: u64, bytes: u64, page_size: u64) -> Section {
    let gpa = GpaRange::with_len(Gpa(start), bytes).expect("addresses have fewer bits");
    Section {
        gpa,
        block: BlockId(block),
        offset: 0,
        page_size,
        host: (block + 1) << 54,
        backing: Backing {
            way: if block.is_multiple_of(3) {
                Way::Drop
            } else {
                Way::Hole
            },
            populate: block.is_multiple_of(2),
            lazy: block.is_multiple_of(3),
            ..Backing::default()
        },
    }
}

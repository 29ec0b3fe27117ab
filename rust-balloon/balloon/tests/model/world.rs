// SPDX-License-Identifier: GPL-2.0-or-later
//! A device between a guest that does anything and the model that watches.

use balloon::counters::Counters;
use balloon::device::{Balloon, Options, Progress, RequestEnd};
use balloon::features::{Features, QueueKind};
use balloon::host::Inhibit;
use balloon::memory::{HostRange, MemoryMap};
use balloon::page::PAGE_SIZE;
use balloon::state::{SavedPages, State};
use balloon::wire::ByteOrder;

use super::expect::{Batch, Bytes, Model};
use super::format::{Format, Run, Words, encode, parse, ram};
use super::mock::{END, MockHost, RAM, SET_BYTES, memory_map, part, sections, standard};

/// The device's patience with a host that refuses.
const PATIENCE: u32 = 16;

/// A request of the inflate or deflate queue.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) pfns: Vec<u32>,
    /// Of PFNs, and of ranges.
    pub(crate) order: ByteOrder,
    pub(crate) style: Words,
    pub(crate) flaw: Flaw,
}

/// What a driver does wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Flaw {
    None,
    /// There are so many bytes more.
    Behind(usize),
    /// There are so many bytes less; in a message of ranges whether its header says so.
    Short(usize, bool),
    /// A part of it is in a buffer that the device does not read.
    WrongWay,
    /// A word, counted round, names memory that there is not.
    NotRam(usize),
}

/// What becomes of a request.
struct Sent {
    payload: Vec<u8>,
    wrong_way: usize,
    /// What the guest means by it.
    meant: Vec<Bytes>,
    /// What can be understood of it.
    understood: Vec<Bytes>,
    /// Whether that is not all.
    is_lost: bool,
    trailing: u64,
    left_out: Option<u64>,
}

/// How a batch goes on after it was added.
#[derive(Clone, Debug)]
pub(crate) struct Course {
    /// In which slices discards are inhibited; the last holds for all that follow.
    pub(crate) inhibited: Vec<bool>,
    /// Whether the host refuses to discard.
    pub(crate) refuse: bool,
    /// After which slice memory changes, and to which map.
    pub(crate) change: Option<(u32, usize)>,
    pub(crate) end: End,
}

/// What ends a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    Done,
    /// These, after so many slices if it is not done by then.
    Cancel(u32),
    Abandon(u32),
    Reset(u32),
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Pages(QueueKind, Vec<Request>, Course),
    /// Reports: host addresses and lengths.
    Report(Vec<(usize, u64)>, Course),
    Reset,
    /// With or without MUST_TELL_HOST, and in which format requests come.
    Negotiate(bool, Format),
    Memory(usize),
    /// What the driver writes to `actual` and `poison_val`.
    Config(u32, u32),
    /// Goes on in another device, with the set of pages in the balloon if it can.
    Migrate(bool),
    /// A slice of giving back what was loaded; while discards are inhibited, and refused.
    Loaded(bool, bool),
}

pub(crate) struct World {
    balloon: Balloon,
    host: MockHost,
    model: Model,
    format: Format,
}

impl World {
    pub(crate) fn new(told: bool, format: Format) -> World {
        let mut world = World {
            balloon: Balloon::new(Options {
                features: Features::all(),
                ..Options::default()
            }),
            host: MockHost::default(),
            model: Model::new(sections(0)),
            format,
        };
        world.balloon.set_memory(memory_map(0));
        world.negotiate(told, format);
        world
    }

    pub(crate) fn step(&mut self, step: Step) {
        match step {
            Step::Pages(queue, requests, course) => self.requests(queue, &requests, &course),
            Step::Report(segments, course) => self.report(&segments, &course),
            Step::Reset => self.reset(),
            Step::Negotiate(told, format) => self.negotiate(told, format),
            Step::Memory(map) => self.change_memory(map),
            Step::Config(actual, poison_val) => self.write_config(actual, poison_val),
            Step::Migrate(with_pages) => self.migrate(with_pages),
            Step::Loaded(inhibited, refuse) => self.loaded(inhibited, refuse),
        }
        self.check_totals();
    }

    fn counters(&self) -> Counters {
        self.balloon.counters(RAM)
    }

    fn check_totals(&self) {
        let counters = self.counters();
        assert_eq!(counters.discarded_bytes, self.host.done_bytes);
        assert_eq!(counters.discards, self.host.done + self.host.refused);
        assert!(counters.discard_errors >= self.host.refused);
        self.model.check_size(counters.ballooned_bytes, RAM);
    }

    /// Adds what the batch takes, sees it to its end, and goes on with the rest.
    fn requests(&mut self, queue: QueueKind, mut requests: &[Request], course: &Course) {
        while !requests.is_empty() {
            let before = self.counters();
            let mut expected = before;
            let (mut meant, mut understood) = (Vec::new(), Vec::new());
            let mut is_lost = false;
            let mut taken = 0;
            for request in requests {
                let sent = self.send(queue, request);
                let room = self.balloon.batch_room(queue);
                if room == 0 || sent.payload.len() > room {
                    break;
                }
                let end = Some(RequestEnd {
                    descriptors: 1,
                    wrong_way: sent.wrong_way,
                });
                let part = part(&sent.payload, request.order, end);
                assert_eq!(self.balloon.batch_add(queue, part), Ok(()));
                expected.ignored_trailing_bytes += sent.trailing;
                expected.ignored_writable_buffers += sent.wrong_way as u64;
                expected.malformed_messages += u64::from(sent.left_out.is_some());
                expected.ignored_message_bytes += sent.left_out.unwrap_or(0);
                is_lost |= sent.is_lost;
                meant.extend(sent.meant);
                understood.extend(sent.understood);
                taken += 1;
            }
            assert!(taken > 0, "an empty batch has room for any request");
            let large = self.model.sections.iter().any(|s| s.page_size > PAGE_SIZE);
            let alone = queue == QueueKind::Inflate && !self.model.told && large;
            assert!(!alone || taken == 1, "one request must be the whole batch");
            let counters = self.counters();
            expected.requests += taken as u64;
            expected.ballooned_bytes = counters.ballooned_bytes;
            expected.owed_bytes = counters.owed_bytes;
            assert_eq!(counters, expected);
            let batch = self.model.open(queue, understood, counters);
            let batch = batch.meant(meant);
            if queue == QueueKind::Deflate && is_lost {
                self.model.lose();
            }
            if !self.run(batch, course) {
                return;
            }
            requests = &requests[taken..];
        }
    }

    /// Writes a request as the driver does, and reads it by the rules.
    fn send(&self, queue: QueueKind, request: &Request) -> Sent {
        let wrong_way = usize::from(matches!(request.flaw, Flaw::WrongWay));
        let page = |&pfn: &u32| bytes(&(u64::from(pfn), 1));
        let meant: Vec<Bytes> = request.pfns.iter().map(page).collect();
        if self.format == Format::Pfns {
            let mut payload = pfn_payload(&request.pfns, request.order);
            let trailing = match request.flaw {
                Flaw::Behind(bytes) => bytes,
                _ => 0,
            };
            payload.resize(payload.len() + trailing, 0x01);
            return Sent {
                payload,
                wrong_way,
                understood: meant.clone(),
                meant,
                is_lost: trailing > 0 || wrong_way > 0,
                trailing: trailing as u64,
                left_out: None,
            };
        }
        // What such a driver inflates can be what it never meant: nobody can tell.
        let style = match (queue, request.style) {
            (QueueKind::Inflate, Words::Series) => Words::Short,
            (_, style) => style,
        };
        let mut payload = encode(self.format, &runs(&request.pfns), style);
        spoil(&mut payload, self.format, request.flaw);
        let parsed = parse(self.format, &payload, &ram(&self.model.sections));
        let understood: Vec<Bytes> = parsed.runs.iter().map(bytes).collect();
        let is_lost = parsed.left_out.is_some() || parsed.doubtful || wrong_way > 0;
        // A message that is shorter and says so is a sound one: what it lacks the guest keeps.
        let is_sound = matches!(request.flaw, Flaw::Short(_, true)) && !is_lost;
        Sent {
            payload,
            wrong_way,
            meant: if is_sound { understood.clone() } else { meant },
            understood,
            is_lost,
            trailing: 0,
            left_out: parsed.left_out,
        }
    }

    fn report(&mut self, segments: &[(usize, u64)], course: &Course) {
        let before = self.counters();
        let (mut ranges, mut outside) = (Vec::new(), 0);
        for &(host, bytes) in segments {
            let (found, left) = self.model.at_host(host, bytes);
            ranges.extend(found);
            outside += left;
        }
        let given = segments
            .iter()
            .map(|&(host, bytes)| HostRange { host, bytes });
        let end = RequestEnd {
            descriptors: segments.len(),
            wrong_way: 0,
        };
        assert_eq!(self.balloon.batch_add_report(given, end), Ok(()));
        let counters = self.counters();
        assert_eq!(
            counters.ignored_report_bytes,
            before.ignored_report_bytes + outside
        );
        let batch = self.model.open(QueueKind::Reporting, ranges, counters);
        self.run(batch, course);
    }

    /// Sees the batch to its end; says whether that was its regular one.
    fn run(&mut self, mut batch: Batch, course: &Course) -> bool {
        self.host.refuse = course.refuse;
        let mut slices = 0;
        loop {
            match course.end {
                End::Cancel(after) if slices == after => {
                    self.balloon.batch_cancel();
                    self.model.cancel(&batch);
                    return false;
                }
                End::Abandon(after) if slices == after => {
                    self.balloon.batch_abandon();
                    self.model.abandon(&batch);
                    return false;
                }
                End::Reset(after) if slices == after => {
                    self.reset();
                    return false;
                }
                _ => {}
            }
            if self.slice(&mut batch, course, slices) == Progress::Done {
                self.model.finish(&batch, &self.counters());
                return true;
            }
            slices += 1;
            assert!(slices < 1000, "a batch must come to an end");
            match course.change {
                Some((after, map)) if slices == after => {
                    self.change_memory(map);
                    batch.moved = true;
                }
                _ => {}
            }
        }
    }

    fn slice(&mut self, batch: &mut Batch, course: &Course, number: u32) -> Progress {
        let inhibited = course.inhibited.get(number as usize);
        let inhibited = *inhibited.or(course.inhibited.last()).unwrap_or(&false);
        let inhibit = inhibit(inhibited);
        self.model.work(batch.queue);
        let progress = self.balloon.batch_run(&mut self.host, inhibit);
        let discards = std::mem::take(&mut self.host.discards);
        let populates = std::mem::take(&mut self.host.populates);
        let lost_patience = self
            .host
            .refused_in_a_row
            .values()
            .any(|&count| count >= PATIENCE);
        batch.refused |= course.refuse || lost_patience;
        self.model.slice(batch, inhibited, &discards, &populates);
        progress
    }

    /// What the source saves loads in a device that has the same memory, and features.
    fn migrate(&mut self, with_pages: bool) {
        let mut coded = vec![0; SET_BYTES];
        let written = SavedPages::write(&self.balloon, &mut coded);
        let pages = SavedPages {
            coded: &coded[..written.bytes],
            complete: written.complete,
        };
        let pages = (with_pages && self.model.told).then_some(pages);
        let mut to = World::new(self.model.told, self.format);
        let map = MemoryMap::new(self.model.sections.clone()).expect("the map that there was");
        to.balloon.set_memory(map);
        to.balloon.set_features(self.balloon.negotiated(), false);
        let state = State::save(&self.balloon, 0);
        assert_eq!(state.load(&mut to.balloon, pages, RAM), Ok(()));
        self.balloon = to.balloon;
        self.host = to.host;
        if pages.is_none() {
            self.model.forget();
        }
    }

    fn loaded(&mut self, inhibited: bool, refuse: bool) {
        self.host.refuse = refuse;
        self.balloon
            .discard_owed(&mut self.host, inhibit(inhibited));
        let discards = std::mem::take(&mut self.host.discards);
        let none = Vec::new();
        let mut batch = self
            .model
            .open(QueueKind::Inflate, none, Counters::default());
        self.model.slice(&mut batch, inhibited, &discards, &[]);
    }

    fn reset(&mut self) {
        let changed = self.balloon.reset();
        assert_eq!(changed, self.model.actual != 0);
        self.model.reset();
        self.format = Format::Pfns;
        self.balloon.machine_reset();
        self.host.refused_in_a_row.clear();
    }

    fn negotiate(&mut self, told: bool, format: Format) {
        let mut features = standard() | format.feature();
        features.set(Features::MUST_TELL_HOST, told);
        self.format = format;
        let was_empty = self
            .balloon
            .left_out()
            .is_none_or(|balloon| balloon.pages.is_empty());
        self.balloon.set_features(features, false);
        self.model.negotiate(told, was_empty);
    }

    fn change_memory(&mut self, map: usize) {
        self.balloon.set_memory(memory_map(map));
        self.model.remap(sections(map));
        let blocks: Vec<usize> = sections(map)
            .iter()
            .map(|section| section.block.0)
            .collect();
        self.host
            .refused_in_a_row
            .retain(|block, _| blocks.contains(block));
    }

    fn write_config(&mut self, actual: u32, poison_val: u32) {
        let mut image = [0; 16];
        image[4..8].copy_from_slice(&actual.to_le_bytes());
        image[12..].copy_from_slice(&poison_val.to_le_bytes());
        let changed = self.balloon.write_config(&image);
        // Before a driver negotiated, the value for free pages has no meaning.
        let negotiated = self.balloon.negotiated();
        assert_eq!(changed, actual != self.model.actual);
        self.model.actual = actual;
        if negotiated.contains(Features::PAGE_POISON) {
            self.model.poison_val = poison_val;
        }
    }
}

fn inhibit(inhibited: bool) -> Inhibit {
    if inhibited {
        Inhibit::Pinned
    } else {
        Inhibit::No
    }
}

fn bytes(&(first, count): &Run) -> Bytes {
    (first * PAGE_SIZE, (first + count) * PAGE_SIZE)
}

fn pfn_payload(pfns: &[u32], order: ByteOrder) -> Vec<u8> {
    let bytes = |pfn: &u32| match order {
        ByteOrder::Little => pfn.to_le_bytes(),
        ByteOrder::Big => pfn.to_be_bytes(),
    };
    pfns.iter().flat_map(bytes).collect()
}

/// Pages that follow each other, upward or downward.
fn runs(pfns: &[u32]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for page in pfns.iter().map(|&pfn| u64::from(pfn)) {
        match runs.last_mut() {
            Some(run) if run.0 + run.1 == page => run.1 += 1,
            Some(run) if page + 1 == run.0 => *run = (page, run.1 + 1),
            _ => runs.push((page, 1)),
        }
    }
    runs
}

/// Writes the flaw into a message.
fn spoil(payload: &mut Vec<u8>, format: Format, flaw: Flaw) {
    let head = format.head();
    match flaw {
        Flaw::None | Flaw::WrongWay => {}
        Flaw::Behind(bytes) => payload.resize(payload.len() + bytes, 0x01),
        Flaw::Short(bytes, fits) => {
            let len = payload.len().saturating_sub(bytes);
            payload.truncate(if fits { len / 8 * 8 } else { len });
            if fits && format == Format::Ranges && payload.len() >= head {
                let behind = (payload.len() - head) as u32;
                payload[4..8].copy_from_slice(&behind.to_le_bytes());
            }
        }
        Flaw::NotRam(place) => {
            let words = (payload.len() - head) / 8;
            if words > 0 {
                let at = head + place % words * 8;
                payload[at..at + 8].copy_from_slice(&((END + 5) << 12 | 1).to_le_bytes());
            }
        }
    }
}

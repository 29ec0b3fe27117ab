// SPDX-License-Identifier: GPL-2.0-or-later
//! A driver that mostly does what it should, with requests that mostly can be read: a device that a
//! bad ring has broken does nothing more, and then nothing more is tried out.

use fuzz::random::Random;
use fuzz::traffic::{self, Kind};

use crate::session::{Checked, Session};
use crate::transport::{Place, Transport};

/// Guest memory of the machines here.
pub(crate) const RAM: u64 = 64 << 20;
/// Where queues lie, one after the other, and the buffers of requests.
const RINGS: u64 = 1 << 20;
const RING_BYTES: u64 = 0x1_0000;
const BUFFERS: u64 = 4 << 20;
const BUFFER_BYTES: u64 = 0x4000;
const BUFFER_COUNT: u64 = 64;
/// Pages that requests may name: behind what the driver uses itself. That may be given away as
/// well, but then rings are lost.
const PAGES: u64 = 8 << 8;
const QUEUES: u64 = 7;
/// Entries of a queue, where the driver may choose: no more than there is room for above.
const MOST: u16 = 128;
const SIZES: [u16; 4] = [MOST, 32, 1, 8];

const FREE_PAGE_HINT: u64 = 1 << 3;
const REPORTING: u64 = 1 << 5;
const VERSION_1: u64 = 1 << 32;
const RING_PACKED: u64 = 1 << 34;
const PAGE_RANGE: u64 = 1 << 60;
const BALLOON_CHUNKS: u64 = 1 << 62;
/// A driver that accepts both is refused.
const RANGES_AND_CHUNKS: u64 = PAGE_RANGE | BALLOON_CHUNKS;

const ACKNOWLEDGE_AND_DRIVER: u64 = 3;
const FEATURES_OK: u64 = 8;
const DRIVER_OK: u64 = 4;
const NEEDS_RESET: u64 = 0x40;

/// Segments of a request go to the device, come from it, or it does not matter.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Read,
    Write,
}

/// What a queue is for, as far as the features say.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Pages,
    Stats,
    Hints,
    Reports,
    Founding,
}

/// What the driver knows of a queue.
#[derive(Clone, Copy)]
struct Queue {
    place: Place,
    purpose: Purpose,
    next: u16,
    wrap: bool,
    /// Chains that were written, and descriptors of them that may not be used yet.
    chains: u16,
    in_use: u16,
}

/// The driver.
pub(crate) struct Driver {
    queues: Vec<Queue>,
    packed: bool,
    /// Nearly all requests are well formed.
    careful: bool,
    buffer: u64,
}

impl Driver {
    /// A driver that did nothing yet.
    pub(crate) fn new() -> Driver {
        Driver {
            queues: Vec::new(),
            packed: false,
            careful: true,
            buffer: 0,
        }
    }

    /// Negotiates and starts queues.
    pub(crate) fn start(
        &mut self,
        session: &mut Session,
        transport: Transport,
        random: &mut Random,
    ) -> Checked<()> {
        self.careful = !random.one_in(4);
        transport.reset(session)?;
        transport.set_status(session, ACKNOWLEDGE_AND_DRIVER)?;
        let offered = transport.offered(session)?;
        let mut features = offered;
        if random.one_in(3) {
            features &= random.number() | VERSION_1;
        }
        if features & RANGES_AND_CHUNKS == RANGES_AND_CHUNKS && !random.one_in(8) {
            features &= !(PAGE_RANGE << (2 * random.below(2)));
        }
        transport.accept(session, features)?;
        self.packed = features & RING_PACKED != 0;
        transport.set_status(session, ACKNOWLEDGE_AND_DRIVER | FEATURES_OK)?;
        self.queues.clear();
        for index in 0..QUEUES {
            let most = transport.queue_size(session, index)?;
            if most == 0 {
                continue;
            }
            let is_legacy = matches!(transport, Transport::Legacy | Transport::LegacyMmio(_));
            let size = match transport {
                // It is the device's to say.
                Transport::Legacy => most,
                _ if self.careful => most.min(MOST),
                _ => most.min(random.pick(&SIZES).copied().unwrap_or(MOST)),
            };
            self.queues.push(Queue {
                place: place(index, size, is_legacy),
                purpose: purpose(index, offered),
                next: 0,
                wrap: true,
                chains: 0,
                in_use: 0,
            });
            if !random.one_in(24) {
                self.start_queue(session, transport, self.queues.len() - 1)?;
            }
        }
        let ready = ACKNOWLEDGE_AND_DRIVER | FEATURES_OK | DRIVER_OK;
        transport.set_status(session, ready)
    }

    fn start_queue(
        &mut self,
        session: &mut Session,
        transport: Transport,
        at: usize,
    ) -> Checked<()> {
        let queue = &mut self.queues[at];
        (queue.next, queue.wrap) = (0, true);
        (queue.chains, queue.in_use) = (0, 0);
        let place = queue.place;
        session.qtest(&format!(
            "memset {:#x} {RING_BYTES:#x} 0x0",
            place.descriptors
        ))?;
        transport.start_queue(session, place.index, &place)
    }

    /// Starts anew if the device says that it needs that, mostly.
    pub(crate) fn recover(
        &mut self,
        session: &mut Session,
        transport: Transport,
        random: &mut Random,
    ) -> Checked<()> {
        let status = transport.status(session)?;
        let works = status & DRIVER_OK != 0 && status & NEEDS_RESET == 0;
        if works || random.one_in(4) {
            return Ok(());
        }
        self.start(session, transport, random)
    }

    /// Resets a queue, and starts it again or not.
    pub(crate) fn reset_queue(
        &mut self,
        session: &mut Session,
        transport: Transport,
        random: &mut Random,
    ) -> Checked<()> {
        if self.queues.is_empty() || random.one_in(8) {
            return transport.reset_queue(session, random.number() % 9);
        }
        let at = random.below(self.queues.len());
        transport.reset_queue(session, self.queues[at].place.index)?;
        match random.one_in(6) {
            true => Ok(()),
            false => self.start_queue(session, transport, at),
        }
    }

    /// Puts a few requests into a queue.
    pub(crate) fn request(
        &mut self,
        session: &mut Session,
        transport: Transport,
        random: &mut Random,
    ) -> Checked<()> {
        if self.queues.is_empty() {
            return Ok(());
        }
        let at = random.below(self.queues.len());
        for _ in 0..1 + random.below(3) {
            let is_sound = self.careful && !random.one_in(16) || !random.one_in(3);
            let (bytes, way) = message(self.queues[at].purpose, random);
            let mut segments = match way {
                Way::Read => self.buffers(session, &bytes, random)?,
                Way::Write => free_memory(random),
            };
            if !is_sound {
                spoil(&mut segments, random);
            }
            self.put(session, at, &segments, is_sound)?;
        }
        match random.one_in(8) {
            true => Ok(()),
            false => transport.notify(session, self.queues[at].place.index),
        }
    }

    /// Answers a round of hints, if the device asks for one.
    pub(crate) fn answer_hints(
        &mut self,
        session: &mut Session,
        transport: Transport,
        random: &mut Random,
    ) -> Checked<()> {
        let is_hints = |queue: &Queue| queue.purpose == Purpose::Hints;
        let Some(at) = self.queues.iter().position(is_hints) else {
            return Ok(());
        };
        let id = transport.hint_command(session)?;
        for id in [id, 1] {
            let segments = self.buffers(session, &id.to_le_bytes(), random)?;
            self.put(session, at, &segments, true)?;
            for _ in 0..random.below(5) * usize::from(id != 1) {
                self.put(session, at, &free_memory(random), true)?;
            }
            transport.notify(session, self.queues[at].place.index)?;
        }
        Ok(())
    }

    /// Writes a message to memory, in one or several pieces.
    fn buffers(
        &mut self,
        session: &mut Session,
        bytes: &[u8],
        random: &mut Random,
    ) -> Checked<Vec<Segment>> {
        self.buffer = (self.buffer + 1) % BUFFER_COUNT;
        let start = BUFFERS + self.buffer * BUFFER_BYTES;
        send(session, start, bytes)?;
        let pieces = 1 + random.below(3);
        let piece = bytes.len().div_ceil(pieces).max(1);
        let parts = bytes.chunks(piece).enumerate();
        let segments = parts.map(|(number, part)| Segment {
            address: start + (number * piece) as u64,
            len: part.len() as u32,
            way: Way::Read,
        });
        Ok(segments.collect())
    }

    /// Puts a chain into a queue, where there is room for it.
    fn put(
        &mut self,
        session: &mut Session,
        at: usize,
        segments: &[Segment],
        is_sound: bool,
    ) -> Checked<()> {
        let packed = self.packed;
        let queue = &mut self.queues[at];
        let count = segments.len() as u16;
        if is_sound && queue.in_use + count > queue.place.size {
            // All of them are taken to be used by now, which is seen where a ring says so.
            if !packed && !queue.is_used_up(session)? {
                return Ok(());
            }
            queue.in_use = 0;
        }
        if segments.is_empty() || is_sound && count > queue.place.size {
            return Ok(());
        }
        queue.in_use = queue.in_use.saturating_add(count);
        queue.put(session, packed, segments)
    }

    /// Changes bytes of a ring, or of all that the device may look at.
    pub(crate) fn corrupt(&self, session: &mut Session, random: &mut Random) -> Checked<()> {
        let index = random.number() % QUEUES;
        let at = RINGS + index * RING_BYTES + random.number() % 0x1800;
        let bytes: Vec<u8> = (0..1 + random.below(16)).map(|_| random.byte()).collect();
        send(session, at, &bytes)
    }
}

/// A part of a request.
#[derive(Clone, Copy)]
struct Segment {
    address: u64,
    len: u32,
    way: Way,
}

impl Queue {
    /// Whether the device has used all chains of a split ring.
    fn is_used_up(&self, session: &mut Session) -> Checked<bool> {
        let used = session.number(&format!("readw {:#x}", self.place.device + 2))?;
        Ok(used as u16 == self.chains)
    }

    fn put(&mut self, session: &mut Session, packed: bool, segments: &[Segment]) -> Checked<()> {
        let mut head = None;
        for (number, segment) in segments.iter().enumerate() {
            let slot = self.next % self.place.size;
            let at = self.place.descriptors + 16 * u64::from(slot);
            let more = number + 1 < segments.len();
            let flags = u16::from(more) | u16::from(segment.way == Way::Write) << 1;
            let mut bytes = segment.address.to_le_bytes().to_vec();
            bytes.extend(segment.len.to_le_bytes());
            if packed {
                let marks = if self.wrap { 1 << 7 } else { 1 << 15 };
                bytes.extend(slot.to_le_bytes());
                bytes.extend((flags | marks).to_le_bytes());
                self.wrap ^= slot + 1 == self.place.size;
            } else {
                let following = (slot + 1) % self.place.size;
                bytes.extend(flags.to_le_bytes());
                bytes.extend(following.to_le_bytes());
            }
            send(session, at, &bytes)?;
            self.next = slot + 1;
            head.get_or_insert(slot);
        }
        let Some(head) = head.filter(|_| !packed) else {
            return Ok(());
        };
        let entry = self.place.driver + 4 + 2 * u64::from(self.chains % self.place.size);
        send(session, entry, &head.to_le_bytes())?;
        self.chains = self.chains.wrapping_add(1);
        send(session, self.place.driver + 2, &self.chains.to_le_bytes())
    }
}

/// Queues are numbered by the features that are offered.
fn purpose(index: u64, offered: u64) -> Purpose {
    let hints = u64::from(offered & FREE_PAGE_HINT != 0);
    let reports = u64::from(offered & REPORTING != 0);
    match index {
        0 | 1 => Purpose::Pages,
        2 => Purpose::Stats,
        _ if index < 3 + hints => Purpose::Hints,
        _ if index < 3 + hints + reports => Purpose::Reports,
        _ => Purpose::Founding,
    }
}

fn place(index: u64, size: u16, legacy: bool) -> Place {
    let descriptors = RINGS + index * RING_BYTES;
    let size_of_driver = 6 + 2 * u64::from(size);
    let (driver, device) = match legacy {
        true => {
            let driver = descriptors + 16 * u64::from(size);
            (driver, (driver + size_of_driver).next_multiple_of(0x1000))
        }
        false => (descriptors + 0x800, descriptors + 0x1000),
    };
    Place {
        index,
        size,
        descriptors,
        driver,
        device,
    }
}

fn send(session: &mut Session, at: u64, bytes: &[u8]) -> Checked<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    session
        .qtest(&format!("write {at:#x} {:#x} 0x{text}", bytes.len()))
        .map(drop)
}

/// Pieces of memory that the guest does not use.
fn free_memory(random: &mut Random) -> Vec<Segment> {
    let piece = |random: &mut Random| {
        let count = 1 << random.below(10);
        let first = PAGES + random.number() % (RAM / 4096 - PAGES - count) / count * count;
        Segment {
            address: first << 12,
            len: (count << 12) as u32,
            way: Way::Write,
        }
    };
    (0..1 + random.below(4)).map(|_| piece(random)).collect()
}

/// Something that no driver does.
fn spoil(segments: &mut Vec<Segment>, random: &mut Random) {
    let at = random.below(segments.len().max(1));
    let Some(segment) = segments.get_mut(at) else {
        return;
    };
    match random.below(5) {
        0 => segment.address = random.number() % (2 * RAM),
        1 => segment.len = (random.number() >> random.below(64)) as u32,
        2 => segment.way = Way::Write,
        3 => segment.way = Way::Read,
        _ => segments.extend_from_within(..),
    }
}

/// What a request of a queue holds, and which way it goes.
fn message(purpose: Purpose, random: &mut Random) -> (Vec<u8>, Way) {
    let purpose = match random.one_in(16) {
        true => Purpose::Founding,
        false => purpose,
    };
    let recorded = |kind, random: &mut Random| {
        let all: Vec<&[u8]> = traffic::all(kind).collect();
        random.pick(&all).map_or(Vec::new(), |bytes| bytes.to_vec())
    };
    match purpose {
        Purpose::Pages => (pages(random), Way::Read),
        Purpose::Stats => (recorded(Kind::Stats, random), Way::Read),
        Purpose::Reports => (Vec::new(), Way::Write),
        Purpose::Hints if random.one_in(2) => (Vec::new(), Way::Write),
        Purpose::Hints => (recorded(Kind::HintId, random), Way::Read),
        Purpose::Founding if random.one_in(4) => (Vec::new(), Way::Write),
        Purpose::Founding => (pages(random), Way::Read),
    }
}

/// Page numbers, ranges, chunks, or anything.
fn pages(random: &mut Random) -> Vec<u8> {
    let count = 1 + random.number() % 300;
    let first = PAGES + random.number() % (RAM / 4096 - PAGES);
    let mut message = Vec::new();
    match random.below(8) {
        0..4 => {
            (first..first + count).for_each(|page| message.extend((page as u32).to_le_bytes()));
        }
        4 => {
            let all: Vec<&[u8]> = traffic::all(Kind::Inflate).collect();
            let recorded = random.pick(&all).copied().unwrap_or_default();
            for pfn in recorded.chunks_exact(4) {
                let page = u32::from_le_bytes([pfn[0], pfn[1], pfn[2], pfn[3]]);
                let page = PAGES as u32 + page % (RAM / 4096 - PAGES) as u32;
                message.extend(page.to_le_bytes());
            }
        }
        5 => {
            message.extend([0, random.byte() & 1, random.byte() & 3, 0, 8, 0, 0, 0]);
            message.extend((first << 12 | count).to_le_bytes());
        }
        6 => {
            message.extend(1u32.to_le_bytes());
            message.extend((first << 12).to_le_bytes());
            message.extend((count << 12).to_le_bytes());
        }
        _ => message.extend((0..random.below(200)).map(|_| random.byte())),
    }
    message
}

// SPDX-License-Identifier: GPL-2.0-or-later
//! A driver that mostly does what it should, with requests that mostly can be read.

use fuzz::random::Random;

use crate::session::{Checked, Session};
use crate::transport::{Place, Transport};

/// Guest memory of the machines here.
pub(crate) const RAM: u64 = 64 << 20;
/// Where queues lie, one after the other, and the buffers of requests.
const RINGS: u64 = 1 << 20;
const RING_BYTES: u64 = 0x1_0000;
const BUFFERS: u64 = 4 << 20;
const QUEUES: u64 = 7;
const SIZES: [u16; 4] = [128, 32, 1, 8];

const VERSION_1: u64 = 1 << 32;
const RING_PACKED: u64 = 1 << 34;

/// What the driver knows of a queue.
#[derive(Clone, Copy)]
struct Queue {
    place: Place,
    next: u16,
    wrap: bool,
    /// The first descriptor of the chain that is being written, and how many chains were.
    head: Option<u16>,
    chains: u16,
}

/// The driver.
pub(crate) struct Driver {
    queues: Vec<Queue>,
    packed: bool,
}

impl Driver {
    /// A driver that did nothing yet.
    pub(crate) fn new() -> Driver {
        Driver {
            queues: Vec::new(),
            packed: false,
        }
    }

    /// Negotiates and starts queues.
    pub(crate) fn start(
        &mut self,
        session: &mut Session,
        transport: Transport,
        random: &mut Random,
    ) -> Checked<()> {
        transport.reset(session)?;
        transport.set_status(session, 3)?;
        let mut features = transport.offered(session)?;
        if !random.one_in(4) {
            features &= random.number() | VERSION_1;
        }
        transport.accept(session, features)?;
        self.packed = features & RING_PACKED != 0;
        transport.set_status(session, 0xb)?;
        self.queues.clear();
        for index in 0..QUEUES {
            let size = match transport {
                // It is the device's to say; most of them have this one.
                Transport::Legacy => 128,
                _ => *random.pick(&SIZES).unwrap_or(&128),
            };
            let queue = Queue {
                place: place(index, size, matches!(transport, Transport::Legacy)),
                next: 0,
                wrap: true,
                head: None,
                chains: 0,
            };
            session.qtest(&format!(
                "memset {:#x} {RING_BYTES:#x} 0x0",
                queue.place.descriptors
            ))?;
            self.queues.push(queue);
            if !random.one_in(12) {
                transport.start_queue(session, index, &queue.place)?;
            }
        }
        transport.set_status(session, 0xf)
    }

    /// Puts a request into a queue.
    pub(crate) fn request(
        &mut self,
        session: &mut Session,
        transport: Transport,
        random: &mut Random,
    ) -> Checked<()> {
        if self.queues.is_empty() {
            return Ok(());
        }
        let index = random.below(self.queues.len());
        let payload = payload(random);
        let at = BUFFERS + random.number() % 64 * 0x4000;
        send(session, at, &payload)?;
        let packed = self.packed;
        let queue = &mut self.queues[index];
        let count = 1 + random.below(3);
        for number in 0..count {
            let more = number + 1 < count;
            let part = payload.len().div_ceil(count) as u64;
            let (mut address, mut len) = (at + part * number as u64, part as u32);
            if random.one_in(6) {
                address = random.number() % (2 * RAM);
                len = (random.number() >> random.below(64)) as u32;
            }
            let writable = random.one_in(if index >= 2 { 2 } else { 10 });
            queue.put(session, packed, address, len, writable, more)?;
        }
        if !random.one_in(4) {
            transport.notify(session, index as u64)?;
        }
        Ok(())
    }

    /// Changes bytes of a ring, or of all that the device may look at.
    pub(crate) fn corrupt(&self, session: &mut Session, random: &mut Random) -> Checked<()> {
        let index = random.number() % QUEUES;
        let at = RINGS + index * RING_BYTES + random.number() % 0x1800;
        let bytes: Vec<u8> = (0..1 + random.below(16)).map(|_| random.byte()).collect();
        send(session, at, &bytes)
    }
}

impl Queue {
    fn put(
        &mut self,
        session: &mut Session,
        packed: bool,
        address: u64,
        len: u32,
        writable: bool,
        more: bool,
    ) -> Checked<()> {
        let slot = u64::from(self.next % self.place.size);
        let at = self.place.descriptors + 16 * slot;
        let flags = u16::from(more) | u16::from(writable) << 1;
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        if packed {
            let marks = if self.wrap { 1 << 7 } else { 1 << 15 };
            bytes.extend((slot as u16).to_le_bytes());
            bytes.extend((flags | marks).to_le_bytes());
            self.wrap ^= slot as u16 + 1 == self.place.size;
        } else {
            let following = (slot as u16 + 1) % self.place.size;
            bytes.extend(flags.to_le_bytes());
            bytes.extend(following.to_le_bytes());
        }
        send(session, at, &bytes)?;
        self.next = self.next.wrapping_add(1);
        let head = *self.head.get_or_insert(slot as u16);
        if more {
            return Ok(());
        }
        self.head = None;
        if packed {
            return Ok(());
        }
        let entry = self.place.driver + 4 + 2 * u64::from(self.chains % self.place.size);
        send(session, entry, &head.to_le_bytes())?;
        self.chains = self.chains.wrapping_add(1);
        send(session, self.place.driver + 2, &self.chains.to_le_bytes())
    }
}

fn place(index: u64, size: u16, legacy: bool) -> Place {
    let descriptors = RINGS + index * RING_BYTES;
    let (driver, device) = match legacy {
        true => (descriptors + 16 * u64::from(size), descriptors + 0x1000),
        false => (descriptors + 0x800, descriptors + 0x1000),
    };
    Place {
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

/// Page numbers, ranges, chunks, ids, statistics, or anything.
fn payload(random: &mut Random) -> Vec<u8> {
    let first = random.number() % (RAM >> 12);
    let count = random.number() % 300;
    let mut message = Vec::new();
    match random.below(6) {
        0 | 1 => {
            (first..first + count).for_each(|page| message.extend((page as u32).to_le_bytes()))
        }
        2 => {
            message.extend([0, random.byte() & 1, random.byte() & 3, 0, 8, 0, 0, 0]);
            message.extend((first << 12 | count).to_le_bytes());
        }
        3 => {
            message.extend(1u32.to_le_bytes());
            message.extend((first << 12).to_le_bytes());
            message.extend((count << 12).to_le_bytes());
        }
        4 => message.extend((0x8000_0000u32 + random.number() as u32 % 4).to_le_bytes()),
        _ => message.extend((0..random.below(200)).map(|_| random.byte())),
    }
    message
}

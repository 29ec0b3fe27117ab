// SPDX-License-Identifier: GPL-2.0-or-later
//! What a guest can put into a queue to keep the device busy.

use clap::ValueEnum;
use guest::{MIB, Result};

use crate::latency::RAM_MIB;
use crate::machine::{Machine, QueueName};
use crate::plan::{BUFFERS_A_KICK, Device, PFNS_A_BUFFER, PFNS_A_KICK, Random};
use crate::ring::Buffer;

/// A guest's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Hostile {
    /// Nothing at all, for comparison.
    Nothing,
    /// One buffer of PFNs that are not RAM.
    BadPfns,
    /// One buffer of PFNs that ascend through RAM, again and again.
    Pfns,
    /// One buffer of PFNs in random order, of memory that is in use.
    RandomPfns,
    /// One request of as many buffers as there may be.
    Chain,
    /// A queue full of long requests.
    FullQueue,
    /// A queue full of ranges that each are all of RAM.
    Ranges,
    /// A queue full of long messages of ranges of half of RAM, each half in turn.
    LongRanges,
    /// Reports of as many segments as there may be, each a page of memory in use.
    Reports,
    /// The buffer of random PFNs, to deflate.
    Deflate,
    /// Queues full of random pages of memory in use, to inflate and to deflate in turn.
    Turns,
    /// The same to inflate only, while the monitor is asked for the balloon's size.
    Queries,
    /// The balloon that a migration has most to do for, and a page goes in or out all the time
    /// while the machine migrates.
    Migration,
    /// The same machine migrates with nothing in the balloon, and nobody touches that: no device
    /// can be better.
    EmptyMigration,
}

/// Room for the longest buffer and all tables.
pub const WINDOW_MIB: u64 = LONG_MIB + 16;
/// The longest buffer.
const LONG_MIB: u64 = 1024;
/// A buffer of PFNs that stock works on for seconds; in a longer one it would not come back for
/// minutes.
const STOCK_MIB: u64 = 8;
/// The same where no PFN is RAM.
const STOCK_BAD_MIB: u64 = 128;
/// Each buffer of a chain, and each request of a full queue.
const PIECE_MIB: u64 = 1;
/// Ranges of a long message.
const RANGES: u32 = 65536;
/// As many descriptors as QEMU takes in one request.
const CHAIN: u64 = 1024;
/// Requests that fill a queue.
const QUEUE: u64 = 128;
const REPORT_QUEUE: u64 = 32;
/// Kicks of an input that goes on and on.
const KICKS: usize = 192;
/// The pages below are left alone: the machine's own tables are there.
const FIRST_PFN: u64 = 256;

impl Hostile {
    /// All, in the order of the tables.
    pub const ALL: [Hostile; 14] = [
        Hostile::Nothing,
        Hostile::BadPfns,
        Hostile::Pfns,
        Hostile::RandomPfns,
        Hostile::Chain,
        Hostile::FullQueue,
        Hostile::Ranges,
        Hostile::LongRanges,
        Hostile::Reports,
        Hostile::Deflate,
        Hostile::Turns,
        Hostile::Queries,
        Hostile::Migration,
        Hostile::EmptyMigration,
    ];

    /// In files.
    pub fn name(self) -> &'static str {
        match self {
            Hostile::Nothing => "nothing",
            Hostile::BadPfns => "bad-pfns",
            Hostile::Pfns => "pfns",
            Hostile::RandomPfns => "random-pfns",
            Hostile::Chain => "chain",
            Hostile::FullQueue => "full-queue",
            Hostile::Ranges => "ranges",
            Hostile::LongRanges => "long-ranges",
            Hostile::Reports => "reports",
            Hostile::Deflate => "deflate",
            Hostile::Turns => "turns",
            Hostile::Queries => "queries",
            Hostile::Migration => "migration",
            Hostile::EmptyMigration => "empty-migration",
        }
    }

    /// In tables.
    pub fn title(self, stock: bool) -> String {
        let mib = self.buffer_mib(stock);
        match self {
            Hostile::Nothing => "nothing".into(),
            Hostile::BadPfns => format!("a buffer of {mib} MiB of PFNs that are not RAM"),
            Hostile::Pfns => format!("a buffer of {mib} MiB of PFNs, ascending"),
            Hostile::RandomPfns => format!("a buffer of {mib} MiB of PFNs in random order"),
            Hostile::Chain => format!("{} buffers of {PIECE_MIB} MiB in a request", chain(stock)),
            Hostile::FullQueue => {
                format!("{} requests of {PIECE_MIB} MiB of PFNs", queue(stock))
            }
            Hostile::Ranges => format!("{QUEUE} ranges of all RAM"),
            Hostile::LongRanges => {
                format!("{QUEUE} messages of {RANGES} ranges of half of RAM, in turn")
            }
            Hostile::Reports => {
                format!("reports of {CHAIN} pages in random order, {REPORT_QUEUE} a kick")
            }
            Hostile::Deflate => format!("deflate: {mib} MiB of PFNs in random order"),
            Hostile::Turns => format!("inflate, deflate: {PFNS_A_KICK} random pages a kick"),
            Hostile::Queries => {
                format!("query-balloon: inflate {PFNS_A_KICK} random pages a kick")
            }
            Hostile::Migration => "migration, every second page is in".into(),
            Hostile::EmptyMigration => "migration, nothing is in".into(),
        }
    }

    fn buffer_mib(self, stock: bool) -> u64 {
        match self {
            Hostile::BadPfns if stock => STOCK_BAD_MIB,
            _ if stock => STOCK_MIB,
            _ => LONG_MIB,
        }
    }

    /// Those that understand it.
    pub fn devices(self) -> &'static [Device] {
        match self {
            Hostile::Ranges | Hostile::LongRanges => &[Device::Ranges],
            Hostile::EmptyMigration => &[Device::Ours],
            _ => &[Device::Stock, Device::Ours],
        }
    }

    /// Whether the guest's memory is in use before.
    pub fn is_about_memory(self) -> bool {
        matches!(
            self,
            Hostile::RandomPfns
                | Hostile::FullQueue
                | Hostile::Ranges
                | Hostile::LongRanges
                | Hostile::Reports
                | Hostile::Turns
                | Hostile::Queries
        )
    }

    /// What is measured the same way without the input: no device can be better.
    pub fn limit(self) -> Option<Hostile> {
        match self {
            Hostile::Nothing | Hostile::EmptyMigration => None,
            Hostile::Migration => Some(Hostile::EmptyMigration),
            _ => Some(Hostile::Nothing),
        }
    }

    /// Whether the machine migrates, which may be a large one.
    pub fn migrates(self) -> bool {
        matches!(self, Hostile::Migration | Hostile::EmptyMigration)
    }

    /// What the monitor is asked meanwhile.
    pub fn question(self) -> &'static str {
        match self {
            Hostile::Queries => "query-balloon",
            Hostile::Migration | Hostile::EmptyMigration => "query-migrate",
            _ => "query-status",
        }
    }
}

/// Stock takes so long for each that a few say enough.
fn chain(stock: bool) -> u64 {
    if stock { STOCK_MIB } else { CHAIN }
}

fn queue(stock: bool) -> u64 {
    if stock { STOCK_MIB } else { QUEUE }
}

/// An input, of which one kick after another is put into a queue.
#[derive(Debug)]
pub struct Work {
    input: Hostile,
    device: Device,
    /// Room for buffers.
    area: u64,
    /// Room for the tables of reports.
    tables: Vec<u64>,
    /// All pages in random order.
    pages: Vec<u32>,
    /// How many kicks there were.
    kicks: usize,
}

impl Work {
    /// Gets ready for `input`.
    ///
    /// # Errors
    /// When the machine's window is too small.
    pub fn new(machine: &mut Machine, input: Hostile, device: Device) -> Result<Work> {
        let mut pages: Vec<u32> = (FIRST_PFN as u32..(RAM_MIB * MIB / 4096) as u32).collect();
        Random(2).shuffle(&mut pages);
        let mut take = |bytes| machine.window.take(bytes);
        Ok(Work {
            input,
            device,
            area: take(LONG_MIB * MIB)?,
            tables: (0..REPORT_QUEUE)
                .map(|_| take(16 * CHAIN))
                .collect::<Result<_>>()?,
            pages,
            kicks: 0,
        })
    }

    /// Puts the next kick into a queue, of which the device is not notified yet; `None` when all
    /// was put in and is answered.
    ///
    /// # Errors
    /// When it does not fit.
    pub fn put(&mut self, machine: &mut Machine) -> Result<Option<QueueName>> {
        let kick = self.kicks;
        self.kicks += 1;
        match self.input {
            Hostile::Reports => self.put_reports(machine, kick),
            Hostile::Turns | Hostile::Queries => self.put_pages(machine, kick),
            _ if kick > 0 => Ok(None),
            _ => self.put_once(machine).map(Some),
        }
    }

    /// No page is reported twice.
    fn put_reports(&self, machine: &mut Machine, kick: usize) -> Result<Option<QueueName>> {
        let a_kick = (REPORT_QUEUE * CHAIN) as usize;
        let Some(pages) = self.pages.chunks_exact(a_kick).nth(kick) else {
            return Ok(None);
        };
        let segment = |page: &u32| Buffer {
            address: u64::from(*page) * 4096,
            len: 4096,
            writable: true,
        };
        let reports = pages.chunks(CHAIN as usize);
        let requests: Vec<(u64, Vec<Buffer>)> = reports
            .zip(&self.tables)
            .map(|(pages, table)| (*table, pages.iter().map(segment).collect()))
            .collect();
        machine.put_indirect(QueueName::Report, &requests)?;
        Ok(Some(QueueName::Report))
    }

    /// Where kicks are deflated in turn, each of what was inflated before.
    fn put_pages(&self, machine: &mut Machine, kick: usize) -> Result<Option<QueueName>> {
        if kick == KICKS {
            return Ok(None);
        }
        let (number, queue) = match self.input {
            Hostile::Turns if kick % 2 == 1 => (kick / 2, QueueName::Deflate),
            Hostile::Turns => (kick / 2, QueueName::Inflate),
            _ => (kick, QueueName::Inflate),
        };
        let first = number % (self.pages.len() / PFNS_A_KICK) * PFNS_A_KICK;
        let pages = &self.pages[first..first + PFNS_A_KICK];
        let bytes: Vec<u8> = pages.iter().flat_map(|page| page.to_le_bytes()).collect();
        machine.window.write(self.area, &bytes)?;
        let len = 4 * PFNS_A_BUFFER as u32;
        let buffer = |n: usize| Buffer {
            address: self.area + n as u64 * u64::from(len),
            len,
            writable: false,
        };
        let requests: Vec<Vec<Buffer>> = (0..BUFFERS_A_KICK).map(|n| vec![buffer(n)]).collect();
        machine.put(queue, &requests)?;
        Ok(Some(queue))
    }

    /// Puts a request of these pages into a queue, of which the device is not notified yet.
    ///
    /// # Errors
    /// When it does not fit.
    pub fn put_pages_of(
        &self,
        machine: &mut Machine,
        queue: QueueName,
        pages: &[u32],
    ) -> Result<()> {
        let bytes: Vec<u8> = pages.iter().flat_map(|page| page.to_le_bytes()).collect();
        machine.window.write(self.area, &bytes)?;
        let buffer = Buffer {
            address: self.area,
            len: bytes.len() as u32,
            writable: false,
        };
        machine.put(queue, &[vec![buffer]])
    }

    fn put_once(&self, machine: &mut Machine) -> Result<QueueName> {
        let (input, area) = (self.input, self.area);
        let stock = self.device == Device::Stock;
        let pfns = |mib: u64, machine: &Machine| write_pfns(machine, area, input, mib);
        let one = |len: u64| Buffer {
            address: area,
            len: len as u32,
            writable: false,
        };
        let long = input.buffer_mib(stock);
        let (piece, inflate) = (one(PIECE_MIB * MIB), QueueName::Inflate);
        match input {
            Hostile::BadPfns | Hostile::Pfns | Hostile::RandomPfns => {
                pfns(long, machine)?;
                machine.put(inflate, &[vec![one(long * MIB)]])?;
            }
            Hostile::Chain => {
                pfns(PIECE_MIB, machine)?;
                let table = machine.window.take(16 * CHAIN)?;
                let buffers = vec![piece; chain(stock) as usize];
                machine.put_indirect(inflate, &[(table, buffers)])?;
            }
            Hostile::FullQueue => {
                pfns(PIECE_MIB, machine)?;
                machine.put(inflate, &vec![vec![piece]; queue(stock) as usize])?;
            }
            Hostile::Ranges | Hostile::LongRanges => {
                let count = if input == Hostile::Ranges { 1 } else { RANGES };
                let bytes = ranges(count);
                machine.window.write(area, &bytes)?;
                let request = vec![one(bytes.len() as u64)];
                machine.put(inflate, &vec![request; QUEUE as usize])?;
            }
            Hostile::Deflate => {
                pfns(long, machine)?;
                machine.put(QueueName::Deflate, &[vec![one(long * MIB)]])?;
                return Ok(QueueName::Deflate);
            }
            Hostile::Nothing
            | Hostile::Reports
            | Hostile::Turns
            | Hostile::Queries
            | Hostile::Migration
            | Hostile::EmptyMigration => {}
        }
        Ok(inflate)
    }
}

/// A message of a range that is all of RAM, or of more that are one half and the other in turn, a
/// page apart: none of them touches the one before.
fn ranges(count: u32) -> Vec<u8> {
    let pages = RAM_MIB * MIB / 4096 - FIRST_PFN;
    let mut bytes = vec![0, 1, 0, 0];
    bytes.extend((16 * count).to_le_bytes());
    for n in 0..count {
        let (first, pages) = match (count, n % 2) {
            (1, _) => (FIRST_PFN, pages),
            (_, 0) => (FIRST_PFN, pages / 2 - 1),
            _ => (FIRST_PFN + pages / 2, pages / 2),
        };
        bytes.extend([first << 12, pages].iter().flat_map(|w| w.to_le_bytes()));
    }
    bytes
}

/// Fills `mib` MiB with the PFNs that the input is made of.
fn write_pfns(machine: &Machine, area: u64, input: Hostile, mib: u64) -> Result<()> {
    let count = RAM_MIB * MIB / 4096 - FIRST_PFN;
    let mut random = Random(1);
    let pfns_a_piece = MIB / 4;
    for piece in 0..mib {
        let numbers = piece * pfns_a_piece..(piece + 1) * pfns_a_piece;
        let pfn = |n: u64| match input {
            // Every second one, so that they do not merge.
            Hostile::BadPfns => 0x8000_0000 | (2 * n as u32),
            Hostile::Pfns | Hostile::Chain => (FIRST_PFN + n % count) as u32,
            _ => (FIRST_PFN + random.number() % count) as u32,
        };
        let bytes: Vec<u8> = numbers.map(pfn).flat_map(u32::to_le_bytes).collect();
        machine.window.write(area + piece * MIB, &bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_says_how_long_its_ranges_are() {
        let bytes = ranges(3);
        assert_eq!(bytes[..8], [0, 1, 0, 0, 48, 0, 0, 0]);
        assert_eq!(bytes.len(), 8 + 48);
        assert_eq!(bytes[8..24], bytes[40..]);
        let page = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        // A page lies between the halves, and the other one ends where RAM does.
        assert_eq!((page(8) >> 12) + page(16) + 1, page(24) >> 12);
        assert_eq!((page(24) >> 12) + page(32), RAM_MIB * MIB / 4096);
    }

    #[test]
    fn every_input_has_a_name_of_its_own() {
        for (number, input) in Hostile::ALL.iter().enumerate() {
            let others = &Hostile::ALL[number + 1..];
            assert!(others.iter().all(|other| other.name() != input.name()));
            assert!(
                others
                    .iter()
                    .all(|other| other.title(false) != input.title(false))
            );
        }
    }
}

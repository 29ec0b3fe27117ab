// SPDX-License-Identifier: GPL-2.0-or-later
//! What a guest can put into a queue to keep the device busy.

use clap::ValueEnum;
use guest::{MIB, Result};

use crate::latency::RAM_MIB;
use crate::machine::{Machine, QueueName};
use crate::plan::{Device, Random};
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
    /// Reports of as many segments as there may be, every second page of memory in use.
    Reports,
    /// The buffer of random PFNs, to deflate.
    Deflate,
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
/// As many descriptors as QEMU takes in one request.
const CHAIN: u64 = 1024;
/// Requests that fill a queue.
const QUEUE: u64 = 128;
const REPORT_QUEUE: u64 = 32;
/// The pages below are left alone: the machine's own tables are there.
const FIRST_PFN: u64 = 256;

impl Hostile {
    /// All, in the order of the tables.
    pub const ALL: [Hostile; 9] = [
        Hostile::Nothing,
        Hostile::BadPfns,
        Hostile::Pfns,
        Hostile::RandomPfns,
        Hostile::Chain,
        Hostile::FullQueue,
        Hostile::Ranges,
        Hostile::Reports,
        Hostile::Deflate,
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
            Hostile::Reports => "reports",
            Hostile::Deflate => "deflate",
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
            Hostile::Reports => format!("{REPORT_QUEUE} reports of {CHAIN} segments"),
            Hostile::Deflate => format!("deflate: {mib} MiB of PFNs in random order"),
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
            Hostile::Ranges => &[Device::Ranges],
            _ => &[Device::Stock, Device::Ours],
        }
    }

    /// Whether the guest's memory is in use before.
    pub fn is_about_memory(self) -> bool {
        matches!(
            self,
            Hostile::RandomPfns | Hostile::FullQueue | Hostile::Ranges | Hostile::Reports
        )
    }
}

/// Stock takes so long for each that a few say enough.
fn chain(stock: bool) -> u64 {
    if stock { STOCK_MIB } else { CHAIN }
}

fn queue(stock: bool) -> u64 {
    if stock { STOCK_MIB } else { QUEUE }
}

/// Puts `input` into a queue, of which the device is not notified yet.
///
/// # Errors
/// When it does not fit.
pub fn put(machine: &mut Machine, input: Hostile, device: Device) -> Result<QueueName> {
    let stock = device == Device::Stock;
    let area = machine.window.take(LONG_MIB * MIB)?;
    let pfns = |mib: u64, machine: &Machine| write_pfns(machine, area, input, mib);
    let one = |len: u64| Buffer {
        address: area,
        len: len as u32,
        writable: false,
    };
    let long = input.buffer_mib(stock);
    let (piece, inflate) = (one(PIECE_MIB * MIB), QueueName::Inflate);
    match input {
        Hostile::Nothing => {}
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
        Hostile::Ranges => {
            let words = [FIRST_PFN << 12, RAM_MIB * MIB / 4096 - FIRST_PFN];
            let mut bytes = vec![0, 1, 0, 0, 16, 0, 0, 0];
            bytes.extend(words.iter().flat_map(|w| w.to_le_bytes()));
            machine.window.write(area, &bytes)?;
            let request = vec![one(bytes.len() as u64)];
            machine.put(inflate, &vec![request; QUEUE as usize])?;
        }
        Hostile::Reports => {
            let mut requests = Vec::new();
            for report in 0..REPORT_QUEUE {
                let table = machine.window.take(16 * CHAIN)?;
                let segment = |n: u64| Buffer {
                    address: (FIRST_PFN + 2 * (report * CHAIN + n)) * 4096,
                    len: 4096,
                    writable: true,
                };
                requests.push((table, (0..CHAIN).map(segment).collect()));
            }
            machine.put_indirect(QueueName::Report, &requests)?;
            return Ok(QueueName::Report);
        }
        Hostile::Deflate => {
            pfns(long, machine)?;
            machine.put(QueueName::Deflate, &[vec![one(long * MIB)]])?;
            return Ok(QueueName::Deflate);
        }
    }
    Ok(inflate)
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

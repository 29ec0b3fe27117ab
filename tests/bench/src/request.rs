// SPDX-License-Identifier: GPL-2.0-or-later
//! Requests in the formats that drivers write: PFNs, ranges, chunks, reported blocks.

use guest::Result;

use crate::machine::{Machine, QueueName};
use crate::plan::{Device, PFNS_A_BUFFER, Run, merged};
use crate::ring::Buffer;

/// Words of a message of ranges, as the Linux series had.
const WORDS_A_MESSAGE: usize = 4096;
/// Chunks of a message, as the Linux series had.
const CHUNKS_A_MESSAGE: usize = 4090;
/// A range of more pages than this takes a second word.
const LONGEST_SHORT: u32 = 4095;
/// Room for the requests of one kick, in the worst order of pages.
const AREA_BYTES: u64 = 1 << 20;
/// Bytes of a page as all formats count them.
const PAGE: u64 = 4096;

/// Memory in which the requests of one kick are written, again and again.
#[derive(Debug)]
pub struct Desk {
    area: u64,
}

/// Bytes of a kick, and the lengths of the buffers they are cut into, request by request.
struct Written {
    bytes: Vec<u8>,
    requests: Vec<Vec<u32>>,
}

impl Desk {
    /// # Errors
    /// When the machine's window is full.
    pub fn new(machine: &mut Machine) -> Result<Desk> {
        let area = machine.window.take(AREA_BYTES)?;
        Ok(Desk { area })
    }

    /// Puts one kick's `pages`, counted from the guest address `base`, into a queue in the format
    /// of `device`.
    ///
    /// # Errors
    /// When they do not fit.
    pub fn put(
        &self,
        machine: &mut Machine,
        queue: QueueName,
        device: Device,
        (base, pages): (u64, &[u32]),
    ) -> Result<()> {
        let first = base / PAGE;
        let written = match device {
            Device::Ranges => ranges(first, &merged(pages)),
            Device::Chunks => chunks(first, &merged(pages)),
            _ => pfns(first, pages),
        };
        machine.window.write(self.area, &written.bytes)?;
        let mut address = self.area;
        let mut buffer = |len: &u32| {
            let buffer = Buffer {
                address,
                len: *len,
                writable: false,
            };
            address += u64::from(*len);
            buffer
        };
        let requests = written.requests.iter();
        let requests: Vec<Vec<Buffer>> = requests
            .map(|lens| lens.iter().map(&mut buffer).collect())
            .collect();
        machine.put(queue, &requests)
    }

    /// Puts one report of `blocks`, runs of pages counted from `base`, into the queue.
    ///
    /// # Errors
    /// When they do not fit.
    pub fn put_report(machine: &mut Machine, base: u64, blocks: &[Run]) -> Result<()> {
        let buffer = |&(first, pages): &Run| Buffer {
            address: base + u64::from(first) * PAGE,
            len: pages * PAGE as u32,
            writable: true,
        };
        let request = blocks.iter().map(buffer).collect();
        machine.put(QueueName::Report, &[request])
    }
}

fn pfns(first: u64, pages: &[u32]) -> Written {
    let pfn = |&page: &u32| (first as u32 + page).to_le_bytes();
    let buffers = pages.chunks(PFNS_A_BUFFER);
    Written {
        bytes: pages.iter().flat_map(pfn).collect(),
        requests: buffers.map(|b| vec![4 * b.len() as u32]).collect(),
    }
}

/// A header in a buffer of its own, then words.
fn ranges(first: u64, runs: &[Run]) -> Written {
    let mut messages: Vec<Vec<u64>> = vec![Vec::new()];
    for &(page, count) in runs {
        let start = (first + u64::from(page)) << 12;
        let short = count <= LONGEST_SHORT;
        let full = |words: &Vec<u64>| words.len() + 2 > WORDS_A_MESSAGE;
        if messages.last().is_some_and(full) {
            messages.push(Vec::new());
        }
        if let Some(words) = messages.last_mut() {
            match short {
                true => words.push(start | u64::from(count)),
                false => words.extend([start, u64::from(count)]),
            }
        }
    }
    let mut written = Written {
        bytes: Vec::new(),
        requests: Vec::new(),
    };
    for words in messages {
        let len = 8 * words.len() as u32;
        written.bytes.extend([0, 1, 0, 0]);
        written.bytes.extend(len.to_le_bytes());
        written
            .bytes
            .extend(words.iter().flat_map(|w| w.to_le_bytes()));
        written.requests.push(vec![8, len]);
    }
    written
}

/// A count and chunks in one buffer.
fn chunks(first: u64, runs: &[Run]) -> Written {
    let mut written = Written {
        bytes: Vec::new(),
        requests: Vec::new(),
    };
    for message in runs.chunks(CHUNKS_A_MESSAGE) {
        written.bytes.extend((message.len() as u32).to_le_bytes());
        for &(page, count) in message {
            let base = (first + u64::from(page)) << 12;
            written.bytes.extend(base.to_le_bytes());
            written.bytes.extend((u64::from(count) << 12).to_le_bytes());
        }
        let len = 4 + 16 * message.len() as u32;
        written.requests.push(vec![len]);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_the_format() {
        let words = |page, count| ranges(0x12340, &[(page, count)]).bytes[8..].to_vec();
        assert_eq!(words(5, 1), 0x1234_5001_u64.to_le_bytes());
        assert_eq!(words(4, 4095), 0x1234_4fff_u64.to_le_bytes());
        let long = [0x1234_4000_u64.to_le_bytes(), 0x2000_u64.to_le_bytes()];
        assert_eq!(words(4, 8192), long.concat());
        assert_eq!(ranges(0, &[(0, 2)]).bytes[..8], [0, 1, 0, 0, 8, 0, 0, 0]);
    }

    #[test]
    fn a_chunk_is_that_of_the_format() {
        let written = chunks(0x12345, &[(0, 1)]);
        let expected = [
            1, 0, 0, 0, 0, 0x50, 0x34, 0x12, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(written.bytes, expected);
        assert_eq!(written.requests, [[20]]);
    }

    #[test]
    fn long_lists_are_cut_into_messages() {
        let runs: Vec<Run> = (0..10_000).map(|n| (2 * n, 1)).collect();
        assert_eq!(ranges(0, &runs).requests.len(), 3);
        assert_eq!(chunks(0, &runs).requests.len(), 3);
        let pages: Vec<u32> = (0..600).collect();
        assert_eq!(pfns(0, &pages).requests, [[1024], [1024], [352]]);
    }
}

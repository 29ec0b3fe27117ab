// SPDX-License-Identifier: GPL-2.0-or-later
//! The messages of the founding protocols, read part by part: a header, then entries that name ranges of
//! guest memory.
//!
//! A message is believed as long as it makes sense. What follows the first place that does not is left
//! out: a length that is off by one would turn all that is behind it into nonsense. A header that does
//! not fit its message is such a place, too, so nothing of that message counts.

use crate::page::{Gpa, GpaRange, PAGE_SIZE};
use crate::wire::founding::{
    Chunk, LENGTH_BITS, LENGTH_MASK, MAX_CHUNKS, MiscHeader, ResponseHeader,
};
use zerocopy::FromBytes;
use zerocopy::byteorder::{LittleEndian, U32, U64};

/// Why a message, or the rest of it, was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// The message is shorter than its header.
    Header,
    /// The header says another length than the message has.
    DataLength,
    /// There are more chunks than a message may hold.
    Count,
    /// Bits that have no meaning are set.
    Reserved,
    /// The length of the last range is missing.
    Cut,
    /// A range has no pages.
    Empty,
    /// A range ends behind the last address that there is.
    Overflow,
    /// A range is not, or not in all of its parts, guest RAM.
    NotRam,
    /// An answer to something that is never asked.
    Command,
    /// A flag that does not exist.
    Flag,
}

/// How a message is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// [`ResponseHeader`] and words: `pfn << 12 | pages`, or with 0 pages followed by their number.
    Ranges,
    /// A 32-bit count and [`Chunk`]s.
    Chunks,
    /// [`MiscHeader`], a 32-bit count and [`Chunk`]s.
    MiscChunks,
}

/// What a header says besides lengths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The command answered.
    pub cmd: u16,
    /// Its flags.
    pub flags: u16,
    /// The request answered, where the protocol has ids.
    pub id: Option<u16>,
}

/// A piece of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// The header: always the first.
    Head(Head),
    /// An entry.
    Range(GpaRange),
}

/// What was left out of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Why.
    pub reason: Malformed,
    /// How much of it, in bytes.
    pub bytes: u64,
}

/// The longest unit of a message that is read at a time, in bytes.
const MAX_UNIT: usize = size_of::<Chunk>();

/// A message that is being read.
pub struct Reader {
    format: Format,
    /// Its length in bytes.
    total: u64,
    /// How many bytes of it made sense.
    good: u64,
    has_head: bool,
    /// The start of a unit whose rest is in the next part.
    carry: [u8; MAX_UNIT],
    carried: usize,
    /// The first page of a range whose length is the next word.
    long: Option<u64>,
    is_doubtful: bool,
    malformed: Option<Malformed>,
}

impl Reader {
    /// A message of `total` bytes of which nothing was read yet.
    pub fn new(format: Format, total: u64) -> Reader {
        Reader {
            format,
            total,
            good: 0,
            has_head: false,
            carry: [0; MAX_UNIT],
            carried: 0,
            long: None,
            is_doubtful: false,
            malformed: None,
        }
    }

    /// Reads the next part of the message, of any length, and hands each piece that it completes to
    /// `take`. What `take` refuses is malformed.
    pub fn read(&mut self, part: &[u8], mut take: impl FnMut(Item) -> Result<(), Malformed>) {
        let mut rest = part;
        while self.malformed.is_none() {
            let size = self.unit_size();
            let missing = size - self.carried;
            if rest.len() < missing {
                self.carry[self.carried..][..rest.len()].copy_from_slice(rest);
                self.carried += rest.len();
                return;
            }
            let (front, behind) = rest.split_at(missing);
            rest = behind;
            let whole = if self.carried == 0 {
                self.unit(front, &mut take)
            } else {
                self.carry[self.carried..size].copy_from_slice(front);
                self.carried = 0;
                let unit = self.carry;
                self.unit(&unit[..size], &mut take)
            };
            self.malformed = whole.err();
        }
    }

    /// Whether a range of those read may be two that a faulty driver meant otherwise: see
    /// [`Reader::word`].
    pub fn is_doubtful(&self) -> bool {
        self.is_doubtful
    }

    /// The message was read to its end; says what was left out of it.
    pub fn end(self) -> Option<LeftOut> {
        let reason = match self.malformed {
            Some(reason) => reason,
            None if !self.has_head => Malformed::Header,
            None if self.long.is_some() => Malformed::Cut,
            None => return None,
        };
        let bytes = self.total.saturating_sub(self.good);
        Some(LeftOut { reason, bytes })
    }

    fn unit_size(&self) -> usize {
        match (self.has_head, self.format) {
            (false, Format::Ranges) => size_of::<ResponseHeader>(),
            (false, Format::Chunks) => size_of::<u32>(),
            (false, Format::MiscChunks) => size_of::<MiscHeader>() + size_of::<u32>(),
            (true, Format::Ranges) => size_of::<u64>(),
            (true, Format::Chunks | Format::MiscChunks) => size_of::<Chunk>(),
        }
    }

    /// Reads one unit: a header, a word or a chunk.
    fn unit(
        &mut self,
        bytes: &[u8],
        take: &mut impl FnMut(Item) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        let mut good = bytes.len() as u64;
        if !self.has_head {
            take(Item::Head(self.head(bytes)?))?;
            self.has_head = true;
        } else if self.format == Format::Ranges {
            let is_second = self.long.is_some();
            match self.word(bytes)? {
                Some(range) => take(Item::Range(range))?,
                // Without its second word it says nothing.
                None => return Ok(()),
            }
            good += if is_second { good } else { 0 };
        } else {
            take(Item::Range(chunk(bytes)?))?;
        }
        self.good += good;
        Ok(())
    }

    fn head(&self, bytes: &[u8]) -> Result<Head, Malformed> {
        let behind = self.total.saturating_sub(bytes.len() as u64);
        if self.format == Format::Ranges {
            let header = ResponseHeader::read_from_bytes(bytes).map_err(|_| Malformed::Header)?;
            let data_len = u64::from(header.data_len.get());
            if data_len != behind || !data_len.is_multiple_of(size_of::<u64>() as u64) {
                return Err(Malformed::DataLength);
            }
            return Ok(Head {
                cmd: header.cmd.into(),
                flags: header.flag.into(),
                id: Some(header.id.get()),
            });
        }
        let (misc, count) = bytes.split_at(bytes.len() - size_of::<u32>());
        let count = U32::<LittleEndian>::read_from_bytes(count).map_err(|_| Malformed::Header)?;
        if count.get() > MAX_CHUNKS {
            return Err(Malformed::Count);
        }
        if u64::from(count.get()) * size_of::<Chunk>() as u64 != behind {
            return Err(Malformed::DataLength);
        }
        let misc = MiscHeader::read_from_bytes(misc).ok();
        Ok(misc.map_or(Head::default(), |misc| Head {
            cmd: misc.cmd.get(),
            flags: misc.flags.get(),
            id: None,
        }))
    }

    /// Reads a word; `None` for the first of two.
    ///
    /// The Linux driver of the series writes a run of exactly 4096 pages in the short form, where
    /// 4096 is the lowest bit of the page number, and the length reads as 0: what follows is the
    /// next range and no length. Nothing tells such a word from a right one but that its page is
    /// odd, and the bounds of the range that comes out.
    fn word(&mut self, bytes: &[u8]) -> Result<Option<GpaRange>, Malformed> {
        let word = U64::<LittleEndian>::read_from_bytes(bytes).map_err(|_| Malformed::Cut)?;
        let word = word.get();
        let (pfn, pages) = match self.long.take() {
            Some(pfn) => {
                self.is_doubtful |= pfn & 1 == 1;
                (pfn, word)
            }
            None if word & LENGTH_MASK == 0 => {
                self.long = Some(word >> LENGTH_BITS);
                return Ok(None);
            }
            None => (word >> LENGTH_BITS, word & LENGTH_MASK),
        };
        let bytes = pages.checked_mul(PAGE_SIZE).ok_or(Malformed::Overflow)?;
        range(pfn << LENGTH_BITS, bytes).map(Some)
    }
}

fn chunk(bytes: &[u8]) -> Result<GpaRange, Malformed> {
    let chunk = Chunk::read_from_bytes(bytes).map_err(|_| Malformed::Cut)?;
    let (base, size) = (chunk.base.get(), chunk.size.get());
    if (base | size) & LENGTH_MASK != 0 {
        return Err(Malformed::Reserved);
    }
    range(base, size)
}

fn range(start: u64, bytes: u64) -> Result<GpaRange, Malformed> {
    if bytes == 0 {
        return Err(Malformed::Empty);
    }
    GpaRange::with_len(Gpa(start), bytes).ok_or(Malformed::Overflow)
}

#[cfg(test)]
#[path = "message/tests.rs"]
mod tests;

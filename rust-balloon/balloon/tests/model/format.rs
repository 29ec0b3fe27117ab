// SPDX-License-Identifier: GPL-2.0-or-later
//! The formats of inflate and deflate requests, written and read by code of its own, which knows
//! nothing of parts.

use std::collections::BTreeSet;

use balloon::features::Features;
use balloon::memory::Section;
use balloon::page::PAGE_SIZE;

/// How requests are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Pfns,
    Ranges,
    Chunks,
}

/// Those that are messages.
pub(crate) const MESSAGES: [Format; 2] = [Format::Ranges, Format::Chunks];

/// Pages that follow each other: the first, and how many.
pub(crate) type Run = (u64, u64);

/// How a driver writes ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Words {
    /// In the short form where that can be.
    Short,
    /// All in the long form.
    Long,
    /// As the Linux driver of the series does: 4096 pages in the short form, which has no room for
    /// them.
    Series,
}

/// What a request says that was read by the rules.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Parsed {
    /// What counts.
    pub(crate) runs: Vec<Run>,
    /// How many bytes do not, where it ends in nonsense.
    pub(crate) left_out: Option<u64>,
    /// Whether a range may be one that the series' driver meant otherwise.
    pub(crate) doubtful: bool,
}

impl Format {
    /// The feature that stands for it.
    pub(crate) fn feature(self) -> Features {
        match self {
            Format::Pfns => Features::empty(),
            Format::Ranges => Features::PAGE_RANGE,
            Format::Chunks => Features::BALLOON_CHUNKS,
        }
    }

    /// How many bytes stand before the entries.
    pub(crate) fn head(self) -> usize {
        match self {
            Format::Pfns => 0,
            Format::Ranges => 8,
            Format::Chunks => 4,
        }
    }
}

/// A request that names `runs`.
pub(crate) fn encode(format: Format, runs: &[Run], style: Words) -> Vec<u8> {
    let mut entries = Vec::new();
    for &(first, count) in runs {
        let words = match format {
            Format::Pfns => {
                let pfns = (first..first + count).map(|page| page as u32);
                entries.extend(pfns.flat_map(u32::to_le_bytes));
                continue;
            }
            Format::Ranges if count == 4096 && style == Words::Series => vec![first << 12 | count],
            Format::Ranges if count < 4096 && style != Words::Long => vec![first << 12 | count],
            Format::Ranges => vec![first << 12, count],
            Format::Chunks => vec![first << 12, count << 12],
        };
        entries.extend(words.into_iter().flat_map(u64::to_le_bytes));
    }
    let mut message = match format {
        Format::Pfns => vec![],
        Format::Ranges => [&[9; 4][..], &(entries.len() as u32).to_le_bytes()].concat(),
        Format::Chunks => (runs.len() as u32).to_le_bytes().to_vec(),
    };
    message.extend(entries);
    message
}

/// The runs of RAM.
pub(crate) fn ram(sections: &[Section]) -> Vec<Run> {
    let mut all: Vec<Run> = sections
        .iter()
        .map(|section| (section.gpa.start().0 / PAGE_SIZE, section.gpa.pages()))
        .collect();
    all.sort_unstable();
    all.dedup_by(|next, last| {
        let touches = last.0 + last.1 == next.0;
        last.1 += if touches { next.1 } else { 0 };
        touches
    });
    all
}

fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |number, &byte| number << 8 | u64::from(byte))
}

/// Reads a message.
pub(crate) fn parse(format: Format, message: &[u8], ram: &[Run]) -> Parsed {
    let is_ram = |first: u64, count: u64| {
        let inside = |&(start, pages): &Run| {
            first >= start && u128::from(first - start) + u128::from(count) <= u128::from(pages)
        };
        count > 0 && ram.iter().any(inside)
    };
    let none = Parsed {
        left_out: Some(message.len() as u64),
        ..Parsed::default()
    };
    let head = format.head();
    if message.len() < head {
        return none;
    }
    let entries = &message[head..];
    let said = number(&message[head - 4..head]);
    let fits = match format {
        Format::Ranges => said == entries.len() as u64 && said.is_multiple_of(8),
        _ => said <= 4096 && said * 16 == entries.len() as u64,
    };
    if !fits {
        return none;
    }
    let (mut parsed, mut at) = (Parsed::default(), 0);
    while at < entries.len() {
        let first = number(&entries[at..at + 8]);
        let second = entries.get(at + 8..at + 16).map(number);
        let (len, run) = match (format, first % 4096, second) {
            (Format::Ranges, 0, second) => {
                parsed.doubtful |= second.is_some() && first >> 12 & 1 == 1;
                (16, second.map(|count| (first >> 12, count)))
            }
            (Format::Ranges, count, _) => (8, Some((first >> 12, count))),
            (_, 0, Some(size)) if size % 4096 == 0 => (16, Some((first >> 12, size >> 12))),
            _ => (16, None),
        };
        let Some(run) = run.filter(|&(first, count)| is_ram(first, count)) else {
            parsed.left_out = Some((entries.len() - at) as u64);
            break;
        };
        parsed.runs.push(run);
        at += len;
    }
    parsed
}

/// The same pages, each once, in PFNs.
pub(crate) fn as_pfns(runs: &[Run]) -> Vec<u8> {
    let pages: BTreeSet<u64> = runs
        .iter()
        .flat_map(|&(first, count)| first..first + count)
        .collect();
    let single: Vec<Run> = pages.into_iter().map(|page| (page, 1)).collect();
    encode(Format::Pfns, &single, Words::Short)
}

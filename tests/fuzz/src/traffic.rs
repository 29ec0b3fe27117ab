// SPDX-License-Identifier: GPL-2.0-or-later
//! What Linux guests sent through the balloon: `traffic/record.py` says how it was recorded, and
//! what the files look like.

use std::sync::OnceLock;

use crate::input::Input;

/// One file for each guest.
const FILES: [&[u8]; 2] = [
    include_bytes!("../traffic/linux-6.1"),
    include_bytes!("../traffic/linux-7.3"),
];

/// What an entry is, by the numbers of the recorder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The features that a driver accepted.
    Features = 0,
    /// A map of guest memory: first pages and counts.
    Memory = 1,
    /// Requests of page numbers.
    Inflate = 2,
    /// The same of the deflate queue.
    Deflate = 3,
    /// A report: first pages and counts.
    Report = 4,
    /// Statistics.
    Stats = 5,
    /// The id that a round of hints begins or ends with.
    HintId = 6,
    /// A hint: the first page and how many.
    Hint = 7,
    /// The driver's image of the configuration space.
    Config = 8,
    /// `num_pages`, `actual` and `poison_val` of a device that moved.
    State = 10,
    /// The set of pages that moved with it.
    Pages = 11,
}

struct Entry {
    kind: u8,
    bytes: &'static [u8],
}

fn entries() -> &'static [Entry] {
    static ENTRIES: OnceLock<Vec<Entry>> = OnceLock::new();
    ENTRIES.get_or_init(|| FILES.into_iter().flat_map(read).collect())
}

fn read(mut file: &'static [u8]) -> Vec<Entry> {
    let mut entries = Vec::new();
    while let [kind, low, high, rest @ ..] = file {
        let (bytes, behind) = rest.split_at(u16::from_le_bytes([*low, *high]).into());
        entries.push(Entry { kind: *kind, bytes });
        file = behind;
    }
    entries
}

/// All recorded entries of a kind.
pub fn all(kind: Kind) -> impl Iterator<Item = &'static [u8]> {
    let entries = entries().iter();
    let entries = entries.filter(move |entry| entry.kind == kind as u8);
    entries.map(|entry| entry.bytes)
}

/// One of the entries of a kind.
pub(crate) fn any(input: &mut Input<'_>, kind: Kind) -> &'static [u8] {
    let count = all(kind).count();
    let number = input.index(count.max(1));
    all(kind).nth(number).unwrap_or_default()
}

/// One of them, now and then with other bytes in it.
pub(crate) fn mostly(input: &mut Input<'_>, kind: Kind) -> Vec<u8> {
    let mut bytes = any(input, kind).to_vec();
    while input.one_in(4) && !bytes.is_empty() {
        let at = input.index(bytes.len());
        match input.below(3) {
            0 => bytes[at] ^= 1 << input.below(8),
            1 => bytes.truncate(at),
            _ => bytes[at] = input.any(),
        }
    }
    bytes
}

/// First pages and counts, as reports, hints and maps have them.
pub(crate) fn runs(bytes: &[u8]) -> impl Iterator<Item = (u64, u64)> {
    bytes.chunks_exact(8).map(|pair| {
        let number =
            |at: usize| u32::from_le_bytes([pair[at], pair[at + 1], pair[at + 2], pair[at + 3]]);
        (number(0).into(), number(4).into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_guest_sent_something_over_each_of_its_queues() {
        let kinds = [
            Kind::Features,
            Kind::Memory,
            Kind::Inflate,
            Kind::Deflate,
            Kind::Report,
            Kind::Stats,
            Kind::HintId,
            Kind::Hint,
            Kind::Config,
            Kind::State,
            Kind::Pages,
        ];
        for file in FILES {
            let entries = read(file);
            for kind in kinds {
                let is_there = entries.iter().any(|entry| entry.kind == kind as u8);
                assert!(is_there, "{kind:?}");
            }
        }
    }

    #[test]
    fn requests_and_reports_name_memory_of_the_guest() {
        let maps: Vec<_> = all(Kind::Memory).flat_map(runs).collect();
        let is_ram = |page| {
            maps.iter()
                .any(|&(first, count)| (first..first + count).contains(&page))
        };
        for request in all(Kind::Inflate).chain(all(Kind::Deflate)) {
            let pfns = request.chunks_exact(4);
            assert!(pfns.remainder().is_empty());
            for pfn in pfns {
                let page = u32::from_le_bytes([pfn[0], pfn[1], pfn[2], pfn[3]]);
                assert!(is_ram(page.into()), "{page:#x}");
            }
        }
        for (first, count) in all(Kind::Report).chain(all(Kind::Hint)).flat_map(runs) {
            assert!(count > 0 && is_ram(first) && is_ram(first + count - 1));
        }
    }
}

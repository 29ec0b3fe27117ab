// SPDX-License-Identifier: GPL-2.0-or-later
//! Payloads of requests and answers: most of them well formed, with numbers that are not.

use crate::input::Input;
use crate::traffic::{self, Kind};
use crate::worlds::model::mock::{END, HUGE, LONG};

/// How a payload is laid out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Page numbers.
    Pfns,
    /// A response's header and words that name ranges: inflate, deflate.
    Ranges,
    /// A count and chunks: inflate, deflate.
    Chunks,
    /// Ranges as an answer of the request queue.
    Response,
    /// Chunks as an answer of the misc queue.
    MiscChunks,
}

/// Entries of a message.
const ENTRIES: u64 = 24;

/// A payload.
pub(crate) fn request(input: &mut Input<'_>, layout: Layout) -> Vec<u8> {
    match input.below(10) {
        8 if layout == Layout::Pfns => {
            let queue = input.pick(&[Kind::Inflate, Kind::Deflate]);
            return traffic::mostly(input, queue);
        }
        9 => return input.bytes(400).to_vec(),
        _ => {}
    }
    if layout == Layout::Pfns {
        return pfns(input);
    }
    let mut entries = Vec::new();
    for _ in 0..input.below(ENTRIES) {
        let (first, count) = run(input);
        match layout {
            Layout::Ranges | Layout::Response if (1..4096).contains(&count) && input.any() => {
                entries.push(first << 12 | count);
            }
            Layout::Ranges | Layout::Response => entries.extend([first << 12, count]),
            _ => entries.extend([first << 12, count << 12]),
        }
    }
    if input.one_in(12) {
        entries.push(input.number());
    }
    let mut message = head(input, layout, entries.len());
    message.extend(entries.into_iter().flat_map(u64::to_le_bytes));
    if input.one_in(12) {
        message.truncate(input.index(message.len() + 1));
    }
    message
}

fn head(input: &mut Input<'_>, layout: Layout, words: usize) -> Vec<u8> {
    let wrong = match input.one_in(12) {
        true => input.number() as u32,
        false => 0,
    };
    let bytes = (words as u32 * 8).wrapping_add(wrong).to_le_bytes();
    let chunks = (words as u32 / 2).wrapping_add(wrong).to_le_bytes();
    let flag = input.pick(&[0u8, 1, 0, 1, 2]);
    let command = input.pick(&[0u8, 0, 0, 1]);
    let id = input.below(4) as u8;
    match layout {
        Layout::Ranges | Layout::Response => [&[command, flag, id, 0][..], &bytes].concat(),
        Layout::MiscChunks => [&[command, 0, flag, 0][..], &chunks].concat(),
        Layout::Pfns | Layout::Chunks => chunks.to_vec(),
    }
}

fn pfns(input: &mut Input<'_>) -> Vec<u8> {
    let mut pfns = Vec::new();
    for _ in 0..1 + input.below(3) {
        let (first, count) = run(input);
        let apart = 1 + input.below(3);
        let pages = (0..count.min(1500)).map(|i| first.wrapping_add(i * apart) as u32);
        pfns.extend(pages);
    }
    let mut payload: Vec<u8> = pfns.into_iter().flat_map(u32::to_le_bytes).collect();
    payload.resize(payload.len() + input.index(4), 1);
    payload
}

/// Pages that follow each other: the first, and how many.
fn run(input: &mut Input<'_>) -> (u64, u64) {
    match input.below(8) {
        0 | 1 => (input.below(170), 1 + input.below(80)),
        2 => (HUGE + input.below(2100), input.below(1200)),
        3 => (HUGE + input.below(16) * 128, 128 * (1 + input.below(8))),
        4 => (LONG + input.below(END - LONG), input.below(5000)),
        5 => (LONG, 4094 + input.below(4)),
        6 => (0, 1 << input.below(41)),
        _ => (input.number(), input.number()),
    }
}

// SPDX-License-Identifier: GPL-2.0-or-later
//! The checking program: fills memory of its own and keeps looking whether
//! every word is still what was written.
//!
//! It says `filled` when the memory is filled, `pass N` after each look at all
//! of it, and `mismatch ...` at the first wrong word, where it stops.

use std::io::{self, Write};
use std::thread::sleep;
use std::time::Duration;

use crate::bench;

const PAGE_WORDS: usize = 4096 / 8;
/// Big enough for the guest to use huge pages.
const WHOLE_CHUNK: usize = 4 << 20;
/// Smaller than a page block, so that dropping every second one leaves memory
/// in pieces; big enough that each is a mapping of its own and really freed.
const HOLED_CHUNK: usize = 128 << 10;

struct Chunk {
    first_page: u64,
    words: Vec<u64>,
}

/// `MIB SEED [holes|rewrite]`. With `holes` it fills MIB and gives every second
/// chunk back; with `rewrite` it does what [`crate::bench`] says. Runs until it is
/// killed or a word is wrong.
pub(crate) fn main(args: &[String]) {
    let number = |i: usize| args.get(i).and_then(|a| a.parse::<u64>().ok());
    let (Some(mib), Some(seed)) = (number(0), number(1)) else {
        say("mismatch bad arguments");
        return;
    };
    if args.get(2).is_some_and(|a| a == "rewrite") {
        bench::rewrite(mib, seed);
        return;
    }
    let holes = args.get(2).is_some_and(|a| a == "holes");
    let chunk_bytes = if holes { HOLED_CHUNK } else { WHOLE_CHUNK };
    let mut chunks = fill((mib as usize) << 20, chunk_bytes, seed);
    if holes {
        let mut nth = 0;
        chunks.retain(|_| {
            nth += 1;
            nth % 2 == 0
        });
    }
    say("filled");
    check_for_ever(&chunks, seed);
}

fn fill(bytes: usize, chunk_bytes: usize, seed: u64) -> Vec<Chunk> {
    let pages = (chunk_bytes / 4096) as u64;
    (0..bytes.div_ceil(chunk_bytes) as u64)
        .map(|i| {
            let mut words = vec![0u64; chunk_bytes / 8];
            for (p, page) in words.chunks_mut(PAGE_WORDS).enumerate() {
                let mut want = pattern(i * pages + p as u64, seed);
                for word in page {
                    *word = want;
                    want = want.wrapping_add(STEP);
                }
            }
            Chunk {
                first_page: i * pages,
                words,
            }
        })
        .collect()
}

pub(crate) const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The first word of a page; the following ones go up by `STEP`. Never the same
/// for two pages, so a page that came back in another's place is seen.
pub(crate) fn pattern(page: u64, seed: u64) -> u64 {
    let mixed = (page ^ (seed << 32)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed ^ (mixed >> 33) | 1
}

fn check_for_ever(chunks: &[Chunk], seed: u64) {
    for pass in 1u64.. {
        for chunk in chunks {
            if let Some(what) = first_mismatch(chunk, seed) {
                say(&format!("mismatch {what}"));
                return;
            }
            // One processor is shared with the driver that is being tested.
            if chunk.words.len() * 8 >= WHOLE_CHUNK {
                sleep(Duration::from_millis(1));
            }
        }
        say(&format!("pass {pass}"));
        sleep(Duration::from_millis(50));
    }
}

fn first_mismatch(chunk: &Chunk, seed: u64) -> Option<String> {
    for (p, words) in chunk.words.chunks(PAGE_WORDS).enumerate() {
        let page = chunk.first_page + p as u64;
        let mut want = pattern(page, seed);
        for (w, &got) in words.iter().enumerate() {
            if got != want {
                return Some(format!("page {page} word {w}: {got:#x}, not {want:#x}"));
            }
            want = want.wrapping_add(STEP);
        }
    }
    None
}

/// A closed pipe means that nobody is interested any more.
pub(crate) fn say(line: &str) {
    let mut out = io::stdout().lock();
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

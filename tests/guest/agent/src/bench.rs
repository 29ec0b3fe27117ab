// SPDX-License-Identifier: GPL-2.0-or-later
//! The busy program of the benchmark: writes its memory anew all the time.

use crate::memory::say;

const PAGE_WORDS: usize = 4096 / 8;

/// Fills `mib` MiB and writes every page again, pass after pass, without a pause.
/// Says `filled`, `pass N` and `mismatch ...` as the checking program does.
pub(crate) fn rewrite(mib: u64, seed: u64) {
    let mut words = vec![seed; (mib as usize) << 17];
    say("filled");
    let mut before = seed;
    for pass in 1u64.. {
        let now = seed.wrapping_add(pass);
        for (number, page) in words.chunks_mut(PAGE_WORDS).enumerate() {
            let (first, last) = (page[0], page[page.len() - 1]);
            if first != before || last != before {
                say(&format!(
                    "mismatch page {number}: {first:#x} and {last:#x}, not {before:#x}"
                ));
                return;
            }
            page.fill(now);
        }
        before = now;
        say(&format!("pass {pass}"));
    }
}

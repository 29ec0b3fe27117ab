// SPDX-License-Identifier: GPL-2.0-or-later
//! The scattering program: writes words at random places of its memory, some at a time.
//!
//! It says `filled` when the memory is there and `pass N` now and then.

use std::thread::sleep;
use std::time::Duration;

use crate::memory::say;

const PAGE_WORDS: usize = 4096 / 8;
/// So that a checkpoint has some pages to copy, and not all of them.
const BURST: usize = 64;
const REST: Duration = Duration::from_millis(1);
const BURSTS_A_PASS: u64 = 256;

/// `MIB SEED`. Runs until it is killed.
pub(crate) fn main(args: &[String]) {
    let number = |i: usize| args.get(i).and_then(|a| a.parse::<u64>().ok());
    let (Some(mib), Some(seed)) = (number(0), number(1)) else {
        say("mismatch bad arguments");
        return;
    };
    let mut words = vec![seed | 1; (mib as usize) << 17];
    say("filled");
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for burst in 1u64.. {
        for _ in 0..BURST {
            // Marsaglia's xorshift.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let at = (random >> 16) as usize % words.len();
            words[at] = random;
            // A page that is written to in one go.
            if random & 0xf == 0 {
                let page = at - at % PAGE_WORDS;
                words[page..][..PAGE_WORDS].fill(random);
            }
        }
        if burst % BURSTS_A_PASS == 0 {
            say(&format!("pass {}", burst / BURSTS_A_PASS));
        }
        sleep(REST);
    }
}

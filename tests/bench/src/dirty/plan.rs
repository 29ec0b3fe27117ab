// SPDX-License-Identifier: GPL-2.0-or-later
//! What is measured: sizes of guests, shares of dirty pages, and where these lie.

use clap::ValueEnum;

use crate::plan::Random;

/// Guest RAM in GiB: powers of two.
pub const RAM_GIB: [u64; 6] = [4, 16, 64, 256, 1024, 4096];
/// Dirty pages of a million.
pub const SHARES_PPM: [u64; 6] = [1, 10, 100, 1000, 10_000, 100_000];
/// With more dirty pages than these a round takes half a minute; they are 64 GiB.
pub const MOST_PAGES: u64 = 1 << 24;
/// The aim: at 1 TiB and 0.001 % a round is so many times cheaper with the list.
pub const AIM: (u64, u64, f64) = (1024, 10, 100.0);

const MILLION: u64 = 1_000_000;
/// Runs that dirty pages make where they are not scattered.
const RUNS: u64 = 16;

/// Where dirty pages lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Place {
    /// Each for itself, others in each round: nothing about them is in a cache.
    Scattered,
    /// The same scattered pages in each round.
    Same,
    /// In 16 runs, elsewhere in each round.
    Runs,
}

impl Place {
    /// All, in the order of the tables.
    pub const ALL: [Place; 3] = [Place::Scattered, Place::Same, Place::Runs];

    /// In tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Place::Scattered => "scattered",
            Place::Same => "same",
            Place::Runs => "runs",
        }
    }

    /// As a heading.
    pub fn title(self) -> &'static str {
        match self {
            Place::Scattered => "scattered pages, others in each round",
            Place::Same => "scattered pages, the same in each round",
            Place::Runs => "pages in 16 runs, elsewhere in each round",
        }
    }
}

/// A guest and what it wrote to between two rounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    /// Its RAM in GiB, a power of two.
    pub ram_gib: u64,
    /// Dirty pages of a million.
    pub ppm: u64,
    /// Where they lie.
    pub place: Place,
}

impl Case {
    /// Pages of the guest.
    pub fn ram_pages(self) -> u64 {
        self.ram_gib << (30 - 12)
    }

    /// Dirty pages of a round.
    pub fn count(self) -> u64 {
        (self.ram_pages() * self.ppm / MILLION).max(1)
    }

    /// The dirty pages of a round, each once, in the order in which they are found.
    pub fn pages(self, round: u64) -> Vec<u64> {
        let (all, count) = (self.ram_pages(), self.count());
        let numbers = |from: u64| (from..from + count).map(move |n| scattered(n % all, all));
        match self.place {
            Place::Scattered => numbers(round * count).collect(),
            Place::Same => numbers(0).collect(),
            Place::Runs => {
                let runs = RUNS.min(count);
                let part = all / runs;
                let mut random = Random(round);
                let run = move |n: u64| {
                    let len = count / runs + u64::from(n < count % runs);
                    let first = n * part + random.number() % (part - len + 1);
                    first..first + len
                };
                (0..runs).flat_map(run).collect()
            }
        }
    }
}

/// Where page `n` of `all` goes, a power of two: each has a place of its own, and neighbours are far
/// from each other.
fn scattered(n: u64, all: u64) -> u64 {
    let (mask, half) = (all - 1, all.ilog2() / 2);
    let mut at = n;
    for odd in [0x9e37_79b9_7f4a_7c15_u64, 0xbf58_476d_1ce4_e5b9] {
        at = at.wrapping_mul(odd) & mask;
        at ^= at >> half;
    }
    at.wrapping_mul(0x94d0_49bb_1331_11eb) & mask
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_page_is_dirty_twice_in_a_round() {
        for place in Place::ALL {
            for (ram_gib, ppm) in [(4, 1), (4, 100_000), (16, 1000)] {
                let case = Case {
                    ram_gib,
                    ppm,
                    place,
                };
                for round in [0, 1, 77] {
                    let pages = case.pages(round);
                    assert_eq!(pages.len() as u64, case.count());
                    assert!(pages.iter().all(|&page| page < case.ram_pages()));
                    let set: BTreeSet<u64> = pages.iter().copied().collect();
                    assert_eq!(set.len(), pages.len(), "{case:?}, round {round}");
                }
            }
        }
    }

    #[test]
    fn places_differ_in_neighbours_and_from_round_to_round() {
        let case = |place| Case {
            ram_gib: 16,
            ppm: 1000,
            place,
        };
        let neighbours = |place| {
            let mut pages = case(place).pages(3);
            pages.sort_unstable();
            let pairs = pages.windows(2);
            pairs.filter(|pair| pair[0] + 1 == pair[1]).count() as u64
        };
        let count = case(Place::Runs).count();
        assert!(neighbours(Place::Scattered) < count / 50);
        assert_eq!(neighbours(Place::Runs), count - RUNS);
        let moves = |place| case(place).pages(1) != case(place).pages(2);
        assert_eq!(Place::ALL.map(moves), [true, false, true]);
    }

    #[test]
    fn a_share_is_of_all_pages() {
        let (ram_gib, ppm, _) = AIM;
        let place = Place::Scattered;
        let case = Case {
            ram_gib,
            ppm,
            place,
        };
        assert_eq!(case.count(), 2684);
    }
}

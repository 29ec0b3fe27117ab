// SPDX-License-Identifier: GPL-2.0-or-later
//! Rounds by scan and by list, in turn.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use guest::{Error, Result};

use crate::dirty::list::{self, Bitmaps, Listed};
use crate::dirty::plan::{AIM, Case, MOST_PAGES, Place, SHARES_PPM};
use crate::dirty::scan::{self, Scan};
use crate::figures::Spread;

/// A case is measured for so long at most, but at least so often.
const TIME: Duration = Duration::from_millis(400);
const ROUNDS: RangeInclusive<usize> = 3..=50;
/// So many rounds by scan follow each other, then as many by list: a scan would empty the processor's
/// caches for the list, and with a list nobody scans.
const STRETCH: u64 = 5;
/// Where a round takes so many pages there are no caches to speak of.
const MANY: u64 = 1 << 20;
/// Before that come rounds with the list alone, until it allocates no more than this part of what it
/// has; the scan has its memory from the beginning.
const SETTLED: u64 = 100;
const WARM: Duration = Duration::from_millis(200);
/// Above this share only scattered pages are measured: the others are far on the list's wrong side.
const MOST_PPM: u64 = 10_000;

/// What one case took.
#[derive(Debug, Clone)]
pub struct Round {
    /// Which.
    pub case: Case,
    /// Nanoseconds of each of [`scan::PARTS`], round by round.
    pub scan: Vec<[f64; scan::PARTS.len()]>,
    /// The same of [`list::PARTS`].
    pub list: Vec<[f64; list::PARTS.len()]>,
    /// Bytes that the list had allocated after its first round, and behind the last one.
    pub list_bytes: (u64, u64),
}

impl Round {
    /// Nanoseconds of a round by scan.
    pub fn scan_ns(&self) -> Spread {
        sums(&self.scan)
    }

    /// The same with as many address spaces with slots as x86 with SMM has: two.
    pub fn scan_twice_ns(&self) -> Spread {
        let twice = |parts: &[f64; scan::PARTS.len()]| {
            let more = scan::PER_ADDRESS_SPACE.iter().map(|&part| parts[part]);
            parts.iter().sum::<f64>() + more.sum::<f64>()
        };
        spread(self.scan.iter().map(twice))
    }

    /// Nanoseconds of a round by list.
    pub fn list_ns(&self) -> Spread {
        sums(&self.list)
    }

    /// Medians of the parts of a round by scan.
    pub fn scan_parts(&self) -> [f64; scan::PARTS.len()] {
        medians(&self.scan)
    }

    /// Medians of the parts of a round by list.
    pub fn list_parts(&self) -> [f64; list::PARTS.len()] {
        medians(&self.list)
    }

    /// How many times as long the scan takes.
    pub fn times(&self) -> f64 {
        self.scan_ns().median / self.list_ns().median
    }
}

fn sums<const N: usize>(rounds: &[[f64; N]]) -> Spread {
    spread(rounds.iter().map(|parts| parts.iter().sum()))
}

fn medians<const N: usize>(rounds: &[[f64; N]]) -> [f64; N] {
    std::array::from_fn(|part| spread(rounds.iter().map(|parts| parts[part])).median)
}

/// A case has at least one round.
fn spread(values: impl Iterator<Item = f64>) -> Spread {
    Spread::of(values).unwrap_or(Spread {
        median: f64::NAN,
        least: f64::NAN,
        most: f64::NAN,
    })
}

/// Measures all cases with so much RAM.
///
/// # Errors
/// When the two do not find the same pages.
pub fn run(ram_gib: u64, rounds: &mut Vec<Round>) -> Result<()> {
    let smallest = Case {
        ram_gib,
        ppm: SHARES_PPM[0],
        place: Place::Scattered,
    };
    let mut scan = Scan::new(smallest.ram_pages());
    let mut bitmaps = Bitmaps::new(smallest.ram_pages());
    for place in Place::ALL {
        for ppm in SHARES_PPM {
            let case = Case {
                ram_gib,
                ppm,
                place,
            };
            if case.count() <= MOST_PAGES && (ppm <= MOST_PPM || place == Place::Scattered) {
                rounds.push(one(case, &mut scan, &mut bitmaps)?);
            }
        }
        let mine = rounds.iter();
        let mine = mine.filter(|r| r.case.ram_gib == ram_gib && r.case.place == place);
        let times: Vec<String> = mine.map(|r| format!("{:.1}", r.times())).collect();
        println!(
            "  {ram_gib} GiB, {}: scan / list {}",
            place.name(),
            times.join(", ")
        );
    }
    Ok(())
}

fn one(case: Case, scan: &mut Scan, bitmaps: &mut Bitmaps) -> Result<Round> {
    let mut listed = Listed::new(case.count() as usize)?;
    let mut next = 0;
    let mut pages = || {
        next += 1;
        case.pages(next - 1)
    };
    let first_bytes = warm_up(&mut pages, &mut listed, bitmaps)?;
    let mut round = Round {
        case,
        scan: Vec::new(),
        list: Vec::new(),
        list_bytes: (first_bytes, 0),
    };
    let stretch = if case.count() < MANY { STRETCH } else { 1 };
    let begun = Instant::now();
    while round.scan.len() < *ROUNDS.start()
        || round.scan.len() < *ROUNDS.end() && begun.elapsed() < TIME
    {
        let all: Vec<Vec<u64>> = (0..stretch).map(|_| pages()).collect();
        for pages in &all {
            let (found, ns) = scan.round(pages);
            found_all(case, "scan", found)?;
            scan.sent(pages);
            round.scan.push(ns);
        }
        for pages in &all {
            let (found, ns) = listed.round(bitmaps, pages)?;
            found_all(case, "list", found)?;
            bitmaps.sent(pages);
            round.list.push(ns);
        }
    }
    round.list_bytes.1 = listed.bytes();
    Ok(round)
}

/// Rounds by list until it allocates no more to speak of; gives the bytes after the first.
fn warm_up(
    pages: &mut impl FnMut() -> Vec<u64>,
    listed: &mut Listed,
    bitmaps: &mut Bitmaps,
) -> Result<u64> {
    let begun = Instant::now();
    let mut first_bytes = None;
    loop {
        let (pages, before) = (pages(), listed.bytes());
        listed.round(bitmaps, &pages)?;
        bitmaps.sent(&pages);
        let bytes = listed.bytes();
        let first = *first_bytes.get_or_insert(bytes);
        if bytes <= before + before / SETTLED || begun.elapsed() > WARM {
            return Ok(first);
        }
    }
}

fn found_all(case: Case, way: &str, found: u64) -> Result<()> {
    match found == case.count() {
        true => Ok(()),
        false => Err(Error::Tool(format!(
            "{case:?}: the {way} found {found} pages"
        ))),
    }
}

/// The share of dirty pages, of a million, from which on the scan is as cheap as the list, among cases
/// with rising shares; the scales between two of them are logarithmic.
pub fn crossover(cases: &[&Round]) -> Option<f64> {
    let points = cases.iter().map(|r| (r.case.ppm as f64, r.times()));
    let points: Vec<(f64, f64)> = points.collect();
    points.windows(2).find_map(|pair| {
        let [(share, times), (next_share, next_times)] = [pair[0], pair[1]];
        let crosses = times >= 1.0 && next_times < 1.0;
        let part = times.ln() / (times.ln() - next_times.ln());
        crosses.then(|| share * (next_share / share).powf(part))
    })
}

/// The cases at which the aim is.
pub fn aim(rounds: &[Round]) -> impl Iterator<Item = &Round> {
    let (ram_gib, ppm, _) = AIM;
    rounds
        .iter()
        .filter(move |r| (r.case.ram_gib, r.case.ppm) == (ram_gib, ppm))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(ppm: u64, scan_ns: f64, list_ns: f64) -> Round {
        let place = Place::Scattered;
        Round {
            case: Case {
                ram_gib: 4,
                ppm,
                place,
            },
            scan: vec![[scan_ns, 0.0, 0.0, 0.0]],
            list: vec![[list_ns, 0.0, 0.0]],
            list_bytes: (0, 0),
        }
    }

    #[test]
    fn the_crossover_lies_between_the_shares_around_it() {
        let rounds = [
            round(1, 100.0, 1.0),
            round(10, 100.0, 10.0),
            round(1000, 100.0, 10_000.0),
        ];
        let all: Vec<&Round> = rounds.iter().collect();
        let at = crossover(&all).unwrap();
        assert!((46.0..47.0).contains(&at), "{at}");
        assert_eq!(crossover(&all[..2]), None);
    }

    #[test]
    fn two_address_spaces_have_two_slots_each() {
        let mut one = round(1, 0.0, 1.0);
        one.scan = vec![[1.0, 10.0, 100.0, 1000.0]];
        assert_eq!(one.scan_ns().median, 1111.0);
        assert_eq!(one.scan_twice_ns().median, 1221.0);
    }
}

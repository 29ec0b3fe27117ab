// SPDX-License-Identifier: GPL-2.0-or-later
//! The bytes that carry a set of pages in a migration stream.
//!
//! The set's runs ascend, and each is two numbers: how many pages lie between the run before, or
//! page 0, and this one; and how many it holds. A number is LEB128: seven bits to a byte, the
//! lowest first, all bytes but the last with their top bit set.
//!
//! A set has one coding only, and what is not one is refused by name: a stream that was damaged, or
//! made up, is seen to be so.

use crate::error::Error;
use std::ops::Range;

/// PFNs have 32 bits, so no set of pages ever needs more.
pub const PAGE_LIMIT: u64 = 1 << 32;

/// The most bytes of a coded set. They are sent while the guest stands still, and the destination
/// allocates what the stream says, so there has to be a bound: 4 MiB take 4 ms on a link of 10
/// Gbit/s, and hold a million runs with gaps and lengths below 16384 pages (64 MiB) at least, two
/// million of those below 128 pages.
pub const MAX_BYTES: usize = 4 << 20;

/// The most bytes of a number: those of 2^32.
const NUMBER_BYTES: usize = 5;

/// What became of a set that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// How many bytes it took.
    pub bytes: usize,
    /// Whether all runs are in them.
    pub complete: bool,
}

/// Writes `runs`, which ascend and do not touch each other, to the start of `out`.
///
/// Runs that do not fit are left out, from the first one on: nothing is wrong with a set that lacks
/// pages, as a page that is not in it is never discarded by mistake.
pub fn encode(runs: impl IntoIterator<Item = Range<u64>>, out: &mut [u8]) -> Written {
    let mut bytes = 0;
    let mut end = 0;
    for run in runs {
        let (gap, len) = (run.start - end, run.end - run.start);
        // Where there are many runs most are of this kind.
        if gap < 0x80
            && len < 0x80
            && let Some(place) = out.get_mut(bytes..bytes + 2)
        {
            place.copy_from_slice(&[gap as u8, len as u8]);
            bytes += 2;
            end = run.end;
            continue;
        }
        let mut coded = [0; 2 * NUMBER_BYTES];
        let behind = put(&mut coded, 0, gap);
        let len = put(&mut coded, behind, len);
        let Some(place) = out.get_mut(bytes..bytes + len) else {
            return Written {
                bytes,
                complete: false,
            };
        };
        place.copy_from_slice(&coded[..len]);
        bytes += len;
        end = run.end;
    }
    Written {
        bytes,
        complete: true,
    }
}

/// Writes a number from `at` on; returns where it ends.
fn put(out: &mut [u8; 2 * NUMBER_BYTES], mut at: usize, mut number: u64) -> usize {
    while number >= 0x80 {
        out[at] = 0x80 | number as u8;
        number >>= 7;
        at += 1;
    }
    out[at] = number as u8;
    at + 1
}

/// The runs that `coded` holds: they ascend, none touches another, and none reaches past
/// [`PAGE_LIMIT`]. The first error is the last item.
pub fn decode(coded: &[u8]) -> impl Iterator<Item = Result<Range<u64>, Error>> {
    let mut rest = coded;
    let mut end = None;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let run = take_run(&mut rest, end);
        match &run {
            Ok(run) => end = Some(run.end),
            Err(_) => rest = &[],
        }
        Some(run)
    })
}

/// Takes the run behind the one that ended at `before`.
fn take_run(rest: &mut &[u8], before: Option<u64>) -> Result<Range<u64>, Error> {
    let gap = take_number(rest)?;
    let len = take_number(rest)?;
    if len == 0 || (gap == 0 && before.is_some()) {
        return Err(Error::StatePagesRun);
    }
    // Each of the three is below 2^35.
    let start = before.unwrap_or(0) + gap;
    let run = start..start + len;
    if run.end > PAGE_LIMIT {
        return Err(Error::StatePagesLimit);
    }
    Ok(run)
}

fn take_number(rest: &mut &[u8]) -> Result<u64, Error> {
    let mut number = 0;
    for place in 0..NUMBER_BYTES {
        let (&byte, behind) = rest.split_first().ok_or(Error::StatePagesCut)?;
        *rest = behind;
        number |= u64::from(byte & 0x7f) << (7 * place);
        if byte < 0x80 {
            // A last byte of 0 says nothing, unless it is the only one.
            let shortest = byte != 0 || place == 0;
            return shortest.then_some(number).ok_or(Error::StatePagesNumber);
        }
    }
    Err(Error::StatePagesNumber)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    type Runs = Vec<Range<u64>>;

    fn run(start: u64, end: u64) -> Range<u64> {
        start..end
    }

    fn coded(runs: &[Range<u64>]) -> Vec<u8> {
        let mut out = vec![0; 64 + runs.len() * 2 * NUMBER_BYTES];
        let written = encode(runs.iter().cloned(), &mut out);
        assert!(written.complete);
        out.truncate(written.bytes);
        out
    }

    fn decoded(bytes: &[u8]) -> Result<Runs, Error> {
        decode(bytes).collect()
    }

    #[test]
    fn the_bytes_are_these() {
        assert_eq!(coded(&[]), []);
        assert_eq!(coded(&[run(0, 1)]), [0, 1]);
        assert_eq!(coded(&[5..6, 7..10]), [5, 1, 1, 3]);
        assert_eq!(coded(&[run(300, 428)]), [0xac, 0x02, 0x80, 0x01]);
        let all = [0, 0x80, 0x80, 0x80, 0x80, 0x10];
        assert_eq!(coded(&[run(0, PAGE_LIMIT)]), all);
        assert_eq!(decoded(&all), Ok(vec![run(0, PAGE_LIMIT)]));
        let last = [0xff, 0xff, 0xff, 0xff, 0x0f, 1];
        assert_eq!(coded(&[run(PAGE_LIMIT - 1, PAGE_LIMIT)]), last);
        assert_eq!(decoded(&last), Ok(vec![run(PAGE_LIMIT - 1, PAGE_LIMIT)]));
    }

    #[test]
    fn what_is_no_coding_is_refused_by_name() {
        let refused: &[(&[u8], Error)] = &[
            // The end is missing: in a number, and between two.
            (&[0x80], Error::StatePagesCut),
            (&[5, 0x80, 0x80], Error::StatePagesCut),
            (&[5], Error::StatePagesCut),
            (&[5, 1, 1], Error::StatePagesCut),
            // Longer than it needs to be, or than any can be.
            (&[0x80, 0, 1], Error::StatePagesNumber),
            (&[5, 0x81, 0x80, 0], Error::StatePagesNumber),
            (
                &[5, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
                Error::StatePagesNumber,
            ),
            // Empty, or part of the run before.
            (&[5, 0], Error::StatePagesRun),
            (&[5, 1, 0, 1], Error::StatePagesRun),
            // One page too far.
            (&[1, 0x80, 0x80, 0x80, 0x80, 0x10], Error::StatePagesLimit),
            (&[0xff, 0xff, 0xff, 0xff, 0x0f, 2], Error::StatePagesLimit),
            (
                &[0, 0xff, 0xff, 0xff, 0xff, 0x0f, 1, 1],
                Error::StatePagesLimit,
            ),
            (
                &[0xff, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0x7f],
                Error::StatePagesLimit,
            ),
        ];
        for (bytes, error) in refused {
            assert_eq!(decoded(bytes), Err(*error), "{bytes:x?}");
        }
    }

    #[test]
    fn nothing_comes_behind_an_error() {
        let mut runs = decode(&[5, 1, 0, 1, 7, 7]);
        assert_eq!(runs.next(), Some(Ok(5..6)));
        assert_eq!(runs.next(), Some(Err(Error::StatePagesRun)));
        assert_eq!(runs.next(), None);
    }

    #[test]
    fn a_set_that_does_not_fit_is_cut_between_runs() {
        let runs = [5..6, 300..428, 1000..1001];
        let whole = coded(&runs);
        for room in 0..=whole.len() {
            let mut out = vec![0xee; whole.len() + 4];
            let written = encode(runs.iter().cloned(), &mut out[..room]);
            assert_eq!(written.complete, room == whole.len());
            assert!(out[room..].iter().all(|&byte| byte == 0xee));
            let kept = decoded(&out[..written.bytes]).unwrap();
            assert_eq!(kept, runs[..kept.len()]);
            let next = coded(&runs[..runs.len().min(kept.len() + 1)]);
            assert!(written.complete || next.len() > room, "one more would fit");
        }
    }

    /// Sets of pages from one end of what there is to the other, crowded and sparse.
    fn pages() -> impl Strategy<Value = BTreeSet<u64>> {
        let page = prop_oneof![
            0..40u64,
            0..5000u64,
            (0..PAGE_LIMIT),
            PAGE_LIMIT - 40..PAGE_LIMIT
        ];
        let stretch = (page, prop_oneof![Just(1), 1..300u64]);
        prop::collection::vec(stretch, 0..60).prop_map(|stretches| {
            let pages = stretches
                .into_iter()
                .flat_map(|(first, count)| first..(first + count).min(PAGE_LIMIT));
            pages.collect()
        })
    }

    /// The runs of a set of numbers, found one by one.
    fn runs_of(pages: &BTreeSet<u64>) -> Runs {
        let mut runs = Runs::new();
        for &page in pages {
            match runs.last_mut() {
                Some(run) if run.end == page => run.end += 1,
                _ => runs.push(page..page + 1),
            }
        }
        runs
    }

    proptest! {
        /// What comes out is what went in, cut behind some run where there was too little room.
        #[test]
        fn a_set_comes_back(pages in pages(), room in prop_oneof![Just(4000), 0..200usize]) {
            let runs = runs_of(&pages);
            let mut out = vec![0; room];
            let written = encode(runs.iter().cloned(), &mut out);
            prop_assert!(written.bytes <= room);
            let back = decoded(&out[..written.bytes]).unwrap();
            prop_assert_eq!(&back[..], &runs[..back.len()]);
            prop_assert_eq!(written.complete, back.len() == runs.len());
            let listed: BTreeSet<u64> = back.into_iter().flatten().collect();
            prop_assert!(listed.is_subset(&pages));
            prop_assert!(!written.complete || listed == pages);
        }

        /// Any bytes at all either are refused, or are the very coding of the set that they give.
        #[test]
        fn no_two_codings_of_a_set(
            bytes in prop::collection::vec(prop_oneof![0..4u8, 0x7f..0x83u8, any::<u8>()], 0..40)
        ) {
            if let Ok(runs) = decoded(&bytes) {
                prop_assert!(runs.iter().all(|run| run.start < run.end && run.end <= PAGE_LIMIT));
                prop_assert!(runs.windows(2).all(|pair| pair[0].end < pair[1].start));
                prop_assert_eq!(coded(&runs), bytes);
            }
        }

        /// The same for a coding that one byte was changed in, put into or taken out of.
        #[test]
        fn damage_is_no_second_coding(pages in pages(), at in any::<prop::sample::Index>(),
                                      byte in any::<u8>(), how in 0..3u8) {
            let mut bytes = coded(&runs_of(&pages));
            let at = at.index(bytes.len() + 1);
            match how {
                0 => bytes.insert(at, byte),
                1 if at < bytes.len() => bytes[at] = byte,
                _ => bytes.truncate(at),
            }
            if let Ok(runs) = decoded(&bytes) {
                prop_assert!(runs.iter().all(|run| run.start < run.end && run.end <= PAGE_LIMIT));
                prop_assert_eq!(coded(&runs), bytes);
            }
        }
    }
}

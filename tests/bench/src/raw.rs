// SPDX-License-Identifier: GPL-2.0-or-later
//! The limit: the same memory given back by the system calls alone, each for as much as one kick
//! could be merged to.

use std::time::Instant;

use guest::{Error, Result};

use crate::figures::{Case, RAW, Sample};
use crate::plan::{Backing, HUGE_PAGES, Operation, Run, merged};
use crate::sys::{Region, thread_cpu_ns};

const PAGE: usize = 4096;

/// Gives back the pages of `kicks`; where it takes no call, `None`.
///
/// # Errors
/// When the host has no such memory.
pub fn measure(
    case: Case,
    region_pages: u32,
    kicks: &[&[u32]],
    round: u32,
) -> Result<Option<Sample>> {
    let Case {
        backing, operation, ..
    } = case;
    let deflate = operation == Operation::Deflate;
    if deflate && backing != Backing::Memfd {
        return Ok(None);
    }
    let mut calls: Vec<Run> = match backing {
        Backing::Hugetlb => whole_pages(region_pages, kicks),
        _ => kicks.iter().flat_map(|kick| merged(kick)).collect(),
    };
    calls.retain(|&(_, pages)| pages > 0);
    let what = "give memory of this process back";
    let len = region_pages as usize * PAGE;
    let mut region = Region::new(len, backing).map_err(Error::io("map memory"))?;
    region.fill();
    if deflate {
        region.discard(0..len).map_err(Error::io(what))?;
    }
    let (begun, cpu) = (Instant::now(), thread_cpu_ns());
    for &(first, pages) in &calls {
        let start = first as usize * PAGE;
        let range = start..start + pages as usize * PAGE;
        let done = match deflate {
            true => region.will_need(range),
            false => region.discard(range),
        };
        done.map_err(Error::io(what))?;
    }
    let (wall, cpu) = (begun.elapsed(), thread_cpu_ns() - cpu);
    let pages: usize = kicks.iter().map(|kick| kick.len()).sum();
    Ok((!calls.is_empty()).then(|| Sample {
        case,
        device: RAW,
        round,
        wall_ns: wall.as_nanos() as f64 / pages as f64,
        cpu_ns: cpu as f64 / pages as f64,
        freed: None,
        huge: None,
    }))
}

/// Huge pages in runs, each in the kick that gives its last part away.
fn whole_pages(region_pages: u32, kicks: &[&[u32]]) -> Vec<Run> {
    let mut parts = vec![0; (region_pages / HUGE_PAGES) as usize];
    let mut calls = Vec::new();
    for kick in kicks {
        let mut whole = Vec::new();
        for &page in *kick {
            let huge = page / HUGE_PAGES;
            parts[huge as usize] += 1;
            if parts[huge as usize] == HUGE_PAGES {
                whole.push(huge);
            }
        }
        let runs = merged(&whole);
        calls.extend(runs.iter().map(|&(h, n)| (h * HUGE_PAGES, n * HUGE_PAGES)));
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_huge_page_counts_when_its_last_part_goes() {
        let all: Vec<u32> = (0..1536).collect();
        let calls = whole_pages(2048, &[&all[..700], &all[700..]]);
        assert_eq!(calls, [(0, 512), (512, 1024)]);
    }
}

// SPDX-License-Identifier: GPL-2.0-or-later
//! A device that has warmed up does its work without asking for memory.

use balloon::device::{Balloon, Options, Progress, RequestEnd, RequestPart};
use balloon::features::{Features, QueueKind};
use balloon::host::Inhibit;
use balloon::memory::{Backing, BlockId, MemoryMap, Section, Way};
use balloon::page::{Gpa, GpaRange};
use balloon::queue::held::Flush;
use balloon::wire::ByteOrder;

use crate::allocations;
use crate::idle::Idle;

const PAGES: u32 = 1 << 17;
/// As many as a Linux driver puts into a request.
const A_REQUEST: usize = 256;

fn device() -> Balloon {
    let mut balloon = Balloon::new(Options {
        hold_bytes: 2 << 20,
        ..Options::default()
    });
    let gpa = GpaRange::with_len(Gpa(0), u64::from(PAGES) << 12).unwrap();
    let section = Section {
        gpa,
        block: BlockId(1),
        offset: 0,
        page_size: 4096,
        host: 1 << 40,
        backing: Backing {
            way: Way::Drop,
            lazy: true,
            ..Backing::default()
        },
    };
    balloon.set_memory(MemoryMap::new(vec![section]).unwrap());
    balloon.set_features(Features::MUST_TELL_HOST, false);
    balloon
}

/// All pages, in requests that the device finds in its queue at the same time, 128 of them.
fn give(balloon: &mut Balloon, queue: QueueKind, requests: &[Vec<u8>]) {
    for batch in requests.chunks(128) {
        for payload in batch {
            let part = RequestPart {
                payload,
                total: payload.len() as u64,
                order: ByteOrder::Little,
                end: Some(RequestEnd::default()),
            };
            balloon.batch_add(queue, part).unwrap();
        }
        while balloon.batch_run(&mut Idle, Inhibit::No) == Progress::More {}
        while balloon.flush_held(&mut Idle, Flush::Aged, Inhibit::No) == Progress::More {}
    }
}

#[test]
fn a_warm_device_allocates_nothing() {
    let in_order: Vec<u32> = (0..PAGES).collect();
    let scattered = (0..PAGES).map(|n| n.wrapping_mul(40_503) % PAGES).collect();
    for pages in [in_order, scattered] {
        let requests: Vec<Vec<u8>> = pages
            .chunks(A_REQUEST)
            .map(|pfns| pfns.iter().flat_map(|pfn| pfn.to_le_bytes()).collect())
            .collect();
        let mut balloon = device();
        let mut round = || {
            let before = allocations();
            give(&mut balloon, QueueKind::Inflate, &requests);
            give(&mut balloon, QueueKind::Deflate, &requests);
            allocations() - before
        };
        assert_ne!(round(), 0, "it warms up, and that is counted");
        assert_eq!(round(), 0);
    }
}

// SPDX-License-Identifier: GPL-2.0-or-later
//! A device that has warmed up does its work without asking for memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

use virtio_balloon_rs::device::{Balloon, Options, Progress, RequestEnd, RequestPart};
use virtio_balloon_rs::features::{Features, QueueKind};
use virtio_balloon_rs::host::{Host, Inhibit, Refused};
use virtio_balloon_rs::memory::{Backing, BlockId, BlockSpan, MemoryMap, Section, Way};
use virtio_balloon_rs::page::{Gpa, GpaRange};
use virtio_balloon_rs::queue::held::Flush;
use virtio_balloon_rs::wire::ByteOrder;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

struct Counting;

// SAFETY: the system's allocator does it all.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// A host that does nothing.
struct Idle;

impl Host for Idle {
    fn discard(&mut self, _: BlockId, _: &[BlockSpan]) -> Result<(), Refused> {
        Ok(())
    }

    fn drop_private(&mut self, _: BlockId, _: &[BlockSpan]) -> Result<(), Refused> {
        Ok(())
    }

    fn free(&mut self, _: BlockId, _: &[BlockSpan]) -> Result<(), Refused> {
        Ok(())
    }

    fn populate(&mut self, _: BlockId, _: &[BlockSpan]) {}
}

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
            let before = ALLOCATIONS.load(Ordering::Relaxed);
            give(&mut balloon, QueueKind::Inflate, &requests);
            give(&mut balloon, QueueKind::Deflate, &requests);
            ALLOCATIONS.load(Ordering::Relaxed) - before
        };
        round();
        assert_eq!(round(), 0);
    }
}

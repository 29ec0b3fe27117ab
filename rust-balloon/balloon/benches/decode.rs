// SPDX-License-Identifier: GPL-2.0-or-later
//! What a batch costs before anything is done with it: reading the requests' bytes, and merging
//! what they name. `cargo bench -p balloon --bench decode`

use balloon::batch::{Batch, MAX_PFNS};
use balloon::features::QueueKind;
use balloon::message::{Format, Item, Reader};
use balloon::wire::{ByteOrder, pfn_blocks, pfns};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;

/// Words of a message.
const WORDS: usize = 4096;

/// Splitmix64, always from the same start.
fn shuffled(count: u32) -> Vec<u32> {
    let mut pages: Vec<u32> = (0..count).collect();
    let mut state = 0u64;
    for last in (1..pages.len()).rev() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        pages.swap(last, ((z ^ (z >> 31)) % (last as u64 + 1)) as usize);
    }
    pages
}

/// A batch of as many PFNs as fit, in the orders of pages of `cargo xtask bench device`.
fn batches(criterion: &mut Criterion) {
    let count = MAX_PFNS as u32;
    let orders: [(&str, Vec<u32>); 5] = [
        ("ascending", (0..count).collect()),
        ("descending", (0..count).rev().collect()),
        ("shuffled", shuffled(count)),
        ("random", shuffled(4 * count)[..MAX_PFNS].to_vec()),
        ("1 in 2", (0..count).map(|page| 2 * page).collect()),
    ];
    let mut group = criterion.benchmark_group("batch");
    group.throughput(Throughput::Elements(count.into()));
    for (name, pages) in orders {
        let payload: Vec<u8> = pages.iter().flat_map(|pfn| pfn.to_le_bytes()).collect();
        group.bench_function(format!("read/{name}"), |bencher| {
            bencher
                .iter(|| pfns(black_box(&payload), ByteOrder::Little).fold(0, u32::wrapping_add));
        });
        let mut batch = Batch::default();
        group.bench_function(format!("read and merge/{name}"), |bencher| {
            bencher.iter(|| {
                batch.clear();
                let opened = batch.open(QueueKind::Inflate);
                opened.expect("an empty batch opens");
                pfn_blocks(black_box(&payload), ByteOrder::Little, |first, count| {
                    batch.push_pages(first, count);
                });
                batch.begin()
            });
        });
    }
    group.finish();
}

/// A message full of ranges, and one of chunks.
fn messages(criterion: &mut Criterion) {
    let words = (0..WORDS as u64).map(|n| (2 * n) << 12 | 1);
    let mut ranges = vec![0, 1, 0, 0];
    ranges.extend((8 * WORDS as u32).to_le_bytes());
    ranges.extend(words.flat_map(u64::to_le_bytes));
    let mut chunks = (WORDS as u32).to_le_bytes().to_vec();
    let fields = (0..WORDS as u64).flat_map(|n| [(2 * n) << 12, 1 << 12]);
    chunks.extend(fields.flat_map(u64::to_le_bytes));
    let mut group = criterion.benchmark_group("message");
    group.throughput(Throughput::Elements(WORDS as u64));
    for (name, format, message) in [
        ("ranges", Format::Ranges, ranges),
        ("chunks", Format::Chunks, chunks),
    ] {
        let mut batch = Batch::default();
        group.bench_function(format!("read and merge/{name}"), |bencher| {
            bencher.iter(|| {
                batch.clear();
                let opened = batch.open(QueueKind::Inflate);
                opened.expect("an empty batch opens");
                let mut reader = Reader::new(format, message.len() as u64);
                reader.read(black_box(&message), |item| {
                    if let Item::Range(range) = item {
                        batch.push_entry(range);
                    }
                    Ok(())
                });
                assert!(reader.end().is_none(), "the message makes sense");
                assert_eq!(batch.begin().ranges, WORDS);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, batches, messages);
criterion_main!(benches);

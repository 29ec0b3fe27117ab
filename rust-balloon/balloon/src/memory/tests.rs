// SPDX-License-Identifier: GPL-2.0-or-later

use super::*;
use proptest::prelude::*;

const MIB2: u64 = 2 << 20;

fn range(start: u64, end: u64) -> GpaRange {
    GpaRange::new(Gpa(start), Gpa(end)).unwrap()
}

fn section(start: u64, end: u64, offset: u64, page_size: u64) -> Section {
    Section {
        gpa: range(start, end),
        block: BlockId(1),
        offset,
        page_size,
        host: 0x7000_0000 + offset as usize,
        backing: Backing::default(),
    }
}

#[test]
fn a_map_refuses_what_cannot_be() {
    let low = section(0, 0x10000, 0, 4096);
    let over = section(0xf000, 0x20000, 0xf000, 4096);
    assert!(MemoryMap::new(vec![low, over]).is_err());
    assert!(MemoryMap::new(vec![section(0, 4096, 0, 1000)]).is_err());
    assert!(MemoryMap::new(vec![section(0, 4096, 0, 2048)]).is_err());
    let overflowing = Section {
        offset: u64::MAX - 10,
        ..low
    };
    assert!(MemoryMap::new(vec![overflowing]).is_err());
}

#[test]
fn a_range_is_cut_at_every_border() {
    let low = section(0, 0xa_0000, 0, 4096);
    let high = section(0x10_0000, 0x20_0000, 0x10_0000, 4096);
    let map = MemoryMap::new(vec![high, low]).unwrap();
    let all = range(0x9_0000, 0x30_0000);
    assert_eq!(map.front(all), Piece::Ram(range(0x9_0000, 0xa_0000), low));
    let gap = range(0xa_0000, 0x10_0000);
    assert_eq!(map.front(range(0xa_0000, 0x30_0000)), Piece::NotRam(gap));
    assert_eq!(
        map.front(range(0xb_0000, 0xc_0000)),
        Piece::NotRam(range(0xb_0000, 0xc_0000))
    );
    assert_eq!(
        map.front(range(0x1f_f000, 0x30_0000)),
        Piece::Ram(range(0x1f_f000, 0x20_0000), high)
    );
    assert_eq!(
        map.front(range(0x20_0000, 0x30_0000)),
        Piece::NotRam(range(0x20_0000, 0x30_0000))
    );
    assert_eq!(MemoryMap::default().front(all), Piece::NotRam(all));
}

#[test]
fn a_range_is_ram_when_all_of_it_is() {
    let low = section(0, 0xa_0000, 0, 4096);
    let next = section(0x10_0000, 0x20_0000, 0x10_0000, 4096);
    let behind = section(0x20_0000, 0x30_0000, 0x80_0000, 4096);
    let map = MemoryMap::new(vec![behind, low, next]).unwrap();
    for ram in [
        (0, 0xa_0000),
        (0x10_0000, 0x30_0000),
        (0x1f_f000, 0x20_1000),
    ] {
        assert!(map.is_ram(range(ram.0, ram.1)), "{ram:x?}");
    }
    for other in [
        (0, 0xa_1000),
        (0x9_f000, 0x10_1000),
        (0xa_0000, 0x10_0000),
        (0x2f_f000, 0x30_1000),
        (0x30_0000, 0x30_1000),
        (0, u64::MAX),
    ] {
        assert!(!map.is_ram(range(other.0, other.1)), "{other:x?}");
    }
    assert!(!MemoryMap::default().is_ram(range(0, 4096)));
}

#[test]
fn pages_are_those_of_the_block_not_of_the_guest() {
    // The guest sees the block's second half page first: pages start at guest address 1 MiB.
    let section = section(0, 8 << 20, 1 << 20, MIB2);
    let all = section.gpa;
    assert_eq!(section.shrink_to_pages(all), Some(range(1 << 20, 7 << 20)));
    assert_eq!(
        section.shrink_to_pages(range(0, 3 << 20)),
        Some(range(1 << 20, 3 << 20))
    );
    assert_eq!(section.shrink_to_pages(range(1 << 20, (3 << 20) - 1)), None);
    assert_eq!(section.shrink_to_pages(range(4096, 8192)), None);
    assert_eq!(
        section.grow_to_pages(range(2 << 20, (2 << 20) + 1)),
        Some(range(1 << 20, 3 << 20))
    );
    assert_eq!(
        section.grow_to_pages(range(0, 4096)),
        None,
        "half of the page is elsewhere"
    );
    assert_eq!(section.grow_to_pages(range(7 << 20, 8 << 20)), None);
    assert_eq!(section.grow_to_pages(all), Some(range(1 << 20, 7 << 20)));
}

#[test]
fn a_front_ends_between_pages() {
    let section = section(0, 8 << 20, 1 << 20, MIB2);
    let all = section.gpa;
    assert_eq!(section.take_front(all, 4 << 20, MIB2), range(0, 3 << 20));
    assert_eq!(section.take_front(all, 1, MIB2), range(0, 1 << 20));
    assert_eq!(
        section.take_front(range(1 << 20, 8 << 20), 5, MIB2),
        range(1 << 20, 3 << 20)
    );
    assert_eq!(section.take_front(all, u64::MAX, MIB2), all);
    assert_eq!(section.take_front(range(0, 10), 4096, 4096), range(0, 10));
}

#[test]
fn host_addresses_lead_back_to_the_guest() {
    let low = section(0, 0xa_0000, 0, 4096);
    let high = Section {
        host: 0x1000,
        ..section(0x10_0000, 0x20_0000, 0, 4096)
    };
    let map = MemoryMap::new(vec![high, low]).unwrap();
    assert_eq!(map.at_host(0x7000_1000, 4096), Some(range(0x1000, 0x2000)));
    assert_eq!(map.at_host(0x1000, 10), Some(range(0x10_0000, 0x10_000a)));
    assert_eq!(map.at_host(0xfff, 10), None);
    assert_eq!(
        map.at_host(0x7009_f000, 1 << 30),
        Some(range(0x9_f000, 0xa_0000))
    );
    assert_eq!(map.at_host(0x700a_0000, 1), None);
    assert_eq!(map.at_host(0x7000_0000, 0), None);
}

#[test]
fn what_moved_or_went_is_lost() {
    let old = MemoryMap::new(vec![section(0, 0x10_0000, 0, 4096)]).unwrap();
    let shorter = section(0x1000, 0x8_0000, 0x1000, 4096);
    let other = Section {
        block: BlockId(2),
        ..section(0x9_0000, 0x10_0000, 0x9_0000, 4096)
    };
    let mut lost = Vec::new();
    old.for_each_lost(&MemoryMap::new(vec![shorter, other]).unwrap(), |r| {
        lost.push(r)
    });
    assert_eq!(
        lost,
        [
            range(0, 0x1000),
            range(0x8_0000, 0x9_0000),
            range(0x9_0000, 0x10_0000)
        ]
    );
    old.for_each_lost(&old, |r| panic!("{r:?} is still there"));
}

#[test]
fn a_block_is_seen_once() {
    let low = section(0, 0x4000, 0x8000, 4096);
    let alias = section(0x10_0000, 0x10_8000, 0x6000, 4096);
    let other = Section {
        block: BlockId(2),
        ..section(0x20_0000, 0x20_1000, 0, 4096)
    };
    let map = MemoryMap::new(vec![other, alias, low]).unwrap();
    let pieces = |block, offset| {
        let pieces = map.pieces(BlockId(block), offset);
        let pieces = pieces.map(|piece| (piece.offset, piece.end, piece.gpa.0));
        pieces.collect::<Vec<_>>()
    };
    assert_eq!(pieces(1, 0), [(0x6000, 0xe000, 0x10_0000)]);
    assert_eq!(pieces(1, 0xdfff).len(), 1);
    assert_eq!(pieces(1, 0xe000), []);
    assert_eq!(pieces(2, 0), [(0, 0x1000, 0x20_0000)]);
    assert_eq!(map.next_block(0), Some(BlockId(1)));
    assert_eq!(map.next_block(2), Some(BlockId(2)));
    assert_eq!(map.next_block(3), None);
    // The rest of what another place shows the start of.
    let first = section(0, 0x4000, 0, 4096);
    let more = section(0x10_0000, 0x10_8000, 0x2000, 4096);
    let map = MemoryMap::new(vec![first, more]).unwrap();
    let ends: Vec<_> = map.pieces(BlockId(1), 0).map(|piece| piece.gpa.0).collect();
    assert_eq!(ends, [0, 0x10_2000]);
}

proptest! {
    /// Shrinking never reaches outside of the range, growing never outside of the section, and
    /// both end at page borders of the block.
    #[test]
    fn clamps_keep_to_their_side(
        start in 0..64u64, len in 1..64u64, offset in 0..16u64, cut in 0..64u64, bytes in 1..64u64,
        shift in 12..16u32,
    ) {
        let section = section(start << 12, (start + len) << 12, offset << 12, 1 << shift);
        let part = range((start + cut.min(len - 1)) << 12, (start + (cut + bytes).min(len)) << 12);
        if let Some(inner) = section.shrink_to_pages(part) {
            prop_assert_eq!(inner.intersect(part), Some(inner));
            let block = section.block_range(inner);
            prop_assert_eq!((block.offset | block.bytes) % section.page_size, 0);
        }
        if let Some(outer) = section.grow_to_pages(part) {
            prop_assert_eq!(outer.intersect(section.gpa), Some(outer));
            let block = section.block_range(outer);
            prop_assert_eq!((block.offset | block.bytes) % section.page_size, 0);
        }
    }
}

#[test]
fn only_parts_that_are_there_are_ram() {
    let mut parts = section(1 << 30, 4 << 30, 0, 4096);
    parts.backing.in_parts = true;
    let low = section(0, 1 << 30, 8 << 30, 4096);
    let mut map = MemoryMap::new(vec![low, parts]).unwrap();
    let (a, b) = (range(1 << 30, 2 << 30), range(3 << 30, 4 << 30));
    let hole = range(2 << 30, 3 << 30);
    assert_eq!(map.front(a), Piece::NotRam(a));
    map.set_part(a, true);
    map.set_part(b, true);
    assert_eq!(map.front(a), Piece::Ram(a, parts));
    assert_eq!(map.front(range(3 << 30, 5 << 30)), Piece::Ram(b, parts));
    assert_eq!(map.front(range(2 << 30, 4 << 30)), Piece::NotRam(hole));
    assert!(map.is_ram(range(4096, 2 << 30)));
    assert!(!map.is_ram(range(4096, (2 << 30) + 1)));
    assert!(!map.is_ram(range(1 << 30, 4 << 30)));
    assert!(map.is_ram(b));

    // A page that is there in part is not there.
    map.set_part(range((3 << 30) + 100, (3 << 30) + 200), false);
    assert!(!map.is_ram(range(3 << 30, (3 << 30) + 1)));
    map.set_part(range((3 << 30) + 100, (3 << 30) + 4096), true);
    assert!(!map.is_ram(range(3 << 30, (3 << 30) + 1)));

    // The next map knows the parts of the sections that stay, and of no others.
    let mut same = MemoryMap::new(vec![parts]).unwrap();
    same.take_parts_of(&mut map);
    assert!(same.is_ram(a));
    let mut moved = MemoryMap::new(vec![Section {
        offset: 4096,
        ..parts
    }])
    .unwrap();
    moved.take_parts_of(&mut same);
    assert!(!moved.is_ram(range(1 << 30, (1 << 30) + 1)));
}

/// Some TiB of memory of which every second piece of 2 MiB is there.
fn plugged_here_and_there() -> (MemoryMap, Section) {
    let mut parts = section(1 << 40, 2 << 40, 0, 4096);
    parts.backing.in_parts = true;
    let mut map = MemoryMap::new(vec![section(0, 1 << 30, 8 << 40, 4096), parts]).unwrap();
    for start in ((1 << 40)..(2 << 40)).step_by(2 * MIB2 as usize) {
        map.set_part(range(start, start + MIB2), true);
    }
    (map, parts)
}

/// The stretches that were lost with the change from `old` to `new`.
fn lost(mut old: MemoryMap, mut new: MemoryMap) -> Vec<GpaRange> {
    let mut lost = Vec::new();
    new.take_parts_of(&mut old);
    old.for_each_lost(&new, |range| lost.push(range));
    lost
}

/// Each part may be a stretch of its own, and other memory comes and goes often.
#[test]
fn what_stays_is_not_looked_at_part_by_part() {
    let (old, parts) = plugged_here_and_there();
    let low = old.sections()[0];
    let new = MemoryMap::new(vec![parts]).unwrap();
    let lost = lost(old, new);
    assert_eq!(lost.len(), 1);
    assert_eq!(lost[0], low.gpa);
}

/// A section whose parts are not taken over has none until the host says so.
#[test]
fn what_came_in_parts_and_does_no_more_is_lost_and_so_the_other_way_round() {
    let (_, in_parts) = plugged_here_and_there();
    let mut whole = in_parts;
    whole.backing.in_parts = false;
    let map = |section| MemoryMap::new(vec![section]).unwrap();
    assert_eq!(lost(map(whole), map(in_parts)), [whole.gpa]);
    assert_eq!(lost(map(in_parts), map(whole)), []);
    let mut larger = in_parts;
    larger.page_size = MIB2;
    assert_eq!(lost(map(whole), map(larger)), [whole.gpa]);
}

/// The runs are looked up, however many pages each has, and are as few as there can be.
#[test]
fn parts_that_touch_are_one_run() {
    let (mut map, parts) = plugged_here_and_there();
    // And one more of the section that is there as a whole.
    assert_eq!(map.runs(), 1 + (1 << 18));
    for start in ((1 << 40)..(2 << 40)).step_by(2 * MIB2 as usize) {
        map.set_part(range(start + MIB2, start + 2 * MIB2), true);
    }
    assert_eq!(map.runs(), 2);
    assert!(map.is_ram(parts.gpa));
    assert_eq!(map.front(parts.gpa), Piece::Ram(parts.gpa, parts));
    map.set_part(parts.gpa, false);
    assert_eq!(map.runs(), 1);
    assert_eq!(map.front(parts.gpa), Piece::NotRam(parts.gpa));
}

/// Something is laid over the middle of what comes in parts, and taken away again: what is there
/// beside it stays, so that its pages stay in the balloon.
#[test]
fn parts_outlast_borders_that_move() {
    let (old, parts) = plugged_here_and_there();
    let cut = range((1 << 40) + 2 * MIB2, (1 << 40) + 6 * MIB2);
    let here = |start: Gpa, end: Gpa| Section {
        gpa: GpaRange::new(start, end).unwrap(),
        offset: parts.offset_of(start),
        host: parts.host + parts.offset_of(start) as usize,
        ..parts
    };
    let (left, right) = (
        here(parts.gpa.start(), cut.start()),
        here(cut.end(), parts.gpa.end()),
    );
    let low = old.sections()[0];
    let map = |sections| MemoryMap::new(sections).unwrap();
    let mut old = old;
    let mut new = map(vec![low, left, right]);
    new.take_parts_of(&mut old);
    let mut lost = Vec::new();
    old.for_each_lost(&new, |range| lost.push(range));
    let is_there = |range: &GpaRange| (range.start().0 / MIB2).is_multiple_of(2);
    let plugged_beside = lost
        .iter()
        .filter(|lost| lost.intersect(cut).is_none() && is_there(lost));
    assert_eq!(plugged_beside.count(), 0);
    assert!(lost.iter().any(|lost| lost.intersect(cut).is_some()));
    assert!(new.is_ram(range(1 << 40, (1 << 40) + MIB2)));
    assert!(!new.is_ram(cut));

    // What was covered is there again when the host says so.
    let mut back = map(vec![low, parts]);
    back.take_parts_of(&mut new);
    assert!(back.is_ram(range(1 << 40, (1 << 40) + MIB2)));
    assert!(!back.is_ram(range(cut.start().0, cut.start().0 + MIB2)));
    back.set_part(range(cut.start().0, cut.start().0 + MIB2), true);
    assert!(back.is_ram(range(cut.start().0, cut.start().0 + MIB2)));
}

/// An entry of a message may name all memory, in however many sections it lies.
#[test]
fn whether_a_range_is_ram_does_not_depend_on_the_sections_it_touches() {
    let gib = 1 << 30;
    let mut sections: Vec<_> = (0..1024)
        .map(|i| section(i * gib, (i + 1) * gib, i * gib, 4096))
        .collect();
    for slot in sections.iter_mut().step_by(2) {
        slot.backing.in_parts = true;
    }
    let mut map = MemoryMap::new(sections).unwrap();
    let all = range(0, 1024 * gib);
    assert!(!map.is_ram(all));
    map.set_part(all, true);
    assert!(map.is_ram(all));
    assert_eq!(map.runs(), 1, "one look-up");
    // What does not come in parts does not go as one.
    map.set_part(all, false);
    assert!(map.is_ram(range(gib, 2 * gib)));
    assert_eq!(map.runs(), 512);
    // Nor does any come where no memory is.
    map.set_part(range(1024 * gib, 1025 * gib), true);
    assert!(!map.is_ram(range(1024 * gib, 1025 * gib)));
}

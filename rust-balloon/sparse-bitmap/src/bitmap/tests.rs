// SPDX-License-Identifier: GPL-2.0-or-later

use super::*;
use crate::chunk::CHUNK_BITS;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn runs(bitmap: &SparseBitmap) -> Vec<(u64, u64)> {
    bitmap.runs().map(|run| (run.start, run.end)).collect()
}

#[test]
fn an_empty_bitmap_holds_nothing() {
    let bitmap = SparseBitmap::new(1 << 32);
    assert_eq!(bitmap.len(), 0);
    assert_eq!(bitmap.first(), None);
    assert_eq!(bitmap.runs().next(), None);
    assert!(bitmap.contains_range(7..7));
    assert!(!bitmap.contains_range(7..8));
}

#[test]
fn the_limit_holds() {
    let mut bitmap = SparseBitmap::new(100);
    assert_eq!(bitmap.insert_range(90..200), 10);
    assert_eq!(runs(&bitmap), [(90, 100)]);
    assert_eq!(bitmap.insert_range(100..101), 0);
    assert_eq!(bitmap.len(), 10);
    assert_eq!(bitmap.remove_range(0..u64::MAX), 10);
    assert_eq!(bitmap.first(), None);
}

#[test]
fn a_run_crosses_words_and_chunks() {
    let mut bitmap = SparseBitmap::new(1 << 32);
    bitmap.insert_range(60..3 * CHUNK_BITS + 5);
    assert_eq!(runs(&bitmap), [(60, 3 * CHUNK_BITS + 5)]);
    bitmap.remove_range(CHUNK_BITS..2 * CHUNK_BITS);
    assert_eq!(
        runs(&bitmap),
        [(60, CHUNK_BITS), (2 * CHUNK_BITS, 3 * CHUNK_BITS + 5)]
    );
}

#[test]
fn a_range_that_ends_before_it_starts_is_empty() {
    let mut bitmap = SparseBitmap::new(u64::MAX);
    bitmap.insert_range(0..2 * CHUNK_BITS);
    for (start, end) in [(u64::MAX, 0), (9, 8), (CHUNK_BITS, 0)] {
        let backwards = Range { start, end };
        assert_eq!(bitmap.insert_range(backwards.clone()), 0);
        assert_eq!(bitmap.remove_range(backwards.clone()), 0);
        assert!(bitmap.contains_range(backwards));
    }
    assert_eq!(bitmap.len(), 2 * CHUNK_BITS);
}

#[test]
fn searches_end_at_the_end_of_numbers() {
    let mut bitmap = SparseBitmap::new(u64::MAX);
    bitmap.insert_range(3..5);
    assert_eq!(bitmap.next_index(u64::MAX), None);
    assert_eq!(bitmap.next_run(5), None);
    assert_eq!(bitmap.word(usize::MAX), 0);
    assert_eq!(bitmap.remove_word(usize::MAX, u64::MAX), 0);
    assert!(!bitmap.contains_range(u64::MAX - 1..u64::MAX));
}

#[test]
fn memory_is_given_back() {
    let mut bitmap = SparseBitmap::new(1 << 32);
    let in_part = |bitmap: &mut SparseBitmap| {
        for chunk in 0..100 {
            bitmap.insert_range(chunk * CHUNK_BITS..chunk * CHUNK_BITS + 1);
        }
    };
    in_part(&mut bitmap);
    assert!(bitmap.memory_bytes() >= 100 * CHUNK_BITS as usize / 8);
    // The words of eight chunks are kept for others.
    let most = 8 * (CHUNK_BITS as usize / 8) + 6000;
    bitmap.remove_range(0..100 * CHUNK_BITS);
    assert_eq!(bitmap.surplus(), 92);
    assert_eq!(bitmap.trim(60), 60);
    assert_eq!(bitmap.trim(60), 32);
    assert_eq!((bitmap.trim(60), bitmap.surplus()), (0, 0));
    assert!(
        bitmap.memory_bytes() < most,
        "{} bytes",
        bitmap.memory_bytes()
    );
    in_part(&mut bitmap);
    // Full, piece by piece, is as good as empty.
    for index in 0..100 * CHUNK_BITS {
        bitmap.insert_range(index..index + 1);
    }
    bitmap.trim(usize::MAX);
    assert!(
        bitmap.memory_bytes() < most,
        "{} bytes",
        bitmap.memory_bytes()
    );
    let full = bitmap.memory_bytes();
    bitmap.remove_range(CHUNK_BITS + 7..CHUNK_BITS + 8);
    assert!(bitmap.memory_bytes() <= full, "kept words are used");
    in_part(&mut bitmap);
    bitmap.remove_all();
    bitmap.trim(usize::MAX);
    assert!(
        bitmap.memory_bytes() < most,
        "{} bytes",
        bitmap.memory_bytes()
    );
}

#[test]
fn memory_of_one_is_used_by_another() {
    let (mut from, mut to) = (SparseBitmap::new(1 << 32), SparseBitmap::new(1 << 32));
    for chunk in 0..20 {
        from.insert_range(chunk * CHUNK_BITS..chunk * CHUNK_BITS + 7);
    }
    to.insert_range(3..4);
    to.reuse(from);
    assert_eq!((to.surplus(), runs(&to)), (12, vec![(3, 4)]));
    to.insert_range(CHUNK_BITS + 9..CHUNK_BITS + 10);
    assert_eq!(to.surplus(), 11);
    // Nothing is left of what was there.
    assert_eq!(runs(&to), [(3, 4), (CHUNK_BITS + 9, CHUNK_BITS + 10)]);
}

#[test]
fn full_lines_take_no_words() {
    let mut bitmap = SparseBitmap::new(1 << 32);
    for block in 0..800 {
        bitmap.insert_range(block * 4096..block * 4096 + 512);
    }
    assert!(
        bitmap.memory_bytes() < 10_000,
        "{} bytes",
        bitmap.memory_bytes()
    );
    assert_eq!(bitmap.len(), 800 * 512);
    assert_eq!(bitmap.next_index(512), Some(4096));
    assert!(bitmap.contains_range(4096..4608));
    assert!(!bitmap.contains_range(4096..4609));
}

#[test]
fn no_index_past_the_limit_takes_memory() {
    // The last chunk is one of 10 bits, of places for which not more is kept than there can be.
    let mut bitmap = SparseBitmap::new(40 * CHUNK_BITS + 10);
    for chunk in 0..50 {
        bitmap.insert_range(chunk * CHUNK_BITS..chunk * CHUNK_BITS + 512);
    }
    assert_eq!(bitmap.len(), 40 * 512 + 10);
    let chunks = 41 * size_of::<Chunk>() + CHUNK_BITS as usize / 8;
    assert!(bitmap.memory_bytes() <= size_of::<SparseBitmap>() + chunks);
}

const LIMIT: u64 = 3 * CHUNK_BITS;

#[derive(Clone, Debug)]
enum Step {
    Add(Range<u64>),
    Clear(Range<u64>),
    AddWord(usize, u64),
    ClearWord(usize, u64),
    /// Makes a piece of it as that of another, which has every 997th index from a first one on.
    Copy(u64, u64),
    Trim(usize),
}

fn of_word(word: usize, bits: u64) -> impl Iterator<Item = u64> {
    let first = word as u64 * WORD_BITS;
    (0..WORD_BITS)
        .filter(move |bit| bits & (1 << bit) != 0)
        .map(move |bit| first + bit)
}

/// Ranges of any kind, and those that meet the borders that the bitmap has inside.
fn bits() -> impl Strategy<Value = Range<u64>> {
    let lengths = prop_oneof![0..4u64, 0..200u64, 0..CHUNK_BITS + 9];
    let anywhere = (0..LIMIT + 100, lengths).prop_map(|(start, len)| start..start + len);
    let of = |unit: u64, most: u64| {
        (0..LIMIT / unit + 1, 0..most)
            .prop_map(move |(start, len)| start * unit..(start + len) * unit)
    };
    prop_oneof![2 => anywhere, 1 => of(1, 2), 2 => of(512, 70), 1 => of(CHUNK_BITS, 3)]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let word = 0..LIMIT as usize / 64 + 2;
    let step = prop_oneof![
        bits().prop_map(Step::Add),
        bits().prop_map(Step::Clear),
        (word.clone(), any::<u64>()).prop_map(|(word, bits)| Step::AddWord(word, bits)),
        (word, any::<u64>()).prop_map(|(word, bits)| Step::ClearWord(word, bits)),
        (0..LIMIT + 9, 0..LIMIT).prop_map(|(index, first)| Step::Copy(index, first)),
        (0..3usize).prop_map(Step::Trim),
    ];
    prop::collection::vec(step, 1..12)
}

/// What the bitmap relies on holds.
fn is_sound(bitmap: &SparseBitmap) -> Result<(), TestCaseError> {
    for chunk in &bitmap.chunks {
        let words = (0..CHUNK_WORDS).map(|word| (word, chunk.word(word)));
        let set: u64 = words
            .clone()
            .map(|(_, bits)| u64::from(bits.count_ones()))
            .sum();
        prop_assert_eq!(chunk.set, set);
        let mut seen = words.filter(|&(_, bits)| bits != 0);
        prop_assert!(seen.all(|(word, _)| chunk.lines & (1 << line_of(word)) != 0));
        let is_mixed = set != 0 && set != CHUNK_BITS;
        prop_assert!(
            is_mixed || chunk.words.is_none(),
            "words that are not needed"
        );
    }
    Ok(())
}

/// What is asked about `probe` is answered as a plain set of numbers answers it.
fn answers_as(
    bitmap: &SparseBitmap,
    model: &BTreeSet<u64>,
    probe: &Range<u64>,
) -> Result<(), TestCaseError> {
    let next = model.range(probe.start..).next().copied();
    let all = probe.clone().all(|index| model.contains(&index));
    let run = next.map(|start| {
        let end = (start..).find(|index| !model.contains(index));
        start..end.unwrap_or(u64::MAX)
    });
    prop_assert_eq!(bitmap.len(), model.len() as u64);
    prop_assert_eq!(bitmap.first(), model.first().copied());
    prop_assert_eq!(bitmap.next_index(probe.start), next);
    prop_assert_eq!(bitmap.next_run(probe.start), run);
    prop_assert_eq!(bitmap.contains_range(probe.clone()), all);
    let (is_in, past) = bitmap.front(probe.clone());
    prop_assert!(probe.is_empty() || past > probe.start);
    let mut like_the_first = probe.start..past;
    prop_assert!(like_the_first.all(|index| model.contains(&index) == is_in));
    prop_assert!(past >= probe.end || model.contains(&past) != is_in);
    let within = next.filter(|&next| next < probe.end);
    prop_assert_eq!(bitmap.first_in(probe.clone()), within);
    // Across the ends of words, and of a chunk where there is one.
    let mut copy = [0x5555; 9];
    bitmap.copy_bits(probe.start, &mut copy);
    let copied = (0..).zip(copy);
    let copied: Vec<u64> = copied
        .flat_map(|(word, bits)| of_word(word, bits))
        .map(|index| probe.start + index)
        .collect();
    let there = model.range(probe.start..probe.start + 9 * 64).copied();
    prop_assert_eq!(copied, there.collect::<Vec<_>>());
    for index in [probe.start, probe.end] {
        prop_assert_eq!(
            bitmap.contains_range(index..index + 1),
            model.contains(&index)
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// After any adds and clears the bitmap answers as a plain set of numbers does.
    #[test]
    fn it_is_a_set(steps in steps(), probe in bits()) {
        let mut bitmap = SparseBitmap::new(LIMIT);
        let mut model = BTreeSet::new();
        for step in steps {
            let before = model.len();
            match step {
                Step::Add(range) => {
                    model.extend(range.start..range.end.min(LIMIT));
                    prop_assert_eq!(bitmap.insert_range(range), (model.len() - before) as u64);
                }
                Step::Clear(range) => {
                    model.retain(|index| !range.contains(index));
                    prop_assert_eq!(bitmap.remove_range(range), (before - model.len()) as u64);
                }
                Step::Copy(index, first) => {
                    let others = (first..LIMIT).step_by(997);
                    let piece = index / CHUNK_BITS * CHUNK_BITS..(index / CHUNK_BITS + 1) * CHUNK_BITS;
                    let mut other = SparseBitmap::new(LIMIT);
                    for index in others.clone() {
 other.insert_range(index..index + 1);
 }
                    prop_assert_eq!(bitmap.copy_chunk(&other, index), piece.end);
                    model.retain(|index| !piece.contains(index));
                    model.extend(others.filter(|index| piece.contains(index)));
                }
                Step::Trim(pieces) => prop_assert!(bitmap.trim(pieces) <= pieces),
                Step::AddWord(word, bits) => {
                    model.extend(of_word(word, bits).filter(|&index| index < LIMIT));
                    prop_assert_eq!(bitmap.insert_word(word, bits), (model.len() - before) as u64);
                }
                Step::ClearWord(word, bits) => {
                    for index in of_word(word, bits) {
                        model.remove(&index);
                    }
                    prop_assert_eq!(bitmap.remove_word(word, bits), (before - model.len()) as u64);
                }
            }
            is_sound(&bitmap)?;
            answers_as(&bitmap, &model, &probe)?;
        }
        let listed: Vec<u64> = bitmap.iter().collect();
        prop_assert_eq!(&listed, &model.into_iter().collect::<Vec<_>>());
        let by_word: Vec<u64> = bitmap.words().flat_map(|(word, bits)| of_word(word, bits)).collect();
        prop_assert_eq!(&by_word, &listed);
        prop_assert!(bitmap.words().all(|(word, bits)| bits != 0 && bitmap.word(word) == bits));
        let runs: Vec<_> = bitmap.runs().collect();
        prop_assert!(runs.windows(2).all(|pair| pair[0].end < pair[1].start), "a run was split");
        // One after the other, they are found in the same places.
        let mut found = Vec::new();
        while let Some(run) = bitmap.next_run(found.last().map_or(0, |run: &Range<u64>| run.end)) {
            found.push(run);
        }
        prop_assert_eq!(found, runs);
    }
}

// SPDX-License-Identifier: GPL-2.0-or-later
//! A sparse bitmap of 64-bit indices that knows nothing about pages.
//!
//! Bits live in chunks of 32768 (4 KiB of memory each) that are allocated when their first bit is
//! set and freed when their last one is cleared, so an empty bitmap costs nothing and a full one an
//! eighth of a byte per bit.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// The version of a set that never changed.
const UNCHANGED: u64 = 0;
static NEXT_VERSION: AtomicU64 = AtomicU64::new(UNCHANGED + 1);

const WORD_BITS: u64 = u64::BITS as u64;
const CHUNK_WORDS: usize = 512;
const CHUNK_BITS: u64 = CHUNK_WORDS as u64 * WORD_BITS;

/// # Invariants
///
/// `set` is the number of ones in `words`, and never 0 for a chunk that is kept.
struct Chunk {
    words: [u64; CHUNK_WORDS],
    set: u64,
}

impl Chunk {
    fn empty() -> Box<Chunk> {
        Box::new(Chunk {
            words: [0; CHUNK_WORDS],
            set: 0,
        })
    }
}

/// A set of indices below a fixed limit.
pub struct PageBitmap {
    limit: u64,
    chunks: Vec<Option<Box<Chunk>>>,
    set: u64,
    version: u64,
}

/// The part of `range` that lies in each chunk, as (chunk number, bits within the chunk).
fn by_chunk(range: Range<u64>) -> impl Iterator<Item = (usize, Range<u64>)> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        (at < range.end).then(|| {
            let base = at - at % CHUNK_BITS;
            let end = range.end.min(base + CHUNK_BITS);
            let part = (at - base)..(end - base);
            at = end;
            ((base / CHUNK_BITS) as usize, part)
        })
    })
}

/// The words that `bits` touch, each with the mask of the bits meant.
pub(crate) fn masks(bits: Range<u64>) -> impl Iterator<Item = (usize, u64)> {
    let first = bits.start / WORD_BITS;
    let last = bits.end.div_ceil(WORD_BITS);
    (first..last).map(move |word| {
        let low = bits.start.saturating_sub(word * WORD_BITS);
        let high = (bits.end - word * WORD_BITS).min(WORD_BITS);
        (
            word as usize,
            (u64::MAX << low) & (u64::MAX >> (WORD_BITS - high)),
        )
    })
}

impl PageBitmap {
    /// An empty set of indices below `limit`.
    pub fn new(limit: u64) -> PageBitmap {
        PageBitmap {
            limit,
            chunks: Vec::new(),
            set: 0,
            version: UNCHANGED,
        }
    }

    /// How many indices are in the set.
    pub fn count(&self) -> u64 {
        self.set
    }

    /// A number that is another one after every change, and no other set's unless both never changed.
    pub fn version(&self) -> u64 {
        self.version
    }

    fn note_change(&mut self, indices: u64) {
        if indices > 0 {
            self.version = NEXT_VERSION.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Adds the indices of `range` and returns how many of them were new. Indices at or past the
    /// limit are left out.
    pub fn add(&mut self, range: Range<u64>) -> u64 {
        let mut new = 0;
        for (number, bits) in by_chunk(range.start..range.end.min(self.limit)) {
            if self.chunks.len() <= number {
                self.chunks.resize_with(number + 1, || None);
            }
            let chunk = self.chunks[number].get_or_insert_with(Chunk::empty);
            let mut added = 0;
            for (word, mask) in masks(bits) {
                added += u64::from((mask & !chunk.words[word]).count_ones());
                chunk.words[word] |= mask;
            }
            chunk.set += added;
            new += added;
        }
        self.set += new;
        self.note_change(new);
        new
    }

    /// Takes the indices of `range` out and returns how many of them were in the set.
    pub fn clear(&mut self, range: Range<u64>) -> u64 {
        let mut gone = 0;
        for (number, bits) in by_chunk(self.within_chunks(range)) {
            let Some(chunk) = &mut self.chunks[number] else {
                continue;
            };
            let mut removed = 0;
            for (word, mask) in masks(bits) {
                removed += u64::from((mask & chunk.words[word]).count_ones());
                chunk.words[word] &= !mask;
            }
            chunk.set -= removed;
            gone += removed;
            self.free_if_empty(number);
        }
        self.set -= gone;
        self.note_change(gone);
        gone
    }

    /// Adds the indices that `bits` has set, counted from 64 times `word`, and returns how many of them
    /// were new. Those at or past the limit are left out.
    pub fn add_word(&mut self, word: usize, bits: u64) -> u64 {
        let first = (word as u64).saturating_mul(WORD_BITS);
        let room = self.limit.saturating_sub(first).min(WORD_BITS);
        if room == 0 || bits == 0 {
            return 0;
        }
        let bits = bits & (u64::MAX >> (WORD_BITS - room));
        let number = word / CHUNK_WORDS;
        if self.chunks.len() <= number {
            self.chunks.resize_with(number + 1, || None);
        }
        let chunk = self.chunks[number].get_or_insert_with(Chunk::empty);
        let place = &mut chunk.words[word % CHUNK_WORDS];
        let new = u64::from((bits & !*place).count_ones());
        *place |= bits;
        chunk.set += new;
        self.set += new;
        self.note_change(new);
        self.free_if_empty(number);
        new
    }

    /// Takes out the indices that `bits` has set, counted from 64 times `word`, and returns how many of
    /// them were in the set.
    pub fn clear_word(&mut self, word: usize, bits: u64) -> u64 {
        let number = word / CHUNK_WORDS;
        let Some(Some(chunk)) = self.chunks.get_mut(number) else {
            return 0;
        };
        let place = &mut chunk.words[word % CHUNK_WORDS];
        let gone = u64::from((bits & *place).count_ones());
        *place &= !bits;
        chunk.set -= gone;
        self.set -= gone;
        self.note_change(gone);
        self.free_if_empty(number);
        gone
    }

    /// The 64 indices from 64 times `word` on, as bits.
    pub fn word(&self, word: usize) -> u64 {
        match self.chunks.get(word / CHUNK_WORDS) {
            Some(Some(chunk)) => chunk.words[word % CHUNK_WORDS],
            _ => 0,
        }
    }

    /// The words that are not 0, each with its number, in ascending order.
    pub fn words(&self) -> impl Iterator<Item = (usize, u64)> {
        let chunks = self.chunks.iter().enumerate();
        let kept = chunks.filter_map(|(number, chunk)| Some((number, chunk.as_deref()?)));
        kept.flat_map(|(number, chunk)| {
            let words = chunk.words.iter().enumerate();
            words.map(move |(word, &bits)| (number * CHUNK_WORDS + word, bits))
        })
        .filter(|&(_, bits)| bits != 0)
    }

    /// Takes everything out and frees the memory.
    pub fn clear_all(&mut self) {
        self.chunks = Vec::new();
        self.note_change(self.set);
        self.set = 0;
    }

    /// Whether every index of `range` is in the set; true for an empty range.
    pub fn contains_all(&self, range: Range<u64>) -> bool {
        by_chunk(range).all(|(number, bits)| {
            let Some(Some(chunk)) = self.chunks.get(number) else {
                return false;
            };
            chunk.set == CHUNK_BITS
                || (chunk.set >= bits.end - bits.start
                    && masks(bits).all(|(word, mask)| chunk.words[word] & mask == mask))
        })
    }

    /// The smallest index in the set.
    pub fn find_first(&self) -> Option<u64> {
        self.find_next(0)
    }

    /// The smallest index in the set that is not below `from`.
    pub fn find_next(&self, from: u64) -> Option<u64> {
        self.search(from, |chunk| chunk.is_some(), |word| word)
    }

    /// The smallest index not below `from` that is *not* in the set; `from` itself or an index past
    /// all others at the latest.
    fn find_next_clear(&self, from: u64) -> u64 {
        let past = self.chunks.len() as u64 * CHUNK_BITS;
        self.search(
            from,
            |chunk| chunk.is_none_or(|chunk| chunk.set < CHUNK_BITS),
            |word| !word,
        )
        .unwrap_or(past.max(from))
    }

    /// The first run of neighbouring indices none of which is below `from`.
    pub fn next_run(&self, from: u64) -> Option<Range<u64>> {
        let start = self.find_next(from)?;
        Some(start..self.find_next_clear(start))
    }

    /// The runs of neighbouring indices, in ascending order.
    pub fn runs(&self) -> impl Iterator<Item = Range<u64>> {
        let mut from = 0;
        std::iter::from_fn(move || {
            let run = self.next_run(from)?;
            from = run.end;
            Some(run)
        })
    }

    fn free_if_empty(&mut self, number: usize) {
        let place = &mut self.chunks[number];
        if place.as_ref().is_some_and(|chunk| chunk.set == 0) {
            *place = None;
        }
    }

    /// `range`, cut down to the indices for which there is a place in `chunks`.
    fn within_chunks(&self, range: Range<u64>) -> Range<u64> {
        range.start..range.end.min(self.chunks.len() as u64 * CHUNK_BITS)
    }

    /// The first index from `from` on whose bit is one in the words as `view` shows them; chunks
    /// that do not `matter` are passed over whole.
    fn search(
        &self,
        from: u64,
        matter: impl Fn(Option<&Chunk>) -> bool,
        view: impl Fn(u64) -> u64,
    ) -> Option<u64> {
        const EMPTY: &[u64; CHUNK_WORDS] = &[0; CHUNK_WORDS];
        for (number, bits) in by_chunk(self.within_chunks(from..u64::MAX)) {
            let chunk = self.chunks[number].as_deref();
            if !matter(chunk) {
                continue;
            }
            let words = chunk.map_or(EMPTY, |chunk| &chunk.words);
            for (word, mask) in masks(bits) {
                let seen = view(words[word]) & mask;
                if seen != 0 {
                    let bit = u64::from(seen.trailing_zeros());
                    return Some(number as u64 * CHUNK_BITS + word as u64 * WORD_BITS + bit);
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn runs(bitmap: &PageBitmap) -> Vec<(u64, u64)> {
        bitmap.runs().map(|run| (run.start, run.end)).collect()
    }

    #[test]
    fn an_empty_bitmap_holds_nothing() {
        let bitmap = PageBitmap::new(1 << 32);
        assert_eq!(bitmap.count(), 0);
        assert_eq!(bitmap.find_first(), None);
        assert_eq!(bitmap.runs().next(), None);
        assert!(bitmap.contains_all(7..7));
        assert!(!bitmap.contains_all(7..8));
    }

    #[test]
    fn the_limit_holds() {
        let mut bitmap = PageBitmap::new(100);
        assert_eq!(bitmap.add(90..200), 10);
        assert_eq!(runs(&bitmap), [(90, 100)]);
        assert_eq!(bitmap.clear(0..u64::MAX), 10);
        assert_eq!(bitmap.find_first(), None);
    }

    #[test]
    fn a_run_crosses_words_and_chunks() {
        let mut bitmap = PageBitmap::new(1 << 32);
        bitmap.add(60..3 * CHUNK_BITS + 5);
        assert_eq!(runs(&bitmap), [(60, 3 * CHUNK_BITS + 5)]);
        bitmap.clear(CHUNK_BITS..2 * CHUNK_BITS);
        assert_eq!(
            runs(&bitmap),
            [(60, CHUNK_BITS), (2 * CHUNK_BITS, 3 * CHUNK_BITS + 5)]
        );
    }

    #[test]
    fn memory_is_given_back() {
        let mut bitmap = PageBitmap::new(1 << 32);
        bitmap.add(CHUNK_BITS..CHUNK_BITS + 1);
        bitmap.clear(CHUNK_BITS..CHUNK_BITS + 1);
        assert!(bitmap.chunks.iter().all(Option::is_none));
    }

    const LIMIT: u64 = 3 * CHUNK_BITS;

    #[derive(Clone, Debug)]
    enum Step {
        Add(Range<u64>),
        Clear(Range<u64>),
        AddWord(usize, u64),
        ClearWord(usize, u64),
    }

    fn of_word(word: usize, bits: u64) -> impl Iterator<Item = u64> {
        let first = word as u64 * WORD_BITS;
        (0..WORD_BITS)
            .filter(move |bit| bits & (1 << bit) != 0)
            .map(move |bit| first + bit)
    }

    fn bits() -> impl Strategy<Value = Range<u64>> {
        (
            0..LIMIT + 100,
            prop_oneof![0..4u64, 0..200u64, 0..CHUNK_BITS + 9],
        )
            .prop_map(|(start, len)| start..start + len)
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let word = 0..LIMIT as usize / 64 + 2;
        let step = prop_oneof![
            bits().prop_map(Step::Add),
            bits().prop_map(Step::Clear),
            (word.clone(), any::<u64>()).prop_map(|(word, bits)| Step::AddWord(word, bits)),
            (word, any::<u64>()).prop_map(|(word, bits)| Step::ClearWord(word, bits)),
        ];
        prop::collection::vec(step, 1..12)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// After any adds and clears the bitmap answers as a plain set of numbers does.
        #[test]
        fn it_is_a_set(steps in steps(), probe in bits()) {
            let mut bitmap = PageBitmap::new(LIMIT);
            let mut model = BTreeSet::new();
            for step in steps {
                let before = model.len();
                match step {
                    Step::Add(range) => {
                        model.extend(range.start..range.end.min(LIMIT));
                        prop_assert_eq!(bitmap.add(range), (model.len() - before) as u64);
                    }
                    Step::Clear(range) => {
                        model.retain(|index| !range.contains(index));
                        prop_assert_eq!(bitmap.clear(range), (before - model.len()) as u64);
                    }
                    Step::AddWord(word, bits) => {
                        model.extend(of_word(word, bits).filter(|&index| index < LIMIT));
                        prop_assert_eq!(bitmap.add_word(word, bits), (model.len() - before) as u64);
                    }
                    Step::ClearWord(word, bits) => {
                        for index in of_word(word, bits) {
                            model.remove(&index);
                        }
                        prop_assert_eq!(bitmap.clear_word(word, bits), (before - model.len()) as u64);
                    }
                }
            }
            prop_assert_eq!(bitmap.count(), model.len() as u64);
            prop_assert_eq!(bitmap.find_first(), model.first().copied());
            prop_assert_eq!(bitmap.find_next(probe.start), model.range(probe.start..).next().copied());
            prop_assert_eq!(bitmap.contains_all(probe.clone()), probe.clone().all(|i| model.contains(&i)));
            let listed: Vec<u64> = bitmap.runs().flatten().collect();
            prop_assert_eq!(listed, model.into_iter().collect::<Vec<_>>());
            let by_word: Vec<u64> = bitmap.words().flat_map(|(word, bits)| of_word(word, bits)).collect();
            prop_assert_eq!(by_word, bitmap.runs().flatten().collect::<Vec<_>>());
            prop_assert!(bitmap.words().all(|(word, bits)| bitmap.word(word) == bits));
            let runs: Vec<_> = bitmap.runs().collect();
            prop_assert!(runs.windows(2).all(|pair| pair[0].end < pair[1].start), "a run was split");
        }
    }
}

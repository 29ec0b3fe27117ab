// SPDX-License-Identifier: GPL-2.0-or-later
//! The set of indices, made of chunks.

#[cfg(test)]
mod tests;

use crate::WORD_BITS;
use crate::chunk::{CHUNK_BITS, CHUNK_WORDS, Chunk, Spare, line_of};
use crate::runs::Runs;
use std::ops::Range;

/// A set of indices below a fixed limit.
///
/// # Invariants
///
/// `set` is the sum of what the chunks have; none of it is at or past `limit`.
///
/// It cannot be cloned: a large set takes long to copy. [`SparseBitmap::copy_chunk`] copies a part
/// of it, so that a caller can do something else in between.
pub struct SparseBitmap {
    limit: u64,
    chunks: Vec<Chunk>,
    spare: Spare,
    set: u64,
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

/// Where the bit of an index is: the number of its chunk, and the word and the bit in there.
#[inline]
fn place(index: u64) -> (usize, usize, u64) {
    let word = (index / WORD_BITS) as usize;
    let bit = 1 << (index % WORD_BITS);
    (word / CHUNK_WORDS, word % CHUNK_WORDS, bit)
}

impl SparseBitmap {
    /// An empty set of indices below `limit`. It allocates nothing.
    pub fn new(limit: u64) -> SparseBitmap {
        SparseBitmap {
            limit,
            chunks: Vec::new(),
            spare: Spare::default(),
            set: 0,
        }
    }

    /// How many indices are in the set.
    pub fn len(&self) -> u64 {
        self.set
    }

    /// Whether no index is in the set.
    pub fn is_empty(&self) -> bool {
        self.set == 0
    }

    /// Bytes of memory that the set takes, those of surplus buffers included.
    ///
    /// ```
    /// # use sparse_bitmap::SparseBitmap;
    /// let mut set = SparseBitmap::new(1 << 28);
    /// set.insert_range(0..1 << 28);
    /// assert!(set.memory_bytes() < 256 * 1024, "one run of 2^28");
    /// ```
    pub fn memory_bytes(&self) -> usize {
        let kept = self.chunks.iter().filter_map(|chunk| chunk.words.as_ref());
        let words: usize = kept.map(|words| size_of_val(&**words)).sum();
        let chunks = self.chunks.capacity() * size_of::<Chunk>();
        size_of_val(self) + chunks + words + self.spare.memory()
    }

    /// How often a chunk needed a buffer so far. To fill one costs as much as to change many
    /// indices, so a caller whose time is bounded counts them.
    pub fn buffers_taken(&self) -> u64 {
        self.spare.taken()
    }

    /// Inserts the indices of `range` and returns how many of them were new. Indices at or past
    /// the limit are left out; a range that ends before it starts is empty.
    ///
    /// ```
    /// # use sparse_bitmap::SparseBitmap;
    /// let mut set = SparseBitmap::new(100);
    /// assert_eq!(set.insert_range(0..10), 10);
    /// assert_eq!(set.insert_range(5..15), 5);
    /// assert_eq!(set.insert_range(90..u64::MAX), 10);
    /// ```
    ///
    /// # Panics
    ///
    /// Like a `Vec` that grows, when there is no memory.
    #[inline]
    pub fn insert_range(&mut self, range: Range<u64>) -> u64 {
        if range.end.checked_sub(range.start) == Some(1)
            && let Some(new) = self.insert_one(range.start)
        {
            return new;
        }
        self.insert_chunks(range)
    }

    /// The same for one index, if that changes no more than a bit of a chunk's words.
    #[inline]
    fn insert_one(&mut self, index: u64) -> Option<u64> {
        if index >= self.limit {
            return None;
        }
        let (number, word, bit) = place(index);
        let chunk = self.chunks.get_mut(number)?;
        let words = chunk.words.as_mut()?;
        if words[word] & bit != 0 {
            return Some(0);
        }
        if chunk.set >= CHUNK_BITS - 1 {
            return None;
        }
        words[word] |= bit;
        chunk.lines |= 1 << line_of(word);
        chunk.set += 1;
        self.set += 1;
        Some(1)
    }

    fn insert_chunks(&mut self, range: Range<u64>) -> u64 {
        let mut new = 0;
        for (number, bits) in by_chunk(range.start..range.end.min(self.limit)) {
            let (chunk, spare) = self.make(number);
            new += chunk.add(bits, spare);
        }
        self.set += new;
        new
    }

    /// Removes the indices of `range` and returns how many of them were in the set. A range that
    /// ends before it starts is empty.
    ///
    /// ```
    /// # use sparse_bitmap::SparseBitmap;
    /// let mut set = SparseBitmap::new(100);
    /// set.insert_range(0..10);
    /// assert_eq!(set.remove_range(5..u64::MAX), 5);
    /// ```
    #[inline]
    pub fn remove_range(&mut self, range: Range<u64>) -> u64 {
        if range.end.checked_sub(range.start) == Some(1)
            && let Some(gone) = self.remove_one(range.start)
        {
            return gone;
        }
        self.remove_chunks(range)
    }

    /// The same for one index, if that changes no more than a bit of a chunk's words.
    #[inline]
    fn remove_one(&mut self, index: u64) -> Option<u64> {
        let (number, word, bit) = place(index);
        let chunk = self.chunks.get_mut(number)?;
        let words = chunk.words.as_mut()?;
        if words[word] & bit == 0 {
            return Some(0);
        }
        if chunk.set <= 1 {
            return None;
        }
        words[word] &= !bit;
        chunk.set -= 1;
        self.set -= 1;
        Some(1)
    }

    fn remove_chunks(&mut self, range: Range<u64>) -> u64 {
        let mut gone = 0;
        for (number, bits) in by_chunk(self.within_chunks(range)) {
            gone += self.chunks[number].clear(bits, &mut self.spare);
        }
        self.set -= gone;
        gone
    }

    /// Inserts an index for each bit that is set in `bits`, the lowest standing for 64 times
    /// `word`, and returns how many of them were new. Those at or past the limit are left out.
    ///
    /// ```
    /// # use sparse_bitmap::SparseBitmap;
    /// let mut set = SparseBitmap::new(100);
    /// assert_eq!(set.insert_word(1, 0b101), 2);
    /// assert!(set.iter().eq([64, 66]));
    /// assert_eq!(set.insert_word(1, u64::MAX), 34, "up to the limit");
    /// ```
    pub fn insert_word(&mut self, word: usize, bits: u64) -> u64 {
        let first = (word as u64).saturating_mul(WORD_BITS);
        let room = self.limit.saturating_sub(first).min(WORD_BITS);
        if room == 0 || bits == 0 {
            return 0;
        }
        let bits = bits & (u64::MAX >> (WORD_BITS - room));
        let (chunk, spare) = self.make(word / CHUNK_WORDS);
        let new = chunk.add_word(word % CHUNK_WORDS, bits, spare);
        self.set += new;
        new
    }

    /// Removes an index for each bit that is set in `bits`, the lowest standing for 64 times
    /// `word`, and returns how many of them were in the set.
    pub fn remove_word(&mut self, word: usize, bits: u64) -> u64 {
        let Some(chunk) = self.chunks.get_mut(word / CHUNK_WORDS) else {
            return 0;
        };
        let gone = chunk.clear_word(word % CHUNK_WORDS, bits, &mut self.spare);
        self.set -= gone;
        gone
    }

    /// The 64 indices from 64 times `word` on as bits, 0 past the limit.
    pub fn word(&self, word: usize) -> u64 {
        let chunk = self.chunks.get(word / CHUNK_WORDS);
        chunk.map_or(0, |chunk| chunk.word(word % CHUNK_WORDS))
    }

    /// The words that are not 0, each with its number, in ascending order.
    pub fn words(&self) -> impl Iterator<Item = (usize, u64)> {
        let chunks = self.chunks.iter().enumerate();
        chunks.flat_map(|(number, chunk)| {
            let words = chunk.words();
            words.map(move |(word, bits)| (number * CHUNK_WORDS + word, bits))
        })
    }

    /// Fills `out` with the indices from `first` on as bits, `first` in the lowest bit of its first
    /// word; 0 past the limit. `first` need not be a multiple of 64.
    ///
    /// ```
    /// # use sparse_bitmap::SparseBitmap;
    /// let mut set = SparseBitmap::new(1 << 20);
    /// set.insert_range(70..75);
    /// let mut bits = [0; 2];
    /// set.copy_bits(69, &mut bits);
    /// assert_eq!(bits, [0b11_1110, 0]);
    /// ```
    pub fn copy_bits(&self, first: u64, out: &mut [u64]) {
        let (word, shift) = ((first / WORD_BITS) as usize, first % WORD_BITS);
        self.copy_words(word, out);
        if shift != 0 {
            let behind = self.word(word + out.len());
            for at in 0..out.len() {
                let next = out.get(at + 1).copied().unwrap_or(behind);
                out[at] = out[at] >> shift | next << (WORD_BITS - shift);
            }
        }
    }

    fn copy_words(&self, first: usize, out: &mut [u64]) {
        let mut first = first;
        let mut rest = out;
        while !rest.is_empty() {
            let (number, word) = (first / CHUNK_WORDS, first % CHUNK_WORDS);
            let here = rest.len().min(CHUNK_WORDS - word);
            let (part, behind) = rest.split_at_mut(here);
            match self.chunks.get(number) {
                Some(chunk) => chunk.copy_words(word, part),
                None => part.fill(0),
            }
            first += here;
            rest = behind;
        }
    }

    /// The smallest index of `range` that is in the set. It looks at no chunk past `range`, so it
    /// takes no longer than the range is, as [`SparseBitmap::next_index`] may.
    pub fn first_in(&self, range: Range<u64>) -> Option<u64> {
        by_chunk(self.within_chunks(range)).find_map(|(number, bits)| {
            let found = self.chunks[number].find::<true>(bits.start)?;
            (found < bits.end).then_some(number as u64 * CHUNK_BITS + found)
        })
    }

    /// Removes all indices. Their buffers become surplus.
    pub fn remove_all(&mut self) {
        for chunk in std::mem::take(&mut self.chunks) {
            self.spare.put(chunk.words);
        }
        self.set = 0;
    }

    /// Ends `other` and takes over its buffers, to be used again or freed by
    /// [`SparseBitmap::trim`]. Which indices are in this set stays as it is.
    pub fn reuse(&mut self, mut other: SparseBitmap) {
        other.remove_all();
        self.spare.append(&mut other.spare);
    }

    /// Frees surplus buffers of 4 KiB, `most` of them at most; returns how many it freed.
    ///
    /// ```
    /// # use sparse_bitmap::SparseBitmap;
    /// let mut set = SparseBitmap::new(1 << 32);
    /// for index in (0..1 << 23).step_by(1 << 15) {
    ///     set.insert_range(index..index + 1);
    /// }
    /// set.remove_range(0..u64::MAX);
    /// assert_eq!(set.surplus(), 248);
    /// while set.trim(100) > 0 {
    ///     // Here the caller may do something else.
    /// }
    /// assert_eq!(set.surplus(), 0);
    /// ```
    pub fn trim(&mut self, most: usize) -> usize {
        self.spare.trim(most)
    }

    /// How many buffers are surplus: no chunk needs them, and they are not among the eight that are
    /// kept for chunks that will.
    pub fn surplus(&self) -> usize {
        self.spare.surplus()
    }

    /// Makes this set the same as `other` in the chunk that `index` lies in; returns the first
    /// index of the next chunk. `other` has the same limit, and `index` lies below it.
    ///
    /// ```
    /// # use sparse_bitmap::SparseBitmap;
    /// let (mut copy, mut set) = (SparseBitmap::new(1 << 20), SparseBitmap::new(1 << 20));
    /// set.insert_range(7..500_000);
    /// let mut next = 0;
    /// while let Some(index) = set.next_index(next) {
    ///     next = copy.copy_chunk(&set, index);
    ///     // Here the caller may do something else.
    /// }
    /// assert!(copy.runs().eq(set.runs()));
    /// ```
    pub fn copy_chunk(&mut self, other: &SparseBitmap, index: u64) -> u64 {
        let number = index / CHUNK_BITS;
        let end = (number + 1).saturating_mul(CHUNK_BITS);
        match other.chunks.get(number as usize) {
            Some(from) => {
                let (chunk, spare) = self.make(number as usize);
                let before = std::mem::replace(chunk, Chunk::copy_of(from, spare));
                spare.put(before.words);
                self.set = self.set - before.set + from.set;
            }
            None => {
                self.remove_range(number * CHUNK_BITS..end);
            }
        }
        end
    }

    /// Whether every index of `range` is in the set; true for an empty range.
    #[inline]
    pub fn contains_range(&self, range: Range<u64>) -> bool {
        if range.end.checked_sub(range.start) == Some(1) {
            let (number, word, bit) = place(range.start);
            let chunk = self.chunks.get(number);
            return chunk.is_some_and(|chunk| chunk.word(word) & bit != 0);
        }
        self.contains_chunks(range)
    }

    fn contains_chunks(&self, range: Range<u64>) -> bool {
        by_chunk(range).all(|(number, bits)| {
            let chunk = self.chunks.get(number);
            chunk.is_some_and(|chunk| chunk.contains_all(bits))
        })
    }

    /// The smallest index in the set.
    pub fn first(&self) -> Option<u64> {
        self.next_index(0)
    }

    /// The smallest index in the set that is not below `from`.
    #[inline]
    pub fn next_index(&self, from: u64) -> Option<u64> {
        let (number, word, _) = place(from);
        let rest = self.chunks.get(number)?.word(word) >> (from % WORD_BITS);
        // Often it is the very next: a branch that a processor guesses is faster than to count.
        if rest & 1 != 0 {
            return Some(from);
        }
        if rest != 0 {
            return Some(from + u64::from(rest.trailing_zeros()));
        }
        self.find::<true>(from)
    }

    /// The smallest index not below `from` that is *not* in the set; `from` itself or an index past
    /// all others at the latest.
    fn next_clear(&self, from: u64) -> u64 {
        let (number, word, _) = place(from);
        let rest =
            self.chunks.get(number).map_or(0, |chunk| !chunk.word(word)) >> (from % WORD_BITS);
        if rest != 0 {
            return from + u64::from(rest.trailing_zeros());
        }
        let past = self.chunks.len() as u64 * CHUNK_BITS;
        self.find::<false>(from).unwrap_or(past.max(from))
    }

    /// The first index from `from` on, of those that there are chunks for, that is in the set, or
    /// with `IN_SET` false is not.
    fn find<const IN_SET: bool>(&self, from: u64) -> Option<u64> {
        let (first, ..) = place(from);
        let mut bit = from % CHUNK_BITS;
        for (number, chunk) in self.chunks.iter().enumerate().skip(first) {
            if let Some(found) = chunk.find::<IN_SET>(bit) {
                return Some(number as u64 * CHUNK_BITS + found);
            }
            bit = 0;
        }
        None
    }

    /// Whether the first index of `range` is in the set, and up to where in `range` all others are
    /// as it is. An empty range ends where it starts.
    ///
    /// ```
    /// # use sparse_bitmap::SparseBitmap;
    /// let mut set = SparseBitmap::new(1 << 20);
    /// set.insert_range(10..20);
    /// assert_eq!(set.front(0..100), (false, 10));
    /// assert_eq!(set.front(10..100), (true, 20));
    /// assert_eq!(set.front(20..100), (false, 100));
    /// ```
    pub fn front(&self, range: Range<u64>) -> (bool, u64) {
        let is_in = self.contains_range(range.start..range.start.saturating_add(1));
        for (number, bits) in by_chunk(range.clone()) {
            let chunk = self.chunks.get(number);
            let other = match (chunk, is_in) {
                (Some(chunk), true) => chunk.find::<false>(bits.start),
                (Some(chunk), false) => chunk.find::<true>(bits.start),
                (None, true) => Some(bits.start),
                (None, false) => None,
            };
            if let Some(other) = other.filter(|&other| other < bits.end) {
                return (is_in, number as u64 * CHUNK_BITS + other);
            }
        }
        (is_in, range.end)
    }

    /// The first run of neighbouring indices none of which is below `from`. A run that begins below
    /// `from` is cut off there.
    ///
    /// ```
    /// # use sparse_bitmap::SparseBitmap;
    /// let mut set = SparseBitmap::new(1 << 20);
    /// set.insert_range(10..20);
    /// assert_eq!(set.next_run(0), Some(10..20));
    /// assert_eq!(set.next_run(15), Some(15..20));
    /// assert_eq!(set.next_run(20), None);
    /// ```
    pub fn next_run(&self, from: u64) -> Option<Range<u64>> {
        let start = self.next_index(from)?;
        Some(start..self.next_clear(start))
    }

    /// The runs of neighbouring indices, in ascending order; no two of them touch.
    pub fn runs(&self) -> impl Iterator<Item = Range<u64>> {
        Runs::new(&self.chunks)
    }

    /// The indices, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u64> {
        self.runs().flatten()
    }

    /// The chunk of this number, which lies below the limit, and words for it.
    fn make(&mut self, number: usize) -> (&mut Chunk, &mut Spare) {
        if self.chunks.capacity() <= number {
            // Twice as many as before, so that growing costs little, but no more than there can be.
            let most = self.limit.div_ceil(CHUNK_BITS) as usize;
            let wanted = (number + 1).max(most.min(2 * self.chunks.len()));
            self.chunks.reserve_exact(wanted - self.chunks.len());
        }
        if self.chunks.len() <= number {
            self.chunks.resize_with(number + 1, Chunk::default);
        }
        (&mut self.chunks[number], &mut self.spare)
    }

    /// `range`, cut down to the indices for which there is a place in `chunks`.
    fn within_chunks(&self, range: Range<u64>) -> Range<u64> {
        range.start..range.end.min(self.chunks.len() as u64 * CHUNK_BITS)
    }
}

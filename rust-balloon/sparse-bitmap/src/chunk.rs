// SPDX-License-Identifier: GPL-2.0-or-later
//! A piece of the bitmap.

use crate::{WORD_BITS, masks};
use std::ops::Range;

/// What a line is made of: 64 bytes, as much as a processor's cache fetches at once.
const LINE_WORDS: usize = 8;
pub(super) const LINE_BITS: u64 = LINE_WORDS as u64 * WORD_BITS;
/// A chunk has as many lines as a word has bits.
pub(super) const CHUNK_WORDS: usize = WORD_BITS as usize * LINE_WORDS;
pub(super) const CHUNK_BITS: u64 = CHUNK_WORDS as u64 * WORD_BITS;

pub(super) type Line = [u64; LINE_WORDS];
pub(super) type Words = [u64; CHUNK_WORDS];

/// Words of chunks that do not need them any more, for others: so that a set that grows and shrinks
/// does not allocate each time. What they hold is of no use. They are freed by [`Spare::trim`]
/// only: a set of a large guest can become empty in one call, and to free its memory takes longer
/// than that call may.
#[derive(Default)]
pub(super) struct Spare {
    words: Vec<Box<Words>>,
    /// How many were given away so far.
    taken: u64,
}

impl Spare {
    /// So many are kept.
    const KEPT: usize = 8;

    /// Bytes of memory that they take.
    pub(super) fn memory(&self) -> usize {
        self.words.capacity() * size_of::<Box<Words>>() + self.words.len() * size_of::<Words>()
    }

    /// How many words of chunks were taken so far.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// Words that are all 0.
    fn take(&mut self) -> Box<Words> {
        self.taken += 1;
        match self.words.pop() {
            Some(mut words) => {
                words.fill(0);
                words
            }
            None => Box::new([0; CHUNK_WORDS]),
        }
    }

    pub(super) fn put(&mut self, words: Option<Box<Words>>) {
        self.words.extend(words);
    }

    /// Takes over those of `other`.
    pub(super) fn append(&mut self, other: &mut Spare) {
        self.words.append(&mut other.words);
    }

    /// How many are to be freed.
    pub(super) fn surplus(&self) -> usize {
        self.words.len().saturating_sub(Spare::KEPT)
    }

    /// Frees `most` of those at most; returns how many.
    pub(super) fn trim(&mut self, most: usize) -> usize {
        let freed = self.surplus().min(most);
        self.words.truncate(self.words.len() - freed);
        freed
    }
}

/// Indices from 0 to `CHUNK_BITS`.
///
/// # Invariants
///
/// `set` is the number of indices that are in the chunk. Without `words` those are the lines whose
/// bits `lines` has, as a whole. With `words` they are the ones there; a line whose bit `lines` has
/// not is empty then, the others may be anything. A chunk that is full or empty has no `words`.
#[derive(Default)]
pub(super) struct Chunk {
    pub(super) words: Option<Box<Words>>,
    pub(super) lines: u64,
    pub(super) set: u64,
}

/// The lines that `bits`, which is not empty, touches.
fn touched(bits: &Range<u64>) -> u64 {
    let last = (bits.end - 1) / LINE_BITS;
    (u64::MAX << (bits.start / LINE_BITS)) & (u64::MAX >> (WORD_BITS - 1 - last))
}

/// The line of a word.
pub(super) fn line_of(word: usize) -> usize {
    word / LINE_WORDS
}

/// Whether lines are all that `bits` consists of.
fn is_lines(bits: &Range<u64>) -> bool {
    (bits.start | bits.end).is_multiple_of(LINE_BITS)
}

/// The lines of the words of a chunk.
pub(super) fn lines_of(words: &Words) -> &[Line] {
    words.as_chunks().0
}

/// Ones for those words of a line that are not 0, as `view` shows them.
pub(super) fn seen(line: &Line, view: impl Fn(u64) -> u64) -> u64 {
    // Without a branch: which word it will be is nothing that a processor could guess.
    let seen = line.iter().enumerate();
    seen.fold(0, |seen, (word, &bits)| {
        seen | u64::from(view(bits) != 0) << word
    })
}

/// Changes the words that hold `bits`: `part` those of which only the bits of a mask are meant, and
/// `whole` the others. Both say how many bits they changed.
fn change(
    words: &mut Words,
    bits: &Range<u64>,
    part: impl Fn(&mut u64, u64) -> u32,
    whole: impl Fn(&mut [u64]) -> u64,
) -> u64 {
    let last_bit = bits.end - 1;
    let (first, last) = (bits.start / WORD_BITS, last_bit / WORD_BITS);
    let (first, last) = (first as usize, last as usize);
    let from_start = u64::MAX << (bits.start % WORD_BITS);
    let to_end = u64::MAX >> (WORD_BITS - 1 - last_bit % WORD_BITS);
    if first == last {
        return part(&mut words[first], from_start & to_end).into();
    }
    let ends = part(&mut words[first], from_start) + part(&mut words[last], to_end);
    u64::from(ends) + whole(&mut words[first + 1..last])
}

/// How many ones there are.
fn ones(words: &[u64]) -> u64 {
    // Most ranges are added to nothing, and most that are cleared were there, which is seen faster
    // than counted.
    let (any, all) = words
        .iter()
        .fold((0, u64::MAX), |(any, all), bits| (any | bits, all & bits));
    match (any, all) {
        (0, _) => 0,
        (_, u64::MAX) => words.len() as u64 * WORD_BITS,
        _ => words.iter().map(|bits| u64::from(bits.count_ones())).sum(),
    }
}

impl Chunk {
    /// The same indices as in `other`, whose words are copied.
    pub(super) fn copy_of(other: &Chunk, spare: &mut Spare) -> Chunk {
        let words = other.words.as_ref().map(|words| {
            let mut copy = spare.take();
            copy.copy_from_slice(&words[..]);
            copy
        });
        Chunk { words, ..*other }
    }

    /// Adds `bits`, which is not empty, and says how many of them were new.
    pub(super) fn add(&mut self, bits: Range<u64>, spare: &mut Spare) -> u64 {
        let touched = touched(&bits);
        let missing = touched & !self.lines;
        let new = match &mut self.words {
            _ if bits.end - bits.start == CHUNK_BITS => CHUNK_BITS - self.set,
            None if missing == 0 => 0,
            None if is_lines(&bits) => u64::from(missing.count_ones()) * LINE_BITS,
            _ => {
                let part = |place: &mut u64, mask: u64| {
                    let new = (mask & !*place).count_ones();
                    *place |= mask;
                    new
                };
                let whole = |words: &mut [u64]| {
                    let new = words.len() as u64 * WORD_BITS - ones(words);
                    words.fill(u64::MAX);
                    new
                };
                change(self.words_mut(spare), &bits, part, whole)
            }
        };
        self.lines |= touched;
        self.set += new;
        self.drop_words(spare);
        new
    }

    /// Takes out `bits`, which is not empty, and says how many of them were there.
    pub(super) fn clear(&mut self, bits: Range<u64>, spare: &mut Spare) -> u64 {
        let touched = touched(&bits);
        if self.lines & touched == 0 {
            return 0;
        }
        let whole_lines = is_lines(&bits);
        let gone = match &mut self.words {
            _ if bits.end - bits.start == CHUNK_BITS => self.set,
            None if whole_lines => u64::from((touched & self.lines).count_ones()) * LINE_BITS,
            _ => {
                let part = |place: &mut u64, mask: u64| {
                    let gone = (mask & *place).count_ones();
                    *place &= !mask;
                    gone
                };
                let whole = |words: &mut [u64]| {
                    let gone = ones(words);
                    words.fill(0);
                    gone
                };
                change(self.words_mut(spare), &bits, part, whole)
            }
        };
        if whole_lines {
            self.lines &= !touched;
        }
        self.set -= gone;
        self.drop_words(spare);
        gone
    }

    /// Adds the ones of `bits` to a word and says how many of them were new.
    pub(super) fn add_word(&mut self, word: usize, bits: u64, spare: &mut Spare) -> u64 {
        let new = bits & !self.word(word);
        if new != 0 {
            self.words_mut(spare)[word] |= new;
            self.lines |= 1 << line_of(word);
            self.set += u64::from(new.count_ones());
            self.drop_words(spare);
        }
        new.count_ones().into()
    }

    /// Takes the ones of `bits` out of a word and says how many of them were there.
    pub(super) fn clear_word(&mut self, word: usize, bits: u64, spare: &mut Spare) -> u64 {
        let gone = bits & self.word(word);
        if gone != 0 {
            self.words_mut(spare)[word] &= !gone;
            self.set -= u64::from(gone.count_ones());
            self.drop_words(spare);
        }
        gone.count_ones().into()
    }

    /// A word of it.
    #[inline]
    pub(super) fn word(&self, word: usize) -> u64 {
        match &self.words {
            Some(words) => words[word],
            None => self.line_bits(line_of(word)),
        }
    }

    /// Fills `out` with its words from `first` on.
    pub(super) fn copy_words(&self, first: usize, out: &mut [u64]) {
        match &self.words {
            Some(words) => out.copy_from_slice(&words[first..first + out.len()]),
            None if self.set == 0 || self.set == CHUNK_BITS => {
                out.fill(self.line_bits(0));
            }
            None => {
                for (word, out) in (first..).zip(out) {
                    *out = self.word(word);
                }
            }
        }
    }

    /// All ones if `lines` has the bit of the line, else 0.
    #[inline]
    fn line_bits(&self, line: usize) -> u64 {
        0u64.wrapping_sub(self.lines >> line & 1)
    }

    /// Whether all of `bits`, which is not empty, are there.
    pub(super) fn contains_all(&self, bits: Range<u64>) -> bool {
        let touched = touched(&bits);
        if touched & !self.lines != 0 || self.set < bits.end - bits.start {
            return false;
        }
        match &self.words {
            Some(words) => masks(bits).all(|(word, mask)| words[word] & mask == mask),
            None => true,
        }
    }

    /// The words that are not 0, each with its number.
    pub(super) fn words(&self) -> impl Iterator<Item = (usize, u64)> {
        let mut lines = self.lines;
        let lines = std::iter::from_fn(move || {
            let line = lines.trailing_zeros();
            lines &= lines.wrapping_sub(1);
            (line < u64::BITS).then_some(line as usize)
        });
        lines
            .flat_map(|line| line * LINE_WORDS..(line + 1) * LINE_WORDS)
            .map(|word| (word, self.word(word)))
            .filter(|&(_, bits)| bits != 0)
    }

    /// The first bit from `from` on that is one, or with `ONES` false zero.
    pub(super) fn find<const ONES: bool>(&self, from: u64) -> Option<u64> {
        let view = |bits: u64| if ONES { bits } else { !bits };
        let line = from / LINE_BITS;
        let Some(words) = &self.words else {
            let lines = view(self.lines) >> line;
            return match lines.trailing_zeros() {
                0 => Some(from),
                u64::BITS => None,
                skipped => Some((line + u64::from(skipped)) * LINE_BITS),
            };
        };
        // What is left of the first word, then of its line, then the other lines.
        let word = (from / WORD_BITS) as usize;
        let rest = view(words[word]) >> (from % WORD_BITS);
        if rest != 0 {
            return Some(from + u64::from(rest.trailing_zeros()));
        }
        let at =
            |word: usize| word as u64 * WORD_BITS + u64::from(view(words[word]).trailing_zeros());
        let lines = lines_of(words);
        let behind = seen(&lines[line as usize], view) & (u64::MAX << (word % LINE_WORDS) << 1);
        if behind != 0 {
            let first = behind.trailing_zeros() as usize;
            return Some(at(line as usize * LINE_WORDS + first));
        }
        // Any line may have a zero; one where `lines` has none has no one.
        let mut left = if ONES { self.lines } else { u64::MAX };
        left &= u64::MAX << line << 1;
        while left != 0 {
            let line = left.trailing_zeros() as usize;
            let seen = seen(&lines[line], view);
            if seen != 0 {
                return Some(at(line * LINE_WORDS + seen.trailing_zeros() as usize));
            }
            left &= left - 1;
        }
        None
    }

    /// The words, for a change of some bits.
    fn words_mut(&mut self, spare: &mut Spare) -> &mut Words {
        let lines = self.lines;
        self.words.get_or_insert_with(|| {
            let mut words = spare.take();
            if lines != 0 {
                for (line, words) in words.chunks_exact_mut(LINE_WORDS).enumerate() {
                    words.fill(0u64.wrapping_sub(lines >> line & 1));
                }
            }
            words
        })
    }

    /// Gives the words back if the chunk is full or empty.
    fn drop_words(&mut self, spare: &mut Spare) {
        if self.set == 0 || self.set == CHUNK_BITS {
            spare.put(self.words.take());
            self.lines = if self.set == 0 { 0 } else { u64::MAX };
        }
    }
}

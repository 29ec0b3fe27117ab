// SPDX-License-Identifier: GPL-2.0-or-later
//! The runs of a bitmap, without looking twice at any part of it.

use crate::WORD_BITS;
use crate::chunk::{CHUNK_BITS, Chunk, LINE_BITS, Line, lines_of, seen};
use std::ops::Range;
use std::slice;

/// A bit for each word of a line.
const ALL_WORDS: u64 = u64::MAX >> (WORD_BITS - LINE_BITS / WORD_BITS);

/// What goes over a bitmap in pieces of up to 64 ones: a word, or the lines of a chunk.
pub(super) struct Runs<'a> {
    /// Those not begun, and where the first of them lies.
    chunks: slice::Iter<'a, Chunk>,
    chunks_at: u64,
    /// The chunk in work: its lines, where they lie, and which are not begun.
    lines: &'a [Line],
    lines_at: u64,
    lines_left: u64,
    /// The line in work: where it lies, which of its words are not begun, and which are all ones.
    line: &'a Line,
    line_at: u64,
    words_left: u64,
    words_full: u64,
    /// The piece in work: where it lies, what is left of it, and how many indices a bit stands for.
    piece_at: u64,
    piece: u64,
    bit: u64,
    /// The run that the last piece ended with, as more of it may follow.
    open: Range<u64>,
}

impl<'a> Runs<'a> {
    pub(super) fn new(chunks: &'a [Chunk]) -> Runs<'a> {
        Runs {
            chunks: chunks.iter(),
            chunks_at: 0,
            lines: &[],
            lines_at: 0,
            lines_left: 0,
            line: &[0; _],
            line_at: 0,
            words_left: 0,
            words_full: 0,
            piece_at: 0,
            piece: 0,
            bit: 1,
            open: 0..0,
        }
    }

    /// Goes on to what may have the next ones; says whether there is anything.
    fn advance(&mut self) -> bool {
        if self.words_left != 0 {
            let word = self.words_left.trailing_zeros() as usize;
            self.piece_at = self.line_at + word as u64 * WORD_BITS;
            let full = self.words_full >> word;
            if full & 1 != 0 {
                // Any of them may be followed by one that is not full, but not empty either.
                let count = full.trailing_ones();
                self.words_left &= u64::MAX << word << count;
                self.piece = 1;
                self.bit = u64::from(count) * WORD_BITS;
            } else {
                self.words_left &= self.words_left - 1;
                self.piece = self.line[word];
                self.bit = 1;
            }
        } else if self.lines_left != 0 {
            let line = self.lines_left.trailing_zeros() as usize;
            self.lines_left &= self.lines_left - 1;
            self.line = &self.lines[line];
            self.line_at = self.lines_at + line as u64 * LINE_BITS;
            if self.line.iter().fold(u64::MAX, |all, bits| all & bits) == u64::MAX {
                self.piece = 1;
                self.piece_at = self.line_at;
                self.bit = LINE_BITS;
            } else {
                self.words_left = seen(self.line, |bits| bits);
                self.words_full = match self.words_left {
                    ALL_WORDS => ALL_WORDS & !seen(self.line, |bits| !bits),
                    // It is no dense line, and the words are looked at one by one.
                    _ => 0,
                };
            }
        } else {
            let Some(chunk) = self.chunks.next() else {
                return false;
            };
            match &chunk.words {
                Some(words) => {
                    self.lines = lines_of(words);
                    self.lines_at = self.chunks_at;
                    self.lines_left = chunk.lines;
                }
                None => {
                    self.piece = chunk.lines;
                    self.piece_at = self.chunks_at;
                    self.bit = LINE_BITS;
                }
            }
            self.chunks_at += CHUNK_BITS;
        }
        true
    }
}

impl Iterator for Runs<'_> {
    type Item = Range<u64>;

    #[inline]
    fn next(&mut self) -> Option<Range<u64>> {
        loop {
            while self.piece == 0 {
                if !self.advance() {
                    let last = std::mem::take(&mut self.open);
                    return (!last.is_empty()).then_some(last);
                }
            }
            let first = self.piece.trailing_zeros();
            let len = (self.piece >> first).trailing_ones();
            // The carry takes out the lowest run of ones.
            self.piece &= self.piece.wrapping_add(1 << first);
            let start = self.piece_at + u64::from(first) * self.bit;
            let run = start..start + u64::from(len) * self.bit;
            if run.start == self.open.end {
                self.open.end = run.end;
            } else {
                let done = std::mem::replace(&mut self.open, run);
                if !done.is_empty() {
                    return Some(done);
                }
            }
        }
    }
}

// SPDX-License-Identifier: GPL-2.0-or-later
//! A piece of memory whose every word says where it belongs and how old it is.
//!
//! A page that came back as zeroes, in another page's place or with content that
//! was overwritten since is so told from the right one, and from each other.

use std::fmt;
use std::fs::{self, File};
use std::hint::black_box;
use std::io;
use std::os::unix::fs::FileExt;

const PAGE_BYTES: usize = 4096;
const PAGE_WORDS: usize = PAGE_BYTES / 8;

const WORD_BITS: u32 = 9;
const PAGE_BITS: u32 = 16;
const PLACE_BITS: u32 = 12;
const GENERATION_BITS: u32 = 24;
const _: () = assert!(WORD_BITS + PAGE_BITS + PLACE_BITS + GENERATION_BITS == 61);
/// Above all of them. Only a pattern has it, and no pattern is zero.
const MARK: u64 = 0b101 << 61;

/// More pages than this have no pattern of their own.
pub(crate) const MOST_PAGES: usize = 1 << PAGE_BITS;
/// More places than this have no pattern of their own.
pub(crate) const MOST_PLACES: usize = 1 << PLACE_BITS;

/// On a page boundary, so that a wrong page of the guest is a wrong page here.
#[derive(Clone)]
#[repr(align(4096))]
struct Page([u64; PAGE_WORDS]);

/// Where a page belongs, and how often it was written.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Tag {
    place: usize,
    page: usize,
    generation: u32,
}

impl Tag {
    fn first_word(self) -> u64 {
        let generation = u64::from(self.generation) & ((1 << GENERATION_BITS) - 1);
        let place = (generation << PLACE_BITS) | self.place as u64;
        MARK | (((place << PAGE_BITS) | self.page as u64) << WORD_BITS)
    }

    /// Reads a word; `None` when it is no pattern.
    fn of(word: u64) -> Option<Tag> {
        let field = |shift: u32, bits: u32| (word >> shift) & ((1 << bits) - 1);
        let place_at = WORD_BITS + PAGE_BITS;
        ((word >> 61) << 61 == MARK).then(|| Tag {
            place: field(place_at, PLACE_BITS) as usize,
            page: field(WORD_BITS, PAGE_BITS) as usize,
            generation: field(place_at + PLACE_BITS, GENERATION_BITS) as u32,
        })
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tag {
            place,
            page,
            generation,
        } = self;
        write!(f, "place {place} page {page} generation {generation}")
    }
}

enum Store {
    Memory(Vec<Page>),
    /// In memory as well, but the kernel's: a file of a tmpfs.
    File(File, String),
}

/// Some pages, and the generation that each of them should have.
pub(crate) struct Piece {
    place: usize,
    generations: Vec<u32>,
    store: Store,
}

impl Piece {
    /// A program's own memory, filled. Every page starts above `generation`.
    pub(crate) fn memory(place: usize, pages: usize, generation: u32) -> Piece {
        let tag = |page| Tag {
            place,
            page,
            generation: generation + 1,
        };
        let fill = |page| Page(words(tag(page)));
        Piece {
            place,
            generations: vec![generation + 1; pages],
            store: Store::Memory((0..pages).map(fill).collect()),
        }
    }

    /// A file of the same, which goes with the piece.
    pub(crate) fn file(place: usize, pages: usize, generation: u32) -> io::Result<Piece> {
        let path = format!("/tmp/churn-{place}");
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)?;
        let mut piece = Piece {
            place,
            generations: vec![generation; pages],
            store: Store::File(file, path),
        };
        for page in 0..pages {
            piece.rewrite(page)?;
        }
        Ok(piece)
    }

    pub(crate) fn pages(&self) -> usize {
        self.generations.len()
    }

    /// The highest generation of its pages.
    pub(crate) fn generation(&self) -> u32 {
        self.generations.iter().copied().max().unwrap_or(0)
    }

    /// Writes one page anew, as the next generation.
    pub(crate) fn rewrite(&mut self, page: usize) -> io::Result<()> {
        self.generations[page] += 1;
        let fresh = words(self.tag(page));
        match &mut self.store {
            Store::Memory(pages) => pages[page].0 = fresh,
            Store::File(file, _) => file.write_all_at(&to_bytes(&fresh), offset(page))?,
        }
        Ok(())
    }

    /// Looks at every word; says what is wrong with the first that is.
    pub(crate) fn check(&self) -> Result<(), String> {
        for page in 0..self.pages() {
            self.check_page(page)?;
        }
        Ok(())
    }

    fn check_page(&self, page: usize) -> Result<(), String> {
        let tag = self.tag(page);
        let look = || self.difference(tag).map_err(|e| format!("{tag}: {e}"));
        let Some(wrong) = look()? else { return Ok(()) };
        let again = look()?.map_or("now right".into(), |a| format!("still {a}"));
        Err(format!(
            "{tag} {}: {wrong}; {again}",
            self.whereabouts(page)
        ))
    }

    /// What is in a page instead of what should be.
    fn difference(&self, tag: Tag) -> io::Result<Option<String>> {
        Ok(match &self.store {
            // Looked up in memory each time, whatever the compiler knows of it.
            Store::Memory(pages) => difference(tag, &black_box(&pages[tag.page]).0),
            Store::File(file, _) => difference(tag, &read_file(file, tag.page)?),
        })
    }

    fn tag(&self, page: usize) -> Tag {
        Tag {
            place: self.place,
            page,
            generation: self.generations[page],
        }
    }

    /// The page's address in the program and in the guest's memory.
    fn whereabouts(&self, page: usize) -> String {
        let Store::Memory(pages) = &self.store else {
            return "in a file".into();
        };
        let address = std::ptr::from_ref(&pages[page]).addr();
        match frame_of(address) {
            Ok(frame) => format!("at {address:#x}, frame {frame:#x}"),
            Err(e) => format!("at {address:#x}, frame unknown ({e})"),
        }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if let Store::File(_, path) = &self.store {
            // What stays behind is overwritten by the next one of this place.
            let _ = fs::remove_file(path);
        }
    }
}

fn words(tag: Tag) -> [u64; PAGE_WORDS] {
    let first = tag.first_word();
    std::array::from_fn(|w| first | w as u64)
}

fn to_bytes(words: &[u64; PAGE_WORDS]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

fn read_file(file: &File, page: usize) -> io::Result<[u64; PAGE_WORDS]> {
    let mut bytes = [0; PAGE_BYTES];
    file.read_exact_at(&mut bytes, offset(page))?;
    let mut words = [0; PAGE_WORDS];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    Ok(words)
}

fn offset(page: usize) -> u64 {
    (page * PAGE_BYTES) as u64
}

/// What differs from the pattern, with the first wrong word.
fn difference(tag: Tag, found: &[u64; PAGE_WORDS]) -> Option<String> {
    let first = tag.first_word();
    let is_wrong = |(w, &word): (usize, &u64)| word != (first | w as u64);
    let at = found.iter().enumerate().position(is_wrong)?;
    let count = found.iter().enumerate().filter(|&x| is_wrong(x)).count();
    let (want, got) = (first | at as u64, found[at]);
    let what = match Tag::of(got) {
        _ if got == 0 => "zero".to_string(),
        None => "no pattern".into(),
        Some(t) if t.place == tag.place && t.page == tag.page => {
            format!("generation {}", t.generation)
        }
        Some(other) => format!("of {other}"),
    };
    Some(format!(
        "word {at}: expected {want:#x}, found {got:#x} ({what}), {count} of {PAGE_WORDS} wrong"
    ))
}

/// The number of the page frame behind an address of this program.
fn frame_of(address: usize) -> io::Result<u64> {
    let map = File::open("/proc/self/pagemap")?;
    let mut entry = [0; 8];
    map.read_exact_at(&mut entry, (address / PAGE_BYTES * 8) as u64)?;
    Ok(u64::from_le_bytes(entry) & ((1 << 55) - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: Tag = Tag {
        place: 4000,
        page: 65_000,
        generation: 1_000_000,
    };

    #[test]
    fn a_word_says_where_it_belongs() {
        let words = words(TAG);
        assert!(words.iter().all(|&w| Tag::of(w) == Some(TAG)));
        assert!(words.windows(2).all(|w| w[0] != w[1]));
        assert_eq!(difference(TAG, &words), None);
        assert!(Tag::of(0).is_none());
    }

    #[test]
    fn what_is_wrong_is_told() {
        let said = |change: &dyn Fn(&mut [u64; PAGE_WORDS])| {
            let mut words = words(TAG);
            change(&mut words);
            difference(TAG, &words).unwrap_or_default()
        };
        assert!(said(&|w| w[7] = 0).contains("word 7"));
        assert!(said(&|w| w.fill(0)).contains("(zero), 512 of 512"));
        assert!(said(&|w| w[511] ^= 1 << 62).contains("(no pattern), 1 of"));
        let stale = Tag {
            generation: 999_999,
            ..TAG
        };
        assert!(said(&|w| *w = words_of(stale)).contains("(generation 999999)"));
        let other = Tag { page: 1, ..TAG };
        assert!(said(&|w| *w = words_of(other)).contains("(of place 4000 page 1 "));
    }

    fn words_of(tag: Tag) -> [u64; PAGE_WORDS] {
        words(tag)
    }

    #[test]
    fn a_piece_is_right_until_a_page_is_not_its_newest() {
        let mut piece = Piece::memory(3, 4, 9);
        piece.rewrite(2).unwrap();
        assert_eq!((piece.pages(), piece.generation()), (4, 11));
        assert_eq!(piece.check(), Ok(()));
        piece.generations[1] += 1;
        let said = piece.check().unwrap_err();
        assert!(
            said.contains("page 1 generation 11") && said.contains("still"),
            "{said}"
        );
    }
}

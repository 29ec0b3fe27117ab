// SPDX-License-Identifier: GPL-2.0-or-later

use super::*;
use proptest::prelude::*;

/// First page and number of pages.
type Pages = (u64, u64);

fn response(data_len: u32) -> Vec<u8> {
    [&[0, 1, 7, 0][..], &data_len.to_le_bytes()].concat()
}

fn ranges(words: &[u64]) -> Vec<u8> {
    let mut bytes = response(words.len() as u32 * 8);
    bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    bytes
}

fn chunks(fields: &[u64]) -> Vec<u8> {
    let mut bytes = (fields.len() as u32 / 2).to_le_bytes().to_vec();
    bytes.extend(fields.iter().flat_map(|field| field.to_le_bytes()));
    bytes
}

/// Reads a message in parts of `part` bytes: the pages named, and what was left out.
fn read_in_parts(format: Format, message: &[u8], part: usize) -> (Vec<Pages>, Option<LeftOut>) {
    let mut reader = Reader::new(format, message.len() as u64);
    let mut pages = Vec::new();
    for part in message.chunks(part) {
        reader.read(part, |item| {
            if let Item::Range(range) = item {
                pages.push((range.page_indices().0, range.pages()));
            }
            Ok(())
        });
    }
    (pages, reader.end())
}

fn read(format: Format, message: &[u8]) -> (Vec<Pages>, Option<LeftOut>) {
    let whole = read_in_parts(format, message, usize::MAX);
    for part in [1, 3, 8, 13] {
        assert_eq!(
            read_in_parts(format, message, part),
            whole,
            "in parts of {part}"
        );
    }
    whole
}

fn left_out(reason: Malformed, bytes: u64) -> Option<LeftOut> {
    Some(LeftOut { reason, bytes })
}

#[test]
fn words_of_both_forms() {
    let words = [0x1234_5001, 0x1234_4fff, 0x1234_4000, 0x2000, 0x1_0001];
    let pages = vec![(0x12345, 1), (0x12344, 4095), (0x12344, 8192), (0x10, 1)];
    assert_eq!(read(Format::Ranges, &ranges(&words)), (pages, None));
    assert_eq!(read(Format::Ranges, &ranges(&[])), (vec![], None));
}

#[test]
fn the_header_of_an_answer() {
    let mut head = None;
    let mut reader = Reader::new(Format::Ranges, 24);
    reader.read(&[0, 1, 7, 0, 0x10, 0, 0, 0], |item| {
        head = Some(item);
        Ok(())
    });
    let wanted = Head {
        cmd: 0,
        flags: 1,
        id: Some(7),
    };
    assert_eq!(head, Some(Item::Head(wanted)));
}

#[test]
fn a_chunk_and_the_header_of_the_misc_queue() {
    let bytes = [
        0, 0, 1, 0, 1, 0, 0, 0, 0, 0x50, 0x34, 0x12, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0,
    ];
    assert_eq!(read(Format::MiscChunks, &bytes), (vec![(0x12345, 1)], None));
    assert_eq!(
        read(Format::Chunks, &bytes[4..]),
        (vec![(0x12345, 1)], None)
    );
    let mut head = None;
    Reader::new(Format::MiscChunks, 24).read(&bytes[..8], |item| {
        head = Some(item);
        Ok(())
    });
    let wanted = Head {
        cmd: 0,
        flags: 1,
        id: None,
    };
    assert_eq!(head, Some(Item::Head(wanted)));
}

#[test]
fn nothing_counts_under_a_header_that_does_not_fit() {
    for len in 0..8 {
        let message = &ranges(&[0x1234_5001])[..len];
        let wanted = (vec![], left_out(Malformed::Header, len as u64));
        assert_eq!(read(Format::Ranges, message), wanted);
    }
    for data_len in [0, 7, 8, 15, 17, 24, u32::MAX] {
        let mut message = response(data_len);
        message.extend([1; 16]);
        let wanted = (vec![], left_out(Malformed::DataLength, 24));
        assert_eq!(read(Format::Ranges, &message), wanted, "{data_len}");
    }
    let mut odd = response(12);
    odd.extend([1; 12]);
    assert_eq!(
        read(Format::Ranges, &odd).1,
        left_out(Malformed::DataLength, 20)
    );
    for count in [0u32, 2, 4096] {
        let mut message = count.to_le_bytes().to_vec();
        message.extend([0; 16]);
        assert_eq!(
            read(Format::Chunks, &message).1,
            left_out(Malformed::DataLength, 20)
        );
    }
    let mut message = 4097u32.to_le_bytes().to_vec();
    message.extend([0; 16 * 4097]);
    let wanted = (vec![], left_out(Malformed::Count, message.len() as u64));
    assert_eq!(read_in_parts(Format::Chunks, &message, 4096), wanted);
}

#[test]
fn what_stands_before_the_bad_place_counts() {
    let good = 0x1234_5001;
    let bad = [
        (vec![0x5000], Malformed::Cut),
        (vec![0x5000, 0], Malformed::Empty),
        (vec![0x5000, 1 << 52], Malformed::Overflow),
        (vec![u64::MAX << 12, 2], Malformed::Overflow),
        (vec![(u64::MAX << 12) | 1, 2], Malformed::Overflow),
    ];
    for (words, reason) in bad {
        let words = [vec![good], words].concat();
        let dropped = (words.len() as u64 - 1) * 8;
        let wanted = (vec![(0x12345, 1)], left_out(reason, dropped));
        assert_eq!(read(Format::Ranges, &ranges(&words)), wanted, "{words:x?}");
    }
    let bad = [
        ([0x1001, 0x1000], Malformed::Reserved),
        ([0x1000, 0x1800], Malformed::Reserved),
        ([0x1000, 0], Malformed::Empty),
        ([u64::MAX << 12, 0x1000], Malformed::Overflow),
        ([0x1000, u64::MAX << 12], Malformed::Overflow),
    ];
    for (fields, reason) in bad {
        let fields = [[0x5000, 0x1000], fields, [0x7000, 0x1000]].concat();
        let wanted = (vec![(5, 1)], left_out(reason, 32));
        assert_eq!(
            read(Format::Chunks, &chunks(&fields)),
            wanted,
            "{fields:x?}"
        );
    }
}

#[test]
fn what_is_refused_ends_the_message() {
    let message = ranges(&[0x5001, 0x6000, 9, 0x7001]);
    let mut reader = Reader::new(Format::Ranges, message.len() as u64);
    let mut pages = Vec::new();
    reader.read(&message, |item| match item {
        Item::Range(range) if range.pages() == 9 => Err(Malformed::NotRam),
        Item::Range(range) => {
            pages.push(range.page_indices().0);
            Ok(())
        }
        Item::Head(_) => Ok(()),
    });
    assert_eq!(pages, [5]);
    assert_eq!(reader.end(), left_out(Malformed::NotRam, 24));
}

proptest! {
    /// Whatever the bytes are and however they are cut, the outcome is the same, every range lies
    /// inside the address space, and no more is left out than there is.
    #[test]
    fn any_bytes_give_one_outcome(
        head in prop_oneof![Just(None), (0..40u32).prop_map(Some)],
        mut bytes in prop::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..200),
        format in prop_oneof![
            Just(Format::Ranges), Just(Format::Chunks), Just(Format::MiscChunks)
        ],
        part in 1..50usize,
    ) {
        if let Some(count) = head {
            // A header that fits, so that entries are looked at.
            let header = match format {
                Format::Ranges => response(count * 8),
                Format::Chunks => count.to_le_bytes().to_vec(),
                Format::MiscChunks => [&[0; 4], &count.to_le_bytes()[..]].concat(),
            };
            let entry = if format == Format::Ranges { 8 } else { 16 };
            bytes.resize(count as usize * entry, 0);
            bytes.splice(0..0, header);
        }
        let whole = read_in_parts(format, &bytes, usize::MAX);
        prop_assert_eq!(&read_in_parts(format, &bytes, part), &whole);
        if let Some(left_out) = whole.1 {
            prop_assert!(left_out.bytes <= bytes.len() as u64);
        }
    }
}

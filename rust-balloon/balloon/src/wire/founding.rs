// SPDX-License-Identifier: GPL-2.0-or-later
//! The bytes of the founding protocols, always little-endian: ranges and host requests as in the Linux
//! series of December 2016 (version 6), chunks and the misc queue as in that of April 2017 (version 9).

use zerocopy::byteorder::{LittleEndian, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The command that asks for the guest's unused pages, in both protocols.
pub const GET_UNUSED_PAGES: u16 = 0;
/// Set in the last message of an answer, in both protocols.
pub const FLAG_DONE: u16 = 1;
/// Low bits of a word or of a chunk's fields that hold no page number.
pub const LENGTH_BITS: u32 = 12;
/// Pages that a word's length field can hold; 0 there means that the next word is the length.
pub const LENGTH_MASK: u64 = (1 << LENGTH_BITS) - 1;
/// Chunks in a message.
pub const MAX_CHUNKS: u32 = 4096;

/// Asks the guest over the request queue.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RequestHeader {
    /// What is asked: [`GET_UNUSED_PAGES`].
    pub cmd: U16<LittleEndian>,
    /// Zeros.
    pub reserved: [u8; 6],
    /// The id of the request.
    pub param: U64<LittleEndian>,
}
const _: () = assert!(size_of::<RequestHeader>() == 16);

/// Before the words of a message, on the inflate, deflate and request queues.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ResponseHeader {
    /// What was asked; without meaning on the inflate and deflate queues, as the next two.
    pub cmd: u8,
    /// 0 when more messages follow, or [`FLAG_DONE`].
    pub flag: u8,
    /// The low 16 bits of the request's id.
    pub id: U16<LittleEndian>,
    /// Bytes of words behind this.
    pub data_len: U32<LittleEndian>,
}
const _: () = assert!(size_of::<ResponseHeader>() == 8);

/// Asks the guest over the misc queue, and stands before its answer.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct MiscHeader {
    /// What is asked: [`GET_UNUSED_PAGES`].
    pub cmd: U16<LittleEndian>,
    /// 0 when more messages follow, or [`FLAG_DONE`].
    pub flags: U16<LittleEndian>,
}
const _: () = assert!(size_of::<MiscHeader>() == 4);

/// Pages that follow each other.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Chunk {
    /// The address of the first page; its low [`LENGTH_BITS`] are reserved.
    pub base: U64<LittleEndian>,
    /// The pages' size in bytes; its low [`LENGTH_BITS`] are reserved.
    pub size: U64<LittleEndian>,
}
const _: () = assert!(size_of::<Chunk>() == 16);

// SPDX-License-Identifier: GPL-2.0-or-later
//! Places for outputs, and buffers: of exactly the length that a call is told of, or not there.

use std::mem::MaybeUninit;
use std::ptr::{null, null_mut};

use virtio_balloon_rs::status::VbrStatus;

use crate::input::Input;

/// What a place holds before a call.
const UNTOUCHED: u8 = 0xa5;

/// The place for an output: a `T` of its own, NULL, or one that is not aligned.
pub(super) struct Place<T> {
    memory: Box<[MaybeUninit<T>; 2]>,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Good,
    Null,
    Crooked,
}

impl<T> Place<T> {
    pub(super) fn new(input: &mut Input<'_>) -> Place<T> {
        let mut memory = Box::new([const { MaybeUninit::uninit() }; 2]);
        // SAFETY: a box has room for what it holds, and any bytes will do.
        unsafe { memory.as_mut_ptr().write_bytes(UNTOUCHED, 2) };
        let kind = match input.below(24) {
            22 => Kind::Null,
            23 if align_of::<T>() > 1 => Kind::Crooked,
            _ => Kind::Good,
        };
        Place { memory, kind }
    }

    /// What the call gets. A good place lies at the end, so that nothing of it is behind.
    pub(super) fn at(&self) -> *mut T {
        let first = self.memory.as_ptr().cast_mut().cast::<T>();
        match self.kind {
            Kind::Null => null_mut(),
            Kind::Crooked => first.wrapping_byte_add(1),
            Kind::Good => first.wrapping_add(1),
        }
    }

    /// Checks that nothing was written but a good place, and that only with OK.
    pub(super) fn check(&self, status: VbrStatus) {
        assert!(status != VbrStatus::Ok || self.kind == Kind::Good, "bad");
        let touched = match status {
            VbrStatus::Ok => size_of::<T>(),
            _ => 2 * size_of::<T>(),
        };
        let bytes = self.memory.as_ptr().cast::<u8>();
        // SAFETY: inside of the box, whose bytes were all written, and these by nothing else.
        let bytes = unsafe { std::slice::from_raw_parts(bytes, touched) };
        let is_as_before = bytes.iter().all(|&byte| byte == UNTOUCHED);
        assert!(is_as_before, "{status:?} and an output was written");
    }

    /// What was written, after OK.
    pub(super) fn value(&self) -> T
    where
        T: Copy,
    {
        // SAFETY: any bytes were written first, and by contract a `T` with OK; the types that are
        // used here are made of numbers.
        unsafe { self.memory[1].assume_init() }
    }
}

/// Elements for a call to read, with the number that it is told of.
pub(super) struct Elements<T> {
    data: Box<[T]>,
    told: Option<(*const T, usize)>,
}

impl<T> Elements<T> {
    pub(super) fn new(input: &mut Input<'_>, data: Vec<T>) -> Elements<T> {
        let data = data.into_boxed_slice();
        let told = match input.below(24) {
            20 => Some((null(), 0)),
            21 => Some((null(), data.len() + 1)),
            22 => Some((data.as_ptr(), usize::MAX)),
            23 if align_of::<T>() > 1 => Some((data.as_ptr().wrapping_byte_add(1), 1)),
            _ => None,
        };
        // A length without end is refused for bytes too, where no address is crooked.
        Elements { data, told }
    }

    pub(super) fn at(&self) -> *const T {
        self.told.map_or(self.data.as_ptr(), |(at, _)| at)
    }

    pub(super) fn at_mut(&mut self) -> *mut T {
        let told = self.told;
        told.map_or_else(|| self.data.as_mut_ptr(), |(at, _)| at.cast_mut())
    }

    pub(super) fn len(&self) -> usize {
        self.told.map_or(self.data.len(), |(_, len)| len)
    }

    /// Whether the call is told of something that is there.
    pub(super) fn is_sound(&self) -> bool {
        self.told.is_none_or(|(_, len)| len == 0)
    }
}

/// `value`, or NULL now and then.
pub(super) fn or_null<T>(input: &mut Input<'_>, value: &T) -> *const T {
    match input.one_in(24) {
        true => null(),
        false => value,
    }
}

// SPDX-License-Identifier: GPL-2.0-or-later
//! What can go wrong, by name.

/// Why a call was refused. Nothing has changed when one is returned, but where a function says
/// otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A list was asked for in a version that is not there.
    #[error("there is no such version of the dirty list")]
    Version,
    /// A list with room for no page.
    #[error("a dirty list has to have room for pages")]
    Zero,
    /// A list with room for more pages than there can be.
    #[error("a dirty list cannot have room for so many pages")]
    Size,
    /// A dirty trigger at more pages than the list has room for.
    #[error("a dirty list has no room for as many pages as its trigger counts")]
    Trigger,
    /// There is no memory for a list.
    #[error("there is no memory for the dirty list")]
    Memory,
    /// The list is in use.
    #[error("the dirty list is active")]
    Active,
    /// Pages are missing on the list.
    #[error("pages are missing on the dirty list")]
    Overflow,
    /// The list was never started.
    #[error("the dirty list is not active")]
    Inactive,
}

// SPDX-License-Identifier: GPL-2.0-or-later
//! What live migration need not read and send: free pages that the guest hinted at, and pages in the
//! balloon.
//!
//! [`skips`] clears their bits in the migration's dirty bitmaps, [`sweep`] goes over these behind a
//! synchronization, [`arming`] knows which parts of the
//! dirty log tell of new writes, and [`window`] says how long the first pass is held back for hints.

pub mod arming;
pub mod bitmaps;
pub mod skips;
pub mod sweep;
pub mod window;

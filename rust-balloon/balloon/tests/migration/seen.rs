// SPDX-License-Identifier: GPL-2.0-or-later
//! What happened in the model.

/// What came of a run, so that a test sees that the model does something.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) hinted: u64,
    pub(crate) hinted_in_postcopy: u64,
    pub(crate) ballooned: u64,
    pub(crate) zero: u64,
    pub(crate) unprotected: u64,
    /// Pages left out that were in chunks armed within the round.
    pub(crate) wanted: u64,
    pub(crate) rounds: u64,
    pub(crate) moved: u64,
}

impl Seen {
    /// Adds what came of another run.
    pub(crate) fn add(&mut self, other: Seen) {
        self.hinted += other.hinted;
        self.hinted_in_postcopy += other.hinted_in_postcopy;
        self.ballooned += other.ballooned;
        self.zero += other.zero;
        self.unprotected += other.unprotected;
        self.wanted += other.wanted;
        self.rounds += other.rounds;
        self.moved += other.moved;
    }
}

// SPDX-License-Identifier: GPL-2.0-or-later
//! The right to be the only one of its kind in this process.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// There is one value of this type, made here. It moves, and nothing is done when it is dropped:
/// whoever was refused has none, and so has none to give back.
struct Token(());

static FREE: Mutex<Option<Token>> = Mutex::new(Some(Token(())));

fn free() -> MutexGuard<'static, Option<Token>> {
    FREE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Holds the one token until it is dropped.
pub(super) struct Claim(Option<Token>);

impl Claim {
    /// None while another one is held.
    pub(super) fn new() -> Option<Claim> {
        let token = free().take()?;
        Some(Claim(Some(token)))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        *free() = self.0.take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_however_often_it_is_asked_for() {
        for _ in 0..2 {
            let claim = Claim::new();
            assert!(claim.is_some());
            for _ in 0..3 {
                assert!(Claim::new().is_none());
            }
        }
    }
}

// SPDX-License-Identifier: GPL-2.0-or-later
//! The models that the library's own tests use, with their guests and their hosts.

/// A device between a guest that does anything and a model that watches.
#[allow(
    dead_code,
    unreachable_pub,
    reason = "its tests use what the fuzzer does not"
)]
#[path = "../../../rust-balloon/balloon/tests/model"]
pub(crate) mod model {
    pub(crate) mod expect;
    pub(crate) mod format;
    pub(crate) mod held {
        pub(crate) mod world;
    }
    pub(crate) mod mock;
    pub(crate) mod world;
}

/// A guest that frees, hints, uses and writes pages while it migrates.
#[allow(dead_code, reason = "its tests use what the fuzzer does not")]
#[path = "../../../rust-balloon/balloon/tests/migration"]
pub(crate) mod migration {
    pub(crate) mod answers;
    pub(crate) mod guest;
    pub(crate) mod moves;
    pub(crate) mod ram;
    pub(crate) mod seen;
    pub(crate) mod syncs;
    pub(crate) mod world;
}

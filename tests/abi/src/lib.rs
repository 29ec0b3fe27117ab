//! C ABI tests.

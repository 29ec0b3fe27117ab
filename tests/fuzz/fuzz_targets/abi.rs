// SPDX-License-Identifier: GPL-2.0-or-later
//! The target `abi` for libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::tell_of_panics(), |data: &[u8]| fuzz::abi::run(data));

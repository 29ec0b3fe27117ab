// SPDX-License-Identifier: GPL-2.0-or-later
//! The library's log, handed to the host.

use super::guard::guard;
use super::status::VbrStatus;
use log::{LevelFilter, Log, Metadata, Record};
use std::ffi::{CString, c_char, c_int};
use std::sync::OnceLock;

type VbrLogFn = unsafe extern "C" fn(level: c_int, text: *const c_char);

struct CLog(VbrLogFn);

impl Log for CLog {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let text = record.args().to_string().replace('\0', " ");
        let Ok(text) = CString::new(text) else { return };
        // SAFETY: vbr_log_set's contract; the text ends with a NUL and lives through the call.
        unsafe { self.0(record.level() as c_int, text.as_ptr()) }
    }

    fn flush(&self) {}
}

static LOG: OnceLock<CLog> = OnceLock::new();

/// Sends all of the library's messages up to `max_level` (1 error, 2 warning, 3 information, 4 debug,
/// 5 trace) to `function`, a line each without its end. The first call counts; a later one is refused
/// as an invalid argument, and so is NULL.
///
/// # Safety
///
/// `function` is NULL or can be called from any thread from now on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_log_set(
    function: Option<unsafe extern "C" fn(level: c_int, text: *const c_char)>,
    max_level: c_int,
) -> VbrStatus {
    guard(|| {
        let Some(function) = function else {
            return VbrStatus::InvalidArgument;
        };
        if LOG.set(CLog(function)).is_err() {
            return VbrStatus::InvalidArgument;
        }
        let Some(logger) = LOG.get() else {
            return VbrStatus::InvalidArgument;
        };
        if log::set_logger(logger).is_err() {
            return VbrStatus::InvalidArgument;
        }
        log::set_max_level(match max_level {
            ..=0 => LevelFilter::Off,
            1 => LevelFilter::Error,
            2 => LevelFilter::Warn,
            3 => LevelFilter::Info,
            4 => LevelFilter::Debug,
            _ => LevelFilter::Trace,
        });
        VbrStatus::Ok
    })
}

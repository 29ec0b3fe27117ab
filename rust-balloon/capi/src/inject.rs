// SPDX-License-Identifier: GPL-2.0-or-later
//! For tests: has a call of the C ABI fail at a chosen use. Not in a library that is built without
//! the feature `inject`, which no build for use has.
//!
//! Which function it is that is called is told by the type of the closure that it hands to the
//! guard: no function can forget to give its name.

use super::guard::{contain, output_slice};
use super::status::VbrStatus;
use std::any::type_name;
use std::ffi::{CStr, c_char};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

/// What the environment may ask for, before anybody can call `vbr_inject_set`.
const VARIABLE: &str = "VBR_INJECT";

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// It panics before it does anything.
    Panic,
    /// It panics when all is done.
    PanicBehind,
    /// It answers this and does nothing.
    Answer(VbrStatus),
}

/// A fault that is to come.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    function: String,
    /// How many uses of the function are left, that of the fault included.
    uses: u32,
    fault: Fault,
}

static PLANS: Mutex<Vec<Plan>> = Mutex::new(Vec::new());
static ENVIRONMENT: Once = Once::new();
/// The functions that were called since it was last said what is to fail.
static USED: Mutex<Used> = Mutex::new(Used {
    functions: [("", 0); MAX_FUNCTIONS],
    count: 0,
});
/// More than the C ABI has.
const MAX_FUNCTIONS: usize = 256;

/// Names of functions and how often each was called, in a place that is there from the start: a
/// call may be one of those that are tried without memory.
struct Used {
    functions: [(&'static str, u32); MAX_FUNCTIONS],
    count: usize,
}

impl Used {
    fn functions(&self) -> &[(&'static str, u32)] {
        &self.functions[..self.count]
    }

    fn note(&mut self, name: &'static str) {
        let known = &mut self.functions[..self.count];
        if let Some((_, uses)) = known.iter_mut().find(|(known, _)| *known == name) {
            *uses = uses.saturating_add(1);
        } else if self.count < MAX_FUNCTIONS {
            self.functions[self.count] = (name, 1);
            self.count += 1;
        }
    }
}

/// `FUNCTION:USE`, and behind another `:` one of `panic`, which is what happens where nothing is
/// said, `behind`, `busy` and `invalid`. None where it is nothing like that.
fn parse(text: &str) -> Option<Plan> {
    let mut parts = text.split(':');
    let (function, uses) = (parts.next()?, parts.next()?.parse().ok()?);
    let fault = match parts.next() {
        None | Some("panic") => Fault::Panic,
        Some("behind") => Fault::PanicBehind,
        Some("busy") => Fault::Answer(VbrStatus::Busy),
        Some("invalid") => Fault::Answer(VbrStatus::InvalidArgument),
        Some(_) => return None,
    };
    let plan = Plan {
        function: function.to_owned(),
        uses,
        fault,
    };
    (function.starts_with("vbr_") && uses > 0 && parts.next().is_none()).then_some(plan)
}

/// Several of them, with spaces between. None where one of them is nothing like that.
fn parse_all(text: &str) -> Option<Vec<Plan>> {
    text.split_whitespace().map(parse).collect()
}

/// What is planned. A panic that was asked for happens without the lock.
fn plans() -> MutexGuard<'static, Vec<Plan>> {
    ENVIRONMENT.call_once(|| {
        let wanted = std::env::var(VARIABLE).unwrap_or_default();
        *PLANS.lock().unwrap_or_else(PoisonError::into_inner) =
            parse_all(&wanted).unwrap_or_default();
    });
    PLANS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The function of the C ABI that a closure of this type is in.
fn function_of<F>() -> Option<&'static str> {
    let name = type_name::<F>();
    let function = &name[name.find("::vbr_")? + 2..];
    Some(function.split(':').next().unwrap_or(function))
}

fn used() -> MutexGuard<'static, Used> {
    USED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts a use; what is to happen now.
fn use_of(function: &'static str) -> Option<Fault> {
    used().note(function);
    let mut plans = plans();
    let at = plans.iter().position(|plan| plan.function == function)?;
    plans[at].uses -= 1;
    (plans[at].uses == 0).then(|| plans.remove(at).fault)
}

/// Runs `body`, unless its function is to fail now.
pub(super) fn run<F: FnOnce() -> VbrStatus>(body: F) -> VbrStatus {
    let function = function_of::<F>();
    // One that could not fail in a test would not be missed.
    assert!(function.is_some() || cfg!(test), "a call without a name");
    match function.and_then(use_of) {
        None => body(),
        Some(Fault::Answer(status)) => status,
        Some(Fault::Panic) => panic!("a panic was asked for"),
        Some(Fault::PanicBehind) => {
            let status = body();
            panic!("a panic was asked for behind {status:?}")
        }
    }
}

/// Has a call fail: `text` is `FUNCTION:USE`, counted from here, or `FUNCTION:USE:HOW` with `panic`
/// before anything is done, `behind` all of it, or the answer `busy` or `invalid`; or several of
/// these with spaces between. The environment's `VBR_INJECT` is in force from the start. The last
/// text counts; an empty one takes it back. Anything else, or NULL, is an invalid argument.
///
/// # Safety
///
/// `text` is NULL or a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_inject_set(text: *const c_char) -> VbrStatus {
    let mut status = VbrStatus::InvalidArgument;
    contain(|| {
        if text.is_null() {
            return;
        }
        // SAFETY: a C string by contract.
        let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
        if let Some(wanted) = parse_all(&text) {
            *plans() = wanted;
            used().count = 0;
            status = VbrStatus::Ok;
        }
    });
    status
}

/// Writes the functions that were called since `vbr_inject_set`, each as `FUNCTION:USES` with a
/// space behind it, to `out`, which has room for `len` bytes, as a C string. An invalid argument
/// where that is too little, or for NULL.
///
/// # Safety
///
/// `out` is NULL or writable for `len` initialised bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vbr_inject_used(out: *mut c_char, len: usize) -> VbrStatus {
    // SAFETY: NULL or writable for `len` by contract.
    let Ok(out) = (unsafe { output_slice(out.cast(), len) }) else {
        return VbrStatus::InvalidArgument;
    };
    let text: String = used()
        .functions()
        .iter()
        .map(|(name, uses)| format!("{name}:{uses} "))
        .collect();
    if text.len() >= out.len() {
        return VbrStatus::InvalidArgument;
    }
    out[..text.len()].copy_from_slice(text.as_bytes());
    out[text.len()] = 0;
    VbrStatus::Ok
}

/// Whether a fault that was asked for is still to come.
#[unsafe(no_mangle)]
pub extern "C" fn vbr_inject_pending() -> bool {
    !plans().is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn a_text_says_what_fails_when_and_how() {
        let plan = |uses, fault| {
            Some(Plan {
                function: "vbr_a_b".to_owned(),
                uses,
                fault,
            })
        };
        assert_eq!(parse("vbr_a_b:1"), plan(1, Fault::Panic));
        assert_eq!(parse("vbr_a_b:2:panic"), plan(2, Fault::Panic));
        assert_eq!(parse("vbr_a_b:3:behind"), plan(3, Fault::PanicBehind));
        let busy = Fault::Answer(VbrStatus::Busy);
        assert_eq!(parse("vbr_a_b:1:busy"), plan(1, busy));
        let invalid = Fault::Answer(VbrStatus::InvalidArgument);
        assert_eq!(parse("vbr_a_b:1:invalid"), plan(1, invalid));
        for text in ["", "vbr_a_b", "vbr_a_b:0", "vbr_a_b:x", "other:1"] {
            assert_eq!(parse(text), None, "{text}");
        }
        for text in ["vbr_a_b:1:other", "vbr_a_b:1:panic:x"] {
            assert_eq!(parse(text), None, "{text}");
        }
        let both = parse_all("vbr_a_b:1 vbr_a_b:2:behind").unwrap();
        assert_eq!(both.len(), 2);
        assert_eq!(parse_all(""), Some(Vec::new()));
        assert_eq!(parse_all("vbr_a_b:1 other:1"), None);
    }

    /// Tells that it was dropped.
    struct Dropped<'a>(&'a Cell<u32>);

    impl Drop for Dropped<'_> {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }

    fn vbr_some_free(it: Dropped<'_>) {
        contain(move || drop(it));
    }

    #[test]
    fn what_a_call_is_to_free_is_freed_once_however_it_fails() {
        for how in ["panic", "behind", "busy", "invalid"] {
            let drops = Cell::new(0);
            *plans() = parse_all(&format!("vbr_some_free:1:{how}")).unwrap();
            vbr_some_free(Dropped(&drops));
            assert!(plans().is_empty() && drops.get() == 1, "{how}");
        }
        let used = used();
        let mut free = used.functions().iter().filter(|it| it.0 == "vbr_some_free");
        assert_eq!(free.next(), Some(&("vbr_some_free", 4)));
        assert_eq!(free.next(), None);
    }

    fn vbr_some_function() -> Option<&'static str> {
        fn inner<F: FnOnce()>(_: F) -> Option<&'static str> {
            function_of::<F>()
        }
        inner(|| ())
    }

    #[test]
    fn a_closure_tells_its_function() {
        assert_eq!(vbr_some_function(), Some("vbr_some_function"));
        assert_eq!(function_of::<u32>(), None);
    }
}

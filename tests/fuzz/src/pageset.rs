// SPDX-License-Identifier: GPL-2.0-or-later
//! The coding of a set of pages: what decodes is encoded to the same bytes, and to no others.

use std::ops::Range;

use balloon::error::Error;
use balloon::pageset::{PAGE_LIMIT, decode, encode};

/// Takes the input for a coded set.
pub fn run(data: &[u8]) {
    let mut runs: Vec<Range<u64>> = Vec::new();
    let mut refused = None;
    for run in decode(data) {
        assert_eq!(refused, None, "an error is the last item");
        match run {
            Ok(run) => {
                let before = runs.last().map(|last| last.end);
                assert!(run.start < run.end && run.end <= PAGE_LIMIT);
                assert!(before.is_none_or(|end| end < run.start), "runs touch");
                runs.push(run);
            }
            Err(error) => refused = Some(error),
        }
    }
    let mut out = vec![0; data.len()];
    let written = encode(runs.iter().cloned(), &mut out);
    assert!(written.complete, "a set has one coding, and this is longer");
    let is_start = data.starts_with(&out[..written.bytes]);
    assert!(is_start, "a set has one coding, and this is another");
    assert_eq!(refused.is_none(), written.bytes == data.len());
    if let Some(error) = refused {
        check_name(error);
    }
    check_short(&runs, &out[..written.bytes]);
}

fn check_name(error: Error) {
    let names = [
        Error::StatePagesCut,
        Error::StatePagesNumber,
        Error::StatePagesRun,
        Error::StatePagesLimit,
    ];
    assert!(names.contains(&error), "{error:?}");
}

/// With a byte too few the last run is left out, and nothing else.
fn check_short(runs: &[Range<u64>], coded: &[u8]) {
    let Some(room) = coded.len().checked_sub(1) else {
        return;
    };
    let mut out = vec![0xaa; room];
    let written = encode(runs.iter().cloned(), &mut out);
    assert!(!written.complete);
    let left: Vec<_> = decode(&out[..written.bytes]).map(Result::ok).collect();
    let wanted: Vec<_> = runs[..runs.len() - 1].iter().cloned().map(Some).collect();
    assert_eq!(left, wanted);
}

// SPDX-License-Identifier: GPL-2.0-or-later
//! What is in the corpus, traffic of real guests and what was found before, is no fault any more.

use std::path::Path;

use fuzz::TARGETS;
use fuzz::pageset;
use fuzz::plain::corpus;
use fuzz::traffic::{self, Kind};

#[test]
fn every_input_of_the_corpus_is_handled() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for target in TARGETS {
        let inputs = corpus(&top.join(target.name)).expect("a folder of inputs");
        assert!(!inputs.is_empty(), "{} has no corpus", target.name);
        for input in inputs {
            assert!(input.len() <= target.most, "{} takes less", target.name);
            (target.run)(&input);
        }
    }
}

#[test]
fn sets_that_moved_with_real_guests_are_read() {
    assert!(traffic::all(Kind::Pages).count() > 0);
    traffic::all(Kind::Pages).for_each(pageset::run);
}

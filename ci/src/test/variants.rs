// SPDX-License-Identifier: GPL-2.0-or-later

//! `--all`: the builds that are too long for every run.

use super::tally::Tally;
use super::{Run, guests, qtest, rust};
use crate::error::Result;
use crate::fuzz;
use crate::paths::Paths;
use crate::qemu::{Build, Variant, Wanted};
use crate::series::Series;

/// Targets beside the default one, and whether QEMU's test library drives a machine of theirs.
const TARGETS: &[(&str, bool)] = &[
    ("aarch64-softmmu", true),
    ("ppc64-softmmu", true),
    ("s390x-softmmu", false),
];

/// Builds and tests every series, other targets, and special builds.
pub(super) fn all(paths: &Paths, build: &Build, run: &mut Run) {
    for series in Series::newest_first(paths)
        .iter()
        .filter(|s| s.name != build.series.name)
    {
        let wanted = Wanted {
            series: Some(series.name.to_owned()),
            ..Wanted::default()
        };
        run.section(&format!("QEMU {} in full", series.name), || {
            qtest::ours(paths, &wanted)
        });
    }
    for (target, has_tests) in TARGETS {
        let wanted = Wanted {
            series: Some(build.series.name.to_owned()),
            targets: vec![(*target).to_owned()],
            ..Wanted::default()
        };
        let heading = format!("QEMU {} for {target}", build.series.name);
        run.section(&heading, || other_target(paths, &wanted, *has_tests));
    }
    run.section("guests of the newest Linux", || {
        guests::newest(paths, build)
    });
    let special = |variant| Wanted {
        series: Some(build.series.name.to_owned()),
        variant: Some(variant),
        ..Wanted::default()
    };
    let inject = special(Variant::Inject);
    run.section(
        "with sanitizers, and a library whose calls are made to fail",
        || qtest::ours(paths, &inject),
    );
    run.section("a guest whose device breaks", || {
        guests::broken(paths, &inject)
    });
    run.section("with QEMU's own Rust in the same binary", || {
        qtest::ours(paths, &special(Variant::Rust))
    });
    run.section("undefined behaviour, in miri", || rust::miri(paths));
    run.section("random input for the whole binary, with sanitizers", || {
        fuzz::short_qemu(paths)
    });
}

/// Every target must at least describe all of its devices, with ours among them.
fn other_target(paths: &Paths, wanted: &Wanted, has_tests: bool) -> Result<Tally> {
    let mut tally = qtest::introspect(paths, wanted)?;
    if has_tests {
        tally += qtest::ours(paths, wanted)?;
    } else {
        let target = wanted.targets.join(",");
        tally += Tally::skip(format!(
            "device tests of ours for {target}: QEMU's test library drives no machine of it"
        ));
    }
    Ok(tally)
}

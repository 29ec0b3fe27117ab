// SPDX-License-Identifier: GPL-2.0-or-later

//! `--all`: the builds that are too long for every run.

use super::{Run, qtest};
use crate::paths::Paths;
use crate::qemu::{Build, Wanted};
use crate::series::Series;

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
    for target in ["aarch64-softmmu", "s390x-softmmu", "ppc64-softmmu"] {
        let wanted = Wanted {
            series: Some(build.series.name.to_owned()),
            targets: vec![target.to_owned()],
            ..Wanted::default()
        };
        let heading = format!("QEMU {} for {target}", build.series.name);
        run.section(&heading, || qtest::ours(paths, &wanted));
    }
    let sanitized = Wanted {
        series: Some(build.series.name.to_owned()),
        configure_args: vec!["--enable-asan".into(), "--enable-ubsan".into()],
        variant: Some("asan".into()),
        ..Wanted::default()
    };
    run.section("with address and undefined-behaviour sanitizers", || {
        qtest::ours(paths, &sanitized)
    });
    let with_rust = Wanted {
        series: Some(build.series.name.to_owned()),
        qemu_rust: true,
        variant: Some("rust".into()),
        ..Wanted::default()
    };
    run.section("with QEMU's own Rust in the same binary", || {
        qtest::ours(paths, &with_rust)
    });
}

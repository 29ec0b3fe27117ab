// SPDX-License-Identifier: GPL-2.0-or-later

//! `--all`: the builds that are too long for every run.

use super::{Run, qtest};
use crate::paths::Paths;
use crate::qemu::{Build, Variant, Wanted};
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
    for (variant, heading) in [
        (
            Variant::Asan,
            "with sanitizers of addresses and undefined behaviour",
        ),
        (Variant::Rust, "with QEMU's own Rust in the same binary"),
    ] {
        let wanted = Wanted {
            series: Some(build.series.name.to_owned()),
            variant: Some(variant),
            ..Wanted::default()
        };
        run.section(heading, || qtest::ours(paths, &wanted));
    }
}

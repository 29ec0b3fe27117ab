// SPDX-License-Identifier: GPL-2.0-or-later

//! What cargo checks.

use std::process::Command;

use super::tally::Tally;
use crate::error::{Error, Result};
use crate::paths::Paths;
use crate::run::{Step, succeeds};

/// The packages that make up the library.
pub(crate) const LIBRARY: [&str; 4] = ["balloon", "capi", "dirty-pages", "sparse-bitmap"];
/// How many cases of a property miri tries: each takes it seconds.
const MIRI_CASES: &str = "4";

/// `cargo fmt --check`.
pub(crate) fn format(paths: &Paths) -> Result<Tally> {
    let todo = "run `cargo fmt --all`";
    let step = Step {
        name: "cargo fmt",
        log: paths.log("fmt"),
        todo,
    };
    step.run(cargo(paths).args(["fmt", "--all", "--check"]))?;
    Ok(Tally::one())
}

/// clippy on everything, with warnings as errors.
pub(crate) fn clippy(paths: &Paths) -> Result<Tally> {
    let todo = "run `cargo clippy --workspace --all-targets` and correct what it says";
    Step {
        name: "cargo clippy",
        log: paths.log("clippy"),
        todo,
    }
    .run(
        cargo(paths)
            .args(["clippy", "--workspace", "--all-targets", "--locked"])
            .args(["--", "-D", "warnings"]),
    )?;
    Ok(Tally::one())
}

/// `cargo test` of these packages.
pub(crate) fn test(paths: &Paths, packages: &[&str]) -> Result<Tally> {
    let mut command = cargo(paths);
    command.args(["test", "--locked", "--no-fail-fast"]);
    for package in packages {
        command.args(["-p", package]);
        if *package == "capi" {
            command.args(["--features", "capi/inject"]);
        }
    }
    command.args(["--", "--show-output"]);
    run_counted(paths, &packages.join(", "), &mut command)
}

/// The tests with loom, which tries out orders of memory accesses. They need a build of their own, in a place of
/// its own, so that it does not take turns with the others.
pub(crate) fn orders(paths: &Paths) -> Result<Tally> {
    let mut command = cargo(paths);
    command
        .args(["test", "--locked", "-p", "dirty-pages", "--lib"])
        .arg("--target-dir")
        .arg(paths.target().join("loom"))
        .arg("orders::")
        .env("RUSTFLAGS", "--cfg loom");
    run_counted(paths, "orders", &mut command)
}

/// The unit tests of the C ABI and of the dirty list in miri, which sees undefined behaviour and
/// data races.
pub(crate) fn miri(paths: &Paths) -> Result<Tally> {
    if !succeeds(nightly(paths).args(["miri", "--version"])) {
        return Ok(Tally::skip(
            "the unit tests in miri: rustup has no nightly toolchain with the components miri and \
             rust-src",
        ));
    }
    let mut command = nightly(paths);
    command
        .args(["miri", "test", "--locked", "--lib", "--no-fail-fast"])
        .args(["-p", "capi", "-p", "dirty-pages"])
        .args(["--features", "capi/inject", "--", "--show-output"])
        // The tests look at the clock and at the environment.
        .env("MIRIFLAGS", "-Zmiri-disable-isolation")
        .env("PROPTEST_CASES", MIRI_CASES);
    run_counted(paths, "miri", &mut command)
}

/// Runs a `cargo test` command and counts; a failed test is a count, not an error.
///
/// Without `--show-output` the reason why a test did not run is lost.
pub(crate) fn run_counted(paths: &Paths, name: &str, command: &mut Command) -> Result<Tally> {
    let log = paths.log(&format!("test-{}", name.replace(", ", "-")));
    let mut tally = Tally::default();
    let mut failed = Vec::new();
    let result = Step {
        name,
        log,
        todo: "see the failed tests in the log",
    }
    .run_lines(command, &mut |line| {
        tally.cargo_line(line);
        if line.starts_with("test ") && line.ends_with("FAILED") {
            failed.push(line.to_owned());
        }
    });
    failed.iter().for_each(|line| println!("  {line}"));
    match result {
        // It failed for another reason than a failed test: it did not build, say.
        Err(error) if tally.failed == 0 => Err(error),
        // A crate without tests is a mistake that would pass.
        _ if tally.is_empty() => Err(Error::new(format!("no test of {name} ran"), "see its log")),
        _ => Ok(tally),
    }
}

/// cargo at the top, without what the cargo that runs this program set for itself.
pub(crate) fn cargo(paths: &Paths) -> Command {
    at_top(
        paths,
        Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())),
    )
}

/// The same of a nightly toolchain, which may not be there.
pub(crate) fn nightly(paths: &Paths) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "cargo"]);
    at_top(paths, command)
}

fn at_top(paths: &Paths, mut command: Command) -> Command {
    command.current_dir(paths.top());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_PKG_") {
            command.env_remove(name);
        }
    }
    command
        .env_remove("CARGO_MANIFEST_DIR")
        .env_remove("CARGO_MANIFEST_PATH");
    command
}

// SPDX-License-Identifier: GPL-2.0-or-later

//! Building a patched QEMU.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{At, Error, Result};
use crate::git::Git;
use crate::patches;
use crate::paths::Paths;
use crate::qemu_rust;
use crate::run::{Step, output};
use crate::series::{self, Series};
use crate::setup;
use crate::source;
use crate::stamp;

/// The target that is built unless another is asked for.
pub(crate) const TARGET: &str = "x86_64-softmmu";

/// The library of Rust in a build, as QEMU is linked with it.
pub(crate) const LIBRARY: &str = "hw/virtio/balloon-rs/libvirtio_balloon_rs.a";

/// Where QEMU finds firmware at run time, as Debian's tarball has none.
const FIRMWARE: &str = "/usr/share/qemu:/usr/share/seabios:/usr/lib/ipxe/qemu";

/// What to build.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    /// The series, or the newest that can be had.
    pub(crate) series: Option<String>,
    /// QEMU's targets; none means the default one.
    pub(crate) targets: Vec<String>,
    /// A directory with QEMU's sources.
    pub(crate) qemu_src: Option<PathBuf>,
    /// More arguments for QEMU's configure.
    pub(crate) configure_args: Vec<String>,
    /// A special build; none for the default one.
    pub(crate) variant: Option<Variant>,
}

/// A special build, with a build directory of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Variant {
    /// With the sanitizers of addresses and of undefined behaviour.
    Asan,
    /// With these, and a library in which any call can be made to fail.
    Inject,
    /// With QEMU's own Rust devices in the same binary.
    Rust,
}

impl Variant {
    fn name(self) -> &'static str {
        match self {
            Self::Asan => "asan",
            Self::Inject => "inject",
            Self::Rust => "rust",
        }
    }

    fn configure_args(self) -> &'static [&'static str] {
        match self {
            Self::Asan => &["--enable-asan", "--enable-ubsan"],
            Self::Inject => &[
                "--enable-asan",
                "--enable-ubsan",
                "--extra-cflags=-DVBR_INJECT",
            ],
            Self::Rust => &["--enable-rust"],
        }
    }
}

/// A build that is there.
#[derive(Clone, Debug)]
pub(crate) struct Build {
    /// The series it is of.
    pub(crate) series: &'static Series,
    /// Its directory.
    pub(crate) dir: PathBuf,
    /// The first of its targets.
    pub(crate) target: String,
}

impl Build {
    /// The last part of its directory.
    pub(crate) fn name(&self) -> String {
        self.dir
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    }

    /// The system emulator.
    pub(crate) fn binary(&self) -> PathBuf {
        self.dir.join(emulator(&self.target))
    }
}

/// Fetches, patches, configures and builds the emulators.
///
/// # Errors
/// When any of it fails; each step that was done stays done.
pub(crate) fn build(paths: &Paths, wanted: &Wanted) -> Result<Build> {
    let (build, _held) = configure(paths, wanted)?;
    let targets = if wanted.targets.is_empty() {
        &[TARGET.to_owned()][..]
    } else {
        &wanted.targets
    };
    let emulators: Vec<String> = targets.iter().map(|target| emulator(target)).collect();
    // QEMU's hundreds of unit tests are no use here.
    ninja(paths, &build, &emulators)?;
    Ok(build)
}

/// The same for those of ninja's goals that are wanted; gives their number, too.
pub(crate) fn build_where(
    paths: &Paths,
    wanted: &Wanted,
    is_wanted: impl Fn(&str) -> bool,
) -> Result<(Build, usize)> {
    let (build, _held) = configure(paths, wanted)?;
    // Brings the list of goals up to date with meson's files first.
    regenerate(paths, &build)?;
    let mut list = Command::new("ninja");
    let list = output(
        list.arg("-C")
            .arg(&build.dir)
            .args(["-t", "targets", "all"]),
    )?;
    let names = list
        .lines()
        .filter_map(|line| Some(line.split_once(": ")?.0));
    let goals: Vec<String> = names
        .filter(|name| is_wanted(name))
        .map(str::to_owned)
        .collect();
    if !goals.is_empty() {
        ninja(paths, &build, &goals)?;
    }
    Ok((build, goals.len()))
}

/// The patched sources of a series, without a build.
pub(crate) fn sources_of(paths: &Paths, series: &'static Series) -> Result<Git> {
    let _lock = lock(paths)?;
    setup::packages(paths, &[setup::BASE, setup::QEMU])?;
    Ok(one_series(paths, series, None)?.1)
}

/// Keeps a second command of this program from doing the same set-up; a build has its own lock.
fn lock(paths: &Paths) -> Result<File> {
    stamp::lock(&paths.target().join("qemu"))
}

/// The name of a target's emulator, a goal of ninja.
fn emulator(target: &str) -> String {
    format!("qemu-system-{}", target.trim_end_matches("-softmmu"))
}

/// Builds the default target of sources that lie elsewhere than those of the series.
pub(crate) fn build_in(
    paths: &Paths,
    series: &'static Series,
    git: &Git,
    dir: &Path,
) -> Result<()> {
    let python = setup::python(paths, false)?;
    let build = Build {
        series,
        dir: dir.to_path_buf(),
        target: TARGET.to_owned(),
    };
    let _held = stamp::lock(&build.dir)?;
    configure_in(paths, &build, git, &python, &Wanted::default())?;
    // The last patch of a series is about the tests.
    let goals = [emulator(TARGET), "tests/qtest/qos-test".to_owned()];
    ninja(paths, &build, &goals)
}

/// A configured build, held against a second command of this program.
fn configure(paths: &Paths, wanted: &Wanted) -> Result<(Build, File)> {
    let set_up = lock(paths)?;
    setup::packages(paths, &[setup::BASE, setup::QEMU, setup::GUEST])?;
    let python = setup::python(paths, wanted.variant == Some(Variant::Rust))?;
    let (series, git) = sources(paths, wanted)?;
    if wanted.variant == Some(Variant::Rust) {
        qemu_rust::prepare(paths, &git)?;
    }
    drop(set_up);
    let build = Build {
        series,
        dir: paths.series(series.name).join(dir_name(wanted)),
        target: wanted
            .targets
            .first()
            .map_or(TARGET, String::as_str)
            .to_owned(),
    };
    let held = stamp::lock(&build.dir)?;
    configure_in(paths, &build, &git, &python, wanted)?;
    Ok((build, held))
}

fn configure_in(
    paths: &Paths,
    build: &Build,
    git: &Git,
    python: &Path,
    wanted: &Wanted,
) -> Result<()> {
    let args = configure_args(git, python, wanted);
    let stamp = build.dir.join(".configured");
    let inputs = args.join("\n");
    if stamp::is_done(&stamp, &inputs) && build.dir.join("build.ninja").exists() {
        return Ok(());
    }
    stamp::forget(&stamp)?;
    stamp::make_dir(&build.dir)?;
    Step {
        name: &format!("configure QEMU {} ({})", build.series.name, build.name()),
        log: paths.log(&format!("configure-{}-{}", build.series.name, build.name())),
        todo: "see what is missing above; its own log is config.log in the build directory",
    }
    .run(qemu_rust::environment(
        paths,
        Command::new(git.dir().join("configure"))
            .args(&args)
            .current_dir(&build.dir),
    ))?;
    link_firmware(&build.dir)?;
    stamp::done(&stamp, &inputs)
}

/// Puts the system's firmware where a QEMU that is run from its build directory looks.
fn link_firmware(build: &Path) -> Result<()> {
    for dir in FIRMWARE.split(':') {
        let link = build.join("qemu-bundle").join(dir.trim_start_matches('/'));
        if !link.is_symlink() {
            stamp::make_dir(link.parent().unwrap_or(build))?;
            std::os::unix::fs::symlink(dir, &link).at("link", &link)?;
        }
    }
    Ok(())
}

/// The patched sources of the wanted series.
fn sources(paths: &Paths, wanted: &Wanted) -> Result<(&'static Series, Git)> {
    let given = wanted.qemu_src.as_deref();
    let named = match (&wanted.series, given) {
        (Some(name), None) => Some(name.clone()),
        (name, Some(dir)) => Some(series_of(dir, name.as_deref())?),
        (None, None) => None,
    };
    if let Some(name) = named {
        return one_series(paths, Series::named(&name)?, given);
    }
    let mut last = Error::new("qemu-patches holds no series", "check the source tree");
    for series in Series::newest_first(paths) {
        room(paths, series)?;
        match one_series(paths, series, None) {
            Ok(found) => return Ok(found),
            // Only sources that cannot be had are a reason to take an older series.
            Err(error) if paths.qemu_src(series.name).exists() => return Err(error),
            Err(error) => {
                println!("  QEMU {} cannot be had: {error}", series.name);
                last = error;
            }
        }
    }
    Err(last)
}

/// Checks that there is room for a series that is not there yet.
fn room(paths: &Paths, series: &Series) -> Result<()> {
    match paths.qemu_src(series.name).exists() {
        true => Ok(()),
        false => setup::room(&paths.series(series.name)),
    }
}

fn one_series(
    paths: &Paths,
    series: &'static Series,
    given: Option<&Path>,
) -> Result<(&'static Series, Git)> {
    room(paths, series)?;
    let git = source::prepare(paths, series, given)?;
    patches::apply(paths, series, &git)?;
    Ok((series, git))
}

fn series_of(dir: &Path, asked: Option<&str>) -> Result<String> {
    let version = source::version_of(dir)?;
    let series = series::of_version(&version).unwrap_or_default();
    match asked {
        Some(asked) if asked != series => Err(Error::new(
            format!("{} is QEMU {version}, not of series {asked}", dir.display()),
            "leave --series out, or give other sources",
        )),
        _ => Ok(series),
    }
}

/// Runs meson again if one of its files changed.
fn regenerate(paths: &Paths, build: &Build) -> Result<()> {
    let mut command = Command::new("ninja");
    let command = command.arg("-C").arg(&build.dir).arg("build.ninja");
    Step {
        name: "configure QEMU again",
        log: paths.log(&format!("meson-{}-{}", build.series.name, build.name())),
        todo: "see its log; after an edit run the same command again",
    }
    .run_quietly(qemu_rust::environment(paths, command))
}

/// Removes a library that another compiler made than the one that is there now, which `rustc`
/// told of itself: ninja knows the library's sources, but not what cargo builds them with.
fn forget_library_unless_of(build: &Path, rustc: &str) -> Result<()> {
    let stamp = build.join(".rustc");
    if stamp::is_done(&stamp, rustc) {
        return Ok(());
    }
    stamp::forget(&build.join(LIBRARY))?;
    stamp::done(&stamp, rustc)
}

/// Runs ninja for these goals.
fn ninja(paths: &Paths, build: &Build, goals: &[String]) -> Result<()> {
    let rustc = output(Command::new("rustc").arg("-vV").current_dir(paths.top()))?;
    forget_library_unless_of(&build.dir, &rustc)?;
    let name = build
        .dir
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    Step {
        name: &format!("build QEMU {} ({name})", build.series.name),
        log: paths.log(&format!("ninja-{}-{name}", build.series.name)),
        todo: "see the compiler's message above; after an edit run the same command again",
    }
    .run(qemu_rust::environment(
        paths,
        Command::new("ninja").arg("-C").arg(&build.dir).args(goals),
    ))
}

/// `build` for the default; others have a directory of their own, so that none undoes another.
fn dir_name(wanted: &Wanted) -> String {
    let mut name = String::from("build");
    let machines = wanted
        .targets
        .iter()
        .map(|target| target.trim_end_matches("-softmmu"));
    let machines = machines.collect::<Vec<_>>().join("-");
    for part in [machines.as_str(), wanted.variant.map_or("", Variant::name)] {
        if !part.is_empty() && part != "x86_64" {
            name = name + "-" + part;
        }
    }
    name
}

fn configure_args(git: &Git, python: &Path, wanted: &Wanted) -> Vec<String> {
    let targets = if wanted.targets.is_empty() {
        TARGET.to_owned()
    } else {
        wanted.targets.join(",")
    };
    let mut args = vec![
        format!("--target-list={targets}"),
        format!("--python={}", python.display()),
        format!("--firmwarepath={FIRMWARE}"),
        "--without-default-features".into(),
        "--disable-install-blobs".into(),
        "--enable-system".into(),
        "--enable-tcg".into(),
        "--enable-kvm".into(),
        "--enable-fdt=system".into(),
        "--enable-trace-backends=log".into(),
        // Not for what they do, but for what they do beside a balloon: backends that may pin guest
        // memory, and COLO, which synchronizes without the big lock.
        "--enable-vhost-user".into(),
        "--enable-vhost-net".into(),
        "--enable-replication".into(),
    ];
    // A tree without downloaded subprojects is left to fetch them itself.
    if git.dir().join("subprojects/keycodemapdb/README").exists() {
        args.push("--disable-download".into());
    }
    // Sources without the series (while it is being written) do not know the option.
    let options =
        fs::read_to_string(git.dir().join("scripts/meson-buildoptions.sh")).unwrap_or_default();
    if options.contains("enable-virtio-balloon-rs") {
        args.push("--enable-virtio-balloon-rs".into());
    }
    let special = wanted.variant.map_or(&[][..], Variant::configure_args);
    args.extend(special.iter().map(|&arg| arg.to_owned()));
    args.extend(wanted.configure_args.iter().cloned());
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_compiler_makes_the_library_anew() {
        let dir = std::env::temp_dir().join(format!("xtask-rustc-{}", std::process::id()));
        let library = dir.join(LIBRARY);
        let made = |rustc| {
            stamp::write_whole(&library, "a library").unwrap();
            forget_library_unless_of(&dir, rustc).unwrap();
            library.exists()
        };
        assert!(!made("rustc 1.88"));
        assert!(made("rustc 1.88"));
        assert!(!made("rustc 1.89"));
        assert!(made("rustc 1.89"));
        stamp::remove_dir(&dir).unwrap();
    }

    #[test]
    fn each_kind_of_build_has_its_directory() {
        let wanted = |targets: &[&str], variant: Option<Variant>| Wanted {
            targets: targets.iter().map(|&target| target.to_owned()).collect(),
            variant,
            ..Wanted::default()
        };
        assert_eq!(dir_name(&wanted(&[], None)), "build");
        assert_eq!(dir_name(&wanted(&["x86_64-softmmu"], None)), "build");
        assert_eq!(dir_name(&wanted(&["s390x-softmmu"], None)), "build-s390x");
        assert_eq!(dir_name(&wanted(&[], Some(Variant::Asan))), "build-asan");
    }
}

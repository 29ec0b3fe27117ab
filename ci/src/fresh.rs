// SPDX-License-Identifier: GPL-2.0-or-later

//! `cargo xtask test --fresh`: both commands of the README on a Debian that has nothing.
//!
//! debootstrap makes one below `target/fresh`, with what the README asks for and no more. The
//! commands run in it with namespaces of their own for mounts and processes, so nothing of them
//! stays. From this machine come its Rust, its mirror and how to reach it, and its certificates.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::apt;
use crate::error::{At, Error, Result};
use crate::git::Git;
use crate::paths::Paths;
use crate::progress::took;
use crate::run::{Step, output, stream};
use crate::setup;
use crate::stamp;
use crate::test::NOT_RUN;

/// The releases that the README promises, as debootstrap calls them.
const RELEASES: &[(&str, &str)] = &[("12", "bookworm"), ("13", "trixie")];
/// What the README asks for, and what https takes. debootstrap leaves out what a package
/// recommends: where gcc is installed by apt, libc6-dev comes with it.
const ASKED_FOR: &str = "ca-certificates,gcc,git,libc6-dev";
/// Certificates that an administrator added to a Debian.
const CERTIFICATES: &str = "usr/local/share/ca-certificates";
/// Where the project and Rust are in the new system.
const PROJECT: &str = "root/virtio-balloon-rs";
const RUST: &str = "opt/rust";
/// Settings of this machine's programs that say how to reach the network.
const NETWORK: &[&str] = &["etc/resolv.conf", "etc/hosts", "etc/pip.conf"];
/// Runs a command in the new system; proc is there already.
const ENTER: &str = r#"
set -e
root=$1 rust=$2 project=$3
shift 3
# Tests mount things of their own, which takes a root that is a mount.
mount --rbind "$root" "$root"
mount --rbind /dev "$root/dev"
mount --rbind /sys "$root/sys"
mount --bind -o ro "$rust" "$root/opt/rust"
exec chroot "$root" /usr/bin/env -i HOME=/root LANG=C.UTF-8 TERM="$TERM" \
    ${http_proxy:+"http_proxy=$http_proxy"} ${https_proxy:+"https_proxy=$https_proxy"} \
    ${no_proxy:+"no_proxy=$no_proxy"} \
    PATH=/opt/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    sh -c 'cd "/$0" && exec "$@"' "$project" "$@"
"#;

/// Runs the README's commands on a new Debian of this number and prints what each took. With
/// `quick` the second one is `cargo xtask test --quick`. Gives whether both succeeded; the
/// system is kept if not.
///
/// # Errors
/// When the system cannot be made.
pub(crate) fn run(paths: &Paths, number: &str, quick: bool) -> Result<bool> {
    // A second run would remove the system under the first one.
    let _held = stamp::lock(&place(paths, number))?;
    let fresh = Fresh::make(paths, number)?;
    let mut second = vec!["test"];
    second.extend(quick.then_some("--quick"));
    let mut all_well = true;
    let mut account = String::new();
    for words in [vec!["demo"], second] {
        let name = words.join(" ");
        let log = paths.log(&format!("fresh-{number}-{}", words.concat()));
        let start = Instant::now();
        let (well, left_out) = fresh.xtask(&words, &log)?;
        let how = if well { "succeeded" } else { "FAILED" };
        let line = format!("cargo xtask {name}: {how}, {}", took(start.elapsed()));
        println!("\n== Debian {number}: {line}");
        account += &format!("  {line}\n");
        for why in left_out {
            account += &format!("    not run: {why}\n");
        }
        all_well &= well;
        if !well {
            break;
        }
    }
    print!("\nOn a fresh Debian {number}:\n{account}");
    if all_well {
        stamp::remove_dir(&fresh.root)?;
    } else {
        println!("It is kept in {}", fresh.root.display());
    }
    Ok(all_well)
}

/// A new system.
struct Fresh {
    root: PathBuf,
    /// The folder of this machine's Rust.
    rust: PathBuf,
}

impl Fresh {
    fn make(paths: &Paths, number: &str) -> Result<Self> {
        let suite = suite(number)?;
        let archive = apt::configured().ok_or_else(|| {
            Error::new(
                "this machine is no Debian, so no mirror is known",
                "run this on a Debian",
            )
        })?;
        setup::packages(paths, &[setup::BASE, &["debootstrap"]])?;
        let rust = output(Command::new("rustc").args(["--print", "sysroot"]))?;
        let fresh = Self {
            root: place(paths, number).join("root"),
            rust: rust.trim().into(),
        };
        stamp::remove_dir(&fresh.root)?;
        stamp::make_dir(&fresh.root)?;
        Step {
            name: &format!("make a Debian {number} with {ASKED_FOR}"),
            log: paths.log(&format!("debootstrap-{number}")),
            todo: "see its log; this takes root and the network",
        }
        .run(
            Command::new("debootstrap")
                .args([
                    "--variant=minbase",
                    &format!("--include={ASKED_FOR}"),
                    suite,
                ])
                .arg(&fresh.root)
                .arg(archive.uri()),
        )?;
        stamp::make_dir(&fresh.root.join(RUST))?;
        fresh.reach_network()?;
        fresh.copy_project(paths)?;
        Ok(fresh)
    }

    /// The new system reaches the network as this machine does.
    fn reach_network(&self) -> Result<()> {
        let host = Path::new("/");
        for name in NETWORK {
            if host.join(name).is_file() {
                copy(&host.join(name), &self.root.join(name))?;
            }
        }
        let dump = output(Command::new("apt-config").args(["dump", "Acquire"]))?;
        let settings = self.root.join("etc/apt/apt.conf.d/00network");
        stamp::write_whole(&settings, &apt_settings(&dump))?;
        let from = host.join(CERTIFICATES);
        for entry in fs::read_dir(&from).into_iter().flatten() {
            let file = entry.at("read", &from)?.path();
            if file.extension() == Some(OsStr::new("crt")) {
                let name = file.file_name().unwrap_or_default();
                copy(&file, &self.root.join(CERTIFICATES).join(name))?;
            }
        }
        let mut command = Command::new("chroot");
        output(command.arg(&self.root).arg("update-ca-certificates")).map(drop)
    }

    /// The project as it lies here, with what is not committed yet.
    fn copy_project(&self, paths: &Paths) -> Result<()> {
        let to = self.root.join(PROJECT);
        let mut clone = Command::new("git");
        clone.args(["clone", "--quiet", "--no-hardlinks"]);
        output(clone.arg(paths.top()).arg(&to))?;
        let git = Git::new(paths.top());
        let changed = git.read(&["ls-files", "-mo", "--exclude-standard"])?;
        for name in changed.lines() {
            let from = paths.top().join(name);
            match from.is_file() {
                true => copy(&from, &to.join(name))?,
                false => output(Command::new("rm").arg("-f").arg(to.join(name))).map(drop)?,
            }
        }
        Ok(())
    }

    /// Runs `cargo xtask` with these words; whether it succeeded, and what it did not run.
    fn xtask(&self, words: &[&str], log: &Path) -> Result<(bool, Vec<String>)> {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--pid", "--fork", "--kill-child"])
            .arg(format!("--mount-proc={}", self.root.join("proc").display()))
            .args(["sh", "-c", ENTER, "sh"])
            .arg(&self.root)
            .arg(&self.rust)
            .args([PROJECT, "cargo", "xtask"])
            .args(words);
        let mut said = Vec::new();
        let status = stream(&mut command, log, &mut |line| {
            println!("{line}");
            said.push(line.to_owned());
        })?;
        Ok((status.success(), not_run(&said)))
    }
}

/// Where the system of this number is made.
fn place(paths: &Paths, number: &str) -> PathBuf {
    paths.target().join("fresh").join(number)
}

/// What was not run, by the account of tests in what they said.
fn not_run(said: &[String]) -> Vec<String> {
    let account = said.iter().skip_while(|line| *line != NOT_RUN).skip(1);
    let lines = account.map_while(|line| line.strip_prefix("  "));
    lines.map(str::to_owned).collect()
}

fn suite(number: &str) -> Result<&'static str> {
    let known = RELEASES.iter().find(|(known, _)| *known == number);
    known.map(|(_, suite)| *suite).ok_or_else(|| {
        Error::new(
            format!("the README promises nothing about Debian {number}"),
            "take 12 or 13",
        )
    })
}

/// How apt reaches its mirrors, of what `apt-config dump Acquire` says. What it fetches beside
/// the lists of packages is a matter of programs that the new system has not.
fn apt_settings(dump: &str) -> String {
    let lines = dump.lines().filter(|line| !line.contains("IndexTargets"));
    lines.map(|line| format!("{line}\n")).collect()
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(dir) = to.parent() {
        stamp::make_dir(dir)?;
    }
    fs::copy(from, to).map(drop).at("copy", from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readmes_promise_is_what_can_be_tried() {
        assert_eq!(suite("12").unwrap(), "bookworm");
        assert_eq!(suite("13").unwrap(), "trixie");
        assert!(suite("11").is_err());
    }

    #[test]
    fn what_was_not_run_is_told() {
        let said =
            "== a section\n  skipped a\nNot run:\n  kvm: no /dev/kvm\n  b: c\n9 passed, 0 failed";
        let said: Vec<String> = said.lines().map(str::to_owned).collect();
        assert_eq!(not_run(&said), ["kvm: no /dev/kvm", "b: c"]);
        assert!(not_run(&said[..2]).is_empty());
    }

    #[test]
    fn what_other_programs_have_apt_fetch_is_left_out() {
        let dump = "Acquire::Check-Date \"false\";\nAcquire::IndexTargets::deb::DEP-11 \"\";\n";
        assert_eq!(apt_settings(dump), "Acquire::Check-Date \"false\";\n");
    }
}

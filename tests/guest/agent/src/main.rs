// SPDX-License-Identifier: GPL-2.0-or-later
//! The program that runs in a test guest and does what the tests ask.
//!
//! Its standard input and output are a serial line. Each request is a line
//! `ID COMMAND ARGUMENTS`; the answer is a line `ID ok TEXT` or `ID err TEXT`,
//! where a line break in TEXT is written `\n` and a backslash `\\`. After start
//! it says `ready KERNEL-RELEASE` once, so the host also sees a reboot.

#![forbid(unsafe_code)]

mod bench;
mod churn;
mod memory;
mod pages;
mod piece;
mod scatter;
mod worker;

use std::fs;
use std::io::{self, BufRead, Write};
use std::process::{Command, Stdio};

use pages::Pages;
use worker::Workers;

type Answer = Result<String, String>;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("work") => memory::main(&args[2..]),
        Some("churn") => churn::main(&args[2..]),
        Some("scatter") => scatter::main(&args[2..]),
        _ => serve(),
    }
}

/// Answers requests until the line is closed.
fn serve() {
    // The guest's out-of-memory tests must not end the one who reports on them.
    let _ = fs::write("/proc/self/oom_score_adj", "-1000");
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    say(&format!("ready {}", release.trim()));
    let mut own = Own::default();
    for line in io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        let Some((id, request)) = line.split_once(' ') else {
            continue;
        };
        match run(request, &mut own) {
            Ok(text) => say(&format!("{id} ok {}", escape(&text))),
            Err(text) => say(&format!("{id} err {}", escape(&text))),
        }
    }
}

fn say(line: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n")
}

/// What requests have left behind.
#[derive(Default)]
struct Own {
    workers: Workers,
    pages: Pages,
}

fn run(request: &str, Own { workers, pages }: &mut Own) -> Answer {
    let (command, rest) = request.split_once(' ').unwrap_or((request, ""));
    match command {
        "ping" => Ok("pong".into()),
        "read" => read(rest),
        "write" => write(rest),
        "sh" => shell(rest),
        "online" => online(),
        "reboot" => reboot(),
        "start" => workers.start("work", rest),
        "churn" => workers.start("churn", rest),
        "scatter" => workers.start("scatter", rest),
        "pages" => pages.take(rest),
        "frames" => pages.frames(),
        "store" => pages.store(rest),
        "check" => pages.check(),
        "worker" => workers.state(rest),
        "counts" => workers.counts(rest),
        "stop" => workers.stop(rest),
        "hold" => workers.signal(rest, "STOP"),
        "release" => workers.signal(rest, "CONT"),
        _ => Err(format!("no such command: {command}")),
    }
}

fn read(path: &str) -> Answer {
    fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))
}

/// `PATH TEXT`: one write call, as files in /proc and /sys want it.
fn write(rest: &str) -> Answer {
    let (path, text) = rest.split_once(' ').ok_or("write: PATH TEXT expected")?;
    let mut file = fs::OpenOptions::new()
        .write(true)
        .open(path)
        .map_err(|e| format!("{path}: {e}"))?;
    file.write_all(text.as_bytes())
        .map_err(|e| format!("{path}: {e}"))?;
    Ok(String::new())
}

fn shell(command: &str) -> Answer {
    let out = Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("sh: {e}"))?;
    let text = String::from_utf8_lossy(&out.stdout).trim_end().to_string();
    if out.status.success() {
        return Ok(text);
    }
    let errors = String::from_utf8_lossy(&out.stderr);
    Err(format!("{}: {text}{}", out.status, errors.trim_end()))
}

/// Brings every memory block that is offline online; answers how many.
fn online() -> Answer {
    let dir = "/sys/devices/system/memory";
    let mut count = 0;
    for entry in fs::read_dir(dir).map_err(|e| format!("{dir}: {e}"))? {
        let state = entry.map_err(|e| e.to_string())?.path().join("state");
        let offline = fs::read_to_string(&state).is_ok_and(|s| s.trim() == "offline");
        if offline {
            fs::write(&state, "online").map_err(|e| format!("{}: {e}", state.display()))?;
            count += 1;
        }
    }
    Ok(count.to_string())
}

/// Restarts the guest a moment after the answer has left.
fn reboot() -> Answer {
    Command::new("/bin/sh")
        .args(["-c", "sleep 0.3; reboot -f"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .map_err(|e| format!("reboot: {e}"))?;
    Ok(String::new())
}

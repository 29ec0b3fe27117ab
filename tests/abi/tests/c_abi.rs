// SPDX-License-Identifier: GPL-2.0-or-later
//! Runs the C program, a test for each of its themes, and looks that it leaves no function out.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use abi::{Language, Program, accepts_header, called, declared, include_dir, sources};

/// Below cargo's target directory, wherever that is.
fn dir() -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("abi");
    fs::create_dir_all(&dir).expect("a directory for the program");
    dir
}

fn program() -> &'static Program {
    static PROGRAM: OnceLock<Program> = OnceLock::new();
    PROGRAM.get_or_init(|| Program::build(&dir()).unwrap_or_else(|failed| panic!("{failed}")))
}

fn holds(theme: &str) {
    if let Err(failed) = program().run(theme) {
        panic!("{failed}");
    }
}

macro_rules! themes {
    ($($theme:ident: $about:literal,)*) => {
        $(
            #[doc = $about]
            #[test]
            fn $theme() {
                holds(stringify!($theme));
            }
        )*

        /// Every theme of the program is a test here.
        #[test]
        fn no_theme_is_left_out() {
            let list = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("c/themes.h"))
                .expect("the list of themes");
            let listed: Vec<&str> = list
                .lines()
                .filter_map(|line| line.trim().strip_prefix("X(")?.split_once(')'))
                .map(|(theme, _)| theme)
                .collect();
            assert_eq!(listed, [$(stringify!($theme)),*]);
        }
    };
}

themes! {
    layout: "Sizes, places of fields, versions, texts, queues.",
    null: "NULL for each pointer of each function.",
    busy: "Calls from callbacks and other threads.",
    broken: "A panic, and the reset that mends.",
    pages: "PFNs, byte orders, content of guest memory.",
    batch: "Bounds of a batch, and whose it is.",
    slices: "Work over several slices, cancelled, abandoned.",
    discards: "Discards that fail or are inhibited.",
    held: "Inflated memory that waits for its neighbours.",
    reports: "Reports by host address.",
    large: "Backing pages of 2 MiB.",
    memory: "Changes of the map of guest memory.",
    config: "The configuration space and the target.",
    state: "Saving and loading.",
    stats: "Statistics.",
    hints: "Rounds of free page hints.",
    ram: "What a migration leaves out.",
    features: "Bits of both numberings, what goes together, how reports are given back.",
    messages: "Ranges and chunks in parts, and those that make no sense.",
    requests: "Requests for unused pages and their answers.",
    dirty: "Dirty pages as a list, for a consumer and the migration.",
}

#[test]
fn the_header_stands_alone() {
    let languages = [
        Language::C("c99"),
        Language::C("c11"),
        Language::Cpp("c++11"),
        Language::Cpp("c++17"),
    ];
    for language in languages {
        if let Err(failed) = accepts_header(language, &dir()) {
            panic!("{language:?}: {failed}");
        }
    }
}

/// A function that is new in the header must be driven, and be offered NULL where it takes a pointer.
#[test]
fn no_function_is_left_out() {
    let header = fs::read_to_string(include_dir().join("virtio_balloon_rs.h")).expect("the header");
    let functions = declared(&header);
    assert!(functions.len() > 20, "the header is not understood");
    let sources = sources().unwrap_or_else(|failed| panic!("{failed}"));
    let read = |path: &PathBuf| fs::read_to_string(path).expect("a source");
    // The table of NULLs is looked at for itself, so that it does not stand for both.
    let is_null = |path: &&PathBuf| path.ends_with("null.c");
    let rest: String = sources.iter().filter(|p| !is_null(p)).map(read).collect();
    let nulls: String = sources.iter().filter(is_null).map(read).collect();

    let missing: Vec<_> = functions.difference(&called(&rest)).cloned().collect();
    assert!(missing.is_empty(), "never called: {missing:?}");
    let without_pointers = ["vbr_abi_version", "vbr_inject_pending", "vbr_status_str"];
    let nulls = called(&nulls);
    let missing: Vec<_> = functions
        .difference(&nulls)
        .filter(|name| !without_pointers.contains(&name.as_str()))
        .collect();
    assert!(missing.is_empty(), "never given NULL: {missing:?}");
}

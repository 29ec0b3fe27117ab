// SPDX-License-Identifier: GPL-2.0-or-later

//! The page of properties has all that the device, the dirty page list and QMP have, and no others.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::LazyLock;

use super::{Page, assert_none, spans};
use crate::git::Git;
use crate::paths::Paths;
use crate::series::{Series, patch_files};

/// The page.
const PAGE: &str = "docs/properties.md";
/// What QEMU itself has for balloons.
const OF_QEMU: [&str; 3] = ["balloon", "query-balloon", "BALLOON_CHANGE"];
/// How the row of a property begins, where a table declares it.
const ROW: &str = "{ \"";

/// The text of all tracked files below a place whose names end like this.
fn sources(place: &str, end: &str) -> Vec<(String, String)> {
    let paths = Paths::new();
    let files = Git::new(paths.top()).read(&["ls-files", place]).unwrap();
    files
        .lines()
        .filter(|name| name.ends_with(end))
        .map(|name| {
            let text = fs::read_to_string(paths.top().join(name)).unwrap();
            (name.to_owned(), text)
        })
        .collect()
}

/// The glue's files in C; each command that is checked looks into them.
static GLUE: LazyLock<Vec<(String, String)>> = LazyLock::new(|| sources("meson-glue", ".c"));

/// What follows each `start` in a text, up to the next quotation mark.
fn names_after<'a>(text: &'a str, start: &str) -> impl Iterator<Item = &'a str> {
    let rests = text.split(start).skip(1);
    rests.map(|rest| rest.split('"').next().unwrap_or_default())
}

/// The options that are declared by DEFINE_PROP, with their defaults as the page writes them, if
/// they are plain values.
fn defined(text: &str) -> BTreeMap<String, Option<String>> {
    let mut defined = BTreeMap::new();
    for rest in text.split("DEFINE_PROP_").skip(1) {
        let (kind, rest) = rest.split_once('(').unwrap_or_default();
        let args = rest.split("),").next().unwrap_or_default();
        let name = args.split('"').nth(1).unwrap_or_default();
        let value = args.rsplit(',').next().unwrap_or_default().trim();
        let value = match value {
            "true" => Some("on".to_owned()),
            "false" => Some("off".to_owned()),
            "ON_OFF_AUTO_AUTO" => Some("auto".to_owned()),
            number if number.chars().all(|c| c.is_ascii_digit()) => Some(number.to_owned()),
            size if kind == "SIZE" => Some(size.replace("* ", "")),
            _ => None,
        };
        defined.insert(name.to_owned(), value);
    }
    defined
}

/// The properties that are added one by one, or by the rows of a table, and whether there is a
/// function that sets them.
fn added(file: &str, text: &str) -> Vec<(String, bool)> {
    let calls = text.split("property_add").skip(1).filter_map(|rest| {
        let (_, args) = rest.split_once('(')?;
        let name = args.split(',').nth(1)?.trim().strip_prefix('"')?;
        Some((name, args.split(';').next()?))
    });
    let rows = text.split(ROW).skip(1).filter_map(|rest| {
        let is_table = file.ends_with("-props.c");
        is_table.then_some((rest, rest.split('}').next()?))
    });
    let all = calls.chain(rows);
    all.map(|(name, rest)| {
        let name = name.split('"').next().unwrap_or_default();
        (name.to_owned(), rest.contains(" set_"))
    })
    .collect()
}

/// The options that can be set for `virtio-balloon-rs` or `dirty-page-list`, whose C files begin
/// with the same word.
pub(super) fn options_of(kind: &str) -> BTreeSet<String> {
    let is_of = |name: &str| name.rsplit('/').next().is_some_and(|n| n.starts_with(kind));
    let mut options = BTreeSet::new();
    for (file, text) in GLUE.iter().filter(|(name, _)| is_of(name)) {
        options.extend(defined(text).into_keys());
        let settable = added(file, text).into_iter().filter(|(_, is_set)| *is_set);
        options.extend(settable.map(|(name, _)| name));
    }
    options
}

/// The names of all properties and statistics that C declares.
fn declared() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (file, text) in GLUE.iter() {
        names.extend(defined(text).into_keys());
        names.extend(added(file, text).into_iter().map(|(name, _)| name));
        names.extend(names_after(text, "COUNTER(\"").map(str::to_owned));
        names.extend(names_after(text, "] = \"stat-").map(|name| format!("stat-{name}")));
    }
    names
}

/// The commands and events of QMP that the newest series adds.
fn of_qmp() -> BTreeSet<String> {
    let paths = Paths::new();
    let series = Series::newest_first(&paths)[0].name;
    let mut names: BTreeSet<String> = OF_QEMU.map(str::to_owned).into();
    for file in patch_files(&paths, series).unwrap() {
        let text = fs::read_to_string(&file).unwrap();
        for start in ["\n+{ 'command': '", "\n+{ 'event': '"] {
            let rests = text.split(start).skip(1);
            names.extend(rests.filter_map(|rest| rest.split('\'').next().map(str::to_owned)));
        }
    }
    names
}

/// The counters of the library.
fn counted() -> BTreeSet<String> {
    let files = sources("rust-balloon", "/counters.rs");
    let structs = files.iter().filter_map(|(_, text)| {
        let (_, rest) = text.split_once("pub struct Counters {")?;
        rest.split("\n}").next()
    });
    let fields = structs.flat_map(|fields| fields.split("pub ").skip(1));
    fields
        .filter_map(|field| Some(field.split_once(": u64")?.0.replace('_', "-")))
        .collect()
}

/// What the tables of a page have in their first column, with the number of the line and the second
/// column.
fn rows(page: &Page) -> BTreeMap<String, (usize, String)> {
    let mut rows = BTreeMap::new();
    for line in page.lines().iter().filter(|line| line.code.is_none()) {
        let mut cells = line.text.split(" | ");
        let Some(first) = cells.next().filter(|cell| cell.starts_with('|')) else {
            continue;
        };
        let second = cells.next().unwrap_or_default();
        for name in spans(first) {
            rows.insert(name.to_owned(), (line.number, second.to_owned()));
        }
    }
    rows
}

fn check(
    page: &Page,
    names: &BTreeSet<String>,
    defaults: &BTreeMap<String, String>,
) -> Vec<String> {
    let rows = rows(page);
    let missing = names.iter().filter(|name| !rows.contains_key(*name));
    let mut found: Vec<_> = missing
        .map(|name| page.finding(0, &format!("{name} is missing")))
        .collect();
    for (name, (number, second)) in &rows {
        if !names.contains(name) {
            found.push(page.finding(*number, &format!("there is no {name}")));
        }
        if let Some(default) = defaults.get(name).filter(|default| *default != second) {
            let what = format!("the default of {name} is {default}, not {second}");
            found.push(page.finding(*number, &what));
        }
    }
    found
}

#[test]
fn the_page_of_properties_has_all_of_them() {
    let (declared, counted, of_qmp) = (declared(), counted(), of_qmp());
    assert!(declared.len() > 80, "only {} properties", declared.len());
    assert!(counted.len() > 25, "only {} counters", counted.len());
    assert!(of_qmp.len() > 7, "only {} of QMP", of_qmp.len());
    let names = &(&declared | &counted) | &of_qmp;
    let defaults = GLUE
        .iter()
        .flat_map(|(_, text)| defined(text))
        .filter_map(|(name, default)| Some((name, default?)))
        .collect();
    let text = fs::read_to_string(Paths::new().top().join(PAGE)).unwrap();
    assert_none(&check(&Page::new(PAGE, &text), &names, &defaults));
}

#[test]
fn a_page_that_is_not_right_is_found() {
    let text = "| option | default | |\n|---|---|---|\n| `a`, `b` | on | |\n| `c` | 1 | |\n`d`\n";
    let names = ["a", "b", "d"].map(str::to_owned).into();
    let defaults = BTreeMap::from([("b".to_owned(), "off".to_owned())]);
    let wanted = [
        "p.md:0: d is missing",
        "p.md:3: the default of b is off, not on",
        "p.md:4: there is no c",
    ];
    assert_eq!(check(&Page::new("p.md", text), &names, &defaults), wanted);
}

#[test]
fn declarations_in_c_are_understood() {
    let text = "DEFINE_PROP_BIT64(\"a\", S, f,\n    60, false),\nDEFINE_PROP_SIZE(\"b\", S, g,\n    \
                4 * MiB),\nDEFINE_PROP_UINT32(\"c\", S, h, 20),\nDEFINE_PROP_LINK(\"d\", S, i, T,\n    \
                I *),\n";
    let plain = |value: &str| Some(value.to_owned());
    let wanted = [
        ("a", plain("off")),
        ("b", plain("4 MiB")),
        ("c", plain("20")),
        ("d", None),
    ];
    let wanted = wanted.map(|(name, value)| (name.to_owned(), value));
    assert_eq!(defined(text), BTreeMap::from(wanted));
    let options = options_of("dirty-page-list");
    assert!(options.contains("max-dirty") && options.contains("no-dups"));
    assert!(!options.contains("active") && !options.contains("list-syncs"));
    let options = options_of("virtio-balloon-rs");
    assert!(options.contains("must-tell-host") && options.contains("founding-feature-bits"));
    assert!(options.contains("free-page-hint-window") && options.contains("vectors"));
    assert!(!options.contains("target-bytes") && !options.contains("ranges"));
}

// SPDX-License-Identifier: GPL-2.0-or-later
//! Every single figure, for a file.

use serde_json::{Map, Value, json};

use crate::dirty::migration::{FIGURES, Moved};
use crate::dirty::notes::Note;
use crate::dirty::rounds::Round;
use crate::dirty::{Dirty, list, scan};

/// All of `bench dirty`.
pub fn of(dirty: &Dirty) -> Value {
    json!({
        "rounds": dirty.rounds.iter().map(round).collect::<Vec<_>>(),
        "notes": dirty.notes.iter().map(note).collect::<Vec<_>>(),
        "migrations": dirty.migrations.moved.iter().map(moved).collect::<Vec<_>>(),
        "left_out": dirty.migrations.left_out,
    })
}

fn round(round: &Round) -> Value {
    let case = round.case;
    json!({
        "ram_gib": case.ram_gib,
        "dirty_ppm": case.ppm,
        "pages": case.count(),
        "place": case.place.name(),
        "scan_ns": round.scan.iter().map(|ns| parts(&scan::PARTS, ns)).collect::<Vec<_>>(),
        "list_ns": round.list.iter().map(|ns| parts(&list::PARTS, ns)).collect::<Vec<_>>(),
        "bitmap_bytes": scan::Scan::bytes(case.ram_pages()),
        "list_bytes_first": round.list_bytes.0,
        "list_bytes": round.list_bytes.1,
    })
}

fn parts(names: &[(&str, &str)], ns: &[f64]) -> Value {
    let named = names.iter().zip(ns);
    let map: Map<String, Value> = named
        .map(|((name, _), ns)| ((*name).into(), json!(ns)))
        .collect();
    Value::Object(map)
}

fn note(note: &Note) -> Value {
    json!({
        "way": note.way.name(),
        "threads": note.threads.name(),
        "ns": note.ns.median,
        "ns_least": note.ns.least,
        "ns_most": note.ns.most,
    })
}

fn moved(moved: &Moved) -> Value {
    let mut map = Map::new();
    map.insert("ram_gib".into(), json!(moved.ram_gib));
    map.insert("listed".into(), json!(moved.listed));
    map.insert("list_and_scan_syncs".into(), json!(moved.counts));
    for (name, _, of) in FIGURES {
        map.insert(name.into(), json!(of(moved)));
    }
    Value::Object(map)
}

// SPDX-License-Identifier: GPL-2.0-or-later
//! The bitmap beside fixedbitset and roaring: `cargo xtask bench bitmap`.

mod data;
mod operation;
mod sets;
mod table;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, SamplingMode};
use data::Data;
use fixedbitset::FixedBitSet;
use operation::{Operation, full};
use roaring::RoaringBitmap;
use sets::Set;
use sparse_bitmap::SparseBitmap;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;
use table::Row;

/// Pages of 4 KiB: 4 GiB and 1 TiB of them.
const UNIVERSES_LOG2: [u32; 2] = [20, 28];
const NAMES: [&str; 3] = [SparseBitmap::NAME, FixedBitSet::NAME, RoaringBitmap::NAME];
// So short that all of it takes about two minutes. The medians of two runs are within a few percent
// on a machine that does nothing else.
const SAMPLES: usize = 10;
const WARM_UP: Duration = Duration::from_millis(30);
const MEASUREMENT: Duration = Duration::from_millis(150);
/// Where criterion puts its results.
const RESULTS: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/bench-bitmap");

fn measure<S: Set>(group: &mut BenchmarkGroup<'_, WallTime>, operation: Operation, data: &Data) {
    let id = BenchmarkId::new(S::NAME, data.dir());
    group.bench_function(id, |bencher| operation.run::<S>(bencher, data));
}

/// Measures everything for `data`.
fn measure_all(criterion: &mut Criterion, data: &Data) {
    for operation in Operation::ALL {
        if !operation.is_for(data) {
            continue;
        }
        let mut group = criterion.benchmark_group(operation.name());
        group.sampling_mode(SamplingMode::Flat);
        measure::<SparseBitmap>(&mut group, operation, data);
        measure::<FixedBitSet>(&mut group, operation, data);
        measure::<RoaringBitmap>(&mut group, operation, data);
        group.finish();
    }
}

/// A set that holds `data` was seen to answer right: its answers and its bytes.
fn answers<S: Set>(data: &Data) -> (Vec<u64>, usize) {
    let set = full::<S>(data);
    let asked = Operation::ALL.iter();
    let answers = asked.map(|operation| operation.ask(&set, data));
    (answers.collect(), set.memory())
}

/// The bytes of each.
///
/// # Panics
/// If the three do not give the same answers.
fn memory(data: &Data) -> Vec<usize> {
    let all = [
        answers::<SparseBitmap>(data),
        answers::<FixedBitSet>(data),
        answers::<RoaringBitmap>(data),
    ];
    for (name, (answers, _)) in NAMES.iter().zip(&all) {
        assert_eq!(*answers, all[0].0, "{name} on {}", data.title());
    }
    all.map(|(_, bytes)| bytes).to_vec()
}

/// How many programs wanted to run in the last minute.
fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("?").to_owned()
}

fn main() {
    let results = Path::new(RESULTS);
    // What a filter leaves out must not be shown as measured now.
    let _ = fs::remove_dir_all(results);
    let mut criterion = Criterion::default()
        .sample_size(SAMPLES)
        .warm_up_time(WARM_UP)
        .measurement_time(MEASUREMENT)
        .nresamples(1000)
        .without_plots()
        .output_directory(results)
        .configure_from_args();
    let load_before = load();
    let mut times = Vec::new();
    let mut bytes = Vec::new();
    for universe_log2 in UNIVERSES_LOG2 {
        for data in data::all(universe_log2) {
            if data.has_ranges() || data.is_ascending() {
                bytes.push((data.title(), memory(&data)));
            }
            measure_all(&mut criterion, &data);
            let done = Operation::ALL
                .into_iter()
                .filter(|operation| operation.is_for(&data));
            times.extend(done.map(|operation| Row::new(operation, &data)));
        }
    }
    let (cores, kind) = (thread::available_parallelism(), std::env::consts::ARCH);
    println!(
        "Measured on {} processors ({kind}), load {load_before} before and {} after: this is 1 of it, \
         other work makes times longer",
        cores.map_or(0, usize::from),
        load()
    );
    times.sort_by_key(|row| row.operation as usize);
    table::print_times(results, &NAMES, &times);
    table::print_memory(&NAMES, &bytes);
}

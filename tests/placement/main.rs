//! What the scheduler's choice of workers is worth for graphs that stream through memory: how much travels
//! between the workers, and how much they hold. Owns the shapes and the bounds; the clusters are in `model`.

mod model;
#[path = "../support/unpack.rs"]
mod unpack;

use hpcdag::base::ids::FamilyIx;
use hpcdag::graph::layer::{Border, Csr, Edge, Layer, Pattern, Size};
use model::{Setting, run};
use std::sync::Arc;

const MIB: u64 = 1 << 20;
/// The memory of one thread.
const LIMIT: u64 = 512 * MIB;
/// A part of a chunk in a reduction.
const PART: u64 = 4096;

/// A graph as it grows.
#[derive(Default)]
struct Shape {
    layers: Vec<(Layer, u64)>,
    /// Of which kind each is: what else bears its name.
    kinds: Vec<u32>,
}

impl Shape {
    fn add(&mut self, n: u32, size: u64, from: &[(u32, Pattern)]) -> u32 {
        let edges = from
            .iter()
            .map(|(producer, pattern)| Edge {
                producer: FamilyIx(*producer),
                pattern: pattern.clone(),
                data: true,
            })
            .collect();
        self.layers.push((Layer { size: Size::Fixed(n), edges, ..Layer::default() }, size));
        let f = self.layers.len() as u32 - 1;
        self.kinds.push(f);
        f
    }

    /// Adds a task that is a family by itself, of a kind.
    fn one(&mut self, kind: u32, size: u64, from: &[u32]) -> u32 {
        let f = self.add(1, size, &from.iter().map(|j| (*j, Pattern::All)).collect::<Vec<_>>());
        self.kinds[f as usize] = kind;
        f
    }

    /// Reduces a family to one small result.
    fn reduce(&mut self, family: u32, n: u32) -> u32 {
        let part = self.add(n, PART, &[(family, Pattern::Each)]);
        let tree = self.add(n, PART, &[(part, Pattern::Tree { fan_in: 4 })]);
        self.add(1, PART, &[(tree, Pattern::All)])
    }

    /// The same with a family of its own for each task, as graphs of other systems arrive.
    fn singly(self) -> Shape {
        let mut shape = Shape::default();
        // Of each family: its first task, and those that others see.
        let mut families: Vec<(u32, std::ops::Range<u32>)> = Vec::new();
        for (layer, size) in self.layers {
            let first = shape.layers.len() as u32;
            let Size::Fixed(n) = layer.size else { panic!("a size") };
            let seen = |e: &Edge| families[e.producer.index()].1.clone();
            let shapes = |e: &Edge| matches!(e.pattern, Pattern::Tree { .. }).then(|| seen(e).len() as u32);
            let tree = layer.edges.iter().find_map(|e| e.pattern.shape(shapes(e)?));
            let (total, first_export) = tree.map_or((n, 0), |s| (s.total, s.first_export));
            for element in 0..total {
                let mut from = Vec::new();
                for edge in &layer.edges {
                    let exports = seen(edge);
                    match &edge.pattern {
                        Pattern::Explicit(csr) => {
                            from.extend(csr.row(element).iter().map(|j| exports.start + j));
                        }
                        pattern => {
                            for span in pattern.inputs(element, exports.len() as u32) {
                                let base = if span.own { first } else { exports.start };
                                from.extend(span.range.map(|j| base + j));
                            }
                        }
                    }
                }
                shape.one(families.len() as u32, size, &from);
            }
            families.push((first, first + first_export..first + total));
        }
        shape
    }

    fn on(self, workers: u32, threads: u32, limit: u64) -> Setting {
        let last = self.layers.len() as u32 - 1;
        Setting {
            workers,
            threads,
            target: Some(limit * 6 / 10),
            layers: self.layers,
            kinds: self.kinds,
            outputs: vec![last],
            copies_inputs: false,
            seed: 1,
        }
    }
}

fn window() -> Pattern {
    Pattern::Window { low: 0, high: 1, edge: Border::Clip }
}

/// Two variables, each padded by the edge of its neighbour, then merged.
fn side_chain(n: u32, chunk: u64) -> Shape {
    let mut shape = Shape::default();
    let pads: Vec<u32> = (0..2)
        .map(|_| {
            let variable = shape.add(n, chunk, &[]);
            let edge = shape.add(n, chunk / 64, &[(variable, Pattern::Each)]);
            shape.add(n, chunk, &[(variable, Pattern::Each), (edge, window())])
        })
        .collect();
    let curl = shape.add(n, chunk, &[(pads[0], Pattern::Each), (pads[1], Pattern::Each)]);
    shape.reduce(curl, n);
    shape
}

/// Two grids of which each result takes four cells.
fn double_diff(n: u32, width: u32, chunk: u64) -> Shape {
    let cell = |r: i64, c: i64| {
        let inside = (0..i64::from(width)).contains(&c) && (0..i64::from(n / width)).contains(&r);
        inside.then_some((r * i64::from(width) + c) as u32)
    };
    let around = |offsets: &[(i64, i64)]| {
        let mut csr = Csr { offsets: vec![0], targets: Vec::new() };
        for i in 0..n {
            let (r, c) = (i64::from(i / width), i64::from(i % width));
            csr.targets.extend(offsets.iter().filter_map(|(dr, dc)| cell(r + dr, c + dc)));
            csr.offsets.push(csr.targets.len() as u32);
        }
        Pattern::Explicit(Arc::new(csr))
    };
    let mut shape = Shape::default();
    let a = shape.add(n, chunk, &[]);
    let b = shape.add(n, chunk, &[]);
    let from =
        [(a, around(&[(0, 0), (0, 1), (1, 0), (1, 1)])), (b, around(&[(-1, -1), (-1, 0), (0, -1), (0, 0)]))];
    let diff = shape.add(n, chunk, &from);
    shape.reduce(diff, n);
    shape
}

fn map_sum(n: u32, chunk: u64) -> Shape {
    let mut shape = Shape::default();
    let load = shape.add(n, chunk, &[]);
    shape.reduce(load, n);
    shape
}

fn anomaly(n: u32, chunk: u64) -> Shape {
    let mut shape = Shape::default();
    let load = shape.add(n, chunk, &[]);
    let mean = shape.reduce(load, n);
    let anomaly = shape.add(n, chunk, &[(load, Pattern::Each), (mean, Pattern::All)]);
    shape.reduce(anomaly, n);
    shape
}

/// Inputs of four consecutive chunks each.
fn groups(n: u32, chunk: u64) -> Shape {
    let mut shape = Shape::default();
    let load = shape.add(n, chunk, &[]);
    let sum = shape.add(n / 4, chunk, &[(load, Pattern::Group { size: 4 })]);
    shape.reduce(sum, n / 4);
    shape
}

/// Runs a graph; what it moved as a part of what it made, and the most it held, on disk too, as a part of the
/// target.
fn run_on(name: &str, shape: Shape, (workers, threads): (u32, u32), limit: u64) -> (f64, f64) {
    let setting = shape.on(workers, threads, limit);
    let (o, peak) = outcome_of(name, &setting);
    (o.moved as f64 / o.made as f64, peak)
}

/// What came of it, told; and the most that a worker held as a part of the target.
fn outcome_of(name: &str, setting: &Setting) -> (model::Outcome, f64) {
    let o = run(setting);
    let peak = o.peak as f64 / setting.target.unwrap_or(u64::MAX) as f64;
    let moved = o.moved as f64 / o.made as f64;
    let written = o.written as f64 / o.made as f64;
    let (seconds, on) = (o.seconds, format!("{name} on {} workers of {}", setting.workers, setting.threads));
    println!(
        "{on}: held {peak:.2} of the target; wrote {written:.3}, moved {moved:.3} of all; {seconds:.2} s"
    );
    (o, peak)
}

const CLUSTERS: [(u32, u32); 3] = [(2, 1), (2, 4), (16, 2)];

/// Runs a graph of eight times the clusters' memory, in chunks of a part of a thread's share of it. Nobody
/// moves more than so much of what is made, nor holds more than so much of the target.
fn stream_within(
    name: &str,
    (arrays, parts): (u64, u64),
    make: impl Fn(u32, u64) -> Shape,
    (moved_most, held_most): (f64, f64),
) {
    for (workers, threads) in CLUSTERS {
        let limit = LIMIT * u64::from(threads);
        let chunk = LIMIT / parts;
        let n = 8 * limit * u64::from(workers) / arrays / chunk;
        let (moved, peak) = run_on(name, make(n as u32, chunk), (workers, threads), limit);
        assert!(moved <= moved_most, "{name} moved {moved:.3} of what it made");
        assert!(peak <= held_most, "{name} held {peak:.2} of the target");
    }
}

/// The same within the target.
fn stream(name: &str, arrays: u64, parts: u64, make: impl Fn(u32, u64) -> Shape, moved_most: f64) {
    stream_within(name, (arrays, parts), make, (moved_most, 1.0));
}

#[test]
fn side_chains_stay_where_they_are() {
    stream("side-chain", 2, 16, side_chain, 0.01);
}

#[test]
fn grids_move_only_their_borders() {
    stream("double-diff", 2, 32, |n, chunk| double_diff(n, 4, chunk), 0.05);
}

#[test]
fn groups_are_made_where_they_are_needed() {
    stream("groups", 1, 16, groups, 0.01);
}

#[test]
fn reductions_move_nothing_to_speak_of() {
    stream("map-sum", 1, 16, map_sum, 0.001);
}

/// All of it is alive at once; what was loaded is used where it lies, but for the balance of work at the end.
#[test]
fn what_is_needed_twice_is_used_where_it_lies() {
    let chunk = LIMIT / 16;
    let shape = anomaly(4 * 2 * 16, chunk);
    let (moved, _) = run_on("anomaly", shape, (2, 1), LIMIT);
    assert!(moved <= 0.25, "moved {moved:.3} of what it made");
}

/// What is above the mean of its group, for groups that take rows of all chunks: the first pass collects the
/// rows of a group, the second takes the chunks by row. Singly, as dask makes it of xarray's `groupby`; the
/// number of chunks is a multiple of 16.
fn group_means(n: u32, chunk: u64) -> Shape {
    const ROWS: u32 = 10;
    const GROUPS: u32 = 16;
    let (row, part) = (chunk / u64::from(ROWS), chunk / u64::from(ROWS) * 2);
    let mut shape = Shape::default();
    let chunks: Vec<u32> = (0..n).map(|_| shape.one(0, chunk, &[])).collect();
    let of = |row: u32| chunks[(row / ROWS) as usize];
    let rows: Vec<u32> = (0..n * ROWS).map(|i| shape.one(1, row, &[of(i)])).collect();
    let mut means = Vec::new();
    for group in 0..GROUPS {
        let rows: Vec<_> = rows.iter().skip(group as usize).step_by(GROUPS as usize).copied().collect();
        let parts: Vec<_> = rows.chunks(ROWS as usize).map(|of| shape.one(2, part, of)).collect();
        means.push(shape.one(3, row, &parts));
    }
    let mut parts: Vec<u32> = Vec::new();
    for i in 0..n * ROWS {
        // Parts are called the same.
        let of_mean = shape.one(2, row, &[means[(i % GROUPS) as usize]]);
        let of_chunk = shape.one(4, row, &[of(i)]);
        parts.push(shape.one(5, part, &[of_mean, of_chunk]));
    }
    while parts.len() > 1 {
        parts = parts.chunks(4).map(|of| shape.one(6, part, of)).collect();
    }
    shape
}

/// All chunks are needed until the end, and there is memory for few of them.
#[test]
fn what_goes_to_disk_goes_once() {
    let (n, chunk) = (64, LIMIT / 8);
    let all = (u64::from(n) * chunk) as f64;
    // Of what the tasks occupy beside their results the scheduler knows nothing.
    for (part_of_target, copies_inputs) in [(60, false), (60, true), (45, true)] {
        let mut setting = group_means(n, chunk).on(2, 1, LIMIT);
        (setting.target, setting.copies_inputs) = (Some(LIMIT * part_of_target / 100), copies_inputs);
        let (o, _) = outcome_of("group-means", &setting);
        let (written, moved) = (o.written as f64 / all, o.moved as f64 / all);
        println!("  that is {written:.3} and {moved:.3} of the chunks");
        assert!(written <= 1.25, "wrote {written:.3} of all chunks");
        assert!(moved <= 1.5, "moved {moved:.3} of all chunks");
    }
}

/// Each chunk with what all before it come to: the last of them is done when all are.
fn running_sum(n: u32, chunk: u64) -> Shape {
    let mut shape = Shape::default();
    let chunks: Vec<u32> = (0..n).map(|_| shape.one(0, chunk, &[])).collect();
    let mut before = None;
    let mut sums = Vec::new();
    for each in chunks {
        let from: Vec<u32> = [Some(each), before].into_iter().flatten().collect();
        let sum = shape.one(1, chunk, &from);
        sums.push(shape.one(2, PART, &[sum]));
        before = Some(shape.one(3, PART, &from));
    }
    shape.one(4, PART, &sums);
    shape
}

// Graphs of other systems say nothing of families; their tasks' places in the order are all there is. What
// reaches across stretches waits in memory, or moves.

#[test]
fn side_chains_of_single_tasks_stay_where_they_are() {
    let make = |n, chunk| side_chain(n, chunk).singly();
    stream_within("side-chain, singly", (2, 16), make, (0.1, 1.4));
}

#[test]
fn grids_of_single_tasks_move_less_than_they_make() {
    let make = |n, chunk| double_diff(n, 4, chunk).singly();
    stream_within("double-diff, singly", (2, 32), make, (0.7, 1.6));
}

#[test]
fn groups_of_single_tasks_are_made_where_they_are_needed() {
    let make = |n, chunk| groups(n, chunk).singly();
    stream_within("groups, singly", (1, 16), make, (0.02, 1.1));
}

#[test]
fn reductions_of_single_tasks_move_nothing_to_speak_of() {
    stream("map-sum, singly", 1, 16, |n, chunk| map_sum(n, chunk).singly(), 0.005);
}

/// Here far stretches would wait for the first one from end to end.
#[test]
fn what_goes_on_from_one_end_to_the_other_does_not_fill_the_memory() {
    stream_within("running-sum", (1, 16), running_sum, (0.35, 1.1));
}

//! What the scheduler's choice of workers is worth for graphs that stream through memory: how much travels
//! between the workers, and how much they hold. Owns the shapes and the bounds; the clusters are in `model`.

mod model;

use hpcdag::base::ids::FamilyIx;
use hpcdag::graph::layer::{Border, Csr, Edge, Layer, Pattern, Size};
use model::{Outcome, Setting, run};
use std::sync::Arc;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// A part of a chunk in a reduction.
const PART: u64 = 4096;

/// A graph as it grows.
#[derive(Default)]
struct Shape {
    layers: Vec<(Layer, u64)>,
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
        self.layers.len() as u32 - 1
    }

    /// Reduces a family to one small result.
    fn reduce(&mut self, family: u32, n: u32) -> u32 {
        let part = self.add(n, PART, &[(family, Pattern::Each)]);
        let tree = self.add(n, PART, &[(part, Pattern::Tree { fan_in: 4 })]);
        self.add(1, PART, &[(tree, Pattern::All)])
    }

    fn on(self, workers: u32, threads: u32, limit: u64) -> Setting {
        let last = self.layers.len() as u32 - 1;
        Setting {
            workers,
            threads,
            target: Some(limit * 6 / 10),
            layers: self.layers,
            outputs: vec![last],
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

fn show(name: &str, setting: &Setting) -> Outcome {
    let o = run(setting);
    let target = setting.target.unwrap_or(1) as f64;
    println!(
        "{name}: peak {:.2} of target, moved {:.3} of made, beyond {} MiB, {:.2} s",
        o.peak as f64 / target,
        o.moved as f64 / o.made as f64,
        o.beyond / MIB,
        o.seconds
    );
    o
}

#[test]
fn streams_stay_where_they_are_and_below_the_target() {
    let limit = 512 * MIB;
    for (workers, threads) in [(2, 1), (4, 1), (2, 4), (16, 2)] {
        let cluster = limit * u64::from(workers * threads);
        let n = |arrays: u64, chunk: u64| (8 * cluster / arrays / chunk) as u32;
        let on = |shape: Shape| shape.on(workers, threads, limit * u64::from(threads));
        println!("{workers} workers of {threads}");
        if std::env::var_os("DEBUG_MOVES").is_some() {
            show("anomaly", &on(anomaly((4 * cluster / (32 * MIB)) as u32, 32 * MIB)));
            return;
        }
        show("side-chain", &on(side_chain(n(2, 32 * MIB), 32 * MIB)));
        show("double-diff", &on(double_diff(n(2, 16 * MIB), 4, 16 * MIB)));
        show("map-sum", &on(map_sum(n(1, 32 * MIB), 32 * MIB)));
        show("groups", &on(groups(n(1, 32 * MIB), 32 * MIB)));
        show("anomaly", &on(anomaly((4 * cluster / (32 * MIB)) as u32, 32 * MIB)));
    }
    let _ = GIB;
}

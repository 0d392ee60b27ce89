//! Small versions of the graphs by which task schedulers are compared (merge, tree, xarray, bag, numpy,
//! groupby, join, vectorizer, wordbag), and graphs of individual tasks. Owns their edges only.

use crate::graphs::{Graph, edge, layer};
use hpcdag::graph::layer::{Border, Csr, Layer, Pattern, Size};
use std::sync::Arc;

fn roots(n: u32) -> Layer {
    layer(Size::Fixed(n), vec![])
}

fn follows(producer: u32, pattern: Pattern) -> Layer {
    layer(Size::Follows, vec![edge(producer, pattern)])
}

/// Element i depends on the elements listed.
fn listed(producer: u32, rows: &[Vec<u32>]) -> Layer {
    let (mut offsets, mut targets) = (vec![0], Vec::new());
    for row in rows {
        targets.extend(row);
        offsets.push(targets.len() as u32);
    }
    let csr = Pattern::Explicit(Arc::new(Csr { offsets, targets }));
    layer(Size::Fixed(rows.len() as u32), vec![edge(producer, csr)])
}

/// One task that joins all others.
pub fn merge(n: u32) -> Graph {
    Graph::new(vec![roots(n), layer(Size::Fixed(1), vec![edge(0, Pattern::All)])], &[1])
}

/// A binary reduction.
pub fn tree(leaves: u32) -> Graph {
    Graph::new(vec![roots(leaves), follows(0, Pattern::Tree { fan_in: 2 })], &[1])
}

/// Chunks, their mean by group, and each chunk less its group's mean.
pub fn xarray(groups: u32, each: u32) -> Graph {
    let n = groups * each;
    let means: Vec<Vec<u32>> = (0..n).map(|i| vec![i / each]).collect();
    let mut anomaly = listed(1, &means);
    anomaly.edges.push(edge(0, Pattern::Each));
    let group = Pattern::Group { size: each };
    let layers = vec![roots(n), follows(0, group), anomaly, follows(2, Pattern::Tree { fan_in: 4 })];
    Graph::new(layers, &[3])
}

/// Every part of one bag with every part of another, then a sum.
pub fn bag(n: u32) -> Graph {
    let pairs = |of: fn(u32, u32) -> u32| (0..n * n).map(|k| vec![of(k, n)]).collect::<Vec<_>>();
    let mut product = listed(0, &pairs(|k, n| k / n));
    product.edges.extend(listed(1, &pairs(|k, n| k % n)).edges);
    Graph::new(vec![roots(n), roots(n), product, follows(2, Pattern::Tree { fan_in: 8 })], &[3])
}

/// A matrix of chunks plus its transpose, then a sum.
pub fn numpy(n: u32) -> Graph {
    let across: Vec<Vec<u32>> = (0..n * n).map(|k| vec![k % n * n + k / n]).collect();
    let mut sum = listed(0, &across);
    sum.edges.push(edge(0, Pattern::Each));
    Graph::new(vec![roots(n * n), sum, follows(1, Pattern::Tree { fan_in: 3 })], &[2])
}

/// Parts, each split; a tree for each split of all parts; a step on each tree's end.
pub fn groupby(parts: u32, splits: u32) -> Graph {
    let split: Vec<Vec<u32>> = (0..parts * splits).map(|k| vec![k / splits]).collect();
    let gather: Vec<Vec<u32>> = (0..splits).map(|s| (0..parts).map(|p| p * splits + s).collect()).collect();
    Graph::new(vec![roots(parts), listed(0, &split), listed(1, &gather), follows(2, Pattern::Each)], &[3])
}

/// Two sides, each shuffled, joined part by part.
pub fn join(parts: u32) -> Graph {
    let split: Vec<Vec<u32>> = (0..parts * parts).map(|k| vec![k / parts]).collect();
    let gather: Vec<Vec<u32>> = (0..parts).map(|s| (0..parts).map(|p| p * parts + s).collect()).collect();
    let mut joined = follows(4, Pattern::Each);
    joined.edges.push(edge(5, Pattern::Each));
    let layers = vec![
        roots(parts),
        roots(parts),
        listed(0, &split),
        listed(1, &split),
        listed(2, &gather),
        listed(3, &gather),
        joined,
    ];
    Graph::new(layers, &[6])
}

/// Independent pipelines of three steps.
pub fn wordbag(n: u32) -> Graph {
    Graph::new(vec![roots(n), follows(0, Pattern::Each), follows(1, Pattern::Each)], &[2])
}

/// One task, many that need it, one that needs those, several times over.
pub fn diamonds(width: u32, length: u32) -> Graph {
    let mut layers = vec![roots(1)];
    for k in 0..length {
        layers.push(layer(Size::Fixed(width), vec![edge(2 * k, Pattern::All)]));
        layers.push(layer(Size::Fixed(1), vec![edge(2 * k + 1, Pattern::All)]));
    }
    Graph::new(layers, &[2 * length])
}

/// Tasks of their own, each with up to four of the ones before it as inputs.
pub fn individuals(rng: &mut fastrand::Rng, n: u32) -> Graph {
    let mut layers: Vec<Layer> = Vec::new();
    for k in 0..n {
        let inputs = rng.u32(0..5).min(k);
        let mut producers: Vec<u32> = (0..inputs).map(|_| rng.u32(k.saturating_sub(12)..k)).collect();
        producers.sort_unstable();
        producers.dedup();
        let window = Pattern::Window { low: 0, high: 0, edge: Border::Clip };
        let kind =
            |rng: &mut fastrand::Rng| [Pattern::Each, Pattern::All, window.clone()][rng.usize(0..3)].clone();
        let mut edges = Vec::new();
        for producer in producers {
            let mut one = edge(producer, kind(rng));
            one.data = rng.u32(0..6) > 0;
            edges.push(one);
        }
        layers.push(layer(Size::Fixed(1), edges));
    }
    let outputs: Vec<u32> = (0..n).filter(|k| k + 1 == n || rng.u32(0..8) == 0).collect();
    Graph::new(layers, &outputs)
}

/// Any of these.
pub fn any(rng: &mut fastrand::Rng) -> Graph {
    match rng.u32(0..12) {
        0 => merge(rng.u32(1..40)),
        1 => tree(rng.u32(1..32)),
        2 => xarray(rng.u32(1..5), rng.u32(1..5)),
        3 => bag(rng.u32(1..6)),
        4 => numpy(rng.u32(1..6)),
        5 => groupby(rng.u32(1..6), rng.u32(1..5)),
        6 => join(rng.u32(1..5)),
        7 => crate::graphs::independent(rng.u32(1..30)),
        8 => wordbag(rng.u32(1..16)),
        9 => diamonds(rng.u32(1..8), rng.u32(1..5)),
        _ => {
            let n = rng.u32(1..50);
            individuals(rng, n)
        }
    }
}

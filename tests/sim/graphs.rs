//! Graphs for the simulation, and their evaluation one task after the other: the reference for every
//! result.

use hpcdag::base::ids::FamilyIx;
use hpcdag::graph::layer::{Border, Csr, Edge, Layer, Pattern, SLOT, Shape, Size};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A graph: layers, and which of them are outputs.
#[derive(Clone)]
pub struct Graph {
    pub layers: Vec<Layer>,
    pub outputs: Vec<FamilyIx>,
    /// Families behind groups by bytes: their results say what they are made of, not how it was grouped.
    pub flat: Vec<bool>,
}

/// What a result is made of: a hash under which joining results is associative.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Value {
    hash: u64,
    power: u64,
}

const BASE: u64 = 0x9e37_79b9_7f4a_7c15;

pub fn mix(mut x: u64) -> u64 {
    x ^= x >> 33;
    x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^= x >> 29;
    x = x.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 32)
}

impl Value {
    pub fn nothing() -> Value {
        Value { hash: 0, power: 1 }
    }

    pub fn of(x: u64) -> Value {
        Value { hash: mix(x) | 1, power: BASE }
    }

    pub fn then(self, next: Value) -> Value {
        Value {
            hash: self.hash.wrapping_mul(next.power).wrapping_add(next.hash),
            power: self.power.wrapping_mul(next.power),
        }
    }
}

/// Bytes of an element's result; about a third is empty where it matters.
pub fn size_of(family: u32, element: u32) -> u64 {
    let x = mix(u64::from(family) << 32 | u64::from(element));
    if x.is_multiple_of(3) { 0 } else { x % 5000 }
}

impl Graph {
    /// About how many tasks it has.
    pub fn tasks(&self) -> u32 {
        let mut shapes: Vec<Shape> = Vec::new();
        for layer in &self.layers {
            let grows = layer.edges.iter().find(|e| matches!(e.pattern, Pattern::GroupBytes { .. }));
            let shape = match grows {
                Some(e) => Shape { total: shapes[e.producer.index()].exports(), first_export: 0 },
                None => self.shape(layer, &shapes),
            };
            shapes.push(shape);
        }
        shapes.iter().map(|s| s.total).sum()
    }

    /// Elements of each family that cannot be had because some fail for ever; `None` if that is not a matter
    /// of the graph alone.
    pub fn doomed(&self, hopeless: &BTreeSet<(u32, u32)>) -> Option<Vec<Vec<bool>>> {
        if self.flat.contains(&true) {
            return None;
        }
        let (mut doomed, mut shapes): (Vec<Vec<bool>>, Vec<Shape>) = (Vec::new(), Vec::new());
        for (f, layer) in self.layers.iter().enumerate() {
            let shape = self.shape(layer, &shapes);
            let mut family = Vec::new();
            for i in 0..shape.total {
                let mut bad = hopeless.contains(&(f as u32, i));
                for edge in &layer.edges {
                    let p = edge.producer.index();
                    let first = shapes[p].first_export as usize;
                    if let Pattern::Explicit(csr) = &edge.pattern {
                        bad |= csr.row(i).iter().any(|&j| doomed[p][first + j as usize]);
                        continue;
                    }
                    for span in edge.pattern.inputs(i, shapes[p].exports()) {
                        let (start, end) = (span.range.start as usize, span.range.end as usize);
                        let of = if span.own {
                            &family[start..end]
                        } else {
                            &doomed[p][first + start..first + end]
                        };
                        bad |= of.contains(&true);
                    }
                }
                family.push(bad);
            }
            doomed.push(family);
            shapes.push(shape);
        }
        Some(doomed)
    }

    pub fn new(layers: Vec<Layer>, outputs: &[u32]) -> Graph {
        let mut flat: Vec<bool> = Vec::new();
        for layer in &layers {
            let behind = layer
                .edges
                .iter()
                .any(|e| matches!(e.pattern, Pattern::GroupBytes { .. }) || flat[e.producer.index()]);
            flat.push(behind);
        }
        Graph { layers, outputs: outputs.iter().map(|&f| FamilyIx(f)).collect(), flat }
    }

    /// The result of one element from its inputs, in order.
    pub fn result(&self, family: u32, element: u32, inputs: impl Iterator<Item = Value>) -> Value {
        let made_of = inputs.fold(Value::nothing(), Value::then);
        if self.flat[family as usize] {
            return made_of;
        }
        Value::of(mix(made_of.hash ^ made_of.power) ^ (u64::from(family) << 40) ^ u64::from(element))
    }

    /// Results of all families, computed one after the other. Of a family behind groups by bytes all results
    /// joined.
    pub fn evaluate(&self) -> Vec<Vec<Value>> {
        let mut results: Vec<Vec<Value>> = Vec::new();
        let mut shapes: Vec<Shape> = Vec::new();
        for (f, layer) in self.layers.iter().enumerate() {
            if self.flat[f] {
                let mut joined = Value::nothing();
                for edge in layer.edges.iter().filter(|e| e.data) {
                    let grouped = matches!(edge.pattern, Pattern::GroupBytes { .. });
                    for (j, value) in results[edge.producer.index()].iter().enumerate() {
                        if !grouped || size_of(edge.producer.0, j as u32) > 0 {
                            joined = joined.then(*value);
                        }
                    }
                }
                results.push(vec![joined]);
                shapes.push(Shape { total: 1, first_export: 0 });
                continue;
            }
            let shape = self.shape(layer, &shapes);
            let mut family: Vec<Value> = Vec::new();
            for i in 0..shape.total {
                let mut inputs = Vec::new();
                for edge in layer.edges.iter().filter(|e| e.data) {
                    let p = edge.producer.index();
                    let first = shapes[p].first_export as usize;
                    if let Pattern::Explicit(csr) = &edge.pattern {
                        inputs.extend(csr.row(i).iter().map(|&j| results[p][first + j as usize]));
                        continue;
                    }
                    for span in edge.pattern.inputs(i, shapes[p].exports()) {
                        let range = span.range.start as usize..span.range.end as usize;
                        if span.own {
                            inputs.extend_from_slice(&family[range]);
                        } else {
                            inputs.extend_from_slice(&results[p][first + range.start..first + range.end]);
                        }
                    }
                }
                family.push(self.result(f as u32, i, inputs.into_iter()));
            }
            results.push(family);
            shapes.push(shape);
        }
        results
    }

    fn shape(&self, layer: &Layer, shapes: &[Shape]) -> Shape {
        let exports = |e: &Edge| shapes[e.producer.index()].exports();
        match layer.size {
            Size::Fixed(total) => {
                let tree = layer.edges.iter().find(|e| matches!(e.pattern, Pattern::Tree { .. }));
                let shape = tree.and_then(|e| e.pattern.shape(exports(e)));
                shape.unwrap_or(Shape { total, first_export: 0 })
            }
            Size::Follows => {
                layer.edges.iter().find_map(|e| e.pattern.shape(exports(e))).expect("a shaping edge")
            }
        }
    }
}

pub fn edge(producer: u32, pattern: Pattern) -> Edge {
    Edge { producer: FamilyIx(producer), pattern, data: true }
}

pub fn layer(size: Size, edges: Vec<Edge>) -> Layer {
    Layer { size, edges, retries: 1000, ..Layer::default() }
}

pub fn independent(n: u32) -> Graph {
    Graph::new(vec![layer(Size::Fixed(n), vec![])], &[0])
}

pub fn chain(width: u32, length: u32) -> Graph {
    let mut layers = vec![layer(Size::Fixed(width), vec![])];
    for f in 0..length {
        layers.push(layer(Size::Fixed(width), vec![edge(f, Pattern::Each)]));
    }
    Graph::new(layers, &[length])
}

pub fn stencil(width: u32, length: u32) -> Graph {
    let mut layers = vec![layer(Size::Fixed(width), vec![])];
    for f in 0..length {
        let window = Pattern::Window { low: -1, high: 1, edge: Border::Wrap };
        layers.push(layer(Size::Fixed(width), vec![edge(f, window)]));
    }
    Graph::new(layers, &[length])
}

/// Loads, each combined with its neighbour and then with itself, then summed in a tree.
pub fn side_chain(n: u32) -> Graph {
    let window = Pattern::Window { low: 0, high: 1, edge: Border::Clip };
    let layers = vec![
        layer(Size::Fixed(n), vec![]),
        layer(Size::Fixed(n), vec![edge(0, window)]),
        layer(Size::Fixed(n), vec![edge(1, Pattern::Each), edge(0, Pattern::Each)]),
        layer(Size::Follows, vec![edge(2, Pattern::Tree { fan_in: 8 })]),
    ];
    Graph::new(layers, &[3])
}

/// Loads that are cut into parts, which are put together in other groups; and loads and groups in the end.
/// All are tasks of their own with results of so many bytes, as they say.
pub fn regrouped(rng: &mut fastrand::Rng, n: u32, size: u64) -> Graph {
    let mut layers: Vec<Layer> = Vec::new();
    let mut add = |from: &[u32]| {
        let edges = from.iter().map(|f| edge(*f, Pattern::All)).collect();
        layers.push(Layer { output_size: Some(size), ..layer(Size::Fixed(1), edges) });
        layers.len() as u32 - 1
    };
    let loads: Vec<u32> = (0..n).map(|_| add(&[])).collect();
    let mut parts: Vec<u32> = loads.iter().flat_map(|load| [*load; 3]).map(|load| add(&[load])).collect();
    rng.shuffle(&mut parts);
    let groups: Vec<u32> = parts.chunks(3).map(&mut add).collect();
    let pairs: Vec<u32> = groups.chunks(2).map(&mut add).collect();
    let last = add(&[loads, pairs].concat());
    Graph::new(layers, &[last])
}

/// Loads, a step on each, a sum in a tree.
pub fn map_sum(n: u32) -> Graph {
    let layers = vec![
        layer(Size::Fixed(n), vec![]),
        layer(Size::Fixed(n), vec![edge(0, Pattern::Each)]),
        layer(Size::Follows, vec![edge(1, Pattern::Tree { fan_in: 4 })]),
    ];
    Graph::new(layers, &[2])
}

pub fn sparse_groups(n: u32, bytes: u64) -> Graph {
    let layers = vec![
        layer(Size::Fixed(n), vec![]),
        layer(Size::Follows, vec![edge(0, Pattern::GroupBytes { bytes })]),
        layer(Size::Follows, vec![edge(1, Pattern::Each)]),
        layer(Size::Fixed(1), vec![edge(2, Pattern::All)]),
    ];
    Graph::new(layers, &[3])
}

/// A graph of up to seven families with every kind of edge between them.
pub fn random(rng: &mut fastrand::Rng) -> Graph {
    let mut layers = vec![layer(Size::Fixed(rng.u32(1..16)), vec![])];
    let mut shapes = vec![Shape { total: size(&layers[0]), first_export: 0 }];
    for f in 1..rng.u32(2..8) {
        let producer = rng.u32(0..f);
        let n = shapes[producer as usize].exports();
        let first = match rng.u32(0..8) {
            0 => layer(Size::Fixed(rng.u32(1..12)), vec![]),
            1 => layer(Size::Fixed(rng.u32(1..8)), vec![edge(producer, Pattern::All)]),
            2 => layer(Size::Follows, vec![edge(producer, Pattern::Tree { fan_in: rng.u32(2..5) })]),
            3 => layer(Size::Follows, vec![edge(producer, Pattern::Group { size: rng.u32(1..5) })]),
            4 => {
                let border = [Border::Clip, Border::Wrap, Border::Drop][rng.usize(0..3)];
                let low = rng.i32(-2..1);
                let pattern = Pattern::Window { low, high: rng.i32(low.max(0)..3), edge: border };
                layer(Size::Follows, vec![edge(producer, pattern)])
            }
            5 => explicit(rng, producer, n),
            _ => layer(Size::Follows, vec![edge(producer, Pattern::Each)]),
        };
        let mut next = first;
        // A second dependency, on all of some other family, with or without data.
        if rng.u32(0..3) == 0 {
            let other = rng.u32(0..f);
            next.edges.push(Edge { producer: FamilyIx(other), pattern: Pattern::All, data: rng.bool() });
        }
        if rng.u32(0..4) == 0 {
            next.slots = [SLOT / 2, SLOT / 4, SLOT * 2][rng.usize(0..3)];
        }
        next.priority = rng.i32(-1..2);
        shapes.push(Graph::new(vec![], &[]).shape(&next, &shapes));
        layers.push(next);
    }
    let last = layers.len() as u32 - 1;
    let other = rng.u32(0..last + 1);
    let outputs = if other == last { vec![last] } else { vec![other, last] };
    Graph::new(layers, &outputs)
}

/// The same with families of which each element takes two or three workers.
pub fn random_wide(rng: &mut fastrand::Rng) -> Graph {
    let mut graph = random(rng);
    let sure = rng.usize(0..graph.layers.len());
    for (f, layer) in graph.layers.iter_mut().enumerate() {
        if f == sure || rng.u32(0..3) == 0 {
            layer.nodes = rng.u32(2..4);
        }
    }
    graph
}

fn explicit(rng: &mut fastrand::Rng, producer: u32, n: u32) -> Layer {
    let rows = rng.u32(1..10);
    let (mut offsets, mut targets) = (vec![0], Vec::new());
    for _ in 0..rows {
        let mut row: Vec<u32> = (0..n).filter(|_| rng.u32(0..3) == 0).collect();
        rng.shuffle(&mut row);
        targets.extend(row);
        offsets.push(targets.len() as u32);
    }
    let csr = Pattern::Explicit(Arc::new(Csr { offsets, targets }));
    layer(Size::Fixed(rows), vec![edge(producer, csr)])
}

fn size(layer: &Layer) -> u32 {
    match layer.size {
        Size::Fixed(n) => n,
        Size::Follows => 0,
    }
}

/// Any of the graphs there are.
pub fn any(rng: &mut fastrand::Rng) -> Graph {
    match rng.u32(0..12) {
        2..=5 => crate::shapes::any(rng),
        0 => chain(rng.u32(1..10), rng.u32(1..5)),
        1 => stencil(rng.u32(2..10), rng.u32(1..5)),
        _ => random(rng),
    }
}

/// Two tasks, and one that joins their results.
pub fn all_of_two() -> Graph {
    Graph::new(vec![layer(Size::Fixed(2), vec![]), layer(Size::Fixed(1), vec![edge(0, Pattern::All)])], &[1])
}

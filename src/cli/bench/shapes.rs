//! The graphs of the benchmarks of speed: four shapes, as families with patterns or as tasks with keys of
//! their own. Owns how many tasks a shape has; what the tasks do is the caller's.

use crate::base::error::{Error, Kind, Result};
use crate::base::ids::FamilyIx;
use crate::cli::args::{GraphOptions, GraphShape, Keys};
use crate::graph::items::Items;
use crate::graph::layer::{Border, Edge, Layer, Pattern, Size};
use crate::graph::spec::{Action, Input, Stdin, TaskSpec};
use crate::graph::{Family, Graph};
use serde_json::Value;
use std::collections::BTreeMap;

/// What every task of a graph does.
#[derive(Clone, Debug)]
pub struct Work {
    /// A native function.
    pub function: &'static str,
    /// Its arguments.
    pub args: Value,
}

impl Work {
    /// Nothing.
    pub fn none() -> Work {
        Work { function: "noop", args: Value::Null }
    }
}

/// A graph of about as many tasks as are wanted.
///
/// # Errors
/// `Usage` when the shape cannot have so few or so many.
pub fn graph(options: &GraphOptions, work: &Work) -> Result<Graph> {
    let mut graph = Graph { name: "bench".into(), ..Graph::default() };
    for (name, layer) in families(options) {
        add(&mut graph, name, layer, work);
    }
    if options.keys == Keys::Individual {
        graph = individual(&graph, work);
    }
    graph.validate().map_err(|e| Error::new(Kind::Usage, format!("cannot make such a graph: {e}")))?;
    Ok(graph)
}

/// How many tasks a graph has.
pub fn count(graph: &Graph) -> u64 {
    graph.expanded_sizes().into_iter().flatten().sum()
}

/// The words for a graph's shape and keys in figures.
pub fn name(value: impl clap::ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned())
}

fn families(options: &GraphOptions) -> Vec<(String, Layer)> {
    let n = options.tasks;
    let on = |producer: u32, pattern| vec![Edge { producer: FamilyIx(producer), pattern, data: true }];
    let layer = |size, edges| Layer { size: Size::Fixed(size), edges, ..Layer::default() };
    match options.shape {
        GraphShape::Independent => vec![("task".into(), layer(n, Vec::new()))],
        GraphShape::Stencil => {
            let width = options.width.unwrap_or(n.isqrt()).max(3);
            let steps = n.div_ceil(width).max(1);
            let window = Pattern::Window { low: -1, high: 1, edge: Border::Wrap };
            let step = |k: u32| match k {
                0 => ("step0".into(), layer(width, Vec::new())),
                _ => (format!("step{k}"), layer(width, on(k - 1, window.clone()))),
            };
            (0..steps).map(step).collect()
        }
        GraphShape::Tree => {
            let leaves = n.div_ceil(2);
            let pattern = Pattern::Tree { fan_in: 2 };
            let inner = pattern.shape(leaves).map_or(1, |s| s.total);
            vec![("leaf".into(), layer(leaves, Vec::new())), ("tree".into(), layer(inner, on(0, pattern)))]
        }
        GraphShape::Merge => {
            let leaves = n.saturating_sub(1).max(1);
            vec![("leaf".into(), layer(leaves, Vec::new())), ("merge".into(), layer(1, on(0, Pattern::All)))]
        }
    }
}

/// Adds a family as a graph file's `[task.NAME]` would become one.
fn add(graph: &mut Graph, name: String, layer: Layer, work: &Work) {
    let all = layer.edges.iter().all(|e| e.pattern == Pattern::All);
    let items = match layer.edges.is_empty() {
        true => Items::Range { start: 0, step: 1 },
        false if all => Items::Single,
        false => Items::Index,
    };
    let producers = layer.edges.iter().filter_map(|e| graph.families.get(e.producer.index()));
    let input = |f: &Family| Input { producer: f.spec.name.clone(), materialize: false, file_name: None };
    let inputs = producers.map(input).collect();
    graph.families.push(Family { layer, spec: spec(name, inputs, work), items });
}

/// What elements execute.
pub(super) fn spec(name: String, inputs: Vec<Input>, work: &Work) -> TaskSpec {
    TaskSpec {
        name,
        action: Action::Native { function: work.function.into(), args: work.args.clone() },
        inputs,
        outputs: Vec::new(),
        stdin: Stdin::Auto,
        env: BTreeMap::new(),
        setup: None,
        cwd: None,
        base_dir: "/".into(),
        umask: 0o022,
        ok_exit: vec![0],
        max_output: None,
        time_limit_ms: None,
        memory: Vec::new(),
        nthreads: 1,
        shell: Vec::new(),
        nodes: None,
        gpus: 0,
        params: BTreeMap::new(),
        kept: None,
        checkpoint: None,
    }
}

/// The same graph with each element a task of its own that names what it depends on.
fn individual(families: &Graph, work: &Work) -> Graph {
    let mut graph = Graph { name: families.name.clone(), ..Graph::default() };
    let mut firsts = Vec::new();
    for family in &families.families {
        let first = graph.families.len() as u32;
        let total = family.shape().map_or(0, |s| s.total);
        for i in 0..total {
            let mut producers = Vec::new();
            for edge in &family.layer.edges {
                let producer = &families.families[edge.producer.index()];
                let shape = producer.shape().unwrap_or_default();
                let start = firsts[edge.producer.index()] + shape.first_export;
                for span in edge.pattern.inputs(i, shape.exports()) {
                    let from = if span.own { first } else { start };
                    producers.extend(span.range.map(|j| FamilyIx(from + j)));
                }
            }
            let edge = |&producer: &FamilyIx| Edge { producer, pattern: Pattern::All, data: true };
            let layer = Layer { edges: producers.iter().map(edge).collect(), ..Layer::default() };
            let input =
                |&p: &FamilyIx| Input { producer: format!("t{}", p.0), materialize: false, file_name: None };
            let inputs = producers.iter().map(input).collect();
            let spec = spec(format!("t{}", graph.families.len()), inputs, work);
            graph.families.push(Family { layer, spec, items: Items::Single });
        }
        firsts.push(first);
    }
    graph
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(shape: GraphShape, keys: Keys, tasks: u32) -> Graph {
        graph(&GraphOptions { tasks, shape, keys, width: None }, &Work::none()).unwrap()
    }

    #[test]
    fn shapes_have_about_as_many_tasks_as_are_wanted() {
        use GraphShape::*;
        for shape in [Independent, Stencil, Tree, Merge] {
            for tasks in [9, 100, 1000] {
                let family = made(shape, Keys::Family, tasks);
                let n = count(&family);
                assert!(n.abs_diff(tasks.into()) <= u64::from(tasks).isqrt(), "{shape:?} {tasks}: {n}");
                assert_eq!(count(&made(shape, Keys::Individual, tasks)), n, "{shape:?}");
            }
        }
    }

    #[test]
    fn tasks_of_their_own_depend_on_the_same() {
        let graph = made(GraphShape::Stencil, Keys::Individual, 16);
        let inputs =
            |i: usize| -> Vec<u32> { graph.families[i].layer.edges.iter().map(|e| e.producer.0).collect() };
        assert!(inputs(3).is_empty());
        let mut ring = inputs(4);
        ring.sort_unstable();
        assert_eq!(ring, [0, 1, 3]);
        assert_eq!(inputs(6), [1, 2, 3]);
        let graph = made(GraphShape::Tree, Keys::Individual, 15);
        let last: Vec<u32> = graph.families[14].layer.edges.iter().map(|e| e.producer.0).collect();
        assert_eq!(last, [12, 13]);
    }
}

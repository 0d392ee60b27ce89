//! What a graph expands to, for `submit --check` and for the golden tests of `docs/graph-file.md`. Owns the
//! words; computes nothing that scheduling needs.

use super::families::Graph;
use super::items::{Item, Items};
use super::layer::{Edge, Pattern, Shape, Span};
use super::wire::pattern_name;
use crate::base::ids::FamilyIx;
use serde_json::{Value, json};

/// A line for each family (size, first and last key, edges), then the total and the outputs.
pub fn check_report(graph: &Graph) -> String {
    let rows: Vec<[String; 4]> = (0..graph.families.len() as u32).map(|f| row(graph, FamilyIx(f))).collect();
    let width = |column: usize| rows.iter().map(|r| r[column].chars().count()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2)];
    let mut out = String::new();
    for [name, size, keys, edges] in &rows {
        let line = format!(
            "{name:<w0$}  {size:>w1$}  {keys:<w2$}  {edges}",
            w0 = widths[0],
            w1 = widths[1],
            w2 = widths[2]
        );
        out.push_str(line.trim_end());
        out.push('\n');
    }
    let total = known_total(graph);
    let open = graph.shapes().iter().filter(|s| s.is_none()).count();
    out.push_str(&format!("total: {}", tasks(total)));
    if open > 0 {
        let families = if open == 1 { "a family" } else { "families" };
        out.push_str(&format!(", and {families} whose size follows while running ({open})"));
    }
    out.push('\n');
    for output in &graph.outputs {
        let name = graph.families.get(output.family.index()).map_or("?", |f| f.spec.name.as_str());
        let part = output.part.as_ref().map_or(String::new(), |p| format!(".{p}"));
        out.push_str(&format!("output: {name}{part} -> {}\n", output.path));
    }
    out
}

/// The same for programs: `name`, `tasks` (known ones), `families` with `name`, `tasks` (null where it
/// follows), `first`, `last`, `edges`; `outputs`.
pub fn check_json(graph: &Graph) -> Value {
    let family = |f: u32| {
        let ix = FamilyIx(f);
        let family = &graph.families[ix.index()];
        let shape = family.shape().filter(|s| s.total > 0);
        let edges: Vec<Value> = family
            .layer
            .edges
            .iter()
            .map(|e| {
                let producer = producer_name(graph, e);
                json!({ "producer": producer, "pattern": pattern_name(&e.pattern), "data": e.data })
            })
            .collect();
        json!({
            "name": family.spec.name,
            "tasks": family.shape().map(|s| s.total),
            "first": shape.map(|s| graph.key(ix, 0, s)),
            "last": shape.map(|s| graph.key(ix, s.total - 1, s)),
            "edges": edges,
        })
    };
    let families: Vec<Value> = (0..graph.families.len() as u32).map(family).collect();
    let output = |o: &super::GraphOutput| {
        let task = graph.families.get(o.family.index()).map(|f| f.spec.name.clone());
        json!({ "task": task, "output": o.part, "path": o.path, "skip-empty": o.skip_empty })
    };
    let outputs: Vec<Value> = graph.outputs.iter().map(output).collect();
    json!({ "name": graph.name, "tasks": known_total(graph), "families": families, "outputs": outputs })
}

/// A line for each task: its key, its value where the key does not show it, and what it depends on. Ends
/// after `max` lines with a line that counts the rest.
pub fn expansion(graph: &Graph, max: usize) -> String {
    let shapes = graph.shapes();
    let mut lines = Vec::new();
    let mut left_out = 0u64;
    for f in 0..graph.families.len() as u32 {
        let ix = FamilyIx(f);
        let family = &graph.families[ix.index()];
        let Some(shape) = shapes[ix.index()] else {
            let from: Vec<String> = family
                .layer
                .edges
                .iter()
                .map(|e| format!("{} ({})", producer_name(graph, e), pattern_name(&e.pattern)))
                .collect();
            lines.push(format!("{}[?] <- {}", family.spec.name, from.join(", ")));
            continue;
        };
        let shown = shape.total.min(u32::try_from(max.saturating_sub(lines.len())).unwrap_or(u32::MAX));
        left_out += u64::from(shape.total - shown);
        lines.extend((0..shown).map(|i| line(graph, ix, i, shape, &shapes)));
    }
    if left_out > 0 {
        lines.push(format!("and {left_out} more"));
    }
    lines.iter().map(|l| format!("{l}\n")).collect()
}

fn line(graph: &Graph, ix: FamilyIx, element: u32, shape: Shape, shapes: &[Option<Shape>]) -> String {
    let mut out = graph.key(ix, element, shape);
    match (graph.items(ix), graph.item(ix, element)) {
        (Items::Values(_), Item::Text(text)) => out.push_str(&format!(" ({text})")),
        (Items::Blocks(_), Item::Block(path, offset, len)) => {
            out.push_str(&format!(" ({path} from {offset}, {len} bytes)"));
        }
        _ => {}
    }
    for (arrow, data) in [(" <-", true), (" after", false)] {
        let mut keys = Vec::new();
        for edge in graph.families[ix.index()].layer.edges.iter().filter(|e| e.data == data) {
            keys.extend(inputs(graph, ix, element, shape, edge, shapes));
        }
        if !keys.is_empty() {
            out.push_str(&format!("{arrow} {}", keys.join(" ")));
        }
    }
    out
}

fn inputs(
    graph: &Graph,
    ix: FamilyIx,
    element: u32,
    shape: Shape,
    edge: &Edge,
    shapes: &[Option<Shape>],
) -> Vec<String> {
    let Some(producer) = shapes[edge.producer.index()] else {
        return vec![format!("{}[?]", producer_name(graph, edge))];
    };
    if let Pattern::Explicit(csr) = &edge.pattern {
        return csr
            .row(element)
            .iter()
            .map(|&j| graph.key(edge.producer, producer.first_export + j, producer))
            .collect();
    }
    let span_keys = |span: Span| {
        let (family, first, of) = match span.own {
            true => (ix, 0, shape),
            false => (edge.producer, producer.first_export, producer),
        };
        let key = |j: u32| graph.key(family, first + j, of);
        match span.range.len() {
            0..=4 => span.range.map(key).collect(),
            _ => vec![format!("{} .. {}", key(span.range.start), key(span.range.end - 1))],
        }
    };
    edge.pattern.inputs(element, producer.exports()).into_iter().flat_map(span_keys).collect()
}

fn row(graph: &Graph, ix: FamilyIx) -> [String; 4] {
    let family = &graph.families[ix.index()];
    let (size, keys) = match family.shape() {
        None => ("follows".to_string(), format!("{}[?]", family.spec.name)),
        Some(s) if s.total == 0 => ("0 tasks".to_string(), "-".to_string()),
        Some(s) if s.total == 1 => ("1 task".to_string(), graph.key(ix, 0, s)),
        Some(s) => {
            let (first, last) = (graph.key(ix, 0, s), graph.key(ix, s.total - 1, s));
            (tasks(u64::from(s.total)), format!("{first} .. {last}"))
        }
    };
    let list = |data: bool| -> Vec<String> {
        let edges = family.layer.edges.iter().filter(|e| e.data == data);
        edges.map(|e| format!("{} ({})", producer_name(graph, e), pattern_name(&e.pattern))).collect()
    };
    let (from, after) = (list(true), list(false));
    let mut edges = Vec::new();
    if !from.is_empty() {
        edges.push(format!("from {}", from.join(", ")));
    }
    if !after.is_empty() {
        edges.push(format!("after {}", after.join(", ")));
    }
    [family.spec.name.clone(), size, keys, edges.join("; ")]
}

fn producer_name<'g>(graph: &'g Graph, edge: &Edge) -> &'g str {
    graph.families.get(edge.producer.index()).map_or("?", |f| f.spec.name.as_str())
}

fn known_total(graph: &Graph) -> u64 {
    graph.expanded_sizes().into_iter().flatten().sum()
}

fn tasks(n: u64) -> String {
    if n == 1 { "1 task".to_string() } else { format!("{n} tasks") }
}

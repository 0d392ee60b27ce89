//! The graphs of `bench memory`: their shapes, and the least memory that each needs. All of them consist of
//! native tasks that really fill their bytes and read all of their inputs, and end in one small result that
//! depends on every byte.

use crate::base::error::{Error, Kind, Result};
use crate::cli::args::Shape;
use crate::graph::diagnostic::Source;
use crate::graph::file::{Format, parse};
use crate::graph::layer::{Csr, Pattern};
use crate::graph::{self, Graph, Origin};
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

/// Size of a partial result in a reduction, bytes.
const PART: u64 = 4096;

/// Fan-in of all reductions.
const FAN_IN: u64 = 4;

/// Width of the grids of `double-diff`: how far apart a cell and the one below it are.
const WIDTH: u32 = 4;

/// An edge is this part of what it belongs to.
const EDGE_PART: u64 = 64;

/// The most tasks of a family.
const COUNT_MAX: u64 = 1 << 20;

/// The key of the last result.
pub const RESULT: &str = "result";

/// A graph to run.
pub struct Workload {
    /// It.
    pub graph: Graph,
    /// Bytes that it loads (occupies, for transient memory), rounded to whole chunks.
    pub total: u64,
    /// The most bytes that are alive at once when one task runs at a time in the best order; more bytes than
    /// that are never needed.
    pub least_peak: u64,
}

/// What a workload is made of.
#[derive(Clone, Copy, Debug)]
pub struct Dimensions {
    /// Bytes in all.
    pub total: u64,
    /// Bytes of a large result.
    pub chunk: u64,
}

impl Dimensions {
    /// Those of a shape where the user said nothing, for a cluster with so much memory.
    pub fn usual(shape: Shape, limit: u64, nworkers: u32) -> Dimensions {
        let cluster = limit.saturating_mul(nworkers.into());
        let total = match shape {
            Shape::SideChain | Shape::MapSum | Shape::MapSumSlow | Shape::DoubleDiff => {
                cluster.saturating_mul(8)
            }
            Shape::Anomaly => cluster.saturating_mul(4),
            Shape::Spill => cluster / 5 * 9,
            Shape::AllPairs => cluster / 4,
            Shape::Transient => cluster.saturating_mul(40),
        };
        let chunk = match shape {
            Shape::DoubleDiff => limit / 32,
            // 400 MiB of 512.
            Shape::Transient => limit / 32 * 25,
            _ => limit / 16,
        };
        Dimensions { total, chunk: chunk.max(1) }
    }
}

/// Makes the graph of a shape.
///
/// # Errors
/// `Usage` when the dimensions give no or too many tasks.
pub fn make(shape: Shape, dimensions: Dimensions, directory: &Path) -> Result<Workload> {
    let Dimensions { total, chunk } = dimensions;
    let arrays = if matches!(shape, Shape::SideChain | Shape::DoubleDiff) { 2 } else { 1 };
    let n = total / arrays / chunk.max(1);
    // A grid has whole rows.
    let n = if shape == Shape::DoubleDiff { n - n % u64::from(WIDTH) } else { n };
    if n == 0 || n > COUNT_MAX {
        let message = format!("{total} bytes in chunks of {chunk} are {n} large results");
        return Err(Error::new(Kind::Usage, message).hint("change --total or --chunk"));
    }
    let mut text = Text::new(n);
    let least_peak = match shape {
        Shape::SideChain => side_chain(&mut text, chunk),
        Shape::MapSum => map_sum(&mut text, n, chunk, false),
        Shape::MapSumSlow => map_sum(&mut text, n, chunk, true),
        Shape::Anomaly => anomaly(&mut text, n, chunk),
        Shape::DoubleDiff => double_diff(&mut text, n, chunk),
        Shape::AllPairs => all_pairs(&mut text, n, chunk),
        Shape::Spill => spill(&mut text, n, chunk),
        Shape::Transient => transient(&mut text, chunk),
    };
    let mut graph = text.finish(directory)?;
    match shape {
        Shape::DoubleDiff => wire_grid(&mut graph, n as u32),
        Shape::AllPairs => wire_pairs(&mut graph, n as u32),
        _ => {}
    }
    graph.validate()?;
    Ok(Workload { graph, total: n * arrays * chunk, least_peak })
}

/// A graph file as it grows.
struct Text {
    n: u64,
    text: String,
}

impl Text {
    fn new(n: u64) -> Text {
        Text { n, text: "version = 1\n".into() }
    }

    /// A family without inputs.
    fn load(&mut self, name: &str, size: u64) {
        let n = self.n;
        self.family(name, &format!("for-each = {{ range = [0, {n}] }}"), size, 0.0);
    }

    /// A family over others; `from` as in a graph file.
    fn mix(&mut self, name: &str, from: &str, size: u64) {
        self.family(name, &format!("from = {{ {from} }}"), size, 0.0);
    }

    fn family(&mut self, name: &str, line: &str, size: u64, seconds: f64) {
        let args = match seconds > 0.0 {
            true => format!("{{ size = {size}, seconds = {seconds} }}"),
            false => format!("{{ size = {size} }}"),
        };
        self.add(&format!("[task.{name}]\n{line}\nnative = \"mix\"\nargs = {args}"));
    }

    fn add(&mut self, lines: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{lines}");
    }

    /// A reduction of `family` to a single task, through a small part of each element.
    fn reduce(&mut self, family: &str, to: &str) {
        let (part, tree) = (format!("{family}-part"), format!("{family}-tree"));
        self.mix(&part, &format!("{family} = \"each\""), PART);
        self.mix(&tree, &format!("{part} = {{ tree = {FAN_IN} }}"), PART);
        self.mix(to, &format!("{tree} = \"broadcast\""), PART);
    }

    fn finish(mut self, directory: &Path) -> Result<Graph> {
        self.add(&format!("[output]\n{RESULT} = \"{RESULT}\""));
        let origin = Origin { name: "bench".into(), base_dir: directory.to_owned(), umask: 0o022 };
        let source = Source { name: "the graph of the benchmark".into(), text: self.text };
        parse(&source, Format::Toml, &origin, &graph::Options::default())
    }
}

/// What a reduction of `n` elements holds at most, done depth first: on each level all but one of a group's
/// inputs, and a whole group on one.
fn reduction(n: u64) -> u64 {
    let levels = u64::from(n.max(2).ilog(FAN_IN)) + 1;
    PART * (levels * (FAN_IN - 1) + 2)
}

/// The ocean vorticity case: u and v, each with the edge of its neighbour, merged. Held at most: while one
/// variable is padded its chunk, the next one (whose edge was needed), the result, the other's next chunk
/// and padded chunk; and three edges.
fn side_chain(text: &mut Text, chunk: u64) -> u64 {
    let edge = (chunk / EDGE_PART).max(1);
    for variable in ["u", "v"] {
        text.load(variable, chunk);
        text.mix(&format!("{variable}-edge"), &format!("{variable} = \"each\""), edge);
        let padded = format!("{variable} = \"each\", {variable}-edge = {{ window = [0, 1] }}");
        text.mix(&format!("{variable}-pad"), &padded, chunk);
    }
    text.mix("curl", "u-pad = \"each\", v-pad = \"each\"", chunk);
    text.reduce("curl", RESULT);
    if text.n == 1 { 3 * chunk } else { 5 * chunk + 3 * edge + reduction(text.n) }
}

/// Held at most: one chunk, or two where it is mapped.
fn map_sum(text: &mut Text, n: u64, chunk: u64, slow: bool) -> u64 {
    text.load("load", chunk);
    if slow {
        text.family("map", "from = { load = \"each\" }", chunk, 0.1);
        text.reduce("map", RESULT);
        return 2 * chunk + reduction(n);
    }
    text.reduce("load", RESULT);
    chunk + reduction(n)
}

/// Held at most: everything, since the mean needs it all before the first is subtracted, and one result.
fn anomaly(text: &mut Text, n: u64, chunk: u64) -> u64 {
    text.load("load", chunk);
    text.reduce("load", "mean");
    text.mix("anomaly", "load = \"each\", mean = \"broadcast\"", chunk);
    text.reduce("anomaly", RESULT);
    (n + 1) * chunk + PART
}

/// `a[1:,1:] - b[:-1,:-1]` in chunks: cell (r, c) takes (r, c), its right, its lower and its lower right
/// neighbour of a, and its left and upper ones of b. Held at most, row by row: a row and two of each, and a
/// result.
fn double_diff(text: &mut Text, n: u64, chunk: u64) -> u64 {
    text.load("a", chunk);
    text.load("b", chunk);
    // The second grid's edges replace these.
    text.mix("diff", "a = \"each\", b = \"each\"", chunk);
    text.reduce("diff", RESULT);
    let held = (u64::from(WIDTH) + 2).min(n);
    (2 * held + 1) * chunk + reduction(n)
}

/// Held at most: everything, for the last of the others comes only then to the first, and no product is
/// large.
fn all_pairs(text: &mut Text, n: u64, chunk: u64) -> u64 {
    text.load("a", chunk);
    let pairs = n * (n + 1) / 2;
    text.family(
        "pair",
        &format!("for-each = {{ range = [0, {pairs}] }}\nfrom = {{ a = \"all\" }}"),
        chunk,
        0.0,
    );
    text.reduce("pair", RESULT);
    (n + 1) * chunk + reduction(pairs)
}

/// Held at most: everything, since nothing is read before all of it is there.
fn spill(text: &mut Text, n: u64, chunk: u64) -> u64 {
    text.load("keep", chunk);
    text.add(&format!(
        "[task.keep-part]\nfrom = {{ keep = \"each\" }}\nafter = \"keep\"\n\
         native = \"mix\"\nargs = {{ size = {PART} }}"
    ));
    text.mix("keep-tree", &format!("keep-part = {{ tree = {FAN_IN} }}"), PART);
    text.mix(RESULT, "keep-tree = \"broadcast\"", PART);
    n * chunk + PART
}

/// Held at most: the memory of one task.
fn transient(text: &mut Text, size: u64) -> u64 {
    let n = text.n;
    text.add(&format!(
        "[task.work]\nfor-each = {{ range = [0, {n}] }}\n\
         native = \"transient\"\nargs = {{ size = {size}, seconds = 0.5 }}"
    ));
    text.mix("work-tree", &format!("work = {{ tree = {FAN_IN} }}"), PART);
    text.mix(RESULT, "work-tree = \"broadcast\"", PART);
    size
}

/// Lists that become a pattern.
fn explicit(rows: impl Iterator<Item = Vec<u32>>) -> Pattern {
    let mut csr = Csr { offsets: vec![0], targets: Vec::new() };
    for row in rows {
        csr.targets.extend(row);
        csr.offsets.push(csr.targets.len() as u32);
    }
    Pattern::Explicit(Arc::new(csr))
}

fn set_pattern(graph: &mut Graph, family: &str, edge: usize, pattern: Pattern) {
    if let Some(ix) = graph.find(family) {
        graph.families[ix.index()].layer.edges[edge].pattern = pattern;
    }
}

fn wire_grid(graph: &mut Graph, n: u32) {
    let cell = |r: i64, c: i64| {
        let inside = (0..i64::from(WIDTH)).contains(&c) && (0..i64::from(n / WIDTH)).contains(&r);
        inside.then_some((r * i64::from(WIDTH) + c) as u32)
    };
    let around = |offsets: &'static [(i64, i64)]| {
        explicit((0..n).map(move |i| {
            let (r, c) = (i64::from(i / WIDTH), i64::from(i % WIDTH));
            offsets.iter().filter_map(|(dr, dc)| cell(r + dr, c + dc)).collect()
        }))
    };
    let size = crate::graph::layer::Size::Fixed(n);
    if let Some(ix) = graph.find("diff") {
        graph.families[ix.index()].layer.size = size;
    }
    set_pattern(graph, "diff", 0, around(&[(0, 0), (0, 1), (1, 0), (1, 1)]));
    set_pattern(graph, "diff", 1, around(&[(-1, -1), (-1, 0), (0, -1), (0, 0)]));
}

fn wire_pairs(graph: &mut Graph, n: u32) {
    let pairs = (0..n).flat_map(|j| (0..=j).map(move |i| if i == j { vec![j] } else { vec![i, j] }));
    set_pattern(graph, "pair", 0, explicit(pairs));
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn made(shape: Shape, total: u64, chunk: u64) -> Workload {
        make(shape, Dimensions { total, chunk }, Path::new("/")).unwrap()
    }

    #[test]
    fn all_shapes_are_graphs_with_one_result() {
        use Shape::*;
        for shape in [SideChain, Anomaly, MapSum, MapSumSlow, DoubleDiff, AllPairs, Spill, Transient] {
            let usual = Dimensions::usual(shape, 512 * MIB, 2);
            let workload = make(shape, usual, Path::new("/")).unwrap();
            assert!(workload.graph.find(RESULT).is_some(), "{shape:?}");
            assert!(workload.total <= usual.total && workload.total > usual.total / 2, "{shape:?}");
            assert!(workload.least_peak >= usual.chunk, "{shape:?}");
        }
    }

    #[test]
    fn edges_are_those_of_the_shape() {
        let inputs = |graph: &Graph, name: &str, edge: usize, i: u32| {
            let ix = graph.find(name).unwrap();
            match &graph.families[ix.index()].layer.edges[edge].pattern {
                Pattern::Explicit(csr) => csr.row(i).to_vec(),
                other => panic!("{other:?}"),
            }
        };
        let grid = made(Shape::DoubleDiff, 24 * MIB, MIB).graph;
        assert_eq!(inputs(&grid, "diff", 0, 2), [2, 3, 6, 7]);
        assert_eq!(inputs(&grid, "diff", 1, 5), [0, 1, 4, 5]);
        assert_eq!((inputs(&grid, "diff", 0, 11), inputs(&grid, "diff", 1, 0)), (vec![11], vec![0]));
        let pairs = made(Shape::AllPairs, 3 * MIB, MIB).graph;
        let all: Vec<_> = (0..6).map(|i| inputs(&pairs, "pair", 0, i)).collect();
        assert_eq!(all, [vec![0], vec![0, 1], vec![1], vec![0, 2], vec![1, 2], vec![2]]);
    }

    #[test]
    fn nothing_and_too_much_are_refused() {
        assert!(make(Shape::MapSum, Dimensions { total: 1, chunk: 2 }, Path::new("/")).is_err());
        assert!(make(Shape::MapSum, Dimensions { total: 1 << 40, chunk: 2 }, Path::new("/")).is_err());
    }
}

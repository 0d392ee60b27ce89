//! Checks of a graph that came over the wire: after them nothing in it can make index arithmetic overflow,
//! loop or point outside. Owns every such condition; the client's own errors come earlier and say more.

use super::families::{Family, Graph};
use super::items::Items;
use super::layer::{Pattern, Shape, Size};
use super::look::Look;
use super::spec::{Action, Stdin, TaskSpec};
use super::template::{Mode, Names, Template};
use super::{MAX_ELEMENTS, command::Command};
use crate::base::error::{Error, Kind, Result};
use crate::base::ids::FamilyIx;
use rustc_hash::FxHashSet;
use std::borrow::Cow;

/// More families than this are refused.
const MAX_FAMILIES: usize = 10_000_000;

impl Graph {
    /// Checks everything that code behind this relies on: names, order of edges, parameters of patterns,
    /// sizes that agree, templates that parse.
    pub fn validate(&self) -> Result<()> {
        check(self, |_, _| Ok(()))
    }
}

/// Checks a graph, and hands each family, once it is right, to `each`, with the shapes of all up to it. What
/// it. What `each` says is wrong is said of that family.
pub(super) fn check<'g, L: Look>(
    graph: &'g L,
    mut each: impl FnMut(Cow<'g, Family>, &[Option<Shape>]) -> Result<(), String>,
) -> Result<()> {
    let n = graph.count();
    if n == 0 {
        return Err(Error::new(Kind::Graph, "the graph has no tasks"));
    }
    if n > MAX_FAMILIES {
        return Err(Error::new(Kind::Graph, format!("the graph has more than {MAX_FAMILIES} families")));
    }
    let mut names = FxHashSet::with_capacity_and_hasher(n, Default::default());
    let (mut shapes, mut total) = (Vec::with_capacity(n), 0u64);
    for ix in (0..n as u32).map(FamilyIx) {
        let name = graph.name_of(ix).unwrap_or_default();
        let refuse = |what: String| Error::new(Kind::Graph, format!("task `{name}`: {what}"));
        if !super::is_name(name) || !names.insert(name) {
            return Err(refuse("the name is not a name or is used twice".to_string()));
        }
        let Some(family) = graph.family(ix) else {
            return Err(refuse("it cannot be read".to_string()));
        };
        let shape = check_sizes(&family, &shapes).map_err(refuse)?;
        total += shape.map_or(0, |s| u64::from(s.total));
        if total > u64::from(MAX_ELEMENTS) {
            return Err(refuse(format!("the graph has more than {MAX_ELEMENTS} tasks up to here")));
        }
        check_items(&family, ix.index(), shape, &shapes).map_err(refuse)?;
        check_spec(graph, &family, ix).map_err(refuse)?;
        shapes.push(shape);
        each(family, &shapes).map_err(refuse)?;
    }
    check_outputs(graph)
}

fn check_outputs(graph: &impl Look) -> Result<()> {
    for output in graph.graph_outputs() {
        let parts = graph.outputs_of(output.family);
        let known = |part: &String| parts.is_some_and(|parts| parts.iter().any(|o| o.name == *part));
        if parts.is_none() || !output.part.as_ref().is_none_or(known) {
            return Err(Error::new(Kind::Graph, "an output belongs to no task of the graph"));
        }
        super::outputs::template(graph, output)?;
    }
    Ok(())
}

/// The shape, once edges and size are known to agree.
fn check_sizes(family: &Family, shapes: &[Option<Shape>]) -> Result<Option<Shape>, String> {
    let layer = &family.layer;
    let (mut alone, mut shaping) = (0, 0);
    for edge in &layer.edges {
        if edge.producer.index() >= shapes.len() {
            return Err("an edge does not point to an earlier task".to_string());
        }
        check_pattern(&edge.pattern)?;
        let makes_own = matches!(edge.pattern, Pattern::Tree { .. } | Pattern::GroupBytes { .. });
        if makes_own && !edge.data {
            return Err("a tree or groups by bytes need data".to_string());
        }
        alone += usize::from(makes_own);
        shaping += usize::from(edge.data && !matches!(edge.pattern, Pattern::All));
    }
    if alone > 0 && shaping > 1 {
        return Err("a tree or groups by bytes stand beside another input that gives elements".to_string());
    }
    let shape = family.shape();
    match layer.size {
        Size::Fixed(total) if total > MAX_ELEMENTS => {
            return Err(format!("{total} elements are too many"));
        }
        Size::Fixed(_) => {}
        Size::Follows => {
            let Some(edge) = family.shaping().map(|i| &layer.edges[i]) else {
                return Err("nothing gives its size".to_string());
            };
            let by_bytes = matches!(edge.pattern, Pattern::GroupBytes { .. });
            if !by_bytes && shapes[edge.producer.index()].is_some() {
                return Err("its size is known but said to follow".to_string());
            }
        }
    }
    let shaped = family.shaping().is_some();
    for edge in &layer.edges {
        let n = shapes[edge.producer.index()].map(|s| s.exports());
        check_edge(&edge.pattern, n, shape, shaped)?;
    }
    Ok(shape)
}

fn check_items(
    family: &Family,
    at: usize,
    shape: Option<Shape>,
    shapes: &[Option<Shape>],
) -> Result<(), String> {
    let total = shape.map(|s| s.total);
    let agrees = match &family.items {
        Items::Single => total == Some(1),
        Items::Range { start, step } => {
            let last = i64::from(total.unwrap_or(0)).saturating_sub(1).max(0);
            total.is_some()
                && *step != 0
                && step.checked_mul(last).and_then(|d| start.checked_add(d)).is_some()
        }
        Items::Values(_) | Items::Blocks(_) => family.items.len() == total.map(u64::from),
        Items::Matrix(axes) => {
            let named = axes.iter().all(|(name, _)| super::is_name(name));
            named && !axes.is_empty() && family.items.len() == total.map(u64::from)
        }
        // Families whose sizes follow have the elements of one whose size follows too.
        Items::Same(earlier) => earlier.index() < at && shapes[earlier.index()].map(|s| s.exports()) == total,
        Items::Index => true,
    };
    let tree = family.fan_in().is_some();
    if !agrees || (tree && family.items != Items::Index) {
        return Err("the list of its elements does not agree with its size".to_string());
    }
    Ok(())
}

fn check_spec(graph: &impl Look, family: &Family, ix: FamilyIx) -> Result<(), String> {
    let spec = &family.spec;
    let data = family.layer.edges.iter().filter(|e| e.data).map(|e| graph.name_of(e.producer));
    if !spec.inputs.iter().map(|i| Some(i.producer.as_str())).eq(data) {
        return Err("its inputs are not those of its edges".to_string());
    }
    if spec.nthreads == 0 || spec.nodes.is_some_and(|n| n.count == 0 || n.ranks == Some(0)) {
        return Err("it asks for no threads, nodes or ranks".to_string());
    }
    if family.layer.nodes != spec.nodes.map_or(1, |n| n.count) {
        return Err("it asks for two different numbers of nodes".to_string());
    }
    if family.layer.nodes > 1 && matches!(spec.action, Action::Native { .. }) {
        return Err("native functions run on one node".to_string());
    }
    let inside = spec.outputs.iter().filter(|o| !o.in_place).map(|o| &o.path);
    let mut inside = inside.chain(spec.inputs.iter().filter_map(|i| i.file_name.as_ref()));
    if !inside.all(|path| super::stays_inside(path)) {
        return Err("a path is not inside the task's directory".to_string());
    }
    if let Action::Argv(argv) = &spec.action
        && argv.is_empty()
    {
        return Err("it has no program".to_string());
    }
    // Only what stands in braces is looked up.
    let names = if has_braces(spec) { graph.names_for(ix, family) } else { Names::default() };
    Command::parse(&spec.action, &names).map_err(|f| f.message)?;
    let parse = |text: &String, mode| Template::parse(text, &names, mode).map(|_| ()).map_err(|f| f.message);
    spec.env.values().try_for_each(|v| parse(v, Mode::Command))?;
    let file = match &spec.stdin {
        Stdin::File(file) => Some(file),
        Stdin::Auto | Stdin::Null | Stdin::Inputs => None,
    };
    let paths = spec.cwd.iter().chain(file).chain(spec.outputs.iter().map(|o| &o.path));
    let names_of_inputs = spec.inputs.iter().filter_map(|i| i.file_name.as_ref());
    paths.chain(names_of_inputs).try_for_each(|p| parse(p, Mode::Path))
}

/// Whether any text of a task could have a placeholder.
pub(super) fn has_braces(spec: &TaskSpec) -> bool {
    let has = |text: &String| text.contains('{');
    let command = match &spec.action {
        Action::Argv(argv) => argv.iter().any(has),
        Action::Shell(line) => has(line),
        Action::Native { .. } => false,
    };
    let stdin = matches!(&spec.stdin, Stdin::File(file) if has(file));
    let paths = spec.outputs.iter().map(|o| &o.path).chain(&spec.cwd).chain(spec.env.values());
    command || stdin || paths.chain(spec.inputs.iter().filter_map(|i| i.file_name.as_ref())).any(has)
}

fn check_pattern(pattern: &Pattern) -> Result<(), String> {
    let near = |offset: &i32| offset.unsigned_abs() <= MAX_ELEMENTS;
    let fits = match pattern {
        Pattern::Each | Pattern::All | Pattern::Explicit(_) => true,
        Pattern::Window { low, high, .. } => low <= high && near(low) && near(high),
        Pattern::Tree { fan_in } => (2..=MAX_ELEMENTS).contains(fan_in),
        Pattern::Group { size } => (1..=MAX_ELEMENTS).contains(size),
        Pattern::GroupBytes { bytes } => *bytes > 0,
    };
    if fits { Ok(()) } else { Err("a pattern's parameters are out of range".to_string()) }
}

/// `n` is what the producer shows, `shape` the consumer's; `None` where they follow at run time.
fn check_edge(pattern: &Pattern, n: Option<u32>, shape: Option<Shape>, shaped: bool) -> Result<(), String> {
    let differ = || Err("its size does not agree with that of a task it depends on".to_string());
    match (pattern, n, shape) {
        (Pattern::All, ..) => Ok(()),
        (Pattern::GroupBytes { .. }, _, shape) => {
            if shape.is_none() {
                Ok(())
            } else {
                differ()
            }
        }
        (Pattern::Explicit(csr), Some(n), Some(shape)) => {
            if csr.is_valid(shape.total, n) {
                Ok(())
            } else {
                Err("its listed edges are broken".to_string())
            }
        }
        (Pattern::Explicit(_), ..) => Err("listed edges need sizes that are known".to_string()),
        (pattern, Some(n), Some(shape)) => {
            if pattern.shape(n).map(|s| s.total) == Some(shape.total) {
                Ok(())
            } else {
                differ()
            }
        }
        (_, None, None) if shaped => Ok(()),
        _ => differ(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::layer::{Border, Csr, Edge};
    use crate::graph::tests::toml;
    use std::sync::Arc;

    /// What no client of ours sends must end as an error, never as a panic or a loop.
    fn refused(what: &str, change: impl Fn(&mut Graph)) {
        let mut graph = toml(
            "[task.a]\nfor-each = { range = [0, 10] }\nargv = ['x']\n[task.b]\n\
             from = { a = 'each' }\nargv = ['x']\n\
             [task.c]\nfrom = { b = { tree = 4 } }\nargv = ['x']\n[output]\nb = 'o/{index}'\n",
        );
        graph.validate().unwrap();
        change(&mut graph);
        // These must survive graphs that nobody has validated.
        let shapes = graph.shapes();
        for f in 0..graph.families.len() as u32 {
            graph.key(FamilyIx(f), 3, Shape { total: 4, first_export: 0 });
            graph.item(FamilyIx(f), 3);
        }
        let _ = graph.parse_key("b[3]", &shapes);
        assert!(graph.validate().is_err(), "{what}");
    }

    fn edge(graph: &mut Graph, pattern: Pattern) {
        graph.families[1].layer.edges[0].pattern = pattern;
    }

    fn csr(offsets: Vec<u32>, targets: Vec<u32>) -> Pattern {
        Pattern::Explicit(Arc::new(Csr { offsets, targets }))
    }

    #[test]
    fn hostile_sizes_are_refused() {
        refused("empty", |g| g.families.clear());
        refused("huge", |g| g.families[0].layer.size = Size::Fixed(u32::MAX));
        refused("too many in all", |g| {
            for f in &mut g.families[..2] {
                f.layer.size = Size::Fixed(MAX_ELEMENTS);
            }
            g.families[2].layer.edges[0].pattern = Pattern::All;
        });
        refused("self edge", |g| g.families[1].layer.edges[0].producer = FamilyIx(1));
        refused("later edge", |g| {
            g.families[0].layer.edges.push(Edge { producer: FamilyIx(2), pattern: Pattern::All, data: false })
        });
        refused("no such edge", |g| g.families[1].layer.edges[0].producer = FamilyIx(u32::MAX));
        refused("each differs", |g| g.families[1].layer.size = Size::Fixed(9));
        refused("follows nothing", |g| g.families[0].layer.size = Size::Follows);
        refused("follows the known", |g| g.families[1].layer.size = Size::Follows);
    }

    #[test]
    fn hostile_patterns_are_refused() {
        refused("tree of 0", |g| g.families[2].layer.edges[0].pattern = Pattern::Tree { fan_in: 0 });
        refused("tree of 1", |g| g.families[2].layer.edges[0].pattern = Pattern::Tree { fan_in: 1 });
        refused("tree size", |g| g.families[2].layer.size = Size::Fixed(1));
        refused("tree without data", |g| g.families[2].layer.edges[0].data = false);
        refused("group of 0", |g| edge(g, Pattern::Group { size: 0 }));
        refused("group of many", |g| edge(g, Pattern::Group { size: u32::MAX }));
        refused("bytes 0", |g| edge(g, Pattern::GroupBytes { bytes: 0 }));
        refused("bytes but fixed", |g| edge(g, Pattern::GroupBytes { bytes: 1 }));
        refused("window reversed", |g| edge(g, Pattern::Window { low: 1, high: 0, edge: Border::Clip }));
        refused("window min", |g| {
            edge(g, Pattern::Window { low: i32::MIN, high: i32::MAX, edge: Border::Wrap })
        });
        refused("window drop", |g| edge(g, Pattern::Window { low: 0, high: 1, edge: Border::Drop }));
        refused("csr empty", |g| edge(g, csr(vec![], vec![])));
        refused("csr outside", |g| edge(g, csr((0..=10).collect(), vec![10; 10])));
        refused("csr descending", |g| edge(g, csr(vec![0, 5, 1, 1, 1, 1, 1, 1, 1, 1, 10], vec![0; 10])));
        refused("csr long", |g| edge(g, csr(vec![0, 0, 0, 0, 0, 0, 0, 0, 0, 0, u32::MAX], vec![0; 10])));
    }

    #[test]
    fn hostile_items_are_refused() {
        refused("same as itself", |g| g.families[1].items = Items::Same(FamilyIx(1)));
        refused("same as none", |g| g.families[1].items = Items::Same(FamilyIx(u32::MAX)));
        refused("range overflow", |g| g.families[0].items = Items::Range { start: i64::MAX, step: i64::MAX });
        refused("range of one number", |g| g.families[0].items = Items::Range { start: 0, step: 0 });
        refused("values short", |g| g.families[0].items = Items::Values(vec!["x".into()]));
        refused("matrix empty", |g| g.families[0].items = Items::Matrix(vec![]));
        refused("matrix axis", |g| {
            g.families[0].items = Items::Matrix(vec![("a,b".into(), vec!["x".into(); 10])])
        });
        refused("single of ten", |g| g.families[0].items = Items::Single);
        refused("tree with values", |g| g.families[2].items = Items::Values(vec!["x".into(); 4]));
    }

    #[test]
    fn hostile_specs_are_refused() {
        refused("name", |g| g.families[0].spec.name = "../x".into());
        refused("same name", |g| g.families[1].spec.name = "a".into());
        refused("inputs", |g| g.families[1].spec.inputs.clear());
        refused("input's name", |g| g.families[1].spec.inputs[0].producer = "c".into());
        refused("no program", |g| g.families[0].spec.action = Action::Argv(vec![]));
        refused("placeholder", |g| g.families[0].spec.action = Action::Shell("{in.zz}".into()));
        refused("path", |g| g.families[0].spec.cwd = Some("{zz}".into()));
        refused("input's path", |g| g.families[1].spec.inputs[0].file_name = Some("../x".into()));
        refused("no threads", |g| g.families[0].spec.nthreads = 0);
        refused("no nodes", |g| g.families[0].layer.nodes = 0);
        refused("two numbers of nodes", |g| g.families[0].layer.nodes = 2);
        refused("output of none", |g| g.outputs[0].family = FamilyIx(7));
        refused("output part", |g| g.outputs[0].part = Some("x".into()));
        refused("output path", |g| g.outputs[0].path = "{out.x}".into());
    }
}

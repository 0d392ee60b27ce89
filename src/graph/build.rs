//! From a decoded file to a `Graph`: parameters, targets, families in order with their specs. Owns the
//! assembly; `order`, `wire`, `expand` and `outputs` own the rules.

use super::diagnostic::{Diagnostic, Source};
use super::expand::Scope;
use super::layer::{Edge, Layer, SLOT};
use super::order::{ByName, check_names, order};
use super::raw::{At, List, RawGraph, RawTask};
use super::spec::{Action, Input, Nodes, Output, Setup, Stdin, TaskSpec};
use super::template::{Elements, Fault, Mode, Names, Template};
use super::wire::{Own, Side, same_as, wire};
use super::{Family, Graph, MAX_ELEMENTS};
use crate::base::error::{Error, Kind, Result};
use crate::base::ids::FamilyIx;
use crate::base::units::AMOUNT_ONE;
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

/// Where a graph comes from.
#[derive(Clone, Debug)]
pub struct Origin {
    /// What it is called.
    pub name: String,
    /// Directory that its relative paths start from, absolute.
    pub base_dir: PathBuf,
    /// The submitter's umask.
    pub umask: u32,
}

/// What the user asks for besides the file.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `--set NAME=VALUE`: parameters that replace those of the file.
    pub params: Vec<(String, String)>,
    /// The tasks wanted; all if empty.
    pub targets: Vec<String>,
}

/// Builds the graph. Lists are expanded, so the file system is read.
pub fn build(raw: &RawGraph, source: &Source, origin: &Origin, options: &Options) -> Result<Graph> {
    let mut faults = Vec::new();
    let by_name = check_names(raw, &mut faults);
    if !faults.is_empty() {
        return Err(source.error(faults));
    }
    let params = params(raw, options)?;
    let targets = targets(&by_name, options)?;
    let order = order(raw, &by_name, targets).map_err(|fault| source.error(vec![fault]))?;
    let mut builder = Builder {
        raw,
        source,
        origin,
        scope: Scope { base_dir: origin.base_dir.clone(), params },
        sides: FxHashMap::default(),
        graph: Graph { name: origin.name.clone(), ..Graph::default() },
        total: 0,
    };
    for task in order {
        // A task whose producer is faulty cannot be judged; its own faults show next time.
        let task = &raw.tasks[task];
        if builder.names_of(task).all(|n| builder.sides.contains_key(n))
            && let Err(more) = builder.family(task)
        {
            faults.extend(more);
        }
    }
    if faults.is_empty() {
        faults.extend(super::outputs::add(raw, &by_name, &mut builder.graph, origin));
        faults.extend(builder.hooks());
    }
    if !faults.is_empty() {
        return Err(source.error(faults));
    }
    let mut graph = builder.graph;
    graph.params = builder.scope.params;
    graph.validate()?;
    Ok(graph)
}

fn params(raw: &RawGraph, options: &Options) -> Result<BTreeMap<String, String>> {
    let mut params: BTreeMap<String, String> =
        raw.params.iter().map(|(name, value)| (name.it.clone(), value.clone())).collect();
    for (name, value) in &options.params {
        let Some(old) = params.get_mut(name) else {
            let error = Error::new(Kind::Usage, format!("the graph has no parameter `{name}`"));
            return Err(match super::nearest(name, params.keys().map(String::as_str)) {
                Some(near) => error.hint(format!("did you mean `{near}`?")),
                None if params.is_empty() => error.hint("it has none; they stand under `params` in the file"),
                None => {
                    let known: Vec<&str> = params.keys().map(String::as_str).collect();
                    error.hint(format!("it has {}", known.join(", ")))
                }
            });
        };
        old.clone_from(value);
    }
    Ok(params)
}

fn targets(by_name: &ByName<'_>, options: &Options) -> Result<Option<Vec<usize>>> {
    if options.targets.is_empty() {
        return Ok(None);
    }
    let find = |name: &String| {
        by_name.get(name.as_str()).copied().ok_or_else(|| {
            let error = Error::new(Kind::Usage, format!("the graph has no task `{name}`"));
            match super::nearest(name, by_name.keys().copied()) {
                Some(near) => error.hint(format!("did you mean `{near}`?")),
                None if name.contains('[') => error.hint("a target is a whole task, not an element"),
                None => error,
            }
        })
    };
    options.targets.iter().map(find).collect::<Result<Vec<usize>>>().map(Some)
}

struct Builder<'a> {
    raw: &'a RawGraph,
    source: &'a Source,
    origin: &'a Origin,
    scope: Scope,
    sides: FxHashMap<&'a str, Side>,
    graph: Graph,
    total: u64,
}

impl<'a> Builder<'a> {
    fn names_of(&self, task: &'a RawTask) -> impl Iterator<Item = &'a str> + use<'a> {
        let same = match task.for_each.as_ref().map(|e| &e.it.list) {
            Some(List::SameAs(name)) => Some(name.it.as_str()),
            _ => None,
        };
        task.from.iter().chain(&task.after).map(|e| e.producer.it.as_str()).chain(same)
    }

    fn family(&mut self, task: &'a RawTask) -> Result<(), Vec<Diagnostic>> {
        let family = FamilyIx(self.graph.families.len() as u32);
        let own = self.own(task).map_err(|f| vec![f])?;
        let edges = || task.from.iter().chain(&task.after);
        let sides: Vec<Side> = edges().map(|e| self.sides[e.producer.it.as_str()].clone()).collect();
        let wired = wire(task, family, &sides, own)?;
        if let super::layer::Size::Fixed(total) = wired.size {
            self.total += u64::from(total);
        }
        if self.total > u64::from(MAX_ELEMENTS) {
            let label = format!("expected at most {MAX_ELEMENTS}");
            return Err(vec![Diagnostic::new(
                &task.name.span,
                "the graph has too many tasks up to here",
                label,
            )]);
        }
        let data = (0..).map(|i| i < task.from.len());
        let edges = sides.iter().zip(wired.patterns).zip(data);
        let limits = &task.limits;
        let layer = Layer {
            size: wired.size,
            edges: edges.map(|((s, pattern), data)| Edge { producer: s.family, pattern, data }).collect(),
            priority: limits.priority,
            slots: limits.nthreads.map_or(SLOT, |n| u32::try_from(n).unwrap_or(u32::MAX)),
            resources: limits.resources.clone(),
            nodes: limits.nodes.unwrap_or(1),
            memory: limits.memory.clone(),
            output_size: limits.output_size,
            retries: limits.retries,
            time_limit_ms: limits.time_limit_ms,
        };
        let spec = self.spec(task)?;
        self.graph.families.push(Family { layer, spec, items: wired.items });
        self.sides.insert(task.name.it.as_str(), wired.side);
        let faults = self.check(task, family);
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    fn own(&self, task: &RawTask) -> Result<Option<Own>, Diagnostic> {
        let Some(each) = &task.for_each else { return Ok(None) };
        let span = each.span.clone();
        if let List::SameAs(name) = &each.it.list {
            let (items, total) = same_as(name, &self.sides[name.it.as_str()])?;
            return Ok(Some(Own { items, total, span }));
        }
        let expanded = self.scope.expand(&each.it.list)?;
        if expanded.total == 0 && !each.it.allow_empty {
            let message = format!("`{}` has no elements: {}", task.name.it, expanded.what);
            return Err(Diagnostic::new(&span, message, "expected some, or `allow-empty = true`"));
        }
        Ok(Some(Own { items: expanded.items, total: expanded.total, span }))
    }

    fn spec(&self, task: &RawTask) -> Result<TaskSpec, Vec<Diagnostic>> {
        let limits = &task.limits;
        let action = match (task.action.as_ref().map(|a| a.it.clone()), &task.args) {
            (Some(Action::Native { function, .. }), args) => {
                let args = args.as_ref().map_or(serde_json::Value::Null, |a| a.it.clone());
                Action::Native { function, args }
            }
            (Some(_), Some(args)) => {
                let label = "expected it only beside `native`";
                return Err(vec![Diagnostic::new(&args.span, "`args` are for native functions", label)]);
            }
            (Some(action), None) => action,
            // The decoder has said that there is none.
            (None, _) => return Err(Vec::new()),
        };
        if let (Action::Native { .. }, Some(at)) = (&action, &task.action)
            && limits.nodes.is_some_and(|n| n > 1)
        {
            let message = "native functions run on one node; `nodes` is for commands";
            return Err(vec![Diagnostic::new(
                &at.span,
                message,
                "expected `argv` or `shell` beside `nodes`",
            )]);
        }
        let input = |e: &super::raw::RawEdge| Input {
            producer: e.producer.it.clone(),
            materialize: e.materialize,
            file_name: e.file_name.as_ref().map(|f| f.it.clone()),
        };
        let output = |p: &super::raw::RawPart| Output {
            name: p.name.it.clone(),
            path: p.path.it.clone(),
            in_place: p.in_place,
        };
        let setup = task.setup.as_ref().and_then(|s| self.raw.envs.iter().find(|e| e.name.it == s.it));
        let nodes = (limits.nodes.is_some() || limits.ranks.is_some())
            .then(|| Nodes { count: limits.nodes.unwrap_or(1), ranks: limits.ranks });
        Ok(TaskSpec {
            name: task.name.it.clone(),
            action,
            inputs: task.from.iter().map(input).collect(),
            outputs: task.outputs.iter().map(output).collect(),
            stdin: task.stdin.as_ref().map_or(Stdin::Auto, |s| s.it.clone()),
            env: task.env.iter().map(|(k, v)| (k.clone(), v.it.clone())).collect(),
            setup: setup.map(|e| Setup {
                name: e.name.it.clone(),
                lines: e.lines.clone(),
                vars: e.vars.clone(),
            }),
            cwd: task.cwd.as_ref().map(|c| c.it.clone()),
            base_dir: self.origin.base_dir.clone(),
            umask: self.origin.umask,
            ok_exit: if limits.ok_exit.is_empty() { vec![0] } else { limits.ok_exit.clone() },
            max_output: limits.max_output,
            time_limit_ms: limits.time_limit_ms,
            memory: limits.memory.clone(),
            nthreads: threads(limits.nthreads),
            shell: Vec::new(),
            nodes,
            gpus: limits.resources.get("gpus").copied().unwrap_or(0),
            params: self.scope.params.clone(),
            kept: None,
            checkpoint: None,
        })
    }

    /// Checks every template of a family and the names it gives.
    fn check(&self, task: &RawTask, family: FamilyIx) -> Vec<Diagnostic> {
        let spec = self.graph.families.get(family.index()).map(|f| &f.spec);
        // Only what stands in braces is looked up.
        let braces = spec.is_some_and(super::validate::has_braces);
        let names = if braces { self.graph.names(family) } else { Names::default() };
        let mut faults = Vec::new();
        let texts: Vec<&String> = match task.action.as_ref().map(|a| &a.it) {
            Some(Action::Argv(argv)) => argv.iter().collect(),
            Some(Action::Shell(line)) => vec![line],
            _ => Vec::new(),
        };
        let argv = texts.len() != 1 || matches!(task.action.as_ref().map(|a| &a.it), Some(Action::Argv(_)));
        for (text, span) in texts.into_iter().zip(&task.texts) {
            let template = self.template(text, span, &names, Mode::Command, &mut faults);
            if argv && template.is_some_and(|t| t.splices_inside()) {
                let message = "`{inputs...}` is several arguments and cannot be part of one";
                faults.push(Diagnostic::new(span, message, "expected it alone, or {inputs.list}"));
            }
        }
        for (name, value) in &task.env {
            if name.is_empty() || name.contains(['=', '\0']) {
                let message = format!("`{name}` cannot be the name of a variable");
                faults.push(Diagnostic::new(&value.span, message, "set here"));
            }
            self.template(&value.it, &value.span, &names, Mode::Command, &mut faults);
        }
        let mut path = |text: &At<String>| {
            let template = self.template(&text.it, &text.span, &names, Mode::Path, &mut faults);
            if template.is_some_and(|t| t.needs_task()) {
                let message = "inputs, outputs and the launcher cannot be part of this path";
                faults.push(Diagnostic::new(&text.span, message, "expected items, indices and parameters"));
            }
        };
        task.cwd.iter().for_each(&mut path);
        task.outputs.iter().for_each(|o| path(&o.path));
        task.from.iter().filter_map(|e| e.file_name.as_ref()).for_each(&mut path);
        if let Some(At { span, it: Stdin::File(file) }) = &task.stdin {
            path(&At { span: span.clone(), it: file.clone() });
        }
        let inside = task.outputs.iter().filter(|o| !o.in_place).map(|o| &o.path);
        for path in inside.chain(task.from.iter().filter_map(|e| e.file_name.as_ref())) {
            if !super::stays_inside(&path.it) {
                let message = format!("`{}` is not inside the task's directory", path.it);
                faults.push(Diagnostic::new(
                    &path.span,
                    message,
                    "expected a relative path, or `in-place = true`",
                ));
            }
        }
        for output in &task.outputs {
            if !super::is_name(&output.name.it) {
                let message = format!("`{}` cannot be the name of an output", output.name.it);
                faults.push(Diagnostic::new(
                    &output.name.span,
                    message,
                    "expected letters, digits, `_` and `-`",
                ));
            }
        }
        faults
    }

    fn template(
        &self,
        text: &str,
        span: &Range<usize>,
        names: &Names,
        mode: Mode,
        faults: &mut Vec<Diagnostic>,
    ) -> Option<Template> {
        if text.contains('\0') {
            faults.push(Diagnostic::new(span, "a zero byte cannot be passed to programs", "in this text"));
            return None;
        }
        match Template::parse(text, names, mode) {
            Ok(template) => Some(template),
            Err(fault) => {
                let place = within(&self.source.text, span, text, &fault);
                faults.push(Diagnostic::new(&place, fault.message, fault.hint));
                None
            }
        }
    }

    fn hooks(&mut self) -> Vec<Diagnostic> {
        let names = Names { params: self.scope.params.clone(), elements: Elements::None, ..Names::default() };
        let mut faults = Vec::new();
        for hook in [&self.raw.on_success, &self.raw.on_failure].into_iter().flatten() {
            let texts: &[String] = match &hook.it {
                Action::Argv(argv) => argv,
                Action::Shell(line) => std::slice::from_ref(line),
                Action::Native { .. } => &[],
            };
            for text in texts {
                let template = self.template(text, &hook.span, &names, Mode::Command, &mut faults);
                if template.is_some_and(|t| t.varies() || t.needs_task()) {
                    let message = "a hook belongs to no task: only parameters can stand in its braces";
                    faults.push(Diagnostic::new(&hook.span, message, "here"));
                }
            }
            if texts.is_empty() {
                faults.push(Diagnostic::new(&hook.span, "a hook without a program", "expected one"));
            }
        }
        self.graph.on_success = self.raw.on_success.as_ref().map(|h| h.it.clone());
        self.graph.on_failure = self.raw.on_failure.as_ref().map(|h| h.it.clone());
        faults
    }
}

/// The whole threads of a share, at least one.
pub(super) fn threads(amount: Option<u64>) -> u32 {
    let amount = amount.unwrap_or(AMOUNT_ONE);
    u32::try_from(amount.div_ceil(AMOUNT_ONE)).unwrap_or(u32::MAX).max(1)
}

/// Where a faulty placeholder stands in the file: inside the string if it is written there as it is.
fn within(source: &str, span: &Range<usize>, text: &str, fault: &Fault) -> Range<usize> {
    let placeholder = &text[fault.range.clone()];
    let nth = text[..fault.range.start].matches(placeholder).count();
    let written = source.get(span.clone()).unwrap_or_default();
    match written.match_indices(placeholder).nth(nth) {
        Some((at, _)) => span.start + at..span.start + at + placeholder.len(),
        None => span.clone(),
    }
}

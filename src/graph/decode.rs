//! From the values of a graph file to what they mean: which keys there are, which form each takes. Owns the
//! schema's words; looks up no name of another task (`build` does).

use super::diagnostic::Diagnostic;
use super::raw::{At, RawEnv, RawGraph, RawOutput};
use super::source::{Entry, Node, Value};
use super::spec::Action;
use crate::base::units;
use std::collections::BTreeMap;
use std::ops::Range;

/// Decodes a file. All faults are collected; what they touch is left out.
pub fn decode(root: &Node) -> (RawGraph, Vec<Diagnostic>) {
    let mut decoder = Decoder { faults: Vec::new() };
    let graph = decoder.graph(root);
    (graph, decoder.faults)
}

const TOP: [&str; 6] = ["version", "params", "task", "env", "output", "on"];

pub(super) struct Decoder {
    pub(super) faults: Vec<Diagnostic>,
}

impl Decoder {
    fn graph(&mut self, root: &Node) -> RawGraph {
        let mut graph = RawGraph::default();
        let mut version = None;
        for entry in self.entries(root, "the file") {
            match entry.key.as_str() {
                "version" => version = Some(&entry.node),
                "params" => {
                    for p in self.entries(&entry.node, "`params`") {
                        graph.params.extend(self.scalar(&p.node).map(|v| (key(p), v.it)));
                    }
                }
                "task" => {
                    for t in self.entries(&entry.node, "`task`") {
                        graph.tasks.extend(self.task(t));
                    }
                }
                "env" => {
                    for e in self.entries(&entry.node, "`env`") {
                        graph.envs.push(self.env(e));
                    }
                }
                "output" => {
                    for o in self.entries(&entry.node, "`output`") {
                        graph.outputs.extend(self.output(o));
                    }
                }
                "on" => self.hooks(&entry.node, &mut graph),
                _ => self.unknown_key(entry, "the file", &TOP),
            }
        }
        match version.map(|n| (&n.value, &n.span)) {
            Some((Value::Number(n), _)) if n == "1" => {}
            Some((_, span)) => {
                self.fault(span, "this version of the graph file is not known", "expected `1`");
            }
            None => self.fault(&(0..0), "the graph file does not say its version", "expected `version = 1`"),
        }
        graph
    }

    fn env(&mut self, entry: &Entry) -> RawEnv {
        let mut env = RawEnv { name: key(entry), lines: Vec::new(), vars: BTreeMap::new() };
        for e in self.entries(&entry.node, &format!("`env.{}`", entry.key)) {
            match e.key.as_str() {
                "setup" => env.lines = self.texts(&e.node).into_iter().map(|t| t.it).collect(),
                "vars" => {
                    for v in self.entries(&e.node, "`vars`") {
                        env.vars.extend(self.scalar(&v.node).map(|t| (v.key.clone(), t.it)));
                    }
                }
                _ => self.unknown_key(e, "an environment", &["setup", "vars"]),
            }
        }
        env
    }

    fn output(&mut self, entry: &Entry) -> Option<RawOutput> {
        let target = key(entry);
        if let Value::Text(path) = &entry.node.value {
            let path = At { span: entry.node.span.clone(), it: path.clone() };
            return Some(RawOutput { target, path, by: None, skip_empty: false });
        }
        let (mut path, mut by, mut skip_empty) = (None, None, false);
        for e in self.entries(&entry.node, "an output") {
            match e.key.as_str() {
                "path" => path = self.text(&e.node),
                "by" => {
                    by =
                        self.choice(&e.node, &[("client", super::By::Client), ("worker", super::By::Worker)]);
                }
                "skip-empty" => skip_empty = self.boolean(&e.node),
                _ => {
                    self.unknown_key(e, "an output", &["path", "by", "skip-empty"]);
                    return None;
                }
            }
        }
        if path.is_none() {
            self.fault(&entry.key_span, format!("the output `{}` has no path", entry.key), "expected `path`");
        }
        Some(RawOutput { target, path: path?, by, skip_empty })
    }

    fn hooks(&mut self, node: &Node, graph: &mut RawGraph) {
        for e in self.entries(node, "`on`") {
            let action = match &e.node.value {
                Value::Text(line) => Some(Action::Shell(line.clone())),
                Value::List(_) => {
                    let words = self.texts(&e.node);
                    Some(Action::Argv(words.into_iter().map(|w| w.it).collect()))
                }
                _ => {
                    self.expected(&e.node, "a shell line or a list of arguments");
                    None
                }
            };
            let at = |it| At { span: e.node.span.clone(), it };
            match e.key.as_str() {
                "success" => graph.on_success = action.map(at),
                "failure" => graph.on_failure = action.map(at),
                _ => self.unknown_key(e, "`on`", &["success", "failure"]),
            }
        }
    }
}

/// The small forms.
impl Decoder {
    pub(super) fn fault(
        &mut self,
        span: &Range<usize>,
        message: impl Into<String>,
        label: impl Into<String>,
    ) {
        self.faults.push(Diagnostic::new(span, message, label));
    }

    pub(super) fn unknown_key(&mut self, entry: &Entry, place: &str, known: &[&str]) {
        let label = match super::nearest(&entry.key, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("expected one of {}", known.join(", ")),
        };
        self.fault(&entry.key_span, format!("{place} has no key `{}`", entry.key), label);
    }

    pub(super) fn expected(&mut self, node: &Node, what: &str) {
        self.fault(&node.span, format!("{} cannot stand here", node.kind()), format!("expected {what}"));
    }

    pub(super) fn entries<'n>(&mut self, node: &'n Node, what: &str) -> &'n [Entry] {
        match &node.value {
            Value::Table(entries) => entries,
            _ => {
                let message = format!("{what} is {}", node.kind());
                self.fault(&node.span, message, "expected a table");
                &[]
            }
        }
    }

    pub(super) fn text(&mut self, node: &Node) -> Option<At<String>> {
        match &node.value {
            Value::Text(text) => Some(At { span: node.span.clone(), it: text.clone() }),
            _ => {
                self.expected(node, "a string");
                None
            }
        }
    }

    /// A string or a list of strings.
    pub(super) fn texts(&mut self, node: &Node) -> Vec<At<String>> {
        match &node.value {
            Value::List(nodes) => nodes.iter().filter_map(|n| self.text(n)).collect(),
            _ => self.text(node).into_iter().collect(),
        }
    }

    /// A string, number or truth value, as text.
    pub(super) fn scalar(&mut self, node: &Node) -> Option<At<String>> {
        let it = match &node.value {
            Value::Text(text) | Value::Number(text) | Value::Date(text) => text.clone(),
            Value::Bool(b) => b.to_string(),
            Value::Null | Value::List(_) | Value::Table(_) => {
                self.expected(node, "a string or a number");
                return None;
            }
        };
        Some(At { span: node.span.clone(), it })
    }

    pub(super) fn scalars(&mut self, node: &Node) -> Vec<At<String>> {
        match &node.value {
            Value::List(nodes) => nodes.iter().filter_map(|n| self.scalar(n)).collect(),
            _ => {
                self.expected(node, "a list");
                Vec::new()
            }
        }
    }

    pub(super) fn boolean(&mut self, node: &Node) -> bool {
        match node.value {
            Value::Bool(b) => b,
            _ => {
                self.expected(node, "true or false");
                false
            }
        }
    }

    /// A whole number from `low` to `high`.
    pub(super) fn whole(&mut self, node: &Node, low: i64, high: i64) -> Option<i64> {
        let value = match &node.value {
            Value::Number(text) => text.parse::<i64>().ok().filter(|v| (low..=high).contains(v)),
            _ => None,
        };
        if value.is_none() {
            let what = match (low, high) {
                (_, i64::MAX) => format!("a whole number, at least {low}"),
                _ => format!("a whole number from {low} to {high}"),
            };
            match node.value {
                Value::Number(_) => {
                    self.fault(&node.span, "this number cannot stand here", format!("expected {what}"))
                }
                _ => self.expected(node, &what),
            }
        }
        value
    }

    pub(super) fn count(&mut self, node: &Node, low: u32, high: u32) -> Option<u32> {
        self.whole(node, i64::from(low), i64::from(high)).and_then(|v| u32::try_from(v).ok())
    }

    pub(super) fn choice<T: Copy>(&mut self, node: &Node, known: &[(&str, T)]) -> Option<T> {
        let text = self.text(node)?;
        let found = known.iter().find(|(name, _)| *name == text.it);
        if found.is_none() {
            let names: Vec<String> = known.iter().map(|(name, _)| format!("\"{name}\"")).collect();
            let label = format!("expected {}", names.join(" or "));
            self.fault(&text.span, format!("`{}` is not known here", text.it), label);
        }
        found.map(|(_, value)| *value)
    }

    pub(super) fn bytes(&mut self, node: &Node) -> Option<u64> {
        let text = match &node.value {
            Value::Text(text) | Value::Number(text) => text,
            _ => {
                self.expected(node, "a size such as \"2G\"");
                return None;
            }
        };
        match units::parse_bytes(text) {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                self.fault(&node.span, error.0, "expected a size such as \"2G\"");
                None
            }
        }
    }

    pub(super) fn millis(&mut self, node: &Node) -> Option<u64> {
        let text = match &node.value {
            Value::Text(text) | Value::Number(text) => text,
            _ => {
                self.expected(node, "a duration such as \"45m\"");
                return None;
            }
        };
        match units::parse_duration(text).map(|d| u64::try_from(d.as_millis())) {
            Ok(Ok(ms)) if ms > 0 => Some(ms),
            Err(error) => {
                self.fault(&node.span, error.0, "expected a duration such as \"45m\"");
                None
            }
            Ok(_) => {
                self.fault(&node.span, "this duration cannot be kept", "expected at least 1ms");
                None
            }
        }
    }

    /// An amount in 1/10,000.
    pub(super) fn amount(&mut self, node: &Node) -> Option<u64> {
        let Value::Number(text) = &node.value else {
            self.expected(node, "a number such as 1 or 0.5");
            return None;
        };
        match units::parse_amount(text) {
            Ok(amount) if amount <= AMOUNT_MAX => Some(amount),
            Ok(_) => {
                self.fault(&node.span, format!("the amount '{text}' is too large"), "expected less");
                None
            }
            Err(error) => {
                self.fault(&node.span, error.0, "expected a number such as 1 or 0.5");
                None
            }
        }
    }
}

/// No machine has more than so many of anything that tasks occupy (a hundred thousand).
const AMOUNT_MAX: u64 = 100_000 * units::AMOUNT_ONE;

/// The entry's key with its place.
pub(super) fn key(entry: &Entry) -> At<String> {
    At { span: entry.key_span.clone(), it: entry.key.clone() }
}

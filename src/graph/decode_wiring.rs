//! The forms of `from`, `after` and `for-each`. Owns their decoding; what the patterns mean is in `wire`,
//! where lists come from in `expand`.

use super::decode::{Decoder, key};
use super::layer::Border;
use super::raw::{At, List, RawEach, RawEdge, Wire};
use super::source::{Entry, Node, Value};

/// The largest number that group sizes, fan-ins and window offsets may have.
pub const COUNT_MAX: u32 = 1 << 30;

/// `from` and `after`.
impl Decoder {
    pub(super) fn edges(&mut self, node: &Node) -> Vec<RawEdge> {
        let Value::Table(entries) = &node.value else {
            let names = self.texts(node);
            let mut seen = std::collections::HashSet::new();
            if let Some(twice) = names.iter().find(|n| !seen.insert(n.it.as_str())) {
                self.fault(&twice.span, format!("`{}` stands here twice", twice.it), "the second time");
            }
            let unsaid = |producer: At<String>| RawEdge {
                wire: At { span: producer.span.clone(), it: Wire::Unsaid },
                producer,
                materialize: false,
                file_name: None,
            };
            return names.into_iter().map(unsaid).collect();
        };
        entries.iter().filter_map(|e| self.edge(e)).collect()
    }

    fn edge(&mut self, entry: &Entry) -> Option<RawEdge> {
        const EXPECTED: &str = "\"each\", \"all\", \"broadcast\", { window = … }, { tree = n }, \
                                { group = n } or { group-bytes = \"…\" }";
        let span = entry.node.span.clone();
        let mut edge = RawEdge {
            producer: key(entry),
            wire: At { span: span.clone(), it: Wire::Unsaid },
            materialize: false,
            file_name: None,
        };
        let Value::Table(entries) = &entry.node.value else {
            let known = [("each", 0), ("all", 1), ("broadcast", 2)];
            let name = match &entry.node.value {
                Value::Text(text) => known.iter().find(|(name, _)| name == text),
                _ => None,
            };
            let Some((_, which)) = name else {
                let message = format!("this does not say how the elements of `{}` connect", entry.key);
                self.fault(&span, message, format!("expected {EXPECTED}"));
                return None;
            };
            edge.wire.it = [Wire::Each, Wire::All, Wire::Broadcast][*which].clone();
            return Some(edge);
        };
        let (mut wires, mut border) = (Vec::new(), None);
        for e in entries {
            match e.key.as_str() {
                "materialize" => edge.materialize = self.boolean(&e.node),
                "as" => edge.file_name = self.text(&e.node),
                "edge" => {
                    let known = [("clip", Border::Clip), ("wrap", Border::Wrap), ("drop", Border::Drop)];
                    border = Some((e, self.choice(&e.node, &known)?));
                }
                "each" | "all" | "broadcast" | "window" | "tree" | "group" | "group-bytes" => {
                    wires.push(self.wire(e)?);
                }
                _ => {
                    let known = [
                        "each",
                        "all",
                        "broadcast",
                        "window",
                        "edge",
                        "tree",
                        "group",
                        "group-bytes",
                        "materialize",
                        "as",
                    ];
                    self.unknown_key(e, "an input", &known);
                    return None;
                }
            }
        }
        edge.materialize |= edge.file_name.is_some();
        if wires.len() > 1 {
            let message = format!("this says more than once how the elements of `{}` connect", entry.key);
            self.fault(&span, message, format!("expected one of {EXPECTED}"));
            return None;
        }
        edge.wire.it = wires.pop().unwrap_or(Wire::Unsaid);
        match (&mut edge.wire.it, border) {
            (Wire::Window(_, _, at), Some((_, border))) => *at = border,
            (_, Some((e, _))) => self.fault(&e.key_span, "only windows have an edge", "not expected here"),
            _ => {}
        }
        Some(edge)
    }

    fn wire(&mut self, e: &Entry) -> Option<Wire> {
        Some(match e.key.as_str() {
            "window" => {
                let Value::List(nodes) = &e.node.value else {
                    self.expected(&e.node, "two offsets, such as [-1, 1]");
                    return None;
                };
                let max = i64::from(COUNT_MAX);
                let offsets: Vec<i64> = nodes.iter().filter_map(|n| self.whole(n, -max, max)).collect();
                match offsets.as_slice() {
                    [low, high] if low <= high => Wire::Window(*low as i32, *high as i32, Border::Clip),
                    _ => {
                        let label = "expected two offsets, the smaller first";
                        self.fault(&e.node.span, "this is not a window", label);
                        return None;
                    }
                }
            }
            "tree" => Wire::Tree(self.count(&e.node, 2, COUNT_MAX)?),
            "group" => Wire::Group(self.count(&e.node, 1, COUNT_MAX)?),
            "group-bytes" => {
                let bytes = self.bytes(&e.node)?;
                if bytes == 0 {
                    self.fault(&e.node.span, "groups of no bytes do not exist", "expected at least 1B");
                    return None;
                }
                Wire::GroupBytes(bytes)
            }
            name => {
                if !self.boolean(&e.node) {
                    self.fault(&e.node.span, format!("`{name}` is said by `true`"), "expected `true`");
                    return None;
                }
                match name {
                    "each" => Wire::Each,
                    "all" => Wire::All,
                    _ => Wire::Broadcast,
                }
            }
        })
    }
}

/// `for-each`.
impl Decoder {
    pub(super) fn for_each(&mut self, node: &Node) -> Option<At<RawEach>> {
        let mut allow_empty = false;
        let mut rest = Vec::new();
        for e in self.entries(node, "`for-each`") {
            match e.key.as_str() {
                "allow-empty" => allow_empty = self.boolean(&e.node),
                _ => rest.push(e),
            }
        }
        let list = self.list(&node.span, &rest)?;
        Some(At { span: node.span.clone(), it: RawEach { list, allow_empty } })
    }

    fn list(&mut self, span: &std::ops::Range<usize>, entries: &[&Entry]) -> Option<List> {
        const KINDS: [&str; 9] =
            ["range", "values", "glob", "lines", "matrix", "blocks", "same-as", "size", "at"];
        if let Some(unknown) = entries.iter().find(|e| !KINDS.contains(&e.key.as_str())) {
            self.unknown_key(unknown, "`for-each`", &[&KINDS[..], &["allow-empty"]].concat());
            return None;
        }
        let sources: Vec<&&Entry> = entries.iter().filter(|e| e.key != "size" && e.key != "at").collect();
        let [source] = sources.as_slice() else {
            let (message, label) = match sources.len() {
                0 => ("`for-each` names no list", format!("expected one of {}", KINDS[..7].join(", "))),
                _ => (
                    "`for-each` names more than one list",
                    "expected one; combinations are a `matrix`".into(),
                ),
            };
            self.fault(span, message, label);
            return None;
        };
        if source.key != "blocks"
            && let Some(e) = entries.iter().find(|e| e.key == "size" || e.key == "at")
        {
            self.fault(&e.key_span, format!("`{}` belongs to `blocks`", e.key), "not expected here");
        }
        Some(match source.key.as_str() {
            "range" => List::Range(self.range(&source.node)?),
            "values" => List::Values(self.scalars(&source.node)),
            "glob" => List::Glob(self.texts(&source.node)),
            "lines" => List::Lines(self.text(&source.node)?),
            "matrix" => List::Matrix(self.matrix(&source.node)),
            "same-as" => List::SameAs(self.text(&source.node)?),
            _ => self.blocks(source, entries)?,
        })
    }

    fn range(&mut self, node: &Node) -> Option<Vec<At<String>>> {
        let numbers = self.scalars(node);
        if !(2..=3).contains(&numbers.len()) {
            self.fault(&node.span, "this is not a range", "expected [first, end] or [first, end, step]");
            return None;
        }
        Some(numbers)
    }

    fn matrix(&mut self, node: &Node) -> Vec<(At<String>, List)> {
        let mut axes = Vec::new();
        for e in self.entries(node, "`matrix`") {
            let list = match &e.node.value {
                Value::Table(entries) => {
                    let entries: Vec<&Entry> = entries.iter().collect();
                    self.list(&e.node.span, &entries)
                }
                _ => Some(List::Values(self.scalars(&e.node))),
            };
            if let Some(List::Matrix(_) | List::SameAs(_) | List::Blocks(..)) = list {
                self.fault(
                    &e.node.span,
                    "an axis of a matrix cannot be this",
                    "expected values, range, glob or lines",
                );
                continue;
            }
            axes.extend(list.map(|list| (key(e), list)));
        }
        axes
    }

    fn blocks(&mut self, source: &Entry, entries: &[&Entry]) -> Option<List> {
        let files = self.texts(&source.node);
        if let Some(at) = entries.iter().find(|e| e.key == "at") {
            self.choice(&at.node, &[("newline", ())]);
        }
        let Some(size) = entries.iter().find(|e| e.key == "size") else {
            self.fault(&source.key_span, "`blocks` need a size", "expected `size = \"128 MiB\"` beside it");
            return None;
        };
        match self.bytes(&size.node)? {
            0 => {
                self.fault(&size.node.span, "blocks of no bytes do not exist", "expected at least 1B");
                None
            }
            bytes => Some(List::Blocks(files, bytes)),
        }
    }
}

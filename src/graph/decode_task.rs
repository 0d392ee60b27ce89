//! The keys of `[task.NAME]`. Owns the form of each but those of `decode_wiring`; `decode` owns the
//! file around them.

use super::decode::{Decoder, key};
use super::raw::{At, Limits, RawPart, RawTask};
use super::source::{Entry, Node, Value};
use super::spec::{Action, Stdin};

/// All keys of a task.
pub const TASK_KEYS: [&str; 24] = [
    "argv",
    "shell",
    "native",
    "args",
    "for-each",
    "from",
    "after",
    "outputs",
    "env",
    "use",
    "cwd",
    "stdin",
    "nthreads",
    "gpus",
    "resources",
    "nodes",
    "ranks-per-node",
    "memory",
    "output-size",
    "max-output",
    "retries",
    "time-limit",
    "priority",
    "ok-exit",
];

impl Decoder {
    pub(super) fn task(&mut self, entry: &Entry) -> Option<RawTask> {
        let Value::Table(entries) = &entry.node.value else {
            self.expected(&entry.node, "a table, `[task.NAME]`");
            return None;
        };
        let mut task = RawTask {
            name: key(entry),
            action: None,
            texts: Vec::new(),
            args: None,
            for_each: None,
            from: Vec::new(),
            after: Vec::new(),
            outputs: Vec::new(),
            env: Vec::new(),
            setup: None,
            cwd: None,
            stdin: None,
            limits: Limits::default(),
        };
        for e in entries {
            if !self.action_key(e, &mut task)
                && !self.wiring_key(e, &mut task)
                && !self.limit_key(e, &mut task)
            {
                self.unknown_key(e, "a task", &TASK_KEYS);
            }
        }
        if task.action.is_none()
            && !entries.iter().any(|e| ["argv", "shell", "native"].contains(&e.key.as_str()))
        {
            let message = format!("the task `{}` says nothing to run", entry.key);
            self.fault(&entry.key_span, message, "expected `argv`, `shell` or `native`");
        }
        Some(task)
    }

    fn action_key(&mut self, e: &Entry, task: &mut RawTask) -> bool {
        let action = match e.key.as_str() {
            "argv" => {
                let Value::List(_) = e.node.value else {
                    self.expected(&e.node, "a list of strings (a line for the shell is `shell = \"…\"`)");
                    return true;
                };
                let words = self.scalars(&e.node);
                if words.is_empty() {
                    self.fault(&e.node.span, "`argv` is empty", "expected a program and its arguments");
                }
                task.texts = words.iter().map(|w| w.span.clone()).collect();
                Some(Action::Argv(words.into_iter().map(|w| w.it).collect()))
            }
            "shell" => self.text(&e.node).map(|line| {
                task.texts = vec![line.span];
                Action::Shell(line.it)
            }),
            "native" => self
                .text(&e.node)
                .map(|name| Action::Native { function: name.it, args: serde_json::Value::Null }),
            "args" => {
                task.args = Some(At { span: e.key_span.clone(), it: e.node.to_json() });
                return true;
            }
            _ => return false,
        };
        if let Some(first) = &task.action {
            let mut fault = super::diagnostic::Diagnostic::new(
                &e.key_span,
                format!("the task `{}` says twice what to run", task.name.it),
                "expected only one of `argv`, `shell` and `native`",
            );
            fault = fault.other(&first.span, "the first is here");
            self.faults.push(fault);
        } else {
            task.action = action.map(|it| At { span: e.key_span.clone(), it });
        }
        true
    }

    fn wiring_key(&mut self, e: &Entry, task: &mut RawTask) -> bool {
        match e.key.as_str() {
            "for-each" => task.for_each = self.for_each(&e.node),
            "from" => task.from = self.edges(&e.node),
            "after" => task.after = self.edges(&e.node),
            "outputs" => {
                for o in self.entries(&e.node, "`outputs`") {
                    task.outputs.extend(self.part(o));
                }
            }
            "env" => {
                for v in self.entries(&e.node, "`env`") {
                    task.env.extend(self.scalar(&v.node).map(|t| (v.key.clone(), t)));
                }
            }
            "use" => task.setup = self.text(&e.node),
            "cwd" => task.cwd = self.text(&e.node),
            "stdin" => task.stdin = self.stdin(&e.node),
            _ => return false,
        }
        true
    }

    fn limit_key(&mut self, e: &Entry, task: &mut RawTask) -> bool {
        let limits = &mut task.limits;
        match e.key.as_str() {
            "nthreads" => limits.nthreads = self.amount(&e.node),
            "gpus" => limits.resources.extend(self.amount(&e.node).map(|a| ("gpus".to_string(), a))),
            "resources" => {
                for r in self.entries(&e.node, "`resources`") {
                    limits.resources.extend(self.amount(&r.node).map(|a| (r.key.clone(), a)));
                }
            }
            "nodes" => limits.nodes = self.count(&e.node, 1, 1_000_000),
            "ranks-per-node" => limits.ranks = self.count(&e.node, 1, 1_000_000),
            "memory" => {
                limits.memory = match &e.node.value {
                    Value::List(nodes) => nodes.iter().filter_map(|n| self.bytes(n)).collect(),
                    _ => self.bytes(&e.node).into_iter().collect(),
                }
            }
            "output-size" => limits.output_size = self.bytes(&e.node),
            "max-output" => limits.max_output = self.bytes(&e.node),
            "retries" => limits.retries = self.count(&e.node, 0, 1_000_000).unwrap_or(0),
            "time-limit" => limits.time_limit_ms = self.millis(&e.node),
            "priority" => {
                let value = self.whole(&e.node, i64::from(i32::MIN), i64::from(i32::MAX));
                limits.priority = value.and_then(|v| i32::try_from(v).ok()).unwrap_or(0);
            }
            "ok-exit" => {
                let nodes = match &e.node.value {
                    Value::List(nodes) => nodes.iter().collect(),
                    _ => vec![&e.node],
                };
                let codes = nodes.into_iter().filter_map(|n| self.whole(n, 0, 255));
                limits.ok_exit = codes.map(|c| c as i32).collect();
            }
            _ => return false,
        }
        true
    }

    fn stdin(&mut self, node: &Node) -> Option<At<Stdin>> {
        let it = match &node.value {
            Value::Table(entries) if entries.len() == 1 && entries[0].key == "file" => {
                Stdin::File(self.text(&entries[0].node)?.it)
            }
            Value::Table(_) => {
                self.expected(node, "\"inputs\", \"none\" or { file = \"…\" }");
                return None;
            }
            _ => match self.text(node)?.it.as_str() {
                "inputs" => Stdin::Inputs,
                "none" => Stdin::Null,
                "auto" => Stdin::Auto,
                other => {
                    let label = "expected \"inputs\", \"none\" or { file = \"…\" }";
                    self.fault(&node.span, format!("stdin cannot be `{other}`"), label);
                    return None;
                }
            },
        };
        Some(At { span: node.span.clone(), it })
    }

    fn part(&mut self, entry: &Entry) -> Option<RawPart> {
        let name = key(entry);
        if let Value::Text(path) = &entry.node.value {
            let path = At { span: entry.node.span.clone(), it: path.clone() };
            return Some(RawPart { name, path, in_place: false });
        }
        let (mut path, mut in_place) = (None, false);
        for e in self.entries(&entry.node, "a named output") {
            match e.key.as_str() {
                "path" => path = self.text(&e.node),
                "in-place" => in_place = self.boolean(&e.node),
                _ => self.unknown_key(e, "a named output", &["path", "in-place"]),
            }
        }
        if path.is_none() {
            self.fault(&entry.key_span, format!("the output `{}` has no path", entry.key), "expected `path`");
        }
        Some(RawPart { name, path: path?, in_place })
    }
}

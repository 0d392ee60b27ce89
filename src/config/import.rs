//! Configuration of Dask and of dask-jobqueue (YAML) as ours (TOML), as far as there is something like it.
//! Owns which of Dask's settings stand for which of ours; batch systems' sections are `jobqueue`'s.

mod jobqueue;
mod yaml;

use crate::base::error::{Error, Kind, Result};
use crate::base::units::parse_bytes;
use std::fmt::Write as _;
use toml::{Table, Value};
use yaml::Node;

/// Settings that were found in files of Dask, and what of them there is not here.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Import {
    settings: Table,
    absent: Vec<String>,
}

/// How a value of Dask's is written here.
#[derive(Clone, Copy)]
enum Form {
    /// As it is.
    Same,
    /// A duration; `null` is `false`.
    Time,
    /// A size; `false` stays.
    Size,
    /// One more: Dask counts what is let pass, hpcdag what ends it.
    OneMore,
    /// A path.
    Path,
}

/// Dask's settings that have an equivalent.
const SAME: &[(&str, &str, Form)] = &[
    ("temporary-directory", "worker.local-directory", Form::Path),
    ("distributed.scheduler.allowed-failures", "scheduler.allowed-failures", Form::OneMore),
    ("distributed.scheduler.idle-timeout", "scheduler.idle-timeout", Form::Time),
    ("distributed.scheduler.work-stealing", "scheduler.work-stealing", Form::Same),
    ("distributed.scheduler.worker-saturation", "scheduler.saturation", Form::Same),
    ("distributed.scheduler.worker-ttl", "scheduler.worker-loss-timeout", Form::Time),
    ("distributed.worker.lifetime.duration", "worker.lifetime", Form::Time),
    ("distributed.worker.lifetime.stagger", "worker.lifetime-stagger", Form::Time),
    ("distributed.worker.lifetime.restart", "worker.lifetime-restart", Form::Same),
    ("distributed.worker.memory.target", "worker.memory.target", Form::Same),
    ("distributed.worker.memory.spill", "worker.memory.spill", Form::Same),
    ("distributed.worker.memory.pause", "worker.memory.pause", Form::Same),
    ("distributed.worker.memory.terminate", "worker.memory.terminate", Form::Same),
    ("distributed.worker.memory.max-spill", "worker.memory.max-spill", Form::Size),
    ("distributed.comm.timeouts.connect", "network.connect-timeout", Form::Time),
];

/// What there is nothing like, and why, or what does it instead. Of several that fit the first counts.
const ABSENT: &[(&str, &str)] = &[
    ("distributed.version", ""),
    ("distributed.scheduler.dashboard", "the dashboard has no such settings"),
    ("distributed.dashboard", "the dashboard has no such settings"),
    ("distributed.scheduler.preload", "Python does not run in the scheduler"),
    ("distributed.scheduler.default-task-durations", "durations are measured"),
    ("distributed.scheduler.unknown-task-duration", "durations are measured"),
    ("distributed.scheduler.locks", "locks follow their holder's session"),
    ("distributed.scheduler.http", "there are no plug-in routes"),
    ("distributed.scheduler.contact-address", "scheduler.host, scheduler.interface"),
    ("distributed.scheduler.active-memory-manager", "copies nobody needs are always dropped"),
    ("distributed.scheduler.no-workers-timeout", "`hpcdag explain` says why a task does not run"),
    ("distributed.worker.preload", "the prologue of jobs"),
    ("distributed.worker.profile", "there is no statistical profiler"),
    ("distributed.worker.http", "there are no plug-in routes"),
    ("distributed.worker.memory.rebalance", "it goes by itself"),
    ("distributed.worker.memory.spill-compression", "what is spilled is not compressed"),
    ("distributed.nanny.environ", "the prologue of jobs: export NAME=VALUE"),
    ("distributed.nanny.pre-spawn-environ", "set for executors by themselves"),
    ("distributed.nanny", "the prologue of jobs"),
    ("distributed.worker.memory.recent-to-old-time", "has no meaning here"),
    ("distributed.client", "has no meaning here"),
    ("distributed.adaptive", "options of `workers adapt`, arguments of `cluster.adapt`"),
    ("distributed.deploy", "has no meaning here"),
    ("distributed.comm.tls", "connections are always by TLS; the scheduler file has the credentials"),
    ("distributed.comm.require-encryption", "connections are always by TLS"),
    ("distributed.comm.compression", "nothing is compressed on the way"),
    ("distributed.comm.ucx", "there is one transport"),
    ("distributed.comm", "there is one transport"),
    ("distributed.p2p", "shuffling is by tasks"),
    ("distributed.diagnostics", "has no meaning here"),
    ("distributed.admin", "has no meaning here"),
    ("distributed.rmm", "has no meaning here"),
    ("logging", "log.level, log.format"),
];

/// What stays Dask's: its collections read it here as well.
const DASK_S_OWN: &[&str] = &[
    "array",
    "bag",
    "dataframe",
    "delayed",
    "optimization",
    "tokenize",
    "scheduler",
    "num_workers",
    "visualization",
    "admin",
];

impl Import {
    /// Adds a file; of two values for a setting the later one counts.
    ///
    /// # Errors
    /// `Config`: the text is not YAML, or not a mapping.
    pub fn add(&mut self, name: &str, text: &str) -> Result<()> {
        let fault = |what: String| Error::new(Kind::Config, format!("{name}: {what}"));
        let tree = Node::parse(text).map_err(fault)?;
        let Node::Map(entries) = tree else {
            return match tree {
                // A file of comments.
                Node::Null => Ok(()),
                _ => Err(fault("expected a mapping of settings".into())),
            };
        };
        for (key, value) in entries {
            match key.as_str() {
                "jobqueue" => self.add_jobqueue(&value),
                key if DASK_S_OWN.contains(&key) => {
                    self.miss(key, "Dask itself reads it: leave it in Dask's configuration");
                }
                key => self.add_node(key, &value),
            }
        }
        Ok(())
    }

    fn add_node(&mut self, key: &str, value: &Node) {
        if let Some((_, ours, form)) = SAME.iter().find(|(dask, ..)| *dask == key) {
            return self.convert(key, value, ours, *form);
        }
        if key == "distributed.worker.resources" {
            return self.resources(key, value);
        }
        let whole = ABSENT.iter().find(|(dask, _)| is_in(key, dask));
        // Parts of it may have equivalents, or other reasons.
        let below = SAME.iter().map(|(dask, ..)| dask).chain(ABSENT.iter().map(|(dask, _)| dask));
        let divided = whole.is_none() || below.into_iter().any(|dask| *dask != key && is_in(dask, key));
        match (value, whole) {
            (value, _) if value.is_empty() => {}
            (Node::Map(entries), _) if divided => {
                for (name, value) in entries {
                    self.add_node(&format!("{key}.{name}"), value);
                }
            }
            (_, Some((dask, ""))) if *dask == key => {}
            (_, whole) => self.miss(key, whole.map_or("", |(_, why)| why)),
        }
    }

    fn convert(&mut self, key: &str, value: &Node, ours: &str, form: Form) {
        let converted = match (form, value) {
            (Form::Time, Node::Null) => Some(Value::Boolean(false)),
            (_, Node::Null) => return,
            (Form::Same, value) => value.to_toml(),
            (Form::Time, value) => time(value).map(Value::String),
            (Form::Size, Node::Bool(false)) => Some(Value::Boolean(false)),
            (Form::Size, value) => size(value).map(Value::String),
            (Form::OneMore, Node::Int(n)) => n.checked_add(1).map(Value::Integer),
            (Form::OneMore, _) => None,
            (Form::Path, value) => value.text().map(Value::String),
        };
        // A worker is never waited for without end.
        let never = ours == "scheduler.worker-loss-timeout" && converted == Some(Value::Boolean(false));
        match converted.filter(|_| !never) {
            Some(value) => self.set(ours, value),
            None => self.miss(key, &format!("{} is nothing that {ours} takes", value.shown())),
        }
    }

    fn resources(&mut self, key: &str, value: &Node) {
        let Node::Map(entries) = value else {
            if !value.is_empty() {
                self.miss(key, "expected names and amounts");
            }
            return;
        };
        for (name, amount) in entries {
            match amount {
                Node::Int(_) | Node::Float(_) => {
                    if let Some(amount) = amount.to_toml() {
                        // Names may have dots, keys not.
                        let mut path = vec!["worker", "resources"];
                        path.push(name);
                        insert(&mut self.settings, &path, amount);
                    }
                }
                _ => self.miss(&format!("{key}.{name}"), "expected an amount"),
            }
        }
    }

    fn set(&mut self, ours: &str, value: Value) {
        let path: Vec<&str> = ours.split('.').collect();
        insert(&mut self.settings, &path, value);
    }

    fn miss(&mut self, key: &str, why: &str) {
        let line = if why.is_empty() { key.to_owned() } else { format!("{key}: {why}") };
        if !self.absent.contains(&line) {
            self.absent.push(line);
        }
    }

    /// What has no equivalent: Dask's name, and the reason or what does it instead.
    pub fn absent(&self) -> &[String] {
        &self.absent
    }

    /// A file of ours, with what has no equivalent as comments at its end.
    ///
    /// # Errors
    /// `Internal` when the settings cannot be written as TOML.
    pub fn render(&self) -> Result<String> {
        let text = toml::to_string_pretty(&self.settings);
        let mut text = text.map_err(|e| Error::new(Kind::Internal, format!("cannot write TOML: {e}")))?;
        if !self.absent.is_empty() {
            let gap = if text.is_empty() { "" } else { "\n" };
            text.push_str(gap);
            text.push_str("# Without an equivalent, or done otherwise:\n");
            for line in &self.absent {
                // The reasons have values of the file in them.
                let _ = writeln!(text, "#   {}", line.replace(char::is_control, " "));
            }
        }
        Ok(text)
    }
}

/// Whether a dotted key is another one, or below it.
fn is_in(key: &str, above: &str) -> bool {
    key.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

fn insert(table: &mut Table, path: &[&str], value: Value) {
    match path {
        [] => {}
        [name] => {
            table.insert((*name).to_owned(), value);
        }
        [name, rest @ ..] => {
            let inner = table.entry(*name).or_insert_with(|| Table::new().into());
            if let Value::Table(inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}

/// A duration as Dask writes it (`5 minutes`, `1h`, seconds as a number) in the way we write it.
fn time(value: &Node) -> Option<String> {
    let (number, unit) = match value {
        Node::Int(n) => (*n as f64, "s".to_owned()),
        Node::Float(x) => (*x, "s".to_owned()),
        Node::Text(text) => {
            let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
            let at = text.find(|c: char| c.is_alphabetic()).unwrap_or(text.len());
            (text[..at].parse().ok()?, text[at..].to_lowercase())
        }
        _ => return None,
    };
    let seconds = match unit.as_str() {
        "" | "s" | "sec" | "second" | "seconds" => 1.0,
        "ms" | "millisecond" | "milliseconds" => 1e-3,
        "us" | "microsecond" | "microseconds" => 1e-6,
        "m" | "min" | "minute" | "minutes" => 60.0,
        "h" | "hr" | "hour" | "hours" => 3600.0,
        "d" | "day" | "days" => 86_400.0,
        "w" | "week" | "weeks" => 604_800.0,
        _ => return None,
    };
    let ms = (number * seconds * 1000.0).round();
    if !(0.0..1e15).contains(&ms) {
        return None;
    }
    let ms = ms as u64;
    Some(match ms {
        0 => "0s".into(),
        ms if ms % 3_600_000 == 0 => format!("{}h", ms / 3_600_000),
        ms if ms % 60_000 == 0 => format!("{}m", ms / 60_000),
        ms if ms % 1000 == 0 => format!("{}s", ms / 1000),
        ms => format!("{ms}ms"),
    })
}

/// A size as Dask writes it (`4 GiB`, bytes as a number) in the way we write it.
fn size(value: &Node) -> Option<String> {
    let text = match value {
        Node::Int(n) if *n > 0 => format!("{n}B"),
        Node::Text(text) => {
            let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
            if text.parse::<u64>().is_ok() { format!("{text}B") } else { text }
        }
        _ => return None,
    };
    parse_bytes(&text).ok().map(|_| text)
}

#[cfg(test)]
mod tests;

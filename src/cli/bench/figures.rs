//! What a benchmark of speed says: one record of figures, printed, kept in a file, compared with an earlier
//! one. Owns the form of records and what decides in a comparison.

use crate::base::error::{Error, Kind, Result};
use crate::cli::args::RecordOptions;
use crate::cli::output::{self, Align, Out, Table};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// The figures of one benchmark.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Which benchmark.
    pub bench: String,
    /// What it was run with; only records with the same are compared.
    pub setup: BTreeMap<String, Value>,
    /// Tasks that ran.
    pub tasks: u64,
    /// Wall time of the measured part.
    pub seconds: f64,
    /// The one divided by the other.
    pub tasks_per_second: f64,
    /// Processor time of scheduler, workers and client together, microseconds.
    pub cpu_us_per_task: f64,
    /// Memory of the scheduler.
    pub scheduler_bytes_per_task: Option<f64>,
    /// What else there is to say.
    #[serde(flatten)]
    pub more: BTreeMap<String, Value>,
    /// Names of the figures that are the same in every run, whatever else the machine does: they decide in a
    /// comparison.
    #[serde(skip)]
    pub exact: Vec<&'static str>,
}

/// A file of figures.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Records {
    /// At most one for each benchmark and setup.
    records: Vec<Figures>,
}

/// A figure now and then.
#[derive(Clone, Debug, PartialEq)]
struct Change {
    name: String,
    then: f64,
    now: f64,
    /// Whether it decides.
    exact: bool,
}

impl Change {
    fn ratio(&self) -> f64 {
        if self.now == self.then { 1.0 } else { self.now / self.then }
    }
}

impl Figures {
    /// Figures of a benchmark that ran so many tasks in a time, with so much processor time of all parts.
    pub fn new(bench: &str, tasks: u64, wall: Duration, cpu: Duration) -> Figures {
        let (seconds, each) = (wall.as_secs_f64(), tasks.max(1) as f64);
        let figures = Figures {
            bench: bench.to_owned(),
            tasks,
            seconds,
            tasks_per_second: if seconds > 0.0 { tasks as f64 / seconds } else { 0.0 },
            cpu_us_per_task: cpu.as_secs_f64() * 1e6 / each,
            ..Figures::default()
        };
        // Figures of differently built programs have nothing to do with each other.
        figures.with("build", if cfg!(debug_assertions) { "debug" } else { "release" })
    }

    /// The same with one more thing that it was run with.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Figures {
        self.setup.insert(name.to_owned(), value.into());
        self
    }

    /// The same with one more figure.
    pub fn say(mut self, name: &str, value: impl Into<Value>) -> Figures {
        self.more.insert(name.to_owned(), value.into());
        self
    }

    /// Prints the figures, and keeps and compares them as was asked for; returns the exit code.
    ///
    /// # Errors
    /// `File` for files that cannot be read or written; `Unfit` when bytes or instructions have grown beyond
    /// the bound.
    pub fn finish(&self, options: &RecordOptions) -> Result<u8> {
        // Compared first: both files may be the same.
        let changes = match &options.compare {
            Some(path) => self.compare(path)?,
            None => None,
        };
        self.print(options.json.json, changes.as_deref())?;
        if let Some(path) = &options.save {
            self.save(path)?;
        }
        match changes {
            Some(changes) => judge(&changes, options.bound).map(|()| 0),
            None => Ok(0),
        }
    }

    fn print(&self, json: bool, changes: Option<&[Change]>) -> Result<()> {
        let mut out = Out::stdout();
        if json {
            let mut figures = self.clone();
            if let Some(changes) = changes {
                let ratios = changes.iter().map(|c| (c.name.clone(), Value::from(c.ratio())));
                figures.more.insert("ratios".into(), Value::Object(ratios.collect()));
            }
            return out.json(&figures);
        }
        let mut table = Table::new([("figure", Align::Left), ("value", Align::Right)]);
        table.row(["bench".to_owned(), self.bench.clone()]);
        let shown = |(_, value): &(&String, &Value)| !value.is_array() && !value.is_object();
        let setup = self.setup.iter().filter(|(name, _)| *name != "tasks");
        for (name, value) in setup.chain(&self.all()).filter(shown) {
            table.row([name.replace('_', " "), words(value)]);
        }
        out.table(&table)?;
        let Some(changes) = changes else { return Ok(()) };
        let head = [("compared", Align::Left), ("then", Align::Right), ("now", Align::Right)];
        let mut table = Table::new([head[0], head[1], head[2], ("ratio", Align::Right), ("", Align::Left)]);
        for c in changes {
            let decides = if c.exact { "decides" } else { "" };
            let (then, now) = (words(&c.then.into()), words(&c.now.into()));
            table.row([c.name.replace('_', " "), then, now, format!("{:.3}", c.ratio()), decides.into()]);
        }
        out.line("")?;
        out.table(&table)
    }

    /// All figures by name.
    fn all(&self) -> BTreeMap<String, Value> {
        let mut all = self.more.clone();
        let mut add = |name: &str, value: Value| all.insert(name.to_owned(), value);
        add("tasks", self.tasks.into());
        add("seconds", self.seconds.into());
        add("tasks_per_second", self.tasks_per_second.into());
        add("cpu_us_per_task", self.cpu_us_per_task.into());
        if let Some(bytes) = self.scheduler_bytes_per_task {
            add("scheduler_bytes_per_task", bytes.into());
        }
        all
    }

    fn is_like(&self, other: &Figures) -> bool {
        self.bench == other.bench && self.setup == other.setup
    }

    /// What has changed since the record of a file; nothing if it has none of this benchmark.
    fn compare(&self, path: &Path) -> Result<Option<Vec<Change>>> {
        let records = Records::read(path)?;
        let Some(then) = records.records.iter().find(|r| r.is_like(self)) else {
            let what = format!("{} has no figures of this benchmark with these options", path.display());
            output::say(&what);
            return Ok(None);
        };
        let before = then.all();
        let changes = self.all().into_iter().filter_map(|(name, now)| {
            let (then, now) = (before.get(&name)?.as_f64()?, now.as_f64()?);
            let exact = self.exact.contains(&name.as_str());
            (name != "tasks").then_some(Change { name, then, now, exact })
        });
        Ok(Some(changes.collect()))
    }

    fn save(&self, path: &Path) -> Result<()> {
        let mut records = if path.exists() { Records::read(path)? } else { Records::default() };
        match records.records.iter_mut().find(|r| r.is_like(self)) {
            Some(record) => *record = self.clone(),
            None => records.records.push(self.clone()),
        }
        let text =
            serde_json::to_string_pretty(&records).map_err(|e| Error::os("cannot print as JSON", e))?;
        std::fs::write(path, text + "\n").map_err(|e| Error::file("cannot write", path, &e))
    }
}

impl Records {
    fn read(path: &Path) -> Result<Records> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::file("cannot read", path, &e))?;
        serde_json::from_str(&text).map_err(|e| {
            Error::new(Kind::File, format!("{} has no figures of `bench --save`: {e}", path.display()))
        })
    }
}

/// Whether what decides has grown too much.
fn judge(changes: &[Change], bound: f64) -> Result<()> {
    let limit = 1.0 + bound / 100.0;
    let grown = changes.iter().filter(|c| c.exact && c.ratio() > limit);
    let grown: Vec<String> =
        grown.map(|c| format!("{} is {:.3} times what it was", c.name, c.ratio())).collect();
    if grown.is_empty() {
        return Ok(());
    }
    let hint = "if it must be so, record it: bench … --save FILE";
    Err(Error::new(Kind::Unfit, grown.join("; ")).hint(hint))
}

/// A value for people.
fn words(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(n) if n.is_f64() => {
            let x = n.as_f64().unwrap_or_default();
            match x.abs() {
                size if size >= 1000.0 => format!("{x:.0}"),
                size if size >= 10.0 => format!("{x:.1}"),
                size if size >= 0.1 => format!("{x:.3}"),
                _ => format!("{x:.6}"),
            }
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::JsonOption;

    fn figures(bytes: f64, seconds: u64) -> Figures {
        let mut figures = Figures::new("x", 10, Duration::from_secs(seconds), Duration::from_micros(50));
        figures.scheduler_bytes_per_task = Some(bytes);
        figures.exact = vec!["scheduler_bytes_per_task"];
        figures.with("shape", "tree").say("inputs", 3)
    }

    fn options(save: Option<&Path>, compare: Option<&Path>) -> RecordOptions {
        let path = |p: Option<&Path>| p.map(Path::to_owned);
        RecordOptions {
            json: JsonOption { json: true },
            save: path(save),
            compare: path(compare),
            bound: 10.0,
        }
    }

    #[test]
    fn figures_follow_from_what_was_measured() {
        let figures = figures(7.0, 2);
        assert_eq!((figures.tasks_per_second, figures.cpu_us_per_task), (5.0, 5.0));
        let json = serde_json::to_value(&figures).unwrap();
        assert_eq!(json["inputs"], 3);
        assert_eq!(serde_json::from_value::<Figures>(json).unwrap().more, figures.more);
    }

    #[test]
    fn bytes_decide_and_times_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f.json");
        assert_eq!(figures(100.0, 1).finish(&options(Some(&file), None)), Ok(0));
        assert_eq!(figures(109.0, 9).finish(&options(None, Some(&file))), Ok(0));
        let grown = figures(111.0, 1).finish(&options(None, Some(&file))).unwrap_err();
        assert_eq!(grown.kind, Kind::Unfit);
        assert!(grown.message.contains("scheduler_bytes_per_task"), "{grown}");
        // Other options are another benchmark.
        assert_eq!(
            figures(200.0, 1).with("shape", "merge").finish(&options(Some(&file), Some(&file))),
            Ok(0)
        );
        assert_eq!(Records::read(&file).unwrap().records.len(), 2);
        assert_eq!(figures(120.0, 1).finish(&options(Some(&file), None)), Ok(0));
        assert_eq!(figures(121.0, 1).finish(&options(None, Some(&file))), Ok(0));
        assert!(figures(1.0, 1).finish(&options(None, Some(Path::new("/nowhere")))).is_err());
    }
}

//! Files of `submit --record`: a run's shape as lines of JSON (edges, sizes, durations, memory), without its
//! data, code or names. Owns their form, how they are written and how they are read.

use crate::base::error::{Error, Kind, Result};
use crate::base::ids::RunUuid;
use crate::client::Client;
use crate::client::summary::RunSummary;
use crate::graph::Graph;
use crate::graph::layer::{Edge, Layer, Pattern, SLOT, Shape, Size};
use crate::protocol::messages::client::Question;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// The form that is written and read.
const FORM: u32 = 1;

/// No result is larger, bytes.
const BYTES_MAX: u64 = 1 << 47;

/// No task takes longer, microseconds: a year.
const DURATION_MAX_US: f64 = 365.0 * 24.0 * 3600.0 * 1e6;

/// The first line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Header {
    /// The form of the file.
    pub hpcdag_shape: u32,
    /// Of the program that wrote it.
    pub version: String,
    /// Lines that follow, one for each family.
    pub families: u32,
    /// Elements of all families together.
    pub tasks: u64,
    /// Dependencies between elements.
    pub edges: u64,
    /// Tasks that succeeded.
    pub succeeded: u64,
    /// Tasks that failed.
    pub failed: u64,
    /// From submission to the last task's end.
    pub wall_seconds: f64,
    /// The sum of all executions' durations.
    pub task_seconds: f64,
    /// Bytes that workers fetched from one another.
    pub bytes_moved: u64,
    /// The workers that were connected at the end.
    pub workers: Vec<Offer>,
}

/// What a worker offered, and used.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Offer {
    /// Its threads.
    pub nthreads: f64,
    /// Its memory limit, bytes.
    pub memory_limit: Option<u64>,
    /// The most memory that it used as far as it has said, bytes.
    pub peak_memory: Option<u64>,
    /// Its resources.
    pub resources: BTreeMap<String, f64>,
}

/// A line about a family.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Line {
    /// Its number, from 0; every edge points to a smaller one.
    pub family: u32,
    /// Number of elements that it came to have.
    pub elements: u32,
    /// Whether that became known only while the graph ran.
    #[serde(default)]
    pub follows: bool,
    /// What its elements depend on.
    pub edges: Vec<Edge>,
    /// Threads of an element.
    pub nthreads: f64,
    /// Whole nodes of an element; 1 for one that takes threads.
    pub nodes: u32,
    /// The user's priority.
    pub priority: i32,
    /// Declared memory of an element, bytes, by attempt.
    pub memory: Vec<u64>,
    /// Declared size of a result, bytes.
    pub output_size: Option<u64>,
    /// Resources of an element.
    pub resources: BTreeMap<String, f64>,
    /// Elements that succeeded.
    pub done: u32,
    /// How long an element took, microseconds (smoothed).
    pub duration_us: Option<f64>,
    /// Bytes of the results: of each element in order, one value for all, or quantiles at even distances.
    pub bytes: Vec<u64>,
    /// Whether `bytes` are quantiles.
    pub quantiles: bool,
}

/// A file.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// About all of it.
    pub header: Header,
    /// The families, in order.
    pub lines: Vec<Line>,
}

/// What the scheduler says of a family.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Told {
    elements: u32,
    done: u32,
    duration_us: Option<f64>,
    bytes: Vec<u64>,
    quantiles: bool,
}

impl Line {
    /// What scheduling needs of it. Tasks on several nodes become tasks of their threads.
    pub fn layer(&self) -> Layer {
        Layer {
            size: if self.follows { Size::Follows } else { Size::Fixed(self.elements) },
            edges: self.edges.clone(),
            priority: self.priority,
            slots: (self.nthreads * f64::from(SLOT)).round() as u32,
            resources: self.resources.iter().map(|(name, n)| (name.clone(), units(*n))).collect(),
            memory: self.memory.clone(),
            output_size: self.output_size,
            ..Layer::default()
        }
    }

    /// Whether it is a tree.
    fn is_tree(&self) -> bool {
        self.edges.iter().any(|e| matches!(e.pattern, Pattern::Tree { .. }))
    }

    fn shape(&self) -> Shape {
        let first_export = if self.is_tree() { self.elements.saturating_sub(1) } else { 0 };
        Shape { total: self.elements, first_export }
    }

    /// Whether an element's size is drawn from `bytes` instead of standing there. (Elements of trees that
    /// nobody sees have no index at the worker.)
    pub fn draws(&self) -> bool {
        self.quantiles || self.is_tree()
    }

    fn check(&self, place: u32) -> Result<(), String> {
        let number = |n: &f64, max: f64| n.is_finite() && (0.0..=max).contains(n);
        if self.family != place {
            return Err(format!("family {} stands where family {place} should", self.family));
        }
        if let Some(edge) = self.edges.iter().find(|e| e.producer.0 >= place) {
            return Err(format!("an edge points to family {}, which is not an earlier one", edge.producer.0));
        }
        let most = f64::from(u32::MAX / SLOT);
        if !number(&self.nthreads, most) || !self.resources.values().all(|n| number(n, most)) {
            return Err("`nthreads` and `resources` are not numbers that can be".into());
        }
        if self.duration_us.is_some_and(|us| !number(&us, DURATION_MAX_US)) {
            return Err("`duration-us` is not a time that can be".into());
        }
        if self.bytes.iter().chain(&self.memory).any(|b| *b > BYTES_MAX) {
            return Err("a size is larger than can be".into());
        }
        let each = self.bytes.len() == self.elements as usize || self.bytes.len() == 1;
        if !self.quantiles && !each {
            return Err(format!("{} sizes are said of {} elements", self.bytes.len(), self.elements));
        }
        Ok(())
    }
}

/// An amount in 1/10,000.
pub fn units(amount: f64) -> u64 {
    (amount * f64::from(SLOT)).round() as u64
}

/// How many dependencies there are between the elements of all families. Groups by bytes take each element
/// of their producer once.
pub fn count_edges(lines: &[Line]) -> u64 {
    let mut sum = 0u64;
    for line in lines {
        for edge in &line.edges {
            let n = lines.get(edge.producer.index()).map_or(0, |p| p.shape().exports());
            let inputs = |i: u32| -> u64 {
                edge.pattern.inputs(i, n).iter().map(|s| u64::from(s.range.end - s.range.start)).sum()
            };
            sum += match &edge.pattern {
                Pattern::Explicit(csr) => csr.targets.len() as u64,
                Pattern::GroupBytes { .. } => n.into(),
                Pattern::All => u64::from(line.elements) * u64::from(n),
                _ => (0..line.elements).map(inputs).sum(),
            };
        }
    }
    sum
}

impl Record {
    /// Gathers the record of a run that has ended.
    ///
    /// # Errors
    /// The end of the session; `NotFound` if the scheduler has forgotten the run.
    pub async fn gather(
        client: &Client,
        graph: &Graph,
        run: RunUuid,
        summary: &RunSummary,
    ) -> Result<Record> {
        let mut names = BTreeMap::new();
        let mut lines: Vec<Line> = Vec::with_capacity(graph.families.len());
        while lines.len() < graph.families.len() {
            let from = lines.len() as u32;
            let mut answer = client.ask(Question::Shape { run, from }).await?;
            let told: Vec<Told> = decode(answer["families"].take())?;
            if told.is_empty() {
                return Err(Error::os("cannot record the run", "the scheduler says too little of it"));
            }
            for (family, told) in graph.families.iter().skip(lines.len()).zip(told) {
                lines.push(line(lines.len() as u32, &family.layer, told, &mut names));
            }
        }
        let status = client.ask(Question::Status).await?;
        let workers = status["workers"].as_array().map(Vec::as_slice).unwrap_or_default();
        let header = Header {
            hpcdag_shape: FORM,
            version: env!("CARGO_PKG_VERSION").into(),
            families: lines.len() as u32,
            tasks: lines.iter().map(|l| u64::from(l.elements)).sum(),
            edges: count_edges(&lines),
            succeeded: summary.succeeded,
            failed: summary.failed,
            wall_seconds: summary.wall.as_secs_f64(),
            task_seconds: summary.task_time.as_secs_f64(),
            bytes_moved: summary.bytes_moved,
            workers: workers.iter().map(|w| offer(w, &mut names)).collect(),
        };
        Ok(Record { header, lines })
    }

    /// Writes it to a file.
    ///
    /// # Errors
    /// `File`.
    pub fn write(&self, file: File, path: &Path) -> Result<()> {
        let fault = |e: std::io::Error| Error::file("cannot write", path, &e);
        let mut out = BufWriter::new(file);
        let header = serde_json::to_string(&self.header);
        for text in std::iter::once(header).chain(self.lines.iter().map(serde_json::to_string)) {
            let text = text.map_err(|e| Error::os("cannot write as JSON", e))?;
            writeln!(out, "{text}").map_err(fault)?;
        }
        out.flush().map_err(fault)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// `File` with the number of the line that is wrong.
    pub fn read(path: &Path) -> Result<Record> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::file("cannot read", path, &e))?;
        let mut rest = text.lines();
        let head = rest.next().unwrap_or_default();
        let form = serde_json::from_str::<Value>(head).ok().and_then(|v| v["hpcdag-shape"].as_u64());
        match form {
            Some(n) if n == u64::from(FORM) => {}
            Some(n) => return Err(fault(path, 1, format!("form {n} is not known here, only {FORM}"))),
            None => return Err(fault(path, 1, "this is no record of `submit --record`")),
        }
        let header: Header = parse(path, 1, head)?;
        let mut lines: Vec<Line> = Vec::new();
        for (place, text) in (0u32..).zip(rest) {
            let line: Line = parse(path, place as usize + 2, text)?;
            line.check(place).map_err(|what| fault(path, place as usize + 2, what))?;
            lines.push(line);
        }
        if lines.len() != header.families as usize {
            let what = format!("{} families are announced, {} follow", header.families, lines.len());
            return Err(fault(path, lines.len() + 1, what));
        }
        Ok(Record { header, lines })
    }
}

/// An error in a file. The first line is 1.
pub fn fault(path: &Path, line: usize, what: impl std::fmt::Display) -> Error {
    Error::new(Kind::File, format!("{}, line {line}: {what}", path.display()))
}

fn parse<T: DeserializeOwned>(path: &Path, line: usize, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| fault(path, line, e))
}

fn decode<T: DeserializeOwned>(value: Value) -> Result<T> {
    serde_json::from_value(value).map_err(|e| Error::os("cannot read the scheduler's answer", e))
}

/// What stands for a resource's name: the same everywhere in one record.
fn anonymous(name: &str, names: &mut BTreeMap<String, String>) -> String {
    let next = format!("r{}", names.len());
    names.entry(name.to_owned()).or_insert(next).clone()
}

fn line(family: u32, layer: &Layer, told: Told, names: &mut BTreeMap<String, String>) -> Line {
    let amount = |n: u64| n as f64 / f64::from(SLOT);
    Line {
        family,
        elements: told.elements,
        follows: layer.size == Size::Follows,
        edges: layer.edges.clone(),
        nthreads: amount(layer.slots.into()),
        nodes: layer.nodes,
        priority: layer.priority,
        memory: layer.memory.clone(),
        output_size: layer.output_size,
        resources: layer.resources.iter().map(|(name, n)| (anonymous(name, names), amount(*n))).collect(),
        done: told.done,
        duration_us: told.duration_us,
        bytes: if told.bytes.is_empty() { vec![0] } else { told.bytes },
        quantiles: told.quantiles,
    }
}

fn offer(worker: &Value, names: &mut BTreeMap<String, String>) -> Offer {
    let resources = worker["resources"].as_object();
    let amounts = resources.into_iter().flatten().filter_map(|(name, n)| Some((name, n.as_f64()?)));
    Offer {
        nthreads: worker["threads"].as_f64().unwrap_or(1.0),
        memory_limit: worker["memory"]["limit"].as_u64(),
        peak_memory: worker["memory"]["peak-total"].as_u64().filter(|n| *n > 0),
        resources: amounts.map(|(name, n)| (anonymous(name, names), n)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::FamilyIx;

    fn told(elements: u32) -> Told {
        Told { elements, done: elements, duration_us: Some(5.5), bytes: vec![8], quantiles: false }
    }

    fn record() -> Record {
        let mut names = BTreeMap::new();
        let layer = |n, edges| Layer { size: Size::Fixed(n), edges, ..Layer::default() };
        let on = |pattern| vec![Edge { producer: FamilyIx(0), pattern, data: true }];
        let mut first = layer(9, Vec::new());
        first.resources = [("licence".to_owned(), 15_000)].into();
        let tree = layer(4, on(Pattern::Tree { fan_in: 3 }));
        let lines = vec![line(0, &first, told(9), &mut names), line(1, &tree, told(4), &mut names)];
        let header = Header {
            hpcdag_shape: 1,
            version: "0".into(),
            families: 2,
            tasks: 13,
            edges: count_edges(&lines),
            succeeded: 13,
            failed: 0,
            wall_seconds: 1.5,
            task_seconds: 1.0,
            bytes_moved: 0,
            workers: vec![Offer::default()],
        };
        Record { header, lines }
    }

    #[test]
    fn what_is_written_can_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shape");
        let record = record();
        record.write(File::create(&path).unwrap(), &path).unwrap();
        assert_eq!(Record::read(&path).unwrap(), record);
        assert_eq!(record.header.edges, 9 + 3);
        assert_eq!(record.lines[0].layer().resources, [("r0".to_owned(), 15_000)].into());
    }

    #[test]
    fn errors_name_the_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shape");
        record().write(File::create(&path).unwrap(), &path).unwrap();
        let good = std::fs::read_to_string(&path).unwrap();
        let broken = [
            (good.replace("\"family\":1", "\"family\":7"), "line 3: family 7"),
            (good.replace("\"producer\":0", "\"producer\":1"), "line 3: an edge"),
            (good.replacen("5.5", "-1", 1), "line 2: `duration-us`"),
            (good.replacen("[8]", "[8,8]", 1), "line 2: 2 sizes"),
            (good.replacen("\"elements\":4", "\"elements\":\"x\"", 1), "line 3: "),
            (good.replace("\"families\":2", "\"families\":3"), "line 3: 3 families"),
            (good.replace("shape\":1", "shape\":2"), "line 1: form 2"),
            ("{}".into(), "line 1: "),
            (String::new(), "line 1: "),
        ];
        for (text, words) in broken {
            assert_ne!(text, good, "{words}");
            std::fs::write(&path, text).unwrap();
            let error = Record::read(&path).unwrap_err();
            assert!(error.message.contains(words), "{words}: {error}");
        }
    }
}

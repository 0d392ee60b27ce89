//! What happened, as data: rectangles of the task stream and events, one JSON object a line, or as columns
//! that data frames take as they are. Owns these forms and how rectangles are read from an answer.

use serde_json::{Map, Value, json};
use std::io::{self, Write};

/// A rectangle of the task stream, with names instead of numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rectangle<'a> {
    /// The worker's name.
    pub worker: &'a str,
    /// Slots from 0; transfers from 100,000, the disk from 200,000.
    pub lane: u64,
    /// `compute`, `failed`, `fetch` and so on.
    pub kind: &'a str,
    /// The group of the task.
    pub group: Option<&'a str>,
    /// The first task.
    pub key: Option<&'a str>,
    /// How many tasks or transfers it stands for.
    pub count: u64,
    /// Seconds since 1970.
    pub start: f64,
    /// How long it took.
    pub seconds: f64,
    /// Bytes made, fetched, written or read.
    pub bytes: u64,
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The rectangles of an answer, oldest first, then those of tasks that have not ended. Those that make no
/// sense are passed over.
pub fn rectangles(spans: &Value) -> impl Iterator<Item = Rectangle<'_>> {
    rows(spans, spans).chain(rows(spans, &spans["open"]))
}

/// Rectangles of columns whose names are in `spans`.
fn rows<'a>(spans: &'a Value, columns: &'a Value) -> impl Iterator<Item = Rectangle<'a>> {
    let named = |names: &str, column: &str, k: usize| -> Option<&'a str> {
        let index = usize::try_from(list(&columns[column]).get(k)?.as_u64()?).ok()?;
        list(&spans[names]).get(index)?.as_str()
    };
    let number = |column: &str, k: usize| list(&columns[column]).get(k).and_then(Value::as_u64);
    let float = |column: &str, k: usize| {
        list(&columns[column]).get(k).and_then(Value::as_f64).filter(|n| n.is_finite())
    };
    (0..list(&columns["start"]).len()).filter_map(move |k| {
        Some(Rectangle {
            worker: named("workers", "worker", k)?,
            lane: number("lane", k)?,
            kind: named("kinds", "kind", k)?,
            group: named("groups", "group", k),
            key: list(&columns["key"]).get(k).and_then(Value::as_str),
            count: number("count", k).unwrap_or(1),
            start: float("start", k)?,
            seconds: float("seconds", k)?.max(0.0),
            bytes: number("bytes", k).unwrap_or(0),
        })
    })
}

/// Writes one object a line: rectangles as `"type": "span"`, then events as `"type": "event"`.
///
/// # Errors
/// What writing gives.
pub fn ndjson(data: &Value, out: &mut impl Write) -> io::Result<()> {
    for r in rectangles(&data["spans"]) {
        let line = json!({
            "type": "span", "worker": r.worker, "lane": r.lane, "kind": r.kind, "group": r.group,
            "key": r.key, "count": r.count, "start": r.start, "seconds": r.seconds, "bytes": r.bytes,
        });
        writeln!(out, "{line}")?;
    }
    for event in list(&data["events"]["events"]) {
        let mut line = event.clone();
        line["type"] = json!("event");
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// Two tables of columns of the same length and one type each: `spans` and `events`.
pub fn columns(data: &Value) -> Value {
    let mut spans = Table::default();
    for r in rectangles(&data["spans"]) {
        spans.add("worker", json!(r.worker));
        spans.add("lane", json!(r.lane));
        spans.add("kind", json!(r.kind));
        spans.add("group", json!(r.group));
        spans.add("key", json!(r.key));
        spans.add("count", json!(r.count));
        spans.add("start", json!(r.start));
        spans.add("seconds", json!(r.seconds));
        spans.add("bytes", json!(r.bytes));
    }
    let mut events = Table::default();
    for event in list(&data["events"]["events"]) {
        for name in ["number", "time", "level", "kind", "text", "key", "run", "worker"] {
            events.add(name, event[name].clone());
        }
    }
    json!({ "spans": spans.0, "events": events.0 })
}

#[derive(Default)]
struct Table(Map<String, Value>);

impl Table {
    fn add(&mut self, column: &str, value: Value) {
        let column = self.0.entry(column).or_insert_with(|| json!([]));
        if let Some(column) = column.as_array_mut() {
            column.push(value);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What a run of two tasks and a transfer leaves behind.
    pub fn data() -> Value {
        json!({
            "spans": {"next": 4, "left-out": 0, "workers": ["w1", "w2"], "groups": ["day"],
                "kinds": ["compute", "failed", "fetch", "spill-write", "spill-read", "wait"],
                "worker": [0, 1, 1, 9], "lane": [0, 1, 100_000, 0], "kind": [0, 1, 2, 0],
                "group": [0, 0, -1, 0], "key": ["day[0]", "day[1]", null, null], "count": [1, 1, 3, 1],
                "start": [1790000000.25, 1790000001.0, 1790000002.0, 1.0], "seconds": [0.5, 2.0, 0.001, 1.0],
                "bytes": [100, 0, 300, 0]},
            "events": {"next": 2, "events": [{"number": 1, "time": 1790000003.0, "level": "error",
                "kind": "task-failed", "text": "day[1] failed", "key": "day[1]", "run": "r",
                "worker": "w2"}]},
        })
    }

    #[test]
    fn lines_are_objects_with_names() {
        let mut out = Vec::new();
        ndjson(&data(), &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines.len(), 4, "a rectangle of no worker is none");
        assert_eq!((&lines[0]["type"], &lines[0]["key"]), (&json!("span"), &json!("day[0]")));
        assert_eq!((&lines[1]["kind"], &lines[1]["worker"]), (&json!("failed"), &json!("w2")));
        assert_eq!(lines[2]["group"], Value::Null);
        assert_eq!((&lines[3]["type"], &lines[3]["kind"]), (&json!("event"), &json!("task-failed")));
    }

    #[test]
    fn what_has_not_ended_comes_last() {
        let mut data = data();
        data["spans"]["kinds"].as_array_mut().unwrap().push(json!("running"));
        data["spans"]["open"] = json!({ "worker": [1], "lane": [0], "kind": [6], "group": [0],
            "key": ["day[2]"], "count": [1], "start": [1790000001.0], "seconds": [9.0], "bytes": [0] });
        let last = rectangles(&data["spans"]).last().unwrap();
        assert_eq!((last.kind, last.key, last.worker, last.seconds), ("running", Some("day[2]"), "w2", 9.0));
        assert_eq!(columns(&data)["spans"]["kind"].as_array().unwrap().len(), 4);
    }

    #[test]
    fn columns_are_of_the_same_length() {
        let columns = columns(&data());
        for (table, rows) in [("spans", 3), ("events", 1)] {
            let table = columns[table].as_object().unwrap();
            assert!(table.len() >= 8 && table.values().all(|c| c.as_array().unwrap().len() == rows));
        }
        assert_eq!(columns["spans"]["seconds"], json!([0.5, 2.0, 0.001]));
        assert_eq!(super::columns(&json!({})), json!({ "spans": {}, "events": {} }));
    }
}

//! A run as trace events, for Perfetto and Chrome's viewer. Owns the mapping: a worker is a process, a slot a
//! thread, a rectangle a complete event; memory and tasks are counters, what happened are instants.

use super::raw::rectangles;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{self, Write};

/// The process of what belongs to no worker.
const CLUSTER: usize = 0;

/// Lanes of transfers and of the disk begin here.
const TRANSFERS: u64 = 100_000;
const DISKS: u64 = 200_000;

/// The number of a thread in the trace: viewers sort by it, and show it where there is no name.
fn thread(lane: u64) -> u64 {
    lane + 1
}

fn thread_name(lane: u64) -> String {
    match lane {
        0..TRANSFERS => format!("slot {lane}"),
        TRANSFERS..DISKS => format!("transfers {}", lane - TRANSFERS),
        DISKS => "disk, written".into(),
        _ => "disk, read".into(),
    }
}

/// Writes the trace. Times are microseconds since the first thing in it.
///
/// # Errors
/// What writing gives.
pub fn write(data: &Value, out: &mut impl Write) -> io::Result<()> {
    let begin = begin(data);
    let us = |seconds: f64| ((seconds - begin) * 1e6).round();
    let mut events = Events { out, first: true };
    events.out.write_all(b"{\"displayTimeUnit\": \"ms\", \"otherData\": ")?;
    let about =
        json!({ "program": "hpcdag", "begin": begin, "run": data["run"]["id"], "name": data["run"]["name"] });
    write!(events.out, "{about}, \"traceEvents\": [")?;
    events.name("process_name", CLUSTER, 0, "cluster")?;
    let mut workers: BTreeMap<&str, usize> = BTreeMap::new();
    let mut lanes: BTreeMap<(usize, u64), ()> = BTreeMap::new();
    for r in rectangles(&data["spans"]) {
        let known = workers.len();
        let pid = *workers.entry(r.worker).or_insert(known + 1);
        if pid > known {
            events.name("process_name", pid, 0, r.worker)?;
        }
        if lanes.insert((pid, r.lane), ()).is_none() {
            events.name("thread_name", pid, thread(r.lane), &thread_name(r.lane))?;
        }
        let name = match r.kind {
            "compute" | "failed" | "running" => r.group.or(r.key).unwrap_or(r.kind),
            other => other,
        };
        let mut event = json!({
            "ph": "X", "name": name, "cat": r.kind, "pid": pid, "tid": thread(r.lane), "ts": us(r.start),
            "dur": (r.seconds * 1e6).round(),
            "args": { "key": r.key, "count": r.count, "bytes": r.bytes },
        });
        if r.kind == "failed" {
            event["cname"] = json!("terrible");
        }
        events.add(&event)?;
    }
    for event in data["events"]["events"].as_array().into_iter().flatten() {
        let Some(time) = event["time"].as_f64() else { continue };
        events.add(&json!({
            "ph": "i", "s": "g", "name": event["text"], "cat": event["kind"], "pid": CLUSTER, "tid": 0,
            "ts": us(time),
            "args": { "key": event["key"], "worker": event["worker"], "level": event["level"] },
        }))?;
    }
    counters(&data["series"], us, &mut events)?;
    events.out.write_all(b"\n]}\n")
}

/// The first moment of the trace.
fn begin(data: &Value) -> f64 {
    let spans = rectangles(&data["spans"]).map(|r| r.start);
    let events = data["events"]["events"].as_array().into_iter().flatten();
    let events = events.filter_map(|e| e["time"].as_f64());
    let series = data["series"]["time"].as_array().into_iter().flatten().filter_map(Value::as_f64);
    let first = spans.chain(events).chain(series).fold(f64::INFINITY, f64::min);
    if first.is_finite() { first } else { 0.0 }
}

fn counters<W: Write>(series: &Value, us: impl Fn(f64) -> f64, events: &mut Events<W>) -> io::Result<()> {
    let groups: [(&str, &[&str]); 3] = [
        ("memory", &["managed", "unmanaged", "spilled"]),
        ("tasks", &["executing", "queued"]),
        ("cpu", &["cpu"]),
    ];
    for (k, time) in series["time"].as_array().into_iter().flatten().enumerate() {
        let Some(time) = time.as_f64() else { continue };
        for (name, columns) in groups {
            let known = columns.iter().filter_map(|c| {
                let value = series["total"][c][k].as_f64()?;
                Some(((*c).to_owned(), json!(value)))
            });
            let args: serde_json::Map<String, Value> = known.collect();
            if !args.is_empty() {
                let ts = us(time);
                let mut counter = json!({ "ph": "C", "name": name, "pid": CLUSTER, "tid": 0, "ts": ts });
                counter["args"] = Value::Object(args);
                events.add(&counter)?;
            }
        }
    }
    Ok(())
}

/// The list of events, as it is written.
struct Events<'a, W> {
    out: &'a mut W,
    first: bool,
}

impl<W: Write> Events<'_, W> {
    fn add(&mut self, event: &Value) -> io::Result<()> {
        let comma = if std::mem::take(&mut self.first) { "" } else { "," };
        write!(self.out, "{comma}\n{event}")
    }

    fn name(&mut self, what: &str, pid: usize, tid: u64, name: &str) -> io::Result<()> {
        self.add(&json!({ "ph": "M", "name": what, "pid": pid, "tid": tid, "args": { "name": name } }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dashboard::raw::tests::data;

    fn trace(data: &Value) -> Vec<Value> {
        let mut out = Vec::new();
        write(data, &mut out).unwrap();
        let trace: Value = serde_json::from_slice(&out).unwrap();
        trace["traceEvents"].as_array().unwrap().clone()
    }

    #[test]
    fn workers_are_processes_and_slots_are_threads() {
        let events = trace(&data());
        let of = |ph: &str| events.iter().filter(|e| e["ph"] == ph).collect::<Vec<_>>();
        let complete = of("X");
        assert_eq!(complete.len(), 3);
        assert_eq!((&complete[0]["ts"], &complete[0]["dur"]), (&json!(0.0), &json!(500_000.0)));
        assert_eq!((&complete[0]["name"], &complete[0]["args"]["key"]), (&json!("day"), &json!("day[0]")));
        assert_eq!((&complete[1]["ts"], &complete[1]["cname"]), (&json!(750_000.0), &json!("terrible")));
        assert_eq!((&complete[2]["name"], &complete[2]["tid"]), (&json!("fetch"), &json!(100_001)));
        let names: Vec<&str> = of("M").iter().map(|e| e["args"]["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["cluster", "w1", "slot 0", "w2", "slot 1", "transfers 0"]);
        assert_eq!((of("i").len(), &of("i")[0]["name"]), (1, &json!("day[1] failed")));
    }

    #[test]
    fn series_are_counters_and_nothing_is_a_trace_too() {
        let mut with = data();
        with["series"] = json!({ "time": [1790000000.0, 1790000001.0],
            "total": { "managed": [1, 2], "executing": [3, null], "cpu": [] } });
        let counters: Vec<Value> = trace(&with).into_iter().filter(|e| e["ph"] == "C").collect();
        assert_eq!(counters.len(), 3);
        assert_eq!((&counters[0]["name"], &counters[0]["args"]["managed"]), (&json!("memory"), &json!(1.0)));
        assert_eq!((&counters[2]["ts"], &counters[2]["args"]["managed"]), (&json!(1e6), &json!(2.0)));
        assert_eq!(trace(&json!({})).len(), 1);
    }
}

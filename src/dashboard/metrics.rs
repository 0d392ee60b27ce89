//! `/metrics`: figures of the cluster as Prometheus reads them, made of the same JSON as the pages. Owns the
//! names and units; `docs/dashboard.md` lists them.

use super::Source;
use crate::base::error::{Kind, Result};
use crate::protocol::messages::client::Question;
use crate::protocol::messages::look::View;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

/// How far back the newest point of the series may be, in seconds.
const RECENT: Duration = Duration::from_secs(30);

/// The form of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Prometheus' own.
    Prometheus,
    /// OpenMetrics.
    OpenMetrics,
}

impl Form {
    /// What somebody takes who says so.
    pub fn accepted(accept: &str) -> Form {
        if accept.contains("application/openmetrics-text") { Form::OpenMetrics } else { Form::Prometheus }
    }

    /// Its name over HTTP.
    pub fn kind(self) -> &'static str {
        match self {
            Form::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Form::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Asks for the figures and writes them down.
pub async fn text(source: &dyn Source, form: Form) -> Result<String> {
    let status = json(source, Question::Status).await?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let after = now.saturating_sub(RECENT).as_secs_f64();
    let series = View::Series { after, workers: false };
    let series = source_or_nothing(json(source, Question::View(series)).await)?;
    let timings = source_or_nothing(json(source, Question::View(View::Timings)).await)?;
    let text = write(&status, &series, &timings);
    Ok(match form {
        Form::OpenMetrics => text,
        Form::Prometheus => classic(&text),
    })
}

async fn json(source: &dyn Source, question: Question) -> Result<Value> {
    let text = source.ask(question).await?;
    Ok(serde_json::from_str(&text).unwrap_or_default())
}

/// What a scheduler does not tell is left out.
fn source_or_nothing(answer: Result<Value>) -> Result<Value> {
    match answer {
        Err(e) if e.kind == Kind::NoScheduler => Err(e),
        answer => Ok(answer.unwrap_or_default()),
    }
}

type Labels = Vec<(&'static str, String)>;
type Gauges = Family<Labels, Gauge<f64, AtomicU64>>;
type Counters = Family<Labels, Counter<f64, AtomicU64>>;

/// Metrics by name, in which each comes up once.
#[derive(Default)]
struct Metrics {
    gauges: BTreeMap<&'static str, (&'static str, Gauges)>,
    counters: BTreeMap<&'static str, (&'static str, Counters)>,
}

impl Metrics {
    /// Sets a value, if it is known.
    fn gauge(&mut self, name: &'static str, help: &'static str, labels: &Labels, value: &Value) {
        let Some(value) = value.as_f64() else { return };
        let (_, family) = self.gauges.entry(name).or_insert_with(|| (help, Gauges::default()));
        family.get_or_create(labels).set(value);
    }

    /// Adds to a total, if it is known.
    fn counter(&mut self, name: &'static str, help: &'static str, labels: &Labels, value: &Value) {
        let Some(value) = value.as_f64().filter(|value| *value >= 0.0) else { return };
        let (_, family) = self.counters.entry(name).or_insert_with(|| (help, Counters::default()));
        family.get_or_create(labels).inc_by(value);
    }

    fn write(self) -> String {
        let mut registry = Registry::with_prefix("hpcdag");
        for (name, (help, family)) in self.gauges {
            registry.register(name, help, family);
        }
        for (name, (help, family)) in self.counters {
            registry.register(name, help, family);
        }
        let mut text = String::new();
        // Writing to a text does not fail.
        let _ = encode(&mut text, &registry);
        // A set of no labels is not written by anybody else.
        let bare = |line: &str| match line.split_once("{} ") {
            Some((name, value)) if !name.contains(['{', ' ']) => format!("{name} {value}\n"),
            _ => format!("{line}\n"),
        };
        text.lines().map(bare).collect()
    }
}

fn write(status: &Value, series: &Value, timings: &Value) -> String {
    let mut metrics = Metrics::default();
    of_cluster(&mut metrics, status);
    of_workers(&mut metrics, status);
    let last = |name: &str| series["total"][name].as_array().and_then(|all| all.last()).cloned();
    let none = Labels::new();
    let totals = [
        ("tasks_done", "Tasks that succeeded", "done"),
        ("tasks_failed", "Attempts of tasks that failed", "failed"),
        ("transfer_bytes", "Bytes that workers fetched from one another", "bytes-in"),
        ("spill_write_bytes", "Bytes of results written to disk", "disk-write"),
        ("spill_read_bytes", "Bytes of results read back from disk", "disk-read"),
    ];
    for (name, help, column) in totals {
        metrics.counter(name, help, &none, &last(column).unwrap_or_default());
    }
    metrics.gauge("cpu_threads", "Processors that workers use", &none, &last("cpu").unwrap_or_default());
    for kind in list(&timings["kinds"]) {
        let labels = vec![("kind", text_of(&kind["kind"]))];
        let (events, seconds) = ("scheduler_events", "scheduler_busy_seconds");
        metrics.counter(events, "What the scheduler has handled", &labels, &kind["count"]);
        metrics.counter(seconds, "Time that the scheduler took for it", &labels, &kind["seconds"]);
    }
    metrics.write()
}

fn of_cluster(metrics: &mut Metrics, status: &Value) {
    let none = Labels::new();
    let scheduler = &status["scheduler"];
    let about = vec![("cluster", text_of(&scheduler["id"])), ("version", text_of(&scheduler["version"]))];
    metrics.gauge("build_info", "What this is; always 1", &about, &1.into());
    metrics.gauge("uptime_seconds", "Time since the scheduler started", &none, &scheduler["uptime"]);
    metrics.gauge("clients", "Clients that are connected", &none, &scheduler["clients"]);
    for (state, count) in status["tasks"].as_object().into_iter().flatten() {
        metrics.gauge("tasks", "Tasks by state", &vec![("state", state.clone())], count);
    }
    let memory = &status["memory"];
    for kind in ["managed", "unmanaged", "spilled"] {
        let labels = vec![("kind", kind.to_owned())];
        metrics.gauge("memory_bytes", "Memory of the workers; spilled: on disk", &labels, &memory[kind]);
    }
    metrics.gauge("memory_limit_bytes", "Memory that workers may use", &none, &memory["limit"]);
    let demand = &status["demand"];
    metrics.gauge("demand_threads", "Threads that work could use now", &none, &demand["threads"]);
    metrics.gauge("demand_tasks", "Tasks that could run now", &none, &demand["tasks"]);
    for (state, count) in tally(&status["runs"]) {
        metrics.gauge("runs", "Runs by state", &vec![("state", state)], &count.into());
    }
    let workers = tally(&status["workers"]);
    for state in ["running", "paused"].map(str::to_owned) {
        // Alerts want a zero rather than nothing.
        let count = workers.get(&state).copied().unwrap_or(0);
        metrics.gauge("workers", "Workers by state", &vec![("state", state)], &count.into());
    }
    for (state, count) in workers {
        metrics.gauge("workers", "Workers by state", &vec![("state", state)], &count.into());
    }
    let sum = |name: &str| list(&status["workers"]).iter().filter_map(|w| w[name].as_f64()).sum::<f64>();
    metrics.gauge("threads", "Threads of the workers", &none, &sum("threads").into());
    metrics.gauge("executing", "Tasks that are being executed", &none, &sum("executing").into());
}

fn of_workers(metrics: &mut Metrics, status: &Value) {
    for worker in list(&status["workers"]) {
        let labels = vec![("worker", text_of(&worker["name"])), ("host", text_of(&worker["host"]))];
        let gauges = [
            ("worker_threads", "Threads of a worker", &worker["threads"]),
            ("worker_executing", "Tasks that a worker executes", &worker["executing"]),
            ("worker_queued", "Tasks that a worker has and does not execute yet", &worker["queued"]),
            ("worker_results", "Results that a worker holds", &worker["results"]),
            ("worker_memory_limit_bytes", "Memory that a worker may use", &worker["memory"]["limit"]),
            ("worker_last_seen_seconds", "Time since a worker's last report", &worker["last-seen"]),
        ];
        for (name, help, value) in gauges {
            metrics.gauge(name, help, &labels, value);
        }
        for kind in ["managed", "unmanaged", "spilled"] {
            let labels = [labels.clone(), vec![("kind", kind.to_owned())]].concat();
            let help = "Memory of a worker; spilled: on disk";
            metrics.gauge("worker_memory_bytes", help, &labels, &worker["memory"][kind]);
        }
        let memory = &worker["memory"];
        let counters = [
            ("worker_cpu_seconds", "Processor time of a worker and its tasks", &worker["cpu-seconds"]),
            ("worker_receive_bytes", "Bytes that a worker fetched from others", &worker["bytes-in"]),
            ("worker_send_bytes", "Bytes that others fetched from a worker", &worker["bytes-out"]),
            ("worker_spill_write_bytes", "Bytes that a worker wrote to disk", &memory["spill-written"]),
            ("worker_spill_copy_bytes", "Of these, of results that others have", &memory["spill-copied"]),
            ("worker_spill_read_bytes", "Bytes that a worker read back from disk", &memory["spill-read"]),
            ("worker_paused_seconds", "Time that a worker was paused", &memory["paused-seconds"]),
            ("worker_executors_died", "Processes of tasks that died", &worker["executors"]["died"]),
        ];
        for (name, help, value) in counters {
            metrics.counter(name, help, &labels, value);
        }
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// How many there are of each state.
fn tally(all: &Value) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for one in list(all) {
        *counts.entry(text_of(&one["state"])).or_insert(0) += 1;
    }
    counts
}

/// OpenMetrics as Prometheus' own text: totals are described by their whole name, and there is no mark at the
/// end.
fn classic(text: &str) -> String {
    let mut classic = String::with_capacity(text.len());
    let lines: Vec<&str> = text.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        let described = |kind: &str| line.strip_prefix("# ")?.strip_prefix(kind)?.split_once(' ');
        if let Some((name, words)) = described("TYPE ").filter(|(_, words)| *words == "counter") {
            classic += &format!("# TYPE {name}_total {words}\n");
        } else if let Some((name, words)) = described("HELP ")
            && lines.get(at + 1).is_some_and(|next| *next == format!("# TYPE {name} counter"))
        {
            classic += &format!("# HELP {name}_total {words}\n");
        } else if *line != "# EOF" && !line.starts_with("# UNIT ") {
            classic += line;
            classic.push('\n');
        }
    }
    classic
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status() -> Value {
        json!({
            "scheduler": { "id": "ab", "version": "1.0", "uptime": 2.5, "clients": 1 },
            "tasks": { "memory": 3, "erred": 0 },
            "memory": { "managed": 10, "unmanaged": 5, "spilled": 0, "limit": null },
            "runs": [{ "state": "done" }, { "state": "done" }],
            "workers": [{
                "name": "w\"1\\\n", "host": "h", "state": "paused", "threads": 2.0, "executing": 1,
                "memory": { "managed": 10, "spill-written": 7 }, "cpu-seconds": 1.25, "bytes-in": 4,
            }],
        })
    }

    #[test]
    fn names_values_and_labels() {
        let series = json!({ "time": [1.0, 2.0], "total": { "done": [1, 5], "failed": [0, 1] } });
        let timings = json!({ "kinds": [{ "kind": "tick", "count": 3, "seconds": 0.5 }] });
        let text = write(&status(), &series, &timings);
        for line in [
            "hpcdag_build_info{cluster=\"ab\",version=\"1.0\"} 1.0",
            "hpcdag_tasks{state=\"memory\"} 3.0",
            "hpcdag_workers{state=\"running\"} 0.0",
            "hpcdag_workers{state=\"paused\"} 1.0",
            "hpcdag_runs{state=\"done\"} 2.0",
            "hpcdag_worker_cpu_seconds_total{worker=\"w\\\"1\\\\\\n\",host=\"h\"} 1.25",
            "hpcdag_tasks_done_total 5.0",
            "hpcdag_scheduler_busy_seconds_total{kind=\"tick\"} 0.5",
            "# TYPE hpcdag_tasks_done counter",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
        assert!(text.ends_with("# EOF\n") && !text.contains("memory_limit"), "{text}");
    }

    #[test]
    fn the_older_form_names_totals_in_full() {
        let text = classic(&write(&status(), &Value::Null, &Value::Null));
        assert!(!text.contains("EOF") && text.contains("\nhpcdag_worker_cpu_seconds_total{"), "{text}");
        for line in text.lines() {
            let name = line.split([' ', '{']).next().unwrap();
            let typed = format!("# TYPE {name} ");
            assert!(line.starts_with('#') || text.contains(&typed), "{line} has no type in\n{text}");
        }
        assert!(text.contains("# HELP hpcdag_worker_cpu_seconds_total Processor time"), "{text}");
    }
}

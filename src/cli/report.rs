//! `hpcdag report` and what `submit` writes of a run once it has ended: a page for people, a trace, raw
//! events. Owns what is asked for that and the files; their forms are `dashboard`'s.

use super::args::ReportArgs;
use super::context::{Context, run_id, run_short};
use super::output;
use crate::base::error::{Error, Kind, Result};
use crate::base::ids::RunUuid;
use crate::base::units::ByteSize;
use crate::client::Client;
use crate::dashboard::assets::ASSETS;
use crate::dashboard::{advice, raw, report, trace};
use crate::protocol::messages::client::Question;
use crate::protocol::messages::look::{TaskFilter, View};
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Rectangles that are asked for.
const SPANS_ASKED: u32 = 100_000;

/// Events that are asked for: all there are.
const EVENTS_ASKED: u32 = 10_000;

/// Failed tasks that are listed, and those of which everything is asked.
const FAILED_MAX: u32 = 1_000;
const TOLD_MAX: usize = 20;

/// How much of what such a task printed goes into the report.
const PRINTED_MAX: u64 = 16 << 10;

/// Workers tell once a second what they did: so long the last of it is waited for, and looked for so often.
const LAST_WORD: Duration = Duration::from_millis(2500);
const LAST_WORD_POLL: Duration = Duration::from_millis(200);

/// What is measured a little before and after a run belongs to it.
const MARGIN: f64 = 2.0;

/// The files that are to be written, open before anything runs: what keeps one from being written is said at
/// once.
#[derive(Default)]
pub(super) struct Places {
    report: Option<(File, PathBuf)>,
    trace: Option<(File, PathBuf)>,
    events: Option<(File, PathBuf)>,
}

impl Places {
    /// Opens those that are wanted.
    pub fn open(report: Option<&Path>, trace: Option<&Path>, events: Option<&Path>) -> Result<Places> {
        let open = |path: Option<&Path>| match path {
            Some(path) => {
                let file = File::create(path).map_err(|e| Error::file("cannot write", path, &e))?;
                Ok(Some((file, path.to_owned())))
            }
            None => Ok::<_, Error>(None),
        };
        Ok(Places { report: open(report)?, trace: open(trace)?, events: open(events)? })
    }

    /// None is wanted.
    pub fn is_empty(&self) -> bool {
        self.report.is_none() && self.trace.is_none() && self.events.is_none()
    }

    /// Writes them; returns a line about each.
    pub fn write(self, mut data: Value) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        let mut write = |what: &str, place, form: &mut dyn FnMut(&mut Counted) -> std::io::Result<()>| {
            let Some((file, path)): Option<(File, PathBuf)> = place else { return Ok(()) };
            let mut out = Counted { out: BufWriter::new(file), bytes: 0 };
            let written = form(&mut out).and_then(|()| out.flush());
            written.map_err(|e| Error::file("cannot write", &path, &e))?;
            lines.push(format!("{what}: {} ({})", path.display(), ByteSize(out.bytes)));
            Ok::<_, Error>(())
        };
        write("trace", self.trace, &mut |out| trace::write(&data, out))?;
        let columns = self.events.as_ref().is_some_and(|(_, path)| is_columns(path));
        write("events", self.events, &mut |out| match columns {
            true => serde_json::to_writer(out, &raw::columns(&data)).map_err(Into::into),
            false => raw::ndjson(&data, out),
        })?;
        report::thin(&mut data["spans"], report::SPANS_MAX);
        let page = report::html(&assets(), &data);
        write("report", self.report, &mut |out| {
            out.write_all(page.as_deref().unwrap_or_default().as_bytes())
        })?;
        Ok(lines)
    }
}

/// Columns are asked for by the name of the file.
fn is_columns(path: &Path) -> bool {
    path.to_string_lossy().ends_with(".columns.json")
}

/// Knows how much was written.
struct Counted {
    out: BufWriter<File>,
    bytes: u64,
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

/// The pages that a report is made of.
fn assets() -> Vec<(&'static str, &'static str)> {
    ASSETS.iter().map(|asset| (asset.name, asset.text)).collect()
}

/// `report`
pub(super) fn report(context: &Context, args: &ReportArgs) -> Result<u8> {
    let run = args.run.as_deref().map(run_id).transpose()?;
    run_short(async {
        let client = context.looker(&args.scheduler).await?;
        let data = data(&client, run, args.all).await;
        client.close().await;
        let data = data?;
        let places = Places::open(args.file.as_deref(), args.trace.as_deref(), args.events.as_deref())?;
        let lines = places.write(data)?;
        if context.verbosity.quiet == 0 {
            lines.iter().for_each(|line| output::say(line));
        }
        Ok(0)
    })
}

/// What is known of a run, of the newest, or of everything that the scheduler remembers.
async fn data(client: &Client, run: Option<RunUuid>, all: bool) -> Result<Value> {
    let status = client.ask(Question::Status).await?;
    let runs = status["runs"].as_array().map(Vec::as_slice).unwrap_or_default();
    let chosen = match run {
        Some(run) => {
            let id = run.to_string();
            let known = runs.iter().find(|r| r["id"] == id.as_str());
            Some(known.ok_or_else(|| {
                Error::new(Kind::NotFound, format!("the scheduler does not know run {run} (any more)"))
                    .hint("hpcdag status lists those it knows; --all reports on everything it remembers")
            })?)
        }
        None if all => None,
        None => runs.last(),
    };
    let chosen = chosen.cloned().unwrap_or_default();
    gather(client, status, chosen).await
}

/// What is known of a run that has just ended.
pub(super) async fn of_run(client: &Client, run: RunUuid) -> Result<Value> {
    data(client, Some(run), false).await
}

/// Asks for everything; what is not to be had is left out, and so are the pages that need it.
async fn gather(client: &Client, status: Value, run: Value) -> Result<Value> {
    let id: Option<RunUuid> = run["id"].as_str().and_then(|id| id.parse().ok());
    await_spans(client, id, &run).await?;
    let mut all = Map::new();
    let failed =
        TaskFilter { run: id, state: Some("erred".into()), limit: FAILED_MAX, ..TaskFilter::default() };
    let views = [
        ("overview", View::Overview),
        ("groups", View::Groups { run: id }),
        ("graph", View::Graph { run: id }),
        ("tasks", View::Tasks(failed)),
        ("spans", View::Spans { after: 0, limit: SPANS_ASKED, run: id }),
        ("series", View::Series { after: 0.0, workers: true }),
        ("events", View::Events { after: 0, limit: EVENTS_ASKED }),
        ("timings", View::Timings),
        ("profile", View::Profile { run: id, group: None, worker: None }),
    ];
    for (name, view) in views {
        match client.ask(Question::View(view)).await {
            Ok(answer) => drop(all.insert(name.into(), answer)),
            Err(e) if e.kind == Kind::NoScheduler => return Err(e),
            Err(e) => tracing::debug!("no {name} for the report: {}", e.message),
        }
    }
    all.insert("task".into(), tasks(client, all.get("tasks").unwrap_or(&Value::Null)).await);
    let mut data = Value::Object(all);
    narrow(&mut data, &run);
    data["run"] = run;
    data["status"] = status;
    // A report is handed on; what opens the dashboard is its owner's.
    data["status"]["dashboard"] = Value::Null;
    data["version"] = json!(env!("CARGO_PKG_VERSION"));
    data["generated"] = json!(seconds(SystemTime::now()));
    let advice = advice::advise(&data);
    data["advice"] = json!(advice);
    Ok(data)
}

/// Waits until the rectangles of a run that has only just ended are all there.
async fn await_spans(client: &Client, id: Option<RunUuid>, run: &Value) -> Result<()> {
    let summary = &run["summary"];
    let of = |name: &str| summary[name].as_u64().unwrap_or(0);
    let executed = of("done") + of("failed");
    let ended = submitted(run).map(|at| seconds(at) + summary["wall-seconds"].as_f64().unwrap_or(0.0));
    let Some(ended) = ended.filter(|_| summary.is_object()) else { return Ok(()) };
    while seconds(SystemTime::now()) < ended + LAST_WORD.as_secs_f64() {
        let view = View::Spans { after: 0, limit: SPANS_ASKED, run: id };
        let spans = match client.ask(Question::View(view)).await {
            Ok(spans) => spans,
            Err(e) if e.kind == Kind::NoScheduler => return Err(e),
            Err(_) => return Ok(()),
        };
        let tasks = raw::rectangles(&spans).filter(|r| matches!(r.kind, "compute" | "failed"));
        if tasks.map(|r| r.count).sum::<u64>() >= executed {
            return Ok(());
        }
        tokio::time::sleep(LAST_WORD_POLL).await;
    }
    Ok(())
}

fn submitted(run: &Value) -> Option<SystemTime> {
    humantime::parse_rfc3339(run["submitted"].as_str()?).ok()
}

/// Everything of the first failed tasks, by key.
async fn tasks(client: &Client, failed: &Value) -> Value {
    let mut told = Map::new();
    for task in failed["tasks"].as_array().into_iter().flatten().take(TOLD_MAX) {
        let Some(key) = task["key"].as_str() else { continue };
        let run = task["run"].as_str().and_then(|run| run.parse().ok());
        let logs = View::Logs { of: key.to_owned(), run, bytes: PRINTED_MAX };
        let (explain, story, logs) = tokio::join!(
            client.ask(Question::Explain { key: key.to_owned(), run }),
            client.ask(Question::Story { key: key.to_owned(), run }),
            client.ask(Question::View(logs))
        );
        let known = |answer: Result<Value>| answer.unwrap_or_default();
        told.insert(
            key.to_owned(),
            json!({ "explain": known(explain), "story": known(story), "logs": known(logs) }),
        );
    }
    Value::Object(told)
}

/// Leaves out what is of other runs and other times.
fn narrow(data: &mut Value, run: &Value) {
    let Some(id) = run["id"].as_str() else { return };
    let parsed = submitted(run);
    let from = parsed.map_or(0.0, seconds) - MARGIN;
    let to = match run["summary"]["wall-seconds"].as_f64() {
        Some(wall) if parsed.is_some() => from + wall + 2.0 * MARGIN,
        _ => f64::INFINITY,
    };
    if data["series"].is_object() {
        report::clip(&mut data["series"], from, to);
    }
    if let Some(events) = data["events"]["events"].as_array_mut() {
        events.retain(|event| match event["run"].as_str() {
            Some(run) => run == id,
            None => event["time"].as_f64().is_some_and(|time| (from..=to).contains(&time)),
        });
    }
    if let Some(runs) = data["overview"]["runs"].as_array_mut() {
        runs.retain(|run| run["id"] == id);
    }
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_of_the_run_stays() {
        let run = json!({ "id": "r", "submitted": "2026-09-21T14:13:20.000Z",
            "summary": { "wall-seconds": 10.0 } });
        let mut data = json!({
            "series": { "time": [1790000000.0, 1790000005.0, 1790000050.0], "total": { "cpu": [1, 2, 3] } },
            "events": { "events": [
                { "run": "r", "time": 1.0 }, { "run": "other", "time": 1790000005.0 },
                { "run": null, "time": 1790000011.0 }, { "run": null, "time": 1790000050.0 } ] },
            "overview": { "runs": [{ "id": "other" }, { "id": "r" }] },
        });
        narrow(&mut data, &run);
        assert_eq!(data["series"]["total"]["cpu"], json!([1, 2]));
        assert_eq!(data["events"]["events"].as_array().unwrap().len(), 2);
        assert_eq!(data["overview"]["runs"], json!([{ "id": "r" }]));
        let whole = json!({ "events": { "events": [{}] } });
        let mut same = whole.clone();
        narrow(&mut same, &Value::Null);
        assert_eq!(same, whole);
    }

    #[test]
    fn files_are_written_in_their_forms() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let data = json!({
            "spans": { "workers": ["w"], "kinds": ["compute"], "groups": [], "worker": [0], "lane": [0],
                "kind": [0], "start": [1.0], "seconds": [2.0] },
            "overview": { "hold": "</script>" },
        });
        let places =
            Places::open(Some(&path("r.html")), Some(&path("t.json")), Some(&path("e.ndjson"))).unwrap();
        assert!(!places.is_empty() && Places::default().is_empty());
        let lines = places.write(data.clone()).unwrap();
        assert_eq!(lines.len(), 3, "{lines:?}");
        let read = |name: &str| std::fs::read_to_string(path(name)).unwrap();
        assert!(lines[2].ends_with(&format!("({})", ByteSize(read("r.html").len() as u64))), "{lines:?}");
        assert!(read("r.html").contains("HPCDAG_DATA") && read("t.json").contains("\"ph\":\"X\""));
        assert_eq!(read("e.ndjson").lines().count(), 1);
        let places = Places::open(None, None, Some(&path("e.columns.json"))).unwrap();
        places.write(data).unwrap();
        let columns: Value = serde_json::from_str(&read("e.columns.json")).unwrap();
        assert_eq!(columns["spans"]["seconds"], json!([2.0]));
        let nowhere = Places::open(Some(&path("no/such/r.html")), None, None).err().unwrap();
        assert_eq!(nowhere.kind, Kind::File);
    }
}

//! The paths under `/api/v1`: what they ask, from parameters that may be anything. Owns the names, the
//! limits and their defaults; `docs/api.md` is the users' copy.

use super::access::without_token;
use super::fault::Fault;
use super::{Answering, Source};
use crate::base::error::{Error, Kind};
use crate::base::ids::RunUuid;
use crate::protocol::messages::client::Question;
use crate::protocol::messages::look::{TaskFilter, View};
use axum::extract::Query;
use axum::http::Uri;
use serde::Deserialize;
use serde_json::Value;
use std::str::FromStr;

/// No text in a parameter is longer, in bytes.
const TEXT_MAX: usize = 4096;

/// States that tasks can be asked for by.
const STATES: [&str; 8] =
    ["waiting", "queued", "delayed", "processing", "memory", "released", "erred", "cancelled"];

/// Parameters as they came.
#[derive(Clone, Debug, Default, Deserialize)]
struct Parameters {
    run: Option<String>,
    group: Option<String>,
    state: Option<String>,
    worker: Option<String>,
    text: Option<String>,
    skip: Option<String>,
    limit: Option<String>,
    after: Option<String>,
    workers: Option<String>,
    key: Option<String>,
    of: Option<String>,
    bytes: Option<String>,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Wanted {
    /// One thing.
    One(Question),
    /// All about a task.
    Task {
        /// Its key.
        key: String,
        /// Its run, if not the newest.
        run: Option<RunUuid>,
    },
}

/// What a path under `/api/v1` asks, and its kind.
pub fn wanted(path: &str, uri: &Uri) -> Result<(&'static str, Wanted), Fault> {
    let Query(p) =
        Query::<Parameters>::try_from_uri(uri).map_err(|e| Fault::bad(format!("parameters: {e}")))?;
    let view = |kind, view| Ok((kind, Wanted::One(Question::View(view))));
    match path {
        "status" => Ok(("status", Wanted::One(Question::Status))),
        "overview" => view("overview", View::Overview),
        "groups" => view("groups", View::Groups { run: p.run()? }),
        "graph" => view("graph", View::Graph { run: p.run()? }),
        "tasks" => view(
            "tasks",
            View::Tasks(TaskFilter {
                run: p.run()?,
                group: text("group", &p.group)?,
                state: state(&p.state)?,
                worker: text("worker", &p.worker)?,
                text: text("text", &p.text)?,
                skip: number("skip", &p.skip)?.unwrap_or(0),
                limit: limit(&p.limit, 100, 1_000)?,
            }),
        ),
        "task" => Ok(("task", Wanted::Task { key: needed("key", &p.key)?, run: p.run()? })),
        "series" => {
            let after: f64 = number("after", &p.after)?.unwrap_or(0.0);
            if !after.is_finite() {
                return Err(Fault::bad("after is not a point in time"));
            }
            let workers = match text("workers", &p.workers)?.as_deref() {
                None | Some("0" | "false") => false,
                Some("1" | "true") => true,
                Some(other) => return Err(Fault::bad(format!("workers is 0 or 1, not {other:?}"))),
            };
            view("series", View::Series { after, workers })
        }
        "events" => {
            let after = number("after", &p.after)?.unwrap_or(0);
            view("events", View::Events { after, limit: limit(&p.limit, 1_000, 10_000)? })
        }
        "spans" => {
            let after = number("after", &p.after)?.unwrap_or(0);
            let limit = limit(&p.limit, 20_000, 100_000)?;
            view("spans", View::Spans { after, limit, run: p.run()? })
        }
        "timings" => view("timings", View::Timings),
        "profile" => {
            let (group, worker) = (text("group", &p.group)?, text("worker", &p.worker)?);
            view("profile", View::Profile { run: p.run()?, group, worker })
        }
        "logs" => {
            let bytes = number("bytes", &p.bytes)?.unwrap_or(64 << 10).min(1 << 20);
            view("logs", View::Logs { of: needed("of", &p.of)?, run: p.run()?, bytes })
        }
        _ => Err(Fault::missing("there is no such path; docs/api.md lists them")),
    }
}

impl Parameters {
    fn run(&self) -> Result<Option<RunUuid>, Fault> {
        let run = text("run", &self.run)?;
        let parse =
            |run: String| run.parse().map_err(|_| Fault::bad(format!("run: {run:?} is not the id of a run")));
        run.map(parse).transpose()
    }
}

/// A text; an empty one is none.
fn text(name: &str, value: &Option<String>) -> Result<Option<String>, Fault> {
    match value.as_deref() {
        None | Some("") => Ok(None),
        Some(text) if text.len() > TEXT_MAX => {
            Err(Fault::bad(format!("{name} is longer than {TEXT_MAX} bytes")))
        }
        Some(text) => Ok(Some(text.to_owned())),
    }
}

fn needed(name: &str, value: &Option<String>) -> Result<String, Fault> {
    text(name, value)?.ok_or_else(|| Fault::bad(format!("{name} is missing")))
}

fn number<N: FromStr>(name: &str, value: &Option<String>) -> Result<Option<N>, Fault> {
    let parse =
        |text: String| text.parse().map_err(|_| Fault::bad(format!("{name} is not a number: {text:?}")));
    text(name, value)?.map(parse).transpose()
}

fn limit(value: &Option<String>, usual: u32, max: u32) -> Result<u32, Fault> {
    Ok(number("limit", value)?.unwrap_or(usual).min(max))
}

fn state(value: &Option<String>) -> Result<Option<String>, Fault> {
    let state = text("state", value)?;
    match state {
        Some(name) if !STATES.contains(&name.as_str()) => {
            Err(Fault::bad(format!("no task is {name:?}; there are {}", STATES.join(", "))))
        }
        state => Ok(state),
    }
}

/// Asks for it; JSON text.
pub fn ask(source: &dyn Source, wanted: Wanted) -> Answering<'_> {
    match wanted {
        Wanted::One(Question::Status) => Box::pin(async move {
            let text = source.ask(Question::Status).await?;
            let fault = |e| Error::os("cannot read the scheduler's answer", e);
            let mut status: Value = serde_json::from_str(&text).map_err(fault)?;
            // The cookie is kept from scripts; so is what it stands for.
            if let Some(url) = status["dashboard"].as_str() {
                status["dashboard"] = without_token(url).into();
            }
            Ok(status.to_string())
        }),
        Wanted::One(question) => source.ask(question),
        Wanted::Task { key, run } => Box::pin(async move {
            let explain = source.ask(Question::Explain { key: key.clone(), run }).await?;
            let story = source.ask(Question::Story { key: key.clone(), run }).await;
            let logs = View::Logs { of: key, run, bytes: 64 << 10 };
            let logs = source.ask(Question::View(logs)).await;
            // Both may have been forgotten already.
            let or = |part: Result<String, Error>, none: &str| match part {
                Ok(text) => Ok(text),
                Err(e) if e.kind == Kind::NoScheduler => Err(e),
                Err(_) => Ok(none.to_owned()),
            };
            let (story, logs) = (or(story, "[]")?, or(logs, "null")?);
            Ok(format!("{{\"explain\":{explain},\"story\":{story},\"logs\":{logs}}}"))
        }),
    }
}

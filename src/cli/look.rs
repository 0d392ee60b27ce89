//! Commands that look at a running cluster: workers list, explain, story, fetch, and those about
//! hpcdag itself. Owns the text; the data is the scheduler's answer, printed as it is with --json.

use super::args::{ConfigShowArgs, ExplainArgs, FetchArgs, SchedulerOptions, StoryArgs, WorkersListArgs};
use super::context::{Context, absolute, run_id, run_short};
use super::figures::{list, size_of, text};
use super::jobs;
use super::output::{self, Align, Out, Table};
use crate::base::error::{Error, Kind, Result};
use crate::client::{Client, Files};
use crate::graph::file::umask;
use crate::net::discovery::{self, Wish};
use crate::net::scheduler_file::SchedulerFile;
use crate::protocol::messages::client::Question;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;

/// Asks the cluster that is meant one question.
pub(super) fn ask(context: &Context, scheduler: &SchedulerOptions, question: Question) -> Result<Value> {
    run_short(async {
        let client = context.client(scheduler).await?;
        let answer = client.ask(question).await;
        client.close().await;
        answer
    })
}

fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or(0)
}

/// What the scheduler of the cluster that is meant says, its file, and what that says.
pub(super) fn here<T>(
    context: &Context,
    wish: &Wish,
    ask: impl AsyncFnOnce(&Client) -> Result<T>,
) -> Result<(T, PathBuf, SchedulerFile)> {
    run_short(async {
        let path = absolute(&discovery::find(wish).await?.path)?;
        let client = context.look_at(&path, wish).await?;
        let answer = ask(&client).await;
        let file = client.scheduler().clone();
        client.close().await;
        Ok((answer?, path, file))
    })
}

fn workers_table(workers: &[Value]) -> Table {
    let mut table = Table::new([
        ("worker", Align::Left),
        ("host", Align::Left),
        ("pool", Align::Left),
        ("state", Align::Left),
        ("threads", Align::Right),
        ("executing", Align::Right),
        ("queued", Align::Right),
        ("results", Align::Right),
        ("limit", Align::Right),
    ]);
    for worker in workers {
        table.row([
            text(worker, "name"),
            text(worker, "host"),
            text(worker, "pool"),
            text(worker, "state"),
            format!("{}", worker["threads"].as_f64().unwrap_or(0.0)),
            text(worker, "executing"),
            text(worker, "queued"),
            size_of(&worker["memory"], "managed"),
            size_of(&worker["memory"], "limit"),
        ]);
    }
    table
}

/// `workers list`: the jobs that were submitted for workers, and the workers.
pub fn workers_list(context: &Context, args: &WorkersListArgs) -> Result<u8> {
    let wish = context.wish(&args.scheduler)?;
    let status = async |client: &Client| client.ask(Question::Status).await;
    let (status, path, file) = here(context, &wish, status)?;
    let workers = list(&status["workers"]);
    let mut out = Out::stdout();
    if args.json.json && !args.jobs {
        out.json(&status["workers"])?;
        return Ok(0);
    }
    let all = jobs::list::look(&path, &file)?;
    if args.json.json {
        out.json(&all.iter().map(|known| known.json(workers)).collect::<Vec<_>>())?;
        return Ok(0);
    }
    for line in jobs::lasting::lines(&path, &file.id) {
        out.line(output::harmless(&line))?;
    }
    let table = jobs::list::table(&all, workers);
    match table.is_empty() {
        true if args.jobs => out.line("no job was submitted")?,
        true => {}
        false => out.table(&table)?,
    }
    if args.jobs {
        return Ok(0);
    }
    if !table.is_empty() {
        out.line("")?;
    }
    match workers.is_empty() && !table.is_empty() {
        true => out.line("no worker is connected")?,
        false => out.table(&workers_table(workers))?,
    }
    Ok(0)
}

/// `explain`
pub fn explain(context: &Context, args: &ExplainArgs) -> Result<u8> {
    let run = args.run.as_deref().map(run_id).transpose()?;
    let answer = ask(context, &args.scheduler, Question::Explain { key: args.key.clone(), run })?;
    Out::stdout().value(args.json.json, &answer, explain_text)?;
    Ok(0)
}

pub(super) fn explain_text(answer: &Value) -> String {
    let key = text(answer, "key");
    if answer["state"].is_null() {
        let (done, elements) = (number(answer, "done"), number(answer, "elements"));
        return format!("{key} is a family: {done} of {elements} tasks are done; name one, e.g. {key}[0]");
    }
    let mut lines = vec![format!("{key} {} (state: {})", text(answer, "why"), text(answer, "state"))];
    let mut add = |what: &str, values: Vec<String>| {
        if !values.is_empty() {
            lines.push(format!("  {what}: {}", values.join(", ")));
        }
    };
    let words = |value: &Value| list(value).iter().filter_map(Value::as_str).map(str::to_owned).collect();
    add("run", vec![format!("{} {}", text(answer, "run"), text(answer, "run-name"))]);
    if number(answer, "attempts") > 0 {
        let failed = number(answer, "failed-attempts");
        add("attempts", vec![format!("{}, {failed} failed", number(answer, "attempts"))]);
    }
    add("failed on", words(&answer["failed-hosts"]));
    add("workers lost while it ran", words(&answer["workers-lost"]));
    add("result held by", words(&answer["holders"]));
    add("inputs missing", words(&answer["missing-inputs"]["first"]));
    for worker in list(&answer["workers"]) {
        lines.push(format!("  {} {}", text(worker, "worker"), text(worker, "why")));
    }
    let more = number(answer, "more-workers");
    if more > 0 {
        lines.push(format!("  and {more} more workers"));
    }
    if let Some(failure) = answer["failure"].as_object() {
        let failure = Value::Object(failure.clone());
        lines.push(format!("  {} on {}", text(&failure, "what"), text(&failure, "host")));
        if !text(&failure, "command").is_empty() {
            lines.push(format!("  command: {}", text(&failure, "command")));
        }
        let stderr = failure["stderr"].as_str().unwrap_or_default();
        lines.extend(stderr.lines().map(|line| format!("    {line}")));
    }
    output::harmless(&lines.join("\n")).into_owned()
}

/// `story`
pub fn story(context: &Context, args: &StoryArgs) -> Result<u8> {
    let run = args.run.as_deref().map(run_id).transpose()?;
    let answer = ask(context, &args.scheduler, Question::Story { key: args.key.clone(), run })?;
    let mut out = Out::stdout();
    if args.json.json {
        out.json(&answer)?;
        return Ok(0);
    }
    let mut table = Table::new([
        ("time", Align::Left),
        ("from", Align::Left),
        ("to", Align::Left),
        ("attempt", Align::Right),
        ("worker", Align::Left),
        ("cause", Align::Left),
    ]);
    for record in list(&answer) {
        table.row(["time", "from", "to", "attempt", "worker", "cause"].map(|name| text(record, name)));
    }
    match table.is_empty() {
        true => out.line("nothing is remembered of it: it has not changed yet, or too long ago")?,
        false => out.table(&table)?,
    }
    Ok(0)
}

/// `fetch`
pub fn fetch(context: &Context, args: &FetchArgs) -> Result<u8> {
    let run = args.run.as_deref().map(run_id).transpose()?;
    if args.json.json && args.output.is_none() {
        return Err(Error::new(Kind::Usage, "the result and --json cannot share stdout")
            .hint("write the result to a file with -o"));
    }
    let part = args.part.clone().unwrap_or_default();
    let kept = match &args.output {
        Some(_) => None,
        // Whole or not at all: the way to stdout leads through a file.
        None => Some(tempfile::tempdir().map_err(|e| Error::os("cannot make a temporary directory", e))?),
    };
    let path = match (&args.output, &kept) {
        (Some(path), _) => path.clone(),
        (None, Some(directory)) => directory.path().join("result"),
        (None, None) => return Err(Error::os("cannot fetch", "there is no place for the result")),
    };
    let destination = Arc::new(Files::one(part, &path, umask()));
    run_short(async {
        let client = context.client(&args.scheduler).await?;
        let fetched = client.fetch(&args.key, run, destination).await;
        client.close().await;
        fetched
    })?;
    let size =
        std::fs::metadata(&path).map(|m| m.len()).map_err(|e| Error::file("cannot read", &path, &e))?;
    let mut out = Out::stdout();
    if args.output.is_none() {
        copy(&path, &mut out)?;
    } else if args.json.json {
        out.json(&json!({ "key": args.key, "path": path, "bytes": size }))?;
    }
    Ok(0)
}

fn copy(path: &std::path::Path, out: &mut Out) -> Result<()> {
    use std::io::Read;
    let fault = |e: std::io::Error| Error::file("cannot read", path, &e);
    let mut file = std::fs::File::open(path).map_err(fault)?;
    let mut buffer = vec![0; 256 << 10];
    while !out.is_closed() {
        match file.read(&mut buffer).map_err(fault)? {
            0 => break,
            n => out.bytes(&buffer[..n])?,
        }
    }
    Ok(())
}

/// `config show`
pub fn config_show(context: &Context, args: &ConfigShowArgs) -> Result<u8> {
    let loaded = &context.loaded;
    let mut out = Out::stdout();
    let Some(wanted) = &args.key else {
        match args.json.json {
            true => out.json(&loaded.to_json(args.origin))?,
            false => out.line(loaded.render(args.origin))?,
        }
        return Ok(0);
    };
    let inside =
        |key: &str| key == wanted || key.strip_prefix(wanted).is_some_and(|rest| rest.starts_with('.'));
    let rows: Vec<_> = loaded.origins().into_iter().filter(|(key, ..)| inside(key)).collect();
    if rows.is_empty() && !crate::config::keys().iter().any(|key| inside(key)) {
        return Err(Error::new(Kind::NotFound, format!("there is no setting or section {wanted:?}"))
            .hint("hpcdag config show prints all"));
    }
    if args.json.json {
        let mut json = loaded.to_json(args.origin);
        if let Some(all) = json.as_object_mut() {
            all.retain(|key, _| inside(key));
        }
        out.json(&json)?;
        return Ok(0);
    }
    let lines = rows.into_iter().map(|(key, value, origin)| match args.origin {
        true => {
            let locked = loaded.locked_by(&key).map(|by| format!(", locked by {by}")).unwrap_or_default();
            format!("{key} = {value}  # {origin}{locked}")
        }
        false => format!("{key} = {value}"),
    });
    out.line(lines.collect::<Vec<_>>().join("\n"))?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn explanations_say_why_for_each_worker() {
        let answer = json!({
            "key": "a[1]", "run": "r", "run-name": "g", "state": "queued",
            "why": "is ready; no worker has room",
            "attempts": 2, "failed-attempts": 1, "failed-hosts": ["h1"],
            "workers": [{ "worker": "w1", "why": "is paused" }], "more-workers": 3,
        });
        let text = explain_text(&answer);
        assert!(text.starts_with("a[1] is ready; no worker has room (state: queued)\n"), "{text}");
        assert!(text.contains("  w1 is paused\n  and 3 more workers"), "{text}");
        let family = json!({ "key": "a", "elements": 10, "done": 4 });
        assert!(explain_text(&family).contains("4 of 10"));
    }
}

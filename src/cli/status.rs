//! `status`: the cluster as one screen of text. Owns what stands on it and how much of it fits; the data is
//! the scheduler's answers, printed as they are with --json.

use super::args::StatusArgs;
use super::context::Context;
use super::figures::{
    Counts, bar, counted, known, line, list, number, rate, short, size, size_of, span, text,
};
use super::output::{Align, Out, Table};
use super::{dashboard, jobs, look};
use crate::base::error::Result;
use crate::client::Client;
use crate::protocol::messages::client::Question;
use crate::protocol::messages::look::View;
use serde_json::{Value, json};
use std::io::IsTerminal;

/// The size of a screen where there is no terminal.
const USUAL: (u16, u16) = (80, 24);

/// Lines that a screen has at least: a terminal of few lines can be scrolled.
const LINES_MIN: usize = 20;

/// Warnings and errors that are shown, the newest.
const TROUBLE_MAX: usize = 5;

/// Events among which they are looked for.
const EVENTS_ASKED: u32 = 1_000;

/// What the scheduler says to those who want to see it all.
#[derive(Default)]
pub(super) struct Seen {
    pub status: Value,
    pub overview: Value,
    pub events: Value,
}

/// `status`
pub(super) fn status(context: &Context, args: &StatusArgs) -> Result<u8> {
    let wish = context.wish(&args.scheduler)?;
    let as_json = args.json.json;
    let (mut seen, path, file) = look::here(context, &wish, async |client| see(client, as_json).await)?;
    seen.status["adapted"] = json!(jobs::lasting::lines(&path, &file.id));
    let mut out = Out::stdout();
    if as_json {
        out.json(&seen.status)?;
        return Ok(0);
    }
    let (width, height) = match std::io::stdout().is_terminal() {
        true => ratatui::crossterm::terminal::size().unwrap_or(USUAL),
        // Whoever reads a file or a pipe wants all of it.
        false => (USUAL.0, u16::MAX),
    };
    out.line(screen(&seen, usize::from(width), usize::from(height)))?;
    Ok(0)
}

async fn see(client: &Client, as_json: bool) -> Result<Seen> {
    let status = client.ask(Question::Status).await?;
    if as_json {
        return Ok(Seen { status, ..Seen::default() });
    }
    // A scheduler that does not know these questions has a status all the same.
    let ask = async |view| client.ask(Question::View(view)).await.unwrap_or_default();
    let overview = ask(View::Overview).await;
    let events = ask(View::Events { after: 0, limit: EVENTS_ASKED }).await;
    Ok(Seen { status, overview, events })
}

/// The screen.
pub(super) fn screen(seen: &Seen, width: usize, height: usize) -> String {
    let Seen { status, overview, events } = seen;
    let mut lines = head(status, overview);
    lines.extend(bars(status, overview, width));
    let trouble = trouble(events);
    let room = height.max(LINES_MIN).saturating_sub(lines.len() + trouble.len() + 1);
    let (runs, workers) = (runs(status, overview), workers(status, overview));
    // Runs give way to workers down to a half.
    let for_runs = runs.len().min(room.saturating_sub(workers.len()).max(room / 2));
    lines.extend(cut(runs, for_runs, "run", "status --json"));
    lines.extend(cut(workers, room.saturating_sub(for_runs), "worker", "workers list"));
    lines.extend(trouble);
    let lines: Vec<&str> = lines.iter().map(|l| l.trim_end()).collect();
    lines.join("\n")
}

fn head(status: &Value, overview: &Value) -> Vec<String> {
    let scheduler = &status["scheduler"];
    let state = overview["state"].as_str().map(|s| format!(" ({})", line(s))).unwrap_or_default();
    let up = known(scheduler, "uptime").map_or("-".into(), span);
    let mut lines =
        vec![format!("cluster {} at {}, up {up}{state}", text(scheduler, "id"), text(scheduler, "address"))];
    if let Some(url) = status["dashboard"].as_str() {
        // What opens it is for the user's eyes, not for logs.
        let url = dashboard::shown(url, std::io::stdout().is_terminal());
        lines.push(format!("dashboard: {}", line(&url)));
    }
    lines.extend(list(&status["adapted"]).iter().filter_map(Value::as_str).map(line));
    if let Some(hold) = overview["hold"].as_str() {
        lines.push(line(hold));
    }
    lines
}

fn bars(status: &Value, overview: &Value, width: usize) -> Vec<String> {
    let counts = Counts::of(&status["tasks"]);
    let memory = &status["memory"];
    let width = width.saturating_sub(50).clamp(10, 40);
    let mut lines = vec![String::new()];
    let done = [
        (counts.done as f64, '#'),
        (counts.failed as f64, '!'),
        (counts.cancelled as f64, 'x'),
        (counts.processing as f64, '>'),
    ];
    lines.push(format!("tasks    {} {}", bar(&done, counts.total() as f64, width), counts.words()));
    if let (Some(busy), Some(threads)) = (known(overview, "busy"), known(overview, "threads")) {
        let cpu = known(&overview["rates"], "cpu").map_or(String::new(), |n| format!(", CPU {}", short(n)));
        let words = format!("{} of {} busy{cpu}", short(busy), short(threads));
        lines.push(format!("threads  {} {words}", bar(&[(busy, '#')], threads, width)));
    }
    let (managed, unmanaged) = (number(memory, "managed"), number(memory, "unmanaged"));
    let limit = known(memory, "limit");
    let words = format!(
        "{} of results, {} other, {} on disk, limit {}",
        size_of(memory, "managed"),
        size(unmanaged),
        size(number(memory, "spilled")),
        size_of(memory, "limit")
    );
    let parts = [(managed, '#'), (unmanaged, '+')];
    lines.push(match limit {
        Some(limit) => format!("memory   {} {words}", bar(&parts, limit, width)),
        None => format!("memory   {words}"),
    });
    if let Some(rates) = overview["rates"].as_object().map(|_| &overview["rates"]) {
        lines.push(format!(
            "rates    {} tasks/s, {} moved",
            short(number(rates, "tasks")),
            rate(number(rates, "bytes-in"))
        ));
    }
    lines
}

/// The lines of a table after an empty one: as many as fit, the last one says how many do not.
fn cut(mut table: Vec<String>, room: usize, what: &str, all: &str) -> Vec<String> {
    // Heading and empty line are no rows.
    if table.len() > room.max(4) {
        let left = table.len() - (room.max(4) - 1);
        table.truncate(table.len() - left);
        table.push(format!("and {} more: hpcdag {all}", counted(left as u64, what)));
    }
    table
}

fn lines_of(table: &Table) -> Vec<String> {
    std::iter::once(String::new()).chain(table.render().lines().map(str::to_owned)).collect()
}

fn runs(status: &Value, overview: &Value) -> Vec<String> {
    let runs = list(&status["runs"]);
    if runs.is_empty() {
        return Vec::new();
    }
    let mut table = Table::new([
        ("run", Align::Left),
        ("name", Align::Left),
        ("state", Align::Left),
        ("", Align::Left),
        ("tasks", Align::Left),
        ("left", Align::Right),
    ]);
    let eta = |id: &Value| {
        let run = list(&overview["runs"]).iter().find(|run| run["id"] == *id);
        run.and_then(|run| known(run, "eta")).map(span).unwrap_or_default()
    };
    // The newest are the last.
    for run in runs.iter().rev() {
        let counts = Counts::of(&run["tasks"]);
        let parts = [(counts.done as f64, '#'), (counts.failed as f64, '!')];
        table.row([
            text(run, "id"),
            text(run, "name"),
            text(run, "state"),
            bar(&parts, counts.total() as f64, 10),
            counts.words(),
            eta(&run["id"]),
        ]);
    }
    lines_of(&table)
}

fn workers(status: &Value, overview: &Value) -> Vec<String> {
    let workers = list(&status["workers"]);
    if workers.is_empty() {
        return vec![String::new(), "no worker is connected".into()];
    }
    let mut table = Table::new([
        ("worker", Align::Left),
        ("host", Align::Left),
        ("pool", Align::Left),
        ("state", Align::Left),
        ("busy", Align::Right),
        ("queued", Align::Right),
        ("cpu", Align::Right),
        ("memory", Align::Left),
        ("results", Align::Right),
        ("limit", Align::Right),
    ]);
    for worker in workers {
        let now = list(&overview["workers"]).iter().find(|w| w["name"] == worker["name"]);
        let now = now.unwrap_or(&Value::Null);
        let memory = &worker["memory"];
        let parts = [(number(memory, "managed"), '#'), (number(memory, "unmanaged"), '+')];
        let state = match now["why"].as_str().or(worker["leaving-because"].as_str()) {
            Some(why) => format!("{}: {}", text(worker, "state"), line(why)),
            None => text(worker, "state"),
        };
        table.row([
            text(worker, "name"),
            text(worker, "host"),
            text(worker, "pool"),
            state,
            format!("{}/{}", text(worker, "executing"), short(number(worker, "threads"))),
            text(worker, "queued"),
            known(now, "cpu").map_or("-".into(), short),
            known(memory, "limit").map_or(String::new(), |limit| bar(&parts, limit, 8)),
            size_of(memory, "managed"),
            size_of(memory, "limit"),
        ]);
    }
    lines_of(&table)
}

/// The newest warnings and errors.
fn trouble(events: &Value) -> Vec<String> {
    let events = list(&events["events"]).iter();
    let bad: Vec<&Value> =
        events.filter(|e| matches!(e["level"].as_str(), Some("warning" | "error"))).collect();
    if bad.is_empty() {
        return Vec::new();
    }
    let newest = bad.len().saturating_sub(TROUBLE_MAX);
    let head = match newest {
        0 => "warnings and errors:".to_owned(),
        n => format!("warnings and errors, the newest of {}:", n + TROUBLE_MAX),
    };
    let lines = bad[newest..].iter().map(|e| {
        let text: String = text(e, "text").chars().take(200).collect();
        format!("  {} {text}", super::figures::clock(number(e, "time")))
    });
    [String::new(), head].into_iter().chain(lines).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(workers: usize, runs: usize) -> Seen {
        let worker = |n: usize| {
            json!({ "name": format!("w{n}"), "host": "n1", "pool": null, "state": "paused", "threads": 2.0,
                "executing": 1, "queued": 3,
                "memory": { "managed": 1 << 20, "unmanaged": 0, "limit": 4 << 20 } })
        };
        let run = |n: usize| {
            json!({ "id": format!("r{n}"), "name": "g\u{1b}[1m", "state": "running",
                "tasks": { "queued": 1, "memory": 1 } })
        };
        let of = |n: usize, make: &dyn Fn(usize) -> Value| (0..n).map(make).collect::<Vec<_>>();
        Seen {
            status: json!({
                "scheduler": { "id": "ab", "address": "tls://h:1", "uptime": 75.2 },
                "memory": { "managed": 2048, "unmanaged": 1024, "spilled": 0, "limit": 8192 },
                "tasks": { "waiting": 3, "memory": 5, "erred": 2 },
                "dashboard": "http://h:8787/?token=x",
                "runs": of(runs, &run), "workers": of(workers, &worker),
            }),
            overview: json!({ "state": "running", "hold": "all 4 threads are busy",
                "busy": 3.0, "threads": 4.0,
                "rates": { "cpu": 2.5, "tasks": 10.0, "bytes-in": 2048.0 },
                "workers": [{ "name": "w0", "why": "memory", "cpu": 1.5 }],
                "runs": [{ "id": "r0", "eta": 12.0 }] }),
            events: json!({ "next": 3, "events": [
                { "level": "info", "text": "w1 joined", "time": 1790000000.0 },
                { "level": "error", "text": "day[3] failed: \u{1b}[2J", "time": 1790000001.0 } ] }),
        }
    }

    #[test]
    fn everything_that_matters_is_there() {
        let text = screen(&seen(2, 1), 80, 40);
        for wanted in [
            "cluster ab at tls://h:1, up 1m15s (running)\n",
            "dashboard: http://h:8787/",
            "all 4 threads are busy\n",
            "tasks    [###############!!!!!!.........] 5 done, 3 waiting, 2 failed",
            "threads  [#######################.......] 3 of 4 busy, CPU 2.5",
            "memory   [########++++..................] 2 KiB of results, 1 KiB other, 0 B on disk, limit",
            "rates    10 tasks/s, 2 KiB/s moved",
            "[#####.....]  1 done, 1 queued   12s",
            "paused: memory   1/2       3  1.5  [##......]    1 MiB  4 MiB",
            "warnings and errors:\n  14:13:21 day[3] failed: \\u{1b}[2J",
        ] {
            assert!(text.contains(wanted), "{wanted:?} is not in\n{text}");
        }
        assert!(!text.contains('\u{1b}') && !text.contains("joined"), "{text}");
    }

    #[test]
    fn it_is_one_screen_whatever_there_is() {
        for (workers, runs, height) in [(500, 300, 50), (500, 1, 24), (1, 300, 24), (0, 300, 3), (30, 0, 40)]
        {
            let text = screen(&seen(workers, runs), 80, height);
            let lines = text.lines().count();
            assert!(lines <= height.max(24), "{lines} of {height}:\n{text}");
            let more = [(workers, "workers list"), (runs, "status --json")];
            for (_, all) in more.iter().filter(|(n, _)| *n > 100) {
                assert!(text.contains(&format!("more: hpcdag {all}")), "{text}");
            }
        }
        let all = screen(&seen(500, 300), 80, usize::from(u16::MAX));
        assert!(all.contains("\nr299") && all.contains("\nw499") && !all.contains(" more:"));
    }

    #[test]
    fn a_scheduler_without_views_has_a_status_all_the_same() {
        let old = Seen { status: seen(1, 1).status, ..Seen::default() };
        let text = screen(&old, 80, 24);
        assert!(text.starts_with("cluster ab at tls://h:1, up 1m15s\n") && text.contains("w0"), "{text}");
        assert!(!text.contains("threads  ["), "{text}");
        let none = Seen { status: seen(0, 0).status, ..Seen::default() };
        assert!(screen(&none, 80, 24).ends_with("no worker is connected"));
    }
}

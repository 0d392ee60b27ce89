//! The tables of `top`: runs, workers, groups, tasks, events. Owns which columns there are and which of them
//! a narrow window leaves out.

use super::data::Data;
use super::draw::{BOLD, DIM, memory_bar, state_colour, tasks_bar, used};
use super::state::{Listed, Screen};
use crate::cli::figures::{Counts, clock, known, line, list, number, rate, short, size, span, span_of, text};
use ratatui::Frame;
use ratatui::layout::{Constraint, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Table, TableState};
use serde_json::Value;

const CHOSEN: Style = Style::new().add_modifier(Modifier::REVERSED);

/// Headings of narrow columns that are no numbers.
const WORDS: [&str; 5] = ["state", "memory", "job", "time (UTC)", ""];

/// A column: its heading, its width, and from which width of the window on it is shown.
type Column = (&'static str, Constraint, u16);

/// Draws a table, without the columns for which there is no room.
fn table(frame: &mut Frame, area: Rect, columns: &[Column], rows: Vec<Vec<Cell>>, chosen: Option<usize>) {
    let shown = |(_, _, from): &Column| area.width >= *from;
    let widths: Vec<Constraint> = columns.iter().filter(|c| shown(c)).map(|c| c.1).collect();
    let heads = columns.iter().filter(|c| shown(c)).map(|(name, width, _)| match width {
        Constraint::Length(_) if !WORDS.contains(name) => right(*name),
        _ => Cell::from(*name),
    });
    let heads: Vec<Cell> = heads.collect();
    let rows = rows.into_iter().map(|cells| {
        let cells = cells.into_iter().zip(columns).filter(|(_, c)| shown(c)).map(|(cell, _)| cell);
        Row::new(cells.collect::<Vec<_>>())
    });
    let table = Table::new(rows, widths)
        .header(Row::new(heads).style(BOLD))
        .column_spacing(1)
        .row_highlight_style(CHOSEN);
    let mut state = TableState::new().with_selected(chosen);
    frame.render_stateful_widget(table, area, &mut state);
}

fn right(text: impl Into<String>) -> Cell<'static> {
    Cell::from(Line::from(text.into()).right_aligned())
}

fn coloured(text: String, colour: Color) -> Cell<'static> {
    Cell::from(Span::styled(text, Style::new().fg(colour)))
}

fn run_colour(state: &str) -> Color {
    match state {
        "running" => Color::Blue,
        "done" => Color::Green,
        "failed" => Color::Red,
        "cancelled" => Color::Magenta,
        _ => Color::Yellow,
    }
}

/// Runs, the newest first as the scheduler says.
pub(super) fn runs(frame: &mut Frame, area: Rect, data: &Data, screen: &Screen) {
    let columns = [
        ("run", Constraint::Fill(2), 0),
        ("state", Constraint::Length(12), 0),
        ("", Constraint::Length(16), 0),
        ("done", Constraint::Length(15), 0),
        ("failed", Constraint::Length(6), 60),
        ("left", Constraint::Length(7), 60),
    ];
    let rows = list(&data.overview["runs"]).iter().map(|run| {
        let n = |name: &str| run[name].as_u64().unwrap_or(0);
        let state = text(run, "state");
        let left = n("tasks").saturating_sub(n("done") + n("failed"));
        let counts = Counts { done: n("done"), failed: n("failed"), waiting: left, ..Counts::default() };
        vec![
            Cell::from(text(run, "name")),
            coloured(state.clone(), run_colour(&state)),
            Cell::from(Line::from(tasks_bar(&counts, 16))),
            right(format!("{}/{}", n("done"), n("tasks"))),
            right(if n("failed") > 0 { n("failed").to_string() } else { String::new() }),
            right(known(run, "eta").map(span).unwrap_or_default()),
        ]
    });
    table(frame, area, &columns, rows.collect(), Some(screen.chosen()));
}

/// A short line for each worker.
pub(super) fn worker_bars(frame: &mut Frame, area: Rect, data: &Data) {
    let workers = list(&data.overview["workers"]);
    if workers.is_empty() {
        frame.render_widget(Paragraph::new("no worker is connected").style(DIM), area);
        return;
    }
    let columns = [
        ("worker", Constraint::Fill(1), 0),
        ("state", Constraint::Length(9), 0),
        ("runs", Constraint::Length(9), 0),
        ("cpu", Constraint::Length(5), 0),
        ("memory", Constraint::Length(16), 0),
        ("", Constraint::Length(9), 60),
    ];
    // The last line says how many do not fit.
    let room = usize::from(area.height).saturating_sub(1);
    let fit = if workers.len() > room { room.saturating_sub(1) } else { workers.len() };
    let mut rows: Vec<Vec<Cell>> = workers[..fit].iter().map(bars_of).collect();
    if fit < workers.len() {
        rows.push(vec![Cell::from(Span::styled(format!("and {} more", workers.len() - fit), DIM))]);
    }
    table(frame, area, &columns, rows, None);
}

fn bars_of(worker: &Value) -> Vec<Cell<'static>> {
    let state = text(worker, "state");
    let colour = worker_colour(&state);
    vec![
        Cell::from(text(worker, "name")),
        coloured(state, colour),
        right(format!("{}/{}", text(worker, "executing"), short(number(worker, "threads")))),
        right(known(worker, "cpu").map_or("-".into(), short)),
        Cell::from(Line::from(memory_bar(&worker["memory"], 16))),
        right(size(used(&worker["memory"]))),
    ]
}

fn worker_colour(state: &str) -> Color {
    match state {
        "running" => Color::Green,
        "paused" => Color::Yellow,
        "lost" | "gone" => Color::Red,
        _ => Color::Reset,
    }
}

/// The page of workers.
pub(super) fn workers(frame: &mut Frame, area: Rect, data: &Data, screen: &Screen) {
    let workers = list(&data.overview["workers"]);
    let columns = [
        ("worker", Constraint::Fill(2), 0),
        ("host", Constraint::Fill(1), 100),
        ("job", Constraint::Length(9), 110),
        ("state", Constraint::Length(8), 0),
        ("run", Constraint::Length(7), 0),
        ("queue", Constraint::Length(5), 0),
        ("cpu", Constraint::Length(5), 0),
        ("memory", Constraint::Length(10), 0),
        ("used", Constraint::Length(9), 60),
        ("spilled", Constraint::Length(9), 120),
        ("in", Constraint::Length(11), 90),
        ("disk", Constraint::Length(11), 130),
        ("tasks/s", Constraint::Length(7), 70),
        ("ends in", Constraint::Length(7), 80),
    ];
    let rows = workers.iter().map(|w| {
        let (memory, rates) = (&w["memory"], &w["rates"]);
        let state = text(w, "state");
        let colour = worker_colour(&state);
        vec![
            Cell::from(text(w, "name")),
            Cell::from(text(w, "host")),
            Cell::from(text(w, "job-id")),
            coloured(state, colour),
            right(format!("{}/{}", text(w, "executing"), short(number(w, "threads")))),
            right(text(w, "queued")),
            right(known(w, "cpu").map_or("-".into(), short)),
            Cell::from(Line::from(memory_bar(memory, 10))),
            right(size(used(memory))),
            right(size(number(memory, "spilled"))),
            right(rate(number(rates, "bytes-in"))),
            right(rate(number(rates, "disk-read") + number(rates, "disk-write"))),
            right(short(number(rates, "tasks"))),
            right(span_of(w, "ends-in")),
        ]
    });
    if workers.is_empty() {
        frame.render_widget(Paragraph::new("no worker is connected").style(DIM), area);
        return;
    }
    // Below the table: what does not fit into a row of it.
    let [above, below] = split(area, 3);
    table(frame, above, &columns, rows.collect(), Some(screen.chosen()));
    let Some(w) = workers.get(screen.chosen()) else { return };
    let seconds = &w["seconds"];
    let time = |name: &str| format!("{name} {}", span_of(seconds, name));
    let why = match w["why"].as_str() {
        Some(why) => format!(", because {}", line(why)),
        None => String::new(),
    };
    let host = format!("{} on {}, job {}", text(w, "name"), text(w, "host"), text(w, "job-id"));
    let times = ["compute", "fetch", "spill", "wait", "paused", "idle"].map(time).join(", ");
    let lines = vec![
        Line::styled(
            format!("{host}: {}{why}, heard of {} ago", text(w, "state"), span_of(w, "last-seen")),
            BOLD,
        ),
        Line::from(format!(
            "memory {} results, {} other, {} on disk, limit {}",
            size(number(&w["memory"], "managed")),
            size(number(&w["memory"], "unmanaged")),
            size(number(&w["memory"], "spilled")),
            known(&w["memory"], "limit").map_or("-".into(), size)
        )),
        Line::from(format!("time: {times}")),
    ];
    frame.render_widget(Paragraph::new(lines), below);
}

/// Takes lines off the bottom, if enough are left.
pub(super) fn split(area: Rect, bottom: u16) -> [Rect; 2] {
    let bottom = if area.height > bottom + 4 { bottom } else { 0 };
    let above = Rect { height: area.height - bottom, ..area };
    [above, Rect { y: area.y + above.height, height: bottom, ..area }]
}

/// The page of tasks: groups, or what was chosen of them.
pub(super) fn tasks(frame: &mut Frame, area: Rect, data: &Data, screen: &Screen) {
    match &screen.listed {
        Listed::Groups => groups(frame, area, data, screen),
        listed => single(frame, area, data, screen, listed),
    }
}

fn groups(frame: &mut Frame, area: Rect, data: &Data, screen: &Screen) {
    let columns = [
        ("group", Constraint::Fill(1), 0),
        ("", Constraint::Length(16), 60),
        ("wait", Constraint::Length(7), 0),
        ("queue", Constraint::Length(7), 0),
        ("run", Constraint::Length(5), 0),
        ("done", Constraint::Length(8), 0),
        ("failed", Constraint::Length(6), 0),
        ("each", Constraint::Length(6), 70),
        ("longest", Constraint::Length(7), 90),
        ("results", Constraint::Length(9), 100),
    ];
    let rows = data.groups(screen).into_iter().map(|group| {
        let counts = Counts::of(&group["counts"]);
        let done = group["done"].as_u64().unwrap_or(counts.done);
        let each = if done > 0 { span(number(group, "seconds") / done as f64) } else { "-".into() };
        let some = |n: u64| right(if n > 0 { n.to_string() } else { String::new() });
        // What was done and is forgotten is not counted by state.
        let all = Counts { done, ..counts };
        vec![
            Cell::from(text(group, "name")),
            Cell::from(Line::from(tasks_bar(&all, 16))),
            some(counts.waiting),
            some(counts.queued),
            some(counts.processing),
            some(done),
            match counts.failed {
                0 => Cell::default(),
                n => Cell::from(Line::styled(n.to_string(), Style::new().fg(Color::Red)).right_aligned()),
            },
            right(each),
            right(span_of(group, "longest")),
            right(size(number(group, "bytes"))),
        ]
    });
    let rows: Vec<_> = rows.collect();
    let more = data.groups["more"].as_u64().unwrap_or(0);
    let [above, below] = split(area, u16::from(more > 0));
    if rows.is_empty() {
        let words = if data.groups.is_null() { "asking the scheduler" } else { "there are no tasks" };
        frame.render_widget(Paragraph::new(words).style(DIM), area);
        return;
    }
    table(frame, above, &columns, rows, Some(screen.chosen()));
    frame.render_widget(Line::styled(format!("and {more} older groups"), DIM), below);
}

fn single(frame: &mut Frame, area: Rect, data: &Data, screen: &Screen, listed: &Listed) {
    let columns = [
        ("task", Constraint::Fill(2), 0),
        ("group", Constraint::Fill(1), 100),
        ("state", Constraint::Length(10), 0),
        ("worker", Constraint::Fill(1), 0),
        ("time", Constraint::Length(7), 60),
        ("result", Constraint::Length(9), 70),
        ("attempts", Constraint::Length(8), 80),
    ];
    let tasks = data.tasks(screen);
    if tasks.is_empty() {
        let words = match (data.has_tasks(screen), listed) {
            (false, _) => "asking the scheduler",
            (true, Listed::Failed) => "no task has failed",
            (true, _) => "it has no tasks any more",
        };
        frame.render_widget(Paragraph::new(words).style(DIM), area);
        return;
    }
    let rows = tasks.iter().map(|task| {
        let state = text(task, "state");
        let colour = state_colour(&state);
        vec![
            Cell::from(text(task, "key")),
            Cell::from(text(task, "group")),
            coloured(state, colour),
            Cell::from(text(task, "worker")),
            right(span_of(task, "seconds")),
            right(known(task, "bytes").map_or("-".into(), size)),
            right(text(task, "attempts")),
        ]
    });
    let more = data.tasks["more"].as_bool().unwrap_or(false);
    let [above, below] = split(area, u16::from(more));
    table(frame, above, &columns, rows.collect(), Some(screen.chosen()));
    frame.render_widget(Line::styled("and more", DIM), below);
}

/// The page of events, the newest first.
pub(super) fn events(frame: &mut Frame, area: Rect, data: &Data, screen: &Screen) {
    if data.events.is_empty() {
        frame.render_widget(Paragraph::new("nothing has happened").style(DIM), area);
        return;
    }
    let columns = [
        ("time (UTC)", Constraint::Length(10), 0),
        ("", Constraint::Length(14), 70),
        ("event", Constraint::Fill(1), 0),
    ];
    let rows = data.events.iter().rev().map(|event| {
        let colour = match event["level"].as_str() {
            Some("error") => Color::Red,
            Some("warning") => Color::Yellow,
            _ => Color::Reset,
        };
        let kind = Cell::from(Span::styled(text(event, "kind"), DIM));
        vec![Cell::from(clock(number(event, "time"))), kind, coloured(text(event, "text"), colour)]
    });
    table(frame, area, &columns, rows.collect(), Some(screen.chosen()));
}

//! Draws the screen of `top`: heading, page, keys. Owns the layout and the overview; tables and the task
//! stream have files of their own. Texts from elsewhere pass through `figures`, which makes them harmless.

use super::data::Data;
use super::state::{Listed, Page, Screen};
use super::{stream, tables};
use crate::cli::figures::{Counts, counted, known, list, number, rate, share, short, size, span, text};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Wrap};
use serde_json::Value;

/// The least that something can be seen on.
const LEAST: (u16, u16) = (40, 8);

pub(super) const DIM: Style = Style::new().fg(Color::DarkGray);
pub(super) const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);

/// Draws everything; returns nothing but leaves the chosen row on one that exists.
pub(super) fn draw(frame: &mut Frame, data: &Data, screen: &mut Screen) {
    let area = frame.area();
    if area.width < LEAST.0 || area.height < LEAST.1 {
        frame.render_widget(Paragraph::new("too small a window").wrap(Wrap { trim: true }), area);
        return;
    }
    screen.clamp(data.rows(screen));
    let [top, tabs, page, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Fill(1),
        Constraint::Length(1),
    ])
    .areas(area);
    frame.render_widget(heading(data, screen), top);
    frame.render_widget(tabs_line(screen), tabs);
    frame.render_widget(keys_line(screen), keys);
    match &screen.detail {
        Some(_) => detail(frame, page, screen),
        None if data.overview.is_null() => {
            frame.render_widget(data.trouble.as_deref().unwrap_or("asking the scheduler"), page);
        }
        None => match screen.page {
            Page::Overview => overview(frame, page, data, screen),
            Page::Workers => tables::workers(frame, page, data, screen),
            Page::Tasks => tables::tasks(frame, page, data, screen),
            Page::Stream => stream::draw(frame, page, data, screen),
            Page::Events => tables::events(frame, page, data, screen),
        },
    }
    if screen.help {
        help(frame, page);
    }
}

/// Cluster, state, workers, threads, and what is wrong with this view.
fn heading<'a>(data: &'a Data, screen: &Screen) -> Line<'a> {
    let o = &data.overview;
    let state = text(o, "state");
    let colour = match state.as_str() {
        "running" => Color::Green,
        "waiting" | "stopping" => Color::Yellow,
        _ => Color::Reset,
    };
    let mut line = vec![
        Span::styled(format!("hpcdag {}", text(o, "cluster")), BOLD),
        Span::styled(format!("  {state}"), Style::new().fg(colour)),
        Span::raw(format!("  up {}", known(o, "uptime").map_or("-".into(), span))),
        Span::raw(format!("  {}", counted(list(&o["workers"]).len() as u64, "worker"))),
        Span::raw(format!("  {}/{} threads", short(number(o, "busy")), short(number(o, "threads")))),
    ];
    let failed = o["failed"].as_u64().unwrap_or(0);
    if failed > 0 {
        line.push(Span::styled(format!("  {failed} failed (f)"), Style::new().fg(Color::Red)));
    }
    if screen.paused {
        line.push(Span::styled("  paused", Style::new().fg(Color::Yellow)));
    }
    if let Some(trouble) = data.trouble.as_deref().filter(|_| !o.is_null()) {
        line.push(Span::styled(format!("  {trouble}"), Style::new().fg(Color::Red)));
    }
    Line::from(line)
}

fn tabs_line(screen: &Screen) -> Line<'static> {
    let tab = |(k, page): (usize, Page)| {
        let style = if page == screen.page { Style::new().add_modifier(Modifier::REVERSED) } else { DIM };
        [Span::styled(format!(" {} {} ", k + 1, page.title()), style), Span::raw(" ")]
    };
    let mut tabs: Vec<Span> = Page::ALL.into_iter().enumerate().flat_map(tab).collect();
    if let Some((_, name)) = screen.run.as_ref().filter(|_| screen.page == Page::Tasks) {
        tabs.push(Span::styled(format!(" run {name}"), Style::new().fg(Color::Cyan)));
    }
    Line::from(tabs)
}

fn keys_line(screen: &Screen) -> Line<'static> {
    let of_page = match (screen.detail.is_some(), screen.page, &screen.listed) {
        (true, ..) => "↑↓ scroll  Esc back",
        (_, Page::Stream, _) => "+- zoom  ←→ pan  Esc now  ↑↓ rows",
        (_, Page::Tasks, Listed::Groups) if screen.run.is_some() => {
            "↑↓ choose  Enter its tasks  Esc all runs"
        }
        (_, Page::Tasks, Listed::Groups) => "↑↓ choose  Enter its tasks  f failed",
        (_, Page::Tasks, _) => "↑↓ choose  Enter what it said  Esc back",
        (_, Page::Overview, _) => "↑↓ choose  Enter its groups  f failed tasks",
        (_, Page::Events, _) => "↑↓ choose  Enter its task  f failed tasks",
        (_, Page::Workers, _) => "↑↓ choose  Enter its log",
    };
    Line::styled(format!("q quit  1-5 page  Space pause  ? help  {of_page}"), DIM)
}

/// The colours of tasks by state.
pub(super) fn state_colour(state: &str) -> Color {
    match state {
        "done" | "memory" | "released" => Color::Green,
        "processing" | "running" => Color::Blue,
        "queued" => Color::Yellow,
        "erred" | "failed" => Color::Red,
        "cancelled" => Color::Magenta,
        _ => Color::DarkGray,
    }
}

/// A bar of coloured cells.
pub(super) fn bar(parts: &[(f64, Color)], whole: f64, width: usize) -> Vec<Span<'static>> {
    let values: Vec<f64> = parts.iter().map(|(value, _)| *value).collect();
    let cells = share(&values, whole, width);
    let filled: usize = cells.iter().sum();
    let mut spans: Vec<Span> = Vec::with_capacity(parts.len() + 1);
    for ((_, colour), n) in parts.iter().zip(cells) {
        spans.push(Span::styled("█".repeat(n), Style::new().fg(*colour)));
    }
    spans.push(Span::styled("·".repeat(width - filled), DIM));
    spans
}

/// Tasks as a bar.
pub(super) fn tasks_bar(counts: &Counts, width: usize) -> Vec<Span<'static>> {
    let parts = [
        (counts.done as f64, state_colour("done")),
        (counts.failed as f64, state_colour("failed")),
        (counts.cancelled as f64, state_colour("cancelled")),
        (counts.processing as f64, state_colour("processing")),
        (counts.queued as f64, state_colour("queued")),
        (counts.waiting as f64, Color::DarkGray),
    ];
    bar(&parts, counts.total() as f64, width)
}

/// Memory as a bar: results, other, against the limit.
pub(super) fn memory_bar(memory: &Value, width: usize) -> Vec<Span<'static>> {
    let (managed, unmanaged) = (number(memory, "managed"), number(memory, "unmanaged"));
    let limit = known(memory, "limit");
    let at = |name: &str| known(memory, name).is_some_and(|threshold| managed + unmanaged >= threshold);
    let colour = match () {
        () if at("pause") => Color::Red,
        () if at("target") || at("spill") => Color::Yellow,
        () => Color::Green,
    };
    // Without a limit there is nothing to measure against.
    let whole = limit.unwrap_or(0.0);
    if whole <= 0.0 {
        return vec![Span::styled("·".repeat(width), DIM)];
    }
    bar(&[(managed, colour), (unmanaged, Color::DarkGray)], whole, width)
}

fn overview(frame: &mut Frame, area: Rect, data: &Data, screen: &Screen) {
    let o = &data.overview;
    let counts = Counts::of(&o["tasks"]);
    let memory = &o["memory"];
    let width = usize::from(area.width).saturating_sub(34).clamp(8, 40);
    let row = |name: &str, bar: Vec<Span<'static>>, words: String| {
        let mut line = vec![Span::styled(format!("{name:<9}"), BOLD)];
        line.extend(bar);
        line.push(Span::raw(format!(" {words}")));
        Line::from(line)
    };
    let (busy, threads) = (number(o, "busy"), number(o, "threads"));
    let rates = &o["rates"];
    let mut lines = vec![
        Line::styled(text(o, "hold"), Style::new().fg(Color::Cyan)),
        row("tasks", tasks_bar(&counts, width), format!("{} of {} done", counts.done, counts.total())),
        Line::styled(format!("         {}", counts.words()), DIM),
        row(
            "threads",
            bar(&[(busy, Color::Blue)], threads, width),
            format!("{} of {} busy, CPU {}", short(busy), short(threads), short(number(rates, "cpu"))),
        ),
        row(
            "memory",
            memory_bar(memory, width),
            match known(memory, "limit") {
                Some(limit) => format!("{} of {}", size(used(memory)), size(limit)),
                None => size(used(memory)),
            },
        ),
        Line::styled(
            format!(
                "         {} results, {} other, {} on disk",
                size(number(memory, "managed")),
                size(number(memory, "unmanaged")),
                size(number(memory, "spilled"))
            ),
            DIM,
        ),
        Line::from(format!(
            "rates    {} tasks/s, {} moved, {} failed/s",
            short(number(rates, "tasks")),
            rate(number(rates, "bytes-in")),
            short(number(rates, "failed"))
        )),
    ];
    lines.push(Line::default());
    let [figures, below] =
        Layout::vertical([Constraint::Length(lines.len() as u16), Constraint::Fill(1)]).areas(area);
    frame.render_widget(Paragraph::new(lines), figures);
    // Runs take what they need, up to half of what is left; the rest shows workers.
    let runs = list(&o["runs"]).len() as u16 + 1;
    let [above, rest] =
        Layout::vertical([Constraint::Length(runs.min(below.height.div_ceil(2)) + 1), Constraint::Fill(1)])
            .areas(below);
    tables::runs(frame, above, data, screen);
    tables::worker_bars(frame, rest, data);
}

/// Bytes in memory.
pub(super) fn used(memory: &Value) -> f64 {
    number(memory, "managed") + number(memory, "unmanaged")
}

fn detail(frame: &mut Frame, area: Rect, screen: &mut Screen) {
    let Some(detail) = &mut screen.detail else { return };
    let height = usize::from(area.height.saturating_sub(2));
    detail.top = detail.top.min(detail.lines.len().saturating_sub(height));
    let lines: Vec<Line> =
        detail.lines.iter().skip(detail.top).take(height).map(|l| Line::from(l.as_str())).collect();
    let title = format!(" {} ", detail.title);
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(title)), area);
}

const HELP: [&str; 16] = [
    "1-5, Tab      another page",
    "↑ ↓ j k       another row, or scroll",
    "PgUp PgDn     ten rows",
    "Home End      the first, the last row",
    "Enter         what is behind the row",
    "Esc           back",
    "f             tasks that failed, with what they said",
    "Space, p      stop moving, go on",
    "+ -           stream: shorter, longer time",
    "← →           stream: earlier, later",
    "q, Ctrl-C     quit",
    "",
    "Bars of tasks: green done, red failed, blue processing, yellow queued, grey waiting.",
    "Memory: green, yellow or red by thresholds; grey is what is no result.",
    "Stream: a colour for each group; orange transfers, brown disk, grey waiting,",
    "red × attempts that failed.",
];

fn help(frame: &mut Frame, area: Rect) {
    let [area] = Layout::vertical([Constraint::Max(HELP.len() as u16 + 2)]).areas(area);
    frame.render_widget(Clear, area);
    let lines: Vec<Line> = HELP.iter().map(|l| Line::from(*l)).collect();
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" keys ")), area);
}

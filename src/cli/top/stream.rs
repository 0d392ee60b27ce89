//! The task stream in a terminal: a row for each slot, time from left to right, a cell's colour the group
//! that took most of it. Owns how rectangles become cells.

use super::data::{Data, Rectangle, Stream};
use super::draw::DIM;
use super::state::Screen;
use super::tables::split;
use crate::cli::figures::{clock, number, span};
use crate::protocol::messages::look::SpanKind;
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

/// Colours of groups, apart from each other and from those below.
const GROUPS: [u8; 12] = [33, 76, 220, 141, 43, 171, 111, 148, 38, 183, 71, 227];

const FETCH: Color = Color::Indexed(208);
const DISK: Color = Color::Indexed(137);
const WAIT: Color = Color::Indexed(240);
const NO_GROUP: Color = Color::Indexed(250);

/// Lanes of transfers and of the disk (docs/api.md).
const TRANSFERS: u64 = 100_000;
const DISKS: u64 = 200_000;

/// What one cell shows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Cell {
    /// What took most of its time.
    pub most: Option<(SpanKind, Option<usize>)>,
    /// How much of it was taken, 0 to 1.
    pub taken: f64,
    best: f64,
}

/// The cells of a row's rectangles from `start` on, each as long as `step`.
pub(super) fn cells<'a>(
    row: impl IntoIterator<Item = &'a Rectangle>,
    start: f64,
    step: f64,
    width: usize,
) -> Vec<Cell> {
    let mut cells = vec![Cell::default(); width];
    let end = start + step * width as f64;
    for r in row.into_iter().filter(|r| r.end > start && r.start < end) {
        let first = ((r.start - start) / step).max(0.0) as usize;
        let last = (((r.end - start) / step).max(0.0) as usize).min(width.saturating_sub(1));
        for (k, cell) in cells.iter_mut().enumerate().take(last + 1).skip(first) {
            let (from, to) = (start + k as f64 * step, start + (k + 1) as f64 * step);
            let overlap = (r.end.min(to) - r.start.max(from)).max(0.0) / step;
            cell.taken = (cell.taken + overlap).min(1.0);
            // A failure is not hidden by what took longer beside it.
            let weight = if r.kind == SpanKind::Failed { 1.0 + overlap } else { overlap };
            if weight > cell.best || cell.most.is_none() {
                (cell.best, cell.most) = (weight, Some((r.kind, r.group)));
            }
        }
    }
    cells
}

/// The colour of a group: the same in each run of `top`.
pub(super) fn group_colour(name: &str) -> Color {
    let hash = name.bytes().fold(0x811c_9dc5u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    // The low bits of this hash hardly depend on the last letters.
    Color::Indexed(GROUPS[(hash ^ (hash >> 15)) as usize % GROUPS.len()])
}

fn look(cell: &Cell, stream: &Stream) -> Span<'static> {
    let Some((kind, group)) = cell.most else { return Span::raw(" ") };
    let colour = match kind {
        SpanKind::Failed => return Span::styled("×", Style::new().fg(Color::White).bg(Color::Red)),
        SpanKind::Compute | SpanKind::Running => {
            group.and_then(|g| stream.groups.get(g)).map_or(NO_GROUP, |name| group_colour(name))
        }
        SpanKind::Fetch => FETCH,
        SpanKind::SpillWrite | SpanKind::SpillRead => DISK,
        SpanKind::Wait => WAIT,
    };
    let shade = match cell.taken {
        t if t > 0.75 => "█",
        t if t > 0.5 => "▓",
        t if t > 0.25 => "▒",
        _ => "░",
    };
    Span::styled(shade, Style::new().fg(colour))
}

fn label(worker: &str, lane: u64) -> String {
    match lane {
        0..TRANSFERS => format!("{worker} {lane}"),
        TRANSFERS..DISKS => format!("{worker} net"),
        DISKS => format!("{worker} write"),
        _ => format!("{worker} read"),
    }
}

/// Draws the page.
pub(super) fn draw(frame: &mut Frame, area: Rect, data: &Data, screen: &Screen) {
    let stream = &data.stream;
    if stream.rows.is_empty() {
        frame.render_widget(Paragraph::new("nothing has run since the scheduler remembers").style(DIM), area);
        return;
    }
    let [above, below] = split(area, 2);
    let labels = usize::from(area.width / 4).clamp(8, 24);
    let width = usize::from(area.width).saturating_sub(labels + 1).max(1);
    // Clocks of workers may be ahead of the scheduler's.
    let now = number(&data.overview, "time").max(stream.latest);
    let right = now - screen.back;
    let (start, step) = (right - screen.window(), screen.window() / width as f64);
    let height = usize::from(above.height);
    let top = screen.chosen().min(stream.rows.len().saturating_sub(height));
    let mut seen: Vec<usize> = Vec::new();
    let rows = stream.rows.iter().skip(top).take(height).map(|(place, row)| {
        let (worker, lane) = place;
        // What goes on has gone on until now, whenever that was told.
        let open = stream.open.get(place).map(|r| Rectangle { end: r.end.max(now), ..r.clone() });
        let cells = cells(row.iter().chain(&open), start, step, width);
        for (_, group) in cells.iter().filter_map(|c| c.most) {
            if let Some(group) = group.filter(|g| !seen.contains(g)) {
                seen.push(group);
            }
        }
        let name: String = label(worker, *lane).chars().take(labels).collect();
        let mut spans = vec![Span::styled(format!("{name:<labels$} "), DIM)];
        spans.extend(cells.iter().map(|cell| look(cell, stream)));
        Line::from(spans)
    });
    let rows: Vec<Line> = rows.collect();
    frame.render_widget(Paragraph::new(rows), above);
    frame
        .render_widget(Paragraph::new(vec![axis(start, right, labels, width), legend(stream, &seen)]), below);
}

/// When the left and the right edge are.
fn axis(start: f64, right: f64, labels: usize, width: usize) -> Line<'static> {
    let window = format!("{} a line", span(right - start));
    let (from, to) = (clock(start), clock(right));
    let gap = width.saturating_sub(from.len() + to.len() + window.len());
    let pad = " ".repeat(labels + 1);
    let (a, b) = (" ".repeat(gap / 2), " ".repeat(gap - gap / 2));
    Line::styled(format!("{pad}{from}{a}{window}{b}{to}"), DIM)
}

fn legend(stream: &Stream, seen: &[usize]) -> Line<'static> {
    let mut spans = Vec::new();
    if stream.left_out > 0 {
        spans.push(Span::styled(format!("{} left out  ", stream.left_out), DIM));
    }
    for name in seen.iter().filter_map(|g| stream.groups.get(*g)) {
        spans.push(Span::styled("█ ", Style::new().fg(group_colour(name))));
        spans.push(Span::raw(format!("{name}  ")));
    }
    Line::from(spans)
}

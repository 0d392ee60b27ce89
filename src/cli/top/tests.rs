//! What the pages of `top` show, drawn on a terminal that is only a memory of cells. The answers are those of
//! docs/api.md.

use super::data::{Data, Slot};
use super::draw::draw;
use super::state::{Detail, Listed, Page, Screen};
use super::stream::cells;
use crate::protocol::messages::look::SpanKind;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::Color;
use serde_json::{Value, json};

fn overview() -> Value {
    json!({
        "time": 1790000000.5, "cluster": "ab12cd", "version": "0.1.0", "uptime": 812.0, "state": "running",
        "tasks": {"waiting": 10, "queued": 5, "delayed": 0, "processing": 4, "memory": 7, "released": 100,
            "erred": 1, "cancelled": 0},
        "rates": {"tasks": 120.5, "bytes-in": 1048576.0, "cpu": 3.8, "failed": 0.0},
        "threads": 4.0, "busy": 3.9, "executing": 4,
        "memory": {"managed": 1073741824u64, "unmanaged": 536870912u64, "spilled": 0,
            "limit": 4294967296u64},
        "hold": "all 4 threads are busy", "failed": 1,
        "workers": [worker("w1", "running"), worker("w2", "paused")],
        "runs": [{"id": "7c11", "name": "days", "state": "running", "submitted": 1790000000.0,
            "tasks": 120, "done": 100, "failed": 1, "eta": 12.0, "calls": false}]
    })
}

fn worker(name: &str, state: &str) -> Value {
    json!({"name": name, "host": "n1", "state": state, "why": "memory \u{1b}[2J", "job-id": "77",
        "pool": null, "ends-in": 3400.0, "threads": 2.0, "executing": 2, "queued": 1, "results": 12,
        "cpu": 1.9, "last-seen": 0.4,
        "memory": {"managed": 50, "unmanaged": 30, "spilled": 0, "limit": 100, "target": 60, "spill": 70,
            "pause": 80, "terminate": 95},
        "rates": {"bytes-in": 1e5, "bytes-out": 0.0, "disk-write": 0.0, "disk-read": 0.0, "tasks": 60.0},
        "seconds": {"compute": 100.0, "fetch": 3.0, "spill": 0.0, "wait": 5.0, "paused": 0.0, "idle": 12.0}})
}

fn group(name: &str) -> Value {
    json!({"name": name, "id": 3, "run": "r", "counts": {"waiting": 1, "queued": 2, "delayed": 0,
        "processing": 3, "memory": 4, "released": 5, "erred": 6, "cancelled": 0}, "total": 21, "done": 9,
        "failed-attempts": 0, "seconds": 27.0, "longest": 4.1, "bytes": 123456, "bytes-max": 40000,
        "moved": 0, "memory-peak-max": null})
}

fn data() -> Data {
    let mut data = Data::default();
    data.take(Slot::Overview, Ok(overview()));
    data
}

/// The screen as lines of text.
fn drawn(data: &Data, screen: &mut Screen, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, data, screen)).unwrap();
    let buffer = terminal.backend().buffer().clone();
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..height).map(line).collect()
}

fn page(page: Page) -> Screen {
    let mut screen = Screen::new();
    screen.page = page;
    screen
}

fn shows(lines: &[String], wanted: &[&str]) {
    let text = lines.join("\n");
    wanted.iter().for_each(|w| assert!(text.contains(w), "{w:?} is not in\n{text}"));
    assert!(!text.contains('\u{1b}'));
}

#[test]
fn the_overview_fits_into_80_by_24() {
    let lines = drawn(&data(), &mut page(Page::Overview), 80, 24);
    shows(
        &lines,
        &[
            "hpcdag ab12cd  running  up 13m32s  2 workers  3.9/4 threads  1 failed (f)",
            " 1 Overview   2 Workers   3 Tasks   4 Stream   5 Events",
            "all 4 threads are busy",
            "107 of 127 done",
            "107 done, 4 processing, 5 queued, 10 waiting, 1 failed",
            "3.9 of 4 busy, CPU 3.8",
            "1.5 GiB of 4 GiB",
            "1 GiB results, 512 MiB other, 0 B on disk",
            "rates    121 tasks/s, 1 MiB/s moved",
            "days",
            "100/120",
            "w1",
            "w2",
            "paused",
            "q quit  1-5 page",
        ],
    );
}

#[test]
fn windows_of_all_sizes_are_drawn() {
    let mut data = data();
    data.take(Slot::Groups(None), Ok(json!({ "groups": [group("day")], "more": 0 })));
    data.take(Slot::Spans, Ok(spans()));
    data.take(Slot::Events, Ok(events()));
    for at in Page::ALL {
        for (width, height) in [(1, 1), (39, 7), (40, 8), (80, 24), (81, 10), (250, 80)] {
            let mut screen = page(at);
            screen.help = height == 10;
            let lines = drawn(&data, &mut screen, width, height);
            let least = if width < 40 { "t" } else { "hpcdag ab12cd" };
            assert!(lines[0].starts_with(least), "{at:?} {width}x{height}: {lines:?}");
        }
    }
}

#[test]
fn before_the_first_answer_it_says_what_it_waits_for() {
    let mut data = Data::default();
    shows(&drawn(&data, &mut page(Page::Overview), 80, 24), &["asking the scheduler"]);
    data.trouble = Some("no answer for 4s".into());
    shows(&drawn(&data, &mut page(Page::Workers), 80, 24), &["no answer for 4s"]);
}

#[test]
fn workers_are_a_table_with_more_of_the_chosen_one() {
    let mut screen = page(Page::Workers);
    screen.on_key(ratatui::crossterm::event::KeyCode::Down.into());
    let lines = drawn(&data(), &mut screen, 80, 24);
    shows(
        &lines,
        &["worker", "ends in", "56m40s", "2/2", "w2 on n1, job 77: paused, because memory \\u{1b}[2J"],
    );
    shows(&lines, &["compute 1m40s, fetch 3s, spill 0s, wait 5s, paused 0s, idle 12s"]);
    let wide = drawn(&data(), &mut page(Page::Workers), 160, 24);
    shows(&wide, &["97.7 KiB/s", "spilled", "job"]);
    let mut none = Data::default();
    none.take(Slot::Overview, Ok(json!({ "workers": [] })));
    shows(&drawn(&none, &mut page(Page::Workers), 80, 24), &["no worker is connected"]);
}

#[test]
fn groups_have_their_counts_and_lead_to_their_tasks() {
    let mut data = data();
    let mut done = group("a-done");
    done["done"] = json!(21);
    data.take(Slot::Groups(None), Ok(json!({ "groups": [done, group("day")], "more": 3 })));
    let mut screen = page(Page::Tasks);
    let lines = drawn(&data, &mut screen, 80, 24);
    shows(&lines, &["group", "and 3 older groups"]);
    let row = lines.iter().find(|l| l.starts_with("day")).unwrap();
    let numbers: Vec<&str> = row.split_whitespace().skip(2).collect();
    assert_eq!(numbers, ["1", "2", "3", "9", "6", "3s"], "{row}");
    let at = |name: &str| lines.iter().position(|l| l.starts_with(name)).unwrap();
    assert!(at("day") < at("a-done"), "what has work comes first");
    screen.listed = Listed::Failed;
    shows(&drawn(&data, &mut screen, 80, 24), &["asking the scheduler"]);
    let task = json!({"key": "day[3]\u{1b}]0;x", "run": "r", "group": "day", "state": "erred", "worker": "w1",
        "bytes": 0, "seconds": null, "attempts": 2});
    data.take(Slot::Tasks(None, Listed::Failed), Ok(json!({ "tasks": [task], "more": false })));
    shows(&drawn(&data, &mut screen, 80, 24), &["day[3]\\u{1b}]0;x", "erred", "w1", "2"]);
}

fn events() -> Value {
    let event = |n: u64, level: &str, text: &str| {
        json!({"number": n, "time": 1790000000.0 + n as f64, "level": level, "kind": "task-failed",
            "text": text, "key": "day[3]", "run": "r", "worker": "w1"})
    };
    json!({ "next": 3, "events": [
        event(1, "info", "w1 joined"),
        event(2, "error", "day[3] failed: exit code 1"),
    ] })
}

#[test]
fn events_are_the_newest_first() {
    let mut data = data();
    data.take(Slot::Events, Ok(events()));
    let lines = drawn(&data, &mut page(Page::Events), 80, 24);
    assert!(lines[3].starts_with("14:13:22") && lines[3].contains("day[3] failed: exit code 1"), "{lines:?}");
    assert!(lines[4].contains("w1 joined"), "{lines:?}");
}

fn spans() -> Value {
    json!({"next": 4, "left-out": 5, "workers": ["w1", "w2"], "groups": ["day", "sum"],
        "kinds": ["compute", "failed", "fetch", "spill-write", "spill-read", "wait"],
        "worker": [0, 0, 1, 1], "lane": [0, 1, 0, 100_000], "kind": [0, 1, 0, 2], "group": [0, 0, 1, -1],
        "key": ["day[0]", "day[1]", "sum", null], "count": [1, 1, 1, 3],
        "start": [1789999970.5, 1789999980.5, 1789999995.5, 1789999990.5],
        "seconds": [30.0, 1.0, 5.0, 2.0], "bytes": [1, 2, 3, 4]})
}

#[test]
fn the_stream_has_a_row_for_each_slot() {
    let mut data = data();
    data.take(Slot::Spans, Ok(spans()));
    let lines = drawn(&data, &mut page(Page::Stream), 80, 24);
    shows(&lines, &["w1 0", "w1 1", "w2 0", "w2 net", "30s a line", "14:12:50", "14:13:20"]);
    shows(&lines, &["5 left out", "█ day", "█ sum"]);
    assert_eq!(lines[2].matches('█').count(), 59, "it ran all the time: {}", lines[2]);
    assert!(lines[3].contains('×') && !lines[3].contains('█'), "{}", lines[3]);
    assert!(lines[4].ends_with('█') && lines[5].contains('█'), "{lines:?}");
}

#[test]
fn what_runs_is_drawn_until_now() {
    let mut data = data();
    let mut answer = spans();
    answer["kinds"] = json!(SpanKind::ALL.map(SpanKind::name));
    answer["open"] = json!({ "worker": [0], "lane": [2], "kind": [6], "group": [0], "key": ["day[9]"],
        "count": [1], "start": [1789999985.0], "seconds": [0.5], "bytes": [0] });
    data.take(Slot::Spans, Ok(answer));
    let lines = drawn(&data, &mut page(Page::Stream), 80, 24);
    let row = lines.iter().find(|line| line.contains("w1 2")).unwrap();
    assert!(row.ends_with('█') && row.matches('█').count() > 20, "{lines:?}");
}

#[test]
fn cells_show_what_took_most_of_them_and_failures_always() {
    let mut data = data();
    data.take(Slot::Spans, Ok(spans()));
    let row = |lane| &data.stream.rows[&("w1".to_owned(), lane)];
    let all = cells(row(0), 1789999970.5, 15.0, 4);
    assert_eq!(all.iter().map(|c| c.taken).collect::<Vec<_>>(), [1.0, 1.0, 0.0, 0.0]);
    assert_eq!(all[0].most, Some((SpanKind::Compute, Some(0))));
    let mut both = row(1).clone();
    both.extend(row(0).iter().cloned());
    assert_eq!(cells(&both, 1789999970.5, 30.0, 1)[0].most.unwrap().0, SpanKind::Failed);
    assert_eq!(cells(row(0), 0.0, 1.0, 3), vec![Default::default(); 3]);
    assert_eq!(super::stream::group_colour("day"), super::stream::group_colour("day"));
    assert_ne!(super::stream::group_colour("day"), Color::Red);
}

#[test]
fn an_open_text_scrolls_and_ends_at_its_end() {
    let lines: Vec<String> = (0..100).map(|n| format!("line {n}.")).collect();
    let mut screen = page(Page::Tasks);
    screen.detail = Some(Detail { title: "day[3]".into(), lines, top: 1000 });
    shows(&drawn(&data(), &mut screen, 80, 24), &[" day[3] ", "line 99.", "line 81.", "Esc back"]);
    assert_eq!(screen.detail.unwrap().top, 81);
}

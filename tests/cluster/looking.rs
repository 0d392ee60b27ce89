//! Those who look: `status` as a screen, `top` on a terminal, reports of runs. What they show is checked
//! against what was run.

use crate::site::Site;
use crate::terminal::Terminal;
use serde_json::Value;

/// A run of 20 tasks one of which fails.
const SCRIPT: &str = "sleep 0.05; if test {item} = 7; then echo broken pump >&2; exit 3; fi; echo {item}";

fn arguments<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let mut all = vec!["submit"];
    all.extend(more);
    all.extend(["--array", "1-20", "--stdout", "none", "--", "sh", "-c", SCRIPT]);
    all
}

/// The data in a report.
fn data_of(page: &str) -> Value {
    let (_, rest) = page.split_once("window.HPCDAG_DATA = ").expect("a report has data");
    serde_json::from_str(rest.split_once(";\n").expect("it ends").0).expect("it is JSON")
}

#[test]
fn a_run_of_its_own_leaves_a_report_a_trace_and_events() {
    let site = Site::new();
    let files = ["--local", "--report", "r.html", "--trace", "t.json", "--events", "e.ndjson"];
    let ended = site.run(&arguments(&files));
    assert_eq!(ended.code, Some(3), "{ended:?}");
    for line in ["report: r.html", "trace: t.json", "events: e.ndjson"] {
        assert!(ended.stderr.contains(line), "{ended:?}");
    }
    let page = site.read("r.html");
    // Nothing is fetched from anywhere.
    assert!(!page.contains(" src=") && !page.contains("href=\"http"), "{page}");
    assert!(!page.contains("token="), "it is mailed");
    let data = data_of(&page);
    assert_eq!((&data["run"]["state"], &data["run"]["summary"]["failed"]), (&"failed".into(), &1.into()));
    assert_eq!(data["overview"]["runs"].as_array().map(Vec::len), Some(1), "{}", data["overview"]);
    let groups = data["groups"]["groups"].as_array().expect("groups");
    let sum = |name: &str| groups.iter().filter_map(|g| g[name].as_u64()).sum::<u64>();
    assert_eq!((sum("total"), sum("done")), (20, 19), "{groups:?}");
    let failed = data["tasks"]["tasks"].as_array().expect("failed tasks");
    assert_eq!(failed.len(), 1, "{failed:?}");
    let key = failed[0]["key"].as_str().expect("a key");
    assert!(data["task"][key].to_string().contains("broken pump"), "{}", data["task"]);
    let first = &data["advice"][0];
    assert_eq!(
        (&first["about"], &first["level"]),
        (&"failures".into(), &"error".into()),
        "{}",
        data["advice"]
    );
    // The trace and the events have each task once.
    let trace: Value = serde_json::from_str(&site.read("t.json")).expect("JSON");
    let of = |kind: &str| -> u64 {
        let events = trace["traceEvents"].as_array().expect("a list").iter();
        events
            .filter(|e| e["ph"] == "X" && e["cat"] == kind)
            .filter_map(|e| e["args"]["count"].as_u64())
            .sum()
    };
    assert_eq!((of("compute"), of("failed")), (19, 1));
    let events = site.read("e.ndjson");
    let events: Vec<Value> = events.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    let seconds: f64 = events
        .iter()
        .filter(|e| e["type"] == "span" && e["kind"] == "compute")
        .filter_map(|e| e["seconds"].as_f64())
        .sum();
    assert!(seconds >= 19.0 * 0.05, "{seconds} s of 19 tasks of 0.05 s");
    assert!(events.iter().any(|e| e["type"] == "event" && e["kind"] == "task-failed"), "{events:?}");
}

#[test]
fn reports_are_made_of_runs_that_the_scheduler_knows() {
    let site = Site::new();
    let _cluster = site.cluster(1);
    let of = ["--scheduler-file", "s.json"];
    site.ok(&["submit", of[0], of[1], "--array", "1-3", "--stdout", "none", "--", "true"]);
    let first = site.json(&["status", of[0], of[1], "--json"])["runs"][0]["id"].clone();
    let first = first.as_str().expect("an id");
    assert_eq!(site.run(&arguments(&of)).code, Some(3));
    site.ok(&["report", "newest.html", of[0], of[1]]);
    site.ok(&["report", "first.html", of[0], of[1], "--run", first, "--events", "first.columns.json"]);
    site.ok(&["report", "all.html", of[0], of[1], "--all"]);
    let total = |file: &str| {
        let data = data_of(&site.read(file));
        let groups = data["groups"]["groups"].as_array().expect("groups").clone();
        groups.iter().filter_map(|g| g["total"].as_u64()).sum::<u64>()
    };
    assert_eq!((total("newest.html"), total("first.html"), total("all.html")), (20, 3, 23));
    let columns: Value = serde_json::from_str(&site.read("first.columns.json")).expect("JSON");
    let kinds = columns["spans"]["kind"].as_array().expect("a column");
    assert!(kinds.iter().filter(|k| *k == "compute").count() <= 3 && !kinds.is_empty(), "{columns}");
    let unknown =
        site.run(&["report", "x.html", of[0], of[1], "--run", "2c5e6d0a-4f0e-4b43-9d0f-6f1f5a1d7c11"]);
    assert!(unknown.code != Some(0) && unknown.stderr.contains("does not know run"), "{unknown:?}");
    assert!(!site.path("x.html").exists());
}

#[test]
fn status_is_one_screen() {
    let site = Site::new();
    let of = ["--scheduler-file", "s.json"];
    let _cluster = site.cluster(2);
    assert_eq!(site.run(&arguments(&of)).code, Some(3));
    let status = site.ok(&["status", of[0], of[1]]);
    for wanted in
        ["cluster ", "threads  [", "tasks    [", "1 failed", "w0", "w1", "0/2", "warnings and errors"]
    {
        assert!(status.contains(wanted), "{wanted:?} is not in\n{status}");
    }
}

#[test]
fn top_shows_it_live() {
    let site = Site::new();
    let _cluster = site.cluster(2);
    let of = ["--scheduler-file", "s.json"];
    let args = ["top", of[0], of[1], "--interval", "200ms"];
    let mut top = Terminal::start(&site, &args, 80, 24);
    top.wait_for("2 workers");
    top.wait("the keys are in the last line", |lines| lines.len() == 24 && lines[23].starts_with("q quit"));
    assert_eq!(site.run(&arguments(&of)).code, Some(3));
    top.wait_for("1 failed (f)");
    top.press("2");
    top.wait("a row for each worker", |lines| {
        ["w0", "w1"].iter().all(|name| lines.iter().any(|line| line.starts_with(name)))
    });
    top.press("4");
    top.wait_for("a line");
    top.wait("a row with a failure", |lines| lines.iter().any(|l| l.starts_with('w') && l.contains('×')));
    top.press("5");
    top.wait_for("failed");
    top.press("f");
    top.wait_for("erred");
    top.press("\r");
    top.wait_for("broken pump");
    top.resize(100, 30);
    top.wait("it has grown", |lines| lines.len() == 30 && lines[29].starts_with("q quit"));
    top.press("q");
    assert_eq!(top.end(), (Some(0), true));
}

#[test]
fn top_ends_when_it_is_told_to_or_the_scheduler_goes() {
    let site = Site::new();
    let _cluster = site.cluster(1);
    let of = ["--scheduler-file", "s.json"];
    let mut top = Terminal::start(&site, &["top", of[0], of[1]], 80, 24);
    top.wait_for("1 worker");
    top.press("\u{3}");
    assert_eq!(top.end(), (Some(0), true));
    let top = Terminal::start(&site, &["top", of[0], of[1]], 80, 24);
    top.wait_for("1 worker");
    site.ok(&["stop", of[0], of[1]]);
    let (code, restored) = top.end();
    assert!(code.is_some_and(|code| code != 0) && restored, "{code:?}");
    let piped = site.run(&["top", of[0], of[1]]);
    assert_eq!(piped.code, Some(2), "{piped:?}");
    assert!(piped.stderr.contains("hpcdag status"), "{piped:?}");
}

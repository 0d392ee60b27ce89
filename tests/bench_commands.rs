//! The benchmarks of commands, of a cluster's start and of large graph files, at a size that must not hurt:
//! that they run to their end and say what they promise. Never how fast.

mod support;

use serde_json::Value;
use std::time::Duration;
use support::Sandbox;

const LIMIT: Duration = Duration::from_secs(240);

fn bench(sandbox: &Sandbox, args: &[&str]) -> Value {
    let all = [&["bench"], args, &["--json"]].concat();
    let text = sandbox.run("bench", sandbox.hpcdag(&all), LIMIT);
    serde_json::from_str(&text).expect("figures in JSON")
}

fn number(figures: &Value, name: &str) -> f64 {
    figures[name].as_f64().unwrap_or_else(|| panic!("no {name} in {figures}"))
}

#[test]
fn commands_are_measured_against_the_bare_loop() {
    let sandbox = Sandbox::new();
    let figures = bench(&sandbox, &["spawn", "--tasks", "60", "--rounds", "2"]);
    assert_eq!(figures["tasks"], 60, "{figures}");
    let seconds = number(&figures, "seconds");
    assert!((number(&figures, "tasks_per_second") * seconds - 60.0).abs() < 1e-6, "{figures}");
    // The fraction is that of the two best rounds, and there is one for each round.
    let fraction = number(&figures, "tasks_per_second") / number(&figures, "limit_tasks_per_second");
    assert!((number(&figures, "fraction_of_limit") - fraction).abs() < 1e-6, "{figures}");
    assert_eq!(figures["fractions"].as_array().expect("fractions").len(), 2, "{figures}");
    // Both count the processes themselves, which is more than nothing.
    assert!(number(&figures, "cpu_us_per_task") > 20.0, "{figures}");
    assert!(number(&figures, "limit_cpu_us_per_task") > 20.0, "{figures}");
}

#[test]
fn the_start_of_a_cluster_is_more_than_that_of_a_process() {
    let sandbox = Sandbox::new();
    let figures = bench(&sandbox, &["start", "--rounds", "1", "--nworkers", "2"]);
    assert!(number(&figures, "process_seconds") > 0.0, "{figures}");
    assert!(number(&figures, "seconds") > number(&figures, "process_seconds"), "{figures}");
}

#[test]
fn a_graph_file_reaches_the_scheduler_as_a_whole() {
    let sandbox = Sandbox::new();
    let figures = bench(&sandbox, &["submit", "--tasks", "3000", "--rounds", "1"]);
    assert_eq!(figures["tasks"], 3000, "{figures}");
    // A megabyte is less than any process takes, 20 bytes a task less than any task.
    assert!(number(&figures, "client_peak_bytes") > 1e6, "{figures}");
    assert!(number(&figures, "file_bytes") > 20.0 * 3000.0, "{figures}");
    assert!(number(&figures, "scheduler_bytes_per_task") > 20.0, "{figures}");
}

/// Peers that are not installed are named, and what is there is compared.
#[test]
fn peers_that_are_missing_are_left_out_by_name() {
    let sandbox = Sandbox::new();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/bench-peers");
    let mut command = std::process::Command::new("python3");
    command.args([script, "--hpcdag", env!("CARGO_BIN_EXE_hpcdag"), "--tasks", "40", "--rounds", "1"]);
    command.args(["--only", "xargs,hq", "--hq", "/nowhere/hq", "--json"]);
    let text = sandbox.run("peers", command, LIMIT);
    let figures: Value = serde_json::from_str(&text).expect("figures in JSON");
    let why = figures["skipped"]["hq"].as_str().expect("a reason");
    assert!(why.contains("--hq"), "{figures}");
    let rows = figures["figures"].as_array().expect("figures");
    let row = |peer: &str| rows.iter().find(|r| r["what"] == "command" && r["peer"] == peer);
    let (ours, theirs) = (row("hpcdag").expect("ours"), row("xargs").expect("theirs"));
    let ratio = number(ours, "value") / number(theirs, "value");
    assert!((number(theirs, "ratio") - ratio).abs() < 1e-6 * ratio, "{figures}");
}

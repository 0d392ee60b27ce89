//! The benchmarks of speed, each at a size that takes a moment: they run to their end, and their JSON has the
//! figures that are promised, with values that can be. What the figures are is never asserted: a test shares
//! the machine.

mod support;

use serde_json::Value;
use std::time::Duration;
use support::Sandbox;

const LIMIT: Duration = Duration::from_secs(240);

fn bench(sandbox: &Sandbox, args: &[&str]) -> Value {
    let mut all = vec!["bench"];
    all.extend(args);
    all.push("--json");
    let text = sandbox.run("bench", sandbox.hpcdag(&all), LIMIT);
    serde_json::from_str(&text).expect("figures in JSON")
}

fn number(figures: &Value, name: &str) -> f64 {
    figures[name].as_f64().unwrap_or_else(|| panic!("no {name}: {figures}"))
}

/// What every benchmark of speed says.
fn check(figures: &Value, bench: &str, tasks: u64) {
    assert_eq!(figures["bench"], bench, "{figures}");
    assert_eq!(figures["tasks"], tasks, "{figures}");
    for name in ["seconds", "tasks_per_second", "cpu_us_per_task", "scheduler_bytes_per_task"] {
        assert!(number(figures, name) > 0.0, "{name}: {figures}");
    }
    let product = number(figures, "seconds") * number(figures, "tasks_per_second");
    assert!((product / tasks as f64 - 1.0).abs() < 0.01, "{figures}");
}

#[test]
fn the_core_alone() {
    let sandbox = Sandbox::new();
    for (shape, tasks) in [("independent", 400), ("stencil", 400), ("tree", 400), ("merge", 400)] {
        for keys in ["family", "individual"] {
            let options = ["core", "--tasks", "400", "--shape", shape, "--keys", keys, "--nworkers", "3"];
            let figures = bench(&sandbox, &options);
            let n = figures["tasks"].as_u64().expect("a number");
            assert!((tasks..tasks + 20).contains(&n), "{figures}");
            check(&figures, "core", n);
            // A task costs something, and what its run takes besides is not less than nothing.
            assert!(number(&figures, "core_bytes_per_task") >= 8.0, "{figures}");
            let (known, most) = ("scheduler_bytes_per_task", "peak_bytes_per_task");
            assert!(number(&figures, most) >= number(&figures, known) * 0.9, "{figures}");
        }
    }
}

/// Figures are kept, and more bytes than before are an error of their own.
#[test]
fn figures_are_kept_and_compared() {
    let sandbox = Sandbox::new();
    let file = sandbox.path("figures.json").display().to_string();
    let core = ["core", "--tasks", "2000", "--shape", "stencil"];
    bench(&sandbox, &[&core[..], &["--save", &file]].concat());
    let figures = bench(&sandbox, &[&core[..], &["--compare", &file]].concat());
    let ratio = figures["ratios"]["scheduler_bytes_per_task"].as_f64();
    assert!(ratio.is_some_and(|r| (0.9..1.1).contains(&r)), "{figures}");
    let mut kept: Value = serde_json::from_str(&sandbox.read("figures.json")).expect("JSON");
    kept["records"][0]["scheduler_bytes_per_task"] = Value::from(1.0);
    sandbox.write("figures.json", kept.to_string());
    let args = [&["bench"], &core[..], &["--compare", &file]].concat();
    let mut worse = sandbox.start("worse", sandbox.hpcdag(&args));
    assert_eq!(worse.wait(LIMIT).code(), Some(12), "{}", worse.output());
    assert!(worse.output().contains("scheduler_bytes_per_task is"), "{}", worse.output());
}

#[test]
fn pretended_workers() {
    let sandbox = Sandbox::new();
    check(&bench(&sandbox, &["zero-worker", "--tasks", "3000"]), "zero-worker", 3000);
    let options = ["zero-worker", "--tasks", "900", "--shape", "stencil", "--nworkers", "3"];
    let figures = bench(&sandbox, &options);
    check(&figures, "zero-worker", 900);
    for part in ["client", "scheduler", "workers"] {
        assert!(number(&figures, &format!("{part}_cpu_us_per_task")) > 0.0, "{part}: {figures}");
    }
}

#[test]
fn tasks_on_a_worker() {
    let sandbox = Sandbox::new();
    check(&bench(&sandbox, &["tasks", "--tasks", "1000"]), "tasks", 1000);
    let options = ["tasks", "--tasks", "127", "--shape", "tree", "--keys", "individual", "--nworkers", "2"];
    check(&bench(&sandbox, &options), "tasks", 127);
    let watched = bench(&sandbox, &["tasks", "--tasks", "1000", "--viewers", "2"]);
    check(&watched, "tasks", 1000);
    assert!(number(&watched, "views_answered") >= 10.0, "{watched}");
}

/// All are let in, though the process may open few files to begin with: it raises its limit itself.
#[test]
fn many_connections() {
    let sandbox = Sandbox::new();
    let bench = sandbox.hpcdag(&["bench", "connections", "--tasks", "2000", "--nworkers", "300", "--json"]);
    let mut few_files = sandbox.command("bash");
    few_files
        .args(["-c", "ulimit -S -n 64 && exec \"$@\"", "-"])
        .arg(bench.get_program())
        .args(bench.get_args());
    let text = sandbox.run("bench", few_files, LIMIT);
    let figures: Value = serde_json::from_str(&text).expect("figures in JSON");
    check(&figures, "connections", 2000);
    assert!(number(&figures, "registered_seconds") > 0.0, "{figures}");
    assert!(number(&figures, "open_files") > 300.0, "{figures}");
    assert!(number(&figures, "fraction_of_10") > 0.0, "{figures}");
}

#[test]
fn a_stencil_of_shorter_and_shorter_tasks() {
    let sandbox = Sandbox::new();
    let options = ["stencil", "--tasks", "96", "--width", "8", "--longest", "2us"];
    let figures = bench(&sandbox, &options);
    let ladder = figures["ladder"].as_array().expect("lengths");
    assert!(!ladder.is_empty(), "{figures}");
    for rung in ladder {
        assert!(number(rung, "efficiency_by_cpu") > 0.0, "{figures}");
        assert!(number(rung, "remote_inputs_per_task") <= 3.0, "{figures}");
    }
    let lengths: Vec<f64> = ladder.iter().map(|rung| number(rung, "length_us")).collect();
    assert!(lengths.is_sorted_by(|a, b| a > b), "{figures}");
    assert!(figures.get("metg_us").is_some(), "{figures}");
}

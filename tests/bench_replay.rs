//! A run's shape, recorded and run again: nothing of what the tasks are called or do is in the file, and what
//! is run has the same tasks and edges.

mod support;

use serde_json::Value;
use std::time::Duration;
use support::Sandbox;

const LIMIT: Duration = Duration::from_secs(60);

/// Windows, trees, groups, groups by bytes, an edge without data; `secret` in everything that has a name.
const GRAPH: &str = r#"
version = 1
params = { secretparam = "secretvalue" }

[env.secretenv]
setup = ["export SECRETLINE=secretshell"]

[task.secretload]
for-each = { values = ["secret0", "secret1", "secret2", "secret3", "secret4", "secret5"] }
native = "bytes"
args = { size = 1000 }
resources = { secretlicence = 1 }

[task.secretwindow]
from = { secretload = { window = [-1, 1] } }
argv = ["sh", "-c", "echo secretargument", "{secretparam}"]
env = { SECRETVARIABLE = "secret" }

[task.secrettree]
from = { secretwindow = { tree = 2 } }
argv = ["echo", "secretresult"]
use = "secretenv"

[task.secretgroup]
from = { secretload = { group = 4 } }
native = "bytes"
args = { size = 77 }
memory = "16 MiB"

[task.secretbytes]
from = { secretload = { group-bytes = "2000 B" } }
native = "concat"

[task.secretlast]
from = { secretgroup = "all", secrettree = "all" }
after = ["secretbytes"]
shell = "echo secretshell"

[output]
secretlast = "secretfile.txt"
"#;

/// Of 6 elements with groups of 2: 6 to load, 6 windows, a tree of 3 + 2 + 1, 2 groups, 3 groups by bytes, 1.
const TASKS: u64 = 6 + 6 + 6 + 2 + 3 + 1;

/// 4 × 3 + 2 × 2 of the windows, 6 + 3 + 2 of the tree, 6 and 6 of the groups, and 2 + 1 + 3 of the last.
const EDGES: u64 = 16 + 11 + 6 + 6 + 6;

fn record(sandbox: &Sandbox) -> Vec<Value> {
    sandbox.write("secretgraph.toml", GRAPH);
    let args = ["submit", "secretgraph.toml", "--local", "-n", "2", "--record", "shape.ndjson"];
    let mut command = sandbox.hpcdag(&args);
    command.env("HPCDAG_WORKER__RESOURCES", "secretlicence=2");
    sandbox.run("record", command, LIMIT);
    assert_eq!(sandbox.read("secretfile.txt"), "secretshell\n");
    let text = sandbox.read("shape.ndjson");
    assert!(!text.to_lowercase().contains("secret"), "{text}");
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

fn replay(sandbox: &Sandbox, more: &[&str]) -> Value {
    let args = [&["bench", "replay", "shape.ndjson", "--json"], more].concat();
    let text = sandbox.run("replay", sandbox.hpcdag(&args), LIMIT);
    let figures: Value = serde_json::from_str(&text).expect("figures in JSON");
    assert_eq!(figures["bench"], "replay", "{figures}");
    assert_eq!(figures["tasks"], TASKS, "{figures}");
    assert_eq!(figures["recorded_tasks"], TASKS, "{figures}");
    assert_eq!(figures["edges"], EDGES, "{figures}");
    for name in ["seconds", "tasks_per_second", "cpu_us_per_task", "scheduler_bytes_per_task"] {
        assert!(figures[name].as_f64().is_some_and(|n| n > 0.0), "{name}: {figures}");
    }
    figures
}

#[test]
fn a_recorded_run_can_be_run_again() {
    let sandbox = Sandbox::new();
    let lines = record(&sandbox);
    let head = &lines[0];
    assert_eq!((&head["hpcdag-shape"], &head["families"]), (&1.into(), &6.into()), "{head}");
    assert_eq!((&head["tasks"], &head["edges"]), (&TASKS.into(), &EDGES.into()), "{head}");
    assert_eq!(head["succeeded"], TASKS, "{head}");
    assert_eq!(head["workers"].as_array().map(Vec::len), Some(2), "{head}");
    // Sizes are those of the results, whether or not the results are still there.
    let load = &lines[1];
    assert_eq!((&load["elements"], &load["bytes"]), (&6.into(), &serde_json::json!([1000])), "{load}");
    assert_eq!(load["resources"]["r0"], 1.0, "{load}");
    assert!(load["duration-us"].as_f64().is_some_and(|us| us > 0.0), "{load}");
    assert_eq!(lines[4]["memory"], serde_json::json!([16 << 20]), "{:?}", lines[4]);
    assert_eq!((&lines[5]["follows"], &lines[5]["elements"]), (&true.into(), &3.into()), "{:?}", lines[5]);

    let figures = replay(&sandbox, &["--nworkers", "2", "--nthreads", "2"]);
    assert_eq!(figures["setup"]["nworkers"], 2, "{figures}");

    // In virtual time everything follows from the file.
    let options = ["--simulate", "--nworkers", "2", "--nthreads", "1"];
    let (once, again) = (replay(&sandbox, &options), replay(&sandbox, &options));
    let seconds = |figures: &Value| figures["simulated_seconds"].as_f64().expect("a number");
    assert_eq!(seconds(&once), seconds(&again));
    assert!(once["peak_result_bytes"].as_u64().is_some_and(|n| n >= 1000), "{once}");
    let longer = replay(&sandbox, &[&options[..], &["--scale-time", "3"]].concat());
    assert!(seconds(&longer) > 2.0 * seconds(&once), "{longer}");
    // Half of the bytes, and groups of half of the bytes: the same groups.
    let smaller = replay(&sandbox, &[&options[..], &["--scale-bytes", "0.5"]].concat());
    assert!(smaller["peak_result_bytes"].as_u64() < once["peak_result_bytes"].as_u64(), "{smaller}");
}

/// A run that fails is recorded all the same, and its exit code stays.
#[test]
fn a_run_that_fails_is_recorded() {
    let sandbox = Sandbox::new();
    let args = ["submit", "--local", "--record", "shape.ndjson", "--array", "0-9", "--"];
    let mut process =
        sandbox.start("fails", sandbox.hpcdag(&[&args[..], &["test", "{item}", "-lt", "8"]].concat()));
    assert_eq!(process.wait(LIMIT).code(), Some(3), "{}", process.output());
    let text = sandbox.read("shape.ndjson");
    let head: Value = serde_json::from_str(text.lines().next().unwrap_or_default()).expect("a line of JSON");
    assert_eq!((&head["succeeded"], &head["failed"]), (&8.into(), &2.into()), "{head}");
}

#[test]
fn what_is_wrong_is_said_with_its_line() {
    let sandbox = Sandbox::new();
    record(&sandbox);
    let good = sandbox.read("shape.ndjson");
    let broken = [
        (good.replacen("\"family\":2", "\"family\":\"two\"", 1), "line 4: "),
        // An edge that says something else than the number of elements.
        (good.replacen("{\"Group\":{\"size\":4}}", "{\"Group\":{\"size\":1}}", 1), "line 5: task `f3`"),
        (good.lines().take(5).collect::<Vec<_>>().join("\n"), "line 5: 6 families are announced, 4 follow"),
        ("secret".into(), "line 1: this is no record"),
    ];
    for (text, words) in broken {
        assert_ne!(text, good, "{words}");
        sandbox.write("broken.ndjson", text);
        let args = ["bench", "replay", "broken.ndjson", "--simulate"];
        let mut process = sandbox.start("broken", sandbox.hpcdag(&args));
        assert_ne!(process.wait(LIMIT).code(), Some(0));
        assert!(process.output().contains(words), "{words}: {}", process.output());
    }
}

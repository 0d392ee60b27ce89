//! Memory of real worker processes: results that go to disk and come back, pauses that end, tasks that
//! outgrow the worker and end alone, nothing left behind.

mod support;

use serde_json::Value;
use std::path::Path;
use std::time::Duration;
use support::{Process, Sandbox, children, wait_until};

const SOON: Duration = Duration::from_secs(60);
const LIMIT: Duration = Duration::from_secs(240);

/// A scheduler and a worker with this much memory. They end with the test.
fn cluster(sandbox: &Sandbox, limit: &str, settings: &[(&str, &str)]) -> (Process, Process) {
    let scheduler = ["scheduler", "--scheduler-file", "s.json", "--host", "127.0.0.1"];
    let scheduler = sandbox.start("scheduler", sandbox.hpcdag(&scheduler));
    let mut worker = sandbox.hpcdag(&["worker", "--scheduler-file", "s.json", "--host", "127.0.0.1"]);
    worker.args(["--no-nanny", "--nthreads", "2", "--local-directory", "local", "--memory-limit", limit]);
    worker.envs(settings.iter().copied());
    (scheduler, sandbox.start("worker", worker))
}

fn submit(sandbox: &Sandbox, graph: &str) -> (i32, Value) {
    sandbox.write("graph.toml", graph);
    let submit = ["submit", "graph.toml", "--scheduler-file", "s.json", "--json"];
    let mut process = sandbox.start("submit", sandbox.hpcdag(&submit));
    let code = process.wait(LIMIT).code().expect("an exit code");
    let summary = serde_json::from_str(&sandbox.read("submit.out"));
    (code, summary.unwrap_or_else(|e| panic!("no summary ({e}): {}", process.output())))
}

fn worker_status(sandbox: &Sandbox) -> Value {
    let status = sandbox.hpcdag(&["status", "--scheduler-file", "s.json", "--json"]);
    let status: Value = serde_json::from_str(&sandbox.run("status", status, SOON)).expect("JSON");
    status["workers"][0].clone()
}

fn memory(sandbox: &Sandbox) -> Value {
    worker_status(sandbox)["memory"].clone()
}

/// Two hundred megabytes of results, all of them needed at once, then each by itself.
const LARGE: &str = r#"
version = 1
[task.make]
for-each = { range = [100, 200] }
argv = ["seq", "{item}000000", "{item}210000"]
[task.all]
from = { make = "all" }
stdin = "inputs"
shell = "wc -c"
[task.sum]
from = { make = "each" }
after = ["all"]
shell = "md5sum"
[output]
all = "all.txt"
sum = "sums/{index}.txt"
"#;

#[test]
fn a_small_worker_keeps_large_results_by_spilling() {
    let sandbox = Sandbox::new();
    let (_scheduler, worker) = cluster(&sandbox, "64MiB", &[]);
    let (code, summary) = submit(&sandbox, LARGE);
    assert_eq!((code, &summary["failed"]), (0, &Value::from(0)), "{summary}{}", worker.output());
    assert_eq!(sandbox.read("all.txt").trim(), "210001000");
    for index in [0, 57, 99] {
        let line = format!("seq {0}000000 {0}210000 | md5sum", 100 + index);
        let mut same = sandbox.command("bash");
        same.args(["-c", &line]);
        assert_eq!(sandbox.read(&format!("sums/{index}.txt")), sandbox.run("same", same, SOON));
    }
}

fn regular_files(directory: &Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut found = Vec::new();
    for path in entries.flatten().map(|e| e.path()) {
        if path.is_dir() { found.extend(regular_files(&path)) } else { found.push(path) }
    }
    found
}

#[test]
fn nothing_spilled_is_left_after_a_kill() {
    let sandbox = Sandbox::new();
    let (_scheduler, mut worker) = cluster(&sandbox, "64MiB", &[]);
    let graph = LARGE.replace("shell = \"wc -c\"", "shell = \"sleep 600\"");
    sandbox.write("graph.toml", graph);
    let detach = ["submit", "graph.toml", "--scheduler-file", "s.json", "--detach"];
    sandbox.run("detach", sandbox.hpcdag(&detach), SOON);
    let mut seen = Value::Null;
    wait_until("results on disk", SOON, || {
        seen = memory(&sandbox);
        seen["spilled"].as_u64() > Some(100 << 20)
    });
    assert!(seen["unmanaged"].as_u64() > Some(0), "{seen}");
    worker.kill();
    assert_eq!(regular_files(&sandbox.path("local")), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_task_that_outgrows_the_worker_ends_alone() {
    let sandbox = Sandbox::new();
    let (_scheduler, mut worker) = cluster(&sandbox, "64MiB", &[]);
    let graph = r#"
        version = 1
        [task.greedy]
        shell = "(head -c 200000000 /dev/zero; sleep 60) | tail | wc -c"
        [task.modest]
        for-each = { range = [0, 100] }
        shell = "sleep 0.02; echo {item}"
    "#;
    let (code, summary) = submit(&sandbox, graph);
    assert_eq!(code, 3, "{summary}");
    assert_eq!((&summary["succeeded"], &summary["failed"]), (&100.into(), &1.into()), "{summary}");
    let text = summary.to_string();
    assert!(text.contains("ended for memory") && text.contains("limit is 64 MiB"), "{text}");
    assert!(worker.is_running());
}

#[test]
fn a_pause_ends_when_its_cause_does() {
    let sandbox = Sandbox::new();
    let off = [("HPCDAG_WORKER__MEMORY__TERMINATE", "false")];
    let (_scheduler, worker) = cluster(&sandbox, "128MiB", &off);
    let graph = r#"
        version = 1
        [task.large]
        shell = "(head -c 150000000 /dev/zero; sleep 2) | tail | wc -c"
        [task.after]
        for-each = { range = [0, 20] }
        shell = "sleep 0.3; echo {item}"
    "#;
    let (code, summary) = submit(&sandbox, graph);
    assert_eq!((code, &summary["succeeded"]), (0, &Value::from(21)), "{summary}");
    let log = worker.output();
    assert!(log.contains("paused, no task starts") && log.contains("resumed"), "{log}");
}

#[test]
fn declared_memory_is_a_hard_limit_where_it_is_enforced() {
    let sandbox = Sandbox::new();
    let on = [("HPCDAG_WORKER__MEMORY__ENFORCE", "true")];
    let (_scheduler, mut worker) = cluster(&sandbox, "2GiB", &on);
    // A fork of a large process is not twice as large.
    let graph = r#"
        version = 1
        [task.greedy]
        memory = "40MiB"
        shell = "(head -c 120000000 /dev/zero; sleep 60) | tail | wc -c"
        [task.modest]
        memory = "200MiB"
        shell = """
        x=$(head -c 60000000 /dev/zero | tr '\\0' x)
        for i in 1 2 3 4; do (sleep 1; echo ${#x}) & done
        sleep 1; wait"""
        [task.undeclared]
        shell = "(head -c 120000000 /dev/zero; sleep 1) | tail | wc -c"
        [task.grows]
        memory = ["40MiB", "400MiB"]
        retries = 1
        shell = "(head -c 120000000 /dev/zero; sleep 1) | tail | wc -c"
    "#;
    let (code, summary) = submit(&sandbox, graph);
    assert_eq!(code, 3, "{summary}");
    assert_eq!((&summary["succeeded"], &summary["failed"]), (&3.into(), &1.into()), "{summary}");
    let text = summary.to_string();
    assert!(text.contains("declared 40 MiB and reached") && text.contains("enforced by"), "{text}");
    assert!(worker.is_running());
}

/// Ten gigabytes leaked on half a gigabyte: executors are replaced, and the worker never notices.
#[test]
fn functions_that_leak_cost_executors_and_nothing_else() {
    let sandbox = Sandbox::new();
    let on = [("HPCDAG_WORKER__NATIVE_ISOLATION", "true"), ("HPCDAG_WORKER__MEMORY__ENFORCE", "true")];
    let (_scheduler, mut worker) = cluster(&sandbox, "512MiB", &on);
    let leak = r#"
        version = 1
        [task.leak]
        for-each = { range = [0, 10000] }
        native = "leak"
        args = { size = "1 MiB" }
    "#;
    let (code, summary) = submit(&sandbox, leak);
    assert_eq!((code, &summary["succeeded"]), (0, &10_000.into()), "{summary}{}", worker.output());
    let mut status = Value::Null;
    wait_until("the executors are counted", SOON, || {
        status = worker_status(&sandbox);
        status["executors"]["replaced"].as_u64() > Some(100)
    });
    assert_eq!((&status["executors"]["died"], &status["memory"]["paused-seconds"]), (&0.into(), &0.0.into()));
    assert!(status["memory"]["peak-total"].as_u64() < Some(300 << 20), "{status}");
    // In a process of its own a function can be ended, for the worker's limit and for its own.
    let greedy = r#"
        version = 1
        [task.greedy]
        native = "transient"
        args = { size = "800 MiB", seconds = 600 }
        [task.beyond]
        native = "transient"
        args = { size = "200 MiB", seconds = 600 }
        memory = "100 MiB"
        after = ["modest"]
        [task.modest]
        for-each = { range = [0, 100] }
        native = "sleep"
        args = { seconds = 0.01 }
    "#;
    let (code, summary) = submit(&sandbox, greedy);
    assert_eq!(code, 3, "{summary}");
    assert_eq!((&summary["succeeded"], &summary["failed"]), (&100.into(), &2.into()), "{summary}");
    let text = summary.to_string();
    assert!(text.contains("limit is 512 MiB") && text.contains("declared 100 MiB and reached"), "{text}");
    assert!(worker.is_running());
    // None of them outlives the worker, however that ends.
    let executors = children(worker.pid());
    assert!(!executors.is_empty());
    worker.kill();
    let stat = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    wait_until("the executors end", SOON, || {
        executors.iter().all(|pid| stat(pid).is_empty() || stat(pid).contains(") Z "))
    });
}

#[test]
fn without_thresholds_nothing_is_done() {
    let sandbox = Sandbox::new();
    let (_scheduler, worker) = cluster(&sandbox, "none", &[]);
    let graph = r#"
        version = 1
        [task.large]
        shell = "(head -c 150000000 /dev/zero; sleep 1) | tail | wc -c"
    "#;
    assert_eq!(submit(&sandbox, graph).0, 0, "{}", worker.output());
}

#[test]
fn how_the_limit_is_found_can_be_asked() {
    let sandbox = Sandbox::new();
    let mut explain = sandbox.hpcdag(&["worker", "--explain-memory", "--memory-limit", "1GiB"]);
    explain.env("HPCDAG_WORKER__MEMORY__SPILL", "false");
    let text = sandbox.run("explain", explain, SOON);
    let mut explain = sandbox.hpcdag(&["worker", "--explain-memory", "--memory-limit", "1GiB", "--json"]);
    explain.env("HPCDAG_WORKER__MEMORY__SPILL", "false");
    let json: Value = serde_json::from_str(&sandbox.run("json", explain, SOON)).expect("JSON");
    assert_eq!((&json["limit"], &json["spill"]), (&(1 << 30).into(), &Value::Null), "{json}");
    assert!(json["enforcement"]["enforcers"].is_array() && text.contains("enforced by "), "{text}{json}");
    for line in ["limit      1073741824 bytes", "target     644245094 bytes", "spill      off", "RAM: "] {
        assert!(text.contains(line), "{line}: {text}");
    }
}

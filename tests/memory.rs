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
    (scheduler(sandbox), worker(sandbox, "worker", &["--nthreads", "2", "--memory-limit", limit], settings))
}

fn scheduler(sandbox: &Sandbox) -> Process {
    let scheduler = ["scheduler", "--scheduler-file", "s.json", "--host", "127.0.0.1"];
    sandbox.start("scheduler", sandbox.hpcdag(&scheduler))
}

fn worker(sandbox: &Sandbox, name: &str, args: &[&str], settings: &[(&str, &str)]) -> Process {
    let mut worker = sandbox.hpcdag(&["worker", "--scheduler-file", "s.json", "--host", "127.0.0.1"]);
    worker.args(["--no-nanny", "--local-directory", &format!("local-{name}"), "--name", name]).args(args);
    worker.envs(settings.iter().copied());
    sandbox.start(name, worker)
}

fn status(sandbox: &Sandbox) -> Value {
    let status = sandbox.hpcdag(&["status", "--scheduler-file", "s.json", "--json"]);
    serde_json::from_str(&sandbox.run("status", status, SOON)).expect("JSON")
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
    status(sandbox)["workers"][0].clone()
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
    // Its log stays, for whoever asks why it died.
    let mut left = regular_files(&sandbox.path("local-worker"));
    left.retain(|path| !path.parent().is_some_and(|directory| directory.ends_with("logs")));
    assert_eq!(left, Vec::<std::path::PathBuf>::new());
}

/// Three times the limit, and not given back before the worker has seen it.
const GREEDY: &str = "(head -c 200000000 /dev/zero; sleep 60) | tail | wc -c";

#[test]
fn a_task_of_three_times_the_limit_fails_alone_while_a_thousand_neighbours_finish() {
    let sandbox = Sandbox::new();
    let _scheduler = scheduler(&sandbox);
    let limits = ["--nthreads", "2", "--memory-limit", "64MiB"];
    let mut workers = ["one", "two"].map(|name| worker(&sandbox, name, &limits, &[]));
    let graph = format!(
        r#"
        version = 1
        [task.modest]
        for-each = {{ range = [0, 1000] }}
        shell = "sleep 0.01; echo {{item}}"
        [task.greedy]
        priority = 1
        retries = 3
        shell = "{GREEDY}"
        [output]
        modest = "modest/{{index}}.txt"
    "#
    );
    let begin = std::time::Instant::now();
    let (code, summary) = submit(&sandbox, &graph);
    assert_eq!(code, 3, "{summary}");
    assert_eq!((&summary["succeeded"], &summary["failed"]), (&1000.into(), &1.into()), "{summary}");
    assert_eq!(sandbox.read("modest/999.txt"), "999\n");
    let text = summary.to_string();
    for part in ["greedy", "ended for memory", "limit is 64 MiB", "not tried again: no worker has more room"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(workers.iter_mut().all(Process::is_running), "no worker ends");
    println!("1,000 neighbours and the greedy one: {:.1} s", begin.elapsed().as_secs_f64());
}

#[test]
fn a_task_that_needs_more_than_its_part_is_tried_again_alone() {
    let sandbox = Sandbox::new();
    let (_scheduler, worker) = cluster(&sandbox, "256MiB", &[]);
    // Together they have no room; the larger one ends first, and has room once it is alone.
    let graph = r#"
        version = 1
        [task.larger]
        shell = "(head -c 150000000 /dev/zero; sleep 2) | tail | wc -c"
        [task.smaller]
        shell = "(head -c 120000000 /dev/zero; sleep 2) | tail | wc -c"
    "#;
    let (code, summary) = submit(&sandbox, graph);
    let log = worker.output();
    assert_eq!(
        (code, &summary["succeeded"], &summary["retried"]),
        (0, &2.into(), &1.into()),
        "{summary}{log}"
    );
    assert!(log.contains("ended for memory"), "{log}");
}

/// More results than the worker may have descriptors, each large enough for a memory file.
#[test]
fn many_results_do_not_use_up_the_descriptors() {
    let sandbox = Sandbox::new();
    let scheduler = ["scheduler", "--scheduler-file", "s.json", "--host", "127.0.0.1"];
    let _scheduler = sandbox.start("scheduler", sandbox.hpcdag(&scheduler));
    let worker = sandbox.hpcdag(&[
        "worker",
        "--scheduler-file",
        "s.json",
        "--host",
        "127.0.0.1",
        "--no-nanny",
        "--nthreads",
        "2",
        "--local-directory",
        "local",
        "--memory-limit",
        "64MiB",
    ]);
    let mut few = sandbox.command("bash");
    few.args(["-c", "ulimit -n 160 && exec \"$@\"", "bash"]);
    few.arg(worker.get_program()).args(worker.get_args());
    let worker = sandbox.start("worker", few);
    // Part of them stays in memory, part goes to disk.
    let graph = r#"
        version = 1
        [task.make]
        for-each = { range = [100, 800] }
        shell = "head -c 99993 /dev/zero | tr '\\0' x; echo {item}abc"
        [task.all]
        from = { make = "all" }
        stdin = "inputs"
        shell = "wc"
        [output]
        all = "all.txt"
    "#;
    let (code, summary) = submit(&sandbox, graph);
    assert_eq!((code, &summary["failed"]), (0, &Value::from(0)), "{summary}{}", worker.output());
    let words: Vec<_> = sandbox.read("all.txt").split_whitespace().map(str::to_owned).collect();
    assert_eq!(words, ["700", "700", "70000000"]);
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
    assert!(log.contains("not results that hold it, but the worker and its tasks"), "{log}");
}

#[test]
fn a_paused_worker_hands_back_what_another_can_do() {
    let sandbox = Sandbox::new();
    let off = [("HPCDAG_WORKER__MEMORY__TERMINATE", "false")];
    let _scheduler = scheduler(&sandbox);
    let args = ["--nthreads", "2", "--memory-limit", "128MiB"];
    let _small = worker(&sandbox, "small", &[&args[..], &["--resources", "small=1"]].concat(), &off);
    let graph = r#"
        version = 1
        [task.large]
        priority = 1
        resources = { small = 1 }
        shell = "(head -c 150000000 /dev/zero; sleep 45) | tail | wc -c"
        [task.after]
        for-each = { range = [0, 60] }
        shell = "sleep 0.3; echo {item}"
    "#;
    sandbox.write("graph.toml", graph);
    let detach = ["submit", "graph.toml", "--scheduler-file", "s.json", "--detach"];
    sandbox.run("detach", sandbox.hpcdag(&detach), SOON);
    wait_until("the pause", SOON, || status(&sandbox)["workers"][0]["state"] == "paused");
    let _other = worker(&sandbox, "other", &["--nthreads", "2", "--memory-limit", "none"], &[]);
    let mut last = Value::Null;
    wait_until("the other's work", Duration::from_secs(40), || {
        last = status(&sandbox)["tasks"].clone();
        last["released"] == 60 || last["memory"] == 60
    });
    // Only what made it pause is left.
    assert_eq!(last["processing"], 1, "{last}");
}

/// Results that come to half the memory, then a task that with them passes `pause`, but not `terminate`.
const NEAR: &str = r#"
version = 1
[task.make]
for-each = { range = [100, 164] }
argv = ["seq", "{item}000000", "{item}210000"]
[task.large]
after = ["make"]
shell = "(head -c 85000000 /dev/zero; sleep 1) | tail | wc -c"
[task.after]
for-each = { range = [0, 10] }
after = ["make"]
shell = "sleep 0.2; echo {item}"
[task.all]
from = { make = "all" }
after = ["large"]
stdin = "inputs"
shell = "wc -c"
[output]
all = "all.txt"
"#;

#[test]
fn without_a_disk_a_worker_pauses_and_ends_what_runs_away() {
    let sandbox = Sandbox::new();
    let off = [("HPCDAG_WORKER__MEMORY__TARGET", "false"), ("HPCDAG_WORKER__MEMORY__SPILL", "false")];
    let (_scheduler, mut worker) = cluster(&sandbox, "256MiB", &off);
    let (code, summary) = submit(&sandbox, NEAR);
    assert_eq!((code, &summary["failed"]), (0, &0.into()), "{summary}{}", worker.output());
    assert_eq!(sandbox.read("all.txt").trim(), (64 * 2_100_010).to_string());
    let seen = memory(&sandbox);
    assert_eq!(seen["spill-written"], 0, "{seen}");
    assert!(worker.output().contains("paused, no task starts"), "{}", worker.output());
    let greedy = GREEDY.replace("200000000", "800000000");
    let (code, summary) = submit(&sandbox, &format!("version = 1\n[task.greedy]\nshell = \"{greedy}\""));
    assert!(code == 3 && summary.to_string().contains("ended for memory"), "{summary}");
    assert!(worker.is_running());
}

#[test]
fn with_a_target_alone_results_go_to_disk_and_nothing_else_happens() {
    let sandbox = Sandbox::new();
    let off = ["SPILL", "PAUSE", "TERMINATE"].map(|name| format!("HPCDAG_WORKER__MEMORY__{name}"));
    let off: Vec<(&str, &str)> = off.iter().map(|name| (name.as_str(), "false")).collect();
    let (_scheduler, worker) = cluster(&sandbox, "128MiB", &off);
    let graph = NEAR.replace("85000000", "150000000");
    let (code, summary) = submit(&sandbox, &graph);
    assert_eq!((code, &summary["failed"]), (0, &0.into()), "{summary}{}", worker.output());
    let seen = memory(&sandbox);
    assert!(seen["spill-written"].as_u64() > Some(20_000_000), "{seen}");
    assert_eq!(seen["paused-seconds"], 0.0, "{seen}");
    let log = worker.output();
    assert!(!log.contains("ended for memory") && !log.contains("paused"), "{log}");
}

#[test]
fn one_process_for_each_core_shares_what_the_job_has() {
    let sandbox = Sandbox::new();
    let _scheduler = scheduler(&sandbox);
    // Two workers of a job step that was granted 256 MiB on this node.
    let job = [("SLURM_MEM_PER_NODE", "256"), ("SLURM_STEP_TASKS_PER_NODE", "2")];
    let workers = ["one", "two"].map(|name| worker(&sandbox, name, &["--nthreads", "1"], &job));
    wait_until("two workers", SOON, || status(&sandbox)["workers"].as_array().map(Vec::len) == Some(2));
    let (code, summary) = submit(&sandbox, LARGE);
    let logs = || workers.iter().map(Process::output).collect::<String>();
    assert_eq!((code, &summary["failed"]), (0, &0.into()), "{summary}{}", logs());
    assert_eq!(sandbox.read("all.txt").trim(), "210001000");
    for worker in status(&sandbox)["workers"].as_array().expect("a list") {
        let seen = &worker["memory"];
        assert_eq!(seen["limit"], 128 << 20, "{seen}");
        assert!(seen["peak-managed"].as_u64() > Some(0), "both had their part: {seen}");
    }
}

#[test]
fn values_that_contradict_each_other_are_refused_with_the_reason() {
    let sandbox = Sandbox::new();
    let mut worker = sandbox.hpcdag(&["worker", "--explain-memory"]);
    worker.envs([("HPCDAG_WORKER__MEMORY__TARGET", "0.9"), ("HPCDAG_WORKER__MEMORY__SPILL", "false")]);
    let mut process = sandbox.start("refused", worker);
    assert_eq!(process.wait(SOON).code(), Some(5));
    let text = process.output();
    for part in ["worker.memory.target = 0.9", "worker.memory.pause", "HPCDAG_WORKER__MEMORY__TARGET"] {
        assert!(text.contains(part), "{part}: {text}");
    }
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

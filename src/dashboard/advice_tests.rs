//! Each rule of the advice, on a run that calls for it and on one that does not.

use super::*;
use serde_json::json;

const GIB: f64 = (1u64 << 30) as f64;

/// A run of a minute on two workers of two threads, with nothing that stands out.
fn usual() -> Value {
    let worker = |name: &str| {
        json!({ "name": name, "threads": 2.0,
            "memory": { "managed": 0, "unmanaged": 0, "limit": 10.0 * GIB, "target": 6.0 * GIB },
            "seconds": { "compute": 80.0, "fetch": 1.0, "spill": 0.0, "wait": 1.0, "paused": 0.0 } })
    };
    json!({
        "run": { "id": "r", "summary": { "wall-seconds": 60.0, "task-seconds": 168.0, "failed": 0,
            "skipped": 0,
            "retried": 0 } },
        "overview": { "threads": 4.0, "failed": 0, "memory": { "spilled": 0 },
            "workers": [worker("w1"), worker("w2")] },
        "groups": { "groups": [{ "name": "day", "counts": { "erred": 0 }, "total": 100, "done": 100,
            "failed-attempts": 0, "seconds": 168.0, "longest": 3.0, "bytes-max": 1000.0 }] },
        "series": { "time": [1.0, 2.0], "total": { "threads": [4, 4], "spilled": [0, 0] },
            "workers": { "w1": { "time": [1.0], "managed": [3.0 * GIB], "unmanaged": [3.0 * GIB] } } },
        "events": { "events": [] },
    })
}

/// The advice about something: its level, title and text.
fn about(data: &Value, about: &str) -> Vec<(Level, String)> {
    let all = advise(data).into_iter().filter(|a| a.about == about);
    all.map(|a| (a.level, format!("{}. {}", a.title, a.text))).collect()
}

fn says(data: &Value, what: &str, level: Level, words: &[&str]) {
    let all = about(data, what);
    assert_eq!(all.len(), 1, "{what}: {all:?}");
    assert_eq!(all[0].0, level, "{all:?}");
    words.iter().for_each(|w| assert!(all[0].1.contains(w), "{w:?} is not in {}", all[0].1));
}

#[test]
fn a_usual_run_gets_figures_and_no_blame() {
    let all = advise(&usual());
    assert!(all.iter().all(|a| a.level == Level::Info), "{all:?}");
    says(&usual(), "all", Level::Info, &["Nothing went wrong"]);
    says(&usual(), "threads", Level::Info, &["2.8 of 4 threads", "70 %", "2 workers were about right"]);
    says(&usual(), "memory", Level::Info, &["6 GiB of 10 GiB (60 %)", "7.8 GiB for each worker"]);
}

#[test]
fn nothing_known_is_no_reason_to_blame_or_panic() {
    for data in
        [json!({}), Value::Null, json!({ "groups": { "groups": [{}] }, "overview": { "workers": [{}] } })]
    {
        let all = advise(&data);
        assert_eq!((all.len(), all[0].about), (1, "all"), "{all:?}");
    }
}

#[test]
fn failures_come_first() {
    let mut data = usual();
    data["run"]["summary"]["failed"] = json!(2);
    data["run"]["summary"]["skipped"] = json!(1);
    data["groups"]["groups"][0]["counts"]["erred"] = json!(2);
    says(&data, "failures", Level::Error, &["2 tasks of day failed", "1 other task did not run", "--resume"]);
    assert_eq!(advise(&data)[0].about, "failures");
    assert!(about(&data, "all").is_empty());
    data["events"]["events"] = json!([{ "kind": "worker-lost" }, { "kind": "worker-left" }]);
    says(&data, "workers", Level::Warning, &["1 worker lost", "--lifetime"]);
    data["groups"]["groups"][0]["failed-attempts"] = json!(5);
    says(&data, "retries", Level::Info, &["3 attempts had to be made again"]);
}

#[test]
fn memory_is_measured_against_the_limit() {
    let mut data = usual();
    let mut with = |managed: f64| {
        data["series"]["workers"]["w1"]["managed"] = json!([managed * GIB]);
        data.clone()
    };
    says(&with(6.5), "memory", Level::Warning, &["Memory was short", "12.3 GiB or more"]);
    says(
        &with(0.0),
        "memory",
        Level::Info,
        &["3 GiB of 10 GiB (30 %)", "3.9 GiB for each worker would have been"],
    );
    let mut paused = usual();
    paused["overview"]["workers"][0]["seconds"]["paused"] = json!(12.0);
    assert!(
        about(&paused, "memory")
            .iter()
            .any(|(level, text)| { *level == Level::Warning && text.contains("paused for 12s") })
    );
}

#[test]
fn what_was_spilled_is_what_was_missing() {
    let mut data = usual();
    data["series"]["total"]["spilled"] = json!([0, 6.0 * GIB]);
    data["series"]["total"]["managed"] = json!([0, 12.0 * GIB]);
    data["overview"]["workers"][0]["seconds"]["spill"] = json!(9.0);
    // 18 GiB at 60 % of the memory, in workers of 10 GiB.
    says(
        &data,
        "spilling",
        Level::Warning,
        &["6 GiB of results", "30 GiB in all", "3 workers like these", "9s"],
    );
}

#[test]
fn threads_that_idle_and_threads_that_lack() {
    let mut data = usual();
    data["run"]["summary"]["task-seconds"] = json!(60.0);
    says(&data, "threads", Level::Warning, &["1.0 of 4 threads", "25 %", "1 worker instead of 2"]);
    data["run"]["summary"]["task-seconds"] = json!(236.0);
    says(&data, "threads", Level::Info, &["98 %", "about 30s instead of 1m00s"]);
    data["run"]["summary"]["wall-seconds"] = json!(1.0);
    assert!(about(&data, "threads").is_empty(), "too short to tell");
}

#[test]
fn tasks_that_are_too_long_too_short_or_too_large() {
    let mut data = usual();
    data["groups"]["groups"][0]["longest"] = json!(41.0);
    says(&data, "long-tasks", Level::Warning, &["One task of day took 41s of 1m00s"]);
    let mut data = usual();
    data["groups"]["groups"][0]["done"] = json!(168_000);
    says(&data, "short-tasks", Level::Info, &["168000 tasks of day took 1ms each", "the work of 100."]);
    let mut data = usual();
    data["groups"]["groups"][0]["bytes-max"] = json!(4.0 * GIB);
    says(&data, "large-results", Level::Warning, &["A result of day has 4 GiB, 40 % of a worker's memory"]);
}

#[test]
fn waiting_for_inputs_is_said() {
    let mut data = usual();
    data["overview"]["workers"][0]["seconds"]["wait"] = json!(99.0);
    says(&data, "moving", Level::Warning, &["waited 1m40s for inputs (38 % of their time)"]);
}

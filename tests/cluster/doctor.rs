//! `doctor`: what it says of clusters that live and of those that do not, and that it ends what a dead one
//! has left and nothing else.

use crate::site::{Ended, Site, kill, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value;

/// What `doctor --json` prints; it may have found a problem with this machine.
fn doctor(site: &Site, args: &[&str]) -> Value {
    let ended = site.run(&[&["doctor", "--json"], args].concat());
    assert!(matches!(ended.code, Some(0 | 12)), "{ended:?}");
    let report: Value = serde_json::from_str(&ended.stdout).unwrap_or_else(|e| panic!("{e}: {ended:?}"));
    assert_eq!(ended.code == Some(12), report["level"] == "problem", "{ended:?}");
    report
}

fn findings<'a>(report: &'a Value, area: &str, level: &str) -> Vec<&'a Value> {
    let all = report["findings"].as_array().expect("a list").iter();
    all.filter(|f| f["area"] == area && f["level"] == level).collect()
}

#[test]
fn the_report_has_its_keys_and_knows_the_scheduler() {
    let mut site = Site::new();
    let scheduler = site.start("scheduler", &["scheduler"]);
    wait_until("it is there", || site.run(&["status"]).code == Some(0));
    let report = doctor(&site, &[]);
    for area in ["batch", "system", "memory", "network", "files", "clusters"] {
        assert!(!report["readings"][area].is_null(), "{area}: {report:#}");
        let about = |f: &&Value| f["area"] == area;
        assert!(report["findings"].as_array().expect("a list").iter().any(|f| about(&f)), "{area}");
    }
    for finding in report["findings"].as_array().expect("a list") {
        let serious = matches!(finding["level"].as_str(), Some("warning" | "problem"));
        assert_eq!(finding["do"].is_string(), serious, "{finding}");
        assert!(finding["text"].is_string(), "{finding}");
    }
    let found = &report["readings"]["network"]["scheduler"];
    assert_eq!((found["reach"][0]["fault"].as_str(), found["fault"].as_str()), (None, None), "{found}");
    assert!(found["clock-ahead"][0].as_f64().is_some_and(|s| s.abs() < 2.0), "{found}");
    assert_eq!(report["readings"]["clusters"][0]["state"], "alive");
    let scratch = &report["readings"]["files"][0];
    assert!(scratch["path"].as_str().is_some_and(|p| p.starts_with(&*site.path("tmp").to_string_lossy())));
    assert_eq!(findings(&report, "clusters", "warning").len(), 0);

    scheduler.signal(Signal::SIGKILL);
    site.wait_for_silence();
    let report = doctor(&site, &[]);
    assert_eq!(report["readings"]["clusters"][0]["state"], "dead", "{report:#}");
    let stale = findings(&report, "clusters", "warning");
    assert!(
        stale.len() == 1 && stale[0]["do"].as_str().is_some_and(|d| d.contains("--orphans")),
        "{stale:?}"
    );
    // A scheduler that was named and does not answer is a problem; its address may be anybody's by now.
    let file = report["readings"]["clusters"][0]["scheduler-file"].as_str().expect("a path").to_owned();
    site.set("HPCDAG_CLIENT__TIMEOUT", "1s");
    let named = doctor(&site, &["--scheduler-file", &file]);
    assert_eq!(findings(&named, "network", "problem").len(), 2, "{named:#}");
    let text = site.run(&["doctor"]).stdout;
    assert!(
        text.contains("Your clusters\n  warning  cluster ") && text.contains("           do: "),
        "{text}"
    );
    let rest = std::fs::read_dir(site.path("tmp")).expect("a directory").count();
    assert_eq!(rest, 0, "the looking left something");
}

#[test]
fn what_a_dead_cluster_left_ends_and_nothing_else() {
    let mut site = Site::new();
    site.set("HPCDAG_WORKER__DEATH_TIMEOUT", "5m");
    let start = |site: &Site| site.json(&["up", "-n", "1", "--json", "--timeout", "15s"]);
    let (dead, alive) = (start(&site), start(&site));
    let (dead_file, dead_id) = (dead["scheduler-file"].as_str().expect("a path"), dead["id"].as_str());
    let alive_file = alive["scheduler-file"].as_str().expect("a path");
    let file: Value = serde_json::from_slice(&std::fs::read(dead_file).expect("a file")).expect("JSON");
    let orphans = |site: &Site, args: &[&str]| -> (Ended, Value) {
        let ended = site.run(&[&["doctor", "--orphans", "--json"], args].concat());
        let json = serde_json::from_str(&ended.stdout).unwrap_or_default();
        (ended, json)
    };
    assert_eq!(orphans(&site, &[]).1["clusters"].as_array().map(Vec::len), Some(0), "both live");
    let refused = orphans(&site, &["--end", "--cluster", alive["id"].as_str().expect("an id")]).0;
    assert_eq!(refused.code, Some(7), "{refused:?}");

    kill(file["pid"].as_i64().expect("a number") as i32, Signal::SIGKILL);
    wait_until("it is known to be dead", || {
        orphans(&site, &[]).1["clusters"].as_array().is_some_and(|all| all.len() == 1)
    });
    let left = orphans(&site, &[]).1;
    let left = &left["clusters"][0];
    assert_eq!((left["id"].as_str(), left["state"].as_str()), (dead_id, Some("dead")), "{left:#}");
    let worker = left["processes"][0]["pid"].as_i64().expect("the nanny of its worker") as i32;
    let is_running = |pid: i32| site.processes().contains(&pid);
    let before = site.processes();
    assert!(is_running(worker), "it waits for its scheduler");

    let ended = site.run(&["doctor", "--orphans", "--end"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let (shown, done) = (ended.stdout.find(&format!("process {worker},")), ended.stdout.find(": ended"));
    assert!(shown.is_some() && shown < done, "first shown, then ended: {ended:?}");
    wait_until("its worker has ended", || !is_running(worker));
    assert!(!std::path::Path::new(dead_file).exists());
    // The other cluster goes on with its worker.
    let workers = site.json(&["workers", "list", "--json", "--scheduler-file", alive_file]);
    assert_eq!(workers.as_array().map(Vec::len), Some(1));
    assert_eq!(site.ok(&["submit", "--scheduler-file", alive_file, "--", "echo", "on"]), "on\n");
    assert!(!before.is_empty() && orphans(&site, &[]).1["clusters"] == serde_json::json!([]));
    site.ok(&["down", "--scheduler-file", alive_file]);
    site.wait_for_silence();
}

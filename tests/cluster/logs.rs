//! What tasks, workers and the scheduler print is there for those who ask, also when its process is not.

use crate::site::{Site, kill, wait_until};
use nix::sys::signal::Signal;

const FILE: [&str; 2] = ["--scheduler-file", "s.json"];

impl Site {
    fn logs(&self, args: &[&str]) -> serde_json::Value {
        self.json(&[&["logs"], args, &FILE, &["--json"]].concat())
    }

    fn worker_pid(&self) -> i32 {
        let workers = self.json(&["workers", "list", "--json", FILE[0], FILE[1]]);
        workers[0]["pid"].as_i64().and_then(|pid| pid.try_into().ok()).unwrap_or(0)
    }
}

#[test]
fn what_tasks_print_can_be_read() {
    let site = Site::new();
    let _all = site.cluster(1);
    let graph = "
        version = 1
        [task.good]
        shell = 'echo result; echo said >&2'
        [task.bad]
        shell = 'echo half; echo why >&2; exit 3'
        retries = 1
        [task.quiet]
        shell = 'true'
        [task.loud]
        shell = 'seq 100000 >&2'
    ";
    site.write("graph.toml", graph);
    let ended = site.run(&["submit", "graph.toml", FILE[0], FILE[1]]);
    assert_eq!(ended.code, Some(3), "{ended:?}");
    let good = site.logs(&["good"]);
    let part = |name: &str, text: &str| serde_json::json!([{ "name": name, "text": text, "left-out": 0 }]);
    assert_eq!((&good["kind"], &good["where"], &good["of"]), (&"task".into(), &"w0".into(), &"good".into()));
    assert_eq!(good["parts"], part("stderr", "said\n"), "stdout is the result");
    let bad = site.logs(&["bad"]);
    assert_eq!(bad["parts"][0], part("stdout", "half\n")[0]);
    assert_eq!((&bad["parts"][1], &bad["attempt"]), (&part("stderr", "why\n")[0], &2.into()));
    assert_eq!(site.logs(&["quiet"])["parts"], serde_json::json!([]));
    let text = site.ok(&["logs", "bad", FILE[0], FILE[1]]);
    assert_eq!(text, "==> stdout <==\nhalf\n==> stderr <==\nwhy\n");
    let loud = site.logs(&["loud", "--bytes", "1M"]);
    let kept = loud["parts"][0]["text"].as_str().expect("a text");
    assert!(kept.ends_with("\n99999\n100000\n") && kept.len() >= 64 << 10 && kept.len() <= 200 << 10);
    assert_eq!(
        loud["parts"][0]["left-out"],
        (1..=100_000).map(|n: u32| n.to_string().len() + 1).sum::<usize>() - kept.len()
    );
    assert_eq!(site.logs(&["loud", "--bytes", "7B"])["parts"][0]["text"], "100000\n");
    assert_eq!(site.run(&["logs", "nothing", FILE[0], FILE[1]]).code, Some(9));
}

#[test]
fn workers_and_the_scheduler_show_their_logs() {
    let site = Site::new();
    let mut all = site.cluster(2);
    let text = |answer: &serde_json::Value| answer["parts"][0]["text"].as_str().unwrap_or("").to_owned();
    let scheduler = site.logs(&["scheduler"]);
    assert_eq!(scheduler["kind"], "scheduler");
    assert!(text(&scheduler).contains("worker joined") && !text(&scheduler).contains('\u{1b}'));
    let worker = site.logs(&["w1"]);
    assert_eq!((&worker["kind"], &worker["gone"]), (&"worker".into(), &false.into()));
    assert!(text(&worker).contains("worker w1 has registered"), "{worker}");
    // One that leaves in order leaves its log, and what its tasks have printed.
    site.write("graph.toml", "version = 1\n[task.t]\nshell = 'echo said >&2'\n");
    site.ok(&["submit", "graph.toml", FILE[0], FILE[1]]);
    let place = site.logs(&["t"])["where"].as_str().expect("a name").to_owned();
    site.ok(&["workers", "stop", &place, FILE[0], FILE[1]]);
    let n = if place == "w0" { 1 } else { 2 };
    assert_eq!(all[n].code(), Some(0));
    let gone = site.logs(&[&place]);
    assert_eq!((&gone["gone"], &gone["where"]), (&true.into(), &place.as_str().into()));
    assert!(text(&gone).contains("retiring: asked for by a client"), "{gone}");
    let task = site.logs(&["t"]);
    assert_eq!((&task["gone"], text(&task).as_str()), (&true.into(), "said\n"), "{task}");
}

#[test]
fn what_a_killed_worker_had_is_told_by_the_next() {
    let site = Site::new();
    let _all = site.cluster(1);
    // The second attempt prints nothing.
    let there = site.path("there");
    let line = format!("test -e {0} || echo last words >&2; touch {0}; sleep 600", there.display());
    site.write("graph.toml", &format!("version = 1\n[task.last]\nshell = '{line}'\n"));
    let _client = site.start("client", &["submit", "graph.toml", FILE[0], FILE[1]]);
    wait_until("it has said so", || there.exists() && said(&site) == "last words\n");
    let worker = site.worker_pid();
    assert_eq!(site.logs(&["last"])["gone"], false);
    kill(worker, Signal::SIGKILL);
    wait_until("the dead one's words are there", || said(&site) == "last words\n");
    assert_ne!(site.worker_pid(), worker);
    assert_eq!(site.logs(&["last"])["gone"], true);
    let log = site.logs(&["w0"]);
    assert_eq!(log["gone"], false, "the one that lives");
    let left = crate::site::files_below(&site.path("tmp"));
    let kept = left.iter().filter(|path| path.ends_with(".left")).count();
    assert!(kept <= 1, "{left:?}");
    site.ok(&["stop", FILE[0], FILE[1]]);
    site.wait_for_silence();
    let left = crate::site::files_below(&site.path("tmp"));
    assert!(!left.iter().any(|path| path.contains(".left")), "{left:?}");
}

fn said(site: &Site) -> String {
    let answer = site.run(&["logs", "last", FILE[0], FILE[1], "--json"]).stdout;
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap_or_default();
    answer["parts"][0]["text"].as_str().unwrap_or_default().to_owned()
}

//! How clusters begin and end: files, credentials, background processes, and that nothing is left of them.

use crate::site::{Site, files_below, wait_until};
use nix::sys::signal::Signal;
use std::io::{Read, Write};

#[test]
fn up_and_down_leave_nothing() {
    let site = Site::new();
    let up = site.json(&["up", "-n", "2", "--json", "--timeout", "15s"]);
    let file = up["scheduler-file"].as_str().expect("a path").to_owned();
    assert!(std::path::Path::new(&file).exists());
    let clusters = site.json(&["clusters", "--json"]);
    assert_eq!(
        (clusters[0]["id"].as_str(), clusters[0]["state"].as_str()),
        (up["id"].as_str(), Some("alive"))
    );
    // The one cluster that is alive needs no name.
    assert_eq!(site.ok(&["submit", "--array", "1-3", "--", "echo", "{item}"]), "1\n2\n3\n");
    site.ok(&["workers", "start", "-n", "1"]);
    let workers = site.json(&["workers", "list", "--json"]);
    assert_eq!(workers.as_array().map(Vec::len), Some(3));
    let name = workers[0]["name"].as_str().expect("a name");
    site.ok(&["workers", "stop", name]);
    wait_until("it has left", || {
        site.json(&["workers", "list", "--json"]).as_array().map(Vec::len) == Some(2)
    });
    site.ok(&["down"]);
    assert_eq!(site.processes(), [0i32; 0]);
    assert_eq!(files_below(&site.path("state")), ["hpcdag"]);
    let left = files_below(&site.path("tmp"));
    assert!(left.iter().all(|f| f.starts_with("hpcdag-") && !f.contains('/')), "{left:?}");
    assert_eq!(site.run(&["status"]).code, Some(6));
}

#[test]
fn a_cluster_that_does_not_come_up_is_cleared_away() {
    let site = Site::new();
    site.write("file", "");
    let ended = site.run(&["up", "--local-directory", "file", "--timeout", "4s"]);
    assert!(matches!(ended.code, Some(8 | 11)), "{ended:?}");
    assert!(ended.stderr.contains("it logged:"), "{ended:?}");
    site.wait_for_silence();
    assert_eq!(files_below(&site.path("state")), ["hpcdag"]);
}

#[test]
fn schedulers_detach_once_their_file_is_valid() {
    let site = Site::new();
    let path = site.ok(&["scheduler", "--detach", "--scheduler-file", "s.json"]);
    assert_eq!(std::path::Path::new(path.trim()).file_name(), Some("s.json".as_ref()));
    site.ok(&["status", "--scheduler-file", "s.json"]);
    // A second one does not take the file of the living.
    let second = site.run(&["scheduler", "--scheduler-file", "s.json"]);
    assert_eq!(second.code, Some(7), "{second:?}");
    assert!(second.stderr.contains("is the file of a living scheduler"), "{second:?}");
    site.ok(&["status", "--scheduler-file", "s.json"]);
    site.ok(&["stop", "--scheduler-file", "s.json"]);
    site.wait_for_silence();
    assert!(!site.path("s.json").exists());
}

#[test]
fn dead_schedulers_are_told_from_missing_ones() {
    let mut site = Site::new();
    site.set("HPCDAG_CLIENT__TIMEOUT", "300ms");
    let missing = site.run(&["status", "--scheduler-file", "none.json"]);
    assert_eq!(missing.code, Some(6), "{missing:?}");
    assert!(missing.stderr.contains("there is no file"), "{missing:?}");
    let scheduler = site.start("scheduler", &["scheduler", "--scheduler-file", "s.json"]);
    wait_until("it is there", || site.run(&["status", "--scheduler-file", "s.json"]).code == Some(0));
    scheduler.signal(Signal::SIGKILL);
    site.wait_for_silence();
    let stale = site.run(&["status", "--scheduler-file", "s.json"]);
    assert_eq!(stale.code, Some(6), "{stale:?}");
    assert!(stale.stderr.contains("is stale"), "{stale:?}");
    // What it left is cleared away, and a new one may take the place.
    site.ok(&["down", "--scheduler-file", "s.json"]);
    assert!(!site.path("s.json").exists());
}

#[test]
fn strangers_learn_nothing() {
    let site = Site::new();
    site.ok(&["scheduler", "--detach", "--scheduler-file", "mine.json"]);
    site.ok(&["scheduler", "--detach", "--scheduler-file", "other.json"]);
    let file: serde_json::Value = serde_json::from_str(&site.read("mine.json")).expect("JSON");
    let address = file["address"].as_str().expect("an address");
    // Credentials of another cluster.
    let ended = site.run(&["status", "--scheduler-file", "other.json", "--address", address]);
    assert!(matches!(ended.code, Some(6 | 7)), "{ended:?}");
    assert!(ended.stdout.is_empty(), "{ended:?}");
    // None at all.
    let mut tcp = std::net::TcpStream::connect(address.trim_start_matches("tls://")).expect("it listens");
    tcp.write_all(b"GET /status HTTP/1.1\r\n\r\n").expect("sent");
    let mut answer = Vec::new();
    // A reset is as good as an end.
    let _ = tcp.read_to_end(&mut answer);
    assert!(!String::from_utf8_lossy(&answer).contains("cluster") && answer.len() < 100, "{answer:?}");
    // A file that others can read.
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(site.path("mine.json"), std::fs::Permissions::from_mode(0o644))
        .expect("changed");
    let ended = site.run(&["status", "--scheduler-file", "mine.json"]);
    assert_eq!(ended.code, Some(7), "{ended:?}");
}

#[test]
fn workers_wait_for_their_scheduler_and_leave_with_it() {
    let site = Site::new();
    let mut worker = site.start("w0", &["worker", "--scheduler-file", "s.json"]);
    wait_until("it waits", || worker.stderr().contains("waiting for a scheduler"));
    let mut scheduler = site.start("scheduler", &["scheduler", "--scheduler-file", "s.json"]);
    site.ok(&["workers", "wait", "1", "--timeout", "15s", "--scheduler-file", "s.json"]);
    scheduler.signal(Signal::SIGTERM);
    assert_eq!(scheduler.code(), Some(0), "{}", scheduler.stderr());
    assert_eq!(worker.code(), Some(0), "{}", worker.stderr());
    assert!(!site.path("s.json").exists());
    site.wait_for_silence();
}

/// A worker whose lifetime is over hands over what it has and leaves; another one takes its place if that is
/// wanted, and no task has failed by it.
#[test]
fn workers_that_are_old_leave_or_are_renewed() {
    let site = Site::new();
    site.ok(&["scheduler", "--detach", "--scheduler-file", "s.json"]);
    let begin = ["worker", "--scheduler-file", "s.json", "--nthreads", "1", "--lifetime"];
    let renewed = ["900ms", "--lifetime-stagger", "100ms", "--lifetime-restart"];
    let mut renewed = site.start("renewed", &[&begin[..], &renewed].concat());
    let names = || {
        let workers = site.json(&["workers", "list", "--scheduler-file", "s.json", "--json"]);
        let name = |w: &serde_json::Value| w["name"].as_str().expect("a name").to_owned();
        workers.as_array().expect("a list").iter().map(name).collect::<Vec<_>>()
    };
    wait_until("it is there", || names().len() == 1);
    let first = names();
    let line = [
        "submit",
        "--scheduler-file",
        "s.json",
        "--array",
        "1-30",
        "--",
        "sh",
        "-c",
        "sleep 0.1; echo {item}",
    ];
    let numbers: String = (1..=30).map(|n| format!("{n}\n")).collect();
    assert_eq!(site.ok(&line), numbers);
    wait_until("another one is there", || names().first().is_some_and(|name| !first.contains(name)));
    assert!(renewed.stderr().contains("another one takes its place"), "{}", renewed.stderr());
    renewed.signal(Signal::SIGTERM);
    assert_eq!(renewed.code(), Some(0), "{}", renewed.stderr());
    let mut old = site.start("old", &[&begin[..], &["500ms"]].concat());
    assert_eq!(old.code(), Some(0), "{}", old.stderr());
    assert!(old.stderr().contains("its lifetime is over"), "{}", old.stderr());
    site.ok(&["stop", "--scheduler-file", "s.json"]);
}

#[test]
fn workers_leave_when_asked_by_a_signal() {
    let site = Site::new();
    let mut cluster = site.cluster(2);
    cluster[2].signal(Signal::SIGTERM);
    assert_eq!(cluster[2].code(), Some(0), "{}", cluster[2].stderr());
    let workers = site.json(&["workers", "list", "--scheduler-file", "s.json", "--json"]);
    assert_eq!(workers.as_array().map(Vec::len), Some(1));
}

#[test]
fn nothing_outlives_a_local_run() {
    let site = Site::new();
    // One that leaves its session and its parent, and a task that does not want to end.
    let line = "trap '' TERM; (setsid sleep 71 &); echo > begun; sleep 72; sleep 73";
    let mut run = site.start("client", &["submit", "--local", "--", "bash", "-c", line]);
    wait_until("it has begun", || site.path("begun").exists());
    let begun = std::time::Instant::now();
    run.signal(Signal::SIGTERM);
    wait_until("it was heard", || run.stderr().contains("cancelling the run"));
    std::thread::sleep(std::time::Duration::from_millis(500));
    run.signal(Signal::SIGTERM);
    assert_eq!(run.code(), Some(130), "{}", run.stderr());
    assert!(begun.elapsed() < std::time::Duration::from_secs(4), "{:?}", begun.elapsed());
    assert!(site.processes().is_empty(), "{:?}", site.processes());
}

//! Graphs on scheduler and worker processes: what comes out, whatever happens to workers and clients
//! meanwhile.

use crate::site::{Site, files_below, kill, wait_until};
use nix::sys::signal::Signal;

/// Counts words of lines: a family, a reduction by a tree, and files of both.
const WORDS: &str = r#"
version = 1
[task.words]
for-each = { lines = "lines.txt" }
shell = "sleep {PAUSE}; echo {item} | tr ' ' '\n' | sort"
[task.count]
from = { words = { tree = 3 } }
shell = "sort"
[task.top]
from = ["count"]
shell = "uniq -c | sort -k1,1nr -k2 | awk '{print $2, $1}'"
[output]
top = "out/top.txt"
words = { path = "out/words/{index}.txt", skip-empty = true }
"#;

fn words(site: &Site, lines: usize, pause: &str) -> String {
    let text: Vec<String> = (0..lines).map(|n| format!("all some{} one{n}", n % 3)).collect();
    site.write("lines.txt", &(text.join("\n") + "\n"));
    site.write("words.toml", &WORDS.replace("{PAUSE}", pause));
    let mut all: Vec<(String, usize)> = vec![("all".into(), lines)];
    for n in 0..3 {
        all.push((format!("some{n}"), (0..lines).filter(|k| k % 3 == n).count()));
    }
    all.extend((0..lines).map(|n| (format!("one{n}"), 1)));
    all.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    all.iter().map(|(word, n)| format!("{word} {n}\n")).collect()
}

#[test]
fn a_graph_runs_on_two_workers() {
    let site = Site::new();
    let expected = words(&site, 20, "0");
    let _cluster = site.cluster(2);
    let ended = site.run(&["submit", "words.toml", "--scheduler-file", "s.json"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("tasks run, 0 failed"), "{ended:?}");
    assert_eq!(site.read("out/top.txt"), expected);
    assert_eq!(site.read("out/words/4.txt"), "all\none4\nsome1\n");
    assert_eq!(files_below(&site.path("out/words")).len(), 20);
    let status = site.json(&["status", "--scheduler-file", "s.json", "--json"]);
    assert_eq!(status["workers"].as_array().map(Vec::len), Some(2));
    assert_eq!(status["workers"][0]["results"], 0, "nobody needs results any more: {status:#}");
}

#[test]
fn a_killed_worker_changes_nothing() {
    let site = Site::new();
    let expected = words(&site, 40, "0.05");
    let _cluster = site.cluster(2);
    let mut client = site.start("client", &["submit", "words.toml", "--scheduler-file", "s.json"]);
    wait_until("some outputs are there", || files_below(&site.path("out/words")).len() > 5);
    let workers = site.json(&["workers", "list", "--scheduler-file", "s.json", "--json"]);
    let pid = workers[0]["pid"].as_i64().expect("a process") as i32;
    kill(pid, Signal::SIGKILL);
    assert_eq!(client.code(), Some(0), "{}", client.stderr());
    assert_eq!(site.read("out/top.txt"), expected);
    assert_eq!(files_below(&site.path("out/words")).len(), 40);
}

#[test]
fn failures_are_described_and_counted() {
    let site = Site::new();
    site.write(
        "g.toml",
        r#"
        version = 1
        [task.good]
        shell = "echo fine"
        [task.bad]
        shell = "echo one >&2; echo two >&2; exit 7"
        [task.after]
        from = ["bad"]
        shell = "cat"
        [output]
        good = "good.txt"
        after = "after.txt"
        "#,
    );
    let ended = site.run(&["submit", "g.toml", "--local"]);
    assert_eq!(ended.code, Some(3), "{ended:?}");
    assert_eq!(site.read("good.txt"), "fine\n");
    assert!(!site.path("after.txt").exists());
    for part in ["1 of 3 tasks done", "1 failed", "bad failed: exit status 7", "stderr:  one", "two"] {
        assert!(ended.stderr.contains(part), "{part}: {}", ended.stderr);
    }
    let ended = site.run(&["submit", "g.toml", "--local", "--json", "-Q"]);
    let json: serde_json::Value = serde_json::from_str(&ended.stdout).expect("JSON");
    assert_eq!((json["failed"].as_u64(), json["failures"][0]["exit-code"].as_i64()), (Some(1), Some(7)));
}

#[test]
fn detached_runs_go_on_and_are_waited_for() {
    let site = Site::new();
    site.write(
        "g.toml",
        "version = 1\n[task.a]\nshell = \"sleep 0.5; echo done\"\n[output]\na = \"out/a.txt\"\n",
    );
    let _cluster = site.cluster(1);
    let run = site.ok(&["submit", "g.toml", "--detach", "--scheduler-file", "s.json"]);
    assert!(!site.path("out/a.txt").exists(), "it has only begun");
    site.ok(&["wait", run.trim(), "--scheduler-file", "s.json", "--timeout", "10s"]);
    assert_eq!(site.read("out/a.txt"), "done\n");
    // What nobody writes is kept until somebody fetches it.
    let run = site.ok(&["submit", "--detach", "--scheduler-file", "s.json", "--", "echo", "kept"]);
    site.ok(&["wait", run.trim(), "--scheduler-file", "s.json"]);
    assert_eq!(site.ok(&["fetch", "echo", "--scheduler-file", "s.json"]), "kept\n");
    site.ok(&["fetch", "echo", "-o", "deep/er/kept.txt", "--scheduler-file", "s.json"]);
    assert_eq!(site.read("deep/er/kept.txt"), "kept\n");
    let ended = site.run(&["wait", "00000000-0000-0000-0000-000000000001", "--scheduler-file", "s.json"]);
    assert_eq!(ended.code, Some(9), "{ended:?}");
}

#[test]
fn clients_that_vanish_end_only_what_is_theirs() {
    let mut site = Site::new();
    site.set("HPCDAG_SCHEDULER__SESSION_LEASE", "500ms");
    let _cluster = site.cluster(1);
    let detached = site.ok(&[
        "submit",
        "--detach",
        "--scheduler-file",
        "s.json",
        "-o",
        "d.txt",
        "--",
        "sh",
        "-c",
        "sleep 2; echo d",
    ]);
    let theirs = ["submit", "--scheduler-file", "s.json", "--", "sh", "-c", "echo > began; sleep 60"];
    let client = site.start("client", &theirs);
    wait_until("its task runs", || site.path("began").exists());
    client.signal(Signal::SIGKILL);
    let state = |n: usize| {
        let status = site.json(&["status", "--scheduler-file", "s.json", "--json"]);
        status["runs"][n]["state"].as_str().unwrap_or_default().to_owned()
    };
    wait_until("its run was cancelled", || state(1) == "cancelled");
    site.ok(&["wait", detached.trim(), "--scheduler-file", "s.json"]);
    assert_eq!(site.read("d.txt"), "d\n");
}

#[test]
fn interrupts_cancel_and_then_leave() {
    let site = Site::new();
    let _cluster = site.cluster(1);
    let sleeps = [
        "submit",
        "--array",
        "1-50",
        "--scheduler-file",
        "s.json",
        "--",
        "sh",
        "-c",
        "echo > began; sleep 30",
    ];
    let mut client = site.start("client", &sleeps);
    wait_until("it has begun", || site.path("began").exists());
    client.signal(Signal::SIGINT);
    assert_eq!(client.code(), Some(130), "{}", client.stderr());
    assert!(client.stderr().contains("cancelling the run"), "{}", client.stderr());
    wait_until("no task is left", || {
        let status = site.json(&["status", "--scheduler-file", "s.json", "--json"]);
        status["workers"][0]["executing"] == 0
    });
    // A task that does not mind SIGTERM holds the run up; the second interrupt does not wait for it.
    std::fs::remove_file(site.path("began")).expect("there");
    let stubborn =
        ["submit", "--local", "--", "sh", "-c", "trap '' TERM; echo > began; sleep 30 & wait; sleep 30"];
    let mut client = site.start("client", &stubborn);
    wait_until("it has begun", || site.path("began").exists());
    client.signal(Signal::SIGINT);
    wait_until("it said so", || client.stderr().contains("once more leaves at once"));
    client.signal(Signal::SIGINT);
    assert_eq!(client.code(), Some(130), "{}", client.stderr());
}

#[test]
fn several_clients_work_at_once() {
    let site = Site::new();
    let _cluster = site.cluster(2);
    let mut clients: Vec<_> = (0..4)
        .map(|n| {
            let text = format!("{n}-{{item}}");
            let args = ["submit", "--array", "1-20", "--scheduler-file", "s.json", "--", "echo", &text];
            site.start(&format!("client{n}"), &args)
        })
        .collect();
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.code(), Some(0), "{}", client.stderr());
        let expected: String = (1..=20).map(|item| format!("{n}-{item}\n")).collect();
        assert_eq!(client.stdout(), expected);
    }
}

/// `--resume` on a cluster and without one: what was written, by the client or by workers, is not made again,
/// and what depends on it takes it from there.
#[test]
fn what_was_written_does_not_run_again() {
    const GRAPH: &str = r#"
version = 1
params = { bad = "none" }
[task.a]
for-each = { range = [0, 6] }
shell = "echo a{item} >> ran; [ {item} != {bad} ]; echo {item}"
cwd = "."
[task.b]
from = { a = "each" }
shell = "echo b{index} >> ran; sed s/^/b/"
cwd = "."
[task.c]
from = { b = "all" }
shell = "echo c >> ran; sort"
cwd = "."
[output]
a = "a{index}.txt"
b = { path = "b{index}.txt", by = "worker" }
c = "c.txt"
"#;
    let site = Site::new();
    site.write("g.toml", GRAPH);
    let _cluster = site.cluster(1);
    let ran = || {
        let text = std::fs::read_to_string(site.path("ran")).unwrap_or_default();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        // The next one counts for itself.
        let _ = std::fs::remove_file(site.path("ran"));
        lines.join(" ")
    };
    let begin = ["submit", "g.toml", "--resume"];
    for place in [&["--scheduler-file", "s.json"][..], &["--local", "-n", "1"]] {
        let bad = site.run(&[&begin[..], place, &["--set", "bad=3"]].concat());
        assert_eq!(bad.code, Some(3), "{bad:?}");
        assert_eq!(ran(), "a0 a1 a2 a3 a4 a5 b0 b1 b2 b4 b5");
        let again = site.run(&[&begin[..], place, &["--set", "bad=3"]].concat());
        assert_eq!(again.code, Some(3), "{again:?}");
        assert!(again.stderr.contains("10 tasks have been done before"), "{again:?}");
        assert_eq!(ran(), "a3");
        // Other commands are other tasks.
        let other = site.run(&[&begin[..], place].concat());
        assert_eq!(other.code, Some(0), "{other:?}");
        assert_eq!(ran(), "a0 a1 a2 a3 a4 a5 b0 b1 b2 b3 b4 b5 c");
        std::fs::remove_file(site.path("b4.txt")).expect("it is there");
        std::fs::remove_file(site.path("c.txt")).expect("it is there");
        let rest = site.run(&[&begin[..], place].concat());
        assert_eq!(rest.code, Some(0), "{rest:?}");
        assert_eq!(ran(), "b4 c");
        assert_eq!(site.read("c.txt"), "b0\nb1\nb2\nb3\nb4\nb5\n");
        let nothing = site.run(&[&begin[..], place].concat());
        assert!(nothing.code == Some(0) && ran().is_empty(), "{nothing:?}");
        std::fs::remove_dir_all(site.path(".hpcdag")).expect("the manifest is there");
        // Without it nothing is proved.
        site.run(&[&begin[..], place, &["--manifest", "other.jsonl"]].concat());
        assert_eq!(ran().split(' ').count(), 13);
        std::fs::remove_file(site.path("other.jsonl")).expect("it was written");
    }
    let refused = site.run(&["submit", "--local", "--resume", "--", "true"]);
    assert!(refused.code == Some(2) && refused.stderr.contains("outputs in files"), "{refused:?}");
}

/// `--lock`: the second run is told who has it, or waits.
#[test]
fn runs_under_one_lock_exclude_each_other() {
    let site = Site::new();
    let line = "echo > begun; until [ -e go ]; do sleep 0.02; done";
    let mut first = site.start("first", &["submit", "--local", "--lock", "weekly", "--", "sh", "-c", line]);
    wait_until("it has begun", || site.path("begun").exists());
    let second = ["submit", "--local", "--lock", "weekly", "--", "echo", "second"];
    let refused = site.run(&second);
    assert_eq!(refused.code, Some(7), "{refused:?}");
    assert!(refused.stderr.contains("the lock weekly is held by process "), "{refused:?}");
    assert!(refused.stderr.contains(", for sh"), "{refused:?}");
    assert_eq!(site.ok(&["submit", "--local", "--lock", "daily", "--", "echo", "other"]), "other\n");
    let wait = ["submit", "--local", "--lock-timeout", "1m", "--lock", "weekly", "--", "echo", "waited"];
    let mut waiting = site.start("waiting", &wait);
    wait_until("it waits", || waiting.stderr().contains("waiting for the lock weekly, held by process"));
    site.write("go", "");
    assert_eq!((first.code(), waiting.code()), (Some(0), Some(0)), "{}", waiting.stderr());
}

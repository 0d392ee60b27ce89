//! The examples, run by the real binary over real files, against plain shell pipelines that do the same: byte
//! for byte, with everything in one process, and with processes of which one is killed in the middle.

mod support;

use hpcdag::graph::{Options, check_report, file};
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use support::{Process, Sandbox, children, repository, wait_until};

const LONG: Duration = Duration::from_secs(300);
const SHORT: Duration = Duration::from_secs(30);

#[test]
fn graph_files_are_valid() {
    let sandbox = Sandbox::new();
    let options = |name, value: &Path| Options {
        params: vec![(String::from(name), value.display().to_string())],
        targets: Vec::new(),
    };
    let docs = changelogs(&sandbox, 33);
    let graph = file::load(&repository().join("examples/changelogs.toml"), &options("docs", &docs)).unwrap();
    assert_eq!(graph.expanded_sizes(), [Some(33), Some(3 + 1), Some(1), Some(1)], "{}", check_report(&graph));
}

#[test]
fn changelogs_as_the_shell_has_it() {
    let sandbox = Sandbox::new();
    let docs = changelogs(&sandbox, 150);
    check_changelogs(&sandbox, &docs, &format!("--set=docs={}", docs.display()));
}

/// What Debian and its relatives have; elsewhere there is nothing to read.
#[test]
fn changelogs_of_this_machine() {
    let docs = Path::new("/usr/share/doc");
    let pattern = format!("{}/*/changelog*.gz", docs.display());
    if glob::glob(&pattern).expect("a pattern").next().is_none() {
        eprintln!("no {pattern}: nothing to compare");
        return;
    }
    check_changelogs(&Sandbox::new(), docs, "--set=top=20");
}

fn check_changelogs(sandbox: &Sandbox, docs: &Path, set: &str) {
    sandbox.example("changelogs.toml");
    sandbox.run("submit", sandbox.hpcdag(&["submit", "changelogs.toml", "--local", set]), LONG);
    same_changelogs(sandbox, docs);
}

/// Compares what the graph has written with what the plain pipeline writes.
fn same_changelogs(sandbox: &Sandbox, docs: &Path) {
    let mut plain = sandbox.command("bash");
    plain.arg(repository().join("tests/examples/changelogs.sh")).arg(docs).arg("plain");
    sandbox.run("plain", plain, LONG);
    same(sandbox, "out/changelogs/maintainers.txt", "plain/maintainers.txt");
    same(sandbox, "out/changelogs/years.txt", "plain/years.txt");
}

#[test]
fn crates_as_the_shell_has_it() {
    let sandbox = Sandbox::new();
    check_crates(&sandbox, &crates(&sandbox));
}

/// The sources that cargo has unpacked to build this.
#[test]
fn crates_of_this_machine() {
    let sandbox = Sandbox::new();
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo"));
    let cargo_home = std::env::var_os("CARGO_HOME").map(PathBuf::from).or_else(home).unwrap_or_default();
    if !cargo_home.join("registry/src").is_dir() {
        eprintln!("no unpacked sources in {}: nothing to compare", cargo_home.display());
        return;
    }
    check_crates(&sandbox, &cargo_home);
}

fn check_crates(sandbox: &Sandbox, cargo_home: &Path) {
    sandbox.example("crates.toml");
    let mut submit = sandbox.hpcdag(&["submit", "crates.toml", "--local", "--nworkers", "2"]);
    submit.env("CARGO_HOME", cargo_home).env("HOME", sandbox.path("home"));
    sandbox.run("submit", submit, LONG);
    let mut plain = sandbox.command("bash");
    plain.arg(repository().join("tests/examples/crates.sh")).arg(cargo_home).arg(sandbox.path("plain"));
    sandbox.run("plain", plain, LONG);
    same(sandbox, "out/crates/unsafe.txt", "plain/unsafe.txt");
    same(sandbox, "out/crates/licences.txt", "plain/licences.txt");

    let pages: Vec<String> = (0..)
        .map(|n| format!("out/crates/lines/{n}.txt"))
        .take_while(|page| sandbox.path(page).exists())
        .map(|page| sandbox.read(&page))
        .collect();
    assert_eq!(pages.concat(), sandbox.read("plain/lines.txt"));
    assert!(pages.iter().all(|page| !page.is_empty()));
    // Groups end before the line that would make them too large: two neighbours never fit into one.
    assert!(pages.windows(2).all(|two| two[0].len() + two[1].len() > 256 << 10));
}

fn same(sandbox: &Sandbox, ours: &str, plain: &str) {
    let (ours, plain) = (sandbox.read(ours), sandbox.read(plain));
    assert!(!plain.is_empty(), "the plain pipeline found nothing");
    assert!(ours == plain, "---- hpcdag\n{ours}\n---- shell\n{plain}");
}

// ---- separate processes -------------------------------------------------------------------------

/// A worker that dies takes its results with it; they are computed again, and the answer is the same.
#[test]
fn a_killed_worker_changes_nothing() {
    let cluster = Cluster::start(&["--no-nanny"]);
    let mut submit = cluster.submit();
    cluster.wait_for_work(&["kept", "lost"]);
    let mut workers = cluster.workers;
    let [(_, _), (_, lost)] = &mut workers;
    assert!(submit.is_running(), "the graph ended too soon to be disturbed\n{}", submit.output());
    lost.kill();
    assert!(submit.wait(LONG).success(), "{}", submit.output());
    same_changelogs(&cluster.sandbox, &cluster.docs);

    let done = executions(&cluster.sandbox);
    let keys: HashSet<&String> = done.values().flatten().collect();
    assert_eq!(keys.len(), Cluster::FILES);
    assert!(done["lost"].len() < Cluster::FILES / 2, "{} ran on the killed worker", done["lost"].len());
    let again = done["lost"].iter().any(|key| done["kept"].contains(key));
    assert!(again, "nothing of what the killed worker had done or begun ran again");
}

/// The same with a nanny, which starts a new worker process.
#[test]
fn a_killed_worker_under_a_nanny_comes_back() {
    let cluster = Cluster::start(&[]);
    let mut submit = cluster.submit();
    cluster.wait_for_work(&["kept", "lost"]);
    let nanny = cluster.workers[1].1.pid();
    let below = children(nanny);
    let [worker] = below[..] else { panic!("the nanny has {} children, not one", below.len()) };
    assert!(submit.is_running(), "the graph ended too soon to be disturbed\n{}", submit.output());
    kill(worker);
    assert!(submit.wait(LONG).success(), "{}", submit.output());
    same_changelogs(&cluster.sandbox, &cluster.docs);
    wait_until("another worker process", SHORT, || children(nanny).iter().any(|child| *child != worker));
}

fn kill(pid: u32) {
    let status = Command::new("kill").args(["-KILL", &pid.to_string()]).status().expect("kill is there");
    assert!(status.success());
}

/// A scheduler and two workers, `kept` and `lost`, each a process of its own, with a slow `zcat` that writes
/// down who ran it.
struct Cluster {
    workers: [(&'static str, Process); 2],
    _scheduler: Process,
    docs: PathBuf,
    sandbox: Sandbox,
}

impl Cluster {
    const FILES: usize = 200;

    fn start(worker_args: &[&str]) -> Cluster {
        let sandbox = Sandbox::new();
        let docs = changelogs(&sandbox, Cluster::FILES);
        sandbox.example("changelogs.toml");
        let log = sandbox.path("log");
        // One write of a short line to a file opened for appending is not torn.
        let zcat = format!(
            "#!/bin/sh\necho \"$WORKER_OF_TEST $HPCDAG_KEY\" >> '{}'\nsleep 0.02\nexec gzip -cd \"$@\"\n",
            log.display()
        );
        let tools = sandbox.write("tools/zcat", zcat);
        make_executable(&tools);
        let path = std::env::var("PATH").unwrap_or_default();
        let path = format!("{}:{path}", sandbox.path("tools").display());
        let scheduler =
            sandbox.start("scheduler", sandbox.hpcdag(&["scheduler", "--scheduler-file", "s.json"]));
        let worker = |name: &'static str| {
            let args = ["worker", "--scheduler-file", "s.json", "--nthreads", "1", "--name", name];
            let mut command = sandbox.hpcdag(&args);
            command.args(worker_args).env("PATH", &path).env("WORKER_OF_TEST", name);
            (name, sandbox.start(name, command))
        };
        Cluster { workers: [worker("kept"), worker("lost")], _scheduler: scheduler, docs, sandbox }
    }

    fn submit(&self) -> Process {
        let docs = format!("docs={}", self.docs.display());
        let args = [
            "submit",
            "changelogs.toml",
            "--scheduler-file",
            "s.json",
            "--wait-workers",
            "2",
            "--set",
            &docs,
        ];
        self.sandbox.start("submit", self.sandbox.hpcdag(&args))
    }

    /// Until each of these workers has begun some tasks.
    fn wait_for_work(&self, workers: &[&str]) {
        wait_until("tasks on all workers", LONG, || {
            let done = executions(&self.sandbox);
            workers.iter().all(|name| done.get(*name).is_some_and(|keys| keys.len() > 10))
        });
    }
}

/// Which keys each worker has begun.
fn executions(sandbox: &Sandbox) -> BTreeMap<String, Vec<String>> {
    let text = std::fs::read_to_string(sandbox.path("log")).unwrap_or_default();
    let mut done: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (worker, key) in text.lines().filter_map(|line| line.split_once(' ')) {
        done.entry(worker.into()).or_default().push(key.into());
    }
    done
}

// ---- files to read ------------------------------------------------------------------------------

/// `count` gzipped changelogs, always the same; among them some that are empty, not Debian's, or not UTF-8.
fn changelogs(sandbox: &Sandbox, count: usize) -> PathBuf {
    let people: [&[u8]; 5] = [
        b"Ada Lovelace",
        b"Jos\xe9 Lat\xedn",
        b"Grace Hopper",
        "Jürgen Groß".as_bytes(),
        b"A. N. Other (Kiel)",
    ];
    let mut rng = fastrand::Rng::with_seed(2026);
    for n in 0..count {
        let mut text = Vec::new();
        match n % 10 {
            3 => {}
            7 => text.extend(b"2026-11-21  Somebody  <a@b>\n\n\t* main.c: -- no <release>  here.\n"),
            _ => {
                // Neighbours are built from one source and share their changelog.
                let mut rng = fastrand::Rng::with_seed(n as u64 / 2);
                for release in 0..rng.usize(1..40) {
                    let person = people[rng.usize(0..people.len())];
                    let year = 1995 + rng.u32(0..31);
                    text.extend(
                        format!("tool{} (1.{release}-{}) unstable; urgency=low\n\n", n / 2, n % 3).bytes(),
                    );
                    text.extend(b"  * Change.\n\n -- ");
                    text.extend(person);
                    text.extend(format!(" <x@example.org>  Mon, 02 Feb {year} 10:00:00 +0100\n\n").bytes());
                }
            }
        }
        let name = if rng.bool() { "changelog" } else { "changelog.Debian" };
        sandbox.write(&format!("docs/tool {n:03}/{name}"), text);
    }
    let mut gzip = sandbox.command("gzip");
    gzip.args(["-n", "-r", "docs"]);
    sandbox.run("gzip", gzip, LONG);
    sandbox.path("docs")
}

/// What cargo would have unpacked: a few crates, some of them odd.
fn crates(sandbox: &Sandbox) -> PathBuf {
    let write = |name: &str, text: &str| {
        sandbox.write(&format!("cargo/registry/src/index-1/{name}"), text);
    };
    write("empty-0.1.0/Cargo.toml", "[package]\nname = \"empty\"\n");
    write("it's odd-1.0.0/Cargo.toml", "[package]\nlicense = \"MIT OR Apache-2.0\"\n");
    write("it's odd-1.0.0/src/a file.rs", "// unsafe\n\n  // no\nunsafe { unsafe fn }\nlet unsafer = 1;\n");
    for n in 0..60 {
        let licence = ["MIT", "Apache-2.0", "Zlib"][n % 3];
        write(&format!("lib{n}-2.0.{n}/Cargo.toml"), &format!("[package]\nlicense = \"{licence}\"\n"));
        let body: String = (0..n * 37)
            .map(|line| if line % 7 < n % 4 { "    unsafe { *pointer += 1 };\n" } else { "    safe();\n" })
            .collect();
        write(&format!("lib{n}-2.0.{n}/src/lib.rs"), &format!("//! A library.\nfn f() {{\n{body}}}\n"));
    }
    sandbox.path("cargo")
}

fn make_executable(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("the file is there");
}

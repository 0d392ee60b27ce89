//! A Slurm of one's own for one test, and scripts that run in its allocations. Owns that nothing of it is
//! left.

use super::support::{Sandbox, repository};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How long bringing it up may take: packages may have to be installed first.
const UP: Duration = Duration::from_secs(120);

/// How long a script may take.
pub const SCRIPT: Duration = Duration::from_secs(90);

/// What all scripts begin with.
const PREAMBLE: &str = r#"
set -euo pipefail
say() { printf '%s\n' "$*"; }
# How many workers are connected, how many processes of srun there are here.
workers() { hpcdag workers list --json | grep -c '"incarnation"\|"joined"' || true; }
steps() { squeue -h -s -j "$SLURM_JOB_ID" | grep -c hpcdag || true; }
"#;

/// A running Slurm with a directory for one test.
pub struct Testbed {
    pub sandbox: Sandbox,
    dir: PathBuf,
    runner: Child,
}

impl Testbed {
    /// Brings it up: nodes n1, n2, … with four processors and 4 GiB each.
    pub fn up(nodes: u32) -> Testbed {
        let sandbox = Sandbox::new();
        for name in ["tmp", "home"] {
            std::fs::create_dir(sandbox.path(name)).expect("a directory");
        }
        let dir = sandbox.path("slurm");
        let mut command = sandbox.command("bash");
        command.arg(repository().join("scripts/slurm-testbed")).arg("run").arg("--dir").arg(&dir);
        command.args(["--nodes", &nodes.to_string(), "--", "sh", "-c", "echo up; exec cat"]);
        // It takes everything away when its stdin ends, and that is when this process ends, whatever ends it.
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut runner = command.spawn().expect("bash starts");
        let stdout = runner.stdout.take().expect("piped");
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            // An error or the end is told as an empty line.
            let _ = BufReader::new(stdout).read_line(&mut line);
            let _ = tell.send(line);
        });
        let line = told.recv_timeout(UP).unwrap_or_default();
        let testbed = Testbed { sandbox, dir, runner };
        assert_eq!(
            line.trim(),
            "up",
            "no Slurm could be brought up (see above): these tests need Debian's packages slurm-wlm, \
             slurm-client and munge, which scripts/test installs where it is root and apt-get is there"
        );
        testbed
    }

    /// A command with this Slurm, and hpcdag in its path.
    pub fn command(&self, program: &str) -> Command {
        let mut command = self.sandbox.command(program);
        environment(&self.sandbox, &mut command);
        command.env("SLURM_CONF", self.dir.join("slurm.conf"));
        command
    }

    /// Runs a script in an allocation, which must end well, and returns what it printed.
    pub fn in_allocation(&self, name: &str, salloc: &[&str], script: &str) -> String {
        let mut command = self.command("salloc");
        command.args(salloc).args(["bash", "-c", &format!("{PREAMBLE}{script}")]);
        self.sandbox.run(name, command, SCRIPT)
    }

    /// That no job is left, and no process and no file of hpcdag that was started here. Logs may stay where
    /// nobody said `down`.
    pub fn is_clean(&self, logs_stay: bool) {
        // What was told to end may take a moment. Slurm takes one too: `salloc` is over while components of a
        // heterogeneous job still complete.
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            let mut command = self.command("squeue");
            command.arg("--noheader");
            let jobs = self.sandbox.run("squeue", command, Duration::from_secs(20));
            if jobs.trim().is_empty() {
                break;
            }
            assert!(jobs.contains(" CG ") && Instant::now() < end, "jobs are left: {jobs}");
            std::thread::sleep(Duration::from_millis(50));
        }
        while !processes(&self.sandbox).is_empty() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(processes(&self.sandbox), [], "processes are left");
        let mut left = Vec::new();
        for home in std::fs::read_dir(self.sandbox.path("state/hpcdag")).into_iter().flatten().flatten() {
            let files = std::fs::read_dir(home.path()).into_iter().flatten().flatten();
            let names = files.map(|f| f.file_name().to_string_lossy().into_owned());
            let may_stay = |name: &String| logs_stay && (name.ends_with(".log") || name == "processes");
            left.extend(names.filter(|name| !may_stay(name)));
            assert!(logs_stay, "{} is left", home.path().display());
        }
        assert!(left.is_empty(), "files are left: {left:?}");
        let left: Vec<_> = std::fs::read_dir(self.sandbox.path("tmp")).expect("there").flatten().collect();
        assert!(left.is_empty(), "files are left: {left:?}");
    }
}

/// What a command needs to find hpcdag, and to keep to the sandbox.
pub fn environment(sandbox: &Sandbox, command: &mut Command) {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_hpcdag"));
    let path = std::env::var("PATH").unwrap_or_default();
    let directory = program.parent().expect("in a directory").display();
    command.env("PATH", format!("{directory}:{path}"));
    command.env("TMPDIR", sandbox.path("tmp")).env("HOME", sandbox.path("home"));
}

/// Processes of hpcdag, and of `srun` for it, with the sandbox's environment: numbers and command lines.
fn processes(sandbox: &Sandbox) -> Vec<(i32, String)> {
    let mark = format!("HOME={}", sandbox.path("home").display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let read = |name: &str| std::fs::read(entry.path().join(name)).unwrap_or_default();
        let (environ, line) = (read("environ"), read("cmdline"));
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let ours = environ.split(|b| *b == 0).any(|variable| variable == mark.as_bytes());
        if ours && line.contains("hpcdag") && !line.contains("slurm-testbed") {
            found.push((pid, line));
        }
    }
    found
}

impl Drop for Testbed {
    fn drop(&mut self) {
        drop(self.runner.stdin.take());
        let ended = self.runner.wait();
        // Of a test that failed: nothing is to stay in the background.
        for (pid, _) in processes(&self.sandbox) {
            // It may have ended meanwhile.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL);
        }
        if !std::thread::panicking() {
            assert!(ended.is_ok_and(|status| status.success()), "the testbed ends in order");
            assert!(!self.dir.exists(), "the testbed's directory is gone");
        }
    }
}

/// The JSON of a line that a script printed after a word.
pub fn json_after(output: &str, word: &str) -> Value {
    let line = output.lines().find_map(|line| line.strip_prefix(word)?.strip_prefix(' '));
    let line = line.unwrap_or_else(|| panic!("no line {word:?} in:\n{output}"));
    serde_json::from_str(line).unwrap_or_else(|e| panic!("{word}: {e}: {line}"))
}

/// The rest of a line that a script printed after a word.
pub fn text_after<'a>(output: &'a str, word: &str) -> &'a str {
    let line = output.lines().find_map(|line| line.strip_prefix(word)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no line {word:?} in:\n{output}")).trim()
}

/// Hosts of workers, sorted.
pub fn hosts(workers: &Value) -> Vec<&str> {
    let mut hosts: Vec<&str> =
        workers.as_array().into_iter().flatten().filter_map(|w| w["host"].as_str()).collect();
    hosts.sort_unstable();
    hosts
}

//! A place for one test: directories of its own, the processes that are started there, and their end. Owns
//! that nothing of a test outlives it, whatever it panics over.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take that is waited for.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// Directories and processes of one test.
pub struct Site {
    directory: tempfile::TempDir,
    settings: Vec<(String, String)>,
}

impl Site {
    pub fn new() -> Site {
        let directory = tempfile::Builder::new().prefix("hpcdag-test-").tempdir().expect("a directory");
        for name in ["state", "tmp", "home"] {
            std::fs::create_dir(directory.path().join(name)).expect("a directory");
        }
        let settings = [
            ("HPCDAG_SCHEDULER__HOST", "127.0.0.1"),
            ("HPCDAG_WORKER__HOST", "127.0.0.1"),
            ("HPCDAG_WORKER__NTHREADS", "2"),
            ("HPCDAG_CLIENT__TIMEOUT", "10s"),
            ("HPCDAG_WORKER__DEATH_TIMEOUT", "20s"),
        ];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        Site { directory, settings }
    }

    /// Sets a variable for the processes to come.
    pub fn set(&mut self, name: &str, value: &str) {
        self.settings.push((name.into(), value.into()));
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("inside")).expect("a directory");
        std::fs::write(&path, text).expect("written");
        path
    }

    pub fn read(&self, name: &str) -> String {
        let path = self.path(name);
        std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    /// The program with arguments, in this place.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hpcdag"));
        let ours = |name: &str| {
            name.starts_with("HPCDAG_") || name.starts_with("XDG_") || name.starts_with("SLURM_")
        };
        for (name, _) in std::env::vars_os().filter(|(name, _)| ours(&name.to_string_lossy())) {
            command.env_remove(name);
        }
        for name in ["SCRATCH", "PBS_JOBID", "JOB_ID"] {
            command.env_remove(name);
        }
        command.env("XDG_STATE_HOME", self.path("state")).env("TMPDIR", self.path("tmp"));
        command.env("HOME", self.path("home")).envs(self.settings.iter().cloned());
        command.current_dir(self.directory.path()).stdin(Stdio::null()).args(args);
        command
    }

    /// Runs to its end.
    pub fn run(&self, args: &[&str]) -> Ended {
        Ended::of(args, self.command(args).output().expect("it starts"))
    }

    /// Runs to its end, which must be a success; returns its stdout.
    pub fn ok(&self, args: &[&str]) -> String {
        let ended = self.run(args);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        ended.stdout
    }

    /// The JSON that a command prints.
    pub fn json(&self, args: &[&str]) -> serde_json::Value {
        let text = self.ok(args);
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{args:?}: {e}: {text}"))
    }

    /// Starts it in the background; what it says goes to files that `log` reads.
    pub fn start(&self, name: &str, args: &[&str]) -> Background {
        let file = |kind: &str| std::fs::File::create(self.path(&format!("{name}.{kind}"))).expect("a file");
        let child = self.command(args).stdout(file("out")).stderr(file("err")).spawn().expect("it starts");
        Background { child, log: self.path(&format!("{name}.err")), out: self.path(&format!("{name}.out")) }
    }

    /// A scheduler and workers that share a file named `s.json`.
    pub fn cluster(&self, workers: usize) -> Vec<Background> {
        let mut all = vec![self.start("scheduler", &["scheduler", "--scheduler-file", "s.json"])];
        for n in 0..workers {
            let name = format!("w{n}");
            all.push(self.start(&name, &["worker", "--scheduler-file", "s.json", "--name", &name]));
        }
        let n = workers.to_string();
        self.ok(&["workers", "wait", &n, "--scheduler-file", "s.json", "--timeout", "15s"]);
        all
    }

    /// Processes that were started here, directly or not, and are still running.
    pub fn processes(&self) -> Vec<i32> {
        let mark = format!("XDG_STATE_HOME={}", self.path("state").display()).into_bytes();
        let ours = |pid: &i32| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|b| *b == 0).any(|variable| variable == mark)
        };
        let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(|pid| *pid != std::process::id() as i32).filter(ours).collect()
    }

    /// Waits until all processes have ended.
    pub fn wait_for_silence(&self) {
        wait_until("all processes have ended", || self.processes().is_empty());
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for name in ["scheduler.err", "w0.err", "w1.err", "client.err"] {
                if let Ok(text) = std::fs::read_to_string(self.path(name)) {
                    eprintln!("---- {name}\n{text}");
                }
            }
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = self.processes();
            if left.is_empty() || Instant::now() >= deadline {
                return;
            }
            left.into_iter().for_each(|pid| kill(pid, nix::sys::signal::Signal::SIGKILL));
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A command that has ended.
#[derive(Debug)]
pub struct Ended {
    #[expect(dead_code, reason = "read by Debug")]
    args: Vec<String>,
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    fn of(args: &[&str], output: Output) -> Ended {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ended {
            args: args.iter().map(|a| (*a).to_owned()).collect(),
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

/// A command that runs beside the test.
pub struct Background {
    pub child: Child,
    log: PathBuf,
    out: PathBuf,
}

impl Background {
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        kill(self.pid(), signal);
    }

    pub fn stderr(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn stdout(&self) -> String {
        std::fs::read_to_string(&self.out).unwrap_or_default()
    }

    /// Waits for its end; returns its exit code.
    pub fn code(&mut self) -> Option<i32> {
        let mut status = None;
        wait_until("a command has ended", || {
            status = self.child.try_wait().expect("ours");
            status.is_some()
        });
        status.and_then(|s| s.code())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // It may have ended already; the site ends what it leaves behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn kill(pid: i32, signal: nix::sys::signal::Signal) {
    // It may have ended already.
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
}

pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Everything below a directory, as paths relative to it.
pub fn files_below(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path.clone());
            }
            let relative = path.strip_prefix(directory).unwrap_or(&path);
            found.push(relative.display().to_string());
        }
    }
    found.sort();
    found
}

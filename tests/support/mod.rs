//! Running the real binary in tests: a directory of its own, a clean environment, processes that end with the
//! test, time limits on everything. Owns no assertion about hpcdag itself.

#![allow(dead_code)] // Each test binary uses its part.

pub mod scenario;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Prefixes of variables that would change what hpcdag does.
const NOT_INHERITED: &[&str] = &["HPCDAG_", "SLURM_", "PBS_", "SGE_", "XDG_", "RUST_LOG"];

/// A directory for one test, with state and configuration of its own. Gone at the end.
pub struct Sandbox {
    dir: tempfile::TempDir,
}

impl Sandbox {
    /// An empty one.
    pub fn new() -> Sandbox {
        Sandbox { dir: tempfile::tempdir().expect("a temporary directory") }
    }

    /// A path inside.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file, with the directories above it.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("inside the sandbox")).expect("a directory");
        std::fs::write(&path, text).unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
        path
    }

    /// Reads a file.
    pub fn read(&self, name: &str) -> String {
        let path = self.path(name);
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// A copy of one of the repository's graph files, so that what it writes stays in here.
    pub fn example(&self, name: &str) -> PathBuf {
        let source = repository().join("examples").join(name);
        let text = std::fs::read(&source).unwrap_or_else(|e| panic!("cannot read {}: {e}", source.display()));
        self.write(name, text)
    }

    /// The binary with these arguments.
    pub fn hpcdag(&self, args: &[&str]) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_hpcdag"));
        command.args(args);
        command
    }

    /// Any program, with the sandbox's environment.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if NOT_INHERITED.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        command.env("XDG_STATE_HOME", self.path("state")).env("XDG_CONFIG_HOME", self.path("config"));
        command.current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }

    /// Starts a process; its output goes to `NAME.out` and `NAME.err` in here.
    pub fn start(&self, name: &str, mut command: Command) -> Process {
        let file = |end: &str| File::create(self.path(&format!("{name}.{end}"))).expect("a log file");
        let child = command.stdout(file("out")).stderr(file("err")).spawn();
        let child = child.unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
        Process { name: name.into(), child, dir: self.dir.path().to_path_buf() }
    }

    /// Runs a process to its end, which must be a success, and returns its stdout.
    pub fn run(&self, name: &str, command: Command, limit: Duration) -> String {
        let mut process = self.start(name, command);
        let status = process.wait(limit);
        assert!(status.success(), "{name}: {status}\n{}", process.output());
        self.read(&format!("{name}.out"))
    }
}

/// The root of the repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A process that is killed when the test ends, however it ends.
pub struct Process {
    name: String,
    child: Child,
    dir: PathBuf,
}

impl Process {
    /// The process's id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child can be asked").is_none()
    }

    /// SIGKILL, and its end.
    pub fn kill(&mut self) {
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("a killed child ends");
    }

    /// How it ended; panics with its output after `limit`.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be asked") {
                return status;
            }
            if begin.elapsed() > limit {
                panic!("{} has not ended after {limit:?}\n{}", self.name, self.output());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What it has written so far, to show when something is wrong.
    pub fn output(&self) -> String {
        let read = |end| std::fs::read(self.dir.join(format!("{}.{end}", self.name))).unwrap_or_default();
        let (out, err) = (read("out"), read("err"));
        format!("-- stdout\n{}-- stderr\n{}", String::from_utf8_lossy(&out), String::from_utf8_lossy(&err))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already; there is nothing else to do about it.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("==== {}\n{}", self.name, self.output());
        }
    }
}

/// Waits until something is true; panics after `limit`.
pub fn wait_until(what: &str, limit: Duration, mut check: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !check() {
        assert!(begin.elapsed() < limit, "{what}: not after {limit:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The processes whose parent is `pid`.
pub fn children(pid: u32) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let is_child = |id: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        // The name, in parentheses, may hold anything; after it come the state and the parent.
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        parent == Some(pid)
    };
    entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok()).filter(is_child).collect()
}

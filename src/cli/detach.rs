//! Starts a process of this program in the background and waits until it is ready. Owns the separation from
//! the terminal and the wait; what ready means is the caller's.

use super::output::{harmless, open_log};
use crate::base::error::{Error, Kind, Result};
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// This program, whatever its file is called by now.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// How much of the end of a log is read, and how many lines of it are shown, when a process does not come up.
const LOG_TAIL_BYTES: u64 = 16 << 10;
const LOG_TAIL_LINES: usize = 10;

/// How long a process that did not become ready in time may take to end by itself.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// A process to start in the background.
#[derive(Clone, Debug)]
pub struct Background {
    /// What it is, for messages: `the scheduler`.
    pub what: String,
    /// Its program.
    pub program: PathBuf,
    /// Its arguments. It runs in `/`, so paths in them are absolute.
    pub args: Vec<OsString>,
    /// Variables set for it.
    pub env: Vec<(OsString, OsString)>,
    /// Variables that it does not get.
    pub env_remove: Vec<&'static str>,
    /// Where its stdout and stderr go: appended, made for the owner alone.
    pub log: PathBuf,
}

/// A process that is ready.
#[derive(Clone, Debug)]
pub struct Started<T> {
    /// The process.
    pub pid: u32,
    /// What the readiness condition found.
    pub value: T,
}

impl Background {
    /// A process of this same program.
    pub fn of_this_program(
        what: impl Into<String>,
        args: Vec<OsString>,
        log: impl Into<PathBuf>,
    ) -> Background {
        let program = PathBuf::from(THIS_PROGRAM);
        Background::of(what, program, args, log)
    }

    /// A process of any program.
    pub fn of(
        what: impl Into<String>,
        program: impl Into<PathBuf>,
        args: Vec<OsString>,
        log: impl Into<PathBuf>,
    ) -> Background {
        let (what, program, log) = (what.into(), program.into(), log.into());
        Background { what, program, args, env: Vec::new(), env_remove: Vec::new(), log }
    }

    /// Starts the process in a session of its own, without a terminal, and asks `ready` again and again until
    /// it answers with a value. `ready` is given the process's number. A process that is not ready after
    /// `timeout` is ended, and so is one when `ready` fails.
    ///
    /// # Errors
    /// `Launch` when the process cannot be started or ends before it is ready, with its last log lines;
    /// `Timeout` when it takes too long; `File` when the log cannot be opened; what `ready` returns.
    pub fn start<T>(
        &self,
        timeout: Duration,
        mut ready: impl FnMut(u32) -> Result<Option<T>>,
    ) -> Result<Started<T>> {
        let log = open_log(&self.log)?;
        let begin = log.metadata().map_or(0, |m| m.len());
        let mut child = self.spawn(log)?;
        let deadline = Instant::now() + timeout;
        let mut pause = Duration::from_millis(5);
        loop {
            // Looked at first: a process may become ready and end, and then it was not.
            let ended = child.try_wait().map_err(|e| Error::os("cannot wait for a process", e))?;
            if let Some(status) = ended {
                return Err(self.died(status, begin));
            }
            match ready(child.id()) {
                Ok(Some(value)) => return Ok(Started { pid: child.id(), value }),
                Ok(None) => {}
                Err(error) => {
                    end(&mut child);
                    return Err(error);
                }
            }
            if Instant::now() >= deadline {
                end(&mut child);
                return Err(self.too_slow(timeout, begin));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }

    fn spawn(&self, log: File) -> Result<Child> {
        let log_again = log.try_clone().map_err(|e| Error::file("cannot use the log", &self.log, &e))?;
        let mut command = Command::new(&self.program);
        command.args(&self.args).current_dir("/");
        if self.program == Path::new(THIS_PROGRAM) {
            command.arg0("hpcdag");
        }
        self.env_remove.iter().for_each(|name| _ = command.env_remove(name));
        command.envs(self.env.iter().map(|(k, v)| (k, v)));
        command.stdin(Stdio::null()).stdout(log).stderr(log_again);
        // SAFETY: setsid is async-signal-safe and touches no memory. (The slow path that pre_exec forces on
        // spawning does not matter here: this process is small and starts one.)
        unsafe { command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(std::io::Error::from)) };
        command.spawn().map_err(|e| {
            Error::new(Kind::Launch, format!("cannot start {} ({}): {e}", self.what, self.program.display()))
        })
    }

    fn died(&self, status: ExitStatus, begin: u64) -> Error {
        // A log that cannot be written says nothing about that.
        if let Err(error) = self.has_room() {
            return Error { message: format!("{} could not start: {}", self.what, error.message), ..error };
        }
        let message = format!("{} ended before it was ready ({status}){}", self.what, self.log_tail(begin));
        Error::new(Kind::Launch, message).hint(format!("its log is {}", self.log.display()))
    }

    fn too_slow(&self, timeout: Duration, begin: u64) -> Error {
        let timeout = crate::base::units::Span(timeout);
        let message =
            format!("{} was not ready after {timeout} and was ended{}", self.what, self.log_tail(begin));
        Error::new(Kind::Timeout, message).hint(format!("its log is {}", self.log.display()))
    }

    /// Whether there is room where the log is; small files beside it need some, too.
    fn has_room(&self) -> Result<()> {
        use std::io::Write;
        let directory = self.log.parent().unwrap_or(Path::new("/"));
        let fault = |e: &std::io::Error| Error::file("cannot write in", directory, e);
        let mut file = tempfile::tempfile_in(directory).map_err(|e| fault(&e))?;
        file.write_all(&[b'\n'; 64 << 10]).and_then(|()| file.sync_all()).map_err(|e| fault(&e))
    }

    /// The last lines that this process logged, as the end of a message.
    fn log_tail(&self, begin: u64) -> String {
        match last_lines(&self.log, begin) {
            Ok(lines) if lines.is_empty() => "; it logged nothing".to_owned(),
            Ok(lines) => format!("; it logged:\n{lines}"),
            Err(error) => format!("; its log cannot be read: {error}"),
        }
    }
}

/// The last lines of a log, of what stands there from `begin` on, each indented.
pub(super) fn last_lines(log: &Path, begin: u64) -> std::io::Result<String> {
    let mut file = File::open(log)?;
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(begin.max(size.saturating_sub(LOG_TAIL_BYTES))))?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(LOG_TAIL_LINES);
    Ok(lines[from..].iter().map(|line| format!("    {}", harmless(line))).collect::<Vec<_>>().join("\n"))
}

/// Ends a process: SIGTERM, and SIGKILL to its session's group if that does not help.
fn end(child: &mut Child) {
    use nix::sys::signal::{Signal, kill, killpg};
    use nix::unistd::Pid;
    let Ok(pid) = i32::try_from(child.id()).map(Pid::from_raw) else { return };
    // It was not reaped yet, so the number is its own. Failure means that it has ended.
    let _ = kill(pid, Signal::SIGTERM);
    let deadline = Instant::now() + END_PATIENCE;
    while Instant::now() < deadline {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = killpg(pid, Signal::SIGKILL);
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A shell script in the background, and the directory of its log.
    fn script(script: &str) -> (Background, tempfile::TempDir) {
        let directory = tempfile::tempdir().expect("a directory");
        let background = Background {
            what: "the scheduler".into(),
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            env: vec![("DIR".into(), directory.path().into())],
            env_remove: Vec::new(),
            log: directory.path().join("log"),
        };
        (background, directory)
    }

    #[test]
    fn ready_processes_go_on_by_themselves() {
        let (background, directory) = script(
            "echo $$ $(cut -d' ' -f5,6 /proc/$$/stat) $PWD > $DIR/made
            mv $DIR/made $DIR/ready; exec sleep 60",
        );
        let ready = directory.path().join("ready");
        let started = background.start(Duration::from_secs(20), |_| Ok(std::fs::read_to_string(&ready).ok()));
        let started = started.expect("ready");
        // Leader of a group and of a session of its own, in the root directory.
        let pid = started.pid;
        assert_eq!(started.value.trim(), format!("{pid} {pid} {pid} /"));
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::SIGKILL)
            .expect("lives");
    }

    #[test]
    fn death_is_told_with_the_log() {
        let (background, directory) = script("seq 1 20; echo 'no \x1b[1mport' >&2; exit 7");
        std::fs::write(directory.path().join("log"), "of an earlier one\n").expect("written");
        let error = background.start(Duration::from_secs(20), |_| Ok(None::<()>)).expect_err("died");
        assert_eq!(error.kind, Kind::Launch);
        let expected = "the scheduler ended before it was ready (exit status: 7); it logged:\n    12\n";
        assert!(error.message.starts_with(expected), "{error}");
        assert!(error.message.ends_with("    20\n    no \\u{1b}[1mport"), "{error}");
        let (background, directory) = script("exit 7");
        std::fs::write(directory.path().join("log"), "of an earlier one\n").expect("written");
        let error = background.start(Duration::from_secs(20), |_| Ok(None::<()>)).expect_err("died");
        assert!(error.message.ends_with("it logged nothing"), "{error}");
    }

    #[test]
    fn slow_processes_are_ended() {
        let (background, directory) =
            script("trap 'echo ended > $DIR/end; exit' TERM; while :; do sleep 0.02; done");
        let error = background.start(Duration::from_millis(300), |_| Ok(None::<()>)).expect_err("slow");
        assert_eq!(error.kind, Kind::Timeout);
        assert_eq!(std::fs::read_to_string(directory.path().join("end")).expect("it was asked"), "ended\n");
    }

    #[test]
    fn failing_conditions_and_missing_programs_are_told() {
        let (mut background, _directory) = script("exec sleep 60");
        let mut pid = 0;
        let error = background.start(Duration::from_secs(20), |process| {
            pid = process;
            Err::<Option<()>, _>(Error::new(Kind::Refused, "another cluster's"))
        });
        assert_eq!(error.expect_err("refused").kind, Kind::Refused);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
        background.program = "/nonexistent/hpcdag".into();
        let error = background.start(Duration::from_secs(20), |_| Ok(None::<()>)).expect_err("missing");
        assert_eq!(error.kind, Kind::Launch);
    }
}

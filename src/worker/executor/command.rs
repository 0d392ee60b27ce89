//! Commands: one process each, in its own group, its stdout captured, its end awaited, its leftovers ended.
//!
//! How it is started: through the standard library's posix_spawn path (own group, directory, environment and
//! stdio keep it; a `pre_exec` would lose it and make starting slow with a large heap).
//!
//! What its stdout is: `Capture::File`, a memory file, exactly as with `cmd > file`: `echo a; echo b > /dev/stdout`
//! leaves only `b`, for opening `/dev/stdout` truncates; programs may seek. `Capture::Pipe`, as with `cmd | next`:
//! both lines arrive. Either way the result is published when the whole process group has ended. Shell lines get
//! a pipe, so that none of their commands silently removes what others have printed; the copy costs about 0.15 ms
//! of CPU per MiB (measured: 256 MiB take 135 ms by file and 170 by pipe; small outputs cost the same).
//!
//! What happens to processes that the main one leaves behind in its group: they get `linger` to end (the
//! compressor in `tee >(gzip > x)` does), then they are ended. One that left the group (a daemon) is not waited for; it
//! cannot change a published result.

use super::control::Control;
use super::process::{Exit, Process, poll, poll_fd};
use super::program;
use super::streams::{PipeCapture, Pump, Tail, stdin_of};
use super::{Clock, Executor, Failure, FailureKind, Outcome};
use crate::graph::template::quote;
use crate::worker::store::data::{Data, TaskResult};
use crate::worker::store::memfile::MemWriter;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A command to run.
#[derive(Debug)]
pub struct CommandJob {
    /// The task's key: names the memory file in `/proc`.
    pub key: String,
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// What users are shown as the command, cut if long; `argv` as a shell would take it if empty.
    pub shown: String,
    /// The whole environment; nothing is inherited.
    pub env: BTreeMap<OsString, OsString>,
    /// Working directory; must exist.
    pub cwd: PathBuf,
    /// What it reads on stdin.
    pub stdin: StdinSource,
    /// How its stdout is taken.
    pub capture: Capture,
    /// Exit codes that count as success.
    pub ok_exit: Vec<i32>,
    /// A longer stdout than this fails it, bytes.
    pub max_output: Option<u64>,
    /// How long it may run.
    pub time_limit: Option<Duration>,
    /// Its umask, if it is not the worker's: costs one more process image, a shell that sets it.
    pub umask: Option<u32>,
    /// A file in which it may leave a short reason when it fails.
    pub error_file: Option<PathBuf>,
}

/// What a command reads on stdin.
#[derive(Debug)]
pub enum StdinSource {
    /// These, one after the other; nothing if there are none.
    Inputs(Vec<Data>),
    /// A file.
    File(PathBuf),
}

/// How a command's stdout is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capture {
    /// Straight into a memory file: nothing is copied.
    File,
    /// Through a pipe, copied by the slot's thread.
    Pipe,
}

/// How commands are ended.
#[derive(Clone, Copy, Debug)]
pub struct CommandExecutor {
    /// Time between SIGTERM and SIGKILL.
    pub kill_grace: Duration,
    /// How long processes of the group may outlive the main one before they are ended.
    pub linger: Duration,
    /// How long after SIGKILL a process may take to end before its slot is given to others.
    pub stuck_after: Duration,
}

impl Default for CommandExecutor {
    fn default() -> CommandExecutor {
        CommandExecutor {
            kill_grace: Duration::from_secs(5),
            linger: Duration::from_secs(5),
            stuck_after: Duration::from_secs(20),
        }
    }
}

/// How much of a command users are shown, bytes.
pub(crate) const SHOWN_BYTES: usize = 1000;
/// How much is read of what a task leaves as the reason of its failure, bytes.
const REASON_BYTES: u64 = 4096;
/// How often the size of a direct capture is looked at when it has a limit.
const SIZE_CHECK: Duration = Duration::from_millis(50);

impl Executor<CommandJob> for CommandExecutor {
    fn run(&self, mut job: CommandJob, control: &Control) -> Outcome {
        let clock = Clock::start();
        if job.shown.is_empty() {
            job.shown = job.argv.iter().map(|a| quote(a)).collect::<Vec<_>>().join(" ");
        }
        job.shown = cut(std::mem::take(&mut job.shown), SHOWN_BYTES);
        let mut ended = match start(&mut job) {
            Ok(started) => Running::new(self, &job, control, started).run(),
            Err(kind) => Ended::before_start(kind),
        };
        control.set_pid(0);
        control.set_capture(None);
        let (cpu, rss) = ended.exit.map_or((Duration::ZERO, 0), |e| (e.cpu, e.max_rss_bytes));
        let stdout = ended.stdout.take();
        let result = match ended.verdict(&job.ok_exit) {
            None => finish_stdout(&job, stdout),
            Some(kind) => Err(kind),
        };
        let result = result.map(TaskResult::of).map_err(|kind| Failure {
            kind,
            command: std::mem::take(&mut job.shown),
            stderr_tail: std::mem::take(&mut ended.stderr_tail),
            reason: ended.reason.take().or_else(|| job.error_file.as_ref().and_then(read_reason)),
        });
        clock.outcome(result, cpu, rss)
    }
}

pub(crate) fn cut(mut text: String, max: usize) -> String {
    if text.len() > max {
        let end = (0..=max).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

fn read_reason(path: &PathBuf) -> Option<String> {
    let mut content = Vec::new();
    std::fs::File::open(path).ok()?.take(REASON_BYTES).read_to_end(&mut content).ok()?;
    let text = String::from_utf8_lossy(&content).trim().to_string();
    (!text.is_empty()).then_some(text)
}

/// Where stdout goes.
enum Stdout {
    File(MemWriter),
    Pipe(PipeCapture),
}

impl Stdout {
    fn size(&self) -> u64 {
        match self {
            Stdout::File(writer) => writer.size().unwrap_or(0),
            Stdout::Pipe(pipe) => pipe.taken(),
        }
    }
}

fn finish_stdout(job: &CommandJob, stdout: Option<Stdout>) -> Result<Data, FailureKind> {
    let data = match stdout {
        Some(Stdout::File(writer)) => Data::of_writer(writer),
        Some(Stdout::Pipe(pipe)) => pipe.finish(&job.key),
        None => Ok(Data::Heap(bytes::Bytes::new())),
    };
    match data {
        // It can end before anybody has looked.
        Ok(data) if job.max_output.is_some_and(|max| data.len() > max) => Err(FailureKind::OutputTooLarge),
        Ok(data) => Ok(data),
        Err(error) => Err(FailureKind::Result(format!("cannot keep its stdout: {error}"))),
    }
}

/// A process that has just been started, and the other ends of its stdio.
struct Started {
    process: Process,
    stdin: Option<Pump>,
    stdout: Stdout,
    stderr: Tail,
}

fn start(job: &mut CommandJob) -> Result<Started, FailureKind> {
    let prepare = |what: &str, error: io::Error| FailureKind::Prepare(format!("{what}: {error}"));
    let (stdin, pump) = match &mut job.stdin {
        StdinSource::Inputs(inputs) => {
            stdin_of(std::mem::take(inputs)).map_err(|e| prepare("cannot read an input", e))?
        }
        StdinSource::File(path) => match std::fs::File::open(&*path) {
            Ok(file) => (Stdio::from(file), None),
            Err(error) => return Err(prepare(&format!("cannot read {}", path.display()), error)),
        },
    };
    let (stdout, out) = match job.capture {
        Capture::File => MemWriter::create(&job.key)
            .and_then(|writer| Ok((Stdio::from(writer.file().try_clone()?), Stdout::File(writer)))),
        Capture::Pipe => PipeCapture::open().map(|(pipe, end)| (Stdio::from(end), Stdout::Pipe(pipe))),
    }
    .map_err(|e| prepare("cannot capture stdout", e))?;
    let (stderr, end) = Tail::open().map_err(|e| prepare("cannot capture stderr", e))?;
    let mut command = command(job).map_err(FailureKind::Spawn)?;
    command.stdin(stdin).stdout(stdout).stderr(end);
    let process = spawn(&mut command, job).map_err(FailureKind::Spawn)?;
    // `command` goes here and with it our copies of the child's ends: otherwise its pipes would never end.
    Ok(Started { process, stdin: pump, stdout: out, stderr })
}

fn command(job: &CommandJob) -> Result<Command, String> {
    let name = job.argv.first().map_or("", String::as_str);
    let path = job.env.get(std::ffi::OsStr::new("PATH")).map(OsString::as_os_str);
    let file = program::find(name, path, &job.cwd)?;
    let mut command = match job.umask {
        None => {
            let mut command = Command::new(&file);
            command.arg0(name);
            command
        }
        Some(mask) => {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", &format!("umask {mask:03o}; exec \"$@\""), "sh"]).arg(&file);
            command
        }
    };
    command.args(&job.argv[1..]).env_clear().envs(&job.env).current_dir(&job.cwd).process_group(0);
    Ok(command)
}

fn spawn(command: &mut Command, job: &CommandJob) -> Result<Process, String> {
    let mut tries = 0;
    loop {
        match command.spawn() {
            Ok(child) => {
                let process = Process::of(&child);
                process.raise_oom_score();
                return Ok(process);
            }
            // Another thread's child, between its start and its exec, holds the program open for writing.
            Err(error) if error.raw_os_error() == Some(libc::ETXTBSY) && tries < 10 => {
                tries += 1;
                std::thread::sleep(Duration::from_millis(5 * tries));
            }
            Err(error) => {
                let file = PathBuf::from(command.get_program());
                return Err(program::explain(&error, &file, &job.cwd, &job.argv));
            }
        }
    }
}

/// What is left when a command has ended.
struct Ended {
    exit: Option<Exit>,
    stopped: Option<FailureKind>,
    reason: Option<String>,
    stdout: Option<Stdout>,
    stderr_tail: Vec<u8>,
}

impl Ended {
    fn before_start(kind: FailureKind) -> Ended {
        Ended { exit: None, stopped: Some(kind), reason: None, stdout: None, stderr_tail: Vec::new() }
    }

    /// Why it failed, if it did.
    fn verdict(&mut self, ok_exit: &[i32]) -> Option<FailureKind> {
        if let Some(kind) = self.stopped.take() {
            return Some(kind);
        }
        match self.exit?.end {
            Ok(code) if code == 0 && ok_exit.is_empty() || ok_exit.contains(&code) => None,
            Ok(code) => Some(FailureKind::Exit(code)),
            Err(signal) => Some(FailureKind::Signal(signal)),
        }
    }
}

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    /// The main process has ended well, others of its group not yet.
    Lingering(Instant),
    /// SIGTERM was sent.
    Terminating(Instant),
    /// SIGKILL was sent.
    Killing(Instant),
}

/// A running command and the thread that waits for it.
struct Running<'a> {
    settings: &'a CommandExecutor,
    job: &'a CommandJob,
    control: &'a Control,
    process: Process,
    stdin: Option<Pump>,
    stdout: Stdout,
    stderr: Tail,
    deadline: Option<Instant>,
    phase: Phase,
    exit: Option<Exit>,
    stopped: Option<FailureKind>,
    reason: Option<String>,
    tick: Duration,
}

impl<'a> Running<'a> {
    fn new(settings: &'a CommandExecutor, job: &'a CommandJob, control: &'a Control, s: Started) -> Self {
        control.set_pid(s.process.pid());
        if let Stdout::File(writer) = &s.stdout {
            control.set_capture(Some(writer.file()));
        }
        Running {
            settings,
            job,
            control,
            process: s.process,
            stdin: s.stdin,
            stdout: s.stdout,
            stderr: s.stderr,
            deadline: job.time_limit.map(|limit| Instant::now() + limit),
            phase: Phase::Running,
            exit: None,
            stopped: None,
            reason: None,
            tick: Duration::from_millis(1),
        }
    }

    fn run(mut self) -> Ended {
        loop {
            if self.exit.is_none() {
                match self.process.try_wait() {
                    Ok(exit) => self.exit = exit,
                    Err(error) => {
                        let text =
                            format!("its exit status was taken by another part of this program: {error}");
                        self.stop(FailureKind::Spawn(text), None);
                        return self.ended();
                    }
                }
            }
            if self.exit.is_some() && !self.process.group_is_alive() {
                return self.ended();
            }
            self.look_for_reasons_to_stop();
            if self.escalate() {
                return self.give_up();
            }
            self.wait();
        }
    }

    fn ended(self) -> Ended {
        self.control.set_capture(None);
        Ended {
            exit: self.exit,
            stopped: self.stopped,
            reason: self.reason,
            stdout: Some(self.stdout),
            stderr_tail: self.stderr.finish(),
        }
    }

    /// Leaves a process that does not even end by SIGKILL to a thread of its own.
    fn give_up(mut self) -> Ended {
        let text = format!(
            "process {} does not end after SIGKILL ({}); its slot is given to others",
            self.process.pid(),
            self.process.state()
        );
        tracing::error!(task = self.job.key, "{text}");
        self.reason = Some(self.reason.take().map_or(text.clone(), |reason| format!("{reason}; {text}")));
        self.stopped.get_or_insert(FailureKind::Cancelled);
        self.control.set_capture(None);
        if self.exit.is_none() {
            let process = self.process;
            let reaper = std::thread::Builder::new().name("reaper".into());
            if let Err(error) = reaper.spawn(move || process.wait_for_ever()) {
                tracing::warn!("a stuck process will stay a zombie: {error}");
            }
        }
        Ended {
            exit: self.exit,
            stopped: self.stopped,
            reason: self.reason,
            stdout: None,
            stderr_tail: self.stderr.finish(),
        }
    }

    fn look_for_reasons_to_stop(&mut self) {
        if self.stopped.is_some() {
            return;
        }
        if self.control.is_cancelled() {
            self.stop(FailureKind::Cancelled, self.control.reason());
        } else if self.job.max_output.is_some_and(|max| self.stdout.size() > max) {
            let max = self.job.max_output.unwrap_or(0);
            self.stop(FailureKind::OutputTooLarge, Some(format!("more than {max} bytes")));
            // It would go on printing for as long as it is asked kindly.
            self.phase = Phase::Terminating(Instant::now());
        } else if self.exit.is_none() && self.deadline.is_some_and(|at| Instant::now() >= at) {
            let limit = self.job.time_limit.unwrap_or_default();
            self.stop(FailureKind::TimeLimit, Some(format!("ended after {} s", limit.as_secs_f64())));
        }
    }

    fn stop(&mut self, kind: FailureKind, reason: Option<String>) {
        self.stopped = Some(kind);
        self.reason = reason;
        self.terminate();
    }

    fn terminate(&mut self) {
        if !matches!(self.phase, Phase::Killing(_) | Phase::Terminating(_)) {
            self.process.signal_group(libc::SIGTERM);
            self.phase = Phase::Terminating(Instant::now() + self.settings.kill_grace);
        }
    }

    /// Goes to the next phase if it is time. Whether there is none left.
    fn escalate(&mut self) -> bool {
        let now = Instant::now();
        match self.phase {
            Phase::Running => match self.exit {
                Some(Exit { end: Ok(code), .. }) if code == 0 || self.job.ok_exit.contains(&code) => {
                    self.phase = Phase::Lingering(now + self.settings.linger);
                    self.tick = Duration::from_millis(1);
                }
                Some(_) => self.terminate(),
                None => {}
            },
            Phase::Lingering(until) if now >= until => {
                let left = self.process.pid();
                tracing::warn!(
                    task = self.job.key,
                    "ending what the task left behind in process group {left}"
                );
                self.terminate();
            }
            Phase::Terminating(until) if now >= until => {
                self.process.signal_group(libc::SIGKILL);
                self.phase = Phase::Killing(now + self.settings.stuck_after);
                self.tick = Duration::from_millis(1);
            }
            Phase::Killing(until) => return now >= until,
            Phase::Lingering(_) | Phase::Terminating(_) => {}
        }
        false
    }

    /// Waits until something happens, and moves what can be moved.
    fn wait(&mut self) {
        let time = self.time_to_wait();
        let cancelled = self.control.is_cancelled();
        let wanted: [(Option<BorrowedFd<'_>>, i16); 5] = [
            (self.stdin.as_ref().map(Pump::fd), libc::POLLOUT),
            (if let Stdout::Pipe(pipe) = &self.stdout { pipe.fd() } else { None }, libc::POLLIN),
            (self.stderr.fd(), libc::POLLIN),
            // Once seen, these stay readable and would make this a busy loop.
            ((!cancelled).then(|| self.control.wake_fd()), libc::POLLIN),
            (if self.exit.is_none() { self.process.fd() } else { None }, libc::POLLIN),
        ];
        // Negative descriptors are skipped by the kernel.
        let mut fds = wanted.map(|(fd, events)| match fd {
            Some(fd) => poll_fd(fd, events),
            None => libc::pollfd { fd: -1, events: 0, revents: 0 },
        });
        if !poll(&mut fds, time) {
            self.tick = (self.tick * 2).min(SIZE_CHECK);
            return;
        }
        let [stdin, stdout, stderr, wake, _] = fds.map(|fd| fd.revents != 0);
        if wake {
            self.control.clear_stale_wake();
        }
        if stdin && let Some(pump) = &mut self.stdin {
            match pump.advance() {
                Ok(false) => {}
                Ok(true) => self.stdin = None,
                Err(error) => {
                    self.stdin = None;
                    self.stop(FailureKind::Prepare(format!("cannot read an input: {error}")), None);
                }
            }
        }
        if stdout {
            self.take_stdout();
        }
        if stderr {
            self.stderr.advance();
            if self.stderr.fd().is_none() {
                // Most likely it is just ending.
                self.tick = Duration::from_millis(1);
            }
        }
    }

    fn take_stdout(&mut self) {
        let Stdout::Pipe(pipe) = &mut self.stdout else { return };
        let was_small = pipe.file().is_none();
        match pipe.advance(&self.job.key) {
            Ok(_) if was_small && pipe.file().is_some() => self.control.set_capture(pipe.file()),
            Ok(_) => {}
            Err(error) => {
                self.stop(FailureKind::Result(format!("cannot keep its stdout: {error}")), None);
            }
        }
    }

    fn time_to_wait(&self) -> Duration {
        let phase_end = match self.phase {
            Phase::Running => None,
            Phase::Lingering(at) | Phase::Terminating(at) | Phase::Killing(at) => Some(at),
        };
        let deadline = self.deadline.filter(|_| self.exit.is_none() && self.stopped.is_none());
        let at = [phase_end, deadline].into_iter().flatten().min();
        let mut time =
            at.map_or(Duration::from_secs(3600), |at| at.saturating_duration_since(Instant::now()));
        // Nothing tells when a group has ended, nor on old kernels when a process has.
        if self.exit.is_some() || self.process.fd().is_none() {
            time = time.min(self.tick);
        }
        if self.job.max_output.is_some() && matches!(self.stdout, Stdout::File(_)) {
            time = time.min(SIZE_CHECK);
        }
        time
    }
}

#[cfg(test)]
mod tests;

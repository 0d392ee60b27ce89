//! Commands: one process each, in its own group, its stdout captured, its end awaited, its leftovers ended.
//!
//! How it is started: by posix_spawn (`spawn`), which does not get slower with a large heap.
//!
//! What its stdout is: `Capture::File`, a memory file, exactly as with `cmd > file`: `echo a; echo b >
//! /dev/stdout` leaves only `b`, for opening `/dev/stdout` truncates; programs may seek. `Capture::Pipe`, as
//! with `cmd | next`: both lines arrive. Either way the result is published when the whole process group has
//! ended. Shell lines get a pipe, so that none of their commands silently removes what others have printed;
//! the copy costs about 0.15 ms of CPU per MiB (measured: 256 MiB take 135 ms by file and 170 by pipe; small
//! outputs cost the same).
//!
//! What happens to processes that the main one leaves behind in its group: they get `linger` to end (the
//! compressor in `tee >(gzip > x)` does), then they are ended. One that left the group (a daemon) is not
//! waited for; it cannot change a published result.

mod running;

use super::cgroup::Group;
use super::control::Control;
use super::process::{Exit, Process};
use super::program;
use super::spawn::{self, Ends, Program};
use super::streams::{PipeCapture, Pump, Tail, stdin_of};
use super::variables::Env;
use super::{Clock, Executor, Failure, FailureKind, Outcome};
use crate::graph::template::quote;
use crate::worker::printed::Which;
use crate::worker::store::data::{Data, TaskResult};
use crate::worker::store::memfile::MemWriter;
use running::Running;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

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
    pub env: Env,
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
    /// The control group that it runs in, if it has one of its own: costs the same image as `umask`.
    pub group: Option<Group>,
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

impl Executor<CommandJob> for CommandExecutor {
    fn run(&self, mut job: CommandJob, control: &Control) -> Outcome {
        let clock = Clock::start();
        if job.shown.is_empty() {
            job.shown = job.argv.iter().map(|a| quote(a)).collect::<Vec<_>>().join(" ");
        }
        job.shown = cut(std::mem::take(&mut job.shown), SHOWN_BYTES);
        let mut ended = match start(&mut job) {
            Ok(mut started) => {
                started.stderr.record(control.stream(Which::Stderr));
                Running::new(self, &job, control, started).run()
            }
            Err(kind) => Ended::before_start(kind),
        };
        control.set_pid(0);
        control.set_capture(None);
        ended.exit.iter().for_each(|exit| control.set_exit(*exit));
        let (cpu, rss) = ended.exit.map_or((Duration::ZERO, 0), |e| (e.cpu, e.max_rss_bytes));
        let stdout = ended.stdout.take();
        let result = match ended.verdict(&job.ok_exit) {
            None => finish_stdout(&job, stdout),
            Some(kind) => {
                keep_stdout(&job, stdout, control);
                Err(job.group.as_ref().and_then(Group::overrun).map_or(kind, FailureKind::Overrun))
            }
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

/// What a command printed that failed is no result: its end is kept for those who look for the reason.
fn keep_stdout(job: &CommandJob, stdout: Option<Stdout>, control: &Control) {
    let Some(mut book) = control.stream(Which::Stdout) else { return };
    let data = match stdout {
        Some(Stdout::File(writer)) => Data::of_writer(writer),
        Some(Stdout::Pipe(pipe)) => pipe.finish(&job.key),
        None => return,
    };
    let end = data.and_then(|data| {
        let left_out = data.len().saturating_sub(book.bytes_max());
        let mut end = Vec::new();
        if let Data::Heap(bytes) = &data {
            end.extend_from_slice(&bytes[usize::try_from(left_out).unwrap_or(0)..]);
        } else {
            let mut file = data.reopen()?;
            file.seek(io::SeekFrom::Start(left_out))?;
            file.take(book.bytes_max()).read_to_end(&mut end)?;
        }
        Ok((left_out, end))
    });
    match end {
        Ok((_, end)) if end.is_empty() => {}
        Ok((left_out, end)) => book.write_end(left_out, &end),
        Err(error) => tracing::debug!(task = job.key, "its stdout cannot be read: {error}"),
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
            Ok(file) => (Some(OwnedFd::from(file)), None),
            Err(error) => return Err(prepare(&format!("cannot read {}", path.display()), error)),
        },
    };
    let (stdout, out) = match job.capture {
        Capture::File => MemWriter::create(&job.key)
            .and_then(|writer| Ok((writer.as_fd().try_clone_to_owned()?, Stdout::File(writer)))),
        Capture::Pipe => PipeCapture::open().map(|(pipe, end)| (end, Stdout::Pipe(pipe))),
    }
    .map_err(|e| prepare("cannot capture stdout", e))?;
    let (stderr, end) = Tail::open().map_err(|e| prepare("cannot capture stderr", e))?;
    let (file, argv) = command(job).map_err(FailureKind::Spawn)?;
    // Our copies of the child's ends go here: otherwise its pipes would never end.
    let ends = Ends { stdin, stdout, stderr: end };
    let process = spawn(&file, &argv, job, &ends).map_err(FailureKind::Spawn)?;
    Ok(Started { process, stdin: pump, stdout: out, stderr })
}

/// The file that is started, and its arguments.
fn command(job: &CommandJob) -> Result<(PathBuf, Vec<OsString>), String> {
    let name = job.argv.first().map_or("", String::as_str);
    let file = program::find(name, job.env.get(OsStr::new("PATH")), &job.cwd)?;
    let own = |args: &[String]| args.iter().map(OsString::from).collect::<Vec<_>>();
    if job.umask.is_none() && job.group.is_none() {
        return Ok((file, own(&job.argv)));
    }
    let mask = job.umask.map(|mask| format!("umask {mask:03o}; ")).unwrap_or_default();
    // It enters the group before it becomes the task: nothing of the task runs outside.
    let (enter, zero) = match &job.group {
        Some(group) => ("echo 0 > \"$0\" || exit 126; ", group.entrance()),
        None => ("", PathBuf::from("sh")),
    };
    let line = format!("{enter}{mask}exec \"$@\"");
    let mut argv: Vec<OsString> = vec!["/bin/sh".into(), "-c".into(), line.into(), zero.into(), file.into()];
    argv.extend(own(&job.argv[1..]));
    Ok(("/bin/sh".into(), argv))
}

fn spawn(file: &Path, argv: &[OsString], job: &CommandJob, ends: &Ends) -> Result<Process, String> {
    let program = Program { file, argv, env: &job.env, cwd: &job.cwd };
    let mut tries = 0;
    loop {
        match spawn::spawn(&program, ends) {
            Ok(pid) => return Ok(Process::of(pid)),
            // Another thread's child, between its start and its exec, holds the program open for writing.
            Err(error) if error.raw_os_error() == Some(libc::ETXTBSY) && tries < 10 => {
                tries += 1;
                std::thread::sleep(Duration::from_millis(5 * tries));
            }
            Err(error) => return Err(program::explain(&error, file, &job.cwd, &job.argv)),
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

#[cfg(test)]
mod tests;

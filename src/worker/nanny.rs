//! The nanny: the small parent process of a worker process. Owns its restarts, the signals meant for it, and
//! the end of everything it leaves behind: orphaned tasks and its directory. Single-threaded, no runtime, and
//! it knows nothing of the cluster; what the scheduler should hear about a crash goes through the next
//! worker's environment.

use super::directory;
use super::last_words::Left;
use super::process;
use super::signal_pipe::SignalPipe;
use super::supervision::{Predecessor, Supervision, is_internal_variable};
use crate::base::error::{Error, Kind, Result};
use crate::base::ids::Incarnation;
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The exit code of a worker in whose place another one is to be started at once: no crash.
pub const RENEW: u8 = 75;

/// What a nanny runs and how patient it is.
#[derive(Clone, Debug)]
pub struct NannyOptions {
    /// The worker's program, e.g. `/proc/self/exe`.
    pub program: PathBuf,
    /// What the program is called in process lists, if not by its path.
    pub name: Option<OsString>,
    /// The program's arguments.
    pub args: Vec<OsString>,
    /// Variables set for the worker besides the nanny's own environment.
    pub env: Vec<(OsString, OsString)>,
    /// Where the worker keeps its files. Each life gets a directory of its own in there (see
    /// [`Supervision::directory`]); the nanny removes only that one.
    pub local_directory: Option<PathBuf>,
    /// Exit codes besides 0 after which a restart would not help: an orderly leave, a wrong configuration.
    pub final_exit_codes: Vec<u8>,
    /// Exit codes that are final too if the first life ends with one before it counts as healthy: whatever it
    /// met is not going to change.
    pub final_at_start: Vec<u8>,
    /// When to restart.
    pub restarts: RestartPolicy,
    /// A request to end that follows another so soon is the same one: batch systems signal every process of a
    /// job, and some of them twice.
    pub same_request: Duration,
}

impl NannyOptions {
    /// A program to run as worker, with the usual patience.
    pub fn new(program: impl Into<PathBuf>, args: Vec<OsString>) -> NannyOptions {
        let hopeless =
            [Kind::Usage, Kind::Config, Kind::NoScheduler, Kind::Refused, Kind::Timeout, Kind::Cancelled];
        NannyOptions {
            program: program.into(),
            name: None,
            args,
            env: Vec::new(),
            local_directory: None,
            final_exit_codes: hopeless.map(Kind::exit_code).to_vec(),
            final_at_start: [Kind::File, Kind::Launch].map(Kind::exit_code).to_vec(),
            restarts: RestartPolicy::default(),
            same_request: Duration::ZERO,
        }
    }
}

/// When a crashed worker is started again. The first time at once, then after growing pauses, until it has
/// lived long enough to count as healthy again.
#[derive(Clone, Copy, Debug)]
pub struct RestartPolicy {
    /// The pause before the second restart; it doubles with each further one.
    pub pause_first: Duration,
    /// The longest pause.
    pub pause_max: Duration,
    /// A worker that lived this long was healthy: counting begins anew.
    pub healthy_after: Duration,
    /// After this many crashes without health in between the nanny gives up.
    pub quick_crashes_max: u32,
}

impl Default for RestartPolicy {
    fn default() -> RestartPolicy {
        RestartPolicy {
            pause_first: Duration::from_secs(1),
            pause_max: Duration::from_secs(60),
            healthy_after: Duration::from_secs(60),
            quick_crashes_max: 10,
        }
    }
}

impl RestartPolicy {
    /// The pause before the next life, after `crashes` crashes in a row. `None` gives up.
    fn pause(&self, crashes: u32) -> Option<Duration> {
        match crashes {
            n if n >= self.quick_crashes_max => None,
            0 | 1 => Some(Duration::ZERO),
            n => {
                let factor = 1_u32.checked_shl(n - 2).unwrap_or(u32::MAX);
                Some(self.pause_first.saturating_mul(factor).min(self.pause_max))
            }
        }
    }
}

/// Runs a worker under supervision until it has left for good, and returns the exit code to leave with. Call
/// it on the main thread, before any other thread exists: it takes over signals and children of the whole
/// process.
///
/// SIGTERM, SIGINT and SIGHUP: the first asks the worker to leave in good order, the second kills it and its
/// tasks at once. SIGUSR1, SIGUSR2 and SIGXCPU are handed on: they ask it to leave too.
///
/// # Errors
/// `Launch` when the worker's program cannot be started or crashes again and again; `Internal` when the
/// kernel refuses what a nanny needs.
pub fn run(options: &NannyOptions) -> Result<u8> {
    process::become_subreaper()?;
    let signals = SignalPipe::install()?;
    let mut nanny = Nanny { options, signals, phase: Phase::Running, asked: None };
    nanny.supervise()
}

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The worker is to live.
    Running,
    /// It was asked to leave.
    Leaving,
    /// It was killed on request.
    Killed,
}

struct Nanny<'a> {
    options: &'a NannyOptions,
    signals: SignalPipe,
    phase: Phase,
    /// When the first request to end came.
    asked: Option<Instant>,
}

impl Nanny<'_> {
    fn supervise(&mut self) -> Result<u8> {
        let mut life = 0;
        let mut crashes = 0;
        let mut predecessor = None;
        // Kept while the next life lives, which tells of it.
        let mut left = None;
        loop {
            life += 1;
            let incarnation = Incarnation::new_v4();
            let directory = self.options.local_directory.as_ref().map(|d| life_directory(d, incarnation));
            let supervision = Supervision {
                nanny_pid: nix::unistd::getpid().as_raw(),
                incarnation,
                life,
                directory: directory.clone(),
                predecessor: predecessor.take(),
            };
            let started = Instant::now();
            let end = self.one_life(&supervision)?;
            drop(left.take());
            left = clear_away(directory.as_deref());
            let starting = life == 1 && started.elapsed() < self.options.restarts.healthy_after;
            if let Some(code) = self.last_word(end, starting) {
                return Ok(code);
            }
            if is_renewal(end) {
                tracing::info!(%incarnation, "the worker's lifetime is over: another one takes its place");
                crashes = 0;
                continue;
            }
            let end = process::describe_end(end);
            crashes = if started.elapsed() >= self.options.restarts.healthy_after { 1 } else { crashes + 1 };
            let Some(pause) = self.options.restarts.pause(crashes) else {
                return Err(self.gave_up(crashes, &end));
            };
            tracing::warn!(%incarnation, %end, restart_in = ?pause, "the worker process crashed");
            let logs = left.as_ref().map(|left: &Left| left.0.clone());
            predecessor = Some(Predecessor { incarnation, end, left: logs });
            self.pause(pause)?;
            if self.phase != Phase::Running {
                return Ok(0);
            }
        }
    }

    /// Starts a worker and waits for its end.
    fn one_life(&mut self, supervision: &Supervision) -> Result<WaitStatus> {
        let pid = self.spawn(supervision)?;
        let (life, incarnation) = (supervision.life, supervision.incarnation);
        tracing::debug!(pid, life, %incarnation, "worker process started");
        loop {
            // The pipe is read before children are collected: a signal in between is seen in the next round.
            for signal in self.signals.wait(None)? {
                self.on_signal(signal, Some(pid));
            }
            // Orphans of the worker end here as well and are of no interest.
            let ended = process::reap().ended;
            if let Some(status) = ended.into_iter().find(|s| is_end_of(*s, pid)) {
                return Ok(status);
            }
        }
    }

    fn spawn(&self, supervision: &Supervision) -> Result<i32> {
        let options = self.options;
        let mut command = std::process::Command::new(&options.program);
        // Its own process group: Ctrl-C reaches the nanny alone, which asks the worker exactly once.
        command.args(&options.args).process_group(0);
        // What this process was given by a nanny of its own must not reach the worker.
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_internal_variable(name)) {
            command.env_remove(name);
        }
        command.envs(options.env.iter().map(|(k, v)| (k, v))).envs(supervision.variables());
        if let Some(name) = &options.name {
            command.arg0(name);
        }
        let child = command.spawn().map_err(|e| {
            Error::new(Kind::Launch, format!("cannot start the worker {}: {e}", options.program.display()))
        })?;
        i32::try_from(child.id()).map_err(|e| Error::os("the worker's process number is out of range", e))
    }

    fn on_signal(&mut self, signal: Signal, worker: Option<i32>) {
        let forward = match (signal, self.phase) {
            (Signal::SIGTERM | Signal::SIGINT | Signal::SIGHUP, Phase::Running) => {
                self.phase = Phase::Leaving;
                self.asked = Some(Instant::now());
                tracing::info!(%signal, "asking the worker to leave");
                Signal::SIGTERM
            }
            (Signal::SIGTERM | Signal::SIGINT | Signal::SIGHUP, Phase::Leaving)
                if self.asked.is_some_and(|at| at.elapsed() < self.options.same_request) =>
            {
                return;
            }
            (Signal::SIGTERM | Signal::SIGINT | Signal::SIGHUP, _) => {
                self.phase = Phase::Killed;
                tracing::warn!(%signal, "second request to end: killing the worker and its tasks");
                Signal::SIGKILL
            }
            (Signal::SIGUSR1 | Signal::SIGUSR2 | Signal::SIGXCPU, _) => signal,
            _ => return,
        };
        let Some(worker) = worker else { return };
        if let Err(error) = process::send_signal(worker, forward) {
            tracing::warn!(%error, "the worker could not be told");
        }
    }

    /// The exit code to leave with, unless this end calls for a restart.
    fn last_word(&self, end: WaitStatus, starting: bool) -> Option<u8> {
        let code = match end {
            // Exit codes have eight bits.
            WaitStatus::Exited(_, code) => (code & 0xff) as u8,
            WaitStatus::Signaled(_, signal, _) => 128 | (signal as i32 & 0x7f) as u8,
            _ => Kind::Internal.exit_code(),
        };
        let exited = matches!(end, WaitStatus::Exited(..));
        let hopeless = self.options.final_exit_codes.contains(&code)
            || starting && self.options.final_at_start.contains(&code);
        match self.phase {
            Phase::Killed => Some(Kind::Cancelled.exit_code()),
            Phase::Leaving if is_renewal(end) => Some(0),
            Phase::Leaving => Some(code),
            Phase::Running if exited && (code == 0 || hopeless) => Some(code),
            Phase::Running => None,
        }
    }

    fn gave_up(&self, crashes: u32, end: &str) -> Error {
        let healthy = humantime::format_duration(self.options.restarts.healthy_after);
        let message = format!(
            "the worker crashed {crashes} times, each within {healthy} of its start, last with {end}"
        );
        Error::new(Kind::Launch, message)
            .hint("its messages above, or in its log, say what it met; it is not restarted")
    }

    /// Waits before a restart; a request to end cuts it short.
    fn pause(&mut self, pause: Duration) -> Result<()> {
        let deadline = Instant::now() + pause;
        while self.phase == Phase::Running {
            let left = deadline.saturating_duration_since(Instant::now());
            for signal in self.signals.wait(Some(left))? {
                self.on_signal(signal, None);
            }
            if left.is_zero() {
                break;
            }
        }
        Ok(())
    }
}

/// The directory of one life: a name that nobody else uses, so that removing it cannot take away anybody's
/// files.
fn life_directory(local_directory: &Path, incarnation: Incarnation) -> PathBuf {
    local_directory.join(format!("worker-{}", incarnation.simple()))
}

fn is_end_of(status: WaitStatus, pid: i32) -> bool {
    matches!(status, WaitStatus::Exited(p, _) | WaitStatus::Signaled(p, _, _) if p.as_raw() == pid)
}

/// Whether a worker has left so that another one takes its place.
fn is_renewal(end: WaitStatus) -> bool {
    matches!(end, WaitStatus::Exited(_, code) if code == i32::from(RENEW))
}

/// Ends what a dead worker left running and removes its directory, all but the logs.
fn clear_away(own: Option<&Path>) -> Option<Left> {
    let (killed, stuck) = process::end_children();
    if killed > 0 {
        tracing::info!(killed, "killed processes that the worker left behind");
    }
    if stuck > 0 {
        tracing::warn!(stuck, "processes that the worker left behind do not end even when killed");
    }
    let own = own?;
    let left = Left::take(own);
    if let Err(error) = directory::remove(own) {
        let directory = own.display();
        tracing::warn!(%directory, %error, "the worker's directory could not be removed");
    }
    left
}

#[cfg(test)]
#[path = "nanny_tests.rs"]
mod tests;

//! A command that runs: the loop in which its thread waits for it, moves its stdio, and ends it when that is
//! due.

use super::{CommandExecutor, CommandJob, Ended, Started, Stdout};
use crate::worker::executor::FailureKind;
use crate::worker::executor::control::Control;
use crate::worker::executor::process::{Exit, Process, poll, poll_fd};
use crate::worker::executor::streams::{Pump, Tail};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

/// How often the size of a direct capture is looked at when it has a limit.
const SIZE_CHECK: Duration = Duration::from_millis(50);

/// So long after its start the kernel is told to choose a process rather than the worker when memory runs
/// out. Most that are short never cost that.
const PREFER_AFTER: Duration = Duration::from_millis(10);

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
pub(super) struct Running<'a> {
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
    /// When the kernel is told to prefer it to the worker, if that is still to be done.
    prefer_at: Option<Instant>,
}

impl<'a> Running<'a> {
    pub(super) fn new(
        settings: &'a CommandExecutor,
        job: &'a CommandJob,
        control: &'a Control,
        s: Started,
    ) -> Self {
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
            prefer_at: Some(Instant::now() + PREFER_AFTER),
        }
    }

    /// Waits for the end, however it comes.
    pub(super) fn run(mut self) -> Ended {
        // It has hardly ended yet.
        self.wait();
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
            self.prefer();
            if self.escalate() {
                return self.give_up();
            }
            self.wait();
        }
    }

    /// Lets the kernel choose this process rather than the worker, once it has run for a moment.
    fn prefer(&mut self) {
        if self.exit.is_none() && self.prefer_at.is_some_and(|at| Instant::now() >= at) {
            self.prefer_at = None;
            self.process.raise_oom_score();
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
            self.stop(self.control.verdict(), self.control.reason());
            if self.control.is_forced() {
                // It goes on growing for as long as it is asked kindly.
                self.phase = Phase::Terminating(Instant::now());
            }
        } else if self.job.max_output.is_some_and(|max| self.stdout.size() > max) {
            self.stop(FailureKind::OutputTooLarge, None);
            // It would go on printing for as long as it is asked kindly.
            self.phase = Phase::Terminating(Instant::now());
        } else if self.exit.is_none() && self.deadline.is_some_and(|at| Instant::now() >= at) {
            self.stop(FailureKind::TimeLimit, None);
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
        let prefer = self.prefer_at.filter(|_| self.exit.is_none());
        let at = [phase_end, deadline, prefer].into_iter().flatten().min();
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

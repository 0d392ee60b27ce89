//! One executor process, from the worker's side: started, greeted, given tasks, asked to trim, ended. Owns
//! the process and its connection; which task goes where, and in which words it is ordered, is the pool's
//! business.

use super::Program;
use super::body::{Blame, Body};
use super::channel::{Channel, Frame};
use super::messages::{
    Away, BATCHES_VERSION, Done, End, Hello, Task, VERSIONS, Welcome, send_room, tag, take_done,
};
use crate::base::failure::Raised;
use crate::worker::executor::FailureKind;
use crate::worker::executor::control::Control;
use crate::worker::executor::process::{Exit, Parent, Process, poll, poll_fd};
use crate::worker::executor::streams::Tail;
use crate::worker::printed::Which;
use crate::worker::store::data::TaskResult;
use crate::worker::store::pinned::{Home, Pinned};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long an executor may take to say hello: its program may lie on a busy file system.
const START_TIME: Duration = Duration::from_secs(60);

/// How long it may take to give memory back.
const TRIM_TIME: Duration = Duration::from_secs(10);

/// How long one whose connection has ended may take to end itself.
const END_TIME: Duration = Duration::from_secs(1);

/// To look at its memory costs more than a short call. Meanwhile it can make few dozen MB its own.
const LOOK_TIME: Duration = Duration::from_millis(10);

/// How long after SIGKILL it is waited for.
const STUCK_TIME: Duration = Duration::from_secs(20);

/// Numbers of the tasks of one thread of a process begin so far after those of the one before.
const NUMBERS: u64 = 1 << 40;

/// A process that waits for tasks, or one thread of it.
#[derive(Debug)]
pub(in crate::worker) struct Warm {
    pub(super) channel: Arc<Channel>,
    /// What it executes, in its own words.
    kind: String,
    /// Of the protocol.
    version: u16,
    pub(super) body: Arc<Body>,
    pub(super) stderr: Tail,
    /// The number of its last task.
    pub(super) number: u64,
    /// That waits for tasks that it has launched.
    pub(super) away: bool,
    /// When its memory was looked at last.
    looked: Instant,
}

/// How a task ended.
pub(in crate::worker) enum Ran {
    /// It ended in order; the executor is ready for the next one. CPU time is the task's.
    Done(Result<TaskResult, FailureKind>, Duration),
    /// The executor had gone before it was given all of the task.
    NotBegun,
    /// The executor ended with it and with tasks of its other threads: it is to run again, if that may have
    /// been its doing where it can do no harm to others.
    Lost {
        /// Whether it may have been its doing.
        suspect: bool,
    },
    /// The executor ended with it, or had to be ended.
    Died {
        /// What the task fails with.
        kind: FailureKind,
        /// Whether it was the executor that failed, not somebody who ended the task.
        unasked: bool,
    },
}

/// Our ends of what connects a process with us that somebody else starts.
#[derive(Debug)]
pub(in crate::worker) struct Ends {
    /// Of each of its threads.
    threads: Vec<(Channel, Tail)>,
    /// What they print that is none of theirs.
    loose: Option<Tail>,
}

impl Ends {
    /// Our ends, and those of a process with so many threads: for each its socket, and where its stdout and
    /// stderr go; before these, if there are several, where those of the process go.
    pub fn make(threads: u32) -> io::Result<(Ends, Vec<OwnedFd>)> {
        let (mut ends, mut theirs) = (Ends { threads: Vec::new(), loose: None }, Vec::new());
        if threads > 1 {
            let (tail, output) = Tail::open()?;
            ends.loose = Some(tail);
            theirs.push(output);
        }
        for _ in 0..threads {
            let ((channel, socket), (stderr, output)) = (Channel::pair()?, Tail::open()?);
            ends.threads.push((channel, stderr));
            theirs.extend([socket, output]);
        }
        Ok((ends, theirs))
    }
}

impl Warm {
    /// Starts a process, in a directory if not in ours, and waits until it is ready.
    pub fn start(
        program: &Program,
        env: &BTreeMap<OsString, OsString>,
        dir: Option<&Path>,
    ) -> Result<Warm, String> {
        let say = |e: io::Error| format!("cannot start an executor ({}): {e}", program.path.display());
        let (channel, theirs) = Channel::pair().map_err(say)?;
        let (stderr, end) = Tail::open().map_err(say)?;
        let out = end.try_clone().map_err(say)?;
        let mut command = Command::new(&program.path);
        command.args(&program.args).env_clear().envs(env).process_group(0);
        command.stdin(Stdio::from(theirs)).stdout(out).stderr(end);
        dir.map(|dir| command.current_dir(dir));
        let child = command.spawn().map_err(say)?;
        // With it go our copies of its ends.
        drop(command);
        let process = Process::of(i32::try_from(child.id()).unwrap_or(i32::MAX));
        process.raise_oom_score();
        let body = Arc::new(Body::new(process, 1, None));
        let ready = Warm::ready((channel, stderr), body, 0);
        ready.map_err(|why| format!("the executor {} does not start: {why}", program.path.display()))
    }

    /// Takes over a process that `parent` has started with our other ends, and waits until its threads are
    /// ready: an executor each.
    pub fn adopt(ends: Ends, pid: i32, parent: Arc<dyn Parent>) -> Result<Vec<Warm>, String> {
        let process = Process::adopt(pid, parent);
        process.raise_oom_score();
        let Ends { threads, loose } = ends;
        let body = Arc::new(Body::new(process, u32::try_from(threads.len()).unwrap_or(1), loose));
        let ready = (0..).zip(threads).map(|(place, ends)| Warm::ready(ends, body.clone(), place));
        ready.collect::<Result<_, _>>().map_err(|why| format!("an executor does not start: {why}"))
    }

    fn ready((channel, stderr): (Channel, Tail), body: Arc<Body>, place: u64) -> Result<Warm, String> {
        let (channel, kind, version) = (Arc::new(channel), String::new(), 0);
        let (number, away) = (place * NUMBERS, false);
        let mut warm = Warm { channel, kind, version, body, stderr, number, away, looked: Instant::now() };
        if let Err(why) = warm.greet() {
            let (exit, text) = warm.bury();
            let end = exit.map_or_else(String::new, |exit| format!(" ({})", kind_of(exit)));
            let text = String::from_utf8_lossy(&text).trim().to_owned();
            let text = if text.is_empty() { text } else { format!(": {text}") };
            return Err(format!("{why}{end}{text}"));
        }
        if place == 0 {
            warm.rebase();
        }
        Ok(warm)
    }

    /// What it occupies now is what it needs to begin with.
    pub fn rebase(&mut self) {
        self.look();
        self.body.started_with.store(self.occupied(), Ordering::Relaxed);
    }

    fn look(&mut self) {
        self.looked = Instant::now();
        self.body.occupied.store(self.anonymous_bytes(), Ordering::Relaxed);
    }

    /// Its anonymous memory when it was looked at last, bytes.
    pub(super) fn occupied(&self) -> u64 {
        self.body.occupied.load(Ordering::Relaxed)
    }

    /// Its process.
    pub fn body(&self) -> &Arc<Body> {
        &self.body
    }

    /// What it executes, in its own words.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// Whether it takes several calls at once.
    pub fn takes_batches(&self) -> bool {
        self.version >= BATCHES_VERSION
    }

    /// The version of the protocol that is spoken with it.
    pub fn version(&self) -> u16 {
        self.version
    }

    /// How many tasks its process was given.
    pub fn tasks(&self) -> u64 {
        self.body.tasks.load(Ordering::Relaxed)
    }

    /// What lives in it.
    pub fn home(&self) -> &Arc<Home> {
        self.body.home()
    }

    /// Its task waits for tasks that it has launched, or goes on.
    pub(super) fn set_away(&mut self, away: bool) {
        if std::mem::replace(&mut self.away, away) != away {
            self.home().set_away(away);
        }
    }

    /// It is about to be given so many tasks.
    pub(super) fn begin(&mut self, tasks: u64) {
        self.body.tasks.fetch_add(tasks, Ordering::Relaxed);
        self.body.begin();
        self.stderr.clear();
    }

    /// It has nothing to do any more.
    pub(super) fn end(&mut self) {
        self.body.end();
        self.set_away(false);
    }

    /// What a task has left in it that cannot leave it.
    pub(super) fn pinned(&self, done: &Done) -> Option<Arc<Pinned>> {
        matches!(done.end, End::Pinned).then(|| Arc::new(Pinned::new(self.home(), done.task)))
    }

    /// Its connection, for messages between tasks.
    pub fn channel(&self) -> &Arc<Channel> {
        &self.channel
    }

    /// The last that it, or its task, has said on stdout and stderr.
    pub fn said(&mut self) -> Vec<u8> {
        self.body.take_loose(&mut self.stderr);
        self.stderr.so_far()
    }

    fn greet(&mut self) -> Result<(), String> {
        let hello = match self.next(Instant::now() + START_TIME) {
            Ok(Some(frame)) if frame.tag == tag::HELLO => {
                frame.control::<Hello>().map_err(|e| e.to_string())?
            }
            Ok(Some(frame)) => return Err(format!("it said {} instead of hello", frame.tag)),
            Ok(None) => return Err("it ended".into()),
            Err(error) => return Err(error.to_string()),
        };
        let version = hello.newest.min(VERSIONS.1);
        if version < hello.oldest.max(VERSIONS.0) {
            return Err(format!(
                "it speaks versions {} to {} of the protocol, this worker {} to {}",
                hello.oldest, hello.newest, VERSIONS.0, VERSIONS.1
            ));
        }
        self.kind = hello.kind;
        self.version = version;
        self.channel.send(tag::WELCOME, &Welcome { version }, &[], &[]).map_err(|e| e.to_string())
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.body.pid()
    }

    /// Whether it has not ended.
    pub fn is_alive(&mut self) -> bool {
        !self.body.is_over() && !matches!(self.body.try_wait(), Ok(Some(_)))
    }

    /// Anonymous memory beyond what it started with, bytes.
    pub fn grown_bytes(&mut self) -> u64 {
        if self.looked.elapsed() >= LOOK_TIME {
            self.look();
        }
        self.occupied().saturating_sub(self.body.started_with.load(Ordering::Relaxed))
    }

    fn anonymous_bytes(&self) -> u64 {
        // `status` says it in words and costs twice as much. Resident pages that belong to no file.
        let text = std::fs::read_to_string(format!("/proc/{}/statm", self.pid())).unwrap_or_default();
        let mut pages = text.split_whitespace().skip(1).filter_map(|n| n.parse::<u64>().ok());
        let (resident, shared) = (pages.next().unwrap_or(0), pages.next().unwrap_or(0));
        // SAFETY: a plain query without pointers.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        resident.saturating_sub(shared).saturating_mul(u64::try_from(page).unwrap_or(4096))
    }

    /// Runs a task: `order` sends it, inputs included, under the number that it is told. A function that does
    /// not end `grace` after it was asked to is ended with its process.
    pub fn run(
        &mut self,
        order: impl FnOnce(&Channel, u64) -> io::Result<()>,
        time_limit: Option<Duration>,
        control: &Control,
        grace: Duration,
    ) -> Ran {
        self.number += 1;
        self.begin(1);
        self.stderr.record(control.stream(Which::Output));
        control.set_base(self.occupied());
        control.set_pid(self.pid());
        let mut capture = None;
        let ran = match order(&self.channel, self.number) {
            Ok(()) => self.follow(time_limit, control, grace, &mut capture),
            Err(error) if has_gone(&error) => Ran::NotBegun,
            Err(error) => {
                let kind = FailureKind::Prepare(format!("cannot read an input: {error}"));
                Ran::Died { kind, unasked: false }
            }
        };
        if self.away && matches!(ran, Ran::Lost { .. }) {
            control.set_away(false);
        }
        self.end();
        // Before its file is closed, for others look at it.
        control.set_capture(None);
        control.set_pid(0);
        ran
    }

    /// Waits for the end of a task.
    fn follow(
        &mut self,
        time_limit: Option<Duration>,
        control: &Control,
        grace: Duration,
        capture: &mut Option<File>,
    ) -> Ran {
        // It ends itself when its time is over, if its function looks.
        let mut deadline = time_limit.map(|limit| Instant::now() + limit + grace);
        let mut stopped = None;
        loop {
            if stopped.is_none() && control.is_cancelled() {
                stopped = Some(control.verdict());
                // What has to end at once would go on growing for as long as it is asked kindly.
                let asked = !control.is_forced()
                    && self.channel.send(tag::CANCEL, &Task { task: self.number }, &[], &[]).is_ok();
                deadline = Some(Instant::now() + if asked { grace } else { Duration::ZERO });
            }
            if deadline.is_some_and(|at| Instant::now() >= at) {
                self.body.kill();
                return self.died(Some(stopped.unwrap_or(FailureKind::TimeLimit)));
            }
            if !self.wait(deadline, stopped.is_none().then_some(control)) {
                continue;
            }
            match self.channel.receive() {
                Ok(Some(frame)) if frame.tag == tag::OUTPUT => {
                    control.set_capture(None);
                    *capture = frame.descriptors.into_iter().next().map(File::from);
                    control.set_capture(capture.as_ref());
                }
                Ok(Some(frame)) if frame.tag == tag::AWAY => match frame.control::<Away>() {
                    Ok(said) if said.task == self.number => {
                        self.set_away(said.away);
                        control.set_away(said.away);
                    }
                    // Of a task that has ended: a thread of it goes on.
                    Ok(_) => {}
                    Err(error) => return self.confused(&error.to_string()),
                },
                Ok(Some(frame)) if frame.tag == tag::ROOM => match send_room(&self.channel, &frame) {
                    Ok(()) => {}
                    Err(error) if has_gone(&error) => return self.died(stopped),
                    Err(error) => return self.confused(&error.to_string()),
                },
                Ok(Some(frame)) if frame.tag == tag::DONE => match take_done(frame) {
                    Ok((done, mut result)) if done.task == self.number => {
                        result.pinned = self.pinned(&done);
                        let result = stopped.map_or_else(|| judge(done.end, result), Err);
                        return Ran::Done(result, Duration::from_nanos(done.cpu_ns));
                    }
                    Ok(_) => return self.confused("it ended a task that it was not given"),
                    Err(error) => return self.confused(&error.to_string()),
                },
                // It was asked too late, and has nothing to give back any more.
                Ok(Some(frame)) if frame.tag == tag::RETURNED => {}
                Ok(Some(frame)) => return self.confused(&format!("it said {}", frame.tag)),
                Ok(None) => return self.died(stopped),
                Err(error) => return self.confused(&error.to_string()),
            }
        }
    }

    /// Waits until a message has begun to come (true), or something else happens.
    pub(super) fn wait(&mut self, until: Option<Instant>, control: Option<&Control>) -> bool {
        let time = until.map_or(Duration::from_secs(3600), |at| at.saturating_duration_since(Instant::now()));
        let none = libc::pollfd { fd: -1, events: 0, revents: 0 };
        let mut fds = [
            poll_fd(self.channel.fd(), libc::POLLIN),
            self.stderr.fd().map_or(none, |fd| poll_fd(fd, libc::POLLIN)),
            control.map_or(none, |control| poll_fd(control.wake_fd(), libc::POLLIN)),
            libc::pollfd { fd: self.body.loose_fd(), events: libc::POLLIN, revents: 0 },
        ];
        if !poll(&mut fds, time) {
            return false;
        }
        let [message, stderr, wake, loose] = fds.map(|fd| fd.revents != 0);
        if stderr {
            self.stderr.advance();
        }
        if loose {
            self.body.take_loose(&mut self.stderr);
        }
        if let Some(control) = control.filter(|_| wake) {
            control.clear_stale_wake();
        }
        message
    }

    /// The next frame, unless it takes too long.
    pub fn next(&mut self, until: Instant) -> io::Result<Option<Frame>> {
        loop {
            while !self.wait(Some(until), None) {
                if Instant::now() >= until {
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
            match self.channel.receive() {
                // It was asked too late, and had nothing to give back.
                Ok(Some(frame)) if frame.tag == tag::RETURNED => {}
                other => return other,
            }
        }
    }

    /// The process says what makes no sense: it is not to be trusted with anything any more.
    pub(super) fn confused(&mut self, what: &str) -> Ran {
        self.body.kill();
        let kind = FailureKind::Native(format!("its executor broke the protocol: {what}"));
        Ran::Died { kind, unasked: true }
    }

    /// The process has ended, or is ending: for `stopped`, or by itself.
    pub(super) fn died(&mut self, stopped: Option<FailureKind>) -> Ran {
        // Before others hear of it.
        let blame = stopped.is_none().then(|| self.body.blame());
        let exit = self.reap();
        match blame {
            Some(Blame::Other) => return Ran::Lost { suspect: false },
            Some(Blame::AnyOf) => return Ran::Lost { suspect: true },
            Some(Blame::This) | None => {}
        }
        let unasked = stopped.is_none();
        let own = || exit.map_or(FailureKind::Signal(libc::SIGKILL), kind_of);
        Ran::Died { kind: stopped.unwrap_or_else(own), unasked }
    }

    /// Waits for the end of the process, and makes it end if it does not.
    fn reap(&mut self) -> Option<Exit> {
        let begin = Instant::now();
        let mut killed = false;
        loop {
            match self.body.try_wait() {
                Ok(exit @ Some(_)) => return exit,
                Ok(None) if begin.elapsed() < END_TIME || (killed && begin.elapsed() < STUCK_TIME) => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Ok(None) if !killed => {
                    self.body.signal_group();
                    killed = true;
                }
                // Stuck in the kernel, or somebody else's to reap.
                Ok(None) | Err(_) => return None,
            }
        }
    }

    /// Asks it to give memory back. Whether it then has no more than `bound` bytes beyond its start.
    pub fn trim(&mut self, bound: u64) -> bool {
        let asked = self.channel.send(tag::TRIM, &(), &[], &[]).is_ok();
        let answer = || self.next(Instant::now() + TRIM_TIME);
        matches!(asked.then(answer), Some(Ok(Some(frame))) if frame.tag == tag::TRIMMED)
            && self.grown_bytes() <= bound
    }

    /// Ends it, and with the last of its threads the process; returns how that ended and the last it said.
    pub fn bury(mut self) -> (Option<Exit>, Vec<u8>) {
        // It ends when this does.
        self.channel.close();
        let is_last = Arc::strong_count(&self.body) == 1;
        let exit = if is_last || self.body.is_over() { self.reap() } else { None };
        self.body.take_loose(&mut self.stderr);
        (exit, self.stderr.finish())
    }
}

/// Whether a task could not be handed over because the executor has gone, or does not listen.
pub(super) fn has_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, WouldBlock};
    matches!(error.kind(), BrokenPipe | ConnectionReset | WouldBlock)
}

/// What a task fails with whose executor ended like this.
pub(super) fn kind_of(exit: Exit) -> FailureKind {
    match exit.end {
        Ok(code) => FailureKind::Exit(code),
        Err(signal) => FailureKind::Signal(signal),
    }
}

pub(super) fn judge(end: End, result: TaskResult) -> Result<TaskResult, FailureKind> {
    match end {
        End::Succeeded | End::Pinned => Ok(result),
        End::Failed(text) => Err(FailureKind::Native(text)),
        End::Cancelled => Err(FailureKind::Cancelled),
        End::TimeLimit => Err(FailureKind::TimeLimit),
        End::Unkept(text) => Err(FailureKind::Result(text)),
        End::Raised(summary, traceback, payload) => {
            let payload = payload.into_vec();
            Err(FailureKind::Raised(Box::new(Raised { summary, traceback, payload })))
        }
    }
}

//! Executor processes: native functions run in processes of their own, kept warm from one task to the next,
//! so that one that crashes or leaks costs its task and not the worker. Owns the pool of these processes:
//! who gets which task, who has grown too large and is replaced. `channel` and `messages` are the protocol,
//! `warm` one process, `serve` what runs inside of it.

pub(in crate::worker) mod batch;
pub(in crate::worker) mod body;
pub(in crate::worker) mod channel;
pub(in crate::worker) mod messages;
mod serve;
pub(in crate::worker) mod warm;

pub use serve::serve;

use super::control::{Control, lock};
use super::native::NativeJob;
pub(in crate::worker) use super::process::Parent;
use super::{Clock, Executor, Failure, FailureKind, Outcome};
use channel::Channel;
use messages::{Run, To, send_inputs, tag};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use warm::{Ran, Warm};

/// Bounds of what an idle executor may keep, bytes, where none is configured.
const IDLE_BYTES: (u64, u64) = (8 << 20, 256 << 20);

/// The same as a part of the memory limit: one of this many.
const IDLE_PART: u64 = 20;

/// All of them together, where there are many: one of this many.
const IDLE_PART_OF_ALL: u64 = 5;

/// How many executors a task is offered that end before they have it.
pub(in crate::worker) const STARTS_MAX: u32 = 3;

/// Variables of executors only: their allocator keeps little, in few places. The user's own values stand.
pub(in crate::worker) const ALLOCATOR: [(&str, &str); 2] =
    [("MALLOC_ARENA_MAX", "2"), ("MALLOC_TRIM_THRESHOLD_", "65536")];

/// What is run as an executor: a program that calls [`serve()`] first thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The program.
    pub path: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
}

impl Program {
    /// This same program, as `hpcdag executor`: for `hpcdag` itself.
    pub fn this() -> Program {
        Program { path: "/proc/self/exe".into(), args: vec!["executor".into()] }
    }
}

/// What became of executors, over a worker's life.
#[derive(Debug, Default)]
pub struct Counts {
    started: AtomicU64,
    trimmed: AtomicU64,
    replaced: AtomicU64,
    died: AtomicU64,
}

impl Counts {
    pub(in crate::worker) fn note_started(&self) {
        self.started.fetch_add(1, Ordering::Relaxed);
    }

    pub(in crate::worker) fn note_trimmed(&self) {
        self.trimmed.fetch_add(1, Ordering::Relaxed);
    }

    /// One more was replaced; how many it are now.
    pub(in crate::worker) fn note_replaced(&self) -> u64 {
        self.replaced.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(in crate::worker) fn note_died(&self) {
        self.died.fetch_add(1, Ordering::Relaxed);
    }

    /// How many were started.
    pub fn started(&self) -> u64 {
        self.started.load(Ordering::Relaxed)
    }

    /// How many times one that had grown gave enough memory back.
    pub fn trimmed(&self) -> u64 {
        self.trimmed.load(Ordering::Relaxed)
    }

    /// How many were replaced because they had grown.
    pub fn replaced(&self) -> u64 {
        self.replaced.load(Ordering::Relaxed)
    }

    /// How many died of a task, by themselves.
    pub fn died(&self) -> u64 {
        self.died.load(Ordering::Relaxed)
    }
}

/// Runs native functions in processes of their own.
#[derive(Debug)]
pub struct IsolatedNatives {
    program: Program,
    env: BTreeMap<OsString, OsString>,
    grace: Duration,
    idle_bytes: u64,
    idle: Mutex<Vec<Warm>>,
    counts: Arc<Counts>,
}

impl IsolatedNatives {
    /// With the environment that executors start with, the time a function has to stop when it is asked to,
    /// and what an idle executor may keep beyond its start, bytes. Processes are started as tasks need them.
    pub fn new(
        program: Program,
        mut env: BTreeMap<OsString, OsString>,
        grace: Duration,
        idle_bytes: u64,
        counts: Arc<Counts>,
    ) -> IsolatedNatives {
        for (name, value) in ALLOCATOR {
            env.entry(name.into()).or_insert_with(|| value.into());
        }
        IsolatedNatives { program, env, grace, idle_bytes, idle: Mutex::default(), counts }
    }

    /// One that waits, else a new one.
    fn take(&self) -> Result<Warm, String> {
        loop {
            let Some(mut warm) = lock(&self.idle).pop() else { break };
            if warm.is_alive() {
                return Ok(warm);
            }
            let (exit, _) = warm.bury();
            tracing::warn!("an idle executor has ended: {exit:?}");
        }
        let warm = Warm::start(&self.program, &self.env, None)?;
        self.counts.note_started();
        Ok(warm)
    }

    /// Keeps one for the next task, unless it keeps too much memory itself.
    fn give_back(&self, mut warm: Warm) {
        let grown = warm.grown_bytes();
        if grown > self.idle_bytes {
            if !warm.trim(self.idle_bytes) {
                let n = self.counts.note_replaced();
                if n.is_power_of_two() {
                    tracing::info!(replaced = n, "executors are replaced that keep too much: {grown} bytes");
                }
                warm.bury();
                return;
            }
            self.counts.note_trimmed();
        }
        lock(&self.idle).push(warm);
    }
}

/// Hands a task over.
fn order(channel: &Channel, task: u64, job: &NativeJob) -> io::Result<()> {
    send_inputs(channel, &job.inputs, To::Others)?;
    let run = Run {
        task,
        key: job.key.clone(),
        index: job.index,
        item: job.item.clone(),
        attempt: (job.attempt.epoch, job.attempt.n),
        function: job.function.clone(),
        args: job.args.clone(),
        max_output: job.max_output,
        time_limit_ms: job.time_limit.map(|t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX)),
    };
    channel.send(tag::RUN, &run, &[], &[])
}

/// What an idle executor may keep beyond its start, bytes, for a memory limit and so many slots.
pub fn idle_bytes(limit: Option<u64>, slots: u32) -> u64 {
    let (least, most) = IDLE_BYTES;
    let share = |limit: u64| (limit / IDLE_PART).min(limit / IDLE_PART_OF_ALL / u64::from(slots.max(1)));
    limit.map_or(most, |limit| share(limit).clamp(least, most))
}

impl Executor<NativeJob> for IsolatedNatives {
    fn run(&self, job: NativeJob, control: &Control) -> Outcome {
        let clock = Clock::start();
        let fail = |kind| Failure { command: job.function.clone(), ..Failure::new(kind) };
        let mut left = STARTS_MAX;
        let (warm, ran) = loop {
            let mut warm = match self.take() {
                Ok(warm) => warm,
                Err(why) => return clock.outcome(Err(fail(FailureKind::Spawn(why))), Duration::ZERO, 0),
            };
            left -= 1;
            let order = |channel: &Channel, task| order(channel, task, &job);
            match warm.run(order, job.time_limit, control, self.grace) {
                Ran::NotBegun | Ran::Lost { .. } if left > 0 => drop(warm.bury()),
                ran => break (warm, ran),
            }
        };
        match ran {
            Ran::Done(result, cpu) => {
                self.give_back(warm);
                let result = result.map_err(|kind| {
                    let reason = control.reason().filter(|_| kind == FailureKind::Cancelled);
                    Failure { reason, ..fail(kind) }
                });
                clock.outcome(result, cpu, 0)
            }
            Ran::NotBegun | Ran::Lost { .. } => {
                warm.bury();
                let text = format!("{STARTS_MAX} executors ended one after the other before it could begin");
                clock.outcome(Err(fail(FailureKind::Spawn(text))), Duration::ZERO, 0)
            }
            Ran::Died { kind, unasked } => {
                let mut failure = fail(kind);
                let (exit, stderr) = warm.bury();
                failure.reason = control.reason();
                if unasked {
                    self.counts.note_died();
                    failure.stderr_tail = stderr;
                    let text = "its executor process ended; the worker and other tasks are not touched";
                    failure.reason.get_or_insert_with(|| text.into());
                    tracing::warn!(task = job.key, "an executor died: {failure}");
                }
                let (cpu, rss) = exit.map_or((Duration::ZERO, 0), |e| (e.cpu, e.max_rss_bytes));
                clock.outcome(Err(failure), cpu, rss)
            }
        }
    }
}

impl Drop for IsolatedNatives {
    fn drop(&mut self) {
        for warm in lock(&self.idle).drain(..) {
            warm.bury();
        }
    }
}

#[cfg(test)]
mod tests;

//! Executors of Python calls, kept warm from one call to the next, and the zygotes they come from: one for
//! each environment. Owns who gets which call, what each executor has been sent, and who has grown too large
//! and is replaced.

mod foresight;
mod homes;
mod threads;
mod together;

use super::calls::{Call, CallJob, Calls, Live};
use super::environment::Environment;
use super::loaded::Loaded;
use super::messages::{Call as CallMessage, Drop as DropMessage, LetGo, tag};
use super::zygote::Zygote;
use crate::worker::executor::control::Control;
use crate::worker::executor::processes::body::Body;
use crate::worker::executor::processes::channel::Channel;
use crate::worker::executor::processes::messages::{To, send_inputs};
use crate::worker::executor::processes::warm::{Ran, Warm};
use crate::worker::executor::processes::{ALLOCATOR, Counts, STARTS_MAX};
use crate::worker::executor::{Clock, Executor, Failure, FailureKind, Outcome};
use bytes::Bytes;
use foresight::Foreseen;
use homes::{Homes, home_of};
use serde_bytes::ByteBuf;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
pub(in crate::worker) use threads::divide;

/// For how long it is believed that a zygote which did not start would not start now.
const FAILED_TIME: Duration = Duration::from_secs(5);

/// A call whose executor process has ended so often for what others did in it has one of its own.
const LOST_MAX: u32 = 2;

/// Zygotes that nobody uses are kept, up to so many of all.
const NESTS_MAX: usize = 4;

/// By which libraries learn how many threads they may use. The user's own values stand.
const THREADS: [&str; 6] = [
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "RAYON_NUM_THREADS",
];

/// What the executors of a worker are made with.
#[derive(Debug)]
pub(in crate::worker) struct Facts {
    /// The interpreter, if it is not the client's.
    pub executable: Option<String>,
    /// What zygotes import besides.
    pub preload: Vec<String>,
    /// Whether executors are forked from one process that has imported what they need.
    pub zygote: bool,
    /// The variables that executors start with.
    pub env: BTreeMap<OsString, OsString>,
    /// The worker's own directory.
    pub dir: PathBuf,
    /// How long a call has to stop when it is asked to.
    pub grace: Duration,
    /// What an idle executor may keep beyond what it had after its first call, bytes.
    pub idle_bytes: u64,
    /// Idle executors of all environments at most.
    pub idle_max: usize,
    /// Threads of an executor process, each of which is an executor, and how many such processes there are
    /// before threads of the same one run calls at once.
    pub threads: u32,
    /// See there.
    pub processes: usize,
    /// Whether the memory that calls declare is a hard limit.
    pub enforce: bool,
    /// What became of executors.
    pub counts: Arc<Counts>,
}

/// Runs calls.
#[derive(Debug)]
pub(in crate::worker) struct Python {
    facts: Facts,
    /// The one that was used last is the last one.
    nests: Mutex<Vec<Arc<Nest>>>,
    live: Arc<Live>,
    homes: Homes,
}

/// The executors of one environment.
#[derive(Debug)]
struct Nest {
    environment: Arc<Bytes>,
    zygote: Mutex<Source>,
    foreseen: Foreseen,
    idle: Mutex<Vec<Warmed>>,
    /// Its processes of several threads. Whoever has this may start one.
    bodies: Mutex<Vec<Weak<Body>>>,
}

/// Where executors come from.
#[derive(Debug)]
enum Source {
    None,
    Up(Arc<Zygote>),
    Failed(String, Instant),
}

/// An executor, and what it has been sent.
#[derive(Debug)]
struct Warmed {
    warm: Warm,
    loaded: Loaded,
    /// It was forked before its zygote had all that calls here are known to need.
    cold: bool,
    /// The zygote that is this one's alone.
    _own: Option<Arc<Zygote>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Python {
    /// Processes are started as calls need them.
    pub(in crate::worker) fn new(mut facts: Facts) -> Python {
        for (name, value) in ALLOCATOR.into_iter().chain(THREADS.map(|name| (name, "1"))) {
            facts.env.entry(name.into()).or_insert_with(|| value.into());
        }
        let mut set = |name: &str, value: OsString| drop(facts.env.insert(name.into(), value));
        set("HPCDAG_EXECUTOR", "1".into());
        set("HPCDAG_WORKER_DIR", facts.dir.clone().into());
        // By this, what calls leave running is found at the end of the worker.
        set("HPCDAG_TASK_DIR", facts.dir.join("python").into());
        set("HPCDAG_PYTHON_PRELOAD", facts.preload.join(",").into());
        if !facts.zygote {
            set("HPCDAG_PYTHON_BARE", "1".into());
        }
        Python { facts, nests: Mutex::default(), live: Arc::default(), homes: Homes::default() }
    }

    /// An empty book of calls, whose end executors hear of.
    pub(in crate::worker) fn calls(&self) -> Calls {
        Calls::new(self.live.clone())
    }

    /// Has idle executors forget what no run needs. Returns at once.
    pub(in crate::worker) fn tidy(self: &Arc<Python>) {
        let nests = lock(&self.nests).clone();
        if nests.iter().all(|nest| lock(&nest.idle).is_empty()) {
            return;
        }
        let live = self.live.clone();
        let tell = move || {
            for nest in nests {
                lock(&nest.idle).iter_mut().for_each(|warmed| warmed.forget(&live));
            }
        };
        if let Err(error) = std::thread::Builder::new().name("tidy".into()).spawn(tell) {
            // They hear of it when they are used next.
            tracing::warn!("cannot start a thread: {error}");
        }
    }

    /// The executors of an environment.
    fn nest(&self, environment: &Arc<Bytes>) -> Arc<Nest> {
        let mut nests = lock(&self.nests);
        let nest = match nests.iter().position(|nest| Arc::ptr_eq(&nest.environment, environment)) {
            Some(at) => nests.remove(at),
            None => Arc::new(Nest {
                environment: environment.clone(),
                zygote: Mutex::new(Source::None),
                foreseen: Foreseen::of(environment),
                idle: Mutex::default(),
                bodies: Mutex::default(),
            }),
        };
        nests.push(nest.clone());
        let unused = |nest: &Arc<Nest>| Arc::strong_count(nest) == 1 && !nest.is_home();
        let excess = if nests.len() > NESTS_MAX { nests.iter().position(unused) } else { None };
        let left = excess.map(|at| nests.remove(at));
        drop(nests);
        drop(left);
        nest
    }

    /// One that waits, else a new one.
    fn take(&self, nest: &Nest, job: &CallJob) -> Result<Warmed, FailureKind> {
        if self.facts.threads > 1 {
            return self.take_thread(nest, job);
        }
        loop {
            let Some(warmed) = nest.take_idle() else { break };
            let Some(warmed) = self.look_after(warmed) else { continue };
            if !self.lacks(nest, &warmed, job) {
                return Ok(warmed);
            }
            // To import that once more takes longer than to fork another one.
            warmed.warm.bury();
        }
        self.start_alone(nest, job)
    }

    /// One that was idle, if it still lives, as it is to be used.
    fn look_after(&self, mut warmed: Warmed) -> Option<Warmed> {
        let was_over = warmed.warm.body().is_over();
        if warmed.warm.is_alive() {
            warmed.forget(&self.live);
            return Some(warmed);
        }
        let (exit, _) = warmed.warm.bury();
        if !was_over {
            tracing::warn!("an idle executor has ended: {exit:?}");
        }
        None
    }

    /// A new one in a process of its own.
    fn start_alone(&self, nest: &Nest, job: &CallJob) -> Result<Warmed, FailureKind> {
        let none = || FailureKind::Spawn("an executor was not started".into());
        self.fork(nest, job, 1)?.pop().ok_or_else(none)
    }

    /// New ones, in a process of so many threads, the first for this call.
    fn fork(&self, nest: &Nest, job: &CallJob, threads: u32) -> Result<Vec<Warmed>, FailureKind> {
        let new = |(warms, cold): (Vec<Warm>, bool), own: Option<Arc<Zygote>>| {
            self.facts.counts.note_started();
            warms.iter().for_each(|warm| warm.home().watch(&self.homes.lost));
            let new = |warm| Warmed { warm, loaded: Loaded::new(&self.live), cold, _own: own.clone() };
            Ok(warms.into_iter().map(new).collect())
        };
        if !self.facts.zygote {
            let own = self.start(&nest.environment).map_err(FailureKind::Prepare)?;
            return new(own.fork(threads, false).map_err(FailureKind::Spawn)?, Some(Arc::new(own)));
        }
        let zygote = self.zygote(nest)?;
        let at_once = nest.is_light(job);
        let warms = match zygote.fork(threads, at_once) {
            // It has died since it was last used: another one may live.
            Err(why) if zygote.is_gone() => {
                tracing::warn!("{why}");
                self.zygote(nest)?.fork(threads, at_once)
            }
            forked => forked,
        };
        new(warms.map_err(FailureKind::Spawn)?, None)
    }

    /// The zygote of an environment. Whoever comes first starts it, the others wait.
    fn zygote(&self, nest: &Nest) -> Result<Arc<Zygote>, FailureKind> {
        let mut source = lock(&nest.zygote);
        match &*source {
            Source::Up(zygote) if !zygote.is_gone() => return Ok(zygote.clone()),
            Source::Failed(why, at) if at.elapsed() < FAILED_TIME => {
                return Err(FailureKind::Prepare(why.clone()));
            }
            _ => {}
        }
        match self.start(&nest.environment) {
            Ok(zygote) => {
                let zygote = Arc::new(zygote);
                nest.foreseen.tell(&zygote);
                *source = Source::Up(zygote.clone());
                Ok(zygote)
            }
            Err(why) => {
                tracing::warn!("calls cannot run: {why}");
                *source = Source::Failed(why.clone(), Instant::now());
                Err(FailureKind::Prepare(why))
            }
        }
    }

    fn start(&self, bytes: &Bytes) -> Result<Zygote, String> {
        let facts = &self.facts;
        let environment = Environment::read(bytes)?;
        let python = environment.interpreter(facts.executable.as_deref(), &facts.env)?;
        tracing::info!(python = %python.display(), "starting Python");
        Zygote::start((bytes, &environment), &python, &facts.env, &facts.dir)
    }

    /// Keeps one for the next call, unless it keeps too much memory itself.
    fn give_back(&self, nest: &Nest, mut warmed: Warmed) {
        let body = warmed.warm.body();
        let bound = self.facts.idle_bytes.saturating_mul(body.threads().into());
        if body.busy() > 0 {
            // What it has beyond that may be of use to others.
            return self.shelve(nest, warmed);
        }
        let mut grown = warmed.warm.grown_lately();
        let counts = &self.facts.counts;
        if warmed.warm.tasks() == 1 && grown <= bound {
            // The first call imports what others will use too.
            warmed.warm.rebase();
            grown = 0;
        }
        if grown > bound {
            if !warmed.warm.trim(bound)
                && !warmed.warm.home().is_used()
                && let Some(others) = nest.take_others(&warmed)
            {
                let n = counts.note_replaced();
                if n.is_power_of_two() {
                    tracing::info!(replaced = n, "executors are replaced that keep too much: {grown} bytes");
                }
                bury_all(others.into_iter().chain([warmed]));
                return;
            }
            counts.note_trimmed();
        }
        self.shelve(nest, warmed);
    }

    /// Lays one by, and ends one of another environment if there are too many.
    fn shelve(&self, nest: &Nest, mut warmed: Warmed) {
        warmed.forget(&self.live);
        lock(&nest.idle).push(warmed);
        self.homes.note_idle();
        let excess = {
            let nests = lock(&self.nests);
            let idle: usize = nests.iter().map(|nest| lock(&nest.idle).len()).sum();
            let oldest = || nests.iter().find_map(|nest| nest.take_process());
            if idle > self.facts.idle_max { oldest() } else { None }
        };
        bury_all(excess.into_iter().flatten());
    }

    /// Runs a call on an executor; gives that back to the next one if it can be used again.
    fn call(&self, job: &CallJob, key: &str, control: &Control) -> (Result<Ran, FailureKind>, Vec<u8>) {
        let home = match home_of(job) {
            Ok(home) => home,
            Err(kind) => return (Err(kind), Vec::new()),
        };
        let limit = job.call.options().time_limit_ms.map(Duration::from_millis);
        let (mut left, mut lost) = (STARTS_MAX, 0);
        // What a limit is put on must be that of one call.
        let has_threads = self.facts.threads > 1;
        let mut alone = has_threads && (job.alone || control.bound_bytes().is_some());
        loop {
            let taken = match &home {
                Some(home) => self.take_home(home, control),
                None => {
                    let nest = self.nest(&job.call.run.environment);
                    let taken = if alone { self.start_alone(&nest, job) } else { self.take(&nest, job) };
                    taken.map(|warmed| (nest, warmed))
                }
            };
            let (nest, mut warmed) = match taken {
                Ok(taken) => taken,
                Err(kind) => return (Err(kind), Vec::new()),
            };
            if control.is_cancelled() {
                self.shelve(&nest, warmed);
                return (Err(control.verdict()), Vec::new());
            }
            left -= 1;
            let Warmed { warm, loaded, .. } = &mut warmed;
            let order = |channel: &Channel, task| channel.gather(|| order(channel, task, job, key, loaded));
            match warm.run(order, limit, control, self.facts.grace) {
                Ran::NotBegun if left > 0 => drop(warmed.warm.bury()),
                Ran::NotBegun => {
                    let (_, said) = warmed.warm.bury();
                    let text = format!("{STARTS_MAX} executors ended before the call could begin");
                    return (Err(FailureKind::Spawn(text)), said);
                }
                Ran::Lost { suspect } => {
                    tracing::info!(task = key, "runs again: its executor process ended with others in it");
                    warmed.warm.bury();
                    lost += 1;
                    left += 1;
                    alone |= suspect || lost >= LOST_MAX;
                }
                Ran::Done(result, cpu) => {
                    let said = warmed.warm.said();
                    let text = String::from_utf8_lossy(&said);
                    text.lines().for_each(|line| tracing::debug!(task = key, "printed: {line}"));
                    if alone && !warmed.warm.home().is_used() {
                        // Others have threads that wait for calls.
                        warmed.warm.bury();
                    } else {
                        self.give_back(&nest, warmed);
                    }
                    return (Ok(Ran::Done(result, cpu)), said);
                }
                died @ Ran::Died { .. } => {
                    let (_, said) = warmed.warm.bury();
                    return (Ok(died), said);
                }
            }
        }
    }
}

impl Executor<CallJob> for Python {
    fn run(&self, job: CallJob, control: &Control) -> Outcome {
        let clock = Clock::start();
        if let Some(declared) = job.call.options().memory.filter(|_| self.facts.enforce) {
            control.set_bound(declared);
        }
        let key = job.call.key();
        let (ran, said) = self.call(&job, &key, control);
        self.outcome(&clock, key, ran, said, control)
    }
}

impl Python {
    /// How a call ended; `said` is the last that it printed.
    fn outcome(
        &self,
        clock: &Clock,
        key: String,
        ran: Result<Ran, FailureKind>,
        said: Vec<u8>,
        control: &Control,
    ) -> Outcome {
        let fail = |kind| Failure { command: key.clone(), stderr_tail: said, ..Failure::new(kind) };
        let (kind, cpu) = match ran {
            Ok(Ran::Done(Ok(result), cpu)) => return clock.outcome(Ok(result), cpu, 0),
            Ok(Ran::Died { kind, unasked }) => {
                let mut failure = fail(kind);
                failure.reason = control.reason();
                if unasked {
                    self.facts.counts.note_died();
                    let text = "its executor process ended; the worker and other tasks are not touched";
                    failure.reason.get_or_insert_with(|| text.into());
                    tracing::warn!(task = key, "an executor died: {failure}");
                }
                return clock.outcome(Err(failure), Duration::ZERO, 0);
            }
            Ok(Ran::Done(Err(kind), cpu)) => (kind, cpu),
            Ok(Ran::NotBegun | Ran::Lost { .. }) => {
                (FailureKind::Spawn("the call could not begin".into()), Duration::ZERO)
            }
            Err(kind) => (kind, Duration::ZERO),
        };
        let reason = control.reason().filter(|_| kind == FailureKind::Cancelled);
        clock.outcome(Err(Failure { reason, ..fail(kind) }), cpu, 0)
    }
}

impl std::ops::Drop for Nest {
    fn drop(&mut self) {
        let idle = std::mem::take(&mut *lock(&self.idle));
        bury_all(idle.into_iter());
    }
}

/// Ends executors.
fn bury_all(warmed: impl Iterator<Item = Warmed>) {
    let all: Vec<Warmed> = warmed.collect();
    // All of them, then one after the other: each takes a moment.
    all.iter().for_each(|warmed| warmed.warm.channel().close());
    for warmed in all {
        warmed.warm.bury();
    }
}

impl Warmed {
    /// Has it forget what it need not keep.
    fn forget(&mut self, live: &Live) {
        let tasks = self.warm.home().take_dropped();
        if !tasks.is_empty() {
            let _ = self.warm.channel().send(tag::LET_GO, &LetGo { tasks }, &[], &[]);
        }
        let stale = self.loaded.forget(live);
        if stale.is_empty() {
            return;
        }
        let ids = stale.into_iter().map(ByteBuf::from).collect();
        // If it has gone, whoever wants to use it next finds out.
        let _ = self.warm.channel().send(tag::DROP, &DropMessage { ids }, &[], &[]);
    }
}

/// Hands a call over, and before it what the executor has not got.
fn order(channel: &Channel, task: u64, job: &CallJob, key: &str, loaded: &mut Loaded) -> io::Result<()> {
    let Call { run, batch, place } = &job.call;
    loaded.send(channel, &job.call)?;
    send_inputs(channel, &job.inputs, To::Python)?;
    let options = job.call.options();
    let call = CallMessage {
        task,
        key,
        run: run.uuid,
        batch: ByteBuf::from(batch.id.clone()),
        index: *place,
        attempt: (job.attempt.epoch, job.attempt.n),
        slots: options.slots,
        max_output: None,
        time_limit_ms: options.time_limit_ms,
    };
    channel.send(tag::CALL, &call, &[], &[])
}

//! The scheduler's core: the whole truth about the graphs, as a state machine without clock, sockets or
//! threads. `Core::handle(event, now)` is the only thing that changes it and says what is to be done;
//! `next_deadline` says when it wants to be called again though nothing happens.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod action;
mod admit;
mod alone;
pub mod among;
pub mod calls;
mod clients;
mod cx;
pub mod demand;
mod division;
mod domains;
mod early;
mod edges;
mod empty;
pub mod event;
pub mod explain;
mod families;
mod feed;
mod former;
mod gangs;
mod gather;
pub mod groups;
mod imports;
mod invariants;
pub mod look;
mod meet;
mod pinned;
mod place;
mod ready;
mod reports;
mod retire;
mod run;
mod singles;
pub mod sizes;
pub mod state;
mod steal;
pub mod story;
mod transitions;
mod workers;

#[cfg(test)]
mod tests;

pub use workers::{Status, WorkerView};

use crate::base::ids::{ClientId, RunId, RunUuid, WorkerId};
use crate::base::time::Time;
use action::Action;
use cx::Cx;
use event::Event;
use run::Run;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What the core is told about policy.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Silence after which a worker counts as lost.
    pub worker_loss_timeout: Duration,
    /// How long a client may be away before its runs are cancelled.
    pub session_lease: Duration,
    /// Workers that may be lost under a task before it fails.
    pub allowed_failures: u32,
    /// How far beyond its slots a worker is given work, as a factor, at least 1.
    pub saturation: f64,
    /// Whether unstarted work moves to idle workers.
    pub stealing: bool,
    /// Pause before the first retry; it doubles with each.
    pub retry_backoff: Duration,
    /// The longest such pause.
    pub retry_backoff_max: Duration,
    /// Records kept for `story`.
    pub story_limit: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            worker_loss_timeout: Duration::from_secs(60),
            session_lease: Duration::from_secs(60),
            allowed_failures: 3,
            saturation: 1.1,
            stealing: true,
            retry_backoff: Duration::from_secs(1),
            retry_backoff_max: Duration::from_secs(60),
            story_limit: 100_000,
        }
    }
}

/// The scheduler's state.
pub struct Core {
    runs: Vec<Option<Box<Run>>>,
    by_uuid: BTreeMap<RunUuid, RunId>,
    generation: u32,
    /// Clients that are away, and until when their runs are kept.
    leases: BTreeMap<ClientId, Time>,
    steal_at: Option<Time>,
    /// When a worker without work is looked after.
    feed_at: Option<Time>,
    /// When a worker has had nothing to do for so long that it takes what waits for another.
    share_at: Option<Time>,
    /// Workers that leave in order.
    leaving: BTreeSet<WorkerId>,
    /// When silent workers and absent clients are looked for next.
    check_at: Time,
    cx: Cx,
}

impl Core {
    /// A scheduler that knows nothing yet, started for the `epoch`-th time.
    pub fn new(epoch: u32, settings: Settings) -> Core {
        Core {
            runs: Vec::new(),
            by_uuid: BTreeMap::new(),
            generation: 0,
            leases: BTreeMap::new(),
            steal_at: None,
            feed_at: None,
            share_at: None,
            leaving: BTreeSet::new(),
            check_at: Time::ZERO,
            cx: Cx::new(epoch, settings),
        }
    }

    /// Takes note of an event and returns what is to be done about it. `now` never goes back.
    #[must_use]
    pub fn handle(&mut self, event: Event, now: Time) -> Vec<Action> {
        self.handle_all([event], now)
    }

    /// The same for several events at once: work is handed out after the last.
    #[must_use]
    pub fn handle_all(&mut self, events: impl IntoIterator<Item = Event>, now: Time) -> Vec<Action> {
        debug_assert!(now >= self.cx.now, "time went back");
        self.cx.now = now;
        for event in events {
            self.on_event(event);
        }
        self.cx.cause = "schedule";
        self.follow_imports();
        self.limit_failures();
        self.schedule();
        self.check_retiring();
        self.end_runs();
        self.cx.flush()
    }

    fn on_event(&mut self, event: Event) {
        self.cx.cause = event.name();
        match event {
            Event::ClientArrived { client } => self.on_client_arrived(client),
            Event::ClientLeft { client } => self.on_client_left(client),
            Event::RunSubmitted { client, run, spec } => self.on_run_submitted(client, run, spec),
            Event::RunWatched { client, run } => self.on_run_watched(client, run),
            Event::RunCancelled { run, reason } => self.on_run_cancelled(run, reason),
            Event::RunForgotten { run } => self.on_run_forgotten(run),
            Event::OutputsTaken { tasks } => self.on_outputs_taken(&tasks),
            Event::CallsWanted { client, tasks } => self.on_calls_wanted(client, &tasks),
            Event::CallsReleased { client, tasks, later } => self.on_calls_released(client, &tasks, later),
            Event::CallsCancelled { run, tasks } => self.on_calls_cancelled(run, &tasks),
            Event::CallsRetried { run, tasks } => self.on_calls_retried(run, &tasks),
            Event::ClientEnded { client } => self.on_client_ended(client),
            Event::OutputMissing { task, holder } => self.on_output_missing(task, holder),
            Event::WorkerRegistered { worker, spec } => self.on_worker_registered(worker, spec),
            Event::WorkerDisconnected { worker, reason, expected } => {
                self.on_worker_gone(worker, &reason, expected);
            }
            Event::WorkerRetiring { worker, reason } => self.on_worker_retiring(worker, reason),
            Event::WorkerReport { worker, report } => self.on_report(worker, report),
            Event::Heartbeat { worker, memory } => self.on_heartbeat(worker, memory),
            Event::Tick => {}
        }
        self.follow_imports();
        self.on_time();
    }

    /// When the core wants to be called with `Tick` at the latest.
    pub fn next_deadline(&self) -> Option<Time> {
        let retry = self.cx.delayed.first().map(|&(at, _)| at);
        [Some(self.check_at), retry, self.steal_at, self.feed_at, self.share_at].into_iter().flatten().min()
    }

    /// The run of a submission, if it is known.
    pub fn find_run(&self, uuid: RunUuid) -> Option<RunId> {
        self.by_uuid.get(&uuid).copied()
    }

    fn run(&self, run: RunId) -> Option<&Run> {
        self.runs.get(run.index())?.as_deref()
    }
}

impl Event {
    /// The word for it in stories.
    pub fn name(&self) -> &'static str {
        match self {
            Event::ClientArrived { .. } => "client-arrived",
            Event::ClientLeft { .. } => "client-left",
            Event::RunSubmitted { .. } => "run-submitted",
            Event::RunWatched { .. } => "run-watched",
            Event::RunCancelled { .. } => "run-cancelled",
            Event::RunForgotten { .. } => "run-forgotten",
            Event::OutputsTaken { .. } => "outputs-taken",
            Event::CallsWanted { .. } => "calls-wanted",
            Event::CallsReleased { .. } => "calls-released",
            Event::CallsCancelled { .. } => "calls-cancelled",
            Event::CallsRetried { .. } => "calls-retried",
            Event::ClientEnded { .. } => "client-ended",
            Event::OutputMissing { .. } => "output-missing",
            Event::WorkerRegistered { .. } => "worker-registered",
            Event::WorkerDisconnected { .. } => "worker-disconnected",
            Event::WorkerRetiring { .. } => "worker-retiring",
            Event::WorkerReport { .. } => "worker-report",
            Event::Heartbeat { .. } => "heartbeat",
            Event::Tick => "tick",
        }
    }
}

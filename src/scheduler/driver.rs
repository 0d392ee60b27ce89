//! The task that owns the core: takes what sessions say, lets the core decide, has its decisions carried
//! out. Owns the clock and the order of things; never waits for a peer.

use super::core::event::{BYTES_MAX, Event, MemoryUse, WorkerSpec};
use super::core::{Core, Settings};
use super::input::{ClientOrder, Input, WorkerOrder};
use super::peers::{ClientPeer, GoneWorkers, WorkerPeer};
use super::runs::Runs;
use super::sessions::Shared;
use super::shared::{self, Board};
use super::stop::StopSignal;
use super::view::{self, Phase, Views};
use super::waits::Wait;
use crate::base::ids::{ClientId, RunId, WorkerId};
use crate::base::time::Time;
use crate::config::Config;
use crate::protocol::messages::client::{Question, Reason, ToClient};
use crate::protocol::messages::worker::{Heartbeat, Register, ToWorker};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::mpsc;

/// Inputs handled before work is handed out.
const INPUTS_AT_ONCE: usize = 1024;

/// Inputs that may wait for the driver; sessions wait when it is behind.
pub const INPUTS_MAX: usize = 4096;

/// How long workers and clients have to leave when the cluster ends.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// How often what has expired is looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(2);

/// The least time between two wake-ups without input.
const WAKE_INTERVAL_MIN: Duration = Duration::from_millis(1);

/// The longest reason that is taken from a peer, in characters.
const REASON_CHARS_MAX: usize = 500;

/// Everything that the scheduler knows.
pub struct Driver {
    pub(super) core: Core,
    pub(super) shared: Shared,
    pub(super) config: Arc<Config>,
    pub(super) address: String,
    pub(super) dashboard: Option<String>,
    origin: Instant,
    inputs: mpsc::Receiver<Input>,
    stop: StopSignal,
    pub(super) workers: BTreeMap<WorkerId, WorkerPeer>,
    pub(super) gone: GoneWorkers,
    pub(super) by_incarnation: HashMap<uuid::Uuid, WorkerId>,
    pub(super) clients: BTreeMap<ClientId, ClientPeer>,
    sessions: HashMap<uuid::Uuid, ClientId>,
    pub(super) runs: Runs,
    pub(super) board: Board,
    pub(super) views: Views,
    pub(super) events: Vec<Event>,
    asked: Vec<(ClientId, u32, Question)>,
    pub(super) waits: Vec<Wait>,
    next_worker: u32,
    next_client: u32,
    next_connection: u64,
    progress_at: Time,
    sweep_at: Time,
    pub(super) idle_since: Option<Time>,
    pub(super) stopping: Option<Time>,
}

/// The policy that the configuration sets.
fn settings(config: &Config) -> Settings {
    let c = &config.scheduler;
    Settings {
        worker_loss_timeout: c.worker_loss_timeout.0,
        session_lease: c.session_lease.0,
        allowed_failures: c.allowed_failures,
        saturation: c.saturation,
        stealing: c.work_stealing,
        retry_backoff: c.retry_backoff.initial,
        retry_backoff_max: c.retry_backoff.max,
        ..Settings::default()
    }
}

impl Driver {
    /// A driver of a scheduler that has just started.
    pub fn new(
        config: Arc<Config>,
        shared: Shared,
        address: String,
        inputs: mpsc::Receiver<Input>,
        stop: StopSignal,
    ) -> Driver {
        Driver {
            core: Core::new(shared.epoch, settings(&config)),
            shared,
            config,
            address,
            dashboard: None,
            origin: Instant::now(),
            inputs,
            stop,
            workers: BTreeMap::new(),
            gone: GoneWorkers::default(),
            by_incarnation: HashMap::new(),
            clients: BTreeMap::new(),
            sessions: HashMap::new(),
            runs: Runs::default(),
            board: Board::default(),
            views: Views::default(),
            events: Vec::new(),
            asked: Vec::new(),
            waits: Vec::new(),
            next_worker: 0,
            next_client: 0,
            next_connection: 0,
            progress_at: Time::ZERO,
            sweep_at: Time::ZERO,
            idle_since: None,
            stopping: None,
        }
    }

    /// Now, as the core counts.
    pub(super) fn now(&self) -> Time {
        Time::ZERO.after(self.origin.elapsed())
    }

    /// A point in time as people count.
    pub(super) fn wall_clock(&self, at: Time) -> SystemTime {
        let now = SystemTime::now();
        now.checked_sub(self.now().since(at)).unwrap_or(now)
    }

    /// Drives until the cluster has ended.
    pub async fn run(mut self) {
        let mut inputs = Vec::with_capacity(INPUTS_AT_ONCE);
        let mut stop = self.stop.subscribe();
        loop {
            let deadline = self.deadline();
            tokio::select! {
                biased;
                reason = stop.wanted(), if self.stopping.is_none() => self.begin_stop(&reason),
                // The driver holds a sender itself, so that the queue never closes.
                _ = self.inputs.recv_many(&mut inputs, INPUTS_AT_ONCE) => {}
                () = tokio::time::sleep_until(deadline.into()) => self.events.push(Event::Tick),
            }
            self.views.timings.begin();
            let taken = inputs.len();
            for input in inputs.drain(..) {
                match self.stopping {
                    None => self.take(input),
                    Some(_) => self.take_while_stopping(input),
                }
            }
            self.views.timings.spent(Phase::Inputs, taken);
            match self.stopping {
                None => self.work(),
                Some(by) if self.now() >= by || self.is_alone() => return,
                Some(_) => self.events.clear(),
            }
        }
    }

    /// Lets the core decide about what has happened, and does what else is due.
    fn work(&mut self) {
        self.release_held();
        let now = self.now();
        let counts = view::count(&self.events);
        self.views.timings.begin();
        let actions = self.core.handle_all(self.events.drain(..), now);
        self.views.timings.spent_on(&counts);
        let orders = actions.len();
        self.perform(actions);
        self.views.timings.spent(Phase::Orders, orders);
        let asked = std::mem::take(&mut self.asked);
        let questions = asked.len();
        for (client, id, question) in asked {
            self.answer(client, id, question);
        }
        self.views.timings.spent(Phase::Questions, questions);
        self.check_waits(now);
        self.check_looks(now);
        self.sample(now);
        self.share(shared::Event::Tick);
        if now >= self.progress_at {
            self.progress_at = now.after(self.config.client.progress_interval.0);
            self.tell_progress();
        }
        self.measure(now);
        if now >= self.sweep_at {
            self.sweep_at = now.after(SWEEP_INTERVAL);
            self.sweep(now);
        }
        self.views.timings.spent(Phase::Housekeeping, 1);
    }

    /// When to wake up though nothing comes in.
    fn deadline(&self) -> Instant {
        let watched = self.runs.graphs().any(|(_, e)| e.ended.is_none() && !e.watchers.is_empty());
        let times = [
            self.core.next_deadline(),
            self.board.next_deadline(),
            self.views.series.next_deadline(),
            self.waits.iter().filter_map(|w| w.until).min(),
            self.views.looks.next_deadline(),
            watched.then_some(self.progress_at),
            self.stopping,
            Some(self.sweep_at),
        ];
        let at = times.into_iter().flatten().min().unwrap_or(self.sweep_at);
        self.origin + Duration::from_nanos(at.0).max(self.origin.elapsed() + WAKE_INTERVAL_MIN)
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::WorkerJoined { register, link, reply } => {
                let worker = self.worker_joined(*register, link);
                // An error means that its session has ended; its end is reported next.
                match reply.send(worker) {
                    Ok(()) => self.prepare_worker(worker),
                    Err(_) => self.worker_gone(worker, "it left at once", false),
                }
            }
            Input::Report { worker, report } => {
                if let Some(paused) = report.paused {
                    self.note_paused(worker, paused);
                }
                self.events.push(Event::WorkerReport { worker, report });
            }
            Input::Heartbeat { worker, figures } => self.heartbeat(worker, figures),
            Input::Seen { worker, seen } => self.seen(worker, seen),
            Input::Retiring { worker, reason } => {
                let reason = shorten(&reason);
                if let Some(peer) = self.workers.get(&worker) {
                    tracing::info!(worker = peer.name, "worker leaves: {reason}");
                }
                self.note_leaves(worker, &reason);
                self.events.push(Event::WorkerRetiring { worker, reason });
            }
            Input::WorkerGone { worker, reason, announced } => self.worker_gone(worker, &reason, announced),
            Input::ClientJoined { hello, link, reply } => {
                let joined = self.client_joined(&hello, link);
                if reply.send(joined).is_err() {
                    self.client_gone(joined.0, joined.1, "it left at once");
                }
            }
            Input::ClientGone { client, connection, reason } => self.client_gone(client, connection, &reason),
            Input::Submit { client, submission } => self.submit(client, *submission),
            Input::Calls { client, submission } => self.submit_calls(client, *submission),
            Input::Single { client, what, run, tasks } => self.single_calls(client, what, run, &tasks),
            Input::Prepare { client, prepare } => self.prepare(client, *prepare),
            Input::Leave { client } => self.leave(client),
            Input::Watch { client, run } => self.watch(client, run),
            Input::Cancel { run, reason } => {
                if let Some(run) = self.runs.find(run) {
                    self.release(run);
                    self.events.push(Event::RunCancelled { run, reason: shorten(&reason) });
                }
            }
            Input::Forget { run } => {
                if let Some(run) = self.runs.find(run) {
                    self.forget(run);
                }
            }
            Input::OutputsTaken { tasks } => self.events.push(Event::OutputsTaken { tasks }),
            Input::OutputMissing { task, holder } => self.events.push(Event::OutputMissing { task, holder }),
            Input::Share { client, share } => self.take_share(client, *share),
            Input::Ask { client, id, question } => self.asked.push((client, id, question)),
        }
    }

    fn worker_joined(&mut self, register: Register, link: super::input::WorkerLink) -> WorkerId {
        let worker = WorkerId(self.next_worker);
        self.next_worker += 1;
        if let Some((incarnation, reason)) = &register.predecessor
            && let Some(&old) = self.by_incarnation.get(incarnation)
        {
            self.worker_gone(old, &shorten(reason), false);
        }
        let spec = WorkerSpec {
            name: register.name.clone(),
            host: register.host.clone(),
            job: register.job_id.clone(),
            incarnation: register.incarnation,
            slots: register.slots,
            resources: register.resources.clone(),
            memory_limit: register.memory_limit.map(|n| n.min(BYTES_MAX)),
            memory_target: register.memory_target.map(|n| n.min(BYTES_MAX)),
            leaves: register.leaves_in_ms.map(|ms| self.now().after(Duration::from_millis(ms))),
            preemptible: register.preemptible,
        };
        let threads = f64::from(register.slots) / f64::from(crate::graph::layer::SLOT);
        let peer = WorkerPeer::new(register, link);
        tracing::info!(
            worker = peer.name,
            host = peer.host,
            address = peer.address,
            threads,
            "worker joined"
        );
        self.shared.addresses.add(&peer.address, &peer.name);
        self.by_incarnation.insert(peer.incarnation, worker);
        self.note_joined(&peer.name, &peer.host, threads);
        self.workers.insert(worker, peer);
        self.events.push(Event::WorkerRegistered { worker, spec });
        worker
    }

    fn heartbeat(&mut self, worker: WorkerId, figures: Heartbeat) {
        let now = self.now();
        let done = self.core.done_by(worker) as f64;
        let Some(peer) = self.workers.get_mut(&worker) else { return };
        let (bytes_in, bytes_out) = (figures.bytes_in as f64, figures.bytes_out as f64);
        let (written, read) = (figures.spill_written as f64, figures.spill_read as f64);
        peer.meter.add(now, [figures.cpu_seconds, bytes_in, bytes_out, written, read, done]);
        // What is kept for results is theirs to have.
        let unmanaged = figures.unmanaged.saturating_sub(figures.kept);
        let memory = MemoryUse { unmanaged, spilled: figures.spilled }.believed();
        self.views.series.heard(worker, &peer.name, &figures, peer.meter.rates()[0]);
        peer.figures = figures;
        self.events.push(Event::Heartbeat { worker, memory: Some(memory) });
    }

    /// A worker's connection has ended, or must not be believed in any more.
    pub(super) fn worker_gone(&mut self, worker: WorkerId, reason: &str, announced: bool) {
        let Some(peer) = self.remove_worker(worker) else { return };
        let (reason, expected) = (shorten(reason), announced || peer.leaving);
        match expected {
            true => tracing::info!(worker = peer.name, host = peer.host, "worker left: {reason}"),
            false => tracing::warn!(worker = peer.name, host = peer.host, "worker lost: {reason}"),
        }
        self.note_gone(&peer.name, &reason, expected);
        self.events.push(Event::WorkerDisconnected { worker, reason, expected });
    }

    /// Takes a worker out of the tables, which ends its connection once what waits for it is written.
    pub(super) fn remove_worker(&mut self, worker: WorkerId) -> Option<WorkerPeer> {
        let peer = self.workers.remove(&worker)?;
        if self.by_incarnation.get(&peer.incarnation) == Some(&worker) {
            self.by_incarnation.remove(&peer.incarnation);
        }
        self.gone.note(worker, &peer.name);
        self.views.looks.worker_gone(worker, peer.incarnation, &peer.name);
        self.shared.addresses.remove(&peer.address);
        self.views.worker_gone(worker, &peer.figures);
        Some(peer)
    }

    fn client_joined(
        &mut self,
        hello: &crate::protocol::messages::client::Hello,
        link: super::input::ClientLink,
    ) -> (ClientId, u64) {
        let connection = self.next_connection;
        self.next_connection += 1;
        let client = *self.sessions.entry(hello.session).or_insert_with(|| {
            let client = ClientId(self.next_client);
            self.next_client += 1;
            client
        });
        let peer = ClientPeer::new(hello, link, connection);
        tracing::info!(%client, "client connected from {}", peer.place);
        if let Some(old) = self.clients.insert(client, peer)
            && let Some(link) = old.link
        {
            link.cut();
        }
        self.note_client(client, None);
        self.events.push(Event::ClientArrived { client });
        (client, connection)
    }

    /// A client's connection has ended. Its lease begins, unless it is back on another one.
    pub(super) fn client_gone(&mut self, client: ClientId, connection: u64, reason: &str) {
        let now = self.now();
        let Some(peer) = self.clients.get_mut(&client).filter(|p| p.connection == connection) else { return };
        if peer.link.take().is_none() {
            return;
        }
        peer.left = now;
        tracing::info!(%client, "client at {} is gone: {}", peer.place, shorten(reason));
        for (_, entry) in self.runs.iter_mut() {
            entry.watchers.retain(|w| *w != client);
        }
        self.waits.retain(|w| w.client != client);
        self.views.looks.client_gone(client);
        // Executors that share something are no clients of their own.
        if !self.board.is_bound(client) {
            self.note_client(client, Some(&shorten(reason)));
        }
        self.events.push(Event::ClientLeft { client });
        self.share(shared::Event::ConnectionGone { client });
    }

    /// Ends sessions that nobody will come back to.
    pub(super) fn end_sessions(&mut self, now: Time) {
        let lease = self.config.scheduler.session_lease.0;
        let over = |p: &ClientPeer| p.link.is_none() && now >= p.left.after(lease);
        let ended: Vec<ClientId> = self.clients.iter().filter(|(_, p)| over(p)).map(|(c, _)| *c).collect();
        for client in ended {
            if let Some(peer) = self.clients.remove(&client) {
                self.sessions.remove(&peer.session);
            }
            self.share(shared::Event::SessionEnded { client });
            // Those that the core does not know yet; it cancels the others itself.
            let held = |(run, e): (RunId, &super::runs::RunEntry)| {
                (e.owner == client && !e.detached && e.held.is_some()).then_some(run)
            };
            let held: Vec<RunId> = self.runs.iter().filter_map(held).collect();
            for run in held {
                self.runs.remove(run);
            }
        }
    }

    /// Tells everybody that the cluster ends.
    fn begin_stop(&mut self, reason: &str) {
        tracing::info!("the cluster ends: {reason}");
        self.stopping = Some(self.now().after(STOP_GRACE));
        let reason = Reason { reason: reason.to_string() };
        for peer in self.workers.values_mut() {
            peer.leaving = true;
            let order = WorkerOrder::Message(ToWorker::Stop(reason.clone()));
            if peer.link.push(order, 0).is_err() {
                peer.link.cut();
            }
        }
        for peer in self.clients.values_mut() {
            if let Some(link) = peer.link.as_ref()
                && link.push(ClientOrder::End(ToClient::Stopping(reason.clone())), 0).is_err()
            {
                link.cut();
            }
        }
    }

    fn take_while_stopping(&mut self, input: Input) {
        match input {
            Input::WorkerGone { worker, .. } => drop(self.remove_worker(worker)),
            Input::ClientGone { client, .. } => {
                self.clients.remove(&client);
            }
            // Everything else has no consequences any more; sessions see that nobody answers.
            _ => {}
        }
    }

    fn is_alone(&self) -> bool {
        self.workers.is_empty() && self.clients.values().all(|c| c.link.is_none())
    }

    /// Asks for the end of the cluster.
    pub(super) fn stop(&self, reason: &str) {
        self.stop.want(reason);
    }
}

/// A peer's words, not longer than is good for logs and stories.
pub(super) fn shorten(reason: &str) -> String {
    reason.chars().take(REASON_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

//! The core joined to what it decides about: pool, store and transfers. Turns messages into events, actions
//! into deeds, and what the core has gathered into messages. Owns no connection and no timer.

mod room;
mod saving;
mod seen;
#[cfg(test)]
mod tests;

use super::checkpoint::Saver;
use super::core::Core;
use super::core::event::{Action, Assigned, Done, Event, Fetched, Input, Kin, Start};
use super::executor::pool::{Finished, Pool};
use super::executor::{FailureKind, Identified};
use super::families::Families;
use super::finish::{Job, Runnable, to_wire};
use super::memory::monitor::Gauge;
use super::memory::{Memory, Told};
use super::origin::{Limits, Origin};
use super::prepare::nodes::Node;
use super::process;
use super::python::Python;
use super::python::calls::Calls;
use super::spans::{Collector, Fetching};
use super::store::Store;
use super::store::data::TaskResult;
use super::transfer::brought::Brought;
use super::transfer::client::{Client, Fetched as Transferred};
use crate::base::failure::Failure;
use crate::base::ids::{Attempt, RunId, TaskRef, WorkerId};
use crate::graph::items::Item;
use crate::net::address::Address;
use crate::protocol::framing::FrameError;
use crate::protocol::messages::calls::{CallBatch, CallRun, Prepare};
use crate::protocol::messages::compute::{Compute, Member};
use crate::protocol::messages::report::{News, Rare, Report};
use crate::protocol::messages::worker::{Families as FamiliesMessage, FromWorker, Peers, Registered};
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;

/// Slot threads at most. Tasks that occupy a small part of a slot each share threads beyond this.
const THREADS_MAX: usize = 1024;

/// Failed attempts in one message at most: each carries the last lines of its stderr.
const FAILED_PER_REPORT: usize = 1000;

/// Results of this size are worth a look at memory before they are made.
const LARGE_BYTES: i64 = 1 << 20;

type Id = (TaskRef, Attempt);

/// Outcomes of one fetch.
type Arrived = (WorkerId, Vec<(TaskRef, Transferred)>);

/// A worker's tasks and results within one registration.
pub(super) struct Work {
    /// This worker's name.
    name: String,
    /// What writes results for a later run.
    saver: Option<Saver>,
    core: Core,
    epoch: u32,
    pool: Arc<Pool<Job>>,
    store: Arc<Mutex<Store>>,
    memory: Memory,
    /// Whether tasks may start, if the scheduler has to be told.
    paused: Option<bool>,
    /// This worker, to the scheduler.
    here: WorkerId,
    families: Families,
    python: Arc<Python>,
    calls: Calls,
    /// Values of elements that came with their tasks, until these start.
    items: FxHashMap<TaskRef, (Attempt, Item)>,
    /// The same of the workers of tasks that have several.
    gangs: FxHashMap<TaskRef, (Attempt, Vec<Member>)>,
    /// What was given to the pool.
    running: FxHashMap<Id, Origin>,
    /// Results of attempts that have ended, until the core says what becomes of them.
    pending: FxHashMap<Id, Arc<TaskResult>>,
    addresses: FxHashMap<WorkerId, Address>,
    client: Client,
    fetches: JoinSet<Arrived>,
    asked: FxHashMap<tokio::task::Id, (WorkerId, Vec<TaskRef>, Fetching)>,
    /// Attempts that have ended since the last report with results that cannot leave their processes.
    pinned: FxHashSet<Id>,
    /// For those who look.
    spans: Collector,
    /// Results have come since memory was last looked at.
    grown: bool,
    /// A function has ended since the last report: others may be as fast, and wait for its result.
    prompt: bool,
    /// CPU time of the tasks that have ended.
    pub(super) cpu: Duration,
    /// Tasks that have ended, and had at the last look at the line.
    ended: u64,
    ended_at_look: u64,
}

impl Work {
    pub(super) fn new(
        name: &str,
        slots: u32,
        registered: &Registered,
        (pool, python): (Arc<Pool<Job>>, Arc<Python>),
        memory: Memory,
        client: Client,
    ) -> Work {
        Work {
            name: name.to_owned(),
            saver: None,
            core: Core::new(slots),
            epoch: registered.epoch,
            pool,
            store: memory.parts().store.clone(),
            memory,
            paused: None,
            here: registered.worker,
            families: Families::default(),
            calls: python.calls(),
            python,
            items: FxHashMap::default(),
            gangs: FxHashMap::default(),
            running: FxHashMap::default(),
            pending: FxHashMap::default(),
            addresses: FxHashMap::default(),
            client,
            fetches: JoinSet::new(),
            asked: FxHashMap::default(),
            pinned: FxHashSet::default(),
            spans: Collector::new(slots),
            grown: false,
            prompt: false,
            cpu: Duration::ZERO,
            ended: 0,
            ended_at_look: 0,
        }
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn learn(&mut self, families: FamiliesMessage) {
        self.families.learn(families);
    }

    /// A run of calls.
    pub(super) fn learn_calls(&mut self, run: CallRun) {
        self.calls.learn_run(run);
    }

    /// What calls to come will need.
    pub(super) fn prepare(&self, prepare: Prepare) {
        self.python.prepare(prepare);
    }

    /// Calls of such a run.
    pub(super) fn learn_batch(&mut self, batch: &CallBatch) -> Result<(), FrameError> {
        self.calls.learn_batch(batch)
    }

    pub(super) fn forget_run(&mut self, run: RunId) {
        if self.calls.forget(run) {
            self.python.tidy();
        }
        self.families.forget(run);
        self.items.retain(|task, _| task.run != run);
        self.gangs.retain(|task, _| task.run != run);
        self.core.forget_run(run);
    }

    pub(super) fn meet(&mut self, peers: Peers) {
        for (worker, address) in peers.peers {
            match address.parse() {
                Ok(address) => drop(self.addresses.insert(worker, address)),
                Err(error) => tracing::warn!(%worker, "another worker's address is of no use: {error}"),
            }
        }
    }

    /// Tasks are handed over.
    pub(super) fn on_compute(&mut self, compute: Compute) -> Result<(), FrameError> {
        let tasks = compute.unpack()?;
        for (at, item) in tasks.items {
            let task = &tasks.tasks[at as usize];
            self.items.insert(task.task, (task.attempt, item));
        }
        for (at, members) in tasks.gangs {
            let task = &tasks.tasks[at as usize];
            self.gangs.insert(task.task, (task.attempt, members));
        }
        let mut inputs = tasks.inputs.iter();
        let (mut taken, mut held) = (0, 0);
        let mut assigned = Vec::with_capacity(tasks.tasks.len());
        for t in &tasks.tasks {
            // `unpack` has checked that the ends ascend and stay inside.
            let n = (t.inputs_end - taken) as usize;
            taken = t.inputs_end;
            let own = inputs.by_ref().take(n).map(|input| {
                let holders = &tasks.holders[held as usize..input.holders_end as usize];
                held = input.holders_end;
                let (task, nbytes, edge) = (input.task, input.nbytes, input.edge);
                Input { task, nbytes, edge, holders: holders.to_vec() }
            });
            assigned.push(Assigned {
                task: t.task,
                attempt: t.attempt,
                tries: t.tries,
                family: t.family,
                element: t.element,
                kin: self.calls.kin(t.task).map_or(Kin::Family(t.task.run, t.family), Kin::Calls),
                priority: t.priority,
                slots: t.slots,
                keep: t.keep,
                inputs: own.collect(),
            });
        }
        self.handle(Event::Compute(assigned));
        Ok(())
    }

    /// Attempts are not wanted any more, or wanted back.
    pub(super) fn on_withdrawn(&mut self, attempts: Vec<Id>, steal: bool) {
        attempts.iter().for_each(|id| self.forget_extras(id));
        self.handle(if steal { Event::Steal(attempts) } else { Event::Cancel(attempts) });
    }

    /// Forgets what came with an attempt that will not start.
    fn forget_extras(&mut self, (task, attempt): &Id) {
        if self.items.get(task).is_some_and(|(a, _)| a == attempt) {
            self.items.remove(task);
        }
        if self.gangs.get(task).is_some_and(|(a, _)| a == attempt) {
            self.gangs.remove(task);
        }
    }

    /// Attempts ended in the pool.
    pub(super) fn on_finished(&mut self) {
        let finished = self.pool.take_finished();
        if process::is_leaving_at_once() {
            return;
        }
        // Before what failed by it: such a task is not at fault.
        let lost = self.memory.take_lost();
        if !lost.is_empty() {
            self.handle(Event::Lost { tasks: lost, here: self.here });
        }
        for (task, attempt, away) in self.pool.take_away() {
            self.handle(Event::Away { task, attempt, away });
            // Who was lined up behind it has its slot now.
            self.grow_pool();
        }
        self.ended += finished.len() as u64;
        // Whose process has died with it is to blame; whose input was in another's is not.
        let without_input = |f: &Finished| {
            let failure = f.outcome.result.as_ref().err();
            failure.is_some_and(|failure| matches!(failure.kind, FailureKind::Inputs(_)))
        };
        let mut waited = Vec::new();
        let mut finished = finished;
        if finished.iter().any(without_input) {
            (waited, finished) = finished.into_iter().partition(without_input);
        }
        self.end_all(finished);
        self.lose_pinned();
        self.end_all(waited);
    }

    fn end_all(&mut self, finished: Vec<Finished>) {
        if !finished.is_empty() {
            let done = finished.into_iter().map(|f| self.done(f)).collect();
            self.handle(Event::Done(done));
        }
    }

    /// Results that were in processes which have ended are lost.
    fn lose_pinned(&mut self) {
        if self.python.take_lost() {
            let tasks = self.store().take_ended();
            self.handle(Event::Lost { tasks, here: self.here });
        }
    }

    fn done(&mut self, finished: Finished) -> Done {
        let Finished { task, attempt, slot, outcome } = finished;
        let origin = self.running.remove(&(task, attempt));
        let (kin, peak) = (origin.as_ref().map_or(0, Origin::kin), self.memory.take_peak((task, attempt)));
        self.note_span(task, kin, slot, &outcome, peak.unwrap_or(0));
        if let Some(peak) = peak
            && let (Some(origin), Ok(_)) = (&origin, &outcome.result)
        {
            origin.learn_peak(peak);
        }
        self.prompt |= origin.as_ref().is_none_or(Origin::is_prompt);
        self.cpu += outcome.cpu;
        let (duration, mut memory) = (outcome.wall, 0);
        let outcome = match outcome.result {
            Ok(result) => {
                let nbytes = result.nbytes();
                memory = result.memory_bytes();
                if result.pinned.is_some() {
                    self.pinned.insert((task, attempt));
                }
                self.pending.insert((task, attempt), Arc::new(result));
                Ok(nbytes)
            }
            Err(failure) => {
                let limits = origin.as_ref().map_or_else(Limits::default, Origin::limits);
                Err(Arc::new(to_wire(failure, limits)))
            }
        };
        Done { task, attempt, outcome, memory, duration }
    }

    /// Waits for a fetch to end; for ever if there is none.
    pub(super) async fn next_arrival(&mut self) -> Event {
        loop {
            let (id, arrived) = match self.fetches.join_next_with_id().await {
                None => std::future::pending().await,
                Some(Ok((id, arrived))) => (id, Some(arrived)),
                Some(Err(error)) => {
                    tracing::error!("a fetch came to grief: {error}");
                    (error.id(), None)
                }
            };
            let Some((peer, tasks, fetching)) = self.asked.remove(&id) else { continue };
            let arrived = arrived.map(|(_, outcomes)| outcomes);
            let all_lost = || tasks.into_iter().map(|t| (t, Transferred::Unreachable)).collect();
            return self.on_arrived(peer, fetching, arrived.unwrap_or_else(all_lost));
        }
    }

    fn on_arrived(
        &mut self,
        peer: WorkerId,
        fetching: Fetching,
        outcomes: Vec<(TaskRef, Transferred)>,
    ) -> Event {
        // Who made a fetched result is not known here, nor does it matter.
        let attempt = Attempt { epoch: self.epoch, n: 0 };
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        let each = |(task, outcome)| match outcome {
            Transferred::Here(result) => {
                let nbytes = result.nbytes();
                if store.find(task).is_none() {
                    store.insert(task, attempt, result);
                    store.set_replica(task, true);
                    self.grown = true;
                }
                (task, Fetched::Here(nbytes))
            }
            Transferred::Absent => (task, Fetched::Absent),
            Transferred::Unreachable => (task, Fetched::Unreachable),
        };
        let outcomes: Vec<_> = outcomes.into_iter().map(each).collect();
        drop(store);
        self.note_fetch(fetching, &outcomes);
        Event::Fetched { peer, outcomes }
    }

    /// A client has brought a result. Whether it is kept.
    pub(super) fn on_brought(&mut self, brought: Brought) {
        let Brought { epoch, task, result, answer } = brought;
        let kept = if epoch == self.epoch {
            let nbytes = result.nbytes();
            {
                let mut store = self.store();
                if store.find(task).is_none() {
                    store.insert(task, Attempt { epoch, n: 0 }, result);
                }
            }
            self.grown = true;
            self.handle(Event::Stored { task, nbytes });
            Ok(())
        } else {
            Err(format!("this worker is in epoch {}, not {epoch}", self.epoch))
        };
        // Who brought it may have gone; it is kept until the scheduler says otherwise.
        let _ = answer.send(kept);
    }

    /// Tells the core and does what it wants.
    pub(super) fn handle(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let actions = self.core.handle(event);
            self.perform(actions, &mut events);
        }
    }

    /// Does what the core wants; what comes of it at once goes to `events`.
    fn perform(&mut self, actions: Vec<Action>, events: &mut VecDeque<Event>) {
        let (mut jobs, mut undone, mut released) = (Vec::new(), Vec::new(), false);
        let mut grown = self.core.next_bytes() >= LARGE_BYTES
            && actions.iter().any(|action| matches!(action, Action::Start(_)));
        for action in actions {
            match action {
                Action::Start(start) => match self.job(&start) {
                    Ok(job) => jobs.push(job),
                    Err(failure) => undone.push(Done {
                        task: start.task,
                        attempt: start.attempt,
                        outcome: Err(Arc::new(failure)),
                        memory: 0,
                        duration: Duration::ZERO,
                    }),
                },
                Action::Kill { task, attempt } => {
                    // If it is not there any more it has just ended; its outcome comes all the same.
                    self.pool.cancel(task, attempt, None);
                }
                Action::Fetch { peer, tasks } => self.fetch(peer, tasks, events),
                Action::Publish { task, attempt, passing } => {
                    if let Some(result) = self.pending.remove(&(task, attempt)) {
                        let mut store = self.store();
                        store.insert(task, attempt, result);
                        store.set_passing(task, passing);
                        drop(store);
                        grown = true;
                    }
                }
                Action::Discard { task, attempt } => {
                    let result = self.pending.remove(&(task, attempt));
                    released |= result.is_some_and(|result| result.pinned.is_some());
                }
                Action::Own(tasks) => {
                    let mut store = self.store();
                    tasks.iter().for_each(|task| store.set_replica(*task, false));
                }
                Action::ReadAhead(tasks) => self.memory.parts().read_ahead(&tasks),
                Action::Drop(tasks) => released |= self.let_go(&tasks),
            }
        }
        if !undone.is_empty() {
            events.push_back(Event::Done(undone));
        }
        self.submit(jobs);
        if released {
            self.python.tidy();
        }
        self.grown |= grown;
    }

    fn job(&mut self, start: &Start) -> Result<Job, Failure> {
        let item = self.items.remove(&start.task).filter(|(attempt, _)| *attempt == start.attempt);
        let gang = self.gangs.remove(&start.task).filter(|(attempt, _)| *attempt == start.attempt);
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        if self.calls.has(start.task.run) {
            return self.calls.job(start, &mut store);
        }
        let mut job = self.families.job(start, item.map(|(_, item)| item), &mut store)?;
        let nodes = gang.map(|(_, members)| members).unwrap_or_default();
        if let Runnable::Element(assignment, _) = &mut job.kind {
            assignment.nodes = nodes.into_iter().map(|m| Node { host: m.host, slots: m.slots }).collect();
        }
        Ok(job)
    }

    fn submit(&mut self, jobs: Vec<Job>) {
        if jobs.is_empty() {
            return;
        }
        for job in &jobs {
            self.running.insert(job.id(), job.origin());
        }
        self.grow_pool();
        self.pool.submit(jobs);
    }

    /// A thread for each that runs; those in line have none of their own.
    fn grow_pool(&self) {
        let threads = self.running.len().saturating_sub(self.core.in_line()).min(THREADS_MAX);
        if let Err(error) = self.pool.grow(threads) {
            tracing::warn!(threads, "cannot start another slot thread, tasks share those there are: {error}");
        }
    }

    /// Whether tasks wait in line behind others.
    pub(super) fn has_line(&self) -> bool {
        self.core.in_line() > 0
    }

    /// Looks after those in line: if nothing has ended since the last look, what runs takes longer than was
    /// thought, and they are not kept from others any more.
    pub(super) fn look_at_line(&mut self) {
        let ended = std::mem::replace(&mut self.ended_at_look, self.ended);
        if ended != self.ended || !self.has_line() {
            return;
        }
        let mut attempts = Vec::new();
        for job in self.pool.take_back() {
            let (task, attempt) = job.id();
            self.running.remove(&(task, attempt));
            if let Runnable::Element(assignment, _) = job.kind
                && assignment.item != Item::None
            {
                self.items.insert(task, (attempt, assignment.item));
            }
            attempts.push((task, attempt));
        }
        if !attempts.is_empty() {
            self.handle(Event::TakenBack(attempts));
        }
    }

    fn fetch(&mut self, peer: WorkerId, tasks: Vec<TaskRef>, events: &mut VecDeque<Event>) {
        let Some(address) = self.addresses.get(&peer).cloned() else {
            let outcomes = tasks.into_iter().map(|task| (task, Fetched::Unreachable)).collect();
            events.push_back(Event::Fetched { peer, outcomes });
            return;
        };
        let (client, wanted) = (self.client.clone(), tasks.clone());
        let handle = self.fetches.spawn(async move { (peer, client.fetch(&address, wanted).await) });
        self.asked.insert(handle.id(), (peer, tasks, self.spans.fetch_begins()));
    }

    /// Whether a report does nobody harm if it comes a moment later: commands have begun and ended well, each
    /// of which takes longer than that moment as a rule, and there is more to do here.
    pub(super) fn may_tell_later(&self) -> bool {
        !self.prompt && self.paused.is_none() && self.core.may_tell_later()
    }

    /// What the scheduler is to be told, as messages.
    pub(super) fn take_reports(&mut self) -> Vec<FromWorker> {
        self.prompt = false;
        let report = self.core.take_report();
        let paused = self.paused.take();
        if report.is_empty() && paused.is_none() {
            return Vec::new();
        }
        report.missing.iter().for_each(|(task, attempt, _)| self.forget_extras(&(*task, *attempt)));
        let ns = |d: Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
        let mut ended = std::mem::take(&mut self.pinned);
        let mut pinned = Vec::new();
        if !ended.is_empty() {
            let of_those =
                report.finished.iter().filter(|(task, attempt, ..)| ended.remove(&(*task, *attempt)));
            pinned.extend(of_those.map(|(task, ..)| *task));
        }
        let finished = report.finished.into_iter().map(|(t, a, bytes, d)| (t, a, bytes, ns(d)));
        let mut failed = report.failed.into_iter().map(|(t, a, f)| (t, a, Arc::unwrap_or_clone(f)));
        let first = News {
            started: report.started,
            finished: finished.collect(),
            replicas: report.replicas,
            rare: Rare {
                failed: failed.by_ref().take(FAILED_PER_REPORT).collect(),
                missing: report.missing,
                returned: report.returned,
                kept: report.kept,
                uncopied: report.uncopied,
                away: report.away,
                stored: report.stored,
                pinned,
                paused,
            },
        };
        let mut messages = vec![FromWorker::Report(Report::pack(self.epoch, first))];
        loop {
            let failed: Vec<_> = failed.by_ref().take(FAILED_PER_REPORT).collect();
            if failed.is_empty() {
                return messages;
            }
            let news = News { rare: Rare { failed, ..Rare::default() }, ..News::default() };
            messages.push(FromWorker::Report(Report::pack(self.epoch, news)));
        }
    }

    /// Attempts in the pool.
    pub(super) fn running(&self) -> usize {
        self.running.len()
    }

    /// Whether it has nothing to do and nothing that anybody needs.
    pub(super) fn is_idle(&self) -> bool {
        self.core.in_hand() == 0 && self.running.is_empty() && self.store().is_empty()
    }

    /// Bytes of results in memory, those included that are being made or fetched.
    pub(super) fn managed_bytes(&self) -> u64 {
        self.store().managed_bytes() + self.pool.captured_bytes() + self.client.arriving_bytes()
    }

    /// Memory as the scheduler is told of it now.
    pub(super) fn tell_memory(&mut self) -> Told {
        self.memory.tell()
    }

    /// Memory that is not results, as of the monitor's last look.
    pub(super) fn unmanaged_bytes(&self) -> u64 {
        self.memory.unmanaged_bytes()
    }

    /// Whether the scheduler would plan with figures that are far from true.
    pub(super) fn memory_has_changed(&self) -> bool {
        self.memory.has_changed()
    }

    /// Waits until memory has been looked at anew.
    pub(super) fn gauge(&self) -> Arc<Gauge> {
        self.memory.parts().gauge.clone()
    }

    /// Whether no task may start.
    pub(super) fn is_paused(&self) -> bool {
        self.memory.is_paused()
    }

    pub(super) fn close_idle_connections(&self) {
        self.client.close_idle();
    }

    /// Ends all tasks without waiting for their ends.
    pub(super) fn abort(&mut self) {
        self.fetches.abort_all();
        let actions = self.core.abort();
        self.perform(actions, &mut VecDeque::new());
    }
}

//! What all runs share inside the core: workers, queues, the story, and the actions gathered while an event
//! is handled. Owns gathering and batching; makes no decisions.

use super::action::{Action, Batch, Output};
use super::gangs::Gangs;
use super::ready::Ready;
use super::story::{Record, Story};
use super::workers::Worker;
use super::{Settings, run::Run, state::State};
use crate::base::failure::Failure;
use crate::base::ids::{Attempt, ClientId, RunId, TaskRef, WorkerId};
use crate::base::time::Time;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Failed attempts that are told of at a time.
const FAILURES_TOLD_MAX: usize = 1000;

/// The shared half of the core.
pub(super) struct Cx {
    pub(super) now: Time,
    pub(super) epoch: u32,
    pub(super) settings: Settings,
    pub(super) workers: Vec<Option<Worker>>,
    pub(super) ready: Ready,
    pub(super) gangs: Gangs,
    pub(super) story: Story,
    pub(super) groups: super::groups::Groups,
    pub(super) cause: &'static str,
    /// Failed tasks that are to be tried again, by when.
    pub(super) delayed: BTreeSet<(Time, TaskRef)>,
    /// Workers by unstarted work in hand, for stealing.
    pub(super) backlog: BTreeSet<(u32, WorkerId)>,
    listed_backlog: Vec<u32>,
    /// Workers whose room may have changed.
    dirty: Vec<WorkerId>,
    is_dirty: Vec<bool>,
    /// Runs that may be done.
    pub(super) ending: BTreeSet<RunId>,
    /// Tasks in workers' hands, all told.
    pub(super) in_hand: usize,
    /// Memory may have become free: tasks that are held back for it are worth another look.
    pub(super) relief: bool,
    /// Results have gone to disk: what does not fit into memory need not wait for ever.
    pub(super) spills: bool,
    /// Tasks that wait because their results would only lie in memory, and how many of them a worker gets
    /// that has had nothing else to do for long.
    pub(super) early: usize,
    pub(super) early_burst: usize,
    /// Such workers are not looked after before.
    pub(super) early_at: Time,
    /// Something came into a queue after that was looked through.
    pub(super) again: bool,
    /// Runs in which a task has failed for good.
    pub(super) failing: BTreeSet<RunId>,
    outbox: Vec<Outbox>,
    /// Workers with something in their outbox.
    posted: Vec<WorkerId>,
    outputs: BTreeMap<ClientId, Vec<Output>>,
    /// Calls that failed or were lost, by who wants them.
    pub(super) failed_calls: BTreeMap<ClientId, Vec<TaskRef>>,
    pub(super) lost_calls: BTreeMap<ClientId, Vec<TaskRef>>,
    /// What stands for tasks of other runs.
    pub(super) imports: super::imports::Imports,
    /// Workers that may stop, once they have been told all else.
    pub(super) dismissed: Vec<WorkerId>,
    pub(super) actions: Vec<Action>,
    /// Failed attempts among the actions.
    failures_told: usize,
    /// Reused space for walking dependents.
    pub(super) scratch: Vec<u32>,
}

#[derive(Default)]
struct Outbox {
    batch: Batch,
    free: Vec<TaskRef>,
    own: Vec<(TaskRef, u64)>,
    cancel: Vec<(TaskRef, Attempt)>,
    posted: bool,
}

impl Cx {
    pub(super) fn new(epoch: u32, settings: Settings) -> Cx {
        let story = Story::new(settings.story_limit);
        Cx {
            now: Time::ZERO,
            epoch,
            settings,
            workers: Vec::new(),
            ready: Ready::default(),
            gangs: Gangs::default(),
            story,
            groups: super::groups::Groups::default(),
            cause: "",
            delayed: BTreeSet::new(),
            backlog: BTreeSet::new(),
            listed_backlog: Vec::new(),
            dirty: Vec::new(),
            is_dirty: Vec::new(),
            ending: BTreeSet::new(),
            failing: BTreeSet::new(),
            in_hand: 0,
            relief: false,
            spills: false,
            early: 0,
            early_burst: 1,
            again: false,
            early_at: Time::ZERO,
            outbox: Vec::new(),
            posted: Vec::new(),
            outputs: BTreeMap::new(),
            failed_calls: BTreeMap::new(),
            lost_calls: BTreeMap::new(),
            imports: super::imports::Imports::default(),
            dismissed: Vec::new(),
            actions: Vec::new(),
            failures_told: 0,
            scratch: Vec::new(),
        }
    }

    pub(super) fn worker(&self, w: WorkerId) -> Option<&Worker> {
        self.workers.get(w.index())?.as_ref()
    }

    /// The worker, which from now on counts as changed.
    pub(super) fn worker_mut(&mut self, w: WorkerId) -> Option<&mut Worker> {
        self.touch(w);
        self.workers.get_mut(w.index())?.as_mut()
    }

    /// Marks a worker's room for work as possibly changed.
    pub(super) fn touch(&mut self, w: WorkerId) {
        if self.is_dirty.len() <= w.index() {
            self.is_dirty.resize(w.index() + 1, false);
        }
        if !self.is_dirty[w.index()] {
            self.is_dirty[w.index()] = true;
            self.dirty.push(w);
        }
    }

    /// Brings the lists of open workers up to date and returns the workers that changed.
    pub(super) fn refresh(&mut self) -> Vec<WorkerId> {
        let dirty = std::mem::take(&mut self.dirty);
        for &w in &dirty {
            self.is_dirty[w.index()] = false;
            self.relist(w);
        }
        dirty
    }

    /// Lists one worker anew.
    pub(super) fn relist(&mut self, w: WorkerId) {
        for c in 0..self.ready.classes.len() {
            let class = &self.ready.classes[c];
            let rank = self.workers.get(w.index()).and_then(|x| x.as_ref()).and_then(|x| {
                x.is_open(class.slots, &class.resources, self.settings.saturation)
                    .then(|| x.rank(class.slots))
            });
            self.ready.list(w, c, rank);
        }
        let backlog = self.worker(w).map_or(0, Worker::backlog);
        if self.listed_backlog.len() <= w.index() {
            self.listed_backlog.resize(w.index() + 1, 0);
        }
        let listed = &mut self.listed_backlog[w.index()];
        if *listed != backlog {
            self.backlog.remove(&(*listed, w));
            if backlog > 0 {
                self.backlog.insert((backlog, w));
            }
            *listed = backlog;
        }
    }

    fn outbox(&mut self, w: WorkerId) -> &mut Outbox {
        if self.outbox.len() <= w.index() {
            self.outbox.resize_with(w.index() + 1, Outbox::default);
        }
        let outbox = &mut self.outbox[w.index()];
        if !outbox.posted {
            outbox.posted = true;
            self.posted.push(w);
        }
        outbox
    }

    pub(super) fn batch(&mut self, w: WorkerId) -> &mut Batch {
        &mut self.outbox(w).batch
    }

    pub(super) fn free(&mut self, w: WorkerId, task: TaskRef) {
        self.outbox(w).free.push(task);
    }

    /// Tells a worker that its copy is the one that counts from now on.
    pub(super) fn own(&mut self, w: WorkerId, task: TaskRef, nbytes: u64) {
        self.outbox(w).own.push((task, nbytes));
    }

    pub(super) fn cancel(&mut self, w: WorkerId, task: TaskRef, n: u32) {
        let attempt = Attempt { epoch: self.epoch, n };
        self.outbox(w).cancel.push((task, attempt));
    }

    pub(super) fn announce(&mut self, client: ClientId, output: Output) {
        self.outputs.entry(client).or_default().push(output);
    }

    /// All actions gathered, in the order workers need: cancels and frees before new work.
    pub(super) fn flush(&mut self) -> Vec<Action> {
        let mut actions = std::mem::take(&mut self.actions);
        self.failures_told = 0;
        for worker in std::mem::take(&mut self.posted) {
            let outbox = std::mem::take(&mut self.outbox[worker.index()]);
            if self.worker(worker).is_none() {
                continue;
            }
            if !outbox.cancel.is_empty() {
                actions.push(Action::Cancel { worker, attempts: outbox.cancel });
            }
            if !outbox.own.is_empty() {
                actions.push(Action::Replicate { worker, tasks: outbox.own, from: worker });
            }
            if !outbox.free.is_empty() {
                actions.push(Action::Free { worker, tasks: outbox.free });
            }
            if !outbox.batch.tasks.is_empty() {
                actions.push(Action::Compute { worker, batch: outbox.batch });
            }
        }
        actions.extend(self.dismissed.drain(..).map(|worker| Action::Dismiss { worker }));
        for (client, tasks) in std::mem::take(&mut self.lost_calls) {
            actions.push(Action::CallsLost { client, tasks });
        }
        for (client, tasks) in std::mem::take(&mut self.failed_calls) {
            actions.push(Action::CallsFailed { client, tasks });
        }
        for (client, outputs) in std::mem::take(&mut self.outputs) {
            actions.push(Action::Outputs { client, outputs });
        }
        actions
    }

    /// Tells of a failed attempt, unless there are very many at once.
    pub(super) fn tell_attempt(&mut self, run: &Run, i: u32, failure: &Arc<Failure>, again: bool) {
        if self.failures_told < FAILURES_TOLD_MAX {
            self.failures_told += 1;
            let at = run.worker[i as usize];
            let worker = (at != super::run::NOBODY).then_some(WorkerId(at));
            let (task, failure) = (run.task(i), failure.clone());
            self.actions.push(Action::AttemptFailed { task, worker, failure, again });
        }
    }

    pub(super) fn record(&mut self, run: &Run, i: u32, from: State, to: State) {
        let at = run.worker[i as usize];
        let worker = (at != super::run::NOBODY).then_some(WorkerId(at));
        self.story.push(Record {
            at: self.now,
            task: run.task(i),
            from,
            to,
            attempt: run.attempt[i as usize],
            worker,
            cause: self.cause,
        });
    }
}

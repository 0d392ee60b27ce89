//! Looking at the core without changing it: counts, why a task is not running, what is where. Owns the plain
//! data that sessions turn into answers.

use super::action::Summary;
use super::event::WorkerSpec;
use super::run::Run;
use super::state::State;
use super::story::Record;
use super::workers::WorkerView;
use super::{Core, Status};
use crate::base::ids::{FamilyIx, RunId, RunUuid, TaskRef, WorkerId};
use crate::base::time::Time;
use std::collections::BTreeMap;

/// Ready tasks looked at to find out why none of a run is handed out.
const ENTRIES_LOOKED_AT: usize = 10_000;
/// Inputs named in an explanation.
const INPUTS_NAMED: usize = 20;

/// Why a task is where it is.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// Its state.
    pub state: State,
    /// Assignments so far.
    pub attempts: u32,
    /// Attempts that failed, and hosts where.
    pub failed: u32,
    /// Hosts to avoid.
    pub failed_hosts: Vec<String>,
    /// Workers lost while they executed it.
    pub lost: Vec<String>,
    /// The task whose failure it shares.
    pub blame: Option<TaskRef>,
    /// Where it is processing, and whether it is known to execute.
    pub processing: Option<(WorkerId, bool)>,
    /// Who holds its result.
    pub holders: Vec<WorkerId>,
    /// Size of its result, once known.
    pub nbytes: u64,
    /// How many inputs are missing (all-to-all edges count each), and the first of them.
    pub missing: (u64, Vec<TaskRef>),
    /// When it will be tried again.
    pub retry_at: Option<Time>,
    /// For ready tasks: each worker and why it does not take the task.
    pub workers: Vec<(WorkerId, String)>,
    /// References that keep its result.
    pub refs: u32,
}

/// A run as shown to people.
#[derive(Clone, Debug)]
pub struct RunView {
    /// Its id.
    pub run: RunId,
    /// Its identity.
    pub uuid: RunUuid,
    /// Its name.
    pub name: String,
    /// Whether it goes on without a client.
    pub detached: bool,
    /// Tasks by state, in the order of `State::ALL`.
    pub counts: [u64; State::ALL.len()],
    /// Tasks executing, as far as workers have said so.
    pub outputs_waiting: u64,
    /// Whether more tasks may come into being.
    pub growing: bool,
    /// Whether everything is over.
    pub done: bool,
    /// Figures so far.
    pub summary: Summary,
    /// Families: name, elements so far, elements done.
    pub families: Vec<(String, u32, u32)>,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunProgress {
    /// Tasks by state, in the order of `State::ALL`.
    pub counts: [u64; State::ALL.len()],
    /// Whether more tasks may come into being.
    pub growing: bool,
    /// Tasks that are neither done, failed nor cancelled.
    pub unfinished: u64,
    /// Outputs that nobody has taken yet.
    pub outputs_waiting: u64,
    /// Tasks that have succeeded, each once.
    pub done: u64,
    /// Attempts beyond the first.
    pub retried: u64,
}

/// A worker's resources without the sets of workers that it is in.
fn own(resources: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let own = resources.iter().filter(|(name, _)| !super::among::is_among(name));
    own.map(|(name, n)| (name.clone(), *n)).collect()
}

impl Core {
    /// All workers.
    pub fn workers(&self) -> Vec<WorkerView> {
        let view = |(i, w): (usize, &super::workers::Worker)| WorkerView {
            worker: WorkerId(i as u32),
            spec: WorkerSpec { resources: own(&w.spec.resources), ..w.spec.clone() },
            status: w.status,
            retiring: w.retiring.clone(),
            executing: w.started,
            queued: w.backlog(),
            done: w.done,
            slots_in_hand: w.slots_in_hand.min(w.spec.slots.into()),
            results: w.has.len(),
            nbytes: w.nbytes,
            last_seen: w.last_seen,
        };
        self.cx.workers.iter().enumerate().filter_map(|(i, w)| Some(view((i, w.as_ref()?)))).collect()
    }

    /// Number of connected workers and of their slots (1/10,000).
    pub fn capacity(&self) -> (usize, u64) {
        let all = self.cx.workers.iter().flatten();
        all.fold((0, 0), |(n, slots), w| (n + 1, slots + u64::from(w.spec.slots)))
    }

    /// All runs.
    pub fn runs(&self) -> Vec<RunView> {
        self.runs.iter().flatten().map(|run| run.view(self.cx.now)).collect()
    }

    /// One run.
    pub fn run_view(&self, run: RunId) -> Option<RunView> {
        Some(self.run(run)?.view(self.cx.now))
    }

    /// Tasks of a run by state, and how many execute at the moment: cheap enough for progress displays.
    pub fn run_counts(&self, run: RunId) -> Option<[u64; State::ALL.len()]> {
        Some(self.run(run)?.counts)
    }

    /// How far a run is, without what is costly to gather.
    pub fn run_progress(&self, run: RunId) -> Option<RunProgress> {
        let run = self.run(run)?;
        Some(RunProgress {
            counts: run.counts,
            growing: run.unsized_families > 0,
            unfinished: run.unfinished(),
            outputs_waiting: run.wanted,
            done: run.stats.done,
            retried: run.stats.retried,
        })
    }

    /// Why nothing of a run is in anybody's hands although tasks are ready, in words for a progress display;
    /// `None` while there is no such thing to tell.
    pub fn stuck(&self, run: RunId) -> Option<String> {
        let r = self.run(run)?;
        if r.count(State::Queued) == 0 || r.count(State::Processing) + r.count(State::Delayed) > 0 {
            return None;
        }
        let workers = || self.cx.workers.iter().flatten();
        if workers().next().is_none() {
            return Some("no worker is connected".into());
        }
        if !workers().any(|w| w.status == Status::Running) {
            return Some("every worker is paused or leaving".into());
        }
        let late = self.cx.ready.classes.iter().flat_map(|c| c.late.iter()).take(ENTRIES_LOOKED_AT);
        let mut late = late.filter(|e| e.task.run == run).filter_map(|e| r.first_queued(e));
        if let Some(i) = late.next() {
            let (f, _) = r.place_of(i);
            let name = r.names.get(f).unwrap_or("a task");
            let need = r.time_needed(f).unwrap_or_default().as_secs_f64();
            return Some(format!("{name} may take {need:.0} s, and every worker leaves before"));
        }
        for (run, f) in self.cx.gangs.waiting.keys().filter(|(x, _)| *x == run) {
            let mut waiting = self.cx.gangs.waiting[&(*run, *f)].iter();
            let queued = waiting.find(|(_, t)| r.state_of(t.index) == State::Queued);
            if let Some(why) = queued.and_then(|(_, t)| self.lacking_nodes(r, t.index)) {
                return Some(format!("{} {why}", r.names.get(*f).unwrap_or("a task")));
            }
        }
        let unable = |c: &&super::ready::Class| !workers().any(|w| w.could_run(c.slots, &c.resources));
        self.cx.ready.classes.iter().filter(unable).find_map(|class| {
            let entries = class.entries().take(ENTRIES_LOOKED_AT);
            let mut ready = entries.filter(|e| e.task.run == run).filter_map(|e| r.first_queued(e));
            let (f, _) = r.place_of(ready.next()?);
            let name = r.names.get(f).unwrap_or("a task");
            let amount = |n: u64| n as f64 / f64::from(crate::graph::layer::SLOT);
            let mut wants = vec![format!("{} threads", amount(class.slots.into()))];
            wants.extend(class.resources.iter().map(|(what, n)| match super::among::is_among(what) {
                true => what.clone(),
                false => format!("{} {what}", amount(*n)),
            }));
            Some(format!("{name} wants {}, which no worker has", wants.join(" and ")))
        })
    }

    /// The task that is a family's element, if it exists by now.
    pub fn find_task(&self, run: RunId, family: FamilyIx, element: u32) -> Option<TaskRef> {
        let r = self.run(run)?;
        let shape = r.families.get(family.index())?.shape?;
        (element < shape.total).then(|| r.task(r.index_of(family, element)))
    }

    /// Family and element of a task.
    pub fn locate(&self, task: TaskRef) -> Option<(FamilyIx, u32)> {
        let run = self.run(task.run)?;
        run.has(task.index).then(|| run.place_of(task.index))
    }

    /// A family's number of elements and the first one that later families see, once known.
    pub fn shape(&self, run: RunId, family: FamilyIx) -> Option<crate::graph::layer::Shape> {
        self.run(run)?.families.get(family.index())?.shape
    }

    /// What happened to a task, oldest first.
    pub fn story(&self, task: TaskRef) -> Vec<Record> {
        self.cx.story.of(task).copied().collect()
    }

    /// Why a task is where it is.
    pub fn explain(&self, task: TaskRef) -> Option<Explanation> {
        let run = self.run(task.run).filter(|run| run.has(task.index))?;
        let i = task.index;
        let (f, element) = run.place_of(i);
        let state = run.state_of(i);
        let trouble = run.trouble.get(&i).cloned().unwrap_or_default();
        let at = WorkerId(run.worker[i as usize]);
        let in_hand = self.cx.worker(at).and_then(|w| w.processing.get(&task));
        Some(Explanation {
            state,
            attempts: run.attempt[i as usize],
            failed: trouble.failed,
            failed_hosts: trouble.hosts.to_vec(),
            lost: trouble.lost,
            blame: trouble.blame.map(|b| run.task(b)),
            processing: in_hand.map(|hand| (at, hand.started.is_some())),
            holders: run.holders(i).to_vec(),
            nbytes: run.nbytes[i as usize],
            missing: run.missing_inputs(f, element),
            retry_at: self.cx.delayed.iter().find(|(_, t)| *t == task).map(|(at, _)| *at),
            workers: if state == State::Queued { self.why_not(run, f, i) } else { Vec::new() },
            refs: run.refs[i as usize],
        })
    }

    fn why_not(&self, run: &Run, f: FamilyIx, i: u32) -> Vec<(WorkerId, String)> {
        let layer = &run.families[f.index()].layer;
        let hosts = run.trouble.get(&i).map(|t| t.hosts.clone()).unwrap_or_default();
        let lacking = self.lacking_nodes(run, i);
        let threads = |n: u64| n as f64 / f64::from(crate::graph::layer::SLOT);
        let reason = |w: &super::workers::Worker| {
            if w.status != Status::Running {
                return format!("is {}", w.status.name());
            }
            if let Some(kept) = w.kept_for
                && self.cx.gangs.formed.contains_key(&kept)
            {
                let own = kept == run.task(i);
                let whose = if own { "this task" } else { "another task on several nodes" };
                return format!("is kept for {whose}: {} executing there", w.started);
            }
            if w.kept_for.is_some_and(|kept| kept != run.task(i)) {
                return "is kept for a task that ran out of memory and is to be alone".into();
            }
            if run.must_be_alone(i) && layer.nodes == 1 {
                return "the task ran out of memory: it waits for a worker to itself".into();
            }
            if layer.slots > w.spec.slots {
                let (wants, has) = (threads(layer.slots.into()), threads(w.spec.slots.into()));
                return format!("has {has} threads, the task wants {wants}");
            }
            let outside = |(name, _): &(&String, &u64)| {
                super::among::is_among(name) && !w.spec.resources.contains_key(*name)
            };
            if let Some((name, _)) = layer.resources.iter().find(outside) {
                return format!("is not one of those that the task may run on ({name})");
            }
            for (name, amount) in &layer.resources {
                let has = w.spec.resources.get(name).copied().unwrap_or(0);
                let booked = w.booked.get(name).copied().unwrap_or(0);
                if amount.saturating_add(booked) > has {
                    let (wants, has, booked) = (threads(*amount), threads(has), threads(booked));
                    return format!("has {has} {name}, {booked} in use, the task wants {wants}");
                }
            }
            if !w.has_time(self.cx.now, run.time_needed(f), layer.slots) {
                let left = w.spec.leaves.map_or(0, |at| at.since(self.cx.now).as_secs());
                let need = run.time_needed(f).unwrap_or_default().as_secs();
                return format!("leaves in {left} s, the task may take {need} s");
            }
            if let Some(lacking) = &lacking {
                return format!("would be one of several: the task {lacking}");
            }
            if hosts.contains(&w.spec.host) {
                return "the task failed on this host".into();
            }
            format!("is busy: {} executing, {} queued there", w.started, w.backlog())
        };
        let all = self.cx.workers.iter().enumerate();
        all.filter_map(|(k, w)| Some((WorkerId(k as u32), reason(w.as_ref()?)))).collect()
    }
}

impl Run {
    /// The family of an entry's first task.
    pub(super) fn family_of(&self, entry: &super::ready::Entry) -> Option<FamilyIx> {
        self.first_queued(entry).map(|i| self.place_of(i).0)
    }

    /// A queued task of an entry.
    fn first_queued(&self, entry: &super::ready::Entry) -> Option<u32> {
        let queued = |i: &u32| self.state_of(*i) == State::Queued;
        match entry.as_pool() {
            Some(pool) => self.pooled(pool).find(queued),
            None => Some(entry.task.index).filter(queued),
        }
    }

    fn view(&self, now: Time) -> RunView {
        let families = self.families.iter().enumerate().map(|(f, family)| {
            let name = self.names.get(FamilyIx(f as u32)).unwrap_or_default().to_owned();
            (name, family.shape.map_or(0, |s| s.total), family.done)
        });
        RunView {
            run: self.id,
            uuid: self.uuid,
            name: self.name.clone(),
            detached: self.detached,
            counts: self.counts,
            outputs_waiting: self.wanted,
            growing: self.unsized_families > 0,
            done: self.is_done(),
            summary: self.summary(now),
            families: families.collect(),
        }
    }

    fn missing_inputs(&self, f: FamilyIx, element: u32) -> (u64, Vec<TaskRef>) {
        let (mut n, mut first) = (0, Vec::new());
        for (e, edge) in (0..).zip(self.edges.of(f)) {
            self.each_input(f, element, e, |j| {
                let packed = self.state[j as usize];
                let there = if edge.data { packed.state() == State::Memory } else { packed.done_once() };
                if !there {
                    n += 1;
                    if first.len() < INPUTS_NAMED {
                        first.push(self.task(j));
                    }
                }
            });
        }
        (n, first)
    }
}

//! Tasks on several nodes (`nodes = N`): each gets N whole workers, on N hosts and in one batch job, and runs
//! on one of them. Owns choosing these workers, keeping them free until all are empty, and letting them go.
//!
//! A task gets all of its workers at once or none, so two such tasks never wait for each other. They go by
//! priority: one that the cluster has the nodes for lets no later one go before it, and waits itself until no
//! task on one node is left that goes before. Workers that are chosen get nothing
//! new and give back what they have not started, so they are empty as soon as their tasks have ended.

use super::Core;
use super::action::Member;
use super::cx::Cx;
use super::run::Run;
use super::state::State;
use super::workers::{Status, Worker};
use crate::base::failure::{Failure, FailureKind};
use crate::base::ids::{FamilyIx, RunId, TaskRef, WorkerId};
use crate::base::priority::Priority;
use std::collections::{BTreeMap, BTreeSet};

/// Tasks on several nodes that wait or have their workers.
#[derive(Default)]
pub(super) struct Gangs {
    /// Ready tasks, by family: those of one family need the same. Some may be ready no more.
    pub(super) waiting: BTreeMap<(RunId, FamilyIx), BTreeSet<(Priority, TaskRef)>>,
    /// Tasks that have their workers.
    pub(super) formed: BTreeMap<TaskRef, Gang>,
    /// One that waits may get its workers now.
    pub(super) changed: bool,
}

/// The workers of a task.
pub(super) struct Gang {
    /// While it runs, the first is where.
    pub(super) members: Vec<WorkerId>,
    /// The attempt that runs; none while the workers are getting empty.
    pub(super) attempt: Option<u32>,
}

/// What looking for workers has come to.
enum Muster {
    /// These, now.
    Of(Vec<WorkerId>),
    /// There are enough, and some are in use.
    Later,
    /// There are not so many.
    Lacking,
}

/// Workers by host.
type Hosts<'a> = BTreeMap<&'a str, Vec<WorkerId>>;

impl Run {
    /// Whether the elements of a family take several workers each.
    pub(super) fn is_wide(&self, f: FamilyIx) -> bool {
        self.families[f.index()].layer.nodes > 1
    }

    /// Notes a queued task that is to have several workers.
    pub(super) fn wait_for_workers(&self, cx: &mut Cx, i: u32) {
        let (f, element) = self.place_of(i);
        cx.gangs.waiting.entry((self.id, f)).or_default().insert((self.priority(f, element), self.task(i)));
        cx.gangs.changed = true;
    }

    /// Whether a worker could be one of a task's, now or later.
    fn could_serve(&self, cx: &Cx, f: FamilyIx, i: u32, worker: &Worker) -> bool {
        let layer = &self.families[f.index()].layer;
        let in_time = match (worker.spec.leaves, self.time_needed(f)) {
            (Some(leaves), Some(need)) => cx.now.after(need) <= leaves,
            _ => true,
        };
        worker.status != Status::Retiring
            && worker.could_run(layer.slots, &layer.resources)
            && worker.spec.memory_limit.is_none_or(|limit| limit >= self.declared_memory(i))
            && in_time
    }
}

impl Cx {
    /// What a task with several workers is told of them; nothing for others.
    pub(super) fn members_of(&self, task: TaskRef) -> Vec<Member> {
        let Some(gang) = self.gangs.formed.get(&task) else { return Vec::new() };
        let workers = gang.members.iter().filter_map(|w| self.worker(*w));
        workers.map(|w| Member { host: w.spec.host.clone(), slots: w.spec.slots }).collect()
    }
}

impl Core {
    /// Whether a task runs that has this worker as one of several.
    pub(super) fn is_in_use(&self, w: WorkerId) -> bool {
        let task = self.cx.worker(w).and_then(|x| x.kept_for);
        task.and_then(|task| self.cx.gangs.formed.get(&task)).is_some_and(|gang| gang.attempt.is_some())
    }

    /// Lets go of workers whose task has ended, starts tasks whose workers are empty, and looks for workers
    /// for those that wait.
    pub(super) fn serve_gangs(&mut self) {
        let formed: Vec<TaskRef> = self.cx.gangs.formed.keys().copied().collect();
        formed.into_iter().for_each(|task| self.serve_gang(task));
        if self.cx.gangs.waiting.is_empty() {
            return;
        }
        if std::mem::take(&mut self.cx.gangs.changed) || self.cx.in_hand == 0 {
            self.form_gangs();
        }
    }

    fn serve_gang(&mut self, task: TaskRef) {
        let Some(gang) = self.cx.gangs.formed.get(&task) else { return };
        let i = task.index;
        let run = self.run(task.run).filter(|run| run.has(i));
        if let Some(attempt) = gang.attempt {
            let runs = |r: &Run| r.state_of(i) == State::Processing && r.attempt[i as usize] == attempt;
            if !run.is_some_and(runs) {
                self.disband(task);
            }
            return;
        }
        let stays = |w: &WorkerId| {
            self.cx.worker(*w).is_some_and(|x| match x.status {
                Status::Running => true,
                Status::Paused => self.cx.in_hand == 0,
                Status::Retiring => false,
            })
        };
        let run = run.filter(|r| r.state_of(i) == State::Queued);
        let Some(run) = run.filter(|_| gang.members.iter().all(stays)) else {
            self.disband(task);
            return;
        };
        let is_empty = |w: &WorkerId| self.cx.worker(*w).is_some_and(|x| x.processing.is_empty());
        if !run.is_full() && gang.members.iter().all(is_empty) {
            self.start_gang(task);
        }
    }

    /// Hands a task to the best of its workers, which are all empty.
    fn start_gang(&mut self, task: TaskRef) {
        let first = self.first_of(task);
        let Some(run) = self.runs.get_mut(task.run.index()).and_then(|r| r.as_deref_mut()) else { return };
        let (f, element) = run.place_of(task.index);
        if let Some(waiting) = self.cx.gangs.waiting.get_mut(&(run.id, f)) {
            waiting.remove(&(run.priority(f, element), task));
        }
        let Some(gang) = self.cx.gangs.formed.get_mut(&task) else { return };
        gang.attempt = Some(run.attempt[task.index as usize] + 1);
        let at = gang.members.iter().position(|w| Some(*w) == first).unwrap_or(0);
        gang.members[..=at].rotate_right(1);
        let w = gang.members[0];
        run.assign(&mut self.cx, task.index, w);
    }

    /// Where a task is best run: where there is memory for it, and most of its inputs are.
    fn first_of(&self, task: TaskRef) -> Option<WorkerId> {
        let (run, i) = (self.run(task.run)?, task.index);
        let (f, element) = run.place_of(i);
        let (held, _) = run.bytes_by_worker(f, element);
        let worth = |w: &WorkerId| {
            let worker = self.cx.worker(*w)?;
            let roomy = !run.must_be_alone(i) || run.could_give_room(worker, i);
            let bytes = held.iter().find(|(x, _)| x == w).map_or(0, |(_, bytes)| *bytes);
            let running = worker.status == Status::Running;
            Some((roomy, running, run.fits(&self.cx, i, *w), bytes, worker.headroom().unwrap_or(u64::MAX)))
        };
        let gang = self.cx.gangs.formed.get(&task)?;
        // Of equals the first: they are in the order in which they were chosen.
        gang.members.iter().rev().copied().max_by_key(worth)
    }

    /// Lets go of a task's workers.
    fn disband(&mut self, task: TaskRef) {
        let Some(gang) = self.cx.gangs.formed.remove(&task) else { return };
        self.cx.gangs.changed = true;
        for w in gang.members {
            if let Some(worker) = self.cx.worker_mut(w).filter(|x| x.kept_for == Some(task)) {
                worker.kept_for = None;
                self.cx.relist(w);
            }
        }
        // One that wants to leave may do so now.
        self.check_retiring();
    }

    /// A worker is gone that was one of a task's: an attempt elsewhere is ended, for its processes here are
    /// gone too. `lost` names the worker and its host if nobody expected that.
    pub(super) fn end_without(&mut self, task: TaskRef, w: WorkerId, lost: Option<(&str, &str)>) {
        let Some(gang) = self.cx.gangs.formed.get(&task) else { return };
        let Some(attempt) = gang.attempt.filter(|_| gang.members.contains(&w)) else { return };
        let Some(run) = self.runs.get_mut(task.run.index()).and_then(|r| r.as_deref_mut()) else { return };
        let i = task.index;
        let runs = run.state_of(i) == State::Processing && run.attempt[i as usize] == attempt;
        if !runs || run.worker[i as usize] == w.0 {
            return;
        }
        let first = self.cx.worker(WorkerId(run.worker[i as usize]));
        let hand = first.and_then(|x| x.processing.get(&task));
        let started = hand.is_some_and(|hand| hand.started.is_some());
        run.recall(&mut self.cx, i);
        match lost.filter(|_| started) {
            Some((lost, host)) => run.blame_loss(&mut self.cx, i, lost, host),
            None => run.put_back(&mut self.cx, i),
        }
    }

    /// Looks for workers for the tasks that wait, the first ones first.
    fn form_gangs(&mut self) {
        let families: Vec<_> = self.cx.gangs.waiting.keys().copied().collect();
        let mut heads: BTreeSet<_> =
            families.into_iter().filter_map(|f| self.first_waiting(f).map(|(p, t)| (p, t, f))).collect();
        while let Some((priority, task, family)) = heads.pop_first() {
            let Some(run) = self.runs.get_mut(task.run.index()).and_then(|r| r.as_deref_mut()) else {
                continue;
            };
            if run.is_full() {
                continue;
            }
            if run.must_be_alone(task.index)
                && let Some(end) = run.no_more_room(&self.cx, task.index)
            {
                let last = Failure::of(FailureKind::Cancelled);
                run.give_up_outgrown(&mut self.cx, task.index, end, &last);
            } else {
                match self.muster(task) {
                    Muster::Lacking => continue,
                    Muster::Later => return,
                    Muster::Of(_) if self.is_preceded(priority) => {
                        self.cx.gangs.changed = true;
                        return;
                    }
                    Muster::Of(members) => self.form(task, members),
                }
            }
            heads.extend(self.first_waiting(family).map(|(p, t)| (p, t, family)));
        }
    }

    /// The first task of a family that waits and has no workers. Those that are ready no more are removed.
    fn first_waiting(&mut self, family: (RunId, FamilyIx)) -> Option<(Priority, TaskRef)> {
        let gangs = &mut self.cx.gangs;
        let run = self.runs.get(family.0.index()).and_then(|r| r.as_deref());
        let waiting = gangs.waiting.get_mut(&family)?;
        let queued = |t: &TaskRef| run.is_some_and(|r| r.state_of(t.index) == State::Queued);
        while let Some(stale) = waiting.first().filter(|(_, t)| !queued(t)).copied() {
            waiting.remove(&stale);
        }
        if waiting.is_empty() {
            gangs.waiting.remove(&family);
            return None;
        }
        waiting.iter().find(|(_, t)| queued(t) && !gangs.formed.contains_key(t)).copied()
    }

    /// Whether a task on one node waits that goes before and could go.
    fn is_preceded(&self, priority: Priority) -> bool {
        self.cx.ready.classes.iter().any(|class| {
            class.heap.peek().is_some_and(|e| e.priority < priority)
                && self
                    .cx
                    .workers
                    .iter()
                    .flatten()
                    .any(|w| w.status == Status::Running && w.could_run(class.slots, &class.resources))
        })
    }

    /// The workers for a task. Of several on one host only one counts; all are in one batch job, whose nodes
    /// reach each other by the batch system's means.
    fn muster(&self, task: TaskRef) -> Muster {
        let Some(run) = self.run(task.run) else { return Muster::Lacking };
        let i = task.index;
        let (f, _) = run.place_of(i);
        let wanted = run.families[f.index()].layer.nodes as usize;
        let is_free = |x: &Worker| {
            x.kept_for.is_none()
                && (x.status == Status::Running || (x.status == Status::Paused && self.cx.in_hand == 0))
        };
        let avoided = run.trouble.get(&i).map(|t| t.hosts.as_slice()).unwrap_or_default();
        let worth = |w: WorkerId| {
            self.cx.worker(w).map(|x| {
                let narrow = run.must_be_alone(i) && !run.could_give_room(x, i);
                let paused = x.status != Status::Running;
                (avoided.contains(&x.spec.host), paused, narrow, !x.processing.is_empty(), x.load(), w)
            })
        };
        let (mut best, mut lacking) = (None, true);
        for hosts in self.able_hosts(run, f, i).values().filter(|hosts| hosts.len() >= wanted) {
            lacking = false;
            let free = |w: &&WorkerId| self.cx.worker(**w).is_some_and(is_free);
            let of_host = |ws: &Vec<WorkerId>| ws.iter().filter(free).filter_map(|w| worth(*w)).min();
            let mut found: Vec<_> = hosts.values().filter_map(of_host).collect();
            if found.len() >= wanted {
                found.sort_unstable();
                found.truncate(wanted);
                // The last of them decides when all are empty.
                let last = found[wanted - 1];
                if best.as_ref().is_none_or(|(known, _)| last < *known) {
                    best = Some((last, found.iter().map(|(.., w)| *w).collect()));
                }
            }
        }
        match best {
            Some((_, members)) => Muster::Of(members),
            None if lacking => Muster::Lacking,
            None => Muster::Later,
        }
    }

    /// The workers that could be among a task's, by batch job and host.
    fn able_hosts(&self, run: &Run, f: FamilyIx, i: u32) -> BTreeMap<Option<&str>, Hosts<'_>> {
        let mut jobs: BTreeMap<Option<&str>, Hosts<'_>> = BTreeMap::new();
        for (w, worker) in self.cx.workers.iter().enumerate() {
            let Some(worker) = worker.as_ref().filter(|x| run.could_serve(&self.cx, f, i, x)) else {
                continue;
            };
            let hosts = jobs.entry(worker.spec.job.as_deref()).or_default();
            hosts.entry(&worker.spec.host).or_default().push(WorkerId(w as u32));
        }
        jobs
    }

    /// Keeps workers for a task, which gets them once they are empty.
    fn form(&mut self, task: TaskRef, members: Vec<WorkerId>) {
        for &w in &members {
            self.drain_local(w);
            if let Some(worker) = self.cx.worker_mut(w) {
                worker.kept_for = Some(task);
            }
            self.cx.relist(w);
            self.ask_all_back(w);
        }
        self.cx.gangs.formed.insert(task, Gang { members, attempt: None });
        self.serve_gang(task);
    }

    /// Why a task on several nodes that waits cannot have them, if the cluster has not so many; in words that
    /// follow the task's name.
    pub(super) fn lacking_nodes(&self, run: &Run, i: u32) -> Option<String> {
        let (f, _) = run.place_of(i);
        let layer = &run.families[f.index()].layer;
        let jobs = self.able_hosts(run, f, i);
        let most = jobs.values().map(BTreeMap::len).max().unwrap_or(0);
        if layer.nodes <= 1 || most >= layer.nodes as usize {
            return None;
        }
        let within = if jobs.keys().any(Option::is_some) { " in one batch job" } else { "" };
        let nodes = layer.nodes;
        let have = match most {
            0 => "there is none that could be one of them".to_owned(),
            1 => "there is 1 that could be one of them".to_owned(),
            n => format!("there are {n} that could be among them"),
        };
        Some(format!("wants {nodes} nodes{within}, each with a worker: {have}"))
    }

    /// What must hold for tasks with several workers: nothing else is on these, they are on different hosts
    /// of one job, and no task waits whose workers are free.
    pub(super) fn check_gangs(&self) -> Result<(), String> {
        for (task, gang) in &self.cx.gangs.formed {
            let run = self.run(task.run).ok_or_else(|| format!("{task:?} of no run has workers"))?;
            let (f, _) = run.place_of(task.index);
            let members: Vec<&Worker> = gang.members.iter().filter_map(|w| self.cx.worker(*w)).collect();
            let hosts: BTreeSet<&str> = members.iter().map(|x| x.spec.host.as_str()).collect();
            let jobs: BTreeSet<_> = members.iter().map(|x| x.spec.job.as_deref()).collect();
            let wanted = run.families[f.index()].layer.nodes as usize;
            let whole = [gang.members.len(), members.len(), hosts.len()] == [wanted; 3] && jobs.len() == 1;
            if !whole || members.iter().any(|x| x.kept_for != Some(*task)) {
                return Err(format!("{task:?} has not the workers it should: {:?}", gang.members));
            }
            let mut busy = members.iter().map(|x| x.processing.len());
            let right = match gang.attempt {
                Some(_) => busy.next() == Some(1) && busy.all(|n| n == 0),
                None => run.is_full() || busy.any(|n| n > 0),
            };
            if !right {
                return Err(format!("{task:?} should have its workers to itself: {:?}", gang.members));
            }
        }
        if self.cx.gangs.changed && self.cx.in_hand > 0 {
            // They are looked at with the next event, and there will be one.
            return Ok(());
        }
        let mut first: Vec<_> = self.cx.gangs.waiting.values().flatten().collect();
        first.sort_unstable();
        for (_, task) in first {
            let waits = |r: &&Run| r.state_of(task.index) == State::Queued && !r.is_full();
            if self.cx.gangs.formed.contains_key(task) || self.run(task.run).filter(waits).is_none() {
                continue;
            }
            match self.muster(*task) {
                Muster::Of(members) => return Err(format!("{task:?} waits, and {members:?} are free")),
                Muster::Later => break,
                Muster::Lacking => {}
            }
        }
        Ok(())
    }
}

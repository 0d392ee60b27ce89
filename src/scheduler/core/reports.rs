//! What workers report: attempts begun, done, failed, not possible; and workers coming and going. Owns the
//! checks that a report is about the present attempt, and the rules of trying again.

use super::action::{Action, TaskFailure};
use super::cx::Cx;
use super::event::{Finished, MemoryUse, Missing, Report, WorkerSpec};
use super::run::{NOBODY, Run, Usual};
use super::state::State;
use super::workers::{Status, Worker};
use super::{Core, Settings};
use crate::base::failure::{Failure, FailureKind};
use crate::base::ids::{Attempt, TaskRef, WorkerId};
use crate::base::time::Time;
use crate::graph::layer::Size;
use rustc_hash::FxHashSet;
use std::sync::Arc;
use std::time::Duration;

/// How often a task's inputs may be out of reach before it fails.
const INPUTS_MISSING_MAX: u32 = 20;
/// How often within their timeouts silent workers and absent clients are looked for.
const LIVENESS_CHECKS: u32 = 12;
/// Failed tasks whose details are kept for the client.
const FAILURES_KEPT: usize = 100;

impl Worker {
    /// When something has to be done about this worker though it says nothing.
    pub(super) fn deadline(&self, settings: &Settings) -> Time {
        self.last_seen.after(settings.worker_loss_timeout)
    }
}

impl Core {
    pub(super) fn on_worker_registered(&mut self, w: WorkerId, spec: WorkerSpec) {
        // The same name again: a new life of the same worker, whatever became of its last connection.
        let old = self.cx.workers.iter().position(|x| x.as_ref().is_some_and(|x| x.spec.name == spec.name));
        if let Some(old) = old {
            let old = WorkerId(old as u32);
            self.cx.actions.push(Action::Drop { worker: old, reason: "it registered anew".into() });
            self.on_worker_gone(old, "it registered anew", false);
        }
        if self.cx.workers.len() <= w.index() {
            self.cx.workers.resize_with(w.index() + 1, || None);
        }
        self.cx.workers[w.index()] = Some(Worker::new(spec, self.cx.now));
        self.join_sets(w);
        self.cx.relief = true;
        self.cx.gangs.changed = true;
        self.cx.touch(w);
    }

    pub(super) fn on_heartbeat(&mut self, w: WorkerId, memory: Option<MemoryUse>) {
        let now = self.cx.now;
        if let Some(worker) = self.cx.workers.get_mut(w.index()).and_then(|x| x.as_mut()) {
            worker.last_seen = now;
            if let Some(memory) = memory {
                worker.memory = memory;
                self.cx.spills |= memory.spilled > 0;
                self.cx.relief = true;
            }
        }
    }

    /// A worker is gone: its tasks run elsewhere, its results are found elsewhere or computed again.
    pub(super) fn on_worker_gone(&mut self, w: WorkerId, reason: &str, expected: bool) {
        self.drain_local(w);
        let Some(mut worker) = self.cx.workers.get_mut(w.index()).and_then(Option::take) else { return };
        self.cx.touch(w);
        self.cx.in_hand -= worker.processing.len();
        self.cx.relief = true;
        self.leaving.remove(&w);
        self.ask_others(w);
        self.runs.iter_mut().flatten().for_each(|run| run.disown(w));
        let expected = expected || worker.retiring.is_some();
        let lost = format!("{} on {}: {reason}", worker.spec.name, worker.spec.host);
        let suspected = worker.processing.values().any(|h| h.suspect && h.started.is_some());
        // First what it had in hand, so that nothing of it is taken for work that goes on.
        for (task, hand) in std::mem::take(&mut worker.processing) {
            let Some(run) = self.runs.get_mut(task.run.index()).and_then(|r| r.as_deref_mut()) else {
                continue;
            };
            let i = task.index;
            if run.state_of(i) != State::Processing || run.worker[i as usize] != w.0 {
                continue;
            }
            run.worker[i as usize] = NOBODY;
            if expected || hand.started.is_none() {
                run.put_back(&mut self.cx, i);
            } else if suspected && !hand.suspect {
                // It ran beside one under which a worker had been lost before: that one is to blame.
                run.stats.retried += 1;
                run.put_back(&mut self.cx, i);
            } else {
                run.blame_loss(&mut self.cx, i, &lost, &worker.spec.host);
            }
        }
        if let Some(task) = worker.kept_for {
            self.end_without(task, w, (!expected).then_some((&lost, &worker.spec.host)));
        }
        for task in std::mem::take(&mut worker.has) {
            let Some(run) = self.runs.get_mut(task.run.index()).and_then(|r| r.as_deref_mut()) else {
                continue;
            };
            run.lose_replica(&mut self.cx, task.index, w);
        }
    }

    pub(super) fn on_report(&mut self, w: WorkerId, report: Report) {
        self.on_heartbeat(w, None);
        if self.cx.worker(w).is_none() {
            return;
        }
        if let Some(paused) = report.paused {
            self.on_paused(w, paused);
        }
        for task in report.replicas {
            let Some(run) = self.runs.get_mut(task.run.index()).and_then(|r| r.as_deref_mut()) else {
                self.cx.free(w, task);
                continue;
            };
            if run.has(task.index) {
                let nbytes = run.nbytes[task.index as usize];
                run.stats.bytes_moved = run.stats.bytes_moved.saturating_add(nbytes);
                self.cx.groups.moved(run.group_of(task.index), nbytes);
                run.add_replica(&mut self.cx, task.index, w);
            }
        }
        for (task, nbytes) in report.stored {
            self.on_stored(w, task, nbytes);
        }
        for (task, from) in report.uncopied {
            if let Some(worker) = self.cx.workers.get_mut(from.index()).and_then(|x| x.as_mut()) {
                worker.moving.swap_remove(&task);
            }
        }
        for (task, attempt) in report.started {
            self.on_started(w, task, attempt);
        }
        for (task, attempt, away) in report.away {
            if self.current(w, task, attempt).is_some()
                && let Some(worker) = self.cx.worker_mut(w)
            {
                worker.set_away(task, away);
            }
        }
        let pinned: FxHashSet<TaskRef> = report.pinned.into_iter().collect();
        for finished in &report.finished {
            self.on_finished(w, finished, pinned.contains(&finished.task));
        }
        for (task, attempt, failure) in report.failed {
            if let Some(run) = self.current(w, task, attempt) {
                self.runs[run]
                    .as_deref_mut()
                    .into_iter()
                    .for_each(|r| r.on_failed(&mut self.cx, task.index, &failure));
            }
        }
        for missing in &report.missing {
            self.on_missing(w, missing);
        }
        self.on_returned(w, &report.returned, &report.kept);
    }

    fn on_paused(&mut self, w: WorkerId, paused: bool) {
        let Some(worker) = self.cx.worker_mut(w) else { return };
        match worker.status {
            Status::Running if paused => worker.status = Status::Paused,
            Status::Paused if !paused => worker.status = Status::Running,
            _ => return,
        }
        self.cx.gangs.changed = true;
        if paused {
            self.drain_local(w);
            self.ask_back(w);
        } else {
            self.cx.relief = true;
        }
    }

    /// Asks a paused worker for what it has not started and others could do, unless it would free memory
    /// there: that it may start even so.
    fn ask_back(&mut self, w: WorkerId) {
        let able = |slots, resources: &_| {
            let mut others = self.cx.workers.iter().flatten();
            others.any(|x| x.status == Status::Running && x.could_run(slots, resources))
        };
        let could_go: Vec<bool> = self.cx.ready.classes.iter().map(|c| able(c.slots, &c.resources)).collect();
        let Some(worker) = self.cx.workers.get_mut(w.index()).and_then(|x| x.as_mut()) else { return };
        let mut attempts = Vec::new();
        for (task, hand) in &mut worker.processing {
            if hand.started.is_some() || hand.stealing || !could_go[hand.class as usize] {
                continue;
            }
            let Some(run) = self.runs.get(task.run.index()).and_then(|r| r.as_deref()) else { continue };
            let (f, element) = run.place_of(task.index);
            let demand = run.demand(f, element, w);
            if demand.frees == 0 || demand.frees < demand.adds {
                hand.stealing = true;
                let n = run.attempt[task.index as usize];
                attempts.push((*task, Attempt { epoch: self.cx.epoch, n }));
            }
        }
        if !attempts.is_empty() {
            self.cx.actions.push(Action::Steal { worker: w, attempts });
        }
    }

    /// Tasks that waited for this worker wait for any from now on.
    pub(super) fn drain_local(&mut self, w: WorkerId) {
        let Some(worker) = self.cx.workers.get_mut(w.index()).and_then(|x| x.as_mut()) else { return };
        let entries = std::mem::take(&mut worker.local);
        self.cx.ready.local.remove(&(entries.len(), w));
        for entry in entries {
            let Some(run) = self.runs.get(entry.task.run.index()).and_then(|r| r.as_deref()) else {
                continue;
            };
            let (f, _) = run.place_of(entry.task.index);
            self.cx.ready.push(run.families[f.index()].class, entry);
        }
    }

    /// The position of the run, if this attempt is the task's present one and in this worker's hands.
    /// Everything else is late news.
    fn current(&self, w: WorkerId, task: TaskRef, attempt: Attempt) -> Option<usize> {
        let run = self.run(task.run)?;
        let i = task.index as usize;
        let current = run.has(task.index)
            && run.state_of(task.index) == State::Processing
            && run.worker[i] == w.0
            && attempt == (Attempt { epoch: self.cx.epoch, n: run.attempt[i] });
        current.then_some(task.run.index())
    }

    fn on_started(&mut self, w: WorkerId, task: TaskRef, attempt: Attempt) {
        if self.current(w, task, attempt).is_none() {
            return;
        }
        let now = self.cx.now;
        let Some(worker) = self.cx.worker_mut(w) else { return };
        if let Some(hand) = worker.processing.get_mut(&task)
            && hand.started.is_none()
        {
            hand.started = Some(now);
            worker.started += 1;
            worker.progress = now;
        }
    }

    fn on_finished(&mut self, w: WorkerId, finished: &Finished, pinned: bool) {
        let Some(run) = self.current(w, finished.task, finished.attempt) else {
            self.refuse_result(w, finished.task);
            return;
        };
        let Some(run) = self.runs[run].as_deref_mut() else { return };
        let kept = run.take_back(&mut self.cx, finished.task.index);
        if kept && run.refs[finished.task.index as usize] == 0 {
            // Whoever needed it has failed or vanished since the task was handed out.
            self.cx.free(w, finished.task);
        }
        run.learn(finished);
        if let Some(worker) = self.cx.workers[w.index()].as_mut() {
            worker.done += 1;
            worker.progress = self.cx.now;
        }
        self.cx.groups.finished(run.group_of(finished.task.index), finished);
        if let Some(worker) = self.cx.workers[w.index()].as_mut().filter(|x| !x.guessed.is_empty()) {
            worker.estimate_anew(|task| {
                let f = (task.run == run.id && run.has(task.index)).then(|| run.place_of(task.index).0)?;
                Some((run.expected_ns(f)?, run.expected_bytes(f).unwrap_or(0).min(1 << 44)))
            });
        }
        run.set_pinned(finished.task.index, pinned && run.refs[finished.task.index as usize] > 0);
        run.complete(&mut self.cx, finished.task.index, w, finished.nbytes);
    }

    /// A result nobody expects is dropped where it lies, unless that worker is known to hold the task's
    /// result.
    fn refuse_result(&mut self, w: WorkerId, task: TaskRef) {
        let held = self.cx.worker(w).is_some_and(|x| x.has.contains(&task));
        if !held {
            self.cx.free(w, task);
        }
    }

    fn on_missing(&mut self, w: WorkerId, missing: &Missing) {
        // Where the inputs are not, whether or not the attempt is still wanted.
        for &(input, holder) in &missing.inputs {
            let Some(run) = self.runs.get_mut(input.run.index()).and_then(|r| r.as_deref_mut()) else {
                continue;
            };
            if run.has(input.index) && run.holders(input.index).contains(&holder) {
                self.cx.free(holder, input);
                run.lose_replica(&mut self.cx, input.index, holder);
            }
        }
        let Some(run) = self.current(w, missing.task, missing.attempt) else { return };
        let Some(run) = self.runs[run].as_deref_mut() else { return };
        let i = missing.task.index;
        run.take_back(&mut self.cx, i);
        let trouble = run.trouble.entry(i).or_default();
        trouble.inputs_missing += 1;
        if trouble.inputs_missing > INPUTS_MISSING_MAX {
            let failure = Failure::of(FailureKind::Inputs(format!("{INPUTS_MISSING_MAX} times in a row")));
            run.give_up(&mut self.cx, i, Arc::new(failure));
        } else {
            run.put_back(&mut self.cx, i);
        }
    }

    fn on_returned(&mut self, w: WorkerId, returned: &[(TaskRef, Attempt)], kept: &[(TaskRef, Attempt)]) {
        for &(task, attempt) in returned {
            let Some(run) = self.current(w, task, attempt) else { continue };
            let Some(run) = self.runs[run].as_deref_mut() else { continue };
            run.take_back(&mut self.cx, task.index);
            run.put_back(&mut self.cx, task.index);
        }
        let Some(worker) = self.cx.worker_mut(w) else { return };
        if !returned.is_empty() || !kept.is_empty() {
            worker.robbed = false;
        }
        for (task, _) in kept {
            if let Some(hand) = worker.processing.get_mut(task) {
                hand.stealing = false;
            }
        }
    }

    /// What is due: retries, silent workers, leases.
    pub(super) fn on_time(&mut self) {
        let now = self.cx.now;
        while let Some(&(at, task)) = self.cx.delayed.first().filter(|(at, _)| *at <= now) {
            self.cx.delayed.remove(&(at, task));
            let Some(run) = self.runs.get_mut(task.run.index()).and_then(|r| r.as_deref_mut()) else {
                continue;
            };
            if run.state_of(task.index) == State::Delayed {
                run.settle(&mut self.cx, task.index);
            }
        }
        if self.check_at > now {
            return;
        }
        let timeout = self.cx.settings.worker_loss_timeout;
        self.check_at = now.after(timeout.min(self.cx.settings.session_lease) / LIVENESS_CHECKS);
        self.end_leases();
        for w in 0..self.cx.workers.len() as u32 {
            let silent =
                self.cx.workers[w as usize].as_ref().is_some_and(|x| x.deadline(&self.cx.settings) <= now);
            if silent {
                let (worker, reason) = (WorkerId(w), format!("silent for {} s", timeout.as_secs()));
                self.on_worker_gone(worker, &reason, false);
                self.cx.actions.push(Action::Drop { worker, reason });
            }
        }
    }
}

impl Run {
    /// Puts a task back that a worker had in its hands, without blame.
    pub(super) fn put_back(&mut self, cx: &mut Cx, i: u32) {
        self.worker[i as usize] = NOBODY;
        self.settle(cx, i);
    }

    /// Notes duration and size of a success.
    fn learn(&mut self, finished: &Finished) {
        self.stats.task_time = self.stats.task_time.saturating_add(finished.duration);
        self.stats.bytes_made = self.stats.bytes_made.saturating_add(finished.nbytes);
        let ns = u64::try_from(finished.duration.as_nanos()).unwrap_or(u64::MAX);
        let (f, _) = self.place_of(finished.task.index);
        let bytes = finished.nbytes;
        let smoothed = |old: u64| old / 2 + ns / 2;
        // Sizes are planned with, so the large ones count: up at once, down slowly.
        let largest = |old: u64| bytes.max(old - old / 16 + bytes / 16);
        let family = &mut self.families[f.index()];
        for known in [&mut family.duration_ns, &mut self.stats.duration_ns] {
            *known = Some(known.map_or(ns, smoothed));
        }
        for known in [&mut family.result_bytes, &mut self.stats.result_bytes] {
            *known = Some(known.map_or(bytes, largest));
        }
        if family.layer.size == Size::Fixed(1) {
            let first = Usual { duration_ns: ns, result_bytes: bytes };
            let usual = self.usual.entry(family.group).or_insert(first);
            usual.duration_ns = smoothed(usual.duration_ns);
            usual.result_bytes = largest(usual.result_bytes);
        }
        if !self.overdue.is_empty() {
            let group = self.families[f.index()].group;
            self.overdue.remove(&group);
        }
    }

    /// An attempt failed: try again later, elsewhere if possible, or give up.
    fn on_failed(&mut self, cx: &mut Cx, i: u32, failure: &Arc<Failure>) {
        let w = WorkerId(self.worker[i as usize]);
        let host = cx.worker(w).map(|x| x.spec.host.clone()).unwrap_or_default();
        self.take_back(cx, i);
        let (f, _) = self.place_of(i);
        let retries = self.families[f.index()].layer.retries;
        cx.groups.failed(self.families[f.index()].group);
        if let FailureKind::Memory(shortage) = &failure.kind {
            self.on_outgrown(cx, i, w, shortage, failure);
            return;
        }
        let trouble = self.trouble.entry(i).or_default();
        trouble.failed += 1;
        if !trouble.hosts.contains(&host) {
            trouble.hosts.push(host);
        }
        if trouble.failed > retries {
            self.give_up(cx, i, failure.clone());
            return;
        }
        let pause = backoff(&cx.settings, trouble.failed);
        cx.tell_attempt(self, i, failure, true);
        self.delay(cx, i, pause);
    }

    /// A worker was lost while it executed this task.
    pub(super) fn blame_loss(&mut self, cx: &mut Cx, i: u32, lost: &str, host: &str) {
        let trouble = self.trouble.entry(i).or_default();
        trouble.lost.push(lost.to_string());
        if trouble.lost.len() as u32 >= cx.settings.allowed_failures {
            let failure = Failure::of(FailureKind::WorkersLost(trouble.lost.clone()));
            if !trouble.hosts.iter().any(|h| h == host) {
                trouble.hosts.push(host.to_string());
            }
            self.give_up(cx, i, Arc::new(failure));
        } else {
            self.stats.retried += 1;
            let lost = Failure::of(FailureKind::WorkersLost(vec![lost.to_string()]));
            cx.tell_attempt(self, i, &Arc::new(lost), true);
            self.put_back(cx, i);
        }
    }

    fn delay(&mut self, cx: &mut Cx, i: u32, pause: Duration) {
        self.stats.retried += 1;
        self.worker[i as usize] = NOBODY;
        let (f, element) = self.place_of(i);
        if self.unmet(f, element) != Ok(0) {
            // An input was lost while it executed: that is what it waits for now.
            self.settle(cx, i);
            return;
        }
        self.set_state(cx, i, State::Delayed);
        cx.delayed.insert((cx.now.after(pause), self.task(i)));
    }

    /// The task has failed for good.
    pub(super) fn give_up(&mut self, cx: &mut Cx, i: u32, failure: Arc<Failure>) {
        let (family, element) = self.place_of(i);
        cx.tell_attempt(self, i, &failure, false);
        if self.is_lazy() {
            self.trouble.entry(i).or_default().failure = Some(failure.clone());
        }
        if self.stats.failures.len() < FAILURES_KEPT {
            let trouble = self.trouble.get(&i);
            let host = trouble.and_then(|t| t.hosts.last().cloned()).unwrap_or_default();
            let attempts = trouble.map_or(0, |t| t.tries() + t.lost.len() as u32);
            self.stats.failures.push(TaskFailure { family, element, host, attempts, failure });
        }
        self.fail(cx, i);
    }
}

fn backoff(settings: &Settings, failed: u32) -> Duration {
    let factor = 1u32 << failed.saturating_sub(1).min(20);
    settings.retry_backoff.saturating_mul(factor).min(settings.retry_backoff_max)
}

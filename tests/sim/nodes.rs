//! Workers of the simulation: a worker core each, with a store of results, what executes, and fetches from
//! one another. Owns what a worker's shell would do; what happens to whole workers is in `trouble`.

use crate::cluster::{Happening, Party, Sim, Trouble};
use crate::graphs::Value;
use crate::memory::Own;
use hpcdag::base::failure::{Failure, FailureKind};
use hpcdag::base::ids::{Attempt, TaskRef, WorkerId};
use hpcdag::base::time::Time;
use hpcdag::graph::layer::SLOT;
use hpcdag::scheduler::core as sched;
use hpcdag::worker::core as work;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How long a paused worker in which nothing happens waits before it starts one task all the same.
const NUDGE: Duration = Duration::from_millis(10);

/// What executes.
#[derive(Clone)]
pub struct Running {
    /// Its result.
    value: Value,
    /// How long it takes, microseconds.
    us: u64,
    /// What comes of it.
    pub outcome: Result<u64, Arc<Failure>>,
    began: Time,
    pub family: u32,
    /// What it occupies at most, bytes.
    private: u64,
    pub inputs: Vec<TaskRef>,
    /// It was told to end.
    pub ended: bool,
}

impl Running {
    /// What it occupies by now: it grows over the first half of its time.
    pub fn occupies(&self, now: Time) -> u64 {
        let part = now.since(self.began).as_micros() as f64 / (self.us / 2).max(1) as f64;
        (self.private as f64 * part.min(1.0)) as u64
    }
}

pub struct Node {
    pub core: work::Core,
    pub store: BTreeMap<TaskRef, Value>,
    pub running: BTreeMap<(TaskRef, u32), Running>,
    pub memory: Option<Own>,
    flush_planned: bool,
    pub name: String,
    /// The scheduler has lost sight of it.
    pub ghost: bool,
    pub frozen_until: Option<Time>,
    /// How many times slower than others it is.
    slowness: u64,
    pub paused: bool,
    /// What the scheduler has not been told of pauses.
    pause_news: Option<bool>,
    pub retiring: bool,
    /// Tasks that ended since its last report.
    pub unreported: Vec<TaskRef>,
}

impl Sim {
    /// A new worker; with the name of one that was there before, or with a new one.
    pub fn join(&mut self, name: Option<String>, leaves: Option<Duration>) {
        let worker = WorkerId(self.next_worker);
        self.next_worker += 1;
        let threads = self.faults.threads.unwrap_or_else(|| 1 + self.rng.u32(1..3));
        let slow = self.faults.stragglers > 0.0 && self.rng.f64() < self.faults.stragglers;
        let name = name.unwrap_or_else(|| format!("w{worker}"));
        let node = Node {
            core: work::Core::new(threads * SLOT),
            store: BTreeMap::new(),
            running: BTreeMap::new(),
            memory: self.faults.memory.as_ref().map(|m| Own::new(m, worker.0)),
            flush_planned: false,
            name: name.clone(),
            ghost: false,
            frozen_until: None,
            slowness: if slow { self.rng.u64(10..100) } else { 1 },
            paused: false,
            pause_news: None,
            retiring: false,
            unreported: Vec::new(),
        };
        self.nodes.insert(worker, node);
        let rules = self.faults.memory.as_ref().map(|m| m.rules(worker.0));
        if rules.is_some() {
            self.at(Duration::ZERO, Happening::Look(worker));
        }
        if let Some(leaves) = leaves {
            self.at(leaves * 3 / 4, Happening::Trouble(Trouble::Leave(worker)));
            self.at(leaves, Happening::Trouble(Trouble::End(worker)));
        }
        let spec = sched::event::WorkerSpec {
            host: format!("h{name}"),
            name,
            job: None,
            preemptible: false,
            incarnation: Default::default(),
            slots: threads * SLOT,
            resources: BTreeMap::new(),
            memory_limit: rules.map(|r| r.limit),
            memory_target: rules.map_or(self.faults.memory_target, |r| r.admission_bound()),
            leaves: leaves.map(|after| self.now.after(after)),
        };
        self.worker_says(worker, sched::event::Event::WorkerRegistered { worker, spec });
    }

    /// Until when a happening has to wait because a worker concerned is frozen.
    pub fn frozen(&self, happening: &Happening) -> Option<Time> {
        let until = |w: &WorkerId| self.nodes.get(w)?.frozen_until.filter(|at| *at > self.now);
        match happening {
            Happening::Arrives(_, Party::Worker(w))
            | Happening::Executed(w, ..)
            | Happening::Flush(w)
            | Happening::Look(w)
            | Happening::Nudge(w)
            | Happening::Written(w, _) => until(w),
            Happening::FetchArrives { from, to, .. } => until(from).max(until(to)),
            _ => None,
        }
    }

    pub fn tell_worker(&mut self, w: WorkerId, event: work::event::Event) {
        self.with_core(w, |core| core.handle(event));
        self.look(w);
    }

    /// Lets something happen to a worker's core, and does what it wants.
    pub fn with_core(&mut self, w: WorkerId, what: impl FnOnce(&mut work::Core) -> Vec<work::event::Action>) {
        let Some(node) = self.nodes.get_mut(&w) else { return };
        let actions = what(&mut node.core);
        for action in actions {
            self.work(w, action);
        }
        let Some(node) = self.nodes.get_mut(&w).filter(|n| !n.flush_planned) else { return };
        node.flush_planned = true;
        let delay = Duration::from_micros(self.rng.u64(0..200));
        self.at(delay, Happening::Flush(w));
    }

    fn work(&mut self, w: WorkerId, action: work::event::Action) {
        use work::event::Action;
        let Some(node) = self.nodes.get_mut(&w) else { return };
        match action {
            Action::Start(start) => self.start(w, start),
            Action::Own(_) | Action::ReadAhead(_) => {}
            Action::Kill { task, attempt } => {
                // Some end at once, some are not to be stopped.
                if self.rng.bool()
                    && let Some(running) = node.running.get_mut(&(task, attempt.n))
                {
                    running.outcome = Err(Arc::new(Failure::of(FailureKind::Cancelled)));
                    running.ended = true;
                    self.at(Duration::from_micros(200), Happening::Executed(w, task, attempt));
                }
            }
            Action::Fetch { peer, tasks } => {
                let broken = self.rng.f64() < self.faults.fetch_failures;
                let delay = Duration::from_micros(self.rng.u64(100..2000));
                self.at(delay, Happening::FetchArrives { from: peer, to: w, tasks, broken });
            }
            Action::Publish { task, attempt, .. } => {
                let ran = node.running.remove(&(task, attempt.n)).expect("published what ran");
                node.store.insert(task, ran.value);
                let nbytes = *ran.outcome.as_ref().expect("published what succeeded");
                self.sizes.insert(task, nbytes);
                let known = self.usual_peaks.entry(ran.family).or_default();
                *known = ran.private.max(*known);
                if let Some(own) = &mut node.memory {
                    own.touch(task, self.sequence);
                }
            }
            Action::Discard { task, attempt } => {
                node.running.remove(&(task, attempt.n));
            }
            Action::Drop(tasks) => {
                for task in tasks {
                    node.store.remove(&task);
                    let nbytes = self.sizes.get(&task).copied().unwrap_or(0);
                    if let Some(own) = &mut node.memory {
                        own.forget(task, nbytes);
                    }
                }
            }
        }
    }

    fn start(&mut self, w: WorkerId, start: work::event::Start) {
        self.check_start(start.task);
        let Some(node) = self.nodes.get_mut(&w) else { return };
        let (family, element) = (start.family.0, start.element);
        let job = &self.jobs[start.task.run.index()];
        let inputs = start.inputs.iter().map(|(_, t)| *node.store.get(t).expect("an input is not there"));
        let value = job.graph.result(family, element, inputs);
        let hopeless = job.hopeless.contains(&(family, element));
        let fails = hopeless || self.rng.f64() < self.faults.task_failures;
        let failure = || Arc::new(Failure::of(FailureKind::Exit(1)));
        let outcome = if fails { Err(failure()) } else { Ok(self.faults.size_of(family, element)) };
        let us = self.rng.u64(0..2 * self.faults.mean_us) * node.slowness;
        let inputs: Vec<TaskRef> = start.inputs.iter().map(|(_, t)| *t).collect();
        if let Some(own) = &mut node.memory {
            inputs.iter().for_each(|t| own.touch(*t, self.sequence));
        }
        let private = self.faults.memory.as_ref().map_or(0, |m| m.private(family, element));
        if !node.ghost {
            self.checks.ledger.executes(start.task);
        }
        let began = self.now;
        let running = Running { value, us, outcome, began, family, private, inputs, ended: false };
        node.running.insert((start.task, start.attempt.n), running);
        *self.executed.entry(w).or_default() += 1;
        self.at(Duration::from_micros(us), Happening::Executed(w, start.task, start.attempt));
    }

    pub fn executed(&mut self, w: WorkerId, task: TaskRef, attempt: Attempt) {
        let Some(node) = self.nodes.get_mut(&w) else { return };
        // If it is not there it was ended before its time.
        let Some(Running { us, outcome, .. }) = node.running.get(&(task, attempt.n)).cloned() else { return };
        if outcome.is_err() {
            node.running.remove(&(task, attempt.n));
            self.checks.ledger.failed(task);
        }
        node.unreported.push(task);
        let (memory, duration) = (*outcome.as_ref().unwrap_or(&0), Duration::from_micros(us));
        let done = work::event::Done { task, attempt, outcome, memory, duration };
        self.tell_worker(w, work::event::Event::Done(vec![done]));
    }

    pub fn fetch(&mut self, from: WorkerId, to: WorkerId, tasks: Vec<TaskRef>, broken: bool) {
        use work::event::Fetched;
        let mut outcomes = Vec::new();
        for task in tasks {
            let value = self.nodes.get(&from).map(|n| n.store.get(&task).copied());
            let outcome = match value {
                _ if broken => Fetched::Unreachable,
                None => Fetched::Unreachable,
                Some(None) => Fetched::Absent,
                Some(Some(value)) => {
                    if let Some(node) = self.nodes.get_mut(&to) {
                        node.store.insert(task, value);
                    }
                    Fetched::Here(self.sizes[&task])
                }
            };
            if !matches!(outcome, Fetched::Here(_)) {
                self.checks.ledger.lost([task]);
            }
            outcomes.push((task, outcome));
        }
        self.tell_worker(to, work::event::Event::Fetched { peer: from, outcomes });
    }

    /// Sends what a worker has to report.
    pub fn flush(&mut self, w: WorkerId) {
        let Some(node) = self.nodes.get_mut(&w) else { return };
        node.flush_planned = false;
        node.unreported.clear();
        let report = node.core.take_report();
        let paused = node.memory.as_mut().and_then(|own| own.news.take()).or(node.pause_news.take());
        if report.is_empty() && paused.is_none() {
            return;
        }
        self.most.handed_back += report.returned.len() as u32;
        let finished =
            |(task, attempt, nbytes, duration)| sched::event::Finished { task, attempt, nbytes, duration };
        let missing = |(task, attempt, inputs)| sched::event::Missing { task, attempt, inputs };
        let mut report = sched::event::Report {
            started: report.started,
            finished: report.finished.into_iter().map(finished).collect(),
            failed: report.failed,
            missing: report.missing.into_iter().map(missing).collect(),
            returned: report.returned,
            kept: report.kept,
            replicas: report.replicas,
            uncopied: report.uncopied,
            stored: Vec::new(),
            pinned: Vec::new(),
            away: Vec::new(),
            paused,
        };
        if let Some(sabotage) = &mut self.sabotage {
            sabotage.spoil_report(&mut report);
        }
        self.worker_says(w, sched::event::Event::WorkerReport { worker: w, report });
    }

    /// A worker pauses or goes on, for whatever reason.
    pub fn set_paused(&mut self, w: WorkerId, paused: bool) {
        let Some(node) = self.nodes.get_mut(&w).filter(|n| n.paused != paused) else { return };
        node.paused = paused;
        node.pause_news = if node.pause_news.is_some() { None } else { Some(paused) };
        self.with_core(w, |core| core.set_paused(paused));
        if paused {
            self.at(NUDGE, Happening::Nudge(w));
        }
    }

    /// With everything paused one task goes ahead.
    pub fn nudge(&mut self, w: WorkerId) {
        let Some(node) = self.nodes.get(&w).filter(|n| n.paused) else { return };
        if node.core.executing() == 0 {
            self.with_core(w, |core| core.start_one());
        }
        self.at(NUDGE, Happening::Nudge(w));
    }
}

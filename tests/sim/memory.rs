//! Memory in the simulation: what results and tasks occupy, what a worker's look at it leads to, a disk
//! that takes time and may fill. The thresholds are the worker's own rules (`worker::core::pressure`); what
//! is made up here is how tasks grow and how disks fail.

use crate::cluster::{Happening, Sim};
use crate::graphs::mix;
use hpcdag::base::failure::{Failure, FailureKind, Shortage};
use hpcdag::base::ids::{Attempt, TaskRef, WorkerId};
use hpcdag::base::time::Time;
use hpcdag::scheduler::core as sched;
use hpcdag::worker::core::pressure::{Candidate, Pressure, Thresholds, Usage, choose};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Between two looks at memory.
const LOOK: Duration = Duration::from_millis(1);
/// How long a paused worker in which nothing happens waits before it starts one task all the same.
const PATIENCE: Duration = Duration::from_millis(10);
/// How long a worker waits before it tries again to write to a disk that failed.
const DISK_RETRY: Duration = Duration::from_millis(20);

/// What workers have and tasks take.
#[derive(Clone, Debug)]
pub struct Memory {
    /// Limits of the workers, in turn.
    pub limits: Vec<u64>,
    /// `target`, `spill`, `pause`, `terminate`, as parts of the limit.
    pub thresholds: [Option<f64>; 4],
    /// Bytes that the disk of each worker takes.
    pub disk: u64,
    /// From then on it takes no more.
    pub disk_full_at: Option<Duration>,
    /// Bytes a millisecond that go to disk.
    pub disk_speed: u64,
    /// About what a result has, and what a task occupies besides.
    pub usual: u64,
    /// From the element on, those of one family take so many times as much: family, element, factor.
    pub sudden: Option<(u32, u32, f64)>,
    /// Probability that a task takes three times the largest limit.
    pub giants: f64,
    /// What each task says that it takes.
    pub declared: Option<u64>,
}

impl Memory {
    fn one_of(x: u64, usual: u64) -> u64 {
        usual / 2 + x % usual.max(1)
    }

    fn factor(&self, family: u32, element: u32) -> f64 {
        match self.sudden {
            Some((f, from, factor)) if f == family && element >= from => factor,
            _ => 1.0,
        }
    }

    /// Whether a task takes more than any worker has.
    pub fn is_giant(&self, family: u32, element: u32) -> bool {
        let x = mix(u64::from(family) << 40 | u64::from(element) << 1 | 1);
        (x % 10_000) as f64 / 10_000.0 < self.giants
    }

    /// Bytes of a task's result.
    pub fn result(&self, family: u32, element: u32) -> u64 {
        let x = mix(u64::from(family) << 32 | u64::from(element));
        (Memory::one_of(x, self.usual) as f64 * self.factor(family, element)) as u64
    }

    /// Bytes that it occupies besides, at most.
    pub fn private(&self, family: u32, element: u32) -> u64 {
        if self.is_giant(family, element) {
            return 3 * self.largest();
        }
        let x = mix(u64::from(element) << 32 | u64::from(family) << 1 | 1);
        (Memory::one_of(x, self.usual) as f64 * self.factor(family, element)) as u64
    }

    /// The largest limit.
    pub fn largest(&self) -> u64 {
        self.limits.iter().copied().max().unwrap_or(0)
    }

    pub fn rules(&self, worker: u32) -> Thresholds {
        let limit = self.limits[worker as usize % self.limits.len()];
        let [target, spill, pause, terminate] =
            self.thresholds.map(|t| t.map(|part| (limit as f64 * part) as u64));
        Thresholds { limit, target, spill, pause, terminate }
    }
}

/// The memory of one worker.
pub struct Own {
    pressure: Pressure,
    /// When each result was last read or written.
    used: BTreeMap<TaskRef, u64>,
    /// Results that are on disk only.
    spilled: BTreeSet<TaskRef>,
    writing: Option<TaskRef>,
    disk_fails_until: Time,
    disk_left: u64,
    paused_since: Option<Time>,
    /// What the scheduler has not been told.
    pub news: Option<bool>,
    told: (u64, u64),
}

impl Own {
    pub fn new(memory: &Memory, worker: u32) -> Own {
        Own {
            pressure: Pressure::new(memory.rules(worker)),
            used: BTreeMap::new(),
            spilled: BTreeSet::new(),
            writing: None,
            disk_fails_until: Time::ZERO,
            disk_left: memory.disk,
            paused_since: None,
            news: None,
            told: (0, 0),
        }
    }

    /// A result was read or written.
    pub fn touch(&mut self, task: TaskRef, at: u64) {
        self.used.insert(task, at);
    }

    /// A result is not here any more.
    pub fn forget(&mut self, task: TaskRef, nbytes: u64) {
        self.used.remove(&task);
        if self.spilled.remove(&task) {
            self.disk_left += nbytes;
        }
    }
}

/// A task that failed (family and element), and why.
pub type Failed = ((u32, u32), String);

/// The most that workers held, bytes and as parts of their limits.
#[derive(Clone, Copy, Debug, Default)]
pub struct Most {
    /// Results in memory, part of the limit.
    pub managed: f64,
    /// Results and what tasks occupy, part of the limit.
    pub total: f64,
    /// Times that a worker paused.
    pub pauses: u32,
    /// Results that went to disk, and that could not.
    pub spilled: u32,
    pub not_spilled: u32,
    /// Attempts that were ended for memory.
    pub ended: u32,
    /// Tasks that came back unstarted.
    pub handed_back: u32,
}

impl Sim {
    /// Bytes of a task's result as it is in this simulation.
    fn nbytes(&self, task: TaskRef) -> u64 {
        self.sizes.get(&task).copied().unwrap_or(0)
    }

    fn usage(&self, w: WorkerId) -> Option<Usage> {
        let node = self.nodes.get(&w)?;
        let own = node.memory.as_ref()?;
        let here = node.store.keys().filter(|t| !own.spilled.contains(t));
        let managed = here.map(|t| self.nbytes(*t)).sum();
        let unmanaged = node.running.values().map(|r| r.occupies(self.now)).sum();
        Some(Usage { managed, unmanaged, disk_fails: own.disk_fails_until > self.now, expected: 0 })
    }

    /// Looks at a worker's memory and does what is due.
    pub fn look(&mut self, w: WorkerId) {
        let Some(usage) = self.usage(w) else { return };
        let now = self.now;
        let Some(own) = self.nodes.get_mut(&w).and_then(|n| n.memory.as_mut()) else { return };
        let verdict = own.pressure.assess(usage);
        let limit = own.pressure.thresholds().limit;
        let change = own.paused_since.is_some() != verdict.paused;
        if change {
            own.paused_since = verdict.paused.then_some(now);
            own.news = if own.news.is_some() { None } else { Some(verdict.paused) };
            self.most.pauses += u32::from(verdict.paused);
        }
        self.most.managed = self.most.managed.max(usage.managed as f64 / limit as f64);
        self.most.total = self.most.total.max(usage.total() as f64 / limit as f64);
        if let Some(keep) = verdict.keep {
            self.spill(w, usage.managed.saturating_sub(keep));
        }
        if verdict.terminate {
            self.end_one(w, usage, limit);
        }
        if change {
            self.with_core(w, |core| core.set_paused(verdict.paused));
        }
        let Some(node) = self.nodes.get_mut(&w) else { return };
        let Some(own) = node.memory.as_mut() else { return };
        if own.paused_since.is_some_and(|since| now.since(since) >= PATIENCE) {
            own.paused_since = Some(now);
            if node.core.executing() == 0 && own.writing.is_none() {
                self.with_core(w, |core| core.start_one());
            }
        }
    }

    /// The look that comes round, and what the scheduler is told of it.
    pub fn monitor(&mut self, w: WorkerId) {
        self.look(w);
        let Some(usage) = self.usage(w) else { return };
        let spilled_tasks = self.nodes[&w].memory.as_ref().map(|own| own.spilled.clone()).unwrap_or_default();
        let spilled = spilled_tasks.iter().map(|t| self.nbytes(*t)).sum();
        let Some(own) = self.nodes.get_mut(&w).and_then(|n| n.memory.as_mut()) else { return };
        let change = own.told.0.abs_diff(usage.unmanaged).max(own.told.1.abs_diff(spilled));
        if change > own.pressure.thresholds().limit / 20 {
            own.told = (usage.unmanaged, spilled);
            let memory = Some(sched::event::MemoryUse { unmanaged: usage.unmanaged, spilled });
            let event = sched::event::Event::Heartbeat { worker: w, memory };
            self.worker_says(w, event);
        }
        self.at(LOOK, Happening::Look(w));
    }

    /// Begins to write the result that was used longest ago and that nobody reads.
    fn spill(&mut self, w: WorkerId, excess: u64) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(&w) else { return };
        let Some(own) = node.memory.as_mut() else { return };
        if excess == 0 || own.writing.is_some() || own.disk_fails_until > now {
            return;
        }
        let read = |task: &TaskRef| node.running.values().any(|r| r.inputs.contains(task));
        let candidates = node.store.keys().filter(|t| !own.spilled.contains(t) && !read(t));
        let oldest = candidates.min_by_key(|t| (own.used.get(t).copied().unwrap_or(0), **t)).copied();
        let Some(task) = oldest else { return };
        own.writing = Some(task);
        let us = 1000 * self.nbytes(task) / self.memory().disk_speed.max(1);
        self.at(Duration::from_micros(us + 1), Happening::Written(w, task));
    }

    /// A result is on disk, or there was no room for it.
    pub fn written(&mut self, w: WorkerId, task: TaskRef) {
        let (now, nbytes) = (self.now, self.nbytes(task));
        let full = self.memory().disk_full_at.is_some_and(|at| now >= Time::ZERO.after(at));
        let Some(node) = self.nodes.get_mut(&w) else { return };
        let Some(own) = node.memory.as_mut() else { return };
        own.writing = None;
        if full || own.disk_left < nbytes {
            own.disk_fails_until = now.after(DISK_RETRY);
            self.most.not_spilled += 1;
        } else if node.store.contains_key(&task) {
            own.disk_left -= nbytes;
            own.spilled.insert(task);
            self.most.spilled += 1;
        }
        self.look(w);
    }

    /// Ends the task that is furthest beyond its expectation.
    fn end_one(&mut self, w: WorkerId, usage: Usage, limit: u64) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(&w) else { return };
        // The one that was ended last is still going.
        if node.running.values().any(|r| r.ended) {
            return;
        }
        let candidate = |(&(task, n), r): (&(TaskRef, u32), &crate::nodes::Running)| Candidate {
            task,
            attempt: Attempt { epoch: 1, n },
            bytes: r.occupies(now),
            expected: self.usual_peaks.get(&r.family).copied().unwrap_or(0),
        };
        let candidates: Vec<Candidate> = node.running.iter().map(candidate).collect();
        let Some(chosen) = choose(&candidates) else { return };
        let writing = node.memory.as_ref().is_some_and(|own| own.writing.is_some());
        if writing && usage.total() <= limit && chosen.bytes < limit / 10 {
            return;
        }
        let others = candidates.iter().filter(|c| c.task != chosen.task);
        let shortage = Shortage {
            peak: chosen.bytes,
            expected: chosen.expected,
            limit,
            results: usage.managed,
            neighbours: others.map(|c| (format!("{:?}", c.task), c.bytes)).collect(),
        };
        let failure = Arc::new(Failure::of(FailureKind::Memory(Box::new(shortage))));
        let Some(running) = node.running.get_mut(&(chosen.task, chosen.attempt.n)) else { return };
        running.outcome = Err(failure);
        running.ended = true;
        self.most.ended += 1;
        self.at(Duration::from_micros(200), Happening::Executed(w, chosen.task, chosen.attempt));
    }

    fn memory(&self) -> &Memory {
        self.faults.memory.as_ref().expect("a simulation with memory")
    }

    /// What was held, and what came of it.
    pub fn most(&self) -> Most {
        self.most
    }

    /// With memory that is short: every output arrived or its task failed by name, for memory or because of
    /// one that did. Returns the tasks that failed
    /// themselves, and why.
    pub fn check_memory_end(&mut self) -> Vec<Failed> {
        let job = &self.jobs[0];
        let summary = job.summary.clone().expect("the run is over");
        assert_eq!(summary.cancelled, 0);
        let expected = job.graph.evaluate();
        let mut missing = 0;
        for output in &job.graph.outputs {
            let shape = self.scheduler.shape(crate::cluster::RUN, *output).expect("sized");
            for element in shape.first_export..shape.total {
                match job.outputs.get(&(*output, element)) {
                    Some(value) => assert_eq!(*value, expected[output.index()][element as usize]),
                    None => {
                        let task = self.scheduler.find_task(crate::cluster::RUN, *output, element);
                        let state = task.and_then(|t| self.scheduler.explain(t)).map(|e| e.state);
                        assert_eq!(state, Some(sched::state::State::Erred), "{output}[{element}]");
                        missing += 1;
                    }
                }
            }
        }
        assert!(missing == 0 || summary.failed > 0, "{summary:?}");
        for failure in &summary.failures {
            let kind = &failure.failure.kind;
            let for_memory = matches!(kind, FailureKind::Outgrown(_) | FailureKind::Impossible(_));
            assert!(for_memory, "{}[{}]: {kind}", failure.family, failure.element);
        }
        self.check_nothing_left();
        let failed = |f: &sched::action::TaskFailure| ((f.family.0, f.element), f.failure.to_string());
        summary.failures.iter().map(failed).collect()
    }
}

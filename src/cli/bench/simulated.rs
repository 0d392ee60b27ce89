//! The scheduler's state machine with workers in virtual time: tasks take as long and make as much as said,
//! inputs are there at once. Owns the clock and what a worker does; results do not exist.

use super::alone;
use super::usage;
use crate::base::error::{Error, Result};
use crate::base::ids::{Attempt, FamilyIx, RunId, TaskRef, WorkerId};
use crate::base::priority::Priority;
use crate::base::time::Time;
use crate::graph::{Graph, Packed};
use crate::scheduler::core::action::{Action, Assigned, Batch, Summary};
use crate::scheduler::core::event::{Event, Finished, Report, WorkerSpec};
use crate::scheduler::core::{Core, Settings};
use rustc_hash::FxHashMap;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::{Duration, Instant};

/// No worker is silent here, so none is given up for it.
const FOREVER: Duration = Duration::from_secs(50 * 365 * 24 * 3600);

/// So often nothing may happen in turn before the run counts as stuck.
const IDLE_MAX: u32 = 1000;

/// What the elements of a family take and make.
#[derive(Clone, Debug)]
pub struct Costs {
    /// How long one executes.
    pub duration: Duration,
    /// Bytes of results by element, going round.
    pub sizes: Vec<u64>,
    /// Whether the size is drawn instead, by something that follows from the element.
    pub draw: bool,
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Simulated {
    /// Tasks that succeeded.
    pub tasks: u64,
    /// Time that the state machine took.
    pub wall: Duration,
    /// Its processor time.
    pub cpu: Duration,
    /// How often it was called.
    pub steps: u64,
    /// From the submission to the end, in virtual time.
    pub virtual_time: Duration,
    /// Sum of the executions, in virtual time.
    pub task_time: Duration,
    /// Bytes that workers would have fetched from one another.
    pub bytes_moved: u64,
    /// The most bytes of results on one worker.
    pub peak_bytes: u64,
    /// By how much the heap grew when the state machine learned of the graph.
    pub core_bytes: Option<u64>,
}

/// Runs a graph on workers.
///
/// # Errors
/// A run that does not go on, or does not succeed.
pub fn run(graph: &Graph, costs: &[Costs], workers: Vec<WorkerSpec>) -> Result<Simulated> {
    let mut drive = Drive::new(graph, costs, workers);
    let heap = usage::heap_bytes();
    let packed = Packed::new(graph.clone())?;
    let layers = graph.families.iter().map(|family| family.layer.clone()).collect();
    let spec = alone::run_spec(&packed, layers);
    let actions = drive.step(vec![Event::RunSubmitted { client: None, run: RunId(0), spec }]);
    let core_bytes = usage::heap_bytes().zip(heap).map(|(now, then)| now.saturating_sub(then));
    drive.take(actions);
    let mut idle = 0;
    while drive.ended.is_none() {
        let events = drive.events();
        idle = if drive.running.is_empty() && matches!(events[..], [Event::Tick]) { idle + 1 } else { 0 };
        if idle > IDLE_MAX {
            let why = drive.core.stuck(RunId(0)).unwrap_or_else(|| "nothing happens any more".into());
            return Err(Error::os("the simulated run does not go on", why));
        }
        let actions = drive.step(events);
        drive.take(actions);
    }
    let summary = drive.ended.take().unwrap_or_default();
    if summary.failed + summary.skipped + summary.cancelled > 0 {
        let failure = summary.failures.first().map_or_else(String::new, |f| f.failure.to_string());
        let what = format!("{} tasks succeeded, {} failed: {failure}", summary.done, summary.failed);
        return Err(Error::new(crate::base::error::Kind::TasksFailed, what));
    }
    Ok(Simulated {
        tasks: summary.done,
        wall: drive.wall,
        cpu: drive.cpu,
        steps: drive.steps,
        virtual_time: drive.now.since(Time::ZERO),
        task_time: summary.task_time,
        bytes_moved: drive.bytes_moved,
        peak_bytes: drive.workers.iter().map(|w| w.peak).max().unwrap_or(0),
        core_bytes,
    })
}

/// A task that a worker was given.
#[derive(Clone, Copy, Debug)]
struct Given {
    attempt: Attempt,
    family: FamilyIx,
    element: u32,
    slots: u32,
    keep: bool,
}

/// A worker.
struct Worker {
    /// What is free.
    slots: u32,
    resources: BTreeMap<String, u64>,
    /// What has not started, in the order in which it is to.
    queue: BTreeMap<(Priority, TaskRef), Given>,
    place: FxHashMap<TaskRef, Priority>,
    /// Results, and their bytes.
    holds: FxHashMap<TaskRef, u64>,
    bytes: u64,
    peak: u64,
    report: Report,
}

impl Worker {
    fn new(spec: &WorkerSpec) -> Worker {
        Worker {
            slots: spec.slots,
            resources: spec.resources.clone(),
            queue: BTreeMap::new(),
            place: FxHashMap::default(),
            holds: FxHashMap::default(),
            bytes: 0,
            peak: 0,
            report: Report::default(),
        }
    }

    /// Takes a result in; whether it is new.
    fn hold(&mut self, task: TaskRef, bytes: u64) -> bool {
        let new = self.holds.insert(task, bytes).is_none();
        if new {
            self.bytes += bytes;
            self.peak = self.peak.max(self.bytes);
        }
        new
    }

    fn free(&mut self, task: TaskRef) {
        self.bytes -= self.holds.remove(&task).unwrap_or(0);
    }

    /// Takes a task back that has not started.
    fn withdraw(&mut self, task: TaskRef, attempt: Attempt) -> bool {
        let Some(priority) = self.place.get(&task).copied() else { return false };
        let there = self.queue.get(&(priority, task)).is_some_and(|g| g.attempt == attempt);
        if there {
            self.queue.remove(&(priority, task));
            self.place.remove(&task);
        }
        there
    }

    fn has_news(&self) -> bool {
        let r = &self.report;
        let counts = [r.started.len(), r.finished.len(), r.returned.len(), r.kept.len(), r.replicas.len()];
        counts.into_iter().any(|n| n > 0)
    }
}

/// Everything.
struct Drive<'a> {
    core: Core,
    now: Time,
    graph: &'a Graph,
    costs: &'a [Costs],
    workers: Vec<Worker>,
    /// Ends of executions to come.
    ends: BinaryHeap<Reverse<(Time, u32, TaskRef)>>,
    /// What executes, by worker and task, and until when.
    running: FxHashMap<(u32, TaskRef), (Given, Time)>,
    bytes_moved: u64,
    ended: Option<Summary>,
    wall: Duration,
    cpu: Duration,
    steps: u64,
}

impl<'a> Drive<'a> {
    fn new(graph: &'a Graph, costs: &'a [Costs], specs: Vec<WorkerSpec>) -> Drive<'a> {
        let settings = Settings { story_limit: 0, worker_loss_timeout: FOREVER, ..Settings::default() };
        let mut drive = Drive {
            core: Core::new(1, settings),
            now: Time::ZERO,
            graph,
            costs,
            workers: specs.iter().map(Worker::new).collect(),
            ends: BinaryHeap::new(),
            running: FxHashMap::default(),
            bytes_moved: 0,
            ended: None,
            wall: Duration::ZERO,
            cpu: Duration::ZERO,
            steps: 0,
        };
        let join = |(w, spec)| Event::WorkerRegistered { worker: WorkerId(w), spec };
        let actions = drive.step((0..).zip(specs).map(join).collect());
        drive.take(actions);
        (drive.wall, drive.cpu, drive.steps) = (Duration::ZERO, Duration::ZERO, 0);
        drive
    }

    fn step(&mut self, events: Vec<Event>) -> Vec<Action> {
        let (wall, cpu) = (Instant::now(), usage::cpu_of_thread());
        let actions = self.core.handle_all(events, self.now);
        self.wall += wall.elapsed();
        self.cpu += usage::cpu_of_thread().saturating_sub(cpu);
        self.steps += 1;
        actions
    }

    /// What workers have to say, now or once something has happened.
    fn events(&mut self) -> Vec<Event> {
        if !self.workers.iter().any(Worker::has_news) {
            self.advance();
        }
        let mut events = Vec::new();
        for (w, worker) in (0u32..).zip(&mut self.workers) {
            if worker.has_news() {
                let report = std::mem::take(&mut worker.report);
                events.push(Event::WorkerReport { worker: WorkerId(w), report });
            }
        }
        if events.is_empty() { vec![Event::Tick] } else { events }
    }

    /// To the next moment at which something happens: executions end, or the state machine wants a look.
    fn advance(&mut self) {
        let end = self.ends.peek().map(|Reverse((at, ..))| *at);
        let next = [end, self.core.next_deadline()].into_iter().flatten().min();
        self.now = self.now.max(next.unwrap_or(self.now));
        while let Some(&Reverse((at, w, task))) = self.ends.peek()
            && at <= self.now
        {
            self.ends.pop();
            // It may have been cancelled, and given to the same worker once more.
            if self.running.get(&(w, task)).is_some_and(|(_, until)| *until == at) {
                self.end(w, task);
            }
        }
    }

    fn end(&mut self, w: u32, task: TaskRef) {
        let Some(given) = self.leave(w, task) else { return };
        let (nbytes, duration) = (self.bytes_of(&given), self.costs[given.family.index()].duration);
        let worker = &mut self.workers[w as usize];
        if given.keep {
            worker.hold(task, nbytes);
        }
        worker.report.finished.push(Finished { task, attempt: given.attempt, nbytes, duration });
    }

    /// A task executes no longer: what it occupied is free.
    fn leave(&mut self, w: u32, task: TaskRef) -> Option<Given> {
        let (given, _) = self.running.remove(&(w, task))?;
        let wants = &self.graph.families[given.family.index()].layer.resources;
        let worker = &mut self.workers[w as usize];
        worker.slots += given.slots;
        wants.iter().for_each(|(name, n)| *worker.resources.entry(name.clone()).or_default() += n);
        Some(given)
    }

    fn bytes_of(&self, given: &Given) -> u64 {
        let costs = &self.costs[given.family.index()];
        let drawn = || crc32fast::hash(&[given.family.0.to_le_bytes(), given.element.to_le_bytes()].concat());
        let place = if costs.draw { drawn() } else { given.element };
        costs.sizes.get(place as usize % costs.sizes.len().max(1)).copied().unwrap_or(0)
    }

    fn take(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Compute { worker, batch } => self.compute(worker, &batch),
                Action::Free { worker, tasks } => {
                    tasks.into_iter().for_each(|task| self.workers[worker.index()].free(task));
                }
                Action::Steal { worker, attempts } => {
                    let worker = &mut self.workers[worker.index()];
                    for (task, attempt) in attempts {
                        let there = worker.withdraw(task, attempt);
                        let list = if there { &mut worker.report.returned } else { &mut worker.report.kept };
                        list.push((task, attempt));
                    }
                }
                Action::Cancel { worker, attempts } => self.cancel(worker, &attempts),
                Action::Replicate { worker, tasks, .. } => {
                    tasks.into_iter().for_each(|(task, bytes)| self.fetch(worker, task, bytes));
                }
                Action::RunDone { summary, .. } => self.ended = Some(summary),
                Action::Dismiss { .. }
                | Action::Drop { .. }
                | Action::Outputs { .. }
                | Action::CallsFailed { .. }
                | Action::CallsLost { .. }
                | Action::Spent { .. }
                | Action::AttemptFailed { .. }
                | Action::Save { .. } => {}
            }
        }
        (0..self.workers.len()).for_each(|w| self.start(w));
    }

    fn fetch(&mut self, worker: WorkerId, task: TaskRef, bytes: u64) {
        let worker = &mut self.workers[worker.index()];
        if worker.hold(task, bytes) {
            self.bytes_moved += bytes;
            worker.report.replicas.push(task);
        }
    }

    fn compute(&mut self, worker: WorkerId, batch: &Batch) {
        for input in &batch.inputs {
            self.fetch(worker, input.task, input.nbytes);
        }
        let worker = &mut self.workers[worker.index()];
        for &Assigned { task, attempt, family, element, priority, slots, keep, .. } in &batch.tasks {
            let given = Given { attempt, family, element, slots, keep };
            worker.queue.insert((priority, task), given);
            worker.place.insert(task, priority);
        }
    }

    fn cancel(&mut self, worker: WorkerId, attempts: &[(TaskRef, Attempt)]) {
        for &(task, attempt) in attempts {
            self.workers[worker.index()].withdraw(task, attempt);
            if self.running.get(&(worker.0, task)).is_some_and(|(g, _)| g.attempt == attempt) {
                self.leave(worker.0, task);
            }
        }
    }

    /// Starts what a worker has room for.
    fn start(&mut self, w: usize) {
        let worker = &mut self.workers[w];
        let mut started = Vec::new();
        for (&(priority, task), given) in &worker.queue {
            if worker.slots == 0 {
                break;
            }
            let wants = &self.graph.families[given.family.index()].layer.resources;
            let fits = |(name, n): (&String, &u64)| worker.resources.get(name).is_some_and(|free| free >= n);
            if given.slots > worker.slots || !wants.iter().all(fits) {
                continue;
            }
            worker.slots -= given.slots;
            for (name, n) in wants {
                *worker.resources.entry(name.clone()).or_default() -= n;
            }
            started.push((priority, task, *given));
        }
        for (priority, task, given) in started {
            worker.queue.remove(&(priority, task));
            worker.place.remove(&task);
            worker.report.started.push((task, given.attempt));
            let end = self.now.after(self.costs[given.family.index()].duration);
            self.running.insert((w as u32, task), (given, end));
            self.ends.push(Reverse((end, w as u32, task)));
        }
    }
}

//! The simulated cluster: one scheduler core, worker cores, a client, and a queue of events in virtual time.
//! Messages between two parties keep their order; everything else is up to the seed.

use crate::graphs::{Graph, Value, size_of};
use crate::memory::{Memory, Most, Own};
use crate::unpack::unpack;
use hpcdag::base::failure::{Failure, FailureKind};
use hpcdag::base::ids::{Attempt, ClientId, FamilyIx, RunId, TaskRef, WorkerId};
use hpcdag::base::time::Time;
use hpcdag::graph::layer::SLOT;
use hpcdag::scheduler::core as sched;
use hpcdag::worker::core as work;
use sched::action::Summary;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

/// What goes wrong.
#[derive(Clone, Debug)]
pub struct Faults {
    /// Workers to begin with.
    pub workers: u32,
    /// Workers killed in the middle; each is replaced a while later.
    pub losses: u32,
    /// Whether a loss takes all workers.
    pub all_at_once: bool,
    /// Workers that leave in order.
    pub retirements: u32,
    /// Workers that join in the middle.
    pub late_joiners: u32,
    /// Probability that a fetch breaks off.
    pub fetch_failures: f64,
    /// Probability that an attempt fails.
    pub task_failures: f64,
    /// Probability that a task fails however often it is tried.
    pub hopeless: f64,
    /// Mean execution time, microseconds.
    pub mean_us: u64,
    /// Threads of each worker; up to three, by chance, if `None`.
    pub threads: Option<u32>,
    /// Bytes up to which each worker takes work that only adds results.
    pub memory_target: Option<u64>,
    /// Size of every result; by chance if `None`.
    pub result_bytes: Option<u64>,
    /// Memory that runs out, instead of these two.
    pub memory: Option<Memory>,
}

impl Default for Faults {
    fn default() -> Faults {
        Faults {
            workers: 3,
            losses: 0,
            all_at_once: false,
            retirements: 0,
            late_joiners: 0,
            fetch_failures: 0.0,
            task_failures: 0.0,
            hopeless: 0.0,
            mean_us: 5_000,
            threads: None,
            memory_target: None,
            result_bytes: None,
            memory: None,
        }
    }
}

impl Faults {
    pub fn size_of(&self, family: u32, element: u32) -> u64 {
        if let Some(memory) = &self.memory {
            return memory.result(family, element);
        }
        self.result_bytes.unwrap_or_else(|| size_of(family, element))
    }

    /// Few workers and long tasks.
    pub fn slow(workers: u32) -> Faults {
        Faults { workers, mean_us: 1_000_000, ..Faults::default() }
    }
}

pub enum Happening {
    ToScheduler(Option<WorkerId>, sched::event::Event),
    ToWorker(WorkerId, work::event::Event),
    Executed(WorkerId, TaskRef, Attempt),
    FetchArrives { from: WorkerId, to: WorkerId, tasks: Vec<TaskRef>, broken: bool },
    ClientFetches(Vec<sched::action::Output>),
    Flush(WorkerId),
    Look(WorkerId),
    Written(WorkerId, TaskRef),
    Kill,
    Retire,
    Join,
    Tick,
}

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
}

struct At(Time, u64, Happening);

impl PartialEq for At {
    fn eq(&self, other: &At) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}
impl Eq for At {}
impl PartialOrd for At {
    fn partial_cmp(&self, other: &At) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for At {
    fn cmp(&self, other: &At) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

const CLIENT: ClientId = ClientId(0);
pub const RUN: RunId = RunId(0);
/// Virtual time within which every run must end.
const PATIENCE: Duration = Duration::from_secs(4000);

pub struct Sim {
    rng: fastrand::Rng,
    pub graph: Graph,
    pub faults: Faults,
    pub now: Time,
    queue: BinaryHeap<Reverse<At>>,
    sequence: u64,
    pub scheduler: sched::Core,
    pub nodes: BTreeMap<WorkerId, Node>,
    next_worker: u32,
    /// When the last message between two parties arrives (the scheduler is `None`).
    last: BTreeMap<(Option<WorkerId>, Option<WorkerId>), Time>,
    pub outputs: BTreeMap<(FamilyIx, u32), Value>,
    pub summary: Option<Summary>,
    executed: BTreeMap<WorkerId, u32>,
    peak: u64,
    steps: u64,
    hopeless: BTreeSet<(u32, u32)>,
    /// What families have been seen to occupy.
    pub usual_peaks: BTreeMap<u32, u64>,
    pub most: Most,
}

impl Sim {
    pub fn new(seed: u64, graph: Graph, faults: Faults) -> Sim {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0xabcd);
        let mut hopeless = BTreeSet::new();
        for f in 0..graph.layers.len() as u32 {
            hopeless.extend((0..200).filter(|_| rng.f64() < faults.hopeless).map(|i| (f, i)));
        }
        let settings = sched::Settings {
            retry_backoff: Duration::from_millis(5),
            allowed_failures: 100,
            ..Default::default()
        };
        let mut sim = Sim {
            rng,
            graph,
            now: Time::ZERO,
            queue: BinaryHeap::new(),
            sequence: 0,
            scheduler: sched::Core::new(1, settings),
            nodes: BTreeMap::new(),
            next_worker: 0,
            last: BTreeMap::new(),
            outputs: BTreeMap::new(),
            summary: None,
            executed: BTreeMap::new(),
            peak: 0,
            steps: 0,
            hopeless,
            usual_peaks: BTreeMap::new(),
            most: Most::default(),
            faults,
        };
        sim.plan_faults();
        sim
    }

    fn plan_faults(&mut self) {
        let mut layers = self.graph.layers.clone();
        for layer in &mut layers {
            layer.retries = if self.faults.hopeless > 0.0 { 1 } else { 1000 };
            layer.memory.extend(self.faults.memory.as_ref().and_then(|m| m.declared));
        }
        let names = (0..layers.len()).map(|f| format!("f{f}")).collect();
        let spec = sched::event::RunSpec {
            uuid: Default::default(),
            name: "sim".into(),
            names: Arc::new(names),
            layers,
            outputs: self.graph.outputs.clone(),
            detached: false,
            max_fails: None,
            max_processing: None,
        };
        for _ in 0..self.faults.workers {
            let when = self.rng.u64(0..3000);
            self.at(Duration::from_micros(when), Happening::Join);
        }
        let submit = sched::event::Event::RunSubmitted { client: Some(CLIENT), run: RUN, spec };
        let when = self.rng.u64(0..3000);
        self.at(Duration::from_micros(when), Happening::ToScheduler(None, submit));
        let span = 40 * self.faults.mean_us;
        let kinds: [(u32, fn() -> Happening); 3] = [
            (self.faults.losses, || Happening::Kill),
            (self.faults.retirements, || Happening::Retire),
            (self.faults.late_joiners, || Happening::Join),
        ];
        for (n, happening) in kinds {
            for _ in 0..n {
                let when = self.rng.u64(1000..span / 4);
                self.at(Duration::from_micros(when), happening());
            }
        }
        self.at(Duration::from_secs(1), Happening::Tick);
    }

    pub fn at(&mut self, after: Duration, happening: Happening) {
        self.sequence += 1;
        self.queue.push(Reverse(At(self.now.after(after), self.sequence, happening)));
    }

    /// Sends over a connection: random delay, but in order.
    pub fn send(&mut self, from: Option<WorkerId>, to: Option<WorkerId>, happening: Happening) {
        let delay = Duration::from_micros(50 + self.rng.u64(0..400));
        let last = self.last.entry((from, to)).or_default();
        let at = self.now.after(delay).max(*last);
        *last = at;
        self.at(at.since(self.now), happening);
    }

    /// Runs until the run is over.
    pub fn run(&mut self) {
        while self.summary.is_none() {
            let Some(Reverse(At(at, _, happening))) = self.queue.pop() else {
                panic!("nothing happens any more and the run is not over: {}", self.describe());
            };
            assert!(at.since(Time::ZERO) < PATIENCE, "the run does not end: {}", self.describe());
            self.now = at;
            let may_change = !matches!(happening, Happening::Look(_)) || self.steps.is_multiple_of(8);
            self.happen(happening);
            if may_change {
                self.check_invariants();
            }
            self.steps += 1;
        }
    }

    fn check_invariants(&mut self) {
        for node in self.nodes.values() {
            self.peak = self.peak.max(node.core.results().map(|(_, bytes)| bytes).sum());
        }
        // From scratch it costs as much as there are tasks; of large graphs a sample of the steps will do.
        if self.graph.is_large() && !self.steps.is_multiple_of(16) {
            return;
        }
        if let Err(wrong) = self.scheduler.check() {
            panic!("scheduler at {:?}: {wrong}", self.now);
        }
        for (w, node) in &self.nodes {
            if let Err(wrong) = node.core.check() {
                panic!("worker {w} at {:?}: {wrong}", self.now);
            }
        }
    }

    fn describe(&self) -> String {
        let mut text = format!("{:?}", self.scheduler.run_counts(RUN));
        for i in 0..2000 {
            let task = TaskRef { run: RUN, index: i };
            let Some(why) = self.scheduler.explain(task).filter(|e| !e.state.is_final()) else { continue };
            text += &format!("\n{i} {why:?}");
            for record in self.scheduler.story(task).iter().rev().take(8).rev() {
                text += &format!("\n   {record:?}");
            }
        }
        text
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::ToScheduler(from, event) => {
                if from.is_none_or(|w| self.nodes.contains_key(&w)) {
                    self.tell_scheduler(event);
                }
            }
            Happening::ToWorker(w, event) => self.tell_worker(w, event),
            Happening::Executed(w, task, attempt) => self.executed(w, task, attempt),
            Happening::FetchArrives { from, to, tasks, broken } => self.fetch(from, to, tasks, broken),
            Happening::ClientFetches(outputs) => self.client_fetches(outputs),
            Happening::Flush(w) => self.flush(w),
            Happening::Look(w) => self.monitor(w),
            Happening::Written(w, task) => self.written(w, task),
            Happening::Kill => self.kill(),
            Happening::Retire => {
                if self.nodes.len() > 1 {
                    let w = self.pick();
                    let event = sched::event::Event::WorkerRetiring { worker: w, reason: "test".into() };
                    self.send(Some(w), None, Happening::ToScheduler(Some(w), event));
                }
            }
            Happening::Join => self.join(),
            Happening::Tick => {
                self.tell_scheduler(sched::event::Event::Tick);
                let workers: Vec<WorkerId> = self.nodes.keys().copied().collect();
                for worker in workers {
                    self.tell_scheduler(sched::event::Event::Heartbeat { worker, memory: None });
                }
                let next = self.scheduler.next_deadline().unwrap_or(self.now).since(self.now);
                self.at(next.clamp(Duration::from_millis(1), Duration::from_secs(1)), Happening::Tick);
            }
        }
    }

    fn pick(&mut self) -> WorkerId {
        let n = self.rng.usize(0..self.nodes.len());
        *self.nodes.keys().nth(n).expect("picked from all")
    }

    fn join(&mut self) {
        let worker = WorkerId(self.next_worker);
        self.next_worker += 1;
        let threads = self.faults.threads.unwrap_or(1 + self.rng.u32(1..3));
        let node = Node {
            core: work::Core::new(threads * SLOT),
            store: BTreeMap::new(),
            running: BTreeMap::new(),
            memory: self.faults.memory.as_ref().map(|m| Own::new(m, worker.0)),
            flush_planned: false,
        };
        self.nodes.insert(worker, node);
        let rules = self.faults.memory.as_ref().map(|m| m.rules(worker.0));
        if rules.is_some() {
            self.at(Duration::ZERO, Happening::Look(worker));
        }
        let spec = sched::event::WorkerSpec {
            name: format!("w{worker}"),
            host: format!("h{worker}"),
            incarnation: Default::default(),
            slots: threads * SLOT,
            resources: BTreeMap::new(),
            memory_limit: rules.map(|r| r.limit),
            memory_target: rules.map_or(self.faults.memory_target, |r| r.admission_bound()),
            leaves: None,
        };
        let event = sched::event::Event::WorkerRegistered { worker, spec };
        self.send(Some(worker), None, Happening::ToScheduler(Some(worker), event));
    }

    fn kill(&mut self) {
        let mut victims: Vec<WorkerId> = self.nodes.keys().copied().collect();
        if victims.is_empty() {
            return;
        }
        if !self.faults.all_at_once {
            victims = vec![self.pick()];
        }
        for w in victims {
            self.nodes.remove(&w);
            // The scheduler learns of it a while later, some news of the worker still arrive before.
            let event = sched::event::Event::WorkerDisconnected {
                worker: w,
                reason: "killed".into(),
                expected: false,
            };
            let last = self.last.get(&(Some(w), None)).copied().unwrap_or_default();
            let delay = Duration::from_micros(self.rng.u64(0..2000)).max(last.since(self.now));
            self.at(delay, Happening::ToScheduler(None, event));
            let rejoin = Duration::from_micros(self.rng.u64(0..5000));
            self.at(delay + rejoin, Happening::Join);
        }
    }

    fn tell_scheduler(&mut self, event: sched::event::Event) {
        let actions = self.scheduler.handle(event, self.now);
        for action in actions {
            self.perform(action);
        }
    }

    fn perform(&mut self, action: sched::action::Action) {
        use sched::action::Action;
        use work::event::Event;
        match action {
            Action::Compute { worker, batch } => {
                self.send(None, Some(worker), Happening::ToWorker(worker, Event::Compute(unpack(&batch))));
            }
            Action::Free { worker, tasks } => {
                self.send(None, Some(worker), Happening::ToWorker(worker, Event::Free(tasks)));
            }
            Action::Cancel { worker, attempts } => {
                self.send(None, Some(worker), Happening::ToWorker(worker, Event::Cancel(attempts)));
            }
            Action::Steal { worker, attempts } => {
                self.send(None, Some(worker), Happening::ToWorker(worker, Event::Steal(attempts)));
            }
            Action::Replicate { worker, tasks, from } => {
                self.send(None, Some(worker), Happening::ToWorker(worker, Event::Replicate { tasks, from }));
            }
            // Nobody goes on with a simulated run later.
            Action::Save { .. } => {}
            Action::Dismiss { worker } => {
                let Some(node) = self.nodes.remove(&worker) else { return };
                assert_eq!(node.core.in_hand(), 0, "dismissed with work in hand");
                let event =
                    sched::event::Event::WorkerDisconnected { worker, reason: "left".into(), expected: true };
                self.at(Duration::from_micros(300), Happening::ToScheduler(None, event));
            }
            Action::Drop { worker, .. } => {
                self.nodes.remove(&worker);
            }
            Action::Outputs { outputs, .. } => {
                let delay = Duration::from_micros(self.rng.u64(0..2000));
                self.at(delay, Happening::ClientFetches(outputs));
            }
            Action::RunDone { summary, .. } => self.summary = Some(summary),
        }
    }

    fn client_fetches(&mut self, outputs: Vec<sched::action::Output>) {
        let mut taken = Vec::new();
        for output in outputs {
            let holder = output.holders[self.rng.usize(0..output.holders.len())];
            match self.nodes.get(&holder).and_then(|n| n.store.get(&output.task)) {
                Some(value) => {
                    let known = self.outputs.insert((output.family, output.element), *value);
                    assert!(known.is_none_or(|v| v == *value), "an output changed");
                    taken.push(output.task);
                }
                None => {
                    let event = sched::event::Event::OutputMissing { task: output.task, holder };
                    self.at(Duration::from_micros(200), Happening::ToScheduler(None, event));
                }
            }
        }
        let event = sched::event::Event::OutputsTaken { tasks: taken };
        self.at(Duration::from_micros(200), Happening::ToScheduler(None, event));
    }

    fn tell_worker(&mut self, w: WorkerId, event: work::event::Event) {
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
            Action::Start(start) => {
                let (family, element) = (start.family.0, start.element);
                let inputs =
                    start.inputs.iter().map(|(_, t)| *node.store.get(t).expect("an input is not there"));
                let value = self.graph.result(family, element, inputs);
                let hopeless = self.hopeless.contains(&(family, element));
                let fails = hopeless || self.rng.f64() < self.faults.task_failures;
                let failure = || Arc::new(Failure::of(FailureKind::Exit(1)));
                let outcome = if fails { Err(failure()) } else { Ok(self.faults.size_of(family, element)) };
                let us = self.rng.u64(0..2 * self.faults.mean_us);
                let inputs: Vec<TaskRef> = start.inputs.iter().map(|(_, t)| *t).collect();
                if let Some(own) = &mut node.memory {
                    inputs.iter().for_each(|t| own.touch(*t, self.sequence));
                }
                let private = self.faults.memory.as_ref().map_or(0, |m| m.private(family, element));
                let began = self.now;
                let running = Running { value, us, outcome, began, family, private, inputs, ended: false };
                node.running.insert((start.task, start.attempt.n), running);
                *self.executed.entry(w).or_default() += 1;
                self.at(Duration::from_micros(us), Happening::Executed(w, start.task, start.attempt));
            }
            Action::Kill { .. } | Action::Own(_) => {}
            Action::Fetch { peer, tasks } => {
                let broken = self.rng.f64() < self.faults.fetch_failures;
                let delay = Duration::from_micros(self.rng.u64(100..2000));
                self.at(delay, Happening::FetchArrives { from: peer, to: w, tasks, broken });
            }
            Action::Publish { task, attempt } => {
                let ran = node.running.remove(&(task, attempt.n)).expect("published what ran");
                node.store.insert(task, ran.value);
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
                    let located = self.scheduler.locate(task);
                    let nbytes = located.map_or(0, |(f, element)| self.faults.size_of(f.0, element));
                    if let Some(own) = &mut node.memory {
                        own.forget(task, nbytes);
                    }
                }
            }
        }
    }

    fn executed(&mut self, w: WorkerId, task: TaskRef, attempt: Attempt) {
        let Some(node) = self.nodes.get_mut(&w) else { return };
        let Some(Running { us, outcome, .. }) = node.running.get(&(task, attempt.n)).cloned() else {
            // It was ended before its time.
            assert!(self.faults.memory.is_some(), "it ran");
            return;
        };
        if outcome.is_err() {
            node.running.remove(&(task, attempt.n));
        }
        let (memory, duration) = (*outcome.as_ref().unwrap_or(&0), Duration::from_micros(us));
        let done = work::event::Done { task, attempt, outcome, memory, duration };
        self.tell_worker(w, work::event::Event::Done(vec![done]));
    }

    fn fetch(&mut self, from: WorkerId, to: WorkerId, tasks: Vec<TaskRef>, broken: bool) {
        use work::event::Fetched;
        let mut outcomes = Vec::new();
        for task in tasks {
            let value = self.nodes.get(&from).map(|n| n.store.get(&task).copied());
            let outcome = match value {
                _ if broken => Fetched::Unreachable,
                None => Fetched::Unreachable,
                Some(None) => Fetched::Absent,
                Some(Some(value)) => {
                    let (family, element) = self.scheduler.locate(task).expect("a task");
                    if let Some(node) = self.nodes.get_mut(&to) {
                        node.store.insert(task, value);
                    }
                    Fetched::Here(self.faults.size_of(family.0, element))
                }
            };
            outcomes.push((task, outcome));
        }
        self.tell_worker(to, work::event::Event::Fetched { peer: from, outcomes });
    }

    /// Sends what a worker has to report.
    fn flush(&mut self, w: WorkerId) {
        let Some(node) = self.nodes.get_mut(&w) else { return };
        node.flush_planned = false;
        let report = node.core.take_report();
        let paused = node.memory.as_mut().and_then(|own| own.news.take());
        if report.is_empty() && paused.is_none() {
            return;
        }
        self.most.handed_back += report.returned.len() as u32;
        let report = sched::event::Report {
            started: report.started,
            finished: report
                .finished
                .into_iter()
                .map(|(task, attempt, nbytes, duration)| sched::event::Finished {
                    task,
                    attempt,
                    nbytes,
                    duration,
                })
                .collect(),
            failed: report.failed,
            missing: report
                .missing
                .into_iter()
                .map(|(task, attempt, inputs)| sched::event::Missing { task, attempt, inputs })
                .collect(),
            returned: report.returned,
            kept: report.kept,
            replicas: report.replicas,
            uncopied: report.uncopied,
            paused,
        };
        let event = sched::event::Event::WorkerReport { worker: w, report };
        self.send(Some(w), None, Happening::ToScheduler(Some(w), event));
    }

    /// Every wanted result arrived once and equals the sequential one.
    pub fn check_end(&self) {
        let summary = self.summary.as_ref().expect("the run is over");
        assert_eq!((summary.failed, summary.skipped, summary.cancelled), (0, 0, 0));
        let expected = self.graph.evaluate();
        for output in &self.graph.outputs {
            let shape = self.scheduler.shape(RUN, *output).expect("sized");
            let mut got = Vec::new();
            for element in shape.first_export..shape.total {
                let value = self.outputs.get(&(*output, element)).copied();
                got.push(value.unwrap_or_else(|| panic!("output {output}[{element}] did not arrive")));
            }
            let expected = &expected[output.index()];
            if self.graph.flat[output.index()] {
                let joined = got.into_iter().fold(Value::nothing(), Value::then);
                assert_eq!(joined, expected[0], "output {output}");
            } else {
                assert_eq!(got, expected[shape.first_export as usize..], "output {output}");
            }
        }
        self.check_nothing_left();
    }

    /// With some tasks failing for ever: exactly they and what depends on them failed, the rest is right.
    pub fn check_failures(&self) {
        let summary = self.summary.as_ref().expect("the run is over");
        let view = self.scheduler.run_view(RUN).expect("the run");
        let total: u64 = view.families.iter().map(|(_, n, _)| u64::from(*n)).sum();
        let done: u64 = view.families.iter().map(|(.., n)| u64::from(*n)).sum();
        assert_eq!(summary.done, done);
        assert!(done + summary.failed + summary.skipped >= total, "{summary:?} of {total}");
        let expected = self.graph.evaluate();
        for ((family, element), value) in &self.outputs {
            assert_eq!(*value, expected[family.index()][*element as usize]);
        }
        let doomed = |f: usize, n: u32| (0..n).filter(|&i| self.hopeless.contains(&(f as u32, i))).count();
        let hopeless: usize = view.families.iter().enumerate().map(|(f, (_, n, _))| doomed(f, *n)).sum();
        assert_eq!(summary.failed == 0, hopeless == 0, "{summary:?}, {hopeless} hopeless");
        self.check_nothing_left();
    }

    /// No result lies around that nobody needs.
    pub fn check_nothing_left(&self) {
        for view in self.scheduler.workers() {
            assert_eq!((view.results, view.nbytes), (0, 0), "worker {} still counts results", view.worker);
        }
    }

    /// The most bytes of results that any worker held at any time.
    pub fn peak(&self) -> u64 {
        self.peak
    }

    pub fn executed_by_worker(&self) -> BTreeMap<WorkerId, u32> {
        self.executed.clone()
    }
}

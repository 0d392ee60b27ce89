//! A cluster in virtual time in which bytes take time: executing costs by what is read and written, moving by
//! what is moved. Drives the scheduler's and the workers' cores and measures what a placement is worth: bytes
//! moved, the most that a worker held, when the last task ended. Nothing fails here; `tests/sim` is for that.

use crate::unpack::unpack;
use hpcdag::base::ids::{Attempt, ClientId, RunId, TaskRef, WorkerId};
use hpcdag::base::time::Time;
use hpcdag::graph::layer::{Layer, SLOT};
use hpcdag::scheduler::core as sched;
use hpcdag::worker::core as work;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

/// Bytes a second that a task reads and writes.
const COMPUTE: u64 = 1_500_000_000;
/// Bytes a second over one connection.
const NETWORK: u64 = 500_000_000;
/// How long a message takes.
const MESSAGE: Duration = Duration::from_micros(200);
/// How often workers report their memory.
const HEARTBEAT: Duration = Duration::from_millis(100);
/// What any task takes at least.
const TASK: Duration = Duration::from_micros(300);

/// A cluster and a graph.
#[derive(Clone)]
pub struct Setting {
    /// Workers.
    pub workers: u32,
    /// Slots of each.
    pub threads: u32,
    /// Bytes of results that each may hold.
    pub target: Option<u64>,
    /// The graph: a layer, and the size of its results.
    pub layers: Vec<(Layer, u64)>,
    /// Results that are wanted.
    pub outputs: Vec<u32>,
    /// Makes durations differ a little.
    pub seed: u64,
}

/// What came out.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// The most bytes of results on one worker, those being made and fetched included.
    pub peak: u64,
    /// Bytes that went from worker to worker.
    pub moved: u64,
    /// Bytes of all results.
    pub made: u64,
    /// Bytes above the target that came in: what would have had to be spilled, at least.
    pub beyond: u64,
    /// When all was done.
    pub seconds: f64,
}

enum Happening {
    ToScheduler(Box<sched::event::Event>),
    ToWorker(WorkerId, work::event::Event),
    Executed(WorkerId, TaskRef, Attempt, u64, Duration),
    Fetched { from: WorkerId, to: WorkerId, tasks: Vec<TaskRef> },
    Flush(WorkerId),
    Heartbeats,
}

struct At(Time, u64, Happening);

impl PartialEq for At {
    fn eq(&self, other: &At) -> bool {
        self.1 == other.1
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

struct Node {
    core: work::Core,
    /// Bytes of what is being made and fetched.
    coming: u64,
    flush_planned: bool,
    held: u64,
}

struct Model {
    setting: Setting,
    rng: fastrand::Rng,
    now: Time,
    queue: BinaryHeap<Reverse<At>>,
    sequence: u64,
    scheduler: sched::Core,
    nodes: BTreeMap<WorkerId, Node>,
    outcome: Outcome,
    done: bool,
}

/// Runs a graph to its end.
pub fn run(setting: &Setting) -> Outcome {
    let mut model = Model {
        setting: setting.clone(),
        rng: fastrand::Rng::with_seed(setting.seed),
        now: Time::ZERO,
        queue: BinaryHeap::new(),
        sequence: 0,
        scheduler: sched::Core::new(1, sched::Settings::default()),
        nodes: BTreeMap::new(),
        outcome: Outcome { peak: 0, moved: 0, made: 0, beyond: 0, seconds: 0.0 },
        done: false,
    };
    model.begin();
    while !model.done {
        let Some(Reverse(At(at, _, happening))) = model.queue.pop() else {
            panic!("nothing happens any more: {:?}", model.scheduler.run_counts(RunId(0)));
        };
        model.now = at;
        let patience = Duration::from_secs(1000);
        assert!(at.since(Time::ZERO) < patience, "no end: {:?}", model.scheduler.run_counts(RunId(0)));
        model.happen(happening);
    }
    model.outcome.seconds = model.now.since(Time::ZERO).as_secs_f64();
    model.outcome
}

impl Model {
    fn begin(&mut self) {
        for w in 0..self.setting.workers {
            let worker = WorkerId(w);
            let slots = self.setting.threads * SLOT;
            let node = Node { core: work::Core::new(slots), coming: 0, flush_planned: false, held: 0 };
            self.nodes.insert(worker, node);
            let spec = sched::event::WorkerSpec {
                name: format!("w{w}"),
                host: format!("h{w}"),
                job: None,
                incarnation: Default::default(),
                slots,
                resources: BTreeMap::new(),
                memory_limit: None,
                memory_target: self.setting.target,
                leaves: None,
                preemptible: false,
            };
            let event = sched::event::Event::WorkerRegistered { worker, spec };
            self.at(MESSAGE, Happening::ToScheduler(Box::new(event)));
        }
        let layers: Vec<Layer> = self.setting.layers.iter().map(|(l, _)| l.clone()).collect();
        let spec = sched::event::RunSpec {
            uuid: Default::default(),
            name: "model".into(),
            names: Arc::new((0..layers.len()).map(|f| format!("f{f}")).collect()),
            layers,
            outputs: self.setting.outputs.iter().map(|&f| hpcdag::base::ids::FamilyIx(f)).collect(),
            detached: false,
            max_fails: None,
            max_processing: None,
            calls: None,
        };
        let submit = sched::event::Event::RunSubmitted { client: Some(ClientId(0)), run: RunId(0), spec };
        self.at(2 * MESSAGE, Happening::ToScheduler(Box::new(submit)));
        self.at(HEARTBEAT, Happening::Heartbeats);
    }

    fn at(&mut self, after: Duration, happening: Happening) {
        self.sequence += 1;
        self.queue.push(Reverse(At(self.now.after(after), self.sequence, happening)));
    }

    fn size_of(&self, task: TaskRef) -> u64 {
        let (family, _) = self.scheduler.locate(task).expect("a task");
        self.setting.layers[family.index()].1
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::ToScheduler(event) => {
                let actions = self.scheduler.handle(*event, self.now);
                actions.into_iter().for_each(|a| self.perform(a));
            }
            Happening::ToWorker(w, event) => self.tell_worker(w, event),
            Happening::Executed(w, task, attempt, nbytes, duration) => {
                self.node(w).coming -= nbytes;
                self.outcome.made += nbytes;
                let done = work::event::Done { task, attempt, outcome: Ok(nbytes), memory: nbytes, duration };
                self.tell_worker(w, work::event::Event::Done(vec![done]));
            }
            Happening::Fetched { from, to, tasks } => {
                let sizes: Vec<(TaskRef, u64)> = tasks.into_iter().map(|t| (t, self.size_of(t))).collect();
                let bytes: u64 = sizes.iter().map(|(_, n)| n).sum();
                self.node(to).coming -= bytes;
                self.outcome.moved += bytes;
                let outcomes = sizes.into_iter().map(|(t, n)| (t, work::event::Fetched::Here(n))).collect();
                self.tell_worker(to, work::event::Event::Fetched { peer: from, outcomes });
            }
            Happening::Flush(w) => self.flush(w),
            Happening::Heartbeats => self.heartbeats(),
        }
    }

    /// Every worker says how much it would have put on disk.
    fn heartbeats(&mut self) {
        let target = self.setting.target.unwrap_or(u64::MAX);
        for (&worker, node) in &self.nodes {
            let spilled = node.held.saturating_sub(target);
            let memory = Some(sched::event::MemoryUse { unmanaged: 0, spilled });
            let event = sched::event::Event::Heartbeat { worker, memory };
            self.sequence += 1;
            let at = At(self.now.after(MESSAGE), self.sequence, Happening::ToScheduler(Box::new(event)));
            self.queue.push(Reverse(at));
        }
        self.at(HEARTBEAT, Happening::Heartbeats);
    }

    fn node(&mut self, w: WorkerId) -> &mut Node {
        self.nodes.get_mut(&w).expect("a worker")
    }

    fn perform(&mut self, action: sched::action::Action) {
        use sched::action::Action;
        use work::event::Event;
        let (worker, event) = match action {
            Action::Compute { worker, batch } => (worker, Event::Compute(unpack(&batch))),
            Action::Free { worker, tasks } => (worker, Event::Free(tasks)),
            Action::Cancel { worker, attempts } => (worker, Event::Cancel(attempts)),
            Action::Steal { worker, attempts } => (worker, Event::Steal(attempts)),
            Action::Replicate { worker, tasks, from } => (worker, Event::Replicate { tasks, from }),
            Action::Outputs { outputs, .. } => {
                let tasks = outputs.into_iter().map(|o| o.task).collect();
                let taken = sched::event::Event::OutputsTaken { tasks };
                self.at(MESSAGE, Happening::ToScheduler(Box::new(taken)));
                return;
            }
            Action::RunDone { summary, .. } => {
                assert_eq!((summary.failed, summary.skipped, summary.cancelled), (0, 0, 0));
                self.done = true;
                return;
            }
            Action::CallsFailed { .. } | Action::CallsLost { .. } | Action::Spent { .. } => {
                panic!("there are no calls")
            }
            Action::AttemptFailed { .. } => panic!("an attempt failed"),
            Action::Save { .. } | Action::Dismiss { .. } | Action::Drop { .. } => {
                panic!("a worker was sent away")
            }
        };
        self.at(MESSAGE, Happening::ToWorker(worker, event));
    }

    fn tell_worker(&mut self, w: WorkerId, event: work::event::Event) {
        let actions = self.node(w).core.handle(event);
        actions.into_iter().for_each(|a| self.work(w, a));
        self.measure(w);
        let node = self.node(w);
        if !node.flush_planned {
            node.flush_planned = true;
            self.at(Duration::from_micros(50), Happening::Flush(w));
        }
    }

    fn measure(&mut self, w: WorkerId) {
        let target = self.setting.target.unwrap_or(u64::MAX);
        let node = self.node(w);
        let held = node.core.results().map(|(_, bytes)| bytes).sum::<u64>() + node.coming;
        let beyond = held.saturating_sub(target.max(node.held));
        node.held = held;
        self.outcome.beyond += beyond;
        self.outcome.peak = self.outcome.peak.max(held);
    }

    fn work(&mut self, w: WorkerId, action: work::event::Action) {
        use work::event::Action;
        match action {
            Action::Start(start) => {
                let nbytes = self.size_of(start.task);
                let read: u64 = start.inputs.iter().map(|(_, t)| self.size_of(*t)).sum();
                let ideal = (nbytes + read) * 1_000_000_000 / COMPUTE;
                let ns = ideal * self.rng.u64(90..110) / 100;
                let duration = TASK + Duration::from_nanos(ns);
                self.node(w).coming += nbytes;
                self.at(duration, Happening::Executed(w, start.task, start.attempt, nbytes, duration));
            }
            Action::Fetch { peer, tasks } => {
                let bytes: u64 = tasks.iter().map(|t| self.size_of(*t)).sum();
                self.node(w).coming += bytes;
                let duration = 2 * MESSAGE + Duration::from_nanos(bytes * 1_000_000_000 / NETWORK);
                self.at(duration, Happening::Fetched { from: peer, to: w, tasks });
            }
            Action::Kill { .. } | Action::Publish { .. } | Action::Discard { .. } => {}
            Action::Drop(_) | Action::Own(_) | Action::ReadAhead(_) => {}
        }
    }

    fn flush(&mut self, w: WorkerId) {
        let node = self.node(w);
        node.flush_planned = false;
        let report = node.core.take_report();
        if report.is_empty() {
            return;
        }
        let finished = report.finished.into_iter();
        let report = sched::event::Report {
            started: report.started,
            finished: finished
                .map(|(task, attempt, nbytes, duration)| sched::event::Finished {
                    task,
                    attempt,
                    nbytes,
                    duration,
                })
                .collect(),
            failed: report.failed,
            missing: Vec::new(),
            returned: report.returned,
            kept: report.kept,
            replicas: report.replicas,
            uncopied: report.uncopied,
            pinned: Vec::new(),
            stored: Vec::new(),
            away: Vec::new(),
            paused: None,
        };
        let event = sched::event::Event::WorkerReport { worker: w, report };
        self.at(MESSAGE, Happening::ToScheduler(Box::new(event)));
    }
}

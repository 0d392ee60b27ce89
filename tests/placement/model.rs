//! A cluster in virtual time in which bytes take time: executing costs by what is read and written, moving by
//! what is moved. Drives the scheduler's and the workers' cores and measures what a placement is worth: bytes
//! moved, the most that a worker held, what had to be written to disk, when the last task ended. Nothing
//! fails here; `tests/sim` is for that.

use crate::unpack::unpack;
use hpcdag::base::ids::{ClientId, RunId, TaskRef, WorkerId};
use hpcdag::base::time::Time;
use hpcdag::graph::layer::{Layer, SLOT};
use hpcdag::scheduler::core as sched;
use hpcdag::worker::core as work;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
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
    /// Of which kind each is: what else bears its name.
    pub kinds: Vec<u32>,
    /// Results that are wanted.
    pub outputs: Vec<u32>,
    /// Whether tasks with several inputs put them together in memory of their own.
    pub copies_inputs: bool,
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
    /// Bytes that went to disk, the longest unused first, to stay below the target.
    pub written: u64,
    /// When all was done.
    pub seconds: f64,
}

enum Happening {
    ToScheduler(Box<sched::event::Event>),
    ToWorker(WorkerId, work::event::Event),
    Executed { by: WorkerId, done: work::event::Done, read: Vec<TaskRef> },
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
    /// When results in memory were made, brought or read last.
    used: BTreeMap<TaskRef, u64>,
    /// Results that executing tasks read, with how many do.
    read: BTreeMap<TaskRef, u32>,
    /// Results that are on disk only.
    spilled: BTreeSet<TaskRef>,
    /// Results that were brought.
    copies: BTreeSet<TaskRef>,
    /// Results that probably are dropped soon.
    passing: BTreeSet<TaskRef>,
}

impl Node {
    /// A result was made, brought or read.
    fn touch(&mut self, task: TaskRef, now: u64) {
        if !self.spilled.contains(&task) {
            self.used.insert(task, now);
        }
    }
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
        outcome: Outcome { peak: 0, moved: 0, made: 0, written: 0, seconds: 0.0 },
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
            let node = Node {
                core: work::Core::new(slots),
                coming: 0,
                flush_planned: false,
                used: BTreeMap::new(),
                read: BTreeMap::new(),
                spilled: BTreeSet::new(),
                copies: BTreeSet::new(),
                passing: BTreeSet::new(),
            };
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
        let letter = |kind: u32| char::from(b'a' + (kind % 26) as u8);
        let name = |(f, kind): (usize, &u32)| format!("{}-{f}", letter(*kind));
        let spec = sched::event::RunSpec {
            uuid: Default::default(),
            name: "model".into(),
            names: Arc::new(self.setting.kinds.iter().enumerate().map(name).collect()),
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

    /// What a task that reads these occupies beside its result.
    fn scratch(&self, read: &[TaskRef]) -> u64 {
        let counts = self.setting.copies_inputs && read.len() > 1;
        read.iter().filter(|_| counts).map(|task| self.size_of(*task)).sum()
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
            Happening::Executed { by: w, done, read } => {
                let scratch = self.scratch(&read);
                let (now, node) = (self.sequence, self.nodes.get_mut(&w).expect("a worker"));
                for task in read {
                    let readers = node.read.entry(task).or_default();
                    *readers -= 1;
                    if *readers == 0 {
                        node.read.remove(&task);
                    }
                    node.touch(task, now);
                }
                node.coming -= done.memory + scratch;
                node.touch(done.task, now);
                self.outcome.made += done.memory;
                self.tell_worker(w, work::event::Event::Done(vec![done]));
            }
            Happening::Fetched { from, to, tasks } => {
                let sizes: Vec<(TaskRef, u64)> = tasks.into_iter().map(|t| (t, self.size_of(t))).collect();
                let bytes: u64 = sizes.iter().map(|(_, n)| n).sum();
                let now = self.sequence;
                self.node(to).coming -= bytes;
                sizes.iter().for_each(|(task, _)| {
                    self.node(to).touch(*task, now);
                    self.node(to).copies.insert(*task);
                });
                self.outcome.moved += bytes;
                let outcomes = sizes.into_iter().map(|(t, n)| (t, work::event::Fetched::Here(n))).collect();
                self.tell_worker(to, work::event::Event::Fetched { peer: from, outcomes });
            }
            Happening::Flush(w) => self.flush(w),
            Happening::Heartbeats => self.heartbeats(),
        }
    }

    /// Every worker says how much it has on disk.
    fn heartbeats(&mut self) {
        for (&worker, node) in &self.nodes {
            let spilled = node.spilled.iter().map(|task| self.size_of(*task)).sum();
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

    /// Looks what a worker holds, and brings the longest unused to disk while that is too much.
    fn measure(&mut self, w: WorkerId) {
        let target = self.setting.target.unwrap_or(u64::MAX);
        let node = self.node(w);
        let memory = |node: &Node| {
            node.coming
                + node.core.results().filter(|(t, _)| node.used.contains_key(t)).map(|(_, n)| n).sum::<u64>()
        };
        let excess = memory(node).saturating_sub(target);
        if excess > 0 {
            // Copies of what others have that no task needs.
            drop(node.core.handle(work::event::Event::Shed { bytes: excess, here: w }));
        }
        let here: BTreeMap<TaskRef, u64> = node.core.results().collect();
        node.spilled.retain(|task| here.contains_key(task));
        node.used.retain(|task, _| here.contains_key(task));
        node.copies.retain(|task| here.contains_key(task));
        node.passing.retain(|task| here.contains_key(task));
        let all: u64 = here.values().sum();
        let mut memory: u64 = node.coming + node.used.keys().map(|task| here[task]).sum::<u64>();
        let (peak, mut written) = (all + node.coming, 0);
        while memory > target {
            let unread = node.used.iter().filter(|(task, _)| !node.read.contains_key(*task));
            let last = |task: &TaskRef| (node.copies.contains(task), node.passing.contains(task));
            let least = |(task, at): &(&TaskRef, &u64)| (last(task), **at);
            let Some((&task, _)) = unread.min_by_key(least) else { break };
            node.used.remove(&task);
            node.spilled.insert(task);
            node.core.set_on_disk(&[(task, true)]);
            (memory, written) = (memory - here[&task], written + here[&task]);
        }
        self.outcome.written += written;
        self.outcome.peak = self.outcome.peak.max(peak);
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
                let read: Vec<TaskRef> = start.inputs.iter().map(|(_, t)| *t).collect();
                let scratch = self.scratch(&read);
                let node = self.node(w);
                node.coming += nbytes + scratch;
                read.iter().for_each(|task| *node.read.entry(*task).or_default() += 1);
                let (task, attempt) = (start.task, start.attempt);
                let done = work::event::Done { task, attempt, outcome: Ok(nbytes), memory: nbytes, duration };
                self.at(duration, Happening::Executed { by: w, done, read });
            }
            Action::Fetch { peer, tasks } => {
                let bytes: u64 = tasks.iter().map(|t| self.size_of(*t)).sum();
                self.node(w).coming += bytes;
                let duration = 2 * MESSAGE + Duration::from_nanos(bytes * 1_000_000_000 / NETWORK);
                self.at(duration, Happening::Fetched { from: peer, to: w, tasks });
            }
            Action::Publish { task, passing: true, .. } => {
                self.node(w).passing.insert(task);
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
        let of = |(task, attempt, inputs)| sched::event::Missing { task, attempt, inputs };
        let missing = report.missing.into_iter().map(of);
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
            missing: missing.collect(),
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

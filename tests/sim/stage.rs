//! A stage for scenarios: one scheduler core and worker cores, where the test says which message arrives
//! when. Owns the messages that are under way; checks the invariants after every step.

use crate::graphs::Graph;
use crate::unpack::unpack;
use hpcdag::base::failure::{Failure, FailureKind};
use hpcdag::base::ids::{Attempt, ClientId, RunId, RunUuid, TaskRef, WorkerId};
use hpcdag::base::time::Time;
use hpcdag::graph::layer::SLOT;
use hpcdag::scheduler::core as sched;
use hpcdag::worker::core as work;
use sched::event::{Event, Finished, Missing, Report};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use work::event::Fetched;

const CLIENT: ClientId = ClientId(0);
/// A step of the clock.
const STEP: Duration = Duration::from_millis(1);

pub struct Player {
    core: work::Core,
    /// What the scheduler has sent and has not arrived.
    inbox: VecDeque<work::event::Event>,
    pub executing: BTreeSet<(TaskRef, Attempt)>,
    fetches: VecDeque<(WorkerId, Vec<TaskRef>)>,
    has: BTreeSet<TaskRef>,
}

pub struct Stage {
    pub scheduler: sched::Core,
    pub workers: BTreeMap<WorkerId, Player>,
    pub now: Time,
    pub done: BTreeSet<RunId>,
    pub dismissed: BTreeSet<WorkerId>,
    runs: u32,
    /// Outputs that the client was told of.
    pub announced: usize,
}

pub fn task(run: u32, index: u32) -> TaskRef {
    TaskRef { run: RunId(run), index }
}

impl Stage {
    /// With so many workers of one thread.
    pub fn new(workers: u32) -> Stage {
        let mut stage = Stage {
            scheduler: sched::Core::new(1, sched::Settings::default()),
            workers: BTreeMap::new(),
            now: Time::ZERO,
            done: BTreeSet::new(),
            dismissed: BTreeSet::new(),
            runs: 0,
            announced: 0,
        };
        (0..workers).for_each(|w| stage.join(w, &format!("w{w}")));
        stage
    }

    pub fn join(&mut self, w: u32, name: &str) {
        let worker = WorkerId(w);
        let player = Player {
            core: work::Core::new(SLOT),
            inbox: VecDeque::new(),
            executing: BTreeSet::new(),
            fetches: VecDeque::new(),
            has: BTreeSet::new(),
        };
        self.workers.insert(worker, player);
        let spec = sched::event::WorkerSpec {
            name: name.into(),
            host: format!("host-of-{name}"),
            job: None,
            preemptible: false,
            incarnation: Default::default(),
            slots: SLOT,
            resources: BTreeMap::new(),
            memory_limit: None,
            memory_target: None,
            leaves: None,
        };
        self.tell(Event::WorkerRegistered { worker, spec });
    }

    pub fn submit(&mut self, graph: &Graph) -> RunId {
        self.submit_limited(graph, u32::MAX)
    }

    /// A run that hands out so many tasks at a time.
    pub fn submit_limited(&mut self, graph: &Graph, most: u32) -> RunId {
        let run = RunId(self.runs);
        self.runs += 1;
        let spec = sched::event::RunSpec {
            uuid: RunUuid::from_u128(u128::from(run.0) + 1),
            name: "scenario".into(),
            names: Arc::new((0..graph.layers.len()).map(|f| format!("f{f}")).collect()),
            layers: graph.layers.clone(),
            outputs: graph.outputs.clone(),
            detached: false,
            max_fails: None,
            max_processing: (most < u32::MAX).then_some(most),
            calls: None,
        };
        self.tell(Event::RunSubmitted { client: Some(CLIENT), run, spec });
        run
    }

    /// Something happens to the scheduler.
    pub fn tell(&mut self, event: Event) {
        use sched::action::Action;
        use work::event::Event as ToWorker;
        self.now = self.now.after(STEP);
        for action in self.scheduler.handle(event, self.now) {
            let mut post = |w: WorkerId, event| {
                if let Some(player) = self.workers.get_mut(&w) {
                    player.inbox.push_back(event);
                }
            };
            match action {
                Action::CallsFailed { .. } | Action::CallsLost { .. } | Action::Spent { .. } => {
                    panic!("there are no calls");
                }
                // Nobody goes on with a simulated run later.
                Action::Save { .. } | Action::AttemptFailed { .. } => {}
                Action::Compute { worker, batch } => post(worker, ToWorker::Compute(unpack(&batch))),
                Action::Free { worker, tasks } => post(worker, ToWorker::Free(tasks)),
                Action::Cancel { worker, attempts } => post(worker, ToWorker::Cancel(attempts)),
                Action::Steal { worker, attempts } => post(worker, ToWorker::Steal(attempts)),
                Action::Replicate { worker, tasks, from } => {
                    post(worker, ToWorker::Replicate { tasks, from })
                }
                Action::Dismiss { worker } => {
                    self.dismissed.insert(worker);
                }
                Action::Drop { worker, .. } => drop(self.workers.remove(&worker)),
                Action::Outputs { outputs, .. } => {
                    self.announced += outputs.len();
                    let tasks = outputs.iter().map(|o| o.task).collect();
                    self.tell(Event::OutputsTaken { tasks });
                }
                Action::RunDone { run, .. } => {
                    self.done.insert(run);
                }
            }
        }
        self.scheduler.check().expect("invariants of the scheduler");
    }

    /// Something happens to a worker.
    pub fn happen(&mut self, w: u32, event: work::event::Event) {
        let Some(player) = self.workers.get_mut(&WorkerId(w)) else { return };
        let actions = player.core.handle(event);
        player.perform(actions);
    }

    /// Everything that the scheduler has sent arrives at a worker.
    pub fn deliver(&mut self, w: u32) {
        while let Some(event) = self.workers.get_mut(&WorkerId(w)).and_then(|p| p.inbox.pop_front()) {
            self.happen(w, event);
        }
    }

    /// What a worker has to say, still on its way.
    pub fn report_of(&mut self, w: u32) -> Report {
        let Some(player) = self.workers.get_mut(&WorkerId(w)) else { return Report::default() };
        let report = player.core.take_report();
        let finished = |(task, attempt, nbytes, duration)| Finished { task, attempt, nbytes, duration };
        let missing = |(task, attempt, inputs)| Missing { task, attempt, inputs };
        Report {
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
            paused: None,
        }
    }

    /// It arrives.
    pub fn arrives(&mut self, w: u32, report: Report) {
        self.tell(Event::WorkerReport { worker: WorkerId(w), report });
    }

    pub fn report(&mut self, w: u32) {
        let report = self.report_of(w);
        self.arrives(w, report);
    }

    /// Messages both ways.
    pub fn exchange(&mut self, w: u32) {
        self.deliver(w);
        self.report(w);
        self.deliver(w);
    }

    /// What executes on a worker.
    pub fn executing(&self, w: u32) -> Vec<TaskRef> {
        self.workers[&WorkerId(w)].executing.iter().map(|(t, _)| *t).collect()
    }

    /// The first task that executes on a worker ends well, or not.
    pub fn ends(&mut self, w: u32, well: bool) -> TaskRef {
        let player = self.workers.get_mut(&WorkerId(w)).expect("a worker");
        let (task, attempt) = player.executing.pop_first().expect("something executes");
        let failure = || Arc::new(Failure::of(FailureKind::Exit(1)));
        let outcome = if well { Ok(100) } else { Err(failure()) };
        let duration = Duration::from_millis(50);
        let done = work::event::Done { task, attempt, outcome, memory: 100, duration };
        self.happen(w, work::event::Event::Done(vec![done]));
        task
    }

    /// The oldest fetch of a worker ends: as it should, or broken off.
    pub fn fetched(&mut self, w: u32, well: bool) {
        let player = self.workers.get_mut(&WorkerId(w)).expect("a worker");
        let (peer, tasks) = player.fetches.pop_front().expect("a fetch");
        let has = |task: &TaskRef| self.workers.get(&peer).is_some_and(|p| p.has.contains(task));
        let outcome = |task: TaskRef| match (well && self.workers.contains_key(&peer), has(&task)) {
            (true, true) => (task, Fetched::Here(100)),
            (true, false) => (task, Fetched::Absent),
            _ => (task, Fetched::Unreachable),
        };
        let outcomes: Vec<_> = tasks.into_iter().map(outcome).collect();
        if let Some(player) = self.workers.get_mut(&WorkerId(w)) {
            let here = outcomes.iter().filter(|(_, o)| matches!(o, Fetched::Here(_)));
            player.has.extend(here.map(|(t, _)| *t));
        }
        self.happen(w, work::event::Event::Fetched { peer, outcomes });
    }

    pub fn is_fetching(&self, w: u32) -> bool {
        !self.workers[&WorkerId(w)].fetches.is_empty()
    }

    /// A worker is gone, and the scheduler knows.
    pub fn lose(&mut self, w: u32) {
        self.workers.remove(&WorkerId(w));
        self.tell(Event::WorkerDisconnected {
            worker: WorkerId(w),
            reason: "killed".into(),
            expected: false,
        });
    }

    pub fn pause(&mut self, w: u32, paused: bool) {
        let player = self.workers.get_mut(&WorkerId(w)).expect("a worker");
        let actions = player.core.set_paused(paused);
        player.perform(actions);
        let report = Report { paused: Some(paused), ..Report::default() };
        self.arrives(w, report);
    }

    pub fn state(&self, task: TaskRef) -> sched::state::State {
        self.scheduler.explain(task).expect("a task").state
    }

    /// From here on everything goes as it should: every run has to end, and nothing may be left.
    pub fn goes_well(&mut self) {
        for _ in 0..2000 {
            let workers: Vec<u32> = self.workers.keys().map(|w| w.0).collect();
            for w in workers {
                self.deliver(w);
                while self.workers.get(&WorkerId(w)).is_some_and(|p| !p.fetches.is_empty()) {
                    self.fetched(w, true);
                }
                if self.workers.get(&WorkerId(w)).is_some_and(|p| !p.executing.is_empty()) {
                    self.ends(w, true);
                }
                self.report(w);
                self.deliver(w);
            }
            if self.done.len() == self.runs as usize && self.is_quiet() {
                (0..self.runs).for_each(|r| self.tell(Event::RunForgotten { run: RunId(r) }));
                self.scheduler.check_empty().expect("nothing left");
                let left: Vec<_> = self.workers.values().flat_map(|p| &p.has).collect();
                assert!(left.is_empty(), "left: {left:?}");
                return;
            }
            self.now = self.now.after(Duration::from_millis(100));
            self.tell(Event::Tick);
        }
        let last =
            self.scheduler.runs().iter().map(|run| run.counts.iter().sum::<u64>() as u32).collect::<Vec<_>>();
        for (run, n) in last.into_iter().enumerate() {
            for task in (0..n).map(|i| task(run as u32, i)) {
                println!(
                    "{task:?} {:?}\n{:?}",
                    self.scheduler.explain(task),
                    self.scheduler.story(task).iter().rev().take(6).collect::<Vec<_>>()
                );
            }
        }
        panic!("it does not end: {:?}", self.scheduler.runs());
    }

    fn is_quiet(&self) -> bool {
        let quiet = |p: &Player| p.inbox.is_empty() && p.executing.is_empty() && p.fetches.is_empty();
        self.workers.values().all(quiet)
    }
}

impl Player {
    fn perform(&mut self, actions: Vec<work::event::Action>) {
        use work::event::Action;
        for action in actions {
            match action {
                Action::Start(start) => {
                    let all = start.inputs.iter().all(|(_, input)| self.has.contains(input));
                    assert!(all, "{:?} starts without its inputs", start.task);
                    self.executing.insert((start.task, start.attempt));
                }
                Action::Fetch { peer, tasks } => self.fetches.push_back((peer, tasks)),
                Action::Publish { task, .. } => {
                    self.has.insert(task);
                }
                Action::Drop(tasks) => self.has.retain(|t| !tasks.contains(t)),
                Action::Kill { .. } | Action::Discard { .. } | Action::Own(_) | Action::ReadAhead(_) => {}
            }
        }
        self.core.check().expect("invariants of a worker");
    }
}

/// Less usual things.
impl Stage {
    /// The first task that is on its way to a worker.
    pub fn assigned(&self, w: u32) -> work::event::Assigned {
        let compute = self.workers[&WorkerId(w)].inbox.iter().find_map(|event| match event {
            work::event::Event::Compute(tasks) => tasks.first(),
            _ => None,
        });
        compute.expect("a task is on its way").clone()
    }

    /// Results of a worker cannot be read any more.
    pub fn unreadable(&mut self, w: u32, tasks: &[TaskRef]) {
        if let Some(player) = self.workers.get_mut(&WorkerId(w)) {
            player.has.retain(|task| !tasks.contains(task));
        }
        self.happen(w, work::event::Event::Lost { tasks: tasks.to_vec(), here: WorkerId(w) });
    }

    /// A worker that is paused starts one task all the same.
    pub fn start_one(&mut self, w: u32) {
        let player = self.workers.get_mut(&WorkerId(w)).expect("a worker");
        let actions = player.core.start_one();
        player.perform(actions);
    }
}

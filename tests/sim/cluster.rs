//! The simulated cluster: one scheduler core, worker cores, clients, and a queue of events in virtual time.
//! Messages between two parties keep their order; everything else is up to the seed. Owns time, connections
//! and the scheduler's side; workers are in `nodes`, clients in `clients`, what goes wrong in `trouble`.

use crate::checks::Checks;
use crate::clients::{Client, Job};
use crate::faults::Faults;
use crate::graphs::Graph;
use crate::memory::Most;
use crate::nodes::Node;
use crate::sabotage::Sabotage;
use crate::unpack::unpack;
use hpcdag::base::ids::{Attempt, ClientId, RunId, TaskRef, WorkerId};
use hpcdag::base::time::Time;
use hpcdag::scheduler::core as sched;
use hpcdag::worker::core as work;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::time::Duration;

/// Who sends and gets messages.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Party {
    Scheduler,
    Worker(WorkerId),
    Client(ClientId),
}

/// What is sent over a connection.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // Few are on their way at a time.
pub enum Message {
    ToScheduler(sched::event::Event),
    ToWorker(work::event::Event),
    /// To a worker: it may stop.
    Dismiss,
    /// To a client.
    Outputs(Vec<sched::action::Output>),
}

/// What comes next.
#[derive(Clone, Debug)]
pub enum Happening {
    /// The next message of a connection arrives.
    Arrives(Party, Party),
    Executed(WorkerId, TaskRef, Attempt),
    FetchArrives {
        from: WorkerId,
        to: WorkerId,
        tasks: Vec<TaskRef>,
        broken: bool,
    },
    ClientFetches(ClientId, Vec<sched::action::Output>),
    Submit(RunId),
    /// Somebody looks after runs whose clients are away.
    Successor(ClientId),
    Flush(WorkerId),
    Look(WorkerId),
    Written(WorkerId, TaskRef),
    /// A paused worker starts one task all the same.
    Nudge(WorkerId),
    Trouble(Trouble),
    Tick,
}

/// What goes wrong at a moment.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Trouble {
    Kill,
    KillHolder,
    Flap,
    Freeze,
    Pause,
    Unpause(WorkerId),
    Retire,
    /// The batch job of a worker is about to end, and ends.
    Leave(WorkerId),
    End(WorkerId),
    Join,
    /// A worker that the scheduler has lost sight of ends.
    Remove(WorkerId),
    Cancel,
    Vanish,
    Return(ClientId),
    Successor,
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

/// The first run; many tests have no other.
pub const RUN: RunId = RunId(0);
/// Happenings that are shown when something is wrong.
const LAST: usize = 60;

pub struct Sim {
    pub rng: fastrand::Rng,
    pub faults: Faults,
    pub now: Time,
    queue: BinaryHeap<Reverse<At>>,
    /// Of these, what is more than looking and waiting.
    lively: usize,
    pub sequence: u64,
    /// Whether tasks take several workers each.
    pub has_wide_tasks: bool,
    pub scheduler: sched::Core,
    pub nodes: BTreeMap<WorkerId, Node>,
    pub next_worker: u32,
    links: BTreeMap<(Party, Party), (Time, VecDeque<Message>)>,
    /// Whose connection to the scheduler has ended, as far as the scheduler knows.
    pub closed: BTreeSet<Party>,
    pub jobs: Vec<Job>,
    pub clients: BTreeMap<ClientId, Client>,
    pub executed: BTreeMap<WorkerId, u32>,
    pub peak: u64,
    pub steps: u64,
    /// Bytes of each result.
    pub sizes: BTreeMap<TaskRef, u64>,
    /// What families have been seen to occupy.
    pub usual_peaks: BTreeMap<u32, u64>,
    pub most: Most,
    pub checks: Checks,
    pub sabotage: Option<Sabotage>,
    /// The last happenings, if they are to be shown.
    pub trace: Option<VecDeque<String>>,
}

impl Sim {
    pub fn new(seed: u64, graph: Graph, faults: Faults) -> Sim {
        Sim::with(seed, vec![graph], faults)
    }

    /// Several runs, each of its own client or of one that has others.
    pub fn with(seed: u64, graphs: Vec<Graph>, faults: Faults) -> Sim {
        let settings = sched::Settings {
            retry_backoff: Duration::from_millis(5),
            allowed_failures: 100,
            session_lease: faults.lease,
            ..Default::default()
        };
        let mut sim = Sim {
            rng: fastrand::Rng::with_seed(seed ^ 0xabcd),
            now: Time::ZERO,
            queue: BinaryHeap::new(),
            lively: 0,
            sequence: 0,
            has_wide_tasks: graphs.iter().flat_map(|g| &g.layers).any(|layer| layer.nodes > 1),
            scheduler: sched::Core::new(1, settings),
            nodes: BTreeMap::new(),
            next_worker: 0,
            links: BTreeMap::new(),
            closed: BTreeSet::new(),
            jobs: Vec::new(),
            clients: BTreeMap::new(),
            executed: BTreeMap::new(),
            peak: 0,
            steps: 0,
            sizes: BTreeMap::new(),
            usual_peaks: BTreeMap::new(),
            most: Most::default(),
            checks: Checks::default(),
            sabotage: None,
            trace: None,
            faults,
        };
        for (r, graph) in graphs.into_iter().enumerate() {
            sim.plan_run(RunId(r as u32), graph);
        }
        sim.plan_faults();
        sim.at(Duration::from_secs(1).min(sim.faults.lease), Happening::Tick);
        sim
    }

    pub fn at(&mut self, after: Duration, happening: Happening) {
        self.sequence += 1;
        self.lively += usize::from(happening.is_lively());
        self.queue.push(Reverse(At(self.now.after(after), self.sequence, happening)));
    }

    /// Sends over a connection: random delay, but in order.
    pub fn send(&mut self, from: Party, to: Party, message: Message) {
        let mut us = 50 + self.rng.u64(0..400);
        if self.faults.slow_links > 0.0 && self.rng.f64() < self.faults.slow_links {
            us *= self.rng.u64(1..100);
        }
        let link = self.links.entry((from, to)).or_default();
        let at = self.now.after(Duration::from_micros(us)).max(link.0);
        link.0 = at;
        link.1.push_back(message);
        self.at(at.since(self.now), Happening::Arrives(from, to));
    }

    /// What has been sent to the scheduler and has not arrived.
    pub fn on_its_way(&self, from: Party) -> impl Iterator<Item = &Message> {
        self.links.get(&(from, Party::Scheduler)).into_iter().flat_map(|link| &link.1)
    }

    /// What a worker tells the scheduler.
    pub fn worker_says(&mut self, from: WorkerId, event: sched::event::Event) {
        self.send(Party::Worker(from), Party::Scheduler, Message::ToScheduler(event));
    }

    fn scheduler_says(&mut self, to: WorkerId, event: work::event::Event) {
        self.send(Party::Scheduler, Party::Worker(to), Message::ToWorker(event));
    }

    /// Runs until all runs are over.
    pub fn run(&mut self) {
        while self.jobs.iter().any(|job| !job.is_over()) {
            self.step();
        }
    }

    /// Runs until nothing is on its way any more.
    pub fn settle(&mut self) {
        while self.lively > 0 {
            self.step();
        }
    }

    fn step(&mut self) {
        let Some(Reverse(At(at, _, happening))) = self.queue.pop() else {
            panic!("nothing happens any more and the run is not over: {}", self.describe());
        };
        self.lively -= usize::from(happening.is_lively());
        self.now = at;
        if let Some(until) = self.frozen(&happening) {
            self.at(until.since(self.now), happening);
            return;
        }
        if let Some(trace) = &mut self.trace {
            let what = match &happening {
                Happening::Arrives(from, to) => format!("{happening:?} {:?}", self.links[&(*from, *to)].1[0]),
                happening => format!("{happening:?}"),
            };
            if happening.is_lively() {
                trace.push_back(format!("{:.6} {what}", at.seconds()));
                trace.drain(..trace.len().saturating_sub(LAST));
            }
        }
        if happening.is_lively() {
            self.steps += 1;
        }
        let may_change = happening.is_lively() || self.steps.is_multiple_of(8);
        self.happen(happening);
        self.check_progress();
        if may_change {
            self.check_invariants();
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Arrives(from, to) => self.arrives(from, to),
            Happening::Executed(w, task, attempt) => self.executed(w, task, attempt),
            Happening::FetchArrives { from, to, tasks, broken } => self.fetch(from, to, tasks, broken),
            Happening::ClientFetches(client, outputs) => self.client_fetches(client, outputs),
            Happening::Submit(run) => self.submit(run),
            Happening::Successor(client) => self.succeed(Some(client)),
            Happening::Flush(w) => self.flush(w),
            Happening::Look(w) => self.monitor(w),
            Happening::Written(w, task) => self.written(w, task),
            Happening::Nudge(w) => self.nudge(w),
            Happening::Trouble(trouble) => self.trouble(trouble),
            Happening::Tick => self.tick(),
        }
    }

    fn arrives(&mut self, from: Party, to: Party) {
        let message = self.links.get_mut(&(from, to)).and_then(|link| link.1.pop_front());
        match (message.expect("announced when it was sent"), to) {
            (Message::ToScheduler(event), _) => {
                if !self.closed.contains(&from) {
                    self.take_note(from, &event);
                    self.tell_scheduler(event);
                }
            }
            (Message::ToWorker(event), Party::Worker(w)) => self.tell_worker(w, event),
            (Message::Dismiss, Party::Worker(w)) => self.dismissed(w),
            (Message::Outputs(outputs), Party::Client(c)) => self.outputs_announced(c, outputs),
            (message, to) => panic!("{message:?} to {to:?}"),
        }
    }

    /// The scheduler looks at the clock, and hears that workers are alive.
    fn tick(&mut self) {
        let due = self.scheduler.next_deadline().is_some_and(|at| at <= self.now);
        let actions = self.scheduler.handle(sched::event::Event::Tick, self.now);
        self.check_idle(due, &actions);
        self.perform_all(actions);
        let alive = |n: &&Node| !n.ghost && n.frozen_until.is_none_or(|at| at <= self.now);
        let workers: Vec<WorkerId> = self.nodes.iter().filter(|(_, n)| alive(n)).map(|(w, _)| *w).collect();
        for worker in workers {
            self.tell_scheduler(sched::event::Event::Heartbeat { worker, memory: None });
        }
        let next = self.scheduler.next_deadline().unwrap_or(self.now).since(self.now);
        self.at(next.clamp(Duration::from_millis(1), Duration::from_secs(1)), Happening::Tick);
    }

    pub fn tell_scheduler(&mut self, event: sched::event::Event) {
        let actions = self.scheduler.handle(event, self.now);
        self.perform_all(actions);
    }

    fn perform_all(&mut self, actions: Vec<sched::action::Action>) {
        for action in actions {
            let several = match self.sabotage.as_mut() {
                Some(sabotage) => sabotage.spoil_action(action),
                None => vec![action],
            };
            several.into_iter().for_each(|action| self.perform(action));
        }
    }

    fn perform(&mut self, action: sched::action::Action) {
        use sched::action::Action;
        use work::event::Event;
        match action {
            Action::Compute { worker, batch } => {
                let tasks = unpack(&batch);
                self.checks.ledger.assigned(&tasks);
                self.scheduler_says(worker, Event::Compute(tasks));
            }
            Action::Free { worker, tasks } => self.scheduler_says(worker, Event::Free(tasks)),
            Action::Cancel { worker, attempts } => {
                self.checks.ledger.recalled(&attempts);
                self.scheduler_says(worker, Event::Cancel(attempts));
            }
            Action::Steal { worker, attempts } => self.scheduler_says(worker, Event::Steal(attempts)),
            Action::Replicate { worker, tasks, from } => {
                self.scheduler_says(worker, Event::Replicate { tasks, from });
            }
            Action::CallsFailed { .. } | Action::CallsLost { .. } | Action::Spent { .. } => {
                panic!("there are no calls");
            }
            // Nobody goes on with a simulated run later, and nobody looks.
            Action::AttemptFailed { .. } => {}
            Action::Save { .. } => {}
            Action::Dismiss { worker } => self.dismiss(worker),
            Action::Drop { worker, .. } => self.dropped(worker),
            Action::Outputs { client, outputs } => {
                self.check_announced(&outputs);
                self.send(Party::Scheduler, Party::Client(client), Message::Outputs(outputs));
            }
            Action::RunDone { run, summary, .. } => self.run_done(run, summary),
        }
    }

    /// What is not over, and the last happenings if they are noted.
    pub fn describe(&self) -> String {
        let mut text = format!("at {:.3} s, {:?}", self.now.seconds(), self.faults);
        for job in self.jobs.iter().filter(|job| !job.is_over()) {
            text += &format!("\nrun {} {:?}", job.run, self.scheduler.run_counts(job.run));
            let mut shown = 0;
            for index in 0..2000 {
                let task = TaskRef { run: job.run, index };
                let Some(why) = self.scheduler.explain(task).filter(|e| !e.state.is_final()) else {
                    continue;
                };
                shown += 1;
                if shown > 5 {
                    break;
                }
                text += &format!("\n{index} {why:?}");
                for record in self.scheduler.story(task).iter().rev().take(8).rev() {
                    text += &format!("\n   {record:?}");
                }
            }
        }
        text
    }

    /// The most bytes of results that any worker held at any time.
    pub fn peak(&self) -> u64 {
        self.peak
    }

    pub fn executed_by_worker(&self) -> BTreeMap<WorkerId, u32> {
        self.executed.clone()
    }
}

impl Happening {
    /// Whether something changes by it, other than that time passes.
    fn is_lively(&self) -> bool {
        !matches!(self, Happening::Look(_) | Happening::Tick | Happening::Nudge(_) | Happening::Successor(_))
    }
}

//! Clients of the simulation: they submit runs, fetch outputs from workers and release them, go away and
//! come back. Owns what is known about each run from outside.

use crate::cluster::{Happening, Message, Party, Sim, Trouble};
use crate::graphs::{Graph, Value};
use hpcdag::base::ids::{ClientId, FamilyIx, RunId, RunUuid, TaskRef};
use hpcdag::base::time::Time;
use hpcdag::scheduler::core as sched;
use sched::action::{Output, Summary};
use sched::event::Event;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// A run as the outside knows it.
pub struct Job {
    pub run: RunId,
    pub graph: Graph,
    pub owner: ClientId,
    pub detached: bool,
    pub max_fails: Option<u32>,
    /// Elements that fail however often they are tried.
    pub hopeless: BTreeSet<(u32, u32)>,
    /// What clients have got.
    pub outputs: BTreeMap<(FamilyIx, u32), Value>,
    /// Outputs that the scheduler knows to be taken.
    pub taken: BTreeSet<TaskRef>,
    /// The end, once there is one that nobody has asked beyond.
    pub summary: Option<Summary>,
    /// Somebody cancelled it.
    pub cancel_asked: bool,
    /// The scheduler has been told to forget or cancel it.
    pub ended_at: Option<Time>,
}

impl Job {
    pub fn is_over(&self) -> bool {
        self.summary.is_some()
    }
}

/// A client.
pub struct Client {
    pub present: bool,
    /// It only cancels, forgets, or looks after the runs of others.
    pub helper: bool,
    /// It has been away for longer than it may.
    pub may_be_given_up: bool,
}

impl Sim {
    /// Makes up a run of a graph, to be submitted soon.
    pub fn plan_run(&mut self, run: RunId, graph: Graph) {
        let mut hopeless = BTreeSet::new();
        for f in 0..graph.layers.len() as u32 {
            hopeless.extend((0..200).filter(|_| self.rng.f64() < self.faults.hopeless).map(|i| (f, i)));
        }
        let others = self.clients.len() as u32;
        let owner = match self.rng.u32(0..2) {
            0 if others > 0 => ClientId(self.rng.u32(0..others)),
            _ => ClientId(others),
        };
        self.clients.entry(owner).or_insert(Client { present: true, helper: false, may_be_given_up: false });
        let detached = self.faults.detached > 0.0 && self.rng.f64() < self.faults.detached;
        let limited = self.faults.max_fails > 0.0 && self.rng.f64() < self.faults.max_fails;
        self.jobs.push(Job {
            run,
            graph,
            owner,
            detached,
            max_fails: limited.then_some(1),
            hopeless,
            outputs: BTreeMap::new(),
            taken: BTreeSet::new(),
            summary: None,
            cancel_asked: false,
            ended_at: None,
        });
        let when = self.rng.u64(0..3000) + u64::from(run.0) * self.rng.u64(0..10_000);
        self.at(Duration::from_micros(when), Happening::Submit(run));
    }

    pub fn submit(&mut self, run: RunId) {
        let job = &self.jobs[run.index()];
        let client = job.owner;
        if !self.clients[&client].present {
            // It comes too late: nobody submits this one.
            self.jobs[run.index()].summary = Some(Summary::default());
            return;
        }
        let mut layers = job.graph.layers.clone();
        for layer in &mut layers {
            layer.retries = if self.faults.hopeless > 0.0 { 1 } else { 1000 };
            layer.memory.extend(self.faults.memory.as_ref().and_then(|m| m.declared));
        }
        let spec = sched::event::RunSpec {
            uuid: RunUuid::from_u128(u128::from(run.0) + 1),
            name: "sim".into(),
            names: Arc::new((0..layers.len()).map(|f| format!("f{f}")).collect()),
            layers,
            outputs: job.graph.outputs.clone(),
            detached: job.detached,
            max_fails: job.max_fails,
            max_processing: self.faults.max_processing,
            calls: None,
        };
        self.client_says(client, Event::RunSubmitted { client: Some(client), run, spec });
    }

    /// What a client tells the scheduler.
    pub fn client_says(&mut self, client: ClientId, event: Event) {
        self.send(Party::Client(client), Party::Scheduler, Message::ToScheduler(event));
    }

    /// Outputs that a client has been told of: it fetches them.
    pub fn outputs_announced(&mut self, client: ClientId, outputs: Vec<Output>) {
        if self.clients[&client].present {
            let delay = Duration::from_micros(self.rng.u64(0..2000));
            self.at(delay, Happening::ClientFetches(client, outputs));
        }
    }

    pub fn client_fetches(&mut self, client: ClientId, outputs: Vec<Output>) {
        if !self.clients[&client].present {
            return;
        }
        let mut taken = Vec::new();
        for output in outputs {
            let holder = output.holders[self.rng.usize(0..output.holders.len())];
            let frozen = self.nodes.get(&holder).and_then(|n| n.frozen_until).is_some_and(|at| at > self.now);
            let broken = frozen || self.rng.f64() < self.faults.fetch_failures;
            match self.nodes.get(&holder).filter(|_| !broken).and_then(|n| n.store.get(&output.task)) {
                Some(value) => {
                    let outputs = &mut self.jobs[output.task.run.index()].outputs;
                    let known = outputs.insert((output.family, output.element), *value);
                    assert!(known.is_none_or(|v| v == *value), "an output changed");
                    taken.push(output.task);
                }
                None => {
                    self.checks.ledger.lost([output.task]);
                    self.client_says(client, Event::OutputMissing { task: output.task, holder });
                }
            }
        }
        self.client_says(client, Event::OutputsTaken { tasks: taken });
    }

    /// What the scheduler is told from now on.
    pub fn take_note(&mut self, from: Party, event: &Event) {
        match event {
            Event::OutputsTaken { tasks } => {
                for task in tasks {
                    self.jobs[task.run.index()].taken.insert(*task);
                }
            }
            Event::RunWatched { run, .. } if self.scheduler.run_counts(*run).is_some() => {
                self.jobs[run.index()].summary = None;
            }
            Event::RunCancelled { run, .. } | Event::RunForgotten { run }
                if self.scheduler.run_counts(*run).is_some() =>
            {
                self.jobs[run.index()].ended_at.get_or_insert(self.now);
            }
            Event::WorkerDisconnected { .. } => {
                self.closed.insert(from);
            }
            _ => {}
        }
    }

    pub fn run_done(&mut self, run: RunId, summary: Summary) {
        let job = &mut self.jobs[run.index()];
        assert!(job.summary.is_none(), "run {run} ends twice");
        job.summary = Some(summary);
    }

    /// A client goes away.
    pub fn vanish(&mut self) {
        let here: Vec<ClientId> =
            self.clients.iter().filter(|(_, c)| c.present && !c.helper).map(|(c, _)| *c).collect();
        if here.is_empty() {
            return;
        }
        let client = here[self.rng.usize(0..here.len())];
        self.client_says(client, Event::ClientLeft { client });
        let lease = self.faults.lease;
        // About a third of them before they are given up, a third too late, a third never.
        let away = lease.mul_f64(2.0 * self.rng.f64()) + Duration::from_millis(1);
        let never = self.rng.u32(0..3) == 0;
        if let Some(c) = self.clients.get_mut(&client) {
            c.present = false;
            // A message may take its time.
            c.may_be_given_up = never || away.mul_f64(1.5) + Duration::from_millis(100) > lease;
        }
        let next = if never { Trouble::Successor } else { Trouble::Return(client) };
        self.at(away, Happening::Trouble(next));
    }

    /// A client comes back to its runs.
    pub fn come_back(&mut self, client: ClientId) {
        if let Some(c) = self.clients.get_mut(&client) {
            c.present = true;
        }
        self.client_says(client, Event::ClientArrived { client });
        self.watch(client);
    }

    /// Somebody else looks after runs whose clients are away, again and again: some may be submitted late.
    pub fn succeed(&mut self, successor: Option<ClientId>) {
        let client = successor.unwrap_or_else(|| self.helper());
        if self.jobs.iter().all(Job::is_over) {
            return;
        }
        self.client_says(client, Event::ClientArrived { client });
        self.watch(client);
        self.at(Duration::from_millis(100), Happening::Successor(client));
    }

    fn helper(&mut self) -> ClientId {
        let client = ClientId(self.clients.len() as u32);
        self.clients.insert(client, Client { present: true, helper: true, may_be_given_up: false });
        client
    }

    /// It asks for its own runs and for those whose clients are away.
    fn watch(&mut self, client: ClientId) {
        let wants = |job: &&Job| job.owner == client || !self.clients[&job.owner].present;
        let open = self.jobs.iter().filter(|job| !job.is_over());
        let runs: Vec<RunId> = open.filter(wants).map(|job| job.run).collect();
        for run in runs {
            self.client_says(client, Event::RunWatched { client, run });
        }
    }

    /// Somebody cancels a run.
    pub fn cancel(&mut self) {
        let run = RunId(self.rng.u32(0..self.jobs.len() as u32));
        let job = &mut self.jobs[run.index()];
        if job.is_over() {
            return;
        }
        job.cancel_asked = true;
        let client = self.helper();
        self.client_says(client, Event::RunCancelled { run, reason: "enough".into() });
    }

    /// Nobody asks for any run any more.
    pub fn forget_all(&mut self) {
        let client = self.helper();
        for run in 0..self.jobs.len() as u32 {
            self.client_says(client, Event::RunForgotten { run: RunId(run) });
        }
    }
}

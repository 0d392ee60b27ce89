//! The runs as the driver knows them: their graphs, who watches them, those that wait for workers, and how
//! long finished ones are kept. Owns retention; what a run's tasks do is the core's affair.

use super::core::Core;
use super::core::event::RunSpec;
use super::core::explain::RunProgress;
use super::input::{RunInfo, Submission};
use super::sessions::calls::CallInfo;
use super::view::meter::Meter;
use crate::base::ids::{ClientId, FamilyIx, RunId, RunUuid};
use crate::base::time::Time;
use crate::graph::Look;
use crate::graph::layer::Shape;
use crate::protocol::messages::client::Summary;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Finished runs that can still be asked about.
const FINISHED_MAX: usize = 100;

/// Tasks of finished runs that can still be asked about: what they cost is some 50 bytes for each.
const FINISHED_TASKS_MAX: u64 = 2_000_000;

/// A run.
#[derive(Debug)]
pub struct RunEntry {
    /// What sessions need of it.
    pub info: Arc<RunInfo>,
    /// What people call it.
    pub name: String,
    /// Who submitted it.
    pub owner: ClientId,
    /// Whether it goes on without its client.
    pub detached: bool,
    /// Tasks known at submission.
    pub tasks: u64,
    /// Who is told about it.
    pub watchers: Vec<ClientId>,
    /// What the core has not been given yet, because too few workers are there: how many it waits for.
    pub held: Option<(u32, RunSpec)>,
    /// What watchers were told last.
    pub told: Option<(RunProgress, usize, u64)>,
    /// When it came.
    pub submitted: SystemTime,
    /// Its figures, once it is done.
    pub summary: Option<Summary>,
    /// When nothing of it was left to run.
    pub ended: Option<Time>,
    /// Whether a client has been told that it is done.
    pub reported: bool,
    /// How fast tasks are done.
    pub(super) meter: Meter<1>,
}

/// All runs.
#[derive(Debug, Default)]
pub struct Runs {
    entries: BTreeMap<RunId, RunEntry>,
    by_uuid: HashMap<RunUuid, RunId>,
    /// Those that are no runs of calls. What is done for all of these now and again is not done for calls,
    /// which come by the thousand.
    graphs: BTreeSet<RunId>,
    next: u32,
}

impl Runs {
    /// Takes a submission in and gives it a number.
    pub fn add(&mut self, owner: ClientId, submission: Submission, calls: Option<CallInfo>) -> RunId {
        let run = RunId(self.next);
        self.next += 1;
        let Submission { graph, spec, writes, wait_workers, tasks } = submission;
        self.by_uuid.insert(spec.uuid, run);
        if calls.is_none() {
            self.graphs.insert(run);
        }
        let entry = RunEntry {
            info: Arc::new(RunInfo { run, uuid: spec.uuid, graph, writes, calls }),
            name: spec.name.clone(),
            owner,
            detached: spec.detached,
            tasks,
            watchers: vec![owner],
            held: Some((wait_workers, spec)),
            told: None,
            submitted: SystemTime::now(),
            summary: None,
            ended: None,
            reported: false,
            meter: Meter::default(),
        };
        self.entries.insert(run, entry);
        run
    }

    /// The number of a run.
    pub fn find(&self, uuid: RunUuid) -> Option<RunId> {
        self.by_uuid.get(&uuid).copied()
    }

    /// A run.
    pub fn get(&self, run: RunId) -> Option<&RunEntry> {
        self.entries.get(&run)
    }

    /// A run, to change it.
    pub fn get_mut(&mut self, run: RunId) -> Option<&mut RunEntry> {
        self.entries.get_mut(&run)
    }

    /// All runs, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (RunId, &RunEntry)> {
        self.entries.iter().map(|(run, entry)| (*run, entry))
    }

    /// Those that are no runs of calls, oldest first.
    pub fn graphs(&self) -> impl DoubleEndedIterator<Item = (RunId, &RunEntry)> {
        self.graphs.iter().filter_map(|run| Some((*run, self.entries.get(run)?)))
    }

    /// All runs, to change them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (RunId, &mut RunEntry)> {
        self.entries.iter_mut().map(|(run, entry)| (*run, entry))
    }

    /// Visits those that are no runs of calls, to change them.
    pub fn each_graph_mut(&mut self, mut visit: impl FnMut(RunId, &mut RunEntry)) {
        for run in &self.graphs {
            if let Some(entry) = self.entries.get_mut(run) {
                visit(*run, entry);
            }
        }
    }

    /// Forgets a run.
    pub fn remove(&mut self, run: RunId) -> Option<RunEntry> {
        let entry = self.entries.remove(&run)?;
        self.graphs.remove(&run);
        self.by_uuid.remove(&entry.info.uuid);
        Some(entry)
    }

    /// Whether something is still to be run.
    pub fn busy(&self) -> bool {
        self.entries.values().any(|e| e.ended.is_none())
    }

    /// Runs that need not be kept any longer: detached ones past `ttl` whether or not anybody came for their
    /// outputs, and the oldest of the others that are done.
    pub fn expired(&self, now: Time, ttl: Duration) -> Vec<RunId> {
        let old = |e: &RunEntry| e.ended.is_some_and(|at| now >= at.after(ttl));
        let mut over: Vec<RunId> =
            self.graphs().filter(|(_, e)| e.detached && old(e)).map(|(run, _)| run).collect();
        let (mut kept, mut tasks) = (0, 0u64);
        // Runs of calls are forgotten when nobody needs them.
        for (run, e) in self.graphs().rev() {
            let done = e.summary.is_some() && (!e.detached || e.reported);
            if !done || !e.watchers.is_empty() && kept < FINISHED_MAX {
                continue;
            }
            kept += 1;
            tasks = tasks.saturating_add(e.tasks);
            if kept > FINISHED_MAX || tasks > FINISHED_TASKS_MAX && kept > 1 {
                over.push(run);
            }
        }
        over.sort_unstable();
        over.dedup();
        over
    }
}

impl RunEntry {
    /// What is known of a family's size.
    pub fn shape(&self, core: &Core, family: FamilyIx) -> Option<Shape> {
        let submitted = || self.info.graph.family(family)?.shape();
        core.shape(self.info.run, family).or_else(submitted)
    }
}

//! Follows a run to its end and takes its outputs: which holder is asked, how many at once, what follows a
//! failure. Owns that policy; `fetch` is one attempt, a destination keeps the bytes.

use super::fetch::{Job, JobEnd, Pool, run_job};
use super::handle::{RunHandle, Update};
use super::outputs::{Destination, Output};
use super::summary::{RunProgress, RunSummary};
use crate::base::error::{Error, Kind, Result};
use crate::base::ids::{FamilyIx, TaskRef, WorkerId};
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::task::JoinSet;

/// Fetches at the same time.
const FETCHES_MAX: usize = 8;

/// Outputs and bytes that one fetch asks for at most; one output may be larger.
const JOB_OUTPUTS_MAX: usize = 64;
const JOB_BYTES_MAX: u64 = 4 << 20;

/// Announced outputs that wait; beyond that the scheduler has to wait.
const PENDING_MAX: usize = 10_000;

/// How often an output may vanish from all its holders before the client gives up: then it is more likely
/// that the client cannot reach the workers.
const ROUNDS_MAX: u32 = 4;

/// How a run ended.
#[derive(Clone, Debug)]
pub struct RunEnd {
    /// Its figures.
    pub summary: RunSummary,
    /// Elements whose outputs were taken, by family and element: all that succeeded, of the families in
    /// `[output]`.
    pub taken: FxHashSet<(FamilyIx, u32)>,
}

/// Takes the outputs of one run.
pub struct Taker {
    handle: RunHandle,
    destination: Arc<dyn Destination>,
    pool: Arc<Pool>,
    pending: VecDeque<(Output, Vec<WorkerId>)>,
    /// In `pending` or being fetched.
    begun: FxHashSet<TaskRef>,
    safe: FxHashSet<TaskRef>,
    taken: FxHashSet<(FamilyIx, u32)>,
    /// Holders tried so far, by task, of fetches in flight.
    tried: FxHashMap<TaskRef, Vec<WorkerId>>,
    rounds: FxHashMap<TaskRef, u32>,
    jobs: JoinSet<JobEnd>,
}

impl Taker {
    /// Takes the outputs of a run to a destination.
    pub fn new(handle: RunHandle, destination: Arc<dyn Destination>) -> Taker {
        Taker {
            handle,
            destination,
            pool: Arc::default(),
            pending: VecDeque::new(),
            begun: FxHashSet::default(),
            safe: FxHashSet::default(),
            taken: FxHashSet::default(),
            tried: FxHashMap::default(),
            rounds: FxHashMap::default(),
            jobs: JoinSet::new(),
        }
    }

    /// Goes on until the run is over and all its outputs are safe. `progress` is called now and then.
    ///
    /// # Errors
    /// `File` when an output cannot be kept; then the run is cancelled. `Graph` when the graph was not
    /// accepted. The end of the session.
    pub async fn finish(mut self, mut progress: impl FnMut(&RunProgress)) -> Result<RunEnd> {
        let mut summary = None;
        loop {
            self.start_jobs();
            if let Some(summary) = summary.take_if(|_| self.jobs.is_empty()) {
                return Ok(RunEnd { summary, taken: self.taken });
            }
            tokio::select! {
                update = self.handle.next(), if summary.is_none() && self.pending.len() < PENDING_MAX => {
                    match update? {
                        Update::Accepted { .. } => {}
                        Update::Progress(p) => progress(&p),
                        Update::Outputs(outputs) => self.on_outputs(outputs).await?,
                        Update::Done(s) => summary = Some(s),
                    }
                }
                Some(end) = self.jobs.join_next() => {
                    let end = end.map_err(|e| Error::os("fetching an output was given up", e))?;
                    if let Err(fault) = self.on_job_end(end).await {
                        // The session may be what has ended.
                        let _ = self.handle.cancel(&fault.message).await;
                        return Err(fault);
                    }
                }
            }
        }
    }

    async fn on_outputs(&mut self, outputs: Vec<Output>) -> Result<()> {
        let mut released = Vec::new();
        for output in outputs {
            if self.safe.contains(&output.task) {
                // Told before a connection broke.
                released.push(output.task);
            } else if !self.destination.wants(&output) {
                self.keep(&output);
                released.push(output.task);
            } else if self.begun.insert(output.task) {
                self.pending.push_back((output, Vec::new()));
            }
        }
        if released.is_empty() { Ok(()) } else { self.handle.client().taken(released).await }
    }

    fn keep(&mut self, output: &Output) {
        self.safe.insert(output.task);
        self.taken.insert((output.family, output.element));
    }

    /// Starts fetches: each from one holder, small outputs together.
    fn start_jobs(&mut self) {
        while self.jobs.len() < FETCHES_MAX {
            let Some((first, tried)) = self.pending.pop_front() else { return };
            let Some(holder) = pick(&first.holders) else {
                // Nobody to ask: the scheduler will say when there is.
                self.begun.remove(&first.task);
                continue;
            };
            let mut bytes = first.nbytes;
            self.tried.insert(first.task, tried);
            let mut outputs = vec![first];
            while let Some((next, _)) = self.pending.front()
                && outputs.len() < JOB_OUTPUTS_MAX
                && bytes.saturating_add(next.nbytes) <= JOB_BYTES_MAX
                && next.holders.contains(&holder)
            {
                let Some((next, tried)) = self.pending.pop_front() else { break };
                bytes += next.nbytes;
                self.tried.insert(next.task, tried);
                outputs.push(next);
            }
            let shared = Arc::clone(&self.handle.client().shared);
            let job = Job { holder, outputs };
            self.jobs.spawn(run_job(shared, Arc::clone(&self.pool), job, Arc::clone(&self.destination)));
        }
    }

    async fn on_job_end(&mut self, end: JobEnd) -> Result<()> {
        let safe: Vec<TaskRef> = end.safe.iter().map(|o| o.task).collect();
        for output in &end.safe {
            self.begun.remove(&output.task);
            self.tried.remove(&output.task);
            self.keep(output);
        }
        if !safe.is_empty() {
            self.handle.client().taken(safe).await?;
        }
        if let Some(fault) = end.fault {
            return Err(fault);
        }
        for (mut output, reason) in end.failed {
            tracing::debug!(key = output.key, holder = %end.holder, "cannot fetch: {reason}");
            let mut tried = self.tried.remove(&output.task).unwrap_or_default();
            tried.push(end.holder);
            output.holders.retain(|(holder, _)| *holder != end.holder);
            if output.holders.is_empty() {
                self.lost(&output, &tried, &reason).await?;
            } else {
                self.pending.push_back((output, tried));
            }
        }
        Ok(())
    }

    /// No holder gave it: the scheduler makes it anew and says so.
    async fn lost(&mut self, output: &Output, tried: &[WorkerId], reason: &str) -> Result<()> {
        self.begun.remove(&output.task);
        let rounds = self.rounds.entry(output.task).or_default();
        *rounds += 1;
        if *rounds >= ROUNDS_MAX {
            let what = format!("the output of {} cannot be fetched: {reason}", output.key);
            return Err(Error::new(Kind::NoScheduler, what)
                .hint("can this machine reach the workers' addresses? `by = \"worker\"` lets them write"));
        }
        for holder in tried {
            self.handle.client().missing(output.task, *holder).await?;
        }
        Ok(())
    }
}

/// Any holder, so that many clients and outputs spread over them.
fn pick(
    holders: &[(WorkerId, crate::net::address::Address)],
) -> Option<(WorkerId, crate::net::address::Address)> {
    if holders.is_empty() { None } else { Some(holders[fastrand::usize(..holders.len())].clone()) }
}

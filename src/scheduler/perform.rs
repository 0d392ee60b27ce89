//! Carries out what the core decides: actions become orders for sessions, in pieces that fit into frames,
//! preceded by what the peer has to know first. Owns these pieces' sizes.

use super::core::action::{Action, Batch, Input, Output, Saved, Summary};
use super::driver::Driver;
use super::input::{ClientOrder, RunInfo, WorkerOrder};
use super::requests::SMALL_MESSAGE_BYTES;
use crate::base::ids::{ClientId, FamilyIx, RunId, WorkerId};
use crate::graph::layer::Shape;
use crate::protocol::messages::client::{self, FailedTask, Reason, RunDone, ToClient};
use crate::protocol::messages::worker::{Attempts, Peers, Replicate, Save, Tasks, ToWorker};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Tasks in one message.
const TASKS_AT_ONCE: usize = 4096;
/// Inputs in one message; a task's inputs stay together.
const INPUTS_AT_ONCE: usize = 256 << 10;
/// Families in one message; the texts of a graph fit into one frame together, so any of them do.
const FAMILIES_AT_ONCE: usize = 64;
/// Tasks in messages that only name them.
const NAMES_AT_ONCE: usize = 64 << 10;
/// Outputs in one message.
const OUTPUTS_AT_ONCE: usize = 1024;
/// Estimated bytes of a task, an input, a named task, a family, an output in a queue.
const TASK_BYTES: usize = 128;
const INPUT_BYTES: usize = 40;
const NAME_BYTES: usize = 24;
const FAMILY_BYTES: usize = 64;
const OUTPUT_BYTES: usize = 160;

impl Driver {
    /// Carries out actions in their order, except that runs end after everything else: what is cancelled or
    /// freed belongs to runs that workers still know.
    pub(super) fn perform(&mut self, actions: Vec<Action>) {
        let (mut done, mut spent) = (Vec::new(), Vec::new());
        for action in actions {
            match action {
                Action::Compute { worker, batch } => self.compute(worker, batch),
                Action::Free { worker, tasks } => {
                    for tasks in tasks.chunks(NAMES_AT_ONCE) {
                        let message = ToWorker::Free(Tasks { tasks: tasks.to_vec() });
                        self.order_named(worker, message, tasks.len());
                    }
                }
                Action::Cancel { worker, attempts } => {
                    for attempts in attempts.chunks(NAMES_AT_ONCE) {
                        let message = ToWorker::Cancel(Attempts { attempts: attempts.to_vec() });
                        self.order_named(worker, message, attempts.len());
                    }
                }
                Action::Steal { worker, attempts } => {
                    for attempts in attempts.chunks(NAMES_AT_ONCE) {
                        let message = ToWorker::Steal(Attempts { attempts: attempts.to_vec() });
                        self.order_named(worker, message, attempts.len());
                    }
                }
                Action::Replicate { worker, tasks, from } => {
                    self.introduce(worker, &[from]);
                    for tasks in tasks.chunks(NAMES_AT_ONCE) {
                        let message = ToWorker::Replicate(Replicate { tasks: tasks.to_vec(), from });
                        self.order_named(worker, message, tasks.len());
                    }
                }
                Action::Save { worker, tasks } => {
                    let row = |s: &Saved| (s.task, s.family, s.element, s.cost_ns / 1_000_000);
                    for tasks in tasks.chunks(NAMES_AT_ONCE) {
                        let message = ToWorker::Save(Save { tasks: tasks.iter().map(row).collect() });
                        self.order_named(worker, message, tasks.len());
                    }
                }
                Action::Dismiss { worker } => {
                    if let Some(peer) = self.workers.get_mut(&worker) {
                        peer.leaving = true;
                    }
                    self.order_named(worker, ToWorker::Dismiss(client::Empty {}), 1);
                }
                Action::Drop { worker, reason } => self.drop_worker(worker, &reason),
                Action::Outputs { client, outputs } => self.announce(client, outputs),
                Action::CallsFailed { client, tasks } => self.tell_failed_calls(client, &tasks),
                Action::CallsLost { client, tasks } => self.tell_lost_calls(client, &tasks),
                Action::Spent { run } => spent.push(run),
                Action::AttemptFailed { task, worker, failure, again } => {
                    self.note_failed(task, worker, &failure, again);
                }
                Action::RunDone { run, clients, summary } => done.push((run, clients, summary)),
            }
        }
        for (run, clients, summary) in done {
            self.run_done(run, &clients, &summary);
        }
        spent.into_iter().for_each(|run| self.forget(run));
    }

    fn order_named(&mut self, worker: WorkerId, message: ToWorker, tasks: usize) {
        let bytes = SMALL_MESSAGE_BYTES + tasks * NAME_BYTES;
        self.order_worker(worker, WorkerOrder::Message(message), bytes);
    }

    /// Gives an order to a worker's session; cuts its connection if it is too far behind.
    pub(super) fn order_worker(&mut self, worker: WorkerId, order: WorkerOrder, bytes: usize) {
        let Some(peer) = self.workers.get(&worker) else { return };
        if peer.link.push(order, bytes).is_err() {
            tracing::warn!(worker = peer.name, "cutting off a worker that does not take what it is sent");
            // Its session reports the end.
            peer.link.cut();
        }
    }

    /// The core has given a worker up.
    fn drop_worker(&mut self, worker: WorkerId, reason: &str) {
        let Some(peer) = self.remove_worker(worker) else { return };
        tracing::warn!(worker = peer.name, host = peer.host, "worker dropped: {reason}");
        self.note_gone(&peer.name, reason, false);
        // A life of the same process comes back on its own; another process must not fight for the name.
        let another = self.workers.values().any(|w| w.name == peer.name && w.incarnation != peer.incarnation);
        let reason = format!("another worker has registered as {}", peer.name);
        let last = another.then_some(ToWorker::Refused(Reason { reason }));
        if peer.link.push(WorkerOrder::End(last), SMALL_MESSAGE_BYTES).is_err() {
            peer.link.cut();
        }
    }

    /// Tells a worker the addresses of others that it has not been told.
    fn introduce(&mut self, worker: WorkerId, others: &[WorkerId]) {
        let Some(peer) = self.workers.get_mut(&worker) else { return };
        let fresh: Vec<WorkerId> =
            others.iter().copied().filter(|w| *w != worker && peer.meet_peer(*w)).collect();
        let address = |w: &WorkerId| Some((*w, self.workers.get(w)?.address.clone()));
        let peers: Vec<(WorkerId, String)> = fresh.iter().filter_map(address).collect();
        if !peers.is_empty() {
            let n = peers.len();
            self.order_named(worker, ToWorker::Peers(Peers { peers }), n * 4);
        }
    }

    fn compute(&mut self, worker: WorkerId, batch: Batch) {
        self.introduce(worker, &batch.holders);
        let runs = self.meet_families(worker, &batch);
        for batch in pieces(batch) {
            let bytes = batch.tasks.len() * TASK_BYTES + batch.inputs.len() * INPUT_BYTES;
            self.order_worker(worker, WorkerOrder::Compute { batch, runs: runs.clone() }, bytes);
        }
    }

    /// Tells a worker about the families of a batch that it does not know; returns the batch's runs.
    fn meet_families(&mut self, worker: WorkerId, batch: &Batch) -> Vec<Arc<RunInfo>> {
        let mut runs: Vec<Arc<RunInfo>> = Vec::new();
        let mut fresh: BTreeMap<RunId, Vec<(FamilyIx, Option<Shape>)>> = BTreeMap::new();
        let mut last = None;
        let mut batches = Vec::new();
        let Some(peer) = self.workers.get_mut(&worker) else { return runs };
        for task in &batch.tasks {
            let (run, family) = (task.task.run, task.family);
            if last == Some((run, family)) {
                continue;
            }
            last = Some((run, family));
            if !runs.iter().any(|r| r.run == run)
                && let Some(entry) = self.runs.get(run)
            {
                runs.push(Arc::clone(&entry.info));
            }
            if let Some(calls) = runs.iter().find(|r| r.run == run).and_then(|r| r.calls.as_ref()) {
                // The first bit is for the run itself.
                if let Some(batch) = calls.batch_of(task.task.index)
                    && peer.meet_family(run, FamilyIx(batch as u32 + 1))
                {
                    batches.push((run, batch));
                }
                last = None;
                continue;
            }
            if peer.meet_family(run, family) {
                fresh.entry(run).or_default().push((family, self.core.shape(run, family)));
            }
        }
        for (run, batch) in batches {
            let Some(run) = runs.iter().find(|r| r.run == run).cloned() else { continue };
            self.order_batch(worker, run, batch);
        }
        for (run, families) in fresh {
            let Some(run) = runs.iter().find(|r| r.run == run).cloned() else { continue };
            for families in families.chunks(FAMILIES_AT_ONCE) {
                let order = WorkerOrder::Families { run: Arc::clone(&run), families: families.to_vec() };
                // The texts stay in the graph until they are written.
                self.order_worker(worker, order, families.len() * FAMILY_BYTES);
            }
        }
        runs
    }

    fn announce(&mut self, client: ClientId, outputs: Vec<Output>) {
        let mut by_run: BTreeMap<RunId, Vec<Output>> = BTreeMap::new();
        for output in outputs {
            by_run.entry(output.task.run).or_default().push(output);
        }
        for (run, outputs) in by_run {
            let Some(info) = self.runs.get(run).map(|e| Arc::clone(&e.info)) else { continue };
            if info.calls.is_some() {
                self.tell_done_calls(client, &info, &outputs);
                continue;
            }
            let mut outputs = outputs.into_iter().peekable();
            while outputs.peek().is_some() {
                let piece: Vec<(Output, Shape)> = outputs
                    .by_ref()
                    .take(OUTPUTS_AT_ONCE)
                    .map(|o| {
                        let alone = Shape { total: o.element.saturating_add(1), first_export: 0 };
                        let shape = self.core.shape(run, o.family).unwrap_or(alone);
                        (o, shape)
                    })
                    .collect();
                let mut holders: Vec<WorkerId> = piece.iter().flat_map(|(o, _)| o.holders.clone()).collect();
                holders.sort_unstable();
                holders.dedup();
                let peers = self.addresses(&holders);
                let bytes = piece.len() * OUTPUT_BYTES;
                let order = ClientOrder::Outputs { run: Arc::clone(&info), outputs: piece, peers };
                self.order_client(client, order, bytes);
            }
        }
    }

    /// The addresses of those workers that are connected.
    pub(super) fn addresses(&self, workers: &[WorkerId]) -> Vec<(WorkerId, String)> {
        let address = |w: &WorkerId| Some((*w, self.workers.get(w)?.address.clone()));
        workers.iter().filter_map(address).collect()
    }

    fn run_done(&mut self, run: RunId, clients: &[ClientId], summary: &Summary) {
        let now = self.now();
        let Some(entry) = self.runs.get(run) else { return };
        let (uuid, name) = (entry.info.uuid, entry.name.clone());
        let first = entry.summary.is_none();
        // Runs of calls come by the thousand, and what they made is needed after their end.
        let entry_is_graph = entry.info.calls.is_none();
        // Whoever asks again is told the same; what happens after the end is not this run's.
        let summary = entry.summary.clone().unwrap_or_else(|| self.summary(run, summary));
        if let Some(entry) = self.runs.get_mut(run) {
            entry.ended.get_or_insert(now);
            entry.reported |= !clients.is_empty();
            entry.summary = Some(summary.clone());
        }
        if first && entry_is_graph {
            let (done, failed, wall) = (summary.done, summary.failed, summary.wall_seconds);
            tracing::info!(%run, name, done, failed, wall, "run is over");
            self.note_done(uuid, &name, &summary);
            self.forget_at_workers(run);
        }
        for &client in clients {
            self.tell(client, ToClient::RunDone(RunDone { run: uuid, summary: summary.clone() }));
        }
    }

    /// A run's figures as clients see them.
    pub(super) fn summary(&self, run: RunId, s: &Summary) -> client::Summary {
        let Some(entry) = self.runs.get(run) else { return client::Summary::default() };
        let failed = |f: &super::core::action::TaskFailure| {
            let alone = Shape { total: f.element.saturating_add(1), first_export: 0 };
            let shape = self.core.shape(run, f.family).unwrap_or(alone);
            FailedTask {
                key: entry.info.graph.key(f.family, f.element, shape),
                host: f.host.clone(),
                attempts: f.attempts,
                failure: f.failure.as_ref().clone(),
            }
        };
        client::Summary {
            done: s.done,
            failed: s.failed,
            skipped: s.skipped,
            cancelled: s.cancelled,
            retried: s.retried,
            task_seconds: s.task_time.as_secs_f64(),
            wall_seconds: s.wall.as_secs_f64(),
            bytes_made: s.bytes_made,
            bytes_moved: s.bytes_moved,
            failures: s.failures.iter().map(failed).collect(),
            cancel_reason: s.cancel_reason.clone(),
        }
    }
}

/// Cuts a batch into pieces of bounded size, between tasks.
fn pieces(batch: Batch) -> Vec<Batch> {
    if batch.tasks.len() <= TASKS_AT_ONCE && batch.inputs.len() <= INPUTS_AT_ONCE {
        return vec![batch];
    }
    let mut pieces = vec![Batch::default()];
    let mut from = 0;
    for task in batch.tasks {
        let inputs = &batch.inputs[from..task.inputs_end as usize];
        let full = pieces.last().is_some_and(|p| {
            p.tasks.len() == TASKS_AT_ONCE || p.inputs.len() + inputs.len() > INPUTS_AT_ONCE
        });
        if full && pieces.last().is_some_and(|p| !p.tasks.is_empty()) {
            pieces.push(Batch::default());
        }
        let Some(piece) = pieces.last_mut() else { break };
        for (k, input) in inputs.iter().enumerate() {
            let before = (from + k).checked_sub(1).map_or(0, |b| batch.inputs[b].holders_end);
            piece.holders.extend(&batch.holders[before as usize..input.holders_end as usize]);
            piece.inputs.push(Input { holders_end: piece.holders.len() as u32, ..*input });
        }
        from = task.inputs_end as usize;
        piece.tasks.push(super::core::action::Assigned { inputs_end: piece.inputs.len() as u32, ..task });
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::{Attempt, TaskRef};
    use crate::base::priority::Priority;
    use crate::scheduler::core::action::Assigned;

    fn batch(tasks: u32, inputs_each: u32) -> Batch {
        let mut batch = Batch::default();
        for index in 0..tasks {
            for k in 0..inputs_each {
                let task = TaskRef { run: RunId(0), index: index * inputs_each + k };
                batch.holders.extend((0..k % 3).map(WorkerId));
                batch.inputs.push(Input {
                    task,
                    nbytes: 1,
                    edge: 0,
                    holders_end: batch.holders.len() as u32,
                });
            }
            batch.tasks.push(Assigned {
                task: TaskRef { run: RunId(0), index },
                attempt: Attempt { epoch: 1, n: 1 },
                tries: 0,
                family: FamilyIx(0),
                element: index,
                priority: Priority::default(),
                slots: 1,
                keep: true,
                inputs_end: batch.inputs.len() as u32,
            });
        }
        batch
    }

    /// Task, and of each of its inputs the index and the holders.
    type Flat = Vec<(u32, Vec<(u32, Vec<WorkerId>)>)>;

    fn flat(batches: &[Batch]) -> Flat {
        let mut all = Vec::new();
        for b in batches {
            let (mut input, mut holder) = (0, 0);
            for task in &b.tasks {
                let mut inputs = Vec::new();
                while input < task.inputs_end as usize {
                    let end = b.inputs[input].holders_end as usize;
                    inputs.push((b.inputs[input].task.index, b.holders[holder..end].to_vec()));
                    (holder, input) = (end, input + 1);
                }
                all.push((task.task.index, inputs));
            }
            assert_eq!((input, holder), (b.inputs.len(), b.holders.len()));
        }
        all
    }

    #[test]
    fn batches_are_cut_between_tasks() {
        for (tasks, inputs) in [(10, 2), (TASKS_AT_ONCE as u32 * 2 + 1, 1), (3, 200_000), (2, 300_000)] {
            let whole = batch(tasks, inputs);
            let pieces = pieces(whole.clone());
            assert!(pieces.iter().all(|p| p.tasks.len() <= TASKS_AT_ONCE && !p.tasks.is_empty()));
            assert!(pieces.iter().all(|p| p.inputs.len() <= INPUTS_AT_ONCE || p.tasks.len() == 1));
            assert!(flat(&pieces) == flat(&[whole]), "{tasks} tasks of {inputs} inputs");
        }
    }
}

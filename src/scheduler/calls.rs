//! What clients want done with runs of calls and with single ones, and what they and the workers are told
//! about them. Owns that part of the driver; what becomes of the tasks is the core's affair.

use super::core::action::Output;
use super::core::event::{CallSpec, Event, RunSpec};
use super::driver::Driver;
use super::input::{ClientOrder, RunInfo, Single, Submission, WorkerOrder, Writes};
use super::requests::SMALL_MESSAGE_BYTES;
use super::sessions::calls::CallSubmission;
use crate::base::failure::Failure;
use crate::base::ids::{ClientId, FamilyIx, RunId, RunUuid, TaskRef, WorkerId};
use crate::graph::layer::Shape;
use crate::protocol::messages::calls::{
    BatchColumns, CallBatch, CallRun, CallsDone, CallsFailed, FailedCall, PREPARED_BYTES_MAX,
    PREPARED_MODULES_MAX, Prepare, RunTasks,
};
use crate::protocol::messages::client::{Accepted, Rejected, ToClient};
use crate::protocol::messages::worker::ToWorker;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Failed calls in one message: each may carry an exception.
const FAILED_AT_ONCE: usize = 64;

/// Bytes of exceptions in one message; a single one may have more.
const FAILED_BYTES: usize = 4 << 20;

/// Results in one message.
const DONE_AT_ONCE: usize = 64 << 10;

/// Bytes of a result in such a message.
const DONE_BYTES: usize = 16;

impl Driver {
    /// A run of calls begins, if everything that it depends on is known.
    pub(super) fn submit_calls(&mut self, client: ClientId, submission: CallSubmission) {
        let CallSubmission { spec, externals, graph, info } = submission;
        let (uuid, first, tasks) = (spec.uuid, info.first, u64::from(info.tasks()));
        if let Some(run) = self.runs.find(uuid) {
            return self.tell(client, ToClient::Accepted(Accepted { run: uuid, id: run, tasks, first }));
        }
        let mut imports = Vec::with_capacity(externals.len());
        for (run, i) in externals {
            let Some(task) = self.call(run, i) else {
                let reason = "it depends on a result that the scheduler does not know any more".to_string();
                return self.tell(client, ToClient::Rejected(Rejected { run: uuid, reason }));
            };
            imports.push(task);
        }
        let spec = RunSpec { calls: spec.calls.map(|calls| CallSpec { imports, ..calls }), ..spec };
        let submission = Submission { graph, spec, writes: Writes::new(), wait_workers: 0, tasks };
        let run = self.runs.add(client, submission, Some(info));
        tracing::debug!(%run, tasks, "run of calls begins");
        self.release(run);
        self.tell(client, ToClient::Accepted(Accepted { run: uuid, id: run, tasks, first }));
    }

    /// The task that a client knows by its number in a run of calls.
    pub(super) fn call(&self, run: RunUuid, i: u32) -> Option<TaskRef> {
        let run = self.runs.find(run)?;
        let calls = self.runs.get(run)?.info.calls.as_ref()?;
        (i < calls.tasks()).then(|| TaskRef { run, index: calls.first + i })
    }

    /// A client wants something done with single calls.
    pub(super) fn single_calls(&mut self, client: ClientId, what: Single, uuid: RunUuid, tasks: &[u32]) {
        let found: Vec<TaskRef> = tasks.iter().filter_map(|i| self.call(uuid, *i)).collect();
        let run = self.runs.find(uuid);
        let Some(run) = run.filter(|_| found.len() == tasks.len()) else {
            if what == Single::Want {
                let reason = "the scheduler does not know these results any more".to_string();
                self.tell(client, ToClient::Rejected(Rejected { run: uuid, reason }));
            }
            return;
        };
        if what == Single::Want {
            self.introduce_calls(client, run);
        }
        let numbers = || found.iter().map(|task| task.index).collect();
        let event = match what {
            Single::Want => Event::CallsWanted { client, tasks: found },
            Single::Release => Event::CallsReleased { client, tasks: found, later: false },
            Single::ReleaseLater => Event::CallsReleased { client, tasks: found, later: true },
            Single::Cancel => Event::CallsCancelled { run, tasks: numbers() },
            Single::Retry => Event::CallsRetried { run, tasks: numbers() },
        };
        self.events.push(event);
    }

    /// Tells a client, which may not have submitted it, what workers call the tasks of a run of calls.
    pub(super) fn introduce_calls(&mut self, client: ClientId, run: RunId) {
        let Some(entry) = self.runs.get(run) else { return };
        let Some(first) = entry.info.calls.as_ref().map(|calls| calls.first) else { return };
        let accepted = Accepted { run: entry.info.uuid, id: run, tasks: entry.tasks, first };
        self.tell(client, ToClient::Accepted(accepted));
    }

    /// A client's calls will need this: all workers may make it ready, those too that come later.
    pub(super) fn prepare(&mut self, client: ClientId, prepare: Prepare) {
        let fits =
            prepare.environment.len() <= PREPARED_BYTES_MAX && prepare.modules.len() <= PREPARED_MODULES_MAX;
        let Some(peer) = self.clients.get_mut(&client).filter(|_| fits) else { return };
        if peer.prepare.as_ref() == Some(&prepare) {
            return;
        }
        peer.prepare = Some(prepare.clone());
        for worker in self.workers.keys().copied().collect::<Vec<_>>() {
            self.order_prepare(worker, prepare.clone());
        }
    }

    /// Tells a worker that has just come what the clients that are there will need.
    pub(super) fn prepare_worker(&mut self, worker: WorkerId) {
        let there = self.clients.values().filter(|peer| peer.link.is_some());
        let all: Vec<Prepare> = there.filter_map(|peer| peer.prepare.clone()).collect();
        for prepare in all {
            self.order_prepare(worker, prepare);
        }
    }

    fn order_prepare(&mut self, worker: WorkerId, prepare: Prepare) {
        let bytes = SMALL_MESSAGE_BYTES + prepare.environment.len();
        self.order_worker(worker, WorkerOrder::Message(ToWorker::Prepare(prepare)), bytes);
    }

    /// A client will not come back: its session ends now.
    pub(super) fn leave(&mut self, client: ClientId) {
        self.events.push(Event::ClientEnded { client });
        self.share(super::shared::Event::SessionEnded { client });
    }

    /// Tells a worker about a batch of calls, and about their run before the first.
    pub(super) fn order_batch(&mut self, worker: WorkerId, run: Arc<RunInfo>, batch: usize) {
        let Some(calls) = &run.calls else { return };
        let first = self.workers.get_mut(&worker).is_some_and(|peer| peer.meet_family(run.run, FamilyIx(0)));
        if first {
            let code: usize = calls.functions.iter().map(|f| f.bytes.len()).sum();
            let bytes = SMALL_MESSAGE_BYTES + code + calls.environment.len();
            self.order_worker(worker, WorkerOrder::CallRun { run: Arc::clone(&run) }, bytes);
        }
        let end = calls.bytes_end.get(batch).copied().unwrap_or(0);
        let begin = batch.checked_sub(1).map_or(0, |before| calls.bytes_end[before]);
        let bytes = SMALL_MESSAGE_BYTES + (end - begin);
        self.order_worker(worker, WorkerOrder::CallBatch { run, batch }, bytes);
    }

    /// Tells a client where results are.
    pub(super) fn tell_done_calls(&mut self, client: ClientId, run: &RunInfo, outputs: &[Output]) {
        let first = run.calls.as_ref().map_or(0, |calls| calls.first);
        for outputs in outputs.chunks(DONE_AT_ONCE) {
            let row =
                |o: &Output| Some((o.task.index.checked_sub(first)?, o.nbytes, o.holders.first().copied()?));
            let done: Vec<(u32, u64, WorkerId)> = outputs.iter().filter_map(row).collect();
            let mut holders: Vec<WorkerId> = done.iter().map(|d| d.2).collect();
            holders.sort_unstable();
            holders.dedup();
            let peers = self.addresses(&holders);
            let bytes = SMALL_MESSAGE_BYTES + done.len() * DONE_BYTES + peers.len() * SMALL_MESSAGE_BYTES;
            let message = ToClient::CallsDone(CallsDone::pack(run.uuid, peers, &done));
            self.order_client(client, ClientOrder::Message(message), bytes);
        }
    }

    /// The tasks by run, as clients number them.
    fn by_run(&self, tasks: &[TaskRef]) -> BTreeMap<RunId, (RunUuid, u32, Vec<u32>)> {
        let mut runs: BTreeMap<RunId, (RunUuid, u32, Vec<u32>)> = BTreeMap::new();
        for task in tasks {
            let Some(info) = self.runs.get(task.run).map(|e| &e.info) else { continue };
            let Some(first) = info.calls.as_ref().map(|calls| calls.first) else { continue };
            let Some(i) = task.index.checked_sub(first) else { continue };
            runs.entry(task.run).or_insert_with(|| (info.uuid, first, Vec::new())).2.push(i);
        }
        runs
    }

    /// Tells a client that results are gone for now.
    pub(super) fn tell_lost_calls(&mut self, client: ClientId, tasks: &[TaskRef]) {
        for (uuid, _, numbers) in self.by_run(tasks).into_values() {
            let bytes = SMALL_MESSAGE_BYTES + numbers.len() * 4;
            let message = ToClient::CallsLost(RunTasks::new(uuid, &numbers));
            self.order_client(client, ClientOrder::Message(message), bytes);
        }
    }

    /// Tells a client that calls will have no result, and why.
    pub(super) fn tell_failed_calls(&mut self, client: ClientId, tasks: &[TaskRef]) {
        for (run, (uuid, first, numbers)) in self.by_run(tasks) {
            let mut failed = Vec::new();
            let mut bytes = 0;
            for i in numbers {
                let call = self.failed_call(TaskRef { run, index: first + i }, i);
                bytes += SMALL_MESSAGE_BYTES + size_of_failure(&call.failure);
                failed.push(call);
                if failed.len() == FAILED_AT_ONCE || bytes > FAILED_BYTES {
                    self.order_failed(client, uuid, std::mem::take(&mut failed), std::mem::take(&mut bytes));
                }
            }
            if !failed.is_empty() {
                self.order_failed(client, uuid, failed, bytes);
            }
        }
    }

    fn order_failed(&mut self, client: ClientId, run: RunUuid, failed: Vec<FailedCall>, bytes: usize) {
        let message = ToClient::CallsFailed(CallsFailed { run, failed });
        self.order_client(client, ClientOrder::Message(message), bytes);
    }

    fn failed_call(&self, task: TaskRef, number: u32) -> FailedCall {
        use crate::base::failure::FailureKind;
        let Some(call) = self.core.failed_call(task) else {
            let failure = Failure::of(FailureKind::Cancelled);
            let (key, host) = (String::new(), String::new());
            return FailedCall { task: number, cancelled: true, key, host, attempts: 0, failure };
        };
        FailedCall {
            task: number,
            cancelled: call.cancelled,
            key: self.key_of(call.root),
            host: call.host,
            attempts: call.attempts,
            failure: call.failure.as_ref().clone(),
        }
    }

    /// The key of a task of any run.
    fn key_of(&self, task: TaskRef) -> String {
        let place = self.core.locate(task).zip(self.runs.get(task.run));
        place.map_or_else(String::new, |((family, element), entry)| {
            let alone = Shape { total: element.saturating_add(1), first_export: 0 };
            let shape = self.core.shape(task.run, family).unwrap_or(alone);
            entry.info.graph.key(family, element, shape)
        })
    }
}

fn size_of_failure(failure: &Failure) -> usize {
    use crate::base::failure::FailureKind;
    let raised = match &failure.kind {
        FailureKind::Raised(raised) => raised.payload.len() + raised.traceback.len(),
        _ => 0,
    };
    raised + failure.stderr_tail.len() + failure.command.len()
}

/// What a worker is told of a run of calls.
pub(super) fn call_run(run: &RunInfo) -> Option<CallRun> {
    let calls = run.calls.as_ref()?;
    Some(CallRun {
        run: run.run,
        uuid: run.uuid,
        name: calls.name.clone(),
        environment: calls.environment.clone(),
        functions: calls.functions.clone(),
    })
}

/// What a worker is told of a batch.
pub(super) fn call_batch(run: &RunInfo, batch: usize) -> Option<CallBatch> {
    let calls = run.calls.as_ref()?;
    let end = *calls.batch_end.get(batch)? as usize;
    let bytes_end = *calls.bytes_end.get(batch)?;
    let before = batch.checked_sub(1);
    let begin = before.map_or(0, |b| calls.batch_end[b] as usize);
    let bytes_begin = before.map_or(0, |b| calls.bytes_end[b]);
    let mut options = Vec::new();
    let mut places: BTreeMap<u32, u32> = BTreeMap::new();
    let option = (begin..end).map(|i| {
        let option = calls.option.get(i).copied().unwrap_or(0);
        *places.entry(option).or_insert_with(|| {
            options.extend(calls.options.get(option as usize).cloned());
            options.len().saturating_sub(1) as u32
        })
    });
    let option = option.collect();
    let keys = |i: usize| i.checked_sub(1).map_or(0, |b| calls.keys_end[b]);
    let mut columns = BatchColumns { option, ..BatchColumns::default() };
    if !calls.keys_end.is_empty() {
        let (from, to) = (keys(begin), keys(end));
        columns.keys_end = calls.keys_end[begin..end].iter().map(|e| e - from).collect();
        columns.keys = calls.keys[from as usize..to as usize].to_vec();
    }
    columns.bytes = calls.bytes[bytes_begin..bytes_end].to_vec();
    Some(CallBatch { run: run.run, first: calls.first + begin as u32, options, body: columns.pack() })
}

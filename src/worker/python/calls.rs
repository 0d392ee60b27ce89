//! What this worker knows of runs of calls, and the jobs made from that. Owns their functions and batches
//! until the run is forgotten, and which of these any run still needs.

use crate::base::failure::{Failure, FailureKind};
use crate::base::ids::{Attempt, RunId, RunUuid, TaskRef};
use crate::graph::split::key_split;
use crate::protocol::framing::FrameError;
use crate::protocol::messages::calls::{BatchColumns, CallBatch, CallOptions, CallRun};
use crate::worker::core::event::Start;
use crate::worker::executor::native::NativeInput;
use crate::worker::finish::{Job, Runnable};
use crate::worker::store::Store;
use crate::worker::store::pinned::Pinned;
use bytes::Bytes;
use rustc_hash::{FxBuildHasher, FxHashMap};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// A run of calls.
#[derive(Debug)]
pub(in crate::worker) struct Run {
    pub(super) uuid: RunUuid,
    name: String,
    /// What executors have to know first, as it came.
    pub(super) environment: Arc<Bytes>,
    /// Ids and contents.
    pub(super) functions: Vec<(Vec<u8>, Bytes)>,
    /// What its calls usually occupied at most here, bytes; 0 as long as nothing is known.
    usual_peak: AtomicU64,
}

impl Run {
    /// What its calls usually occupied at most, bytes; 0 as long as nothing is known.
    pub(in crate::worker) fn usual_peak(&self) -> u64 {
        self.usual_peak.load(Ordering::Relaxed)
    }

    /// Takes note of what one that succeeded occupied at most.
    pub(in crate::worker) fn learn_peak(&self, bytes: u64) {
        let before = self.usual_peak();
        let now = if before == 0 { bytes } else { before - before / 4 + bytes / 4 };
        self.usual_peak.store(now, Ordering::Relaxed);
    }
}

/// Calls that came together.
#[derive(Debug)]
pub(in crate::worker) struct Batch {
    pub(super) id: Vec<u8>,
    first: u32,
    options: Vec<CallOptions>,
    option: Vec<u32>,
    keys_end: Vec<u32>,
    keys: Vec<u8>,
    pub(super) bytes: Bytes,
}

impl Batch {
    fn new(run: RunUuid, message: &CallBatch) -> Result<Batch, FrameError> {
        let BatchColumns { option, keys_end, keys, bytes } = message.columns()?;
        let id = [&run.as_bytes()[..], &message.first.to_le_bytes()].concat();
        let (first, options, bytes) = (message.first, message.options.clone(), bytes.into());
        Ok(Batch { id, first, options, option, keys_end, keys, bytes })
    }

    /// The place in the batch of a task of the run, if it is in here.
    fn place(&self, index: u32) -> Option<u32> {
        let place = index.checked_sub(self.first)?;
        ((place as usize) < self.option.len()).then_some(place)
    }
}

/// One call: its run and batch, and its place in that.
#[derive(Clone, Debug)]
pub(in crate::worker) struct Call {
    pub(in crate::worker) run: Arc<Run>,
    pub(super) batch: Arc<Batch>,
    pub(super) place: u32,
}

impl Call {
    pub(in crate::worker) fn options(&self) -> &CallOptions {
        let batch = &*self.batch;
        // Both were checked when the batch came.
        &batch.options[batch.option[self.place as usize] as usize]
    }

    /// Its name for people.
    pub(in crate::worker) fn key(&self) -> String {
        match self.key_bytes() {
            None => format!("{}-{}", self.run.name, self.batch.first + self.place),
            Some(key) => String::from_utf8_lossy(key).into_owned(),
        }
    }

    /// What it consists of, for those who look for names in it: the functions of its run, and its batch.
    pub(super) fn pieces(&self) -> Vec<&Bytes> {
        let functions = self.run.functions.iter().map(|(_, bytes)| bytes);
        functions.chain([&self.batch.bytes]).collect()
    }

    /// The same number for those of one name.
    pub(in crate::worker) fn kin(&self) -> u64 {
        let key = self.key_bytes().map(String::from_utf8_lossy);
        FxBuildHasher.hash_one(key.as_deref().map_or(self.run.name.as_str(), key_split))
    }

    /// Its own key, if it has one.
    fn key_bytes(&self) -> Option<&[u8]> {
        let (batch, at) = (&*self.batch, self.place as usize);
        let end = *batch.keys_end.get(at)?;
        let start = if at == 0 { 0 } else { batch.keys_end[at - 1] };
        Some(&batch.keys[start as usize..end as usize])
    }
}

/// A call to run here, with everything that it needs.
#[derive(Debug)]
pub(in crate::worker) struct CallJob {
    /// The task.
    pub(in crate::worker) task: TaskRef,
    /// The attempt at it.
    pub(in crate::worker) attempt: Attempt,
    pub(in crate::worker) call: Call,
    /// The results that it depends on, in order.
    pub(in crate::worker) inputs: Vec<NativeInput>,
    /// It may have ended a process in which others ran: it is to have one of its own.
    pub(in crate::worker) alone: bool,
}

impl CallJob {
    /// Its inputs that are objects in executor processes.
    pub(in crate::worker) fn pins(&self) -> impl Iterator<Item = &Arc<Pinned>> {
        self.inputs.iter().filter_map(|input| input.result.pinned.as_ref())
    }
}

/// Which functions and batches any run needs; shared with those who have copies of them.
#[derive(Debug, Default)]
pub(super) struct Live {
    /// By id, how many runs need it.
    needed: Mutex<FxHashMap<Vec<u8>, u32>>,
    /// How often some were forgotten.
    changes: AtomicU64,
    /// Environments that are in use: equal ones are one.
    environments: Mutex<Vec<Weak<Bytes>>>,
}

impl Live {
    /// The one environment with these bytes, which may be many: clients put files into it.
    pub(super) fn environment(&self, bytes: Vec<u8>) -> Arc<Bytes> {
        let mut known = self.environments.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|one| one.strong_count() > 0);
        if let Some(one) = known.iter().filter_map(Weak::upgrade).find(|one| one[..] == bytes[..]) {
            return one;
        }
        let new = Arc::new(Bytes::from(bytes));
        known.push(Arc::downgrade(&new));
        new
    }

    fn add(&self, id: &[u8]) {
        let mut needed = self.needed.lock().unwrap_or_else(PoisonError::into_inner);
        *needed.entry(id.to_vec()).or_default() += 1;
    }

    fn forget<'a>(&self, ids: impl Iterator<Item = &'a Vec<u8>>) {
        let mut needed = self.needed.lock().unwrap_or_else(PoisonError::into_inner);
        for id in ids {
            if let Some(n) = needed.get_mut(id) {
                *n -= 1;
                if *n == 0 {
                    needed.remove(id);
                }
            }
        }
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// How often some were forgotten.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Of these, those that no run needs.
    pub(super) fn stale<'a>(&self, ids: impl Iterator<Item = &'a Vec<u8>>) -> Vec<Vec<u8>> {
        let needed = self.needed.lock().unwrap_or_else(PoisonError::into_inner);
        ids.filter(|id| !needed.contains_key(*id)).cloned().collect()
    }
}

struct Known {
    run: Arc<Run>,
    /// By the number of the first task.
    batches: BTreeMap<u32, Arc<Batch>>,
}

/// All runs of calls that are known.
#[derive(Default)]
pub(in crate::worker) struct Calls {
    runs: FxHashMap<RunId, Known>,
    live: Arc<Live>,
}

impl Calls {
    /// Knows nothing yet; `live` follows what it knows.
    pub(super) fn new(live: Arc<Live>) -> Calls {
        Calls { runs: FxHashMap::default(), live }
    }

    /// Takes note of a run. One that is known already stays as it is.
    pub(in crate::worker) fn learn_run(&mut self, message: CallRun) {
        let CallRun { run, uuid, name, environment, functions } = message;
        if self.runs.contains_key(&run) {
            return;
        }
        functions.iter().for_each(|code| self.live.add(&code.id));
        let functions = functions.into_iter().map(|code| (code.id, code.bytes.into())).collect();
        let (environment, usual_peak) = (self.live.environment(environment), AtomicU64::new(0));
        let run_ = Arc::new(Run { uuid, name, environment, functions, usual_peak });
        self.runs.insert(run, Known { run: run_, batches: BTreeMap::new() });
    }

    /// Takes note of calls.
    ///
    /// # Errors
    /// The message is malformed, or of a run that is not known.
    pub(in crate::worker) fn learn_batch(&mut self, message: &CallBatch) -> Result<(), FrameError> {
        let Some(known) = self.runs.get_mut(&message.run) else {
            return Err(FrameError::Columns(format!("calls of run {}, which is not known", message.run)));
        };
        let batch = Batch::new(known.run.uuid, message)?;
        if let Entry::Vacant(entry) = known.batches.entry(batch.first) {
            self.live.add(&batch.id);
            entry.insert(Arc::new(batch));
        }
        Ok(())
    }

    /// Whether tasks of this run are calls.
    pub(in crate::worker) fn has(&self, run: RunId) -> bool {
        self.runs.contains_key(&run)
    }

    /// Forgets a run. Whether it was one of calls.
    pub(in crate::worker) fn forget(&mut self, run: RunId) -> bool {
        let Some(known) = self.runs.remove(&run) else { return false };
        let batches = known.batches.values().map(|batch| &batch.id);
        self.live.forget(known.run.functions.iter().map(|(id, _)| id).chain(batches));
        true
    }

    /// A number for calls of the same name, if the task is a call.
    pub(in crate::worker) fn kin(&self, task: TaskRef) -> Option<u64> {
        self.find(task).map(|call| call.kin())
    }

    fn find(&self, task: TaskRef) -> Option<Call> {
        let known = self.runs.get(&task.run)?;
        let (_, batch) = known.batches.range(..=task.index).next_back()?;
        let place = batch.place(task.index)?;
        Some(Call { run: known.run.clone(), batch: batch.clone(), place })
    }

    /// The job for an attempt whose inputs are all in the store.
    pub(in crate::worker) fn job(&self, start: &Start, store: &mut Store) -> Result<Job, Failure> {
        let fail = |text: String| Failure::of(FailureKind::Prepare(text));
        let task = start.task;
        let Some(call) = self.find(task) else {
            return Err(fail(format!("the worker does not know call {} of run {}", task.index, task.run)));
        };
        let mut on_disk = Vec::new();
        let mut inputs = Vec::with_capacity(start.inputs.len());
        for (n, (_, input)) in start.inputs.iter().enumerate() {
            let Some((result, recall)) = store.use_input(*input) else {
                return Err(fail(format!("the result of task {} of run {} is gone", input.index, input.run)));
            };
            if recall {
                on_disk.push((*input, 0, n));
            }
            let key = self.find(*input).map_or_else(|| input.index.to_string(), |call| call.key());
            inputs.push(NativeInput { producer: String::new(), key, result });
        }
        let job = CallJob { task, attempt: start.attempt, call, inputs, alone: false };
        Ok(Job { kind: Runnable::Call(Box::new(job)), on_disk, in_line: start.in_line })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::FamilyIx;
    use crate::protocol::messages::calls::Code;
    use crate::worker::store::data::{Data, TaskResult};

    const RUN: RunId = RunId(4);

    fn options(slots: u32) -> CallOptions {
        CallOptions {
            priority: 0,
            retries: 0,
            slots,
            resources: BTreeMap::new(),
            workers: vec![],
            loose: false,
            memory: None,
            output_size: None,
            time_limit_ms: None,
        }
    }

    fn run(id: u32, functions: &[&[u8]]) -> CallRun {
        let code = |id: &&[u8]| Code { id: id.to_vec(), bytes: b"f".to_vec() };
        let functions = functions.iter().map(code).collect();
        let (uuid, name) = (RunUuid::from_u128(u128::from(id)), "inc".into());
        CallRun { run: RunId(id), uuid, name, environment: b"e".to_vec(), functions }
    }

    fn batch(first: u32, keys: &[&str], count: u32) -> CallBatch {
        let mut columns = BatchColumns { bytes: b"batch".to_vec(), ..BatchColumns::default() };
        columns.option = (0..count).map(|i| i % 2).collect();
        for key in keys {
            columns.keys.extend_from_slice(key.as_bytes());
            columns.keys_end.push(columns.keys.len() as u32);
        }
        CallBatch { run: RUN, first, options: vec![options(1), options(2)], body: columns.pack() }
    }

    fn start(index: u32, inputs: &[u32]) -> Start {
        let task = |index| TaskRef { run: RUN, index };
        Start {
            task: task(index),
            attempt: Attempt { epoch: 1, n: 2 },
            tries: 0,
            family: FamilyIx(77),
            element: 5,
            keep: true,
            inputs: inputs.iter().map(|i| (9, task(*i))).collect(),
            in_line: false,
        }
    }

    #[test]
    fn calls_are_found_by_their_numbers() {
        let mut calls = Calls::default();
        calls.learn_run(run(4, &[b"one"]));
        calls.learn_batch(&batch(10, &[], 3)).unwrap();
        calls.learn_batch(&batch(0, &["a", "", "ccc"], 3)).unwrap();
        let find = |index| calls.find(TaskRef { run: RUN, index });
        let key = |index| find(index).map(|c| (c.key(), c.options().slots));
        assert_eq!(key(0).unwrap(), ("a".into(), 1));
        assert_eq!(key(1).unwrap(), (String::new(), 2));
        assert_eq!(key(2).unwrap(), ("ccc".into(), 1));
        assert_eq!(key(12).unwrap(), ("inc-12".into(), 1));
        assert!(key(3).is_none() && key(9).is_none() && key(13).is_none());
        let id = find(11).unwrap().batch.id.clone();
        assert_eq!((id.len(), &id[16..]), (20, &[10, 0, 0, 0][..]));
    }

    #[test]
    fn jobs_have_their_inputs_in_order() {
        let mut calls = Calls::default();
        let mut store = Store::default();
        calls.learn_run(run(4, &[]));
        calls.learn_batch(&batch(0, &["a", "b", "c"], 3)).unwrap();
        let attempt = Attempt { epoch: 1, n: 1 };
        for index in [0, 1] {
            let data = Data::Heap(Bytes::from(vec![0; index as usize + 1]));
            store.insert(TaskRef { run: RUN, index }, attempt, Arc::new(TaskResult::of(data)));
        }
        let job = calls.job(&start(2, &[1, 0, 1]), &mut store).unwrap();
        let Runnable::Call(job) = job.kind else { panic!("a call") };
        let got: Vec<_> = job.inputs.iter().map(|i| (i.key.as_str(), i.result.nbytes())).collect();
        assert_eq!(got, [("b", 2), ("a", 1), ("b", 2)]);
        let lacks = calls.job(&start(2, &[7]), &mut store).err().unwrap();
        assert!(lacks.to_string().contains("task 7 of run"), "{lacks}");
        let unknown = calls.job(&start(3, &[]), &mut store).err().unwrap();
        assert!(unknown.to_string().contains("does not know call 3"), "{unknown}");
    }

    #[test]
    fn what_is_forgotten_is_stale_unless_another_run_needs_it() {
        let live = Arc::new(Live::default());
        let mut calls = Calls::new(live.clone());
        calls.learn_run(run(4, &[b"one", b"two"]));
        calls.learn_run(run(5, &[b"two"]));
        // Told twice, known once.
        calls.learn_run(run(5, &[b"two"]));
        calls.learn_batch(&batch(0, &[], 1)).unwrap();
        calls.learn_batch(&batch(0, &[], 1)).unwrap();
        let id = calls.find(TaskRef { run: RUN, index: 0 }).unwrap().batch.id.clone();
        let all = [b"one".to_vec(), b"two".to_vec(), id.clone()];
        assert!(live.stale(all.iter()).is_empty());
        let environment = |run| calls.runs[&run].run.environment.clone();
        assert!(Arc::ptr_eq(&environment(RUN), &environment(RunId(5))), "equal ones are one");
        let before = live.changes();
        assert!(calls.forget(RUN) && !calls.has(RUN) && !calls.forget(RUN));
        assert_ne!(live.changes(), before);
        assert_eq!(live.stale(all.iter()), [b"one".to_vec(), id]);
        calls.forget(RunId(5));
        assert_eq!(live.stale(all.iter()).len(), 3);
    }

    #[test]
    fn batches_that_make_no_sense_are_refused() {
        let mut calls = Calls::default();
        assert!(calls.learn_batch(&batch(0, &[], 1)).is_err(), "no such run");
        calls.learn_run(run(4, &[]));
        assert!(calls.learn_batch(&batch(0, &["a"], 2)).is_err(), "a key is missing");
        let mut without = batch(0, &[], 1);
        without.options.clear();
        assert!(calls.learn_batch(&without).is_err(), "no option");
    }
}

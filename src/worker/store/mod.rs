//! The results that this worker holds. Owns the table, the exact counts of bytes in memory and on disk, and
//! the order in which results were used; what may be dropped or fetched is decided by the worker's core, when
//! results go to disk by `memory`.

pub mod busy;
pub mod data;
pub mod memfile;
pub mod pinned;
pub mod pool;
pub mod spill;
pub mod transfer;

use crate::base::ids::{Attempt, TaskRef};
use data::TaskResult;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Results smaller than this are not worth a place on disk, bytes.
const SPILL_BYTES_MIN: u64 = 1 << 10;

/// Tasks that read a result from disk before it comes back into memory. Each time that it has left again for
/// want of room, twice as many: else what many tasks read one after another comes and goes with each of them.
const READS_ON_DISK: u32 = 1;

/// Beyond so many times it makes no difference any more.
const RECALLS_MAX: u32 = 16;

/// Bytes of results on the heap, of all stores of this process.
static HEAP_BYTES: AtomicU64 = AtomicU64::new(0);

/// Bytes of results on the heap of this process: its anonymous memory contains them.
pub fn heap_bytes() -> u64 {
    HEAP_BYTES.load(Ordering::Relaxed)
}

/// In what order results leave memory; of each kind, the longest unused first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// On disk as well: nothing has to be written.
    Copied,
    /// Here alone, as far as is known.
    Own,
    /// The same, of a kind that usually is dropped soon: what stays goes to disk before it.
    Passing,
    /// Fetched from a worker that has it: only what must be read here goes to disk, and that last.
    Replica,
}

/// A result.
#[derive(Debug)]
struct Entry {
    attempt: Attempt,
    result: Arc<TaskResult>,
    /// The same on disk, while it is in memory too: it can leave memory without being written again.
    copy: Option<Arc<TaskResult>>,
    /// When it was used last; its key in the order of use.
    used: u64,
    /// It is being written.
    leaving: bool,
    /// It was fetched from a worker that still has it.
    replica: bool,
    /// It probably is dropped soon.
    passing: bool,
    /// How many tasks have read it on disk.
    reads: u32,
    /// How often it has come back from there.
    recalls: u32,
}

impl Entry {
    fn kind(&self) -> Kind {
        match (&self.copy, self.replica, self.passing) {
            (Some(_), ..) => Kind::Copied,
            (None, true, _) => Kind::Replica,
            (None, false, false) => Kind::Own,
            (None, false, true) => Kind::Passing,
        }
    }
}

/// Results by task, each with the attempt that made it.
#[derive(Debug, Default)]
pub struct Store {
    results: FxHashMap<TaskRef, Entry>,
    managed_bytes: u64,
    spilled_bytes: u64,
    heap_bytes: u64,
    /// Those that could go to disk, by kind, the longest unused first.
    orders: [BTreeMap<u64, TaskRef>; 4],
    uses: u64,
    /// What has gone to disk or come back since it was asked for.
    moved: Vec<(TaskRef, bool)>,
    /// Bytes written so far of results that were fetched from a worker that has them.
    copies_written: u64,
}

/// A result to be written.
#[derive(Debug)]
pub struct Victim {
    /// Whose.
    pub task: TaskRef,
    /// The result as it is in memory.
    pub result: Arc<TaskResult>,
}

/// What was chosen to leave memory.
#[derive(Debug, Default)]
pub struct Chosen {
    /// To be written, then handed to `left` or `stays`.
    pub victims: Vec<Victim>,
    /// Bytes of these.
    pub bytes: u64,
    /// What was on disk already and has left memory with this value.
    pub gone: Vec<Arc<TaskResult>>,
}

impl Store {
    /// Adds a result and returns the one it replaces, if any.
    pub fn insert(
        &mut self,
        task: TaskRef,
        attempt: Attempt,
        result: Arc<TaskResult>,
    ) -> Option<Arc<TaskResult>> {
        let old = self.remove(task);
        self.count(&result);
        let (used, reads, recalls) = (0, 0, 0);
        let (leaving, replica, passing) = (false, false, false);
        let entry = Entry { attempt, result, copy: None, used, leaving, replica, passing, reads, recalls };
        self.results.insert(task, entry);
        self.touch(task);
        old
    }

    /// Notes whether a result was fetched from a worker that still has it.
    pub fn set_replica(&mut self, task: TaskRef, replica: bool) {
        self.change(task, |entry| entry.replica = replica);
    }

    /// Notes whether a result probably is dropped soon.
    pub fn set_passing(&mut self, task: TaskRef, passing: bool) {
        self.change(task, |entry| entry.passing = passing);
    }

    /// Changes what a result is and lists it anew, if it is listed.
    fn change(&mut self, task: TaskRef, change: impl FnOnce(&mut Entry)) {
        let Some(entry) = self.results.get_mut(&task) else { return };
        let listed = self.orders[entry.kind() as usize].remove(&entry.used).is_some();
        change(entry);
        if listed {
            self.orders[entry.kind() as usize].insert(entry.used, task);
        }
    }

    fn count(&mut self, result: &TaskResult) {
        let heap = result.heap_bytes();
        self.managed_bytes += result.memory_bytes();
        self.spilled_bytes += result.spilled_bytes();
        self.heap_bytes += heap;
        HEAP_BYTES.fetch_add(heap, Ordering::Relaxed);
    }

    fn discount(&mut self, result: &TaskResult) {
        let heap = result.heap_bytes();
        self.managed_bytes -= result.memory_bytes();
        self.spilled_bytes -= result.spilled_bytes();
        self.heap_bytes -= heap;
        HEAP_BYTES.fetch_sub(heap, Ordering::Relaxed);
    }

    /// The result of a task, if it is here.
    pub fn find(&self, task: TaskRef) -> Option<&Arc<TaskResult>> {
        self.results.get(&task).map(|entry| &entry.result)
    }

    /// The same for somebody who reads it now. As long as he holds it, it stays in memory if it is there.
    pub fn use_result(&mut self, task: TaskRef) -> Option<Arc<TaskResult>> {
        self.touch(task);
        self.find(task).cloned()
    }

    /// The same for a task that reads it, and whether it should come back into memory for that. What one task
    /// reads is not worth the room: its pages in the kernel's cache are as good.
    pub fn use_input(&mut self, task: TaskRef) -> Option<(Arc<TaskResult>, bool)> {
        let result = self.use_result(task)?;
        let entry = self.results.get_mut(&task).filter(|e| e.result.spilled_bytes() > 0);
        let recall = entry.is_some_and(|entry| {
            entry.reads += 1;
            entry.reads > READS_ON_DISK << entry.recalls.min(RECALLS_MAX) || !result.is_readable_on_disk()
        });
        Some((result, recall))
    }

    /// Results that have gone to disk (true) or come back into memory since the last call, in order.
    pub fn take_moved(&mut self) -> Vec<(TaskRef, bool)> {
        std::mem::take(&mut self.moved)
    }

    /// The attempt that made the result of a task, if it is here.
    pub fn find_attempt(&self, task: TaskRef) -> Option<Attempt> {
        self.results.get(&task).map(|entry| entry.attempt)
    }

    /// Drops a result. Its memory is free once nobody reads it any more.
    pub fn remove(&mut self, task: TaskRef) -> Option<Arc<TaskResult>> {
        let entry = self.results.remove(&task)?;
        self.orders[entry.kind() as usize].remove(&entry.used);
        self.discount(&entry.result);
        Some(entry.result)
    }

    /// The same for several; returns those that were here.
    pub fn remove_all(&mut self, tasks: &[TaskRef]) -> SmallVec<[Arc<TaskResult>; 4]> {
        tasks.iter().filter_map(|task| self.remove(*task)).collect()
    }

    /// Takes out those that were in processes which have ended.
    pub fn take_ended(&mut self) -> Vec<TaskRef> {
        let ended = |entry: &Entry| entry.result.pinned.as_ref().is_some_and(|p| p.home().has_ended());
        let lost = self.results.iter().filter(|(_, entry)| ended(entry)).map(|(task, _)| *task);
        let lost: Vec<TaskRef> = lost.collect();
        lost.iter().for_each(|task| drop(self.remove(*task)));
        lost
    }

    /// Bytes of all results in memory; files in place do not count.
    pub fn managed_bytes(&self) -> u64 {
        self.managed_bytes
    }

    /// Bytes of results that are on disk and not in memory.
    pub fn spilled_bytes(&self) -> u64 {
        self.spilled_bytes
    }

    /// Bytes written to disk so far of results that were fetched from a worker that has them.
    pub fn copies_written(&self) -> u64 {
        self.copies_written
    }

    /// How many results there are.
    pub fn len(&self) -> usize {
        self.results.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.results.is_empty()
    }

    /// What is here: task, attempt and bytes, sorted by task. For the inventory at registration.
    pub fn inventory(&self) -> Vec<(TaskRef, Attempt, u64)> {
        let entry = |(t, e): (&TaskRef, &Entry)| (*t, e.attempt, e.result.nbytes());
        let mut all: Vec<_> = self.results.iter().map(entry).collect();
        all.sort_unstable();
        all
    }

    /// Puts a result at the end of the order of use, if it could go to disk at all.
    fn touch(&mut self, task: TaskRef) {
        let Some(entry) = self.results.get_mut(&task) else { return };
        // What it was may have changed since it was listed.
        for order in &mut self.orders {
            order.remove(&entry.used);
        }
        if !entry.leaving && entry.result.memory_bytes() >= SPILL_BYTES_MIN {
            self.uses += 1;
            entry.used = self.uses;
            self.orders[entry.kind() as usize].insert(entry.used, task);
        }
    }

    /// Chooses at least `bytes` of results to leave memory, as far as there are any that nobody reads: what
    /// is on disk already, then the longest unused, of those that stay first; what was fetched only if
    /// `replicas` may be written too.
    /// At most `at_once` bytes of them (or one) are to be written.
    pub fn choose(&mut self, bytes: u64, at_once: u64, replicas: bool) -> Chosen {
        let (mut chosen, mut free) = (Chosen::default(), 0);
        let (mut taken, mut gone) = (Vec::new(), Vec::new());
        let kinds = if replicas { 4 } else { 3 };
        for (used, task) in self.orders.iter().take(kinds).flatten() {
            if chosen.bytes + free >= bytes {
                break;
            }
            let Some(entry) = self.results.get_mut(task) else { continue };
            if Arc::strong_count(&entry.result) > 1 {
                continue;
            }
            let (kind, size) = (entry.kind(), entry.result.memory_bytes());
            if let Some(copy) = entry.copy.take() {
                self.moved.push((*task, true));
                gone.push((std::mem::replace(&mut entry.result, copy.clone()), copy));
                free += size;
            } else if chosen.victims.is_empty() || chosen.bytes + size <= at_once {
                entry.leaving = true;
                chosen.bytes += size;
                chosen.victims.push(Victim { task: *task, result: entry.result.clone() });
            } else {
                break;
            }
            taken.push((kind, *used));
        }
        for (kind, used) in taken {
            self.orders[kind as usize].remove(&used);
        }
        for (left, copy) in gone {
            self.discount(&left);
            self.count(&copy);
            chosen.gone.push(left);
        }
        chosen
    }

    /// A victim is on disk. If somebody has begun to read it, it stays in memory as well for now.
    pub fn left(&mut self, victim: &Victim, on_disk: Arc<TaskResult>) {
        let Some(entry) = self.victim(victim) else { return };
        let copied = if entry.replica { on_disk.spilled_bytes() } else { 0 };
        // The table and the victim hold it.
        if Arc::strong_count(&entry.result) > 2 {
            entry.copy = Some(on_disk);
        } else {
            entry.reads = 0;
            let left = std::mem::replace(&mut entry.result, on_disk.clone());
            self.moved.push((victim.task, true));
            self.discount(&left);
            self.count(&on_disk);
        }
        self.copies_written += copied;
        self.touch(victim.task);
    }

    /// A victim could not be written.
    pub fn stays(&mut self, victim: &Victim) {
        if self.victim(victim).is_some() {
            self.touch(victim.task);
        }
    }

    fn victim(&mut self, victim: &Victim) -> Option<&mut Entry> {
        // It may have been dropped, or replaced, while it was being written.
        let entry = self.results.get_mut(&victim.task).filter(|e| Arc::ptr_eq(&e.result, &victim.result))?;
        entry.leaving = false;
        Some(entry)
    }

    /// What was on disk is in memory again; the file is kept for the next time.
    pub fn recalled(&mut self, task: TaskRef, on_disk: &Arc<TaskResult>, in_memory: Arc<TaskResult>) {
        let Some(entry) = self.results.get_mut(&task) else { return };
        if Arc::ptr_eq(&entry.result, on_disk) {
            entry.copy = Some(std::mem::replace(&mut entry.result, in_memory.clone()));
            (entry.reads, entry.recalls) = (0, entry.recalls + 1);
            self.moved.push((task, false));
            self.discount(on_disk);
            self.count(&in_memory);
            self.touch(task);
        }
    }

    /// Gives up copies on disk of what is in memory too, to make room there. Whether there were any.
    pub fn drop_copies(&mut self) -> bool {
        let mut any = false;
        for (task, entry) in &mut self.results {
            if entry.copy.is_some() {
                any = true;
                let listed = self.orders[entry.kind() as usize].remove(&entry.used).is_some();
                entry.copy = None;
                if listed {
                    self.orders[entry.kind() as usize].insert(entry.used, *task);
                }
            }
        }
        any
    }

    /// Those that are, at least in part, only on disk: for finding out which of them are damaged.
    pub fn on_disk(&self) -> Vec<(TaskRef, Arc<TaskResult>)> {
        let spilled = self.results.iter().filter(|(_, e)| e.result.spilled_bytes() > 0);
        spilled.map(|(task, e)| (*task, e.result.clone())).collect()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        HEAP_BYTES.fetch_sub(self.heap_bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::data::Data;
    use super::spill::{RealDisk, Spill};
    use super::*;
    use crate::base::ids::RunId;

    #[test]
    fn counts_exactly() {
        let mut store = Store::default();
        let task = |index| TaskRef { run: RunId(1), index };
        let result = |n: usize| Arc::new(TaskResult::of(Data::Heap(vec![0; n].into())));
        let attempt = |n| Attempt { epoch: 1, n };
        assert!(store.insert(task(2), attempt(1), result(10)).is_none());
        assert!(store.insert(task(1), attempt(1), result(5)).is_none());
        assert!(store.insert(task(2), attempt(2), result(3)).is_some());
        assert_eq!((store.managed_bytes(), store.len()), (8, 2));
        assert_eq!(store.inventory(), [(task(1), attempt(1), 5), (task(2), attempt(2), 3)]);
        assert_eq!(store.find_attempt(task(2)), Some(attempt(2)));
        store.remove(task(2));
        store.remove(task(2));
        store.remove(task(1));
        assert_eq!(store.managed_bytes(), 0);
        assert!(store.is_empty());
    }

    fn filled(n: u32) -> Store {
        let mut store = Store::default();
        for index in 0..n {
            let result = TaskResult::of(Data::of_bytes(vec![index as u8; 100_000].into()).unwrap());
            store.insert(TaskRef { run: RunId(1), index }, Attempt { epoch: 1, n: 1 }, Arc::new(result));
        }
        store
    }

    fn chosen(store: &mut Store, bytes: u64) -> Vec<u32> {
        let chosen = store.choose(bytes, u64::MAX, true);
        chosen.victims.iter().for_each(|v| store.stays(v));
        chosen.victims.iter().map(|v| v.task.index).collect()
    }

    #[test]
    fn the_longest_unused_leave_first_and_what_is_read_stays() {
        let task = |index| TaskRef { run: RunId(1), index };
        let mut store = filled(4);
        drop(store.use_result(task(0)));
        let reader = store.use_result(task(1));
        assert_eq!(chosen(&mut store, 150_000), [2, 3]);
        // Those that could not leave count as used.
        assert_eq!(chosen(&mut store, u64::MAX), [0, 2, 3]);
        drop(reader);
        assert_eq!(chosen(&mut store, 1), [1]);
        assert_eq!(store.choose(u64::MAX, 150_000, true).victims.len(), 1);
    }

    #[test]
    fn results_go_and_come_with_exact_counts() {
        let dir = tempfile::tempdir().unwrap();
        let spill = Spill::new(dir.path(), None, RealDisk);
        let task = |index| TaskRef { run: RunId(1), index };
        let mut store = filled(3);
        let leave = |store: &mut Store| {
            for victim in store.choose(u64::MAX, u64::MAX, true).victims {
                let moved = spill.write(std::slice::from_ref(&victim.result)).unwrap().remove(0);
                store.left(&victim, moved);
            }
        };
        leave(&mut store);
        assert_eq!((store.managed_bytes(), store.spilled_bytes()), (0, 300_000));
        let on_disk = store.use_result(task(1)).unwrap();
        let back = Arc::new(on_disk.recall().unwrap());
        store.recalled(task(1), &on_disk, back.clone());
        assert_eq!((store.managed_bytes(), store.spilled_bytes()), (100_000, 200_000));
        assert_eq!(back.parts[0].1.bytes().unwrap(), vec![1; 100_000]);
        drop(back);
        // It is on disk still, so it leaves without being written.
        let chosen = store.choose(1, 1, true);
        assert_eq!((chosen.victims.len(), chosen.gone.len(), store.managed_bytes()), (0, 1, 0));
        drop((chosen, on_disk));
        store.remove(task(0));
        store.remove(task(1));
        assert_eq!((store.spilled_bytes(), spill.used()), (100_000, 100_000));
    }

    #[test]
    fn fetched_results_leave_last_and_only_if_they_must() {
        let task = |index| TaskRef { run: RunId(1), index };
        let mut store = filled(3);
        store.set_replica(task(0), true);
        let chosen = store.choose(u64::MAX, u64::MAX, false);
        assert_eq!(chosen.victims.iter().map(|v| v.task.index).collect::<Vec<_>>(), [1, 2]);
        chosen.victims.iter().for_each(|v| store.stays(v));
        drop(chosen);
        let chosen = store.choose(u64::MAX, u64::MAX, true);
        assert_eq!(chosen.victims.iter().map(|v| v.task.index).collect::<Vec<_>>(), [1, 2, 0]);
        chosen.victims.iter().for_each(|v| store.stays(v));
        drop(chosen);
        // The one from which it came is gone: it is like any other.
        store.set_replica(task(0), false);
        assert_eq!(store.choose(u64::MAX, u64::MAX, false).victims.len(), 3);
    }

    #[test]
    fn what_needs_no_writing_leaves_first() {
        let dir = tempfile::tempdir().unwrap();
        let spill = Spill::new(dir.path(), None, RealDisk);
        let task = |index| TaskRef { run: RunId(1), index };
        let mut store = filled(2);
        let chosen = store.choose(1, u64::MAX, false);
        let moved = spill.write(std::slice::from_ref(&chosen.victims[0].result)).unwrap().remove(0);
        store.left(&chosen.victims[0], moved);
        drop(chosen);
        let on_disk = store.use_result(task(0)).unwrap();
        store.recalled(task(0), &on_disk, Arc::new(on_disk.recall().unwrap()));
        drop((on_disk, store.use_result(task(0))));
        let (written, chosen) = (spill.disk_use().written, store.choose(1, u64::MAX, false));
        assert_eq!((chosen.gone.len(), chosen.victims.len(), spill.disk_use().written), (1, 0, written));
        assert_eq!((store.managed_bytes(), store.spilled_bytes()), (100_000, 100_000));
    }

    #[test]
    fn what_is_read_again_and_again_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let spill = Spill::new(dir.path(), None, RealDisk);
        let task = |index| TaskRef { run: RunId(1), index };
        let mut store = Store::default();
        for (index, len) in [(0, 2 << 20), (1, 100_000)] {
            let result = TaskResult::of(Data::of_bytes(vec![1; len].into()).unwrap());
            store.insert(task(index), Attempt { epoch: 1, n: 1 }, Arc::new(result));
        }
        assert!(!store.use_input(task(0)).unwrap().1, "it is in memory");
        for victim in store.choose(u64::MAX, u64::MAX, false).victims {
            store.left(&victim, spill.write(std::slice::from_ref(&victim.result)).unwrap().remove(0));
        }
        assert!(!store.use_input(task(0)).unwrap().1);
        assert!(store.use_input(task(0)).unwrap().1);
        assert!(store.use_input(task(1)).unwrap().1, "it is in a file with others");
    }

    #[test]
    fn an_array_is_read_on_disk_although_its_description_shares_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let spill = Spill::new(dir.path(), None, RealDisk);
        let task = TaskRef { run: RunId(1), index: 0 };
        let part = |len: usize| Data::of_bytes(vec![1; len].into()).unwrap();
        let array =
            TaskResult { parts: vec![("".into(), part(300)), ("0".into(), part(2 << 20))], pinned: None };
        let mut store = Store::default();
        store.insert(task, Attempt { epoch: 1, n: 1 }, Arc::new(array));
        for victim in store.choose(u64::MAX, u64::MAX, false).victims {
            store.left(&victim, spill.write(std::slice::from_ref(&victim.result)).unwrap().remove(0));
        }
        let (on_disk, recall) = store.use_input(task).unwrap();
        assert!(on_disk.is_readable_on_disk() && !recall);
        assert_eq!((store.spilled_bytes(), store.copies_written()), ((2 << 20) + 300, 0));
    }

    #[test]
    fn what_came_back_in_vain_comes_back_later_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let spill = Spill::new(dir.path(), None, RealDisk);
        let task = TaskRef { run: RunId(1), index: 0 };
        let mut store = Store::default();
        let result = TaskResult::of(Data::of_bytes(vec![1; 2 << 20].into()).unwrap());
        store.insert(task, Attempt { epoch: 1, n: 1 }, Arc::new(result));
        for victim in store.choose(u64::MAX, u64::MAX, false).victims {
            store.left(&victim, spill.write(std::slice::from_ref(&victim.result)).unwrap().remove(0));
        }
        let mut reads = Vec::new();
        for _ in 0..4 {
            reads.push((1..).find(|_| store.use_input(task).unwrap().1).unwrap());
            let on_disk = store.use_result(task).unwrap();
            store.recalled(task, &on_disk, Arc::new(on_disk.recall().unwrap()));
            drop(on_disk);
            // Others need its room.
            assert_eq!(store.choose(1, u64::MAX, false).gone.len(), 1);
        }
        assert_eq!(reads, [2, 3, 5, 9]);
    }

    #[test]
    fn what_probably_is_dropped_soon_leaves_after_what_stays() {
        let task = |index| TaskRef { run: RunId(1), index };
        let mut store = filled(4);
        store.set_passing(task(0), true);
        store.set_passing(task(2), true);
        store.set_replica(task(1), true);
        assert_eq!(chosen(&mut store, 1), [3]);
        assert_eq!(chosen(&mut store, u64::MAX), [3, 0, 2, 1]);
        store.set_passing(task(2), false);
        store.use_result(task(0));
        assert_eq!(chosen(&mut store, 300_000), [3, 2, 0]);
        store.remove(task(0));
        assert_eq!(chosen(&mut store, u64::MAX), [3, 2, 1]);
    }

    #[test]
    fn what_is_dropped_or_read_while_it_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let spill = Spill::new(dir.path(), None, RealDisk);
        let task = |index| TaskRef { run: RunId(1), index };
        let mut store = filled(2);
        let chosen = store.choose(u64::MAX, u64::MAX, true);
        let reader = store.use_result(task(1));
        store.remove(task(0));
        for victim in &chosen.victims {
            store.left(victim, spill.write(std::slice::from_ref(&victim.result)).unwrap().remove(0));
        }
        assert_eq!((store.managed_bytes(), store.spilled_bytes(), spill.used()), (100_000, 0, 100_000));
        drop((chosen, reader));
        assert_eq!(store.choose(1, 1, true).gone.len(), 1);
        assert_eq!((store.managed_bytes(), store.spilled_bytes()), (0, 100_000));
        assert!(!store.drop_copies());
    }
}

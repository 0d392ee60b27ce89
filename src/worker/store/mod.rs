//! The results that this worker holds. Owns the table, the exact counts of bytes in memory and on disk, and
//! the order in which results were used; what may be dropped or fetched is decided by the worker's core, when
//! results go to disk by `memory`.

pub mod data;
pub mod memfile;
pub mod spill;
pub mod transfer;

use crate::base::ids::{Attempt, TaskRef};
use data::TaskResult;
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Results smaller than this are not worth a place on disk, bytes.
const SPILL_BYTES_MIN: u64 = 1 << 10;

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
}

/// Results by task, each with the attempt that made it.
#[derive(Debug, Default)]
pub struct Store {
    results: FxHashMap<TaskRef, Entry>,
    managed_bytes: u64,
    spilled_bytes: u64,
    /// Those that could go to disk, the longest unused first.
    order: BTreeMap<u64, TaskRef>,
    uses: u64,
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
        self.managed_bytes += result.memory_bytes();
        self.spilled_bytes += result.spilled_bytes();
        self.results.insert(task, Entry { attempt, result, copy: None, used: 0, leaving: false });
        self.touch(task);
        old
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

    /// The attempt that made the result of a task, if it is here.
    pub fn find_attempt(&self, task: TaskRef) -> Option<Attempt> {
        self.results.get(&task).map(|entry| entry.attempt)
    }

    /// Drops a result. Its memory is free once nobody reads it any more.
    pub fn remove(&mut self, task: TaskRef) -> Option<Arc<TaskResult>> {
        let entry = self.results.remove(&task)?;
        self.order.remove(&entry.used);
        self.managed_bytes -= entry.result.memory_bytes();
        self.spilled_bytes -= entry.result.spilled_bytes();
        Some(entry.result)
    }

    /// Bytes of all results in memory; files in place do not count.
    pub fn managed_bytes(&self) -> u64 {
        self.managed_bytes
    }

    /// Bytes of results that are on disk and not in memory.
    pub fn spilled_bytes(&self) -> u64 {
        self.spilled_bytes
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
        self.order.remove(&entry.used);
        if !entry.leaving && entry.result.memory_bytes() >= SPILL_BYTES_MIN {
            self.uses += 1;
            entry.used = self.uses;
            self.order.insert(entry.used, task);
        }
    }

    /// Chooses at least `bytes` of results to leave memory, the longest unused first, as far as there are any
    /// that nobody reads; at most `at_once` bytes of them (or one) to be written.
    pub fn choose(&mut self, bytes: u64, at_once: u64) -> Chosen {
        let (mut chosen, mut free) = (Chosen::default(), 0);
        let mut taken = Vec::new();
        for (used, task) in &self.order {
            if chosen.bytes + free >= bytes {
                break;
            }
            let Some(entry) = self.results.get_mut(task) else { continue };
            if Arc::strong_count(&entry.result) > 1 {
                continue;
            }
            let size = entry.result.memory_bytes();
            if let Some(copy) = entry.copy.take() {
                self.managed_bytes -= size;
                self.spilled_bytes += copy.spilled_bytes();
                chosen.gone.push(std::mem::replace(&mut entry.result, copy));
                free += size;
            } else if chosen.victims.is_empty() || chosen.bytes + size <= at_once {
                entry.leaving = true;
                chosen.bytes += size;
                chosen.victims.push(Victim { task: *task, result: entry.result.clone() });
            } else {
                break;
            }
            taken.push(*used);
        }
        for used in taken {
            self.order.remove(&used);
        }
        chosen
    }

    /// A victim is on disk. If somebody has begun to read it, it stays in memory as well for now.
    pub fn left(&mut self, victim: &Victim, on_disk: Arc<TaskResult>) {
        let Some(entry) = self.victim(victim) else { return };
        // The table and the victim hold it.
        if Arc::strong_count(&entry.result) > 2 {
            entry.copy = Some(on_disk);
        } else {
            let (freed, moved) = (entry.result.memory_bytes(), on_disk.spilled_bytes());
            entry.result = on_disk;
            self.managed_bytes -= freed;
            self.spilled_bytes += moved;
        }
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
            self.managed_bytes += in_memory.memory_bytes();
            self.spilled_bytes -= entry.result.spilled_bytes();
            entry.copy = Some(std::mem::replace(&mut entry.result, in_memory));
            self.touch(task);
        }
    }

    /// Gives up copies on disk of what is in memory too, to make room there. Whether there were any.
    pub fn drop_copies(&mut self) -> bool {
        self.results.values_mut().fold(false, |any, entry| entry.copy.take().is_some() | any)
    }

    /// Those that are, at least in part, only on disk: for finding out which of them are damaged.
    pub fn on_disk(&self) -> Vec<(TaskRef, Arc<TaskResult>)> {
        let spilled = self.results.iter().filter(|(_, e)| e.result.spilled_bytes() > 0);
        spilled.map(|(task, e)| (*task, e.result.clone())).collect()
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
        let chosen = store.choose(bytes, u64::MAX);
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
        assert_eq!(store.choose(u64::MAX, 150_000).victims.len(), 1);
    }

    #[test]
    fn results_go_and_come_with_exact_counts() {
        let dir = tempfile::tempdir().unwrap();
        let spill = Spill::new(dir.path(), None, RealDisk);
        let task = |index| TaskRef { run: RunId(1), index };
        let mut store = filled(3);
        let leave = |store: &mut Store| {
            for victim in store.choose(u64::MAX, u64::MAX).victims {
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
        let chosen = store.choose(1, 1);
        assert_eq!((chosen.victims.len(), chosen.gone.len(), store.managed_bytes()), (0, 1, 0));
        drop((chosen, on_disk));
        store.remove(task(0));
        store.remove(task(1));
        assert_eq!((store.spilled_bytes(), spill.used()), (100_000, 100_000));
    }

    #[test]
    fn what_is_dropped_or_read_while_it_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let spill = Spill::new(dir.path(), None, RealDisk);
        let task = |index| TaskRef { run: RunId(1), index };
        let mut store = filled(2);
        let chosen = store.choose(u64::MAX, u64::MAX);
        let reader = store.use_result(task(1));
        store.remove(task(0));
        for victim in &chosen.victims {
            store.left(victim, spill.write(std::slice::from_ref(&victim.result)).unwrap().remove(0));
        }
        assert_eq!((store.managed_bytes(), store.spilled_bytes(), spill.used()), (100_000, 0, 100_000));
        drop((chosen, reader));
        assert_eq!(store.choose(1, 1).gone.len(), 1);
        assert_eq!((store.managed_bytes(), store.spilled_bytes()), (0, 100_000));
        assert!(!store.drop_copies());
    }
}

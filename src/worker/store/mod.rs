//! The results that this worker holds. Owns the table and the exact count of managed bytes; what may be
//! dropped or fetched is decided by the worker's core.

pub mod data;
pub mod memfile;
pub mod transfer;

use crate::base::ids::{Attempt, TaskRef};
use data::TaskResult;
use rustc_hash::FxHashMap;
use std::sync::Arc;

/// Results by task, each with the attempt that made it.
#[derive(Debug, Default)]
pub struct Store {
    results: FxHashMap<TaskRef, (Attempt, Arc<TaskResult>)>,
    managed_bytes: u64,
}

impl Store {
    /// Adds a result and returns the one it replaces, if any.
    pub fn insert(
        &mut self,
        task: TaskRef,
        attempt: Attempt,
        result: Arc<TaskResult>,
    ) -> Option<Arc<TaskResult>> {
        self.managed_bytes += result.memory_bytes();
        let (_, old) = self.results.insert(task, (attempt, result))?;
        self.managed_bytes -= old.memory_bytes();
        Some(old)
    }

    /// The result of a task, if it is here.
    pub fn find(&self, task: TaskRef) -> Option<&Arc<TaskResult>> {
        self.results.get(&task).map(|(_, result)| result)
    }

    /// The attempt that made the result of a task, if it is here.
    pub fn find_attempt(&self, task: TaskRef) -> Option<Attempt> {
        self.results.get(&task).map(|(attempt, _)| *attempt)
    }

    /// Drops a result. Its memory is free once nobody reads it any more.
    pub fn remove(&mut self, task: TaskRef) -> Option<Arc<TaskResult>> {
        let (_, result) = self.results.remove(&task)?;
        self.managed_bytes -= result.memory_bytes();
        Some(result)
    }

    /// Bytes of all results in memory; files in place do not count.
    pub fn managed_bytes(&self) -> u64 {
        self.managed_bytes
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
        let mut all: Vec<_> = self.results.iter().map(|(t, (a, r))| (*t, *a, r.nbytes())).collect();
        all.sort_unstable();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::data::Data;
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
}

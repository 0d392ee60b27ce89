//! One thing that is shared, and the values in it. One shape for all kinds: what a kind does not use stays
//! empty. Owns who comes next, and how many refer to a result.

use crate::base::ids::{ClientId, RunUuid};
use crate::protocol::messages::share::Kind;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// What a value takes beside its bytes.
const VALUE_OVERHEAD: usize = 100;

/// Runs and numbers in them.
pub(super) type Results = Vec<(RunUuid, u32)>;

/// Opaque bytes, and the results that they refer to.
#[derive(Clone, Debug)]
pub(super) struct Value {
    pub bytes: Bytes,
    pub tasks: Arc<[(RunUuid, u32)]>,
}

impl Value {
    pub fn new(bytes: &Bytes, tasks: Vec<(RunUuid, u32)>) -> Value {
        // A copy, for the bytes are part of a buffer with much else in it.
        Value { bytes: Bytes::copy_from_slice(bytes), tasks: tasks.into() }
    }

    /// About what it takes, bytes.
    fn size(&self) -> u64 {
        (VALUE_OVERHEAD + self.bytes.len() + self.tasks.len() * size_of::<(RunUuid, u32)>()) as u64
    }
}

/// One thing.
#[derive(Debug, Default)]
pub(super) struct Thing {
    pub holders: Vec<(ClientId, String)>,
    pub set: bool,
    pub values: VecDeque<Value>,
    /// Those who wait to hold it or to take something from it, in their order.
    pub takers: VecDeque<(ClientId, u32)>,
    /// Those who wait to put something into it.
    pub givers: VecDeque<(ClientId, u32)>,
    limit: Option<u32>,
}

impl Thing {
    /// Notes how many there may be, or says what was said before.
    pub fn agree(&mut self, kind: Kind, limit: Option<u32>) -> Result<(), String> {
        let limit = match kind {
            Kind::Lock => Some(1),
            Kind::Semaphore => limit.or(self.limit).or(Some(1)),
            Kind::Queue => limit.filter(|n| *n > 0).or(self.limit),
            _ => None,
        };
        match self.limit {
            Some(old) if !self.is_idle() && limit != Some(old) => Err(format!("is limited to {old} already")),
            _ => {
                self.limit = limit;
                Ok(())
            }
        }
    }

    /// Who can go on, taken out of the queue.
    pub fn next(&mut self, kind: Kind) -> Option<(ClientId, u32)> {
        let limit = self.limit.map_or(usize::MAX, |n| n as usize);
        let has_taker = match kind {
            Kind::Lock | Kind::Semaphore => self.holders.len() < limit,
            Kind::Event => self.set,
            _ => !self.values.is_empty(),
        };
        let taker = if has_taker { self.takers.pop_front() } else { None };
        let has_room = self.values.len() < limit;
        taker.or_else(|| if has_room { self.givers.pop_front() } else { None })
    }

    /// Whether it is as if it had never been.
    pub fn is_idle(&self) -> bool {
        let unused = self.holders.is_empty() && self.takers.is_empty() && self.givers.is_empty();
        unused && !self.set && self.values.is_empty()
    }

    /// What `Count` is answered with.
    pub fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::Lock | Kind::Semaphore => self.holders.len(),
            Kind::Event => usize::from(self.set),
            _ => self.values.len(),
        }
    }
}

/// How many values refer to which results, and how many bytes all values have.
#[derive(Debug, Default)]
pub(super) struct Holds {
    counts: BTreeMap<(RunUuid, u32), u32>,
    changed: BTreeMap<(RunUuid, u32), bool>,
    bytes: u64,
}

impl Holds {
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// There is a value more.
    pub fn keep(&mut self, value: &Value) {
        self.bytes += value.size();
        for task in value.tasks.iter() {
            let count = self.counts.entry(*task).or_default();
            if *count == 0 {
                self.changed.entry(*task).or_insert(false);
            }
            *count += 1;
        }
    }

    /// A value is gone.
    pub fn drop_value(&mut self, value: &Option<Value>) {
        let Some(value) = value else { return };
        self.bytes -= value.size();
        for task in value.tasks.iter() {
            let Some(count) = self.counts.get_mut(task) else { continue };
            *count -= 1;
            if *count == 0 {
                self.counts.remove(task);
                self.changed.entry(*task).or_insert(true);
            }
        }
    }

    /// Results that are referred to since the last call, and those that are not any more.
    pub fn take_changes(&mut self) -> (Results, Results) {
        let (mut keep, mut let_go) = (BTreeSet::new(), BTreeSet::new());
        for (task, was_held) in std::mem::take(&mut self.changed) {
            match (was_held, self.counts.contains_key(&task)) {
                (false, true) => drop(keep.insert(task)),
                (true, false) => drop(let_go.insert(task)),
                _ => {}
            }
        }
        (keep.into_iter().collect(), let_go.into_iter().collect())
    }

    /// Everything that is referred to.
    #[cfg(test)]
    pub fn counts(&self) -> &BTreeMap<(RunUuid, u32), u32> {
        &self.counts
    }
}

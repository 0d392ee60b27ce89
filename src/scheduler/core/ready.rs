//! Tasks that could run now, by priority and by what they need. Owns the heaps and the sets of workers that
//! have room; not the decision which of them gets a task.

use crate::base::ids::{RunId, TaskRef, WorkerId};
use crate::base::priority::Priority;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

/// A ready task, or a stretch of ready elements that come one after the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    pub(super) priority: Priority,
    pub(super) task: TaskRef,
    /// End of the stretch of indices; `task.index + 1` for a single task.
    pub(super) end: u32,
}

impl Entry {
    /// A pool of roots instead of tasks: whoever has room is given the next of its own domain.
    pub(super) fn pool(run: RunId, number: u32, priority: Priority) -> Entry {
        Entry { priority, task: TaskRef { run, index: number }, end: 0 }
    }

    /// The number of the pool, if it is one.
    pub(super) fn as_pool(&self) -> Option<u32> {
        (self.end == 0).then_some(self.task.index)
    }
}

// A binary heap gives its greatest first; the smallest priority is to come first.
impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> std::cmp::Ordering {
        (other.priority, other.task).cmp(&(self.priority, self.task))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// What tasks occupy; all tasks that occupy the same share a queue.
pub(super) struct Class {
    pub(super) slots: u32,
    pub(super) resources: BTreeMap<String, u64>,
    pub(super) heap: BinaryHeap<Entry>,
    /// Ready tasks for which no worker has the memory.
    pub(super) held: BinaryHeap<Entry>,
    /// Ready tasks that no worker with room would have done before it leaves.
    pub(super) late: BinaryHeap<Entry>,
    /// Workers with room for one more such task by rank: those that can begin it at once first, then those
    /// with the least to do.
    pub(super) open: BTreeSet<(u64, WorkerId)>,
}

/// Why a ready task stays where it is though workers have room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pile {
    /// None of them has the memory.
    Held,
    /// All of them leave too soon.
    Late,
}

impl Class {
    /// The tasks that stay for a reason.
    pub(super) fn pile(&mut self, pile: Pile) -> &mut BinaryHeap<Entry> {
        match pile {
            Pile::Held => &mut self.held,
            Pile::Late => &mut self.late,
        }
    }

    /// All entries, wherever they are.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.heap.iter().chain(&self.held).chain(&self.late)
    }
}

/// The queues.
#[derive(Default)]
pub(super) struct Ready {
    pub(super) classes: Vec<Class>,
    /// For each worker and class, the rank it stands under in `open`.
    listed: Vec<Vec<Option<u64>>>,
    /// Ready tasks that are to have a worker to themselves.
    pub(super) alone: BTreeSet<(Priority, TaskRef)>,
    /// Workers that are kept for one of these, or have it.
    pub(super) keepers: BTreeSet<WorkerId>,
    /// Workers with ready tasks of their own, longest queue last.
    pub(super) local: BTreeSet<(usize, WorkerId)>,
}

impl Ready {
    /// The class of tasks that occupy this much.
    pub(super) fn class(&mut self, slots: u32, resources: &BTreeMap<String, u64>) -> u32 {
        let same = |c: &Class| c.slots == slots && c.resources == *resources;
        if let Some(at) = self.classes.iter().position(same) {
            return at as u32;
        }
        self.classes.push(Class {
            slots,
            resources: resources.clone(),
            heap: BinaryHeap::new(),
            held: BinaryHeap::new(),
            late: BinaryHeap::new(),
            open: BTreeSet::new(),
        });
        self.classes.len() as u32 - 1
    }

    pub(super) fn push(&mut self, class: u32, entry: Entry) {
        self.classes[class as usize].heap.push(entry);
    }

    /// Lists a worker as open for a class under a rank, or as not open.
    pub(super) fn list(&mut self, worker: WorkerId, class: usize, rank: Option<u64>) {
        if self.listed.len() <= worker.index() {
            self.listed.resize_with(worker.index() + 1, Vec::new);
        }
        let listed = &mut self.listed[worker.index()];
        if listed.len() <= class {
            listed.resize(class + 1, None);
        }
        if listed[class] == rank {
            return;
        }
        let open = &mut self.classes[class].open;
        if let Some(old) = listed[class] {
            open.remove(&(old, worker));
        }
        if let Some(new) = rank {
            open.insert((new, worker));
        }
        listed[class] = rank;
    }

    /// Whether a worker is listed as open for a class.
    pub(super) fn is_open(&self, worker: WorkerId, class: u32) -> bool {
        self.listed.get(worker.index()).and_then(|l| l.get(class as usize)).is_some_and(|l| l.is_some())
    }

    /// The class whose first task goes before all others that have an open worker.
    pub(super) fn next_class(&self) -> Option<usize> {
        (0..self.classes.len())
            .filter(|&c| !self.classes[c].open.is_empty())
            .filter_map(|c| self.classes[c].heap.peek().map(|e| (e.priority, c)))
            .min()
            .map(|(_, c)| c)
    }
}

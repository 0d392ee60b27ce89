//! One run inside the core: its families, and one column per property of its tasks. Owns the index arithmetic
//! between (family, element) and task index, and walking edges both ways. Changes of state are in
//! `transitions`.

use super::action::TaskFailure;
use super::edges::Edges;
use super::event::RunSpec;
use super::groups::{Groups, NO_GROUP, RunGroups};
use super::state::{Packed, State};
use crate::base::failure::OutgrownAttempt;
use crate::base::ids::{ClientId, FamilyIx, RunId, TaskRef, WorkerId};
use crate::base::priority::Priority;
use crate::base::time::Time;
use crate::graph::FamilyNames;
use crate::graph::layer::{Layer, Pattern, Shape, Size};
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;
use std::cell::Cell;
use std::collections::{BTreeMap, BinaryHeap};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// No worker.
pub(super) const NOBODY: u32 = u32::MAX;

/// A run and all of its tasks.
pub(super) struct Run {
    pub(super) id: RunId,
    pub(super) uuid: crate::base::ids::RunUuid,
    pub(super) name: String,
    pub(super) names: Arc<FamilyNames>,
    pub(super) owner: Option<ClientId>,
    pub(super) watchers: Vec<ClientId>,
    pub(super) detached: bool,
    pub(super) max_fails: Option<u32>,
    max_processing: u64,
    /// Ready tasks that wait because as many as are allowed are handed out, by class.
    pub(super) parked: BTreeMap<u32, BinaryHeap<super::ready::Entry>>,
    /// Ready tasks whose results would only lie in memory.
    pub(super) early: super::early::Early,
    /// For which tasks inputs are gathered.
    pub(super) gathers: super::gather::Gathers,
    /// Tasks of their own that are to be put into a pool.
    pub(super) roots: Vec<u32>,
    /// Roots that are given out by domain.
    pub(super) pools: Vec<super::domains::Pool>,
    pub(super) generation: u32,
    pub(super) submitted: Time,
    pub(super) families: Vec<Family>,
    pub(super) edges: Edges,
    /// Which family each stretch of indices belongs to: first index, family, first element.
    segments: Vec<(u32, FamilyIx, u32)>,
    /// Where in there the last task was found that had to be searched for.
    last_place: Cell<Stretch>,

    // One entry per task.
    pub(super) state: Vec<Packed>,
    /// What a waiting task still waits for; meaningless in other states.
    pub(super) waiting: Vec<u32>,
    /// Unfinished dependents, untaken outputs, families yet to be sized.
    pub(super) refs: Vec<u32>,
    /// Number of the last assignment.
    pub(super) attempt: Vec<u32>,
    /// Processing: where. Memory: the first holder.
    pub(super) worker: Vec<u32>,
    /// Size of the last result.
    pub(super) nbytes: Vec<u64>,

    /// Holders beyond the first.
    pub(super) replicas: BTreeMap<u32, SmallVec<[WorkerId; 3]>>,
    /// Tasks with a history of failures.
    pub(super) trouble: BTreeMap<u32, Trouble>,

    /// Tasks by state.
    pub(super) counts: [u64; State::ALL.len()],
    /// Outputs not yet taken.
    pub(super) wanted: u64,
    /// Families whose size is not known yet.
    pub(super) unsized_families: u32,
    pub(super) stats: Stats,
    pub(super) cancelled: Option<String>,
    pub(super) reported_done: bool,
    pub(super) groups: RunGroups,
    /// By group.
    pub(super) usual: FxHashMap<u32, Usual>,
    /// How long tasks have executed at least, by group, where none like them has ended.
    pub(super) overdue: FxHashMap<u32, u64>,
    /// Of a run of calls.
    pub(super) calls: Option<Box<super::calls::Calls>>,
}

/// Indices that belong to one family, and which of its elements the first one is.
#[derive(Clone, Copy, Default)]
struct Stretch {
    first: u32,
    end: u32,
    family: FamilyIx,
    element: u32,
}

/// What went wrong with a task so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Trouble {
    /// Attempts that failed.
    pub(super) failed: u32,
    /// Workers lost while it was executing: name and reason.
    pub(super) lost: Vec<String>,
    /// Attempts that were ended for memory: the next one is alone, or there is none.
    pub(super) outgrown: Vec<OutgrownAttempt>,
    /// How often its inputs could not be fetched.
    pub(super) inputs_missing: u32,
    /// Hosts it failed on.
    pub(super) hosts: SmallVec<[String; 2]>,
    /// How often it was held back to avoid those hosts.
    pub(super) deferred: u32,
    /// The final failure's task, for dependents: which task is to blame.
    pub(super) blame: Option<u32>,
    /// That task, if it is one of another run.
    pub(super) elsewhere: Option<TaskRef>,
    /// The final failure, of calls.
    pub(super) failure: Option<std::sync::Arc<crate::base::failure::Failure>>,
}

impl Trouble {
    /// Attempts that ended badly, for what goes by attempt.
    pub(super) fn tries(&self) -> u32 {
        self.failed + self.outgrown.len() as u32
    }
}

/// Figures kept while the run lasts.
#[derive(Clone, Debug, Default)]
pub(super) struct Stats {
    pub(super) done: u64,
    pub(super) failed: u64,
    pub(super) skipped: u64,
    pub(super) retried: u64,
    pub(super) task_time: Duration,
    pub(super) bytes_made: u64,
    pub(super) bytes_moved: u64,
    pub(super) failures: Vec<TaskFailure>,
    /// Smoothed execution time over all families, for those that have none yet.
    pub(super) duration_ns: Option<u64>,
    /// Size of results over all families, likewise.
    pub(super) result_bytes: Option<u64>,
}

/// What tasks of a group come to, of those families that are one task each: what is known of one says
/// something about the next.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usual {
    /// Smoothed execution time.
    pub(super) duration_ns: u64,
    /// Size of a result, nearer to the largest than to the mean.
    pub(super) result_bytes: u64,
}

/// A family of the run.
pub(super) struct Family {
    /// What an element occupies; many families share one.
    pub(super) layer: Arc<Needs>,
    /// Known once the family is instantiated. For groups by bytes it grows until `closed`.
    pub(super) shape: Option<Shape>,
    pub(super) closed: bool,
    /// Index of element 0 (contiguous families).
    base: u32,
    /// Families whose elements come into being one by one (groups by bytes).
    grown: Option<Box<Grown>>,
    depth: u16,
    /// Where a task of its own stands in the run's order, spread over the width of `u32`.
    pub(super) place: Option<u32>,
    /// A task of its own that needs nothing, and whose result meets others.
    pub(super) joined: bool,
    pub(super) class: u32,
    /// What people follow its tasks as.
    pub(super) group: u32,
    pub(super) output: bool,
    /// Smoothed execution time.
    pub(super) duration_ns: Option<u64>,
    /// Size of a result, nearer to the largest than to the mean.
    pub(super) result_bytes: Option<u64>,
    /// Elements that are done.
    pub(super) done: u32,
    /// Elements that are ready, handed out or about to be tried again.
    pub(super) ready: u32,
}

/// What remains of a layer without its edges, which are the run's.
#[derive(PartialEq, Eq, Hash)]
pub(super) struct Needs {
    pub(super) size: Size,
    pub(super) priority: i32,
    pub(super) slots: u32,
    pub(super) resources: BTreeMap<String, u64>,
    pub(super) nodes: u32,
    pub(super) memory: Vec<u64>,
    pub(super) output_size: Option<u64>,
    pub(super) retries: u32,
    pub(super) time_limit_ms: Option<u64>,
}

impl Needs {
    fn of(layer: Layer) -> Needs {
        let Layer { size, edges: _, priority, slots, resources, nodes, memory, .. } = layer;
        let Layer { output_size, retries, time_limit_ms, .. } = layer;
        Needs { size, priority, slots, resources, nodes, memory, output_size, retries, time_limit_ms }
    }
}

/// Indices by element.
#[derive(Default)]
struct Grown {
    list: Vec<u32>,
}

impl Run {
    pub(super) fn new(id: RunId, owner: Option<ClientId>, generation: u32, now: Time, spec: RunSpec) -> Run {
        let (families, edges) = families(spec.layers, &spec.outputs);
        let tasks = families.iter().map(Family::size_at_submission).sum();
        let unsized_families = families.len() as u32;
        Run {
            id,
            uuid: spec.uuid,
            name: spec.name,
            names: spec.names,
            owner,
            watchers: owner.into_iter().collect(),
            detached: spec.detached,
            max_fails: spec.max_fails,
            max_processing: spec.max_processing.map_or(u64::MAX, |n| u64::from(n.max(1))),
            parked: BTreeMap::new(),
            early: super::early::Early::default(),
            gathers: super::gather::Gathers::default(),
            roots: Vec::new(),
            pools: Vec::new(),
            generation,
            submitted: now,
            segments: Vec::with_capacity(families.len()),
            last_place: Cell::default(),
            families,
            edges,
            state: Vec::with_capacity(tasks),
            waiting: Vec::with_capacity(tasks),
            refs: Vec::with_capacity(tasks),
            attempt: Vec::with_capacity(tasks),
            worker: Vec::with_capacity(tasks),
            nbytes: Vec::with_capacity(tasks),
            replicas: BTreeMap::new(),
            trouble: BTreeMap::new(),
            counts: [0; State::ALL.len()],
            wanted: 0,
            unsized_families,
            stats: Stats::default(),
            cancelled: None,
            reported_done: false,
            groups: RunGroups::default(),
            usual: FxHashMap::default(),
            overdue: FxHashMap::default(),
            calls: spec.calls.as_ref().map(|c| Box::new(super::calls::Calls::new(c))),
        }
    }

    pub(super) fn task(&self, i: u32) -> TaskRef {
        TaskRef { run: self.id, index: i }
    }

    /// Whether the index names a task of this run.
    pub(super) fn has(&self, i: u32) -> bool {
        (i as usize) < self.state.len()
    }

    pub(super) fn state_of(&self, i: u32) -> State {
        self.state[i as usize].state()
    }

    pub(super) fn count(&self, state: State) -> u64 {
        self.counts[state as usize]
    }

    /// Whether as many of its tasks are handed out as are allowed.
    pub(super) fn is_full(&self) -> bool {
        self.count(State::Processing) >= self.max_processing
    }

    /// Whether as many tasks may be handed out as workers take.
    pub(super) fn max_processing_is_off(&self) -> bool {
        self.max_processing == u64::MAX
    }

    /// Tasks that still have something to do.
    pub(super) fn unfinished(&self) -> u64 {
        State::ALL.iter().filter(|s| !s.is_final()).map(|&s| self.count(s)).sum()
    }

    /// Adds `n` elements to a family, in `state`, with `refs` each, and returns the first one's index.
    pub(super) fn add_tasks(
        &mut self,
        groups: &mut Groups,
        f: FamilyIx,
        n: u32,
        state: State,
        refs: u32,
    ) -> u32 {
        let first = self.state.len() as u32;
        let end = self.state.len() + n as usize;
        let family = &mut self.families[f.index()];
        let element = family.shape.map_or(0, |s| s.total);
        if family.shape.is_none() {
            family.base = first;
        }
        if let Some(grown) = &mut family.grown {
            grown.list.extend(first..end as u32);
        }
        family.shape.get_or_insert_default().total += n;
        if n > 0 {
            self.segments.push((first, f, element));
        }
        self.state.resize(end, Packed::new(state));
        self.waiting.resize(end, 0);
        self.refs.resize(end, refs);
        self.attempt.resize(end, 0);
        self.worker.resize(end, NOBODY);
        self.nbytes.resize(end, 0);
        self.counts[state as usize] += u64::from(n);
        groups.add(&self.groups, self.families[f.index()].group, state, n);
        if super::demand::is_ready(state) {
            self.families[f.index()].ready += n;
        }
        first
    }

    /// Counts a change of state, in the run, in the task's family and in its group.
    pub(super) fn count_change(&mut self, groups: &mut Groups, i: u32, from: State, to: State) {
        use super::demand::is_ready;
        self.counts[from as usize] -= 1;
        self.counts[to as usize] += 1;
        let (f, _) = self.place_of(i);
        let family = &mut self.families[f.index()];
        groups.change(&self.groups, family.group, from, to);
        if is_ready(from) != is_ready(to) {
            family.ready = if is_ready(to) { family.ready + 1 } else { family.ready - 1 };
        }
    }

    /// Its tasks in stretches of one family each.
    pub(super) fn stretches(&self) -> impl Iterator<Item = (Range<u32>, FamilyIx)> {
        let ends = self.segments.iter().skip(1).map(|s| s.0).chain([self.state.len() as u32]);
        self.segments.iter().zip(ends).map(|(&(first, f, _), end)| (first..end, f))
    }

    /// How many of its tasks may be handed out at a time.
    pub(super) fn max_in_hand(&self) -> u64 {
        self.max_processing
    }

    /// Family and element of a task.
    #[inline]
    pub(super) fn place_of(&self, i: u32) -> (FamilyIx, u32) {
        // None is empty, so it is at most the i-th. Where all tasks are families of their own it is that one.
        let most = (i as usize).min(self.segments.len() - 1);
        let (first, family, element) = self.segments[most];
        if first <= i {
            return (family, element + (i - first));
        }
        // One task is asked for several times in turn.
        let last = self.last_place.get();
        match i.checked_sub(last.first) {
            Some(more) if i < last.end => (last.family, last.element + more),
            _ => self.place_before(most, i),
        }
    }

    /// The same of a task that is in a stretch before this one.
    #[inline(never)]
    fn place_before(&self, most: usize, i: u32) -> (FamilyIx, u32) {
        let at = self.segments[..most].partition_point(|&(first, ..)| first <= i) - 1;
        let (first, family, element) = self.segments[at];
        self.last_place.set(Stretch { first, end: self.segments[at + 1].0, family, element });
        (family, element + (i - first))
    }

    /// Index of a family's element.
    pub(super) fn index_of(&self, f: FamilyIx, element: u32) -> u32 {
        let family = &self.families[f.index()];
        match &family.grown {
            Some(grown) => grown.list[element as usize],
            None => family.base + element,
        }
    }

    /// Priority of an element: by position along the family, so that what is begun is finished first; at the
    /// same position the later family goes first.
    pub(super) fn priority(&self, f: FamilyIx, element: u32) -> Priority {
        let family = &self.families[f.index()];
        let position = self.position(f, element);
        let rank = (position << 16) | u64::from(u16::MAX - family.depth);
        Priority { user: family.layer.priority.saturating_neg(), generation: self.generation, rank }
    }

    /// Where along the run's width an element lies, from 0 to 2^32.
    fn position(&self, f: FamilyIx, element: u32) -> u64 {
        let family = &self.families[f.index()];
        if let Some(place) = family.place {
            return u64::from(place);
        }
        let total = family.shape.map_or(1, |s| s.total).max(1);
        let edges = self.edges.of(f);
        if edges.is_empty() && total == 1 {
            return 0;
        }
        let tree = edges.iter().find(|e| matches!(e.pattern(), Pattern::Tree { .. }));
        if let Some((edge, Pattern::Tree { fan_in })) = tree.map(|e| (e, e.pattern())) {
            let n = self.exports(edge.producer).max(1);
            return (u64::from(last_leaf(element, n, *fan_in)) << 32) / u64::from(n);
        }
        (u64::from(element + 1) << 32) / u64::from(total)
    }

    /// How many elements of a family later ones see; zero while its size is unknown.
    pub(super) fn exports(&self, f: FamilyIx) -> u32 {
        self.families[f.index()].shape.map_or(0, |s| s.exports())
    }

    /// Index of the `j`-th element that later families see.
    pub(super) fn export(&self, f: FamilyIx, j: u32) -> u32 {
        let first = self.families[f.index()].shape.map_or(0, |s| s.first_export);
        self.index_of(f, first + j)
    }

    /// Calls `visit(input index)` for each input of an element over one edge, in order.
    pub(super) fn each_input(&self, f: FamilyIx, element: u32, edge: u32, mut visit: impl FnMut(u32)) {
        let e = self.edges.get(f, edge);
        if e.is_pair() {
            return visit(self.families[e.producer.index()].base);
        }
        match e.pattern() {
            Pattern::Explicit(csr) => {
                csr.row(element).iter().for_each(|&j| visit(self.export(e.producer, j)));
            }
            Pattern::GroupBytes { .. } => {
                let Some(former) = e.former() else { return };
                let filled = former.group(element).filter(|&j| !former.is_empty(j));
                filled.for_each(|j| visit(self.export(e.producer, j)));
            }
            pattern => {
                for span in pattern.inputs(element, self.exports(e.producer)) {
                    let of = |j| if span.own { self.index_of(f, j) } else { self.export(e.producer, j) };
                    span.range.clone().for_each(|j| visit(of(j)));
                }
            }
        }
    }

    /// Whether an element has more inputs than so many, as far as that is known without walking them.
    pub(super) fn needs_more_than(&self, f: FamilyIx, element: u32, most: usize) -> bool {
        let count = |e: &super::edges::Edge| match e.pattern() {
            _ if e.is_pair() => 1,
            Pattern::Explicit(csr) => csr.row(element).len(),
            Pattern::GroupBytes { .. } => e.former().map_or(0, |former| former.group(element).count()),
            pattern => {
                let spans = pattern.inputs(element, self.exports(e.producer));
                spans.into_iter().map(|span| span.range.len()).sum()
            }
        };
        let edges = self.edges.of(f);
        edges.len() > most || edges.iter().map(count).sum::<usize>() > most
    }

    /// Number of inputs of an element over one edge.
    pub(super) fn input_count(&self, f: FamilyIx, element: u32, edge: u32) -> usize {
        let mut n = 0;
        self.each_input(f, element, edge, |_| n += 1);
        n
    }

    /// Tasks that depend on element `element` of `f` over one edge of consumer `c`, except over gates.
    pub(super) fn dependents(&self, f: FamilyIx, element: u32, (c, e): (FamilyIx, u32), into: &mut Vec<u32>) {
        let consumer = &self.families[c.index()];
        let Some(shape) = consumer.shape else { return };
        let first = self.families[f.index()].shape.map_or(0, |s| s.first_export);
        let Some(j) = element.checked_sub(first) else { return };
        let edge = self.edges.get(c, e);
        if edge.is_pair() {
            return into.push(consumer.base);
        }
        match edge.pattern() {
            Pattern::All => {}
            Pattern::Explicit(_) => {
                let row = edge.inverse().map_or(&[][..], |inverse| inverse.row(j));
                into.extend(row.iter().map(|&i| self.index_of(c, i)));
            }
            Pattern::GroupBytes { .. } => {
                let group = edge.former().filter(|f| !f.is_empty(j)).and_then(|f| f.group_of(j));
                into.extend(group.filter(|&g| g < shape.total).map(|g| self.index_of(c, g)));
            }
            pattern => {
                for range in pattern.dependents(j, self.exports(f), shape.total) {
                    into.extend(range.map(|i| self.index_of(c, i)));
                }
            }
        }
    }

    /// The task of the same family that a tree element feeds.
    pub(super) fn tree_parent(&self, f: FamilyIx, element: u32) -> Option<u32> {
        self.edges
            .of(f)
            .iter()
            .find_map(|e| match e.pattern() {
                pattern @ Pattern::Tree { .. } => pattern.parent(element, self.exports(e.producer)),
                _ => None,
            })
            .map(|p| self.index_of(f, p))
    }

    /// Workers that hold a task's result.
    pub(super) fn holders(&self, i: u32) -> SmallVec<[WorkerId; 4]> {
        let mut holders = SmallVec::new();
        if self.state_of(i) == State::Memory && self.worker[i as usize] != NOBODY {
            holders.push(WorkerId(self.worker[i as usize]));
            if !self.replicas.is_empty()
                && let Some(more) = self.replicas.get(&i)
            {
                holders.extend(more.iter().copied());
            }
        }
        holders
    }

    /// All indices of a family, by element.
    pub(super) fn elements(&self, f: FamilyIx) -> Range<u32> {
        0..self.families[f.index()].shape.map_or(0, |s| s.total)
    }
}

impl Family {
    fn new(layer: Arc<Needs>, grows: bool, depth: u16, place: Option<u32>, joined: bool) -> Family {
        Family {
            layer,
            shape: None,
            closed: false,
            base: 0,
            grown: grows.then(Box::default),
            depth,
            place,
            joined,
            class: 0,
            group: NO_GROUP,
            output: false,
            duration_ns: None,
            result_bytes: None,
            done: 0,
            ready: 0,
        }
    }

    /// Whether its elements come into being one by one (groups by bytes).
    pub(super) fn grows(&self) -> bool {
        self.grown.is_some()
    }

    fn size_at_submission(&self) -> usize {
        match self.layer.size {
            Size::Fixed(total) => total as usize,
            Size::Follows => 0,
        }
    }
}

/// Families and their edges, out of layers. What families share is kept once.
fn families(mut layers: Vec<Layer>, outputs: &[FamilyIx]) -> (Vec<Family>, Edges) {
    let single: Vec<bool> = layers.iter().map(super::edges::is_single).collect();
    let edges = Edges::take(&mut layers, &single);
    let places = super::singles::places(&edges, &single);
    let joined = super::singles::joined(&edges, &places);
    let mut families: Vec<Family> = Vec::with_capacity(layers.len());
    let mut shared: FxHashSet<Arc<Needs>> = FxHashSet::default();
    for ((ix, layer), place) in (0..).map(FamilyIx).zip(layers).zip(places) {
        let joined = joined[ix.index()];
        let needs = Needs::of(layer);
        let layer = match shared.get(&needs) {
            Some(layer) => layer.clone(),
            None => {
                let layer = Arc::new(needs);
                shared.insert(layer.clone());
                layer
            }
        };
        let edges = edges.of(ix);
        let depths = edges.iter().map(|e| families[e.producer.index()].depth.saturating_add(1));
        let depth = depths.max().unwrap_or(0);
        let grows = edges.iter().any(|e| matches!(e.pattern(), Pattern::GroupBytes { .. }));
        families.push(Family::new(layer, grows, depth, place, joined));
    }
    for output in outputs {
        families[output.index()].output = true;
    }
    (families, edges)
}

/// The last leaf (producer element, counted from 1) under element `i` of a tree over `n`.
fn last_leaf(i: u32, n: u32, fan_in: u32) -> u32 {
    let levels = crate::graph::layer::tree_levels(n, fan_in);
    let level = levels[..levels.len() - 1].iter().rposition(|&s| s <= i).unwrap_or(0);
    let mut end = u64::from(i - levels[level] + 1);
    for _ in 0..=level {
        end = (end * u64::from(fan_in)).min(u64::from(n));
    }
    end as u32
}

//! Families coming into being: sizing them, making their tasks, wiring them to the families before. Owns the
//! order in which that happens and the growing of groups by bytes.

use super::cx::Cx;
use super::edges::Gate;
use super::former::Former;
use super::ready::Entry;
use super::run::Run;
use super::state::State;
use crate::base::ids::{FamilyIx, WorkerId};
use crate::graph::layer::{Pattern, Shape, Size};

impl Run {
    /// Brings into being every family whose size can be known now, in order.
    pub(super) fn grow(&mut self, cx: &mut Cx) {
        for f in 0..self.families.len() {
            let family = &self.families[f];
            if family.shape.is_some() || self.cancelled.is_some() {
                continue;
            }
            let f = FamilyIx(f as u32);
            if self.edges.of(f).iter().all(|e| self.families[e.producer.index()].closed) {
                self.instantiate(cx, f);
            }
        }
        let roots = std::mem::take(&mut self.roots);
        if self.cancelled.is_none() {
            for number in self.pool_singles(roots) {
                let entry = Entry::pool(self.id, number, self.pool_priority(number));
                cx.ready.push(self.pools[number as usize].class, entry);
            }
        }
    }

    /// Makes a family's tasks.
    fn instantiate(&mut self, cx: &mut Cx, f: FamilyIx) {
        let layer = &self.families[f.index()].layer;
        let known = cx.ready.classes.len();
        self.families[f.index()].class = cx.ready.class(layer.slots, &layer.resources);
        if cx.ready.classes.len() > known {
            cx.join_class(known);
            (0..cx.workers.len() as u32).for_each(|w| cx.touch(WorkerId(w)));
        }
        if self.families[f.index()].grows() {
            self.start_growing(cx, f);
            return;
        }
        let shape = self.size(f);
        if let Some(reason) = self.misfit(f, shape.total) {
            self.cancel(cx, reason);
            return;
        }
        let passive = self.is_passive(self.state.len() as u32);
        let root = self.edges.of(f).is_empty() && !passive;
        let from = if root { State::Queued } else { State::Waiting };
        let first = self.add_tasks(&mut cx.groups, f, shape.total, from, 0);
        self.families[f.index()].shape = Some(shape);
        self.connect_groups(&mut cx.groups, f);
        self.hold_elements(f, 0..shape.total);
        self.wire(cx, f);
        if from == State::Queued {
            if self.is_wide(f) {
                for element in 0..shape.total {
                    self.wait_for_workers(cx, self.index_of(f, element));
                }
            } else if self.families[f.index()].joined && self.max_processing_is_off() {
                self.roots.push(first);
            } else if self.is_pooled(f) {
                if let Some(number) = self.pool(f) {
                    let entry = Entry::pool(self.id, number, self.pool_priority(number));
                    cx.ready.push(self.families[f.index()].class, entry);
                }
            } else if shape.total > 0 {
                let class = self.families[f.index()].class;
                let (priority, end) = (self.priority(f, 0), first + shape.total);
                cx.ready.push(class, Entry { priority, task: self.task(first), end });
            }
        } else {
            for i in first..first + shape.total {
                self.settle(cx, i);
            }
        }
        self.close(cx, f);
    }

    /// Says so if an edge needs another number of elements than the family has. Sizes known at submission
    /// were checked then; these are the ones that came out while running.
    fn misfit(&self, f: FamilyIx, total: u32) -> Option<String> {
        let name = |f: FamilyIx| self.names.get(f).unwrap_or("?");
        self.edges.of(f).iter().find_map(|e| {
            let n = self.exports(e.producer);
            let needs = match e.pattern() {
                Pattern::Explicit(csr) => {
                    return (!csr.is_valid(total, n)).then(|| {
                        format!("{} lists elements that {} does not have", name(f), name(e.producer))
                    });
                }
                pattern => pattern.shape(n)?.total,
            };
            (needs != total).then(|| {
                format!(
                    "{} has {total} elements, its edge to {} ({n}) needs {needs}",
                    name(f),
                    name(e.producer)
                )
            })
        })
    }

    fn size(&self, f: FamilyIx) -> Shape {
        let family = &self.families[f.index()];
        let follows = family.layer.size == Size::Follows;
        let shapes = |p: &Pattern| follows && !matches!(p, Pattern::All | Pattern::Explicit(_));
        let edges = self.edges.of(f);
        let edge = edges.iter().find(|e| shapes(e.pattern()));
        // A tree has its levels whatever size was written down for it.
        let tree = edges.iter().find(|e| matches!(e.pattern(), Pattern::Tree { .. }));
        if let Some(e) = tree.or(edge)
            && let Some(shape) = e.pattern().shape(self.exports(e.producer))
        {
            return shape;
        }
        match family.layer.size {
            Size::Fixed(total) => Shape { total, first_export: 0 },
            Size::Follows => Shape { total: 1, first_export: 0 },
        }
    }

    /// References that new elements have from the start: one for each later family that depends on theirs
    /// (until that one exists and says how many it really needs), one for an output nobody has taken.
    fn hold_elements(&mut self, f: FamilyIx, elements: std::ops::Range<u32>) {
        let family = &self.families[f.index()];
        let carries = |&&(c, e): &&(FamilyIx, u32)| self.edges.get(c, e).data;
        let consumers = self.edges.behind(f).iter().filter(carries).count() as u32;
        let output = family.output;
        let first_export = family.shape.map_or(0, |s| s.first_export);
        for element in elements {
            let i = self.index_of(f, element);
            if element < first_export {
                // Inside a tree: its parent needs it.
                self.refs[i as usize] = 1;
                continue;
            }
            self.refs[i as usize] = consumers + u32::from(output);
            if output {
                self.state[i as usize].set_wanted(true);
                self.wanted += 1;
            }
        }
    }

    /// Connects a new family to its producers: gates, inverse lists, and exact references instead of held
    /// ones.
    fn wire(&mut self, cx: &mut Cx, f: FamilyIx) {
        let total = self.families[f.index()].shape.map_or(0, |s| s.total);
        for e in 0..self.edges.count(f) {
            let edge = self.edges.get(f, e);
            if edge.is_pair() {
                continue;
            }
            let (producer, data) = (edge.producer, edge.data);
            let n = self.exports(producer);
            if *edge.pattern() == Pattern::All {
                let gate = self.new_gate(producer, data, total);
                self.edges.get_mut(f, e).set_gate(gate);
                if data && total == 0 {
                    let unneeded = (0..n).map(|j| self.export(producer, j)).collect();
                    self.drop_refs(cx, unneeded);
                }
                continue;
            }
            self.edges.get_mut(f, e).invert(n);
            if data {
                self.count_exactly(cx, f, e, producer);
            }
        }
    }

    fn new_gate(&self, producer: FamilyIx, data: bool, unfinished: u32) -> Gate {
        let mut gate = Gate { missing: 0, unfinished, failed: None };
        for j in 0..self.exports(producer) {
            let i = self.export(producer, j);
            let packed = self.state[i as usize];
            let there = if data { packed.state() == State::Memory } else { packed.done_once() };
            gate.missing += u32::from(!there);
            if packed.state() == State::Erred {
                gate.failed = Some(i);
            }
        }
        gate
    }

    /// Replaces the one reference held for a family to come by as many as it has dependents.
    fn count_exactly(&mut self, cx: &mut Cx, f: FamilyIx, e: u32, producer: FamilyIx) {
        let pattern = self.edges.get(f, e).pattern();
        if matches!(pattern, Pattern::Each | Pattern::Group { .. } | Pattern::Tree { .. }) {
            return;
        }
        let mut unneeded = Vec::new();
        let mut dependents = Vec::new();
        for j in 0..self.exports(producer) {
            let i = self.export(producer, j);
            let element = self.place_of(i).1;
            dependents.clear();
            self.dependents(producer, element, (f, e), &mut dependents);
            match dependents.len() as u32 {
                0 => unneeded.push(i),
                n => self.refs[i as usize] += n - 1,
            }
        }
        self.drop_refs(cx, unneeded);
    }

    /// A family has all of its elements; those that wait for its size can come into being.
    fn close(&mut self, cx: &mut Cx, f: FamilyIx) {
        self.families[f.index()].closed = true;
        self.unsized_families -= 1;
        cx.ending.insert(self.id);
    }

    /// Begins a family of groups by bytes: no elements yet.
    fn start_growing(&mut self, cx: &mut Cx, f: FamilyIx) {
        self.families[f.index()].shape = Some(Shape::default());
        let Some(e) = self.growing_edge(f) else { return };
        let edge = self.edges.get(f, e);
        let (producer, Pattern::GroupBytes { bytes }) = (edge.producer, edge.pattern()) else { return };
        let n = self.exports(producer);
        let former = Former::new(*bytes, n);
        self.edges.get_mut(f, e).set_former(former);
        self.connect_groups(&mut cx.groups, f);
        self.wire_besides(f, e);
        if n == 0 {
            self.close(cx, f);
        }
        for j in 0..n {
            let i = self.export(producer, j);
            let packed = self.state[i as usize];
            if packed.state() == State::Erred {
                self.feed_former(cx, f, e, j, 1);
            } else if packed.done_once() {
                self.feed_former(cx, f, e, j, self.nbytes[i as usize]);
            }
        }
    }

    /// Gates of the other edges of a growing family; only all-to-all ones make sense there.
    fn wire_besides(&mut self, f: FamilyIx, growing: u32) {
        for e in 0..self.edges.count(f) {
            let edge = self.edges.get(f, e);
            if e != growing {
                // The family as a whole holds it until it is closed: one unit, dropped then.
                let gate = self.new_gate(edge.producer, edge.data, 1);
                self.edges.get_mut(f, e).set_gate(gate);
            }
        }
    }

    fn growing_edge(&self, f: FamilyIx) -> Option<u32> {
        let grows = |p: &Pattern| matches!(p, Pattern::GroupBytes { .. });
        self.edges.of(f).iter().position(|e| grows(e.pattern())).map(|e| e as u32)
    }

    /// Tells the families that group this one's results by bytes that one of them is known.
    pub(super) fn feed_formers(&mut self, cx: &mut Cx, f: FamilyIx, element: u32, bytes: u64) {
        for k in 0..self.edges.behind(f).len() {
            let (c, e) = self.edges.behind(f)[k];
            if self.edges.get(c, e).former().is_some() {
                let first = self.families[f.index()].shape.map_or(0, |s| s.first_export);
                if let Some(j) = element.checked_sub(first) {
                    self.feed_former(cx, c, e, j, bytes);
                }
            }
        }
    }

    fn feed_former(&mut self, cx: &mut Cx, f: FamilyIx, e: u32, j: u32, bytes: u64) {
        let Some(former) = self.edges.get_mut(f, e).former_mut() else { return };
        if former.is_complete() {
            return;
        }
        let before = former.grouped();
        let formed = former.note(j, bytes);
        let (after, complete) = (former.grouped(), former.is_complete());
        let producer = self.edges.get(f, e).producer;
        if after > before {
            let former = self.edges.get(f, e).former();
            let empty = |&j: &u32| former.is_some_and(|former| former.is_empty(j));
            let unneeded = (before..after).filter(empty).map(|j| self.export(producer, j)).collect();
            self.drop_refs(cx, unneeded);
        }
        for _ in 0..formed {
            self.add_group(cx, f);
        }
        if complete {
            self.finish_growing(cx, f, e);
        }
    }

    fn add_group(&mut self, cx: &mut Cx, f: FamilyIx) {
        let element = self.families[f.index()].shape.map_or(0, |s| s.total);
        let i = self.add_tasks(&mut cx.groups, f, 1, State::Waiting, 0);
        self.hold_elements(f, element..element + 1);
        for edge in self.edges.of_mut(f) {
            if let Some(gate) = edge.gate_mut() {
                gate.unfinished += 1;
            }
        }
        self.settle(cx, i);
    }

    fn finish_growing(&mut self, cx: &mut Cx, f: FamilyIx, growing: u32) {
        self.close(cx, f);
        for e in 0..self.edges.count(f) {
            let edge = self.edges.get_mut(f, e);
            let (producer, data) = (edge.producer, edge.data);
            let Some(gate) = edge.gate_mut() else { continue };
            if e == growing {
                continue;
            }
            gate.unfinished -= 1;
            if gate.unfinished == 0 && data {
                let unneeded = (0..self.exports(producer)).map(|j| self.export(producer, j)).collect();
                self.drop_refs(cx, unneeded);
            }
        }
        self.grow(cx);
    }
}

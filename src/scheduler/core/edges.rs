//! The edges between the families of a run, in both directions. Owns what is kept of an edge while the run
//! lasts; walking from element to element is in `run`.
//!
//! All edges lie in one list, by consumer: a graph of individual tasks has several times as many edges as
//! tasks. Most of them join two tasks and need nothing but the producer.

use super::former::Former;
use crate::base::ids::FamilyIx;
use crate::graph::layer::{Csr, Layer, Pattern, Size};

/// A dependency of one family on another.
pub(super) struct Edge {
    /// The family depended on.
    pub(super) producer: FamilyIx,
    /// Whether results travel along it.
    pub(super) data: bool,
    /// Nothing between two tasks.
    wide: Option<Box<Wide>>,
}

/// What is kept about an edge that joins more than two tasks.
struct Wide {
    pattern: Pattern,
    /// `All`: counted once for the whole edge instead of once per pair.
    gate: Option<Gate>,
    /// `Explicit`: dependents by producer element.
    inverse: Csr,
    /// `GroupBytes`: the groups formed so far.
    former: Option<Former>,
}

/// The state of an all-to-all edge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Gate {
    /// Producer elements that are not there.
    pub(super) missing: u32,
    /// Consumer elements that are not finished.
    pub(super) unfinished: u32,
    /// A producer element that failed: then the gate never opens.
    pub(super) failed: Option<u32>,
}

/// The edges of a run.
pub(super) struct Edges {
    /// By consumer.
    all: Vec<Edge>,
    /// Where the edges of each family begin, and the end of the last.
    starts: Vec<u32>,
    /// Consumers and which of their edges, by producer.
    behind: Vec<(FamilyIx, u32)>,
    behind_starts: Vec<u32>,
}

#[cfg(test)]
thread_local! {
    /// Edges that whole families' lists were walked for, so that a test can count the work.
    pub(super) static LOOKED_AT: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Whether a family has one element, whatever its inputs turn out to be.
pub(super) fn is_single(layer: &Layer) -> bool {
    let shaped = |p: &Pattern| matches!(p, Pattern::Tree { .. } | Pattern::GroupBytes { .. });
    layer.size == Size::Fixed(1) && !layer.edges.iter().any(|e| shaped(&e.pattern))
}

impl Edges {
    /// Takes the edges out of layers. `single` says which families have one element.
    pub(super) fn take(layers: &mut [Layer], single: &[bool]) -> Edges {
        let total = layers.iter().map(|l| l.edges.len()).sum();
        let (mut all, mut starts) = (Vec::with_capacity(total), Vec::with_capacity(layers.len() + 1));
        let mut behind_starts = vec![0; layers.len() + 1];
        starts.push(0);
        for (layer, &one) in layers.iter_mut().zip(single) {
            for edge in std::mem::take(&mut layer.edges) {
                let producer = edge.producer.index();
                behind_starts[producer + 1] += 1;
                let pair = one && single[producer] && matches!(edge.pattern, Pattern::All | Pattern::Each);
                let wide =
                    || Wide { pattern: edge.pattern, gate: None, inverse: Csr::default(), former: None };
                let wide = (!pair).then(wide).map(Box::new);
                all.push(Edge { producer: edge.producer, data: edge.data, wide });
            }
            starts.push(all.len() as u32);
        }
        for f in 0..layers.len() {
            behind_starts[f + 1] += behind_starts[f];
        }
        let mut edges = Edges { behind: vec![(FamilyIx(0), 0); total], all, starts, behind_starts };
        edges.list_behind();
        edges
    }

    fn list_behind(&mut self) {
        let mut next = self.behind_starts.clone();
        for f in 0..self.starts.len() as u32 - 1 {
            let range = self.starts[f as usize] as usize..self.starts[f as usize + 1] as usize;
            for (e, edge) in (0..).zip(&self.all[range]) {
                let at = &mut next[edge.producer.index()];
                self.behind[*at as usize] = (FamilyIx(f), e);
                *at += 1;
            }
        }
    }

    /// What a family depends on; the order is that of its inputs.
    pub(super) fn of(&self, f: FamilyIx) -> &[Edge] {
        &self.all[self.range(f)]
    }

    /// What a family depends on, to change what is kept about it.
    pub(super) fn of_mut(&mut self, f: FamilyIx) -> &mut [Edge] {
        let range = self.range(f);
        &mut self.all[range]
    }

    fn range(&self, f: FamilyIx) -> std::ops::Range<usize> {
        let range = self.starts[f.index()] as usize..self.starts[f.index() + 1] as usize;
        #[cfg(test)]
        LOOKED_AT.with(|n| n.set(n.get() + range.len()));
        range
    }

    /// How many edges a family has.
    pub(super) fn count(&self, f: FamilyIx) -> u32 {
        self.starts[f.index() + 1] - self.starts[f.index()]
    }

    /// One of a family's edges.
    pub(super) fn get(&self, f: FamilyIx, e: u32) -> &Edge {
        &self.all[self.starts[f.index()] as usize + e as usize]
    }

    /// One of a family's edges, to change what is kept about it.
    pub(super) fn get_mut(&mut self, f: FamilyIx, e: u32) -> &mut Edge {
        &mut self.all[self.starts[f.index()] as usize + e as usize]
    }

    /// Later families that depend on one, and by which of their edges.
    pub(super) fn behind(&self, f: FamilyIx) -> &[(FamilyIx, u32)] {
        let range = self.behind_starts[f.index()] as usize..self.behind_starts[f.index() + 1] as usize;
        &self.behind[range]
    }
}

impl Edge {
    /// Which elements depend on which.
    pub(super) fn pattern(&self) -> &Pattern {
        self.wide.as_ref().map_or(&Pattern::Each, |w| &w.pattern)
    }

    /// Whether it joins two tasks.
    pub(super) fn is_pair(&self) -> bool {
        self.wide.is_none()
    }

    /// The gate of an edge from all to all.
    pub(super) fn gate(&self) -> Option<Gate> {
        self.wide.as_ref().and_then(|w| w.gate)
    }

    /// The gate, to change it.
    pub(super) fn gate_mut(&mut self) -> Option<&mut Gate> {
        self.wide.as_mut().and_then(|w| w.gate.as_mut())
    }

    /// Gives it a gate.
    pub(super) fn set_gate(&mut self, gate: Gate) {
        if let Some(wide) = &mut self.wide {
            wide.gate = Some(gate);
        }
    }

    /// The groups formed so far.
    pub(super) fn former(&self) -> Option<&Former> {
        self.wide.as_ref().and_then(|w| w.former.as_ref())
    }

    /// The groups formed so far, to form more.
    pub(super) fn former_mut(&mut self) -> Option<&mut Former> {
        self.wide.as_mut().and_then(|w| w.former.as_mut())
    }

    /// Begins to form groups.
    pub(super) fn set_former(&mut self, former: Former) {
        if let Some(wide) = &mut self.wide {
            wide.former = Some(former);
        }
    }

    /// Dependents by producer element, where they are listed.
    pub(super) fn inverse(&self) -> Option<&Csr> {
        self.wide.as_ref().map(|w| &w.inverse)
    }

    /// Prepares walking listed edges backwards, once the producer's size is known.
    pub(super) fn invert(&mut self, producers: u32) {
        if let Some(wide) = &mut self.wide
            && let Pattern::Explicit(csr) = &wide.pattern
        {
            wide.inverse = csr.inverse(producers);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::layer;

    fn layer(size: u32, edges: &[(u32, Pattern)]) -> Layer {
        let edge = |(p, pattern): &(u32, Pattern)| layer::Edge {
            producer: FamilyIx(*p),
            pattern: pattern.clone(),
            data: true,
        };
        Layer { size: Size::Fixed(size), edges: edges.iter().map(edge).collect(), ..Layer::default() }
    }

    #[test]
    fn edges_are_found_from_both_ends() {
        let mut layers = vec![
            layer(1, &[]),
            layer(1, &[(0, Pattern::All)]),
            layer(5, &[(1, Pattern::All), (0, Pattern::All)]),
            layer(1, &[(2, Pattern::All), (0, Pattern::All), (0, Pattern::All)]),
        ];
        let single: Vec<bool> = layers.iter().map(is_single).collect();
        assert_eq!(single, [true, true, false, true]);
        let edges = Edges::take(&mut layers, &single);
        let behind = |f: u32| edges.behind(FamilyIx(f)).iter().map(|(c, e)| (c.0, *e)).collect::<Vec<_>>();
        assert_eq!(behind(0), [(1, 0), (2, 1), (3, 1), (3, 2)]);
        assert_eq!((behind(1), behind(2), behind(3)), (vec![(2, 0)], vec![(3, 0)], vec![]));
        let pairs = |f: u32| edges.of(FamilyIx(f)).iter().map(Edge::is_pair).collect::<Vec<_>>();
        assert_eq!((pairs(1), pairs(2)), (vec![true], vec![false, false]));
        assert_eq!(pairs(3), [false, true, true]);
        assert!(layers.iter().all(|l| l.edges.is_empty()));
        assert_eq!(*edges.get(FamilyIx(3), 0).pattern(), Pattern::All);
        // A million individual tasks have several million of them.
        assert!(size_of::<Edge>() <= 16);
    }

    #[test]
    fn a_tree_over_one_element_is_no_single_task() {
        assert!(!is_single(&layer(1, &[(0, Pattern::Tree { fan_in: 2 })])));
    }
}

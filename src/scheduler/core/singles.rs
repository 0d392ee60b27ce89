//! Where tasks of their own, families of one element, stand in their run. Owns the graph they are ordered in;
//! the order itself is `graph::sequence`, what is done with it in `run`.
//!
//! Families of many elements are walked along their width by a formula. To tasks of their own that gives no
//! order at all, so these have places: the graph of all families is put in an order, each family of many
//! standing for one task, and the order is spread over the same width. So a task behind a family of many
//! comes up when its part of the graph does. One that all elements of such a family wait for is not delayed:
//! it has no place and goes first, as ever.

use super::edges::Edges;
use crate::base::ids::FamilyIx;
use crate::graph::layer::Csr;
use crate::graph::sequence::{Dag, sequence};

/// Runs with fewer tasks of their own are not worth an order.
const FEW: usize = 4;

/// The place of each task of its own; `single` says which families are.
pub(super) fn places(edges: &Edges, single: &[bool]) -> Vec<Option<u32>> {
    let mut places = vec![None; single.len()];
    if single.iter().filter(|&&one| one).count() < FEW {
        return places;
    }
    let order = sequence(&Dag::new(inputs(edges, single.len())));
    for (at, &f) in order.iter().enumerate() {
        let ix = FamilyIx(f);
        let feeds_many = || edges.behind(ix).iter().any(|(c, _)| !single[c.index()]);
        if single[ix.index()] && !(edges.of(ix).is_empty() && feeds_many()) {
            let place = ((at as u64) << 32) / order.len() as u64;
            places[ix.index()] = u32::try_from(place).ok();
        }
    }
    places
}

/// Which tasks of their own that have a place depend on nothing and have results that are joined with
/// others', at once or further on.
pub(super) fn joined(edges: &Edges, places: &[Option<u32>]) -> Vec<bool> {
    let mut meets = vec![false; places.len()];
    let all = (0..places.len() as u32).map(FamilyIx);
    let several: Vec<bool> = all.map(|f| edges.of(f).iter().filter(|e| e.data).nth(1).is_some()).collect();
    // Who depends on something comes after it.
    for f in (0..places.len()).rev() {
        let mut users = edges.behind(FamilyIx(f as u32)).iter().map(|(c, e)| (*c, *e));
        meets[f] = users.any(|(c, e)| edges.get(c, e).data && (several[c.index()] || meets[c.index()]));
    }
    for (f, place) in places.iter().enumerate() {
        meets[f] &= place.is_some() && edges.of(FamilyIx(f as u32)).is_empty();
    }
    meets
}

/// What each family depends on, each once.
fn inputs(edges: &Edges, families: usize) -> Csr {
    let mut inputs = Csr { offsets: Vec::with_capacity(families + 1), targets: Vec::new() };
    inputs.offsets.push(0);
    let mut row: Vec<u32> = Vec::new();
    for f in (0..families as u32).map(FamilyIx) {
        row.clear();
        row.extend(edges.of(f).iter().map(|e| e.producer.0));
        row.sort_unstable();
        row.dedup();
        inputs.targets.extend(&row);
        inputs.offsets.push(inputs.targets.len() as u32);
    }
    inputs
}

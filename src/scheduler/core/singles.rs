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
use rustc_hash::FxHashMap;

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

/// In how few steps results of one set meet, at most.
const STEPS: u32 = 2;
/// Tasks behind one that are looked at; with more, what is behind them is not looked at.
const BEHIND_MAX: usize = 64;

/// Sets of tasks that need nothing: those of one meet in a few steps, and with no others in as many. Returns
/// the set of each, by the first of its tasks. There are four sets at least, or each task is one: work has to
/// be divided.
pub(super) fn sets(edges: &Edges, roots: &[FamilyIx]) -> Vec<u32> {
    let alone: Vec<u32> = (0..roots.len() as u32).collect();
    let mut best = alone.clone();
    let mut set = alone;
    // Who came to a task first.
    let mut met: FxHashMap<FamilyIx, u32> = FxHashMap::default();
    let mut reached: Vec<Vec<FamilyIx>> = roots.iter().map(|f| vec![*f]).collect();
    for _ in 0..STEPS {
        for (root, front) in (0..).zip(&mut reached) {
            let before = std::mem::take(front);
            for f in before.into_iter().filter(|f| edges.behind(*f).len() <= BEHIND_MAX) {
                for &(c, e) in edges.behind(f).iter().filter(|(c, e)| edges.get(*c, *e).data) {
                    if !edges.get(c, e).is_pair() {
                        return best;
                    }
                    let other = *met.entry(c).or_insert(root);
                    join(&mut set, root, other);
                    front.push(c);
                }
            }
            front.sort_unstable();
            front.dedup();
        }
        if reached.iter().map(Vec::len).sum::<usize>() > BEHIND_MAX * roots.len() {
            return best;
        }
        let mut sizes = vec![0usize; roots.len()];
        for root in 0..set.len() as u32 {
            sizes[first_of(&mut set, root) as usize] += 1;
        }
        if sizes.iter().any(|size| *size > roots.len() / 4) {
            return best;
        }
        best = (0..set.len() as u32).map(|root| first_of(&mut set, root)).collect();
    }
    best
}

/// The first task of a set.
fn first_of(set: &mut [u32], mut root: u32) -> u32 {
    while set[root as usize] != root {
        let next = set[set[root as usize] as usize];
        set[root as usize] = next;
        root = next;
    }
    root
}

fn join(set: &mut [u32], a: u32, b: u32) {
    let (a, b) = (first_of(set, a), first_of(set, b));
    let (first, other) = (a.min(b), a.max(b));
    set[other as usize] = first;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::layer::{Edge, Layer, Pattern};

    fn sets_of(roots: u32, others: &[&[u32]]) -> Vec<u32> {
        let edge = |p: &u32| Edge { producer: FamilyIx(*p), pattern: Pattern::All, data: true };
        let of = |from: &[u32]| Layer { edges: from.iter().map(edge).collect(), ..Layer::default() };
        let all = std::iter::repeat_n(&[][..], roots as usize).chain(others.iter().copied());
        let mut layers: Vec<Layer> = all.map(of).collect();
        let single = vec![true; layers.len()];
        let edges = Edges::take(&mut layers, &single);
        sets(&edges, &(0..roots).map(FamilyIx).collect::<Vec<_>>())
    }

    #[test]
    fn roots_that_meet_soon_and_with_no_others_are_a_set() {
        // In two steps, over what is made of each; and what all come to.
        let pairs: &[&[u32]] = &[&[0], &[5], &[8, 9], &[10], &[1, 2], &[3, 4], &[6, 7]];
        assert_eq!(sets_of(8, pairs), [0, 1, 1, 3, 3, 0, 6, 6]);
        let mut with_all = pairs.to_vec();
        with_all.push(&[10, 12, 13, 14]);
        assert_eq!(sets_of(8, &with_all), [0, 1, 1, 3, 3, 5, 6, 6], "in two steps all are one");
    }

    #[test]
    fn what_goes_on_from_one_to_the_next_is_no_set() {
        let chain: Vec<[u32; 2]> = (0..31).map(|i| [i, i + 1]).collect();
        let chain: Vec<&[u32]> = chain.iter().map(|both| &both[..]).collect();
        assert_eq!(sets_of(32, &chain), (0..32).collect::<Vec<_>>());
    }
}

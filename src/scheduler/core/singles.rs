//! Where tasks of their own, families of one element, stand in their run. Owns the graph they are ordered in;
//! the order itself is `graph::sequence`, what is done with it in `run`.
//!
//! Families of many elements are walked along their width by a formula. To tasks of their own that gives no
//! order at all, so these have places: the graph of all families is put in an order, each family of many
//! standing for one task, and the order is spread over the same width. So a task behind a family of many
//! comes up when its part of the graph does. One that all elements of such a family wait for is not delayed:
//! it has no place and goes first, as ever.

use super::run::Family;
use crate::graph::layer::{Csr, Layer, Pattern, Size};
use crate::graph::sequence::{Dag, sequence};

/// Runs with fewer tasks of their own are not worth an order.
const FEW: usize = 4;

/// Gives each task of its own its place.
pub(super) fn give_places(families: &mut [Family]) {
    if families.iter().filter(|f| is_single(&f.layer)).count() < FEW {
        return;
    }
    let mut inputs = Csr { offsets: vec![0], targets: Vec::new() };
    for family in families.iter() {
        let start = inputs.targets.len();
        inputs.targets.extend(family.layer.edges.iter().map(|e| e.producer.0));
        inputs.targets[start..].sort_unstable();
        let mut row = inputs.targets.split_off(start);
        row.dedup();
        inputs.targets.append(&mut row);
        inputs.offsets.push(inputs.targets.len() as u32);
    }
    let order = sequence(&Dag::new(inputs));
    for (at, &f) in order.iter().enumerate() {
        let family = &families[f as usize];
        let feeds_many = || family.consumers.iter().any(|(c, _)| !is_single(&families[c.index()].layer));
        if is_single(&family.layer) && !(family.layer.edges.is_empty() && feeds_many()) {
            let place = ((at as u64) << 32) / order.len() as u64;
            families[f as usize].place = u32::try_from(place).ok();
        }
    }
}

/// Whether a family has one element, whatever its inputs turn out to be.
fn is_single(layer: &Layer) -> bool {
    let shaped = |p: &Pattern| matches!(p, Pattern::Tree { .. } | Pattern::GroupBytes { .. });
    layer.size == Size::Fixed(1) && !layer.edges.iter().any(|e| shaped(&e.pattern))
}

//! What has to run again when some tasks are proved to be done. Owns the rule: a task whose output is
//! proved runs only if a task that runs takes something from it that was not written; one without an output
//! of its own runs if it is an end of the graph or a task that runs depends on it.

use super::fingerprint::inputs;
use crate::graph::Graph;
use crate::graph::layer::Pattern;

/// Elements of a family that do not run, as ranges (first, behind the last).
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Nobody needs their results.
    pub(super) skip: Vec<(u32, u32)>,
    /// Their results are read from the files of their outputs.
    pub(super) load: Vec<(u32, u32)>,
    /// Their results are read from a checkpoint.
    pub(super) stored: Vec<u32>,
}

impl Plan {
    pub(super) fn count(&self) -> u64 {
        let ranges: u64 = self.skip.iter().chain(&self.load).map(|(first, end)| u64::from(end - first)).sum();
        ranges + self.stored.len() as u64
    }

    fn push(ranges: &mut Vec<(u32, u32)>, element: u32) {
        match ranges.last_mut() {
            Some((_, end)) if *end == element => *end += 1,
            _ => ranges.push((element, element + 1)),
        }
    }
}

/// What tasks that run want of an element.
#[derive(Clone, Copy, Default)]
struct Wanted {
    done: bool,
    data: bool,
}

/// What is left to do. `proved` says for each family and element whether its outputs are, `is_stored` whether
/// all of its result is in a checkpoint.
pub(super) fn plan(graph: &Graph, proved: &[Vec<bool>], is_stored: impl Fn(usize, u32) -> bool) -> Vec<Plan> {
    let families = &graph.families;
    let mut wanted: Vec<Vec<Wanted>> =
        families.iter().map(|f| vec![Wanted::default(); f.shape().map_or(0, |s| s.total as usize)]).collect();
    let mut is_end = vec![true; families.len()];
    families.iter().flat_map(|f| &f.layer.edges).for_each(|e| is_end[e.producer.index()] = false);
    let mut plans: Vec<Plan> = families.iter().map(|_| Plan::default()).collect();
    for ix in (0..families.len()).rev() {
        let has_outputs = graph.outputs.iter().any(|o| o.family.index() == ix);
        let is_whole_written = is_written(graph, ix);
        let Some(shape) = families[ix].shape() else {
            // How its elements are cut is found while it runs: all of it does.
            mark(graph, ix, None, &mut wanted, &mut vec![false; families[ix].layer.edges.len()]);
            continue;
        };
        let mut run = Vec::new();
        let mut whole = vec![false; families[ix].layer.edges.len()];
        for element in (0..shape.total).rev() {
            let want = wanted[ix][element as usize];
            let is_proved = proved[ix].get(element as usize).copied().unwrap_or(false);
            let is_visible = element >= shape.first_export;
            let runs = match (is_proved, want.data, want.done) {
                (true, true, _) => !is_whole_written && !is_stored(ix, element),
                (true, false, _) => false,
                // Its outputs are not made from a checkpoint.
                (false, true, _) | (false, _, true) => has_outputs || !is_stored(ix, element),
                (false, false, false) => is_visible && (has_outputs || is_end[ix]),
            };
            if runs {
                run.push(element);
                mark(graph, ix, Some(element), &mut wanted, &mut whole);
            }
        }
        run.reverse();
        let mut run = run.into_iter().peekable();
        for element in 0..shape.total {
            if run.next_if_eq(&element).is_some() {
                continue;
            }
            let plan = &mut plans[ix];
            let is_proved = proved[ix].get(element as usize).copied().unwrap_or(false);
            match wanted[ix][element as usize].data {
                false => Plan::push(&mut plan.skip, element),
                true if is_proved && is_whole_written => Plan::push(&mut plan.load, element),
                true => plan.stored.push(element),
            }
        }
    }
    plans
}

/// Whether `[output]` has all that a task of the family makes.
pub(super) fn is_written(graph: &Graph, ix: usize) -> bool {
    let parts: Vec<&str> = graph
        .outputs
        .iter()
        .filter(|o| o.family.index() == ix)
        .map(|o| o.part.as_deref().unwrap_or(""))
        .collect();
    let spec = &graph.families[ix].spec;
    parts.contains(&"") && spec.outputs.iter().all(|o| !o.in_place && parts.contains(&o.name.as_str()))
}

/// Takes note of what a task that runs, or all of its family, depends on. `whole` says of each edge whether
/// all of its producer is marked.
fn mark(graph: &Graph, ix: usize, element: Option<u32>, wanted: &mut [Vec<Wanted>], whole: &mut [bool]) {
    for (edge, whole) in graph.families[ix].layer.edges.iter().zip(whole) {
        let producer = edge.producer.index();
        let want = |w: &mut Wanted| {
            w.done = true;
            w.data |= edge.data;
        };
        match element {
            Some(element) if !matches!(edge.pattern, Pattern::All | Pattern::GroupBytes { .. }) => {
                inputs(graph, &edge.pattern, edge.producer, element, |is_own, at| {
                    let of = if is_own { ix } else { producer };
                    wanted[of].get_mut(at as usize).into_iter().for_each(want);
                });
            }
            _ if !*whole => {
                *whole = true;
                let first = graph.families[producer].shape().map_or(0, |s| s.first_export as usize);
                wanted[producer].iter_mut().skip(first).for_each(want);
            }
            _ => {}
        }
    }
}

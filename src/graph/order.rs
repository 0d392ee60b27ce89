//! Names and order of the tasks of a file: who depends on whom, what the targets need, cycles. Owns no sizes.

use super::diagnostic::Diagnostic;
use super::raw::{At, List, RawGraph, RawTask};
use super::template::RESERVED;
use rustc_hash::FxHashMap;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The tasks by name.
pub type ByName<'r> = FxHashMap<&'r str, usize>;

/// Looks up every name that a task uses for another and every name that a task has.
pub fn check_names<'r>(raw: &'r RawGraph, faults: &mut Vec<Diagnostic>) -> ByName<'r> {
    let mut by_name = ByName::with_capacity_and_hasher(raw.tasks.len(), Default::default());
    for (at, task) in raw.tasks.iter().enumerate() {
        by_name.insert(task.name.it.as_str(), at);
        check_name(&task.name, "a task", faults);
    }
    for (name, _) in &raw.params {
        check_name(name, "a parameter", faults);
        if RESERVED.contains(&name.it.as_str()) {
            let message =
                format!("a parameter cannot be called `{0}`: `{{{0}}}` means something else", name.it);
            faults.push(Diagnostic::new(&name.span, message, "expected another name"));
        }
        if let Some(&task) = by_name.get(name.it.as_str()) {
            let message = format!("`{}` is both a task and a parameter", name.it);
            let fault = Diagnostic::new(&raw.tasks[task].name.span, message, "expected another name");
            faults.push(fault.other(&name.span, "the parameter"));
        }
    }
    for task in &raw.tasks {
        for name in references(task) {
            if !by_name.contains_key(name.it.as_str()) {
                faults.push(unknown(name, "task", by_name.keys().copied()));
            }
        }
        if let Some(setup) = &task.setup
            && !raw.envs.iter().any(|e| e.name.it == setup.it)
        {
            faults.push(unknown(setup, "environment", raw.envs.iter().map(|e| e.name.it.as_str())));
        }
    }
    by_name
}

/// The tasks that a task names.
fn references(task: &RawTask) -> impl Iterator<Item = &At<String>> {
    let same = match task.for_each.as_ref().map(|e| &e.it.list) {
        Some(List::SameAs(name)) => Some(name),
        _ => None,
    };
    task.from.iter().chain(&task.after).map(|e| &e.producer).chain(same)
}

/// A name that nothing has.
pub fn unknown<'a>(name: &At<String>, what: &str, known: impl Iterator<Item = &'a str>) -> Diagnostic {
    let label = match super::nearest(&name.it, known) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("no {what} has this name"),
    };
    Diagnostic::new(&name.span, format!("unknown {what} `{}`", name.it), label)
}

fn check_name(name: &At<String>, what: &str, faults: &mut Vec<Diagnostic>) {
    if !super::is_name(&name.it) {
        let message = format!("`{}` cannot be the name of {what}", name.it);
        faults.push(Diagnostic::new(&name.span, message, "expected letters, digits, `_` and `-`"));
    }
}

/// The tasks in an order in which everything comes after what it depends on, and otherwise as in the file;
/// with targets only what they need. All names are known.
pub fn order(
    raw: &RawGraph,
    by_name: &ByName<'_>,
    targets: Option<Vec<usize>>,
) -> Result<Vec<usize>, Diagnostic> {
    let needs = |t: usize| references(&raw.tasks[t]).filter_map(|n| by_name.get(n.it.as_str()).copied());
    let n = raw.tasks.len();
    let (mut waiting, mut dependents) = (vec![0u32; n], vec![Vec::new(); n]);
    for (t, waits) in waiting.iter_mut().enumerate() {
        for d in needs(t) {
            *waits += 1;
            dependents[d].push(t);
        }
    }
    let mut ready: BinaryHeap<Reverse<usize>> = (0..n).filter(|t| waiting[*t] == 0).map(Reverse).collect();
    let mut order = Vec::with_capacity(n);
    while let Some(Reverse(t)) = ready.pop() {
        order.push(t);
        for &d in &dependents[t] {
            waiting[d] -= 1;
            if waiting[d] == 0 {
                ready.push(Reverse(d));
            }
        }
    }
    if order.len() < n {
        return Err(cycle(raw, by_name, &waiting));
    }
    if let Some(targets) = targets {
        let mut needed = vec![false; n];
        let mut open = targets;
        while let Some(t) = open.pop() {
            if !std::mem::replace(&mut needed[t], true) {
                open.extend(needs(t));
            }
        }
        order.retain(|t| needed[*t]);
    }
    Ok(order)
}

/// Shows one cycle: from any task that never became ready, following dependencies that did not either, until
/// one comes again.
fn cycle(raw: &RawGraph, by_name: &ByName<'_>, waiting: &[u32]) -> Diagnostic {
    let stuck = |t: &usize| waiting[*t] > 0;
    let next = |t: usize| {
        references(&raw.tasks[t])
            .find_map(|n| by_name.get(n.it.as_str()).copied().filter(stuck).map(|d| (n, d)))
    };
    let (mut path, mut place) = (Vec::new(), 0..0);
    let mut at = (0..raw.tasks.len()).find(stuck).unwrap_or(0);
    while !path.contains(&at) {
        path.push(at);
        let Some((name, producer)) = next(at) else { break };
        place = name.span.clone();
        at = producer;
    }
    let start = path.iter().position(|t| *t == at).unwrap_or(0);
    // Followed from consumer to producer; people read it in the direction of the data.
    let mut names: Vec<&str> = path[start..].iter().rev().map(|t| raw.tasks[*t].name.it.as_str()).collect();
    names.insert(0, raw.tasks[at].name.it.as_str());
    let arrows = names.join(" -> ");
    Diagnostic::new(&place, format!("the tasks depend on each other in a circle: {arrows}"), "this closes it")
}

//! From a submitted graph to what the driver and the core take: the last checks, and what is refused
//! because it cannot run yet. Owns these limits; the graph's own rules are `graph`'s.

use crate::base::ids::FamilyIx;
use crate::graph::layer::{Pattern, Shape};
use crate::graph::{By, Family, Look, Packed};
use crate::protocol::messages::client::Submit;
use crate::scheduler::core::event::RunSpec;
use crate::scheduler::input::{Submission, Writes};
use std::collections::BTreeSet;

/// The most tasks of one graph: their columns take some 50 bytes each.
const TASKS_MAX: u64 = 1 << 26;

/// The most inputs of one task: what tells a worker about them has to fit into one frame.
const INPUTS_MAX: u32 = 1_500_000;

/// The largest amount of threads or of a resource that a task may ask for, 1/10,000.
const AMOUNT_MAX: u64 = 1 << 40;

/// Checks a graph and makes it ready, or says why it cannot run.
pub fn prepare(submit: Submit) -> Result<Submission, String> {
    let graph = submit.graph;
    let mut layers = Vec::with_capacity(graph.count());
    let mut tasks = 0u64;
    let each = |family: Family, shapes: &[Option<Shape>]| {
        possible(&family, shapes)?;
        tasks += family.shape().map_or(0, |s| u64::from(s.total));
        layers.push(family.layer);
        Ok(())
    };
    graph.validate(each).map_err(|e| e.to_string())?;
    if tasks > TASKS_MAX {
        return Err(format!("the graph has {tasks} tasks; one graph can have {TASKS_MAX} at most"));
    }
    let (outputs, writes) = outputs(&graph, submit.detached);
    let spec = RunSpec {
        uuid: submit.run,
        name: graph.name.clone(),
        layers,
        names: graph.names().clone(),
        outputs,
        detached: submit.detached,
        max_fails: submit.max_fails,
        max_processing: submit.max_processing,
        calls: None,
    };
    Ok(Submission { graph, spec, writes, wait_workers: submit.wait_workers, tasks })
}

/// What is valid and cannot run yet, or nowhere.
fn possible(family: &Family, shapes: &[Option<Shape>]) -> Result<(), String> {
    if u64::from(family.layer.slots) > AMOUNT_MAX
        || family.layer.resources.values().any(|amount| *amount > AMOUNT_MAX)
    {
        return Err("it asks for more of a resource than any worker can have".into());
    }
    for edge in family.layer.edges.iter().filter(|e| e.data) {
        let n = shapes[edge.producer.index()].map_or(0, |s| s.exports());
        let most = match &edge.pattern {
            Pattern::All => n,
            Pattern::Group { size } => n.min(*size),
            Pattern::Tree { fan_in } => n.min(*fan_in),
            Pattern::Window { low, high, .. } => n.min(high.abs_diff(*low)),
            Pattern::Each | Pattern::GroupBytes { .. } | Pattern::Explicit(_) => 0,
        };
        if most > INPUTS_MAX {
            return Err(format!(
                "one task would have {most} inputs, {INPUTS_MAX} is the most; put a tree between"
            ));
        }
    }
    Ok(())
}

/// The families whose results the client takes, and what workers write.
fn outputs(graph: &Packed, detached: bool) -> (Vec<FamilyIx>, Writes) {
    let (mut taken, mut writes) = (BTreeSet::new(), Writes::new());
    let default = if detached { By::Worker } else { By::Client };
    for output in &graph.outputs {
        match output.by.unwrap_or(default) {
            By::Client => drop(taken.insert(output.family)),
            By::Worker => writes.entry(output.family).or_default().push((
                output.part.clone(),
                output.path.clone(),
                output.skip_empty,
            )),
        }
    }
    (taken.into_iter().collect(), writes)
}

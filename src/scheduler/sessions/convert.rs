//! Between wire messages and what the core knows: tasks out, reports in. Owns no state.

use crate::base::ids::FamilyIx;
use crate::graph::Look;
use crate::graph::items::{Item, Items};
use crate::graph::layer::Shape;
use crate::protocol::messages::client::OutputAt;
use crate::protocol::messages::compute;
use crate::protocol::messages::report::News;
use crate::protocol::messages::worker::{Families, FamilyInfo};
use crate::scheduler::core::action::{Batch, Output};
use crate::scheduler::core::event::{Finished, Missing, Report};
use crate::scheduler::input::RunInfo;
use std::sync::Arc;
use std::time::Duration;

/// A batch as it travels, with the values of elements whose families list them.
pub fn tasks(batch: &Batch, runs: &[Arc<RunInfo>]) -> compute::Tasks {
    let mut items = Vec::new();
    for (at, task) in (0u32..).zip(&batch.tasks) {
        let Some(run) = runs.iter().find(|r| r.run == task.task.run) else { continue };
        if lists(run.graph.items_of(task.family)) {
            items.push((at, run.graph.item_of(task.family, task.element)));
        }
    }
    items.retain(|(_, item)| *item != Item::None);
    let task = |t: &crate::scheduler::core::action::Assigned| compute::Task {
        task: t.task,
        attempt: t.attempt,
        tries: t.tries,
        family: t.family,
        element: t.element,
        priority: t.priority,
        slots: t.slots,
        keep: t.keep,
        inputs_end: t.inputs_end,
    };
    let input = |i: &crate::scheduler::core::action::Input| compute::Input {
        task: i.task,
        nbytes: i.nbytes,
        edge: i.edge,
        holders_end: i.holders_end,
    };
    let member =
        |m: &crate::scheduler::core::action::Member| compute::Member { host: m.host.clone(), slots: m.slots };
    let gangs = batch.gangs.iter().map(|(at, members)| (*at, members.iter().map(member).collect()));
    compute::Tasks {
        tasks: batch.tasks.iter().map(task).collect(),
        inputs: batch.inputs.iter().map(input).collect(),
        holders: batch.holders.clone(),
        items,
        gangs: gangs.collect(),
    }
}

/// Whether the elements' values are a list, which does not travel as a whole to every worker.
fn lists(items: &Items) -> bool {
    matches!(items, Items::Values(_) | Items::Blocks(_))
}

/// What a worker needs to know of families.
pub fn families(run: &RunInfo, families: &[(FamilyIx, Option<Shape>)]) -> Families {
    let info = |&(ix, shape): &(FamilyIx, Option<Shape>)| {
        let family = run.graph.family(ix)?.into_owned();
        let items = run.graph.items_of(ix);
        Some(FamilyInfo {
            family: ix,
            fan_in: family.fan_in(),
            spec: family.spec,
            items: if lists(items) { Items::Index } else { items.clone() },
            shape,
            writes: run.writes.get(&ix).cloned().unwrap_or_default(),
        })
    };
    Families { run: run.run, uuid: run.uuid, families: families.iter().filter_map(info).collect() }
}

/// A worker's report as the core takes it.
pub fn report(news: News) -> Report {
    let rare = news.rare;
    let finished =
        |(task, attempt, nbytes, ns)| Finished { task, attempt, nbytes, duration: Duration::from_nanos(ns) };
    Report {
        started: news.started,
        finished: news.finished.into_iter().map(finished).collect(),
        failed: rare.failed.into_iter().map(|(task, attempt, f)| (task, attempt, Arc::new(f))).collect(),
        missing: rare
            .missing
            .into_iter()
            .map(|(task, attempt, inputs)| Missing { task, attempt, inputs })
            .collect(),
        returned: rare.returned,
        kept: rare.kept,
        replicas: news.replicas,
        uncopied: rare.uncopied,
        stored: rare.stored,
        pinned: rare.pinned,
        away: rare.away,
        paused: rare.paused,
    }
}

/// An output as clients see it.
pub fn output(run: &RunInfo, output: Output, shape: Shape) -> OutputAt {
    OutputAt {
        task: output.task,
        key: run.graph.key(output.family, output.element, shape),
        family: output.family,
        element: output.element,
        index: output.element.saturating_sub(shape.first_export),
        nbytes: output.nbytes,
        holders: output.holders,
    }
}

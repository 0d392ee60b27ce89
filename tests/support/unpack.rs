//! What the scheduler's core hands out, as a worker's core takes it: in a real cluster the wire does that.

use hpcdag::scheduler::core as sched;
use hpcdag::worker::core as work;

/// The tasks of a batch, each with its inputs.
pub fn unpack(batch: &sched::action::Batch) -> Vec<work::event::Assigned> {
    let (mut input, mut holder) = (0, 0);
    let mut tasks = Vec::new();
    for t in &batch.tasks {
        let mut inputs = Vec::new();
        for i in &batch.inputs[input..t.inputs_end as usize] {
            let holders = batch.holders[holder..i.holders_end as usize].to_vec();
            holder = i.holders_end as usize;
            inputs.push(work::event::Input { task: i.task, nbytes: i.nbytes, edge: i.edge, holders });
        }
        input = t.inputs_end as usize;
        tasks.push(work::event::Assigned {
            task: t.task,
            attempt: t.attempt,
            tries: t.tries,
            family: t.family,
            element: t.element,
            kin: work::event::Kin::Family(t.task.run, t.family),
            priority: t.priority,
            slots: t.slots,
            keep: t.keep,
            inputs,
        });
    }
    tasks
}

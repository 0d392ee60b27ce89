//! The answer about a run's shape: sizes and durations of its families, without any name. Owns how much one
//! answer holds.

use super::answers::not_found;
use super::driver::Driver;
use super::waits::Reply;
use crate::base::ids::{FamilyIx, RunUuid};
use serde_json::{Value, json};

/// Families with more elements than this are described by quantiles.
const EACH_MAX: u32 = 10_000;

/// Families and sizes in one answer, about: what it takes to gather them keeps others waiting.
const ANSWER_MAX: usize = 50_000;

impl Driver {
    /// Families from one on; `next` is the first that the answer does not have.
    pub(super) fn shape_of(&self, uuid: RunUuid, from: u32) -> Reply {
        let run = self.runs.find(uuid);
        let known = run.and_then(|run| Some((run, self.core.family_count(run)?)));
        let Some((run, count)) = known else {
            return Err(not_found(format!("the scheduler does not know run {uuid} (any more)")));
        };
        let (mut families, mut next, mut size) = (Vec::new(), from, 0);
        while (next as usize) < count && size < ANSWER_MAX {
            let Some(sizes) = self.core.sizes(run, FamilyIx(next), EACH_MAX) else { break };
            size += 1 + sizes.bytes.len();
            families.push(json!({
                "elements": sizes.elements,
                "done": sizes.done,
                "duration-us": sizes.duration_ns.map(|ns| ns as f64 / 1e3),
                "bytes": alike(sizes.bytes),
                "quantiles": sizes.quantiles,
            }));
            next += 1;
        }
        let next = ((next as usize) < count).then_some(next);
        Ok(json!({ "families": families, "next": next }))
    }
}

/// One value for all, if they are the same.
fn alike(bytes: Vec<u64>) -> Value {
    match bytes.first() {
        Some(first) if bytes.iter().all(|b| b == first) => json!([first]),
        _ => json!(bytes),
    }
}

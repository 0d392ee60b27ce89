//! Groups of tasks and how they depend on each other. Owns the names in these answers; the counting is the
//! core's.

use super::overview::by_state;
use crate::base::ids::{RunId, RunUuid};
use crate::scheduler::answers::not_found;
use crate::scheduler::core::groups::TaskGroup;
use crate::scheduler::driver::Driver;
use crate::scheduler::waits::Reply;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Groups in one answer.
const GROUPS_MAX: usize = 1000;

impl Driver {
    /// The number of a run that somebody asks about.
    pub(super) fn run_asked(&self, run: Option<RunUuid>) -> Result<Option<RunId>, (String, String)> {
        let find = |uuid| {
            let unknown = || not_found(format!("the scheduler does not know run {uuid} (any more)"));
            self.runs.find(uuid).ok_or_else(unknown)
        };
        run.map(find).transpose()
    }

    /// Groups of a run or of all, and their edges if these are asked for.
    pub(super) fn view_groups(&self, run: Option<RunUuid>, edges: bool) -> Reply {
        let (groups, more) = self.core.groups(self.run_asked(run)?, GROUPS_MAX);
        let rows: Vec<Value> = groups.iter().map(|g| row(g, self.views.stream.peak(g.id))).collect();
        let mut answer = json!({ "groups": rows, "more": more });
        if edges {
            let shown: BTreeSet<u32> = groups.iter().map(|g| g.id).collect();
            let edges = groups.iter().flat_map(|g| g.inputs.iter().map(|(from, n)| (*from, g.id, *n)));
            let mean = |id: u32| {
                let from = groups[groups.binary_search_by_key(&id, |g| g.id).ok()?];
                (from.done > 0).then(|| from.bytes as f64 / from.done as f64)
            };
            let edge = |(from, to, n): (u32, u32, u32)| {
                let n = (n > 0).then_some(n);
                let bytes = n.zip(mean(from)).map(|(n, mean)| (f64::from(n) * mean).round());
                json!({ "from": from, "to": to, "tasks": n, "bytes": bytes })
            };
            let edges = edges.filter(|(from, ..)| shown.contains(from)).map(edge);
            answer["edges"] = Value::Array(edges.collect());
        }
        Ok(answer)
    }
}

fn row(g: &TaskGroup, peak: Option<u64>) -> Value {
    json!({
        "name": g.name,
        "id": g.id,
        "run": g.run,
        "counts": by_state(&g.counts.map(u64::from)),
        "total": g.total,
        "done": g.done,
        "failed-attempts": g.failed_attempts,
        "seconds": g.ns as f64 / 1e9,
        "longest": g.longest_ns as f64 / 1e9,
        "bytes": g.bytes,
        "bytes-max": g.bytes_max,
        "moved": g.moved,
        "memory-peak-max": peak,
    })
}

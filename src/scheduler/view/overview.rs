//! The cluster in figures, a bar for each worker. Owns the names in that answer; what holds the work back is
//! found in `hold`.

use super::events::{is_idle, seconds};
use crate::base::ids::RunId;
use crate::base::units::ByteSize;
use crate::graph::layer::SLOT;
use crate::protocol::messages::worker::Heartbeat;
use crate::scheduler::core::state::State;
use crate::scheduler::core::{Status, WorkerView};
use crate::scheduler::driver::Driver;
use crate::scheduler::peers::WorkerPeer;
use crate::scheduler::runs::RunEntry;
use serde_json::{Value, json};
use std::time::SystemTime;

/// Runs in the answer, the newest.
const RUNS_MAX: usize = 100;

/// Tasks a second from which on the time that is left follows from that.
const STEADY_RATE: f64 = 2.0;

/// Sums over workers.
#[derive(Default)]
struct Sums {
    managed: u64,
    unmanaged: u64,
    spilled: u64,
    limit: Option<u64>,
    executing: u64,
    /// 1/10,000.
    slots: u64,
    busy: u64,
    cpu: f64,
    bytes_in: f64,
}

pub(super) fn threads(slots: u64) -> f64 {
    slots as f64 / f64::from(SLOT)
}

impl Driver {
    pub(super) fn overview(&self) -> Value {
        let workers = self.core.workers();
        let mut sums = Sums { limit: Some(0), ..Sums::default() };
        let rows: Vec<Value> = workers.iter().map(|w| self.worker_bar(w, &mut sums)).collect();
        let totals = self.core.totals();
        let [done, failed] = self.views.meter.rates();
        let (state, hold) = self.hold(&workers);
        json!({
            "time": seconds(SystemTime::now()),
            "cluster": &*self.shared.cluster,
            "version": env!("CARGO_PKG_VERSION"),
            "uptime": self.now().seconds(),
            "state": state,
            "tasks": by_state(&totals.counts),
            "rates": { "tasks": done, "bytes-in": sums.bytes_in, "cpu": sums.cpu, "failed": failed },
            "threads": threads(sums.slots),
            "busy": threads(sums.busy),
            "executing": sums.executing,
            "memory": {
                "managed": sums.managed, "unmanaged": sums.unmanaged, "spilled": sums.spilled,
                "limit": sums.limit,
            },
            "hold": hold,
            "failed": totals.counts[State::Erred as usize],
            "workers": rows,
            "runs": self.run_lines(),
        })
    }

    fn worker_bar(&self, w: &WorkerView, sums: &mut Sums) -> Value {
        let peer = self.workers.get(&w.worker);
        let none = Heartbeat::default();
        let f = peer.map_or(&none, |p| &p.figures);
        let [cpu, bytes_in, bytes_out, written, read, tasks] =
            peer.map(|p| p.meter.rates()).unwrap_or_default();
        let managed = w.nbytes.saturating_sub(f.spilled);
        sums.managed = sums.managed.saturating_add(managed);
        sums.unmanaged = sums.unmanaged.saturating_add(f.unmanaged);
        sums.spilled = sums.spilled.saturating_add(f.spilled);
        sums.limit = sums.limit.zip(w.spec.memory_limit).map(|(a, b)| a.saturating_add(b));
        sums.executing += u64::from(w.executing);
        sums.slots += u64::from(w.spec.slots);
        sums.busy += w.slots_in_hand;
        sums.cpu += cpu;
        sums.bytes_in += bytes_in;
        let [target, spill, pause, terminate] = peer.map(|p| p.thresholds).unwrap_or_default();
        let wide = threads(w.spec.slots.into());
        let spilling = f.spill_write_seconds + f.spill_read_seconds;
        let lived = peer.and_then(|p| p.joined.elapsed().ok()).map_or(0.0, |d| d.as_secs_f64());
        let idle = (lived * wide - f.compute_seconds - f.wait_seconds).max(0.0);
        json!({
            "name": w.spec.name,
            "host": w.spec.host,
            "state": w.status.name(),
            "why": why(w, peer),
            "job-id": peer.and_then(|p| p.job_id.as_deref()),
            "pool": peer.and_then(|p| p.pool.as_deref()),
            "ends-in": w.spec.leaves.map(|at| at.since(self.now()).as_secs_f64()),
            "threads": wide,
            "executing": w.executing,
            "queued": w.queued,
            "results": w.results,
            "cpu": cpu,
            "memory": {
                "managed": managed, "unmanaged": f.unmanaged, "spilled": f.spilled,
                "limit": w.spec.memory_limit,
                "target": target, "spill": spill, "pause": pause, "terminate": terminate,
            },
            "rates": {
                "bytes-in": bytes_in, "bytes-out": bytes_out, "disk-write": written, "disk-read": read,
                "tasks": tasks,
            },
            "seconds": {
                "compute": f.compute_seconds, "fetch": f.fetch_seconds, "spill": spilling,
                "wait": f.wait_seconds, "paused": f.paused_seconds, "idle": idle,
            },
            "last-seen": self.now().since(w.last_seen).as_secs_f64(),
        })
    }

    /// The newest runs, and a line for the calls of each client.
    fn run_lines(&self) -> Vec<Value> {
        let line = |(run, entry)| self.run_line(run, entry);
        let mut lines: Vec<Value> = self.runs.graphs().rev().take(RUNS_MAX).map(line).collect();
        lines.reverse();
        lines.extend(self.core.call_totals().map(|(client, totals)| {
            let n = |s: State| totals.counts[s as usize];
            let open = n(State::Waiting) + n(State::Queued) + n(State::Delayed) + n(State::Processing);
            let place = self.clients.get(&client).map(|c| c.place.as_str());
            json!({
                "id": format!("client-{client}"),
                "name": place.map_or("calls".into(), |place| format!("calls from {place}")),
                "state": if open > 0 { "running" } else { "done" },
                "submitted": null, "tasks": totals.total, "done": totals.done, "failed": totals.failed,
                "eta": null, "calls": true,
            })
        }));
        lines
    }

    fn run_line(&self, run: RunId, entry: &RunEntry) -> Value {
        let progress = self.core.run_progress(run);
        let summary = entry.summary.as_ref();
        let total = progress.map_or(entry.tasks, |p| p.counts.iter().sum());
        let failed = progress.map_or(0, |p| p.counts[State::Erred as usize]);
        let [rate] = entry.meter.rates();
        let left = progress.filter(|p| !p.growing && !is_idle(Some(*p))).map(|p| p.unfinished as f64);
        // By how fast it goes, if enough ends for that to be steady; else by how long tasks have taken.
        let slow = || {
            let (_, slots) = self.core.capacity();
            self.core.work_left(run).filter(|_| slots > 0).map(|work| work / threads(slots))
        };
        let steady = |left| if rate >= STEADY_RATE { Some(left / rate) } else { slow() };
        let eta = left.filter(|_| summary.is_none()).and_then(steady);
        json!({
            "id": entry.info.uuid,
            "name": entry.name,
            "state": self.run_state(run, entry),
            "submitted": seconds(entry.submitted),
            "tasks": total,
            "done": progress.map_or(0, |p| p.done),
            "failed": failed,
            "eta": eta,
            "calls": false,
        })
    }
}

/// Tasks by state, by its name.
pub(super) fn by_state(counts: &[u64; State::ALL.len()]) -> Value {
    State::ALL.iter().zip(counts).map(|(s, n)| (s.name().to_string(), json!(n))).collect()
}

/// Why a worker gets no work.
fn why(w: &WorkerView, peer: Option<&WorkerPeer>) -> Option<String> {
    match w.status {
        Status::Running => None,
        Status::Retiring => w.retiring.clone(),
        Status::Paused => {
            let used = peer.map_or(0, |p| p.figures.unmanaged)
                + w.nbytes.saturating_sub(peer.map_or(0, |p| p.figures.spilled));
            let pause = peer.and_then(|p| p.thresholds[2]);
            let of = pause.map(|at| format!(", it pauses at {}", ByteSize(at))).unwrap_or_default();
            Some(format!("its memory is short: {} in use{of}", ByteSize(used)))
        }
    }
}

//! What was measured over time: figures of the whole cluster each second while work is going on, and what
//! each worker has sent. Owns what is kept of it and how it is thinned.

use crate::base::ids::WorkerId;
use crate::base::time::Time;
use crate::graph::layer::SLOT;
use crate::protocol::messages::worker::Heartbeat;
use crate::scheduler::core::WorkerView;
use crate::scheduler::core::state::State;
use crate::scheduler::driver::Driver;
use crate::scheduler::peers::WorkerPeer;
use crate::scheduler::waits::Reply;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Between two points.
const INTERVAL: Duration = Duration::from_secs(1);

/// Points that are kept: an hour of them.
const POINTS_MAX: usize = 3600;

/// So many workers have as many points each; with more there are fewer for each.
const WORKERS_FULL: usize = 100;

/// Points of workers in one answer, of all together. With more, some are left out everywhere.
const ANSWERED_MAX: usize = 30_000;

/// Gone workers whose points are kept.
const GONE_MAX: usize = 100;

/// A heartbeat that is older says nothing about what is being done, seconds.
const FRESH_SECONDS: f64 = 12.0;

/// The columns of the whole cluster's points.
const TOTAL: [&str; 15] = [
    "managed",
    "unmanaged",
    "spilled",
    "limit",
    "cpu",
    "threads",
    "executing",
    "queued",
    "done",
    "failed",
    "bytes-in",
    "bytes-out",
    "disk-write",
    "disk-read",
    "workers",
];

/// The columns of a worker's points.
const WORKER: [&str; 7] = ["managed", "unmanaged", "spilled", "cpu", "executing", "bytes-in", "bytes-out"];

/// When, in seconds since 1970, and the figures. What is not known is infinite.
type Point<const N: usize> = (f64, [f64; N]);

/// Points, oldest first.
#[derive(Debug)]
struct Points<const N: usize>(VecDeque<Point<N>>);

impl<const N: usize> Default for Points<N> {
    fn default() -> Self {
        Points(VecDeque::new())
    }
}

impl<const N: usize> Points<N> {
    /// Adds a point; a further equal one moves the last one on instead, so that a line between them is right.
    fn push(&mut self, point: Point<N>, most: usize) {
        // The host's clock may have been set back.
        while self.0.back().is_some_and(|last| last.0 >= point.0) {
            self.0.pop_back();
        }
        let same = |at: usize| at.checked_sub(1).and_then(|k| self.0.get(k)).is_some_and(|p| p.1 == point.1);
        let n = self.0.len();
        if same(n) && n > 1 && same(n - 1) {
            self.0.pop_back();
        }
        while self.0.len() >= most.max(1) {
            self.0.pop_front();
        }
        self.0.push_back(point);
    }

    /// The columns from a time on, `most` points at most, the last one among them.
    fn columns(&self, names: [&str; N], after: f64, most: usize) -> (Value, Map<String, Value>) {
        let from = self.0.partition_point(|p| p.0 <= after);
        let n = self.0.len() - from;
        let step = n.div_ceil(most.max(1)).max(1);
        let first = from + n.saturating_sub(1) % step;
        let new = || self.0.range(first.min(self.0.len())..).step_by(step);
        let column = |k: usize| new().map(|p| number(p.1[k])).collect::<Value>();
        let columns = names.iter().enumerate().map(|(k, name)| ((*name).to_owned(), column(k))).collect();
        (new().map(|p| json!(p.0)).collect(), columns)
    }
}

/// A whole number as such, and `null` for none.
fn number(x: f64) -> Value {
    if x.fract() == 0.0 && x.abs() < 9e15 { json!(x as i64) } else { json!(x) }
}

/// What is known of a worker over time.
#[derive(Debug, Default)]
struct Worker {
    name: String,
    points: Points<{ WORKER.len() }>,
    /// When the last heartbeat came, and how much CPU time was used lately, in threads.
    heard: Option<f64>,
    cpu: f64,
}

/// Everything that was measured.
#[derive(Debug, Default)]
pub(in crate::scheduler) struct Series {
    total: Points<{ TOTAL.len() }>,
    workers: BTreeMap<WorkerId, Worker>,
    gone: VecDeque<Worker>,
    /// What workers that are gone had moved: in, out, to disk, from disk.
    moved: [u64; 4],
    next: Time,
    /// Something was going on at the last point.
    is_lively: bool,
}

fn epoch_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// A sum that peers have a part in.
fn sum(figures: impl Iterator<Item = u64>) -> f64 {
    figures.fold(0, u64::saturating_add) as f64
}

impl Series {
    /// When the next point is due, if it is worth waking up for.
    pub(in crate::scheduler) fn next_deadline(&self) -> Option<Time> {
        self.is_lively.then_some(self.next)
    }

    /// What a worker has sent, and how much CPU time it uses, in threads.
    pub(in crate::scheduler) fn heard(&mut self, id: WorkerId, name: &str, figures: &Heartbeat, cpu: f64) {
        self.heard_at(id, name, figures, cpu, epoch_seconds());
    }

    fn heard_at(&mut self, id: WorkerId, name: &str, figures: &Heartbeat, cpu: f64, now: f64) {
        let crowd = (self.workers.len() + self.gone.len()).max(WORKERS_FULL);
        let (most, gap) = (POINTS_MAX * WORKERS_FULL / crowd, crowd as f64 / WORKERS_FULL as f64);
        let worker = self.workers.entry(id).or_default();
        if worker.name.is_empty() {
            name.clone_into(&mut worker.name);
        }
        worker.cpu = if cpu.is_finite() { cpu.clamp(0.0, 1e6) } else { 0.0 };
        worker.heard = Some(now);
        // Thinned: with many workers not every heartbeat is a point.
        if worker.points.0.back().is_some_and(|last| now > last.0 && now - last.0 < gap * 0.8) {
            return;
        }
        let point = [
            figures.managed as f64,
            figures.unmanaged as f64,
            figures.spilled as f64,
            worker.cpu,
            f64::from(figures.executing),
            figures.bytes_in as f64,
            figures.bytes_out as f64,
        ];
        worker.points.push((now, point), most);
    }

    /// A worker is gone. What it has moved still counts.
    pub(in crate::scheduler) fn worker_gone(&mut self, id: WorkerId, figures: &Heartbeat) {
        for (sum, n) in self.moved.iter_mut().zip(moved(figures)) {
            *sum = sum.saturating_add(n);
        }
        let Some(worker) = self.workers.remove(&id) else { return };
        if self.gone.len() == GONE_MAX {
            self.gone.pop_front();
        }
        self.gone.push_back(worker);
    }

    /// CPU time that a worker used lately, in threads.
    fn cpu(&self, id: WorkerId, now: f64) -> f64 {
        let fresh = |w: &&Worker| w.heard.is_some_and(|at| now - at < FRESH_SECONDS);
        self.workers.get(&id).filter(fresh).map_or(0.0, |w| w.cpu)
    }
}

/// Bytes from and to other workers, to and from disk.
fn moved(figures: &Heartbeat) -> [u64; 4] {
    [figures.bytes_in, figures.bytes_out, figures.spill_written, figures.spill_read]
}

impl Driver {
    /// Adds a point if one is due.
    pub(in crate::scheduler) fn measure(&mut self, now: Time) {
        if now < self.views.series.next {
            return;
        }
        let (time, workers, totals) = (epoch_seconds(), self.core.workers(), self.core.totals());
        let series = &self.views.series;
        let figures = |w: WorkerId| self.workers.get(&w).map(|peer: &WorkerPeer| &peer.figures);
        let all = |of: fn(&Heartbeat) -> u64| sum(workers.iter().filter_map(|w| figures(w.worker)).map(of));
        let threads = |w: &WorkerView| f64::from(w.spec.slots) / f64::from(SLOT);
        // Short tasks are over when the scheduler hears of them: then the heartbeat knows better.
        let executing = |w: &WorkerView| {
            let told = figures(w.worker).map_or(0.0, |f| f64::from(f.executing));
            f64::from(w.executing).max(told.min(threads(w)))
        };
        let limits: Option<Vec<u64>> = workers.iter().map(|w| w.spec.memory_limit).collect();
        let queued = totals.counts[State::Queued as usize];
        let mut moves = series.moved;
        for figures in workers.iter().filter_map(|w| figures(w.worker)) {
            moves.iter_mut().zip(moved(figures)).for_each(|(sum, n)| *sum = sum.saturating_add(n));
        }
        let point: [f64; TOTAL.len()] = [
            sum(workers.iter().map(|w| w.nbytes.saturating_sub(figures(w.worker).map_or(0, |f| f.spilled)))),
            all(|f| f.unmanaged),
            all(|f| f.spilled),
            limits.map_or(f64::INFINITY, |limits| sum(limits.into_iter())),
            workers.iter().map(|w| series.cpu(w.worker, time)).sum(),
            workers.iter().map(threads).sum(),
            workers.iter().map(executing).sum(),
            queued as f64,
            totals.done as f64,
            totals.failed as f64,
            moves[0] as f64,
            moves[1] as f64,
            moves[2] as f64,
            moves[3] as f64,
            workers.len() as f64,
        ];
        let series = &mut self.views.series;
        series.next = now.after(INTERVAL);
        series.is_lively = point[6] > 0.0 || queued > 0;
        series.total.push((time, point), POINTS_MAX);
    }

    /// What was measured over time.
    pub(super) fn series_view(&self, after: f64, workers: bool) -> Reply {
        let series = &self.views.series;
        let (time, total) = series.total.columns(TOTAL, after, POINTS_MAX);
        let mut answer = json!({ "time": time, "total": total });
        if workers {
            let mut by_name = Map::new();
            let most = ANSWERED_MAX / (series.gone.len() + series.workers.len()).max(1);
            for worker in series.gone.iter().chain(series.workers.values()) {
                let (time, mut columns) = worker.points.columns(WORKER, after, most.max(2));
                if time.as_array().is_some_and(|t| !t.is_empty()) {
                    columns.insert("time".into(), time);
                    by_name.insert(worker.name.clone(), Value::Object(columns));
                }
            }
            answer["workers"] = Value::Object(by_name);
        }
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_change_is_two_points() {
        let mut points = Points::<1>::default();
        for (at, x) in [(1.0, 5.0), (2.0, 5.0), (3.0, 5.0), (4.0, 6.0), (5.0, f64::INFINITY), (6.0, 7.5)] {
            points.push((at, [x]), 10);
        }
        let (time, columns) = points.columns(["x"], 0.5, 99);
        assert_eq!(time, json!([1.0, 3.0, 4.0, 5.0, 6.0]));
        assert_eq!(columns["x"], json!([5, 5, 6, null, 7.5]));
        assert_eq!(points.columns(["x"], 4.0, 99).0, json!([5.0, 6.0]));
        assert_eq!(points.columns(["x"], 0.5, 2).0, json!([3.0, 6.0]));
        assert_eq!(points.columns(["x"], 0.5, 4).0, json!([1.0, 4.0, 6.0]));
        assert_eq!(points.columns(["x"], 9.0, 4).0, json!([]));
        // The clock was set back.
        points.push((3.5, [1.0]), 10);
        assert_eq!(points.columns(["x"], 0.0, 99).0, json!([1.0, 3.0, 3.5]));
        (0..9).for_each(|n| points.push((10.0 + f64::from(n), [f64::from(n)]), 4));
        assert_eq!(points.0.len(), 4);
    }

    #[test]
    fn many_workers_have_fewer_points_each() {
        let mut series = Series::default();
        for second in 0..4000 {
            let figures = Heartbeat { managed: second, ..Heartbeat::default() };
            series.heard_at(WorkerId(0), "w0", &figures, 3.0, second as f64);
        }
        let points = |s: &Series, w: u32| s.workers[&WorkerId(w)].points.0.len();
        assert_eq!((points(&series, 0), series.cpu(WorkerId(0), 4000.0)), (POINTS_MAX, 3.0));
        assert_eq!(series.cpu(WorkerId(0), 5000.0), 0.0);
        for second in 4000..4400 {
            for w in 0..400 {
                let figures = Heartbeat { managed: second, ..Heartbeat::default() };
                series.heard_at(WorkerId(w), &format!("w{w}"), &figures, 1.0, second as f64);
            }
        }
        let all: usize = (0..400).map(|w| points(&series, w)).sum();
        assert!(points(&series, 7) <= 101 && points(&series, 0) <= POINTS_MAX / 4, "{}", points(&series, 7));
        assert!(all <= POINTS_MAX * WORKERS_FULL);
        let hostile = Heartbeat { managed: u64::MAX, ..Heartbeat::default() };
        series.heard_at(WorkerId(0), "w0", &hostile, f64::NAN, 4500.0);
        assert_eq!(series.cpu(WorkerId(0), 4500.0), 0.0);
        series.heard_at(WorkerId(0), "w0", &hostile, 1e300, 4501.0);
        assert!(series.cpu(WorkerId(0), 4501.0) <= 1e6);
        (0..400).for_each(|w| {
            series.worker_gone(WorkerId(w), &Heartbeat { bytes_in: u64::MAX / 2, ..Heartbeat::default() })
        });
        assert_eq!((series.workers.len(), series.gone.len(), series.moved[0]), (0, GONE_MAX, u64::MAX));
    }
}

//! The task stream: what workers' slots, transfers and disks did, as rectangles. Owns the ring of the latest
//! ones and the names that they have, which outlive runs and workers.

use super::shown::Shown;
use crate::base::ids::{RunId, RunUuid, TaskRef, WorkerId};
use crate::protocol::messages::look::{Span, SpanKind};
use crate::scheduler::answers::not_found;
use crate::scheduler::driver::Driver;
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Rectangles that are kept: 48 MiB of them, and as much again for a moment while room is made.
const KEPT_MAX: usize = 1 << 20;

/// Rectangles among which a task's is looked for.
const LOOKED_AT: usize = 100_000;

/// Tasks of a worker that have not ended, at most.
const OPEN_MAX: usize = 256;

/// Such tasks in one answer at most.
const OPEN_ANSWERED_MAX: usize = 20_000;

/// Rectangles in one answer at most.
const ANSWERED_MAX: usize = 100_000;

/// Names that are kept. What has a further one has none.
const NAMES_MAX: usize = 10_000;

/// The longest name that is kept, bytes.
const NAME_BYTES_MAX: usize = 200;

/// No lane has a higher number; those who say so are put there.
pub(super) const LANE_MAX: u32 = (1 << 24) - 1;

/// Nothing takes longer, and nothing is older, nanoseconds.
const AGE_NS_MAX: u64 = 365 * 24 * 3600 * 1_000_000_000;

/// The number of what has no name.
pub(super) const NONE: u32 = u32::MAX;

/// The task of what has none.
const NO_TASK: TaskRef = TaskRef { run: RunId(u32::MAX), index: u32::MAX };

/// A rectangle as it is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) start_ns: u64,
    pub(super) ns: u64,
    pub(super) bytes: u64,
    pub(super) task: TaskRef,
    pub(super) count: u32,
    pub(super) worker: u32,
    pub(super) group: u32,
    /// And the kind, in the highest bits.
    pub(super) lane: u32,
}

/// Names by number, each once.
#[derive(Debug, Default)]
struct Names {
    list: Vec<Arc<str>>,
    numbers: FxHashMap<Arc<str>, u32>,
}

impl Names {
    /// The number of a name.
    fn number(&mut self, name: &str) -> u32 {
        let mut end = name.len().min(NAME_BYTES_MAX);
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        let name = &name[..end];
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        if self.list.len() >= NAMES_MAX {
            return NONE;
        }
        let (number, name) = (self.list.len() as u32, Arc::<str>::from(name));
        self.list.push(name.clone());
        self.numbers.insert(name, number);
        number
    }
}

/// The latest rectangles.
#[derive(Debug, Default)]
pub(in crate::scheduler) struct Stream {
    rows: VecDeque<Row>,
    /// How many have come in all; the number of the last one.
    last: u64,
    left_out: u64,
    groups: Names,
    workers: Names,
    /// How far the clocks of workers are behind, nanoseconds, with the shortest way of a message.
    clocks: FxHashMap<WorkerId, i64>,
    /// The most memory that a task of a group was seen to occupy.
    peaks: BTreeMap<u32, u64>,
    /// What had begun and not ended when a worker last told: the worker's number here, and which.
    open: FxHashMap<WorkerId, (u32, Vec<Open>)>,
}

/// A task that has begun.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Open {
    task: TaskRef,
    lane: u32,
    start_ns: u64,
}

fn epoch_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// A worker's time as ours, as far as it can be.
fn within(its_ns: u64, behind: i64, now: u64) -> u64 {
    its_ns.saturating_add_signed(behind).clamp(now - AGE_NS_MAX.min(now), now)
}

impl Stream {
    /// What has to be added to the times of a worker that says it is `its` now. A message that took longer
    /// than others tells less.
    fn clock(&mut self, worker: WorkerId, its: u64, now: u64) -> i64 {
        let behind = i64::try_from(i128::from(now) - i128::from(its)).unwrap_or(0);
        let known = self.clocks.entry(worker).or_insert(behind);
        *known = if behind < *known { behind } else { *known + (behind - *known) / 64 };
        *known
    }

    /// Takes a rectangle in, as far as it can be believed.
    fn push(&mut self, span: &Span, behind: i64, now: u64, worker: u32, group: u32) {
        let start = within(span.start_ns, behind, now);
        let row = Row {
            start_ns: start,
            ns: span.ns.min(now - start),
            bytes: span.bytes,
            task: span.task.unwrap_or(NO_TASK),
            count: span.count.max(1),
            worker,
            group,
            lane: span.lane.min(LANE_MAX) | (span.kind as u32) << 24,
        };
        if self.rows.len() == KEPT_MAX {
            self.rows.pop_front();
        }
        self.rows.push_back(row);
        self.last += 1;
    }

    /// A worker is gone; its rectangles stay.
    pub(in crate::scheduler) fn worker_gone(&mut self, worker: WorkerId) {
        self.clocks.remove(&worker);
        self.open.remove(&worker);
    }

    /// What a worker says has begun and not ended; what it said before is over.
    fn set_open(&mut self, id: WorkerId, open: Vec<Open>, worker: u32) {
        match open.is_empty() {
            true => drop(self.open.remove(&id)),
            false => drop(self.open.insert(id, (worker, open))),
        }
    }

    /// What has begun and not ended, by worker and lane.
    fn open(&self, run: Option<RunId>, now: u64) -> Vec<Row> {
        let mut workers: Vec<_> = self.open.values().collect();
        workers.sort_unstable_by_key(|(worker, _)| *worker);
        let all = workers.iter().flat_map(|(worker, open)| open.iter().map(|open| (*worker, open)));
        let row = |(worker, open): (u32, &Open)| Row {
            start_ns: open.start_ns.min(now),
            ns: now.saturating_sub(open.start_ns),
            bytes: 0,
            task: open.task,
            count: 1,
            worker,
            group: NONE,
            lane: open.lane | (SpanKind::Running as u32) << 24,
        };
        let of_run = all.filter(|(_, open)| run.is_none_or(|run| open.task.run == run));
        of_run.take(OPEN_ANSWERED_MAX).map(row).collect()
    }

    /// A task of a group was seen to occupy so much.
    fn note_peak(&mut self, group: u32, bytes: u64) {
        let known = self.peaks.entry(group).or_default();
        *known = bytes.max(*known);
        if self.peaks.len() > NAMES_MAX {
            // Of the oldest group.
            self.peaks.pop_first();
        }
    }

    /// The most memory that a task of a group was seen to occupy.
    pub(super) fn peak(&self, group: u32) -> Option<u64> {
        self.peaks.get(&group).copied()
    }

    /// How long tasks executed, as far as the latest rectangles tell: those that have one of their own, and
    /// those that run.
    pub(super) fn seconds_of(&self, tasks: &[TaskRef]) -> FxHashMap<TaskRef, f64> {
        let mut found: FxHashMap<TaskRef, f64> = FxHashMap::default();
        let mut missing: FxHashSet<TaskRef> = tasks.iter().copied().collect();
        for row in self.open(None, epoch_ns()).iter().chain(self.rows.iter().rev().take(LOOKED_AT)) {
            if missing.is_empty() {
                break;
            }
            let kind = SpanKind::ALL.get((row.lane >> 24) as usize);
            let tells = matches!(kind, Some(SpanKind::Compute | SpanKind::Failed | SpanKind::Running));
            if tells && missing.remove(&row.task) && row.count == 1 {
                found.insert(row.task, Duration::from_nanos(row.ns).as_secs_f64());
            }
        }
        found
    }

    /// Names of workers and of groups.
    pub(super) fn names(&self) -> (Vec<Arc<str>>, Vec<Arc<str>>) {
        (self.workers.list.clone(), self.groups.list.clone())
    }

    /// The number that is asked for next, and how many rectangles were left out.
    pub(super) fn numbers(&self) -> (u64, u64) {
        (self.last, self.left_out)
    }

    /// Those after a number that are wanted, the newest, oldest first.
    fn after(&self, after: u64, limit: usize, run: Option<RunId>) -> Vec<&Row> {
        let new = usize::try_from(self.last.saturating_sub(after)).unwrap_or(usize::MAX);
        let new = self.rows.range(self.rows.len().saturating_sub(new)..).rev();
        let is_wanted = |row: &&Row| run.is_none_or(|run| row.task.run == run);
        let mut rows: Vec<&Row> = new.filter(is_wanted).take(limit.min(ANSWERED_MAX)).collect();
        rows.reverse();
        rows
    }
}

impl Driver {
    /// Rectangles from a worker, whose clock shows this.
    pub(super) fn take_spans(&mut self, worker: WorkerId, spans: &[Span], its_ns: u64, left_out: u64) {
        let Some(peer) = self.workers.get(&worker) else { return };
        let stream = &mut self.views.stream;
        let (name, now) = (stream.workers.number(&peer.name), epoch_ns());
        let behind = stream.clock(worker, its_ns, now);
        stream.left_out = stream.left_out.saturating_add(left_out);
        let mut known: FxHashMap<TaskRef, (u32, u32)> = FxHashMap::default();
        let start = |span: &Span| within(span.start_ns, behind, now);
        let is_open = |span: &&Span| span.kind == SpanKind::Running;
        let begun = |span: &Span| {
            let lane = span.lane.min(LANE_MAX);
            Some(Open { task: span.task?, lane, start_ns: start(span) })
        };
        let open = spans.iter().filter(is_open).filter_map(begun).take(OPEN_MAX).collect();
        stream.set_open(worker, open, name);
        for span in spans.iter().filter(|span| !is_open(span)) {
            let group = match span.task {
                None => NONE,
                Some(task) => {
                    let (id, group) = *known.entry(task).or_insert_with(|| {
                        let id = self.core.group_of(task);
                        let name = id.and_then(|id| self.core.group_name(id));
                        (id.unwrap_or(NONE), name.map_or(NONE, |name| stream.groups.number(name)))
                    });
                    if span.peak > 0 && id != NONE {
                        stream.note_peak(id, span.peak);
                    }
                    group
                }
            };
            stream.push(span, behind, now, name, group);
        }
    }

    /// Rectangles of the task stream, as they are told; and those of tasks that have not ended.
    pub(super) fn shown(
        &mut self,
        after: u64,
        limit: u32,
        run: Option<RunUuid>,
    ) -> Result<Shown, (String, String)> {
        let unknown = |uuid| not_found(format!("run {uuid} is not known"));
        let run = run.map(|uuid| self.runs.find(uuid).ok_or_else(|| unknown(uuid))).transpose()?;
        let now = epoch_ns();
        let open = self.views.stream.open(run, now);
        let open: Vec<Row> = open.into_iter().map(|row| self.with_group(row)).collect();
        let stream = &self.views.stream;
        let rows = stream.after(after, limit as usize, run);
        Ok(Shown::of(self, stream, rows, open, now))
    }

    /// Names the group of a task.
    fn with_group(&mut self, mut row: Row) -> Row {
        let name = self.core.group_of(row.task).and_then(|id| self.core.group_name(id));
        row.group = name.map_or(NONE, |name| self.views.stream.groups.number(name));
        row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_790_000_000_000_000_000;

    #[test]
    fn what_cannot_be_is_brought_within_bounds() {
        let mut stream = Stream::default();
        let mut push = |span: Span| {
            stream.push(&span, 0, NOW, 0, NONE);
            *stream.rows.back().unwrap()
        };
        let row =
            push(Span { kind: SpanKind::Wait, lane: u32::MAX, start_ns: u64::MAX, ns: 5, ..Span::default() });
        assert_eq!((row.lane, row.start_ns, row.ns, row.count), (LANE_MAX | 5 << 24, NOW, 0, 1));
        let row = push(Span { start_ns: 0, ns: u64::MAX, count: 7, ..Span::default() });
        assert_eq!((row.start_ns, row.ns, row.count), (NOW - AGE_NS_MAX, AGE_NS_MAX, 7));
        let row = push(Span { start_ns: NOW - 10, ns: 4, lane: 3, ..Span::default() });
        assert_eq!((row.start_ns, row.ns, row.lane), (NOW - 10, 4, 3));
        stream.push(&Span::default(), i64::MAX, 5, 0, NONE);
        stream.push(&Span::default(), i64::MIN, 5, 0, NONE);
        assert_eq!(stream.rows.back().map(|r| (r.start_ns, r.ns)), Some((0, 0)));
    }

    #[test]
    fn the_ring_is_bounded_and_numbers_go_on() {
        assert!(size_of::<Row>() * KEPT_MAX <= 64 << 20);
        let mut stream = Stream::default();
        for n in 0..KEPT_MAX as u64 + 10 {
            let task = Some(TaskRef { run: RunId((n % 2) as u32), index: 0 });
            stream.push(&Span { start_ns: n, task, ..Span::default() }, 0, NOW, 0, NONE);
        }
        assert_eq!((stream.rows.len(), stream.last), (KEPT_MAX, KEPT_MAX as u64 + 10));
        let starts = |after, limit, run| -> Vec<u64> {
            stream.after(after, limit, run).iter().map(|r| r.bytes).collect()
        };
        assert_eq!(starts(stream.last - 3, 100, None).len(), 3);
        assert_eq!(starts(stream.last - 30, 7, None).len(), 7);
        assert_eq!(starts(stream.last - 30, 100, Some(RunId(1))).len(), 15);
        assert_eq!(starts(stream.last + 5, 100, None).len(), 0);
        assert_eq!(starts(0, usize::MAX, None).len(), ANSWERED_MAX);
        let newest = stream.after(0, 2, None);
        assert!(newest[0].start_ns <= newest[1].start_ns);
    }

    #[test]
    fn how_long_a_task_took_is_found_if_it_is_told() {
        let mut stream = Stream::default();
        let task = |index| TaskRef { run: RunId(1), index };
        let mut push = |index, kind, ns, count| {
            let span =
                Span { kind, task: Some(task(index)), start_ns: NOW - ns, ns, count, ..Span::default() };
            stream.push(&span, 0, NOW, 0, NONE);
        };
        push(1, SpanKind::Failed, 7_000_000_000, 1);
        push(1, SpanKind::Compute, 2_000_000_000, 1);
        push(1, SpanKind::Wait, 9_000_000_000, 1);
        push(2, SpanKind::Compute, 1_000_000_000, 5);
        push(3, SpanKind::Failed, 4_000_000_000, 1);
        stream.set_open(WorkerId(1), vec![Open { task: task(4), lane: 0, start_ns: 0 }], 0);
        let found = stream.seconds_of(&[task(1), task(2), task(3), task(4), task(5)]);
        assert_eq!((found.get(&task(1)), found.get(&task(3))), (Some(&2.0), Some(&4.0)));
        assert!(found.len() == 3 && found[&task(4)] > 1e9, "{found:?}");
    }

    #[test]
    fn peaks_are_bounded() {
        let mut stream = Stream::default();
        (0..NAMES_MAX as u32 + 5).for_each(|group| stream.note_peak(group, 9));
        stream.note_peak(7, 3);
        assert_eq!((stream.peaks.len(), stream.peak(7), stream.peak(4)), (NAMES_MAX, Some(9), None));
    }

    #[test]
    fn names_are_bounded() {
        let mut names = Names::default();
        assert_eq!([names.number("a"), names.number("b"), names.number("a")], [0, 1, 0]);
        (0..NAMES_MAX).for_each(|n| assert!(names.number(&format!("n{n}")) >= 2));
        assert_eq!((names.list.len(), names.number("new"), names.number("b")), (NAMES_MAX, NONE, 1));
        let long = Names::default().number(&"é".repeat(1000));
        assert_eq!(long, 0);
    }

    #[test]
    fn a_clock_is_known_by_the_fastest_message() {
        let mut stream = Stream::default();
        let (w, behind) = (WorkerId(1), 5_000_000_000);
        let mut hear = |late: u64| stream.clock(w, NOW - behind, NOW + late);
        assert_eq!(hear(900_000), 5_000_900_000);
        assert_eq!(hear(100_000), 5_000_100_000);
        assert!(hear(6_500_000) < 5_000_300_000);
        assert_eq!(stream.clock(WorkerId(2), u64::MAX, 0), 0);
        stream.worker_gone(w);
        assert!(!stream.clocks.contains_key(&w));
    }
}

//! Rectangles of the task stream, gathered until they are sent: what each slot did, fetches, the disk, and
//! slots that waited. Owns their number: short ones in a row become one, and of too many the longest are
//! kept. Everything here is done by the worker's loop; slot threads only say which of them they are.

use super::store::busy::Period;
use crate::base::ids::{Attempt, TaskRef};
use crate::protocol::messages::look::{Span, SpanKind, Spans};
use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Rectangles that are sent in a second at most.
const SENT_MAX: usize = 200;

/// Rectangles that gather before those are chosen that stay.
const GATHERED_MAX: usize = 1024;

/// The lane of the first fetch.
const FETCH_LANE: u32 = 100_000;

/// The lane of what is written to disk; what is read from there has the next one.
const DISK_LANE: u32 = 200_000;

/// A rectangle of joined tasks becomes no longer than this for each slot, nanoseconds: then all slots
/// together make some hundred of them a second.
const JOINED_NS: u64 = 10_000_000;

/// The least such length: what is shorter cannot be seen.
const JOINED_NS_MIN: u64 = 20_000_000;

/// A slot that does nothing for less than this is not said to wait, nanoseconds.
const WAIT_NS_MIN: u64 = 5_000_000;

/// By so much at most is a rectangle moved behind the one before, nanoseconds.
const SHIFT_NS_MAX: u64 = 60_000_000_000;

/// Times of waiting that are kept for slots that have not begun again.
const WAITS_MAX: usize = 64;

/// A task is said to be running once it has done so for this long: what is shorter is told when it ends.
const RUNNING_MIN: Duration = Duration::from_millis(100);

/// Running tasks that are told at most.
const RUNNING_MAX: usize = 256;

/// What belongs together in a lane: no task joins what another family has left.
type Kin = u64;

/// A slot.
#[derive(Default)]
struct Lane {
    /// What the next one may join.
    open: Option<(Kin, Span)>,
    /// When the last one ended.
    until: u64,
}

/// A fetch under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fetching {
    lane: u32,
    since: Instant,
}

/// Gathers rectangles, and the seconds that heartbeats tell.
pub(super) struct Collector {
    /// A point in time by both clocks.
    origin: (Instant, u64),
    /// How long a rectangle of joined tasks becomes.
    joined_ns: u64,
    lanes: Vec<Lane>,
    disk: [Lane; 2],
    done: Vec<Span>,
    left_out: u64,
    /// How many may be sent, as of then.
    allowance: (f64, Instant),
    /// Which lanes of fetches are taken, and since when.
    fetches: Vec<Option<Instant>>,
    /// When slots waited, the last times.
    waits: VecDeque<(u64, u64)>,
    /// Since when slots wait, and the last look at how many there are.
    waiting_since: Option<u64>,
    waiting: (f64, Instant),
    compute: Duration,
    fetch: Duration,
    wait: f64,
    /// The last message spoke of tasks that were running.
    told_running: bool,
    /// Attempts that were executing at the last look, and since when they have been seen.
    executing: FxHashMap<(TaskRef, Attempt), Instant>,
}

/// Nanoseconds since 1970.
fn epoch_ns(time: SystemTime) -> u64 {
    ns(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Collector {
    /// For a worker with so many slots, 1/10,000.
    pub(super) fn new(slots: u32) -> Collector {
        let now = Instant::now();
        let slots = u64::from(slots / crate::graph::layer::SLOT).max(1);
        Collector {
            origin: (now, epoch_ns(SystemTime::now())),
            joined_ns: (JOINED_NS * slots).max(JOINED_NS_MIN),
            lanes: Vec::new(),
            disk: Default::default(),
            done: Vec::new(),
            left_out: 0,
            allowance: (SENT_MAX as f64, now),
            fetches: Vec::new(),
            waits: VecDeque::new(),
            waiting_since: None,
            waiting: (0.0, now),
            compute: Duration::ZERO,
            fetch: Duration::ZERO,
            wait: 0.0,
            told_running: false,
            executing: FxHashMap::default(),
        }
    }

    fn at(&self, time: Instant) -> u64 {
        let (origin, at) = self.origin;
        at + ns(time.saturating_duration_since(origin))
    }

    /// An attempt has ended: in which slot if it had begun, when it had, and how long it took.
    pub(super) fn task(&mut self, slot: Option<u32>, kin: Kin, started: SystemTime, mut span: Span) {
        self.compute += Duration::from_nanos(span.ns);
        let Some(slot) = slot else { return };
        (span.lane, span.start_ns, span.count) = (slot, epoch_ns(started), 1);
        if self.lanes.len() <= slot as usize {
            self.lanes.resize_with(slot as usize + 1, Lane::default);
        }
        let until = self.lanes[slot as usize].until;
        if until > 0 && span.start_ns.saturating_sub(until) >= WAIT_NS_MIN {
            self.note_waits(until, &span);
        }
        let lane = &mut self.lanes[slot as usize];
        if let Some(closed) = lane.push(kin, span, self.joined_ns) {
            self.push(closed);
        }
    }

    /// The slot of a task has done nothing since `until`: perhaps it waited, for what this task needed too.
    fn note_waits(&mut self, until: u64, next: &Span) {
        let open = self.waiting_since.map(|since| (since, next.start_ns));
        let overlap = |(from, to): (u64, u64)| (from.max(until), to.min(next.start_ns));
        let waits: Vec<(u64, u64)> = self.waits.iter().copied().chain(open).map(overlap).collect();
        for (from, to) in waits.into_iter().filter(|(from, to)| to.saturating_sub(*from) >= WAIT_NS_MIN) {
            let (kind, ns) = (SpanKind::Wait, to - from);
            self.push(Span { kind, start_ns: from, ns, bytes: 0, peak: 0, ..*next });
        }
    }

    fn push(&mut self, span: Span) {
        self.done.push(span);
        if self.done.len() >= GATHERED_MAX {
            self.keep_longest(SENT_MAX);
        }
    }

    /// Keeps so many: failures and the longest ones.
    fn keep_longest(&mut self, most: usize) {
        if self.done.len() <= most {
            return;
        }
        let most = most.max(1);
        self.done
            .select_nth_unstable_by_key(most - 1, |s| std::cmp::Reverse((s.kind == SpanKind::Failed, s.ns)));
        let rest = self.done.drain(most..);
        self.left_out += rest.map(|s| u64::from(s.count)).sum::<u64>();
    }

    /// A fetch begins.
    pub(super) fn fetch_begins(&mut self) -> Fetching {
        let since = Instant::now();
        let free = self.fetches.iter().position(Option::is_none);
        let lane = free.unwrap_or_else(|| {
            self.fetches.push(None);
            self.fetches.len() - 1
        });
        self.fetches[lane] = Some(since);
        Fetching { lane: lane as u32, since }
    }

    /// A fetch has ended: the first result that came, how many, and their bytes.
    pub(super) fn fetch_ended(&mut self, fetching: Fetching, first: Option<TaskRef>, count: u32, bytes: u64) {
        let Fetching { lane, since } = fetching;
        if let Some(taken) = self.fetches.get_mut(lane as usize) {
            *taken = None;
        }
        let took = since.elapsed();
        self.fetch += took;
        let (kind, lane, start_ns) = (SpanKind::Fetch, FETCH_LANE + lane, self.at(since));
        self.push(Span {
            kind,
            lane,
            task: first,
            count: count.max(1),
            start_ns,
            ns: ns(took),
            bytes,
            peak: 0,
        });
    }

    /// The disk was written to, or read, in these times.
    pub(super) fn disk(&mut self, kind: SpanKind, periods: Vec<Period>) {
        let n = usize::from(kind == SpanKind::SpillRead);
        for Period { since, time, bytes } in periods {
            let (lane, start_ns) = (DISK_LANE + n as u32, self.at(since));
            let span = Span { kind, lane, task: None, count: 1, start_ns, ns: ns(time), bytes, peak: 0 };
            if let Some(closed) = self.disk[n].push(0, span, JOINED_NS_MIN) {
                self.push(closed);
            }
        }
    }

    /// So many slots have nothing to do although tasks are there that could use them: those wait.
    pub(super) fn note_waiting(&mut self, slots: f64, now: Instant) {
        let (before, since) = std::mem::replace(&mut self.waiting, (slots, now));
        self.wait += before * now.saturating_duration_since(since).as_secs_f64();
        match (slots > 0.0, self.waiting_since) {
            (true, None) => self.waiting_since = Some(self.at(now)),
            (false, Some(from)) => {
                self.waiting_since = None;
                let to = self.at(now);
                if to - from >= WAIT_NS_MIN {
                    if self.waits.len() == WAITS_MAX {
                        self.waits.pop_front();
                    }
                    self.waits.push_back((from, to));
                }
            }
            _ => {}
        }
    }

    /// These attempts are executing.
    pub(super) fn note_executing(
        &mut self,
        attempts: impl Iterator<Item = (TaskRef, Attempt)>,
        now: Instant,
    ) {
        let before = std::mem::take(&mut self.executing);
        let since = |id| (id, before.get(&id).copied().unwrap_or(now));
        self.executing = attempts.map(since).collect();
    }

    /// Seconds so far in which tasks executed, in which inputs were fetched, and of slots that waited.
    pub(super) fn seconds(&self, now: Instant) -> (f64, f64, f64) {
        let live = |since: &Instant| now.saturating_duration_since(*since);
        let compute = self.compute + self.executing.values().map(live).sum::<Duration>();
        let fetch = self.fetch + self.fetches.iter().flatten().map(live).sum::<Duration>();
        let (waiting, since) = &self.waiting;
        (compute.as_secs_f64(), fetch.as_secs_f64(), self.wait + waiting * live(since).as_secs_f64())
    }

    /// Whether there is nothing to send, now or later.
    pub(super) fn is_empty(&self) -> bool {
        let is_closed = |lane: &Lane| lane.open.is_none();
        let nothing = self.done.is_empty() && self.left_out == 0 && !self.told_running;
        nothing && self.lanes.iter().chain(&self.disk).all(is_closed)
    }

    /// What has begun in each slot and goes on: the attempts, their slots, and since when those have them.
    fn running(&self, begun: impl Iterator<Item = (TaskRef, (u32, Instant))>, now: Instant) -> Vec<Span> {
        let mut running: Vec<Span> = begun
            .filter(|(_, (_, since))| now.saturating_duration_since(*since) >= RUNNING_MIN)
            .map(|(task, (lane, since))| {
                // One of several that the slot took together begins when the one before has ended.
                let until = self.lanes.get(lane as usize).map_or(0, |l| l.until);
                let (task, start_ns) = (Some(task), self.at(since).max(until));
                Span { kind: SpanKind::Running, lane, task, count: 1, start_ns, ..Span::default() }
            })
            .collect();
        running.sort_unstable_by_key(|s| (s.lane, s.task.map(|t| t.index)));
        running.dedup_by_key(|s| s.lane);
        running.truncate(RUNNING_MAX);
        running
    }

    /// What is to be sent, with what has `begun` and not ended. What others may still join stays, unless this
    /// is the `last` for a while.
    pub(super) fn take(
        &mut self,
        last: bool,
        begun: impl Iterator<Item = (TaskRef, (u32, Instant))>,
    ) -> Option<Spans> {
        let (time, (left, since)) = (Instant::now(), self.allowance);
        let gained = time.saturating_duration_since(since).as_secs_f64() * SENT_MAX as f64;
        let allowed = (left + gained).min(SENT_MAX as f64);
        let now = self.at(time);
        let is_due = |s: &Span| last || now.saturating_sub(s.start_ns) >= self.joined_ns;
        let lanes = self.lanes.iter_mut().chain(&mut self.disk);
        let closed = lanes.filter_map(|lane| Some(lane.open.take_if(|(_, s)| is_due(s))?.1));
        self.done.extend(closed);
        self.keep_longest(allowed as usize);
        self.allowance = (allowed - self.done.len() as f64, time);
        let running = self.running(begun, time);
        let told = std::mem::replace(&mut self.told_running, !running.is_empty());
        if self.done.is_empty() && self.left_out == 0 && running.is_empty() && !told {
            return None;
        }
        let mut spans = std::mem::take(&mut self.done);
        spans.extend(running);
        spans.sort_unstable_by_key(|s| s.start_ns);
        Some(Spans::pack(std::mem::take(&mut self.left_out), epoch_ns(SystemTime::now()), &spans))
    }
}

impl Lane {
    /// Takes the next rectangle. Returns the one before if they are not one.
    fn push(&mut self, kin: Kin, mut span: Span, joined_ns: u64) -> Option<Span> {
        // Nothing begins before what was there has ended: it was one of several that are timed as one. If
        // that is long ago, the clock was set back.
        if span.start_ns < self.until && self.until - span.start_ns <= SHIFT_NS_MAX {
            span.start_ns = self.until;
        }
        let end = span.start_ns.saturating_add(span.ns);
        let gap = span.start_ns.saturating_sub(self.until);
        self.until = end;
        if let Some((k, open)) = &mut self.open
            && (*k, open.kind) == (kin, span.kind)
            && gap <= joined_ns / 10
            && span.start_ns >= open.start_ns
            && end.saturating_sub(open.start_ns) <= joined_ns
        {
            open.ns = end.saturating_sub(open.start_ns).max(open.ns);
            open.count = open.count.saturating_add(span.count);
            open.bytes = open.bytes.saturating_add(span.bytes);
            open.peak = open.peak.max(span.peak);
            return None;
        }
        self.open.replace((kin, span)).map(|(_, before)| before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::RunId;
    use crate::graph::layer::SLOT;

    const MS: u64 = 1_000_000;

    fn task(index: u32) -> Option<TaskRef> {
        Some(TaskRef { run: RunId(1), index })
    }

    /// A task of a family that began so many milliseconds after 1970 and took so many.
    fn run(c: &mut Collector, slot: u32, kin: Kin, index: u32, at: u64, ms: u64) {
        let started = UNIX_EPOCH + Duration::from_millis(at);
        c.task(
            Some(slot),
            kin,
            started,
            Span { task: task(index), ns: ms * MS, bytes: 1, peak: index.into(), ..Span::default() },
        );
    }

    fn taken(c: &mut Collector) -> (u64, Vec<Span>) {
        c.take(true, std::iter::empty()).map_or_else(Default::default, |s| (s.left_out, s.unpack().unwrap()))
    }

    #[test]
    fn short_tasks_of_a_family_in_a_row_are_one() {
        let mut c = Collector::new(2 * SLOT);
        for k in 0..10 {
            run(&mut c, 0, 7, k, 1000 + u64::from(k), 1);
        }
        run(&mut c, 0, 8, 10, 1010, 1);
        run(&mut c, 0, 8, 11, 1500, 1);
        run(&mut c, 1, 8, 12, 1010, 100);
        run(&mut c, 1, 8, 13, 1110, 100);
        let (left_out, spans) = taken(&mut c);
        let rows: Vec<_> = spans
            .iter()
            .map(|s| (s.lane, s.task.unwrap().index, s.count, s.start_ns / MS, s.ns / MS))
            .collect();
        let wanted = [
            (0, 0, 10, 1000, 10),
            (0, 10, 1, 1010, 1),
            (1, 12, 1, 1010, 100),
            (1, 13, 1, 1110, 100),
            (0, 11, 1, 1500, 1),
        ];
        assert_eq!((left_out, rows.as_slice()), (0, &wanted[..]));
        assert_eq!((spans[0].bytes, spans[0].peak, c.is_empty()), (10, 9, true));
        assert_eq!(c.seconds(Instant::now()).0, 0.212);
    }

    #[test]
    fn what_was_timed_together_follows_one_another() {
        let mut c = Collector::new(SLOT);
        (0..4).for_each(|k| run(&mut c, 0, u64::from(k), k, 1000, 30));
        run(&mut c, 1, 1, 4, 500_000, 10);
        run(&mut c, 1, 1, 5, 1000, 10);
        let (_, spans) = taken(&mut c);
        let rows: Vec<_> = spans.iter().map(|s| (s.lane, s.start_ns / MS)).collect();
        assert_eq!(rows, [(0, 1000), (1, 1000), (0, 1030), (0, 1060), (0, 1090), (1, 500_000)]);
    }

    #[test]
    fn the_longest_and_failures_stay() {
        let mut c = Collector::new(SLOT);
        for k in 0..3000 {
            run(&mut c, 0, u64::from(k), k, 1000 + 10 * u64::from(k), 1 + u64::from(k >= 2900) * 5);
        }
        let failed = Span { kind: SpanKind::Failed, task: task(9), ns: 1, ..Span::default() };
        c.task(Some(1), 1, UNIX_EPOCH + Duration::from_secs(1), failed);
        let (left_out, spans) = taken(&mut c);
        assert_eq!((left_out, spans.len()), (3001 - 200, 200));
        assert_eq!(spans.iter().filter(|s| s.ns == 6 * MS).count(), 100);
        assert!(spans.iter().any(|s| s.kind == SpanKind::Failed));
        assert!(c.is_empty());
    }

    #[test]
    fn a_slot_waits_while_tasks_do_and_only_then() {
        let mut c = Collector::new(SLOT);
        let (begin, at) = c.origin;
        let ms = |n: u64| begin + Duration::from_millis(n);
        run(&mut c, 0, 1, 0, 0, 0);
        c.lanes[0].until = at;
        c.note_waiting(0.0, ms(10));
        c.note_waiting(2.0, ms(20));
        c.note_waiting(1.0, ms(50));
        c.note_waiting(0.0, ms(70));
        c.task(Some(0), 1, UNIX_EPOCH + Duration::from_nanos(at + 100 * MS), Span::default());
        let (_, spans) = taken(&mut c);
        let waits: Vec<_> = spans.iter().filter(|s| s.kind == SpanKind::Wait).collect();
        assert_eq!(waits.len(), 1, "{spans:?}");
        assert_eq!((waits[0].start_ns - at, waits[0].ns, waits[0].lane), (20 * MS, 50 * MS, 0));
        assert!((c.seconds(ms(90)).2 - 0.08).abs() < 1e-9);
    }

    #[test]
    fn what_runs_is_told_until_it_has_ended() {
        let mut c = Collector::new(SLOT);
        let (begin, at) = (Instant::now() - Duration::from_secs(1), c.at(Instant::now()));
        let begun = |index: u32, lane: u32, since: Instant| (task(index).unwrap(), (lane, since));
        // The second was taken together with the first, the third has only just begun.
        run(&mut c, 1, 1, 7, 0, 0);
        c.lanes[1].until = at;
        let three = [begun(5, 0, begin), begun(8, 1, begin), begun(9, 2, Instant::now())];
        let told = c.take(true, three.into_iter()).unwrap().unpack().unwrap();
        let told: Vec<_> = told.iter().filter(|s| s.kind == SpanKind::Running).collect();
        let rows: Vec<_> = told.iter().map(|s| (s.task.unwrap().index, s.lane, s.count, s.ns)).collect();
        assert_eq!(rows, [(5, 0, 1, 0), (8, 1, 1, 0)]);
        assert!(told[0].start_ns < at && told[1].start_ns == at, "{told:?}");
        // That nothing runs any more is told once.
        assert!(!c.is_empty());
        assert_eq!(c.take(true, std::iter::empty()).map(|s| s.unpack().unwrap()), Some(vec![]));
        assert!(c.is_empty() && c.take(true, std::iter::empty()).is_none());
        let many = (0..1000).map(|k| begun(k, k, begin)).chain([begun(1, 0, begin)]);
        assert_eq!(c.take(true, many).unwrap().unpack().unwrap().len(), RUNNING_MAX);
    }

    #[test]
    fn fetches_at_the_same_time_have_lanes_of_their_own() {
        let mut c = Collector::new(SLOT);
        let (a, b) = (c.fetch_begins(), c.fetch_begins());
        c.fetch_ended(a, task(1), 3, 30);
        let again = c.fetch_begins();
        c.fetch_ended(b, task(2), 1, 10);
        c.fetch_ended(again, None, 0, 0);
        let (_, spans) = taken(&mut c);
        let rows: Vec<_> = spans.iter().map(|s| (s.lane, s.count, s.bytes)).collect();
        assert_eq!(rows, [(FETCH_LANE, 3, 30), (FETCH_LANE + 1, 1, 10), (FETCH_LANE, 1, 0)]);
    }
}

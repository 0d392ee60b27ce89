//! A worker's memory: what it occupies, and what is done when it is too much. `sampler` reads, `monitor` does
//! so at intervals, `spiller` brings results to disk, the rules are `core::pressure`'s. This file joins them
//! for one registration: from what is measured to what happens. Results themselves are the store's.

pub(super) mod enforcement;
pub(super) mod monitor;
pub(super) mod sampler;
pub(super) mod spiller;

use super::core::pressure::{Candidate, Pressure, Thresholds, Usage, choose};
use super::executor::control::Control;
use super::executor::processes::Counts;
use super::limits;
use super::store::{Store, pool};
use crate::base::failure::{Enforced, Overrun, Shortage};
use crate::base::ids::{Attempt, TaskRef};
use crate::base::units::ByteSize;
use crate::config;
use enforcement::Enforcement;
use monitor::{Gauge, LOOKS_PER_SECOND, Reading};
use rustc_hash::FxHashMap;
use serde::Serialize;
use spiller::Spiller;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a paused worker without any running task waits for memory before it starts one all the same.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long a task whose result has no room waits for others to be dropped before room is made on disk.
const BRIEF_PATIENCE: Duration = Duration::from_millis(150);

/// How long the end of a task may take before another one has to end too.
const END_TIME: Duration = Duration::from_secs(2);

/// A change of one so-manieth of the limit is told to the scheduler before the next heartbeat is due.
const TELL_PART: u64 = 32;

/// Memory that is kept for the next results when those before are gone: one of so many parts of the limit, as
/// long as nothing else wants it.
const KEPT_PART: u64 = 2;

/// The same without a limit, bytes.
const KEPT_BYTES: u64 = 512 << 20;

/// Neighbours that a failure names.
const NEIGHBOURS_MAX: usize = 5;

type Id = (TaskRef, Attempt);

/// The thresholds in bytes, for a limit.
pub(super) fn thresholds(settings: &config::Memory, limit: u64) -> Thresholds {
    let bytes = |f: Option<config::Fraction>| f.map(|f| (limit as f64 * f.0) as u64);
    Thresholds {
        limit,
        target: bytes(settings.target),
        spill: bytes(settings.spill),
        pause: bytes(settings.pause),
        terminate: bytes(settings.terminate),
    }
}

/// How the memory of a worker is found, its thresholds, and who enforces the limit.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Explanation {
    /// What was looked at, a line for each.
    pub found: Vec<String>,
    /// The limit, bytes; `None` without one.
    pub limit: Option<u64>,
    /// Results beyond so many bytes go to disk.
    pub target: Option<u64>,
    /// Everything beyond so many bytes: results go to disk.
    pub spill: Option<u64>,
    /// Beyond so many bytes no task starts.
    pub pause: Option<u64>,
    /// Beyond so many bytes a task is ended.
    pub terminate: Option<u64>,
    /// Who enforces the limit.
    pub enforcement: Enforcement,
}

impl Explanation {
    /// For a worker with this configuration, here.
    pub fn find(settings: &config::Worker) -> Explanation {
        let variable = |name: &str| std::env::var(name).ok();
        let threads = limits::threads(settings.nthreads, &variable);
        let limit = limits::memory(settings.memory_limit, settings.memory_reserve, threads, &variable);
        let t = limit.bytes.map(|bytes| thresholds(&settings.memory, bytes));
        Explanation {
            found: limit.found,
            limit: limit.bytes,
            target: t.and_then(|t| t.target),
            spill: t.and_then(|t| t.spill),
            pause: t.and_then(|t| t.pause),
            terminate: t.and_then(|t| t.terminate),
            enforcement: Enforcement::find(),
        }
    }

    /// Lines for people.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = self.found.clone();
        match self.limit {
            None => lines.push("no limit: nothing is spilled, paused or ended".into()),
            Some(bytes) => {
                lines.push(format!("limit      {bytes} bytes"));
                let four = [
                    ("target", self.target),
                    ("spill", self.spill),
                    ("pause", self.pause),
                    ("terminate", self.terminate),
                ];
                for (name, at) in four {
                    let at = at.map_or("off".into(), |at| format!("{at} bytes"));
                    lines.push(format!("{name:<10} {at}"));
                }
            }
        }
        lines.extend(self.enforcement.lines());
        lines
    }
}

/// What lasts as long as the worker.
#[derive(Clone, Debug)]
pub(super) struct Parts {
    /// What it occupies.
    pub gauge: Arc<Gauge>,
    /// Results to disk; absent where nothing ever goes there.
    pub spiller: Option<Arc<Spiller>>,
    /// When to act; `None` without a limit.
    pub thresholds: Option<Thresholds>,
    /// Results.
    pub store: Arc<Mutex<Store>>,
    /// What became of executor processes.
    pub executors: Arc<Counts>,
}

impl Parts {
    /// Has results on disk read before they are needed.
    pub fn read_ahead(&self, tasks: &[TaskRef]) {
        let Some(spiller) = &self.spiller else { return };
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.iter().filter_map(|task| store.find(*task)).for_each(|result| spiller.read_ahead(result));
    }

    /// Whether results of so many bytes should come back from disk. Those that `must` do so as long as no
    /// others have to go there for it; what can be read there as well only if much is free: it would be read
    /// as a whole, often for a small part of it, and be the first to leave again.
    pub fn has_room(&self, bytes: u64, must: bool) -> bool {
        let Some(bound) = self.thresholds.and_then(|t| t.admission_bound()) else { return true };
        let unmanaged = if must { 0 } else { self.gauge.read().unmanaged(std::iter::empty()) };
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        let then = store.managed_bytes().saturating_add(unmanaged).saturating_add(bytes);
        then <= if must { bound } else { bound / 2 }
    }
}

/// Memory within one registration.
#[derive(Debug)]
pub(super) struct Memory {
    parts: Parts,
    pressure: Option<Pressure>,
    paused_since: Option<Instant>,
    /// Since when the next task waits for results to be dropped.
    patient_since: Option<Instant>,
    /// The task that was ended last, and when.
    ended: Option<(Id, Instant)>,
    /// The most that running tasks have been seen to occupy.
    peaks: FxHashMap<Id, u64>,
    /// Processes whose memory is enforced by looking at it, and what they may have with those below them.
    bounds: Vec<(i32, u64)>,
    /// What was seen last of everything else.
    seen: u64,
    /// How many workers share this process.
    sharers: u64,
    /// Whether that counts once what processes share.
    exact: bool,
    /// The least that results had since the last look: what a task has just made may be among its processes'
    /// bytes still.
    least: u64,
    /// What the scheduler was told last.
    told: Told,
}

/// What a task that runs is known by.
pub(super) struct Running {
    /// The task.
    pub id: Id,
    /// Its key.
    pub key: String,
    /// What its family usually occupies, bytes; 0 if nothing is known.
    pub usual: u64,
    /// Its control.
    pub control: Arc<Control>,
}

/// Results of a worker, bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Results {
    /// In memory, those included that are being made or fetched.
    pub managed: u64,
    /// What of those being made and fetched is still to come, without what is free then.
    pub rest: i64,
    /// What the task that is next is expected to add.
    pub next: i64,
    /// Of those in memory, those that probably are dropped soon.
    pub brief: u64,
}

impl Results {
    /// By how much all of them are more than results may have.
    pub fn excess(&self, target: u64) -> u64 {
        self.managed.saturating_add_signed(self.growth()).saturating_sub(target)
    }

    /// By how much they are about to grow.
    fn growth(&self) -> i64 {
        self.rest + self.next.max(0)
    }
}

/// What follows from a look at memory.
#[derive(Debug, Default)]
pub(super) struct Due {
    /// Whether tasks may start, if that has changed.
    pub paused: Option<bool>,
    /// One task may start although it is paused.
    pub start_one: bool,
    /// What tasks that start may add, bytes; `None` if nothing bounds it.
    pub room: Option<i64>,
}

/// Memory as the scheduler is told of it, bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Told {
    /// Results on disk.
    pub(super) spilled: u64,
    /// What is no results.
    pub(super) unmanaged: u64,
    /// Of this, what is kept for the next results.
    pub(super) kept: u64,
}

impl Told {
    /// What no result can have.
    fn taken(self) -> u64 {
        self.unmanaged.saturating_sub(self.kept)
    }
}

/// Whether the next task should wait for results to be dropped rather than have others written for it: there
/// are enough that usually are dropped soon, and it has not waited long.
fn is_patient(since: &mut Option<Instant>, results: Results, target: Option<u64>) -> bool {
    let excess = target.map_or(0, |target| results.excess(target));
    if results.next <= 0 || excess == 0 || results.brief < excess {
        *since = None;
        return false;
    }
    since.get_or_insert_with(Instant::now).elapsed() < BRIEF_PATIENCE
}

/// Lets so much memory be kept for the next results that nothing has to go to disk, or to wait, for it;
/// `seen` is memory that is no results.
fn keep_what_is_free(t: &Thresholds, seen: u64, results: Results) {
    let wanted = results.managed.saturating_add(seen).saturating_add_signed(results.growth().max(0));
    let free = t.admission_bound().unwrap_or(t.limit).saturating_sub(wanted);
    pool::keep_at_most(free.min(t.limit / KEPT_PART));
}

impl Memory {
    pub(super) fn new(parts: Parts) -> Memory {
        let pressure = parts.thresholds.map(Pressure::new);
        pool::keep_at_most(parts.thresholds.map_or(KEPT_BYTES, |t| t.limit / KEPT_PART));
        let (peaks, paused_since, ended) = (FxHashMap::default(), None, None);
        Memory {
            parts,
            pressure,
            paused_since,
            patient_since: None,
            ended,
            peaks,
            bounds: Vec::new(),
            seen: 0,
            sharers: 1,
            exact: false,
            least: u64::MAX,
            told: Told::default(),
        }
    }

    /// What lasts longer than this.
    pub(super) fn parts(&self) -> &Parts {
        &self.parts
    }

    /// What the scheduler is told now.
    pub(super) fn tell(&mut self) -> Told {
        self.told = self.to_tell();
        self.told
    }

    fn to_tell(&self) -> Told {
        let (bytes, idle) = pool::bytes_and_idle();
        let (unmanaged, kept) = (self.seen + bytes / self.sharers, idle / self.sharers);
        Told { spilled: self.spilled_bytes(), unmanaged, kept }
    }

    /// Memory that is not results: as of the monitor's last look, and what is kept for the next ones.
    pub(super) fn unmanaged_bytes(&self) -> u64 {
        self.seen + pool::bytes() / self.sharers
    }

    /// Whether these have changed by a part of the limit that matters.
    pub(super) fn has_changed(&self) -> bool {
        let Some(limit) = self.parts.thresholds.map(|t| t.limit) else { return false };
        let (now, told) = (self.to_tell(), self.told);
        let change = now.spilled.abs_diff(told.spilled).max(now.taken().abs_diff(told.taken()));
        change > limit / TELL_PART
    }

    /// Whether no task may start.
    pub(super) fn is_paused(&self) -> bool {
        self.paused_since.is_some()
    }

    /// Takes note of what the monitor has seen of the tasks that run.
    pub(super) fn look(&mut self, running: &[(TaskRef, Attempt, Arc<Control>)]) -> Reading {
        let reading = self.parts.gauge.read();
        let sharing = sharing(running.iter().map(|(_, _, control)| &**control));
        let mut bounds = Vec::new();
        for (task, attempt, control) in running {
            let Some(pid) = control.pid() else { continue };
            let n = sharing.get(&pid).copied().unwrap_or(1);
            let bytes = reading.sample.below(pid).saturating_sub(control.base_bytes()) / n;
            let peak = self.peaks.entry((*task, *attempt)).or_default();
            *peak = bytes.max(*peak);
            if let Some(declared) = control.bound_bytes() {
                let bound = declared.saturating_add(control.base_bytes());
                // One that has just begun was not counted exactly yet.
                if let Some(bytes) = reading.sample.beyond(pid, bound) {
                    let (reached, by) = (bytes - control.base_bytes(), Enforced::Watching(LOOKS_PER_SECOND));
                    control.end_for_overrun(Overrun { declared, reached, by });
                }
                bounds.push((pid, bound));
            }
        }
        if self.bounds != bounds {
            self.parts.gauge.be_exact_beyond(bounds.clone());
            self.bounds = bounds;
        }
        self.seen = reading.unmanaged(sharing.into_keys());
        self.sharers = reading.sharers.max(1);
        // Workers that share a process share the bound from which on it is counted exactly.
        self.exact = reading.sample.exact || reading.sharers > 1;
        reading
    }

    /// The most that a task that has ended was seen to occupy, if it was seen at all.
    pub(super) fn take_peak(&mut self, id: Id) -> Option<u64> {
        self.peaks.remove(&id)
    }

    /// Results beyond this go to disk, bytes.
    pub(super) fn target(&self) -> Option<u64> {
        self.parts.thresholds.and_then(|t| t.target)
    }

    /// Does what is due with these results. `measured`: right after a look; no task is ended otherwise.
    /// `running` is asked when one has to be.
    pub(super) fn act(
        &mut self,
        results: Results,
        measured: bool,
        idle: bool,
        running: impl FnOnce() -> Vec<Running>,
    ) -> Due {
        let managed = results.managed;
        let Some(pressure) = &mut self.pressure else { return Due::default() };
        let fault = self.parts.spiller.as_ref().and_then(|s| s.fault());
        let patient = is_patient(&mut self.patient_since, results, pressure.thresholds().target);
        let expected = if patient { results.rest } else { results.growth() };
        let t = pressure.thresholds();
        keep_what_is_free(t, self.seen, results);
        let unmanaged = self.seen + pool::bytes() / self.sharers;
        let usage = Usage { managed, unmanaged, expected, disk_fails: fault.is_some() };
        let verdict = pressure.assess(usage);
        let limit = pressure.thresholds().limit;
        if let Some(first) = pressure.thresholds().admission_bound() {
            // The scheduler goes by it too: what forks share would keep it from handing out work for ever.
            self.parts.gauge.be_exact_above(first.saturating_sub(managed));
        }
        self.least = self.least.min(managed);
        let certain = measured && self.exact && pressure.is_terminal(self.least, unmanaged);
        if measured {
            self.least = managed;
        }
        if let Some(spiller) = &self.parts.spiller {
            // What is being made or fetched cannot go to disk: the rest has to make room for it.
            let stored = self.parts.store.lock().unwrap_or_else(PoisonError::into_inner).managed_bytes();
            let elsewhere = managed.saturating_sub(stored);
            spiller.keep(verdict.keep.map(|keep| keep.saturating_sub(elsewhere)), verdict.over);
        }
        let mut due = Due { room: self.room(results, idle, patient), ..Due::default() };
        if verdict.paused != self.paused_since.is_some() {
            due.paused = Some(verdict.paused);
            self.paused_since = verdict.paused.then(Instant::now);
            self.say(verdict.paused, usage, limit, fault.as_deref());
        }
        if verdict.terminate && certain {
            self.end_one(usage, limit, running);
        }
        if let Some(since) = &mut self.paused_since {
            let busy = !idle || self.parts.spiller.as_ref().is_some_and(|s| s.is_busy());
            if busy {
                *since = Instant::now();
            } else if since.elapsed() >= PATIENCE {
                *since = Instant::now();
                due.start_one = true;
            }
        }
        due
    }

    /// Lets what is free with these results be kept for the next ones. To be called before results of others
    /// go: else the bound is still that of the time when they were there.
    pub(super) fn keep_what_is_free(&self, results: Results) {
        if let Some(pressure) = &self.pressure {
            keep_what_is_free(pressure.thresholds(), self.seen, results);
        }
    }

    /// What tasks that start may add: as much as fits under the target. If waiting makes no more room, what
    /// fits under the pause; and if nothing runs whose end could make some, the next task starts all the
    /// same.
    fn room(&self, results: Results, idle: bool, patient: bool) -> Option<i64> {
        let (t, spiller) = (self.parts.thresholds?, self.parts.spiller.as_ref()?);
        let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        let held = signed(results.managed).saturating_add(results.rest);
        let room = signed(t.target?).saturating_sub(held);
        if room >= results.next || patient || spiller.is_hopeful() {
            return Some(room);
        }
        let room = signed(t.pause.unwrap_or(t.limit)).saturating_sub(held).saturating_sub(signed(self.seen));
        Some(if idle { room.max(results.next) } else { room })
    }

    fn say(&self, paused: bool, usage: Usage, limit: u64, fault: Option<&str>) {
        let size = |bytes| ByteSize(bytes).to_string();
        let held = format!(
            "{} of {}: results {}, everything else {}, on disk {}",
            size(usage.total()),
            size(limit),
            size(usage.managed),
            size(usage.unmanaged),
            size(self.spilled_bytes())
        );
        if !paused {
            tracing::info!("resumed, tasks may start again ({held})");
            return;
        }
        let why = match fault {
            Some(fault) => format!("; {fault}"),
            None if usage.unmanaged > usage.managed => {
                "; it is not results that hold it, but the worker and its tasks".into()
            }
            None => String::new(),
        };
        tracing::warn!("paused, no task starts until memory is free ({held}{why})");
    }

    /// Ends the task that is furthest beyond its expectation.
    fn end_one(&mut self, usage: Usage, limit: u64, running: impl FnOnce() -> Vec<Running>) {
        let running = running();
        if let Some((id, when)) = self.ended
            && when.elapsed() < END_TIME
            && running.iter().any(|r| r.id == id)
        {
            return;
        }
        let sample = self.parts.gauge.read().sample;
        let sharing = sharing(running.iter().map(|r| &*r.control));
        let share = |pid| sample.below(pid) / sharing.get(&pid).copied().unwrap_or(1);
        let bytes = |r: &Running| r.control.pid().map_or(0, share);
        let candidates: Vec<_> = running.iter().filter(|r| !r.control.is_cancelled()).collect();
        let candidates = candidates.iter().map(|r| {
            let ((task, attempt), expected) = (r.id, r.usual);
            Candidate { task, attempt, bytes: bytes(r), expected }
        });
        let Some(chosen) = choose(&candidates.collect::<Vec<_>>()) else { return };
        let id = (chosen.task, chosen.attempt);
        // With results the larger part and still on their way to disk, ending a small task helps nobody.
        let spilling = self.parts.spiller.as_ref().is_some_and(|s| s.is_busy());
        if spilling && usage.total() <= limit && chosen.bytes < limit / 10 {
            return;
        }
        let Some(victim) = running.iter().find(|r| r.id == id) else { return };
        let others = running.iter().filter(|r| r.id != id);
        let mut neighbours: Vec<_> = others.map(|r| (r.key.clone(), bytes(r))).collect();
        neighbours.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        neighbours.truncate(NEIGHBOURS_MAX);
        let shortage = Shortage {
            peak: chosen.bytes,
            expected: chosen.expected,
            limit,
            results: usage.managed,
            neighbours,
        };
        tracing::warn!(task = victim.key, "{shortage}");
        victim.control.end_for_memory(shortage);
        self.ended = Some((id, Instant::now()));
    }

    /// Bytes of results that are on disk only.
    pub(super) fn spilled_bytes(&self) -> u64 {
        self.parts.store.lock().unwrap_or_else(PoisonError::into_inner).spilled_bytes()
    }

    /// Results that cannot be read back, taken out of the store. Looks only when something went wrong.
    pub(super) fn take_lost(&self) -> Vec<TaskRef> {
        if !self.parts.spiller.as_ref().is_some_and(|s| s.spill().take_lost()) {
            return Vec::new();
        }
        let mut store = self.parts.store.lock().unwrap_or_else(PoisonError::into_inner);
        let lost: Vec<TaskRef> =
            store.on_disk().into_iter().filter(|(_, r)| r.is_lost()).map(|(task, _)| task).collect();
        for task in &lost {
            tracing::error!("a spilled result is damaged and has to be computed again");
            store.remove(*task);
        }
        lost
    }
}

/// How many of these run in which process: what that occupies is theirs in equal parts.
fn sharing<'a>(running: impl Iterator<Item = &'a Control>) -> FxHashMap<i32, u64> {
    let mut sharing = FxHashMap::default();
    running.filter_map(Control::pid).for_each(|pid| *sharing.entry(pid).or_default() += 1);
    sharing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_task_is_ended_on_a_guess() {
        const ALL: Thresholds = Thresholds {
            limit: 100,
            target: Some(60),
            spill: Some(70),
            pause: Some(80),
            terminate: Some(95),
        };
        let gauge = Gauge::start().unwrap();
        let (store, executors) = (Arc::default(), Arc::default());
        let parts = Parts { gauge, spiller: None, thresholds: Some(ALL), store, executors };
        // Whether anybody was looked for who should end.
        let ends = |memory: &mut Memory, managed, measured| {
            let (results, mut asked) = (Results { managed, ..Results::default() }, false);
            let _ = memory.act(results, measured, false, || {
                asked = true;
                Vec::new()
            });
            asked
        };
        let mut memory = Memory { seen: 50, exact: true, ..Memory::new(parts) };
        assert!(!ends(&mut memory, 20, true));
        assert!(!ends(&mut memory, 50, false), "since the last look only results have grown");
        assert!(!ends(&mut memory, 50, true), "what was just made may be counted in its process too");
        memory.exact = false;
        assert!(!ends(&mut memory, 50, true), "processes may share half of that");
        memory.exact = true;
        assert!(ends(&mut memory, 50, true));
    }

    #[test]
    fn a_task_waits_for_what_is_dropped_soon_but_not_for_long() {
        let results = |managed, brief| Results { managed, rest: 0, next: 10, brief };
        let mut since = None;
        assert!(!is_patient(&mut since, results(50, 50), Some(60)), "there is room");
        assert!(!is_patient(&mut since, results(55, 4), Some(60)), "too few are dropped");
        assert!(!is_patient(&mut since, results(55, 5), None));
        assert!(is_patient(&mut since, results(55, 5), Some(60)));
        since = Instant::now().checked_sub(BRIEF_PATIENCE);
        assert!(!is_patient(&mut since, results(55, 5), Some(60)));
        assert!(!is_patient(&mut since, results(50, 5), Some(60)));
        assert!(is_patient(&mut since, results(55, 5), Some(60)), "it is another one's turn");
    }
}

//! What to do differently next time: advice drawn from what a run left behind. A pure function of the JSON of
//! `docs/api.md`; owns the rules and the words.

use crate::base::units::{ByteSize, Span};
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::time::Duration;

/// Runs shorter than this have nothing to teach about how many threads they need.
const SHORT_RUN: f64 = 5.0;

/// Tasks shorter than this take less time than handing them out does, commands or Python.
const SHORT_TASK: f64 = 0.005;

/// So many short tasks are worth a word.
const SHORT_TASKS_MIN: u64 = 1_000;

/// The part of the threads that is busy below which there were too many, and above which too few.
const IDLE: f64 = 0.5;
const FULL: f64 = 0.85;

/// How much more than the most that was used should be asked for.
const ROOM: f64 = 1.3;

/// How urgent it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Something went wrong.
    Error,
    /// Something cost much.
    Warning,
    /// Good to know.
    Info,
}

/// A piece of advice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Advice {
    /// How urgent it is.
    pub level: Level,
    /// What it is about: `failures`, `memory`, `threads` and so on.
    pub about: &'static str,
    /// What is the case.
    pub title: String,
    /// What can be done.
    pub text: String,
}

/// What is known of the run, as numbers.
struct Facts<'a> {
    data: &'a Value,
    /// From submission to the end, seconds.
    wall: f64,
    /// All executions together.
    work: f64,
    /// Threads there were, on average.
    threads: f64,
}

/// Advice, the most urgent first; one line at least.
pub fn advise(data: &Value) -> Vec<Advice> {
    let facts = Facts::of(data);
    let mut all = Vec::new();
    all.extend(failures(&facts));
    all.extend(lost(&facts));
    all.extend(retries(&facts));
    all.extend(memory(&facts));
    all.extend(spilled(&facts));
    all.extend(paused(&facts));
    all.extend(threads(&facts));
    all.extend(long_tasks(&facts));
    all.extend(short_tasks(&facts));
    all.extend(large_results(&facts));
    all.extend(moving(&facts));
    if all.iter().all(|a| a.level == Level::Info) {
        all.insert(
            0,
            advice(
                Level::Info,
                "all",
                "Nothing went wrong",
                "No task failed for good, and nothing cost much more than it had to.",
            ),
        );
    }
    all.sort_by_key(|a| a.level);
    all
}

fn advice(level: Level, about: &'static str, title: impl Into<String>, text: impl Into<String>) -> Advice {
    Advice { level, about, title: title.into(), text: text.into() }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn number(value: &Value, name: &str) -> f64 {
    value[name].as_f64().filter(|n| n.is_finite()).unwrap_or(0.0)
}

fn count(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or(0)
}

fn size(bytes: f64) -> String {
    ByteSize(bytes.max(0.0) as u64).to_string()
}

fn span(seconds: f64) -> String {
    Span(Duration::try_from_secs_f64(seconds).unwrap_or_default()).to_string()
}

fn percent(part: f64) -> String {
    format!("{:.0} %", part * 100.0)
}

/// `3 tasks`, `1 task`
fn counted(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// Numbers that are known in a column.
fn column<'a>(table: &'a Value, name: &str) -> impl Iterator<Item = f64> + use<'a> {
    list(&table[name]).iter().filter_map(Value::as_f64).filter(|n| n.is_finite())
}

fn most(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, f64::max)
}

/// The most of the sums of several columns, point by point.
fn most_together(table: &Value, names: &[&str]) -> f64 {
    let points = names.iter().map(|n| list(&table[*n]).len()).max().unwrap_or(0);
    let at = |name: &str, k: usize| table[name][k].as_f64().unwrap_or(0.0);
    most((0..points).map(|k| names.iter().map(|n| at(n, k)).sum()))
}

impl Facts<'_> {
    fn of(data: &Value) -> Facts<'_> {
        let summary = &data["run"]["summary"];
        let total = &data["series"]["total"];
        let mean = |name: &str| {
            let known: Vec<f64> = column(total, name).filter(|n| *n > 0.0).collect();
            (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
        };
        let groups = list(&data["groups"]["groups"]);
        let (wall, work) = match summary.is_object() {
            true => (number(summary, "wall-seconds"), number(summary, "task-seconds")),
            false => {
                let times: Vec<f64> = column(&data["series"], "time").collect();
                let wall = times.last().zip(times.first()).map_or(0.0, |(last, first)| last - first);
                (wall, groups.iter().map(|g| number(g, "seconds")).sum())
            }
        };
        let threads = mean("threads").unwrap_or_else(|| number(&data["overview"], "threads"));
        Facts { data, wall, work, threads }
    }

    fn groups(&self) -> &[Value] {
        list(&self.data["groups"]["groups"])
    }

    fn workers(&self) -> &[Value] {
        list(&self.data["overview"]["workers"])
    }

    /// The part of the threads' time in which tasks ran, if that can be told.
    fn used(&self) -> Option<f64> {
        (self.wall >= SHORT_RUN && self.threads > 0.0)
            .then(|| (self.work / (self.wall * self.threads)).min(1.0))
    }

    /// Threads of one worker.
    fn threads_each(&self) -> f64 {
        let n = self.workers().len().max(1) as f64;
        let sum: f64 = self.workers().iter().map(|w| number(w, "threads")).sum();
        if sum > 0.0 { sum / n } else { self.threads.max(1.0) }
    }

    /// The least memory limit of a worker.
    fn limit(&self) -> Option<f64> {
        let limits = self.workers().iter().filter_map(|w| w["memory"]["limit"].as_f64());
        limits.filter(|l| *l > 0.0).min_by(f64::total_cmp)
    }

    /// The most memory that one worker has used, without what lies on its disk.
    fn peak(&self) -> f64 {
        let series: &Map<String, Value> =
            &self.data["series"]["workers"].as_object().cloned().unwrap_or_default();
        let measured = most(series.values().map(|w| most_together(w, &["managed", "unmanaged"])));
        let now = self
            .workers()
            .iter()
            .map(|w| number(&w["memory"], "managed") + number(&w["memory"], "unmanaged"));
        measured.max(most(now))
    }
}

fn failures(facts: &Facts) -> Option<Advice> {
    let summary = &facts.data["run"]["summary"];
    let failed = match summary.is_object() {
        true => count(summary, "failed"),
        false => count(&facts.data["overview"], "failed"),
    };
    if failed == 0 {
        return None;
    }
    let skipped = count(summary, "skipped");
    let groups: Vec<String> = facts
        .groups()
        .iter()
        .filter(|g| count(&g["counts"], "erred") > 0)
        .take(5)
        .filter_map(|g| g["name"].as_str().map(str::to_owned))
        .collect();
    let of = if groups.is_empty() { String::new() } else { format!(" of {}", groups.join(", ")) };
    let then = match skipped {
        0 => String::new(),
        n => format!(" {} did not run because of that.", counted(n, "other task")),
    };
    Some(advice(
        Level::Error,
        "failures",
        format!("{}{of} failed", counted(failed, "task")),
        format!(
            "Look at what they said under Events and errors.{then} Submit again with --resume to run only \
             what is not done."
        ),
    ))
}

fn lost(facts: &Facts) -> Option<Advice> {
    let events = list(&facts.data["events"]["events"]).iter();
    let lost = events.filter(|e| e["kind"] == "worker-lost").count() as u64;
    (lost > 0).then(|| {
        advice(
            Level::Warning,
            "workers",
            format!("{} lost", counted(lost, "worker")),
            "Their tasks ran again elsewhere. If it was memory, raise what tasks declare or the workers' \
             limit; if it was the end of an allocation, set --lifetime shorter than its walltime.",
        )
    })
}

fn retries(facts: &Facts) -> Option<Advice> {
    let again: u64 = facts.groups().iter().map(|g| count(g, "failed-attempts")).sum();
    let failed: u64 = facts.groups().iter().map(|g| count(&g["counts"], "erred")).sum();
    let retried = again.saturating_sub(failed).max(count(&facts.data["run"]["summary"], "retried"));
    (retried > 0).then(|| {
        advice(
            Level::Info,
            "retries",
            format!("{} had to be made again", counted(retried, "attempt")),
            "hpcdag story KEY tells when and why. What fails now and then costs the time of each attempt.",
        )
    })
}

fn memory(facts: &Facts) -> Option<Advice> {
    let (peak, limit) = (facts.peak(), facts.limit()?);
    if peak <= 0.0 {
        return None;
    }
    let need = peak * ROOM;
    let used = percent(peak / limit);
    if peak > limit * 0.9 {
        return Some(advice(
            Level::Warning,
            "memory",
            format!("Memory was short: a worker used {} of {}", size(peak), size(limit)),
            format!(
                "Give each worker {} or more, or fewer threads, so that fewer tasks share it.",
                size(need)
            ),
        ));
    }
    let text = match peak < limit * 0.4 {
        true => format!(
            "{} for each worker would have been enough: ask for less, or start more workers on a node.",
            size(need.max(f64::from(64u32 << 20)))
        ),
        false => format!("{} for each worker is what it needs, with some room.", size(need.min(limit))),
    };
    Some(advice(
        Level::Info,
        "memory",
        format!("The fullest worker used {} of {} ({used})", size(peak), size(limit)),
        text,
    ))
}

fn spilled(facts: &Facts) -> Option<Advice> {
    let total = &facts.data["series"]["total"];
    let spilled = most(column(total, "spilled")).max(number(&facts.data["overview"]["memory"], "spilled"));
    if spilled < 1.0 {
        return None;
    }
    let together = most_together(total, &["managed", "unmanaged", "spilled"]);
    let target = facts.workers().first().and_then(|w| {
        let memory = &w["memory"];
        Some(memory["target"].as_f64()? / memory["limit"].as_f64()?)
    });
    let need = together.max(spilled) / target.filter(|t| (0.1..=1.0).contains(t)).unwrap_or(0.6);
    let each = facts.limit().map(|limit| (need / limit).ceil().max(1.0));
    let nodes =
        each.map_or(String::new(), |n| format!(", that is {} like these", counted(n as u64, "worker")));
    let seconds: f64 = facts.workers().iter().map(|w| number(&w["seconds"], "spill")).sum();
    let cost =
        if seconds >= 1.0 { format!(" Writing and reading took {}.", span(seconds)) } else { String::new() };
    Some(advice(
        Level::Warning,
        "spilling",
        format!("Up to {} of results went to disk", size(spilled)),
        format!("All would have stayed in memory with {} in all{nodes}.{cost}", size(need)),
    ))
}

fn paused(facts: &Facts) -> Option<Advice> {
    let paused: f64 = facts.workers().iter().map(|w| number(&w["seconds"], "paused")).sum();
    (paused >= 1.0).then(|| {
        advice(
            Level::Warning,
            "memory",
            format!("Workers paused for {} because their memory was full", span(paused)),
            "Declare what tasks need (memory of a task), give workers more of it, or fewer threads.",
        )
    })
}

fn threads(facts: &Facts) -> Option<Advice> {
    let used = facts.used()?;
    let busy = facts.work / facts.wall;
    let each = facts.threads_each();
    let workers = (busy / each).ceil().max(1.0);
    let have = (facts.threads / each).round().max(1.0);
    let title =
        format!("{:.1} of {:.0} threads were busy on average ({})", busy, facts.threads, percent(used));
    let text = match () {
        () if used < IDLE && workers < have => format!(
            "{} instead of {have:.0} would have been busy all the time. Unless it is known that many tasks \
             can run at once only for a while, ask for fewer, or let `workers adapt` follow the work.",
            counted(workers as u64, "worker")
        ),
        () if used < IDLE => {
            "Tasks waited for one another, or there were too few at once: see the task stream for \
                              gaps."
                .to_owned()
        }
        () if used > FULL => format!(
            "There was always something to run: with twice as many threads it could have taken about {} \
             instead of {}.",
            span((facts.wall / 2.0).max(longest(facts).map_or(0.0, |(_, seconds)| seconds))),
            span(facts.wall)
        ),
        () => format!("{} were about right for it.", counted(have as u64, "worker")),
    };
    let level = if used < IDLE && workers < have { Level::Warning } else { Level::Info };
    Some(advice(level, "threads", title, text))
}

/// The group of the longest task, and its time.
fn longest<'a>(facts: &Facts<'a>) -> Option<(&'a str, f64)> {
    let groups = list(&facts.data["groups"]["groups"]).iter();
    groups
        .map(|g| (g["name"].as_str().unwrap_or_default(), number(g, "longest")))
        .max_by(|a, b| a.1.total_cmp(&b.1))
}

fn long_tasks(facts: &Facts) -> Option<Advice> {
    let (name, seconds) = longest(facts)?;
    let many = facts.groups().iter().map(|g| count(g, "total")).sum::<u64>() > 1;
    if !many || facts.used()? > FULL || seconds < facts.wall * 0.4 || facts.threads < 2.0 {
        return None;
    }
    Some(advice(
        Level::Warning,
        "long-tasks",
        format!("One task of {name} took {} of {}", span(seconds), span(facts.wall)),
        "The run cannot be shorter than its longest task. Split it, give it more threads, or a higher \
         priority so that it begins early.",
    ))
}

fn short_tasks(facts: &Facts) -> Vec<Advice> {
    let short = facts.groups().iter().filter_map(|g| {
        let done = count(g, "done");
        let mean = number(g, "seconds") / done.max(1) as f64;
        (done >= SHORT_TASKS_MIN && mean < SHORT_TASK).then_some((g, done, mean))
    });
    let one = |(group, done, mean): (&Value, u64, f64)| {
        let name = group["name"].as_str().unwrap_or_default();
        let together = (0.1 / mean.max(1e-6)).clamp(2.0, 100_000.0).min(done as f64);
        // To one digit: it is no measurement.
        let digits = 10f64.powf(together.log10().floor());
        let together = (together / digits).round() * digits;
        advice(
            Level::Info,
            "short-tasks",
            format!("{} of {name} took {} each", counted(done, "task"), span(mean)),
            format!("Handing a task out costs about as much. Let one do the work of {together:.0}."),
        )
    };
    short.take(5).map(one).collect()
}

fn large_results(facts: &Facts) -> Option<Advice> {
    let limit = facts.limit()?;
    let size_max = |g: &&Value| number(g, "bytes-max");
    let group = facts.groups().iter().max_by(|a, b| size_max(a).total_cmp(&size_max(b)))?;
    let bytes = size_max(&group);
    let part = bytes / limit;
    (part > 0.25).then(|| {
        advice(
            Level::Warning,
            "large-results",
            format!(
                "A result of {} has {}, {} of a worker's memory",
                group["name"].as_str().unwrap_or_default(),
                size(bytes),
                percent(part)
            ),
            "Inputs and result have to fit into memory at once. Make smaller pieces, or larger workers.",
        )
    })
}

fn moving(facts: &Facts) -> Option<Advice> {
    let mut sums: BTreeMap<&str, f64> = BTreeMap::new();
    for worker in facts.workers() {
        for what in ["compute", "fetch", "wait"] {
            *sums.entry(what).or_default() += number(&worker["seconds"], what);
        }
    }
    let of = |what: &str| sums.get(what).copied().unwrap_or(0.0);
    let (compute, waited) = (of("compute"), of("wait"));
    let part = waited / (compute + waited).max(1e-9);
    (waited >= SHORT_RUN && part > 0.2).then(|| {
        advice(
            Level::Warning,
            "moving",
            format!("Slots waited {} for inputs ({} of their time)", span(waited), percent(part)),
            "Tasks that use the same data are best one after another on one worker: fewer and larger workers \
             move less. See the transfers in the task stream.",
        )
    })
}

#[cfg(test)]
#[path = "advice_tests.rs"]
mod tests;

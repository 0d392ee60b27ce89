//! From the work that could run to a number of jobs: what a worker of a job offers against what tasks need.

use serde::Deserialize;
use std::collections::BTreeMap;

/// What could run now, as the scheduler answers it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Demand {
    /// Threads that could be used.
    pub threads: f64,
    /// Tasks that are ready or in hand.
    pub tasks: u64,
    /// Workers that a run waits for before it begins.
    pub workers: u32,
    /// Tasks by what they need.
    pub groups: Vec<Group>,
}

/// Tasks that need the same.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Group {
    /// How many there are.
    pub tasks: u64,
    /// How many are worth a place of their own.
    pub useful: u64,
    /// How many more would be if they take long.
    pub guessed: u64,
    /// Whole workers that each takes; 0 and 1 for those that take a part of one.
    #[serde(default)]
    pub nodes: u32,
    /// Threads of each.
    pub threads: f64,
    /// Bytes of each.
    pub memory: u64,
    /// Named resources of each.
    pub resources: BTreeMap<String, f64>,
}

/// What a worker offers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shape {
    /// Threads.
    pub threads: f64,
    /// Bytes; `None` if nothing is known.
    pub memory: Option<u64>,
    /// Named resources; `None` if nothing is known.
    pub resources: Option<BTreeMap<String, f64>>,
}

/// How many jobs the work is worth.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// If tasks of which nothing is known take long.
    pub jobs: u32,
    /// By what is known.
    pub sure: u32,
    /// Why, for people.
    pub why: String,
}

/// What there is besides our jobs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Others {
    /// Connected workers.
    pub workers: u32,
    /// Their threads.
    pub threads: f64,
}

/// How many jobs the work is worth, each with `per_job` workers of a shape, beside other workers. While the
/// shape is not known it is one job, if there is work at all.
pub fn wanted(demand: &Demand, shape: Option<&Shape>, per_job: u32, others: Others) -> Wanted {
    let per_job = f64::from(per_job.max(1));
    let waited = f64::from(demand.workers.saturating_sub(others.workers));
    let for_runs = (waited / per_job).ceil() as u32;
    let mut why = match demand.tasks {
        0 => "no task is ready".to_owned(),
        n => format!("{n} tasks to run, which could use {:.0} threads", demand.threads.ceil()),
    };
    if waited > 0.0 {
        why = format!("{why}; a run waits for {} workers", demand.workers);
    }
    let Some(shape) = shape.filter(|shape| shape.threads > 0.0) else {
        // Its first worker will show what a job is worth.
        let first = u32::from(demand.tasks > 0 && others.workers == 0).max(for_runs);
        return Wanted { jobs: first, sure: first, why };
    };
    // In workers: by what is known, and with guesses; tasks that other workers may run, and special ones.
    let (mut plain, mut special, mut misfits) = ((0.0, 0.0), (0.0, 0.0), 0);
    for group in &demand.groups {
        let Some(each) = tasks_of_a_worker(group, shape) else {
            misfits += group.tasks;
            continue;
        };
        let sum = if group.resources.is_empty() { &mut plain } else { &mut special };
        sum.0 += group.useful as f64 / each;
        sum.1 += (group.useful + group.guessed) as f64 / each;
    }
    if misfits > 0 {
        why = format!("{why}; {misfits} of them need more than a worker of these jobs has");
    }
    let served = others.threads / shape.threads;
    let jobs = |plain: f64, special: f64| {
        let workers = (plain - served).max(0.0) + special;
        // Sums of fractions are not exact.
        ((workers / per_job - 1e-9).ceil().max(0.0) as u32).max(for_runs)
    };
    Wanted { jobs: jobs(plain.1, special.1), sure: jobs(plain.0, special.0), why }
}

/// How many tasks of a group a worker can run at once; `None` if not even one.
fn tasks_of_a_worker(group: &Group, shape: &Shape) -> Option<f64> {
    let mut most = if group.threads > 0.0 { shape.threads / group.threads } else { f64::INFINITY };
    if let Some(memory) = shape.memory
        && group.memory > 0
    {
        most = most.min(memory as f64 / group.memory as f64);
    }
    if let Some(resources) = &shape.resources {
        for (name, amount) in group.resources.iter().filter(|(_, amount)| **amount > 0.0) {
            most = most.min(resources.get(name).copied().unwrap_or(0.0) / amount);
        }
    }
    // What takes nothing at all is run by one.
    let most = if most.is_finite() { (most + 1e-9).floor() } else { group.tasks.max(1) as f64 };
    (most >= 1.0).then_some(if group.nodes > 1 { 1.0 / f64::from(group.nodes) } else { most })
}

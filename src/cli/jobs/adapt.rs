//! `workers adapt`: drives the policy of `launch::adapt` between a scheduler and a batch system, in the
//! foreground. Owns what is printed about it; its end changes nothing.

use super::lasting::{self, Notes};
use super::pool::{self, Fate};
use super::pools;
use super::records::Place;
use super::start::Submitter;
use crate::base::error::{Error, Kind, Result};
use crate::base::time::Time;
use crate::cli::args::{JsonOption, WorkersAdaptArgs};
use crate::cli::context::{Context, run_short};
use crate::cli::output::say;
use crate::cli::signals::Requests;
use crate::client::Client;
use crate::launch::adapt::{
    Action, Adapter, Condition, Demand, Observation, Others, Policy, Seen, Shape, wanted,
};
use crate::launch::dialect::System;
use crate::launch::jobs::{self, Record};
use crate::net::discovery::Wish;
use crate::protocol::messages::client::Question;
use nix::fcntl::Flock;
use serde_json::Value;
use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

/// Failures in a row after which it is given up.
const FAILURES: u32 = 5;
/// The longest pause between attempts, and between questions to the batch system.
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// `workers adapt`
pub(in crate::cli) fn adapt(context: &Context, args: &WorkersAdaptArgs) -> Result<u8> {
    if args.stop {
        return lasting::stop(context, &args.pool.scheduler);
    }
    if args.in_scheduler {
        return lasting::order(context, &args.pool.scheduler);
    }
    let interval = args.interval.0.max(Duration::from_millis(100));
    let names: Vec<Option<&str>> = match args.pool.pool.is_empty() {
        true => vec![None],
        false => args.pool.pool.iter().map(|name| Some(name.as_str())).collect(),
    };
    let mut starts = Vec::new();
    for name in names {
        let start = args.pool.start_args(name, JsonOption::default());
        let mut start = pools::apply(context, &start)?.unwrap_or(start);
        start.jobs.per_job = None;
        starts.push((pool::system(context, &args.pool, start.placement.launcher)?, start));
    }
    let mut members = Vec::new();
    for (system, start) in &starts {
        let submitter = Submitter::new(context, start, *system)?;
        if let Some(code) = submitter.only_asked()? {
            return Ok(code);
        }
        can_submit(*system)?;
        members.push(Member::new(submitter, args, starts.len() == 1, interval)?);
    }
    let begin = Instant::now();
    let wish = context.wish(&args.pool.scheduler)?;
    let min_work_ms = u64::try_from(args.min_work.0.as_millis()).unwrap_or(u64::MAX);
    let Some(first) = members.first() else { return Err(Error::new(Kind::Usage, "there is no pool")) };
    let paths = (first.submitter.path.clone(), first.submitter.directory.clone());
    let names: Vec<String> = members.iter().filter_map(Member::name).collect();
    let notes = Notes::begin(&paths.1, &names, args.by_scheduler.as_deref())?;
    let shell = Shell { context, members, wish, min_work_ms, begin, path: paths.0, notes };
    for member in &shell.members {
        let (jobs, _) = member.adapter.counts();
        let (min, max) = member.bounds;
        let of = member.name().map(|name| format!(" in pool {name}")).unwrap_or_default();
        let system = member.submitter.system;
        shell.line(&format!("{min} to {max} jobs of {system}{of}, {jobs} there; Ctrl-C leaves all as it is"));
    }
    run_short(shell.run(interval))
}

/// Whether this host has the batch system's program, before anything else is done.
fn can_submit(system: System) -> Result<()> {
    let program = system.submitter();
    let path = std::env::var_os("PATH").unwrap_or_default();
    match std::env::split_paths(&path).any(|directory| directory.join(program).is_file()) {
        true => Ok(()),
        false => Err(Error::new(Kind::Launch, format!("there is no {program} here"))
            .hint("jobs are submitted from a login node: run `workers adapt` there, without --in-scheduler")),
    }
}

/// Jobs of one kind, and the policy about them.
struct Member<'a> {
    submitter: Submitter<'a>,
    adapter: Adapter,
    /// What a worker of these jobs offers, as far as is known.
    shape: Option<Shape>,
    /// Workers of each job.
    per_job: u32,
    /// Least and most jobs.
    bounds: (u32, u32),
    _lock: Option<Flock<File>>,
}

impl<'a> Member<'a> {
    fn new(
        submitter: Submitter<'a>,
        args: &WorkersAdaptArgs,
        is_only_one: bool,
        interval: Duration,
    ) -> Result<Member<'a>> {
        let lock = pool::lock(&submitter)?;
        let own = submitter.pool.as_ref();
        // What is said about all of several pools is for those that say nothing.
        let choose =
            |given: Option<u32>, own: Option<u32>| if is_only_one { given.or(own) } else { own.or(given) };
        let min = choose(args.min, own.and_then(|p| p.min)).unwrap_or(0);
        let Some(max) = choose(args.max, own.and_then(|p| p.max)) else {
            return Err(Error::new(Kind::Usage, "how many jobs there may be is not said")
                .hint("--max N, or `max` in the pool's table of the configuration"));
        };
        let max = max.min(submitter.settings.max_jobs.unwrap_or(max));
        if min > max {
            let what = format!("the least number of jobs, {min}, is more than the most, {max}");
            return Err(Error::new(Kind::Usage, what));
        }
        let request = submitter.request(&Place::new(&submitter.directory))?;
        let poll = submitter.settings.poll_interval_of(submitter.system);
        let policy = Policy {
            min,
            max,
            max_pending: submitter.settings.max_pending.unwrap_or(u32::MAX),
            per_job: request.nodes,
            idle: args.shrink_after.0,
            retry: interval,
            retry_max: PAUSE_MAX,
            failures: FAILURES,
            poll,
            poll_max: PAUSE_MAX.max(poll),
        };
        let shape = request.cpus.map(|cpus| Shape {
            threads: f64::from(cpus),
            memory: request.memory,
            // What a worker of these jobs offers is known when there is one.
            resources: None,
        });
        let there = pool::conditions(&pool::open(&submitter.directory, own)?)?;
        let there = there.into_iter().filter(|(_, c)| !matches!(c, Condition::Over { .. })).map(|(id, _)| id);
        let adapter = Adapter::new(policy, there);
        let per_job = request.nodes;
        Ok(Member { submitter, adapter, shape, per_job, bounds: (min, max), _lock: lock })
    }

    /// The pool's name.
    fn name(&self) -> Option<String> {
        self.submitter.pool.as_ref().map(|pool| pool.name.clone())
    }

    fn open(&self) -> Result<Vec<(PathBuf, Record)>> {
        pool::open(&self.submitter.directory, self.submitter.pool.as_ref())
    }

    /// What the scheduler's answers mean for these jobs, beside others and all jobs of ours.
    fn look(
        &mut self,
        demand: &Demand,
        status: &Value,
        all: &[Vec<Record>],
        at: usize,
        mut others: Others,
    ) -> Observation {
        let mut workers = Vec::new();
        let ours = |id: &str, which: &[Record]| which.iter().any(|r| r.id == id);
        for w in status["workers"].as_array().into_iter().flatten() {
            let id = w["job-id"].as_str();
            let job = id.filter(|id| ours(id, &all[at]));
            let count = |key: &str| w[key].as_u64().unwrap_or(0);
            let threads = w["threads"].as_f64().unwrap_or(0.0);
            let leaving = w["state"] == "retiring";
            if job.is_some() {
                let resources = serde_json::from_value(w["resources"].clone()).unwrap_or_default();
                let memory = w["memory"]["limit"].as_u64();
                self.shape = Some(Shape { threads, memory, resources: Some(resources) });
            } else if !leaving && !id.is_some_and(|id| all.iter().any(|which| ours(id, which))) {
                others.workers += 1;
                others.threads += threads;
            }
            workers.push(Seen {
                job: job.map(str::to_owned),
                busy: count("executing") + count("queued") > 0,
                holds: count("results") > 0,
                leaving,
            });
        }
        Observation::Cluster { wanted: wanted(demand, self.shape.as_ref(), self.per_job, others), workers }
    }

    /// What those after it need not bring: the workers of the jobs that it is to have.
    fn help(&self, seen: &Observation) -> Others {
        let Observation::Cluster { wanted, .. } = seen else { return Others::default() };
        let workers = wanted.jobs.clamp(self.bounds.0, self.bounds.1).saturating_mul(self.per_job);
        let threads = self.shape.as_ref().map_or(0.0, |shape| shape.threads) * f64::from(workers);
        Others { workers, threads }
    }
}

struct Shell<'a> {
    context: &'a Context,
    /// The first is filled first.
    members: Vec<Member<'a>>,
    wish: Wish,
    min_work_ms: u64,
    begin: Instant,
    path: PathBuf,
    notes: Notes,
}

impl Shell<'_> {
    /// Prints a line with the time, and notes it.
    fn line(&self, text: &str) {
        say(&format!("{} {text}", humantime::format_rfc3339_seconds(SystemTime::now())));
        self.notes.last(text);
    }

    async fn run(mut self, interval: Duration) -> Result<u8> {
        let mut requests = Requests::listen()?;
        let mut silent = false;
        loop {
            let step = tokio::select! {
                step = self.step() => step,
                name = requests.next() => return self.leave(name),
            };
            match step {
                Ok(None) => silent = false,
                Ok(Some(why)) => {
                    self.notes.ended(&why);
                    return Err(Error::new(Kind::Launch, why)
                        .hint("jobs and workers stay as they are; start it again when the cause is gone"));
                }
                Err(_) if !self.path.exists() => {
                    self.line("the cluster has ended");
                    return Ok(0);
                }
                Err(e) => {
                    if !std::mem::replace(&mut silent, true) {
                        self.line(&format!("the scheduler does not answer, nothing changes: {}", e.message));
                    }
                }
            }
            if self.notes.is_orphan() {
                return self.leave("the scheduler's process has ended");
            }
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                name = requests.next() => return self.leave(name),
            }
        }
    }

    fn leave(&self, signal: &str) -> Result<u8> {
        let counts = self.members.iter().map(|member| member.adapter.counts());
        let (jobs, workers) = counts.fold((0, 0), |sum, (jobs, workers)| (sum.0 + jobs, sum.1 + workers));
        self.line(&format!(
            "{signal}: {jobs} jobs with {workers} workers stay as they are; run `hpcdag workers adapt` \
                       to go on, `hpcdag workers scale 0` to end them"
        ));
        self.notes.over();
        Ok(0)
    }

    fn now(&self) -> Time {
        Time::ZERO.after(self.begin.elapsed())
    }

    /// Looks once and does what is to be done; why it is given up, if it is.
    async fn step(&mut self) -> Result<Option<String>> {
        // Otherwise it would be waited for.
        if !self.path.exists() {
            return Err(Error::new(Kind::NoScheduler, "its scheduler file is gone"));
        }
        let client = Client::open(&self.path, &self.wish, &self.context.loaded.config).await?;
        let demand = client.ask(Question::Demand { min_work_ms: self.min_work_ms }).await?;
        let status = client.ask(Question::Status).await?;
        let demand: Demand = serde_json::from_value(demand)
            .map_err(|e| Error::new(Kind::Internal, format!("the scheduler's answer makes no sense: {e}")))?;
        // What was ordered is noted before anybody may be interrupted.
        let stopped = self.act(&demand, &status, &client).await;
        client.close().await;
        stopped
    }

    async fn act(&mut self, demand: &Demand, status: &Value, client: &Client) -> Result<Option<String>> {
        let mut open: Vec<Vec<Record>> = Vec::new();
        for member in &self.members {
            open.push(member.open()?.into_iter().map(|(_, record)| record).collect());
        }
        let mut others = Others::default();
        for at in 0..self.members.len() {
            let seen = self.members[at].look(demand, status, &open, at, others);
            let help = self.members[at].help(&seen);
            others =
                Others { workers: others.workers + help.workers, threads: others.threads + help.threads };
            if let Some(why) = self.act_for(at, seen, &open[at], status, client).await {
                return Ok(Some(why));
            }
        }
        Ok(None)
    }

    /// Does what is to be done about one kind of jobs; why it is given up, if it is.
    async fn act_for(
        &mut self,
        at: usize,
        seen: Observation,
        open: &[Record],
        status: &Value,
        client: &Client,
    ) -> Option<String> {
        let now = self.now();
        let mut actions = self.members[at].adapter.handle(seen, now);
        while !actions.is_empty() {
            let (mut observations, mut cancel) = (Vec::new(), Vec::new());
            for action in actions.drain(..) {
                match action {
                    Action::Submit { jobs, why } => observations.extend(self.submit(at, jobs, &why)),
                    Action::Retire { id, why } => {
                        self.line(&format!("the workers of job {id} leave: {why}"));
                        retire(client, status, &id).await;
                    }
                    Action::Cancel { id, waiting, why } => {
                        self.line(&format!("cancelling job {id}: {why}"));
                        match open.iter().find(|r| r.id == id) {
                            Some(record) => cancel.push((record.clone(), waiting)),
                            // It is known to be over.
                            None => observations.push(Observation::Cancelled { id }),
                        }
                    }
                    Action::Query => observations.push(query(&self.members[at])),
                    Action::Say(what) => self.line(&what),
                    Action::Stop(why) => return Some(why),
                }
            }
            for ((record, _), fate) in cancel.iter().zip(pool::cancel(&cancel)) {
                let id = record.id.clone();
                observations.push(match fate {
                    Fate::Over => Observation::Cancelled { id },
                    Fate::Stayed(why) => Observation::Stayed { id, why },
                });
            }
            for observation in observations {
                actions.extend(self.members[at].adapter.handle(observation, now));
            }
        }
        None
    }

    fn submit(&self, at: usize, jobs: u32, why: &str) -> Vec<Observation> {
        let member = &self.members[at];
        let of = member.name().map(|name| format!(" in pool {name}")).unwrap_or_default();
        self.line(&format!("submitting {jobs}{of}: {why}"));
        let mut seen = Vec::new();
        for _ in 0..jobs {
            match member.submitter.submit(true) {
                Ok(record) => {
                    self.line(&format!("submitted job {}{of}, log {}", record.id, record.log));
                    seen.push(Observation::Submitted { id: record.id });
                }
                Err(e) if jobs::is_silence(&e.message) => {
                    seen.push(Observation::Unreached { said: e.message });
                    break;
                }
                Err(e) => {
                    seen.push(Observation::Refused { said: e.message });
                    break;
                }
            }
        }
        seen
    }
}

/// Asks the workers of a job to leave.
async fn retire(client: &Client, status: &Value, id: &str) {
    let names: Vec<String> = pool::workers_of(status, id).into_iter().map(str::to_owned).collect();
    // One that has gone meanwhile is as good; the next look tells.
    if !names.is_empty()
        && let Err(e) = client.ask(Question::StopWorkers { names }).await
    {
        tracing::debug!("{}", e.message);
    }
}

fn query(member: &Member) -> Observation {
    match member.open().and_then(|open| pool::conditions(&open)) {
        Ok(jobs) => Observation::Jobs(jobs),
        Err(e) => Observation::NoAnswer { said: e.message },
    }
}

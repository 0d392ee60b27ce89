//! `workers adapt`: drives the policy of `launch::adapt` between a scheduler and a batch system, in the
//! foreground. Owns what is printed about it; its end changes nothing.

use super::pool::{self, Fate};
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
use crate::launch::jobs::{self, Record};
use crate::net::discovery::Wish;
use crate::protocol::messages::client::Question;
use serde_json::Value;
use std::time::{Duration, Instant, SystemTime};

/// Failures in a row after which it is given up.
const FAILURES: u32 = 5;
/// The longest pause between attempts, and between questions to the batch system.
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// `workers adapt`
pub(in crate::cli) fn adapt(context: &Context, args: &WorkersAdaptArgs) -> Result<u8> {
    if args.min > args.max {
        let what = format!("--min {} is more than --max {}", args.min, args.max);
        return Err(Error::new(Kind::Usage, what));
    }
    let interval = args.interval.0.max(Duration::from_millis(100));
    let system = pool::system(context, &args.pool)?;
    let mut start = args.pool.start_args(JsonOption::default());
    start.jobs.per_job = None;
    let submitter = Submitter::new(context, &start, system)?;
    if let Some(code) = submitter.only_asked()? {
        return Ok(code);
    }
    let _lock = pool::lock(&submitter)?;
    let request = submitter.request(&Place::new(&submitter.directory))?;
    let policy = Policy {
        min: args.min,
        max: args.max,
        max_pending: submitter.settings.max_pending.unwrap_or(u32::MAX),
        per_job: request.nodes,
        idle: args.shrink_after.0,
        retry: interval,
        retry_max: PAUSE_MAX,
        failures: FAILURES,
        poll: system.poll_interval(),
        poll_max: PAUSE_MAX,
    };
    let shape = request.cpus.map(|cpus| Shape {
        threads: f64::from(cpus),
        memory: request.memory,
        // What a worker of these jobs offers is known when there is one.
        resources: None,
    });
    let there = pool::conditions(&pool::open(&submitter.directory)?)?;
    let there = there.into_iter().filter(|(_, c)| !matches!(c, Condition::Over { .. })).map(|(id, _)| id);
    let adapter = Adapter::new(policy, there);
    let (jobs, _) = adapter.counts();
    line(&format!("{} to {} jobs of {system}, {jobs} there; Ctrl-C leaves all as it is", args.min, args.max));
    let wish = context.wish(&args.pool.scheduler)?;
    let min_work_ms = u64::try_from(args.min_work.0.as_millis()).unwrap_or(u64::MAX);
    let shell = Shell {
        context,
        submitter: &submitter,
        wish,
        adapter,
        shape,
        min_work_ms,
        per_job: request.nodes,
        begin: Instant::now(),
    };
    run_short(shell.run(interval))
}

/// Prints a line with the time.
fn line(text: &str) {
    say(&format!("{} {text}", humantime::format_rfc3339_seconds(SystemTime::now())));
}

struct Shell<'a> {
    context: &'a Context,
    submitter: &'a Submitter<'a>,
    wish: Wish,
    adapter: Adapter,
    /// What a worker of these jobs offers, as far as is known.
    shape: Option<Shape>,
    min_work_ms: u64,
    /// Workers of each job.
    per_job: u32,
    begin: Instant,
}

impl Shell<'_> {
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
                    return Err(Error::new(Kind::Launch, why)
                        .hint("jobs and workers stay as they are; start it again when the cause is gone"));
                }
                Err(_) if !self.submitter.path.exists() => {
                    line("the cluster has ended");
                    return Ok(0);
                }
                Err(e) => {
                    if !std::mem::replace(&mut silent, true) {
                        line(&format!("the scheduler does not answer, nothing changes: {}", e.message));
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                name = requests.next() => return self.leave(name),
            }
        }
    }

    fn leave(&self, signal: &str) -> Result<u8> {
        let (jobs, workers) = self.adapter.counts();
        line(&format!(
            "{signal}: {jobs} jobs with {workers} workers stay as they are; run `hpcdag workers adapt` \
                       to go on, `hpcdag workers scale 0` to end them"
        ));
        Ok(0)
    }

    fn now(&self) -> Time {
        Time::ZERO.after(self.begin.elapsed())
    }

    /// Looks once and does what is to be done; why it is given up, if it is.
    async fn step(&mut self) -> Result<Option<String>> {
        // Otherwise it would be waited for.
        if !self.submitter.path.exists() {
            return Err(Error::new(Kind::NoScheduler, "its scheduler file is gone"));
        }
        let client = Client::open(&self.submitter.path, &self.wish, &self.context.loaded.config).await?;
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
        let open: Vec<Record> =
            pool::open(&self.submitter.directory)?.into_iter().map(|(_, record)| record).collect();
        let seen = self.look(demand, status, &open);
        let now = self.now();
        let mut actions = self.adapter.handle(seen, now);
        while !actions.is_empty() {
            let (mut observations, mut cancel) = (Vec::new(), Vec::new());
            for action in actions.drain(..) {
                match action {
                    Action::Submit { jobs, why } => observations.extend(self.submit(jobs, &why)),
                    Action::Retire { id, why } => {
                        line(&format!("the workers of job {id} leave: {why}"));
                        let names: Vec<String> =
                            pool::workers_of(status, &id).into_iter().map(str::to_owned).collect();
                        // One that has gone meanwhile is as good; the next look tells.
                        if !names.is_empty()
                            && let Err(e) = client.ask(Question::StopWorkers { names }).await
                        {
                            tracing::debug!("{}", e.message);
                        }
                    }
                    Action::Cancel { id, waiting, why } => {
                        line(&format!("cancelling job {id}: {why}"));
                        match open.iter().find(|r| r.id == id) {
                            Some(record) => cancel.push((record.clone(), waiting)),
                            // It is known to be over.
                            None => observations.push(Observation::Cancelled { id }),
                        }
                    }
                    Action::Query => observations.push(self.query()),
                    Action::Say(what) => line(&what),
                    Action::Stop(why) => return Ok(Some(why)),
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
                actions.extend(self.adapter.handle(observation, now));
            }
        }
        Ok(None)
    }

    /// What the scheduler's answers mean for jobs.
    fn look(&mut self, demand: &Demand, status: &Value, open: &[Record]) -> Observation {
        let (mut others, mut workers) = (Others::default(), Vec::new());
        for w in status["workers"].as_array().into_iter().flatten() {
            let job = w["job-id"].as_str().filter(|id| open.iter().any(|r| r.id == *id));
            let count = |key: &str| w[key].as_u64().unwrap_or(0);
            let threads = w["threads"].as_f64().unwrap_or(0.0);
            let leaving = w["state"] == "retiring";
            if job.is_some() {
                let resources = serde_json::from_value(w["resources"].clone()).unwrap_or_default();
                let memory = w["memory"]["limit"].as_u64();
                self.shape = Some(Shape { threads, memory, resources: Some(resources) });
            } else if !leaving {
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
        let per_job = self.per_job;
        Observation::Cluster { wanted: wanted(demand, self.shape.as_ref(), per_job, others), workers }
    }

    fn submit(&self, jobs: u32, why: &str) -> Vec<Observation> {
        line(&format!("submitting {jobs}: {why}"));
        let mut seen = Vec::new();
        for _ in 0..jobs {
            match self.submitter.submit(true) {
                Ok(record) => {
                    line(&format!("submitted job {}, log {}", record.id, record.log));
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

    fn query(&self) -> Observation {
        let answer = pool::open(&self.submitter.directory).and_then(|open| pool::conditions(&open));
        match answer {
            Ok(jobs) => Observation::Jobs(jobs),
            Err(e) => Observation::NoAnswer { said: e.message },
        }
    }
}

//! Growing and shrinking a cluster by jobs: how many jobs the work is worth, and a state machine that says
//! when to submit, retire, cancel and ask. Owns the policy only: it runs no program, opens no connection and
//! has no clock; whoever drives it tells it what is seen and does what it says.

mod wanted;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

pub use wanted::{Demand, Group, Others, Shape, Wanted, wanted};

use crate::base::time::Time;
use std::collections::BTreeMap;
use std::time::Duration;

/// What the user and the site allow.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Jobs that are there even when there is nothing to do.
    pub min: u32,
    /// Jobs that there are at most, waiting and leaving ones included.
    pub max: u32,
    /// Jobs that may wait in the batch system's queue at a time.
    pub max_pending: u32,
    /// Workers of each job.
    pub per_job: u32,
    /// How long a job has been of no use before it goes.
    pub idle: Duration,
    /// Pause after a refused submission; it doubles with each.
    pub retry: Duration,
    /// The longest such pause.
    pub retry_max: Duration,
    /// Failures in a row after which it is given up.
    pub failures: u32,
    /// Time between two questions to the batch system, at least; it doubles while nothing changes.
    pub poll: Duration,
    /// The longest time between two such questions.
    pub poll_max: Duration,
}

/// What is seen.
#[derive(Clone, Debug)]
pub enum Observation {
    /// What the scheduler says.
    Cluster {
        /// Jobs that the work is worth.
        wanted: Wanted,
        /// All connected workers.
        workers: Vec<Seen>,
    },
    /// The batch system has taken a job.
    Submitted {
        /// Its id.
        id: String,
    },
    /// It has not taken one.
    Refused {
        /// What it said.
        said: String,
    },
    /// It was not reached, so that it has neither taken nor refused one.
    Unreached {
        /// What was said.
        said: String,
    },
    /// The batch system's answer about jobs.
    Jobs(Vec<(String, Condition)>),
    /// It did not answer.
    NoAnswer {
        /// What it said.
        said: String,
    },
    /// A job that was to be cancelled is over.
    Cancelled {
        /// Its id.
        id: String,
    },
    /// A job that was to be cancelled is still there: it runs by now, or the batch system refused.
    Stayed {
        /// Its id.
        id: String,
        /// Why.
        why: String,
    },
}

/// A connected worker.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The job that it is in.
    pub job: Option<String>,
    /// Whether it has tasks.
    pub busy: bool,
    /// Whether it has results that somebody needs.
    pub holds: bool,
    /// Whether it is leaving.
    pub leaving: bool,
}

/// How a job is, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It waits for its turn.
    Waiting,
    /// It runs, or is about to.
    Running,
    /// It will not run any more.
    Over {
        /// How it ended, in words.
        how: String,
        /// What it logged last.
        logged: Option<String>,
    },
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Submit so many jobs, one after the other until one is refused.
    Submit {
        /// How many.
        jobs: u32,
        /// Why, for people.
        why: String,
    },
    /// Ask the workers of a job to leave.
    Retire {
        /// Its id.
        id: String,
        /// Why, for people.
        why: String,
    },
    /// Cancel a job.
    Cancel {
        /// Its id.
        id: String,
        /// Only if it has not started.
        waiting: bool,
        /// Why, for people.
        why: String,
    },
    /// Ask the batch system about all jobs in one question.
    Query,
    /// Tell the user.
    Say(String),
    /// Give up; jobs and workers stay as they are.
    Stop(String),
}

/// A job that was submitted.
#[derive(Clone, Debug)]
struct Job {
    /// The larger, the later it was submitted.
    number: u64,
    connected: u32,
    /// Whether one of its workers ever was.
    came: bool,
    condition: Condition,
    idle_since: Option<Time>,
    leaving: bool,
    /// Its cancellation was ordered and not answered.
    cancelling: bool,
    /// It could not be cancelled: no other attempt before.
    keep_until: Time,
    holds: bool,
}

/// The state machine.
#[derive(Debug)]
pub struct Adapter {
    policy: Policy,
    jobs: BTreeMap<String, Job>,
    next: u64,
    /// Submissions that were ordered and not answered.
    ordered: u32,
    surplus_since: Option<Time>,
    refusals: u32,
    /// Times in a row that the batch system was not reached.
    unreached: u32,
    /// Jobs in a row that ended before a worker of theirs had come.
    stillborn: u32,
    retry_at: Time,
    ask_since: Option<Time>,
    asked_at: Option<Time>,
    ask_every: Duration,
    stopped: bool,
}

impl Adapter {
    /// With jobs that are there already.
    pub fn new(policy: Policy, jobs: impl IntoIterator<Item = String>) -> Adapter {
        let mut adapter = Adapter {
            ask_every: policy.poll,
            policy,
            jobs: BTreeMap::new(),
            next: 0,
            ordered: 0,
            surplus_since: None,
            refusals: 0,
            unreached: 0,
            stillborn: 0,
            retry_at: Time::ZERO,
            ask_since: None,
            asked_at: None,
            stopped: false,
        };
        jobs.into_iter().for_each(|id| adapter.add(id));
        adapter
    }

    fn add(&mut self, id: String) {
        self.next += 1;
        let job = Job {
            number: self.next,
            connected: 0,
            came: false,
            condition: Condition::Waiting,
            idle_since: None,
            leaving: false,
            cancelling: false,
            keep_until: Time::ZERO,
            holds: false,
        };
        self.jobs.insert(id, job);
    }

    /// Takes note of something and returns what is to be done about it. `now` never goes back.
    #[must_use]
    pub fn handle(&mut self, observation: Observation, now: Time) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.stopped {
            return actions;
        }
        match observation {
            Observation::Cluster { wanted, workers } => self.on_cluster(&wanted, &workers, now, &mut actions),
            Observation::Submitted { id } => {
                self.ordered = self.ordered.saturating_sub(1);
                (self.refusals, self.unreached) = (0, 0);
                self.ask_every = self.policy.poll;
                self.add(id);
            }
            Observation::Refused { said } => {
                self.ordered = 0;
                self.refusals += 1;
                self.on_failure("refused submissions", self.refusals, &said, now, &mut actions);
            }
            Observation::Unreached { said } => {
                self.ordered = 0;
                self.unreached += 1;
                // Controllers are restarted: this is nobody's fault, and nothing is given up.
                let pause = self.pause(self.unreached);
                self.retry_at = now.after(pause);
                let pause = pause.as_secs_f64();
                actions.push(Action::Say(format!(
                    "{said}; jobs stay as they are, next attempt in {pause:.0} s"
                )));
            }
            Observation::Jobs(jobs) => self.on_jobs(jobs, now, &mut actions),
            Observation::NoAnswer { said } => {
                self.slow_down();
                actions.push(Action::Say(format!("{said}; what jobs do is not known, nothing changes")));
            }
            Observation::Cancelled { id } => drop(self.jobs.remove(&id)),
            Observation::Stayed { id, why } => {
                if let Some(job) = self.jobs.get_mut(&id) {
                    job.cancelling = false;
                    job.keep_until = now.after(self.policy.poll);
                    // If it still waits, the next question tells.
                    job.condition = Condition::Running;
                    actions.push(Action::Say(format!("job {id} stays: {why}")));
                }
            }
        }
        actions
    }

    /// How many jobs there are that are not leaving, and how many of their workers are connected.
    pub fn counts(&self) -> (u32, u32) {
        let staying = || self.jobs.values().filter(|job| !job.leaving);
        (staying().count() as u32, staying().map(|job| job.connected).sum())
    }

    fn on_cluster(&mut self, wanted: &Wanted, workers: &[Seen], now: Time, actions: &mut Vec<Action>) {
        self.look_at_workers(workers, now);
        let empty = |job: &Job| job.leaving && job.connected == 0 && !job.cancelling && now >= job.keep_until;
        for (id, job) in self.jobs.iter_mut().filter(|(_, job)| empty(job)) {
            job.cancelling = true;
            let why = "its workers have left".into();
            actions.push(Action::Cancel { id: id.clone(), waiting: false, why });
        }
        let target = wanted.jobs.clamp(self.policy.min, self.policy.max);
        let (alive, _) = self.counts();
        if target < alive {
            let since = *self.surplus_since.get_or_insert(now);
            if now.since(since) >= self.policy.idle {
                self.shrink(alive - target, wanted, workers, now, actions);
            }
        } else {
            self.surplus_since = None;
            self.grow(alive, target, wanted, now, actions);
        }
        self.ask(now, actions);
    }

    fn look_at_workers(&mut self, workers: &[Seen], now: Time) {
        for (id, job) in &mut self.jobs {
            let own = || workers.iter().filter(|w| w.job.as_ref() == Some(id));
            job.connected = own().count() as u32;
            job.holds = own().any(|w| w.holds);
            // Somebody else may have told them, or their time is up.
            job.leaving |= job.connected > 0 && own().all(|w| w.leaving);
            if job.connected > 0 && !job.came {
                job.came = true;
                job.condition = Condition::Running;
                self.stillborn = 0;
            }
            match job.connected > 0 && own().all(|w| !w.busy) {
                true => drop(job.idle_since.get_or_insert(now)),
                false => job.idle_since = None,
            }
        }
    }

    /// More jobs: twice as many at most, and by guesses only twice as many as have come.
    fn grow(&mut self, alive: u32, target: u32, wanted: &Wanted, now: Time, actions: &mut Vec<Action>) {
        if now < self.retry_at || self.ordered > 0 {
            return;
        }
        let policy = &self.policy;
        let come = self.jobs.values().filter(|job| !job.leaving && job.connected > 0).count() as u32;
        let sure = wanted.sure.clamp(policy.min, policy.max).min(alive.saturating_add(alive.max(1)));
        let guessed = target.min(come.saturating_mul(2).max(1));
        let waiting = self.jobs.values().filter(|job| job.condition == Condition::Waiting).count() as u32;
        let room = policy.max.saturating_sub(self.jobs.len() as u32);
        let queue = policy.max_pending.saturating_sub(waiting);
        let jobs = sure.max(guessed).min(target).saturating_sub(alive).min(room).min(queue);
        if jobs > 0 {
            let why = format!("{}; {target} wanted, {alive} there, {waiting} of them waiting", wanted.why);
            self.ordered = jobs;
            actions.push(Action::Submit { jobs, why });
        }
    }

    /// Fewer jobs: first those that wait, the latest first, then those whose workers have nothing to do.
    fn shrink(&mut self, n: u32, wanted: &Wanted, workers: &[Seen], now: Time, actions: &mut Vec<Action>) {
        let mut order: Vec<(u8, std::cmp::Reverse<u64>, String)> = Vec::new();
        for (id, job) in self.jobs.iter().filter(|(_, job)| !job.leaving && !job.cancelling) {
            let idle = job.idle_since.is_some_and(|since| now.since(since) >= self.policy.idle);
            let rank = match job.condition {
                Condition::Waiting => 0,
                _ if idle && !job.holds => 1,
                _ if idle => 2,
                _ => continue,
            };
            order.push((rank, std::cmp::Reverse(job.number), id.clone()));
        }
        order.sort();
        let mut staying = workers.iter().filter(|w| !w.leaving).count() as u32;
        for (rank, _, id) in order.into_iter().take(n as usize) {
            let Some(job) = self.jobs.get_mut(&id) else { continue };
            if rank == 0 {
                job.cancelling = true;
                let why = format!("not needed any more: {}", wanted.why);
                actions.push(Action::Cancel { id, waiting: true, why });
                continue;
            }
            // Results that somebody needs are handed to workers that stay.
            if job.holds && staying <= job.connected {
                continue;
            }
            staying = staying.saturating_sub(job.connected);
            job.leaving = true;
            let idle = self.policy.idle.as_secs();
            let why = format!("nothing to do for {idle} s: {}", wanted.why);
            actions.push(Action::Retire { id, why });
        }
    }

    fn on_jobs(&mut self, jobs: Vec<(String, Condition)>, now: Time, actions: &mut Vec<Action>) {
        let mut changed = false;
        for (id, condition) in jobs {
            let Some(job) = self.jobs.get_mut(&id) else { continue };
            let Condition::Over { how, logged } = condition else {
                changed |= job.condition != condition;
                job.condition = condition;
                continue;
            };
            changed = true;
            let (came, leaving) = (job.came, job.leaving);
            self.jobs.remove(&id);
            if leaving {
                continue;
            }
            if came {
                actions.push(Action::Say(format!("job {id} is over: {how}")));
                continue;
            }
            self.stillborn += 1;
            let said = match logged {
                Some(line) => format!("job {id}: {how}; it logged: {line}"),
                None => format!("job {id}: {how}; it logged nothing"),
            };
            self.on_failure("jobs that ended before a worker came", self.stillborn, &said, now, actions);
        }
        if changed {
            self.ask_every = self.policy.poll;
        } else {
            self.slow_down();
        }
    }

    fn slow_down(&mut self) {
        self.ask_every = (self.ask_every * 2).min(self.policy.poll_max);
    }

    fn on_failure(&mut self, what: &str, n: u32, said: &str, now: Time, actions: &mut Vec<Action>) {
        if self.stopped {
            return;
        }
        if n >= self.policy.failures {
            self.stopped = true;
            actions.push(Action::Stop(format!("gave up after {n} {what} in a row, the last one: {said}")));
            return;
        }
        let pause = self.pause(n);
        self.retry_at = now.after(pause);
        actions.push(Action::Say(format!("{said}; next attempt in {:.0} s", pause.as_secs_f64())));
    }

    /// How long to wait after so many failures in a row.
    fn pause(&self, n: u32) -> Duration {
        self.policy.retry.saturating_mul(1 << n.saturating_sub(1).min(16)).min(self.policy.retry_max)
    }

    /// One question about all jobs when it is time, and none while the workers of all jobs are connected.
    fn ask(&mut self, now: Time, actions: &mut Vec<Action>) {
        let missing = |job: &Job| job.connected < self.policy.per_job && !job.cancelling;
        if !self.jobs.values().any(missing) {
            self.ask_since = None;
            self.ask_every = self.policy.poll;
            return;
        }
        let since = *self.ask_since.get_or_insert(now);
        let last = self.asked_at.map_or(since, |at| at.max(since));
        if now >= last.after(self.ask_every) {
            self.asked_at = Some(now);
            actions.push(Action::Query);
        }
    }
}

//! Long stories by chance: a batch system with a queue, refusals and dying jobs, work that comes and goes.
//! Owns the rules that hold in all of them; a seed brings a story back.

use super::*;
use std::collections::BTreeMap;

const STEP: u64 = 5;

struct Job {
    starts: u64,
    /// When its only worker came.
    worker: bool,
    told_to_leave: bool,
    dies: u64,
}

struct World {
    random: fastrand::Rng,
    jobs: BTreeMap<String, Job>,
    submitted: u32,
    deaths: u32,
    /// Seconds of work that are left, in tasks of a minute.
    tasks: u32,
}

impl World {
    fn live(&mut self, now: u64) {
        let mut busy = self.tasks;
        let mut dead = Vec::new();
        for (id, job) in &mut self.jobs {
            job.worker = now >= job.starts;
            if now >= job.dies || (job.told_to_leave && self.random.u32(0..3) == 0) {
                dead.push(id.clone());
            }
            if job.worker && busy > 0 {
                busy -= 1;
                // A minute, more or less.
                self.tasks -= u32::from(self.random.u64(0..60 / STEP) == 0);
            }
        }
        for id in dead {
            if let Some(job) = self.jobs.remove(&id) {
                self.deaths += u32::from(!job.told_to_leave);
            }
        }
    }

    fn observe(&self) -> Observation {
        let there = self.jobs.iter().filter(|(_, job)| job.worker);
        let see = |(k, (id, job)): (usize, (&String, &Job))| Seen {
            job: Some(id.clone()),
            busy: (k as u32) < self.tasks,
            holds: false,
            leaving: job.told_to_leave,
        };
        let wanted = Wanted { jobs: self.tasks, sure: self.tasks / 2, why: String::new() };
        Observation::Cluster { wanted, workers: there.enumerate().map(see).collect() }
    }

    /// Does what is to be done; what is seen of it.
    fn act(&mut self, action: Action, now: u64, refuses: bool, questions: &mut Vec<u64>) -> Vec<Observation> {
        let mut seen = Vec::new();
        match action {
            Action::Submit { jobs, .. } => {
                for _ in 0..jobs {
                    if refuses {
                        return vec![Observation::Refused { said: "no".into() }];
                    }
                    self.submitted += 1;
                    let id = self.submitted.to_string();
                    let starts = now + self.random.u64(0..120);
                    let dies = starts + self.random.u64(300..20_000);
                    self.jobs.insert(id.clone(), Job { starts, worker: false, told_to_leave: false, dies });
                    seen.push(Observation::Submitted { id });
                }
            }
            Action::Retire { id, .. } => {
                if let Some(job) = self.jobs.get_mut(&id) {
                    job.told_to_leave = true;
                }
            }
            Action::Cancel { id, waiting, .. } => {
                if waiting && self.jobs.get(&id).is_some_and(|job| now >= job.starts) {
                    return vec![Observation::Stayed { id, why: "runs".into() }];
                }
                self.jobs.remove(&id);
                seen.push(Observation::Cancelled { id });
            }
            Action::Query => {
                questions.push(now);
                let all = (1..=self.submitted).map(|k| k.to_string()).map(|id| {
                    let condition = match self.jobs.get(&id) {
                        None => Condition::Over { how: "gone".into(), logged: None },
                        Some(job) if now >= job.starts => Condition::Running,
                        Some(_) => Condition::Waiting,
                    };
                    (id, condition)
                });
                seen.push(Observation::Jobs(all.collect()));
            }
            Action::Say(_) => {}
            Action::Stop(why) => panic!("stopped: {why}"),
        }
        seen
    }
}

#[test]
fn bounds_hold_whatever_happens() {
    for seed in 0..100 {
        let mut random = fastrand::Rng::with_seed(seed);
        let max = random.u32(1..20);
        let policy = Policy {
            min: 0,
            max,
            max_pending: random.u32(1..20),
            per_job: 1,
            idle: Duration::from_secs(60),
            retry: Duration::from_secs(10),
            retry_max: Duration::from_secs(60),
            failures: 1000,
            poll: Duration::from_secs(30),
            poll_max: Duration::from_secs(300),
        };
        let mut world = World { random, jobs: BTreeMap::new(), submitted: 0, deaths: 0, tasks: 0 };
        let mut adapter = Adapter::new(policy, []);
        let (mut questions, mut loads, mut most) = (Vec::new(), 0, 0);
        for now in (0..20_000).step_by(STEP as usize) {
            // Loads of an hour and a quarter, with pauses; in the last part there is nothing to do.
            if now % 4500 == 0 && now < 15_000 {
                world.tasks += max * 20;
                loads += 1;
            }
            world.live(now);
            let refuses = world.random.u32(0..20) == 0;
            let mut seen = vec![world.observe()];
            while let Some(observation) = seen.pop() {
                for action in adapter.handle(observation, at(now)) {
                    seen.extend(world.act(action, now, refuses, &mut questions));
                    assert!(world.jobs.len() as u32 <= max, "seed {seed}: more than {max} jobs at {now}");
                }
            }
            most = most.max(world.jobs.len() as u32);
        }
        assert_eq!(world.tasks, 0, "seed {seed}: the work is done");
        assert!(world.jobs.is_empty(), "seed {seed}: {} jobs are left", world.jobs.len());
        assert_eq!(most, max, "seed {seed}: all that is allowed is used");
        let bound = loads * max + world.deaths;
        assert!(world.submitted <= bound, "seed {seed}: {} submissions, {bound} would do", world.submitted);
        let near = questions.windows(2).find(|pair| pair[1] - pair[0] < 30);
        assert!(near.is_none(), "seed {seed}: questions at {near:?}");
    }
}

fn at(seconds: u64) -> Time {
    Time::ZERO.after(Duration::from_secs(seconds))
}

//! Scenarios: what is seen, and what is to be done about it.

use super::*;

fn policy() -> Policy {
    Policy {
        min: 0,
        max: 8,
        max_pending: 100,
        per_job: 1,
        idle: Duration::from_secs(60),
        retry: Duration::from_secs(10),
        retry_max: Duration::from_secs(300),
        failures: 3,
        poll: Duration::from_secs(30),
        poll_max: Duration::from_secs(300),
    }
}

fn at(seconds: u64) -> Time {
    Time::ZERO.after(Duration::from_secs(seconds))
}

fn seen(job: u32, busy: bool) -> Seen {
    Seen { job: Some(job.to_string()), busy, ..Seen::default() }
}

fn want(jobs: u32, sure: u32, workers: &[Seen]) -> Observation {
    let wanted = Wanted { jobs, sure, why: "because".into() };
    Observation::Cluster { wanted, workers: workers.to_vec() }
}

struct Story {
    adapter: Adapter,
    /// Ids that the batch system has given.
    ids: u32,
}

impl Story {
    fn new(policy: Policy) -> Story {
        Story { adapter: Adapter::new(policy, []), ids: 0 }
    }

    /// What is done, in short; submissions are accepted.
    fn tell(&mut self, seconds: u64, observation: Observation) -> Vec<String> {
        let mut done = Vec::new();
        for action in self.adapter.handle(observation, at(seconds)) {
            done.push(match action {
                Action::Submit { jobs, .. } => {
                    for _ in 0..jobs {
                        self.ids += 1;
                        let id = self.ids.to_string();
                        assert_eq!(self.adapter.handle(Observation::Submitted { id }, at(seconds)), []);
                    }
                    format!("submit {jobs}")
                }
                Action::Retire { id, .. } => format!("retire {id}"),
                Action::Cancel { id, waiting, .. } => format!("cancel {id} {waiting}"),
                Action::Query => "query".into(),
                Action::Say(what) => format!("say {what}"),
                Action::Stop(why) => format!("stop {why}"),
            });
        }
        done
    }
}

#[test]
fn known_work_doubles_at_each_step_up_to_the_maximum() {
    let mut s = Story::new(policy());
    let steps: Vec<_> = (0..6).map(|k| s.tell(k, want(100, 100, &[]))).collect();
    assert_eq!(steps[..5], [vec!["submit 1"], vec!["submit 1"], vec!["submit 2"], vec!["submit 4"], vec![]]);
    assert_eq!(s.adapter.counts(), (8, 0), "never above the maximum, though all wait");
}

#[test]
fn guesses_wait_for_the_first_workers() {
    let mut s = Story::new(policy());
    assert_eq!(s.tell(0, want(100, 0, &[])), ["submit 1"]);
    assert_eq!(s.tell(10, want(100, 0, &[])), [""; 0]);
    assert_eq!(s.tell(20, want(100, 0, &[seen(1, true)])), ["submit 1"]);
    assert_eq!(s.tell(25, want(100, 0, &[seen(1, true), seen(2, true)])), ["submit 2"]);
    assert_eq!(
        s.tell(26, want(5, 5, &[seen(1, true), seen(2, true)])),
        ["submit 1"],
        "by what is known by now"
    );
}

#[test]
fn the_queue_is_not_filled_beyond_the_sites_limit() {
    let mut s = Story::new(Policy { max_pending: 2, ..policy() });
    let n: usize = (0..5).map(|k| s.tell(k, want(8, 8, &[])).len()).sum();
    assert_eq!((n, s.adapter.counts().0), (2, 2));
    s.tell(6, Observation::Jobs(vec![("1".into(), Condition::Running), ("2".into(), Condition::Waiting)]));
    assert_eq!(s.tell(7, want(8, 8, &[])), ["submit 1"]);
}

#[test]
fn idle_jobs_go_after_a_while_and_waiting_ones_first() {
    let mut s = Story::new(policy());
    s.tell(0, want(2, 2, &[]));
    s.tell(1, want(2, 2, &[]));
    s.tell(2, want(3, 3, &[seen(1, true)]));
    assert_eq!(s.adapter.counts(), (3, 1));
    let both = [seen(1, true), seen(2, false)];
    assert_eq!(s.tell(3, want(1, 1, &both)), [""; 0]);
    // Work comes back in between: the clock starts anew.
    assert_eq!(s.tell(50, want(3, 3, &both)), ["query"]);
    assert_eq!(s.tell(51, want(1, 1, &both)), [""; 0]);
    assert_eq!(s.tell(110, want(1, 1, &both)), ["query"]);
    assert_eq!(s.tell(112, want(1, 1, &both)), ["cancel 3 true", "retire 2"]);
    s.tell(112, Observation::Cancelled { id: "3".into() });
    let leaving = [seen(1, true), Seen { leaving: true, ..seen(2, false) }];
    assert_eq!(s.tell(113, want(1, 1, &leaving)), [""; 0]);
    assert_eq!(s.tell(114, want(1, 1, &leaving[..1])), ["cancel 2 false"]);
    s.tell(114, Observation::Cancelled { id: "2".into() });
    assert_eq!(s.adapter.counts(), (1, 1));
    assert_eq!(s.tell(500, want(0, 0, &leaving[..1])), [""; 0], "a busy one never goes");
}

#[test]
fn a_job_that_has_started_is_not_cancelled_as_waiting() {
    let mut s = Story::new(policy());
    s.tell(0, want(1, 1, &[]));
    s.tell(1, want(0, 0, &[]));
    assert!(s.tell(70, want(0, 0, &[])).contains(&"cancel 1 true".to_owned()));
    let stayed = Observation::Stayed { id: "1".into(), why: "it runs".into() };
    assert_eq!(s.tell(70, stayed), ["say job 1 stays: it runs"]);
    assert_eq!(s.tell(71, want(0, 0, &[seen(1, false)])), [""; 0]);
    assert_eq!(s.tell(132, want(0, 0, &[seen(1, false)])), ["retire 1"]);
}

#[test]
fn the_minimum_stays_and_so_does_the_last_holder_of_results() {
    let mut s = Story::new(Policy { min: 1, ..policy() });
    assert_eq!(s.tell(0, want(0, 0, &[])), ["submit 1"]);
    assert_eq!(s.tell(900, want(0, 0, &[seen(1, false)])), [""; 0]);
    let mut s = Story::new(policy());
    s.tell(0, want(1, 1, &[]));
    let holder = Seen { holds: true, ..seen(1, false) };
    s.tell(1, want(0, 0, std::slice::from_ref(&holder)));
    assert_eq!(s.tell(900, want(0, 0, std::slice::from_ref(&holder))), [""; 0], "nobody could take them");
    let other = Seen { job: None, ..holder.clone() };
    assert_eq!(s.tell(901, want(0, 0, &[holder, other])), ["retire 1"]);
}

#[test]
fn refusals_are_tried_again_ever_later_and_then_given_up() {
    let mut adapter = Adapter::new(policy(), []);
    let refused = || Observation::Refused { said: "no such partition".into() };
    assert!(matches!(adapter.handle(want(4, 4, &[]), at(0))[..], [Action::Submit { jobs: 1, .. }]));
    let said = adapter.handle(refused(), at(0));
    assert_eq!(said, [Action::Say("no such partition; next attempt in 10 s".into())]);
    assert_eq!(adapter.handle(want(4, 4, &[]), at(9)), []);
    assert_eq!(adapter.handle(want(4, 4, &[]), at(10)).len(), 1);
    assert_eq!(adapter.handle(refused(), at(10)).len(), 1);
    assert_eq!(adapter.handle(want(4, 4, &[]), at(29)), []);
    assert_eq!(adapter.handle(want(4, 4, &[]), at(30)).len(), 1);
    let given_up = "gave up after 3 refused submissions in a row, the last one: no such partition";
    assert_eq!(adapter.handle(refused(), at(30)), [Action::Stop(given_up.into())]);
    assert_eq!(adapter.handle(want(4, 4, &[]), at(9999)), []);
}

#[test]
fn a_batch_system_that_is_not_reached_is_tried_for_ever() {
    let mut adapter = Adapter::new(policy(), []);
    let mut now = 0;
    for k in 0..20u32 {
        let actions = adapter.handle(want(1, 1, &[]), at(now));
        assert!(matches!(actions[..], [Action::Submit { jobs: 1, .. }]), "{k}: {actions:?}");
        let said = adapter.handle(Observation::Unreached { said: "no answer".into() }, at(now));
        assert!(matches!(&said[..], [Action::Say(_)]), "{said:?}");
        now += 300;
    }
    assert_eq!(adapter.handle(want(1, 1, &[]), at(now)).len(), 1);
    assert_eq!(adapter.handle(Observation::Submitted { id: "1".into() }, at(now)), []);
    assert_eq!(adapter.counts(), (1, 0));
}

#[test]
fn jobs_that_die_at_once_are_failures_too() {
    let mut s = Story::new(policy());
    let mut said = Vec::new();
    for k in 0..3u32 {
        let begin = u64::from(k) * 100;
        assert_eq!(s.tell(begin, want(1, 1, &[])), ["submit 1"]);
        let over = Condition::Over { how: "failed".into(), logged: Some("no such program".into()) };
        said = s.tell(begin + 1, Observation::Jobs(vec![((k + 1).to_string(), over)]));
    }
    let words =
        "stop gave up after 3 jobs that ended before a worker came in a row, the last one: job 3: failed";
    assert!(said[0].starts_with(words), "{said:?}");
}

#[test]
fn questions_get_rarer_and_end_when_all_workers_are_there() {
    let mut s = Story::new(policy());
    s.tell(0, want(1, 1, &[]));
    let mut asked = Vec::new();
    for t in 1..2000 {
        if s.tell(t, want(1, 1, &[])) == ["query"] {
            asked.push(t);
            s.tell(t, Observation::Jobs(vec![("1".into(), Condition::Waiting)]));
        }
    }
    assert_eq!(asked, [31, 91, 211, 451, 751, 1051, 1351, 1651, 1951]);
    for t in 2000..4000 {
        assert_eq!(s.tell(t, want(1, 1, &[seen(1, true)])), [""; 0]);
    }
    // Its worker is gone: what became of the job?
    assert_eq!(s.tell(4000, want(1, 1, &[])), [""; 0]);
    assert_eq!(s.tell(4030, want(1, 1, &[])), ["query"]);
    let over = vec![("1".into(), Condition::Over { how: "ended by time limit".into(), logged: None })];
    assert_eq!(s.tell(4030, Observation::Jobs(over)), ["say job 1 is over: ended by time limit"]);
    assert_eq!(s.tell(4031, want(1, 1, &[])), ["submit 1"]);
}

#[test]
fn jobs_by_threads_memory_resources_and_what_others_do() {
    let group = |useful, guessed, threads, memory, gpus: f64| Group {
        tasks: useful + guessed,
        useful,
        guessed,
        nodes: 1,
        threads,
        memory,
        resources: if gpus > 0.0 { [("gpus".to_owned(), gpus)].into() } else { BTreeMap::new() },
    };
    let shape =
        Shape { threads: 8.0, memory: Some(64 << 30), resources: Some([("gpus".into(), 2.0)].into()) };
    let jobs = |groups: &[Group], per_job, others| {
        let tasks = groups.iter().map(|g| g.tasks).sum();
        let demand = Demand { tasks, groups: groups.to_vec(), ..Demand::default() };
        let wanted = wanted(&demand, Some(&shape), per_job, others);
        (wanted.sure, wanted.jobs)
    };
    let none = Others::default();
    assert_eq!(jobs(&[], 1, none), (0, 0));
    assert_eq!(jobs(&[group(16, 1, 1.0, 0, 0.0)], 1, none), (2, 3));
    assert_eq!(jobs(&[group(16, 1, 1.0, 0, 0.0)], 2, none), (1, 2));
    assert_eq!(jobs(&[group(6, 0, 3.0, 0, 0.0)], 1, none), (3, 3), "two at once, not two and two thirds");
    assert_eq!(jobs(&[group(6, 0, 1.0, 32 << 30, 0.0)], 1, none), (3, 3));
    assert_eq!(jobs(&[group(6, 0, 1.0, 0, 1.0)], 1, none), (3, 3));
    assert_eq!(jobs(&[group(6, 0, 1.0, 65 << 30, 0.0), group(1, 0, 9.0, 0, 0.0)], 1, none), (0, 0));
    let wide = Group { nodes: 3, ..group(2, 0, 1.0, 0, 0.0) };
    assert_eq!(jobs(&[wide], 1, none), (6, 6), "each takes whole workers");
    let others = Others { workers: 1, threads: 8.0 };
    assert_eq!(jobs(&[group(16, 0, 1.0, 0, 0.0), group(2, 0, 1.0, 0, 1.0)], 1, others), (2, 2));
    let unknown = |demand: &Demand, others| wanted(demand, None, 1, others).jobs;
    let some = Demand { tasks: 9, groups: vec![group(9, 0, 1.0, 0, 0.0)], ..Demand::default() };
    assert_eq!((unknown(&some, none), unknown(&some, others), unknown(&Demand::default(), none)), (1, 0, 0));
    let held = Demand { workers: 5, ..Demand::default() };
    assert_eq!((unknown(&held, none), unknown(&held, others)), (5, 4));
}

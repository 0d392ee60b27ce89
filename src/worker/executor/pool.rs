//! Slot threads: each runs one job at a time on an executor. Owns the threads, the queue in front of them and
//! the finished outcomes until they are taken; which jobs may run together is decided by the worker's core.

use super::control::{AwayNews, Control, lock};
use super::process::Wake;
use super::{Executor, Failure, FailureKind, Identified, Outcome, Told};
use crate::base::ids::{Attempt, TaskRef};
use rustc_hash::FxHashMap;
use smallvec::{SmallVec, smallvec};
use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A job that has ended.
#[derive(Debug)]
pub struct Finished {
    /// The task.
    pub task: TaskRef,
    /// The attempt at it.
    pub attempt: Attempt,
    /// The slot that it ran in, if it got that far.
    pub slot: Option<u32>,
    /// How it ended.
    pub outcome: Outcome,
}

/// Threads that run jobs.
pub struct Pool<J: Identified + Send + 'static> {
    shared: Arc<Shared<J>>,
}

type Id = (TaskRef, Attempt);

/// Jobs that a thread runs one after the other, mostly one, and how each is stopped.
struct Taken<J> {
    jobs: SmallVec<[J; 1]>,
    ids: SmallVec<[Id; 1]>,
    controls: SmallVec<[Arc<Control>; 1]>,
}

struct Shared<J> {
    executor: Arc<dyn Executor<J>>,
    notify: Arc<dyn Fn() + Send + Sync>,
    away: Arc<AwayNews>,
    state: Mutex<State<J>>,
    /// There is work, or an end.
    work: Condvar,
    /// A thread has ended.
    left: Condvar,
    finished: Mutex<Ended>,
}

/// Outcomes that nobody has taken yet.
#[derive(Default)]
struct Ended {
    outcomes: Vec<Finished>,
    /// Whether it was said that there are some.
    told: bool,
}

/// News of short jobs gather while so many more wait for each thread.
const WAITING_MIN: usize = 16;

/// Short jobs that a thread takes at once.
const TOGETHER_MAX: usize = 16;

struct State<J> {
    queue: VecDeque<J>,
    running: FxHashMap<Id, Arc<Control>>,
    threads: usize,
    started: usize,
    /// Threads that wait for work.
    idle: usize,
    closed: bool,
}

impl<J: Identified + Send + 'static> Pool<J> {
    /// Starts `threads` slots. `notify` is called, from a slot thread, whenever outcomes have come to be
    /// taken where there were none: one call for a batch, cheap and without blocking.
    pub fn start(
        threads: usize,
        executor: Arc<dyn Executor<J>>,
        notify: impl Fn() + Send + Sync + 'static,
    ) -> io::Result<Pool<J>> {
        let state = State {
            queue: VecDeque::new(),
            running: FxHashMap::default(),
            threads: 0,
            started: 0,
            idle: 0,
            closed: false,
        };
        let notify: Arc<dyn Fn() + Send + Sync> = Arc::new(notify);
        let shared = Arc::new(Shared {
            executor,
            away: Arc::new(AwayNews::new(notify.clone())),
            notify,
            state: Mutex::new(state),
            work: Condvar::new(),
            left: Condvar::new(),
            finished: Mutex::new(Ended::default()),
        });
        let pool = Pool { shared };
        pool.grow(threads)?;
        Ok(pool)
    }

    /// Makes it `threads` slots if there are fewer.
    pub fn grow(&self, threads: usize) -> io::Result<()> {
        let mut state = lock(&self.shared.state);
        while state.threads < threads && !state.closed {
            let (shared, wake) = (self.shared.clone(), Arc::new(Wake::new()?));
            let slot = u32::try_from(state.started).unwrap_or(u32::MAX);
            let name = format!("slot-{slot}");
            std::thread::Builder::new().name(name).spawn(move || shared.run_slot(slot, &wake))?;
            state.threads += 1;
            state.started += 1;
        }
        Ok(())
    }

    /// Number of slots.
    pub fn threads(&self) -> usize {
        lock(&self.shared.state).threads
    }

    /// Queues jobs. After `shutdown` they end as cancelled.
    pub fn submit(&self, jobs: impl IntoIterator<Item = J>) {
        let mut state = lock(&self.shared.state);
        if state.closed {
            drop(state);
            let late = jobs.into_iter().map(|job| job.id());
            self.shared.finish(late.map(|id| cancelled(id, Some("the worker is ending".into()))));
            return;
        }
        let before = state.queue.len();
        state.queue.extend(jobs);
        // Each wakes at most once for it: waking nobody would cost a system call as well.
        let wanted = (state.queue.len() - before).min(state.idle);
        drop(state);
        (0..wanted).for_each(|_| self.shared.work.notify_one());
    }

    /// Takes back the short jobs that wait.
    pub fn take_back(&self) -> Vec<J> {
        let mut state = lock(&self.shared.state);
        let (short, others) = state.queue.drain(..).partition(|job| job.is_short());
        let short: VecDeque<J> = short;
        state.queue = others;
        short.into()
    }

    /// The outcomes since the last call.
    pub fn take_finished(&self) -> Vec<Finished> {
        std::mem::take(&mut *lock(&self.shared.finished)).outcomes
    }

    /// Jobs that have begun to wait for other tasks, or gone on, since the last call.
    pub fn take_away(&self) -> Vec<(TaskRef, Attempt, bool)> {
        self.shared.away.take()
    }

    /// Stops a job: one that waits ends at once, one that runs is ended. Its outcome comes as usual. Whether
    /// it was here.
    pub fn cancel(&self, task: TaskRef, attempt: Attempt, why: Option<String>) -> bool {
        let id = (task, attempt);
        let mut state = lock(&self.shared.state);
        if let Some(control) = state.running.get(&id) {
            // Under the lock, so that the slot does not begin something else meanwhile.
            control.cancel(why);
            return true;
        }
        let Some(at) = state.queue.iter().position(|job| job.id() == id) else { return false };
        let job = state.queue.remove(at);
        drop(state);
        drop(job);
        self.shared.finish([cancelled(id, why)]);
        true
    }

    /// What is running, and the controls by which its processes and captures can be looked at.
    pub fn running(&self) -> Vec<(TaskRef, Attempt, Arc<Control>)> {
        lock(&self.shared.state).running.iter().map(|((t, a), c)| (*t, *a, c.clone())).collect()
    }

    /// Bytes in memory files that running jobs are still writing: they count as managed memory.
    pub fn captured_bytes(&self) -> u64 {
        self.running().iter().map(|(_, _, control)| control.captured_bytes()).sum()
    }

    /// Ends the pool: drops what waits (as cancelled), ends what runs if `kill`, and waits `patience` for the
    /// threads. Returns what still runs then: native functions that do not look, processes that cannot end.
    pub fn shutdown(&self, kill: bool, patience: Duration) -> Vec<(TaskRef, Attempt)> {
        let until = Instant::now() + patience;
        let why = || Some("the worker is ending".to_string());
        let mut state = lock(&self.shared.state);
        state.closed = true;
        let waiting: Vec<Id> = state.queue.drain(..).map(|job| job.id()).collect();
        if kill {
            state.running.values().for_each(|control| control.cancel(why()));
        }
        self.shared.work.notify_all();
        drop(state);
        self.shared.finish(waiting.into_iter().map(|id| cancelled(id, why())));
        let mut state = lock(&self.shared.state);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if state.threads == 0 || left.is_zero() {
                return state.running.keys().copied().collect();
            }
            let waited = self.shared.left.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl<J: Identified + Send + 'static> Drop for Pool<J> {
    /// Ends the threads without waiting for them.
    fn drop(&mut self) {
        self.shutdown(true, Duration::ZERO);
    }
}

fn cancelled((task, attempt): Id, why: Option<String>) -> Finished {
    let mut failure = Failure::new(FailureKind::Cancelled);
    failure.reason = why;
    Finished { task, attempt, slot: None, outcome: Outcome::failed(failure) }
}

impl<J: Identified> Shared<J> {
    fn finish(&self, new: impl IntoIterator<Item = Finished>) {
        self.note(new, false);
    }

    /// Keeps outcomes until they are taken; says that there are some unless that `can_wait` or was said.
    fn note(&self, new: impl IntoIterator<Item = Finished>, can_wait: bool) {
        let mut finished = lock(&self.finished);
        finished.outcomes.extend(new);
        let notify = !can_wait && !finished.told && !finished.outcomes.is_empty();
        finished.told |= notify;
        drop(finished);
        if notify {
            (self.notify)();
        }
    }

    fn run_slot(&self, slot: u32, wake: &Arc<Wake>) {
        let mut next = self.next((slot, wake), None);
        let panicked = |panic: Box<dyn std::any::Any + Send>| {
            let text = format!("the executor panicked: {}", panic_text(&*panic));
            Outcome::failed(Failure::new(FailureKind::Spawn(text)))
        };
        while let Some(Taken { mut jobs, ids, controls }) = next {
            let last = if jobs.len() == 1 { jobs.pop() } else { None };
            let Some(job) = last else {
                self.run_all(jobs.into_vec(), &ids, &controls, (slot, wake), panicked);
                next = self.next((slot, wake), None);
                continue;
            };
            // Executors catch panics of what they run; this is for their own faults.
            let run = AssertUnwindSafe(|| self.executor.run(job, &controls[0]));
            let outcome = catch_unwind(run).unwrap_or_else(panicked);
            let finished = Finished { task: ids[0].0, attempt: ids[0].1, slot: Some(slot), outcome };
            next = self.next((slot, wake), Some((finished, controls[0].clone())));
        }
        lock(&self.state).threads -= 1;
        self.left.notify_all();
    }

    /// Runs several. Those that come back are queued again.
    fn run_all(
        &self,
        jobs: Vec<J>,
        ids: &[Id],
        controls: &[Arc<Control>],
        (slot, wake): (u32, &Arc<Wake>),
        panicked: impl Fn(Box<dyn std::any::Any + Send>) -> Outcome,
    ) {
        let mut left: Vec<bool> = vec![true; ids.len()];
        let mut tell = |told: Told<J>| {
            let ended = match told {
                Told::Ended(ended) => ended,
                Told::Unbegun(back) => {
                    back.iter().for_each(|(place, _)| left[*place] = false);
                    self.queue_again(back, ids, controls);
                    return;
                }
            };
            let mut state = lock(&self.state);
            ended.iter().for_each(|(place, _)| drop(state.running.remove(&ids[*place])));
            drop(state);
            let finished = |(place, outcome): (usize, Outcome)| {
                left[place] = false;
                Finished { task: ids[place].0, attempt: ids[place].1, slot: Some(slot), outcome }
            };
            let finished: Vec<Finished> = ended.into_iter().map(finished).collect();
            self.note(finished, false);
        };
        let run = AssertUnwindSafe(|| self.executor.run_all(jobs, controls, &mut tell));
        let mut back = catch_unwind(run).unwrap_or_else(|panic| {
            let lost = panicked(panic).result.err().unwrap_or_else(|| Failure::new(FailureKind::Cancelled));
            let ends = (0..ids.len()).filter(|place| left[*place]);
            let ends: Vec<usize> = ends.collect();
            let ended = ends.iter().map(|place| {
                left[*place] = false;
                let outcome = Outcome::failed(lost.clone());
                Finished { task: ids[*place].0, attempt: ids[*place].1, slot: Some(slot), outcome }
            });
            let ended: Vec<Finished> = ended.collect();
            let mut state = lock(&self.state);
            ends.iter().for_each(|place| drop(state.running.remove(&ids[*place])));
            drop(state);
            self.note(ended, false);
            Vec::new()
        });
        back.iter_mut().for_each(|(_, job)| job.set_long());
        self.queue_again(back, ids, controls);
        let _state = lock(&self.state);
        if controls.iter().any(|control| control.is_cancelled()) {
            // Under the lock, so that no cancellation comes after it.
            wake.clear();
        }
    }

    /// Those that come back are the next ones again.
    fn queue_again(&self, back: Vec<(usize, J)>, ids: &[Id], controls: &[Arc<Control>]) {
        if back.is_empty() {
            return;
        }
        let mut ended = Vec::new();
        let mut state = lock(&self.state);
        for (place, job) in back.into_iter().rev() {
            state.running.remove(&ids[place]);
            match (state.closed || controls[place].is_cancelled(), controls[place].reason()) {
                (true, why) => ended.push(cancelled(ids[place], why)),
                (false, _) => {
                    state.queue.push_front(job);
                    if state.idle > 0 {
                        self.work.notify_one();
                    }
                }
            }
        }
        drop(state);
        self.finish(ended);
    }

    /// Takes leave of the job before, and waits for the next one. `None` at the end.
    fn next(
        &self,
        (slot, wake): (u32, &Arc<Wake>),
        before: Option<(Finished, Arc<Control>)>,
    ) -> Option<Taken<J>> {
        let mut state = lock(&self.state);
        if let Some((finished, control)) = before {
            state.running.remove(&(finished.task, finished.attempt));
            if control.is_cancelled() {
                // Under the lock, so that no cancellation comes after it.
                wake.clear();
            }
            let waiting = state.queue.len();
            let can_wait = waiting > WAITING_MIN * state.threads
                && state.queue.front().is_some_and(|job| job.is_short());
            let taken = self.take(&mut state, (slot, wake));
            drop(state);
            self.note([finished], can_wait);
            if taken.is_some() {
                return taken;
            }
            state = lock(&self.state);
        }
        loop {
            if let Some(taken) = self.take(&mut state, (slot, wake)) {
                return Some(taken);
            }
            if state.closed {
                return None;
            }
            state.idle += 1;
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }

    fn take(&self, state: &mut State<J>, (slot, wake): (u32, &Arc<Wake>)) -> Option<Taken<J>> {
        let job = state.queue.pop_front()?;
        let mut jobs: SmallVec<[J; 1]> = smallvec![job];
        if jobs[0].is_short()
            && let Some(mark) = self.executor.together(&jobs[0])
        {
            // The others get their share.
            let more = (state.queue.len() / state.threads.max(1)).min(TOGETHER_MAX - 1);
            let fits = |job: &J| job.is_short() && self.executor.together(job) == Some(mark);
            while jobs.len() <= more && state.queue.front().is_some_and(fits) {
                jobs.extend(state.queue.pop_front());
            }
        }
        let ids: SmallVec<[Id; 1]> = jobs.iter().map(Identified::id).collect();
        let begun = (slot, Instant::now());
        let control = |id: &Id| {
            let control = Arc::new(Control::of_job(*id, wake.clone(), begun, self.away.clone()));
            state.running.insert(*id, control.clone());
            control
        };
        let controls = ids.iter().map(control).collect();
        Some(Taken { jobs, ids, controls })
    }
}

/// What a panic said.
pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::RunId;
    use crate::worker::executor::Clock;
    use crate::worker::store::data::TaskResult;

    struct Test(u32, fn(&Control));

    impl Identified for Test {
        fn id(&self) -> Id {
            (TaskRef { run: RunId(1), index: self.0 }, Attempt { epoch: 1, n: 1 })
        }

        fn is_short(&self) -> bool {
            self.0 >= SHORT
        }
    }

    /// Tests from this number on are short jobs.
    const SHORT: u32 = 1000;

    struct Run;

    impl Executor<Test> for Run {
        fn run(&self, job: Test, control: &Control) -> Outcome {
            let clock = Clock::start();
            (job.1)(control);
            let result = match control.is_cancelled() {
                true => Err(Failure::new(FailureKind::Cancelled)),
                false => Ok(TaskResult::default()),
            };
            clock.outcome(result, Duration::ZERO, 0)
        }
    }

    fn pool(threads: usize) -> (Pool<Test>, std::sync::mpsc::Receiver<()>) {
        let (tx, rx) = std::sync::mpsc::channel();
        let notify = move || tx.send(()).unwrap_or_default();
        (Pool::start(threads, Arc::new(Run), notify).unwrap(), rx)
    }

    fn take(pool: &Pool<Test>, rx: &std::sync::mpsc::Receiver<()>, n: usize) -> Vec<Finished> {
        let mut all = Vec::new();
        while all.len() < n {
            rx.recv_timeout(Duration::from_secs(30)).expect("an outcome");
            all.extend(pool.take_finished());
        }
        all
    }

    #[test]
    fn every_job_ends_once() {
        let (pool, rx) = pool(3);
        pool.submit((0..500).map(|i| Test(i, |_| {})));
        let mut got: Vec<u32> = take(&pool, &rx, 500).iter().map(|f| f.task.index).collect();
        got.sort_unstable();
        assert!(got.into_iter().eq(0..500));
        assert!(pool.running().is_empty());
    }

    #[test]
    fn news_of_short_jobs_gather_and_all_are_told() {
        let (pool, rx) = pool(1);
        pool.submit((SHORT..SHORT + 100).map(|i| Test(i, |_| {})));
        assert_eq!(take(&pool, &rx, 100).len(), 100);
        // One for all of those that ended while many waited, then at most one for each.
        assert!(rx.try_iter().count() <= WAITING_MIN + 1);
    }

    #[test]
    fn short_jobs_that_wait_can_be_taken_back() {
        let (pool, rx) = pool(1);
        let wait: fn(&Control) = |control| {
            control.sleep(Duration::from_secs(60));
        };
        pool.submit([Test(1, wait), Test(SHORT, |_| {}), Test(2, |_| {}), Test(SHORT + 1, |_| {})]);
        while pool.running().is_empty() {
            std::thread::yield_now();
        }
        let back: Vec<u32> = pool.take_back().iter().map(|job| job.0).collect();
        assert_eq!(back, [SHORT, SHORT + 1]);
        assert!(pool.cancel(Test(1, wait).id().0, Test(1, wait).id().1, None));
        let ended: Vec<u32> = take(&pool, &rx, 2).iter().map(|f| f.task.index).collect();
        assert_eq!(ended, [1, 2]);
    }

    /// Runs short ones together: the first stays until something comes from the channel, the others are given
    /// back before.
    struct Stuck(std::sync::Mutex<std::sync::mpsc::Receiver<()>>);

    impl Executor<Test> for Stuck {
        fn run(&self, job: Test, control: &Control) -> Outcome {
            Run.run(job, control)
        }

        fn together(&self, _: &Test) -> Option<(usize, u32)> {
            Some((1, 1))
        }

        fn run_all(
            &self,
            mut jobs: Vec<Test>,
            controls: &[Arc<Control>],
            tell: &mut dyn FnMut(Told<Test>),
        ) -> Vec<(usize, Test)> {
            let first = jobs.remove(0);
            tell(Told::Unbegun((1..).zip(jobs).collect()));
            lock(&self.0).recv_timeout(Duration::from_secs(60)).unwrap();
            tell(Told::Ended(vec![(0, self.run(first, &controls[0]))]));
            Vec::new()
        }
    }

    #[test]
    fn those_behind_a_long_one_can_be_taken_back_while_it_runs() {
        let (tx, rx) = std::sync::mpsc::channel();
        let (go, wait) = std::sync::mpsc::channel();
        let executor = Arc::new(Stuck(std::sync::Mutex::new(wait)));
        let pool = Pool::start(1, executor, move || tx.send(()).unwrap_or_default()).unwrap();
        pool.submit((SHORT..SHORT + 4).map(|i| Test(i, |_| {})));
        let mut back = Vec::new();
        let begin = Instant::now();
        while back.len() < 3 {
            assert!(begin.elapsed() < Duration::from_secs(30), "{back:?}");
            // One that was not begun yet is not to be begun alone.
            if pool.running().len() + back.len() == 1 {
                back.extend(pool.take_back().iter().map(|job| job.0));
            }
            std::thread::yield_now();
        }
        assert_eq!(back, [SHORT + 1, SHORT + 2, SHORT + 3]);
        go.send(()).unwrap();
        assert_eq!(take(&pool, &rx, 1)[0].task.index, SHORT);
    }

    #[test]
    fn a_panic_does_not_cost_the_slot() {
        let (pool, rx) = pool(1);
        pool.submit([Test(1, |_| panic!("oh {}", 1)), Test(2, |_| {})]);
        let got = take(&pool, &rx, 2);
        let said = got[0].outcome.result.as_ref().unwrap_err().to_string();
        assert!(said.contains("oh 1"), "{said}");
        assert!(got[1].outcome.result.is_ok());
    }

    #[test]
    fn cancels_what_runs_and_what_waits_and_nothing_else() {
        let (pool, rx) = pool(1);
        let wait: fn(&Control) = |control| {
            control.sleep(Duration::from_secs(60));
        };
        pool.submit([Test(1, wait), Test(2, wait), Test(3, |_| {})]);
        let id = |index| Test(index, |_| {}).id();
        while pool.running().is_empty() {
            std::thread::yield_now();
        }
        for index in [2, 1] {
            assert!(pool.cancel(id(index).0, id(index).1, None));
        }
        assert!(!pool.cancel(id(7).0, id(7).1, None));
        let got: Vec<_> =
            take(&pool, &rx, 3).iter().map(|f| (f.task.index, f.outcome.result.is_ok())).collect();
        assert_eq!(got, [(2, false), (1, false), (3, true)]);
    }

    #[test]
    fn grows_and_shuts_down_without_hanging() {
        let (pool, rx) = pool(1);
        pool.submit([Test(1, |_| std::thread::sleep(Duration::from_millis(1500))), Test(2, |_| {})]);
        pool.grow(2).unwrap();
        assert_eq!(take(&pool, &rx, 1)[0].task.index, 2);
        let start = Instant::now();
        let stuck = pool.shutdown(true, Duration::from_millis(50));
        assert_eq!(stuck.len(), 1);
        assert!(start.elapsed() < Duration::from_millis(1000));
        pool.submit([Test(3, |_| {})]);
        assert_eq!(take(&pool, &rx, 1)[0].task.index, 3);
        assert!(pool.shutdown(true, Duration::from_secs(30)).is_empty());
        assert_eq!(pool.threads(), 0);
    }
}

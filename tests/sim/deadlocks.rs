//! The ways in which Dask clusters have been known to stop for ever, each played on our two cores. The
//! comments say what happened there, in our own words; each test goes on until the run has ended and
//! nothing is left.

use crate::graphs;
use crate::stage::{Stage, task};
use hpcdag::base::ids::{RunId, WorkerId};
use hpcdag::scheduler::core as sched;
use hpcdag::worker::core as work;
use sched::event::Event;
use sched::state::State;

/// Two workers, the first with everything in hand: one task executes there, others wait.
fn crowded() -> Stage {
    let mut stage = Stage::new(1);
    stage.submit(&graphs::independent(6));
    stage.exchange(0);
    stage.ends(0, true);
    stage.exchange(0);
    stage
}

/// Attempts of a worker that the scheduler could ask back.
fn attempts(
    stage: &Stage,
    w: u32,
    first: u32,
) -> Vec<(hpcdag::base::ids::TaskRef, hpcdag::base::ids::Attempt)> {
    let all = (first..6).map(|i| task(0, i));
    let there = all.filter(|t| {
        let at = stage.scheduler.explain(*t).and_then(|e| e.processing);
        at.is_some_and(|(at, _)| at == WorkerId(w))
    });
    let attempt = |t| stage.scheduler.explain(t).map_or(0, |e| e.attempts);
    there.map(|t| (t, hpcdag::base::ids::Attempt { epoch: 1, n: attempt(t) })).collect()
}

/// Stealing: the victim had begun the task when the request to give it back came, and its answer crossed
/// the news that it was running (dask/distributed#5379, #6159). The task then ran twice or belonged to
/// nobody.
#[test]
fn a_steal_request_comes_after_the_task_has_started() {
    let mut stage = crowded();
    let asked = attempts(&stage, 0, 0);
    stage.happen(0, work::event::Event::Steal(asked));
    stage.join(1, "w1");
    stage.exchange(1);
    stage.goes_well();
}

/// Stealing: a task that was taken from a worker came back to the same worker before the answer to the first
/// request was through (#6689, #5128).
#[test]
fn a_stolen_task_comes_back_to_its_victim() {
    let mut stage = crowded();
    let asked = attempts(&stage, 0, 0);
    stage.happen(0, work::event::Event::Steal(asked.clone()));
    stage.report(0);
    // Asked again, for attempts that are long over.
    stage.happen(0, work::event::Event::Steal(asked));
    stage.exchange(0);
    stage.goes_well();
}

/// Cancel and resume: a task was cancelled while its thread ran on, wanted again and given to the same worker
/// (#5503, #6112, #6673, #6893): the end of the first attempt was taken for the second's, or for none.
#[test]
fn a_cancelled_attempt_runs_on_while_the_task_is_there_again() {
    let mut stage = Stage::new(1);
    let run = stage.submit(&graphs::independent(1));
    stage.exchange(0);
    stage.tell(Event::RunCancelled { run, reason: "test".into() });
    stage.submit(&graphs::independent(1));
    stage.deliver(0);
    // The slot is taken by what was cancelled: the new task waits, and its end is its own.
    assert_eq!(stage.executing(0), [task(0, 0)]);
    stage.ends(0, true);
    assert_eq!(stage.executing(0), [task(1, 0)]);
    stage.goes_well();
}

/// Cancel and resume on the fetching side: an input was on its way, was given up and wanted again before the
/// fetch ended; the worker did not know any more which of the two it waited for (#6112, #6620).
#[test]
fn an_input_is_given_up_and_wanted_again_while_it_is_on_its_way() {
    let (mut stage, here, peer) = joining();
    // The only worker with one of the inputs is thought to be without it, and the task is called back.
    let input = task(0, u32::from(peer == 1));
    stage.tell(Event::OutputMissing { task: task(0, 0), holder: WorkerId(peer) });
    stage.tell(Event::OutputMissing { task: task(0, 1), holder: WorkerId(peer) });
    assert_ne!(stage.state(input), State::Memory);
    stage.deliver(here);
    stage.fetched(here, true);
    stage.goes_well();
}

/// Two workers with a result each, and a task on one of them that fetches the other's: the stage, that
/// worker and its peer.
fn joining() -> (Stage, u32, u32) {
    let mut stage = Stage::new(2);
    stage.submit(&graphs::all_of_two());
    for w in [0, 1] {
        stage.exchange(w);
    }
    for w in [0, 1] {
        stage.ends(w, true);
        stage.report(w);
    }
    for w in [0, 1] {
        stage.deliver(w);
    }
    let (here, peer) = if stage.is_fetching(1) { (1, 0) } else { (0, 1) };
    assert!(stage.is_fetching(here));
    (stage, here, peer)
}

/// Missing data: the peer died in the middle of a transfer, and the task waited for a result that was nowhere
/// (#4929, #5152, #5157).
#[test]
fn a_peer_dies_in_the_middle_of_a_fetch() {
    let (mut stage, here, peer) = joining();
    stage.lose(peer);
    stage.fetched(here, false);
    stage.join(2, "w2");
    stage.goes_well();
}

/// The same, where the worker that waits learns of it long before the scheduler does.
#[test]
fn a_fetch_fails_before_the_scheduler_knows_why() {
    let (mut stage, here, peer) = joining();
    stage.workers.remove(&WorkerId(peer));
    stage.fetched(here, false);
    stage.report(here);
    stage.deliver(here);
    stage.tell(Event::WorkerDisconnected { worker: WorkerId(peer), reason: "late".into(), expected: false });
    stage.goes_well();
}

/// Missing data: the list of holders was stale, the peer answered that it had no such result (#5786).
#[test]
fn a_peer_does_not_have_what_it_should_have() {
    let (mut stage, here, peer) = joining();
    stage.unreadable(peer, &[task(0, 0), task(0, 1)]);
    stage.fetched(here, false);
    stage.goes_well();
}

/// Missing data: the peer was leaving in order while it was asked for inputs (#6244).
#[test]
fn a_peer_leaves_while_it_is_asked_for_inputs() {
    let (mut stage, here, peer) = joining();
    stage.tell(Event::WorkerRetiring { worker: WorkerId(peer), reason: "test".into() });
    stage.fetched(here, true);
    stage.report(here);
    stage.exchange(peer);
    stage.goes_well();
    assert!(stage.dismissed.contains(&WorkerId(peer)));
}

/// A result that came over the wire could not be read, and the cluster stood still (#6705, still open).
/// Here a result that cannot be read is one that is not there: it is computed again.
#[test]
fn a_result_cannot_be_read_where_it_is_needed() {
    let (mut stage, here, _) = joining();
    stage.fetched(here, true);
    stage.unreadable(here, &[task(0, 0), task(0, 1)]);
    stage.goes_well();
}

/// After a failure, the same tasks in a later computation were stuck (#5497, #4784). Here tasks belong to
/// their run: the second submission has nothing to do with the first one's failure.
#[test]
fn the_same_graph_again_after_a_failure() {
    let mut stage = Stage::new(1);
    let mut graph = graphs::chain(2, 1);
    graph.layers.iter_mut().for_each(|layer| layer.retries = 0);
    stage.submit(&graph);
    stage.exchange(0);
    stage.ends(0, false);
    stage.submit(&graph);
    stage.goes_well();
}

/// Reconnection: a worker came back with its results and tasks, and both sides disagreed about them (#5103,
/// #5210, #5480, #6228, #6263, #6356); in the end it was forbidden (#6350). Here who comes back is a new
/// worker, whatever has become of the old connection.
#[test]
fn a_worker_comes_back_before_its_old_connection_has_ended() {
    let mut stage = Stage::new(1);
    stage.submit(&graphs::chain(3, 2));
    stage.exchange(0);
    stage.ends(0, true);
    let late = stage.report_of(0);
    stage.join(1, "w0");
    stage.arrives(0, late);
    stage.tell(Event::WorkerDisconnected { worker: WorkerId(0), reason: "late".into(), expected: false });
    stage.goes_well();
}

/// A message about an earlier assignment arrived after the task had been assigned anew, to the same worker,
/// and was believed (#8991). Here each assignment has a number, and what is said about another one is
/// ignored.
#[test]
fn the_end_of_an_earlier_attempt_arrives_after_the_next_was_given_out() {
    let mut stage = Stage::new(1);
    let mut graph = graphs::independent(1);
    graph.layers[0].retries = 5;
    stage.submit(&graph);
    stage.exchange(0);
    let (first, attempt) = *stage.workers[&WorkerId(0)].executing.first().expect("it executes");
    stage.ends(0, false);
    stage.report(0);
    stage.now = stage.now.after(std::time::Duration::from_secs(5));
    stage.tell(Event::Tick);
    stage.deliver(0);
    let nbytes = 100;
    let duration = std::time::Duration::from_millis(1);
    let late = sched::event::Finished { task: first, attempt, nbytes, duration };
    stage.arrives(0, sched::event::Report { finished: vec![late], ..Default::default() });
    assert_eq!(stage.state(first), State::Processing);
    stage.goes_well();
}

/// Memory: every worker was paused, each waiting for the others, for ever (#5235, #3761, #5999).
#[test]
fn every_worker_is_paused() {
    let mut stage = Stage::new(2);
    stage.submit(&graphs::chain(4, 2));
    [0, 1].iter().for_each(|w| stage.pause(*w, true));
    for _ in 0..200 {
        for w in [0, 1] {
            stage.exchange(w);
            stage.start_one(w);
            while !stage.executing(w).is_empty() {
                stage.ends(w, true);
            }
            while stage.is_fetching(w) {
                stage.fetched(w, true);
            }
            stage.report(w);
        }
    }
    assert!(stage.done.contains(&RunId(0)), "nothing goes on: {:?}", stage.scheduler.runs());
    stage.goes_well();
}

/// A worker that was closing was paused as well and stuck between the two (#6223, #6240).
#[test]
fn a_worker_leaves_while_it_is_paused() {
    let mut stage = Stage::new(2);
    stage.submit(&graphs::chain(4, 2));
    [0, 1].iter().for_each(|w| stage.exchange(*w));
    stage.pause(0, true);
    stage.tell(Event::WorkerRetiring { worker: WorkerId(0), reason: "test".into() });
    stage.pause(0, false);
    stage.goes_well();
    assert!(stage.dismissed.contains(&WorkerId(0)));
}

/// Queueing: what a queued task needed was released or lost while it was queued (#8703, #8769).
#[test]
fn an_input_of_a_queued_task_is_lost() {
    let (mut stage, here, peer) = joining();
    let sum = task(0, 2);
    assert_eq!(stage.state(sum), State::Processing);
    stage.lose(here);
    assert!(matches!(stage.state(sum), State::Waiting | State::Queued | State::Processing));
    stage.lose(peer);
    assert_eq!(stage.state(sum), State::Waiting);
    stage.join(2, "w2");
    stage.goes_well();
}

/// Queueing: a slot became free by something other than a success, and nobody looked at the queue (#7348 and
/// others): a failure, an end of a pause, a new worker.
#[test]
fn queued_tasks_are_remembered_whatever_frees_a_slot() {
    let mut stage = Stage::new(0);
    let mut graph = graphs::independent(40);
    graph.layers[0].retries = 0;
    stage.submit(&graph);
    stage.join(0, "w0");
    stage.exchange(0);
    assert!(!stage.executing(0).is_empty(), "a new worker gets work");
    stage.ends(0, false);
    stage.exchange(0);
    assert!(!stage.executing(0).is_empty(), "a failure frees a slot");
    stage.pause(0, true);
    stage.ends(0, true);
    stage.exchange(0);
    assert!(stage.executing(0).is_empty());
    stage.pause(0, false);
    stage.exchange(0);
    assert!(!stage.executing(0).is_empty(), "and so does the end of a pause");
    stage.goes_well();
}

/// Shuffle barriers: after a loss the barrier was open in one place and closed in another (#8091, #8094).
/// Here it is an all-to-all edge, counted once.
#[test]
fn a_barrier_closes_again_when_a_producer_is_lost() {
    let (mut stage, here, peer) = joining();
    stage.lose(peer);
    assert!(here != peer);
    assert_ne!(stage.state(task(0, 2)), State::Queued);
    stage.join(2, "w2");
    stage.goes_well();
}

/// Two graphs with the same key and different code got in each other's way (dask#9888, #8185, #4432).
#[test]
fn two_runs_of_the_same_names_do_not_meet() {
    let mut stage = Stage::new(2);
    stage.submit(&graphs::chain(3, 1));
    stage.submit(&graphs::stencil(3, 1));
    stage.goes_well();
}

/// Looking like a deadlock: few workers had taken all tasks and the others stood idle (#5635, dask#5475,
/// #4926).
#[test]
fn workers_that_come_late_get_their_share() {
    let mut stage = crowded();
    stage.join(1, "w1");
    for _ in 0..5 {
        [0, 1].iter().for_each(|w| stage.exchange(*w));
        stage.now = stage.now.after(std::time::Duration::from_millis(500));
        stage.tell(Event::Tick);
    }
    assert!(!stage.executing(1).is_empty(), "the new worker has nothing to do");
    stage.goes_well();
}

/// A task that held the interpreter's lock kept its worker from saying that it was alive; it was given up,
/// and its late result met the one of the next attempt (#6324, #8537, #8538).
#[test]
fn a_worker_is_given_up_for_silence_and_speaks_again() {
    let mut stage = Stage::new(1);
    stage.submit(&graphs::independent(2));
    stage.exchange(0);
    stage.ends(0, true);
    let late = stage.report_of(0);
    stage.now = stage.now.after(std::time::Duration::from_secs(100));
    stage.tell(Event::Tick);
    assert!(stage.workers.is_empty(), "it was not given up");
    stage.join(1, "w1");
    stage.arrives(0, late);
    stage.goes_well();
}

/// Of our own, found by the scenarios above: a worker fetched the inputs of its only task, another had
/// nothing to do, and the task was asked back before the inputs were there, given to the worker that had
/// most of them, which was the same one, and asked back again.
#[test]
fn what_is_about_to_start_is_not_taken_away() {
    let (mut stage, here, _) = joining();
    for _ in 0..100 {
        stage.now = stage.now.after(std::time::Duration::from_secs(1));
        stage.tell(Event::Heartbeat { worker: WorkerId(0), memory: None });
        stage.tell(Event::Heartbeat { worker: WorkerId(1), memory: None });
        stage.exchange(here);
    }
    assert_eq!(stage.scheduler.explain(task(0, 2)).map(|e| e.attempts), Some(1));
    stage.goes_well();
}

/// Of our own: a worker that was asked to leave had one task left; its run was cancelled, the worker had
/// nothing to say about that, and nobody told it that it could go.
#[test]
fn a_leaving_worker_is_let_go_when_its_last_task_is_cancelled() {
    let mut stage = Stage::new(2);
    let run = stage.submit(&graphs::independent(2));
    [0, 1].iter().for_each(|w| stage.exchange(*w));
    stage.tell(Event::WorkerRetiring { worker: WorkerId(0), reason: "test".into() });
    stage.exchange(0);
    assert!(stage.dismissed.is_empty());
    stage.tell(Event::RunCancelled { run, reason: "test".into() });
    assert!(stage.dismissed.contains(&WorkerId(0)));
    stage.goes_well();
}

/// Of our own: of a run that may hand out one task at a time, ready tasks waited for the one before them to
/// end. The place it left was kept for one that did not need it any more, and no other was let through.
#[test]
fn a_place_that_is_not_taken_goes_to_the_next() {
    let mut stage = Stage::new(2);
    let graph = graphs::all_of_two();
    let run = stage.submit_limited(&graph, 1);
    stage.exchange(0);
    stage.exchange(1);
    let first = if stage.executing(0).is_empty() { 1 } else { 0 };
    stage.lose(first);
    stage.join(2, "w2");
    stage.goes_well();
    assert!(stage.done.contains(&run));
}

/// Of our own: while a result was made, everything that needed it failed. The worker had been told to keep
/// it, and nobody told it otherwise.
#[test]
fn a_result_is_not_kept_for_tasks_that_have_failed() {
    let mut stage = Stage::new(2);
    let mut graph = graphs::all_of_two();
    graph.layers.iter_mut().for_each(|layer| layer.retries = 0);
    stage.submit(&graph);
    [0, 1].iter().for_each(|w| stage.exchange(*w));
    stage.ends(0, false);
    stage.report(0);
    stage.goes_well();
}

/// Of our own: a client had an output from a second holder when the first one turned out not to have it, and
/// was told of the output again.
#[test]
fn an_output_that_was_taken_is_not_announced_again() {
    let mut stage = Stage::new(1);
    let mut graph = graphs::chain(1, 1);
    graph.outputs = vec![hpcdag::base::ids::FamilyIx(0), hpcdag::base::ids::FamilyIx(1)];
    stage.submit(&graph);
    stage.exchange(0);
    let taken = stage.ends(0, true);
    stage.report(0);
    let announced = stage.announced;
    stage.tell(Event::OutputMissing { task: taken, holder: WorkerId(9) });
    assert_eq!(stage.announced, announced);
    stage.goes_well();
}

/// What a worker says about an attempt that another has in hand counts for nothing, though the number
/// is right.
#[test]
fn nobody_ends_the_attempt_of_another() {
    let mut stage = Stage::new(2);
    stage.submit(&graphs::independent(2));
    [0, 1].iter().for_each(|w| stage.exchange(*w));
    let (other, attempt) = *stage.workers[&WorkerId(1)].executing.first().expect("it executes");
    let duration = std::time::Duration::from_millis(1);
    let lie = sched::event::Finished { task: other, attempt, nbytes: 1, duration };
    stage.arrives(0, sched::event::Report { finished: vec![lie], ..Default::default() });
    assert_eq!(stage.state(other), State::Processing);
    stage.goes_well();
}

/// A copy that a leaving worker's result was to have could not be made: it is asked for again.
#[test]
fn a_copy_that_could_not_be_made_is_asked_for_again() {
    let mut stage = Stage::new(2);
    stage.submit(&graphs::all_of_two());
    [0, 1].iter().for_each(|w| stage.exchange(*w));
    stage.ends(0, true);
    stage.exchange(0);
    stage.tell(Event::WorkerRetiring { worker: WorkerId(0), reason: "test".into() });
    for _ in 0..3 {
        stage.deliver(1);
        assert!(stage.is_fetching(1), "nobody asks for the copy");
        stage.fetched(1, false);
        stage.report(1);
    }
    stage.goes_well();
    assert!(stage.dismissed.contains(&WorkerId(0)));
}

/// A worker that leaves finishes what it has begun and begins nothing more.
#[test]
fn a_leaving_worker_begins_nothing() {
    let mut stage = crowded();
    stage.join(1, "w1");
    stage.tell(Event::WorkerRetiring { worker: WorkerId(0), reason: "test".into() });
    stage.exchange(0);
    stage.ends(0, true);
    stage.exchange(0);
    assert!(stage.executing(0).is_empty());
    stage.goes_well();
}

/// A worker by itself, two threads, and one task in two attempts.
fn two_attempts() -> (work::Core, work::event::Assigned, work::event::Assigned) {
    let mut stage = Stage::new(1);
    stage.submit(&graphs::independent(1));
    let first = stage.assigned(0);
    let mut second = first.clone();
    second.attempt.n += 1;
    (work::Core::new(2 * hpcdag::graph::layer::SLOT), first, second)
}

/// Cancel and resume again (#6893): both attempts of a task execute at the same time, in two threads, and the
/// end of the first is not the end of the second.
#[test]
fn the_end_of_a_cancelled_attempt_is_not_that_of_the_next() {
    let (mut core, first, second) = two_attempts();
    let _ = core.handle(work::event::Event::Compute(vec![first.clone()]));
    let _ = core.handle(work::event::Event::Cancel(vec![(first.task, first.attempt)]));
    let _ = core.handle(work::event::Event::Compute(vec![second.clone()]));
    assert_eq!(core.executing(), 2);
    let done = |attempt| work::event::Done {
        task: first.task,
        attempt,
        outcome: Ok(1),
        memory: 1,
        duration: Default::default(),
    };
    let _ = core.handle(work::event::Event::Done(vec![done(first.attempt)]));
    assert!(core.take_report().finished.is_empty());
    let _ = core.handle(work::event::Event::Done(vec![done(second.attempt)]));
    assert_eq!(core.take_report().finished.len(), 1);
    core.check().expect("invariants");
}

/// An assignment that is older than what is in hand changes nothing; a newer one takes its place.
#[test]
fn the_newest_assignment_counts() {
    let (mut core, first, second) = two_attempts();
    let starts = |actions: Vec<work::event::Action>| {
        let start = |a: &work::event::Action| match a {
            work::event::Action::Start(start) => Some(start.attempt),
            _ => None,
        };
        actions.iter().find_map(start)
    };
    assert_eq!(starts(core.handle(work::event::Event::Compute(vec![first.clone()]))), Some(first.attempt));
    assert_eq!(starts(core.handle(work::event::Event::Compute(vec![second.clone()]))), Some(second.attempt));
    assert_eq!(starts(core.handle(work::event::Event::Compute(vec![first]))), None);
    core.check().expect("invariants");
}

//! `hpcdag bench core`: the scheduler's state machine alone, with workers that finish at once. Owns the
//! measured loop; nothing here opens a socket or starts a thread.

use super::figures::Figures;
use super::pretend::{DURATION_NS, Outcome, Pretended, RESULT_BYTES};
use super::shapes::{self, Work};
use super::usage;
use crate::base::error::{Error, Kind, Result};
use crate::base::ids::{Incarnation, RunId, RunUuid, WorkerId};
use crate::base::time::Time;
use crate::cli::args::{BenchCoreArgs, GraphOptions};
use crate::cli::output;
use crate::graph::Packed;
use crate::graph::layer::{Layer, SLOT};
use crate::scheduler::core::action::{Action, Batch, Summary};
use crate::scheduler::core::event::{Event, Finished, Report, RunSpec, WorkerSpec};
use crate::scheduler::core::{Core, Settings};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Steps between two looks at the heap.
const STEPS_PER_LOOK: u64 = 16;

/// The function whose instructions are counted, as callgrind finds it.
const COUNTED: &str = "*cli::bench::alone::step*";

/// Runs the command; returns the exit code.
///
/// # Errors
/// A run that does not end; what [`Figures::finish`] finds.
pub fn core(args: &BenchCoreArgs) -> Result<u8> {
    let mut figures = measure(&args.graph, args.nworkers)?;
    if args.count_instructions {
        let per_task = |n: u64| n as f64 / figures.tasks as f64;
        match count_instructions(args)? {
            Some(n) => figures = figures.clone().say("instructions_per_task", per_task(n)),
            None => output::say("valgrind is not installed: instructions were not counted"),
        }
    }
    figures.finish(&args.record)
}

/// Runs a graph on the core.
fn measure(options: &GraphOptions, nworkers: u32) -> Result<Figures> {
    let mut drive = Drive::new(nworkers);
    let heap = usage::heap_bytes();
    let graph = shapes::graph(options, &Work::none())?;
    let tasks = shapes::count(&graph);
    let graph = Arc::new(Packed::new(graph)?);
    let with_graph = usage::heap_bytes();
    let mut layers = Vec::new();
    graph.validate(|family, _| {
        layers.push(family.layer);
        Ok(())
    })?;
    let event = Event::RunSubmitted { client: None, run: RunId(0), spec: run_spec(&graph, layers) };
    let actions = drive.step(vec![event]);
    let submit = drive.wall;
    let known = usage::heap_bytes();
    drive.take(actions);
    drive.finish(tasks)?;
    let since = |at: Option<u64>, from: Option<u64>| Some(at?.saturating_sub(from?) as f64 / tasks as f64);
    let mut figures = Figures::new("core", tasks, drive.wall, drive.cpu)
        .with("shape", shapes::name(options.shape))
        .with("keys", shapes::name(options.keys))
        .with("nworkers", nworkers)
        .with("tasks", tasks)
        .say("submit_seconds", submit.as_secs_f64())
        .say("steps", drive.steps)
        .say("core_bytes_per_task", since(known, with_graph))
        .say("peak_bytes_per_task", since(drive.heap_peak, heap));
    figures.scheduler_bytes_per_task = since(known, heap);
    figures.exact = vec!["scheduler_bytes_per_task", "core_bytes_per_task", "instructions_per_task"];
    drop(graph);
    Ok(figures)
}

/// What the scheduler makes of a submitted graph.
pub(super) fn run_spec(graph: &Packed, layers: Vec<Layer>) -> RunSpec {
    RunSpec {
        uuid: RunUuid::nil(),
        name: graph.name.clone(),
        layers,
        names: graph.names().clone(),
        outputs: Vec::new(),
        detached: false,
        max_fails: None,
        max_processing: None,
        calls: None,
    }
}

/// One step of the core. A function of its own so that a profiler can count just this.
#[inline(never)]
fn step(core: &mut Core, events: Vec<Event>, now: Time) -> Vec<Action> {
    core.handle_all(events, now)
}

/// The core and its workers.
struct Drive {
    core: Core,
    now: Time,
    workers: Vec<Pretended>,
    /// What each worker is going to report.
    reports: Vec<Outcome>,
    ended: Option<Summary>,
    wall: Duration,
    cpu: Duration,
    steps: u64,
    heap_peak: Option<u64>,
}

impl Drive {
    fn new(nworkers: u32) -> Drive {
        let settings = Settings { story_limit: 0, ..Settings::default() };
        let mut drive = Drive {
            core: Core::new(1, settings),
            now: Time::ZERO,
            workers: (0..nworkers).map(|_| Pretended::default()).collect(),
            reports: (0..nworkers).map(|_| Outcome::default()).collect(),
            ended: None,
            wall: Duration::ZERO,
            cpu: Duration::ZERO,
            steps: 0,
            heap_peak: None,
        };
        let join = |w| Event::WorkerRegistered { worker: WorkerId(w), spec: worker_spec(w) };
        let actions = drive.step((0..nworkers).map(join).collect());
        drive.take(actions);
        (drive.wall, drive.cpu, drive.steps) = (Duration::ZERO, Duration::ZERO, 0);
        drive
    }

    fn step(&mut self, events: Vec<Event>) -> Vec<Action> {
        let (wall, cpu) = (Instant::now(), usage::cpu_of_thread());
        let actions = step(&mut self.core, events, self.now);
        self.wall += wall.elapsed();
        self.cpu += usage::cpu_of_thread().saturating_sub(cpu);
        self.steps += 1;
        actions
    }

    /// Goes on until the run has ended.
    fn finish(&mut self, tasks: u64) -> Result<()> {
        while self.ended.is_none() {
            let events = self.events();
            let actions = self.step(events);
            if self.steps < STEPS_PER_LOOK || self.steps.is_multiple_of(STEPS_PER_LOOK) {
                self.heap_peak = self.heap_peak.max(usage::heap_bytes());
            }
            self.take(actions);
        }
        let done = self.ended.as_ref().map_or(0, |s| s.done);
        if done != tasks {
            return Err(Error::os("the run is not whole", format!("{done} of {tasks} tasks are done")));
        }
        Ok(())
    }

    /// The reports of all workers that have something to say.
    fn events(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        let mut longest = 0;
        for (worker, outcome) in (0u32..).zip(&mut self.reports) {
            if outcome.is_empty() {
                continue;
            }
            let Outcome { finished, replicas, kept } = std::mem::take(outcome);
            longest = longest.max(finished.len() as u64);
            let duration = Duration::from_nanos(DURATION_NS);
            let finished = finished.into_iter().map(|(task, attempt)| Finished {
                task,
                attempt,
                nbytes: RESULT_BYTES,
                duration,
            });
            let report = Report { finished: finished.collect(), replicas, kept, ..Report::default() };
            events.push(Event::WorkerReport { worker: WorkerId(worker), report });
        }
        self.now = match events.is_empty() {
            false => self.now.after(Duration::from_nanos(longest.max(1) * DURATION_NS)),
            true => self.core.next_deadline().unwrap_or(self.now).max(self.now),
        };
        if events.is_empty() { vec![Event::Tick] } else { events }
    }

    fn take(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Compute { worker, batch } => self.compute(worker, &batch),
                Action::Free { worker, tasks } => self.workers[worker.index()].free(&tasks),
                Action::Steal { worker, attempts } => self.reports[worker.index()].kept.extend(attempts),
                Action::Replicate { worker, tasks, .. } => {
                    self.reports[worker.index()].replicas.extend(tasks.into_iter().map(|(task, _)| task));
                }
                Action::RunDone { summary, .. } => self.ended = Some(summary),
                Action::Cancel { .. }
                | Action::Dismiss { .. }
                | Action::Drop { .. }
                | Action::Outputs { .. }
                | Action::CallsFailed { .. }
                | Action::CallsLost { .. }
                | Action::Spent { .. }
                | Action::AttemptFailed { .. }
                | Action::Save { .. } => {}
            }
        }
    }

    fn compute(&mut self, worker: WorkerId, batch: &Batch) {
        let (pretended, outcome) = (&mut self.workers[worker.index()], &mut self.reports[worker.index()]);
        let mut holders = 0;
        for input in &batch.inputs {
            let of_input = &batch.holders[holders..input.holders_end as usize];
            pretended.input(input.task, of_input, worker, outcome);
            holders = input.holders_end as usize;
        }
        outcome.finished.extend(batch.tasks.iter().map(|t| (t.task, t.attempt)));
    }
}

pub(super) fn worker_spec(w: u32) -> WorkerSpec {
    WorkerSpec {
        name: format!("bench-{w}"),
        host: "localhost".into(),
        job: None,
        preemptible: false,
        incarnation: Incarnation::from_u128(u128::from(w) + 1),
        slots: SLOT,
        resources: Default::default(),
        memory_limit: None,
        memory_target: None,
        leaves: None,
    }
}

/// Runs this program with the same graph under callgrind: the instructions of all steps, or `None` when
/// there is no valgrind.
fn count_instructions(args: &BenchCoreArgs) -> Result<Option<u64>> {
    let fault = |e: std::io::Error| Error::os("cannot run valgrind", e);
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"]);
    command.arg(format!("--toggle-collect={COUNTED}"));
    command.arg(std::env::current_exe().map_err(fault)?);
    let graph = &args.graph;
    command.args(["bench", "core", "--json", "--tasks", &graph.tasks.to_string()]);
    command.args(["--shape", &shapes::name(graph.shape), "--keys", &shapes::name(graph.keys)]);
    command.args(["--nworkers", &args.nworkers.to_string()]);
    if let Some(width) = graph.width {
        command.args(["--width", &width.to_string()]);
    }
    let output = match command.stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(fault(e)),
    };
    let said = String::from_utf8_lossy(&output.stderr);
    let counted = said.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok());
    match counted {
        Some(n) if n > 0 && output.status.success() => Ok(Some(n)),
        _ => {
            let last = said.lines().last().unwrap_or("it said nothing");
            Err(Error::new(Kind::Launch, format!("valgrind counted no instructions: {last}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{GraphShape, Keys};

    #[test]
    fn all_shapes_run_to_their_end() {
        use GraphShape::*;
        for shape in [Independent, Stencil, Tree, Merge] {
            for keys in [Keys::Family, Keys::Individual] {
                let options = GraphOptions { tasks: 200, shape, keys, width: None };
                let figures = measure(&options, 3).unwrap();
                assert!(figures.tasks >= 199, "{figures:?}");
                assert!(figures.tasks_per_second > 0.0, "{figures:?}");
            }
        }
    }
}

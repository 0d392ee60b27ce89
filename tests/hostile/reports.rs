//! The scheduler's core with one worker among honest ones that reports whatever it likes, and a client that
//! does the same: no panic, no broken invariant, and once they are gone the run ends.

use crate::support::repository;
use crate::{damage, fuzz};
use fastrand::Rng;
use hpcdag::base::failure::{Failure, FailureKind};
use hpcdag::base::ids::{Attempt, ClientId, FamilyIx, RunId, TaskRef, WorkerId};
use hpcdag::base::time::Time;
use hpcdag::graph::file::{Format, parse};
use hpcdag::graph::{Options, Origin, diagnostic::Source};
use hpcdag::scheduler::core::action::{Action, Output};
use hpcdag::scheduler::core::event::{
    BYTES_MAX, Event, Finished, MemoryUse, Missing, Report, RunSpec, WorkerSpec,
};
use hpcdag::scheduler::core::{Core, Settings};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

const GRAPH: &str = r#"
version = 1
[task.a]
for-each = { range = [0, 12] }
shell = "echo {item}"
retries = 3
[task.b]
from = { a = { window = [-1, 1], edge = "clip" } }
shell = "cat {inputs.list}"
memory = "1 MiB"
[task.c]
from = { b = { group-bytes = "1 MiB" } }
shell = "cat {inputs.list}"
[task.d]
from = { c = { tree = 3 } }
shell = "cat {inputs.list}"
[task.e]
after = ["d"]
shell = "echo"
resources = { licence = 1 }
[output]
d = "d.txt"
"#;

/// The honest worker and the one that is not.
const HONEST: WorkerId = WorkerId(0);
const HOSTILE: WorkerId = WorkerId(1);

struct Scene {
    core: Core,
    now: Time,
    /// What the honest worker was given and has not reported.
    given: VecDeque<(TaskRef, Attempt)>,
    /// What anybody was given, as far as the hostile one may know.
    known: Vec<(TaskRef, Attempt)>,
    outputs: Vec<Output>,
    done: bool,
}

impl Scene {
    fn new() -> Scene {
        let base_dir = repository().to_path_buf();
        let origin = Origin { name: "g".into(), base_dir, umask: 0o022 };
        let source = Source { name: "g".into(), text: GRAPH.into() };
        let graph = parse(&source, Format::Toml, &origin, &Options::default()).expect("a good graph");
        let mut scene = Scene {
            core: Core::new(1, Settings::default()),
            now: Time::ZERO,
            given: VecDeque::new(),
            known: Vec::new(),
            outputs: Vec::new(),
            done: false,
        };
        scene.tell(Event::ClientArrived { client: ClientId(0) });
        let layers: Vec<_> = graph.families.iter().map(|f| f.layer.clone()).collect();
        let names = graph.families.iter().map(|f| f.spec.name.clone()).collect();
        let spec = RunSpec {
            uuid: uuid::Uuid::from_u128(1),
            name: "g".into(),
            layers,
            names: Arc::new(names),
            outputs: vec![FamilyIx(3)],
            detached: true,
            max_fails: None,
            max_processing: None,
            calls: None,
        };
        scene.tell(Event::RunSubmitted { client: Some(ClientId(0)), run: RunId(0), spec });
        scene
    }

    fn join(&mut self, worker: WorkerId) {
        let spec = WorkerSpec {
            name: format!("w{worker}"),
            host: format!("h{worker}"),
            job: None,
            preemptible: false,
            incarnation: uuid::Uuid::from_u128(u128::from(worker.0)),
            slots: 20_000,
            resources: [("licence".to_string(), 10_000)].into(),
            memory_limit: Some(1 << 30),
            memory_target: Some(1 << 29),
            leaves: None,
        };
        self.tell(Event::WorkerRegistered { worker, spec });
    }

    fn tell(&mut self, event: Event) {
        self.now = self.now.after(Duration::from_millis(5));
        let shown = format!("{event:?}");
        let actions = self.core.handle(event, self.now);
        self.core.check().unwrap_or_else(|e| panic!("{e}\nafter {shown}"));
        for action in actions {
            match action {
                Action::Compute { worker, batch } => {
                    let tasks = batch.tasks.iter().map(|t| (t.task, t.attempt));
                    self.known.extend(tasks.clone());
                    if worker == HONEST {
                        self.given.extend(tasks);
                    }
                }
                Action::Cancel { worker: HONEST, attempts } => self.given.retain(|x| !attempts.contains(x)),
                Action::RunDone { .. } => self.done = true,
                Action::Outputs { outputs, .. } => self.outputs.extend(outputs),
                // The honest worker has started everything it was given, and keeps it.
                Action::Steal { worker: HONEST, attempts } => {
                    let report = Report { kept: attempts, ..Report::default() };
                    self.tell(Event::WorkerReport { worker: HONEST, report });
                }
                _ => {}
            }
        }
    }

    /// The honest worker does one task.
    fn work(&mut self) {
        let Some((task, attempt)) = self.given.pop_front() else { return };
        let finished = Finished { task, attempt, nbytes: 100, duration: Duration::from_millis(3) };
        let report = Report { started: vec![(task, attempt)], finished: vec![finished], ..Report::default() };
        self.tell(Event::WorkerReport { worker: HONEST, report });
    }

    /// The client takes what it can get from the honest worker and complains about the rest.
    fn take(&mut self) {
        for output in std::mem::take(&mut self.outputs) {
            let task = output.task;
            self.tell(match output.holders.contains(&HONEST) {
                true => Event::OutputsTaken { tasks: vec![task] },
                false => {
                    Event::OutputMissing { task, holder: output.holders.first().copied().unwrap_or(HOSTILE) }
                }
            });
        }
    }

    fn task(&self, rng: &mut Rng) -> TaskRef {
        match self.known.len() {
            n if n > 0 && rng.u32(..4) > 0 => self.known[rng.usize(..n)].0,
            _ if rng.bool() => TaskRef { run: RunId(0), index: rng.u32(..60) },
            _ => TaskRef { run: RunId(damage::number(rng) as u32), index: damage::number(rng) as u32 },
        }
    }

    fn attempt(&self, rng: &mut Rng) -> (TaskRef, Attempt) {
        if !self.known.is_empty() && rng.u32(..4) > 0 {
            let newest = self.known.len().saturating_sub(rng.usize(1..12));
            return self.known[newest];
        }
        let n = if rng.bool() { rng.u32(..4) } else { damage::number(rng) as u32 };
        (self.task(rng), Attempt { epoch: rng.u32(..3), n })
    }

    fn worker(rng: &mut Rng) -> WorkerId {
        WorkerId(if rng.u32(..4) > 0 { rng.u32(..3) } else { damage::number(rng) as u32 })
    }

    /// Up to three of something.
    fn some<T>(&self, rng: &mut Rng, one: impl Fn(&Scene, &mut Rng) -> T) -> Vec<T> {
        (0..rng.u32(..6).saturating_sub(2)).map(|_| one(self, rng)).collect()
    }

    fn failure(rng: &mut Rng) -> Arc<Failure> {
        let kind = match rng.u32(..5) {
            0 => FailureKind::Exit(damage::number(rng) as i32),
            1 => FailureKind::WorkersLost(vec![]),
            2 => FailureKind::TimeLimit(damage::number(rng)),
            3 => FailureKind::Memory(Box::new(hpcdag::base::failure::Shortage {
                peak: damage::number(rng),
                expected: damage::number(rng),
                limit: damage::number(rng),
                results: damage::number(rng),
                neighbours: vec![("x".into(), damage::number(rng))],
            })),
            _ => FailureKind::Cancelled,
        };
        Arc::new(Failure::of(kind))
    }

    fn report(&self, rng: &mut Rng) -> Report {
        Report {
            started: self.some(rng, Scene::attempt),
            finished: self.some(rng, |s, rng| {
                let (task, attempt) = s.attempt(rng);
                let most = if rng.bool() { u64::MAX } else { BYTES_MAX };
                let nbytes = damage::number(rng).min(most);
                Finished {
                    task,
                    attempt,
                    nbytes,
                    duration: Duration::from_nanos(damage::number(rng).min(most)),
                }
            }),
            failed: self.some(rng, |s, rng| {
                let (task, attempt) = s.attempt(rng);
                (task, attempt, Scene::failure(rng))
            }),
            missing: self.some(rng, |s, rng| {
                let (task, attempt) = s.attempt(rng);
                Missing { task, attempt, inputs: s.some(rng, |s, rng| (s.task(rng), Scene::worker(rng))) }
            }),
            returned: self.some(rng, Scene::attempt),
            kept: self.some(rng, Scene::attempt),
            replicas: self.some(rng, Scene::task),
            uncopied: self.some(rng, |s, rng| (s.task(rng), Scene::worker(rng))),
            pinned: self.some(rng, Scene::task),
            stored: Vec::new(),
            away: self.some(rng, |s, rng| {
                let (task, attempt) = s.attempt(rng);
                (task, attempt, rng.bool())
            }),
            paused: [None, Some(true), Some(false)][rng.usize(..3)],
        }
    }

    /// Something that the hostile worker, or a client of its kind, may say.
    fn harm(&mut self, rng: &mut Rng) {
        let event = match rng.u32(..12) {
            0 => Event::Heartbeat {
                worker: HOSTILE,
                memory: Some(
                    MemoryUse { unmanaged: damage::number(rng), spilled: damage::number(rng) }.believed(),
                ),
            },
            1 if rng.u32(..8) == 0 => Event::WorkerRetiring { worker: HOSTILE, reason: "so it says".into() },
            2 => Event::OutputsTaken { tasks: self.some(rng, Scene::task) },
            3 => Event::OutputMissing { task: self.task(rng), holder: Scene::worker(rng) },
            4 => Event::RunForgotten { run: RunId(damage::number(rng).max(1) as u32) },
            5 => Event::ClientLeft { client: ClientId(damage::number(rng) as u32) },
            _ => {
                let mut report = self.report(rng);
                // Its session would end there; here it may go on in the next report.
                if report.check().is_err() {
                    report.finished.clear();
                }
                Event::WorkerReport { worker: HOSTILE, report }
            }
        };
        self.tell(event);
    }
}

#[test]
fn a_worker_that_lies_breaks_nothing() {
    fuzz(600, |rng| {
        let mut scene = Scene::new();
        scene.join(HONEST);
        scene.join(HOSTILE);
        for _ in 0..rng.u32(1..80) {
            if rng.u32(..3) == 0 {
                scene.work();
            } else {
                scene.harm(rng);
            }
        }
        let reason = "its connection ended".into();
        scene.tell(Event::WorkerDisconnected { worker: HOSTILE, reason, expected: false });
        scene.tell(Event::RunWatched { client: ClientId(7), run: RunId(0) });
        let mut idle = 0;
        while !scene.done && idle < 500 {
            idle = if scene.given.is_empty() { idle + 1 } else { 0 };
            scene.work();
            scene.take();
            scene.now = scene.now.after(Duration::from_secs(1));
            scene.tell(Event::Heartbeat { worker: HONEST, memory: None });
        }
        assert!(scene.done, "the run does not end: {:?}", scene.core.run_counts(RunId(0)));
    });
}

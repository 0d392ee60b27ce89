//! Answers to clients' questions, as the JSON that `--json` prints. Owns the names in it, which scripts
//! rely on;
//! `docs/protocol.md` describes them.

use super::core::explain::Explanation;
use super::core::state::State;
use super::driver::Driver;
use super::input::WorkerOrder;
use super::requests::SMALL_MESSAGE_BYTES;
use super::runs::RunEntry;
use super::waits::Reply;
use crate::base::ids::{ClientId, FamilyIx, RunId, RunUuid, TaskRef, WorkerId};
use crate::graph::layer::{SLOT, Shape};
use crate::protocol::messages::client::{OutputAt, Question, Reason, Summary};
use crate::protocol::messages::worker::ToWorker;
use serde_json::{Value, json};
use std::time::{Duration, SystemTime};

/// Workers that `explain` names with why they do not take a task; of the others only the number.
const WORKERS_EXPLAINED: usize = 50;

/// What `status` takes for work that is worth a place of its own.
const MIN_WORK: Duration = Duration::from_secs(30);

/// What a key names.
enum Named {
    Task(TaskRef, FamilyIx, u32),
    Family(FamilyIx),
}

pub(super) fn not_found(what: impl Into<String>) -> (String, String) {
    ("not-found".into(), what.into())
}

impl Driver {
    pub(super) fn answer(&mut self, client: ClientId, id: u32, question: Question) {
        let reply = match question {
            Question::Status => Ok(self.status()),
            Question::Explain { key, run } => self.explain(&key, run),
            Question::Story { key, run } => self.story(&key, run),
            Question::Locate { key, run } => self.locate(&key, run),
            Question::StopWorkers { names } => self.stop_workers(&names),
            Question::Demand { min_work_ms } => Ok(self.demand(Duration::from_millis(min_work_ms))),
            Question::View(view) => match self.view(client, id, view) {
                Some(reply) => reply,
                None => return,
            },
            Question::Shape { run, from } => self.shape_of(run, from),
            Question::Stop => {
                self.stop("asked for by a client");
                Ok(json!({ "stopping": true }))
            }
            Question::WaitWorkers { workers, timeout_ms } => {
                return self.wait_workers(client, id, workers, timeout_ms);
            }
            Question::WaitRun { run: None, timeout_ms } => {
                return self.wait_run(client, id, None, timeout_ms);
            }
            Question::WaitRun { run: Some(uuid), timeout_ms } => match self.runs.find(uuid) {
                Some(run) => return self.wait_run(client, id, Some(run), timeout_ms),
                None => Err(not_found(format!("the scheduler does not know run {uuid} (any more)"))),
            },
        };
        self.send_answer(client, id, reply);
    }

    fn status(&self) -> Value {
        let workers: Vec<Value> = self.core.workers().iter().map(|w| self.worker_status(w)).collect();
        let tasks = self.core.totals().counts;
        let (mut managed, mut process, mut limit) = (0u64, 0u64, Some(0u64));
        let (mut spilled, mut unmanaged) = (0u64, 0u64);
        for w in self.core.workers() {
            let figures = self.workers.get(&w.worker).map(|p| &p.figures);
            let on_disk = figures.map_or(0, |f| f.spilled);
            managed = managed.saturating_add(w.nbytes.saturating_sub(on_disk));
            process = process.saturating_add(figures.map_or(0, |f| f.process));
            spilled = spilled.saturating_add(figures.map_or(0, |f| f.spilled));
            unmanaged = unmanaged.saturating_add(figures.map_or(0, |f| f.unmanaged));
            limit = limit.zip(w.spec.memory_limit).map(|(a, b)| a.saturating_add(b));
        }
        json!({
            "scheduler": {
                "id": &*self.shared.cluster,
                "address": self.address,
                "version": env!("CARGO_PKG_VERSION"),
                "uptime": self.now().seconds(),
                // The host's clock as it is now, which may have been set since the start.
                "time": rfc3339(SystemTime::now()),
                "epoch": self.shared.epoch,
                "clients": self.clients.iter().filter(|(id, c)| self.is_client(**id, c)).count(),
            },
            "workers": workers,
            "tasks": counts(&tasks),
            "memory": {
                "managed": managed, "spilled": spilled, "unmanaged": unmanaged,
                "limit": limit, "process": process,
            },
            "demand": self.demand(MIN_WORK),
            "dashboard": self.dashboard,
            "runs": self.runs.iter().map(|(run, entry)| self.run_status(run, entry)).collect::<Vec<_>>(),
        })
    }

    /// What could run now, and how many workers runs wait for.
    fn demand(&self, min_work: Duration) -> Value {
        let demand = self.core.demand(min_work);
        let amount = |n: u64| n as f64 / f64::from(SLOT);
        let group = |g: &super::core::demand::Group| {
            json!({
                "tasks": g.tasks,
                "nodes": g.nodes,
                "useful": g.useful,
                "guessed": g.guessed,
                "threads": amount(g.slots.into()),
                "memory": g.memory,
                "resources": g.resources.iter().map(|(name, n)| (name.clone(), json!(amount(*n))))
                    .collect::<serde_json::Map<_, _>>(),
                "seconds": g.work_ns as f64 / 1e9,
            })
        };
        let waited_for = self.runs.iter().filter_map(|(_, run)| run.held.as_ref()).map(|(n, _)| *n).max();
        json!({
            "threads": amount(demand.slots()),
            "tasks": demand.tasks(),
            "workers": waited_for.unwrap_or(0),
            "groups": demand.groups.iter().map(group).collect::<Vec<_>>(),
        })
    }

    fn worker_status(&self, w: &super::core::WorkerView) -> Value {
        let peer = self.workers.get(&w.worker);
        let figures = peer.map(|p| p.figures.clone()).unwrap_or_default();
        json!({
            "name": w.spec.name,
            "host": w.spec.host,
            "address": peer.map(|p| p.address.as_str()),
            "pid": peer.map(|p| p.pid),
            "job-id": peer.and_then(|p| p.job_id.as_deref()),
            "pool": peer.and_then(|p| p.pool.as_deref()),
            "preemptible": w.spec.preemptible,
            "state": w.status.name(),
            "leaving-because": w.retiring,
            "leaves-in": w.spec.leaves.map(|at| at.since(self.now()).as_secs_f64()),
            "threads": f64::from(w.spec.slots) / f64::from(SLOT),
            "resources": w.spec.resources.iter()
                .map(|(name, n)| (name.clone(), json!(*n as f64 / f64::from(SLOT))))
                .collect::<serde_json::Map<_, _>>(),
            "executing": w.executing,
            "queued": w.queued,
            "results": w.results,
            "memory": {
                // The core knows what lies where; heartbeats are seconds old.
                "managed": w.nbytes.saturating_sub(figures.spilled),
                "spilled": figures.spilled,
                "unmanaged": figures.unmanaged,
                "kept": figures.kept,
                "limit": w.spec.memory_limit,
                "process": figures.process,
                "peak-managed": figures.peak_managed,
                "peak-total": figures.peak_total,
                "spill-written": figures.spill_written,
                "spill-copied": figures.spill_copied,
                "spill-write-seconds": figures.spill_write_seconds,
                "spill-read": figures.spill_read,
                "spill-read-seconds": figures.spill_read_seconds,
                "paused-seconds": figures.paused_seconds,
            },
            "executors": {
                "started": figures.executors.0,
                "replaced": figures.executors.1,
                "died": figures.executors.2,
            },
            "cpu-seconds": figures.cpu_seconds,
            "bytes-in": figures.bytes_in,
            "bytes-out": figures.bytes_out,
            "joined": peer.map(|p| rfc3339(p.joined)),
            "last-seen": self.now().since(w.last_seen).as_secs_f64(),
        })
    }

    pub(super) fn run_state(&self, run: RunId, entry: &RunEntry) -> &'static str {
        match (&entry.held, &entry.summary) {
            (Some(_), _) => "waiting-for-workers",
            (_, Some(s)) if s.cancel_reason.is_some() => "cancelled",
            (_, Some(s)) if s.failed + s.skipped > 0 => "failed",
            (_, Some(_)) => "done",
            _ if self.is_over(run) => "outputs-to-take",
            _ => "running",
        }
    }

    fn run_status(&self, run: RunId, entry: &RunEntry) -> Value {
        let progress = self.core.run_progress(run);
        json!({
            "id": entry.info.uuid,
            "name": entry.name,
            "state": self.run_state(run, entry),
            "detached": entry.detached,
            "submitted": rfc3339(entry.submitted),
            "tasks": progress.map_or(json!({ "waiting": entry.tasks }), |p| counts(&p.counts)),
            "growing": progress.is_some_and(|p| p.growing),
            "outputs-to-take": progress.map_or(0, |p| p.outputs_waiting),
            "summary": entry.summary.as_ref().map(summary_json),
        })
    }

    /// A run that is over, for those who waited for it.
    pub(super) fn run_result(&self, run: RunId) -> Value {
        let Some(entry) = self.runs.get(run) else { return Value::Null };
        let so_far = || {
            let view = self.core.run_view(run)?;
            Some(self.summary(run, &view.summary))
        };
        let summary = entry.summary.clone().or_else(so_far);
        let waiting = self.core.run_progress(run).map_or(0, |p| p.outputs_waiting);
        json!({
            "id": entry.info.uuid,
            "name": entry.name,
            "outputs-to-take": waiting,
            "summary": summary.as_ref().map(summary_json),
        })
    }

    /// What a key names: in one run, or in the newest that has it.
    fn find(&self, key: &str, uuid: Option<RunUuid>) -> Result<(RunId, Named), (String, String)> {
        let runs: Vec<RunId> =
            match uuid {
                Some(uuid) => vec![self.runs.find(uuid).ok_or_else(|| {
                    not_found(format!("the scheduler does not know run {uuid} (any more)"))
                })?],
                None => self.runs.iter().rev().map(|(run, _)| run).collect(),
            };
        let mut first = None;
        for run in runs {
            let Some(entry) = self.runs.get(run) else { continue };
            let parse = |key: &str| entry.info.graph.parse_key(key, |family| entry.shape(&self.core, family));
            // Clients call the calls of one `map` so, whose names nobody has listed.
            let mapped = || match entry.info.calls.as_ref().and(key.rsplit_once('-')) {
                Some((name, i)) if i.parse::<u32>().is_ok() => parse(&format!("{name}[{i}]")).ok(),
                _ => None,
            };
            match parse(key).or_else(|e| mapped().ok_or(e)) {
                Ok((family, None)) => return Ok((run, Named::Family(family))),
                Ok((family, Some(element))) => match self.core.find_task(run, family, element) {
                    Some(task) => return Ok((run, Named::Task(task, family, element))),
                    None if entry.held.is_some() => {
                        return Err(not_found(format!("{key} waits until enough workers are connected")));
                    }
                    None => drop(first.get_or_insert(format!("{key} does not exist yet"))),
                },
                Err(e) => drop(first.get_or_insert(e.to_string())),
            }
        }
        Err(not_found(first.unwrap_or_else(|| "the scheduler knows no run".into())))
    }

    /// The same, where only a single task makes sense.
    pub(super) fn find_task(
        &self,
        key: &str,
        uuid: Option<RunUuid>,
    ) -> Result<(RunId, TaskRef, FamilyIx, u32), (String, String)> {
        match self.find(key, uuid)? {
            (run, Named::Task(task, family, element)) => Ok((run, task, family, element)),
            (_, Named::Family(_)) => {
                Err(not_found(format!("{key} is a family; name one of its elements, e.g. {key}[0]")))
            }
        }
    }

    /// The text of a task's key.
    pub(super) fn key(&self, task: TaskRef) -> String {
        let known = self.core.locate(task).zip(self.runs.get(task.run));
        let Some(((family, element), entry)) = known else { return format!("?{}", task.index) };
        let alone = Shape { total: element.saturating_add(1), first_export: 0 };
        entry.info.graph.key(family, element, self.core.shape(task.run, family).unwrap_or(alone))
    }

    pub(super) fn worker_name(&self, worker: WorkerId) -> String {
        match (self.workers.get(&worker), self.gone.name(worker)) {
            (Some(peer), _) => peer.name.clone(),
            (None, Some(name)) => format!("{name} (gone)"),
            (None, None) => format!("worker {worker} (gone)"),
        }
    }

    fn explain(&self, key: &str, run: Option<RunUuid>) -> Reply {
        let (run, task) = match self.find(key, run)? {
            (run, Named::Task(task, ..)) => (run, task),
            (run, Named::Family(family)) => return Ok(self.explain_family(key, run, family)),
        };
        let mut e = self.core.explain(task).ok_or_else(|| not_found(format!("{key} was forgotten")))?;
        // A task that failed itself is to blame for the others, not for itself.
        e.blame = e.blame.filter(|b| *b != task);
        let entry = self.runs.get(run);
        let names = |workers: &[WorkerId]| workers.iter().map(|w| self.worker_name(*w)).collect::<Vec<_>>();
        let refusals = e.workers.iter().take(WORKERS_EXPLAINED);
        let retry_in = e.retry_at.map(|at| at.since(self.now()).as_secs_f64());
        let key_text = self.key(task);
        let failure = entry
            .and_then(|r| {
                r.summary.clone().or_else(|| Some(self.summary(run, &self.core.run_view(run)?.summary)))
            })
            .and_then(|s| s.failures.into_iter().find(|f| f.key == key_text));
        Ok(json!({
            "key": key_text,
            "run": entry.map(|r| r.info.uuid),
            "run-name": entry.map(|r| r.name.as_str()),
            "state": e.state.name(),
            "why": self.why(&e),
            "attempts": e.attempts,
            "failed-attempts": e.failed,
            "failed-hosts": e.failed_hosts,
            "workers-lost": e.lost,
            "failure": failure.map(|f| failure_json(&f)),
            "blame": e.blame.map(|b| self.key(b)),
            "worker": e.processing.map(|(w, _)| self.worker_name(w)),
            "executing": e.processing.is_some_and(|(_, executing)| executing),
            "holders": names(&e.holders),
            "bytes": e.nbytes,
            "missing-inputs": {
                "count": e.missing.0,
                "first": e.missing.1.iter().map(|t| self.key(*t)).collect::<Vec<_>>(),
            },
            "retry-in": retry_in,
            "workers": refusals
                .map(|(w, why)| json!({ "worker": self.worker_name(*w), "why": why }))
                .collect::<Vec<_>>(),
            "more-workers": e.workers.len().saturating_sub(WORKERS_EXPLAINED),
            "needed-by": e.refs,
        }))
    }

    /// One sentence about a task's state.
    fn why(&self, e: &Explanation) -> String {
        match e.state {
            State::Waiting => {
                let first =
                    e.missing.1.first().map(|t| format!(", first {}", self.key(*t))).unwrap_or_default();
                format!("waits for {} inputs{first}", e.missing.0)
            }
            State::Queued if self.workers.is_empty() => "is ready; no worker is connected".into(),
            State::Queued => "is ready; no worker has room for it".into(),
            State::Delayed => {
                let seconds = e.retry_at.map_or(0.0, |at| at.since(self.now()).as_secs_f64());
                format!("will be tried again in {seconds:.1} s, after {} failed attempts", e.failed)
            }
            State::Processing => match e.processing {
                Some((w, true)) => format!("executes on {}", self.worker_name(w)),
                Some((w, false)) => format!("was given to {} and has not started", self.worker_name(w)),
                None => "was given to a worker".into(),
            },
            State::Memory => format!("is done; its result of {} bytes is kept", e.nbytes),
            State::Released => "is done; its result was dropped because nobody needs it".into(),
            State::Erred => match e.blame {
                Some(task) => format!("cannot run because {} failed", self.key(task)),
                None => "failed".into(),
            },
            State::Cancelled => "was cancelled with its run".into(),
        }
    }

    fn explain_family(&self, key: &str, run: RunId, family: FamilyIx) -> Value {
        let entry = self.runs.get(run);
        let view = self.core.run_view(run);
        let counts = view.and_then(|v| v.families.get(family.index()).cloned());
        json!({
            "key": key,
            "run": entry.map(|r| r.info.uuid),
            "run-name": entry.map(|r| r.name.as_str()),
            "elements": counts.as_ref().map(|c| c.1),
            "done": counts.as_ref().map(|c| c.2),
        })
    }

    fn story(&self, key: &str, run: Option<RunUuid>) -> Reply {
        let (_, task, ..) = self.find_task(key, run)?;
        let now = self.now();
        let records = self.core.story(task);
        let line = |r: &super::core::story::Record| {
            json!({
                "time": rfc3339(self.wall_clock(r.at)),
                "seconds-ago": now.since(r.at).as_secs_f64(),
                "from": r.from.name(),
                "to": r.to.name(),
                "worker": r.worker.map(|w| self.worker_name(w)),
                "attempt": r.attempt,
                "cause": r.cause,
            })
        };
        Ok(Value::Array(records.iter().map(line).collect()))
    }

    fn locate(&self, key: &str, run: Option<RunUuid>) -> Reply {
        let (run, task, family, element) = self.find_task(key, run)?;
        let e = self.core.explain(task).ok_or_else(|| not_found(format!("{key} was forgotten")))?;
        if e.holders.is_empty() {
            return Err(not_found(format!("there is no result of {key}: it {}", self.why(&e))));
        }
        let shape = self.core.shape(run, family).unwrap_or(Shape { total: element + 1, first_export: 0 });
        let peers = self.addresses(&e.holders);
        let output = OutputAt {
            task,
            key: self.key(task),
            family,
            element,
            index: element.saturating_sub(shape.first_export),
            nbytes: e.nbytes,
            holders: e.holders,
        };
        let fault = |e: serde_json::Error| ("internal".to_string(), e.to_string());
        Ok(json!({
            "output": serde_json::to_value(output).map_err(fault)?,
            "peers": serde_json::to_value(peers).map_err(fault)?,
        }))
    }

    fn stop_workers(&mut self, names: &[String]) -> Reply {
        let known = |name: &String| self.workers.values().any(|w| w.name == *name);
        let unknown: Vec<&str> = names.iter().filter(|n| !known(n)).map(String::as_str).collect();
        if !unknown.is_empty() {
            return Err(not_found(format!("no worker is called {}", unknown.join(", "))));
        }
        let reason = Reason { reason: "asked for by a client".into() };
        let mut stopping = Vec::new();
        for peer in self.workers.values().filter(|w| names.is_empty() || names.contains(&w.name)) {
            let order = WorkerOrder::Message(ToWorker::Retire(reason.clone()));
            // Overfull queues are noticed with the next larger order.
            let _ = peer.link.push(order, SMALL_MESSAGE_BYTES);
            stopping.push(peer.name.clone());
        }
        Ok(json!({ "stopping": stopping }))
    }
}

/// Tasks by state, by its name.
fn counts(tasks: &[u64; State::ALL.len()]) -> Value {
    State::ALL.iter().zip(tasks).map(|(s, n)| (s.name().to_string(), json!(n))).collect::<Value>()
}

fn failure_json(f: &crate::protocol::messages::client::FailedTask) -> Value {
    json!({
        "key": f.key,
        "host": f.host,
        "attempts": f.attempts,
        "what": f.failure.to_string(),
        "command": f.failure.command,
        "stderr": f.failure.stderr_tail,
    })
}

fn summary_json(s: &Summary) -> Value {
    json!({
        "done": s.done,
        "failed": s.failed,
        "skipped": s.skipped,
        "cancelled": s.cancelled,
        "retried": s.retried,
        "task-seconds": s.task_seconds,
        "wall-seconds": s.wall_seconds,
        "bytes-made": s.bytes_made,
        "bytes-moved": s.bytes_moved,
        "failures": s.failures.iter().map(failure_json).collect::<Vec<_>>(),
        "cancel-reason": s.cancel_reason,
    })
}

fn rfc3339(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}

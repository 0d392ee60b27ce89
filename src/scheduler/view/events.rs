//! What happened on the cluster: workers and clients that came and went, runs, failures. Owns the ring of
//! events and its bounds.

use super::hold::tasks;
use crate::base::failure::Failure;
use crate::base::ids::{ClientId, RunId, RunUuid, TaskRef, WorkerId};
use crate::protocol::messages::client::Summary;
use crate::scheduler::core::explain::RunProgress;
use crate::scheduler::driver::{Driver, shorten};
use crate::scheduler::waits::Reply;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::time::SystemTime;

/// Events that are kept.
const KEPT_MAX: usize = 10_000;

/// The longest text or key that is kept, in characters.
const CHARS_MAX: usize = 300;

/// Events in one answer.
const ANSWER_MAX: usize = 10_000;

/// Something that happened.
#[derive(Clone, Debug, Default)]
pub(in crate::scheduler) struct Happened {
    /// `info`, `warning`, `error`.
    level: &'static str,
    kind: &'static str,
    text: String,
    key: Option<String>,
    run: Option<RunUuid>,
    worker: Option<String>,
}

impl Happened {
    fn new(level: &'static str, kind: &'static str, text: String) -> Happened {
        Happened { level, kind, text, ..Happened::default() }
    }

    fn at(self, worker: &str) -> Happened {
        Happened { worker: Some(worker.into()), ..self }
    }
}

/// The latest events.
#[derive(Debug, Default)]
pub(super) struct Events {
    ring: VecDeque<(f64, Happened)>,
    /// Events that are not kept any more.
    before: u64,
}

impl Events {
    fn push(&mut self, time: f64, event: Happened) {
        if self.ring.len() == KEPT_MAX {
            self.ring.pop_front();
            self.before += 1;
        }
        let short = |text: String| match text.char_indices().nth(CHARS_MAX) {
            Some((end, _)) => text[..end].to_owned(),
            None => text,
        };
        let event = Happened { text: shorten(&short(event.text)), key: event.key.map(short), ..event };
        self.ring.push_back((time, event));
    }

    /// The events from a number on, no more than so many, the newest.
    fn answer(&self, after: u64, limit: usize) -> Value {
        let skip = usize::try_from(after.saturating_sub(self.before)).unwrap_or(usize::MAX);
        let skip = skip.min(self.ring.len()).max(self.ring.len().saturating_sub(limit.min(ANSWER_MAX)));
        let row = |(k, (time, e)): (usize, &(f64, Happened))| {
            json!({
                "number": self.before + k as u64, "time": time, "level": e.level, "kind": e.kind,
                "text": e.text, "key": e.key, "run": e.run, "worker": e.worker,
            })
        };
        let events: Vec<Value> = self.ring.iter().enumerate().skip(skip).map(row).collect();
        json!({ "next": self.before + self.ring.len() as u64, "events": events })
    }
}

/// Seconds since 1970.
pub(super) fn seconds(at: SystemTime) -> f64 {
    at.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

impl Driver {
    pub(super) fn view_events(&self, after: u64, limit: u32) -> Reply {
        Ok(self.views.events.answer(after, limit as usize))
    }

    fn happened(&mut self, event: Happened) {
        self.views.events.push(seconds(SystemTime::now()), event);
    }

    /// A worker has registered.
    pub(in crate::scheduler) fn note_joined(&mut self, name: &str, host: &str, threads: f64) {
        let threads = format!("{threads} thread{}", if threads == 1.0 { "" } else { "s" });
        self.happened(
            Happened::new("info", "worker-joined", format!("{name} on {host}: {threads}")).at(name),
        );
    }

    /// A worker is gone.
    pub(in crate::scheduler) fn note_gone(&mut self, name: &str, reason: &str, expected: bool) {
        let (level, kind, what) = match expected {
            true => ("info", "worker-left", "left"),
            false => ("warning", "worker-lost", "was lost"),
        };
        self.happened(Happened::new(level, kind, format!("{name} {what}: {reason}")).at(name));
    }

    /// A worker stops taking work for a while, or goes on.
    pub(in crate::scheduler) fn note_paused(&mut self, worker: WorkerId, paused: bool) {
        let Some(name) = self.workers.get(&worker).map(|w| w.name.clone()) else { return };
        let (level, kind, what) = match paused {
            true => ("warning", "worker-paused", "is paused: its memory is short"),
            false => ("info", "worker-resumed", "goes on"),
        };
        self.happened(Happened::new(level, kind, format!("{name} {what}")).at(&name));
    }

    /// A worker wants to leave.
    pub(in crate::scheduler) fn note_leaves(&mut self, worker: WorkerId, reason: &str) {
        let Some(name) = self.workers.get(&worker).map(|w| w.name.clone()) else { return };
        self.happened(Happened::new("info", "worker-leaves", format!("{name} leaves: {reason}")).at(&name));
    }

    /// A client has connected, or is gone. Those that only look are not told of.
    pub(in crate::scheduler) fn note_client(&mut self, client: ClientId, gone: Option<&str>) {
        let Some(peer) = self.clients.get(&client).filter(|c| !c.looks_only) else { return };
        let (kind, text) = match gone {
            None => ("client-came", format!("a client came from {}", peer.place)),
            Some(reason) => ("client-gone", format!("the client at {} is gone: {reason}", peer.place)),
        };
        self.happened(Happened::new("info", kind, text));
    }

    /// A run was submitted.
    pub(in crate::scheduler) fn note_submitted(&mut self, run: RunId) {
        let Some(entry) = self.runs.get(run) else { return };
        let text = format!("{}: {}", entry.name, tasks(entry.tasks));
        let run = Some(entry.info.uuid);
        self.happened(Happened { run, ..Happened::new("info", "run-submitted", text) });
    }

    /// A run is over.
    pub(in crate::scheduler) fn note_done(&mut self, uuid: RunUuid, name: &str, summary: &Summary) {
        let Summary { done, failed, skipped, wall_seconds, .. } = summary;
        let (level, kind, text) = match &summary.cancel_reason {
            Some(reason) => ("warning", "run-cancelled", format!("{name} was cancelled: {reason}")),
            None if failed + skipped > 0 => {
                let text = format!("{name}: {} failed, {skipped} skipped, {done} done", tasks(*failed));
                ("error", "run-failed", text)
            }
            None => ("info", "run-done", format!("{name}: {} in {wall_seconds:.1} s", tasks(*done))),
        };
        self.happened(Happened { run: Some(uuid), ..Happened::new(level, kind, text) });
    }

    /// An attempt has failed.
    pub(in crate::scheduler) fn note_failed(
        &mut self,
        task: TaskRef,
        worker: Option<WorkerId>,
        failure: &Failure,
        again: bool,
    ) {
        let key = self.key(task);
        let run = self.runs.get(task.run).map(|e| e.info.uuid);
        let worker = worker.map(|w| self.worker_name(w));
        let (level, kind, then) = match again {
            true => ("warning", "task-retried", "; it is tried again"),
            false => ("error", "task-failed", ""),
        };
        let text = format!("{key} failed: {failure}{then}");
        self.happened(Happened { key: Some(key), run, worker, ..Happened::new(level, kind, text) });
    }
}

/// Whether nothing of a run is left to be executed.
pub(super) fn is_idle(progress: Option<RunProgress>) -> bool {
    progress.is_none_or(|p| p.unfinished == 0 && !p.growing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_kept_and_asked_for_by_number() {
        let mut events = Events::default();
        for n in 0..KEPT_MAX + 5 {
            events.push(n as f64, Happened::new("info", "worker-joined", format!("w{n}")));
        }
        let numbers = |v: &Value| {
            let events = v["events"].as_array().unwrap();
            events.iter().map(|e| e["number"].as_u64().unwrap()).collect::<Vec<_>>()
        };
        let all = events.answer(0, usize::MAX);
        assert_eq!((numbers(&all).len(), numbers(&all)[0]), (KEPT_MAX, 5));
        let next = all["next"].as_u64().unwrap();
        assert_eq!(next, KEPT_MAX as u64 + 5);
        assert!(numbers(&events.answer(next, 10)).is_empty());
        events.push(0.0, Happened::new("info", "worker-left", "x".into()));
        assert_eq!(numbers(&events.answer(next, 10)), [next], "what came since is not passed over");
        assert_eq!(numbers(&events.answer(0, 2)), [next - 1, next], "the newest");
        assert!(numbers(&events.answer(u64::MAX, 2)).is_empty());
    }

    #[test]
    fn hostile_texts_are_cut_and_stay_on_one_line() {
        let mut events = Events::default();
        let text = format!("a\n\u{1b}[31m{}", "ü".repeat(1 << 20));
        events.push(0.0, Happened { key: Some(text.clone()), ..Happened::new("error", "task-failed", text) });
        let event = &events.answer(0, 1)["events"][0];
        assert_eq!(event["text"].as_str().unwrap().chars().count(), CHARS_MAX);
        assert_eq!(event["key"].as_str().unwrap().chars().count(), CHARS_MAX);
        assert!(event["text"].as_str().unwrap().starts_with("a  [31mü"));
    }
}

//! What only workers have, or had: logs and profiles. Owns the questions that are on their way to workers,
//! and how their answers become one.

use super::left::Leavings;
use super::past::Past;
use crate::base::ids::{ClientId, Incarnation, RunUuid, TaskRef, WorkerId};
use crate::base::own_log;
use crate::base::time::Time;
use crate::protocol::messages::look::{LastWords, Look, Looked, Said, View, Wanted};
use crate::protocol::messages::worker::ToWorker;
use crate::protocol::profile::{Merged, Profile};
use crate::scheduler::answers::not_found;
use crate::scheduler::driver::Driver;
use crate::scheduler::input::WorkerOrder;
use crate::scheduler::requests::SMALL_MESSAGE_BYTES;
use crate::scheduler::waits::Reply;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long workers have to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long they have for profiles.
const PROFILE_PATIENCE: Duration = Duration::from_secs(3);

/// Workers that are asked for them: so many show where time goes as well as all.
const PROFILED_MAX: usize = 200;

/// Workers that are asked for a task's log if nobody knows which of them ran it.
const ASKED_MAX: usize = 64;

/// Questions on their way at most: each may have an answer of some size.
const PENDING_MAX: usize = 256;

/// Bytes of a stream that are given out at most.
const BYTES_MAX: u64 = 1 << 20;

/// Questions on their way, and what is left of workers that are gone.
#[derive(Debug, Default)]
pub(in crate::scheduler) struct Looks {
    next: u32,
    pending: BTreeMap<u32, Pending>,
    left: Leavings,
    past: Past,
}

/// What a client asked.
#[derive(Debug)]
enum Asked {
    /// What a task has printed.
    Task { key: String, task: TaskRef },
    /// A worker's log.
    Worker { name: String },
    /// Stacks, of all groups or one; of workers that are gone too.
    Profile { group: Option<String>, past: bool },
}

#[derive(Debug)]
struct Pending {
    client: ClientId,
    id: u32,
    asked: Asked,
    until: Time,
    /// Those who were asked, by name, and what they have answered.
    workers: BTreeMap<WorkerId, (String, Option<Result<Value, String>>)>,
    /// What gone workers have left: name, attempt, answer.
    left: Vec<(String, Value)>,
    /// The profiles of those who have answered, and of those that are gone.
    merged: Merged,
    gone: usize,
}

impl Looks {
    /// When the next question has waited for long enough.
    pub(in crate::scheduler) fn next_deadline(&self) -> Option<Time> {
        self.pending.values().map(|pending| pending.until).min()
    }

    /// A worker has gone.
    pub(in crate::scheduler) fn worker_gone(
        &mut self,
        worker: WorkerId,
        incarnation: Incarnation,
        name: &str,
    ) {
        self.left.meet(worker, incarnation, name);
        for pending in self.pending.values_mut() {
            if let Some((_, answer @ None)) = pending.workers.get_mut(&worker) {
                *answer = Some(Err("it has just left".into()));
            }
        }
    }

    /// A client has gone.
    pub(in crate::scheduler) fn client_gone(&mut self, client: ClientId) {
        self.pending.retain(|_, pending| pending.client != client);
    }
}

impl Driver {
    /// Asks the workers that have it.
    pub(super) fn ask_workers(&mut self, client: ClientId, id: u32, view: View) -> Option<Reply> {
        let begun = match view {
            View::Logs { of, run, bytes } => self.look_for_log(client, id, of, run, bytes.min(BYTES_MAX)),
            View::Profile { run, group, worker } => self.look_for_profile(client, id, run, group, worker),
            _ => Err(("refused".into(), "this is no question for workers".into())),
        };
        begun.map_or_else(|error| Some(Err(error)), |answer| answer.map(Ok))
    }

    /// A task's output, a worker's log or ours: at once, or later.
    fn look_for_log(
        &mut self,
        client: ClientId,
        id: u32,
        of: String,
        run: Option<RunUuid>,
        bytes: u64,
    ) -> Result<Option<Value>, (String, String)> {
        if of == "scheduler" && run.is_none() {
            let (text, left_out) = own_log::last(bytes);
            return Ok(Some(log_json(&of, "scheduler", None, false, &text, left_out)));
        }
        if run.is_none() {
            let named = self.workers.iter().find(|(_, peer)| peer.name == of).map(|(worker, _)| *worker);
            if let Some(worker) = named {
                let wanted = Wanted::Log { bytes };
                return self.begin(client, id, Asked::Worker { name: of }, &wanted, &[worker], Vec::new());
            }
        }
        let (task, key) = match self.find_task(&of, run) {
            Ok((_, task, ..)) => (task, self.key(task)),
            Err(_) if run.is_none() && self.views.looks.left.by_name(&of).is_some() => {
                return self.log_of_gone(&of, bytes).map(Some);
            }
            Err(error) => return Err(error),
        };
        let ran_on = self.where_it_ran(task);
        let (mut here, mut left) = (Vec::new(), Vec::new());
        for worker in &ran_on {
            if self.workers.contains_key(worker) {
                here.push(*worker);
            } else if let Some((name, said)) = self.views.looks.left.of_task(*worker, task) {
                left.extend(said.map(|said| (name.to_owned(), said_json(said, bytes))));
            }
        }
        if ran_on.is_empty() {
            here = self.workers.keys().copied().take(ASKED_MAX).collect();
        }
        self.begin(client, id, Asked::Task { key, task }, &Wanted::Task { task, bytes }, &here, left)
    }

    /// The workers that may know of a task, each once.
    fn where_it_ran(&self, task: TaskRef) -> Vec<WorkerId> {
        let mut workers: Vec<WorkerId> = self.core.story(task).iter().filter_map(|r| r.worker).collect();
        if let Some(e) = self.core.explain(task) {
            workers.extend(e.processing.map(|(worker, _)| worker));
            // Without a story, whoever has the result has made it, or fetched it from who did.
            if workers.is_empty() {
                workers.extend(e.holders);
            }
        }
        workers.sort_unstable();
        workers.dedup();
        workers.reverse();
        workers.truncate(ASKED_MAX);
        workers
    }

    /// Where time goes, as the workers that are there know it.
    fn look_for_profile(
        &mut self,
        client: ClientId,
        id: u32,
        run: Option<RunUuid>,
        group: Option<String>,
        worker: Option<String>,
    ) -> Result<Option<Value>, (String, String)> {
        let known = |uuid| self.runs.find(uuid).map(|run| (run, uuid));
        let unknown = || not_found("the scheduler does not know this run (any more)");
        let run = run.map(|uuid| known(uuid).ok_or_else(unknown)).transpose()?;
        let meant = |name: &str| worker.as_deref().is_none_or(|worker| worker == name);
        let workers = self.workers.iter().filter(|(_, peer)| meant(&peer.name)).map(|(worker, _)| *worker);
        let workers: Vec<WorkerId> = workers.take(PROFILED_MAX).collect();
        if let (Some(name), []) = (&worker, workers.as_slice()) {
            return Err(not_found(format!("no worker is called {name}")));
        }
        let asked = Asked::Profile { group, past: worker.is_none() };
        self.begin(client, id, asked, &Wanted::Profile { run }, &workers, Vec::new())
    }

    fn log_of_gone(&self, name: &str, bytes: u64) -> Result<Value, (String, String)> {
        match self.views.looks.left.by_name(name) {
            Some(Some(words)) => {
                let (text, left_out) = end_of(&words.log, bytes);
                Ok(log_json(name, "worker", Some(name), true, text, left_out))
            }
            _ => Err(not_found(format!("worker {name} is gone and has left no log"))),
        }
    }

    /// Sends a question on its way; answers at once if nobody has to be asked.
    fn begin(
        &mut self,
        client: ClientId,
        id: u32,
        asked: Asked,
        wanted: &Wanted,
        workers: &[WorkerId],
        left: Vec<(String, Value)>,
    ) -> Result<Option<Value>, (String, String)> {
        if self.views.looks.pending.len() >= PENDING_MAX {
            return Err(("refused".into(), "too many such questions wait for workers already".into()));
        }
        // Of a thousand workers one is always slow, and the others are enough to see where time goes.
        let patience = if matches!(asked, Asked::Profile { .. }) { PROFILE_PATIENCE } else { PATIENCE };
        let number = self.views.looks.next;
        self.views.looks.next = number.wrapping_add(1);
        let until = self.now().after(patience);
        let mut merged = Merged::default();
        let gone = match (&asked, wanted) {
            (Asked::Profile { past: true, .. }, Wanted::Profile { run }) => {
                self.views.looks.past.tell(*run, &mut merged)
            }
            _ => 0,
        };
        let mut pending = Pending { client, id, asked, until, workers: BTreeMap::new(), left, merged, gone };
        for worker in workers {
            let Some(peer) = self.workers.get(worker) else { continue };
            let order = WorkerOrder::Message(ToWorker::Look(Look { id: number, wanted: wanted.clone() }));
            let pushed = peer.link.push(order, SMALL_MESSAGE_BYTES);
            let answer = pushed.is_err().then(|| Err("it is too busy to be asked".to_owned()));
            pending.workers.insert(*worker, (peer.name.clone(), answer));
        }
        if pending.workers.values().all(|(_, answer)| answer.is_some()) {
            return pending.reply().map(Some);
        }
        self.views.looks.pending.insert(number, pending);
        Ok(None)
    }

    /// A worker has answered.
    pub(super) fn looked(&mut self, worker: WorkerId, looked: Looked) {
        let Some(pending) = self.views.looks.pending.get_mut(&looked.id) else { return };
        let Some((_, answer)) = pending.workers.get_mut(&worker) else { return };
        let fault = |e: serde_json::Error| format!("it answered what is no JSON: {e}");
        *answer = Some(match (&pending.asked, looked.result) {
            (_, Err(why)) => Err(why),
            (Asked::Profile { .. }, Ok(text)) => {
                serde_json::from_str::<Profile>(&text).map_err(fault).map(|profile| {
                    pending.merged.add(&profile, None);
                    Value::Null
                })
            }
            (_, Ok(text)) => serde_json::from_str(&text).map_err(fault),
        });
    }

    /// A worker leaves something behind.
    pub(super) fn last_words(&mut self, worker: WorkerId, words: LastWords, profile: Option<Box<Profile>>) {
        if let Some(peer) = self.workers.get(&worker).filter(|peer| peer.incarnation == words.incarnation) {
            self.views.looks.left.meet(worker, peer.incarnation, &peer.name);
        }
        if self.views.looks.left.keep(words)
            && let Some(profile) = profile
        {
            self.views.looks.past.add(*profile);
        }
    }

    /// Answers those whose questions all workers have answered, or have had time to.
    pub(in crate::scheduler) fn check_looks(&mut self, now: Time) {
        let over = |pending: &Pending| {
            pending.until <= now || pending.workers.values().all(|(_, answer)| answer.is_some())
        };
        let pending = &mut self.views.looks.pending;
        let numbers: Vec<u32> = pending.iter().filter(|(_, p)| over(p)).map(|(number, _)| *number).collect();
        for number in numbers {
            let Some(pending) = self.views.looks.pending.remove(&number) else { continue };
            self.send_answer(pending.client, pending.id, pending.reply());
        }
    }
}

impl Pending {
    /// One answer of all.
    fn reply(&self) -> Reply {
        match &self.asked {
            Asked::Task { key, task } => self.of_task(key, *task),
            Asked::Profile { group, .. } => {
                let mut merged = self.merged.clone();
                merged.forget_runs(0);
                let mut answer = merged.to_json(group.as_deref());
                let answered =
                    self.workers.values().filter(|(_, answer)| matches!(answer, Some(Ok(_)))).count();
                answer["workers"] =
                    json!({ "asked": self.workers.len(), "answered": answered, "gone": self.gone });
                Ok(answer)
            }
            Asked::Worker { name } => {
                let answer = self.workers.values().next().and_then(|(_, answer)| answer.as_ref());
                match answer {
                    Some(Ok(log)) => {
                        let text = log["text"].as_str().unwrap_or_default();
                        let left_out = log["left-out"].as_u64().unwrap_or(0);
                        Ok(log_json(name, "worker", Some(name), false, text, left_out))
                    }
                    Some(Err(why)) => Err(("unreachable".into(), format!("worker {name}: {why}"))),
                    None => Err(("timeout".into(), format!("worker {name} does not answer"))),
                }
            }
        }
    }

    /// The last attempt counts, wherever it ran.
    fn of_task(&self, key: &str, _task: TaskRef) -> Reply {
        let here = self.workers.values().filter_map(|(name, answer)| match answer {
            Some(Ok(said)) if !said.is_null() => Some((name, said, false)),
            _ => None,
        });
        let all = here.chain(self.left.iter().map(|(name, said)| (name, said, true)));
        let last = all.max_by_key(|(_, said, gone)| (said["attempt"].as_u64(), !gone));
        if let Some((name, said, gone)) = last {
            return Ok(json!({
                "of": key, "kind": "task", "where": name, "gone": gone, "attempt": said["attempt"],
                "parts": said["parts"],
            }));
        }
        let failed = self.workers.values().find_map(|(name, answer)| match answer {
            None => Some(("timeout".to_owned(), format!("worker {name} does not answer"))),
            Some(Err(why)) => Some(("unreachable".to_owned(), format!("worker {name}: {why}"))),
            Some(Ok(_)) => None,
        });
        match (failed, self.workers.values().next_back()) {
            (Some(error), _) => Err(error),
            // It has printed nothing, has not begun, or it was too long ago.
            (None, name) => {
                let place = name.map(|(name, _)| name);
                let parts: [Value; 0] = [];
                let mut answer = json!({ "of": key, "kind": "task", "where": place, "gone": false });
                answer["attempt"] = Value::Null;
                answer["parts"] = json!(parts);
                Ok(answer)
            }
        }
    }
}

/// The last bytes of a text, and how many come before.
fn end_of(text: &str, bytes: u64) -> (&str, u64) {
    let from = text.len().saturating_sub(usize::try_from(bytes).unwrap_or(usize::MAX));
    let from = (from..=text.len()).find(|&at| text.is_char_boundary(at)).unwrap_or(text.len());
    (&text[from..], from as u64)
}

fn said_json(said: &Said, bytes: u64) -> Value {
    let part = |part: &crate::protocol::messages::look::PrintedPart| {
        let (text, before) = end_of(&part.text, bytes);
        json!({ "name": part.name, "text": text, "left-out": part.left_out + before })
    };
    json!({ "attempt": said.attempt, "parts": said.parts.iter().map(part).collect::<Vec<_>>() })
}

fn log_json(of: &str, kind: &str, place: Option<&str>, gone: bool, text: &str, left_out: u64) -> Value {
    json!({
        "of": of, "kind": kind, "where": place, "gone": gone,
        "parts": [{ "name": "log", "text": text, "left-out": left_out }],
    })
}

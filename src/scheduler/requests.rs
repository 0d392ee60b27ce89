//! What clients want done with runs, and what becomes of runs over time: submission, watching, progress,
//! waiting for workers, the end of what is kept. Owns that part of the driver.

use super::core::event::Event;
use super::core::state::State;
use super::driver::Driver;
use super::input::{ClientOrder, Submission, WorkerOrder};
use super::peers::ClientPeer;
use crate::base::ids::{ClientId, RunId, RunUuid};
use crate::base::time::Time;
use crate::protocol::messages::client::{Accepted, Progress, Rejected, ToClient};
use crate::protocol::messages::worker::{ForgetRun, ToWorker};

/// Clients with more than so many bytes waiting are not told about progress until they catch up.
const PROGRESS_BACKLOG_MAX: usize = 1 << 20;

/// What a message counts for in a queue if it is small.
pub const SMALL_MESSAGE_BYTES: usize = 256;

impl Driver {
    pub(super) fn submit(&mut self, client: ClientId, submission: Submission) {
        let uuid = submission.spec.uuid;
        let run = match self.runs.find(uuid) {
            Some(run) => run,
            None => {
                let (name, tasks) = (submission.spec.name.clone(), submission.tasks);
                let run = self.runs.add(client, submission, None);
                tracing::info!(%run, name, tasks, "run begins");
                self.note_submitted(run);
                run
            }
        };
        let tasks = self.runs.get(run).map_or(0, |e| e.tasks);
        self.tell(client, ToClient::Accepted(Accepted { run: uuid, id: run, tasks, first: 0 }));
    }

    /// Gives runs to the core whose workers have come.
    pub(super) fn release_held(&mut self) {
        let there = self.workers.len() as u64;
        let ready = |e: &super::runs::RunEntry| e.held.as_ref().is_some_and(|(n, _)| u64::from(*n) <= there);
        let ready: Vec<RunId> = self.runs.graphs().filter(|(_, e)| ready(e)).map(|(run, _)| run).collect();
        for run in ready {
            self.release(run);
        }
    }

    /// Gives a run to the core, if it has not been given.
    pub(super) fn release(&mut self, run: RunId) {
        let Some(entry) = self.runs.get_mut(run) else { return };
        let Some((_, spec)) = entry.held.take() else { return };
        let (owner, watchers) = (entry.owner, entry.watchers.clone());
        self.events.push(Event::RunSubmitted { client: Some(owner), run, spec });
        if self.clients.get(&owner).is_none_or(|c| c.link.is_none()) {
            // Its client went away meanwhile: the core begins to count its lease now.
            self.events.push(Event::ClientLeft { client: owner });
        }
        // The last one watches most closely, as it would have with a run that was not held.
        for client in watchers.into_iter().filter(|w| *w != owner) {
            self.events.push(Event::RunWatched { client, run });
        }
    }

    pub(super) fn watch(&mut self, client: ClientId, uuid: RunUuid) {
        let Some(run) = self.runs.find(uuid) else {
            let reason = "the scheduler does not know this run (any more)".to_string();
            return self.tell(client, ToClient::Rejected(Rejected { run: uuid, reason }));
        };
        self.introduce_calls(client, run);
        let Some(entry) = self.runs.get_mut(run) else { return };
        entry.watchers.retain(|w| *w != client);
        entry.watchers.push(client);
        entry.told = None;
        if entry.held.is_none() {
            self.events.push(Event::RunWatched { client, run });
        }
    }

    /// Forgets a run, here and in the core and at the workers.
    pub(super) fn forget(&mut self, run: RunId) {
        if self.runs.remove(run).is_some_and(|e| e.held.is_none()) {
            self.events.push(Event::RunForgotten { run });
        }
        self.forget_at_workers(run);
    }

    /// Tells the workers that nothing of a run will come any more.
    pub(super) fn forget_at_workers(&mut self, run: RunId) {
        for peer in self.workers.values_mut() {
            if peer.forget_run(run) {
                let order = WorkerOrder::Message(ToWorker::ForgetRun(ForgetRun { run }));
                // Overfull queues are noticed with the next larger order.
                let _ = peer.link.push(order, SMALL_MESSAGE_BYTES);
            }
        }
    }

    /// Tells watchers how far their runs are, if that has changed.
    pub(super) fn tell_progress(&mut self) {
        let (workers, slots) = self.core.capacity();
        let mut news = Vec::new();
        let graphs: Vec<RunId> = self.runs.graphs().map(|(run, _)| run).collect();
        for run in graphs {
            let Some(entry) = self.runs.get_mut(run) else { continue };
            if entry.watchers.is_empty() || entry.summary.is_some() {
                continue;
            }
            let progress = match &entry.held {
                Some(_) => None,
                None => self.core.run_progress(run),
            };
            let key = progress.map(|p| (p, workers, slots));
            if key.is_some() && entry.told == key {
                continue;
            }
            entry.told = key;
            let mut message = Progress {
                run: entry.info.uuid,
                total: entry.tasks,
                waiting: entry.tasks,
                workers: workers as u32,
                slots,
                ..Progress::default()
            };
            if let Some(p) = progress {
                let n = |state: State| p.counts[state as usize];
                message.total = p.counts.iter().sum();
                message.growing = p.growing;
                message.done = n(State::Memory) + n(State::Released);
                message.processing = n(State::Processing);
                message.queued = n(State::Queued) + n(State::Delayed);
                message.waiting = n(State::Waiting);
                message.failed = n(State::Erred);
                message.retried = p.retried;
                message.outputs = p.outputs_waiting;
                message.stuck = self.core.stuck(run);
            }
            news.extend(entry.watchers.iter().map(|w| (*w, message.clone())));
        }
        for (client, message) in news {
            let link = self.clients.get(&client).and_then(|c| c.link.as_ref());
            if link.is_some_and(|l| l.waiting() < PROGRESS_BACKLOG_MAX) {
                self.tell(client, ToClient::Progress(message));
            }
        }
    }

    /// Looks for what has expired, and whether there is still anything to do.
    pub(super) fn sweep(&mut self, now: Time) {
        for (run, entry) in self.runs.iter_mut() {
            let over = entry.summary.is_some()
                || entry.held.is_none()
                    && self.core.run_progress(run).is_none_or(|p| p.unfinished == 0 && !p.growing);
            match over {
                true => drop(entry.ended.get_or_insert(now)),
                false => entry.ended = None,
            }
        }
        self.end_sessions(now);
        for run in self.runs.expired(now, self.config.scheduler.result_ttl.0) {
            self.forget(run);
        }
        let busy = self.runs.busy() || self.clients.iter().any(|(id, c)| self.is_client(*id, c));
        if busy {
            self.idle_since = None;
            return;
        }
        let since = *self.idle_since.get_or_insert(now);
        if let Some(limit) = self.config.scheduler.idle_timeout
            && now >= since.after(limit.0)
        {
            self.stop(&format!("idle for {}", humantime::format_duration(limit.0)));
        }
    }

    /// Whether somebody is there for whom the cluster is. Executors that share something are no clients of
    /// their own, and who looks does not keep what is looked at.
    pub(super) fn is_client(&self, client: ClientId, peer: &ClientPeer) -> bool {
        peer.link.is_some() && !peer.looks_only && !self.board.is_bound(client)
    }

    /// Sends a small message to a client, if it is connected.
    pub(super) fn tell(&mut self, client: ClientId, message: ToClient) {
        self.order_client(client, ClientOrder::Message(message), SMALL_MESSAGE_BYTES);
    }

    /// Gives an order to a client's session; cuts its connection if it is too far behind.
    pub(super) fn order_client(&mut self, client: ClientId, order: ClientOrder, bytes: usize) {
        let Some(link) = self.clients.get(&client).and_then(|c| c.link.as_ref()) else { return };
        if link.push(order, bytes).is_err() {
            tracing::warn!(%client, "cut off a client that does not take what it is sent");
            // Its session reports the end.
            link.cut();
        }
    }
}

//! Questions that are answered later: when enough workers are there, when runs are over. Owns the list of
//! those who wait and what they are told.

use super::driver::Driver;
use super::input::ClientOrder;
use crate::base::ids::{ClientId, RunId};
use crate::base::time::Time;
use crate::protocol::messages::client::{Answer, ToClient};
use serde_json::{Value, json};
use std::time::Duration;

/// A question that waits for its answer.
#[derive(Clone, Debug)]
pub struct Wait {
    /// Who asked.
    pub client: ClientId,
    /// The question's number.
    pub id: u32,
    /// When waiting ends without what was waited for.
    pub until: Option<Time>,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Workers(u32),
    Run(RunId),
    AllRuns,
}

/// What is answered: JSON, or a kind of error and words.
pub type Reply = Result<Value, (String, String)>;

impl Driver {
    /// Answers when so many workers are connected.
    pub(super) fn wait_workers(&mut self, client: ClientId, id: u32, workers: u32, timeout_ms: u64) {
        let until = Some(self.now().after(Duration::from_millis(timeout_ms)));
        self.waits.push(Wait { client, id, until, what: What::Workers(workers) });
    }

    /// Answers when a run, or every run, is over.
    pub(super) fn wait_run(&mut self, client: ClientId, id: u32, run: Option<RunId>, timeout_ms: u64) {
        let until = (timeout_ms > 0).then(|| self.now().after(Duration::from_millis(timeout_ms)));
        let what = run.map_or(What::AllRuns, What::Run);
        self.waits.push(Wait { client, id, until, what });
    }

    /// Answers those whose wait is over.
    pub(super) fn check_waits(&mut self, now: Time) {
        if self.waits.is_empty() {
            return;
        }
        let mut over = Vec::new();
        let mut waits = std::mem::take(&mut self.waits);
        waits.retain(|wait| match self.reply(wait, now) {
            None => true,
            Some(reply) => {
                over.push((wait.client, wait.id, reply));
                false
            }
        });
        self.waits = waits;
        for (client, id, reply) in over {
            self.send_answer(client, id, reply);
        }
    }

    fn reply(&self, wait: &Wait, now: Time) -> Option<Reply> {
        let late = wait.until.is_some_and(|until| until <= now);
        let timeout = |what: String| late.then(|| Err(("timeout".to_string(), what)));
        match wait.what {
            What::Workers(n) if self.workers.len() >= n as usize => {
                Some(Ok(json!({ "workers": self.workers.len() })))
            }
            What::Workers(n) => timeout(format!("{} of {n} workers are connected", self.workers.len())),
            What::Run(run) => match self.runs.get(run) {
                None => Some(Err(("not-found".into(), "the run was forgotten meanwhile".into()))),
                Some(_) if self.is_over(run) => Some(Ok(self.run_result(run))),
                Some(entry) => timeout(format!("run {} is not over", entry.name)),
            },
            What::AllRuns => {
                let open = self.runs.iter().filter(|(run, _)| !self.is_over(*run)).count();
                match open {
                    0 => {
                        let runs: Vec<Value> =
                            self.runs.iter().map(|(run, _)| self.run_result(run)).collect();
                        Some(Ok(json!({ "runs": runs })))
                    }
                    n => timeout(format!("{n} runs are not over")),
                }
            }
        }
    }

    /// Whether nothing of a run is left to be executed. Outputs may still wait for somebody who takes them.
    pub(super) fn is_over(&self, run: RunId) -> bool {
        let Some(entry) = self.runs.get(run) else { return true };
        let idle = || self.core.run_progress(run).is_none_or(|p| p.unfinished == 0 && !p.growing);
        entry.summary.is_some() || entry.held.is_none() && idle()
    }

    /// Sends an answer.
    pub(super) fn send_answer(&mut self, client: ClientId, id: u32, reply: Reply) {
        let result = reply.map(|value| value.to_string());
        let bytes = result.as_ref().map_or(0, String::len);
        let order = ClientOrder::Message(ToClient::Answer(Answer { id, result }));
        self.order_client(client, order, bytes);
    }
}

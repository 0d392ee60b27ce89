//! What those see who look at the cluster: views of the core, what was measured over time, what happened.
//! Owns what is kept for that and nothing that is decided. Answers are JSON (`docs/api.md`).

mod left;
mod looks;

use super::driver::Driver;
use super::input::Seen;
use super::waits::Reply;
use crate::base::ids::{ClientId, WorkerId};
use crate::protocol::messages::look::View;
use looks::Looks;

/// What is kept for those who look.
#[derive(Debug, Default)]
pub struct Views {
    pub(super) looks: Looks,
}

impl Driver {
    /// Answers who looks; `None` if the answer comes later, from workers.
    pub(super) fn view(&mut self, client: ClientId, id: u32, view: View) -> Option<Reply> {
        match view {
            View::Logs { .. } | View::Profile { .. } => self.ask_workers(client, id, view),
            _ => Some(Err(("refused".into(), "this view does not exist yet".into()))),
        }
    }

    /// Takes note of what a worker tells for those who look.
    pub(super) fn seen(&mut self, worker: WorkerId, seen: Seen) {
        match seen {
            Seen::Spans(..) => {}
            Seen::Looked(looked) => self.looked(worker, looked),
            Seen::LastWords(words) => self.last_words(worker, *words),
        }
    }
}

//! What those see who look at the cluster: views of the core, what was measured over time, what happened.
//! Owns what is kept for that and nothing that is decided. Answers are JSON (`docs/api.md`).

mod looks;
mod series;
mod spans;
mod timings;

use super::driver::Driver;
use super::input::Seen;
use super::waits::Reply;
use crate::base::ids::{ClientId, WorkerId};
use crate::protocol::messages::look::View;
use crate::protocol::messages::worker::Heartbeat;
use looks::Looks;
use series::Series;
use spans::Stream;
use timings::Timings;
pub(super) use timings::{Phase, count};

/// What is kept for those who look.
#[derive(Debug, Default)]
pub struct Views {
    looks: Looks,
    pub(super) series: Series,
    pub(super) stream: Stream,
    pub(super) timings: Timings,
}

impl Views {
    /// A worker is gone: these were its last figures.
    pub(super) fn worker_gone(&mut self, worker: WorkerId, figures: &Heartbeat) {
        self.series.worker_gone(worker, figures);
        self.stream.worker_gone(worker);
    }
}

impl Driver {
    /// Answers who looks; `None` if the answer comes later, from workers.
    pub(super) fn view(&mut self, client: ClientId, id: u32, view: View) -> Option<Reply> {
        match view {
            View::Series { after, workers } => Some(self.series_view(after, workers)),
            View::Spans { after, limit, run } => Some(self.spans_view(after, limit, run)),
            View::Timings => Some(Ok(self.timings_view())),
            View::Logs { .. } | View::Profile { .. } => self.ask_workers(client, id, view),
            _ => Some(Err(("refused".into(), "this view does not exist yet".into()))),
        }
    }

    /// Takes note of what a worker tells for those who look.
    pub(super) fn seen(&mut self, worker: WorkerId, seen: Seen) {
        match seen {
            Seen::Spans { spans, now_ns, left_out } => self.take_spans(worker, &spans, now_ns, left_out),
            Seen::Looked(looked) => self.looked(worker, looked),
            Seen::LastWords(words) => self.last_words(worker, *words),
        }
    }
}

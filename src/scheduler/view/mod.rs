//! What those see who look at the cluster: views of the core, what was measured over time, what happened.
//! Owns what is kept for that and nothing that is decided. Answers are JSON (`docs/api.md`).

mod events;
mod groups;
mod hold;
mod left;
mod looks;
pub(super) mod meter;
mod overview;
mod past;
mod series;
mod shown;
mod spans;
mod tasks;
mod timings;

use super::driver::Driver;
use super::input::{ClientOrder, MadeLater, Seen};
use super::waits::Reply;
use crate::base::ids::{ClientId, WorkerId};
use crate::base::time::Time;
use crate::protocol::messages::look::View;
use crate::protocol::messages::worker::Heartbeat;
use events::Events;
use looks::Looks;
use meter::Meter;
use series::Series;
use spans::Stream;
use std::time::Duration;
use timings::Timings;
pub(super) use timings::{Phase, count};

/// How often the figures of all tasks are noted.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

/// What is kept for those who look.
#[derive(Debug, Default)]
pub struct Views {
    pub(super) looks: Looks,
    pub(super) series: Series,
    pub(super) stream: Stream,
    pub(super) timings: Timings,
    events: Events,
    /// Attempts that succeeded, that failed.
    meter: Meter<2>,
    sample_at: Time,
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
        Some(match view {
            View::Logs { .. } | View::Profile { .. } => return self.ask_workers(client, id, view),
            View::Overview => Ok(self.overview()),
            View::Groups { run } => self.view_groups(run, false),
            View::Graph { run } => self.view_groups(run, true),
            View::Tasks(filter) => self.view_tasks(&filter),
            View::Events { after, limit } => self.view_events(after, limit),
            View::Series { after, workers } => self.series_view(after, workers),
            View::Spans { after, limit, run } => match self.shown(after, limit, run) {
                Ok(shown) => {
                    let (bytes, json) = (shown.bytes(), Box::new(move || shown.json()));
                    let order = ClientOrder::Answer { id, json: MadeLater(json) };
                    self.order_client(client, order, bytes);
                    return None;
                }
                Err(error) => Err(error),
            },
            View::Timings => Ok(self.timings_view()),
        })
    }

    /// Takes note of what a worker tells for those who look.
    pub(super) fn seen(&mut self, worker: WorkerId, seen: Seen) {
        match seen {
            Seen::Spans { spans, now_ns, left_out } => self.take_spans(worker, &spans, now_ns, left_out),
            Seen::Looked(looked) => self.looked(worker, looked),
            Seen::LastWords(words, profile) => self.last_words(worker, *words, profile),
        }
    }

    /// Notes figures of all tasks and of each run, if it is time.
    pub(super) fn sample(&mut self, now: Time) {
        if now < self.views.sample_at {
            return;
        }
        self.views.sample_at = now.after(SAMPLE_INTERVAL);
        let totals = self.core.totals();
        self.views.meter.add(now, [totals.done as f64, totals.failed as f64]);
        let core = &self.core;
        self.runs.each_graph_mut(|run, entry| {
            if entry.summary.is_none()
                && let Some(progress) = core.run_progress(run)
            {
                entry.meter.add(now, [progress.done as f64]);
            }
        });
    }
}

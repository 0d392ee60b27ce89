//! Results that are written for a later run. Owns which of those that the scheduler names are, and starts the
//! thread that does it; the files are `checkpoint`'s.

use super::Work;
use crate::base::ids::{FamilyIx, TaskRef};
use crate::worker::checkpoint::{Counts, Order, Saver};
use std::time::{Duration, Instant};

impl Work {
    /// Results are to be written for a later run, if their families say where.
    pub(in crate::worker) fn save(&mut self, tasks: Vec<(TaskRef, FamilyIx, u32, u64)>, until: Instant) {
        let order = |(task, family, element, cost_ms): (TaskRef, FamilyIx, u32, u64)| {
            let family = self.families.find(task.run, family)?;
            let checkpoint = family.spec().checkpoint.clone()?;
            let result = self.store().find(task)?.clone();
            let cost = Duration::from_millis(cost_ms);
            Some(Order { checkpoint, key: family.key(element), result, cost })
        };
        let orders: Vec<Order> = tasks.into_iter().filter_map(order).collect();
        if orders.is_empty() {
            return;
        }
        tracing::info!("writing up to {} results for a later run", orders.len());
        if self.saver.is_none() {
            match Saver::start(&self.name) {
                Ok(saver) => self.saver = Some(saver),
                Err(error) => return tracing::warn!("nothing is written for a later run: {error}"),
            }
        }
        if let Some(saver) = &self.saver {
            saver.save(orders, until);
        }
    }

    /// Waits until what was to be written is, but not longer than `limit`.
    pub(in crate::worker) async fn finish_saving(&mut self, limit: Duration) {
        let Some(saver) = self.saver.take() else { return };
        match tokio::task::spawn_blocking(move || saver.finish(limit)).await {
            Ok(Some(Counts { written, cheap, late, failed })) => {
                tracing::info!(written, cheap, late, failed, "results for a later run");
            }
            Ok(None) => tracing::warn!("the time to write results for a later run is over"),
            Err(error) => tracing::error!("writing results came to grief: {error}"),
        }
    }
}

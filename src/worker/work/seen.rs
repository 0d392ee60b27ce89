//! What a worker tells for those who look: rectangles of the task stream and seconds. Owns what is put into
//! them; their number and how they are joined is the collector's.

use super::Work;
use crate::base::ids::TaskRef;
use crate::graph::layer::SLOT;
use crate::protocol::messages::look::{Span, SpanKind, Spans};
use crate::worker::core::event::Fetched;
use crate::worker::cpu::Running;
use crate::worker::executor::Outcome;
use crate::worker::memory::sampler::Sample;
use crate::worker::spans::Fetching;
use crate::worker::store::spill::DiskUse;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

impl Work {
    /// An attempt has ended.
    pub(super) fn note_span(
        &mut self,
        task: TaskRef,
        kin: u64,
        slot: Option<u32>,
        outcome: &Outcome,
        peak: u64,
    ) {
        let (kind, bytes) = match &outcome.result {
            Ok(result) => (SpanKind::Compute, result.nbytes()),
            Err(_) => (SpanKind::Failed, 0),
        };
        let ns = u64::try_from(outcome.wall.as_nanos()).unwrap_or(u64::MAX);
        let peak = peak.max(outcome.max_rss_bytes);
        let span = Span { kind, task: Some(task), ns, bytes, peak, ..Span::default() };
        self.spans.task(slot, kin, outcome.started, span);
    }

    /// A fetch has ended.
    pub(super) fn note_fetch(&mut self, fetching: Fetching, outcomes: &[(TaskRef, Fetched)]) {
        let (mut first, mut count, mut bytes) = (None, 0, 0u64);
        for (task, outcome) in outcomes {
            if let Fetched::Here(n) = outcome {
                first = first.or(Some(*task));
                count += 1;
                bytes = bytes.saturating_add(*n);
            }
        }
        self.spans.fetch_ended(fetching, first, count, bytes);
    }

    /// Looks at how many slots have nothing to do although there are tasks. To be called after every change.
    pub(in crate::worker) fn note_waiting(&mut self) {
        // Those that were cancelled and have not ended are in the pool too, and hide one each.
        let tasks = self.core.in_hand().saturating_sub(self.running.len());
        let slots = if tasks == 0 { 0.0 } else { f64::from(self.core.idle_slots()) / f64::from(SLOT) };
        self.spans.note_waiting(slots.min(tasks as f64), Instant::now());
    }

    /// Whether there is or will be something to tell.
    pub(in crate::worker) fn is_active(&self) -> bool {
        !self.running.is_empty() || !self.asked.is_empty() || !self.spans.is_empty()
    }

    /// Whether nothing is to be done at the moment, so that what has happened need not wait for more.
    pub(in crate::worker) fn is_quiet(&self) -> bool {
        self.running.is_empty() && self.core.in_hand() == 0 && !self.spans.is_empty()
    }

    /// Rectangles since the last time; all of them if this is the `last` time for a while.
    pub(in crate::worker) fn take_spans(&mut self, last: bool) -> Option<Spans> {
        if let Some(spiller) = &self.memory.parts().spiller {
            let (written, read) = spiller.spill().take_periods();
            self.spans.disk(SpanKind::SpillWrite, written);
            self.spans.disk(SpanKind::SpillRead, read);
        }
        let running = self.pool.running();
        self.spans.take(last, running.iter().map(|(task, _, control)| (*task, control.begun())))
    }

    /// Seconds so far in which tasks executed, in which inputs were fetched, and of slots that waited.
    pub(in crate::worker) fn seconds(&mut self) -> (f64, f64, f64) {
        let now = Instant::now();
        let running = self.pool.running().into_iter();
        self.spans.note_executing(running.map(|(task, attempt, _)| (task, attempt)), now);
        self.spans.seconds(now)
    }

    /// The processes at the monitor's last look.
    pub(in crate::worker) fn sample(&self) -> Arc<Sample> {
        self.memory.parts().gauge.read().sample
    }

    /// What executes, and its main processes.
    pub(in crate::worker) fn processes(&self) -> Vec<Running> {
        self.pool
            .running()
            .into_iter()
            .map(|(task, attempt, control)| (task, attempt, control.pid()))
            .collect()
    }

    /// What was written to disk and read back so far.
    pub(in crate::worker) fn disk(&self) -> DiskUse {
        self.memory.parts().spiller.as_ref().map_or_else(DiskUse::default, |s| s.spill().disk_use())
    }

    /// Bytes written to disk so far of results that were fetched from workers that have them.
    pub(in crate::worker) fn copies_written(&self) -> u64 {
        self.memory.parts().store.lock().unwrap_or_else(PoisonError::into_inner).copies_written()
    }

    /// Executor processes so far: started, replaced because they had grown, died of a task.
    pub(in crate::worker) fn executors(&self) -> (u64, u64, u64) {
        let counts = &self.memory.parts().executors;
        (counts.started(), counts.replaced(), counts.died())
    }
}

//! Memory as the work on hand has it: what is known of results and of those to come goes to `memory`, which
//! says what is due; that is done here. Owns neither the figures nor the rules.

use super::Work;
use crate::base::ids::TaskRef;
use crate::worker::core::event::Event;
use crate::worker::memory::{Results, Running};
use crate::worker::store::pool::SEGMENT_BYTES_MIN;
use std::collections::VecDeque;

/// Looks at memory in a row, at most, when results come and tasks start.
const GROWTH_LOOKS: usize = 2;

impl Work {
    /// Looks at memory if results have come or will, or tasks wait for room: the monitor may be too slow.
    pub(in crate::worker) fn on_growth(&mut self) {
        // What starts then may need room made for the next one.
        for _ in 0..GROWTH_LOOKS {
            if std::mem::take(&mut self.grown) || self.core.is_holding() {
                self.on_memory(false);
            }
        }
    }

    /// Results and what is known of those to come.
    fn results(&self) -> Results {
        let (making, coming) = self.core.expected_bytes();
        let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX / 4);
        let (captured, arriving) = (self.pool.captured_bytes(), self.client.arriving_bytes());
        Results {
            managed: self.store().managed_bytes() + captured + arriving,
            // What comes may be larger than was expected.
            rest: making - signed(captured) + signed(coming.saturating_sub(arriving)),
            next: self.core.next_bytes(),
            brief: self.core.brief_bytes(),
        }
    }

    /// Lets copies go that nobody here needs, if there will be too many results.
    fn shed(&mut self) {
        let excess = self.memory.target().map_or(0, |target| self.results().excess(target));
        if excess > 0 {
            self.handle(Event::Shed { bytes: excess, here: self.here });
        }
    }

    /// Looks at memory and does what is due. `measured`: the monitor has looked anew.
    pub(in crate::worker) fn on_memory(&mut self, measured: bool) {
        if measured {
            self.lose_pinned();
            self.memory.look(&self.pool.running());
        }
        let moved = self.store().take_moved();
        self.core.set_on_disk(&moved);
        self.shed();
        let (results, idle) = (self.results(), self.core.executing() == 0);
        let (pool, running) = (&self.pool, &self.running);
        let due = self.memory.act(results, measured, idle, || {
            let all = pool.running().into_iter();
            let known = all.filter_map(|(task, attempt, control)| {
                let origin = running.get(&(task, attempt))?;
                let (key, usual) = (origin.key(), origin.usual_peak());
                Some(Running { id: (task, attempt), key, usual, control })
            });
            known.collect()
        });
        let mut events = VecDeque::new();
        if let Some(paused) = due.paused {
            // What the scheduler has not heard of yet cancels out.
            self.paused = if self.paused.is_some() { None } else { Some(paused) };
            let actions = self.core.set_paused(paused);
            self.perform(actions, &mut events);
        }
        let actions = self.core.set_room(due.room);
        self.perform(actions, &mut events);
        if due.start_one {
            let actions = self.core.start_one();
            self.perform(actions, &mut events);
        }
        events.into_iter().for_each(|event| self.handle(event));
    }

    /// Drops results that nobody needs. Whether some were in processes.
    pub(super) fn let_go(&mut self, tasks: &[TaskRef]) -> bool {
        let gone = self.store().remove_all(tasks);
        if gone.iter().map(|result| result.memory_bytes()).sum::<u64>() >= SEGMENT_BYTES_MIN {
            // As long as they are there: else what they leave behind finds no room to be kept in.
            self.memory.keep_what_is_free(self.results());
        }
        gone.iter().any(|result| result.pinned.is_some())
    }
}

//! Tasks that wait for other tasks: one that does gives its slots away until it goes on. Owns how many may.

use super::Core;
use crate::base::ids::{Attempt, TaskRef};

/// Tasks that have given their slots away, at most: each is a process with all of its memory.
const AWAY_MAX: usize = 256;

impl Core {
    /// A task begins to wait for others, or goes on. Then it has its slots again, even if others have begun
    /// in them meanwhile: it holds what they may wait for.
    pub(super) fn on_away(&mut self, task: TaskRef, attempt: Attempt, away: bool) {
        if away && self.hands.values().filter(|h| h.away).count() >= AWAY_MAX {
            return;
        }
        let Some(hand) = self.hands.get_mut(&task).filter(|h| h.attempt == attempt && h.executing) else {
            return;
        };
        if hand.away == away {
            return;
        }
        hand.away = away;
        hand.was_away = true;
        let (slots, line_ns) = (hand.slots, std::mem::take(&mut hand.line_ns));
        match (away, line_ns) {
            (true, 0) => self.busy -= slots,
            // It was lined up and has begun.
            (true, ns) => self.leave_line(ns),
            (false, _) => self.busy += slots,
        }
        self.report.away.push((task, attempt, away));
        if away {
            self.move_up();
        }
    }
}

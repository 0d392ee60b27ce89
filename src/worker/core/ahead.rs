//! Inputs on disk that are read before their task starts: the disk works while the slots do. Owns whose they
//! are and how much of them is read.

use super::Core;
use super::event::Action;
use crate::base::ids::TaskRef;

/// Bytes read for one task before it starts: they lie in the kernel's cache until it does.
const AHEAD_BYTES: u64 = 256 << 20;

impl Core {
    /// Has inputs of the task that starts next read, once.
    pub(super) fn look_ahead(&mut self) {
        let Some(next) = self.ready.peek() else { return };
        let (task, n) = (next.1, next.2);
        if self.ahead == Some((task, n)) {
            return;
        }
        let Some(hand) = self.hands.get(&task).filter(|h| h.attempt.n == n && !h.executing) else { return };
        let mut bytes = 0;
        let sizes = hand.inputs.iter().filter_map(|(_, input)| {
            let datum = self.data.get(input).filter(|d| d.on_disk)?;
            Some((*input, datum.here?))
        });
        let mut has_room = |size: &u64| {
            let before = bytes;
            bytes += *size;
            before == 0 || bytes <= AHEAD_BYTES
        };
        let inputs: Vec<TaskRef> = sizes.take_while(|(_, size)| has_room(size)).map(|(t, _)| t).collect();
        // Also if there are none: it may have many inputs, and be the next one for many events.
        self.ahead = Some((task, n));
        if !inputs.is_empty() {
            self.actions.push(Action::ReadAhead(inputs));
        }
    }
}

//! What must hold in a worker between any two events, checked from scratch. For tests and simulations.

use super::Core;

impl Core {
    /// Checks every invariant and describes the first that does not hold.
    pub fn check(&self) -> Result<(), String> {
        let executing: u32 =
            self.hands.values().filter(|h| h.executing && h.line_ns == 0 && !h.away).map(|h| h.slots).sum();
        let zombies: u32 = self.zombies.values().map(|z| z.slots).sum();
        if executing + zombies != self.busy {
            return Err(format!("{} slots busy, should be {}", self.busy, executing + zombies));
        }
        self.line.check(self.hands.values().map(|h| h.line_ns).filter(|ns| *ns > 0))?;
        let several =
            self.hands.values().filter(|h| h.executing && h.line_ns == 0).count() + self.zombies.len() > 1;
        let returned = self.hands.values().any(|h| h.was_away && !h.away);
        if several && self.busy > self.slots && !returned {
            return Err(format!("{} slots busy of {}", self.busy, self.slots));
        }
        let expected = self.hands.values().filter(|h| h.executing).map(|h| h.expected);
        self.room.check(expected.chain(self.zombies.values().map(|z| z.expected)).sum())?;
        for (task, hand) in &self.hands {
            let mut missing = 0;
            for (_, input) in &hand.inputs {
                let datum =
                    self.data.get(input).ok_or_else(|| format!("{task:?} lacks its input {input:?}"))?;
                missing += u32::from(datum.here.is_none());
            }
            if missing != hand.missing {
                return Err(format!("{task:?} counts {} missing inputs, should be {missing}", hand.missing));
            }
            if hand.executing && missing > 0 {
                return Err(format!("{task:?} executes without its inputs"));
            }
            let queued =
                self.ready.iter().chain(&self.room.held).any(|r| r.1 == *task && r.2 == hand.attempt.n);
            if missing == 0 && !hand.executing && !queued {
                return Err(format!("{task:?} is ready and in no queue"));
            }
        }
        for (task, datum) in &self.data {
            let uses = self.hands.values().flat_map(|h| &h.inputs).filter(|(_, i)| i == task).count();
            if uses != datum.users as usize {
                return Err(format!("{task:?} counts {} users, should be {uses}", datum.users));
            }
            let spare = datum.replica && datum.here.is_some() && datum.users == 0;
            if spare != datum.spare.is_some() {
                return Err(format!("{task:?} is counted among the spare copies, or should be"));
            }
            if datum.here.is_none() && datum.users == 0 && !datum.copy {
                return Err(format!("{task:?} is wanted by nobody"));
            }
            if datum.here.is_none() && !self.is_asked(*task) {
                return Err(format!("{task:?} is waited for and asked of nobody"));
            }
        }
        Ok(())
    }
}

//! The states of a task as the scheduler sees it, and the transitions that are allowed. Owns the table only.

/// What the scheduler knows about a task.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
#[repr(u8)]
pub enum State {
    /// Wanted, and something it depends on is not there yet.
    Waiting = 0,
    /// Everything is there; waits for a place on a worker.
    Queued = 1,
    /// Failed and will be tried again after a pause.
    Delayed = 2,
    /// Handed to a worker, which may or may not have started it.
    Processing = 3,
    /// Done; its result lies on at least one worker.
    Memory = 4,
    /// Done; its result was dropped because nobody needs it.
    Released = 5,
    /// Failed for good, or depends on something that did.
    Erred = 6,
    /// Its run was cancelled.
    Cancelled = 7,
}

impl State {
    /// All states, in order of their number.
    pub const ALL: [State; 8] = [
        State::Waiting,
        State::Queued,
        State::Delayed,
        State::Processing,
        State::Memory,
        State::Released,
        State::Erred,
        State::Cancelled,
    ];

    /// The word for it in every output.
    pub fn name(self) -> &'static str {
        match self {
            State::Waiting => "waiting",
            State::Queued => "queued",
            State::Delayed => "delayed",
            State::Processing => "processing",
            State::Memory => "memory",
            State::Released => "released",
            State::Erred => "erred",
            State::Cancelled => "cancelled",
        }
    }

    /// Whether there is nothing left to do for a task in this state, unless its result is lost.
    pub fn is_final(self) -> bool {
        matches!(self, State::Memory | State::Released | State::Erred | State::Cancelled)
    }

    /// Whether a task may go from this state to `to` in one step.
    pub fn may_become(self, to: State) -> bool {
        use State::*;
        match self {
            // Straight into memory: what stands for a task of another run, or is brought by a client.
            Waiting => matches!(to, Queued | Memory | Released | Erred | Cancelled),
            Queued => matches!(to, Processing | Waiting | Delayed | Erred | Cancelled),
            Delayed => matches!(to, Queued | Waiting | Erred | Cancelled),
            Processing => {
                matches!(to, Memory | Released | Queued | Waiting | Delayed | Erred | Cancelled)
            }
            Memory => matches!(to, Released | Waiting | Queued | Cancelled),
            Released => matches!(to, Waiting | Queued | Erred | Cancelled),
            // Only when a person asks for another try.
            Erred => matches!(to, Waiting),
            // Nobody needed it, and now somebody does.
            Cancelled => matches!(to, Waiting),
        }
    }
}

/// A task's state with its flags, in one byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packed(u8);

impl Packed {
    const STATE: u8 = 0x0f;
    const LATER: u8 = 0x10;
    const IMPORTED: u8 = 0x20;
    const DONE: u8 = 0x80;
    const WANTED: u8 = 0x40;

    /// A task in a state, with no flags.
    pub fn new(state: State) -> Packed {
        Packed(state as u8)
    }

    /// Its state.
    pub fn state(self) -> State {
        State::ALL[(self.0 & Self::STATE) as usize]
    }

    /// Changes the state, keeps the flags.
    pub fn set_state(&mut self, state: State) {
        self.0 = (self.0 & !Self::STATE) | state as u8;
    }

    /// Whether it was done at least once (it may be computed again after its result was lost).
    pub fn done_once(self) -> bool {
        self.0 & Self::DONE != 0
    }

    /// Remembers that it was done.
    pub fn set_done_once(&mut self) {
        self.0 |= Self::DONE;
    }

    /// Whether the result is an output that nobody has taken yet.
    pub fn wanted(self) -> bool {
        self.0 & Self::WANTED != 0
    }

    /// Whether nobody wants the result once it is there.
    pub fn later(self) -> bool {
        self.0 & Self::LATER != 0
    }

    /// Notes whether nobody wants the result once it is there.
    pub fn set_later(&mut self, later: bool) {
        if later {
            self.0 |= Self::LATER;
        } else {
            self.0 &= !Self::LATER;
        }
    }

    /// Whether tasks of other runs depend on it.
    pub fn imported(self) -> bool {
        self.0 & Self::IMPORTED != 0
    }

    /// Notes whether tasks of other runs depend on it.
    pub fn set_imported(&mut self, imported: bool) {
        if imported {
            self.0 |= Self::IMPORTED;
        } else {
            self.0 &= !Self::IMPORTED;
        }
    }

    /// Sets or clears the mark of an output not yet taken.
    pub fn set_wanted(&mut self, wanted: bool) {
        if wanted {
            self.0 |= Self::WANTED;
        } else {
            self.0 &= !Self::WANTED;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_state_do_not_disturb_each_other() {
        let mut p = Packed::new(State::Waiting);
        p.set_wanted(true);
        p.set_done_once();
        p.set_state(State::Released);
        assert_eq!((p.state(), p.wanted(), p.done_once()), (State::Released, true, true));
        p.set_wanted(false);
        assert_eq!((p.state(), p.wanted(), p.done_once()), (State::Released, false, true));
    }
}

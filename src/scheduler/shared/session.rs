//! What is known of a session: what it waits for, what it was answered and has not heard, what it holds.
//! Owns that a request is known again when it is sent again.

use super::thing::Value;
use super::{Key, Pending, limits};
use crate::protocol::messages::share::{Outcome, Shared};
use std::collections::BTreeMap;

/// An answer that may have to be given again.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub outcome: Outcome,
    pub value: Option<Value>,
}

impl Answer {
    /// As it is sent.
    pub fn message(&self, id: u32) -> Shared {
        let body = self.value.as_ref().map(|v| v.bytes.clone()).unwrap_or_default();
        Shared { id, outcome: self.outcome.clone(), body }
    }
}

/// One session.
#[derive(Debug, Default)]
pub(super) struct Session {
    /// Whether all that it has ends with its connection.
    pub bound: bool,
    pub waiting: BTreeMap<u32, Pending>,
    pub answers: BTreeMap<u32, Answer>,
    /// How often it holds what.
    pub held: BTreeMap<Key, u32>,
}

impl Session {
    /// It has heard these answers, which are not needed any more.
    pub fn hear(&mut self, heard: &[u32]) -> Vec<Answer> {
        heard.iter().filter_map(|id| self.answers.remove(id)).collect()
    }

    /// What was answered to a request.
    pub fn answered(&self, id: u32) -> Option<&Answer> {
        self.answers.get(&id)
    }

    /// Whether a request waits already.
    pub fn is_waiting(&self, id: u32) -> bool {
        self.waiting.contains_key(&id)
    }

    /// Whether it has as many open requests as it may.
    pub fn is_full(&self) -> bool {
        self.waiting.len() + self.answers.len() >= limits::OPEN_MAX
    }

    pub fn holds(&mut self, key: &Key) {
        *self.held.entry(key.clone()).or_default() += 1;
    }

    pub fn lets_go(&mut self, key: &Key) {
        if let Some(count) = self.held.get_mut(key) {
            *count -= 1;
            if *count == 0 {
                self.held.remove(key);
            }
        }
    }
}

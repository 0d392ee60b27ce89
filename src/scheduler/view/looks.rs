//! What only workers have, or had: logs and profiles. Owns the questions that are on their way to workers,
//! and what workers left behind.

use super::super::driver::Driver;
use super::super::waits::Reply;
use crate::base::ids::{ClientId, WorkerId};
use crate::protocol::messages::look::{LastWords, Looked, View};

/// Questions on their way, and what is left of workers that are gone.
#[derive(Debug, Default)]
pub(super) struct Looks {}

impl Driver {
    /// Asks the workers that have it.
    pub(super) fn ask_workers(&mut self, _client: ClientId, _id: u32, _view: View) -> Option<Reply> {
        Some(Err(("refused".into(), "this view does not exist yet".into())))
    }

    /// A worker has answered.
    pub(super) fn looked(&mut self, _worker: WorkerId, _looked: Looked) {}

    /// A worker leaves something behind.
    pub(super) fn last_words(&mut self, _worker: WorkerId, _words: LastWords) {}
}

//! What a task that runs here was made from: a family's element, or a call. Owns what the worker asks of both
//! alike while it runs and when it has ended.

use super::families::Family;
use super::python::calls::Call;
use crate::graph::spec::Action;
use std::sync::Arc;

/// Where a task comes from.
pub(super) enum Origin {
    /// An element of a family.
    Element(Arc<Family>, u32),
    /// A call.
    Call(Call),
}

/// What a task may not go beyond.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Limits {
    /// Milliseconds.
    pub time_ms: Option<u64>,
    /// Bytes that it prints.
    pub output: Option<u64>,
}

impl Origin {
    pub(super) fn key(&self) -> String {
        match self {
            Origin::Element(family, element) => family.key(*element),
            Origin::Call(call) => call.key(),
        }
    }

    /// The same number for those that people take for the same kind of work.
    pub(super) fn kin(&self) -> u64 {
        match self {
            Origin::Element(family, _) => Arc::as_ptr(family).addr() as u64,
            Origin::Call(call) => call.kin(),
        }
    }

    /// What its like usually occupied at most, bytes; 0 as long as nothing is known.
    pub(super) fn usual_peak(&self) -> u64 {
        match self {
            Origin::Element(family, _) => family.usual_peak(),
            Origin::Call(call) => call.run.usual_peak(),
        }
    }

    /// Takes note of what it occupied at most.
    pub(super) fn learn_peak(&self, bytes: u64) {
        match self {
            Origin::Element(family, _) => family.learn_peak(bytes),
            Origin::Call(call) => call.run.learn_peak(bytes),
        }
    }

    /// Whether its like may be so fast that whoever waits for it should hear of it at once.
    pub(super) fn is_prompt(&self) -> bool {
        match self {
            Origin::Element(family, _) => matches!(family.spec().action, Action::Native { .. }),
            Origin::Call(_) => true,
        }
    }

    pub(super) fn limits(&self) -> Limits {
        match self {
            Origin::Element(family, _) => {
                Limits { time_ms: family.spec().time_limit_ms, output: family.spec().max_output }
            }
            Origin::Call(call) => Limits { time_ms: call.options().time_limit_ms, output: None },
        }
    }
}

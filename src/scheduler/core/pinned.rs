//! Results that cannot leave the process that made them: they are objects which nothing can turn into bytes.
//! Owns which these are, and where what needs them may run. They are in memory on one worker until they are
//! let go of or lost; they are never copied, and what needs them is given to that worker only.

use super::cx::Cx;
use super::run::Run;
use super::workers::Status;
use crate::base::failure::{Failure, FailureKind};
use crate::base::ids::WorkerId;
use std::sync::Arc;

/// Where a task may run for what it needs.
#[derive(Clone, Debug)]
pub(super) enum Pin {
    /// Anywhere.
    Free,
    /// On this worker.
    To(WorkerId),
    /// Nowhere, for this reason.
    Nowhere(Arc<Failure>),
}

impl Run {
    /// Whether a result cannot leave its worker.
    pub(super) fn is_pinned(&self, i: u32) -> bool {
        self.calls.as_ref().is_some_and(|calls| calls.pinned.contains(&i))
    }

    /// Notes whether a result cannot leave its worker.
    pub(super) fn set_pinned(&mut self, i: u32, pinned: bool) {
        let Some(calls) = &mut self.calls else { return };
        if pinned {
            calls.pinned.insert(i);
        } else {
            calls.pinned.remove(&i);
        }
    }

    /// Where a task may run whose inputs are all there.
    #[inline]
    pub(super) fn pin_of(&self, cx: &Cx, i: u32) -> Pin {
        if self.calls.as_ref().is_none_or(|calls| calls.pinned.is_empty()) {
            return Pin::Free;
        }
        self.pin_by_inputs(cx, i)
    }

    fn pin_by_inputs(&self, cx: &Cx, i: u32) -> Pin {
        let (f, element) = self.place_of(i);
        let mut places = Vec::new();
        let mut look = |j: u32| {
            if self.is_pinned(j) {
                places.extend(self.holders(j));
            }
        };
        for (e, edge) in (0..).zip(self.edges.of(f)).filter(|(_, e)| e.data) {
            if edge.gate().is_some() {
                (0..self.exports(edge.producer)).for_each(|j| look(self.export(edge.producer, j)));
            } else {
                self.each_input(f, element, e, &mut look);
            }
        }
        places.sort_unstable();
        places.dedup();
        let name = |w: &WorkerId| cx.worker(*w).map_or_else(String::new, |x| x.spec.name.clone());
        let nowhere = |why: String| Pin::Nowhere(Arc::new(Failure::of(FailureKind::Impossible(why))));
        match places[..] {
            [] => Pin::Free,
            [w] => {
                let layer = &self.families[f.index()].layer;
                let able = |x: &super::workers::Worker| x.could_run(layer.slots, &layer.resources);
                if cx.worker(w).is_none_or(able) {
                    return Pin::To(w);
                }
                nowhere(format!(
                    "it needs a result that cannot be pickled and stays on worker {}, where it may not run",
                    name(&w)
                ))
            }
            _ => nowhere(format!(
                "it needs results that cannot be pickled and stay where they were made, on workers {}: make \
                 them in one task, or of a kind that can be pickled",
                places.iter().map(name).collect::<Vec<_>>().join(" and ")
            )),
        }
    }

    /// Whether a task has to wait for this worker, which takes nothing now. A paused one is better than
    /// waiting for ever.
    pub(super) fn must_wait_for(cx: &Cx, w: WorkerId) -> bool {
        let status = cx.worker(w).map(|x| x.status);
        !(status == Some(Status::Running) || (status == Some(Status::Paused) && cx.in_hand == 0))
    }
}

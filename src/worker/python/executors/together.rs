//! Short calls that an executor is given several of at once: to hand over each by itself costs more than it
//! takes. Owns which calls go together; what becomes of them on their way is `processes::batch`'s.

use super::{Python, Warmed};
use crate::worker::executor::control::Control;
use crate::worker::executor::processes::batch::{End, News};
use crate::worker::executor::processes::channel::Channel;
use crate::worker::executor::processes::messages::{To, send_inputs};
use crate::worker::executor::processes::warm::Ran;
use crate::worker::executor::{Clock, Told};
use crate::worker::python::calls::CallJob;
use crate::worker::python::loaded::Loaded;
use crate::worker::python::messages::{Calls, tag};
use serde_bytes::ByteBuf;
use std::cell::RefCell;
use std::io;
use std::sync::Arc;

/// Inputs of a call that goes together with others, and their bytes: what is larger takes longer than handing
/// it over.
const INPUTS_MAX: usize = 16;
const INPUT_BYTES_MAX: u64 = 64 << 10;

impl Python {
    /// Which calls may be handed over at once: those of one run, with small inputs and without limits of
    /// their own.
    pub(in crate::worker) fn together(&self, job: &CallJob) -> Option<(usize, u32)> {
        let options = job.call.options();
        let is_plain = options.time_limit_ms.is_none()
            && (options.memory.is_none() || !self.facts.enforce)
            && job.inputs.len() <= INPUTS_MAX
            && job.inputs.iter().map(|input| input.result.nbytes()).sum::<u64>() <= INPUT_BYTES_MAX;
        is_plain.then_some((Arc::as_ptr(&job.call.run) as usize, options.slots))
    }

    /// Runs calls that go together. Those that are returned, with their positions, are to be run alone.
    pub(in crate::worker) fn run_all(
        &self,
        jobs: Vec<CallJob>,
        controls: &[Arc<Control>],
        tell: &mut dyn FnMut(Told<CallJob>),
    ) -> Vec<(usize, CallJob)> {
        let all = |jobs: Vec<CallJob>| jobs.into_iter().enumerate().collect();
        let Some(first) = jobs.first() else { return Vec::new() };
        let nest = self.nest(&first.call.run.environment);
        // Alone each of them waits for an executor, or says why there is none.
        let Ok(mut warmed) = self.take(&nest, first) else { return all(jobs) };
        if !warmed.warm.takes_batches() {
            self.shelve(&nest, warmed);
            return all(jobs);
        }
        let Warmed { warm, loaded, .. } = &mut warmed;
        let jobs: RefCell<Vec<Option<CallJob>>> = RefCell::new(jobs.into_iter().map(Some).collect());
        let take = |place: usize| Some((place, jobs.borrow_mut()[place].take()?));
        let key = |place: usize| jobs.borrow()[place].as_ref().map_or_else(String::new, |job| job.call.key());
        let order =
            |channel: &Channel, first| channel.gather(|| order_all(channel, first, &jobs.borrow(), loaded));
        let mut clock = Clock::start();
        let mut told = |News { ends, back }: News| {
            if !back.is_empty() {
                tell(Told::Unbegun(back.into_iter().filter_map(take).collect()));
            }
            if ends.is_empty() {
                return;
            }
            // They came together: each took its part of the time.
            let n = u32::try_from(ends.len()).unwrap_or(1).max(1);
            let outcome = |(place, result, cpu, said): End| {
                let key = if result.is_ok() { String::new() } else { key(place) };
                let ran = Ok(Ran::Done(result, cpu));
                let mut outcome = self.outcome(&clock, key, ran, said, &controls[place]);
                outcome.wall /= n;
                (place, outcome)
            };
            tell(Told::Ended(ends.into_iter().map(outcome).collect()));
            clock = Clock::start();
        };
        let rest = warm.run_all(order, controls, self.facts.grace, &mut told);
        if let Some((place, kind, unasked)) = rest.died {
            let (_, said) = warmed.warm.bury();
            let (key, ran) = (key(place), Ok(Ran::Died { kind, unasked }));
            tell(Told::Ended(vec![(place, self.outcome(&clock, key, ran, said, &controls[place]))]));
        } else if rest.is_gone {
            warmed.warm.bury();
        } else {
            self.give_back(&nest, warmed);
        }
        let back = rest.back.into_iter().filter_map(take);
        let note =
            |(place, job): (usize, CallJob)| (place, CallJob { alone: job.alone || rest.suspects, ..job });
        back.map(note).collect()
    }
}

/// Hands calls over, and before them what the executor has not got.
fn order_all(channel: &Channel, first: u64, jobs: &[Option<CallJob>], loaded: &mut Loaded) -> io::Result<()> {
    let mut batches: Vec<ByteBuf> = Vec::new();
    let mut calls = Vec::with_capacity(jobs.len());
    for (number, job) in (first..).zip(jobs.iter().flatten()) {
        loaded.send(channel, &job.call)?;
        let id = &job.call.batch.id;
        if batches.last().is_none_or(|last| last[..] != id[..]) {
            batches.push(ByteBuf::from(id.clone()));
        }
        let (at, attempt) = (batches.len() as u32 - 1, job.attempt);
        let inputs = job.inputs.len() as u32;
        calls.push((number, job.call.key(), at, job.call.place, attempt.epoch, attempt.n, inputs));
    }
    let inputs: Vec<_> = jobs.iter().flatten().flat_map(|job| &job.inputs).cloned().collect();
    send_inputs(channel, &inputs, To::Python)?;
    let Some(first) = jobs.iter().flatten().next() else { return Ok(()) };
    let message = Calls { run: first.call.run.uuid, slots: first.call.options().slots, batches, calls };
    channel.send(tag::CALLS, &message, &[], &[])
}

//! Several calls that an executor is given at once and runs one after the other. Owns which of them have
//! ended, and asks for the others back when one turns out to be long: nobody else could run them meanwhile.

use super::channel::Channel;
use super::messages::{Away, Returned, Said, Task, send_room, tag, take_done, take_dones};
use super::warm::{Ran, Warm, has_gone, judge};
use crate::worker::executor::FailureKind;
use crate::worker::executor::control::Control;
use crate::worker::printed::Which;
use crate::worker::store::data::TaskResult;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// When the first of several has not ended for so long, the others are asked for.
const RECALL_TIME: Duration = Duration::from_millis(10);

/// The end of one call: its position, how it ended, its CPU time, and, if it failed, what was printed last.
pub(in crate::worker) type End = (usize, Result<TaskResult, FailureKind>, Duration, Vec<u8>);

/// What became of those that have not ended in order.
#[derive(Debug, Default)]
pub(in crate::worker) struct Rest {
    /// Positions of those that are to be run anew, each alone, in order.
    pub back: Vec<usize>,
    /// The executor ended with this one: what it fails with, and whether it was the executor that failed.
    pub died: Option<(usize, FailureKind, bool)>,
    /// The executor cannot be used any more.
    pub is_gone: bool,
    /// One of those that are to be run anew may have ended it, or one that another of its threads ran.
    pub suspects: bool,
}

struct Batch<'a> {
    controls: &'a [Arc<Control>],
    /// The number of the first one, as the executor knows it.
    first: u64,
    /// By position: it has ended, or was given back.
    over: Vec<bool>,
    /// Who was asked to stop.
    asked: Vec<bool>,
    rest: Rest,
    recalled: bool,
    /// What is printed from now on is the last one's.
    is_alone: bool,
    /// The last end.
    last: Instant,
}

impl Batch<'_> {
    /// The one that runs, as far as is known.
    fn running(&self) -> Option<usize> {
        self.over.iter().position(|over| !over)
    }

    fn place(&self, task: u64) -> Option<usize> {
        let place = usize::try_from(task.checked_sub(self.first)?).ok()?;
        (place < self.over.len() && !self.over[place]).then_some(place)
    }

    fn end(&mut self, place: usize) {
        self.over[place] = true;
        self.controls[place].set_pid(0);
        self.last = Instant::now();
    }

    /// What is left has not been told to have ended.
    fn give_back(&mut self) {
        for place in 0..self.over.len() {
            if !self.over[place] {
                self.end(place);
                self.rest.back.push(place);
            }
        }
        self.rest.back.sort_unstable();
    }
}

impl Warm {
    /// Runs as many calls as there are controls: `order` sends them all, inputs included, numbered from what
    /// it is told. `tell` hears of ends as they come. One that does not end `grace` after it was asked to is
    /// ended with the process.
    pub fn run_all(
        &mut self,
        order: impl FnOnce(&Channel, u64) -> io::Result<()>,
        controls: &[Arc<Control>],
        grace: Duration,
        tell: &mut dyn FnMut(Vec<End>),
    ) -> Rest {
        let n = controls.len();
        let mut batch = Batch {
            controls,
            first: self.number + 1,
            over: vec![false; n],
            asked: vec![false; n],
            rest: Rest::default(),
            recalled: false,
            is_alone: false,
            last: Instant::now(),
        };
        self.number += n as u64;
        self.begin(n as u64);
        self.stderr.record_later();
        match order(&self.channel, batch.first) {
            Ok(()) => self.follow_all(&mut batch, grace, tell),
            Err(error) if has_gone(&error) => batch.rest.is_gone = true,
            Err(error) => {
                // Whose input it was is not known: alone each of them will tell.
                tracing::debug!("calls are given one by one: {error}");
                batch.rest.is_gone = true;
            }
        }
        if self.away && batch.rest.died.is_none() {
            // It is to begin anew.
            batch.running().into_iter().for_each(|place| batch.controls[place].set_away(false));
        }
        batch.give_back();
        self.end();
        batch.rest
    }

    fn follow_all(&mut self, batch: &mut Batch<'_>, grace: Duration, tell: &mut dyn FnMut(Vec<End>)) {
        while let Some(running) = batch.running() {
            let control = &batch.controls[running];
            if control.pid() != Some(self.pid()) {
                control.set_base(self.occupied());
                control.set_pid(self.pid());
            }
            let others = batch.over.iter().filter(|over| !**over).count() > 1;
            if !others && !batch.is_alone {
                batch.is_alone = true;
                self.stderr.record(control.stream(Which::Output));
            }
            for (place, control) in batch.controls.iter().enumerate() {
                if !batch.over[place] && !batch.asked[place] && control.is_cancelled() {
                    batch.asked[place] = true;
                    let task = batch.first + place as u64;
                    // If it has gone, that is found out below.
                    let _ = self.channel.send(tag::CANCEL, &Task { task }, &[], &[]);
                    batch.last = Instant::now();
                }
            }
            let mut until = None;
            if batch.asked[running] {
                let at = batch.last + if control.is_forced() { Duration::ZERO } else { grace };
                if Instant::now() >= at {
                    self.body.kill();
                    let ran = self.died(Some(control.verdict()));
                    return batch.died(ran);
                }
                until = Some(at);
            } else if others && !batch.recalled {
                let at = batch.last + RECALL_TIME;
                if Instant::now() >= at {
                    batch.recalled = true;
                    let _ = self.channel.send(tag::RECALL, &(), &[], &[]);
                }
                until = Some(at);
            }
            let control = control.clone();
            if !self.wait(until, Some(&control)) {
                continue;
            }
            match self.take(batch) {
                Ok(Some(ends)) if ends.is_empty() => {}
                Ok(Some(ends)) => tell(ends),
                Ok(None) => {
                    let ran = self.died(None);
                    return batch.died(ran);
                }
                Err(error) => {
                    let ran = self.confused(&error.to_string());
                    return batch.died(ran);
                }
            }
        }
    }

    /// Takes what has come: the calls that have ended; `None` at the end of the connection.
    fn take(&mut self, batch: &mut Batch<'_>) -> io::Result<Option<Vec<End>>> {
        let wrong = |text: &str| io::Error::new(io::ErrorKind::InvalidData, text.to_owned());
        let Some(frame) = self.channel.receive()? else { return Ok(None) };
        let ended = match frame.tag {
            tag::DONE => vec![take_done(frame)?],
            tag::DONES => take_dones(frame)?,
            tag::AWAY => {
                let said: Away = frame.control()?;
                if let Some(place) = batch.place(said.task) {
                    self.set_away(said.away);
                    batch.controls[place].set_away(said.away);
                    // What it waits for may be behind it.
                    if said.away && !batch.recalled {
                        batch.recalled = true;
                        let _ = self.channel.send(tag::RECALL, &(), &[], &[]);
                    }
                }
                Vec::new()
            }
            tag::ROOM => {
                send_room(&self.channel, &frame)?;
                Vec::new()
            }
            tag::RETURNED => {
                let said: Returned = frame.control()?;
                for task in said.tasks {
                    let place =
                        batch.place(task).ok_or_else(|| wrong("it gave back what it does not have"))?;
                    batch.end(place);
                    batch.rest.back.push(place);
                }
                Vec::new()
            }
            tag::SAID => {
                let said: Said = frame.control()?;
                if let Some(place) = batch.place(said.task).filter(|_| !batch.is_alone) {
                    let text = self.stderr.take_later(said.bytes);
                    let book = batch.controls[place].stream(Which::Output);
                    book.into_iter().for_each(|mut book| book.write(&text));
                }
                Vec::new()
            }
            other => return Err(wrong(&format!("it said {other}"))),
        };
        let mut ends = Vec::with_capacity(ended.len());
        for (done, mut result) in ended {
            result.pinned = self.pinned(&done);
            let place = batch.place(done.task);
            let place = place.ok_or_else(|| wrong("it ended a task that it was not given"))?;
            batch.end(place);
            let stopped = batch.controls[place].is_cancelled().then(|| batch.controls[place].verdict());
            let result = stopped.map_or_else(|| judge(done.end, result), Err);
            let said = if result.is_ok() { Vec::new() } else { self.said() };
            ends.push((place, result, Duration::from_nanos(done.cpu_ns), said));
        }
        Ok(Some(ends))
    }
}

impl Batch<'_> {
    /// The process has ended with the one that was running. By itself and with several of them, nobody knows
    /// which that was, for ends that could wait for the next ones went with it: alone each of them will show.
    fn died(&mut self, ran: Ran) {
        self.rest.is_gone = true;
        self.rest.suspects = matches!(ran, Ran::Lost { suspect: true });
        let (Ran::Died { kind, unasked }, Some(place)) = (ran, self.running()) else { return };
        if unasked && self.over.iter().filter(|over| !**over).count() > 1 {
            return;
        }
        self.end(place);
        self.rest.died = Some((place, kind, unasked));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A batch of which those positions are over, after its executor has ended with a signal.
    fn died(over: &[bool], unasked: bool) -> Rest {
        ended(over, Ran::Died { kind: FailureKind::Signal(11), unasked })
    }

    fn ended(over: &[bool], ran: Ran) -> Rest {
        let unasked = !matches!(ran, Ran::Died { unasked: false, .. });
        let controls: Vec<_> = over.iter().map(|_| Arc::new(Control::new().unwrap())).collect();
        let mut batch = Batch {
            controls: &controls,
            first: 5,
            over: over.to_vec(),
            asked: vec![!unasked; over.len()],
            rest: Rest::default(),
            recalled: false,
            is_alone: false,
            last: Instant::now(),
        };
        batch.died(ran);
        batch.give_back();
        batch.rest
    }

    fn blamed(rest: &Rest) -> Option<usize> {
        rest.died.as_ref().map(|(place, ..)| *place)
    }

    #[test]
    fn of_several_that_an_executor_had_when_it_died_none_is_blamed() {
        // Position 1 may have ended, its end unsaid.
        let rest = died(&[true, false, false, false], true);
        assert_eq!((blamed(&rest), rest.is_gone, rest.back), (None, true, vec![1, 2, 3]));
    }

    #[test]
    fn the_only_one_left_is_and_so_is_one_that_was_to_stop() {
        let rest = died(&[true, true, false], true);
        assert_eq!((blamed(&rest), rest.is_gone, rest.back), (Some(2), true, vec![]));
        let rest = died(&[true, false, false], false);
        assert_eq!((blamed(&rest), rest.back), (Some(1), vec![2]));
    }
    #[test]
    fn with_others_in_the_process_none_is_and_all_run_anew() {
        for suspect in [true, false] {
            let rest = ended(&[true, false, false], Ran::Lost { suspect });
            assert_eq!((blamed(&rest), rest.back, rest.suspects), (None, vec![1, 2], suspect));
        }
        // The last one, too.
        assert_eq!(ended(&[true, false], Ran::Lost { suspect: true }).back, vec![1]);
    }
}

//! Fetching outputs from the workers that hold them: connections that are used again, and a thread that may
//! block for each fetch that writes. Owns one attempt at one holder; `take` decides what follows a failure.

use super::Shared;
use super::link::Target;
use super::outputs::{Destination, Output};
use crate::base::error::{Error, Result};
use crate::base::ids::{TaskRef, WorkerId};
use crate::net::address::Address;
use crate::net::fetch::{Fetcher, Patience, Sink, travelling_bytes};
use crate::protocol::messages::peer::PartHeader;
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;

/// Pieces that may wait for the thread that writes.
const PIECES_MAX: usize = 4;

/// Connections to one worker that are kept for later.
const IDLE_MAX: usize = 8;

/// Connections to workers that nobody uses at the moment.
#[derive(Default)]
pub(super) struct Pool {
    idle: Mutex<HashMap<Address, Vec<Fetcher>>>,
}

impl Pool {
    fn take(&self, address: &Address) -> Option<Fetcher> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).get_mut(address)?.pop()
    }

    fn give_back(&self, fetcher: Fetcher) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let of_worker = idle.entry(fetcher.address().clone()).or_default();
        if of_worker.len() < IDLE_MAX {
            of_worker.push(fetcher);
        }
    }
}

/// Outputs to get from one holder.
pub(super) struct Job {
    pub(super) holder: (WorkerId, Address),
    pub(super) outputs: Vec<Output>,
}

/// What became of a job.
pub(super) struct JobEnd {
    /// The holder that was asked.
    pub(super) holder: WorkerId,
    /// Outputs that are safe.
    pub(super) safe: Vec<Output>,
    /// Outputs that were not to be had from this holder, and why.
    pub(super) failed: Vec<(Output, String)>,
    /// The destination's own fault: there is no use in going on.
    pub(super) fault: Option<Error>,
}

/// Fetches a job's outputs, one after the other.
pub(super) async fn run_job(
    shared: Arc<Shared>,
    pool: Arc<Pool>,
    job: Job,
    destination: Arc<dyn Destination>,
) -> JobEnd {
    let Job { holder: (holder, address), mut outputs } = job;
    let mut safe = Vec::new();
    let mut kept = pool.take(&address);
    loop {
        let is_new = kept.is_none();
        let fetcher = match kept.take() {
            Some(fetcher) => Ok(fetcher),
            None => connect(&shared.target, shared.epoch, &address).await,
        };
        let got = match fetcher {
            Ok(fetcher) => get(fetcher, &outputs, &destination).await,
            Err(e) => {
                return JobEnd { holder, safe, failed: all(outputs, &e.message), fault: None };
            }
        };
        let (done, rest) = got.divide(outputs);
        safe.extend(done);
        outputs = rest;
        got.fetcher.into_iter().for_each(|f| pool.give_back(f));
        let reason = match got.reason {
            None => "the worker does not have it any more".to_owned(),
            // A kept connection may have ended long ago; a new one shows whether the worker has.
            Some(_) if !is_new && got.fault.is_none() && !outputs.is_empty() => continue,
            Some(reason) => reason,
        };
        return JobEnd { holder, safe, failed: all(outputs, &reason), fault: got.fault };
    }
}

fn all(outputs: Vec<Output>, reason: &str) -> Vec<(Output, String)> {
    outputs.into_iter().map(|o| (o, reason.to_owned())).collect()
}

async fn connect(target: &Target, epoch: u32, address: &Address) -> Result<Fetcher> {
    let patience = Patience { connect: target.options.connect_timeout, ..Patience::default() };
    Fetcher::connect(address, &target.tls, epoch, patience).await
}

/// Fetches one output from any of its holders. Returns why none could give it, if so.
pub(super) async fn fetch_one(
    shared: &Arc<Shared>,
    output: Output,
    destination: Arc<dyn Destination>,
) -> Result<Option<String>> {
    let mut reasons = Vec::new();
    for holder in output.holders.clone() {
        let job = Job { holder, outputs: vec![output.clone()] };
        let end = run_job(Arc::clone(shared), Arc::default(), job, Arc::clone(&destination)).await;
        if let Some(fault) = end.fault {
            return Err(fault);
        }
        if !end.safe.is_empty() {
            return Ok(None);
        }
        reasons.extend(end.failed.into_iter().map(|(_, reason)| reason));
    }
    if reasons.is_empty() {
        reasons.push("no worker has it; outputs are kept until somebody has taken them".into());
    }
    Ok(Some(reasons.join("; ")))
}

/// What came over one connection.
struct Got {
    /// The connection, if it can be used again.
    fetcher: Option<Fetcher>,
    /// Why the connection broke off.
    reason: Option<String>,
    /// Positions of the outputs that are safe.
    safe: Vec<usize>,
    fault: Option<Error>,
}

impl Got {
    fn divide(&self, outputs: Vec<Output>) -> (Vec<Output>, Vec<Output>) {
        let (mut safe, mut rest) = (Vec::new(), Vec::new());
        for (at, output) in outputs.into_iter().enumerate() {
            if self.safe.contains(&at) { safe.push(output) } else { rest.push(output) }
        }
        (safe, rest)
    }
}

async fn get(mut fetcher: Fetcher, outputs: &[Output], destination: &Arc<dyn Destination>) -> Got {
    let (events, queue) = mpsc::channel(PIECES_MAX);
    let (receiver, owned) = (destination.receiver(), outputs.to_vec());
    let writer = tokio::task::spawn_blocking(move || write(owned, queue, receiver));
    let tasks: Vec<TaskRef> = outputs.iter().map(|o| o.task).collect();
    let mut sink = ToWriter { events, next: 0 };
    let fetched = fetcher.get(&tasks, &mut sink).await;
    drop(sink);
    let (safe, fault) = match writer.await {
        Ok(end) => end,
        Err(e) => (Vec::new(), Some(Error::os("writing an output was given up", e))),
    };
    match fetched {
        Ok(()) => Got { fetcher: Some(fetcher), reason: None, safe, fault },
        Err(e) => Got { fetcher: None, reason: Some(e.message), safe, fault },
    }
}

/// What the thread that writes is told.
enum Event {
    Begin(usize, Vec<PartHeader>),
    Piece(Bytes),
    End,
}

/// Hands what is fetched to the thread that writes.
struct ToWriter {
    events: mpsc::Sender<Event>,
    next: usize,
}

impl ToWriter {
    async fn tell(&self, event: Event) -> Result<()> {
        self.events
            .send(event)
            .await
            .map_err(|_| Error::os("an output cannot be kept", "its writer has ended"))
    }
}

impl Sink for ToWriter {
    async fn begin(&mut self, _: TaskRef, parts: Option<Vec<PartHeader>>) -> Result<()> {
        let at = self.next;
        self.next += 1;
        match parts {
            Some(parts) => self.tell(Event::Begin(at, parts)).await,
            None => Ok(()),
        }
    }

    async fn piece(&mut self, bytes: Bytes) -> Result<()> {
        self.tell(Event::Piece(bytes)).await
    }

    async fn end(&mut self) -> Result<()> {
        self.tell(Event::End).await
    }
}

/// The thread that writes: which outputs are safe, and its fault if it had one.
fn write(
    outputs: Vec<Output>,
    mut events: mpsc::Receiver<Event>,
    mut receiver: Box<dyn super::outputs::Receive>,
) -> (Vec<usize>, Option<Error>) {
    let mut safe = Vec::new();
    let mut at = 0;
    let mut parts = Cursor::default();
    while let Some(event) = events.blocking_recv() {
        let done = match event {
            Event::Begin(position, headers) => {
                at = position;
                parts = Cursor::new(&headers);
                receiver.begin(&outputs[position], &headers)
            }
            Event::Piece(bytes) => parts.give(&bytes, receiver.as_mut()),
            Event::End => receiver.end().map(|()| safe.push(at)),
        };
        if let Err(fault) = done {
            return (safe, Some(fault));
        }
    }
    (safe, None)
}

/// Where in the parts the next byte belongs.
#[derive(Default)]
struct Cursor {
    left: Vec<u64>,
    part: usize,
}

impl Cursor {
    fn new(headers: &[PartHeader]) -> Cursor {
        Cursor { left: headers.iter().map(travelling_bytes).collect(), part: 0 }
    }

    /// Hands bytes on, cut where parts end. The fetcher lets no more of them through than were announced.
    fn give(&mut self, mut bytes: &[u8], receiver: &mut dyn super::outputs::Receive) -> Result<()> {
        while let Some(left) = self.left.get_mut(self.part).filter(|_| !bytes.is_empty()) {
            let n = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
            if n > 0 {
                receiver.bytes(self.part, &bytes[..n])?;
            }
            *left -= n as u64;
            bytes = &bytes[n..];
            if *left == 0 {
                self.part += 1;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::outputs::Receive;

    #[derive(Default)]
    struct Parts(Vec<(usize, Vec<u8>)>);

    impl Receive for Parts {
        fn begin(&mut self, _: &Output, _: &[PartHeader]) -> Result<()> {
            Ok(())
        }
        fn bytes(&mut self, part: usize, bytes: &[u8]) -> Result<()> {
            self.0.push((part, bytes.to_vec()));
            Ok(())
        }
        fn end(&mut self) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn pieces_are_cut_where_parts_end() {
        let header = |len, in_place| PartHeader { name: String::new(), len, in_place };
        let headers =
            [header(3, None), header(0, None), header(9, Some(("/f".into(), 9, 0))), header(4, None)];
        let mut cursor = Cursor::new(&headers);
        let mut parts = Parts::default();
        cursor.give(b"abcde", &mut parts).unwrap();
        cursor.give(b"fg", &mut parts).unwrap();
        let expected = [(0, b"abc".to_vec()), (3, b"de".to_vec()), (3, b"fg".to_vec())];
        assert_eq!(parts.0, expected);
    }
}

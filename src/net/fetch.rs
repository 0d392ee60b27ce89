//! Fetching results from the worker that holds them, over a connection that may be used again. Owns the
//! protocol's asking side: greeting, requests, the order of what comes back, stalls. Where the bytes go is
//! the sink's business; who is asked, and what to do when that fails, the caller's.

use crate::base::error::{Error, Kind, Result};
use crate::base::ids::TaskRef;
use crate::net::address::Address;
use crate::net::connection::{Connection, connect};
use crate::net::tls::ClientTls;
use crate::protocol::PROTOCOL;
use crate::protocol::credentials::Role;
use crate::protocol::messages::peer::{FromPeer, Get, PartHeader, PeerHello, ToPeer};
use bytes::Bytes;
use std::time::Duration;

/// How long a fetch waits.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For the connection and the greeting.
    pub connect: Duration,
    /// For the next bytes.
    pub stall: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience { connect: Duration::from_secs(10), stall: Duration::from_secs(30) }
    }
}

/// Where fetched results go. An error ends the fetch and the connection.
pub trait Sink: Send {
    /// A result begins; `None` if the worker does not have it, and then nothing more comes for it.
    fn begin(
        &mut self,
        task: TaskRef,
        parts: Option<Vec<PartHeader>>,
    ) -> impl Future<Output = Result<()>> + Send;
    /// The next bytes of the result that began last; parts follow each other without a mark.
    fn piece(&mut self, bytes: Bytes) -> impl Future<Output = Result<()>> + Send;
    /// The result that began last is complete.
    fn end(&mut self) -> impl Future<Output = Result<()>> + Send;
}

/// Bytes of a part that travel: none of a file that stays in place.
pub fn travelling_bytes(part: &PartHeader) -> u64 {
    if part.in_place.is_some() { 0 } else { part.len }
}

/// A connection to a worker that holds results.
#[derive(Debug)]
pub struct Fetcher {
    connection: Connection<FromPeer, ToPeer>,
    address: Address,
    name: String,
    patience: Patience,
    next_id: u32,
}

impl Fetcher {
    /// Connects to a worker and introduces itself as one who knows tasks by the numbers of `epoch`.
    ///
    /// # Errors
    /// Nobody answers there, somebody else does, or the worker refuses (`Kind::Refused`).
    pub async fn connect(
        address: &Address,
        tls: &ClientTls,
        epoch: u32,
        patience: Patience,
    ) -> Result<Fetcher> {
        let connection = connect(address, Role::Worker, tls, patience.connect).await?;
        let address = address.clone();
        let stall = patience;
        let mut fetcher = Fetcher { connection, address, name: String::new(), patience: stall, next_id: 0 };
        let hello = PeerHello { protocol: PROTOCOL, epoch };
        fetcher.connection.sender.send(FromPeer::Hello(hello)).await?;
        match fetcher.next(patience.connect).await? {
            ToPeer::Welcome(welcome) => fetcher.name = welcome.name,
            other => return Err(fetcher.unexpected(&other)),
        }
        fetcher.connection.receiver.welcome();
        Ok(fetcher)
    }

    /// The worker's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is connected to.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Asks for results and hands them to the sink, in the order asked. After an error, or when it was
    /// cancelled, the connection is of no use any more.
    ///
    /// # Errors
    /// The connection broke or stalled, the worker broke the protocol, or the sink refused.
    pub async fn get<S: Sink>(&mut self, tasks: &[TaskRef], sink: &mut S) -> Result<()> {
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        self.connection.sender.send(FromPeer::Get(Get { id, tasks: tasks.to_vec() })).await?;
        for &task in tasks {
            let begin = match self.next(self.patience.stall).await? {
                ToPeer::Begin(begin) if begin.id == id && begin.task == task => begin,
                other => return Err(self.unexpected(&other)),
            };
            let absent = begin.parts.is_none();
            let parts = begin.parts.iter().flatten();
            let mut left = parts.map(travelling_bytes).fold(0, u64::saturating_add);
            sink.begin(task, begin.parts).await?;
            if absent {
                continue;
            }
            while left > 0 {
                match self.next(self.patience.stall).await? {
                    ToPeer::Piece(piece) if !piece.body.is_empty() && piece.body.len() as u64 <= left => {
                        left -= piece.body.len() as u64;
                        sink.piece(piece.body).await?;
                    }
                    other => return Err(self.unexpected(&other)),
                }
            }
            sink.end().await?;
        }
        Ok(())
    }

    async fn next(&mut self, patience: Duration) -> Result<ToPeer> {
        match tokio::time::timeout(patience, self.connection.receiver.recv()).await {
            Ok(Ok(Some(message))) => Ok(message),
            Ok(Ok(None)) => {
                Err(Error::new(Kind::NoScheduler, format!("the worker at {} has ended", self.address)))
            }
            Ok(Err(error)) => Err(error),
            Err(_) => {
                let after = humantime::format_duration(patience);
                let text = format!("the worker at {} sends nothing for {after}", self.address);
                Err(Error::new(Kind::Timeout, text))
            }
        }
    }

    fn unexpected(&self, message: &ToPeer) -> Error {
        let what = match message {
            ToPeer::Refused(reason) => format!("refuses: {}", reason.reason),
            ToPeer::Welcome(_) => "sent a welcome out of turn".into(),
            ToPeer::Begin(_) => "sent a result out of turn".into(),
            ToPeer::Stored(_) => "says that it keeps what it was not given".into(),
            ToPeer::Piece(piece) => format!("sent {} bytes too many", piece.body.len()),
        };
        Error::new(Kind::Refused, format!("the worker at {} {what}", self.address))
    }
}

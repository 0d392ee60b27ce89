//! Between workers (and clients) that fetch results and the worker that holds them. Results travel in pieces,
//! so that no frame is large and a slow reader holds nobody up.

use super::client::Reason;
use crate::base::ids::TaskRef;
use crate::protocol::wire::Payload;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Bytes of a result in one `Piece` at most.
pub const PIECE_BYTES_MAX: usize = 1 << 20;

crate::messages! {
    /// What the fetching side says.
    #[derive(Clone, Debug, PartialEq)]
    pub enum FromPeer {
        /// The first message.
        1 => Hello(PeerHello),
        /// Send these results.
        2 => Get(Get),
        /// Here is a result that nobody computes; its pieces follow.
        3 => Put(Put),
        /// The next bytes of what was put last.
        4 => Piece(Piece),
    }
    retired: []
}

crate::messages! {
    /// What the holding side says.
    #[derive(Clone, Debug, PartialEq)]
    pub enum ToPeer {
        /// The answer to `Hello`.
        1 => Welcome(PeerWelcome),
        /// Not let in.
        2 => Refused(Reason),
        /// A result begins, or is not here.
        3 => Begin(Begin),
        /// The next bytes of the result that began last.
        4 => Piece(Piece),
        /// What was put is kept.
        5 => Stored(Stored),
    }
    retired: []
}

/// The fetching side introduces itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerHello {
    /// The protocol it speaks; must be the other's.
    pub protocol: u32,
    /// The epoch in which it knows tasks by number.
    pub epoch: u32,
}

/// The holding side answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerWelcome {
    /// Its name.
    pub name: String,
}

/// A request for results; answered in the order asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Get {
    /// Comes back in each `Begin`.
    pub id: u32,
    /// Which results.
    pub tasks: Vec<TaskRef>,
}

/// A result begins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Begin {
    /// The request's number.
    pub id: u32,
    /// The result.
    pub task: TaskRef,
    /// Its parts, in the order in which their bytes follow; `None` if the result is not here.
    pub parts: Option<Vec<PartHeader>>,
}

/// One part of a result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartHeader {
    /// Name of the output; empty for stdout.
    pub name: String,
    /// Bytes that follow for it; none for files that stay in place.
    pub len: u64,
    /// For files that stay in place: path, size, mtime in nanoseconds since 1970.
    pub in_place: Option<(String, u64, i64)>,
}

/// A result that a client brings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Put {
    /// Comes back in `Stored`.
    pub id: u32,
    /// The task whose result it is.
    pub task: TaskRef,
    /// Its parts, in the order in which their bytes follow.
    pub parts: Vec<PartHeader>,
}

/// What was put is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stored {
    /// The number it was put with.
    pub id: u32,
    /// Why not, if it could not be kept.
    pub error: Option<String>,
}

/// Bytes of a result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Piece {
    /// The bytes.
    #[serde(skip)]
    pub body: Bytes,
}

impl Payload for PeerHello {}
impl Payload for PeerWelcome {}
impl Payload for Get {}
impl Payload for Begin {}
impl Payload for Put {}
impl Payload for Stored {}
crate::payload_with_body!(Piece);

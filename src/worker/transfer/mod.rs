//! Results between workers: `server` gives what the store holds, `client` gets what tasks here need, and
//! `brought` takes what clients bring. Owns the translation between what the store and what the wire call the
//! parts of a result.

pub(super) mod brought;
pub(super) mod client;
pub(super) mod server;

use super::store::data::{Data, TaskResult};
use super::store::transfer::{Header, InPlace, PartHeader};
use crate::protocol::messages::peer::PartHeader as WirePart;
use std::sync::atomic::AtomicU64;

/// Bytes of results that have come and gone.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    /// Fetched from other workers.
    pub bytes_in: AtomicU64,
    /// Served to workers and clients.
    pub bytes_out: AtomicU64,
    /// In memory, of fetches that have not ended.
    pub arriving: AtomicU64,
}

/// The parts of a result as they are announced.
fn announce(result: &TaskResult) -> Vec<WirePart> {
    let part = |(name, data): &(String, Data)| match data {
        Data::InPlace { path, size, mtime_ns } => WirePart {
            name: name.clone(),
            len: 0,
            in_place: Some((path.to_string_lossy().into_owned(), *size, *mtime_ns)),
        },
        Data::Heap(_) | Data::File(_) | Data::Spilled(_) => {
            WirePart { name: name.clone(), len: data.len(), in_place: None }
        }
    };
    result.parts.iter().map(part).collect()
}

/// The store's header for announced parts.
fn header(parts: Vec<WirePart>) -> Header {
    let part = |part: WirePart| match part.in_place {
        Some((path, size, mtime_ns)) => {
            PartHeader { name: part.name, len: size, in_place: Some(InPlace { path: path.into(), mtime_ns }) }
        }
        None => PartHeader { name: part.name, len: part.len, in_place: None },
    };
    Header { parts: parts.into_iter().map(part).collect() }
}

//! What an output is to the client and where it can go. Owns the interface between fetching and keeping; the
//! destinations are `files`, `ordered` and `memory`.

use crate::base::error::Result;
use crate::base::ids::{FamilyIx, TaskRef, WorkerId};
use crate::net::address::Address;
use crate::protocol::messages::client::OutputAt;
use crate::protocol::messages::peer::PartHeader;

/// The result of a task that is to be fetched.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// The task.
    pub task: TaskRef,
    /// Its key.
    pub key: String,
    /// Its family.
    pub family: FamilyIx,
    /// Its element.
    pub element: u32,
    /// Its position among the elements of its family that later families see.
    pub index: u32,
    /// Its size in bytes.
    pub nbytes: u64,
    /// Who has it, and where they are reached.
    pub holders: Vec<(WorkerId, Address)>,
}

impl Output {
    /// From the message about it. Holders whose address is not among `peers`, or none, are left out.
    pub(super) fn new(at: OutputAt, peers: &[(WorkerId, String)]) -> Output {
        let address = |holder: &WorkerId| peers.iter().find(|(w, _)| w == holder)?.1.parse().ok();
        Output {
            holders: at.holders.iter().filter_map(|h| Some((*h, address(h)?))).collect(),
            task: at.task,
            key: at.key,
            family: at.family,
            element: at.element,
            index: at.index,
            nbytes: at.nbytes,
        }
    }
}

/// Where outputs go.
pub trait Destination: Send + Sync {
    /// Whether the bytes are wanted. If not the output is released without being fetched.
    fn wants(&self, output: &Output) -> bool;

    /// Somebody who takes outputs one after the other. Several do so beside one another.
    fn receiver(&self) -> Box<dyn Receive>;
}

/// Takes outputs, one after the other, on a thread that may block. An error ends the run's fetching for good:
/// it is the client's own (a full disk), not the worker's.
pub trait Receive: Send {
    /// An output begins: what its parts are. If one had begun and has not ended, forget that one.
    ///
    /// # Errors
    /// Why it cannot be kept.
    fn begin(&mut self, output: &Output, parts: &[PartHeader]) -> Result<()>;

    /// The next bytes of a part, by its position; parts come in order.
    ///
    /// # Errors
    /// Why they cannot be kept.
    fn bytes(&mut self, part: usize, bytes: &[u8]) -> Result<()>;

    /// The output is complete. Once this returns it is safe: the workers forget it.
    ///
    /// # Errors
    /// Why it cannot be kept.
    fn end(&mut self) -> Result<()>;
}

/// Releases all outputs without fetching them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Discard;

impl Destination for Discard {
    fn wants(&self, _: &Output) -> bool {
        false
    }

    fn receiver(&self) -> Box<dyn Receive> {
        Box::new(Discard)
    }
}

impl Receive for Discard {
    fn begin(&mut self, _: &Output, _: &[PartHeader]) -> Result<()> {
        Ok(())
    }

    fn bytes(&mut self, _: usize, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        Ok(())
    }
}

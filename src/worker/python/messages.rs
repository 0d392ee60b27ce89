//! What a worker says to a zygote and to Python executors beyond what it says to every executor. Owns tags
//! and fields, which `docs/protocol.md` documents.

use crate::base::ids::RunUuid;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// Tags; each is for ever.
pub(super) mod tag {
    /// Worker to zygote: one more executor, over these descriptors.
    pub const FORK: u16 = 20;
    /// Zygote: there it is.
    pub const FORKED: u16 = 21;
    /// Zygote: an executor has ended.
    pub const EXITED: u16 = 22;
    /// Worker: a call.
    pub const CALL: u16 = 23;
    /// Worker: something that calls refer to.
    pub const LOAD: u16 = 24;
    /// Worker: what no call will refer to.
    pub const DROP: u16 = 25;
    /// Worker: objects of earlier calls that nobody needs.
    pub const LET_GO: u16 = 32;
    /// Worker: several calls of a run, one after the other.
    pub const CALLS: u16 = 27;
}

#[derive(Debug, Serialize)]
pub(super) struct Fork {
    pub number: u64,
    /// It need not have what is still to be imported.
    pub at_once: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct Forked {
    pub number: u64,
    pub pid: i32,
    /// Not all that the client has imported was there.
    #[serde(default)]
    pub cold: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct Exited {
    pub pid: i32,
    /// As `wait` has it.
    pub status: i32,
}

#[derive(Debug, Serialize)]
pub(super) struct Load {
    /// `environment`, `modules`, `function` or `batch`.
    pub kind: &'static str,
    pub id: ByteBuf,
}

#[derive(Debug, Serialize)]
pub(super) struct Drop {
    pub ids: Vec<ByteBuf>,
}

#[derive(Debug, Serialize)]
pub(super) struct LetGo {
    /// The numbers of the calls that made them.
    pub tasks: Vec<u64>,
}

#[derive(Debug, Serialize)]
pub(super) struct Calls {
    pub run: RunUuid,
    /// Its slots, 1/10,000.
    pub slots: u32,
    /// Those that the calls belong to.
    pub batches: Vec<ByteBuf>,
    /// Number for this execution, key, which of the batches, place in that, epoch and number of the attempt,
    /// how many of the inputs that came before are its.
    pub calls: Vec<(u64, String, u32, u32, u32, u32, u32)>,
}

#[derive(Debug, Serialize)]
pub(super) struct Call<'a> {
    /// The worker's number for this execution.
    pub task: u64,
    pub key: &'a str,
    pub run: RunUuid,
    pub batch: ByteBuf,
    /// Its place in the batch.
    pub index: u32,
    /// Epoch and number.
    pub attempt: (u32, u32),
    /// Its slots, 1/10,000.
    pub slots: u32,
    pub max_output: Option<u64>,
    pub time_limit_ms: Option<u64>,
}

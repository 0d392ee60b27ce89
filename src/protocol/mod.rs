//! What crosses connections and rests in journals: frames, messages, raw columns, credentials. Opens no
//! socket and no file; `net` carries what is made here.

pub mod columns;
pub mod credentials;
pub mod framing;
pub mod profile;
pub mod wire;

/// The version of everything in this module. Peers written in Rust must have the same one.
pub const PROTOCOL: u32 = 2;
pub mod messages;

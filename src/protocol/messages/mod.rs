//! The messages, one enum for each direction. Owns what each says; how they become bytes is in `framing` and
//! `wire`.
//!
//! Tags are for ever: a message that is given up leaves its tag in the enum's `retired` list. Messages
//! between Rust peers need the same `PROTOCOL`; what a client says begins with the range of versions it
//! speaks.

pub mod calls;
pub mod client;
pub mod compute;
pub mod look;
pub mod peer;
pub mod report;
pub mod share;
pub mod worker;

#[cfg(test)]
mod tests;

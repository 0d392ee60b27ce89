//! The dashboard: what is known of a cluster, over HTTP and read-only, for browsers and programs, and as
//! files that outlive it. Owns the door, the paths, the pages and reports; what is known comes from a
//! [`Source`], as JSON (`docs/api.md`).

mod access;
pub mod advice;
mod answers;
mod api;
pub mod assets;
mod connection;
mod fault;
mod metrics;
mod pages;
mod plots;
pub mod raw;
pub mod report;
mod server;
pub mod trace;

#[cfg(test)]
mod tests;

pub use access::without_token;
pub use server::{Front, Serving};

use crate::base::error::Result;
use crate::protocol::messages::client::Question;
use std::pin::Pin;

/// An answer on its way: JSON text.
pub type Answering<'a> = Pin<Box<dyn Future<Output = Result<String>> + Send + 'a>>;

/// Somebody who knows the cluster.
pub trait Source: Send + Sync + 'static {
    /// Asks. Answers in bounded time, with an error if need be.
    fn ask(&self, question: Question) -> Answering<'_>;
}

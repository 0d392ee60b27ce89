//! The dashboard: what is known of a cluster, over HTTP and read-only, for browsers and programs. Owns the
//! door, the paths and the pages; what is known comes from a [`Source`], as JSON (`docs/api.md`).

mod access;
mod answers;
mod api;
mod assets;
mod connection;
mod fault;
mod metrics;
mod pages;
mod plots;
mod server;

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

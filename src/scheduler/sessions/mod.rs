//! Sessions: one task for each connection, which turns wire messages into inputs for the driver and its
//! orders into wire messages. Owns the first message's limits; what is said afterwards is in `worker` and
//! `client`.

pub mod calls;
mod client;
mod convert;
mod submission;
mod worker;

use super::input::Input;
use crate::base::error::{Error, Kind};
use crate::net::backoff::LogLimit;
use crate::net::listener::Accepted;
use crate::protocol::credentials::Role;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// How long a peer may take to introduce itself.
const FIRST_MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a peer may take to accept the last words to it.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(5);

/// What all sessions know.
#[derive(Clone, Debug)]
pub struct Shared {
    /// The cluster's id.
    pub cluster: Arc<str>,
    /// How often this cluster's scheduler has been started.
    pub epoch: u32,
    /// Pause between workers' heartbeats.
    pub heartbeat: Duration,
    /// The way to the driver.
    pub driver: mpsc::Sender<Input>,
    /// Keeps the log readable whoever knocks.
    pub refusals: Arc<LogLimit>,
    /// Names of the connected workers by their addresses.
    pub addresses: Arc<Addresses>,
}

/// Names of the connected workers by their addresses; the driver keeps it.
#[derive(Debug, Default)]
pub struct Addresses(RwLock<HashMap<String, String>>);

impl Addresses {
    /// A worker has come.
    pub fn add(&self, address: &str, name: &str) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        all.insert(address.to_owned(), name.to_owned());
    }

    /// A worker has gone.
    pub fn remove(&self, address: &str) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(address);
    }

    /// Who has an address.
    pub fn name(&self, address: &str) -> Option<String> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(address).cloned()
    }
}

impl Shared {
    /// Says in the log that somebody was not let in; of many in a short time, that there were more.
    fn log_refusal(&self, peer: SocketAddr, role: Role, reason: &str) {
        if let Some(omitted) = self.refusals.pass(Instant::now()) {
            tracing::warn!(%peer, omitted, "refused a {}: {reason}", role.name());
        }
    }
}

/// Serves a connection until it ends.
pub async fn serve(accepted: Accepted, shared: Shared) {
    match accepted.role {
        Role::Worker => worker::serve(accepted.into_connection(), shared).await,
        Role::Client => client::serve(accepted.into_connection(), shared).await,
        // Nobody but the scheduler itself has these credentials, and the listener does not let them in.
        Role::Scheduler => {}
    }
}

/// The error for a peer that speaks out of turn.
fn nonsense(what: &str) -> Error {
    Error::new(Kind::Refused, format!("it sent what it must not: {what}"))
}

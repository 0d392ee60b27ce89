//! The wish that the cluster ends: from the embedding program, a client, or idleness. Owns that the first
//! wish counts.

use std::sync::Arc;
use tokio::sync::watch;

/// Lets anybody end the cluster.
#[derive(Clone, Debug)]
pub struct StopSignal(Arc<watch::Sender<Option<String>>>);

/// Notices the wish.
#[derive(Clone, Debug)]
pub struct StopWish(watch::Receiver<Option<String>>);

impl StopSignal {
    /// Nobody wants the end yet.
    pub fn new() -> StopSignal {
        StopSignal(Arc::new(watch::Sender::new(None)))
    }

    /// Wants the end; only the first reason is kept.
    pub fn want(&self, reason: &str) {
        self.0.send_if_modified(|wish| {
            let first = wish.is_none();
            wish.get_or_insert_with(|| reason.to_string());
            first
        });
    }

    /// Somebody who wants to notice.
    pub fn subscribe(&self) -> StopWish {
        StopWish(self.0.subscribe())
    }
}

impl StopWish {
    /// Waits for the wish and returns its reason.
    pub async fn wanted(&mut self) -> String {
        match self.0.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => "nobody is left who could want otherwise".into(),
        }
    }
}

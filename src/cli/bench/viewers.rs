//! Those who look at a cluster while it is measured: each asks every second for what the dashboard's pages
//! show. Owns what they ask; the answers are counted and thrown away.

use super::parts::Parts;
use crate::base::error::Result;
use crate::client::{Client, ConnectOptions};
use crate::config::Config;
use crate::protocol::messages::client::Question;
use crate::protocol::messages::look::View;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How often they ask.
const INTERVAL: Duration = Duration::from_secs(1);

/// Rectangles and events that they ask for at most, as the pages do.
const SPANS: u32 = 20_000;
const EVENTS: u32 = 1_000;

/// Some of them.
pub struct Viewers {
    all: Vec<JoinHandle<u64>>,
    over: watch::Sender<bool>,
}

impl Viewers {
    /// Connects `n` of them, each by itself.
    ///
    /// # Errors
    /// The scheduler does not let one in.
    pub async fn start(parts: &Parts, config: &Config, n: u32) -> Result<Viewers> {
        let (over, ends) = watch::channel(false);
        let mut all = Vec::new();
        for _ in 0..n {
            let options = ConnectOptions { looks_only: true, ..ConnectOptions::of(config) };
            let client = Client::connect(parts.scheduler().clone(), options).await?;
            all.push(tokio::spawn(look(client, ends.clone())));
        }
        Ok(Viewers { all, over })
    }

    /// Ends them; how many questions were answered.
    pub async fn end(self) -> u64 {
        // Nobody listens if there are none.
        let _ = self.over.send(true);
        let mut answers = 0;
        for one in self.all {
            answers += one.await.unwrap_or(0);
        }
        answers
    }
}

async fn look(client: Client, mut over: watch::Receiver<bool>) -> u64 {
    let (mut after, mut answers) = ((0.0, 0, 0), 0);
    let mut ticks = tokio::time::interval(INTERVAL);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = over.changed() => break,
        }
        let (time, events, spans) = after;
        let views = [
            View::Overview,
            View::Groups { run: None },
            View::Series { after: time, workers: true },
            View::Events { after: events, limit: EVENTS },
            View::Spans { after: spans, limit: SPANS, run: None },
        ];
        for view in views {
            let kind = std::mem::discriminant(&view);
            let Ok(answer) = client.ask(Question::View(view)).await else { continue };
            answers += 1;
            let next = answer["next"].as_u64();
            if kind == std::mem::discriminant(&View::Spans { after: 0, limit: 0, run: None }) {
                after.2 = next.unwrap_or(after.2);
            } else if let Some(next) = next {
                after.1 = next;
            } else if let Some(last) = answer["time"].as_array().and_then(|times| times.last()?.as_f64()) {
                after.0 = last;
            }
        }
    }
    client.close().await;
    answers
}

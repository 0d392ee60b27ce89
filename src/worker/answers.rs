//! Answers to those who look at what only a worker has: what its tasks print, its own log. Owns how these are
//! put together; reading takes place beside the loop, which goes on meanwhile.

use super::last_words;
use super::printed::Book;
use super::printed::read;
use super::profile::{self, Profiler};
use super::scheduler_link::Link;
use crate::base::ids::Incarnation;
use crate::base::own_log;
use crate::net::connection::Sender;
use crate::protocol::messages::look::{Look, Looked, PrintedPart, Said, Wanted};
use crate::protocol::messages::worker::FromWorker;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Bytes of one stream or log in an answer at most.
const BYTES_MAX: u64 = 1 << 20;

/// Who answers.
pub(super) struct Answers {
    sender: Sender<FromWorker>,
    epoch: u32,
    book: Option<Arc<Book>>,
    profiler: Arc<Profiler>,
    incarnation: Incarnation,
    /// Its logs.
    logs: PathBuf,
    /// One after the other: reading is for people, and has time.
    one: Arc<Semaphore>,
}

impl Answers {
    /// Those of the life that is `incarnation` and has its logs in `logs`.
    pub(super) fn new(
        link: &Link,
        (book, profiler): (Option<Arc<Book>>, Arc<Profiler>),
        incarnation: Incarnation,
        logs: PathBuf,
    ) -> Answers {
        let (sender, epoch) = (link.sender.clone(), link.registered.epoch);
        Answers { sender, epoch, book, profiler, incarnation, logs, one: Arc::new(Semaphore::new(1)) }
    }

    /// Tells what a life before has left, which only the nanny removes.
    pub(super) fn tell_of(&self, incarnation: Incarnation, logs: PathBuf) {
        let kept = logs.clone();
        let profile = move || profile::left(&kept);
        tokio::spawn(tell(self.sender.clone(), incarnation, logs, profile));
    }

    /// Leaves what others may ask for later, if that takes no longer than `limit`.
    pub(super) async fn say_last_words(&self, limit: Duration) {
        let profiler = self.profiler.clone();
        let told = tell(self.sender.clone(), self.incarnation, self.logs.clone(), move || profiler.leave());
        if tokio::time::timeout(limit, told).await.is_err() {
            tracing::debug!("there was no time for last words");
        }
    }

    /// Answers as soon as that can be.
    pub(super) fn answer(&self, look: Look) {
        let (sender, epoch, one) = (self.sender.clone(), self.epoch, self.one.clone());
        let (book, profiler) = (self.book.clone(), self.profiler.clone());
        tokio::spawn(async move {
            let _turn = one.acquire().await;
            let Look { id, wanted } = look;
            let found =
                tokio::task::spawn_blocking(move || find(&wanted, epoch, book.as_deref(), &profiler)).await;
            let result = found.unwrap_or_else(|error| Err(error.to_string())).map(|json| json.to_string());
            // Nobody waits for it if the connection has ended.
            let _ = sender.send(FromWorker::Looked(Looked { id, result })).await;
        });
    }
}

async fn tell(
    sender: Sender<FromWorker>,
    incarnation: Incarnation,
    logs: PathBuf,
    profile: impl FnOnce() -> String + Send + 'static,
) {
    let words = tokio::task::spawn_blocking(move || last_words::of(incarnation, &logs, profile())).await;
    if let Ok(words) = words {
        // If the connection has ended there is nobody to tell.
        let _ = sender.send(FromWorker::LastWords(words)).await;
    }
}

fn find(wanted: &Wanted, epoch: u32, book: Option<&Book>, profiler: &Profiler) -> Result<Value, String> {
    match wanted {
        Wanted::Task { task, bytes } => {
            let Some(book) = book else {
                return Err("this worker keeps nothing of what tasks print (worker.logs.task)".into());
            };
            let said = read::task(book.directory(), *task, epoch, (*bytes).min(BYTES_MAX));
            Ok(said.as_ref().map_or(Value::Null, said_json))
        }
        Wanted::Log { bytes } => {
            let (text, left_out) = own_log::last((*bytes).min(BYTES_MAX));
            Ok(json!({ "text": text, "left-out": left_out }))
        }
        Wanted::Profile { run } => serde_json::to_value(profiler.look(*run)).map_err(|e| e.to_string()),
    }
}

/// What a task has printed, as `docs/protocol.md` has it.
fn said_json(said: &Said) -> Value {
    let part =
        |part: &PrintedPart| json!({ "name": part.name, "text": part.text, "left-out": part.left_out });
    json!({ "attempt": said.attempt, "parts": said.parts.iter().map(part).collect::<Vec<_>>() })
}

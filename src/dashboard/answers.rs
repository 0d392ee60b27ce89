//! Answers shared by all who look: one that is young enough is given again, and of each kind one question at
//! most is on its way. Owns what is kept; so the cost for the scheduler does not grow with the viewers.

use super::fault::Fault;
use super::pages::{self, Packed};
use axum::response::Response;
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long an answer is as good as a new one.
const FRESH: Duration = Duration::from_millis(500);

/// What was answered.
pub type Answer = Result<Arc<Packed>, Fault>;

/// Answers of one kind by what exactly was asked.
type Kept = HashMap<String, (Instant, Answer)>;

/// Answers by kind.
#[derive(Debug, Default)]
pub struct Answers {
    kinds: Mutex<HashMap<&'static str, Arc<tokio::sync::Mutex<Kept>>>>,
}

impl Answers {
    /// The answer to a question: one that is kept, or what `ask` gives. `exactly` tells questions of a kind
    /// apart.
    pub async fn get(
        &self,
        kind: &'static str,
        exactly: String,
        ask: impl Future<Output = Result<(String, &'static str), Fault>>,
    ) -> Answer {
        let kept = {
            let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(kinds.entry(kind).or_default())
        };
        let mut kept = kept.lock().await;
        kept.retain(|_, (at, _)| at.elapsed() < FRESH);
        if let Some((_, answer)) = kept.get(&exactly) {
            return answer.clone();
        }
        let answer = ask.await.map(|(text, kind)| Arc::new(Packed::new(Bytes::from(text), kind)));
        kept.insert(exactly, (Instant::now(), answer.clone()));
        answer
    }
}

/// An answer for somebody who takes compressed ones, or does not.
pub async fn respond(answer: Answer, takes_gzip: bool) -> Response {
    match answer {
        Ok(packed) => pages::respond(&packed, takes_gzip).await,
        Err(fault) => axum::response::IntoResponse::into_response(fault),
    }
}

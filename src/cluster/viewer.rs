//! What a dashboard knows: the answers of a scheduler, through a session that only looks. Owns the session,
//! which begins with the first question and ends when nobody has asked for a while.

use crate::base::error::{Error, Kind, Result};
use crate::client::{Client, ConnectOptions};
use crate::dashboard::{Answering, Source};
use crate::net::scheduler_file::{self, SchedulerFile};
use crate::protocol::messages::client::Question;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// How long an answer may take. Workers are asked for logs and profiles.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// A session ends that was not used for so long.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// How often that is looked for.
const IDLE_CHECK: Duration = Duration::from_secs(15);

/// Asks a scheduler for those who look.
pub struct Viewer {
    place: Place,
    options: ConnectOptions,
    session: Arc<Mutex<Option<Session>>>,
}

/// How the scheduler is found.
enum Place {
    /// By its file as it is when a session begins.
    Path(PathBuf),
    /// By what its file said.
    File(Box<SchedulerFile>),
}

struct Session {
    client: Client,
    used: Instant,
}

impl Viewer {
    /// Of the scheduler that a file describes.
    pub fn of_file(path: PathBuf, options: ConnectOptions) -> Viewer {
        Viewer::new(Place::Path(path), options)
    }

    /// Of a scheduler that is known.
    pub fn of_scheduler(file: SchedulerFile, options: ConnectOptions) -> Viewer {
        Viewer::new(Place::File(Box::new(file)), options)
    }

    fn new(place: Place, options: ConnectOptions) -> Viewer {
        // A lost connection is made anew by the next question.
        let options = ConnectOptions { looks_only: true, lease: Duration::ZERO, ..options };
        Viewer { place, options, session: Arc::default() }
    }

    /// The session; a new one if there is none. One that has ended since is noticed by the question.
    async fn client(&self) -> Result<Client> {
        let mut session = self.session.lock().await;
        if let Some(session) = session.as_mut() {
            session.used = Instant::now();
            return Ok(session.client.clone());
        }
        let file = match &self.place {
            Place::Path(path) => scheduler_file::read(path)?,
            Place::File(file) => SchedulerFile::clone(file),
        };
        let client = Client::connect(file, self.options).await?;
        *session = Some(Session { client: client.clone(), used: Instant::now() });
        tokio::spawn(end_when_idle(Arc::downgrade(&self.session)));
        Ok(client)
    }

    async fn answer(&self, question: Question) -> Result<String> {
        let answered =
            tokio::time::timeout(ANSWER_TIMEOUT, async { self.client().await?.ask_text(question).await });
        let late = || Error::new(Kind::Timeout, "the scheduler does not answer in time");
        let answer = answered.await.unwrap_or_else(|_| Err(late()));
        if answer.as_ref().is_err_and(|e| matches!(e.kind, Kind::NoScheduler | Kind::Timeout)) {
            *self.session.lock().await = None;
        }
        answer
    }
}

impl Source for Viewer {
    fn ask(&self, question: Question) -> Answering<'_> {
        Box::pin(self.answer(question))
    }
}

/// Ends a session that nobody uses. Ends itself with the session or the viewer.
async fn end_when_idle(session: Weak<Mutex<Option<Session>>>) {
    loop {
        tokio::time::sleep(IDLE_CHECK).await;
        let Some(session) = session.upgrade() else { return };
        if end_if_idle(&mut *session.lock().await, Instant::now()) {
            return;
        }
    }
}

/// Ends a session if nobody has used it for so long by now. Whether there is none any more.
fn end_if_idle(session: &mut Option<Session>, now: Instant) -> bool {
    let is_idle = |session: &mut Session| now.saturating_duration_since(session.used) >= IDLE_MAX;
    session.take_if(is_idle);
    session.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{LocalCluster, LocalOptions};

    #[tokio::test]
    async fn a_session_that_nobody_uses_ends_and_the_next_question_begins_another() {
        let cluster = LocalCluster::start(LocalOptions::default()).await.unwrap();
        let options = ConnectOptions::of(&crate::config::Config::defaults());
        let viewer = Viewer::of_file(cluster.scheduler_file().to_owned(), options);
        let used = async || viewer.session.lock().await.as_ref().map(|session| session.used);
        let end_at = async |now| end_if_idle(&mut *viewer.session.lock().await, now);
        assert_eq!(used().await, None, "nobody has asked yet");
        viewer.answer(Question::Status).await.unwrap();
        let first = used().await.unwrap();
        let almost = first + IDLE_MAX - Duration::from_millis(1);
        assert!(!end_at(almost).await && !end_at(first - Duration::from_secs(1)).await);
        // To be asked again puts the end off.
        viewer.answer(Question::Status).await.unwrap();
        let second = used().await.unwrap();
        assert!(second > first && !end_at(first + IDLE_MAX).await);
        assert!(end_at(second + IDLE_MAX).await);
        assert!(end_at(second).await, "there is none");
        viewer.answer(Question::Status).await.unwrap();
        assert!(used().await > Some(second));
    }
}

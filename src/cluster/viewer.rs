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
        let mut session = session.lock().await;
        match session.as_ref() {
            Some(known) if known.used.elapsed() < IDLE_MAX => {}
            _ => {
                *session = None;
                return;
            }
        }
    }
}

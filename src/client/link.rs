//! The connection of a session: sends what the handles say, hands out what the scheduler says, comes back
//! after a loss. Owns the session's memory of what has to be said again; knows nothing of files and fetches.

use super::handle::{self, Update};
use super::outputs::Output;
use super::{ConnectOptions, Shared};
use crate::base::error::{Error, Kind, Result};
use crate::base::ids::RunUuid;
use crate::net::backoff::Backoff;
use crate::net::connection::{Connection, TrySendError, connect};
use crate::net::scheduler_file::SchedulerFile;
use crate::net::tls::ClientTls;
use crate::protocol::PROTOCOL;
use crate::protocol::credentials::Role;
use crate::protocol::messages::client::{
    Answer, Ask, Empty, FromClient, Hello, Outputs, Question, RunNamed, Submit, ToClient, Welcome,
};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// How often the client shows that it is there.
const PING_INTERVAL: Duration = Duration::from_secs(15);

/// Silence of the scheduler after which the connection counts as lost.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Messages that wait because the connection is full; beyond that handles have to wait.
const UNSENT_MAX: usize = 64;

/// How long to wait before a full connection is tried again.
const FULL_PAUSE: Duration = Duration::from_millis(5);

/// How long the orderly end of a connection may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The session's connection.
pub(super) type Connected = Connection<FromClient, ToClient>;

/// What handles want of the link.
pub(super) enum Command {
    /// Submit a run, or watch one, and tell what becomes of it.
    Follow {
        run: RunUuid,
        submit: Option<Box<Submit>>,
        begin: Instant,
        updates: mpsc::Sender<Result<Update>>,
    },
    /// Cancel a run.
    Cancel { run: RunUuid, reason: String },
    /// Ask a question.
    Ask { question: Question, answer: oneshot::Sender<Result<String>> },
    /// Say something that has no answer.
    Say(FromClient),
    /// End the session.
    Close(oneshot::Sender<()>),
}

/// Whom the session is with.
pub(crate) struct Target {
    /// Its file.
    pub(super) file: SchedulerFile,
    /// Credentials for it and its workers.
    pub(super) tls: ClientTls,
    /// Patience.
    pub(super) options: ConnectOptions,
    session: uuid::Uuid,
}

impl Target {
    pub(super) fn new(file: SchedulerFile, options: ConnectOptions) -> Result<Target> {
        let tls = ClientTls::new(&file.role_credentials(Role::Client)?, &file.id)?;
        Ok(Target { file, tls, options, session: uuid::Uuid::new_v4() })
    }

    /// Connects and greets.
    pub(super) async fn open(&self) -> Result<(Connected, Welcome)> {
        let timeout = self.options.connect_timeout;
        let mut connection: Connected =
            connect(&self.file.address, Role::Scheduler, &self.tls, timeout).await?;
        let hello = Hello {
            protocol_min: PROTOCOL,
            protocol_max: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").into(),
            session: self.session,
            host: hostname::get().map(|h| h.to_string_lossy().into_owned()).unwrap_or_default(),
            pid: std::process::id(),
            looks_only: self.options.looks_only,
        };
        let greeting = async {
            connection.sender.send(FromClient::Hello(hello)).await?;
            connection.receiver.recv().await
        };
        let answer = tokio::time::timeout(timeout, greeting).await.map_err(|_| {
            Error::new(Kind::NoScheduler, format!("the scheduler at {} does not greet", self.file.address))
        })?;
        match answer? {
            Some(ToClient::Welcome(welcome)) if welcome.cluster == self.file.id => {
                connection.receiver.welcome();
                Ok((connection, welcome))
            }
            Some(ToClient::Welcome(welcome)) => {
                let what = format!("{} is the scheduler of cluster {}", self.file.address, welcome.cluster);
                Err(Error::new(Kind::Refused, what))
            }
            Some(ToClient::Refused(refused)) => {
                Err(Error::new(Kind::Refused, format!("the scheduler refuses: {}", refused.reason)))
            }
            Some(ToClient::Stopping(stopping)) => Err(stopped(&stopping.reason)),
            Some(_) => Err(Error::new(Kind::Refused, "the scheduler greets with something else")),
            None => Err(Error::new(Kind::NoScheduler, "the scheduler ended the connection at once")),
        }
    }
}

/// A run that is followed.
struct Followed {
    /// What to send again until it was accepted.
    submit: Option<Box<Submit>>,
    begin: Instant,
    updates: mpsc::Sender<Result<Update>>,
    /// Why it was cancelled here.
    cancelled: Option<String>,
}

/// A question without an answer so far.
struct Asked {
    question: Question,
    answer: oneshot::Sender<Result<String>>,
}

/// Why a connection is not served any more.
enum End {
    /// All handles are gone, or one of them wanted it.
    Closed(Option<oneshot::Sender<()>>),
    /// It may come back.
    Lost(Error),
    /// It will not.
    Over(Error),
}

/// The task behind all handles of a session.
pub(super) struct Link {
    shared: Arc<Shared>,
    commands: mpsc::Receiver<Command>,
    runs: HashMap<RunUuid, Followed>,
    asked: HashMap<u32, Asked>,
    next_ask: u32,
    /// What the connection had no room for.
    unsent: VecDeque<FromClient>,
    /// What a handle had no room for; nothing is read until it has.
    held: Option<(mpsc::Sender<Result<Update>>, Result<Update>)>,
    /// The session ends once everything was said.
    closing: Option<Option<oneshot::Sender<()>>>,
}

impl Link {
    pub(super) fn new(shared: Arc<Shared>, commands: mpsc::Receiver<Command>) -> Link {
        Link {
            shared,
            commands,
            runs: HashMap::new(),
            asked: HashMap::new(),
            next_ask: 0,
            unsent: VecDeque::new(),
            held: None,
            closing: None,
        }
    }

    pub(super) async fn run(mut self, mut connection: Connected) {
        loop {
            let error = match self.serve(&mut connection).await {
                End::Closed(done) => {
                    // If the scheduler is gone there is nobody to part from.
                    let _ = connection.sender.close(CLOSE_TIMEOUT).await;
                    drop(done);
                    return;
                }
                End::Lost(error) => match self.come_back(&error).await {
                    Ok(again) => {
                        connection = again;
                        continue;
                    }
                    Err(error) => error,
                },
                End::Over(error) => error,
            };
            self.fail(error).await;
            return;
        }
    }

    /// Exchanges messages until the connection ends one way or the other.
    async fn serve(&mut self, connection: &mut Connected) -> End {
        let mut ping = tokio::time::interval(PING_INTERVAL);
        let mut heard = Instant::now();
        loop {
            if let Err(end) = self.flush(connection) {
                return end;
            }
            if let Some(done) = self.closing.take_if(|_| self.unsent.is_empty()) {
                return End::Closed(done);
            }
            let listening = self.closing.is_none() && self.unsent.len() < UNSENT_MAX;
            tokio::select! {
                command = self.commands.recv(), if listening => match command {
                    Some(command) => self.on_command(command),
                    None => self.closing = Some(None),
                },
                permit = reserve(&mut self.held), if self.held.is_some() => {
                    // A handle that is gone has no use for it.
                    if let (Some(permit), Some((_, update))) = (permit, self.held.take()) {
                        permit.send(update);
                    }
                },
                message = connection.receiver.recv(), if self.held.is_none() => {
                    heard = Instant::now();
                    match message {
                        Ok(Some(message)) => if let Some(end) = self.on_message(message) {
                            return end;
                        },
                        Ok(None) => return End::Lost(Error::new(
                            Kind::NoScheduler, "the scheduler has ended the connection")),
                        Err(e) if e.kind == Kind::Refused => return End::Over(e),
                        Err(e) => return End::Lost(e),
                    }
                },
                _ = tokio::time::sleep(FULL_PAUSE), if !self.unsent.is_empty() => {}
                _ = ping.tick() => {
                    if self.held.is_none() && heard.elapsed() > SILENCE_MAX {
                        return End::Lost(Error::new(Kind::NoScheduler, "the scheduler is silent"));
                    }
                    if self.unsent.is_empty() {
                        self.unsent.push_back(FromClient::Ping(Empty {}));
                    }
                },
            }
        }
    }

    /// Sends what there is room for. Reading goes on meanwhile: the scheduler may be waiting for that.
    fn flush(&mut self, connection: &Connected) -> Result<(), End> {
        while let Some(message) = self.unsent.pop_front() {
            match connection.sender.try_send(message) {
                Ok(()) => {}
                Err(TrySendError::Full(message)) => {
                    self.unsent.push_front(message);
                    return Ok(());
                }
                Err(TrySendError::Closed(e)) if matches!(e.kind, Kind::Internal | Kind::Refused) => {
                    return Err(End::Over(e));
                }
                // What was read before may say why.
                Err(TrySendError::Closed(_)) => return Ok(()),
            }
        }
        Ok(())
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Follow { run, submit, begin, updates } => {
                let followed = Followed { submit, begin, updates, cancelled: None };
                self.unsent.push_back(begin_of(run, &followed));
                self.runs.insert(run, followed);
            }
            Command::Cancel { run, reason } => {
                if let Some(followed) = self.runs.get_mut(&run) {
                    followed.cancelled = Some(reason.clone());
                }
                self.unsent.push_back(FromClient::Cancel(RunNamed { run, reason }));
            }
            Command::Ask { question, answer } => {
                let id = self.next_ask;
                self.next_ask = self.next_ask.wrapping_add(1);
                self.unsent.push_back(FromClient::Ask(Ask { id, question: question.clone() }));
                self.asked.insert(id, Asked { question, answer });
            }
            Command::Say(message) => self.unsent.push_back(message),
            Command::Close(done) => self.closing = Some(Some(done)),
        }
    }

    fn on_message(&mut self, message: ToClient) -> Option<End> {
        match message {
            ToClient::Accepted(accepted) => {
                if let Some(followed) = self.runs.get_mut(&accepted.run) {
                    followed.submit = None;
                }
                self.tell(accepted.run, Ok(Update::Accepted { tasks: accepted.tasks }));
            }
            ToClient::Rejected(rejected) => {
                let what = format!("the scheduler does not take the graph: {}", rejected.reason);
                self.tell(rejected.run, Err(Error::new(Kind::Graph, what)));
                self.runs.remove(&rejected.run);
            }
            ToClient::Progress(message) => {
                let begin = self.runs.get(&message.run).map_or_else(Instant::now, |f| f.begin);
                // Progress that nobody has time for is out of date soon.
                if self.runs.get(&message.run).is_some_and(|f| f.updates.capacity() > 0) {
                    self.tell(message.run, Ok(Update::Progress(handle::progress(&message, begin))));
                }
            }
            ToClient::Outputs(Outputs { run, outputs, peers }) => {
                let outputs = outputs.into_iter().map(|o| Output::new(o, &peers)).collect();
                self.tell(run, Ok(Update::Outputs(outputs)));
            }
            ToClient::RunDone(done) => {
                let run = done.run;
                self.tell(run, Ok(Update::Done(handle::summary(done))));
                self.runs.remove(&run);
            }
            ToClient::Answer(answer) => self.on_answer(answer),
            ToClient::Stopping(stopping) => return Some(End::Over(stopped(&stopping.reason))),
            ToClient::Refused(refused) => {
                let what = format!("the scheduler refuses: {}", refused.reason);
                return Some(End::Over(Error::new(Kind::Refused, what)));
            }
            // Of runs of calls, which this client does not submit.
            ToClient::CallsDone(_) | ToClient::CallsFailed(_) | ToClient::CallsLost(_) => {}
            ToClient::Shared(_) => {}
            ToClient::Pong(_) | ToClient::Welcome(_) => {}
        }
        None
    }

    fn on_answer(&mut self, answer: Answer) {
        let Some(asked) = self.asked.remove(&answer.id) else { return };
        let result = answer.result.map_err(|(kind, words)| {
            let kind = match kind.as_str() {
                "not-found" => Kind::NotFound,
                "timeout" => Kind::Timeout,
                "refused" => Kind::Refused,
                _ => Kind::Internal,
            };
            Error::new(kind, words)
        });
        // Whoever asked may have stopped waiting.
        let _ = asked.answer.send(result);
    }

    /// Tells a run's handle something; keeps it if there is no room.
    fn tell(&mut self, run: RunUuid, update: Result<Update>) {
        let Some(followed) = self.runs.get(&run) else { return };
        if let Err(mpsc::error::TrySendError::Full(update)) = followed.updates.try_send(update) {
            self.held = Some((followed.updates.clone(), update));
        }
    }

    /// Connects again with the same session and says again what may not have arrived.
    async fn come_back(&mut self, lost: &Error) -> Result<Connected> {
        if self.asked.values().any(|a| matches!(a.question, Question::Stop)) {
            return Err(stopped("as asked"));
        }
        tracing::warn!("the connection to the scheduler is lost, trying again: {}", lost.message);
        let deadline = Instant::now() + self.shared.target.options.lease;
        let mut pause = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let connection = loop {
            tokio::time::sleep(pause.next_delay()).await;
            match self.shared.target.open().await {
                Ok((connection, welcome)) if welcome.epoch == self.shared.epoch => break connection,
                Ok(_) => {
                    let what = "the scheduler was started anew and does not know this session's runs";
                    return Err(Error::new(Kind::NoScheduler, what).hint("submit again"));
                }
                Err(e) if e.kind == Kind::Refused => return Err(e),
                Err(e) if Instant::now() >= deadline => {
                    let what = format!("the scheduler is gone: {}", e.message);
                    return Err(Error::new(Kind::NoScheduler, what).hint("hpcdag clusters lists those alive"));
                }
                Err(_) => {}
            }
        };
        tracing::info!("connected to the scheduler again");
        // What was unsent may be what is said again now: submissions are known by their run, questions by
        // number.
        self.unsent
            .retain(|m| !matches!(m, FromClient::Submit(_) | FromClient::Watch(_) | FromClient::Ask(_)));
        let runs = self.runs.iter().map(|(run, followed)| begin_of(*run, followed));
        let cancels = self.runs.iter().filter_map(|(run, followed)| {
            Some(FromClient::Cancel(RunNamed { run: *run, reason: followed.cancelled.clone()? }))
        });
        let asks =
            self.asked.iter().map(|(id, a)| FromClient::Ask(Ask { id: *id, question: a.question.clone() }));
        let again: Vec<FromClient> = runs.chain(cancels).chain(asks).collect();
        again.into_iter().rev().for_each(|m| self.unsent.push_front(m));
        Ok(connection)
    }

    /// Tells all handles that it is over.
    async fn fail(mut self, error: Error) {
        // Set only here, by the only link.
        let _ = self.shared.fault.set(error.clone());
        for (_, asked) in self.asked.drain() {
            let answer = match asked.question {
                Question::Stop => Ok("{\"stopping\": true}".to_owned()),
                _ => Err(error.clone()),
            };
            // Whoever asked may have stopped waiting.
            let _ = asked.answer.send(answer);
        }
        if let Some((updates, update)) = self.held.take() {
            // A handle that is gone needs no end.
            let _ = updates.send(update).await;
        }
    }
}

/// Waits for room in the queue of the handle that something is held for.
async fn reserve(
    held: &mut Option<(mpsc::Sender<Result<Update>>, Result<Update>)>,
) -> Option<mpsc::OwnedPermit<Result<Update>>> {
    let (updates, _) = held.as_ref()?;
    updates.clone().reserve_owned().await.ok()
}

/// The message with which following a run begins.
fn begin_of(run: RunUuid, followed: &Followed) -> FromClient {
    match &followed.submit {
        Some(submit) => FromClient::Submit(submit.as_ref().clone()),
        None => FromClient::Watch(RunNamed { run, reason: String::new() }),
    }
}

fn stopped(reason: &str) -> Error {
    Error::new(Kind::NoScheduler, format!("the cluster was stopped: {reason}"))
}

//! The client: connects to a scheduler, submits graphs, follows runs, fetches their outputs. Owns the session
//! and what becomes of outputs at the client's side of the world; prints nothing, `cli` does.

mod fetch;
mod files;
mod handle;
mod hooks;
mod link;
mod memory;
mod ordered;
pub mod outputs;
pub mod resume;
pub mod summary;
mod take;

pub use files::{Files, Written};
pub use handle::{RunHandle, Update};
pub use hooks::run_hook;
pub use memory::Memory;
pub use ordered::Ordered;
pub use outputs::{Destination, Discard, Output, Receive};
pub use take::{RunEnd, Taker};

use crate::base::error::{Error, Kind, Result};
use crate::base::ids::{RunUuid, TaskRef, WorkerId};
use crate::config::Config;
use crate::graph::{By, Graph, Packed};
use crate::net::discovery::{self, Wish};
use crate::net::scheduler_file::{self, SchedulerFile};
use crate::protocol::framing::{FRAME_BYTES_MAX, encode_whole};
use crate::protocol::messages::client::{FromClient, OutputAt, OutputMissing, Question, Submit, Tasks};
use link::{Command, Link, Target};
use serde::Deserialize;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// Commands that may wait for the link.
const COMMANDS_MAX: usize = 64;

/// Updates of a run that may wait for whoever follows it; beyond that the scheduler has to wait.
const UPDATES_MAX: usize = 64;

/// How patient a client is.
#[derive(Clone, Copy, Debug)]
pub struct ConnectOptions {
    /// How long it tries to reach the scheduler at first.
    pub timeout: Duration,
    /// How long one attempt may take, greeting included.
    pub connect_timeout: Duration,
    /// How long it tries to come back to its session after a loss of the connection.
    pub lease: Duration,
    /// Only looks: keeps nothing alive, and asks nothing that changes anything.
    pub looks_only: bool,
}

impl ConnectOptions {
    /// As the configuration says.
    pub fn of(config: &Config) -> ConnectOptions {
        ConnectOptions {
            timeout: config.client.timeout.0,
            connect_timeout: config.network.connect_timeout.0,
            lease: config.scheduler.session_lease.0,
            looks_only: false,
        }
    }
}

/// What a graph is submitted with.
#[derive(Clone, Copy, Debug, Default)]
pub struct SubmitOptions {
    /// The run goes on without this client; its outputs are written by workers or kept.
    pub detached: bool,
    /// Cancel the rest after so many failed tasks (at least 1).
    pub max_fails: Option<u32>,
    /// Hand out no more than so many tasks at a time.
    pub max_processing: Option<u32>,
    /// Start only when so many workers are connected.
    pub wait_workers: u32,
}

/// A session with a scheduler. Clones share it; it ends with the last of them.
#[derive(Clone)]
pub struct Client {
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
}

/// What the clones and the link of a session share.
pub(crate) struct Shared {
    /// Where the scheduler is and how to reach its workers.
    pub(crate) target: Target,
    /// How often the scheduler had been started when the session began.
    pub(crate) epoch: u32,
    /// Why the session is over.
    pub(crate) fault: OnceLock<Error>,
}

impl Shared {
    /// Why nothing can be asked any more.
    pub(crate) fn ended(&self) -> Error {
        let unknown = || Error::new(Kind::NoScheduler, "the connection to the scheduler has ended");
        self.fault.get().cloned().unwrap_or_else(unknown)
    }
}

impl Client {
    /// Finds the scheduler that is meant, waits for it as long as the configuration says, and connects.
    ///
    /// # Errors
    /// `NoScheduler`, `Refused` and what reading the scheduler file gives.
    pub async fn find(wish: &Wish, config: &Config) -> Result<Client> {
        let found = discovery::find(wish).await?;
        Client::open(&found.path, wish, config).await
    }

    /// Connects to the scheduler of a file, waiting for both as long as the configuration says. Of `wish`
    /// only the address counts.
    ///
    /// # Errors
    /// As [`Client::find`].
    pub async fn open(path: &Path, wish: &Wish, config: &Config) -> Result<Client> {
        let options = ConnectOptions::of(config);
        let address = wish.address.as_ref();
        let file = scheduler_file::wait_for(path, address, options.timeout, scheduler_file::probe).await?;
        Client::connect(file, options).await
    }

    /// Connects to the scheduler that a file describes.
    ///
    /// # Errors
    /// `NoScheduler` when nobody answers, `Refused` when the scheduler does not let this client in.
    pub async fn connect(file: SchedulerFile, options: ConnectOptions) -> Result<Client> {
        let target = Target::new(file, options)?;
        let (connection, welcome) = target.open().await?;
        let shared = Arc::new(Shared { target, epoch: welcome.epoch, fault: OnceLock::new() });
        let (commands, queue) = mpsc::channel(COMMANDS_MAX);
        let link = Link::new(Arc::clone(&shared), queue);
        tokio::spawn(link.run(connection));
        Ok(Client { commands, shared })
    }

    /// What the scheduler's file said.
    pub fn scheduler(&self) -> &SchedulerFile {
        &self.shared.target.file
    }

    /// Submits a graph. The handle tells how the run goes; nobody is told anything of a detached run but that
    /// it was accepted.
    ///
    /// # Errors
    /// `Graph` when the graph is too large for one message; the end of the session.
    pub async fn submit(&self, mut graph: Graph, options: SubmitOptions) -> Result<RunHandle> {
        if options.detached {
            // Nobody may be there to write: the workers do, unless the user said who.
            graph.outputs.iter_mut().for_each(|o| o.by = o.by.or(Some(By::Worker)));
        }
        let run = RunUuid::new_v4();
        let SubmitOptions { detached, max_fails, wait_workers, max_processing } = options;
        let graph = Arc::new(Packed::new(graph)?);
        let submit = Submit { run, graph, detached, max_fails, wait_workers, max_processing };
        check_size(&submit)?;
        self.follow(run, Some(submit)).await
    }

    /// Follows a run that was submitted by somebody; its outputs come here from now on.
    ///
    /// # Errors
    /// The end of the session.
    pub async fn watch(&self, run: RunUuid) -> Result<RunHandle> {
        self.follow(run, None).await
    }

    async fn follow(&self, run: RunUuid, submit: Option<Submit>) -> Result<RunHandle> {
        let (updates, queue) = mpsc::channel(UPDATES_MAX);
        let begin = Instant::now();
        self.command(Command::Follow { run, submit: submit.map(Box::new), begin, updates }).await?;
        Ok(RunHandle::new(run, queue, self.clone()))
    }

    /// Cancels a run.
    ///
    /// # Errors
    /// The end of the session.
    pub async fn cancel(&self, run: RunUuid, reason: &str) -> Result<()> {
        self.command(Command::Cancel { run, reason: reason.into() }).await
    }

    /// Asks a question.
    ///
    /// # Errors
    /// `NotFound`, `Timeout`, `Refused` as the scheduler says; the end of the session.
    pub async fn ask(&self, question: Question) -> Result<serde_json::Value> {
        let text = self.ask_text(question).await?;
        serde_json::from_str(&text).map_err(|e| Error::os("cannot read the scheduler's answer", e))
    }

    /// Asks a question; the answer as it came, JSON text.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub async fn ask_text(&self, question: Question) -> Result<String> {
        let (answer, answered) = oneshot::channel();
        self.command(Command::Ask { question, answer }).await?;
        answered.await.map_err(|_| self.shared.ended())?
    }

    /// Says that outputs are safe.
    pub(crate) async fn taken(&self, tasks: Vec<TaskRef>) -> Result<()> {
        self.command(Command::Say(FromClient::OutputsTaken(Tasks { tasks }))).await
    }

    /// Says that an output was not to be had from a worker.
    pub(crate) async fn missing(&self, task: TaskRef, holder: WorkerId) -> Result<()> {
        self.command(Command::Say(FromClient::OutputMissing(OutputMissing { task, holder }))).await
    }

    async fn command(&self, command: Command) -> Result<()> {
        self.commands.send(command).await.map_err(|_| self.shared.ended())
    }

    /// Fetches the result of a task into `destination`.
    ///
    /// # Errors
    /// `NotFound` when there is no such task or nobody has its result; what `destination` finds.
    pub async fn fetch(
        &self,
        key: &str,
        run: Option<RunUuid>,
        destination: Arc<dyn Destination>,
    ) -> Result<()> {
        let answer = self.ask(Question::Locate { key: key.into(), run }).await?;
        let place = Place::deserialize(answer)
            .map_err(|e| Error::os("cannot read where the scheduler says the result is", e))?;
        let output = Output::new(place.output, &place.peers);
        let reasons = fetch::fetch_one(&self.shared, output, destination).await?;
        match reasons {
            None => Ok(()),
            Some(reason) => {
                Err(Error::new(Kind::NotFound, format!("the result of {key} cannot be had: {reason}")))
            }
        }
    }

    /// Ends the session in order: what was said is on its way when this returns.
    pub async fn close(self) {
        let (done, closed) = oneshot::channel();
        if self.command(Command::Close(done)).await.is_ok() {
            // An error means that the link has ended by itself.
            let _ = closed.await;
        }
    }
}

/// The answer to `Question::Locate`.
#[derive(Deserialize)]
struct Place {
    output: OutputAt,
    peers: Vec<(WorkerId, String)>,
}

/// Refuses graphs that do not fit into a message: the connection would break over them.
fn check_size(submit: &Submit) -> Result<()> {
    let bytes = encode_whole(FromClient::Submit(submit.clone())).map(|b| b.len()).unwrap_or(usize::MAX);
    if bytes <= FRAME_BYTES_MAX {
        return Ok(());
    }
    let limit = FRAME_BYTES_MAX >> 20;
    Err(Error::new(Kind::Graph, format!("the graph is too large: it needs more than {limit} MiB"))
        .hint("make families of tasks that differ only by their element, or submit it in parts"))
}

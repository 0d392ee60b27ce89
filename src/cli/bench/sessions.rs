//! `hpcdag bench sessions`: a process of pretended workers, each with a real session: TLS, registration,
//! reports, heartbeats. Owns what is said; what a pretended worker remembers is `pretend`'s.

use super::parts;
use super::pretend::{DURATION_NS, Outcome, Pretended, RESULT_BYTES};
use crate::base::error::{Error, Kind, Result};
use crate::base::ids::{Incarnation, WorkerId};
use crate::cli::args::BenchSessionsArgs;
use crate::cli::context::{Context, run_long};
use crate::cli::output::Out;
use crate::graph::layer::SLOT;
use crate::net::backoff::Backoff;
use crate::net::connection::{Connection, connect};
use crate::net::scheduler_file::{self, SchedulerFile};
use crate::net::tls::ClientTls;
use crate::protocol::PROTOCOL;
use crate::protocol::credentials::Role;
use crate::protocol::messages::client::Reason;
use crate::protocol::messages::compute::Tasks;
use crate::protocol::messages::report::{News, Rare, Report};
use crate::protocol::messages::worker::{FromWorker, Heartbeat, Register, Registered, ToWorker};
use crate::worker::process;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

type WorkerConnection = Connection<FromWorker, ToWorker>;

/// How long each has to be let in.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a goodbye may take.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs the sessions until the scheduler ends them; says in a line of JSON when all are let in.
///
/// # Errors
/// One that is not let in.
pub fn sessions(context: &Context, args: &BenchSessionsArgs) -> Result<u8> {
    let open_files = process::raise_open_files()?;
    let timeout = context.config().client.timeout.0;
    run_long(async {
        let path = &args.scheduler_file;
        let file = scheduler_file::wait_for(path, None, timeout, scheduler_file::probe).await?;
        let tls = ClientTls::new(&file.role_credentials(Role::Worker)?, &file.id)?;
        let (file, begin) = (Arc::new(file), Instant::now());
        let mut joining = JoinSet::new();
        for n in 0..args.nworkers {
            let (file, tls) = (Arc::clone(&file), tls.clone());
            joining.spawn(async move { join(&file, &tls, n).await });
        }
        let (mut sessions, mut retries) = (Vec::new(), 0);
        while let Some(joined) = joining.join_next().await {
            let (session, again) = joined.map_err(|e| Error::os("a session failed", e))??;
            sessions.push(session);
            retries += again;
        }
        let seconds = begin.elapsed().as_secs_f64();
        let said = serde_json::to_string(&parts::Registered { seconds, open_files, retries });
        let mut serving = JoinSet::new();
        for session in sessions {
            serving.spawn(session.serve());
        }
        Out::stdout().line(said.map_err(|e| Error::os("cannot print as JSON", e))?)?;
        while serving.join_next().await.is_some() {}
        Ok(0)
    })
}

/// One pretended worker.
struct Session {
    connection: WorkerConnection,
    me: WorkerId,
    epoch: u32,
    heartbeat: Duration,
    pretended: Pretended,
}

/// Registers, trying again as real workers do; returns how often it did.
async fn join(file: &SchedulerFile, tls: &ClientTls, n: u32) -> Result<(Session, u32)> {
    let deadline = Instant::now() + CONNECT_TIMEOUT;
    let mut pause = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
    let mut retries = 0;
    loop {
        match register(file, tls, n).await {
            Ok(session) => return Ok((session, retries)),
            Err(e) if e.kind == Kind::NoScheduler && Instant::now() < deadline => {
                retries += 1;
                tokio::time::sleep(pause.next_delay()).await;
            }
            Err(e) => return Err(e),
        }
    }
}

async fn register(file: &SchedulerFile, tls: &ClientTls, n: u32) -> Result<Session> {
    let mut connection: WorkerConnection =
        connect(&file.address, Role::Scheduler, tls, CONNECT_TIMEOUT).await?;
    connection.sender.send(FromWorker::Register(introduction(n))).await?;
    let refused = |reason: &str| Error::new(Kind::Refused, format!("a session was not let in: {reason}"));
    let answer = tokio::time::timeout(CONNECT_TIMEOUT, connection.receiver.recv()).await;
    match answer.map_err(|_| refused("no answer in time"))?? {
        Some(ToWorker::Registered(Registered { worker, epoch, heartbeat_ms, .. })) => {
            connection.receiver.welcome();
            let heartbeat = Duration::from_millis(heartbeat_ms.max(1));
            Ok(Session { connection, me: worker, epoch, heartbeat, pretended: Pretended::default() })
        }
        Some(ToWorker::Refused(reason)) => Err(refused(&reason.reason)),
        _ => Err(refused("the connection ended")),
    }
}

fn introduction(n: u32) -> Register {
    Register {
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").into(),
        incarnation: Incarnation::new_v4(),
        name: format!("pretended-{}-{n}", std::process::id()),
        host: "localhost".into(),
        pid: std::process::id(),
        // Nobody ever has anything to fetch from it.
        address: "tls://127.0.0.1:1".into(),
        slots: SLOT,
        resources: Default::default(),
        memory_limit: None,
        memory_target: None,
        memory_thresholds: [None; 4],
        job_id: None,
        pool: None,
        preemptible: false,
        leaves_in_ms: None,
        predecessor: None,
        holds: Vec::new(),
    }
}

impl Session {
    async fn serve(mut self) {
        let mut messages = Vec::new();
        let mut beat = tokio::time::interval(self.heartbeat);
        loop {
            tokio::select! {
                biased;
                received = self.connection.receiver.recv_many(&mut messages) => {
                    if !matches!(received, Ok(n) if n > 0) {
                        return;
                    }
                }
                _ = beat.tick() => {
                    let figures = FromWorker::Heartbeat(Heartbeat::default());
                    if self.connection.sender.send(figures).await.is_err() {
                        return;
                    }
                    continue;
                }
            }
            let Ok(outcome) = self.take(&mut messages) else { return self.leave().await };
            if !outcome.is_empty() && self.connection.sender.send(self.report(outcome)).await.is_err() {
                return;
            }
        }
    }

    /// Does what is asked, which is to say nothing. An error is the wish that it leaves.
    fn take(&mut self, messages: &mut Vec<ToWorker>) -> std::result::Result<Outcome, ()> {
        let mut outcome = Outcome::default();
        for message in messages.drain(..) {
            match message {
                ToWorker::Compute(compute) => self.compute(&compute.unpack().map_err(drop)?, &mut outcome),
                ToWorker::Free(tasks) => self.pretended.free(&tasks.tasks),
                ToWorker::Steal(attempts) => outcome.kept.extend(attempts.attempts),
                ToWorker::Replicate(replicate) => {
                    outcome.replicas.extend(replicate.tasks.into_iter().map(|(task, _)| task));
                }
                ToWorker::Stop(_) | ToWorker::Retire(_) | ToWorker::Dismiss(_) => return Err(()),
                _ => {}
            }
        }
        Ok(outcome)
    }

    fn compute(&mut self, tasks: &Tasks, outcome: &mut Outcome) {
        let mut holders = 0;
        for input in &tasks.inputs {
            let end = input.holders_end as usize;
            let of_input = tasks.holders.get(holders..end).unwrap_or_default();
            self.pretended.input(input.task, of_input, self.me, outcome);
            holders = end;
        }
        outcome.finished.extend(tasks.tasks.iter().map(|t| (t.task, t.attempt)));
    }

    fn report(&self, outcome: Outcome) -> FromWorker {
        let done = |(task, attempt)| (task, attempt, RESULT_BYTES, DURATION_NS);
        let news = News {
            started: Vec::new(),
            finished: outcome.finished.into_iter().map(done).collect(),
            replicas: outcome.replicas,
            rare: Rare { kept: outcome.kept, ..Rare::default() },
        };
        FromWorker::Report(Report::pack(self.epoch, news))
    }

    async fn leave(self) {
        let sender = &self.connection.sender;
        // The scheduler may be gone already.
        let _ = sender.send(FromWorker::Goodbye(Reason { reason: "done".into() })).await;
        let _ = sender.close(GOODBYE_TIMEOUT).await;
    }
}

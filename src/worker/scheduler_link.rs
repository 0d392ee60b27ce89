//! The way to the scheduler: finding it by its file, connecting, registering. Owns these steps; when to take
//! them again is the server's decision, what is said afterwards the driver's.

use crate::base::error::{Error, Kind, Result};
use crate::net::address::Address;
use crate::net::connection::{Sender, connect};
use crate::net::receiver::Receiver;
use crate::net::scheduler_file::{self, Liveness, SchedulerFile};
use crate::net::tls::ClientTls;
use crate::protocol::credentials::Role;
use crate::protocol::messages::worker::{FromWorker, Register, Registered, ToWorker};
use std::path::PathBuf;
use std::time::Duration;

/// Where the scheduler is to be found.
#[derive(Clone, Debug)]
pub(super) struct Whereabouts {
    /// Its file.
    pub file: PathBuf,
    /// Where it listens, if not where the file says.
    pub address: Option<Address>,
}

impl Whereabouts {
    /// Waits until the file is there and, if that is to be asked, its scheduler answers.
    pub(super) async fn find(&self, patience: Duration, ask: bool) -> Result<SchedulerFile> {
        let (file, address) = (&self.file, self.address.as_ref());
        match ask {
            true => scheduler_file::wait_for(file, address, patience, scheduler_file::probe).await,
            false => scheduler_file::wait_for(file, address, patience, unasked).await,
        }
    }
}

/// Takes a scheduler for alive.
async fn unasked(_: &SchedulerFile) -> Liveness {
    Liveness::Alive
}

/// A connection on which the scheduler has taken this worker in.
pub(super) struct Link {
    /// To the scheduler.
    pub sender: Sender<FromWorker>,
    /// From the scheduler.
    pub receiver: Receiver<ToWorker>,
    /// What it said to the registration.
    pub registered: Registered,
    /// The cluster's credentials, for connections to other workers.
    pub tls: ClientTls,
}

/// What came of a registration.
pub(super) enum Answer {
    /// Taken in.
    Registered(Box<Link>),
    /// Not let in, and trying again makes no sense.
    Refused(String),
}

/// Connects to the scheduler of a file and registers.
///
/// # Errors
/// It could not be reached, or it went away: that may be tried again.
pub(super) async fn register(
    file: &SchedulerFile,
    introduction: Register,
    timeout: Duration,
) -> Result<Answer> {
    let tls = ClientTls::new(&file.role_credentials(Role::Worker)?, &file.id)?;
    let mut connection =
        connect::<FromWorker, ToWorker>(&file.address, Role::Scheduler, &tls, timeout).await?;
    connection.sender.send(FromWorker::Register(introduction)).await?;
    let answer = match tokio::time::timeout(timeout, connection.receiver.recv()).await {
        Ok(answer) => answer?,
        Err(_) => {
            let after = humantime::format_duration(timeout);
            let text = format!("the scheduler at {} does not answer within {after}", file.address);
            return Err(Error::new(Kind::Timeout, text));
        }
    };
    match answer {
        Some(ToWorker::Registered(registered)) => {
            connection.receiver.welcome();
            let (sender, receiver) = (connection.sender, connection.receiver);
            Ok(Answer::Registered(Box::new(Link { sender, receiver, registered, tls })))
        }
        Some(ToWorker::Refused(reason)) => Ok(Answer::Refused(reason.reason)),
        Some(_) => Err(Error::new(Kind::Refused, "the scheduler did not answer the registration")),
        None => Err(Error::new(Kind::NoScheduler, "the scheduler ended the connection")),
    }
}

//! A worker's session: registration, then reports in and orders out. Owns what is refused at the door.

use super::{FIRST_MESSAGE_TIMEOUT, LAST_WORDS_TIMEOUT, Shared, convert};
use crate::base::error::{Error, Result};
use crate::base::ids::WorkerId;
use crate::net::address::Address;
use crate::net::connection::{Connection, Sender};
use crate::net::receiver::Receiver;
use crate::protocol::PROTOCOL;
use crate::protocol::credentials::Role;
use crate::protocol::messages::client::Reason;
use crate::protocol::messages::compute::Compute;
use crate::protocol::messages::look::LastWords;
use crate::protocol::messages::worker::{FromWorker, Register, Registered, ToWorker};
use crate::scheduler::calls::{call_batch, call_run};
use crate::scheduler::input::{Input, Seen, WorkerOrder};
use crate::scheduler::link::{Orders, link};
use std::net::SocketAddr;
use tokio::sync::oneshot;

/// The longest name, host and address of a worker, in bytes.
const TEXT_BYTES_MAX: usize = 256;

/// The most slots and the largest amount of a resource, 1/10,000: far more than any machine has.
const AMOUNT_MAX: u64 = 1 << 40;

/// Serves a worker until its connection ends.
pub async fn serve(connection: Connection<ToWorker, FromWorker>, shared: Shared) {
    let Connection { sender, mut receiver, peer, .. } = connection;
    let register = match tokio::time::timeout(FIRST_MESSAGE_TIMEOUT, receiver.recv()).await {
        Ok(Ok(Some(FromWorker::Register(register)))) => register,
        Ok(Ok(Some(other))) => {
            use crate::protocol::wire::Wire;
            return refuse(&sender, peer, &shared, format!("{} before registering", other.name())).await;
        }
        Ok(Ok(None)) => return,
        Ok(Err(e)) => return shared.log_refusal(peer, Role::Worker, &e.message),
        Err(_) => return refuse(&sender, peer, &shared, "no registration in time".into()).await,
    };
    if let Err(reason) = check(&register) {
        return refuse(&sender, peer, &shared, reason).await;
    }
    receiver.welcome();
    let (link, orders) = link(sender.clone());
    let (reply, answer) = oneshot::channel();
    let joined = Input::WorkerJoined { register: Box::new(register), link, reply };
    // Errors mean that the driver is gone or takes nobody in any more.
    if shared.driver.send(joined).await.is_err() {
        return;
    }
    let Ok(worker) = answer.await else {
        return refuse(&sender, peer, &shared, "the cluster ends".into()).await;
    };
    let writer = tokio::spawn(write(orders, sender.clone(), welcome(&shared, worker), shared.epoch));
    let (reason, announced) = match read(&mut receiver, worker, &shared).await {
        Ok(Some(reason)) => (reason, true),
        Ok(None) => ("the worker ended the connection".to_string(), false),
        Err(e) => (e.message, false),
    };
    // An error means that the driver is gone.
    let _ = shared.driver.send(Input::WorkerGone { worker, reason, announced }).await;
    sender.abort();
    // An error means that the writer panicked; the connection is cut in any case.
    let _ = writer.await;
}

fn welcome(shared: &Shared, worker: WorkerId) -> Registered {
    Registered {
        worker,
        epoch: shared.epoch,
        cluster: shared.cluster.to_string(),
        heartbeat_ms: u64::try_from(shared.heartbeat.as_millis()).unwrap_or(u64::MAX),
    }
}

/// Says why to the log and to the peer, and ends the connection.
async fn refuse(sender: &Sender<ToWorker>, peer: SocketAddr, shared: &Shared, reason: String) {
    shared.log_refusal(peer, Role::Worker, &reason);
    // If it is gone meanwhile, there is nobody to tell.
    let _ = sender.send(ToWorker::Refused(Reason { reason })).await;
    let _ = sender.close(LAST_WORDS_TIMEOUT).await;
}

/// Why a worker cannot be let in.
fn check(r: &Register) -> Result<(), String> {
    if r.protocol != PROTOCOL {
        return Err(format!(
            "worker is hpcdag {} with protocol {}, the scheduler is hpcdag {} with protocol {PROTOCOL}; \
             use the same version of hpcdag on both sides",
            r.version,
            r.protocol,
            env!("CARGO_PKG_VERSION")
        ));
    }
    let texts = [("name", &r.name), ("host", &r.host), ("address", &r.address), ("version", &r.version)];
    for (what, text) in texts {
        if text.is_empty() || text.len() > TEXT_BYTES_MAX || text.chars().any(char::is_control) {
            return Err(format!("its {what} is empty, too long or has control characters"));
        }
    }
    if r.pool.as_ref().is_some_and(|pool| pool.len() > TEXT_BYTES_MAX || pool.chars().any(char::is_control)) {
        return Err("its pool is too long or has control characters".into());
    }
    r.address.parse::<Address>().map_err(|e| e.message)?;
    if r.slots == 0 || r.resources.values().any(|amount| *amount > AMOUNT_MAX) {
        return Err("it offers no threads, or more of a resource than there can be".into());
    }
    Ok(())
}

/// Reads until the end: the reason of a goodbye, or none.
async fn read(
    receiver: &mut Receiver<FromWorker>,
    worker: WorkerId,
    shared: &Shared,
) -> Result<Option<String>> {
    let mut messages = Vec::new();
    loop {
        if receiver.recv_many(&mut messages).await? == 0 {
            return Ok(None);
        }
        for message in messages.drain(..) {
            let input = match message {
                FromWorker::Report(report) => {
                    let report = convert::report(report.unpack()?);
                    report.check().map_err(|what| super::nonsense(&what))?;
                    Input::Report { worker, report }
                }
                FromWorker::Heartbeat(figures) => Input::Heartbeat { worker, figures },
                FromWorker::Spans(message) => {
                    let (spans, now_ns, left_out) = (message.unpack()?, message.now_ns, message.left_out);
                    Input::Seen { worker, seen: Seen::Spans { spans, now_ns, left_out } }
                }
                FromWorker::Looked(looked) => Input::Seen { worker, seen: Seen::Looked(looked) },
                FromWorker::LastWords(words) => {
                    // Who sends what is no profile has none.
                    let profile = serde_json::from_str(&words.profile).ok().map(Box::new);
                    let words = Box::new(LastWords { profile: String::new(), ..words });
                    Input::Seen { worker, seen: Seen::LastWords(words, profile) }
                }
                FromWorker::Retiring(reason) => Input::Retiring { worker, reason: reason.reason },
                FromWorker::Goodbye(reason) => return Ok(Some(reason.reason)),
                FromWorker::Register(_) => return Err(super::nonsense("it registered twice")),
            };
            if shared.driver.send(input).await.is_err() {
                return Ok(Some("the scheduler has ended".into()));
            }
        }
    }
}

/// Writes what the driver orders.
async fn write(orders: Orders<WorkerOrder>, sender: Sender<ToWorker>, welcome: Registered, epoch: u32) {
    if let Err(e) = write_all(orders, &sender, welcome, epoch).await {
        tracing::debug!("stopped writing to a worker: {}", e.message);
    }
    // Whatever comes of it: the reader has to notice the end.
    let _ = sender.close(LAST_WORDS_TIMEOUT).await;
    sender.abort();
}

async fn write_all(
    mut orders: Orders<WorkerOrder>,
    sender: &Sender<ToWorker>,
    welcome: Registered,
    epoch: u32,
) -> Result<(), Error> {
    sender.send(ToWorker::Registered(welcome)).await?;
    while let Some(order) = orders.next().await {
        let message = match order {
            WorkerOrder::Families { run, families } => ToWorker::Families(convert::families(&run, &families)),
            WorkerOrder::CallRun { run } => match call_run(&run) {
                Some(run) => ToWorker::CallRun(run),
                None => continue,
            },
            WorkerOrder::CallBatch { run, batch } => match call_batch(&run, batch) {
                Some(batch) => ToWorker::CallBatch(batch),
                None => continue,
            },
            WorkerOrder::Compute { batch, runs } => {
                ToWorker::Compute(Compute::pack(epoch, &convert::tasks(&batch, &runs)))
            }
            WorkerOrder::Message(message) => message,
            WorkerOrder::End(message) => {
                if let Some(message) = message {
                    sender.send(message).await?;
                }
                return Ok(());
            }
        };
        sender.send(message).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn register() -> Register {
        Register {
            protocol: PROTOCOL,
            version: "1".into(),
            incarnation: uuid::Uuid::new_v4(),
            name: "w".into(),
            host: "h".into(),
            pid: 1,
            address: "tls://127.0.0.1:9".into(),
            slots: 10_000,
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

    #[test]
    fn what_is_refused_at_the_door() {
        assert_eq!(check(&register()), Ok(()));
        let reason = check(&Register { protocol: PROTOCOL + 1, ..register() }).unwrap_err();
        assert!(reason.contains(&format!("protocol {}", PROTOCOL + 1)), "{reason}");
        assert!(reason.contains(&format!("protocol {PROTOCOL};")), "{reason}");
        let bad: [fn(&mut Register); 5] = [
            |r| r.name.clear(),
            |r| r.host = "a\nb".into(),
            |r| r.address = "http://x:1".into(),
            |r| r.slots = 0,
            |r| _ = r.resources.insert("gpus".into(), u64::MAX),
        ];
        for spoil in bad {
            let mut r = register();
            spoil(&mut r);
            assert!(check(&r).is_err(), "{r:?}");
        }
    }
}

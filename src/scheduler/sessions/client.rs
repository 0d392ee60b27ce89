//! A client's session: greeting, then what it asks for in and what the driver tells it out. Owns what is
//! answered without the driver: pings, and graphs that cannot run.

use super::calls::Gathering;
use super::{Addresses, FIRST_MESSAGE_TIMEOUT, LAST_WORDS_TIMEOUT, Shared, convert, submission};
use crate::base::error::{Error, Result};
use crate::base::ids::ClientId;
use crate::net::connection::{Connection, Sender};
use crate::net::receiver::Receiver;
use crate::protocol::PROTOCOL;
use crate::protocol::credentials::Role;
use crate::protocol::messages::calls::{Calls, RunTasks};
use crate::protocol::messages::client::{
    Answer, Empty, FromClient, Hello, Outputs, Question, Reason, Rejected, Submit, ToClient, Welcome,
};
use crate::protocol::wire::Wire;
use crate::scheduler::input::{ClientOrder, Input, Single};
use crate::scheduler::link::{Orders, link};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::{Semaphore, oneshot};

/// Questions of one client that may be without an answer, or have one that it has not taken. Further ones are
/// not even read: a client that asks without end must not keep the scheduler from its work.
const QUESTIONS_MAX: usize = 64;

/// What those are told who only look, and want more.
const LOOKS_ONLY: &str = "this session only looks at the cluster: it changes nothing";

/// Serves a client until its connection ends.
pub async fn serve(connection: Connection<ToClient, FromClient>, shared: Shared) {
    let Connection { sender, mut receiver, peer, .. } = connection;
    let hello = match tokio::time::timeout(FIRST_MESSAGE_TIMEOUT, receiver.recv()).await {
        Ok(Ok(Some(FromClient::Hello(hello)))) => hello,
        Ok(Ok(Some(other))) => {
            return refuse(&sender, peer, &shared, format!("{} before Hello", other.name())).await;
        }
        Ok(Ok(None)) => return,
        // Whoever asks whether this scheduler is alive connects and says nothing.
        Ok(Err(e)) => return tracing::debug!(%peer, "dropped a client's connection: {}", e.message),
        Err(_) => return refuse(&sender, peer, &shared, "no greeting in time".into()).await,
    };
    if let Err(reason) = check(&hello) {
        return refuse(&sender, peer, &shared, reason).await;
    }
    receiver.welcome();
    let looks_only = hello.looks_only;
    let (link, orders) = link(sender.clone());
    let (reply, answer) = oneshot::channel();
    let joined = Input::ClientJoined { hello: Box::new(hello), link, reply };
    // Errors mean that the driver is gone or takes nobody in any more.
    if shared.driver.send(joined).await.is_err() {
        return;
    }
    let Ok((client, connection)) = answer.await else {
        return refuse(&sender, peer, &shared, "the cluster ends".into()).await;
    };
    let welcome = Welcome {
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").into(),
        cluster: shared.cluster.to_string(),
        epoch: shared.epoch,
    };
    let questions = Arc::new(Semaphore::new(QUESTIONS_MAX));
    let writer = tokio::spawn(write(orders, sender.clone(), welcome, Arc::clone(&questions)));
    let reading = read(&mut receiver, (client, looks_only), &sender, &shared, &questions);
    let reason = match reading.await {
        Ok(()) => "it ended the connection".to_string(),
        Err(e) => e.message,
    };
    // An error means that the driver is gone.
    let _ = shared.driver.send(Input::ClientGone { client, connection, reason }).await;
    sender.abort();
    // An error means that the writer panicked; the connection is cut in any case.
    let _ = writer.await;
}

/// Says why to the log and to the peer, and ends the connection.
async fn refuse(sender: &Sender<ToClient>, peer: SocketAddr, shared: &Shared, reason: String) {
    shared.log_refusal(peer, Role::Client, &reason);
    // If it is gone meanwhile, there is nobody to tell.
    let _ = sender.send(ToClient::Refused(Reason { reason })).await;
    let _ = sender.close(LAST_WORDS_TIMEOUT).await;
}

/// Why a client cannot be let in.
fn check(hello: &Hello) -> Result<(), String> {
    if (hello.protocol_min..=hello.protocol_max).contains(&PROTOCOL) {
        return Ok(());
    }
    Err(format!(
        "client is hpcdag {} with protocol {} to {}, the scheduler is hpcdag {} with protocol {PROTOCOL}; \
         use versions of hpcdag that fit together",
        hello.version,
        hello.protocol_min,
        hello.protocol_max,
        env!("CARGO_PKG_VERSION")
    ))
}

async fn read(
    receiver: &mut Receiver<FromClient>,
    (client, looks_only): (ClientId, bool),
    sender: &Sender<ToClient>,
    shared: &Shared,
    questions: &Semaphore,
) -> Result<()> {
    let mut gathering = Gathering::default();
    while let Some(message) = receiver.recv().await? {
        if looks_only && let Some(refusal) = refusal(&message) {
            let is_last = matches!(refusal, ToClient::Refused(_));
            sender.send(refusal).await?;
            if is_last {
                // It has to be read before the connection is cut.
                let _ = sender.close(LAST_WORDS_TIMEOUT).await;
                return Err(super::nonsense("it was only to look"));
            }
            continue;
        }
        let input = match message {
            FromClient::Hello(_) => return Err(super::nonsense("it greeted twice")),
            FromClient::Ping(_) => {
                sender.send(ToClient::Pong(Empty {})).await?;
                continue;
            }
            FromClient::Submit(submit) => match submitted(client, submit).await? {
                Ok(input) => input,
                Err(rejected) => {
                    sender.send(ToClient::Rejected(rejected)).await?;
                    continue;
                }
            },
            FromClient::Watch(named) => Input::Watch { client, run: named.run },
            FromClient::Cancel(named) => Input::Cancel { run: named.run, reason: named.reason },
            FromClient::Forget(named) => Input::Forget { run: named.run },
            FromClient::OutputsTaken(tasks) => Input::OutputsTaken { tasks: tasks.tasks },
            FromClient::OutputMissing(m) => Input::OutputMissing { task: m.task, holder: m.holder },
            FromClient::Calls(piece) => {
                match gathered(client, piece, &mut gathering, &shared.addresses).await? {
                    Ok(Some(input)) => input,
                    Ok(None) => continue,
                    Err(rejected) => {
                        sender.send(ToClient::Rejected(rejected)).await?;
                        continue;
                    }
                }
            }
            FromClient::Release(calls) if calls.later => single(client, Single::ReleaseLater, &calls)?,
            FromClient::Release(calls) => single(client, Single::Release, &calls)?,
            FromClient::Want(calls) => single(client, Single::Want, &calls)?,
            FromClient::CancelCalls(calls) => single(client, Single::Cancel, &calls)?,
            FromClient::RetryCalls(calls) => single(client, Single::Retry, &calls)?,
            FromClient::Prepare(prepare) => Input::Prepare { client, prepare: Box::new(prepare) },
            FromClient::Leave(_) => Input::Leave { client },
            FromClient::Share(share) => Input::Share { client, share: Box::new(share) },
            FromClient::Ask(ask) => {
                tokio::select! {
                    // Its answer gives the place back.
                    Ok(place) = questions.acquire() => place.forget(),
                    () = sender.closed() => return Ok(()),
                }
                Input::Ask { client, id: ask.id, question: ask.question }
            }
        };
        if shared.driver.send(input).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// What somebody is told who said that they only look, and wants something done.
fn refusal(message: &FromClient) -> Option<ToClient> {
    let reason = || LOOKS_ONLY.to_string();
    let rejected = |run| Some(ToClient::Rejected(Rejected { run, reason: reason() }));
    match message {
        FromClient::Ping(_) | FromClient::Leave(_) => None,
        FromClient::Ask(ask) => {
            matches!(ask.question, Question::Stop | Question::StopWorkers { .. }).then(|| {
                let result = Err(("refused".into(), reason()));
                ToClient::Answer(Answer { id: ask.id, result })
            })
        }
        FromClient::Submit(submit) => rejected(submit.run),
        FromClient::Calls(calls) => rejected(calls.run),
        FromClient::Watch(named) => rejected(named.run),
        _ => Some(ToClient::Refused(Reason { reason: reason() })),
    }
}

/// Adds a piece of a run of calls; what comes of the last one is made on a thread that may take its time.
async fn gathered(
    client: ClientId,
    piece: Calls,
    gathering: &mut Gathering,
    addresses: &Arc<Addresses>,
) -> Result<Result<Option<Input>, Rejected>> {
    let run = piece.run;
    let whole = match gathering.add(piece) {
        Ok(Some(whole)) => whole,
        Ok(None) => return Ok(Ok(None)),
        Err(reason) => return Ok(Err(Rejected { run, reason })),
    };
    // Most are a call or a few: not worth another thread.
    let prepared = match whole.is_small() {
        true => whole.prepare(addresses),
        false => {
            let addresses = addresses.clone();
            tokio::task::spawn_blocking(move || whole.prepare(&addresses))
                .await
                .map_err(|e| Error::os("checking a run was given up", e))?
        }
    };
    Ok(match prepared {
        Ok(submission) => Ok(Some(Input::Calls { client, submission: Box::new(submission) })),
        Err(reason) => Err(Rejected { run, reason }),
    })
}

fn single(client: ClientId, what: Single, calls: &RunTasks) -> Result<Input> {
    let tasks = calls.tasks().map_err(|e| super::nonsense(&e.to_string()))?;
    Ok(Input::Single { client, what, run: calls.run, tasks })
}

/// Checks a graph on a thread that may take its time.
async fn submitted(client: ClientId, submit: Submit) -> Result<Result<Input, Rejected>> {
    let run = submit.run;
    let checked = tokio::task::spawn_blocking(move || submission::prepare(submit)).await;
    let checked = checked.map_err(|e| Error::os("checking a graph was given up", e))?;
    Ok(match checked {
        Ok(submission) => Ok(Input::Submit { client, submission: Box::new(submission) }),
        Err(reason) => Err(Rejected { run, reason }),
    })
}

/// Writes what the driver orders.
async fn write(
    orders: Orders<ClientOrder>,
    sender: Sender<ToClient>,
    welcome: Welcome,
    questions: Arc<Semaphore>,
) {
    if let Err(e) = write_all(orders, &sender, welcome, &questions).await {
        tracing::debug!("stopped writing to a client: {}", e.message);
    }
    // Whatever comes of it: the reader has to notice the end.
    let _ = sender.close(LAST_WORDS_TIMEOUT).await;
    sender.abort();
}

async fn write_all(
    mut orders: Orders<ClientOrder>,
    sender: &Sender<ToClient>,
    welcome: Welcome,
    questions: &Semaphore,
) -> Result<(), Error> {
    sender.send(ToClient::Welcome(welcome)).await?;
    while let Some(order) = orders.next().await {
        let message = match order {
            ClientOrder::Message(message) => message,
            ClientOrder::Outputs { run, outputs, peers } => {
                let outputs = outputs.into_iter().map(|(o, shape)| convert::output(&run, o, shape)).collect();
                ToClient::Outputs(Outputs { run: run.uuid, outputs, peers })
            }
            ClientOrder::Answer { id, json } => {
                let text = tokio::task::spawn_blocking(move || (json.0)().to_string()).await;
                let failed = |e| ("refused".to_owned(), format!("the answer cannot be made: {e}"));
                ToClient::Answer(Answer { id, result: text.map_err(failed) })
            }
            ClientOrder::End(message) => {
                return sender.send(message).await;
            }
        };
        let is_answer = matches!(message, ToClient::Answer(_));
        sender.send(message).await?;
        if is_answer {
            questions.add_permits(1);
        }
    }
    Ok(())
}

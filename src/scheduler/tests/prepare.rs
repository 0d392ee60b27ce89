//! What clients say they will need reaches workers.

use super::*;
use crate::protocol::messages::calls::{PREPARED_BYTES_MAX, Prepare};

fn prepare(environment: &[u8], modules: &[&str]) -> Prepare {
    Prepare {
        environment: environment.to_vec(),
        modules: modules.iter().map(|&name| name.to_owned()).collect(),
    }
}

async fn prepared(end: &mut WorkerEnd) -> Prepare {
    until(end, |message| match message {
        ToWorker::Prepare(prepare) => Some(prepare),
        _ => None,
    })
    .await
}

#[tokio::test]
async fn what_clients_will_need_is_told_to_all_workers_while_they_are_there() {
    let house = house(|_| {}).await;
    let (mut first, _) = house.worker("w1").await;
    let client = house.client().await;
    let large = vec![0; PREPARED_BYTES_MAX + 1];
    let (begin, more) = (prepare(b"e", &[]), prepare(b"e", &["numpy"]));
    for said in [begin.clone(), prepare(&large, &[]), begin.clone(), more.clone()] {
        client.sender.send(FromClient::Prepare(said)).await.unwrap();
    }
    assert_eq!(prepared(&mut first).await, begin);
    assert_eq!(prepared(&mut first).await, more, "once each, and none that is too large");
    let (mut second, _) = house.worker("w2").await;
    assert_eq!(prepared(&mut second).await, more, "what it said last");

    let mut other = house.client().await;
    client.sender.send(FromClient::Leave(Empty {})).await.unwrap();
    drop(client);
    let is_gone = async {
        while ask(&mut other, Question::Status).await.unwrap()["scheduler"]["clients"] != 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, is_gone).await.unwrap();
    let (mut third, _) = house.worker("w3").await;
    ask(&mut other, Question::Stop).await.unwrap();
    let told = until(&mut third, |message| match message {
        ToWorker::Prepare(_) => Some(true),
        ToWorker::Stop(_) => Some(false),
        _ => None,
    });
    assert!(!told.await, "nobody needs it any more");
}

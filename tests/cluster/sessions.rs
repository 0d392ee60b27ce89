//! Sessions over a network that fails: a proxy between client and scheduler that cuts connections.

use hpcdag::client::{Client, ConnectOptions, Memory, SubmitOptions, Taker};
use hpcdag::cluster::{LocalCluster, LocalOptions};
use hpcdag::config::Config;
use hpcdag::graph::single::{Each, command};
use hpcdag::graph::{By, Graph, GraphOutput, Origin};
use hpcdag::net::address::Address;
use hpcdag::net::scheduler_file;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Hands connections on to `to`; whenever `cut` changes, all that are open are cut.
async fn proxy(to: Address, cut: watch::Receiver<u32>) -> Address {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").into();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let (to, mut cut) = (to.clone(), cut.clone());
            cut.mark_unchanged();
            tokio::spawn(async move {
                let mut far = TcpStream::connect((to.host.as_str(), to.port)).await.expect("it listens");
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    _ = cut.changed() => {}
                }
            });
        }
    });
    address
}

fn graph(directory: &std::path::Path) -> Graph {
    let origin = Origin { name: "t".into(), base_dir: directory.into(), umask: 0o022 };
    let argv = ["sh", "-c", "sleep 0.05; echo {item} | tee -a ran"].map(String::from).to_vec();
    let each = Each::Numbers { start: 0, step: 1, count: 60 };
    let mut graph = command(argv, each, &origin).expect("a graph");
    let family = hpcdag::base::ids::FamilyIx(0);
    let output =
        GraphOutput { family, part: None, path: "{index}".into(), by: Some(By::Client), skip_empty: false };
    graph.outputs.push(output);
    graph
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_survives_its_connections() {
    let directory = tempfile::tempdir().expect("a directory");
    let options = LocalOptions { nthreads: Some(2), ..LocalOptions::default() };
    let cluster = LocalCluster::start(options).await.expect("a cluster");
    let mut file = scheduler_file::read(cluster.scheduler_file()).expect("its file");
    let (cut, cuts) = watch::channel(0);
    file.address = proxy(file.address.clone(), cuts).await;
    let client = Client::connect(file, ConnectOptions::of(&Config::defaults())).await.expect("a session");
    let run = client.submit(graph(directory.path()), SubmitOptions::default()).await.expect("submitted");
    let memory = Memory::default();
    let mut finish = Box::pin(Taker::new(run, Arc::new(memory.clone())).finish(|_| {}));
    let mut times = 0;
    let end = loop {
        tokio::select! {
            end = &mut finish => break end.expect("the run ends"),
            () = tokio::time::sleep(Duration::from_millis(200)), if times < 5 => {
                times += 1;
                cut.send_replace(times);
            }
        }
    };
    assert!(times > 2, "the connection was cut {times} times only");
    assert_eq!((end.summary.succeeded, end.summary.retried), (60, 0));
    let results = memory.take();
    assert_eq!(results.len(), 60);
    assert!(
        results
            .iter()
            .all(|(key, parts)| *key == format!("sh[{}]", String::from_utf8_lossy(&parts[0].1).trim()))
    );
    let ran = std::fs::read_to_string(directory.path().join("ran")).expect("written");
    assert_eq!(ran.lines().count(), 60, "each ran once");
    client.close().await;
    cluster.stop().await.expect("an orderly end");
}

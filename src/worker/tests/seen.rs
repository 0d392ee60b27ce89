//! What workers tell for those who look: rectangles of the task stream, heartbeats while tasks execute.

use super::*;
use crate::protocol::messages::look::{Span, SpanKind};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// What a worker says until there is enough: rectangles, and heartbeats with when they came.
async fn seen(
    session: &mut Session,
    enough: impl Fn(&[Span], &[(Instant, Heartbeat)]) -> bool,
) -> (Vec<Span>, Vec<(Instant, Heartbeat)>) {
    let (mut spans, mut beats) = (Vec::new(), Vec::new());
    while !enough(&spans, &beats) {
        match soon(session.connection.receiver.recv()).await.unwrap().expect("more messages") {
            FromWorker::Spans(some) => spans.extend(some.unpack().unwrap()),
            FromWorker::Heartbeat(figures) => beats.push((Instant::now(), figures)),
            _ => {}
        }
    }
    (spans, beats)
}

fn tasks(spans: &[Span]) -> u32 {
    let slots = spans.iter().filter(|s| matches!(s.kind, SpanKind::Compute | SpanKind::Failed));
    slots.map(|s| s.count).sum()
}

#[tokio::test]
async fn slots_and_waits_are_shown() {
    let mut played = played().await;
    played.publish().await;
    let (_worker, mut session) = played.worker("w", 1).await;
    let begin = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let families = vec![
        info(0, spec("long", "sleep 0.4; echo 12345", &[]), Items::Index),
        info(1, spec("bad", "sleep 0.1; exit 3", &[]), Items::Index),
        info(2, spec("quick", "true", &[]), Items::Index),
        info(3, spec("waits", "true", &["elsewhere"]), Items::Index),
    ];
    session.families(families).await;
    let mut handed: Vec<Handed> = vec![Handed(0, 0, 0, vec![], None), Handed(1, 1, 0, vec![], None)];
    handed.extend((2..40).map(|i| Handed(i, 2, i, vec![], None)));
    session.compute(handed).await;
    let (mut spans, _) = seen(&mut session, |spans, _| tasks(spans) == 40).await;
    spans.retain(|s| s.kind != SpanKind::Running);
    // Who has its input does not answer.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tls://{}", silent.local_addr().unwrap());
    session.say(ToWorker::Peers(Peers { peers: vec![(WorkerId(8), address)] })).await;
    session.compute(vec![Handed(50, 3, 0, vec![(49, vec![8])], None)]).await;
    let (more, _) =
        seen(&mut session, |_, beats| beats.last().is_some_and(|(_, b)| b.wait_seconds > 0.3)).await;
    spans.extend(more);
    session.compute((60..62).map(|i| Handed(i, 0, i, vec![], None)).collect()).await;
    let (more, beats) = seen(&mut session, |spans, beats| {
        tasks(spans) == 2 && beats.last().is_some_and(|(_, b)| b.executing == 0)
    })
    .await;
    spans.extend(more);
    spans.retain(|s| s.kind != SpanKind::Running);
    let end = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let of = |index| spans.iter().find(|s| s.task == Some(task(index)) && s.kind != SpanKind::Wait).unwrap();
    let (long, bad) = (of(0), of(1));
    assert_eq!((long.kind, long.count, long.bytes), (SpanKind::Compute, 1, 6));
    assert!(long.ns >= 400_000_000 && bad.ns >= 100_000_000, "{spans:?}");
    assert_eq!((bad.kind, bad.bytes), (SpanKind::Failed, 0));
    assert!(spans.iter().all(|s| s.start_ns >= begin && s.start_ns + s.ns <= end && s.lane < 2), "{spans:?}");
    assert_ne!(long.lane, bad.lane);
    // Both slots had nothing to do, and one task waited.
    let waits: Vec<&Span> = spans.iter().filter(|s| s.kind == SpanKind::Wait).collect();
    assert!(!waits.is_empty() && waits.iter().all(|s| s.ns > 100_000_000), "{spans:?}");
    // The short ones came in a row and are fewer rectangles than tasks.
    let quick: Vec<u32> = spans
        .iter()
        .filter(|s| s.task.is_some_and(|t| (2..40).contains(&t.index)))
        .map(|s| s.count)
        .collect();
    assert!(quick.iter().any(|n| *n > 1), "{spans:?}");
    for lane in 0..2 {
        let mut own: Vec<&Span> = spans.iter().filter(|s| s.lane == lane).collect();
        own.sort_by_key(|s| s.start_ns);
        assert!(own.windows(2).all(|two| two[0].start_ns + two[0].ns <= two[1].start_ns + 1000), "{own:?}");
    }
    let last = &beats.last().unwrap().1;
    assert!(last.compute_seconds >= 1.3 && last.compute_seconds < 20.0, "{last:?}");
    assert!(last.wait_seconds > 0.3 && last.wait_seconds < 60.0, "{last:?}");
    // The fetch goes on.
    assert!(last.fetch_seconds > 0.3, "{last:?}");
}

#[tokio::test]
async fn heartbeats_come_each_second_while_tasks_execute() {
    let mut played = played().await;
    played.heartbeat_ms = 3_600_000;
    played.publish().await;
    let (_worker, mut session) = played.worker("w", 1).await;
    session.families(vec![info(0, spec("a", "sleep 2.5", &[]), Items::Single)]).await;
    session.compute(vec![Handed(0, 0, 0, vec![], None)]).await;
    let (spans, beats) = seen(&mut session, |spans, _| tasks(spans) == 1).await;
    // It is shown while it runs, each time as begun when it did.
    let (open, ended): (Vec<&Span>, Vec<&Span>) = spans.iter().partition(|s| s.kind == SpanKind::Running);
    assert!(open.len() >= 2 && open.iter().all(|s| s.task == Some(task(0))), "{spans:?}");
    let early = open.iter().map(|s| ended[0].start_ns.abs_diff(s.start_ns)).max();
    assert!(early < Some(500_000_000) && open[0].lane == ended[0].lane, "{spans:?}");
    let busy: Vec<&(Instant, Heartbeat)> = beats.iter().filter(|(_, b)| b.executing == 1).collect();
    assert!((2..=4).contains(&busy.len()), "{beats:?}");
    let gap = busy[1].0.duration_since(busy[0].0);
    assert!(gap >= Duration::from_millis(850), "{gap:?}");
    // What executes counts although it has not ended.
    let (first, last) = (&busy[0].1, &busy[busy.len() - 1].1);
    assert!(last.compute_seconds >= first.compute_seconds + 0.8, "{beats:?}");
}

#[tokio::test]
async fn fetches_are_shown() {
    let mut played = played().await;
    played.publish().await;
    let (_one, mut first) = played.worker("one", 1).await;
    let (_two, mut second) = played.worker("two", 2).await;
    let families = || {
        vec![
            info(0, spec("make", "head -c 200000 /dev/zero", &[]), Items::Index),
            info(1, spec("count", "cat {inputs...} | wc -c", &["make"]), Items::Single),
        ]
    };
    first.families(families()).await;
    second.families(families()).await;
    first.compute((0..4).map(|i| Handed(i, 0, i, vec![], None)).collect()).await;
    first.news(|news| news.finished.len() == 4).await;
    second.say(ToWorker::Peers(Peers { peers: vec![(WorkerId(1), first.register.address.clone())] })).await;
    second.compute(vec![Handed(9, 1, 0, (0..4).map(|i| (i, vec![1])).collect(), None)]).await;
    let (spans, beats) =
        seen(&mut second, |spans, beats| tasks(spans) == 1 && beats.iter().any(|(_, b)| b.bytes_in > 0))
            .await;
    let fetches: Vec<&Span> = spans.iter().filter(|s| s.kind == SpanKind::Fetch).collect();
    let sum = |of: fn(&Span) -> u64| fetches.iter().map(|s| of(s)).sum::<u64>();
    assert_eq!((sum(|s| u64::from(s.count)), sum(|s| s.bytes)), (4, 800_000), "{spans:?}");
    assert!(fetches.iter().all(|s| s.lane >= 100_000 && s.task.is_some_and(|t| t.index < 4)), "{spans:?}");
    let last = &beats.last().unwrap().1;
    assert!(last.fetch_seconds > 0.0, "{last:?}");
}

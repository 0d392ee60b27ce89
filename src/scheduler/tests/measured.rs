//! What workers tell for those who look, and the views made of it.

use super::*;
use crate::base::ids::RunId;
use crate::protocol::messages::look::{Span, SpanKind, Spans, TaskFilter, View};
use crate::protocol::messages::worker::Heartbeat;
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

const S: u64 = 1_000_000_000;

async fn view(client: &mut ClientEnd, view: View) -> Value {
    ask(client, Question::View(view)).await.unwrap()
}

fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64
}

/// Asks until the answer satisfies.
async fn seen(client: &mut ClientEnd, what: View, enough: impl Fn(&Value) -> bool) -> Value {
    let until = tokio::time::Instant::now() + SOON;
    loop {
        let answer = view(client, what.clone()).await;
        if enough(&answer) {
            return answer;
        }
        assert!(tokio::time::Instant::now() < until, "{answer}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn rectangles_have_keys_groups_and_the_schedulers_time() {
    let house = house(|_| {}).await;
    let (mut worker, _) = house.worker("w1").await;
    let mut client = house.client().await;
    let run = Uuid::new_v4();
    let accepted = submitted(&mut client, submit(run)).await;
    let days = tasks(&mut worker).await;
    let all = View::Spans { after: 0, limit: 100, run: None };
    let before = view(&mut client, all.clone()).await;
    assert_eq!((&before["next"], &before["key"]), (&json!(0), &json!([])));
    // Its clock is an hour behind.
    let (clock, task) = (now_ns() - 3600 * S, Some(days.tasks[1].task));
    let spans = [
        Span { task, count: 2, start_ns: clock - 3 * S, ns: S, bytes: 9, peak: 77, ..Span::default() },
        Span { kind: SpanKind::Fetch, lane: 100_000, start_ns: clock - S, ns: S / 2, ..Span::default() },
        // What cannot be is brought within bounds, and a task that nobody knows has no name.
        Span {
            kind: SpanKind::Failed,
            lane: u32::MAX,
            task: Some(TaskRef { run: RunId(77), index: 1 }),
            start_ns: u64::MAX,
            ns: u64::MAX,
            ..Span::default()
        },
    ];
    worker.sender.send(FromWorker::Spans(Spans::pack(4, clock, &spans))).await.unwrap();
    let got = seen(&mut client, all, |answer| answer["next"] == 3).await;
    assert_eq!((&got["workers"], &got["groups"]), (&json!(["w1"]), &json!(["day"])));
    assert_eq!(got["kinds"].as_array().unwrap().len(), 7);
    assert_eq!((&got["worker"], &got["kind"]), (&json!([0, 0, 0]), &json!([0, 2, 1])));
    assert_eq!((&got["group"], &got["key"]), (&json!([0, -1, -1]), &json!(["day[1]", null, null])));
    assert_eq!((&got["count"], &got["bytes"]), (&json!([2, 1, 1]), &json!([9, 0, 0])));
    assert_eq!((&got["left-out"], &got["seconds"]), (&json!(4), &json!([1.0, 0.5, 0.0])));
    assert!(got["lane"][2].as_u64().unwrap() < 1 << 24);
    let (now, starts) = (now_ns() as f64 / S as f64, got["start"].as_array().unwrap());
    let ago: Vec<f64> = starts.iter().map(|at| now - at.as_f64().unwrap()).collect();
    assert!((3.0..3.0 + 20.0).contains(&ago[0]) && ago[1] < ago[0] && ago[2] >= 0.0, "{ago:?}");
    let of_run = |run, after| View::Spans { after, limit: 1, run };
    let own = view(&mut client, of_run(Some(run), 0)).await;
    assert_eq!((&own["key"], &own["next"]), (&json!(["day[1]"]), &json!(3)));
    assert_eq!(view(&mut client, of_run(None, 0)).await["kind"], json!([1]));
    assert_eq!(view(&mut client, of_run(None, 3)).await["kind"], json!([]));
    let unknown = ask(&mut client, Question::View(of_run(Some(Uuid::new_v4()), 0))).await.unwrap_err();
    assert_eq!(unknown.0, "not-found");
    // What runs is told without a number, until the worker tells something else or is gone.
    let running =
        |task, lane| Span { kind: SpanKind::Running, lane, task, start_ns: clock, ..Span::default() };
    let two = [running(task, 5), running(None, 6)];
    worker.sender.send(FromWorker::Spans(Spans::pack(0, clock, &two))).await.unwrap();
    let is_open = |answer: &Value| answer["open"]["key"] == json!(["day[1]"]);
    let open = seen(&mut client, of_run(Some(run), 3), is_open).await;
    assert_eq!((&open["next"], &open["key"]), (&json!(3), &json!([])));
    let kind = open["open"]["kind"][0].as_u64().unwrap() as usize;
    assert_eq!((&open["kinds"][kind], &open["open"]["lane"]), (&json!("running"), &json!([5])));
    let group = open["open"]["group"][0].as_u64().unwrap() as usize;
    assert_eq!((&open["groups"][group], &open["workers"][0]), (&json!("day"), &json!("w1")));
    let (start, took) = (&open["open"]["start"][0], &open["open"]["seconds"][0]);
    let ends = start.as_f64().unwrap() + took.as_f64().unwrap();
    assert!((ends - open["time"].as_f64().unwrap()).abs() < 1e-5, "{open}");
    // How long it runs is known, and what one of its group has occupied.
    let listed = view(&mut client, View::Tasks(TaskFilter { limit: 9, ..TaskFilter::default() })).await;
    let took = |k: usize| listed["tasks"][k]["seconds"].as_f64();
    assert!(took(0).is_none() && took(1) >= Some(0.0) && took(2).is_none(), "{listed}");
    let groups = view(&mut client, View::Groups { run: Some(run) }).await;
    let peak = |k: usize| &groups["groups"][k]["memory-peak-max"];
    assert_eq!((peak(0), peak(1)), (&json!(77), &json!(null)));
    worker.sender.send(FromWorker::Spans(Spans::pack(0, clock, &[]))).await.unwrap();
    seen(&mut client, of_run(None, 3), |answer| answer["open"]["key"] == json!([])).await;
    worker.sender.send(FromWorker::Spans(Spans::pack(0, clock, &two))).await.unwrap();
    seen(&mut client, of_run(None, 3), is_open).await;
    drop(worker);
    seen(&mut client, of_run(None, 3), |answer| answer["open"]["key"] == json!([])).await;
    // The run is forgotten, the rectangles stay.
    client.sender.send(FromClient::Forget(RunNamed { run, reason: String::new() })).await.unwrap();
    let all = View::Spans { after: 0, limit: 100, run: None };
    let after = seen(&mut client, all, |answer| answer["key"][0].is_null()).await;
    assert_eq!((&after["group"], &after["groups"]), (&json!([0, -1, -1]), &json!(["day"])));
    assert_eq!(accepted.tasks, 3);
}

#[tokio::test]
async fn figures_over_time() {
    let house = house(|_| {}).await;
    let (mut worker, _) = house.worker("w1").await;
    let mut client = house.client().await;
    submitted(&mut client, submit(Uuid::new_v4())).await;
    let days = names(&tasks(&mut worker).await);
    report(&worker, News { started: days.clone(), ..News::default() }).await;
    let figures = |cpu_seconds, bytes_in| Heartbeat {
        executing: 9,
        unmanaged: 1000,
        spill_written: 77,
        cpu_seconds,
        bytes_in,
        ..Heartbeat::default()
    };
    worker.sender.send(FromWorker::Heartbeat(figures(1.0, 5))).await.unwrap();
    let after = View::Series { after: 0.0, workers: false };
    let last = |answer: &Value, name: &str| answer["total"][name].as_array().unwrap().last().cloned();
    let busy = seen(&mut client, after.clone(), |answer| last(answer, "executing") == Some(json!(2))).await;
    assert_eq!(busy["workers"], Value::Null);
    for (name, value) in
        [("unmanaged", 1000), ("disk-write", 77), ("bytes-in", 5), ("threads", 2), ("workers", 1)]
    {
        assert_eq!(last(&busy, name), Some(json!(value)), "{name}");
    }
    assert_eq!((last(&busy, "limit"), last(&busy, "done")), (Some(json!(1 << 30)), Some(json!(0))));
    finish(&worker, &days, 10).await;
    worker.sender.send(FromWorker::Heartbeat(figures(1e9, 50))).await.unwrap();
    let done = seen(&mut client, after, |answer| last(answer, "done") == Some(json!(2))).await;
    assert_eq!((last(&done, "managed"), last(&done, "bytes-in")), (Some(json!(20)), Some(json!(50))));
    assert!(last(&done, "cpu").unwrap().as_f64().unwrap() > 0.0);
    let lengths: Vec<usize> =
        done["total"].as_object().unwrap().values().map(|c| c.as_array().unwrap().len()).collect();
    let times: Vec<f64> = done["time"].as_array().unwrap().iter().map(|t| t.as_f64().unwrap()).collect();
    assert!(lengths.iter().all(|n| *n == times.len()) && times.is_sorted(), "{done}");
    let by_worker = view(&mut client, View::Series { after: 0.0, workers: true }).await;
    let own = &by_worker["workers"]["w1"];
    assert_eq!(own["bytes-in"].as_array().unwrap().len(), own["time"].as_array().unwrap().len());
    assert_eq!(own["bytes-in"][0], 5);
    let newest = *times.last().unwrap();
    assert_eq!(
        view(&mut client, View::Series { after: newest + 3600.0, workers: true }).await["time"],
        json!([])
    );
    // What it has moved still counts when it is gone.
    drop(worker);
    let gone = View::Series { after: 0.0, workers: true };
    let gone = seen(&mut client, gone, |answer| last(answer, "workers") == Some(json!(0))).await;
    assert_eq!((last(&gone, "bytes-in"), last(&gone, "done")), (Some(json!(50)), Some(json!(2))));
    assert!(gone["workers"]["w1"].is_object());
}

#[tokio::test]
async fn the_schedulers_own_time() {
    let house = house(|_| {}).await;
    let (mut worker, _) = house.worker("w1").await;
    let mut client = house.client().await;
    submitted(&mut client, submit(Uuid::new_v4())).await;
    let days = names(&tasks(&mut worker).await);
    finish(&worker, &days, 10).await;
    tasks(&mut worker).await;
    let timings = view(&mut client, View::Timings).await;
    let of = |name: &str| timings["kinds"].as_array().unwrap().iter().find(|k| k["kind"] == name).unwrap();
    assert_eq!((&of("worker-report")["count"], &of("worker-joined")["count"]), (&json!(1), &json!(1)));
    assert_eq!(of("run-submitted")["count"], 1);
    let (busy, all) = (timings["busy"].as_f64().unwrap(), timings["seconds"].as_f64().unwrap());
    assert!(busy > 0.0 && busy <= all, "{timings}");
    assert!(of("orders")["longest"].as_f64().unwrap() <= busy);
}

#[tokio::test]
async fn memory_that_is_kept_for_results_is_room_for_them() {
    const MIB: u64 = 1 << 20;
    let house = house(|_| {}).await;
    let (mut worker, _) =
        house.worker_as(Register { memory_target: Some(100 * MIB), ..register("w1") }).await;
    let mut client = house.client().await;
    let figures = Heartbeat { unmanaged: 95 * MIB, kept: 90 * MIB, ..Heartbeat::default() };
    worker.sender.send(FromWorker::Heartbeat(figures)).await.unwrap();
    let told = |answer: &Value| answer["memory"]["unmanaged"] == 95 * MIB;
    seen(&mut client, View::Overview, told).await;
    let mut large = graph();
    large.families[0].layer.memory = vec![40 * MIB];
    let graph = Arc::new(Packed::new(large).unwrap());
    submitted(&mut client, Submit { graph, ..submit(Uuid::new_v4()) }).await;
    assert_eq!(tasks(&mut worker).await.tasks.len(), 2);
    let status = ask(&mut client, Question::Status).await.unwrap();
    let memory = &status["workers"][0]["memory"];
    assert_eq!((&memory["unmanaged"], &memory["kept"]), (&json!(95 * MIB), &json!(90 * MIB)));
}

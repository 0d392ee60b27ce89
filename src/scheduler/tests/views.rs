//! What those get who look at a cluster, and that they change nothing.

use super::*;
use crate::base::failure::{Failure, FailureKind};
use crate::protocol::messages::look::{TaskFilter, View};
use serde_json::{Value, json};

impl House {
    /// Somebody who only looks.
    async fn viewer(&self) -> ClientEnd {
        let mut end: ClientEnd = self.connect(Role::Client).await;
        let hello = Hello { looks_only: true, ..hello(Uuid::new_v4()) };
        end.sender.send(FromClient::Hello(hello)).await.unwrap();
        assert!(matches!(heard(&mut end).await, ToClient::Welcome(_)));
        end
    }
}

async fn view(end: &mut ClientEnd, view: View) -> Value {
    ask(end, Question::View(view)).await.unwrap()
}

async fn tasks_like(end: &mut ClientEnd, change: impl FnOnce(&mut TaskFilter)) -> Value {
    let mut filter = TaskFilter { limit: 100, ..TaskFilter::default() };
    change(&mut filter);
    view(end, View::Tasks(filter)).await
}

fn keys(tasks: &Value) -> Vec<&str> {
    tasks["tasks"].as_array().unwrap().iter().map(|t| t["key"].as_str().unwrap()).collect()
}

/// What the events say, without those of clients.
async fn kinds(end: &mut ClientEnd) -> Vec<(String, String)> {
    let events = view(end, View::Events { after: 0, limit: 100 }).await;
    let text = |e: &Value, name: &str| e[name].as_str().unwrap().to_string();
    let all = events["events"].as_array().unwrap().iter();
    all.map(|e| (text(e, "kind"), text(e, "text"))).filter(|(kind, _)| !kind.starts_with("client")).collect()
}

#[tokio::test]
async fn a_run_is_seen_from_its_submission_to_its_end() {
    let house = house(|_| {}).await;
    let (mut client, mut viewer) = (house.client().await, house.viewer().await);
    let nothing = view(&mut viewer, View::Overview).await;
    assert_eq!((&nothing["state"], &nothing["hold"]), (&json!("idle"), &json!("nothing to do")));
    let run = Uuid::new_v4();
    submitted(&mut client, submit(run)).await;
    let alone = view(&mut viewer, View::Overview).await;
    assert_eq!((&alone["state"], &alone["hold"]), (&json!("waiting"), &json!("no worker is connected")));

    let thresholds = [Some(60), Some(70), None, Some(95)];
    let register = Register { memory_thresholds: thresholds, job_id: Some("77".into()), ..register("w1") };
    let (mut worker, _) = house.worker_as(register).await;
    let days = names(&tasks(&mut worker).await);
    report(&worker, News { started: days.clone(), ..News::default() }).await;
    let busy = view(&mut viewer, View::Overview).await;
    assert_eq!(busy["tasks"]["processing"], 2);
    assert_eq!(busy["tasks"], ask(&mut viewer, Question::Status).await.unwrap()["tasks"]);
    assert_eq!((&busy["state"], &busy["hold"]), (&json!("running"), &json!("all 2 threads are busy")));
    assert_eq!((&busy["threads"], &busy["busy"], &busy["executing"]), (&json!(2.0), &json!(2.0), &json!(2)));
    let bar = &busy["workers"][0];
    assert_eq!((&bar["name"], &bar["job-id"], &bar["why"]), (&json!("w1"), &json!("77"), &json!(null)));
    let memory = &bar["memory"];
    assert_eq!(
        (&memory["target"], &memory["pause"], &memory["limit"]),
        (&json!(60), &json!(null), &json!(1 << 30))
    );
    let line = &busy["runs"][0];
    assert_eq!((&line["id"], &line["name"], &line["tasks"]), (&json!(run), &json!("three"), &json!(3)));
    assert_eq!(
        (&line["state"], &line["done"], &line["calls"]),
        (&json!("running"), &json!(0), &json!(false))
    );

    let failed = vec![(days[1].0, days[1].1, Failure::of(FailureKind::Exit(3)))];
    finish(&worker, &days[..1], 10).await;
    report(&worker, News { rare: Rare { failed, ..Rare::default() }, ..News::default() }).await;
    run_done(&mut client).await;
    let groups = view(&mut viewer, View::Groups { run: None }).await;
    let day = &groups["groups"][0];
    assert_eq!((&day["name"], &day["run"], &day["total"]), (&json!("day"), &json!(run), &json!(2)));
    assert_eq!((&day["done"], &day["failed-attempts"], &day["bytes"]), (&json!(1), &json!(1), &json!(10)));
    assert_eq!((&day["seconds"], &day["longest"]), (&json!(0.001), &json!(0.001)));
    assert_eq!((&day["counts"]["erred"], &groups["groups"][1]["counts"]["erred"]), (&json!(1), &json!(1)));
    // Bytes of what depends on another: those of what is done, for each pair.
    let graph = view(&mut viewer, View::Graph { run: Some(run) }).await;
    let sum = &graph["groups"][1]["id"];
    assert_eq!(graph["edges"], json!([{ "from": day["id"], "to": sum, "tasks": 2, "bytes": 20.0 }]));
    let over = view(&mut viewer, View::Overview).await;
    assert_eq!(
        (&over["state"], &over["failed"], &over["runs"][0]["state"]),
        (&json!("idle"), &json!(2), &json!("failed"))
    );

    drop(worker);
    let lost = |kinds: &[(String, String)]| kinds.iter().any(|(kind, _)| kind == "worker-lost");
    let mut told = kinds(&mut viewer).await;
    for _ in 0..1000 {
        if lost(&told) {
            break;
        }
        tokio::task::yield_now().await;
        told = kinds(&mut viewer).await;
    }
    let told: Vec<(&str, &str)> = told.iter().map(|(kind, text)| (kind.as_str(), text.as_str())).collect();
    assert_eq!(
        told[..4],
        [
            ("run-submitted", "three: 3 tasks"),
            ("worker-joined", "w1 on host-of-w1: 2 threads"),
            ("task-failed", "day[1] failed: exit status 3"),
            ("run-failed", "three: 1 task failed, 1 skipped, 1 done"),
        ]
    );
    assert_eq!(told[4].0, "worker-lost");
    let events = view(&mut viewer, View::Events { after: 0, limit: 100 }).await;
    let failure = events["events"].as_array().unwrap().iter().find(|e| e["kind"] == "task-failed").unwrap();
    assert_eq!((&failure["key"], &failure["level"]), (&json!("day[1]"), &json!("error")));
    assert_eq!((&failure["run"], &failure["worker"]), (&json!(run), &json!("w1")));
    let next = events["next"].as_u64().unwrap();
    let none = view(&mut viewer, View::Events { after: next, limit: 100 }).await;
    assert_eq!((&none["events"], &none["next"]), (&json!([]), &json!(next)));
}

#[tokio::test]
async fn what_holds_the_work_back_is_said() {
    let house = house(|_| {}).await;
    let (mut client, mut viewer) = (house.client().await, house.viewer().await);
    submitted(&mut client, Submit { wait_workers: 2, ..submit(Uuid::new_v4()) }).await;
    let held = view(&mut viewer, View::Overview).await;
    assert_eq!(held["hold"], "three waits for 2 workers, 0 are connected");
    assert_eq!(
        (&held["state"], &held["runs"][0]["state"]),
        (&json!("waiting"), &json!("waiting-for-workers"))
    );
    let (first, _) = house.worker("w1").await;
    let (second, _) = house.worker("w2").await;
    let partly = view(&mut viewer, View::Overview).await;
    assert_eq!(
        partly["hold"],
        "only 2 tasks are ready or running, on 2 of 4 threads; 1 task waits for results"
    );
    for worker in [&first, &second] {
        let rare = Rare { paused: Some(true), ..Rare::default() };
        report(worker, News { rare, ..News::default() }).await;
    }
    let mut paused = Value::Null;
    while paused["workers"].as_array().is_none_or(|w| w.iter().any(|w| w["state"] != "paused")) {
        paused = view(&mut viewer, View::Overview).await;
    }
    assert_eq!(paused["hold"], "all 2 workers are paused: their memory is short");
    assert_eq!(paused["workers"][0]["why"], "its memory is short: 0 B in use");
    let told = kinds(&mut viewer).await;
    assert!(told.contains(&("worker-paused".into(), "w1 is paused: its memory is short".into())), "{told:?}");
}

#[tokio::test]
async fn tasks_are_found_by_what_they_are() {
    let house = house(|_| {}).await;
    let (mut worker, _) = house.worker("w1").await;
    let (mut client, mut viewer) = (house.client().await, house.viewer().await);
    let (first, second) = (Uuid::new_v4(), Uuid::new_v4());
    submitted(&mut client, submit(first)).await;
    let days = names(&tasks(&mut worker).await);
    submitted(&mut client, submit(second)).await;
    finish(&worker, &days[..1], 10).await;

    let all = tasks_like(&mut viewer, |_| {}).await;
    assert_eq!(keys(&all), ["day[0]", "day[1]", "sum", "day[0]", "day[1]", "sum"]);
    assert_eq!(all["more"], false);
    let row = &all["tasks"][0];
    assert_eq!(
        (&row["state"], &row["worker"], &row["group"]),
        (&json!("memory"), &json!("w1"), &json!("day"))
    );
    assert_eq!((&row["run"], &row["bytes"], &row["attempts"]), (&json!(first), &json!(10), &json!(1)));
    let page = tasks_like(&mut viewer, |f| (f.skip, f.limit) = (1, 2)).await;
    assert_eq!((keys(&page), &page["more"]), (vec!["day[1]", "sum"], &json!(true)));
    let page = tasks_like(&mut viewer, |f| (f.skip, f.limit) = (4, 2)).await;
    assert_eq!((keys(&page), &page["more"]), (vec!["day[1]", "sum"], &json!(false)));
    let of_run = tasks_like(&mut viewer, |f| f.run = Some(second)).await;
    assert_eq!(keys(&of_run).len(), 3);
    let waiting = tasks_like(&mut viewer, |f| f.state = Some("waiting".into())).await;
    assert_eq!(keys(&waiting), ["sum", "sum"]);
    let group = tasks_like(&mut viewer, |f| (f.run, f.group) = (Some(first), Some("day".into()))).await;
    assert_eq!(keys(&group), ["day[0]", "day[1]"]);
    let of_worker = tasks_like(&mut viewer, |f| (f.run, f.worker) = (Some(first), Some("w1".into()))).await;
    assert_eq!(keys(&of_worker), ["day[0]", "day[1]"]);
    let text = tasks_like(&mut viewer, |f| f.text = Some("y[1".into())).await;
    assert_eq!(keys(&text), ["day[1]", "day[1]"]);
    // A whole key comes first, in the newest run that has it, and only once.
    let named = tasks_like(&mut viewer, |f| f.text = Some("day[1]".into())).await;
    assert_eq!(keys(&named), ["day[1]", "day[1]"]);
    assert_eq!(named["tasks"][0]["run"], json!(second));
    for (nothing, worker) in [("nope", "w1"), ("day", "w9")] {
        let none = tasks_like(&mut viewer, |f| {
            (f.group, f.worker) = (Some(nothing.into()), Some(worker.into()));
        });
        assert_eq!(none.await["tasks"], json!([]));
    }
    let wrong = TaskFilter { state: Some("<b>".into()), ..TaskFilter::default() };
    let refused = ask(&mut viewer, Question::View(View::Tasks(wrong))).await.unwrap_err();
    assert_eq!(refused.0, "refused");
    let unknown = View::Groups { run: Some(Uuid::new_v4()) };
    assert_eq!(ask(&mut viewer, Question::View(unknown)).await.unwrap_err().0, "not-found");
}

#[tokio::test]
async fn who_only_looks_changes_nothing_and_holds_nothing_up() {
    let house = house(|_| {}).await;
    let mut viewer = house.viewer().await;
    let status = ask(&mut viewer, Question::Status).await.unwrap();
    assert_eq!(status["scheduler"]["clients"], 0);
    let run = Uuid::new_v4();
    viewer.sender.send(FromClient::Submit(submit(run))).await.unwrap();
    let rejected = |m| if let ToClient::Rejected(r) = m { Some(r) } else { None };
    let rejected = until(&mut viewer, rejected).await;
    assert_eq!(rejected.run, run);
    assert!(rejected.reason.contains("only looks"), "{rejected:?}");
    for question in [Question::Stop, Question::StopWorkers { names: Vec::new() }] {
        assert_eq!(ask(&mut viewer, question).await.unwrap_err().0, "refused");
    }
    let mut client = house.client().await;
    submitted(&mut client, submit(run)).await;
    let cancel = FromClient::Cancel(RunNamed { run, reason: "for fun".into() });
    viewer.sender.send(cancel).await.unwrap();
    let refused = |m| if let ToClient::Refused(r) = m { Some(r) } else { None };
    assert!(until(&mut viewer, refused).await.reason.contains("only looks"));
    assert!(matches!(next(&mut viewer).await, Ok(None) | Err(_)));
    let status = ask(&mut client, Question::Status).await.unwrap();
    assert_eq!(
        (&status["runs"][0]["state"], &status["scheduler"]["clients"]),
        (&json!("running"), &json!(1))
    );
    let events = view(&mut client, View::Events { after: 0, limit: 9 }).await;
    let came = events["events"].as_array().unwrap().iter().filter(|e| e["kind"] == "client-came");
    assert_eq!(came.count(), 1);
}

#[tokio::test]
async fn an_idle_scheduler_ends_whoever_looks() {
    let mut house = house(|c| c.scheduler.idle_timeout = Some(crate::base::units::Span(SOON / 100))).await;
    let mut viewer = house.viewer().await;
    until(&mut viewer, |m| matches!(m, ToClient::Stopping(_)).then_some(())).await;
    drop(viewer);
    house.scheduler.wait().await.unwrap();
}

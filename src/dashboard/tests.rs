//! What paths ask, what is asked again and what is not, with a source that counts. Real clusters, and who is
//! let in, are in `tests/dashboard`.

use super::answers::Answers;
use super::api::{self, Wanted};
use super::fault::Fault;
use super::{Answering, Source};
use crate::base::error::{Error, Kind};
use crate::protocol::messages::client::Question;
use crate::protocol::messages::look::{TaskFilter, View};
use axum::http::StatusCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

fn wanted(path: &str) -> Result<Wanted, Fault> {
    let what = path.split('?').next().unwrap();
    api::wanted(what, &format!("/api/v1/{path}").parse().unwrap()).map(|(_, wanted)| wanted)
}

fn view(path: &str) -> View {
    match wanted(path) {
        Ok(Wanted::One(Question::View(view))) => view,
        other => panic!("{path}: {other:?}"),
    }
}

#[test]
fn paths_and_parameters() {
    let run = uuid::Uuid::new_v4();
    assert_eq!(wanted("status"), Ok(Wanted::One(Question::Status)));
    assert_eq!(view("groups?run="), View::Groups { run: None });
    assert_eq!(view(&format!("graph?run={run}")), View::Graph { run: Some(run) });
    let usual = TaskFilter { limit: 100, ..TaskFilter::default() };
    assert_eq!(view("tasks"), View::Tasks(usual.clone()));
    let filter = TaskFilter {
        state: Some("erred".into()),
        text: Some("a[1]&é".into()),
        skip: 7,
        limit: 1000,
        ..usual
    };
    assert_eq!(view("tasks?state=erred&text=a%5B1%5D%26%C3%A9&skip=7&limit=9999"), View::Tasks(filter));
    assert_eq!(view("series?after=1.5&workers=1"), View::Series { after: 1.5, workers: true });
    assert_eq!(view("spans"), View::Spans { after: 0, limit: 20_000, run: None });
    assert_eq!(view("events?after=3"), View::Events { after: 3, limit: 1000 });
    assert_eq!(view("logs?of=w&bytes=99999999"), View::Logs { of: "w".into(), run: None, bytes: 1 << 20 });
    let task = Wanted::Task { key: "a[1]".into(), run: Some(run) };
    assert_eq!(wanted(&format!("task?key=a[1]&run={run}")), Ok(task));
}

#[test]
fn nonsense_is_refused_in_words() {
    let long = format!("tasks?text={}", "x".repeat(5000));
    for (path, words) in [
        ("groups?run=1", "run: \"1\" is not the id of a run"),
        ("tasks?limit=-1", "limit is not a number: \"-1\""),
        ("tasks?limit=1e3", "limit is not a number"),
        ("tasks?state=gone", "no task is \"gone\""),
        ("tasks?limit=1&limit=2", "duplicate field"),
        ("series?after=NaN", "after is not a point in time"),
        ("series?workers=all", "workers is 0 or 1"),
        ("spans?after=99999999999999999999", "after is not a number"),
        ("task", "key is missing"),
        ("logs?of=", "of is missing"),
        (long.as_str(), "text is longer than 4096 bytes"),
    ] {
        let fault = wanted(path).unwrap_err();
        let shown = format!("{fault:?}");
        assert!(
            fault.status == StatusCode::BAD_REQUEST && shown.contains(&words.escape_debug().to_string()),
            "{shown}"
        );
    }
    assert_eq!(wanted("nothing").unwrap_err().status, StatusCode::NOT_FOUND);
    assert_eq!(wanted("status/x").unwrap_err().status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn viewers_share_answers() {
    let (answers, asked, at_once) = (Answers::default(), AtomicUsize::new(0), Mutex::new((0, 0)));
    let get = |kind, exactly: String| {
        answers.get(kind, exactly, async {
            asked.fetch_add(1, Ordering::Relaxed);
            {
                let mut at_once = at_once.lock().unwrap();
                at_once.0 += 1;
                at_once.1 = at_once.1.max(at_once.0);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            at_once.lock().unwrap().0 -= 1;
            Ok(("{}".to_owned(), "application/json"))
        })
    };
    let same = (0..50).map(|_| get("a", "x".into()));
    assert!(futures_of(same).await.iter().all(Result::is_ok));
    assert_eq!(asked.load(Ordering::Relaxed), 1, "one question for fifty viewers");
    let others = (0..5).map(|n| get("a", n.to_string()));
    futures_of(others).await;
    assert_eq!((asked.load(Ordering::Relaxed), at_once.lock().unwrap().1), (6, 1), "one after the other");
    std::thread::sleep(Duration::from_millis(520));
    get("a", "x".into()).await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 7, "after half a second it is asked again");
}

/// All of them, side by side.
async fn futures_of<F: Future>(all: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut open: Vec<_> = all.map(|f| (Box::pin(f), None)).collect();
    std::future::poll_fn(|context| {
        for (future, done) in open.iter_mut().filter(|(_, done)| done.is_none()) {
            if let std::task::Poll::Ready(output) = future.as_mut().poll(context) {
                *done = Some(output);
            }
        }
        match open.iter().all(|(_, done)| done.is_some()) {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
    open.into_iter().filter_map(|(_, done)| done).collect()
}

/// Knows tasks, and logs of none.
struct Forgetful;

impl Source for Forgetful {
    fn ask(&self, question: Question) -> Answering<'_> {
        Box::pin(async move {
            match question {
                Question::Explain { key, .. } if key == "a" => Ok("{\"key\":\"a\"}".into()),
                Question::Explain { .. } => Err(Error::new(Kind::NotFound, "no such task")),
                Question::Story { .. } => Ok("[1]".into()),
                _ => Err(Error::new(Kind::Refused, "not kept")),
            }
        })
    }
}

#[tokio::test]
async fn a_task_is_explained_as_far_as_it_is_remembered() {
    let ask = |key: &str| api::ask(&Forgetful, Wanted::Task { key: key.into(), run: None });
    let task: serde_json::Value = serde_json::from_str(&ask("a").await.unwrap()).unwrap();
    assert_eq!(task, serde_json::json!({ "explain": { "key": "a" }, "story": [1], "logs": null }));
    assert_eq!(ask("b").await.unwrap_err().kind, Kind::NotFound);
}

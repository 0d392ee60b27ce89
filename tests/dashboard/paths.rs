//! Every path of a real cluster's dashboard: that it answers, with what the command line says too, and that
//! what comes from users does no harm on the way.

use crate::access::dashboard;
use crate::http::{Answer, get};
use crate::site::{Site, wait_until};
use serde_json::Value;
use std::io::Read;

const PATHS: [&str; 12] = [
    "status",
    "overview",
    "groups",
    "graph",
    "tasks",
    "task?key=hello",
    "series",
    "spans",
    "events",
    "timings",
    "profile",
    "logs?of=scheduler",
];

struct Viewer {
    place: String,
    bearer: String,
}

impl Viewer {
    fn of(site: &Site) -> Viewer {
        let (place, token) = dashboard(site);
        Viewer { place, bearer: format!("Bearer {token}") }
    }

    fn get(&self, path: &str) -> Answer {
        get(&self.place, path, &[("authorization", &self.bearer)])
    }
}

#[test]
fn every_path_answers_in_json() {
    let site = Site::new();
    let _cluster = site.cluster(2);
    let graph = "version = 1\n[task.hello]\nargv = [\"echo\", \"<b>hi</b>\"]\n";
    site.write("g.toml", graph);
    site.ok(&["submit", "--scheduler-file", "s.json", "g.toml", "--detach"]);
    site.ok(&["wait", "--scheduler-file", "s.json"]);
    let viewer = Viewer::of(&site);
    for path in PATHS {
        let answer = viewer.get(&format!("/api/v1/{path}"));
        assert_eq!(answer.header("content-type"), Some("application/json"), "{path}");
        let json = answer.json();
        match answer.status {
            200 => assert!(json["error"].is_null(), "{path}: {json}"),
            // What this scheduler does not tell.
            404 | 503 => assert!(json["error"]["message"].is_string(), "{path}: {json}"),
            other => panic!("{path}: {other}: {json}"),
        }
    }
    for path in [
        "tasks?limit=x",
        "tasks?state=gone",
        "task",
        "logs",
        "groups?run=1",
        "series?after=inf",
        "spans?after=-1",
    ] {
        let answer = viewer.get(&format!("/api/v1/{path}"));
        assert_eq!((answer.status, &answer.json()["error"]["kind"]), (400, &"bad-request".into()), "{path}");
    }
    for path in
        ["/api/v1/", "/api/v1", "/api/v1/none", "/api/v2/status", "/../Cargo.toml", "/%2e%2e/x", "/app.css/"]
    {
        let answer = viewer.get(path);
        assert_eq!((answer.status, &answer.json()["error"]["kind"]), (404, &"not-found".into()), "{path}");
    }
    let task = viewer.get("/api/v1/task?key=hello").json();
    assert_eq!((&task["explain"]["key"], &task["explain"]["state"]), (&"hello".into(), &"memory".into()));
    assert!(task["story"].as_array().is_some_and(|story| !story.is_empty()), "{task}");
    let unknown = viewer.get("/api/v1/task?key=%3Cscript%3Ealert(1)%3C/script%3E");
    assert_eq!((unknown.status, unknown.header("content-type")), (404, Some("application/json")));

    // The same as on the command line, but for what changes by itself.
    let mut ours = site.json(&["status", "--scheduler-file", "s.json", "--json"]);
    let mut theirs = viewer.get("/api/v1/status").json();
    let (url, shown) = (ours["dashboard"].take(), theirs["dashboard"].take());
    assert_eq!(url.as_str().and_then(|url| url.split('?').next()), shown.as_str(), "scripts see no token");
    for status in [&mut ours, &mut theirs] {
        assert_eq!(status["workers"].as_array().map(Vec::len), Some(2));
        for name in ["scheduler", "workers", "adapted", "memory"] {
            status[name] = Value::Null;
        }
    }
    assert_eq!(ours, theirs);
}

#[test]
fn plots_are_listed_and_answer() {
    let site = Site::new();
    let _cluster = site.cluster(0);
    let viewer = Viewer::of(&site);
    let plots = viewer.get("/individual-plots.json").json();
    assert_eq!(plots["Individual Task Stream"], "/individual-task-stream");
    let index = viewer.get("/").text();
    for (title, path) in plots.as_object().expect("plots") {
        let path = path.as_str().expect("a path");
        let page = viewer.get(path);
        assert_eq!((page.status, page.text() == index), (200, true), "{title}: {path}");
    }
    assert_eq!(viewer.get("/individual-none").status, 404);
}

#[test]
fn what_is_large_is_compressed_for_those_who_take_it() {
    let site = Site::new();
    let _cluster = site.cluster(1);
    let viewer = Viewer::of(&site);
    let plain = viewer.get("/api/v1/status");
    assert_eq!(plain.header("content-encoding"), None);
    let bearer = ("authorization", viewer.bearer.as_str());
    let packed = get(&viewer.place, "/api/v1/status", &[bearer, ("accept-encoding", "br;q=1.0, gzip")]);
    assert_eq!((packed.status, packed.header("content-encoding")), (200, Some("gzip")));
    assert_eq!(packed.header("vary"), Some("accept-encoding"));
    let mut text = String::new();
    flate2::read::GzDecoder::new(&packed.body[..]).read_to_string(&mut text).expect("it unpacks");
    let status: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(status["workers"][0]["name"], "w0");
    let refused = get(&viewer.place, "/api/v1/status", &[bearer, ("accept-encoding", "gzip;q=0")]);
    assert_eq!(refused.header("content-encoding"), None);
}

#[test]
fn metrics_are_what_status_says() {
    let site = Site::new();
    let _cluster = site.cluster(1);
    site.ok(&["submit", "--scheduler-file", "s.json", "--array", "1-5", "-o", "out/{index}", "--", "true"]);
    let viewer = Viewer::of(&site);
    let value = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.parse::<f64>().ok()).unwrap_or_else(|| panic!("no {name} in\n{text}"))
    };
    let text = viewer.get("/metrics");
    assert_eq!(text.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let text = text.text();
    assert_eq!(value(&text, "hpcdag_workers{state=\"running\"}"), 1.0);
    assert_eq!(value(&text, "hpcdag_threads"), 2.0);
    assert_eq!(value(&text, "hpcdag_runs{state=\"done\"}"), 1.0);
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, number) = line.rsplit_once(' ').expect("a name and a number");
        let name = name.split('{').next().unwrap_or_default();
        assert!(number.parse::<f64>().is_ok(), "{line}");
        assert!(
            text.contains(&format!("# TYPE {name} ")) && text.contains(&format!("# HELP {name} ")),
            "{line}"
        );
    }
    let bearer = ("authorization", viewer.bearer.as_str());
    let open = ("accept", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5");
    wait_until("the other form is answered", || {
        get(&viewer.place, "/metrics", &[bearer, open]).status == 200
    });
    let open = get(&viewer.place, "/metrics", &[bearer, open]);
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!((open.header("content-type"), open.text().ends_with("# EOF\n")), (Some(kind), true));
    let memory = "hpcdag_worker_memory_limit_bytes{worker=\"w0\",host=";
    assert!(open.text().contains(memory), "{}", open.text());
}

#[test]
fn it_goes_where_the_user_is() {
    let site = Site::new();
    let mut cluster = site.cluster(1);
    let args = ["dashboard", "--scheduler-file", "s.json", "--port", "0", "--no-open", "--json"];
    let mut ours = site.start("dashboard", &args);
    wait_until("it says where it is", || ours.stdout().ends_with('\n'));
    let said: Value = serde_json::from_str(&ours.stdout()).expect("JSON");
    let (place, token) = crate::http::parts(said["url"].as_str().expect("an address"));
    let bearer = format!("Bearer {token}");
    let status = get(&place, "/api/v1/status", &[("authorization", &bearer)]);
    assert_eq!((status.status, status.json()["workers"][0]["name"].as_str()), (200, Some("w0")));
    assert_eq!(get(&place, "/api/v1/status", &[]).status, 401);
    let (theirs, other) = dashboard(&site);
    assert!(theirs != place && other != token);
    assert_eq!(get(&theirs, "/", &[("authorization", &bearer)]).status, 401);

    site.ok(&["stop", "--scheduler-file", "s.json"]);
    for process in &mut cluster {
        process.code();
    }
    wait_until("it says that the scheduler is gone", || get(&place, "/health", &[]).status == 503);
    let gone = || get(&place, "/api/v1/status", &[("authorization", &bearer)]);
    // What was answered before is good for a moment.
    wait_until("nothing is answered any more", || gone().status == 503);
    assert_eq!(gone().json()["error"]["kind"], "no-scheduler");
    ours.signal(nix::sys::signal::Signal::SIGINT);
    assert_eq!(ours.code(), Some(0));
}

#[test]
fn pages_name_only_files_that_are_there_and_run_nothing_else() {
    let site = Site::new();
    let _cluster = site.cluster(0);
    let viewer = Viewer::of(&site);
    let index = viewer.get("/").text();
    let named = |attribute: &str| -> Vec<String> {
        let before = format!("{attribute}=\"");
        let parts = index.split(&before).skip(1);
        parts.filter_map(|part| part.split('"').next()).map(str::to_owned).collect()
    };
    let files: Vec<String> = [named("src"), named("href")].concat();
    for file in files.iter().filter(|file| !file.starts_with("api/") && !file.starts_with('#')) {
        assert!(!file.starts_with('/') && !file.contains(':'), "{file} would not work behind a proxy");
        let answer = viewer.get(&format!("/{file}"));
        let kind = answer.header("content-type").unwrap_or_default();
        let right = match file.rsplit('.').next() {
            Some("js") => "text/javascript",
            Some("css") => "text/css",
            _ => "image/svg+xml",
        };
        assert!(answer.status == 200 && kind.starts_with(right), "{file}: {} {kind}", answer.status);
    }
    // The policy would forbid it anyway.
    assert!(
        !index.contains("<script>") && !index.contains("<style") && !index.contains(" style="),
        "{index}"
    );
}

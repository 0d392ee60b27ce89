//! Who is let in, and what is told to whom.

use crate::http::{get, parts, raw, send};
use crate::site::{Site, wait_until};

/// The dashboard of a cluster: where it is, and what opens it.
pub fn dashboard(site: &Site) -> (String, String) {
    let status = site.json(&["status", "--scheduler-file", "s.json", "--json"]);
    parts(status["dashboard"].as_str().expect("a dashboard"))
}

#[test]
fn only_the_token_opens_it() {
    let site = Site::new();
    let _cluster = site.cluster(1);
    let (place, token) = dashboard(&site);
    let wrong = "0".repeat(token.len());

    for path in ["/", "/api/v1/status", "/metrics", "/app.js", "/individual-plots.json", "/none"] {
        let answer = get(&place, path, &[]);
        assert_eq!((answer.status, &answer.json()["error"]["kind"]), (401, &"unauthorized".into()), "{path}");
        assert!(!answer.text().contains(&token), "{path}");
        let cookie = format!("hpcdag-x={token}; hpcdag={token}");
        for headers in [("authorization", format!("Bearer {wrong}")), ("cookie", cookie)] {
            let answer = get(&place, path, &[(headers.0, &headers.1)]);
            assert_eq!(answer.status, 401, "{path} {headers:?}");
        }
        for query in ["token=", &format!("token={wrong}"), &format!("token={}", &token[1..])] {
            let answer = get(&place, &format!("{path}?{query}"), &[]);
            assert_eq!((answer.status, answer.header("set-cookie")), (401, None), "{path}?{query}");
        }
        // What is shown wrong is not made good by a cookie that is right.
        let bearer = format!("Bearer {token}");
        let answer = get(&place, &format!("{path}?token={wrong}"), &[("authorization", &bearer)]);
        assert_eq!(answer.status, 401, "{path}");
    }
    let answer = get(&place, "/api/v1/status", &[("authorization", &format!("Bearer {token}"))]);
    assert_eq!((answer.status, answer.json()["workers"][0]["name"].as_str()), (200, Some("w0")));
    assert_eq!(get(&place, "/health", &[]).json(), serde_json::json!({ "status": "ok" }));

    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
        for path in ["/", "/health", "/api/v1/status"] {
            let answer = send(&place, method, path, &[("authorization", &format!("Bearer {token}"))]);
            assert_eq!(answer.status, 405, "{method} {path}");
        }
    }
    let head = send(&place, "HEAD", "/api/v1/status", &[("authorization", &format!("Bearer {token}"))]);
    assert_eq!((head.status, head.body.len()), (200, 0));
}

#[test]
fn the_first_visit_leaves_a_cookie_and_no_token_in_the_address() {
    let site = Site::new();
    let _cluster = site.cluster(0);
    let (place, token) = dashboard(&site);
    let id = site.json(&["status", "--scheduler-file", "s.json", "--json"])["scheduler"]["id"].clone();
    let id = id.as_str().expect("an id");
    for (path, to) in [
        (format!("/?token={token}"), "./"),
        (format!("/?page=workers&token={token}&x=1"), "./?page=workers&x=1"),
        (format!("/api/v1/status?token={token}"), "./status"),
        (format!("//elsewhere.example/?token={token}"), "./"),
        (format!("//elsewhere.example?token={token}"), "./elsewhere.example"),
    ] {
        let answer = get(&place, &path, &[]);
        assert_eq!((answer.status, answer.header("location")), (303, Some(to)), "{path}");
        let cookie = answer.header("set-cookie").expect("a cookie");
        assert_eq!(cookie, format!("hpcdag-{id}={token}; HttpOnly; SameSite=Strict"));
        assert!(!answer.text().contains(&token));
    }
    let cookie = format!("other=1; hpcdag-{id}={token}; more=2");
    let page = get(&place, "/", &[("cookie", &cookie)]);
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(page.text().starts_with("<!doctype html>"));
    for path in ["/", "/api/v1/status", "/none", "/health"] {
        for headers in [&[][..], &[("cookie", cookie.as_str())]] {
            let answer = get(&place, path, headers);
            let csp = answer.header("content-security-policy").expect("a policy");
            assert!(csp.starts_with("default-src 'self';") && !csp.contains("unsafe"), "{csp}");
            assert_eq!(answer.header("referrer-policy"), Some("no-referrer"));
            assert_eq!(answer.header("cache-control"), Some("no-store"));
            assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
            assert_eq!(answer.header("access-control-allow-origin"), None);
        }
    }
}

#[test]
fn the_token_is_told_to_its_owner_and_written_nowhere() {
    let site = Site::new();
    let mut all = site.cluster(1);
    let (place, token) = dashboard(&site);
    get(&place, &format!("/?token={token}&x=secret-query"), &[]);
    get(&place, "/api/v1/status?x=secret-query", &[("authorization", &format!("Bearer {token}"))]);

    let text = site.ok(&["status", "--scheduler-file", "s.json"]);
    assert!(text.contains(&format!("dashboard: http://{place}/\n")) && !text.contains(&token), "{text}");
    site.ok(&["submit", "--scheduler-file", "s.json", "--", "true"]);
    site.ok(&["report", "--scheduler-file", "s.json", "r.html"]);
    let report = site.read("r.html");
    assert!(report.contains("HPCDAG_DATA") && !report.contains(&token), "it is handed on to others");
    let file: serde_json::Value = serde_json::from_str(&site.read("s.json")).expect("JSON");
    assert_eq!(format!("127.0.0.1:{}", file["services"]["dashboard"]), place);

    site.ok(&["stop", "--scheduler-file", "s.json"]);
    for process in &mut all {
        process.code();
    }
    let log = all[0].stderr();
    assert!(log.contains(&format!("dashboard at http://{place}/")), "{log}");
    assert!(!log.contains(&token) && !log.contains("secret-query"), "{log}");
}

#[test]
fn it_can_be_elsewhere_or_nowhere() {
    let site = Site::new();
    let mut none =
        site.start("none", &["scheduler", "--scheduler-file", "a.json", "--dashboard-address", "none"]);
    site.ok(&["workers", "wait", "0", "--scheduler-file", "a.json"]);
    let status = site.json(&["status", "--scheduler-file", "a.json", "--json"]);
    assert_eq!(status["dashboard"], serde_json::Value::Null);
    assert!(!site.ok(&["status", "--scheduler-file", "a.json"]).contains("dashboard"));
    site.ok(&["stop", "--scheduler-file", "a.json"]);
    none.code();

    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let address = format!(":{port}");
    let args = ["scheduler", "--scheduler-file", "b.json", "--dashboard-address", &address];
    let ended = site.run(&args);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(
        ended.stderr.contains(&format!("the dashboard cannot listen on 127.0.0.1: port {port} is in use"))
    );
    drop(taken);
    let _there = site.start("there", &args);
    site.ok(&["workers", "wait", "0", "--scheduler-file", "b.json"]);
    let status = site.json(&["status", "--scheduler-file", "b.json", "--json"]);
    assert_eq!(parts(status["dashboard"].as_str().expect("a dashboard")).0, format!("127.0.0.1:{port}"));
    for bad in ["x", "::1:80", "127.0.0.1", ":port"] {
        let ended = site.run(&["scheduler", "--dashboard-address", bad]);
        assert!(ended.code != Some(0) && ended.stderr.contains("dashboard-address"), "{ended:?}");
    }
}

#[test]
fn nonsense_and_slowness_harm_nobody() {
    let site = Site::new();
    let _cluster = site.cluster(0);
    let (place, token) = dashboard(&site);
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(1 << 20));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(10_000));
    let two = "GET /health HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n";
    for request in [&long, &many, two, "\0\0\0\0\r\n\r\n", "GET http://[/ HTTP/1.1\r\n\r\n"] {
        let answer = raw(&place, &[request.as_bytes(), b"\r\n"].concat());
        assert!(!answer.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&answer));
    }
    // Those that say nothing are in nobody's way.
    let silent: Vec<_> = (0..100).map(|_| std::net::TcpStream::connect(&place).expect("connected")).collect();
    let bearer = format!("Bearer {token}");
    wait_until("it answers all the same", || {
        get(&place, "/api/v1/status", &[("authorization", &bearer)]).status == 200
    });
    drop(silent);
}

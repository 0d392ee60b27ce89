//! That the checks can fail: what they find in bad snippets, and that they let good ones pass.

use crate::checks::{Source, check, check_unwraps, missing_codes, uncommented, unwraps};
use crate::{CORE_LINTS, LINES_MAX, WIDTH_MAX};
use hpcdag::base::error::Kind;

fn faults_of(path: &str, code: &str) -> Vec<String> {
    check(&Source::new(path, &format!("//! Header.\n{code}")))
}

/// The only fault of a snippet.
fn fault_of(path: &str, code: &str) -> String {
    let faults = faults_of(path, code);
    assert_eq!(faults.len(), 1, "{path}: {code}: {faults:?}");
    faults[0].clone()
}

#[test]
fn forbidden_edges_are_found() {
    for (path, code, fault) in [
        ("src/base/x.rs", "use crate::config::Config;", "base must not use config"),
        ("src/graph/x.rs", "fn f(_: crate::protocol::X) {}", "graph must not use protocol"),
        (
            "src/net/x.rs",
            "use crate::{base::{ids, units as u}, graph::layer::{Layer as L}};",
            "net must not use graph",
        ),
        ("src/scheduler/x.rs", "use crate::\n    worker::Y;", "scheduler must not use worker"),
        ("src/client/x.rs", "use crate::cluster::{self as c};", "client must not use cluster"),
        ("src/launch/x.rs", "#[cfg(test)]\nmod tests { use crate::graph::X; }", "launch must not use graph"),
        ("src/cluster/x.rs", "use crate::cli::x;", "cluster must not use cli"),
        ("src/worker/x.rs", "use super::super::base;", "super::super::"),
        ("src/worker/mod.rs", "use super::client;", "`super::client` leaves"),
        ("src/worker/x.rs", "use crate::*;", "as a whole"),
        ("src/worker/x.rs", "use crate as all;", "as a whole"),
        ("src/utils/x.rs", "", "'utils' is not in the table"),
    ] {
        let found = fault_of(path, code);
        assert!(found.contains(fault), "{code}: {found}");
    }
    assert!(fault_of("src/base/x.rs", "\nuse crate::cli;").starts_with("src/base/x.rs:3: "));
    let several =
        faults_of("src/base/x.rs", "use crate::{cli as c, base::{a, b}, net::{self, d::{e, f}}, graph::*};");
    assert_eq!(several.len(), 5, "cli, three below net, graph: {several:?}");
}

#[test]
fn allowed_edges_pass() {
    for (path, code) in [
        ("src/net/x.rs", "use crate::{base::ids, protocol::{a, b}, net::c};"),
        ("src/cli/x.rs", "use crate::cluster::X;"),
        (
            "src/base/x.rs",
            "// use crate::cli\n/* crate::cli /* nested */ crate::cli */ const S: &str = \"crate::cli\";",
        ),
        (
            "src/base/x.rs",
            "const S: &str = r#\"a \" crate::cli\"#; const C: char = '\"'; fn f<'a>(_: &'a str) {}",
        ),
        ("src/base/x.rs", "pub(crate) fn f() { crate::id!(X) }"),
        ("src/base/mod.rs", "#[cfg(test)]\nmod tests { use super::*; }"),
        ("src/scheduler/core/x.rs", "use crate::scheduler::core::event::Event; use crate::graph::layer;"),
        ("src/scheduler/core/x.rs", "use super::event; use std::collections::{BTreeMap, VecDeque};"),
        ("src/scheduler/core/x.rs", "use rustc_hash::FxHashMap; #[cfg(test)] mod tests { use std::fs; }"),
        ("src/main.rs", "fn main() { hpcdag::cli::main() }"),
    ] {
        assert_eq!(faults_of(path, code), Vec::<String>::new(), "{code}");
    }
}

#[test]
fn impure_cores_are_found() {
    for (code, fault) in [
        ("use tokio::sync::mpsc;", "tokio"),
        ("use std::fs;", "std::fs"),
        ("use std::{collections::BTreeMap, env::var};", "std::env::var"),
        ("fn f() { std::process::exit(1) }", "std::process::exit"),
        ("use std::net::IpAddr;", "std::net::IpAddr"),
        ("fn f(_: std::time::Instant) {}", "Instant"),
        ("use std::time::SystemTime;", "SystemTime"),
        ("use std::collections::HashMap;", "HashMap"),
        ("fn f(_: std::collections::HashSet<u8>) {}", "HashSet"),
        ("use crate::worker::driver::X;", "worker::driver::X"),
    ] {
        let found = fault_of("src/worker/core/x.rs", code);
        assert!(found.contains("worker::core must not use") && found.contains(fault), "{code}: {found}");
        if !code.contains("crate::") {
            assert!(faults_of("src/worker/x.rs", code).is_empty(), "shells may: {code}");
        }
    }
    let config = faults_of("src/scheduler/core/x.rs", "use crate::config::Config;");
    assert!(config.iter().any(|fault| fault.contains("scheduler::core must not use config")), "{config:?}");
    let lints = fault_of("src/scheduler/core/mod.rs", "");
    assert!(lints.contains(CORE_LINTS), "{lints}");
    let leaves = fault_of("src/scheduler/core/mod.rs", &format!("{CORE_LINTS}\nuse super::driver;"));
    assert!(leaves.contains("leaves the core"), "{leaves}");
}

#[test]
fn untidy_text_is_found() {
    let long = "a".repeat(WIDTH_MAX - 2);
    assert!(faults_of("src/base/x.rs", &format!("//{long}")).is_empty());
    assert!(fault_of("src/base/x.rs", &format!("//b{long}")).contains("longer than"));
    assert!(fault_of("src/base/x.rs", concat!("// FIX", "ME later")).contains("finish it"));
    assert!(fault_of("src/base/x.rs", concat!("// XX", "X")).contains("finish it"));
    assert!(faults_of("src/base/x.rs", "const T: &str = \"tmp.XXXXXX\";").is_empty());
    assert!(fault_of("src/base/x.rs", "fn f() { todo!() }").contains("todo!"));
    assert!(fault_of("src/base/x.rs", "fn f() { unimplemented!() }").contains("unimplemented!"));
    assert!(check(&Source::new("src/base/x.rs", "fn f() {}"))[0].contains("header"));
    let full = "\n".repeat(LINES_MAX - 1);
    assert!(faults_of("src/base/x.rs", &full).is_empty());
    assert!(fault_of("src/base/x.rs", &format!("{full}\n")).contains("split the file"));
    assert!(faults_of("src/base/x.rs", &format!("{full}#[cfg(test)]\nmod tests {{\n{full}}}")).is_empty());
}

#[test]
fn unwraps_are_counted_outside_of_tests() {
    let code = "fn f() { x.unwrap(); y.expect(\"z\"); \"a.unwrap()\"; w.unwrap_or(1); }\n// b.unwrap()\n";
    let tests = "#[cfg(test)]\nmod tests { fn g() { if a { x.unwrap() } } }\n";
    let source = |path, text: String| Source::new(path, &text);
    assert_eq!(unwraps(&source("src/net/x.rs", code.into())), 2);
    assert_eq!(unwraps(&source("src/net/x.rs", format!("{tests}{code}"))), 2, "code after the tests counts");
    assert_eq!(unwraps(&source("src/net/x.rs", format!("#[cfg(test)]\nmod tests;\n{code}"))), 2);
    assert_eq!(unwraps(&source("src/net/tests.rs", code.into())), 0);
    let sources = [source("src/net/x.rs", code.into()), source("src/net/y.rs", code.into())];
    assert!(check_unwraps(&sources, &[("net", 4), ("cli", 0)]).is_empty());
    let over = check_unwraps(&sources, &[("net", 3)]);
    assert!(over[0].contains("4 unwraps") && over[0].contains("src/net/y.rs (2)"), "{over:?}");
}

#[test]
fn documents_that_lag_are_found() {
    assert_eq!(missing_codes("| 1 | `Internal` |").len(), Kind::ALL.len() - 1);
    assert!(missing_codes("| 3 | `Internal` |").contains(&"| 1 | `Internal` |".to_owned()));
    assert_eq!(
        uncommented("# all\n[a]\n# one\nb = 1\nc = 2\n# three\n# lines\nd = 3\n[e]\nf = 1"),
        ["c", "f"]
    );
}

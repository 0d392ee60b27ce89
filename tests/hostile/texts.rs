//! Files and answers that people, other programs and full disks have damaged: graph files, configurations,
//! scheduler files, manifests, what batch systems say. Each is understood or refused in words.

use crate::support::repository;
use crate::{damage, fuzz};
use hpcdag::base::error::Error;
use hpcdag::config::{Config, Sources};
use hpcdag::graph::diagnostic::Source;
use hpcdag::graph::file::{Format, parse};
use hpcdag::graph::{Options, Origin, Packed};
use hpcdag::launch::dialect::{grid_engine, pbs, slurm};
use hpcdag::launch::slurm::hostlist;
use hpcdag::net::address::{Address, PortRange};
use hpcdag::net::scheduler_file::{self, SchedulerFile};
use hpcdag::protocol::credentials::ClusterCredentials;
use std::path::Path;

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(repository().join(path.as_ref())).expect("it is in the repository")
}

/// Words that mean something somewhere.
const WORDS: &[&str] = &[
    "\"all\"",
    "\"each\"",
    "{ window = [-1, 1] }",
    "{ tree = 0 }",
    "{ tree = 16 }",
    "{ group = 3 }",
    "-1",
    "1e400",
    "\"128 MiB\"",
    "\"{index}\"",
    "\"{in.a}\"",
    "{ range = [0, 4294967295] }",
    "{ range = [5, -5, -1] }",
    "{}",
    "[]",
    "{ matrix = { a = [1, 2], b = [3] } }",
    "{ same-as = \"a\" }",
    "\"{item.x}\"",
    "\u{feff}",
    "nan",
    "'''",
    "\\",
    "[[",
    "{ range = [0, 65536] }",
    "\"broadcast\"",
    "true",
    "2026-11-19",
    "\"1h30m\"",
    "\"\"",
];

const GRAPH: &str = r#"
version = 1
params = { n = 4, day = "x" }
[env.e]
setup = ["export A=1"]
[task.a]
for-each = { range = [0, 24] }
shell = "echo {item} {day}"
memory = "1 GiB"
retries = 2
use = "e"
[task.b]
from = { a = { window = [-1, 1], edge = "clip" } }
argv = ["cat", "{inputs...}"]
outputs = { field = { path = "out{index}.h5", in-place = true } }
time-limit = "10m"
[task.c]
from = { b = { tree = 16 } }
shell = "cat {inputs.list}"
nthreads = 0.5
[task.d]
for-each = { matrix = { re = [100, 200], dt = [0.001, 0.01] } }
from = { c = "broadcast", a = "all" }
shell = "solve {item.re} {item.dt}"
resources = { licence = 1 }
[output]
c = "sum.txt"
d = { path = "out/{index}.txt", skip-empty = true }
"#;

fn fits_a_person(e: &Error) {
    assert!(!e.message.trim().is_empty());
    assert!(e.message.len() < 20_000, "{} bytes of complaint", e.message.len());
}

#[test]
fn damaged_graph_files() {
    let directory = tempfile::tempdir().expect("a directory");
    let origin = Origin { name: "g".into(), base_dir: directory.path().into(), umask: 0o022 };
    let good = Source { name: "g.toml".into(), text: GRAPH.into() };
    let graph = parse(&good, Format::Toml, &origin, &Options::default()).expect("a good graph");
    let json =
        serde_json::to_string_pretty(&toml::from_str::<toml::Value>(GRAPH).expect("TOML")).expect("JSON");
    let taken = std::cell::Cell::new(0);
    fuzz(3_000, |rng| {
        let (format, text) =
            if rng.u32(..4) == 0 { (Format::Json, &json[..]) } else { (Format::Toml, GRAPH) };
        let source = Source { name: "g".into(), text: damage::text(rng, text, WORDS) };
        match parse(&source, format, &origin, &Options::default()) {
            Ok(graph) => {
                taken.set(taken.get() + 1);
                graph.validate().unwrap_or_else(|e| panic!("{e}\n{}", source.text));
            }
            Err(e) => fits_a_person(&e),
        }
    });
    assert!(graph.validate().is_ok() && taken.get() < 3_000);
}

/// Graphs that clients have made or changed: the scheduler checks them again before anything is done with
/// them.
#[test]
fn damaged_graphs_from_clients() {
    let directory = tempfile::tempdir().expect("a directory");
    let origin = Origin { name: "g".into(), base_dir: directory.path().into(), umask: 0o022 };
    let source = Source { name: "g.toml".into(), text: GRAPH.into() };
    let good = parse(&source, Format::Toml, &origin, &Options::default()).expect("a good graph");
    let good = Packed::new(good).expect("it can be packed");
    let bytes = rmp_serde::to_vec(&good).expect("it can be said");
    let taken = std::cell::Cell::new(0);
    fuzz(4_000, |rng| {
        let mut damaged = bytes.clone();
        damage::bytes(rng, &mut damaged);
        let Ok(graph) = rmp_serde::from_slice::<Packed>(&damaged) else { return };
        let mut shapes = Vec::new();
        let valid = graph.validate(|family, _| {
            shapes.push(family.shape());
            Ok(())
        });
        // What is refused must not be in the way either.
        for (family, shape) in (0..).map(hpcdag::base::ids::FamilyIx).zip(&shapes) {
            let Some(shape) = shape else { continue };
            for element in [0, shape.exports().saturating_sub(1)] {
                let key = graph.key(family, element, *shape);
                let _ = graph.parse_key(&key, |f| shapes.get(f.index()).copied().flatten());
            }
        }
        taken.set(taken.get() + usize::from(valid.is_ok()));
    });
    assert!(taken.get() < 3_000, "{}", taken.get());
}

#[test]
fn damaged_configurations() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("config.toml");
    let texts =
        [read("config/default.toml"), read("config/site-cray.toml"), read("config/site-pbs-pro.toml")];
    fuzz(600, |rng| {
        let at = rng.usize(..texts.len());
        let text = damage::text(rng, &texts[at], WORDS);
        std::fs::write(&path, text).expect("written");
        let sources = Sources { site_file: Some(path.clone()), ..Sources::none() };
        if let Err(e) = Config::load(&sources, &[]) {
            fits_a_person(&e);
        }
    });
}

#[test]
fn damaged_scheduler_files() {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("s.json");
    let cluster = ClusterCredentials::create("abc").expect("credentials");
    let file =
        SchedulerFile::new(&cluster, Address { host: "127.0.0.1".into(), port: 9 }, 1).expect("a file");
    let text = serde_json::to_string_pretty(&file).expect("JSON");
    fuzz(1_000, |rng| {
        let text = damage::text(rng, &text, &["null", "0", "\"tls://\"", "[]", "{}", "99999999999999999999"]);
        let _ = std::fs::remove_file(&path);
        let created = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        std::io::Write::write_all(&mut created.expect("a file"), text.as_bytes()).expect("written");
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        match scheduler_file::read(&path) {
            Ok(file) => {
                // Its credentials may be damaged all the same.
                let _ = file.role_credentials(hpcdag::protocol::credentials::Role::Worker);
            }
            Err(e) => fits_a_person(&e.into()),
        }
    });
}

#[test]
fn damaged_manifests() {
    let directory = tempfile::tempdir().expect("a directory");
    let origin = Origin { name: "g".into(), base_dir: directory.path().into(), umask: 0o022 };
    let source = Source { name: "g.toml".into(), text: GRAPH.into() };
    let graph = parse(&source, Format::Toml, &origin, &Options::default()).expect("a good graph");
    let path = directory.path().join("manifest.jsonl");
    let line = r#"{"key":"c","fingerprint":"00ff","path":"sum.txt","bytes":3,"checksum":7}"#;
    fuzz(400, |rng| {
        let lines = [line, "", line, "{}"].map(|l| damage::text(rng, l, WORDS)).join("\n");
        std::fs::write(&path, lines).expect("written");
        match hpcdag::client::resume::rest(graph.clone(), &path, directory.path()) {
            // Nothing of what a damaged line says is believed: no file is there.
            Ok(rest) => assert_eq!(rest.kept, 0),
            Err(e) => fits_a_person(&e),
        }
    });
}

#[test]
fn damaged_answers_of_batch_systems() {
    let squeue = "4711|4711|RUNNING|None|2|2026-11-21T06:01:21|2026-11-21T08:01:21|hpcdag-abc\n\
        4712_[0-3]|4712|PENDING|Resources|1|N/A|N/A|hpcdag-abc\n";
    fuzz(2_000, |rng| {
        let text = damage::text(rng, squeue, &["|", "||||||||||", "CG", "4712_[0-4294967295]"]);
        let _ = slurm::from_squeue(&text);
        let _ = slurm::from_scontrol(&text.replace('|', " JobState="));
        let _ = pbs::from_text(&text.replace('|', " = "));
        let _ = pbs::from_json(&text);
        let _ = grid_engine::from_xml(&text.replace('|', "</x><job_list>"));
        let _ = grid_engine::from_accounting(&text.replace('|', ":"));
        let hosts =
            damage::text(rng, "n[1-3,07-09],gpu[01-02]x[3-4]", &["[", "]", "[1-", "1-99999999999", "-"]);
        // As a rule of Slurm's there are at most 64 Ki nodes; what claims more must be refused, not expanded.
        if let Ok(hosts) = hostlist::parse(&hosts) {
            assert!(hosts.len() <= 1 << 17, "{}", hosts.len());
        }
        let _ = damage::text(rng, "tls://10.0.0.1:40000", &[":", "[::1]"]).parse::<Address>();
        let _ = damage::text(rng, "40000-41000", &["-", "0", "65536"]).parse::<PortRange>();
    });
}

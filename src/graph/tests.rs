//! Tests of graph files as a whole: the reference's examples, messages word by word, sizes on the wire.

use super::build::{Options, Origin};
use super::diagnostic::Source;
use super::file::{self, Format};
use super::items::{Item, Items};
use super::layer::Pattern;
use super::{Graph, check_report, expansion};
use crate::base::error::{Kind, Result};
use crate::base::ids::FamilyIx;
use std::path::{Path, PathBuf};

fn origin(dir: &Path) -> Origin {
    Origin { name: "g".into(), base_dir: dir.to_path_buf(), umask: 0o022 }
}

fn try_with(text: &str, options: &Options) -> Result<Graph> {
    let source = Source { name: "g.toml".into(), text: text.into() };
    file::parse(&source, Format::Toml, &origin(Path::new("/base")), options)
}

fn try_toml(text: &str) -> Result<Graph> {
    try_with(&format!("version = 1\n{text}"), &Options::default())
}

pub(super) fn toml(text: &str) -> Graph {
    try_toml(text).unwrap_or_else(|e| panic!("{e}"))
}

/// The message for a wrong file; lines count from the `version = 1` before it.
fn message(text: &str) -> String {
    let error = try_toml(text).expect_err(text);
    assert_eq!(error.kind, Kind::Graph, "{error}");
    error.message
}

fn title(text: &str) -> String {
    message(text).lines().next().unwrap_or_default().to_string()
}

/// The fenced blocks of a page: language and text.
fn blocks(page: &str) -> Vec<(String, String)> {
    let mut out: Vec<(String, String)> = Vec::new();
    let mut open = false;
    for line in page.lines() {
        match (line.strip_prefix("```"), open) {
            (Some(language), false) => out.push((language.to_string(), String::new())),
            (Some(_), true) => {}
            (None, true) => {
                if let Some((_, text)) = out.last_mut() {
                    text.push_str(line);
                    text.push('\n');
                }
            }
            (None, false) => continue,
        }
        open ^= line.starts_with("```");
    }
    out
}

#[test]
fn the_reference_is_true() {
    let page = include_str!("../../docs/graph-file.md");
    let (mut last, mut examples, mut expansions) = (None, 0, 0);
    for (language, text) in blocks(page) {
        match language.as_str() {
            "toml" => {
                last = Some(try_with(&text, &Options::default()).unwrap_or_else(|e| panic!("{text}\n{e}")));
                examples += 1;
            }
            "expansion" => {
                let graph = last.take().expect("an expansion follows its example");
                assert_eq!(expansion(&graph, 1000), text);
                expansions += 1;
            }
            other => panic!("a block of language {other:?}"),
        }
    }
    assert!(examples >= 8 && expansions >= 7, "{examples} {expansions}");
}

#[test]
fn the_reference_names_every_key() {
    let page = include_str!("../../docs/graph-file.md");
    for key in super::decode_task::TASK_KEYS {
        assert!(page.contains(&format!("`{key}`")), "{key} is not in docs/graph-file.md");
    }
}

#[test]
fn json_is_the_same_schema() {
    let text = r#"{"version": 1, "task": {
        "a": {"for-each": {"range": [0, 3]}, "argv": ["echo", "{item}"]},
        "b": {"from": {"a": {"group": 2}}, "shell": "cat"}}}"#;
    let source = Source { name: "g.json".into(), text: text.into() };
    let json = file::parse(&source, Format::Json, &origin(Path::new("/base")), &Options::default()).unwrap();
    let same = toml(
        "task.a = { for-each = { range = [0, 3] }, argv = [\"echo\", \"{item}\"] }\n\
         task.b = { from = { a = { group = 2 } }, shell = \"cat\" }\n",
    );
    assert_eq!(json, same);
}

#[test]
fn the_report_shows_sizes_and_edges() {
    let graph = toml(
        "[task.day]\nfor-each = { range = [0, 17] }\nargv = ['x']\n\
         [task.merge]\nfrom = { day = { tree = 4 } }\nargv = ['x']\n\
         [task.pack]\nfrom = { day = { group-bytes = '1M' } }\nafter = 'merge'\nargv = ['x']\n\
         [output]\nmerge = { path = 'm', skip-empty = true }\n",
    );
    let expected = "\
day    17 tasks  day[0] .. day[16]
merge   8 tasks  merge[0,0] .. merge[2,0]  from day (tree 4)
pack    follows  pack[?]                   from day (group-bytes 1048576); after merge (all)
total: 25 tasks, and a family whose size follows while running (1)
output: merge -> m
";
    assert_eq!(check_report(&graph), expected);
    let json = super::check_json(&graph);
    assert_eq!(json["tasks"], 25);
    assert_eq!(json["families"][1]["last"], "merge[2,0]");
    assert_eq!(json["families"][2]["tasks"], serde_json::Value::Null);
    assert_eq!(graph.expanded_sizes(), [Some(17), Some(8), None]);
}

#[test]
fn a_million_tasks_are_a_small_message() {
    let graph = toml(
        "[task.a]\nfor-each = { range = [0, 1000000] }\nnative = 'noop'\n\
         [task.b]\nfor-each = { matrix = { x = { range = [0, 10] }, y = [1, 2] } }\nargv = ['x']\n\
         [task.c]\nfor-each = { same-as = 'a' }\nfrom = 'a'\nargv = ['echo', '{item}']\n",
    );
    let bytes = rmp_serde::to_vec_named(&graph.families[0]).unwrap();
    assert!(bytes.len() < 1024, "{}", bytes.len());
    let bytes = rmp_serde::to_vec_named(&graph.families[2]).unwrap();
    assert!(bytes.len() < 1024, "{}", bytes.len());
    let whole = rmp_serde::to_vec(&graph).unwrap();
    assert_eq!(rmp_serde::from_slice::<Graph>(&whole).unwrap(), graph);
    assert_eq!(graph.item(FamilyIx(2), 999_999), Item::Text("999999".into()));
}

#[test]
fn keys_and_back() {
    let graph = toml(
        "[task.one]\nargv = ['x']\n\
         [task.day]\nfor-each = { range = [10, 31, 2] }\nargv = ['x']\n\
         [task.v]\nfor-each = { values = ['p', 'q'] }\nargv = ['x']\n\
         [task.m]\nfor-each = { matrix = { a = ['x,y', ']', '\\'], b = [\"l\\nm\", '='] } }\nargv = ['x']\n\
         [task.t]\nfrom = { day = { tree = 3 } }\nargv = ['x']\n\
         [task.e]\nfrom = { day = 'each' }\nargv = ['x']\n\
         [task.late]\nfrom = { day = { group-bytes = '1M' } }\nargv = ['x']\n",
    );
    let shapes = graph.shapes();
    let mut seen = std::collections::BTreeSet::new();
    for (f, shape) in shapes.iter().enumerate() {
        let Some(shape) = shape else { continue };
        for element in 0..shape.total {
            let key = graph.key(FamilyIx(f as u32), element, *shape);
            assert!(!key.contains('\n'));
            assert_eq!(graph.parse_key(&key, &shapes), Ok((FamilyIx(f as u32), Some(element))), "{key}");
            assert!(seen.insert(key));
        }
    }
    assert!(
        seen.contains("day[30]") && seen.contains("e[30]") && seen.contains("t[2,0]") && seen.contains("one")
    );
    assert!(seen.contains(r"m[a=x\,y,b=l\nm]"), "{seen:?}");
    assert_eq!(graph.parse_key("day", &shapes), Ok((FamilyIx(1), None)));
    assert_eq!(graph.parse_key("late[77]", &shapes), Ok((FamilyIx(6), Some(77))));
    let bad = [
        "day[11]",
        "day[32]",
        "day[8]",
        "v[2]",
        "v[01]",
        "v[-1]",
        "v[+1]",
        "m[a=x]",
        "m[0]",
        "t[3,0]",
        "t[0,4]",
        "t[0]",
        "one[0]",
        "nine",
        "day[",
        "day[1",
        "day]",
        "",
        "v[]",
        "v[99999999999]",
    ];
    for key in bad {
        let error = graph.parse_key(key, &shapes).expect_err(key);
        assert_eq!(error.kind, Kind::NotFound, "{key}");
    }
    let error = graph.parse_key("day[11]", &shapes).unwrap_err();
    assert_eq!(error.to_string(), "`day` has no element `[11]`\n  its keys go from `day[10]` to `day[30]`");
    assert_eq!(graph.parse_key("dey", &shapes).unwrap_err().hint.as_deref(), Some("did you mean `day`?"));
}

/// Level and position must agree with the levels that edges are made of.
#[test]
fn tree_keys_follow_the_levels() {
    for fan_in in 2..6 {
        for n in 1..70 {
            let mut graph = toml(
                "[task.a]\nfor-each = { range = [0, 2] }\nargv = ['x']\n\
                                  [task.t]\nfrom = { a = { tree = 2 } }\nargv = ['x']\n",
            );
            let pattern = Pattern::Tree { fan_in };
            let shape = pattern.shape(n).unwrap();
            graph.families[1].layer.edges[0].pattern = pattern;
            let starts = super::layer::tree_levels(n, fan_in);
            for element in 0..shape.total {
                let level = starts[..starts.len() - 1].iter().rposition(|s| *s <= element).unwrap();
                let expected = format!("t[{level},{}]", element - starts[level]);
                assert_eq!(graph.key(FamilyIx(1), element, shape), expected);
            }
        }
    }
}

#[test]
fn messages_show_the_line() {
    assert_eq!(
        message("[task.a]\nargv = ['x']\nforeach = { range = [0, 3] }\n"),
        "\
a task has no key `foreach`
 --> g.toml:4:1
  |
4 | foreach = { range = [0, 3] }
  | ^^^^^^^ did you mean `for-each`?"
    );
    assert_eq!(
        message(
            "[task.a]\nfor-each = { range = [0, 5] }\nargv = ['x']\n\
             [task.b]\nfor-each = { range = [0, 3] }\nfrom = { a = 'each' }\nargv = ['x']\n"
        ),
        "\
`b` has 3 elements, but `each` over 5 elements of `a` gives 5
 --> g.toml:7:14
  |
6 | for-each = { range = [0, 3] }
  |            ------------------ `b` gets its size here
7 | from = { a = 'each' }
  |              ^^^^^^ expected equal sizes"
    );
    assert_eq!(
        message("[task.a]\nargv = ['x']\nshell = 'y'\n"),
        "\
the task `a` says twice what to run
 --> g.toml:4:1
  |
3 | argv = ['x']
  | ---- the first is here
4 | shell = 'y'
  | ^^^^^ expected only one of `argv`, `shell` and `native`"
    );
    assert_eq!(
        message(
            "[task.a]\nfor-each = { matrix = { re = [1], dt = [2] } }\nshell = \"x {index} {item.rr}\"\n"
        ),
        "\
unknown value of the matrix `rr`
 --> g.toml:4:20
  |
4 | shell = \"x {index} {item.rr}\"
  |                    ^^^^^^^^^ did you mean `re`?"
    );
    assert_eq!(
        message("[task.a\n"),
        "\
this is not TOML: unclosed table, expected `]`
 --> g.toml:2:8
  |
2 | [task.a
  |        ^ here"
    );
}

#[test]
fn several_faults_are_shown_together() {
    let text = message("[task.a]\nargv = 'x'\nretries = -1\n[task.b]\n");
    let titles: Vec<&str> = text.split("\n\n").filter_map(|b| b.lines().next()).collect();
    assert_eq!(
        titles,
        ["a string cannot stand here", "this number cannot stand here", "the task `b` says nothing to run"]
    );
}

#[test]
fn cycles_are_printed() {
    let text = message(
        "[task.a]\nfrom = 'c'\nargv = ['x']\n[task.b]\nfrom = 'a'\nargv = ['x']\n[task.c]\n\
         after = 'b'\nargv = ['x']\n\
         [task.d]\nfrom = 'c'\nargv = ['x']\n",
    );
    assert_eq!(text.lines().next(), Some("the tasks depend on each other in a circle: a -> b -> c -> a"));
    assert_eq!(
        title("[task.a]\nfrom = 'a'\nargv = ['x']\n"),
        "the tasks depend on each other in a circle: a -> a"
    );
}

const X: &str = "argv = ['x']\n";

/// A family `a` of four.
const FAMILY: &str = "[task.a]\nfor-each = { range = [0, 4] }\nargv = ['x']\n";

fn check_titles<const N: usize>(cases: [(String, &str); N]) {
    for (text, expected) in cases {
        assert_eq!(title(&text), expected, "{text}");
    }
}

#[test]
fn a_file_says_its_version() {
    let error = try_with("[task.a]\nargv = ['x']\n", &Options::default()).unwrap_err();
    assert!(error.message.starts_with("the graph file does not say its version"), "{error}");
}

#[test]
fn faults_in_names() {
    check_titles([
        (format!("[task.a]\n{X}from = ['b', 'b']\n[task.b]\n{X}"), "`b` stands here twice"),
        (format!("[task.a]\n{X}from = 'bb'\n[task.bbb]\n{X}"), "unknown task `bb`"),
        (format!("[task.a]\n{X}use = 'e'\n"), "unknown environment `e`"),
        (format!("params = {{ a = 1 }}\n[task.a]\n{X}"), "`a` is both a task and a parameter"),
        (
            format!("params = {{ item = 1 }}\n[task.a]\n{X}"),
            "a parameter cannot be called `item`: `{item}` means something else",
        ),
    ]);
}

#[test]
fn faults_in_connections() {
    check_titles([
        (
            format!("{FAMILY}[task.b]\nfrom = 'a'\n{X}"),
            "`a` is a family, and nothing says how its elements connect",
        ),
        (
            format!("{FAMILY}[task.b]\nfrom = {{ a = 'broadcast' }}\n{X}"),
            "`a` is a family, and only a single result can be broadcast",
        ),
        (format!("{FAMILY}[task.b]\nfrom = {{ a = {{ tree = 1 }} }}\n{X}"), "this number cannot stand here"),
        (format!("{FAMILY}[task.b]\nfrom = {{ a = {{ window = [1, -1] }} }}\n{X}"), "this is not a window"),
        (
            format!("{FAMILY}[task.b]\nfrom = {{ a = {{ group = 2, edge = 'wrap' }} }}\n{X}"),
            "only windows have an edge",
        ),
        (
            format!("{FAMILY}[task.b]\nfrom = {{ a = {{ group = 2, tree = 2 }} }}\n{X}"),
            "this says more than once how the elements of `a` connect",
        ),
        (
            format!(
                "{FAMILY}[task.b]\nfor-each = {{ range = [0, 2] }}\nfrom = {{ a = {{ tree = 2 }} }}\n{X}"
            ),
            "`tree 2` makes its own elements and cannot stand with `for-each`",
        ),
        (
            format!("{FAMILY}[task.b]\nafter = {{ a = {{ group = 3 }} }}\n{X}"),
            "`b` has 1 element, but `group 3` over 4 elements of `a` gives 2",
        ),
        (
            format!(
                "{FAMILY}[task.g]\nfrom = {{ a = {{ group-bytes = '1M' }} }}\n{X}\
                 [task.b]\nfrom = {{ g = 'each', a = 'each' }}\n{X}"
            ),
            "the elements of `b` and of `a` cannot be matched: one of the numbers is known only \
             once groups by bytes are formed",
        ),
        (
            format!(
                "{FAMILY}[task.g]\nfrom = {{ a = {{ group-bytes = '1M' }} }}\n{X}\
                 [task.h]\nfrom = {{ a = {{ group-bytes = '1M' }} }}\n{X}\
                 [task.b]\nfrom = {{ g = {{ group = 2 }}, h = 'each' }}\n{X}"
            ),
            "the elements of `b` and of `h` cannot be matched: one of the numbers is known only \
             once groups by bytes are formed",
        ),
    ]);
}

#[test]
fn faults_in_placeholders() {
    check_titles([
        (
            format!("[task.a]\n{X}[on]\nsuccess = 'echo {{key}}'\n"),
            "a hook belongs to no task: only parameters can stand in its braces",
        ),
        ("[task.a]\nargv = ['{item}']\n".into(), "there is no item here: the task has no list of elements"),
        ("[task.a]\nargv = ['{in.b}']\n".into(), "unknown input `b`"),
        ("[task.a]\nargv = ['{out.b}']\n".into(), "unknown output `b`"),
        (
            format!("[task.b]\n{X}outputs = {{ f = 'f' }}\n[task.a]\nfrom = 'b'\nargv = ['{{in.b.g}}']\n"),
            "unknown output of `b` `g`",
        ),
        (
            format!("[task.b]\n{X}[task.a]\nfrom = 'b'\nargv = ['x={{inputs...}}']\n"),
            "`{inputs...}` is several arguments and cannot be part of one",
        ),
    ]);
}

#[test]
fn faults_in_output_paths() {
    check_titles([
        (format!("[task.a]\n{X}outputs = {{ f = '../f' }}\n"), "`../f` is not inside the task's directory"),
        (format!("[task.a]\n{X}outputs = {{ f = '/f' }}\n"), "`/f` is not inside the task's directory"),
        (format!("{FAMILY}[output]\na = 'out.txt'\n"), "all elements of `a` would write the same file"),
        (format!("{FAMILY}[output]\na = 'o{{indx}}'\n"), "unknown placeholder `indx`"),
        (
            format!("[task.a]\n{X}[task.b]\n{X}[output]\na = 'o'\nb = './p/../o'\n"),
            "`a` and `b` would write the same file, /base/o",
        ),
        (
            format!(
                "[task.a]\nfor-each = {{ values = ['p/x.gz', 'q/x.gz'] }}\n{X}[output]\n\
                 a = 'o/{{item.stem}}'\n"
            ),
            "`a[0]` and `a[1]` would write the same file, /base/o/x",
        ),
        (
            format!(
                "[task.a]\n{X}outputs = {{ f = {{ path = 'big', in-place = true }} }}\n\
                 [task.b]\n{X}[output]\nb = 'big'\n"
            ),
            "`b` and `a` would write the same file, /base/big",
        ),
    ]);
}

#[test]
fn faults_in_lists_and_values() {
    check_titles([
        (format!("{FAMILY}args = 1\n"), "`args` are for native functions"),
        (
            format!("[task.a]\n{X}memory = 100\n"),
            "the size '100' has no unit; write 100M or 100G (powers of 1024), \
             100MB or 100GB (powers of 1000), or 100B for bytes",
        ),
        (
            "[task.a]\nargv = ['x']\nfor-each = { values = [] }\n".into(),
            "`a` has no elements: the list has no values",
        ),
        (
            "[task.a]\nargv = ['x']\nfor-each = { glob = 'none/*.gz' }\n".into(),
            "`a` has no elements: no file matches `none/*.gz`",
        ),
        (
            "[task.a]\nargv = ['x']\nfor-each = { range = [0, 5000000000] }\n".into(),
            "there are too many elements",
        ),
        (
            "[task.a]\nargv = ['x']\nfor-each = { matrix = { stem = [1] } }\n".into(),
            "an axis cannot be called `stem`: `{item.stem}` is part of a path",
        ),
        (
            "[task.a]\nargv = ['x']\nfor-each = { matrix = { a = { range = [0, 1000000] }, \
             b = { range = [0, 1000000] } } }\n"
                .into(),
            "there are too many elements",
        ),
        ("[task.'a.b']\nargv = ['x']\n".into(), "`a.b` cannot be the name of a task"),
        ("[task.a]\nargv = [\"x\\u0000\"]\n".into(), "a zero byte cannot be passed to programs"),
    ]);
}

#[test]
fn empty_lists_can_be_allowed() {
    let graph = toml(
        "[task.a]\nfor-each = { glob = 'none/*.gz', allow-empty = true }\nargv = ['x', '{item}']\n\
         [task.t]\nfrom = { a = { tree = 4 } }\nargv = ['x']\n[task.g]\n\
         from = { a = { group = 4 } }\nargv = ['x']\n\
         [output]\na = 'o/{item.stem}'\n",
    );
    assert_eq!(graph.expanded_sizes(), [Some(0), Some(1), Some(0)]);
    assert_eq!(expansion(&graph, 10), "t[0,0]\n");
}

#[test]
fn parameters_and_targets() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["mon_1.gz", "tue_1.gz", "tue_2.gz"] {
        std::fs::write(dir.path().join(name), "").unwrap();
    }
    let path = dir.path().join("web.toml");
    let text = "version = 1\nparams = { day = 'mon', n = 3 }\n\
        [task.logs]\nfor-each = { glob = '{day}_*.gz' }\nshell = 'zcat {item} | wc -l # {day}'\n\
        [task.sum]\nfrom = { logs = 'all' }\nargv = ['cat']\n\
        [task.other]\nfor-each = { glob = 'missing*' }\nargv = ['x']\n\
        [output]\nsum = 'out/{day}'\nother = 'o/{index}'\n";
    std::fs::write(&path, text).unwrap();
    let options = Options { params: vec![("day".into(), "tue".into())], targets: vec!["sum".into()] };
    let graph = file::load(&path, &options).unwrap();
    assert_eq!(graph.name, "web");
    assert_eq!(graph.expanded_sizes(), [Some(2), Some(1)]);
    assert_eq!(graph.item(FamilyIx(0), 1), Item::Text(dir.path().join("tue_2.gz").display().to_string()));
    assert_eq!(graph.outputs.len(), 1);
    let template = graph.output_template(&graph.outputs[0]).unwrap();
    let written = graph.output_path(&graph.outputs[0], &template, 0, "sum").unwrap();
    assert_eq!(written, dir.path().join("out/tue"));

    let wrong = Options { params: vec![("dya".into(), "x".into())], ..Options::default() };
    let error = file::load(&path, &wrong).unwrap_err();
    assert_eq!(error.to_string(), "the graph has no parameter `dya`\n  did you mean `day`?");
    let wrong = Options { targets: vec!["sums".into()], ..Options::default() };
    assert_eq!(file::load(&path, &wrong).unwrap_err().kind, Kind::Usage);
    assert_eq!(file::load(Path::new("/nowhere/g.toml"), &Options::default()).unwrap_err().kind, Kind::File);
}

#[test]
fn every_key_arrives() {
    let graph = toml(
        "[env.e]\nsetup = 'module load x'\nvars = { A = 1 }\n\
         [task.p]\nargv = ['x']\n\
         [task.a]\nfrom = { p = { all = true, as = 'x.nc' } }\nshell = 'y'\nuse = 'e'\n\
         cwd = 'd/{index}'\nnthreads = 2.5\n\
         gpus = 0.5\nresources = { lic = 2 }\nnodes = 2\nranks-per-node = 4\n\
         memory = ['1G', '2G']\noutput-size = '1K'\n\
         max-output = '2K'\nretries = 3\ntime-limit = '90s'\npriority = -2\nok-exit = [0, 5]\n\
         stdin = { file = 'f' }\n\
         env = { B = '{key}' }\noutputs = { f = { path = 'f.h5', in-place = true } }\n\
         [on]\nfailure = ['mail']\n",
    );
    let (layer, spec) = (&graph.families[1].layer, &graph.families[1].spec);
    assert_eq!((layer.slots, spec.nthreads), (25_000, 3));
    assert_eq!(
        layer.resources.iter().map(|(k, v)| (k.as_str(), *v)).collect::<Vec<_>>(),
        [("gpus", 5000), ("lic", 20_000)]
    );
    assert_eq!(spec.nodes, Some(super::spec::Nodes { count: 2, ranks: Some(4) }));
    assert_eq!((layer.nodes, spec.gpus), (2, 5000));
    assert_eq!(layer.memory, [1 << 30, 2 << 30]);
    assert_eq!((layer.output_size, spec.max_output), (Some(1024), Some(2048)));
    assert_eq!((layer.retries, layer.time_limit_ms, spec.time_limit_ms), (3, Some(90_000), Some(90_000)));
    assert_eq!((layer.priority, spec.ok_exit.as_slice()), (-2, &[0, 5][..]));
    assert_eq!(spec.stdin, super::spec::Stdin::File("f".into()));
    assert_eq!(spec.env["B"], "{key}");
    assert!(spec.outputs[0].in_place && spec.inputs[0].materialize);
    assert_eq!(spec.inputs[0].file_name.as_deref(), Some("x.nc"));
    assert_eq!(spec.setup.as_ref().map(|s| s.lines.as_slice()), Some(&["module load x".to_string()][..]));
    assert_eq!(spec.cwd.as_deref(), Some("d/{index}"));
    assert_eq!(spec.base_dir, PathBuf::from("/base"));
    assert!(graph.on_failure.is_some() && graph.on_success.is_none());
}

#[test]
fn families_come_after_what_they_need() {
    let graph = toml(
        "[task.z]\nfrom = { y = 'all' }\nargv = ['x']\n[task.y]\nfor-each = { same-as = 'x' }\nargv = ['x']\n\
         [task.x]\nfor-each = { range = [0, 2] }\nargv = ['x']\n",
    );
    let names: Vec<&str> = graph.families.iter().map(|f| f.spec.name.as_str()).collect();
    assert_eq!(names, ["x", "y", "z"]);
    assert_eq!(graph.families[1].items, Items::Same(FamilyIx(0)));
}

#[test]
fn many_single_tasks_build_quickly() {
    let mut text = String::from("{\"version\": 1, \"task\": {\"t0\": {\"argv\": [\"true\"]}");
    for i in 1..20_000 {
        text.push_str(&format!(", \"t{i}\": {{\"argv\": [\"true\"], \"from\": \"t{}\"}}", i - 1));
    }
    text.push_str("}}");
    let source = Source { name: "g.json".into(), text };
    let started = std::time::Instant::now();
    let graph = file::parse(&source, Format::Json, &origin(Path::new("/base")), &Options::default()).unwrap();
    assert_eq!(graph.families.len(), 20_000);
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
}

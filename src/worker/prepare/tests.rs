//! Whole tasks: from spec and inputs to parts, with real shells.

use super::*;
use crate::base::ids::RunId;
use crate::graph::spec::{Input, Nodes, Output, Setup};
use crate::worker::executor::native::NativeExecutor;
use crate::worker::executor::variables::Shared;
use std::collections::BTreeMap;
use std::path::PathBuf;

struct World {
    dir: tempfile::TempDir,
    runner: Runner,
}

fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("base")).unwrap();
    let facts = WorkerFacts {
        name: "w1".into(),
        scheduler_file: Some("/s.json".into()),
        local_directory: dir.path().join("local"),
        shell: ["bash", "-eo", "pipefail", "-c"].map(String::from).to_vec(),
        env: Arc::new(Shared::of(environment::task_environment(std::env::vars_os()))),
        umask: environment::own_umask(),
        host: "n1".into(),
        launcher: vec![],
        gpus: 0,
    };
    let runner = Runner::new(facts, CommandExecutor::default(), NativeExecutor::new(Arc::default()));
    World { dir, runner }
}

impl World {
    fn base(&self) -> PathBuf {
        self.dir.path().join("base")
    }

    fn spec(&self, action: Action) -> TaskSpec {
        TaskSpec {
            name: "t".into(),
            action,
            inputs: vec![],
            outputs: vec![],
            stdin: Stdin::Auto,
            env: BTreeMap::new(),
            setup: None,
            cwd: None,
            base_dir: self.base(),
            umask: self.runner.facts.umask,
            ok_exit: vec![0],
            max_output: None,
            time_limit_ms: None,
            memory: vec![],
            nthreads: 3,
            shell: vec![],
            nodes: None,
            gpus: 0,
            params: [("day".to_string(), "monday".to_string())].into(),
            kept: None,
            checkpoint: None,
        }
    }

    fn shell(&self, line: &str) -> TaskSpec {
        self.spec(Action::Shell(line.into()))
    }

    fn run_item(&self, spec: TaskSpec, item: Item, inputs: &[&[(&str, TaskResult)]]) -> Outcome {
        let own = |(key, result): &(&str, TaskResult)| (key.to_string(), Arc::new(result.clone()));
        let assignment = Assignment {
            task: TaskRef { run: RunId(1), index: 4 },
            attempt: Attempt { epoch: 1, n: 2 },
            key: "t[4]".into(),
            index: 4,
            tries: 0,
            item,
            family: Arc::new(Family::parse(spec).unwrap()),
            inputs: inputs.iter().map(|results| results.iter().map(own).collect()).collect(),
            nodes: vec![],
        };
        let outcome = self.runner.run(assignment, &Control::new().unwrap());
        let left = std::fs::read_dir(self.dir.path().join("local")).map_or(0, |entries| entries.count());
        assert_eq!(left, 0, "task directories left");
        outcome
    }

    fn run(&self, spec: TaskSpec, inputs: &[&[(&str, TaskResult)]]) -> Outcome {
        self.run_item(spec, Item::None, inputs)
    }
}

fn result(content: &[u8]) -> TaskResult {
    TaskResult::of(Data::of_bytes(bytes::Bytes::copy_from_slice(content)).unwrap())
}

fn input(producer: &str) -> Input {
    Input { producer: producer.into(), materialize: false, file_name: None }
}

fn output(name: &str, path: &str, in_place: bool) -> Output {
    Output { name: name.into(), path: path.into(), in_place }
}

fn part(outcome: &Outcome, name: &str) -> String {
    let result = outcome.result.as_ref().unwrap_or_else(|f| panic!("{f}: {f:?}"));
    String::from_utf8(result.find_part(name).unwrap().bytes().unwrap().to_vec()).unwrap()
}

fn said(outcome: Outcome) -> String {
    outcome.result.expect_err("it should fail").to_string()
}

#[test]
fn a_task_finds_its_variables() {
    let world = world();
    let names = "KEY INDEX ITEM ATTEMPT WORKER SCHEDULER_FILE PARAM_DAY";
    let line = format!(
        "for v in {names}; do w=HPCDAG_$v; echo ${{!w}}; done; echo $OMP_NUM_THREADS $MINE; pwd; \
                        [ $PWD = $HPCDAG_TASK_DIR ]; stat -c %a ."
    );
    let mut spec = world.shell(&line);
    spec.env.insert("MINE".into(), "{day}-{index}".into());
    let out = part(&world.run_item(spec, Item::Text("a b".into()), &[]), "");
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[..8], ["t[4]", "4", "a b", "2", "w1", "/s.json", "monday", "3 monday-4"]);
    assert!(lines[8].ends_with("local/task-1-4-1.2"), "{}", lines[8]);
    assert_eq!(lines[9], "700");
}

#[test]
fn inputs_come_on_stdin_unless_named() {
    let world = world();
    let large = vec![b'x'; 100_000];
    let inputs: &[&[(&str, TaskResult)]] =
        &[&[("a[0]", result(b"one\n")), ("a[1]", result(&large))], &[("b", result(b"two\n"))]];
    let with = |line: &str| TaskSpec { inputs: vec![input("a"), input("b")], ..world.shell(line) };
    assert_eq!(part(&world.run(with("wc -c"), inputs), "").trim(), "100008");
    // Named: stdin is empty, links are readable, and named so that people understand.
    let out =
        part(&world.run(with("cat; wc -c < {in.b}; cat {inputs...} | wc -c; cd inputs; ls"), inputs), "");
    assert_eq!(out, "4\n100008\na_0\na_1\nb\n");
    let lists = "cmp <(cat {inputs.list}) <(tr '\\0' '\\n' < {inputs.list0}); wc -l < {inputs.list}";
    assert_eq!(part(&world.run(with(lists), inputs), "").trim(), "3");
    let both = TaskSpec { stdin: Stdin::Inputs, ..with("wc -c; wc -c < {in.b}") };
    assert_eq!(part(&world.run(both, inputs), ""), "100008\n4\n");
    let none = TaskSpec { stdin: Stdin::Null, ..with("wc -c") };
    assert_eq!(part(&world.run(none, inputs), ""), "0\n");
    std::fs::write(world.base().join("f.4"), "file").unwrap();
    let file = TaskSpec { stdin: Stdin::File("f.{index}".into()), ..with("cat") };
    assert_eq!(part(&world.run(file, inputs), ""), "file");
}

#[test]
fn inputs_can_be_real_files_with_real_names() {
    let world = world();
    let large = vec![b'x'; 100_000];
    let mut spec = world.shell(
        "cat; for f in m.nc s.0.nc s.1.nc; do [ -f $f ] && [ ! -L $f ]; wc -c < $f; done; \
                                echo y >> m.nc; basename {in.a}",
    );
    let named = |producer, name: &str| Input { file_name: Some(name.into()), ..input(producer) };
    spec.inputs = vec![named("a", "m.nc"), named("b", "s.nc")];
    let inputs: &[&[(&str, TaskResult)]] =
        &[&[("a", result(&large))], &[("b[0]", result(b"1")), ("b[1]", result(b"22"))]];
    assert_eq!(part(&world.run(spec.clone(), inputs), ""), "100000\n1\n2\nm.nc\n");
    assert_eq!(inputs[0][0].1.nbytes(), 100_000, "the task wrote into its own copy");
    spec.inputs[0].file_name = Some("../m.nc".into());
    assert!(said(world.run(spec, inputs)).contains("must lie in the task's directory"));
}

#[test]
fn two_inputs_of_one_key_do_not_clash() {
    let world = world();
    let spec = TaskSpec { inputs: vec![input("a"), input("b")], ..world.shell("cat {inputs...}; ls inputs") };
    let inputs: &[&[(&str, TaskResult)]] = &[&[("x/y", result(b"1"))], &[("x_y", result(b"2"))]];
    assert_eq!(part(&world.run(spec, inputs), ""), "12x_y\nx_y~2\n");
}

#[test]
fn named_outputs_are_collected_and_missing_ones_told() {
    let world = world();
    let mut spec = world.shell("echo log; echo field > {out.field}; head -c 100000 /dev/zero > big.bin");
    spec.outputs = vec![output("field", "sub/{index}.h5", false), output("big", "big.bin", false)];
    let outcome = world.run(spec.clone(), &[]);
    assert_eq!((part(&outcome, "").as_str(), part(&outcome, "field").as_str()), ("log\n", "field\n"));
    assert!(matches!(outcome.result.unwrap().find_part("big"), Some(Data::File(_))));
    spec.outputs.push(output("none", "none.txt", false));
    let failure = world.run(spec, &[]).result.unwrap_err();
    assert_eq!(failure.to_string(), "it did not make its output `none` (none.txt)");
    assert!(failure.command.starts_with("echo log;"));
}

#[test]
fn in_place_outputs_appear_when_accepted() {
    let world = world();
    let mut spec = world.shell("echo new > {out.f}; [ $HPCDAG_OUT_F = {out.f} ]; echo ${HPCDAG_OUT_F##*.}");
    spec.outputs = vec![output("f", "deep/{index}.nc", true)];
    let path = world.base().join("deep/4.nc");
    let mut outcome = world.run(spec.clone(), &[]);
    assert_eq!(part(&outcome, ""), "nc\n");
    assert!(!path.exists());
    let unpublished = std::mem::take(&mut outcome.unpublished);
    for pending in unpublished {
        pending.publish().unwrap();
    }
    assert_eq!(part(&outcome, "f"), "new\n");
    assert_eq!(std::fs::read_dir(world.base().join("deep")).unwrap().count(), 1);
    // Downstream it is a link to the file itself; changed, it is refused.
    let result = outcome.result.unwrap();
    let next = TaskSpec { inputs: vec![input("t")], ..world.shell("readlink {in.t.f}") };
    let out = world.run(next.clone(), &[&[("t[4]", result.clone())]]);
    assert_eq!(part(&out, "").trim(), path.to_str().unwrap());
    std::fs::write(&path, "changed").unwrap();
    assert!(said(world.run(next, &[&[("t[4]", result)]])).contains("has changed since"));
    // Failed: nothing is left beside.
    spec.action = Action::Shell("echo new > {out.f}; exit 1".into());
    assert_eq!(said(world.run(spec, &[])), "exit status 1");
    assert_eq!(std::fs::read_dir(world.base().join("deep")).unwrap().count(), 1);
}

#[test]
fn pieces_of_files_have_files_of_their_own() {
    let world = world();
    std::fs::write(world.base().join("in.txt"), [vec![b'a'; 10], vec![b'b'; 100_000]].concat()).unwrap();
    for (offset, len) in [(8, 4), (10, 100_000)] {
        let item = Item::Block("in.txt".into(), offset, len);
        let out = part(&world.run_item(world.shell("wc -c < {item}; head -c 3 $HPCDAG_ITEM"), item, &[]), "");
        assert_eq!(out, if len == 4 { "4\naab" } else { "100000\nbbb" });
    }
    let item = Item::Block("in.txt".into(), 100_000, 100);
    let text = said(world.run_item(world.shell("cat {item}"), item, &[]));
    assert!(text.contains("in.txt") && text.contains("90 bytes too early"), "{text}");
}

#[test]
fn a_setup_is_sourced_once_and_its_failure_told() {
    let world = world();
    let lines = vec!["echo once >> sourced.log".to_string(), "export TOOL=\"a b\"; echo noise".into()];
    let vars = [("MORE".to_string(), "1".to_string())].into();
    let mut spec = world.shell("echo $TOOL $MORE $OMP_NUM_THREADS");
    spec.setup = Some(Setup { name: "x".into(), lines, vars });
    for _ in 0..3 {
        assert_eq!(part(&world.run(spec.clone(), &[]), ""), "a b 1 3\n");
    }
    assert_eq!(std::fs::read_to_string(world.base().join("sourced.log")).unwrap(), "once\n");
    spec.setup = Some(Setup {
        name: "y".into(),
        lines: vec!["echo module not found >&2; false".into(), "export A=1".into()],
        vars: BTreeMap::new(),
    });
    let text = said(world.run(spec, &[]));
    assert_eq!(text, "[env.y] cannot be set up: exit status 1: module not found");
}

#[test]
fn programs_run_without_a_shell_in_their_directory() {
    let world = world();
    let argv = |words: &[&str]| Action::Argv(words.iter().map(|w| w.to_string()).collect());
    let mut spec = world.spec(argv(&["printf", "%s|", "{item}", "$HOME", "{print $1}", "{inputs...}"]));
    spec.cwd = Some("made/{index}".into());
    let out = part(&world.run_item(spec, Item::Text("a 'b'".into()), &[]), "");
    assert_eq!(out, "a 'b'|$HOME|{print $1}|");
    assert!(world.base().join("made/4").is_dir());
    let mut site = world.spec(argv(&["sh", "-c", "echo \"$@\"", "x", "{mpirun}"]));
    site.nodes = Some(Nodes { count: 1, ranks: Some(2) });
    let mut world = world;
    world.runner.facts.launcher = ["run", "-n{ranks}", "{nodelist}"].map(String::from).to_vec();
    assert_eq!(part(&world.run(site.clone(), &[]), ""), "run -n2 n1\n");
    site.action = Action::Shell("echo $HPCDAG_NODES $HPCDAG_NODELIST; cat $HPCDAG_HOSTFILE".into());
    assert_eq!(part(&world.run(site, &[]), ""), "1 n1\nn1 slots=2\n");
}

#[test]
fn pipelines_fail_with_their_first_part_and_the_reason_counts() {
    let world = world();
    assert_eq!(said(world.run(world.shell("false | sort"), &[])), "exit status 1");
    let spec = world.shell("echo 'no data' > $HPCDAG_ERROR_FILE; exit 9");
    assert_eq!(said(world.run(spec, &[])), "exit status 9: no data");
}

#[test]
fn native_tasks_get_the_same_inputs() {
    let world = world();
    let action = Action::Native { function: "concat".into(), args: serde_json::Value::Null };
    let spec = TaskSpec { inputs: vec![input("a"), input("b")], ..world.spec(action) };
    let inputs: &[&[(&str, TaskResult)]] = &[&[("a", result(b"1"))], &[("b", result(b"2"))]];
    assert_eq!(part(&world.run(spec.clone(), inputs), ""), "12");
    assert!(said(world.run(spec, &[])).contains("0 inputs instead of 2"));
}

//! What is proved, and what runs again because of what.

use super::*;
use crate::base::ids::FamilyIx;
use crate::graph::file;
use std::fs;
use tempfile::TempDir;

const GRAPH: &str = r#"
version = 1
[task.a]
for-each = { range = [0, 6] }
stdin = { file = "in.txt" }
shell = "cat; echo {item}"
[task.b]
from = { a = "each" }
shell = "cat"
[task.c]
from = { b = "all" }
argv = ["wc", "-l"]
[output]
b = "b{index}.txt"
c = "c.txt"
"#;

type Ranges = Vec<(u32, u32)>;

struct World {
    dir: TempDir,
}

impl World {
    fn new(graph: &str) -> World {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("graph.toml"), graph).unwrap();
        fs::write(dir.path().join("in.txt"), "x\n").unwrap();
        World { dir }
    }

    fn graph(&self) -> Graph {
        file::load(&self.dir.path().join("graph.toml"), &crate::graph::Options::default()).unwrap()
    }

    fn checkpoint(&self) -> std::path::PathBuf {
        self.dir.path().join("checkpoint")
    }

    fn manifest(&self) -> std::path::PathBuf {
        self.dir.path().join("manifest.jsonl")
    }

    /// Writes outputs of elements and has them recorded.
    fn write(&self, done: &[(&str, u32)]) {
        let graph = self.graph();
        let rest = rest(graph.clone(), &self.manifest(), &self.checkpoint()).unwrap();
        let (destination, recording) = rest.recorder.split();
        for (name, element) in done {
            let family = graph.find(name).unwrap();
            let shape = graph.families[family.index()].shape().unwrap();
            let key = graph.key(family, *element, shape);
            for output in graph.outputs.iter().filter(|o| o.family == family) {
                let template = graph.output_template(output).unwrap();
                fs::write(graph.output_path(output, &template, *element, &key).unwrap(), &key).unwrap();
            }
            let output = crate::client::Output {
                task: crate::base::ids::TaskRef::default(),
                key,
                family,
                element: *element,
                index: *element,
                nbytes: 1,
                holders: Vec::new(),
            };
            assert!(!destination.wants(&output));
        }
        drop(destination);
        recording.finish().unwrap();
    }

    /// What is kept of each family: skipped and loaded.
    fn kept(&self) -> Vec<(Ranges, Ranges)> {
        let rest = rest(self.graph(), &self.manifest(), &self.checkpoint()).unwrap();
        let kept = rest.graph.families.iter().map(|f| f.spec.kept.clone().unwrap_or_default());
        kept.map(|kept| (kept.skip, kept.load)).collect()
    }
}

#[test]
fn what_was_written_is_not_made_again() {
    let world = World::new(GRAPH);
    assert_eq!(world.kept(), [(vec![], vec![]), (vec![], vec![]), (vec![], vec![])]);
    world.write(&[("b", 0), ("b", 1), ("b", 4)]);
    // c runs, so the results of b are wanted; those of a only where b runs.
    let some = vec![(0, 2), (4, 5)];
    assert_eq!(world.kept(), [(some.clone(), vec![]), (vec![], some), (vec![], vec![])]);
    world.write(&[("b", 2), ("b", 3), ("b", 5)]);
    assert_eq!(world.kept()[1], (vec![], vec![(0, 6)]));
    world.write(&[("c", 0)]);
    assert_eq!(world.kept(), [(vec![(0, 6)], vec![]), (vec![(0, 6)], vec![]), (vec![(0, 1)], vec![])]);
    // A line that was cut off is none, and does not spoil the next.
    let text = fs::read_to_string(world.manifest()).unwrap();
    fs::write(world.manifest(), &text[..text.len() - 20]).unwrap();
    assert_eq!(world.kept()[2], (vec![], vec![]));
    world.write(&[("c", 0)]);
    assert_eq!(world.kept()[2], (vec![(0, 1)], vec![]));
}

#[test]
fn what_is_doubtful_runs_again() {
    let world = World::new(GRAPH);
    let all: Vec<(&str, u32)> = (0..6).map(|i| ("b", i)).chain([("c", 0)]).collect();
    world.write(&all);
    let b1 = world.dir.path().join("b1.txt");
    // Another time and the same content is the same.
    fs::write(&b1, fs::read(&b1).unwrap()).unwrap();
    assert_eq!(world.kept()[1].0, [(0, 6)]);
    fs::write(&b1, "B[1]").unwrap();
    assert_eq!(world.kept()[1].0, [(0, 1), (2, 6)], "other content");
    fs::remove_file(&b1).unwrap();
    assert_eq!(world.kept()[1].0, [(0, 1), (2, 6)], "gone");
    world.write(&[("b", 1)]);
    assert_eq!(world.kept()[1].0, [(0, 6)]);
    // Everything depends on a file that has changed, or on another command.
    fs::write(world.dir.path().join("in.txt"), "other\n").unwrap();
    assert!(world.kept().iter().all(|(skip, load)| skip.is_empty() && load.is_empty()));
    let world = World::new(GRAPH);
    world.write(&all);
    fs::write(world.dir.path().join("graph.toml"), GRAPH.replace("\"wc\", \"-l\"", "\"wc\", \"-c\""))
        .unwrap();
    assert_eq!((world.kept()[2].0.len(), world.kept()[1].1.as_slice()), (0, [(0, 6)].as_slice()));
}

#[test]
fn results_that_were_not_written_are_made_again_for_those_that_need_them() {
    let graph = GRAPH.replace("shell = \"cat\"", "shell = \"tee {out.o}\"\noutputs = { o = \"o\" }");
    let world = World::new(&graph);
    world.write(&[("b", 0), ("b", 1)]);
    let kept = world.kept();
    assert_eq!(kept[1], (vec![], vec![]), "c might read an output that was not written");
    assert_eq!(kept[0], (vec![], vec![]));
}

#[test]
fn workers_write_and_the_client_is_told() {
    let world = World::new(GRAPH);
    let rest = rest(world.graph(), &world.manifest(), &world.checkpoint()).unwrap();
    let by = |by| {
        let found = rest.graph.outputs.iter().filter(move |o| o.by == Some(by));
        found.map(|o| o.family)
    };
    assert!(by(By::Worker).eq([FamilyIx(1), FamilyIx(2)]));
    assert!(by(By::Client).eq([FamilyIx(1), FamilyIx(2)]));
    rest.graph.validate().unwrap();
}

impl World {
    /// Writes results of elements into the checkpoint, as a worker that was given this graph does.
    fn store(&self, done: &[(&str, u32)]) {
        let graph = rest(self.graph(), &self.manifest(), &self.checkpoint()).unwrap().graph;
        fs::create_dir_all(self.checkpoint()).unwrap();
        let mut text = String::new();
        for (name, element) in done {
            let family = graph.find(name).unwrap();
            let shape = graph.families[family.index()].shape().unwrap();
            let Some(checkpoint) = graph.families[family.index()].spec.checkpoint.clone() else { continue };
            let path = checkpoint.directory.join(format!("{name}{element}"));
            fs::write(&path, format!("{name}{element}")).unwrap();
            let key = graph.key(family, *element, shape);
            let line = crate::graph::proof::Line::of(&key, &checkpoint.fingerprint, "", path, false).unwrap();
            text.push_str(&serde_json::to_string(&line).unwrap());
            text.push('\n');
        }
        fs::write(self.checkpoint().join("w.jsonl"), text).unwrap();
    }

    /// Elements of each family whose results are in the checkpoint and wanted.
    fn stored(&self) -> Vec<Vec<u32>> {
        let rest = rest(self.graph(), &self.manifest(), &self.checkpoint()).unwrap();
        let kept = rest.graph.families.iter().map(|f| f.spec.kept.clone().unwrap_or_default());
        kept.map(|kept| kept.stored.iter().map(|(element, _)| *element).collect()).collect()
    }
}

#[test]
fn a_checkpoint_is_loaded_where_it_is_wanted() {
    let world = World::new(GRAPH);
    // What is written as an output anyway is not stored a second time.
    world.store(&[("a", 0), ("a", 2), ("b", 1)]);
    assert_eq!(world.stored(), [vec![0, 2], vec![], vec![]]);
    world.write(&[("b", 0)]);
    assert_eq!(world.stored(), [vec![2], vec![], vec![]], "nobody needs a[0] any more");
    assert_eq!(world.kept()[0].0, [(0, 1)]);
    // Damaged, gone, or of another graph: made again.
    fs::write(world.checkpoint().join("a2"), "a?").unwrap();
    assert_eq!(world.stored()[0], [0u32; 0]);
    world.store(&[("a", 2), ("a", 3)]);
    assert_eq!(world.stored()[0], [2, 3]);
    fs::remove_file(world.checkpoint().join("a3")).unwrap();
    assert_eq!(world.stored()[0], [2]);
    fs::write(world.dir.path().join("in.txt"), "other\n").unwrap();
    assert_eq!(world.stored()[0], [0u32; 0]);
}

#[test]
fn a_chain_of_unwritten_stages_is_entered_in_the_middle() {
    let graph = GRAPH.replace("b = \"b{index}.txt\"\n", "");
    let world = World::new(&graph);
    world.store(&[("b", 1), ("b", 2), ("a", 4)]);
    let kept = world.kept();
    assert_eq!(world.stored(), [vec![4], vec![1, 2], vec![]]);
    assert_eq!(kept[0].0, [(1, 3)], "what was made of these is there");
}

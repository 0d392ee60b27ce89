//! The order of individual tasks against Dask's, on graphs that Dask made (`scripts/record-order.py`), and on
//! random ones. `docs/performance.md` has the table; here it is checked.

use hpcdag::graph::layer::Csr;
use hpcdag::graph::sequence::{Dag, peak_live, sequence};
use serde::Deserialize;
use std::path::Path;

#[derive(Deserialize)]
struct Recording {
    graph: String,
    tasks: usize,
    inputs: Vec<Vec<u32>>,
    rank: Vec<usize>,
}

impl Recording {
    fn dag(&self) -> Dag {
        dag(&self.inputs)
    }

    /// The tasks as Dask orders them.
    fn dask(&self) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.tasks as u32).collect();
        order.sort_by_key(|&i| self.rank[i as usize]);
        order
    }
}

fn dag(inputs: &[Vec<u32>]) -> Dag {
    let mut csr = Csr { offsets: vec![0], targets: Vec::new() };
    for row in inputs {
        csr.targets.extend(row);
        csr.offsets.push(csr.targets.len() as u32);
    }
    Dag::new(csr)
}

fn recordings() -> Vec<Recording> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings/order");
    let files = std::fs::read_dir(folder).expect("the recordings");
    let mut paths: Vec<_> = files.map(|f| f.expect("a file").path()).collect();
    paths.sort();
    let read = |p: &std::path::PathBuf| std::fs::read_to_string(p).expect("a recording");
    paths.iter().map(|p| serde_json::from_str(&read(p)).expect("a recording")).collect()
}

/// Every task once, after all of its inputs.
fn assert_topological(order: &[u32], dag: &Dag, what: &str) {
    let mut done = vec![false; dag.len()];
    for &i in order {
        assert!(dag.inputs(i).iter().all(|&j| done[j as usize]), "{what}: {i} comes before its inputs");
        assert!(!std::mem::replace(&mut done[i as usize], true), "{what}: {i} comes twice");
    }
    assert_eq!(order.len(), dag.len(), "{what}");
}

/// The same graph with its tasks numbered at random.
fn renumbered(recording: &Recording, random: &mut fastrand::Rng) -> Dag {
    let mut number: Vec<u32> = (0..recording.tasks as u32).collect();
    random.shuffle(&mut number);
    let mut inputs = vec![Vec::new(); recording.tasks];
    for (i, row) in recording.inputs.iter().enumerate() {
        inputs[number[i] as usize] = row.iter().map(|&j| number[j as usize]).collect();
    }
    dag(&inputs)
}

#[test]
fn no_more_results_are_alive_than_in_dasks_order() {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/performance.md");
    let document = std::fs::read_to_string(document).expect("the document");
    let (mut dasks, mut ours) = (0, 0);
    let all = recordings();
    assert!(all.len() >= 22, "{}", all.len());
    for recording in all {
        let dag = recording.dag();
        let (theirs, order) = (recording.dask(), sequence(&dag));
        assert_topological(&theirs, &dag, &recording.graph);
        assert_topological(&order, &dag, &recording.graph);
        let (theirs, peak) = (peak_live(&theirs, &dag), peak_live(&order, &dag));
        let row = format!("| {} | {} | {theirs} | {peak} |", recording.graph, recording.tasks);
        println!("{row}");
        assert!(peak * 10 <= theirs * 11 + 10, "{}: {peak} alive, in Dask's order {theirs}", recording.graph);
        assert!(document.contains(&row), "docs/performance.md lacks {row}");
        dasks += theirs;
        ours += peak;
    }
    assert!(ours * 10 <= dasks * 9, "{ours} alive, in Dask's order {dasks}");
}

/// How the tasks are numbered helps to choose, but the order does not depend on it alone.
#[test]
fn tasks_numbered_at_random_are_still_in_a_good_order() {
    let mut random = fastrand::Rng::with_seed(7);
    let (mut dasks, mut ours) = (0, 0);
    for recording in recordings() {
        dasks += peak_live(&recording.dask(), &recording.dag());
        let dag = renumbered(&recording, &mut random);
        let order = sequence(&dag);
        assert_topological(&order, &dag, &recording.graph);
        ours += peak_live(&order, &dag);
    }
    assert!(ours * 4 <= dasks * 5, "{ours} alive, in Dask's order {dasks}");
}

#[test]
fn random_graphs_are_in_an_order_that_is_better_than_as_written() {
    let (mut written, mut ours) = (0, 0);
    for seed in 0..400 {
        let mut random = fastrand::Rng::with_seed(seed);
        let n = random.usize(1..200);
        let (reach, fan) = (random.usize(1..60), random.usize(0..5));
        let inputs: Vec<Vec<u32>> = (0..n)
            .map(|i| {
                let near = |_| random.usize(i.saturating_sub(reach)..i.max(1)) as u32;
                let count = if i == 0 { 0 } else { fan };
                let mut row: Vec<u32> = (0..count).map(near).collect();
                row.sort_unstable();
                row.dedup();
                row
            })
            .collect();
        let dag = dag(&inputs);
        let order = sequence(&dag);
        assert_topological(&order, &dag, &format!("seed {seed}"));
        assert_eq!(order, sequence(&dag), "seed {seed}");
        written += peak_live(&(0..n as u32).collect::<Vec<_>>(), &dag);
        ours += peak_live(&order, &dag);
    }
    println!("{ours} alive, as written {written}");
    assert!(ours <= written, "{ours} alive, as written {written}");
}

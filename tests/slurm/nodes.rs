//! Tasks on several nodes: `{mpirun}` and a plain `srun` inside reach exactly these, beside other tasks, and
//! a lost node costs an attempt.

use super::testbed::{Testbed, text_after};

const GRAPH: &str = r#"version = 1
[task.small]
for-each = { range = [0, 12] }
shell = "sleep 0.2; echo $SLURMD_NODENAME"

[task.mpi]
nodes = 3
ranks-per-node = 2
shell = '''
echo told $HPCDAG_NODES $HPCDAG_NODELIST $(tr '\n' ';' < $HPCDAG_HOSTFILE)
echo line $({mpirun} printenv SLURMD_NODENAME | sort | tr '\n' ' ')
echo plain $(srun printenv SLURMD_NODENAME | sort | tr '\n' ' ')
echo one $(srun -N 1 -n 1 printenv SLURMD_NODENAME)
'''

[output]
mpi = "mpi.txt"
small = "small/{index}.txt"
"#;

#[test]
fn exactly_its_nodes() {
    let testbed = Testbed::up(4);
    std::fs::write(testbed.sandbox.path("g.toml"), GRAPH).expect("written");
    let script = r#"
hpcdag up > /dev/null
hpcdag workers wait 4 > /dev/null
hpcdag submit g.toml > /dev/null
sed 's/^/mpi-/' mpi.txt
say small $(cat small/*.txt | sort -u | wc -l)
hpcdag down > /dev/null
"#;
    let out = testbed.in_allocation("nodes", &["-N4", "--ntasks-per-node=1", "-c4"], script);
    let told: Vec<&str> = text_after(&out, "mpi-told").split(' ').collect();
    let nodes: Vec<&str> = told[1].split(',').collect();
    assert_eq!((told[0], nodes.len()), ("3", 3));
    let file: String = nodes.iter().map(|node| format!("{node} slots=2;")).collect();
    assert_eq!(told[2..].join(" "), file);
    let mut twice: Vec<&str> = nodes.iter().flat_map(|node| [*node, *node]).collect();
    twice.sort_unstable();
    assert_eq!(text_after(&out, "mpi-line"), twice.join(" "), "the launcher's line");
    assert_eq!(text_after(&out, "mpi-plain"), twice.join(" "), "an srun that says nothing");
    assert!(nodes.contains(&text_after(&out, "mpi-one")), "{out}");
    testbed.is_clean(false);
}

/// The worker of another of its nodes is killed: the task is ended on the first and runs again elsewhere.
#[test]
fn a_lost_node_costs_an_attempt() {
    let testbed = Testbed::up(4);
    let graph = r#"version = 1
[task.mpi]
nodes = 3
ranks-per-node = 1
shell = '''
echo $HPCDAG_ATTEMPT $HPCDAG_NODELIST >> $MARK
[ $(wc -l < $MARK) -gt 1 ] || sleep 60
echo ran $({mpirun} printenv SLURMD_NODENAME | sort | tr '\n' ' ')
'''
[output]
mpi = "mpi.txt"
"#;
    std::fs::write(testbed.sandbox.path("g.toml"), graph).expect("written");
    let script = r#"
export MARK=$PWD/mark
hpcdag up > /dev/null
hpcdag workers wait 4 > /dev/null
hpcdag submit g.toml > submit.log 2>&1 &
run=$!
until [ -s mark ]; do kill -0 $run || { cat submit.log; exit 1; }; sleep 0.1; done
second=$(cut -d ' ' -f 2 mark | cut -d , -f 2)
# Its worker and the nanny of that, so that nobody starts it again.
for p in /proc/[0-9]*; do
    tr '\0' '\n' < $p/environ 2> /dev/null | grep -qx "SLURMD_NODENAME=$second" || continue
    tr '\0' ' ' < $p/environ | grep -q "HOME=$HOME " || continue
    tr '\0' ' ' < $p/cmdline | grep -q 'hpcdag worker ' && kill -9 ${p#/proc/} && say killed $second
done
wait $run || { cat submit.log; exit 1; }
say first $(sed -n 1p mark)
say again $(sed -n 2p mark)
sed 's/^/mpi-/' mpi.txt
hpcdag down > /dev/null
"#;
    let out = testbed.in_allocation("lost", &["-N4", "--ntasks-per-node=1", "-c4"], script);
    let lost = text_after(&out, "killed").to_string();
    assert!(text_after(&out, "first").contains(&lost), "{out}");
    let again: Vec<&str> = text_after(&out, "again").split([' ', ',']).skip(1).collect();
    assert_eq!(again.len(), 3, "{out}");
    let mut sorted = again.clone();
    sorted.sort_unstable();
    assert_eq!(text_after(&out, "mpi-ran"), sorted.join(" "));
}

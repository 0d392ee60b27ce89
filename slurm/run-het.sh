#!/bin/bash
#SBATCH --job-name=hpcdag-run
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --mem=3072M
#SBATCH --time=01:00:00
#SBATCH --output=%x-%j.log
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH hetjob
#SBATCH --nodes=3
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --mem=2048M
# The same as a heterogeneous job: one node with much memory, and three others. Workers offer
# what their node has; tasks that ask for much memory go where it is.
#
#     sbatch slurm/run-het.sh GRAPH.toml [options of hpcdag submit]

: "${1:?name the graph file as the first argument}"
# Without a name, two jobs at the same time would take each other's cluster for their own.
export HPCDAG_SCHEDULER_FILE=$PWD/hpcdag-$SLURM_JOB_ID.json
submit=
end() {
    [ -n "$submit" ] && kill -INT "$submit" 2> /dev/null
    hpcdag down
}
trap 'end; exit 143' TERM
hpcdag up --scheduler-file "$HPCDAG_SCHEDULER_FILE" || exit
hpcdag submit "$@" &
submit=$!
wait "$submit"
status=$?
hpcdag down
exit "$status"

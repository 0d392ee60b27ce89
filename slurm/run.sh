#!/bin/bash
#SBATCH --job-name=hpcdag-run
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --time=01:00:00
#SBATCH --output=%x-%j.log
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --requeue
#SBATCH --open-mode=append
# A whole run as one job: scheduler, a worker on each node, a graph, and the end of it all.
#
#     sbatch slurm/run.sh GRAPH.toml [options of hpcdag submit]

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

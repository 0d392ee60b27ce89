#!/bin/bash
#PBS -N hpcdag-run
#PBS -l select=4:ncpus=8:mpiprocs=1:mem=16384mb
#PBS -l place=scatter
#PBS -l walltime=01:00:00
#PBS -j oe
#PBS -r y
# A whole run as one job: scheduler, a worker on each node, a graph, and the end of it all.
#
#     qsub -v GRAPH=graph.toml pbs/run.sh

cd "${PBS_O_WORKDIR:-$HOME}" || exit
graph=${GRAPH:?submit this with -v GRAPH=FILE}
# Without a name, two jobs at the same time would take each other's cluster for their own.
export HPCDAG_SCHEDULER_FILE=$PWD/hpcdag-$PBS_JOBID.json
pbsdsh=$(command -v pbsdsh || echo "${PBS_EXEC:-/opt/pbs}/bin/pbsdsh")
trap 'hpcdag stop; exit 143' TERM
hpcdag scheduler --scheduler-file "$HPCDAG_SCHEDULER_FILE" --detach || exit
# One worker on each node: the node file has one line for each (mpiprocs=1).
"$pbsdsh" -- /bin/bash -c 'exec "$@"' - \
    "$(command -v hpcdag)" worker --scheduler-file "$HPCDAG_SCHEDULER_FILE" &
workers=$!
hpcdag submit "$graph" &
wait $!
status=$?
hpcdag stop
wait "$workers"
exit "$status"

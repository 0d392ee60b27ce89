#!/bin/bash
#$ -S /bin/bash
#$ -N hpcdag-run
#$ -l h_rt=3600
#$ -j y
#$ -o $JOB_NAME.$JOB_ID.log
#$ -r y
#$ -pe mpi 32
#$ -cwd
# A whole run as one job: scheduler, a worker on each host, a graph, and the end of it all.
# Set -pe to a parallel environment of your site (qconf -spl lists them).
#
#     qsub sge/run.sh GRAPH.toml [options of hpcdag submit]

: "${1:?name the graph file as the first argument}"
# Without a name, two jobs at the same time would take each other's cluster for their own.
export HPCDAG_SCHEDULER_FILE=$PWD/hpcdag-$JOB_ID.json
trap 'hpcdag stop; exit 143' TERM USR1 USR2
hpcdag scheduler --scheduler-file "$HPCDAG_SCHEDULER_FILE" --detach || exit
# One worker on each host that the parallel environment gave, with the slots of that host. qrsh hands its arguments to
# a shell there.
while read -r host slots _; do
    command=$(printf '%q ' /bin/bash -c 'trap : TERM USR1 USR2 XCPU; "$@"; code=$?; [ $code -le 128 ] || code=1; exit $code' - \
        "$(command -v hpcdag)" worker --scheduler-file "$HPCDAG_SCHEDULER_FILE" --nthreads "$slots")
    qrsh -inherit -nostdin "$host" "$command" &
done < "$PE_HOSTFILE"
hpcdag submit "$@" &
wait $!
status=$?
hpcdag stop
wait
exit "$status"

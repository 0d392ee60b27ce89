#!/bin/bash
#PBS -N hpcdag-workers
#PBS -l select=4:ncpus=8:mpiprocs=1:mem=16384mb
#PBS -l place=scatter
#PBS -l walltime=01:00:00
#PBS -j oe
#PBS -r n
# Workers for a cluster that is running, one on each node of one job.
#
#     qsub -v SCHEDULER_FILE=$HOME/s.json pbs/workers.sh

cd "${PBS_O_WORKDIR:-$HOME}" || exit
scheduler_file=$(realpath -- "${SCHEDULER_FILE:?submit this with -v SCHEDULER_FILE=FILE}") || exit
if [ ! -e "$scheduler_file" ]; then
    home=$(dirname "$(dirname "$scheduler_file")")
    if [ ! -e "$home" ]; then
        echo "$(hostname) does not see $home: keep clusters where all nodes see them, by XDG_STATE_HOME=\$SCRATCH say"
        exit 1
    fi
    echo "there is no $scheduler_file on $(hostname): the cluster that these workers were for has ended"
    exit 0
fi
# One worker on each node: the node file has one line for each (mpiprocs=1). What pbsdsh starts gets PBS's variables
# and none of this shell's.
pbsdsh=$(command -v pbsdsh || echo "${PBS_EXEC:-/opt/pbs}/bin/pbsdsh")
# PBS tells the workers themselves to end; they leave in good order.
trap : TERM
"$pbsdsh" -- /bin/bash -c 'exec "$@"' - \
    "$(command -v hpcdag)" worker --scheduler-file "$scheduler_file" &
workers=$!
while wait "$workers"; status=$?; [ "$status" -gt 128 ] && kill -0 "$workers" 2> /dev/null; do :; done
exit "$status"

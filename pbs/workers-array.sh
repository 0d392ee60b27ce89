#!/bin/bash
#PBS -N hpcdag-workers
#PBS -J 0-3
#PBS -l select=1:ncpus=8:mpiprocs=1:mem=16384mb
#PBS -l place=scatter
#PBS -l walltime=01:00:00
#PBS -j oe
#PBS -r n
# Workers for a cluster that is running, as an array of jobs with one node each: they start
# as nodes become free.
#
#     qsub -v SCHEDULER_FILE=$HOME/s.json pbs/workers-array.sh

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
exec "$(command -v hpcdag)" worker --scheduler-file "$scheduler_file"

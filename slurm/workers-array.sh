#!/bin/bash
#SBATCH --job-name=hpcdag-workers
#SBATCH --array=0-3
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --time=01:00:00
#SBATCH --output=%x-%A_%a.log
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --no-requeue
# Workers for a cluster that is running, as an array of jobs with one node each: they start
# as nodes become free.
#
#     sbatch slurm/workers-array.sh SCHEDULER_FILE

scheduler_file=$(realpath -- "${1:?name the scheduler file as the first argument}") || exit
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

#!/bin/bash
#$ -S /bin/bash
#$ -N hpcdag-workers
#$ -t 1-4
#$ -l h_rt=3600
#$ -j y
#$ -o $JOB_NAME.$JOB_ID.$TASK_ID.log
#$ -r n
#$ -pe smp 8
#$ -cwd
# Workers for a cluster that is running, as an array of jobs on one host each: they start as
# slots become free. Set -pe to a parallel environment that keeps to one host.
#
#     qsub sge/workers-array.sh SCHEDULER_FILE

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
exec "$(command -v hpcdag)" worker --scheduler-file "$scheduler_file" --nthreads "$NSLOTS"

#!/bin/bash
#$ -S /bin/bash
#$ -N hpcdag-workers
#$ -l h_rt=3600
#$ -j y
#$ -o $JOB_NAME.$JOB_ID.log
#$ -r n
#$ -pe mpi 32
#$ -cwd
# Workers for a cluster that is running, one on each host of the parallel environment.
# Set -pe to a parallel environment of your site (qconf -spl lists them).
#
#     qsub sge/workers.sh SCHEDULER_FILE

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
# One worker on each host that the parallel environment gave, with the slots of that host. qrsh hands its arguments to
# a shell there.
status=0
pids=()
trap : TERM USR1 USR2
while read -r host slots _; do
    command=$(printf '%q ' /bin/bash -c 'trap : TERM USR1 USR2 XCPU; "$@"; code=$?; [ $code -le 128 ] || code=1; exit $code' - \
        "$(command -v hpcdag)" worker --scheduler-file "$scheduler_file" --nthreads "$slots")
    qrsh -inherit -nostdin "$host" "$command" &
    pids+=($!)
done < "$PE_HOSTFILE"
for pid in "${pids[@]}"; do
    while wait "$pid"; code=$?; [ "$code" -gt 128 ] && kill -0 "$pid" 2> /dev/null; do :; done
    [ "$code" -eq 0 ] || status=$code
done
exit "$status"

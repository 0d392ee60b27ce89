#!/bin/bash
#SBATCH --job-name=hpcdag-workers
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --time=01:00:00
#SBATCH --output=%x-%j.log
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --no-requeue
# Workers for a cluster that is running, one on each node of one job.
#
#     sbatch slurm/workers.sh SCHEDULER_FILE

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
# srun kills its tasks when it is told to end. The workers are told by Slurm themselves, and leave in good order.
trap : TERM
# Whole nodes: as many processors as the smallest has.
cpus=$(sed 's/([^)]*)//g' <<< "$SLURM_JOB_CPUS_PER_NODE" | tr , '\n' | sort -n | head -n 1)
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --cpus-per-task="$cpus" \
    --mem=0 --overlap --cpu-bind=none --kill-on-bad-exit=0 --wait=0 --no-kill --unbuffered --mpi=none \
    --export=ALL --input=none --job-name=hpcdag-workers \
    "$(command -v hpcdag)" worker --scheduler-file "$scheduler_file" &
step=$!
while wait "$step"; status=$?; [ "$status" -gt 128 ] && kill -0 "$step" 2> /dev/null; do :; done
exit "$status"

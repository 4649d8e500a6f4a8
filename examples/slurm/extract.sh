#!/bin/bash
#SBATCH --job-name=rellm-extract
#SBATCH --array=1-8
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --mem=24G
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#SBATCH --open-mode=append
#SBATCH --output=%x-%A-%a.log
#
# Encode a manifest: each task of the array encodes its part of the clips into one cache.
#
#   sbatch examples/slurm/extract.sh MANIFEST RECIPE CACHE [OPTION of rellm extract]...
set -euo pipefail

if (($# < 3)); then
    echo "usage: sbatch extract.sh MANIFEST RECIPE CACHE [OPTION of rellm extract]..." >&2
    exit 2
fi
manifest=$1 recipe=$2 cache=$3
shift 3

# A clip's part depends on its id and the number of parts. The tasks need not know of each other.
parts=$SLURM_ARRAY_TASK_COUNT
if ((SLURM_ARRAY_TASK_MAX - SLURM_ARRAY_TASK_MIN + 1 != parts)); then
    echo "found an array with gaps, expected one like 1-8: submit the whole array again" >&2
    exit 2
fi
part=$((SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN + 1))

# Two minutes before the time limit the task is queued again. It goes on where it stopped.
trap 'scontrol requeue "$SLURM_JOB_ID"' USR1

export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
rellm extract "$manifest" --recipe "$recipe" --cache "$cache" --shard "$part/$parts" "$@" &
wait $!

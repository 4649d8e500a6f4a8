#!/bin/bash
#SBATCH --job-name=rellm-array
#SBATCH --array=1-8
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#SBATCH --open-mode=append
#SBATCH --output=%x-%A-%a.log
#
# Run a command of rellm that takes --shard: each task of the array makes its part of the rows.
#
#   sbatch examples/slurm/array.sh transcribe MANIFEST --recipe RECIPE --cache CACHE
#   sbatch examples/slurm/array.sh respond MANIFEST --recipe RECIPE
#   sbatch examples/slurm/array.sh generate RUN MANIFEST --out ANSWERS
#   sbatch examples/slurm/array.sh evaluate RUN MANIFEST
#   sbatch examples/slurm/array.sh judge RUN MANIFEST
set -euo pipefail

if (($# < 2)); then
    echo "usage: sbatch array.sh COMMAND ARGUMENT... [OPTION]..." >&2
    exit 2
fi

# A row's part depends on its id and the number of parts. The last task joins what all have written.
parts=$SLURM_ARRAY_TASK_COUNT
if ((SLURM_ARRAY_TASK_MAX - SLURM_ARRAY_TASK_MIN + 1 != parts)); then
    echo "found an array with gaps, expected one like 1-8: submit the whole array again" >&2
    exit 2
fi
part=$((SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN + 1))

# Two minutes before the time limit the task is queued again. It goes on where it stopped.
trap 'scontrol requeue "$SLURM_JOB_ID"' USR1

export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
rellm "$@" --shard "$part/$parts" &
wait $!

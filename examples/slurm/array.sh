#!/usr/bin/env bash
# One `codyra run` per line of a list, each a task of a Slurm array:
#
#     sbatch --array=1-$(grep -c '^[[:space:]]*[^#[:space:]]' examples/runs.txt) examples/slurm/array.sh examples/runs.txt runs
#
# A task that was preempted, requeued or out of time continues its run; so does the same command, given again.
#SBATCH --job-name=codyra
#SBATCH --cpus-per-task=4
#SBATCH --gpus-per-task=1
#SBATCH --ntasks=1
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%A-%a.log
set -euo pipefail
list=${1:?the list of runs} folder=${2:?where the run folders go}
line=$(grep '^[[:space:]]*[^#[:space:]]' "$list" | sed -n "${SLURM_ARRAY_TASK_ID:?is set by sbatch --array}p")
[ -n "$line" ] || { echo "$list has no run $SLURM_ARRAY_TASK_ID; mend --array" >&2; exit 2; }
read -r name arguments <<<"$line"
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
set -f  # words of the list are what they are: nothing in them stands for names of files
# shellcheck disable=SC2086
exec codyra run $arguments --out "$folder/$name"

#!/usr/bin/env bash
#SBATCH --job-name=kexec-sim
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=1
#SBATCH --time=04:00:00
#SBATCH --output=%x-%A_%a.log
#
# Explores a scenario as a Slurm job array: a task a shard, as many as the array has.
#
#   sbatch --array=1-64 docs/examples/explore-slurm.sh SCENARIO FOLDER [OPTION OF explore]...
#   kexec-sim merge FOLDER/shard-*                     when all have ended
#
# FOLDER is on a file system that all nodes see. A task that ran out of time goes on where it was when it is submitted
# again. KEXEC_SIM: the program (default: kexec-sim on the path).
set -euo pipefail

if (($# < 2)) || [[ -z ${SLURM_ARRAY_TASK_ID:-} ]]; then
    echo "usage: sbatch --array=1-N $0 SCENARIO FOLDER [OPTION OF explore]..." >&2
    exit 2
fi
scenario=$1 folder=$2
shift 2
shards=${SLURM_ARRAY_TASK_COUNT:-$SLURM_ARRAY_TASK_MAX}
mkdir -p "$folder"
# 1: it has found something. The task itself has succeeded.
status=0
"${KEXEC_SIM:-kexec-sim}" explore -q --jobs "${SLURM_CPUS_PER_TASK:-1}" --shard "$SLURM_ARRAY_TASK_ID/$shards" \
    --out "$folder/shard-$SLURM_ARRAY_TASK_ID" "$@" "$scenario" || status=$?
exit $((status > 1 ? status : 0))

#!/usr/bin/env bash
# Explores a scenario in shards with GNU parallel, and joins what they find.
#
#   docs/examples/explore-parallel.sh SCENARIO SHARDS FOLDER [OPTION OF explore]...
#
#   KEXEC_SIM       the program (default: kexec-sim on the path)
#   PARALLEL_ARGS   for parallel: "--sshlogin a,b --workdir ." runs shards on other machines; FOLDER, the scenario and
#                   the program must be there under the same names
#
# A shard that was cut short goes on where it was when the script is started again. Exit code: that of `merge`.
set -euo pipefail

if (($# < 3)); then
    sed -n '2,9p' "$0" >&2
    exit 2
fi
scenario=$1 shards=$2 folder=$3
shift 3
program=${KEXEC_SIM:-kexec-sim}
command=$(printf '%q ' "$program" explore -q --jobs 1 "$@" "$scenario")
out=$(printf '%q' "$folder")

mkdir -p "$folder"
# 1 is what explore says when it has found something, and no reason to stop.
read -ra extra <<<"${PARALLEL_ARGS:-}"
parallel "${extra[@]}" --will-cite --halt now,fail=1 \
    "$command --shard {}/$shards --out $out/shard-{} >$out/shard-{}.log || [ \$? -le 1 ]" \
    ::: $(seq "$shards")

mapfile -t parts < <(for ((i = 1; i <= shards; ++i)); do echo "$folder/shard-$i"; done)
exec "$program" merge "${parts[@]}"

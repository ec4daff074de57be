#!/usr/bin/env bash
# Runs every scenario of scenarios/ in one process: each must exit 0.
#
#     tests/run_scenarios.sh [process|inline]
#
# A file that reproduces a bug (`reproduces:`) is left out: it passes while its bug lives, so it is no
# acceptance test. KEXEC_SIM is the program, KEXEC_SIM_ROOT the repository.
set -euo pipefail

isolation=${1:-process}
root=${KEXEC_SIM_ROOT:-$(cd "$(dirname "$0")/.." && pwd)}
program=${KEXEC_SIM:-$root/build/release/kexec-sim}

cd "$root"
files=()
while IFS= read -r -d '' file; do
    grep -q '^reproduces:' "$file" || files+=("$file")
done < <(find scenarios -name '*.yaml' -print0 | LC_ALL=C sort -z)

if ((${#files[@]} == 0)); then
    echo "run_scenarios: there is no scenario in $root/scenarios" >&2
    exit 1
fi
echo "running ${#files[@]} scenarios, isolation $isolation"
exec "$program" run -q --no-color --isolation "$isolation" "${files[@]}"

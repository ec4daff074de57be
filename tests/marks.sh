#!/usr/bin/env bash
# The last test of a run: lists the marks of unhappy paths (machine/reached.hpp) that no test reached, and fails if there are any.
#
# The marks are those in the sources; the file that KEXEC_SIM_REACHED names has those that were reached. A run of selected
# tests proves nothing about the others: then there is nothing to say (exit 77, "skipped").
set -euo pipefail

root=${KEXEC_SIM_ROOT:-$(cd "$(dirname "$0")/.." && pwd)}
reached=${KEXEC_SIM_REACHED:?names the file of marks that were reached}
layers=(machine kernel-model kho luo sim)

marks() {
    (cd "$root" && grep -rhoE '\bREACHED\("[^"]+"\)' --include='*.cpp' --include='*.hpp' "${layers[@]}") |
        sed -E 's/.*"([^"]+)".*/\1/' | LC_ALL=C sort
}

all=$(marks | uniq)
count=$(wc -l <<<"$all")
if ((count < 50)); then
    echo "only $count marks in the sources: the search for them is broken"
    exit 1
fi
if [[ ! -s $reached ]]; then
    echo "no test ran before this one"
    exit 77
fi
unreached=$(LC_ALL=C comm -23 <(echo "$all") <(LC_ALL=C sort -u "$reached"))
echo "$count marks of unhappy paths"
if [[ -n $unreached ]]; then
    echo "never reached by a test:"
    sed 's/^/    /' <<<"$unreached"
    exit 1
fi

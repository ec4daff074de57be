#!/usr/bin/env bash
# The case study of the docs, done again: its script gives the figure that is in docs/pictures and the table that is on the
# page, byte by byte.
set -euo pipefail

root=${KEXEC_SIM_ROOT:-$(cd "$(dirname "$0")/.." && pwd)}
export KEXEC_SIM=${KEXEC_SIM:-$root/build/release/kexec-sim}
cd "$root"

dir=$(mktemp -d "${TMPDIR:-/tmp}/kexec-sim-case-study-XXXXXX")
trap 'rm -rf "$dir"' EXIT
bad=0

docs/examples/case-study.py "$dir/study" >"$dir/table"
cat "$dir/table"
if ! cmp "$dir/study/case-study.svg" docs/pictures/case-study.svg; then
    echo "the figure is another one; draw it anew: docs/examples/case-study.py FOLDER, then copy FOLDER/case-study.svg"
    bad=1
fi
while IFS= read -r line; do
    if ! grep -qxF -- "$line" docs/case-study.md; then
        echo "docs/case-study.md lacks this line of the table: $line"
        bad=1
    fi
done <"$dir/table"

if docs/examples/case-study.py "$dir/study" 2>"$dir/refusal"; then
    echo "the script has written into a folder that was there"
    bad=1
fi

if ((bad)); then
    echo "what the numbers say on that page may have to be written anew, too"
    exit 1
fi
echo "case_study_test: all well"

#!/usr/bin/env bash
# Fails on an include that runs up the layers.
#
#     sim ──► luo ──► kho ──► kernel-model ──► machine
#
# A file may include its own layer and those to its right, by a path from the root of the repository. A
# path with ".." is refused, because it could lead anywhere. The independent decoder of
# tests/support knows neither kho nor luo: it would agree with their mistakes.
#
# The check is tried on a bad tree first: one that cannot fail proves nothing.
set -euo pipefail

root=${KEXEC_SIM_ROOT:-$(cd "$(dirname "$0")/.." && pwd)}
layers=(machine kernel-model kho luo sim)

# includes TREE FOLDER [NAME-PATTERN]: each include of the folder's sources, as FILE:LINE:PATH.
includes() {
    local tree=$1 folder=$2 pattern=${3:-*}
    [[ -d $tree/$folder ]] || return 0
    (cd "$tree" && find "$folder" -type f -name "$pattern" \
        \( -name '*.cpp' -o -name '*.hpp' -o -name '*.h' -o -name '*.c' -o -name '*.def' -o -name '*.inc' \) -print0 |
        LC_ALL=C sort -z |
        xargs -0 -r grep -HnE '^[[:space:]]*#[[:space:]]*include[[:space:]]*[<"]' -- |
        sed -E 's/^([^:]*:[0-9]+):[^<"]*[<"]([^>"]*).*/\1:\2/') || true
}

# report WHERE MESSAGE, and remember that there was something to report.
bad=0
report() {
    echo "$1: $2"
    bad=1
}

# check_tree TREE: prints what is wrong; returns 1 if anything is.
check_tree() {
    local tree=$1 layer above line where path index
    bad=0
    for index in "${!layers[@]}"; do
        layer=${layers[index]}
        while IFS= read -r line; do
            [[ -n $line ]] || continue
            path=${line##*:}
            where=${line%:*}
            if [[ $path == *..* ]]; then
                report "$where" "'$path': includes are written from the root of the repository"
            fi
            for above in "${layers[@]:index+1}" tests; do
                if [[ $path == "$above"/* ]]; then
                    report "$where" "'$path' runs up the layers: $layer must not know $above"
                fi
            done
        done < <(includes "$tree" "$layer")
    done
    while IFS= read -r line; do
        path=${line##*:}
        if [[ $path == kho/* || $path == luo/* || $path == *..* ]]; then
            report "${line%:*}" "'$path': the decoder must be independent of what it judges"
        fi
    done < <(includes "$tree" tests/support '*decode*')
    return "$bad"
}

# ---- the check itself: each of these trees must be found bad, the last one good ----

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# try_include FILE DIRECTIVE VERDICT
try_include() {
    local file=$1 directive=$2 verdict=$3 found=good
    rm -rf "$scratch/tree"
    mkdir -p "$scratch/tree/$(dirname "$file")"
    printf '#pragma once\n%s\n' "$directive" >"$scratch/tree/$file"
    check_tree "$scratch/tree" >"$scratch/output" || found=bad
    if [[ $found != "$verdict" ]]; then
        echo "the check itself is broken: '$directive' in $file was found $found, not $verdict" >&2
        exit 1
    fi
}
try_include machine/ram.hpp '#include "kernel-model/kernel.hpp"' bad
try_include machine/ram.cpp '#include "sim/runner.hpp"' bad
try_include kernel-model/boot/memblock.cpp '#include "kho/scratch.hpp"' bad
try_include kernel-model/include/linux/liveupdate.h '# include <luo/core.hpp>' bad
try_include kho/abi/kho_v1.hpp '  #include "luo/state.hpp"' bad
try_include kho/scratch.cpp '#include "../luo/state.hpp"' bad
try_include luo/core.cpp '#include "sim/steps.hpp"' bad
try_include sim/runner.cpp '#include "tests/support/decoder.hpp"' bad
try_include tests/support/decoder.cpp '#include "kho/abi/kho_v1.hpp"' bad
try_include luo/core.cpp '#include "kho/scratch.hpp"' good
try_include sim/runner.cpp '#include <vector>' good

# ---- the repository ----

for layer in "${layers[@]}"; do
    if [[ ! -d $root/$layer ]]; then
        echo "layers: $root/$layer is missing" >&2
        exit 1
    fi
done
if ! check_tree "$root"; then
    echo "layers: includes run up the layers (sim -> luo -> kho -> kernel-model -> machine)" >&2
    exit 1
fi
echo "layers: no include runs up"

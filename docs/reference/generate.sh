#!/usr/bin/env bash
# Writes the generated pages of this folder from what the program says of itself.
#
#   docs/reference/generate.sh PROGRAM [FOLDER]      FOLDER: where to write them (default: this one)
#
# tests/reference_test.sh fails where a page differs from the program.
set -euo pipefail

if (($# < 1 || $# > 2)); then
    echo "usage: docs/reference/generate.sh PROGRAM [FOLDER]" >&2
    exit 2
fi
program=$1
folder=${2:-$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)}

# page FILE ARGUMENT...: written under another name first, so that a program that fails leaves the old page.
page() {
    local file=$folder/$1
    shift
    if ! "$program" "$@" >"$file.new"; then
        rm -f "$file.new"
        echo "docs/reference/generate.sh: $program $* failed" >&2
        exit 1
    fi
    mv "$file.new" "$file"
}

for what in steps faults invariants devices mutants profiles; do
    page "$what.md" list "$what" --markdown
done
page errnos.md generate --table
page scenario.schema.json schema

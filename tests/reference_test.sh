#!/usr/bin/env bash
# The docs against the program. Fails where
#
#   - a generated page of docs/reference differs from what the program prints
#   - docs/reference/trace.md does not name an event that the sources emit, or names one that they do not
#   - scenarios/README.md does not list a scenario with its summary
#   - a whole scenario that a page shows (a block of YAML that begins with "format:") is not accepted or does not pass
set -euo pipefail

root=${KEXEC_SIM_ROOT:-$(cd "$(dirname "$0")/.." && pwd)}
program=${KEXEC_SIM:-$root/build/release/kexec-sim}
reference=$root/docs/reference

fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
bad=0

# ---- generated pages ----

"$reference/generate.sh" "$program" "$fresh"
for page in "$fresh"/*; do
    name=$(basename "$page")
    if ! difference=$(diff -u "$reference/$name" "$page" 2>&1); then
        echo "docs/reference/$name differs from what the program prints:"
        head -n 20 <<<"$difference"
        bad=1
    fi
done
if ((bad)); then
    echo "write the pages anew with: docs/reference/generate.sh $program"
fi

# ---- the list of the scenario library ----

while IFS= read -r -d '' file; do
    name=${file#"$root"/scenarios/}
    summary=$(sed -n 's/^summary: *//p' "$file" | head -n 1)
    row="| [$(basename "$name" .yaml)]($name) | $summary |"
    if ! grep -qxF -- "$row" "$root/scenarios/README.md"; then
        echo "scenarios/README.md lacks: $row"
        bad=1
    fi
done < <(find "$root/scenarios" -name '*.yaml' -print0 | LC_ALL=C sort -z)

# ---- events of the trace ----

# The names in the sources. Those of callbacks are put together from a prefix and the callback.
emitted() {
    grep -rhozP '(\.|->)(emit|range)\(\s*Layer::[a-z]+,\s*"[a-z_.]+"' --include='*.cpp' --include='*.hpp' \
        "$root"/machine "$root"/kernel-model "$root"/kho "$root"/luo "$root"/sim | tr '\0' '\n' |
        grep -oE '"[a-z_.]+"' | tr -d '"'
    grep -rhoE 'tell_failure\(machine, "[a-z_.]+"' "$root/kho" | sed -E 's/.*"([^"]+)"/\1/'
    for callback in prepare freeze cancel boot finish; do echo "luo.subsystem.$callback"; done
    for callback in prepare freeze cancel finish; do echo "luo.file.$callback"; done
}

# The names in the page: the first cell of a table's row, in back-quotes.
documented() {
    # shellcheck disable=SC2016  # back-quotes of the page
    sed -nE 's/^\| `([a-z_]+(\.[a-z_]+)*)` \|.*/\1/p' "$reference/trace.md"
}

if ! difference=$(diff <(emitted | LC_ALL=C sort -u) <(documented | LC_ALL=C sort -u)); then
    echo "docs/reference/trace.md does not name the events that the sources emit (<: missing in the page, >: not emitted):"
    grep '^[<>]' <<<"$difference"
    bad=1
fi

# ---- scenarios in the pages ----

# Each block goes into a file of its own, but those that start from files which the reader has made.
mkdir "$fresh/pages"
for page in "$root"/README.md "$root"/docs/*.md "$root"/docs/devices/*.md; do
    awk -v name="$fresh/pages/$(basename "$page" .md)" '
        /^```yaml$/ { inside = 1; text = ""; next }
        /^```$/ && inside {
            inside = 0
            if (text ~ /^format:/ && text !~ /boot-params:/) {
                file = name "-" ++count ".yaml"
                printf "%s", text > file
                close(file)
            }
        }
        inside { text = text $0 "\n" }' "$page"
done
shopt -s nullglob
for scenario in "$fresh"/pages/*.yaml; do
    if ! "$program" run -q "$scenario"; then
        echo "this scenario is in docs/$(basename "$scenario" | sed -E 's/-[0-9]+\.yaml$/.md/')"
        bad=1
    fi
done

if ((bad)); then exit 1; fi
echo "reference_test: all well"

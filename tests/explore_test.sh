#!/usr/bin/env bash
# The commands explore, replay and merge, as a user calls them: what they print, write and exit with; shards on engines
# that exist.
set -euo pipefail

root=${KEXEC_SIM_ROOT:-$(cd "$(dirname "$0")/.." && pwd)}
program=${KEXEC_SIM:-$root/build/release/kexec-sim}
modules=${KEXEC_SIM_MODULES:-$root/build/release/modules}
cd "$root"
# shellcheck source=tests/checks.sh
. tests/checks.sh

dir=$(mktemp -d "${TMPDIR:-/tmp}/kexec-sim-explore-XXXXXX")
trap 'rm -rf "$dir"' EXIT

status_of() { # status_of EXPECTED COMMAND...: its output is in $dir/out and $dir/err
    local expected=$1 status=0
    shift
    "$@" >"$dir/out" 2>"$dir/err" || status=$?
    [[ $status == "$expected" ]] || {
        echo "exit $status of: $*" >&2
        head -5 "$dir/out" "$dir/err" >&2
        return 1
    }
}
json() { python3 -c "import json,sys; d=json.load(open('$dir/r.json')); sys.exit(0 if $1 else 1)"; }

cat >"$dir/small.yaml" <<'YAML'
format: 1
scenario: small
machine: {memory: 512MiB}
kernels:
  - {release: 6.16.0, cmdline: "kho=on liveupdate=on"}
steps:
  - subsystem.register: {name: kvm}
  - memfd.create: {name: ram, size: 16KiB, fill: pattern(7)}
  - luo.preserve: {fd: ram, token: 0x1}
  - luo.prepare:
  - kexec:
  - subsystem.register: {name: kvm}
  - luo.restore: {token: 0x1, as: ram}
  - luo.finish:
YAML

# ---- explore ----
check "violations are exit 1" status_of 1 "$program" explore --points 'luo.subsystem.freeze' --out "$dir/a" \
    --json "$dir/r.json" --csv "$dir/r.csv" "$dir/small.yaml"
check "the summary names the violation and the command that replays it" \
    grep -q "replay .*/a/002-luo.rollback.yaml" "$dir/out"
check "the result has its format" json "d['format']=='kexec-sim/explore-1' and d['complete'] is True"
check "the result has the baseline as run has it" json "d['baseline']['outcome']=='pass'"
check "each violation has a plan, findings and a reproduction" \
    json "all(v['plan'] and v['findings'] and v['reproduction'] for v in d['violations']) and d['violations']"
check "runs that reached the second kernel are counted" json "0 < d['runs_two_kernels'] <= d['runs']"
check "the table by point is there" grep -q "^luo.subsystem.freeze," "$dir/r.csv"
check "no violation is exit 0" status_of 0 "$program" explore --points luo.sysfs "$dir/small.yaml"
check "a budget is kept, and said" status_of 1 "$program" explore --budget 20 "$dir/small.yaml"
check "what is not complete says so" grep -q "not complete" "$dir/out"
check "kernels that really die" status_of 1 "$program" explore --isolation process --points 'luo.subsystem.freeze' \
    --json "$dir/r.json" "$dir/small.yaml"
check "they give the same violations" json "any(v['findings'][0]['invariant']=='luo.rollback' for v in d['violations'])"
check "the same exploration again knows all from before" status_of 1 "$program" explore \
    --points 'luo.subsystem.freeze' --out "$dir/a" --json "$dir/r.json" --shrink 0 "$dir/small.yaml"
check "and runs nothing" json "d['runs']==0 and d['resumed']>0"
check "a folder of another exploration is refused" status_of 2 "$program" explore --out "$dir/a" "$dir/small.yaml"
sed 's/luo.finish:/luo.finish:\n    expect: EBUSY/' "$dir/small.yaml" >"$dir/fails.yaml"
check "a scenario that fails by itself is exit 1 at once" status_of 1 "$program" explore "$dir/fails.yaml"

# ---- workers that die ----
# The module is ill where it is called back: under a failed prepare (tests/modules/ill.c).
if [[ -e $modules/ill.so ]]; then
    for isolation in inline process; do
        check "a sanitizer's report is a violation ($isolation)" status_of 1 env ILL=report-exit "$program" explore \
            --isolation "$isolation" --points luo.subsystem.prepare --actions fail --module "$modules/ill.so" \
            --json "$dir/r.json" "$dir/small.yaml"
        check "with what it says ($isolation)" json "[v['findings'][0]['message'] for v in d['violations']
            if v['findings'][0]['invariant']=='sanitizer']==['AddressSanitizer: heap-use-after-free in ill_cancel ill.c:50']"
        check "what is no report is passed on ($isolation)" grep -qx "ill: prepare" "$dir/err"
        check "and the report is not ($isolation)" bash -c '! grep -q AddressSanitizer "$1"' - "$dir/err"
    done
    for how in report-exit report-abort crash; do
        check "an error of the kernel's code is found ($how)" status_of 1 env ILL=$how "$program" explore \
            --points luo.subsystem.prepare --actions fail --module "$modules/ill.so" --out "$dir/$how" "$dir/small.yaml"
        check "and its reproduction replayed ($how)" status_of 0 env ILL=$how "$program" replay -q "$dir/$how"/001-*.yaml
        check "which fails once it is repaired ($how)" status_of 1 "$program" replay -q "$dir/$how"/001-*.yaml
    done
fi

# ---- bad usage ----
for bad in "--depth 3" "--depth x" "--actions fial" "--points kho.presrve" "--shard 0/2" "--shard 3/2" "--shard 1" \
    "--jobs 0" "--budget 0" "--time x"; do
    # shellcheck disable=SC2086
    check "bad usage: $bad" status_of 2 "$program" explore $bad "$dir/small.yaml"
    check "one line says what is wrong with $bad" test "$(wc -l <"$dir/err")" = 1
done
check "no such file" status_of 2 "$program" explore "$dir/none.yaml"
check "no such module" status_of 2 "$program" explore --module "$dir/none.so" "$dir/small.yaml"
check "one line says that there is no such module" test "$(wc -l <"$dir/err")" = 1
check "a module in the current folder" status_of 0 env -C "$modules" "$program" explore --points luo.sysfs \
    --module counter_subsystem.so "$root/docs/examples/counter_subsystem.yaml"

# ---- replay ----
reproduction=$(find "$dir/a" -name '002-*.yaml')
check "a reproduction is replayed event by event" status_of 0 "$program" replay -q "$reproduction"
check "run takes it for what it is: a scenario" status_of 0 "$program" run -q "$reproduction"
check "it is short" test "$(grep -c '^  - ' "$reproduction")" -le 6
sed 's/trace_hash: "....../trace_hash: "000000/' "$reproduction" >"$dir/other.yaml"
sed 's/"g":0,"layer":"luo"/"g":0,"layer":"kho"/' "${reproduction%.yaml}.trace" >"$dir/other.trace"
check "one that runs otherwise is exit 1" status_of 1 "$program" replay -q "$dir/other.yaml"
check "and the first event that differs is shown" grep -q "event [0-9]* differs" "$dir/out"
check "a scenario that reproduces nothing is refused" status_of 2 "$program" replay "$dir/small.yaml"

# ---- shards ----
for i in 1 2 3; do
    status_of 1 "$program" explore -q --jobs 1 --points 'luo.*' --shard "$i/3" --out "$dir/s$i" --shrink 0 "$dir/small.yaml" || true
done
status_of 1 "$program" explore -q --points 'luo.*' --json "$dir/r.json" "$dir/small.yaml" || true
runs=$(python3 -c "import json; print(json.load(open('$dir/r.json'))['runs'])")
check "shards are joined" status_of 1 "$program" merge "$dir/s1" "$dir/s2" "$dir/s3" --json "$dir/r.json"
check "together they are the whole" json "d['runs']==$runs and d['complete'] is True"
check "a shard that is missing is told" status_of 1 "$program" merge "$dir/s1" "$dir/s3"
check "by its number" grep -q "missing: 2" "$dir/out"
check "a shard that is there twice is refused" status_of 2 "$program" merge "$dir/s1" "$dir/s1"
check "shards of different explorations are refused" status_of 2 "$program" merge "$dir/s1" "$dir/a"
check "a folder without a journal is refused" status_of 2 "$program" merge "$dir"

if command -v parallel >/dev/null; then
    check "GNU parallel runs the shards" status_of 1 env KEXEC_SIM="$program" docs/examples/explore-parallel.sh \
        "$dir/small.yaml" 3 "$dir/p" --points 'luo.*' --shrink 0
    check "and nothing is missing" grep -q "complete" "$dir/out"
else
    echo "skipped: GNU parallel is not installed"
fi
check "the Slurm script is a script" bash -n docs/examples/explore-slurm.sh
check "a task of it explores its shard" status_of 0 env KEXEC_SIM="$program" SLURM_ARRAY_TASK_ID=1 \
    SLURM_ARRAY_TASK_COUNT=2 docs/examples/explore-slurm.sh "$dir/small.yaml" "$dir/q" --points 'luo.*' --shrink 0
if command -v sbatch >/dev/null; then
    check "Slurm takes it" status_of 0 sbatch --test-only --array=1-2 docs/examples/explore-slurm.sh "$dir/small.yaml" "$dir/q"
else
    echo "skipped: Slurm is not installed; the script's options are not checked by sbatch --test-only"
fi

# ---- interrupted ----
# A long exploration gets SIGINT: 130, children are gone, what is known is kept.
"$program" explore --jobs 2 --depth 2 --out "$dir/i" "$dir/small.yaml" >"$dir/out" 2>"$dir/err" &
pid=$!
outcomes_known() { [[ -e $dir/i/runs.jsonl && $(wc -l <"$dir/i/runs.jsonl") -gt 50 ]]; }
wait_until outcomes_known || true
kill -INT "$pid"
status=0
wait "$pid" || status=$?
check "an interrupt is exit 130" test "$status" = 130
check "what was found is kept" test "$(wc -l <"$dir/i/runs.jsonl")" -gt 50
check "and told" grep -q "not complete" "$dir/out"
check "no child is left" test -z "$(pgrep -P "$pid" || true)"

verdict

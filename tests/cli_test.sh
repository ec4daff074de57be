#!/usr/bin/env bash
# The command line from outside: exit codes, messages, files, and that `show` prints what `run` printed.
# KEXEC_SIM is the program, KEXEC_SIM_ROOT the repository.
set -uo pipefail

root=${KEXEC_SIM_ROOT:-$(cd "$(dirname "$0")/.." && pwd)}
program=$(realpath "${KEXEC_SIM:-$root/build/release/kexec-sim}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
unset NO_COLOR
failures=0

complain() {
    printf 'cli_test: %s\n' "$*" >&2
    failures=$((failures + 1))
}

# expect CODE TEXT ARGUMENT...: the program ends with CODE, and standard error holds TEXT (empty: any).
expect() {
    local code=$1 text=$2 got
    shift 2
    "$program" "$@" >out 2>err </dev/null
    got=$?
    [[ $got -eq $code ]] || complain "'$*' ended with $got, expected $code: $(head -c 400 err)"
    [[ -z $text ]] || grep -qF -- "$text" err || complain "'$*': standard error has no '$text': $(head -c 400 err)"
    if [[ $code -eq 2 && -s err ]]; then
        grep -qE '^(kexec-sim|[^ ]+:[0-9]+:[0-9]+): error: ' err || complain "'$*': no 'error:' line: $(head -c 400 err)"
    fi
}

cat >good.yaml <<'YAML'
format: 1
scenario: good
summary: A preserved folio survives a plain handover.
machine: {memory: 512MiB}
kernels:
  - {profile: linux-6.18, release: 6.18.0, cmdline: "kho=on"}
parameters: {order: 3}
steps:
  - kho.alloc: {name: kept, order: "${order}", fill: pattern(1)}
  - kho.preserve: {folio: kept}
  - kho.finalize:
  - kexec:
  - kho.restore: {folio: kept}
  - kho.verify: {folio: kept, order: "${order}", fill: pattern(1)}
YAML
sed -e 's/scenario: good/scenario: fails/' -e '$a\  - expect.log: "no such line"' good.yaml >fails.yaml
sed -e 's/kho.finalize:/kho.finalise:/' good.yaml >bad.yaml

# ---- usage ----

expect 2 "unknown command 'rnu'; did you mean 'run'?" rnu good.yaml
expect 2 "unknown command 'frobnicate'; 'kexec-sim --help' lists them" frobnicate
expect 2 "a command is needed"
expect 2 "unknown option '--sed' of 'run'; did you mean '--seed'?" run --sed 1 good.yaml
expect 2 "unknown option '--perfetto' of 'run'" run --perfetto x good.yaml
expect 2 "unknown option '-z' of 'run'" run -z good.yaml
expect 2 "unknown option '--frob'" --frob
expect 2 "SCENARIO" run
expect 2 "--seed needs a number" run --seed one good.yaml
expect 2 "--set needs KEY=VALUE" run --set order good.yaml
expect 2 "unknown isolation 'inlin'; did you mean 'inline'?" run --isolation inlin good.yaml
expect 2 "--stop-at needs jump:N" run --stop-at 1 good.yaml
expect 2 "--boot-params needs --stop-at" run --boot-params b good.yaml
expect 2 "--max-time needs a duration" run --max-time 10 good.yaml
expect 2 "-q and -v exclude each other" run -q -v good.yaml
expect 2 "--ram takes one scenario" run --ram r good.yaml good.yaml
expect 2 "--fault 'kho.presrve#1=fail(ENOMEM)'" run --fault 'kho.presrve#1=fail(ENOMEM)' good.yaml
expect 2 "--fault 'nonsense'" run --fault nonsense good.yaml
expect 2 "--module none.so: no such file" run --module none.so good.yaml
expect 2 "--module good.yaml: no shared object" run --module good.yaml good.yaml
expect 2 "--module .: no regular file" run --module . good.yaml
expect 2 "an argument is empty" run --seed '' good.yaml
expect 2 "'--json' needs a value" run --json= good.yaml
expect 2 "unknown list 'step'; did you mean 'steps'?" list step
expect 2 "unexpected argument 'more'" schema more

# ---- help and lists ----

expect 0 "" --help
grep -q "exit codes:" out || complain "--help does not tell the exit codes"
expect 0 "" run --help
grep -q -- "--stop-at" out || complain "run --help does not tell --stop-at"
expect 0 "" --version
grep -Eqx "kexec-sim [0-9.]+( \([0-9a-f]{12}\))?" out || complain "--version: $(cat out)"
for what in steps faults invariants devices mutants profiles; do
    expect 0 "" list $what
    [[ -s out ]] || complain "list $what prints nothing"
    expect 0 "" list $what --markdown
    head -n 1 out | grep -q '^# ' || complain "list $what --markdown has no heading"
done
mkdir scenarios
cp good.yaml scenarios/
expect 0 "" list scenarios
grep -q "good (scenarios/good.yaml)" out || complain "list scenarios: $(cat out)"
expect 0 "" schema
grep -q '"\$schema"' out || complain "schema prints no JSON Schema"

# ---- validation ----

expect 0 "" check good.yaml fails.yaml
expect 2 "bad.yaml:11:5: error: unknown step 'kho.finalise'; did you mean 'kho.finalize'?" check good.yaml bad.yaml
expect 2 "missing.yaml" check missing.yaml
expect 2 "bad.yaml:11:5: error:" run --json result.json good.yaml bad.yaml
[[ ! -s out ]] || complain "a scenario ran although another file was bad"
[[ ! -e result.json ]] || complain "a result was written although a file was bad"
expect 2 "" run --set nosuch=1 good.yaml
sed -e 's/cmdline: "kho=on"/&, mutants: [KB-99]/' good.yaml >mutant.yaml
expect 2 "mutant.yaml:6:73: error: 'mutants' needs one of KB-01" check mutant.yaml
expect 2 "not 'KB-99'; did you mean" check mutant.yaml
sed -e 's/cmdline: "kho=on"/&, mutants: [KB-20]/' good.yaml >mutant.yaml
expect 2 "mutant.yaml:6:73: error: KB-20 is not modelled; it needs sessions" check mutant.yaml

printf 'modules: [none.so]\n' | cat good.yaml - >module.yaml
expect 2 "module.yaml:15:11: error: none.so: no such file" check module.yaml
expect 2 "this is a folder" show .
head -c 5000000 /dev/zero | tr '\0' '#' >large.yaml
expect 2 "large.yaml:1:1: error: longer than 4 MiB" check large.yaml

# ---- outputs that are inputs, or one another ----

cp good.yaml own.yaml
for option in --ram --json --trace; do
    expect 2 "$option would overwrite own.yaml, which is the scenario" run -q $option own.yaml own.yaml
done
cmp -s good.yaml own.yaml || complain "a scenario was overwritten by its own run"
expect 2 "--trace and --json would both write both" run -q --trace both --json both good.yaml
expect 2 "would both write -" run -q --trace - --json - good.yaml
expect 2 "would both write" run -q --stop-at jump:1 --ram both --boot-params ./both good.yaml
sed -e 's/^machine:.*/machine: {memory: 512MiB, devices: [{name: nic0, model: dma-nic, at: "00:03.0"}]}/' good.yaml >devices.yaml
expect 0 "" check devices.yaml
expect 2 "--boot-params: the machine of devices.yaml has devices" run -q --stop-at jump:1 --ram dev.ram --boot-params dev devices.yaml
[[ ! -e dev && ! -e dev.ram ]] || complain "something was written of a machine that cannot be resumed"

# ---- stop and go on ----

expect 0 "" run -q --stop-at jump:1 --ram ram --boot-params params good.yaml
sed -e 's/^machine:.*/machine: {image: ram, boot-params: params}/' -e '/kho.alloc/,/kexec:/d' good.yaml >resumed.yaml
expect 0 "" run -q resumed.yaml
expect 2 "--ram would overwrite ram, which is the memory image" run -q --ram ram resumed.yaml
head -c 100000 ram >short
sed -e 's/image: ram/image: short/' resumed.yaml >short.yaml
expect 2 "its memory map reaches" run -q short.yaml
sed -e 's/image: ram/image: ./' resumed.yaml >folder.yaml
expect 2 "is no regular file" run -q folder.yaml
expect 2 "this is a folder" inspect ram --boot-params .
expect 2 "no root tree" inspect "$program"
"$program" inspect ram --boot-params params >/dev/full 2>err
[[ $? -eq 2 ]] || complain "inspect: a full disk at standard output is no exit 2"
# Nothing in a map says how long its bitmaps are; what lies far out in a long one must not be lost.
sed -e 's/  - kho.preserve: {folio: kept}/&\n  - kho.preserve_pages: {name: far, count: 1, at: 0x5001, fill: pattern(1)}/' good.yaml >far.yaml
expect 0 "" run -q --stop-at jump:1 --ram far.ram --boot-params far.params far.yaml
expect 0 "" inspect --json far.json --boot-params far.params far.ram
python3 -c "
import json
image = json.load(open('far.json'))
assert image['bitmap_bytes'] == 4096, image['bitmap_bytes']
assert any(r['begin'] == '0x5001000' for r in image['ranges']), image['ranges']
" 2>err || complain "inspect misreads long bitmaps: $(tail -n 1 err)"

# What devices hand over is decoded, each record once.
expect 0 "" run -q --stop-at jump:1 --ram vm.ram "$root/scenarios/vm/vm-live-update.yaml"
expect 0 "" inspect --json vm.json vm.ram
python3 -c "
import json, struct
image = json.load(open('vm.json'))
records = {r['name']: r for r in image['records']}
assert records['subsystem pci']['what'] == 'version 2, 6 devices', records['subsystem pci']
assert any('refcount 2' in line for line in records['subsystem pci']['lines'])
assert any('domain id 1' in line for line in records['subsystem iommu']['lines'])
assert records['vfio-pci-v1 0x103']['what'] == '0000:03:00.0', records['vfio-pci-v1 0x103']
assert [r['what'] for n, r in records.items() if n.startswith('kvm')] == ['default', 'default']
assert not [r for r in image['ranges'] if r['owner'] == '?'], image['ranges']
with open('vm.ram', 'r+b') as ram:   # the first block of devices is its own successor
    ram.seek(int(records['subsystem pci']['phys'], 16) + 8)
    block = struct.unpack('<Q', ram.read(8))[0]
    ram.seek(block)
    ram.write(struct.pack('<Q', block))
" 2>err || complain "inspect misreads records of devices: $(tail -n 1 err)"
expect 1 "" inspect vm.ram
grep -qF "the block of devices is met for the second time" out || complain "inspect follows a chain that bites its tail"

# What is wrong with the boot parameters is found before anything runs, and named.
bad_params() { # WANTED JQ-LIKE-PYTHON
    python3 -c "import json,sys; p=json.load(open('params')); exec(sys.argv[1]); json.dump(p, open('bad-params','w'))" "$2"
    sed -e 's/boot-params: params/boot-params: bad-params/' resumed.yaml >bad-params.yaml
    expect 2 "$1" check bad-params.yaml
    expect 2 "$1" run bad-params.yaml good.yaml
    [[ ! -s out ]] || complain "a scenario ran although the boot parameters of another are bad: $1"
}
bad_params "bad-params.yaml:4:10: error: bad-params: format" "p['format']='kexec-sim/boot-params-9'"
bad_params "'setup_data' is needed" "del p['setup_data']"
bad_params "'node_count' is 0" "p['node_count']=0"
bad_params "4294967295 is more than" "p['node_count']=4294967295"
bad_params "which is none of 1 nodes" "p['nodes'][0]['node']=1"
bad_params "'memory_map' is not ascending" "p['memory_map'].reverse()"
bad_params "is no number" "p['clock']=-1"
bad_params "key 'begin' not found" "del p['memory_map'][0]['begin']"
expect 1 "" run -q --stop-at jump:9 --boot-params never good.yaml
grep -q "the jump to generation 9" out || complain "a stop that was never reached is not told: $(cat out)"
[[ ! -e never ]] || complain "a run that did not stop left boot parameters"

# ---- outputs that cannot be written ----

expect 2 "cannot write nowhere/r.json" run --json nowhere/r.json good.yaml
[[ ! -s out ]] || complain "a scenario ran although its result cannot be written"
expect 2 "cannot write nowhere/t.jsonl" run --trace nowhere/t.jsonl good.yaml
expect 2 "cannot write nowhere/t.jsonl" run --json fresh.json --dump-fdt fresh-dir --trace nowhere/t.jsonl good.yaml
[[ ! -e fresh.json && ! -e fresh-dir ]] || complain "a refused run left files behind"
expect 2 "cannot write nowhere/b" run --stop-at jump:1 --boot-params nowhere/b good.yaml
expect 2 "No space left" run -q --json /dev/full good.yaml
expect 2 "No space left" run -q --trace /dev/full good.yaml
"$program" run good.yaml >/dev/full 2>err
[[ $? -eq 2 ]] || complain "a full disk at standard output is no exit 2"
echo '["old"]' >old.json
expect 2 "" run --json old.json bad.yaml
[[ $(cat old.json) == '["old"]' ]] || complain "an earlier result was lost to a bad file"

# ---- running ----

expect 0 "" run good.yaml
grep -q "══ generation 1" out || complain "the narration has no second generation"
[[ $(wc -L <out) -le 80 ]] || complain "the narration is wider than 80 columns"
grep -q $'\x1b' out && complain "there is colour in a file"
expect 0 "" run -q good.yaml
[[ ! -s out ]] || complain "-q says something about a run that passed"
expect 1 "" run fails.yaml
grep -q "fails failed:" out || complain "the failure is not told"
[[ $(tail -n 1 out) == "    $program run fails.yaml --seed 1" ]] || complain "the last line does not repeat the run: $(tail -n 1 out)"
expect 1 "" run -q --seed 0x10 --set order=2 good.yaml fails.yaml
tail -n 3 out | grep -q -- "--seed 16 --set order=2" || complain "the command lacks --set or --seed: $(tail -n 3 out)"
tail -n 1 out | grep -q "2 scenarios: 1 passed, 1 failed" || complain "no total: $(tail -n 1 out)"
expect 1 "" run -q --json result.json good.yaml fails.yaml
python3 - result.json <<'PY' || complain "result.json is not as the contract says"
import json, sys
good, fails = json.load(open(sys.argv[1]))
assert good["outcome"] == "pass" and fails["outcome"] == "fail", "outcome"
assert good["blackout_ns"] == good["blackouts_ns"][-1] > 0, "blackout"
assert [g["end"] for g in good["generations"]] == ["kexec", "scenario"], "generations"
assert len(good["trace_hash"]) == len(good["ram_hash"]) == 32, "hashes"
PY
expect 0 "══ generation 1" run --json - good.yaml
python3 -c 'import json; json.load(open("out"))' || complain "--json - does not print JSON alone on standard output"

# ---- show ----

for view in "" -q -v; do
    "$program" run $view --trace t.jsonl good.yaml fails.yaml >narrated 2>err
    "$program" show $view t.jsonl >shown 2>err || complain "show $view ended with $?: $(cat err)"
    cmp -s narrated shown || complain "show $view differs: $(diff narrated shown | head -n 5)"
done
"$program" run -v --isolation inline good.yaml >inline 2>err
"$program" run -v good.yaml >process 2>err
cmp -s inline process || complain "the narration differs between isolations"
expect 2 "none.jsonl" show none.jsonl
expect 2 "good.yaml:1:1: error: this is no line of a trace" show good.yaml
head -n 20 t.jsonl >cut.jsonl
expect 2 "cut.jsonl:20:1: error: the trace ends here without its last line" show cut.jsonl
grep -q "generation 0" out || complain "a trace that was cut short is not told to its end"

# ---- stepping ----

printf '\n\nq\n' | "$program" run --step good.yaml >out 2>err
[[ $(grep -c "\[Enter: next step, q: quit\]" out) -eq 3 ]] || complain "--step did not stop at q"
grep -q "good: interrupted" out || complain "a run that was quit is not called interrupted"
grep -q "the kernel is process [0-9]" err || complain "--step does not tell the kernel's process"
expect 0 "" run --step good.yaml
[[ $(grep -c "\[Enter: next step" out) -eq 6 ]] || complain "--step without input does not go on"

# ---- interruption ----

for signal in INT TERM; do
    mkfifo "in.$signal"
    # Waits for Enter until the signal comes.
    env --default-signal=INT,TERM "$program" run --step --json interrupted.json good.yaml <"in.$signal" >out 2>err &
    pid=$!
    exec 3>"in.$signal"
    for ((i = 0; i < 100; ++i)); do
        grep -q "\[Enter: next step" out && break
        sleep 0.1
    done
    kill "-$signal" "$pid"
    wait "$pid"
    got=$?
    exec 3>&-
    [[ $got -eq $((128 + $(kill -l "$signal"))) ]] || complain "SIG$signal ended it with $got"
    children=$(pgrep -P "$pid" || true)
    [[ -z $children ]] || complain "SIG$signal left children behind: $children"
done

if ((failures)); then
    echo "cli_test: $failures failures" >&2
    exit 1
fi
echo "cli_test: all well"

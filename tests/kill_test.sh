#!/usr/bin/env bash
# What the program does when it, or one of its kernels, is killed, interrupted, or runs out of room.
#
# --step holds a run between two steps: it waits for a line on standard input, here a FIFO, and says on standard error
# which process the running kernel is.
#
#     test ──FIFO──> kexec-sim run --step        SIGKILL to the program: nothing is left
#                      └─ kernel's process       SIGKILL to the kernel: a panic of that generation
set -euo pipefail

root=${KEXEC_SIM_ROOT:-$(cd "$(dirname "$0")/.." && pwd)}
program=${KEXEC_SIM:-$root/build/release/kexec-sim}
cd "$root"
# shellcheck source=tests/checks.sh
. tests/checks.sh

dir=$(mktemp -d "${TMPDIR:-/tmp}/kexec-sim-kill-XXXXXX")
started=()
mounted=

cleanup() {
    for pid in "${started[@]}"; do kill -KILL "$pid" 2>/dev/null || true; done
    [[ -z $mounted ]] || umount "$mounted" 2>/dev/null || true
    rm -rf "$dir"
}
trap cleanup EXIT

gone() { [[ ! -e /proc/$1 ]] || grep -q '^State:[[:space:]]*Z' "/proc/$1/status" 2>/dev/null; }
shared_memory() { find /dev/shm -mindepth 1 -maxdepth 1 2>/dev/null | sort; }

# hold SCENARIO [OPTION...]: starts a run that waits after its first step. Sets run, kernel; fd 7 is its input.
hold() {
    local scenario=$1
    shift
    rm -f "$dir/input" "$dir/out" "$dir/err"
    mkfifo "$dir/input"
    # Background jobs of a script ignore SIGINT; this one must not.
    (trap - INT; exec env --default-signal=INT,TERM "$program" run --step --no-color "$@" "$scenario" <"$dir/input" >"$dir/out" 2>"$dir/err") &
    run=$!
    started+=("$run")
    exec 7>"$dir/input"
    wait_until said_pid || {
        echo "FAILED: the run never said which process its kernel is" >&2
        cat "$dir/err" >&2
        exit 1
    }
    kernel=$(kernel_pid)
}
kernel_pid() { sed -n 's/^kexec-sim: the kernel is process \([0-9]*\)$/\1/p' "$dir/err" | tail -n 1; }
said_pid() { [[ -e $dir/err && -n $(kernel_pid) ]]; }
prompts() { grep -c 'Enter: next step' "$dir/out" || true; }
# next: lets one step run and waits for the prompt after it.
next() {
    prompts_before=$(prompts)
    echo >&7
    wait_until more_prompts
}
more_prompts() { (($(prompts) > prompts_before)); }

# finish: lets the run go on to its end; its exit status is in `status`.
finish() {
    exec 7>&-
    status=0
    wait "$run" || status=$?
}
status_of() { # status_of COMMAND...
    status=0
    "$@" || status=$?
}

# --- the program is killed -------------------------------------------------------------------------------------

before=$(shared_memory)
hold scenarios/memfd-survives.yaml
kill -KILL "$run"
exec 7>&-
wait "$run" 2>/dev/null || true
check "a killed program takes its kernel with it" wait_until gone "$kernel"
check "nothing of it is left in shared memory" test "$before" = "$(shared_memory)"
status_of "$program" run -q scenarios/memfd-survives.yaml >/dev/null
check "the next run is a clean one" test "$status" = 0

# The same with the RAM kept in a file, which the next run overwrites.
hold scenarios/memfd-survives.yaml --ram "$dir/ram"
kill -KILL "$run"
exec 7>&-
wait "$run" 2>/dev/null || true
check "its kernel is gone as well" wait_until gone "$kernel"
status_of "$program" run -q --ram "$dir/ram" scenarios/memfd-survives.yaml >/dev/null
check "a RAM file that a killed run left does not trouble the next" test "$status" = 0
rm -f "$dir/ram"

# --- a kernel is killed ----------------------------------------------------------------------------------------

cat >"$dir/crash.yaml" <<'YAML'
format: 1
scenario: crash
summary: A kernel is killed between two steps, and a crash kernel boots.
machine: {memory: 512MiB}
kernels:
  - {profile: luo-v3, cmdline: "kho=on liveupdate=on crashkernel=128M"}
steps:
  - note: the test kills the kernel's process here
  - luo.state: normal
    expect: dead
  - crash-kernel:
  - luo.state: undefined
YAML
hold "$dir/crash.yaml" --json "$dir/result.json"
kill -KILL "$kernel"
check "the kernel's process ends" wait_until gone "$kernel"
finish
check "a killed kernel is a panic of its generation, and a crash kernel boots" test "$status" = 0
[[ $status = 0 ]] || cat "$dir/out" "$dir/err" >&2
tr -d ' \n' <"$dir/result.json" >"$dir/result"
check "the first generation ended in a panic" grep -q '"generations":\[{"index":0,[^}]*"end":"panic"}' "$dir/result"
check "the crash kernel ran to the end" grep -q '{"index":1,[^}]*"end":"scenario"}\]' "$dir/result"

# Between the jump and the end: the second kernel has a process of its own.
hold scenarios/memfd-survives.yaml
first=$kernel
for ((i = 0; i < 10; i++)); do next; done
kernel=$(kernel_pid)
check "the kernel behind the jump is another process" test "$kernel" != "$first"
check "the process of the first one is gone" gone "$first"
kill -KILL "$kernel"
finish
check "a run whose kernel was killed against its plan fails" test "$status" = 1

# --- interruption ----------------------------------------------------------------------------------------------

for signal in INT:130 TERM:143; do
    hold scenarios/memfd-survives.yaml
    kill -"${signal%:*}" "$run"
    finish
    check "SIG${signal%:*} ends the run with ${signal#*:}" test "$status" = "${signal#*:}"
    check "and its kernel with it" wait_until gone "$kernel"
done
check "nothing is left in shared memory after all this" test "$before" = "$(shared_memory)"

# --- no room ---------------------------------------------------------------------------------------------------

cat >"$dir/large.yaml" <<'YAML'
format: 1
scenario: large
summary: Writes more memory than there is room for.
machine: {memory: 512MiB}
kernels:
  - {profile: luo-v3, cmdline: "kho=on liveupdate=on"}
steps:
  - memfd.create: {name: data, size: 64MiB, fill: pattern(1)}
YAML
small=$dir/small
mkdir "$small"
if mount -t tmpfs -o size=16m kexec-sim-test "$small" 2>/dev/null; then
    mounted=$small
    for isolation in process inline; do
        status_of "$program" run -q --isolation "$isolation" --ram "$small/ram" "$dir/large.yaml" >/dev/null 2>"$dir/err"
        check "--ram on a full file system gives exit 2 ($isolation)" test "$status" = 2
        check "and says so ($isolation)" grep -q '^kexec-sim: error: ' "$dir/err"
        [[ $status = 2 ]] || cat "$dir/err" >&2
        rm -f "$small/ram"
    done
else
    echo "skipped: no file system can be mounted here, so none can be filled"
fi
status_of "$program" run -q --ram /dev/full scenarios/memfd-survives.yaml >/dev/null 2>"$dir/err"
check "--ram where no file can be gives exit 2" test "$status" = 2
status_of bash -c 'ulimit -f 1024; exec "$@"' - "$program" run -q --ram "$dir/ram" scenarios/memfd-survives.yaml >/dev/null 2>"$dir/err"
check "--ram beyond the limit for files gives exit 2" test "$status" = 2
[[ $status = 2 ]] || cat "$dir/err" >&2
status_of "$program" run -q --json /dev/full scenarios/memfd-survives.yaml >/dev/null 2>"$dir/err"
check "--json on a full device gives exit 2" test "$status" = 2

# As timeout(1), service managers and terminals do it: to the whole group, in the middle of work, and twice.
cat >"$dir/busy.yaml" <<'YAML'
format: 1
scenario: busy
machine: {memory: 256MiB}
kernels: [{profile: luo-v3, cmdline: "kho=on liveupdate=on"}]
steps:
  - repeat: {times: 100000, steps: [{luo.prepare: }, {luo.cancel: }]}
YAML
group_signal() { # runs `busy` in a group of its own and signals that, then the program alone; sets status
    status=$(python3 - "$program" "$dir" <<'PY'
import os, signal, subprocess, sys, time
program, folder = sys.argv[1:]
with open(folder + "/out", "wb") as out, open(folder + "/err", "wb") as err:
    run = subprocess.Popen([program, "run", "-q", "--json", folder + "/result.json", folder + "/busy.yaml"], stdout=out, stderr=err,
                           start_new_session=True, restore_signals=True,
                           preexec_fn=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    children = "/proc/%d/task/%d/children" % (run.pid, run.pid)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and not open(children).read():
        time.sleep(0.01)
    time.sleep(0.2)
    os.killpg(run.pid, signal.SIGTERM)
    os.kill(run.pid, signal.SIGTERM)
    print(run.wait(timeout=60))
PY
    ) || status=none
}
for round in 1 2 3; do
    group_signal
    check "a group signal in the middle of a run ends it with 143 ($round)" test "$status" = 143
    check "and is no failure of the scenario ($round)" test ! -s "$dir/out"
    check "and says so ($round)" grep -qx "kexec-sim: interrupted" "$dir/err"
    check "and no kernel is left ($round)" bash -c "! pgrep -f '$dir/[b]usy.yaml' >/dev/null"
done

verdict

# shellcheck shell=bash
# What the shell tests share; they source it.

failures=0

check() { # check WHAT CONDITION...
    local what=$1
    shift
    if "$@"; then
        echo "ok: $what"
    else
        echo "FAILED: $what" >&2
        failures=$((failures + 1))
    fi
}

# wait_until COMMAND...: false after about twenty seconds.
wait_until() {
    local i
    for ((i = 0; i < 400; i++)); do
        if "$@"; then return 0; fi
        sleep 0.05
    done
    return 1
}

# verdict: the last line of a test, and its exit status.
verdict() {
    if ((failures)); then
        echo "$failures checks failed" >&2
        exit 1
    fi
    echo "all is well"
}

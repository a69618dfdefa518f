# Says what is being done and how long it took. Sourced by the scripts in dev/.
#
#   step "Start etcd" start_etcd        output goes to a log, which is shown when the command fails
#   show "Follow the build" follow      output is for the reader and shown as it comes
#
# Both leave `set -e` in force within the command (an `if` around it would switch it off): the script ends where a command
# fails, and the trap below says which step that was.
# shellcheck shell=bash

# The script's own output, whatever is redirected where it fails.
exec 6>&1 7>&2

STEP_TEXT=
STEP_START=
STEP_LOG=
STEP_HEARTBEAT=
STEP_SECONDS_BETWEEN_HEARTBEATS=15
# Commands to run when the script ends, however it ends.
AT_EXIT=()

note() { printf '    %s\n' "$*"; }

# The comment that the script begins with.
usage() { sed -n '2,/^set /s/^# \{0,1\}//p' "$0"; }

# For a script that takes none: whoever asks it something is told what it does, and nothing is done.
no_arguments() {
    [ "$#" = 0 ] && return
    usage >&2
    exit 2
}

# Ends the script with one sentence that says what to do.
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

seconds_since() { awk -v from="$1" -v to="$EPOCHREALTIME" 'BEGIN { printf "%.1f s", to - from }'; }

step_begin() {
    STEP_TEXT=$1
    STEP_START=$EPOCHREALTIME
    printf '==> %s\n' "$STEP_TEXT"
}

step_end() {
    printf '    done in %s\n' "$(seconds_since "$STEP_START")"
    STEP_TEXT=
}

step() {
    step_begin "$1"
    shift
    STEP_LOG=$(mktemp "${TMPDIR:-/tmp}/ocibuild-step.XXXXXX")
    step_heartbeat "$$" "$STEP_LOG" "$STEP_SECONDS_BETWEEN_HEARTBEATS" &
    STEP_HEARTBEAT=$!
    "$@" >"$STEP_LOG" 2>&1
    step_close
    step_end
}

show() {
    step_begin "$1"
    shift
    "$@"
    step_end
}

# Says every few seconds that the step is still going on, with the last line of its log. Ends with the script, also when
# that is killed, and holds none of its locks.
step_heartbeat() {
    local script=$1 log=$2 pause=$3 start=$EPOCHREALTIME last
    exec 6>&- 7>&- 8>&- 9>&-
    while read -r -t "$pause" _ <> <(:) || kill -0 "$script" 2>/dev/null; do
        [ -e "$log" ] || return 0
        last=$(tail -n 1 "$log" | cut -c 1-100)
        printf '    ... %s%s\n' "$(seconds_since "$start")" "${last:+: $last}"
    done
}

step_close() {
    if [ -n "$STEP_HEARTBEAT" ]; then
        kill "$STEP_HEARTBEAT" 2>/dev/null || true
        wait "$STEP_HEARTBEAT" 2>/dev/null || true
    fi
    [ -z "$STEP_LOG" ] || rm -f "$STEP_LOG"
    STEP_HEARTBEAT=
    STEP_LOG=
}

step_report_failure() {
    local status=$? how
    if [ -n "$STEP_TEXT" ] && [ "$status" -ne 0 ]; then
        if [ -n "$STEP_LOG" ] && [ -s "$STEP_LOG" ]; then
            tail -n 40 "$STEP_LOG" | sed 's/^/    | /' >&7
        fi
        case $status in 130 | 143) how=interrupted ;; *) how=failed ;; esac
        printf '    %s after %s: %s\n' "$how" "$(seconds_since "$STEP_START")" "$STEP_TEXT" >&7
    fi
    step_close
    local command
    for command in "${AT_EXIT[@]}"; do
        # shellcheck disable=SC2086 # a command and its arguments
        $command || true
    done
    exit "$status"
}
trap step_report_failure EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# wait_until SECONDS "what is waited for" COMMAND…: polls a condition ten times a second.
wait_until() {
    local limit=$1 what=$2 deadline
    shift 2
    deadline=$((SECONDS + limit))
    until "$@" >/dev/null 2>&1; do
        if ((SECONDS >= deadline)); then
            printf 'waited %s s in vain for %s\n' "$limit" "$what" >&2
            return 1
        fi
        sleep 0.1
    done
}

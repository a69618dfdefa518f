# Long-running processes of the node: each with a pid file and a log. Sourced by dev/cluster and dev/images.
# shellcheck shell=bash

# A pid file alone proves nothing (pids are used again): the process must also have the very command line it was started
# with, which lies beside the pid, null-separated as /proc shows it.
process_runs() {
    local name=$1 pid
    pid=$(cat "$RUN/$name.pid" 2>/dev/null) || return 1
    # Through a pipe, for cmp believes that the files of /proc are empty.
    [ -n "$pid" ] && [ -e "$RUN/$name.command" ] && { cat "/proc/$pid/cmdline" 2>/dev/null || true; } | cmp -s - "$RUN/$name.command"
}

# process_start NAME CONFIGURATION COMMAND…: does nothing where this very command runs; replaces one that was started otherwise,
# with another configuration file (- for none), or from a binary that has been replaced since.
process_start() {
    local name=$1 configuration=$2 log=$LOGS/$1.log inputs
    shift 2
    mkdir -p "$RUN" "$LOGS"
    inputs=$({
        printf '%s\0' "$@"
        [ "$configuration" = - ] || cat "$configuration"
    } | sha256sum)
    if process_runs "$name"; then
        if [ "$(cat "$RUN/$name.inputs")" = "$inputs" ] && ! readlink "/proc/$(cat "$RUN/$name.pid")/exe" | grep -q ' (deleted)$'; then
            return 0
        fi
        process_stop "$name"
    fi
    rm -f "$RUN/$name.pid"
    printf '%s\0' "$@" >"$RUN/$name.command"
    printf '%s\n' "$inputs" >"$RUN/$name.inputs"
    [ ! -s "$log" ] || mv "$log" "$log.previous"
    # Descriptors 6 and 7 are the script's output, 8 and 9 its locks: a daemon must not hold them.
    setsid "$@" </dev/null >"$log" 2>&1 6>&- 7>&- 8>&- 9>&- &
    printf '%s\n' "$!" >"$RUN/$name.pid.new"
    mv "$RUN/$name.pid.new" "$RUN/$name.pid"
    disown "$!"
    # Until setsid has become the command, its command line is another.
    wait_until 5 "$name to start" process_runs_or_ended "$name"
}

process_runs_or_ended() { process_runs "$1" || [ ! -e "/proc/$(cat "$RUN/$1.pid")" ]; }

# process_stop NAME [SIGNAL]: asks a process to end, and ends it after ten seconds.
process_stop() {
    local name=$1 signal=${2:-TERM} pid
    if process_runs "$name"; then
        pid=$(cat "$RUN/$name.pid")
        kill "-$signal" "$pid" 2>/dev/null || true
        wait_until 10 "$name to end" process_is_gone "$name" || kill -KILL "$pid" 2>/dev/null || true
        wait_until 5 "$name to be gone" process_is_gone "$name"
    fi
    rm -f "$RUN/$name.pid" "$RUN/$name.command" "$RUN/$name.inputs"
}

process_is_gone() { ! process_runs "$1"; }

# process_wait NAME SECONDS "what is waited for" CONDITION…: for a daemon that has been started. One that ends at once says why
# in its log: that is what the reader needs, not a time-out. And an answer counts only while it is ours that runs.
process_wait() {
    local name=$1 limit=$2 what=$3 deadline
    shift 3
    deadline=$((SECONDS + limit))
    while process_runs "$name" && ((SECONDS < deadline)); do
        if "$@" >/dev/null 2>&1 && process_runs "$name"; then
            return 0
        fi
        sleep 0.1
    done
    tail -n 25 "$LOGS/$name.log" 2>/dev/null || true
    printf '%s: %s; its log is %s\n' "$name" \
        "$(process_runs "$name" && echo "no $what after $limit s" || echo "has ended")" "$LOGS/$name.log"
    return 1
}

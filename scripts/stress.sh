#!/bin/bash
# The file system stressors of stress-ng with --verify on a real mount, each on a bare directory of the same file system
# first: one that fails or is skipped there says nothing about the mount and counts as skipped.
#
#   scripts/stress.sh [KMSFS] [--install] [-- STRESSOR...]
#
# Without KMSFS the release binary is built; --install installs stress-ng where it is missing (Debian, root). SECONDS_EACH
# (3) is how long each runs on the mount, SECONDS_BARE (1) on the bare directory, WORKERS (2) how many processes, SUITE
# (aes-256-gcm) the volume's suite. Prints a line a stressor, with what it did a second on the mount and bare, and last
# how many passed and failed.
set -u

. "$(dirname "$0")/checks.sh"
each=${SECONDS_EACH:-3} bare=${SECONDS_BARE:-1} workers=${WORKERS:-2} suite=${SUITE:-aes-256-gcm}
# What the kernel has not for FUSE (docs/SEMANTICS.md): stress-ng says so and does nothing.
limits='FS_IOC_FIEMAP not supported'
# What the daemon may hold more at the end than at the start: descriptors, and MiB of memory.
more_fds=8 more_mib=${MORE_MIB:-128}
stressors=(
    fiemap rename dentry iomix mmapmany seek xattr lockf fallocate link dir getdent sync-file utime chmod copy-file hdd
    filename dirmany
)
kmsfs=${KMSFS:-} install=false
while [ $# -gt 0 ]; do
    case $1 in
        --install) install=true ;;
        --) shift; [ $# -eq 0 ] || stressors=("$@"); break ;;
        *) kmsfs=$1 ;;
    esac
    shift
done

skip_all() {
    echo "skipped: $1"
    echo "0 passed, 0 failed, everything skipped"
    exit 0
}
if ! command -v stress-ng >/dev/null; then
    $install || skip_all "no stress-ng (--install gets it)"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq && apt-get install -qq --no-install-recommends stress-ng >/dev/null || exit 2
fi
begin stress "$kmsfs"
unset RUST_LOG
log=$work/log output=$work/output daemon=
mkdir "$work/bare"

at_end() { [ -z "$daemon" ] || kill "$daemon" 2>/dev/null; }

ok() { passed=$((passed + 1)); echo "ok      $1"; }
left_out() { skipped=$((skipped + 1)); echo "skipped $1"; }
# fail WHAT [FILE]: with the end of what is in the file.
fail() {
    failed=$((failed + 1))
    echo "FAILED  $1"
    [ $# -lt 2 ] || tail -n 15 "$2" | sed 's/^/        /'
}

mount_it() {
    "$kmsfs" mount --dev -f --log "$log" "$work/volume" "$mnt" 2>>"$work/errors" &
    daemon=$!
    for _ in $(seq 200); do
        grep -qF " $mnt " /proc/self/mountinfo && stat "$mnt" >/dev/null && return 0
        alive || break
        sleep 0.05
    done
    return 1
}

unmount_it() {
    "$kmsfs" umount "$mnt" >"$output" 2>&1 || return 1
    wait "$daemon" || return 1
    daemon=
}

alive() { kill -0 "$daemon" 2>/dev/null; }
# Without sockets: connections to the KMS are kept for a minute.
fds() { find "/proc/$daemon/fd" -mindepth 1 -not -lname 'socket:*' 2>/dev/null | wc -l; }
rss_mib() { awk '/^VmRSS/ { print int($2 / 1024) }' "/proc/$daemon/status"; }
usable() { echo text >"$mnt/probe" && [ "$(cat "$mnt/probe")" = text ] && rm "$mnt/probe"; }

# run STRESSOR DIRECTORY SECONDS: its status; its words are in $output. One that hangs is ended.
run() {
    timeout -k 5 $(($3 + 60)) stress-ng "--$1" "$workers" --timeout "$3" --verify --metrics-brief --temp-path "$2" \
        >"$output" 2>&1
}

# Lines that tell of a failure: stress-ng ends with 0 after some of them.
complaints() { grep -E 'stress-ng: (fail|error):' "$output"; }
# What it did a second; nothing, if it did not run.
rate() { awk -v name="$1" '/metrc:/ { for (i = 1; i < NF; i++) if ($i == name) { print $(i + 5); exit } }' "$output"; }

stress() {
    local name=$1 on_bare on_mount status errors
    run "$name" "$work/bare" "$bare"
    status=$?
    on_bare=$(rate "$name")
    if [ $status -ne 0 ] || [ -n "$(complaints)" ] || [ -z "$on_bare" ]; then
        left_out "$name: on the bare directory too: status $status, $(grep -Ei 'fail|skip|error|not ' "$output" | head -n 1)"
        rm -rf "${work:?}/bare"/*
        return 0
    fi
    errors=$(grep -c ' ERROR ' "$log")
    run "$name" "$mnt" "$each"
    status=$?
    on_mount=$(rate "$name")
    if [ $status -eq 0 ] && [ -z "$on_mount" ] && grep -q "$limits" "$output"; then
        left_out "$name: $(grep -m 1 "$limits" "$output" | sed 's/.*\] //')"
        return 0
    fi
    if [ $status -ne 0 ] || [ -n "$(complaints)" ] || [ -z "$on_mount" ]; then
        fail "$name: status $status" "$output"
    elif ! alive; then
        fail "$name: the daemon is gone" "$log"
    elif [ "$(grep -c ' ERROR ' "$log")" != "$errors" ]; then
        fail "$name: errors in the log" <(grep ' ERROR ' "$log")
    elif ! usable; then
        fail "$name: the mount is of no use afterwards" "$log"
    elif [ -n "$(ls -A "$mnt")" ]; then
        fail "$name: something is left" <(ls -A "$mnt")
    else
        ok "$name ($on_mount/s, bare $on_bare/s)"
    fi
    rm -rf "${mnt:?}"/* "${work:?}/bare"/*
    alive
}

if ! "$kmsfs" init --dev --suite "$suite" "$work/volume" >"$output" 2>&1 || ! mount_it || ! usable; then
    fail "init and mount" <(cat "$output" "$work/errors")
    summary
    exit
fi
fds_before=$(fds) rss_before=$(rss_mib)
for name in "${stressors[@]}"; do
    stress "$name" || break
done

if alive; then
    # Some are closed a moment after the last close.
    for _ in $(seq 100); do
        fds_after=$(fds)
        [ "$fds_after" -gt $((fds_before + more_fds)) ] || break
        sleep 0.1
    done
    rss_after=$(rss_mib)
    what="descriptors of the daemon: $fds_before before, $fds_after after"
    if [ "$fds_before" -eq 0 ]; then
        left_out "descriptors of the daemon: only root may look"
    elif [ "$fds_after" -le $((fds_before + more_fds)) ]; then
        ok "$what"
    else
        fail "$what" <(find "/proc/$daemon/fd" -mindepth 1 -printf '%l\n' | sed 's/[0-9]\+/N/g' | sort | uniq -c | sort -n)
    fi
    what="memory of the daemon: $rss_before MiB before, $rss_after MiB after"
    if [ "$rss_after" -le $((rss_before + more_mib)) ]; then ok "$what"; else fail "$what"; fi
    echo text >"$mnt/kept"
    if unmount_it && mount_it && [ "$(find "$mnt" -type f)" = "$mnt/kept" ] && [ "$(cat "$mnt/kept")" = text ]; then
        ok "unmount, mount, find"
    else
        fail "unmount, mount, find" <(cat "$output" "$work/errors")
    fi
    if unmount_it; then ok "unmount"; else fail "unmount" "$output"; fi
fi

summary

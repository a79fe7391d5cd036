# Sourced by the scripts that run real programs on real mounts: a place to work in, which is cleaned in the end, and
# checks that are counted. Everything from here on is exported: a check runs in a shell of its own.
set -a
set -u

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
passed=0 failed=0 skipped=0
suite='' user='' running=''
mount_option_text=''

# begin NAME [KMSFS]: the binary (without one the release build), the directory to work in, the mount point.
begin() {
    kmsfs=${2:-${KMSFS:-}}
    if [ -z "$kmsfs" ]; then
        (cd "$repo" && cargo build --release --quiet --locked --bin kmsfs) || exit 2
        kmsfs=${CARGO_TARGET_DIR:-$repo/target}/release/kmsfs
    fi
    kmsfs=$(realpath -e "$kmsfs") || exit 2
    if [ ! -c /dev/fuse ]; then
        echo "skipped: no /dev/fuse"
        echo "0 passed, 0 failed, everything skipped"
        exit 0
    fi
    work=$(realpath "$(mktemp -d "${TMPDIR:-/tmp}/kmsfs-$1-XXXXXX")")
    XDG_STATE_HOME=$work/state
    XDG_CONFIG_HOME=$work/config
    mnt=$work/mnt
    log=$work/output
    mkdir "$mnt"
    trap finish EXIT
    trap 'exit 130' INT TERM
}

# Every mount below the directory, the last first, and the loop devices of files in it. $1: but this one.
unmount_all() {
    local target kind device file
    while read -r target kind; do
        [ "$target" != "${1:-}" ] || continue
        # Ours waits until the daemon has ended.
        if [ "$kind" = fuse.kmsfs ]; then
            # What a killed check had running may take a moment to end.
            for _ in 1 2 3 4 5; do timeout 60 "$kmsfs" umount "$target" && continue 2; sleep 1; done
        fi
        umount "$target" || umount -l "$target" || fusermount3 -uz "$target"
    done 2>/dev/null < <(awk -v below="$work/" 'index($2, below) == 1 { print $2, $3 }' /proc/self/mounts | tac)
    if command -v losetup >/dev/null; then
        while read -r device file; do
            case $file in "$work"/*) losetup -d "$device" ;; esac
        done < <(losetup -n -O NAME,BACK-FILE 2>/dev/null)
    fi
}

# What a script has to end beside; it may say so again.
at_end() { :; }

finish() {
    trap - EXIT
    cd /
    if [ -n "$running" ]; then
        kill "$running" && wait "$running"
    fi 2>/dev/null
    at_end
    unmount_all
    # After an unmount by force the daemon may still be writing its state.
    for _ in 1 2 3 4 5; do rm -rf --one-file-system "$work" 2>/dev/null && break; sleep 1; done
}

# check NAME FUNCTION: runs it in a shell that ends at the first failure, at most $deadline seconds, as $user if that
# is set. With ONLY those whose name it matches, a regular expression. Status 77 is skipped, for the reason that the
# last line says (see skip).
check() {
    local name=$1 start=$SECONDS status=0 as=()
    shift
    [[ $name =~ (${ONLY:-.}|init and mount$|, unmounted$) ]] || return 0
    if [ -n "$user" ]; then
        as=(setpriv --reuid="$user" --regid="$(id -g "$user")" --clear-groups env "HOME=$home")
    fi
    # In the background, for a signal would have to wait for it otherwise.
    timeout --kill-after=15 "${deadline:-900}" ${as[@]+"${as[@]}"} \
        bash -Eeuc 'trap "exit 143" TERM; trap "echo \"failed: \$BASH_COMMAND\"" ERR; cd "$work"; "$@"' check "$@" >"$log" 2>&1 </dev/null &
    running=$!
    wait "$running" || status=$?
    running=''
    case $status in
        0)
            passed=$((passed + 1))
            echo "ok      $suite: $name ($((SECONDS - start)) s)"
            return
            ;;
        77)
            skipped=$((skipped + 1))
            echo "skipped $suite: $name: $(tail -n 1 "$log")"
            return
            ;;
        124 | 137) echo "deadline: not done after ${deadline:-900} s" >>"$log" ;;
    esac
    failed=$((failed + 1))
    unmount_all "$mnt"
    echo "FAILED  $suite: $name"
    tail -n "${log_lines:-15}" "$log" | sed 's/^/        /'
    return 0
}

# Inside a check: it cannot be done here, and why.
skip() {
    echo "$*"
    exit 77
}

# needs NAME TOOL...: whether the tools are there; else the check counts as skipped.
needs() {
    local name=$1 tool
    shift
    for tool in "$@"; do
        if ! command -v "$tool" >/dev/null; then
            skipped=$((skipped + 1))
            echo "skipped $suite: $name: no $tool"
            return 1
        fi
    done
}

# $mount_option_text is what -o says, if anything.
mount_it() { "$kmsfs" mount --dev ${mount_option_text:+-o "$mount_option_text"} "$work/$suite" "$mnt"; }
remount() { "$kmsfs" umount "$mnt" && mount_it; }

# Checksums of all files below a directory, in an order of their own.
sums() { (cd "$1" && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 -r sha256sum); }

# What a tree is: names, kinds, modes, owners, sizes, times, link targets, and checksums.
tree() {
    (cd "$1" && find . -type d -printf '%P %y %m %U %G\n' -o -printf '%P %y %m %U %G %n %s %T@ %l\n' | LC_ALL=C sort)
    sums "$1"
}

# Two files, or what two commands say: alike, and not just both empty.
same() {
    local one two
    one=$(cat "$1") two=$(cat "$2")
    if [ -z "$one" ]; then
        echo "nothing to compare"
        return 1
    fi
    diff <(echo "$one") <(echo "$two")
}

# The last line; the status is whether nothing failed.
summary() {
    local text="$passed passed, $failed failed"
    [ "$skipped" -eq 0 ] || text="$text, $skipped skipped"
    echo "$text"
    [ "$failed" -eq 0 ]
}

#!/bin/bash
# The POSIX test suite pjdfstest (the crate) on mounts with allow_other: AES, AES with plain names, SM4, and the first of
# them mounted again.
#
#   scripts/pjdfstest.sh [KMSFS] [--backing] [-- PATTERN...]
#
# Needs root, and libacl's headers to build the crate once. Without KMSFS the debug binary is built. `--backing` runs the
# suite on a bare directory of the same file system too, for comparison. Prints what failed and the figures; fails if
# anything failed on a mount.
set -u

repo=$(cd "$(dirname "$0")/.." && pwd)
version=0.2.2
tools=$repo/target/tools
kmsfs=${KMSFS:-} backing=false
while [ $# -gt 0 ]; do
    case $1 in
        --backing) backing=true ;;
        --) shift; break ;;
        *) kmsfs=$1 ;;
    esac
    shift
done

if [ ! -c /dev/fuse ] || [ "$(id -u)" != 0 ]; then
    echo "skipped: pjdfstest needs /dev/fuse and root"
    exit 0
fi
if [ -z "$kmsfs" ]; then
    (cd "$repo" && cargo build --quiet --bin kmsfs) || exit 2
    kmsfs=${CARGO_TARGET_DIR:-$repo/target}/debug/kmsfs
fi
kmsfs=$(realpath -e "$kmsfs") || exit 2
pjdfstest=$tools/bin/pjdfstest
if ! "$pjdfstest" --version 2>/dev/null | grep -qF "$version"; then
    cargo install --quiet pjdfstest --version "$version" --root "$tools" || exit 2
fi

# Short: the tests bind sockets below, and a socket's path has at most 107 bytes.
work=$(mktemp -d "${TMPDIR:-/tmp}/pjd-XXXX")
chmod 755 "$work"
other=$(mktemp -d /dev/shm/kmsfs-pjd-XXXXXX)
export XDG_STATE_HOME=$work/state XDG_CONFIG_HOME=$work/config
finish() {
    cd /
    for mnt in "$work"/m*; do
        if grep -qF " $mnt " /proc/self/mountinfo; then
            "$kmsfs" umount "$mnt" 2>/dev/null || umount -l "$mnt"
        fi
    done
    rm -rf "$work" "$other"
}
trap finish EXIT
trap 'exit 130' INT TERM

# mount(8) hands a remount of any fuse.* to the helper mount.fuse, which would start the file system anew. The tests want
# the kernel's remount.
mkdir "$work/bin"
printf '#!/bin/sh\nexec %s -i "$@"\n' "$(command -v mount)" >"$work/bin/mount"
chmod +x "$work/bin/mount"

# Two users that every Debian has; of another system's the second group is taken.
group_of() { id -gn "$1"; }
# $1: whether the tests may remount what they run on.
write_config() {
    cat >"$work/pjdfstest.toml" <<CONFIG
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}

[settings]
naptime = 0.02
allow_remount = $1

[dummy_auth]
entries = [["nobody", "$(group_of nobody)"], ["daemon", "$(group_of daemon)"]]
CONFIG
}

# run NAME DIRECTORY PATTERN...
failed_any=false passed=0 failed=0 skipped=0
count() { # SUMMARY WORD
    grep -oE "[0-9]+ $2" <<<"$1" | head -n 1 | cut -d' ' -f1
}
run() {
    local name=$1 dir=$2 out=$work/$1.out status
    shift 2
    umask 022
    (cd / && PATH=$work/bin:$PATH timeout 1800 "$pjdfstest" -c "$work/pjdfstest.toml" -p "$dir" -s "$other" "$@") >"$out" 2>&1
    status=$?
    grep -E '\bFAILED$' "$out" | sed "s/^/$name: /"
    local summary
    summary=$(grep -a '^Summary:' "$out" | tail -1)
    echo "$name: ${summary:-no summary, exit code $status}"
    [ -n "$summary" ] || { tail -n 20 "$out"; failed=$((failed + 1)); }
    if [ "$name" != "bare backing" ]; then
        passed=$((passed + $(count "$summary" passed || echo 0)))
        failed=$((failed + $(count "$summary" failed || echo 0)))
        skipped=$((skipped + $(count "$summary" skipped || echo 0)))
    fi
    return $status
}

# mounted VOLUME LABEL PATTERN...: mounts the volume, runs the suite there, and unmounts it.
mounted() {
    local volume=$work/$1 mnt=$work/m$1 name=$2
    shift 2
    "$kmsfs" mount --dev -o "$options" "$volume" "$mnt" || exit 2
    chmod 755 "$mnt"
    write_config false
    run "$name" "$mnt" "$@" || failed_any=true
    # In a process of their own: others leave files open for writing (on every file system), which forbids the remount.
    if [ $# = 0 ]; then
        write_config true
        run "$name, remounts" "$mnt" erofs || failed_any=true
    fi
    "$kmsfs" umount "$mnt" || failed_any=true
}

options=allow_other
for name in aes plain sm4; do
    mkdir "$work/m$name"
    case $name in
        aes) flags=() ;;
        plain) flags=(--plain-names) ;;
        sm4) flags=(--suite sm4-gcm) ;;
    esac
    "$kmsfs" init --dev ${flags[@]+"${flags[@]}"} "$work/$name" >/dev/null 2>&1 || exit 2
    mounted "$name" "$name" "$@"
done
# Once more where nothing is in any cache, on a volume that has a past; over io_uring where root allows that.
again="aes, mounted again"
if [ "$(cat /sys/module/fuse/parameters/enable_uring 2>/dev/null)" = Y ]; then
    options=allow_other,io_uring again="$again, io_uring"
fi
mounted aes "$again" "$@"
if $backing; then
    mkdir "$work/bare"
    write_config false
    run "bare backing" "$work/bare" "$@"
fi
echo "$passed passed, $failed failed, $skipped skipped"
! $failed_any

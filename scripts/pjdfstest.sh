#!/usr/bin/env bash
# The POSIX suite pjdfstest on real mounts, as root with allow_other: encrypted and plain names; with --bare also on the
# backing itself, for comparison.
# Usage: scripts/pjdfstest.sh [--bare] [PATH-TO-KMSFS]
set -euo pipefail
cd "$(dirname "$0")/.."
bare=false
if [ "${1:-}" = --bare ]; then bare=true; shift; fi
bin=${1:-${KMSFS:-target/release/kmsfs}}
[ -x "$bin" ] || cargo build --release --locked
bin=$(realpath "$bin")
if [ ! -e /dev/fuse ]; then
    echo "skipped: no /dev/fuse on this machine"
    echo "0 passed, 0 failed"
    exit 0
fi
tool=$PWD/target/tools/bin/pjdfstest
if [ ! -x "$tool" ]; then
    cargo install pjdfstest --version 0.2.2 --locked --root target/tools
fi
# The suite acts as these two users.
for user in nobody pjdfstest; do
    id "$user" >/dev/null 2>&1 || useradd --system --no-create-home --user-group --shell /usr/sbin/nologin "$user"
done

work=$(mktemp -d "${TMPDIR:-/tmp}/kmsfs-pjdfstest.XXXXXX")
chmod 755 "$work"
export XDG_STATE_HOME=$work/state
clean() {
    for m in "$work"/*.mount; do
        [ -d "$m" ] && { umount "$m" 2>/dev/null || umount -l "$m" 2>/dev/null || true; }
    done
    rm -rf "$work"
}
trap clean EXIT

cat >"$work/pjdfstest.toml" <<T
[features]
posix_fallocate = {}
rename_ctime = {}
utimensat = {}
utime_now = {}
[settings]
naptime = 0.01
allow_remount = false
[dummy_auth]
entries = [["nobody", "$(id -gn nobody)"], ["pjdfstest", "pjdfstest"]]
T

passed=0 failed=0 skipped=0
run() { # name directory
    echo "pjdfstest on $1"
    (cd "$2" && "$tool" -c "$work/pjdfstest.toml" -p "$2") >"$work/$1.log" 2>&1 || true
    grep -E '\.\.\. *(failed|FAILED)|FAILED|panicked' "$work/$1.log" | head -60 || true
    local summary
    summary=$(grep -E '[0-9]+ (passed|failed)' "$work/$1.log" | tail -n 1)
    echo "$1: $summary"
    local p f s
    p=$(grep -oE '[0-9]+ passed' <<<"$summary" | cut -d' ' -f1); f=$(grep -oE '[0-9]+ failed' <<<"$summary" | cut -d' ' -f1)
    s=$(grep -oE '[0-9]+ skipped' <<<"$summary" | cut -d' ' -f1)
    if [ -z "$p" ]; then
        echo "the suite gave no summary:"; tail -n 20 "$work/$1.log"; f=1
    fi
    passed=$((passed + ${p:-0})); failed=$((failed + ${f:-0})); skipped=$((skipped + ${s:-0}))
}

if $bare; then
    mkdir "$work/bare"; chmod 755 "$work/bare"
    run bare "$work/bare"
fi
for kind in encrypted plain; do
    mkdir "$work/$kind.mount"
    plain=(); [ "$kind" = plain ] && plain=(--plain-names)
    "$bin" init --dev "${plain[@]}" "$work/$kind.backing" >/dev/null 2>&1
    "$bin" mount --dev -o allow_other "$work/$kind.backing" "$work/$kind.mount"
    chmod 755 "$work/$kind.mount"
    run "$kind" "$work/$kind.mount"
    "$bin" umount "$work/$kind.mount"
done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]

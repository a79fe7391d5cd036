#!/usr/bin/env bash
# Ordinary tools on real input, on a fresh volume of each suite: git, tar, rsync, sqlite3, cargo, dd, find, du, cp, fio.
# Usage: scripts/real-input.sh [PATH-TO-KMSFS]    BIG_MIB=3072 is the size of the big file.
# A line for each check; a tool that is not there is skipped; the last line counts.
set -uo pipefail
cd "$(dirname "$0")/.."
here=$PWD
bin=${1:-${KMSFS:-target/release/kmsfs}}
[ -x "$bin" ] || cargo build --release --locked || exit 1
bin=$(realpath "$bin")
big_mib=${BIG_MIB:-3072}
work=$(mktemp -d "${TMPDIR:-/tmp}/kmsfs-real.XXXXXX")
export XDG_STATE_HOME=$work/state
export GIT_CONFIG_NOSYSTEM=1 HOME=${HOME:-/root}
passed=0 failed=0 skipped=0
clean() {
    cd /
    for m in "$work"/*.m; do
        [ -d "$m" ] && { umount "$m" 2>/dev/null || umount -l "$m" 2>/dev/null || true; }
    done
    rm -rf "$work"
}
trap clean EXIT

check() { # description command...: passes if the command does, within ten minutes
    local what=$1; shift
    if timeout 600 bash -euo pipefail -c "$*" >"$work/log" 2>&1; then
        passed=$((passed + 1)); echo "ok      $suite: $what"
    else
        failed=$((failed + 1)); echo "FAILED  $suite: $what"; tail -n 15 "$work/log" | sed 's/^/        /'
    fi
}
have() {
    command -v "$1" >/dev/null && return 0
    skipped=$((skipped + 1)); echo "skipped $suite: no $1 on this machine"; return 1
}
remount() {
    "$bin" umount "$m" && sync && { echo 3 >/proc/sys/vm/drop_caches; } 2>/dev/null
    "$bin" mount --dev "$work/$suite.b" "$m"
}

if [ ! -e /dev/fuse ]; then
    echo "skipped: no /dev/fuse on this machine"; echo "0 passed, 0 failed"; exit 0
fi

# Thousands of files under git, and the checksums of what goes in by tar.
mkdir "$work/source"
cp -a /usr/include "$work/source/" 2>/dev/null || true
cp -a "$here"/src "$here"/kms-mock "$work/source/"
files=$(find "$work/source" -type f | wc -l)
echo "input: $files files, $(du -sm "$work/source" | cut -f1) MiB; big file: $big_mib MiB"
(cd "$work/source" && git init -q . && git add -A && git -c user.name=t -c user.email=t@localhost commit -qm input) || exit 1
sums() { (cd "$1" && find . -path ./.git -prune -o -type f -print0 | sort -z | xargs -0 sha256sum); }
export -f sums
sums "$work/source" >"$work/sums"
head -c $((big_mib * 1048576)) /dev/urandom >"$work/big"
sha256sum <"$work/big" >"$work/big.sum"
export work here big_mib

for suite in aes-256-gcm sm4-gcm; do
    m=$work/$suite.m; export m
    mkdir "$m"
    "$bin" init --dev --suite "$suite" "$work/$suite.b" >/dev/null 2>&1 || exit 1
    "$bin" mount --dev "$work/$suite.b" "$m" || exit 1

    check "git clone and fsck of $files files" \
        'git clone -q "$work/source" "$m/clone"; cd "$m/clone"; git fsck --full; test -z "$(git status --porcelain)"; sums . | cmp - "$work/sums"'
    check "tar in and out with identical checksums" \
        'tar cf - -C "$work/source" --exclude=.git . | (mkdir "$m/tar"; tar xf - -C "$m/tar"); sums "$m/tar" | cmp - "$work/sums"
         mkdir "$work/out"; tar cf - -C "$m/tar" . | tar xf - -C "$work/out"; sums "$work/out" | cmp - "$work/sums"; rm -rf "$work/out"'
    have rsync && check "rsync -aHAX --checksum twice, the second finds nothing" \
        'rsync -aHAX --checksum --exclude=.git "$work/source/" "$m/rsync/"; out=$(rsync -aHAX --checksum -i --exclude=.git "$work/source/" "$m/rsync/"); test -z "$out"'
    if have sqlite3; then
        for mode in delete wal; do
            export mode
            check "sqlite3, journal_mode=$mode, integrity_check" \
                'db=$m/$mode.db; sqlite3 "$db" "pragma journal_mode=$mode; create table t(a integer primary key, b);" >/dev/null
                 for i in $(seq 40); do sqlite3 "$db" "insert into t(b) select hex(randomblob(200)) from (with recursive c(x) as (select 1 union all select x+1 from c where x<50) select x from c);"; done
                 test "$(sqlite3 "$db" "pragma integrity_check; select count(*) from t;" | tr "\n" " ")" = "ok 2000 "'
        done
    fi
    have cargo && check "cargo build of a small crate inside the mount" \
        'cd "$m"; cargo new -q --vcs none small; cd small; CARGO_TARGET_DIR=$m/small/target cargo run -q --offline | grep -q "Hello, world"'
    check "a file of $big_mib MiB with dd" 'dd if="$work/big" of="$m/big" bs=1M conv=fsync 2>/dev/null; sha256sum <"$m/big" | cmp - "$work/big.sum"'
    check "find -printf, du, df" \
        'test "$(find "$m/tar" -type f -printf "%s\n" | awk "{s+=\$1} END {print s}")" = "$(find "$work/source" -path "*/.git" -prune -o -type f -printf "%s\n" | awk "{s+=\$1} END {print s}")"
         test "$(du -sm "$m/big" | cut -f1)" -ge "$big_mib"; df "$m" | grep -q "$m"'
    check "cp --sparse=always, truncate, fallocate -p" \
        'truncate -s 100M "$m/sparse"; printf end >>"$m/sparse"; cp --sparse=always "$m/sparse" "$m/sparse2"; cmp "$m/sparse" "$m/sparse2"
         test "$(du -k "$m/sparse2" | cut -f1)" -lt 1000
         dd if=/dev/urandom of="$m/hole" bs=1M count=8 2>/dev/null; before=$(du -k "$m/hole" | cut -f1); fallocate -p -o 1M -l 4M "$m/hole"; sync "$m/hole"
         test "$(du -k "$m/hole" | cut -f1)" -lt $((before - 3000)); cmp -n 4194304 -i 1048576:0 "$m/hole" /dev/zero'
    check "cp --reflink=auto" 'cp --reflink=auto "$m/hole" "$m/copy"; cmp "$m/hole" "$m/copy"'
    check "an editor's save: write a temporary file, fsync, rename" \
        'for i in $(seq 50); do echo "version $i" >"$m/.doc.tmp"; sync "$m/.doc.tmp"; mv "$m/.doc.tmp" "$m/doc"; done; grep -qx "version 50" "$m/doc"'
    have fio && check "fio --verify, random writes" \
        'fio --directory="$m" --name=verify --rw=randrw --bsrange=512-128k --size=64m --io_size=128m --numjobs=2 --verify=crc32c --verify_fatal=1 --fsync=64 --group_reporting'
    remount || { failed=$((failed + 1)); echo "FAILED  $suite: remount"; continue; }
    check "the big file and the tree after a remount, caches cold" 'sha256sum <"$m/big" | cmp - "$work/big.sum"; sums "$m/tar" | cmp - "$work/sums"; cd "$m/clone"; git fsck --full'
    check "rm -rf of everything" 'rm -rf "$m"/*; test -z "$(ls "$m")"'
    "$bin" umount "$m" || { failed=$((failed + 1)); echo "FAILED  $suite: umount"; }
    rm -rf "$work/$suite.b"
done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]

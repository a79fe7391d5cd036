#!/bin/bash
# Real programs on real mounts, both suites: prints a line a check, and how many passed and failed last.
#
#   scripts/real-input.sh [KMSFS]
#
# Without an argument the release binary is built. The volumes are --dev volumes in a temporary directory (under
# $TMPDIR) that is removed in the end. BIG_MIB is the size of the big file, 3072 by default.
set -u

. "$(dirname "$0")/checks.sh"
big_mib=${BIG_MIB:-3072}
begin real "$@"

make_source() {
    mkdir -p "$work/src"
    cp -a /usr/include "$work/src/include" 2>/dev/null || true
    if [ "$(find "$work/src" -type f | wc -l)" -lt 1000 ]; then
        cp -a "$repo" "$work/src/repo" --no-preserve=ownership
        rm -rf "$work/src/repo/target"
    fi
}

# A repository of some thousands of files, from what the system has.
make_repo() {
    (cd "$work/src" && git init -q . && git add -A -f . &&
        git -c user.name=n -c user.email=e@example.com commit -qm all && git gc -q)
}

git_own() {
    git clone -q --no-hardlinks "$repo" "$mnt/own"
    git -C "$mnt/own" fsck --full
    [ -z "$(git -C "$mnt/own" status --porcelain)" ]
}

git_many() {
    git clone -q --no-hardlinks "$work/src" "$mnt/many"
    git -C "$mnt/many" fsck --full
    [ "$(git -C "$mnt/many" ls-files | wc -l)" -ge 1000 ]
    echo change >>"$mnt/many/$(git -C "$mnt/many" ls-files | head -1)"
    git -C "$mnt/many" -c user.name=n -c user.email=e@example.com commit -qam change
    git -C "$mnt/many" gc -q
    git -C "$mnt/many" fsck --full
}

git_after_remount() {
    remount
    git -C "$mnt/many" fsck --full
    [ -z "$(git -C "$mnt/many" status --porcelain)" ]
}

tar_in_and_out() {
    tar -C "$work/src/.." --exclude=.git -cf "$work/in.tar" src
    mkdir "$mnt/tar"
    tar -C "$mnt/tar" -xpf "$work/in.tar"
    tar -C "$mnt/tar" -cf "$work/out.tar" src
    mkdir "$work/out"
    tar -C "$work/out" -xpf "$work/out.tar"
    same <(cd "$work" && sums src | grep -v ' \./\.git/') <(sums "$mnt/tar/src")
    same <(sums "$mnt/tar/src") <(sums "$work/out/src")
    # Modes, owners, sizes, times and link targets too.
    list='%P %m %U %G %s %T@ %l\n'
    same <(find "$mnt/tar/src" -not -type d -printf "$list" | LC_ALL=C sort) \
        <(find "$work/out/src" -not -type d -printf "$list" | LC_ALL=C sort)
    rm -rf "$work/out" "$work/in.tar" "$work/out.tar"
}

tar_after_remount() {
    find "$mnt/tar/src" -printf '%P %m %U %G %T@ %l\n' | LC_ALL=C sort >"$work/before"
    sums "$mnt/tar/src" >"$work/sums"
    remount
    diff "$work/before" <(find "$mnt/tar/src" -printf '%P %m %U %G %T@ %l\n' | LC_ALL=C sort)
    diff "$work/sums" <(sums "$mnt/tar/src")
}

rsync_twice() {
    rsync -aHAX --exclude=.git "$work/src/" "$mnt/rsync/"
    remount
    found=$(rsync -aHAX --checksum --itemize-changes --exclude=.git "$work/src/" "$mnt/rsync/")
    echo "$found" | head
    [ -z "$found" ]
    found=$(rsync -aHAX --itemize-changes --exclude=.git "$work/src/" "$mnt/rsync/")
    [ -z "$found" ]
}

sqlite_in() { # journal mode
    db=$mnt/$1.db
    sqlite3 "$db" "PRAGMA journal_mode=$1; CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT, c BLOB); CREATE INDEX i ON t(b);"
    for i in 1 2 3 4 5; do
        sqlite3 "$db" "BEGIN; WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM n WHERE x<2000)
            INSERT INTO t(b, c) SELECT hex(randomblob(20)), randomblob(200) FROM n; COMMIT;
            UPDATE t SET c = randomblob(300) WHERE a % 7 = $i; DELETE FROM t WHERE a % 11 = $i;"
    done
    [ "$(sqlite3 "$db" 'PRAGMA integrity_check')" = ok ]
    rows=$(sqlite3 "$db" 'SELECT count(*), sum(length(c)) FROM t')
    sqlite3 "$db" 'VACUUM'
    remount
    [ "$(sqlite3 "$db" 'PRAGMA integrity_check')" = ok ]
    [ "$rows" = "$(sqlite3 "$db" 'SELECT count(*), sum(length(c)) FROM t')" ]
}

cargo_build() {
    cargo new -q --vcs none --name inside "$mnt/inside"
    cd "$mnt/inside"
    export CARGO_TARGET_DIR=$mnt/inside/target
    cargo build -q --offline
    [ "$(target/debug/inside)" = 'Hello, world!' ]
    echo 'fn main() { println!("changed"); }' >src/main.rs
    cargo build -q --offline
    [ "$(target/debug/inside)" = changed ]
    cd /
}

big_file() {
    # Cheap bytes that do not repeat.
    openssl enc -aes-128-ctr -nosalt -pass pass:x </dev/zero 2>/dev/null |
        dd bs=1M count="$big_mib" iflag=fullblock status=none | tee >(sha256sum >"$work/big.sum") |
        dd of="$mnt/big" bs=1M iflag=fullblock conv=fsync status=none
    for _ in 1 2 3 4 5 6 7 8 9 10; do [ -s "$work/big.sum" ] && break; sleep 0.2; done
    [ "$(stat -c %s "$mnt/big")" = $((big_mib * 1048576)) ]
    [ "$(sha256sum <"$mnt/big")" = "$(cat "$work/big.sum")" ]
}

big_file_cold() {
    remount
    [ "$(sha256sum <"$mnt/big")" = "$(cat "$work/big.sum")" ]
    dd if="$mnt/big" iflag=nocache count=0 status=none
    [ "$(sha256sum <"$mnt/big")" = "$(cat "$work/big.sum")" ]
    rm "$mnt/big"
}

tools_see_sizes() {
    dir=$mnt/sizes
    mkdir "$dir"
    head -c 1000000 /dev/urandom >"$dir/full"
    truncate -s 100M "$dir/sparse"
    head -c 5000 /dev/urandom | dd of="$dir/sparse" bs=1 seek=50000000 conv=notrunc status=none
    sync "$dir/full" "$dir/sparse"
    [ "$(find "$dir" -name full -printf '%s %y %m')" = "1000000 f $(stat -c %a "$dir/full")" ]
    [ "$(du -b "$dir/full" | cut -f1)" = 1000000 ]
    [ "$(du -k "$dir/sparse" | cut -f1)" -lt 1000 ]
    df "$mnt" | tail -1 | grep -q "$mnt"
    df -i "$mnt" >/dev/null
    cp --sparse=always "$dir/sparse" "$dir/copy"
    cmp "$dir/sparse" "$dir/copy"
    [ "$(du -k "$dir/copy" | cut -f1)" -lt 1000 ]
    cp --reflink=auto "$dir/full" "$dir/reflink"
    cmp "$dir/full" "$dir/reflink"
    cp --sparse=always "$dir/sparse" "$work/outside"
    cmp "$dir/sparse" "$work/outside"
    truncate -s 500000 "$dir/reflink"
    cmp -n 500000 "$dir/full" "$dir/reflink"
    truncate -s 1500000 "$dir/reflink"
    cmp -n 1000000 <(tail -c 1000000 "$dir/reflink") /dev/zero
    fallocate -l 3M "$dir/grown"
    [ "$(stat -c %s "$dir/grown")" = 3145728 ]
    before=$(sha256sum <"$dir/full")
    fallocate -p -o 100000 -l 400000 "$dir/full"
    cmp -n 400000 <(tail -c +100001 "$dir/full") /dev/zero
    [ "$before" != "$(sha256sum <"$dir/full")" ]
    remount
    cmp -n 400000 <(tail -c +100001 "$dir/full") /dev/zero
    cmp "$dir/sparse" "$dir/copy"
}

fio_verify() { # engine, further arguments
    mkdir -p "$mnt/fio"
    # It leaves a file of its state where it runs.
    cd "$work"
    fio --name=verify --directory="$mnt/fio" --size=64M --rw=randwrite --bsrange=1k-64k --ioengine="$1" \
        --verify=crc32c --verify_fatal=1 --do_verify=1 --end_fsync=1 --randseed=7 --output="$work/fio" "${@:2}"
    cat "$work/fio"
    rm -r "$mnt/fio"
}

clean_end() {
    rm -rf "${mnt:?}"/*
    [ -z "$(ls -A "$mnt")" ]
    "$kmsfs" umount "$mnt"
    ! mountpoint -q "$mnt"
}

suite=source
make_source
if command -v git >/dev/null; then make_repo || echo "no repository could be made"; fi

for suite in aes-256-gcm sm4-gcm; do
    if ! "$kmsfs" init --dev --suite "$suite" "$work/$suite" >"$log" 2>&1 || ! mount_it >>"$log" 2>&1; then
        cat "$log"
        echo "FAILED  $suite: init and mount"
        failed=$((failed + 1))
        continue
    fi
    if needs git git; then
        check "git clone of this repository, fsck" git_own
        check "git clone of thousands of files, commit, gc, fsck" git_many
        check "git fsck after a remount" git_after_remount
    fi
    check "tar in and out, checksums and attributes" tar_in_and_out
    check "the tree after a remount" tar_after_remount
    if needs rsync rsync; then check "rsync -aHAX --checksum, the second finds nothing" rsync_twice; fi
    if needs sqlite sqlite3; then
        check "sqlite3, rollback journal" sqlite_in delete
        check "sqlite3, WAL" sqlite_in wal
    fi
    if needs cargo cargo; then check "cargo build inside" cargo_build; fi
    if needs "big file" openssl; then
        check "a file of $big_mib MiB" big_file
        check "a file of $big_mib MiB, after a remount" big_file_cold
    fi
    check "find, du, df, cp --sparse, cp --reflink, truncate, fallocate" tools_see_sizes
    if needs fio fio; then
        check "fio --verify, random writes" fio_verify psync
        check "fio --verify, random writes, mmap" fio_verify mmap
        check "fio --verify, random writes, O_DIRECT" fio_verify libaio --direct=1 --bs=4k --iodepth=8
    fi
    check "everything removed, unmounted" clean_end
    rm -rf "${work:?}/$suite"
done

summary

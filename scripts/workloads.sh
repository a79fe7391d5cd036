#!/bin/bash
# Workloads on top of a mount: other file systems, databases, package managers, a whole system; compared with the same
# on the file system below where that says something. Prints a line a check, and what passed, failed and was skipped.
#
#   scripts/workloads.sh [--install] [KMSFS]
#
# As root: it mounts, makes devices and acts as other users. --install installs from Debian what is missing. Without
# KMSFS the release binary is built. The volumes are --dev volumes in a temporary directory (under $TMPDIR) that is
# removed in the end. What needs the network is skipped where there is none. ONLY='overlay|tar' runs those checks alone.
set -u

. "$(dirname "$0")/checks.sh"

# Each tool and the package that has it.
tools=(git:git sqlite3:sqlite3 rsync:rsync setfacl:acl getfattr:attr setcap:libcap2-bin inotifywait:inotify-tools
    mkfs.ext4:e2fsprogs losetup:mount fusermount3:fuse3 debootstrap:debootstrap python3:python3 npm:npm
    setpriv:util-linux pg_ctl:postgresql)

# PostgreSQL's server programs are in no PATH.
find_postgresql() {
    local dir
    for dir in /usr/lib/postgresql/*/bin; do
        if [ -x "$dir/initdb" ] && [ -x "$dir/pgbench" ]; then PATH=$PATH:$dir; fi
    done
}

install_missing() {
    local pair missing=()
    for pair in "${tools[@]}"; do
        command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
    done
    /usr/bin/python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
    [ ${#missing[@]} -gt 0 ] || return 0
    echo "installing: ${missing[*]}"
    apt-get update -q >/dev/null &&
        DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null
}

PATH=$PATH:/usr/sbin:/sbin
find_postgresql
if [ "${1:-}" = --install ]; then
    shift
    install_missing || echo "not everything could be installed"
    find_postgresql
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "skipped: this needs root"
    echo "0 passed, 0 failed, everything skipped"
    exit 0
fi
begin workloads "$@"
chmod 755 "$work"
umask 022
# Others must reach the binary.
cp "$kmsfs" "$work/kmsfs" && kmsfs=$work/kmsfs
home=$work/home
mkdir -m 777 "$home" "$work/bare"
# Debian's own, which every user may run.
python=$(PATH=/usr/bin:$PATH command -v python3 || echo python3)
LC_ALL=C.UTF-8
GIT_CONFIG_GLOBAL=$work/gitconfig
cat >"$GIT_CONFIG_GLOBAL" <<'END'
[user]
    name = n
    email = e@example.com
[safe]
    directory = *
[core]
    fsmonitor = false
[init]
    defaultBranch = main
[gc]
    autoDetach = false
END

# --- what the checks work on -----------------------------------------------------------------------------------------

# Two thousand files of what the system has: of /usr/include, or of /usr/share where that has no headers.
make_files() {
    local from=/usr/include
    if [ "$(find $from -type f | wc -l)" -lt 1000 ]; then from=/usr/share; fi
    mkdir "$1"
    (cd $from && find . -type f -size -200k -print0 | sort -z | head -z -n 2000 | tar --null -T - -cf -) | tar -C "$1" -xpf -
    (cd $from && find . -type l -print0 | sort -z | head -z -n 200 | tar --null -T - -cf -) | tar -C "$1" -xpf -
}

# Everything a tree can have.
make_kinds() {
    local dir=$1 n
    mkdir -p "$dir/deep/er/est" "$dir/empty" "$dir/set-gid"
    for n in 1 2 3 4 5 6 7 8 9; do head -c $((n * n * 1117)) /dev/urandom >"$dir/deep/er/file $n"; done
    : >"$dir/nothing"
    head -c 3000000 /dev/urandom >"$dir/large"
    truncate -s 20M "$dir/sparse"
    echo end >>"$dir/sparse"
    ln "$dir/large" "$dir/deep/large-too"
    ln "$dir/large" "$dir/empty/large-three"
    ln -s ../deep/er "$dir/empty/link"
    ln -s "nowhere/$(printf 'x%.0s' {1..200})" "$dir/dangling"
    ln "$dir/dangling" "$dir/deep/dangling-too"
    mkfifo -m 640 "$dir/fifo"
    mknod "$dir/null" c 1 3
    "$python" -c 'import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])' "$dir/socket"
    cp /bin/true "$dir/program"
    chown 1234:4321 "$dir/deep/er/file 1" "$dir/dangling" -h
    chown 1234:4321 "$dir/program" && chmod 6755 "$dir/program"
    chgrp 4321 "$dir/set-gid" && chmod 2775 "$dir/set-gid"
    chmod 1777 "$dir/empty"
    chmod 000 "$dir/deep/er/file 2"
    setfacl -m u:1234:rw,g:4321:r,m:rw "$dir/deep/er/file 3"
    setfacl -d -m u:1234:rwx,g:4321:rx "$dir/deep"
    setfacl -m u:1234:rx "$dir/deep"
    setfattr -n user.text -v "some text" "$dir/deep/er/file 4"
    setfattr -n user.binary -v 0x0001ff00 "$dir/deep/er/file 4"
    setfattr -n user.empty "$dir/deep/er/file 4"
    setfattr -n user.dir -v "$(printf 'y%.0s' {1..900})" "$dir/deep"
    setfattr -n trusted.thing -v 1 "$dir/deep/er/file 5"
    setcap cap_net_raw+ep "$dir/deep/er/file 6"
    find "$dir" -exec touch -h -d '2021-02-03 04:05:06.123456789' {} +
}

# tree, with ACLs and xattrs.
tree_all() {
    tree "$1"
    attributes "$1"
}

attributes() {
    (cd "$1" && find . -not -type l -print0 | sort -z | xargs -0 getfacl -np)
    (cd "$1" && find . -not -type l -print0 | sort -z | xargs -0 getfattr -d -m - -e hex)
}

# --- other file systems ----------------------------------------------------------------------------------------------

# The same to an overlay and to a plain copy.
change_tree() {
    local dir=$1
    echo more >>"$dir/deep/er/file 1"
    echo new >"$dir/new"
    chmod 640 "$dir/program"
    chown 7:8 "$dir/nothing"
    setfattr -n user.other -v other "$dir/deep/er/file 4"
    setfacl -m u:77:r "$dir/deep/er/file 3"
    rm "$dir/deep/er/file 7" "$dir/dangling"
    mv "$dir/deep/er/file 8" "$dir/moved"
    ln "$dir/deep/er/file 9" "$dir/linked"
    rm -r "$dir/deep/er/est" && mkdir "$dir/deep/er/est" && echo in >"$dir/deep/er/est/in"
    mkdir "$dir/made" && mv "$dir/new" "$dir/made/new" && mv "$dir/made" "$dir/made-too"
    truncate -s 100 "$dir/deep/er/file 6"
    rm -r "$dir/set-gid" && ln -s over "$dir/set-gid"
    find "$dir" -depth -newermt 2022-01-01 -exec touch -h -d '2023-04-05 06:07:08.111' {} +
}

# Without the number of names: hard links of the lower layer come apart.
overlay_tree() {
    (cd "$1" && find . -type d -printf '%P %y %m %U %G\n' -o -printf '%P %y %m %U %G %s %T@ %l\n' | sort)
    sums "$1"
    attributes "$1"
}

overlay_on() { # lower, upper and work: directories
    dir=$work/merged
    # Also of a run that failed.
    rm -rf "$2" "$3" "$work/plain"
    mkdir -p "$dir" "$2" "$3" "$work/plain"
    tree "$1" >"$work/lower-before"
    mount -t overlay overlay -o "lowerdir=$1,upperdir=$2,workdir=$3" "$dir"
    same <(overlay_tree "$1") <(overlay_tree "$dir")
    change_tree "$dir"
    cp -a "$1" "$work/plain/tree"
    change_tree "$work/plain/tree"
    same <(overlay_tree "$work/plain/tree") <(overlay_tree "$dir")
    umount "$dir"
    remount
    mount -t overlay overlay -o "lowerdir=$1,upperdir=$2,workdir=$3" "$dir"
    same <(overlay_tree "$work/plain/tree") <(overlay_tree "$dir")
    umount "$dir"
    diff "$work/lower-before" <(tree "$1")
    rm -rf "$2" "$3" "$work/plain"
}

overlay_lower() {
    rm -rf "$mnt/lower"
    make_kinds "$mnt/lower"
    mkdir -p "$work/tmpfs"
    # Below this may be an overlay, which cannot be an upper layer.
    mount -t tmpfs tmpfs "$work/tmpfs"
    overlay_on "$mnt/lower" "$work/tmpfs/upper" "$work/tmpfs/work"
    umount "$work/tmpfs"
}

overlay_upper() {
    rm -rf "$work/lower"
    make_kinds "$work/lower"
    overlay_on "$work/lower" "$mnt/upper" "$mnt/upper-work"
    rm -rf "$work/lower"
}

overlay_both() {
    overlay_on "$mnt/lower" "$mnt/upper" "$mnt/upper-work"
    rm -rf "$mnt/lower"
}

stored_blocks() { sync -f "$mnt" && du -s --block-size=512 "$work/$suite" | cut -f1; }

loop_cycle() { # further options of losetup
    truncate -s 192M "$mnt/image"
    mkfs.ext4 -q -F "$mnt/image"
    device=$(losetup --find --show "$@" "$mnt/image")
    mkdir -p "$work/ext4"
    mount -t ext4 "$device" "$work/ext4"
    cp -a "$work/files" "$work/ext4/files"
    head -c 30000000 /dev/urandom >"$work/ext4/gone"
    sync -f "$work/ext4"
    before=$(stored_blocks)
    rm "$work/ext4/gone"
    # What a transaction has not freed yet is not trimmed.
    sync -f "$work/ext4"
    fstrim "$work/ext4"
    # What is trimmed is a hole again: with durability safe once the round has ended.
    for ((tries = 0; tries < 30; tries++)); do
        [ $((before - $(stored_blocks))) -le 40000 ] || break
        sleep 1
    done
    echo "$before blocks, trimmed $(stored_blocks)"
    [ $((before - $(stored_blocks))) -gt 40000 ]
    umount "$work/ext4"
    losetup -d "$device"
    for _ in {1..50}; do [ -z "$(losetup -j "$mnt/image")" ] && break; sleep 0.1; done
    fsck.ext4 -fn "$mnt/image"
    remount
    fsck.ext4 -fn "$mnt/image"
    device=$(losetup --find --show --read-only "$mnt/image")
    mount -t ext4 -o ro "$device" "$work/ext4"
    same <(tree "$work/files") <(tree "$work/ext4/files")
    umount "$work/ext4"
    losetup -d "$device"
    for _ in {1..50}; do [ -z "$(losetup -j "$mnt/image")" ] && break; sleep 0.1; done
    rm "$mnt/image"
}

loop_ext4() {
    [ -e /dev/loop-control ] || skip "no /dev/loop-control"
    loop_cycle
}

loop_ext4_direct() {
    [ -e /dev/loop-control ] || skip "no /dev/loop-control"
    loop_cycle --direct-io=on
}

# --- version control, databases --------------------------------------------------------------------------------------

# Thousands of files, dozens of commits, branches.
make_history() {
    local n
    cp -a "$work/files" "$work/bare/history"
    cd "$work/bare/history"
    git init -q .
    git add -A -f .
    git commit -qm all
    for n in {1..30}; do
        git ls-files -z | awk -v RS='\0' -v n="$n" 'NR % 97 == n' | while read -r file; do echo "$n" >>"$file"; done
        git commit -qam "$n"
    done
    git branch old HEAD~25
    git tag -a -m tag v1 HEAD~10
    chmod -R a+rX .
}

git_large() { # where
    dir=$1/git
    from=$work/bare/history
    git clone -q --no-hardlinks "$from" "$dir"
    cd "$dir"
    git fsck --full --strict
    git checkout -q -b old origin/old
    same <(git -C "$from" ls-tree -r old) <(git ls-tree -r HEAD)
    git checkout -q main
    [ -z "$(git status --porcelain)" ]
    git worktree add -q ../tree v1
    git -C ../tree diff --quiet
    git worktree remove ../tree
    for n in 1 2 3; do echo "$n" >"mine-$n"; git add "mine-$n"; git commit -qm "mine $n"; done
    git rebase -q --onto origin/main~5 origin/main main
    echo stashed >>mine-1
    git stash -q
    git stash pop -q
    git checkout -q mine-1
    git gc -q --prune=now
    git repack -adq
    git fsck --full --strict
    [ "$(git rev-list --count HEAD)" = $(($(git -C "$from" rev-list --count main) - 5 + 3)) ]
    [ -z "$(git status --porcelain)" ]
}

git_after_remount() {
    remount
    git -C "$mnt/git" fsck --full --strict
    [ -z "$(git -C "$mnt/git" status --porcelain)" ]
    git -C "$mnt/git" push -q "$work/bare/history" main:pushed
    rm -rf "$mnt/git"
}

sqlite_writer() { # database, who, transactions
    for _ in $(seq "$3"); do
        echo "BEGIN IMMEDIATE; INSERT INTO t(who, b) VALUES('$2', randomblob(700));
            UPDATE n SET n = n + 1; COMMIT;"
    done | sqlite3 -bail -cmd '.timeout 60000' "$1"
}

sqlite_together() { # journal mode, where
    db=$2/$1.sqlite
    sqlite3 "$db" "PRAGMA journal_mode=$1; CREATE TABLE t(a INTEGER PRIMARY KEY, who TEXT, b BLOB);
        CREATE INDEX i ON t(who, b); CREATE TABLE n(n); INSERT INTO n VALUES(0);"
    pids=()
    for who in a b c d; do sqlite_writer "$db" "$who" 60 & pids+=($!); done
    # One that does not come to its end.
    sqlite_writer "$db" killed 100000 &
    killed=$!
    for _ in {1..20}; do
        # A reader sees whole transactions only.
        [ "$(sqlite3 -cmd '.timeout 60000' "$db" \
            'BEGIN; SELECT (SELECT count(*) FROM t) - (SELECT n FROM n); COMMIT')" = 0 ]
    done
    pkill -9 -P "$killed" sqlite3 || true
    wait "$killed" || true
    for pid in "${pids[@]}"; do wait "$pid"; done
    [ "$(sqlite3 "$db" "SELECT count(*) FROM t WHERE who != 'killed'")" = 240 ]
    [ "$(sqlite3 "$db" 'PRAGMA integrity_check')" = ok ]
    [ "$(sqlite3 "$db" 'SELECT (SELECT count(*) FROM t) = (SELECT n FROM n)')" = 1 ]
}

sqlite_again() {
    remount
    for mode in delete wal; do
        [ "$(sqlite3 "$mnt/$mode.sqlite" 'PRAGMA integrity_check')" = ok ]
        [ "$(sqlite3 "$mnt/$mode.sqlite" 'SELECT (SELECT count(*) FROM t) = (SELECT n FROM n)')" = 1 ]
    done
}

as_postgres() { setpriv --reuid=postgres --regid=postgres --init-groups env "HOME=$home" "$@"; }
pg() { as_postgres pg_ctl -D "$mnt/pg/data" -w -t 60 -s "$@"; }
pg_start() { pg start -l "$mnt/pg/log" -o "-c listen_addresses='' -k $mnt/pg/run -c shared_buffers=32MB"; }
ask() { as_postgres psql -h "$mnt/pg/run" -X -q -A -t -c "$1" postgres; }
bench() { as_postgres pgbench -h "$mnt/pg/run" "$@" postgres; }
pg_sums() {
    ask 'SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers),
        (SELECT sum(bbalance) FROM pgbench_branches), (SELECT sum(delta) FROM pgbench_history)'
}
# All four say the same.
pg_whole() {
    found=$(pg_sums)
    echo "$found"
    [ "$(echo "$found" | tr '|' '\n' | sort -u | wc -l)" = 1 ]
}
pg_end() { [ ! -e "$mnt/pg/data/postmaster.pid" ] || pg stop -m immediate || true; }

# A server whose check was killed.
at_end() {
    if [ -s "$mnt/pg/data/postmaster.pid" ]; then
        kill -QUIT "$(head -n 1 "$mnt/pg/data/postmaster.pid")" && sleep 1
    fi 2>/dev/null
}

postgresql() {
    trap pg_end EXIT
    install -d -o postgres -g postgres "$mnt/pg" "$mnt/pg/run"
    as_postgres initdb -D "$mnt/pg/data" -A trust -k >/dev/null
    pg_start
    bench -i -q -s 2
    bench -n -c 4 -j 2 -T 3
    pg_whole
    # Stopped without writing anything out, while it works.
    bench -n -c 4 -j 2 -T 30 >"$work/bench" 2>&1 &
    sleep 3
    pg stop -m immediate
    wait $! || true
    pg_start
    grep -q 'automatic recovery in progress' "$mnt/pg/log"
    pg_whole
    ask 'CREATE EXTENSION amcheck'
    ask 'SELECT count(bt_index_check(oid, true)) FROM pg_class
        WHERE relkind = $$i$$ AND relam = 403 AND relpersistence = $$p$$'
    ask 'VACUUM FULL'
    ask 'CREATE TABLE s AS SELECT g, md5(g::text) FROM generate_series(1, 50000) g'
    ask 'CREATE DATABASE other TEMPLATE template0'
    found=$(pg_sums)
    pg stop -m fast
    as_postgres pg_checksums --check -D "$mnt/pg/data"
    remount
    as_postgres pg_checksums --check -D "$mnt/pg/data"
    pg_start
    [ "$(pg_sums)" = "$found" ]
    bench -n -c 2 -T 2
    pg_whole
    pg stop -m fast
    rm -rf "$mnt/pg"
}

# --- copies ----------------------------------------------------------------------------------------------------------

copy_tree() {
    cp -a "$work/files" "$mnt/files"
    diff -r --no-dereference "$work/files" "$mnt/files"
    remount
    diff -r --no-dereference "$work/files" "$mnt/files"
    same <(tree "$work/files") <(tree "$mnt/files")
    rm -rf "$mnt/files"
}

rsync_nothing() { # from, to: that nothing is left to do
    local found
    found=$(rsync -aHAX --checksum --delete --itemize-changes "$1/" "$2/")
    echo "$found" | head
    [ -z "$found" ]
}

rsync_both_ways() {
    make_kinds "$work/kinds"
    rsync -aHAXS "$work/kinds/" "$mnt/rsync/"
    rsync_nothing "$work/kinds" "$mnt/rsync"
    remount
    rsync_nothing "$work/kinds" "$mnt/rsync"
    # That there is something to compare.
    tree_all "$work/kinds" >"$work/listing"
    for found in user.binary user.empty security.capability trusted.thing group:4321:r default:user:1234 large; do
        grep -qF "$found" "$work/listing"
    done
    same <(tree_all "$work/kinds") <(tree_all "$mnt/rsync")
    rsync -aHAXS "$mnt/rsync/" "$work/back/"
    rsync_nothing "$mnt/rsync" "$work/back"
    same <(tree_all "$work/kinds") <(tree_all "$work/back")
    # In place, and a delta.
    printf X | dd of="$work/kinds/large" bs=1 seek=1234567 conv=notrunc status=none
    rsync -aHAX --inplace --no-whole-file "$work/kinds/" "$mnt/rsync/"
    rsync_nothing "$work/kinds" "$mnt/rsync"
    rm -rf "$work/kinds" "$work/back" "$mnt/rsync"
}

tar_round() {
    all=(--xattrs --xattrs-include='*' --acls --numeric-owner --sparse)
    make_kinds "$work/kinds"
    # Sockets are not for tar.
    rm "$work/kinds/socket"
    touch -d '2021-02-03 04:05:06.123456789' "$work/kinds"
    mkdir "$mnt/tar" "$work/tar-back"
    tar -C "$work/kinds" "${all[@]}" -cf "$work/one.tar" .
    tar -C "$mnt/tar" "${all[@]}" -xpf "$work/one.tar"
    same <(tree_all "$work/kinds") <(tree_all "$mnt/tar")
    tar -C "$mnt/tar" "${all[@]}" -df "$work/one.tar"
    remount
    tar -C "$mnt/tar" "${all[@]}" -cf "$mnt/two.tar" .
    tar -C "$work/tar-back" "${all[@]}" -xpf "$mnt/two.tar"
    same <(tree_all "$work/kinds") <(tree_all "$work/tar-back")
    rm -rf "$work/kinds" "$work/one.tar" "$work/tar-back" "$mnt/tar" "$mnt/two.tar"
}

# --- package managers, a system --------------------------------------------------------------------------------------

pip_install() {
    "$python" -c 'import ensurepip, venv' || skip "no venv module"
    export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_CACHE_DIR=$work/pip-cache PIP_ROOT_USER_ACTION=ignore
    "$python" -m venv "$work/bare/venv"
    timeout 60 "$work/bare/venv/bin/pip" download -q -d "$work/wheels" requests ||
        skip "the package index cannot be reached"
    "$python" -m venv "$mnt/venv"
    "$mnt/venv/bin/pip" install -q --no-index --find-links "$work/wheels" requests
    "$mnt/venv/bin/pip" check
    remount
    "$mnt/venv/bin/pip" check
    # Each file against the checksum that the package has of it.
    "$mnt/venv/bin/python" - <<'END'
import base64, hashlib, importlib.metadata, requests
count = 0
for name in ("requests", "urllib3", "certifi", "idna"):
    for file in importlib.metadata.files(name):
        if file.hash:
            digest = hashlib.new(file.hash.mode, file.locate().read_bytes()).digest()
            assert base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == file.hash.value, file
            count += 1
assert count > 50, count
print(requests.__version__, count)
END
    rm -rf "$mnt/venv" "$work/bare/venv"
}

npm_install() {
    export npm_config_cache=$work/npm-cache npm_config_audit=false npm_config_fund=false \
        npm_config_update_notifier=false npm_config_fetch_retries=1
    mkdir "$work/bare/npm" "$mnt/npm"
    (cd "$work/bare/npm" && npm init -y >/dev/null && timeout 60 npm install --no-progress express semver) ||
        skip "the package index cannot be reached"
    cp "$work/bare/npm/package.json" "$work/bare/npm/package-lock.json" "$mnt/npm/"
    cd "$mnt/npm"
    npm ci --prefer-offline --no-progress
    diff -r --no-dereference "$work/bare/npm" "$mnt/npm"
    [ "$(node_modules/.bin/semver 1.2.3)" = 1.2.3 ]
    # Once more in place, and everything in the mount, its cache too.
    export npm_config_cache=$mnt/npm-cache
    cp -a "$work/npm-cache" "$mnt/npm-cache"
    rm -rf node_modules
    npm install --prefer-offline --no-progress
    cd "$work"
    remount
    diff -r --no-dereference "$work/bare/npm/node_modules" "$mnt/npm/node_modules"
    (cd "$mnt/npm" && node -e 'require("express")()' && npm ls --all >/dev/null)
    rm -rf "$mnt/npm" "$mnt/npm-cache" "$work/bare/npm"
}

debian_codename() { (. /etc/os-release && [ "${ID:-}" = debian ] && echo "${VERSION_CODENAME:-}"); }

# $1: download or install. Mounts of the installation go with the namespace.
debootstrap_here() {
    local mirror
    mirror=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME)' 'Created-By: Packages' 2>/dev/null |
        awk -v name="$(debian_codename)" '$2 == name { print $1; exit }')
    unshare --mount --propagation private env -i "PATH=$PATH" "http_proxy=${http_proxy:-}" LC_ALL=C DPKG_FORCE=unsafe-io \
        debootstrap --variant=minbase "$@" ${mirror:+"$mirror"}
}

system() {
    codename=$(debian_codename) || skip "this is no Debian"
    mkdir "$work/packages"
    timeout 120 unshare --mount true || skip "no mount namespaces"
    if ! timeout 120 bash -c 'debootstrap_here --make-tarball="$work/packages.tar" "$@"' x "$codename" "$work/packages"
    then
        skip "the packages cannot be fetched"
    fi
    root=$mnt/system
    debootstrap_here --unpack-tarball="$work/packages.tar" "$codename" "$root" || {
        tail "$root/debootstrap/debootstrap.log"
        false
    }
    system_works
    remount
    system_works
    rm -rf --one-file-system "$root" "$work/packages" "$work/packages.tar"
}

system_works() {
    in=(env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C chroot)
    "${in[@]}" "$root" dpkg --audit
    # Against the checksums of each package.
    [ -z "$("${in[@]}" "$root" dpkg --verify)" ]
    "${in[@]}" "$root" apt-get check -q
    # Devices and set-user-id.
    if [ -c "$root/dev/null" ]; then echo gone | tee "$root/dev/null" >/dev/null; [ ! -s "$root/dev/null" ]; fi
    install -m 4755 "$root/usr/bin/id" "$root/usr/bin/id-of-root"
    [ "$("${in[@]}" --userspec=1000:1000 "$root" id-of-root -u)" = 0 ]
    [ "$("${in[@]}" --userspec=1000:1000 "$root" id -u)" = 1000 ]
    "${in[@]}" "$root" useradd -m "user$RANDOM"
    "${in[@]}" "$root" perl -e 'use POSIX; print POSIX::getcwd(), "\n"'
}

# --- events and locks ------------------------------------------------------------------------------------------------

events_of() { # a directory to make, and where the events go
    local watcher
    mkdir "$1" "$1/sub"
    inotifywait -q -m -r --format '%w|%e|%f' "$1" >"$2" 2>/dev/null &
    watcher=$!
    # It says nothing when it is quiet: it watches when it sees this.
    for _ in {1..100}; do
        : >"$1/begin"
        sleep 0.05
        grep -q begin "$2" && break
    done
    echo text >"$1/file"
    cat "$1/file" >/dev/null
    chmod 600 "$1/file"
    setfattr -n user.a -v b "$1/file"
    truncate -s 100 "$1/file"
    mv "$1/file" "$1/sub/moved"
    ln "$1/sub/moved" "$1/linked"
    ln -s linked "$1/symlink"
    rm "$1/linked"
    mkdir "$1/made"
    rmdir "$1/made"
    touch "$1/sub/moved"
    ls "$1/sub" >/dev/null
    rm -r "$1/sub"
    : >"$1/end"
    for _ in {1..100}; do grep -q '|end$' "$2" && break; sleep 0.05; done
    sleep 0.1
    kill "$watcher"
    wait "$watcher" || true
    sed -i "s|^$1||; /|begin\$/d" "$2"
}

inotify() {
    events_of "$mnt/events" "$work/events-mount"
    events_of "$work/bare/events" "$work/events-bare"
    diff "$work/events-bare" "$work/events-mount"
    [ "$(wc -l <"$work/events-mount")" -ge 20 ]
    rm -rf "$mnt/events" "$work/bare/events"
}

locks() { # a directory
    "$python" - "$1" <<'END'
import errno, fcntl, os, signal, struct, sys, time

path = os.path.join(sys.argv[1], "locks")
with open(path, "wb") as file:
    file.write(bytes(1000))


def refused(call):
    try:
        call()
    except OSError as e:
        assert e.errno in (errno.EAGAIN, errno.EACCES), e
        return True
    return False


def child(work):
    """Runs work(say, hear) in another process; what it gets is a pair of pipes to talk to it."""
    (r1, w1), (r2, w2) = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(r1), os.close(w2)
        try:
            work(lambda: os.write(w1, b"x"), lambda: os.read(r2, 1))
        except BaseException as e:
            print(repr(e), flush=True)
            os._exit(1)
        os._exit(0)
    os.close(w1), os.close(r2)
    return pid, (lambda: os.read(r1, 1) == b"x"), (lambda: os.write(w2, b"x"))


def done(pid):
    assert os.waitpid(pid, 0)[1] == 0


def flock(kind, start, length):
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0)


OFD_SETLK, OFD_SETLKW = 37, 38
NB = fcntl.LOCK_NB
whole = [
    ("flock", lambda f: fcntl.flock(f, fcntl.LOCK_EX | NB), lambda f: fcntl.flock(f, fcntl.LOCK_EX),
     lambda f: fcntl.flock(f, fcntl.LOCK_UN)),
    ("fcntl", lambda f: fcntl.lockf(f, fcntl.LOCK_EX | NB, 100, 50), lambda f: fcntl.lockf(f, fcntl.LOCK_EX, 100, 50),
     lambda f: fcntl.lockf(f, fcntl.LOCK_UN, 100, 50)),
    ("OFD", lambda f: fcntl.fcntl(f, OFD_SETLK, flock(fcntl.F_WRLCK, 50, 100)),
     lambda f: fcntl.fcntl(f, OFD_SETLKW, flock(fcntl.F_WRLCK, 50, 100)),
     lambda f: fcntl.fcntl(f, OFD_SETLK, flock(fcntl.F_UNLCK, 50, 100))),
]
for name, attempt, wait, free in whole:
    def other(say, hear):
        with open(path, "r+b") as f:
            assert refused(lambda: attempt(f)), "it is held"
            say()
            wait(f)
            say()
            signal.pause()

    mine = open(path, "r+b")
    attempt(mine)
    pid, heard, tell = child(other)
    assert heard(), name
    time.sleep(0.1)
    free(mine)
    assert heard(), name + ": the waiter has it"
    assert refused(lambda: attempt(mine)), name
    # A process that is killed gives it back.
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    attempt(mine)
    mine.close()
    print(name, "ok")

# Ranges, readers beside readers, and what F_GETLK says.
with open(path, "r+b") as mine:
    fcntl.lockf(mine, fcntl.LOCK_EX, 10, 0)
    fcntl.lockf(mine, fcntl.LOCK_SH, 10, 20)

    def other(say, hear):
        with open(path, "r+b") as f:
            assert refused(lambda: fcntl.lockf(f, fcntl.LOCK_SH | NB, 1, 9))
            fcntl.lockf(f, fcntl.LOCK_EX | NB, 10, 10)
            fcntl.lockf(f, fcntl.LOCK_SH | NB, 10, 20)
            assert refused(lambda: fcntl.lockf(f, fcntl.LOCK_EX | NB, 1, 25))
            got = struct.unpack("hhqqi4x", fcntl.fcntl(f, fcntl.F_GETLK, flock(fcntl.F_WRLCK, 5, 1)))
            assert got[0] == fcntl.F_WRLCK and got[2:4] == (0, 10) and got[4] == os.getppid(), got

    pid, _, _ = child(other)
    done(pid)
    # Two open files of one process: fcntl does not mind, OFD does.
    with open(path, "r+b") as second:
        fcntl.fcntl(mine, OFD_SETLK, flock(fcntl.F_WRLCK, 500, 10))
        assert refused(lambda: fcntl.fcntl(second, OFD_SETLK, flock(fcntl.F_WRLCK, 505, 10)))

# Two that wait for each other: one is told.
with open(path, "r+b") as mine:
    fcntl.lockf(mine, fcntl.LOCK_EX, 1, 0)

    def other(say, hear):
        with open(path, "r+b") as f:
            fcntl.lockf(f, fcntl.LOCK_EX, 1, 1)
            say()
            fcntl.lockf(f, fcntl.LOCK_EX, 1, 0)

    pid, heard, _ = child(other)
    assert heard()
    time.sleep(0.2)
    try:
        fcntl.lockf(mine, fcntl.LOCK_EX, 1, 1)
        raise AssertionError("no deadlock was seen")
    except OSError as e:
        assert e.errno == errno.EDEADLK, e
    fcntl.lockf(mine, fcntl.LOCK_UN, 1, 0)
    done(pid)

# A lease is broken by the open of another.
broken = []
signal.signal(signal.SIGIO, lambda *_: broken.append(1))
with open(path, "r+b") as mine:
    fcntl.fcntl(mine, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    assert fcntl.fcntl(mine, fcntl.F_GETLEASE) == fcntl.F_WRLCK

    def other(say, hear):
        say()
        open(path, "rb").close()
        say()

    pid, heard, _ = child(other)
    assert heard()
    for _ in range(100):
        if broken:
            break
        time.sleep(0.05)
    assert broken, "the lease was not broken"
    fcntl.fcntl(mine, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    assert heard()
    done(pid)
os.unlink(path)
END
}

# --- an ordinary user's own mount ------------------------------------------------------------------------------------

user_rsync() {
    rsync -aHAX "$work/files/" "$mnt/files/"
    rsync -aHAX "$mnt/files/" "$work/home/files/"
    rsync_nothing "$mnt/files" "$work/home/files"
    remount
    rsync_nothing "$work/home/files" "$mnt/files"
    diff -r --no-dereference "$work/files" "$mnt/files"
    rm -rf "$mnt/files" "$work/home/files"
}

# What an owner may do at each mode, said in words.
modes_in() {
    cd "$1"
    for mode in 000 100 200 300 400 500 600 700; do
        mkdir "dir-$mode" && chmod "$mode" "dir-$mode" && rmdir "dir-$mode" && echo "$mode removed"
        mkdir "dir-$mode" other && chmod "$mode" "dir-$mode" && mv -T other "dir-$mode" && echo "$mode replaced"
        chmod 700 "dir-$mode" && echo in >"dir-$mode/file" && chmod "$mode" "dir-$mode"
        rmdir "dir-$mode"
        cat "dir-$mode/file"
        echo more >"dir-$mode/other"
        mv "dir-$mode" "moved-$mode"
        # A file that may be written but not read is another matter: docs/SEMANTICS.md.
        case $mode in 200 | 300) continue ;; esac
        echo text >"file-$mode" && chmod "$mode" "file-$mode"
        cat "file-$mode"
        echo more >>"file-$mode"
        touch -d 2020-01-01 "file-$mode"
        setfattr -n user.x -v y "file-$mode"
        stat -c '%a %s %Y' "file-$mode"
        chmod 600 "file-$mode" && getfattr -d "file-$mode"
    done
    chmod 700 moved-*
    find . -printf '%P %y %m\n' | sort
}

modes() { # a directory below the mount, one outside
    mkdir "$1" "$2"
    (set +e; modes_in "$1") >"$home/in" 2>&1
    (set +e; modes_in "$2") >"$home/out" 2>&1
    diff "$home/out" "$home/in"
    [ "$(wc -l <"$home/in")" -gt 50 ]
    rm -rf "$1" "$2"
}

# docs/SEMANTICS.md says why: once this mounts, it is to say so no more.
overlay_in_namespace() {
    unshare -Urm true || skip "no user namespaces"
    mkdir -p "$mnt/over/upper" "$mnt/over/work" "$home/over/lower" "$home/over/merged" "$home/over/upper" "$home/over/work"
    echo lower >"$home/over/lower/file"
    mount_over() {
        unshare -Urm sh -c 'cd "$2" && mount -t overlay overlay \
            -o "lowerdir=lower,upperdir=$1/upper,workdir=$1/work,userxattr" merged && cat merged/file' sh "$1" "$home/over"
    }
    # That it is the mount that makes the difference.
    [ "$(mount_over "$home/over")" = lower ] || skip "no overlayfs in user namespaces"
    if mount_over "$mnt/over" >"$home/said" 2>&1; then
        echo "it mounts, for writing"
        exit 1
    fi
    cat "$home/said"
    grep -q read-only "$home/said"
    # What overlayfs has left there goes away.
    rm -rf "$mnt/over"
    chmod -R u+rwx "$home/over" && rm -rf "$home/over"
}

own_directory() { install -d -o "$user" "$1"; }

clean_end() {
    rm -rf "${mnt:?}"/*
    [ -z "$(ls -A "$mnt")" ]
    "$kmsfs" umount "$mnt"
}

make_volume() {
    "$kmsfs" init --dev --suite "$suite" "$work/$suite"
    mount_it
    # For the other users.
    chmod 755 "$mnt"
}

# --- all of it -------------------------------------------------------------------------------------------------------

suite=setup
make_files "$work/files"
if command -v git >/dev/null; then deadline=60 check "a repository for git" make_history; fi

for suite in aes-256-gcm sm4-gcm; do
    all=false
    [ $suite = sm4-gcm ] || all=true
    mount_option_text=allow_other user=''
    failed_before=$failed
    deadline=60 check "init and mount" make_volume
    [ "$failed" = "$failed_before" ] || continue
    if needs "overlayfs" setfacl setfattr setcap; then
        deadline=60 check "overlayfs, the mount is the lower layer" overlay_lower
        deadline=60 check "overlayfs, the mount is the upper layer" overlay_upper
        if $all; then deadline=60 check "overlayfs, the mount is both layers" overlay_both; fi
    fi
    if needs "ext4 in an image" mkfs.ext4 fsck.ext4 losetup fstrim; then
        deadline=90 check "ext4 in an image: loop, trim, fsck, remount, fsck" loop_ext4
        if $all; then deadline=90 check "ext4 in an image, loop with direct I/O" loop_ext4_direct; fi
    fi
    if needs "PostgreSQL" initdb pg_ctl pgbench psql setpriv; then
        deadline=150 check "PostgreSQL: initdb, pgbench, immediate stop, recovery, remount" postgresql
    fi
    if needs rsync rsync setfacl setfattr setcap; then
        deadline=60 check "rsync -aHAX both ways" rsync_both_ways
    fi
    if $all; then
        if needs "git" git; then
            deadline=120 check "git: clone, checkout, rebase, gc, fsck" git_large "$mnt"
            deadline=60 check "git after a remount, push" git_after_remount
        fi
        if needs "tar" setfacl setfattr setcap; then
            deadline=60 check "tar --xattrs --acls there and back" tar_round
        fi
        deadline=90 check "cp -a of thousands of files, diff -r" copy_tree
        if needs "venv" "$python"; then deadline=150 check "venv and pip install" pip_install; fi
        if needs "npm" npm node; then deadline=150 check "npm install, npm ci" npm_install; fi
        if needs "a Debian system" debootstrap unshare chroot; then
            deadline=300 check "debootstrap, a chroot into it, dpkg --verify" system
        fi
        if needs "inotify" inotifywait setfattr; then deadline=60 check "inotify as below the mount" inotify; fi
        if needs "locks" "$python"; then deadline=60 check "flock, fcntl, OFD locks, leases" locks "$mnt"; fi
    fi
    if needs "sqlite" sqlite3; then
        for mode in delete wal; do
            deadline=90 check "sqlite3, $mode journal, five writers" sqlite_together $mode "$mnt"
        done
        deadline=60 check "sqlite3 after a remount" sqlite_again
    fi
    if $all && needs "an ordinary user" setpriv; then
        user=nobody
        own_directory "$mnt/nobody"
        if needs git git; then deadline=120 check "as nobody: git" git_large "$mnt/nobody"; fi
        if needs sqlite sqlite3; then
            deadline=90 check "as nobody: sqlite3, WAL, five writers" sqlite_together wal "$mnt/nobody"
        fi
        if needs locks "$python"; then deadline=60 check "as nobody: locks" locks "$mnt/nobody"; fi
        user=''
    fi
    deadline=60 check "everything removed, unmounted" clean_end
    rm -rf "${work:?}/$suite"
done

suite=aes-256-gcm
user=nobody mount_option_text=''
if [[ $(stat -c %a /dev/fuse) != *6 ]]; then
    skipped=$((skipped + 1))
    echo "skipped $suite: a mount of nobody's: /dev/fuse is not open to all (chmod 666)"
elif needs "a mount of nobody's" setpriv fusermount3; then
    chown "$user" "$mnt" "$home"
    # State of its own.
    install -d -o "$user" "$work/user" "$work/user/bare"
    XDG_STATE_HOME=$work/user/state XDG_CONFIG_HOME=$work/user/config
    install -d -o "$user" "$work/$suite"
    failed_before=$failed
    deadline=60 check "nobody's mount: init and mount" make_volume
    if [ "$failed" = "$failed_before" ]; then
        if needs git git; then deadline=120 check "nobody's mount: git" git_large "$mnt"; fi
        if needs rsync rsync; then deadline=60 check "nobody's mount: rsync -aHAX both ways" user_rsync; fi
        if needs sqlite sqlite3; then
            for mode in delete wal; do
                deadline=90 check "nobody's mount: sqlite3, $mode journal, five writers" sqlite_together $mode "$mnt"
            done
            deadline=60 check "nobody's mount: sqlite3 after a remount" sqlite_again
        fi
        if needs locks "$python"; then deadline=60 check "nobody's mount: locks" locks "$mnt"; fi
        if needs modes setfattr getfattr; then
            deadline=60 check "nobody's mount: modes as below the mount" modes "$mnt/modes" "$home/modes"
        fi
        if needs "overlayfs" unshare; then
            deadline=60 check "nobody's mount: no upper layer of an overlayfs in a user namespace" overlay_in_namespace
        fi
        deadline=60 check "nobody's mount: everything removed, unmounted" clean_end
    fi
fi

summary

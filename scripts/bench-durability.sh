#!/usr/bin/env bash
# What durability `safe` costs: the same rows on a mount with it, on one with `fast`, on gocryptfs (where it is installed)
# and on the bare directory, interleaved. Everything here overwrites or syncs; new data costs the same in both.
# Usage: scripts/bench-durability.sh [ROUNDS] [BACKING-PARENT]; needs fio, sqlite3 and root, and PostgreSQL for its row. The
# parent should be a disk.
# Prints medians, and ratios to `fast`; more is better in every row.
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${1:-3}
parent=${2:-/var/tmp}
size_mib=${SIZE_MIB:-256}
bin=${KMSFS:-target/release/kmsfs}
[ -x "$bin" ] || cargo build --release --locked
bin=$(realpath "$bin")
work=$(mktemp -d "$parent/kmsfs-bench.XXXXXX")
export XDG_STATE_HOME=$work/state
mounts=()
for dir in /usr/lib/postgresql/*/bin; do
    [ ! -x "$dir/initdb" ] || PATH=$PATH:$dir
done
as_postgres() { (cd / && setpriv --reuid=postgres --regid=postgres --init-groups env "HOME=$work/home" "$@"); }
clean() {
    local mount dir
    for dir in "$work"/*/pg/data; do
        [ ! -e "$dir/postmaster.pid" ] || as_postgres pg_ctl -D "$dir" -m immediate stop >/dev/null 2>&1 || true
    done
    for mount in "${mounts[@]}"; do umount "$mount" 2>/dev/null || umount -l "$mount" 2>/dev/null || true; done
    rm -rf "$work"
}
trap clean EXIT
chmod 755 "$work"

order=(bare) ; mkdir "$work/bare"
for durability in fast safe; do
    mkdir "$work/$durability"
    "$bin" init --dev "$work/$durability.b" >/dev/null 2>&1
    "$bin" mount --dev -o "allow_other,durability=$durability" "$work/$durability.b" "$work/$durability"
    mounts+=("$work/$durability"); order+=("$durability")
done
if command -v gocryptfs >/dev/null; then
    mkdir "$work/g.b" "$work/gocryptfs"
    gocryptfs -q -init -extpass "echo bench" "$work/g.b" >/dev/null
    gocryptfs -q -allow_other -extpass "echo bench" "$work/g.b" "$work/gocryptfs"
    mounts+=("$work/gocryptfs"); order+=(gocryptfs)
fi

for who in "${order[@]}"; do chmod 755 "$work/$who"; done
out=$work/out; : >"$out"
now() { date +%s.%N; }
rate() { # who row amount start
    awk -v w="$1" -v r="$2" -v a="$3" -v s="$4" -v e="$(now)" 'BEGIN { printf "%s\t%s\t%.3f\n", w, r, a / (e - s) }' >>"$out"
}
fio_rate() { # who row field args
    local who=$1 row=$2 field=$3
    shift 3
    fio --output-format=json "$@" 2>/dev/null | python3 -c '
import json, sys
write = json.load(sys.stdin)["jobs"][0]["write"]
value = write["iops"] if sys.argv[3] == "iops" else write["bw_bytes"] / 1e6
print("%s\t%s\t%.3f" % (sys.argv[1], sys.argv[2], value))' "$who" "$row" "$field" >>"$out"
}
sql() { # database journal-mode commits
    {
        echo "pragma journal_mode=$2; pragma synchronous=full; create table if not exists t (k integer primary key, v text);"
        for ((i = 0; i < $3; i++)); do echo "insert or replace into t values ($i % 200, hex(randomblob(400)));"; done
    } | sqlite3 "$1" >/dev/null
}
pgbench_rate() { # who: a new cluster, then 5 s of transactions by one client
    local who=$1 pg=$work/$1/pg
    install -d -o postgres -g postgres "$pg" "$pg/run"
    as_postgres initdb -D "$pg/data" -A trust >/dev/null
    as_postgres pg_ctl -D "$pg/data" -w -s -l "$pg/log" -o "-c listen_addresses= -k $pg/run" start
    as_postgres pgbench -h "$pg/run" -q -i -s 5 postgres >/dev/null 2>&1
    as_postgres pgbench -h "$pg/run" -T 5 postgres 2>/dev/null |
        awk -v w="$who" '/^tps/ { printf "%s\t6 pgbench transactions, one client (1/s)\t%.3f\n", w, $3 }' >>"$out"
    as_postgres pg_ctl -D "$pg/data" -w -s -m fast stop
    rm -rf "$pg"
}
for ((round = 1; round <= rounds; round++)); do
    for who in "${order[@]}"; do
        d=$work/$who
        dd if=/dev/zero of="$d/big" bs=1M count="$size_mib" conv=fsync 2>/dev/null
        s=$(now); dd if=/dev/zero of="$d/big" bs=1M count="$size_mib" conv=fsync,notrunc 2>/dev/null
        rate "$who" "1 overwriting 1 MiB, fsync at the end (MB/s)" $((size_mib * 1048576 / 1000000)) "$s"
        fio_rate "$who" "2 random overwriting 4 KiB, fsync at the end (MB/s)" bw --name=w --filename="$d/big" \
            --rw=randwrite --bs=4k --size="${size_mib}m" --io_size=64m --end_fsync=1
        fio_rate "$who" "3 random overwriting 4 KiB, fsync each (1/s)" iops --name=s --filename="$d/big" \
            --rw=randwrite --bs=4k --size="${size_mib}m" --number_ios=300 --fsync=1
        rm "$d/big"
        fio_rate "$who" "4 appending 4 KiB, fsync each (1/s)" iops --name=a --filename="$d/log" \
            --rw=write --bs=4k --size=1200k --fsync=1 --file_append=1
        rm "$d/log"
        for mode in delete wal; do
            s=$(now); sql "$d/db" "$mode" 200
            rate "$who" "5 sqlite commits, journal_mode=$mode (1/s)" 200 "$s"
            rm -f "$d"/db*
        done
        ! command -v initdb >/dev/null || pgbench_rate "$who"
    done
done
commit=$(git rev-parse --short HEAD 2>/dev/null || echo none)
echo "machine: $(nproc) cores, $(uname -r), backing $(stat -f -c %T "$parent"); commit $commit; rounds $rounds"
python3 - "$out" "${order[@]}" <<'P'
import collections, statistics, sys
rows = collections.defaultdict(lambda: collections.defaultdict(list))
for line in open(sys.argv[1]):
    who, row, value = line.rstrip("\n").split("\t")
    rows[row][who].append(float(value))
order = sys.argv[2:]
print("| row | " + " | ".join(order) + " | safe / fast |")
print("|---" * (len(order) + 2) + "|")
for row in sorted(rows):
    median = {who: statistics.median(rows[row][who]) for who in order}
    cells = " | ".join("%.0f" % median[who] for who in order)
    print("| %s | %s | %.2f |" % (row[2:], cells, median["safe"] / median["fast"]))
P

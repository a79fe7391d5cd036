#!/usr/bin/env bash
# First figures beside gocryptfs: the same rows on both, interleaved, on one backing (default: tmpfs in /dev/shm).
# Usage: scripts/bench-quick.sh [ROUNDS] [BACKING-PARENT]; needs gocryptfs and fio (Debian's packages) and root.
# Prints the median of each row and the ratio kmsfs / gocryptfs; more is better in every row.
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${1:-3}
parent=${2:-/dev/shm}
suites=${SUITES:-aes-256-gcm}
size_mib=${SIZE_MIB:-512}
files=${FILES:-4000}
bin=${KMSFS:-target/release/kmsfs}
[ -x "$bin" ] || cargo build --release --locked
bin=$(realpath "$bin")
work=$(mktemp -d "$parent/kmsfs-bench.XXXXXX")
export XDG_STATE_HOME=$work/state
mounts=()
clean() { for m in "${mounts[@]}"; do umount "$m" 2>/dev/null || umount -l "$m" 2>/dev/null || true; done; rm -rf "$work"; }
trap clean EXIT

declare -A dirs
for suite in $suites; do
    mkdir -p "$work/$suite.m"
    "$bin" init --dev --suite "$suite" "$work/$suite.b" >/dev/null 2>&1
    "$bin" mount --dev "$work/$suite.b" "$work/$suite.m"
    mounts+=("$work/$suite.m"); dirs["kmsfs-$suite"]=$work/$suite.m
done
mkdir "$work/g.b" "$work/g.m"
gocryptfs -q -init -extpass "echo bench" "$work/g.b" >/dev/null
gocryptfs -q -extpass "echo bench" "$work/g.b" "$work/g.m"
mounts+=("$work/g.m"); dirs[gocryptfs]=$work/g.m
order=(gocryptfs); for s in $suites; do order+=("kmsfs-$s"); done

mkdir "$work/tree"
for ((i = 0; i < files; i++)); do
    d=$work/tree/$((i / 100)); [ -d "$d" ] || mkdir "$d"
    head -c $((200 + (i * 7919) % 12000)) /dev/zero | tr '\0' "$(printf '\\%o' $((65 + i % 26)))" >"$d/file-$i.txt"
done
tar cf "$work/tree.tar" -C "$work" tree

out=$work/out; : >"$out"
drop() { sync -f "$1"; echo 3 >/proc/sys/vm/drop_caches; }
now() { date +%s.%N; }
rate() { # fs row amount start
    awk -v f="$1" -v r="$2" -v a="$3" -v s="$4" -v e="$(now)" 'BEGIN { printf "%s\t%s\t%.3f\n", f, r, a / (e - s) }' >>"$out"
}
fio_rate() { # fs row args: MB/s
    local fs=$1 row=$2; shift 2
    fio --output-format=json "$@" 2>/dev/null | python3 -c '
import json, sys
j = json.load(sys.stdin)["jobs"][0]
print("%s\t%s\t%.3f" % (sys.argv[1], sys.argv[2], (j["read"]["bw_bytes"] + j["write"]["bw_bytes"]) / 1e6))' "$fs" "$row" >>"$out"
}
for ((round = 1; round <= rounds; round++)); do
    for fs in "${order[@]}"; do
        d=${dirs[$fs]}
        s=$(now); dd if=/dev/zero of="$d/big" bs=1M count="$size_mib" conv=fsync 2>/dev/null; rate "$fs" "01 sequential write 1 MiB, fsync (MB/s)" $((size_mib * 1048576 / 1000000)) "$s"
        drop "$d"; s=$(now); dd if="$d/big" of=/dev/null bs=1M 2>/dev/null; rate "$fs" "02 sequential read, cold (MB/s)" $((size_mib * 1048576 / 1000000)) "$s"
        s=$(now); dd if="$d/big" of=/dev/null bs=1M 2>/dev/null; rate "$fs" "03 sequential read, warm (MB/s)" $((size_mib * 1048576 / 1000000)) "$s"
        drop "$d"; fio_rate "$fs" "04 random read 4 KiB, cold (MB/s)" --name=r --filename="$d/big" --rw=randread --bs=4k --size="${size_mib}m" --io_size=64m --randrepeat=1
        fio_rate "$fs" "05 random write 4 KiB, fsync at the end (MB/s)" --name=w --filename="$d/big" --rw=randwrite --bs=4k --size="${size_mib}m" --io_size=64m --end_fsync=1 --randrepeat=1
        rm "$d/big"
        s=$(now); dd if=/dev/zero of="$d/small" bs=4k count=32768 conv=fsync 2>/dev/null; rate "$fs" "06 sequential write 4 KiB (MB/s)" 134 "$s"; rm "$d/small"
        s=$(now); tar xf "$work/tree.tar" -C "$d"; sync -f "$d"; rate "$fs" "07 untar small files (files/s)" "$files" "$s"
        drop "$d"; s=$(now); find "$d/tree" -printf '%s' >/dev/null; rate "$fs" "08 stat of the tree, cold (files/s)" "$files" "$s"
        drop "$d"; s=$(now); tar cf - -C "$d" tree | cat >/dev/null; rate "$fs" "09 read of the tree, cold (files/s)" "$files" "$s"
        s=$(now); cp -a "$d/tree" "$d/copy"; rate "$fs" "10 cp -a of the tree (files/s)" "$files" "$s"
        s=$(now); rm -rf "$d/tree" "$d/copy"; rate "$fs" "11 rm -rf of two trees (files/s)" $((2 * files)) "$s"
    done
done
echo "machine: $(nproc) cores, $(uname -r), backing $(stat -f -c %T "$parent"); commit $(git rev-parse --short HEAD 2>/dev/null || echo none); rounds $rounds"
python3 - "$out" <<'P'
import collections, statistics, sys
rows = collections.defaultdict(lambda: collections.defaultdict(list))
for line in open(sys.argv[1]):
    fs, row, value = line.rstrip("\n").split("\t")
    rows[row][fs].append(float(value))
for row in sorted(rows):
    base = statistics.median(rows[row]["gocryptfs"])
    cells = ["gocryptfs %.0f" % base]
    for fs in rows[row]:
        if fs != "gocryptfs":
            m = statistics.median(rows[row][fs])
            cells.append("%s %.0f = %.2f x" % (fs, m, m / base))
    print("%-46s %s" % (row[3:], ", ".join(cells)))
P

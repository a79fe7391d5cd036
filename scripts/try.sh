#!/usr/bin/env bash
# Builds kmsfs and gives you a mounted encrypted directory to copy files into. Run it again to mount it again.
# Usage: scripts/try.sh [DIRECTORY]        (default: ~/kmsfs-demo)
# KMSFS=PATH uses a kmsfs that is built already. Nothing is installed or configured.
set -euo pipefail

dir=${1:-${HOME:?HOME is not set: give a directory}/kmsfs-demo}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd -P)
cd "$(dirname "$0")/.."

if [ ! -e /dev/fuse ] && [ "$(id -u)" = 0 ]; then
    modprobe fuse 2>/dev/null || true
fi
if [ ! -e /dev/fuse ]; then
    echo "There is no /dev/fuse here: load the kernel module (modprobe fuse)." >&2
    echo "In a container, start it with --device /dev/fuse --cap-add SYS_ADMIN." >&2
    exit 1
fi
if [ ! -r /dev/fuse ] || [ ! -w /dev/fuse ]; then
    echo "You may not open /dev/fuse: run this as root, or have root do: chmod 666 /dev/fuse" >&2
    exit 1
fi
if [ "$(id -u)" != 0 ] && ! command -v fusermount3 >/dev/null; then
    echo "An ordinary user mounts with fusermount3. Install it: sudo apt-get install fuse3" >&2
    exit 1
fi

bin=${KMSFS:-}
if [ -z "$bin" ]; then
    if ! command -v cargo >/dev/null; then
        echo "cargo is missing: install Rust from https://rustup.rs" >&2
        exit 1
    fi
    if ! command -v cc >/dev/null; then
        echo "A C compiler is missing. Install it: sudo apt-get install gcc libc6-dev" >&2
        exit 1
    fi
    echo "Building; the first time this takes some minutes."
    cargo build --release --locked --bin kmsfs
    bin=$PWD/target/release/kmsfs
fi

vault=$dir/vault files=$dir/files
mkdir -p "$files" 2>/dev/null || true
if grep -qsF -- " ${files// /\\040} fuse.kmsfs " /proc/mounts; then
    if ! stat "$files" >/dev/null 2>&1; then
        # The daemon of an earlier run has died.
        "$bin" umount "$files"
    fi
fi
if ! grep -qsF -- " ${files// /\\040} fuse.kmsfs " /proc/mounts; then
    [ -e "$vault/kmsfs.volume" ] || "$bin" init --dev "$vault"
    "$bin" mount --dev "$vault" "$files"
fi
[ -e "$files/hello.txt" ] || echo "This text is stored encrypted." >"$files/hello.txt"

cat <<END

Mounted. What you put into
    $files
is stored encrypted in
    $vault

Copy something in:        cp -a /etc/services "$files/"
Look at the ciphertext:   ls -la "$vault"; od -A d -t x1z "$vault"/[!k]* | less
What the volume is:       $bin info "$vault"
Unmount:                  $bin umount "$files"
Mount again:              $bin mount --dev "$vault" "$files"

The keys are those of the embedded development KMS. They lie on this machine, in
    ${XDG_STATE_HOME:-$HOME/.local/state}/kmsfs/dev-kms
Without that directory the files in the vault cannot be read.
END

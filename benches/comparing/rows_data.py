"""Steps that move the data of large files."""

import json
import os
import shutil
import signal

from . import content
from .content import FIO_PATTERN, MIB
from .machine import Failed, run
from .place import Clock

# Seeds of what is written: a file as it is first, and what overwrites it.
FIRST, SECOND = 0, 1


def big(place):
    """The file that most of these steps read, made if a step before has left none."""
    path = place.path("big")
    if not os.path.exists(path) or os.stat(path).st_size != place.sizes.big:
        content.write(path, place.sizes.big, MIB, FIRST)
    return path


def sequential_write(place):
    place.remove("big")
    place.settle()
    with Clock(place) as clock:
        content.write(place.path("big"), place.sizes.big, MIB, FIRST)
    return {"write": megabytes(place.sizes.big, clock)} | cpu("write-cpu", place.sizes.big, clock)


def sequential_read(place):
    path = big(place)
    place.cold()
    with Clock(place) as cold:
        content.read(path, MIB, place.sizes.big)
    with Clock(place) as warm:
        content.read(path, MIB, place.sizes.big)
    # What the kernel has in its cache is what the cold read got.
    content.check(path, place.sizes.big, FIRST)
    return {
        "read-cold": megabytes(place.sizes.big, cold),
        "read-warm": megabytes(place.sizes.big, warm),
    } | cpu("read-cpu", place.sizes.big, cold)


def mapped_read(place):
    path = big(place)
    place.cold()
    clock = Clock(place)
    content.read_mapped(path, place.sizes.big, clock)
    return {"read-mmap": megabytes(place.sizes.big, clock)}


def random_read(place):
    path, block = big(place), 4096
    offsets = content.offsets(place.sizes.random_operations, place.sizes.big, block, 1)
    file = os.open(path, os.O_RDONLY)
    try:
        place.cold()
        with Clock(place) as clock:
            blocks = [os.pread(file, block, offset) for offset in offsets]
    finally:
        os.close(file)
    if any(found != content.chunk(FIRST, offset, block) for offset, found in zip(offsets, blocks)):
        raise Failed("other bytes than were written")
    return {"random-read": megabytes(len(offsets) * block, clock)}


def random_write(place):
    path, block = big(place), 4096
    offsets = content.offsets(place.sizes.random_operations, place.sizes.big, block, 2)
    file = os.open(path, os.O_WRONLY)
    try:
        place.cold()
        with Clock(place) as clock:
            for offset in offsets:
                os.pwrite(file, content.view(SECOND, offset, block), offset)
            os.fsync(file)
    finally:
        os.close(file)
    place.cold()
    content.check(path, place.sizes.big, FIRST, instead=(set(offsets), SECOND))
    place.remove("big")
    return {"random-write": megabytes(len(offsets) * block, clock)}


def overwrite(place):
    path = big(place)
    place.settle()
    with Clock(place) as clock:
        content.write(path, place.sizes.big, MIB, SECOND, flags=0)
    place.cold()
    content.check(path, place.sizes.big, SECOND)
    place.remove("big")
    return {"overwrite": megabytes(place.sizes.big, clock)}


def deep_read(place):
    path = big(place)
    place.cold()
    value = fio(place, path, "--rw=randread")
    content.check(path, place.sizes.big, FIRST)
    return {"random-read-deep": value}


def deep_write(place):
    path = big(place)
    place.settle()
    value = fio(place, path, "--rw=randwrite", "--end_fsync=1", "--buffer_pattern=0x" + FIO_PATTERN.hex())
    place.cold()
    content.check(path, place.sizes.big, FIRST, instead=FIO_PATTERN, block=16384)
    place.remove("big")
    return {"random-write-deep": value}


def fio(place, path, *how):
    """MB/s of eight threads, each with one request of 16 KiB under way."""
    if shutil.which("fio") is None:
        raise Failed("fio is not installed")
    each = place.sizes.random_operations * 4096 // 8
    said = run("fio", "--name=deep", "--output-format=json", f"--filename={path}", f"--size={place.sizes.big}",
               "--ioengine=psync", "--thread", "--numjobs=8", "--group_reporting", "--bs=16k", f"--io_size={each * 2}",
               "--randseed=1", "--allow_file_create=0", *how)
    job = json.loads(said[said.index("{"):])["jobs"][0]
    if job["error"]:
        raise Failed(f"fio: error {job['error']}")
    return (job["read"]["bw_bytes"] + job["write"]["bw_bytes"]) / 1e6


def parallel_write(place):
    place.remove("part0", "part1", "part2", "part3")
    place.settle()
    size = place.sizes.big // 4
    with Clock(place) as clock:
        together([lambda i=i: content.write(place.path(f"part{i}"), size, MIB, i) for i in range(4)])
    return {"write-4": megabytes(place.sizes.big, clock)}


def parallel_read(place):
    size = place.sizes.big // 4
    parts = [place.path(f"part{i}") for i in range(4)]
    for i, path in enumerate(parts):
        if not os.path.exists(path):
            content.write(path, size, MIB, i)
    place.cold()
    with Clock(place) as two:
        together([lambda i=i: [content.read(path, MIB, size) for path in parts[i::2]] for i in range(2)])
    place.cold()
    with Clock(place) as four:
        together([lambda path=path: content.read(path, MIB, size) for path in parts])
    for i, path in enumerate(parts):
        content.check(path, size, i)
    return {"read-2": megabytes(place.sizes.big, two), "read-4": megabytes(place.sizes.big, four)}


def small_write(place):
    path = place.path("small")
    place.settle()
    with Clock(place) as clock:
        content.write(path, place.sizes.small_writes, 4096, FIRST)
    place.cold()
    content.check(path, place.sizes.small_writes, FIRST)
    place.remove("small")
    return {"write-4k": megabytes(place.sizes.small_writes, clock)}


def tiny_write(place):
    path, size = place.path("tiny"), place.sizes.tiny_writes
    place.settle()
    with Clock(place) as clock:
        run("dd", "if=/dev/zero", f"of={path}", "bs=512", f"count={size // 512}", "conv=fsync")
    place.cold()
    with open(path, "rb") as file:
        if file.read() != bytes(size):
            raise Failed("other bytes than were written")
    place.remove("tiny")
    return {"write-512": megabytes(size, clock)}


def together(functions):
    """Runs each in a process of its own; returns when the last has ended."""
    children = []
    for function in functions:
        pid = os.fork()
        if pid == 0:
            try:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                function()
                os._exit(0)
            finally:
                os._exit(1)
        children.append(pid)
    statuses = [os.waitpid(pid, 0)[1] for pid in children]
    if any(statuses):
        raise Failed("one of several processes failed")


def megabytes(size, clock):
    """MB/s."""
    return size / 1e6 / clock.seconds


def cpu(key, size, clock):
    """Seconds of the daemon per GiB."""
    return {} if clock.cpu is None else {key: clock.cpu / (size / 2**30)}

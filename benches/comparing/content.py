"""What is written, and whether it came back: bytes of a file by seed and offset, and a tree of small files.

Nothing here repeats within a file in steps of a block, so that blocks in each other's place are noticed.
"""

import hashlib
import mmap
import os
import random

from .machine import Failed

MIB = 1 << 20
# A prime: two offsets that are whole blocks apart never have the same bytes, in files below 64 TiB.
_PERIOD = 16 * MIB + 43
_once, _view = None, None
# Blocks that fio overwrites are full of this.
FIO_PATTERN = bytes.fromhex("6b6d7366")


def chunk(seed, offset, length):
    """The bytes at an offset of a file; at most 1 MiB. A copy: views are compared byte for byte, slowly."""
    start = _start(seed, offset)
    return _once[start:start + length]


def view(seed, offset, length):
    """The same without a copy, to be written."""
    start = _start(seed, offset)
    return _view[start:start + length]


def _start(seed, offset):
    global _once, _view
    if _once is None:
        _once = random.Random(1).randbytes(_PERIOD)
        _once += _once[:MIB]
        _view = memoryview(_once)
    return (seed * 5_000_011 + offset) % _PERIOD


def write(path, size, block, seed, flags=os.O_CREAT | os.O_TRUNC, sync_each=False):
    """Writes a whole file in blocks, and syncs it at the end."""
    file = os.open(path, os.O_WRONLY | flags, 0o644)
    try:
        for offset in range(0, size, block):
            if os.write(file, view(seed, offset, block)) != block:
                raise Failed("a short write")
            if sync_each:
                os.fsync(file)
        os.fsync(file)
    finally:
        os.close(file)


def read(path, block, size):
    """Reads a whole file in blocks, without looking at what is in it."""
    buffer = bytearray(block)
    file = os.open(path, os.O_RDONLY)
    try:
        total = 0
        while got := os.readv(file, [buffer]):
            total += got
    finally:
        os.close(file)
    if total != size:
        raise Failed(f"{total} bytes where {size} were written")


def read_mapped(path, size, clock):
    """Touches each page of a mapping by the clock, and then compares what is in them."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ) as mapped:
        with clock, memoryview(mapped) as pages:
            bytes(pages[::mmap.PAGESIZE])
        for offset in range(0, size, MIB):
            if mapped[offset:offset + MIB] != chunk(0, offset, MIB):
                raise Failed(f"other bytes at {offset} than were written")


def offsets(count, size, block, seed):
    """Where a row with random offsets reads or writes."""
    return [block * i for i in random.Random(seed).choices(range(size // block), k=count)]


def check(path, size, seed, instead=None, block=4096):
    """The file has the bytes of the seed. `instead`, offsets and another seed: there it has the bytes of that one.
    FIO_PATTERN: it may be anywhere, in whole blocks, and has to be somewhere."""
    name = os.path.basename(path)
    if os.stat(path).st_size != size:
        raise Failed(f"{name} has {os.stat(path).st_size} bytes where {size} were written")
    others = set()
    with open(path, "rb") as file:
        for start in range(0, size, MIB):
            found = file.read(MIB)
            if found == chunk(seed, start, min(MIB, size - start)):
                continue
            for offset in range(start, start + len(found), block):
                part = found[offset - start:offset - start + block]
                if part == chunk(seed, offset, len(part)):
                    continue
                others.add(offset)
                if not _right_instead(part, offset, instead):
                    raise Failed(f"{name} has other bytes at {offset} than were written")
    if instead == FIO_PATTERN and not others or isinstance(instead, tuple) and others != instead[0]:
        raise Failed(f"{name}: what was overwritten has come back")


def _right_instead(part, offset, instead):
    if instead is None:
        return False
    if instead == FIO_PATTERN:
        return part == FIO_PATTERN * (len(part) // len(FIO_PATTERN))
    where, seed = instead
    return offset in where and part == chunk(seed, offset, len(part))


def make_tree(directory, files):
    """So many files of 200 to 12 200 bytes, a hundred to a directory, and their digest."""
    for i in range(files):
        parent = os.path.join(directory, f"d{i // 1000}", f"e{i // 100 % 10}")
        if i % 100 == 0:
            os.makedirs(parent)
        with open(os.path.join(parent, f"file-{i}.txt"), "wb") as file:
            file.write(chunk(i, 0, 200 + i * 7919 % 12000))
    return digest(directory)


def digest(directory):
    """One sum over the names, modes and bytes of a tree."""
    total = hashlib.sha256()
    for parent, directories, names in os.walk(directory):
        directories[:] = sorted(name for name in directories if name != ".git")
        for name in sorted(names):
            path = os.path.join(parent, name)
            with open(path, "rb") as file:
                data = file.read()
            mode = os.stat(path).st_mode
            total.update(f"{os.path.relpath(path, directory)} {mode} {len(data)}\n".encode())
            total.update(data)
    return total.hexdigest()

"""What a step may use: the mount it works on, how big everything is, and a scratch directory beside all of them."""

import dataclasses
import os
import shutil
import time

from . import machine

MIB = 1 << 20


@dataclasses.dataclass
class Sizes:
    """Of a whole run; what each is for is in its row's title."""

    big: int = 512 * MIB
    small_writes: int = 128 * MIB
    tiny_writes: int = 32 * MIB
    random_operations: int = 16384
    appends: int = 1000
    commits: int = 300
    files: int = 8000
    many: int = 100_000
    inodes: int = 100_000

    @staticmethod
    def quick():
        return Sizes(big=128 * MIB, small_writes=32 * MIB, tiny_writes=8 * MIB, random_operations=4096, appends=200,
                     commits=100, files=2000, many=10_000, inodes=10_000)

    def facts(self):
        return {name: f"{value // MIB} MiB" if value >= MIB and value % MIB == 0 else value
                for name, value in dataclasses.asdict(self).items()}


@dataclasses.dataclass
class Place:
    point: str
    stored: str
    scratch: str
    sizes: Sizes
    # Of the daemon; None where there is none.
    pid: int | None
    # How long the mount took to answer.
    mount_seconds: float | None
    # Of the tree in the scratch directory.
    tree_digest: str | None

    def path(self, name):
        return os.path.join(self.point, name)

    def settle(self):
        """What was written before is no longer on its way, so that it does not count in what is measured next."""
        machine.sync(self.point, self.stored)

    def cold(self):
        machine.drop_caches(self.point, self.stored)

    def remove(self, *names):
        for name in names:
            path = self.path(name)
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path)
            elif os.path.lexists(path):
                os.unlink(path)

    def cpu(self):
        return machine.cpu_seconds(self.pid) if self.pid else None


class Clock:
    """`with Clock(place) as clock:` seconds on the wall, and those of the daemon where there is one."""

    def __init__(self, place):
        self.place = place

    def __enter__(self):
        self.used = self.place.cpu()
        self.start = time.perf_counter()
        return self

    def __exit__(self, *error):
        self.seconds = time.perf_counter() - self.start
        self.cpu = None if self.used is None else self.place.cpu() - self.used

"""Rounds: which file system is measured when, and what becomes of errors."""

import os
import shutil
import tempfile
import time

from . import machine, mounts, rows_tree
from .machine import Failed
from .place import Place
from .rows import GROUPS


class Run:
    """Everything that has to be undone in the end: `with Run(…) as run:`."""

    def __init__(self, sizes, names, wanted, limit, say, kmsfs=None):
        self.sizes = sizes
        self.names = names
        # Whether a row is to be measured.
        self.wanted = wanted
        # Seconds that a step may take.
        self.limit = limit
        self.say = say
        self.kmsfs = kmsfs
        self.child = machine.Child()
        self.systems = []
        self.works = []

    def __enter__(self):
        try:
            self._prepare()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error):
        self.child.end()
        self._end_backing()
        self._remove_directories(keep=0)

    def _prepare(self):
        self.scratch = self._directory("/dev/shm" if os.path.isdir("/dev/shm") else tempfile.gettempdir())
        # kmsfs keeps there what it knows of its volumes, and finds no configuration of this machine's.
        os.environ |= {"XDG_STATE_HOME": os.path.join(self.scratch, "state"),
                       "XDG_CONFIG_HOME": os.path.join(self.scratch, "config")}
        os.environ.pop("RUST_LOG", None)
        self.tools = mounts.Tools(self.scratch, self.kmsfs)
        needs_tree = any(self.wanted(row) for group in GROUPS if group.name == "tree"
                         for step in group.steps for row in step.rows)
        self.tree_digest = rows_tree.prepare(self.scratch, self.sizes.files) if needs_tree else None

    def measure(self, backing, rounds):
        """The result of one backing: values and errors by row and file system."""
        result = Result(backing)
        try:
            self._begin_backing(backing, result)
            for number in range(rounds):
                for position, group in enumerate(GROUPS):
                    steps = [step for step in group.steps if any(self.wanted(row) for row in step.rows)]
                    if not steps:
                        continue
                    for system in rotated(self.systems, number + position):
                        start = time.monotonic()
                        self._group(system, steps, result)
                        self.say(f"{backing}: round {number + 1} of {rounds}: {group.name}: {system.name}"
                                 f" ({time.monotonic() - start:.0f} s)")
        finally:
            self._end_backing()
        return result

    def _begin_backing(self, backing, result):
        work = self._directory(backing)
        for kind in mounts.ALL:
            if kind.name not in self.names:
                continue
            if reason := kind.missing(self.tools):
                result.left_out[kind.name] = reason
                self.say(f"{kind.name} is left out: {reason}")
                continue
            system = kind(work, self.tools)
            self.systems.append(system)
            try:
                system.make()
                system.mount()
            except Failed as error:
                result.left_out[kind.name] = str(error)
                self.say(f"{kind.name} is left out: {error}")
                self.systems.pop().end()
                continue
            result.systems[kind.name] = kind.about
        if not self.systems:
            raise Failed("nothing is left to measure")

    def _end_backing(self):
        systems, self.systems = self.systems, []
        for system in systems:
            try:
                system.end()
            except Exception as error:  # the others have to be unmounted all the same
                self.say(f"{system.name}: {error}")
        self._remove_directories(keep=1)

    def _remove_directories(self, keep):
        """The last first; the very first is the scratch directory."""
        while len(self.works) > keep:
            directory = self.works.pop()
            if any(point.startswith(directory + "/") for point in mounts.mount_points()):
                self.say(f"something is still mounted in {directory}: it is left there")
                continue
            shutil.rmtree(directory, ignore_errors=True)

    def _group(self, system, steps, result):
        for step in steps:
            try:
                self._step(system, step, result)
            except Failed as error:
                self.say(f"{system.name}: {step.rows[0].title}: {error}")
                for row in step.rows:
                    result.failed(row, system.name, str(error))
                # Whatever state it is in, and whatever half of something lies there, is not the next step's burden.
                self._again(system)
                self._empty(system)
        self._empty(system)

    def _step(self, system, step, result):
        if step.fresh:
            if step.before is not None:
                self.child.call(lambda: step.before(self._place(system)), self.limit)
            system.end()
            system.mount()
        values = self.child.call(lambda: step.run(self._place(system)), self.limit)
        if not system.alive():
            raise Failed("the daemon has ended")
        for row in step.rows:
            if row.key in values:
                result.add(row, system.name, values[row.key])

    def _empty(self, system):
        try:
            self.child.call(lambda: _remove_all(system.point), self.limit)
        except Failed as error:
            self.say(f"{system.name}: cannot be emptied: {error}")
            self._again(system)

    def _again(self, system):
        try:
            # Perhaps it hangs.
            system.end(patience=10)
            system.mount()
        except Failed as error:
            self.say(f"{system.name}: {error}")

    def _place(self, system):
        return Place(system.point, system.stored_or_point(), self.scratch, self.sizes, system.pid, system.mount_seconds,
                     self.tree_digest)

    def _directory(self, parent):
        directory = os.path.realpath(tempfile.mkdtemp(prefix="kmsfs-compare.", dir=parent))
        self.works.append(directory)
        return directory


class Result:
    """What was measured on one backing."""

    def __init__(self, backing):
        self.backing = backing
        self.file_system = machine.file_system_of(backing)
        # Names and what they are.
        self.systems = {}
        self.left_out = {}
        self.values = {}
        self.errors = {}

    def add(self, row, name, value):
        self.values.setdefault(row.key, {}).setdefault(name, []).append(value)

    def failed(self, row, name, why):
        self.errors.setdefault(row.key, {}).setdefault(name, []).append(why)


def rotated(systems, by):
    """Each is first in turn, so that none always has the machine as the same other one left it."""
    by %= len(systems) or 1
    return systems[by:] + systems[:by]


def _remove_all(directory):
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)

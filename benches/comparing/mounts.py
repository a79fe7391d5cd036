"""The file systems that are compared: how each is made on a directory, mounted, and ended."""

import os
import re
import resource
import shutil
import subprocess
import time

from . import machine
from .machine import Failed, run


class FileSystem:
    """One file system on one backing: `mount` and `end` in turn, as often as a run likes."""

    name = ""
    about = ""

    def __init__(self, work, tools):
        self.stored = os.path.join(work, f"{self.name}.stored")
        self.point = os.path.join(work, self.name)
        self.log = os.path.join(work, f"{self.name}.log")
        self.tools = tools
        self.daemon = None
        # How long the last mount took to answer.
        self.mount_seconds = None

    @staticmethod
    def missing(tools):
        """Why this file system cannot be here, if it cannot."""
        return None

    def make(self):
        os.mkdir(self.stored)
        os.mkdir(self.point)
        self.init()

    def init(self):
        pass

    def command(self):
        """What serves the mount, in the foreground."""
        raise NotImplementedError

    def stored_or_point(self):
        """Where the data lies in the end: what has to be synced for it to be on the disk."""
        return self.stored

    @property
    def pid(self):
        return self.daemon.pid if self.daemon else None

    def alive(self):
        return self.daemon is not None and self.daemon.poll() is None

    def mount(self):
        with open(self.log, "ab") as log:
            start = time.perf_counter()
            # A session of its own: an interrupt from the keyboard is for the run, which unmounts in order.
            self.daemon = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                           start_new_session=True, preexec_fn=_many_descriptors)
        while not is_mounted(self.point):
            if self.daemon.poll() is not None:
                raise Failed(f"{self.name} does not mount: {self._last_words()}")
            if time.perf_counter() - start > 60:
                raise Failed(f"{self.name} has not mounted after 60 s")
            time.sleep(0.001)
        # A process of its own may wait for what does not answer, and be killed.
        run("ls", self.point, timeout=60)
        self.mount_seconds = time.perf_counter() - start

    def end(self, patience=120):
        """Unmounted, by force if need be, and the daemon has ended; it has so many seconds each time it is asked."""
        daemon, self.daemon = self.daemon, None
        for how in (["umount"], ["umount"], ["umount", "-l"]):
            if not is_mounted(self.point):
                break
            try:
                run(*how, self.point, timeout=patience)
            except Failed:
                time.sleep(0.5)
        if daemon is not None:
            try:
                daemon.wait(patience)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait(10)

    def _last_words(self):
        with open(self.log, errors="replace") as log:
            return (log.read().strip().splitlines() or ["it says nothing"])[-1]


class Kmsfs(FileSystem):
    name = "kmsfs"
    about = "AES-256-GCM, durability safe, embedded development KMS"
    suite = "aes-256-gcm"
    options = []

    def init(self):
        run(self.tools.kmsfs, "init", "--dev", "--suite", self.suite, self.stored)

    def command(self):
        return [self.tools.kmsfs, "mount", "--dev", "-f", "--log", self.log, *self.options, self.stored, self.point]


class KmsfsSm4(Kmsfs):
    name = "kmsfs-sm4"
    about = "SM4-GCM, durability safe, embedded development KMS"
    suite = "sm4-gcm"


class KmsfsFast(Kmsfs):
    name = "kmsfs-fast"
    about = "AES-256-GCM, durability fast, embedded development KMS"
    options = ["-o", "durability=fast"]


class KmsfsUring(Kmsfs):
    name = "kmsfs-uring"
    about = "AES-256-GCM, durability safe, embedded development KMS, requests over io_uring"
    options = ["-o", "io_uring"]
    allowed = "/sys/module/fuse/parameters/enable_uring"

    @classmethod
    def missing(cls, tools):
        return None if os.path.exists(cls.allowed) else "this kernel has no FUSE over io_uring"

    def mount(self):
        """The kernel looks when it is mounted; afterwards the switch is as it was."""
        with open(self.allowed) as file:
            before = file.read()
        try:
            _write(self.allowed, "1")
            super().mount()
        finally:
            _write(self.allowed, before)


class Gocryptfs(FileSystem):
    name = "gocryptfs"
    about = "its defaults: AES-256-GCM"
    password = ["-extpass", "echo bench"]

    @staticmethod
    def missing(tools):
        return None if shutil.which("gocryptfs") else "not installed"

    def init(self):
        run("gocryptfs", "-q", "-init", *self.password, self.stored)

    def command(self):
        return ["gocryptfs", "-q", "-fg", *self.password, self.stored, self.point]


class Securefs(FileSystem):
    name = "securefs"
    about = "its defaults: AES-256-GCM"

    @staticmethod
    def missing(tools):
        return None if shutil.which("securefs") else "not installed"

    def init(self):
        run("securefs", "create", "--pass", "bench", self.stored)

    def command(self):
        return ["securefs", "mount", "--pass", "bench", self.stored, self.point]


class Passthrough(FileSystem):
    name = "passthrough"
    about = "libfuse's example passthrough_ll: no encryption, write-back cache, kernel caches kept"

    @staticmethod
    def missing(tools):
        return None if tools.passthrough else tools.no_passthrough

    def command(self):
        options = f"source={self.stored},writeback,cache=always,timeout=3600"
        return [self.tools.passthrough, "-f", "-o", options, self.point]


class Raw(FileSystem):
    name = "raw"
    about = "the backing itself, nothing mounted"

    def alive(self):
        return True

    def make(self):
        os.mkdir(self.point)

    def stored_or_point(self):
        return self.point

    def mount(self):
        pass

    def end(self, patience=120):
        pass


ALL = [Kmsfs, KmsfsUring, KmsfsSm4, KmsfsFast, Gocryptfs, Securefs, Passthrough, Raw]
NAMES = [kind.name for kind in ALL]
# Only where it is asked for.
OPTIONAL = ["kmsfs-fast"]


class Tools:
    """Programs that are not simply in the path: kmsfs itself and the passthrough, which is compiled into `work`."""

    def __init__(self, work, kmsfs=None):
        self.kmsfs = os.path.abspath(kmsfs) if kmsfs else _built_kmsfs()
        if not os.access(self.kmsfs, os.X_OK):
            raise Failed("there is no such kmsfs")
        self.passthrough, self.no_passthrough = None, None
        try:
            self.passthrough = _built_passthrough(work)
        except Failed as error:
            self.no_passthrough = f"{error} (Debian's libfuse3-dev and gcc)"

    def versions(self):
        """Of everything that takes part, as far as it is there."""
        found = {"kmsfs": _version(self.kmsfs, "--version"), "fio": _version("fio", "--version"),
                 "git": _version("git", "--version")}
        for package in ("gocryptfs", "securefs", "libfuse3-dev"):
            found[package] = machine.package_version(package)
        return {name: version for name, version in found.items() if version}


def is_mounted(point):
    return point in mount_points()


def mount_points():
    with open("/proc/self/mounts") as mounts:
        return [line.split()[1].encode().decode("unicode_escape") for line in mounts]


def _many_descriptors():
    """passthrough_ll holds one for each inode, and the heavy row knows a million."""
    with open("/proc/sys/fs/nr_open") as file:
        most = int(file.read())
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except (OSError, ValueError):
        pass


def _built_kmsfs():
    try:
        subprocess.run(["cargo", "build", "--release", "--locked", "--quiet", "--bin", "kmsfs"],
                       cwd=machine.REPOSITORY, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Failed(f"kmsfs cannot be built: {error}") from None
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(machine.REPOSITORY, "target"))
    return os.path.join(target, "release", "kmsfs")


def _built_passthrough(work):
    if not os.path.exists(machine.PASSTHROUGH_SOURCE):
        raise Failed("its source is not installed")
    program = os.path.join(work, "passthrough_ll")
    run("cc", "-O2", "-D_FILE_OFFSET_BITS=64", "-I/usr/include/fuse3", "-o", program, machine.PASSTHROUGH_SOURCE,
        "-lfuse3", "-lpthread")
    return program


def _write(path, text):
    with open(path, "w") as file:
        file.write(text)


def _version(*command):
    try:
        found = re.search(r"[0-9][\w.+~-]*", run(*command))
    except Failed:
        return None
    return found and found[0]

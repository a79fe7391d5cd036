"""The machine: running commands within a time, emptying its caches, Debian's packages, and what is known of it."""

import json
import os
import platform
import select
import shutil
import signal
import subprocess
import time

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# What is run, the package it comes from, and which columns or rows are left out without it.
PACKAGES = [
    ("gocryptfs", "gocryptfs"),
    ("securefs", "securefs"),
    ("fusermount3", "fuse3"),
    ("fio", "fio"),
    ("git", "git"),
    ("cc", "gcc"),
]
PASSTHROUGH_SOURCE = "/usr/share/doc/libfuse3-dev/examples/passthrough_ll.c"


class Failed(Exception):
    """Something that was to be measured, or to be there, is not."""


def run(*command, timeout=600, **more):
    """What a command says, or Failed with its last words."""
    try:
        done = subprocess.run(command, stdin=more.pop("stdin", subprocess.DEVNULL), stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=timeout, check=False, **more)
    except subprocess.TimeoutExpired:
        raise Failed(f"{command[0]}: not done after {timeout} s") from None
    except OSError as error:
        raise Failed(f"{command[0]}: {error.strerror}") from None
    if done.returncode != 0:
        words = done.stderr.decode(errors="replace").strip().splitlines() or [f"status {done.returncode}"]
        raise Failed(f"{command[0]}: {words[-1]}")
    return done.stdout.decode(errors="replace")


def seconds(*command, **more):
    """How long a command takes that succeeds."""
    start = time.perf_counter()
    run(*command, **more)
    return time.perf_counter() - start


class Child:
    """Runs a function in a process of its own, so that a file system that hangs does not hang the whole run."""

    def __init__(self):
        self.pid = None

    def call(self, function, timeout):
        """What the function returns (as JSON has it), or Failed. Whatever it started is ended with it."""
        reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(reader)
            _in_child(function, writer)
        os.close(writer)
        try:
            os.setpgid(self.pid, self.pid)
        except OSError:
            pass  # the child was first
        try:
            answer = _read_all(reader, time.monotonic() + timeout)
        finally:
            os.close(reader)
            self.end()
        if answer is None:
            raise Failed(f"not done after {timeout} s")
        if not answer:
            raise Failed("the measuring process died")
        result = json.loads(answer)
        if "failed" in result:
            raise Failed(result["failed"])
        return result["value"]

    def end(self):
        """Ends the process and all that it started. One that cannot be killed yet (it waits in the kernel for a file
        system) is left to end with its mount."""
        pid, self.pid = self.pid, None
        if pid is None:
            return
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        wait_for_end(pid, 10)


def _in_child(function, writer):
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        try:
            answer = {"value": function()}
        except Failed as error:
            answer = {"failed": str(error)}
        except Exception as error:  # the report names it; the run goes on
            answer = {"failed": f"{type(error).__name__}: {error}"}
        text = json.dumps(answer).encode()
        while text:
            text = text[os.write(writer, text):]
    finally:
        os._exit(0)


def _read_all(reader, deadline):
    """All that comes through the pipe, or None if it is not closed in time."""
    parts = []
    while True:
        ready, _, _ = select.select([reader], [], [], max(0, deadline - time.monotonic()))
        if not ready:
            return None
        part = os.read(reader, 65536)
        if not part:
            return b"".join(parts)
        parts.append(part)


def wait_for_end(pid, limit):
    """Whether a child has ended within so many seconds."""
    deadline = time.monotonic() + limit
    while True:
        try:
            if os.waitpid(pid, os.WNOHANG)[0] == pid:
                return True
        except ChildProcessError:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)


def sync(*directories):
    """Everything of these file systems is on their disk."""
    for directory in directories:
        run("sync", "-f", directory)


def drop_caches(*directories):
    """Nothing of these file systems is in the kernel's caches."""
    sync(*directories)
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("3")
    # Daemons are told of every inode that the kernel forgot; that is not part of what is measured next.
    time.sleep(0.2)


def cpu_seconds(pid):
    """What a process has used so far, itself and the kernel for it."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid):
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def install_packages(say, allowed, packages=PACKAGES):
    """Installs what is missing, as root on a Debian; otherwise says what is missing. Rows and columns that need it are
    left out then, each with its reason."""
    missing = [package for command, package in packages if shutil.which(command) is None]
    if not (os.path.exists(PASSTHROUGH_SOURCE) and os.path.exists("/usr/include/fuse3/fuse_lowlevel.h")):
        missing.append("libfuse3-dev")
    if not missing:
        return
    if not allowed or os.geteuid() != 0 or shutil.which("apt-get") is None:
        say(f"missing, and left out therefore: {', '.join(missing)} (Debian's packages)")
        return
    say(f"installing: {' '.join(missing)}")
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    try:
        run("apt-get", "update", "-q", env=environment)
        run("apt-get", "install", "-y", "-q", "--no-install-recommends", *missing, env=environment)
    except Failed as error:
        say(f"could not be installed: {error}")


def facts():
    """What the reader of a result has to know of the machine."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": _cpu_model(),
        "memory GiB": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "kernel": platform.release(),
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "load at the start": round(os.getloadavg()[0], 2),
    }


def _cpu_model():
    known = {}
    with open("/proc/cpuinfo") as file:
        for line in file:
            name, _, value = line.partition(":")
            known.setdefault(name.strip(), value.strip())
    model = known.get("model name", platform.machine())
    if "cpu family" in known:
        model += f" (family {known['cpu family']} model {known.get('model', '?')})"
    return model


def commit():
    try:
        name = run("git", "-C", REPOSITORY, "rev-parse", "--short", "HEAD").strip()
        changed = run("git", "-C", REPOSITORY, "status", "--porcelain", "--untracked-files=no").strip()
    except Failed:
        return "unknown"
    return name + (" and changes" if changed else "")


def file_system_of(directory):
    """By its own name: `stat -f` has one for all of ext2, ext3 and ext4."""
    # A line for each of several that are mounted over one another; the last is seen.
    return run("findmnt", "-n", "-o", "FSTYPE", "-T", directory).split()[-1]


def package_version(package):
    try:
        return run("dpkg-query", "-W", "-f", "${Version}", package)
    except Failed:
        return "unknown"

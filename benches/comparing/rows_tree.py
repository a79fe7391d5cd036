"""Steps on many files: a tree of small ones, a working copy of git, one directory with very many."""

import os
import shutil
import subprocess

from . import content, machine
from .machine import Failed, run, seconds
from .place import Clock
from .rows_daemon import idle_bytes

# Warm steps end soon, so they are done this often.
TIMES = 5


def prepare(scratch, files):
    """The tree, its archive, and a repository of it, in the scratch directory; the digest of the tree."""
    tree = os.path.join(scratch, "tree")
    digest = content.make_tree(tree, files)
    run("tar", "cf", os.path.join(scratch, "tree.tar"), "-C", scratch, "tree")
    if shutil.which("git"):
        git(tree, "init", "-q", "-b", "main")
        git(tree, "add", ".")
        git(tree, "commit", "-q", "-m", "the tree")
        os.rename(os.path.join(tree, ".git"), os.path.join(scratch, "repository.git"))
    shutil.rmtree(tree)
    return digest


def tree(place, name="tree"):
    """The tree, unpacked if a step before has left none."""
    path = place.path(name)
    if not os.path.exists(path):
        run("tar", "xf", os.path.join(place.scratch, "tree.tar"), "-C", place.point, "--transform", f"s,^tree,{name},")
    return path


def untar(place):
    place.remove("tree")
    place.settle()
    with Clock(place) as clock:
        run("tar", "xf", os.path.join(place.scratch, "tree.tar"), "-C", place.point)
        place.settle()
    return {"untar": place.sizes.files / clock.seconds}


def stat_tree(place):
    path = tree(place)
    place.cold()
    with Clock(place) as clock:
        sizes = run("find", path, "-type", "f", "-printf", "%s\n")
    expect(sizes.count("\n"), place.sizes.files)
    run("ls", "-lR", path)
    with Clock(place) as warm:
        for _ in range(TIMES):
            run("ls", "-lR", path)
    return {"stat": place.sizes.files / clock.seconds, "ls": TIMES * place.sizes.files / warm.seconds}


def read_tree(place):
    path = tree(place)
    place.cold()
    with Clock(place) as clock:
        # tar leaves the reading out if it finds that it writes to /dev/null.
        packer = subprocess.Popen(["tar", "cf", "-", "-C", place.point, "tree"], stdout=subprocess.PIPE)
        run("cat", stdin=packer.stdout)
        if packer.wait() != 0:
            raise Failed("tar fails")
    check_tree(place, path)
    return {"read-tree": place.sizes.files / clock.seconds}


def copy_tree(place):
    path = tree(place)
    place.remove("copy")
    # The tree that is copied is in the cache.
    check_tree(place, path)
    place.settle()
    took = seconds("cp", "-a", path, place.path("copy"))
    place.cold()
    check_tree(place, place.path("copy"))
    return {"copy": place.sizes.files / took}


def remove_trees(place):
    paths = [tree(place), tree(place, "copy")]
    place.settle()
    took = seconds("rm", "-rf", *paths)
    if any(os.path.lexists(path) for path in paths):
        raise Failed("not everything is removed")
    return {"remove": 2 * place.sizes.files / took}


def check_tree(place, path):
    if content.digest(path) != place.tree_digest:
        raise Failed(f"{os.path.basename(path)} is not the tree that was written")


def git_tree(place):
    if shutil.which("git") is None:
        raise Failed("git is not installed")
    copy = place.path("git")
    repository = os.path.join(place.scratch, "repository.git")
    git(place.point, "clone", "-q", "--no-checkout", "--no-hardlinks", repository, copy)
    place.settle()
    with Clock(place) as checkout:
        git(copy, "checkout", "-q", "-f", "main")
    # Entries as young as the index would be read again.
    git(copy, "status")
    place.cold()
    with Clock(place) as cold:
        clean(copy)
    with Clock(place) as warm:
        for _ in range(TIMES):
            clean(copy)
    check_tree(place, copy)
    place.remove("git")
    files = place.sizes.files
    return {"git-checkout": files / checkout.seconds, "git-status-cold": files / cold.seconds,
            "git-status": TIMES * files / warm.seconds}


def clean(copy):
    if changed := git(copy, "status", "--porcelain"):
        raise Failed(f"git finds changes: {changed.splitlines()[0]}")


def git(directory, *arguments):
    """Without whatever this machine has configured."""
    names = {"NAME": "bench", "EMAIL": "bench@localhost", "DATE": "2026-01-01T00:00:00Z"}
    environment = dict(os.environ, GIT_CONFIG_NOSYSTEM="1", GIT_CONFIG_GLOBAL="/dev/null", HOME="/nonexistent")
    for who in ("AUTHOR", "COMMITTER"):
        environment |= {f"GIT_{who}_{what}": value for what, value in names.items()}
    return run("git", "-C", directory, "-c", "gc.auto=0", "-c", "safe.directory=*", *arguments, env=environment)


def make_many(place, name, count):
    """Empty files, in one directory unless there are too many for that to be fair: 100 000 to a directory."""
    for i in range(count):
        directory = place.path(os.path.join(name, f"d{i // 100_000}"))
        if i % 100_000 == 0:
            os.makedirs(directory)
        os.close(os.open(os.path.join(directory, f"file-{i}"), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))


def create_many(place):
    place.remove("many")
    place.settle()
    with Clock(place) as clock:
        make_many(place, "many", place.sizes.many)
    return {"many-create": place.sizes.many / clock.seconds}


def walk_many(place):
    ensure_many(place)
    directory = place.path("many/d0")
    place.cold()
    with Clock(place) as listing:
        names = os.listdir(directory)
    expect(len(names), place.sizes.many)
    place.cold()
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    with Clock(place) as stats:
        for name in names:
            os.stat(name, dir_fd=handle)
    os.close(handle)
    return {"many-list": len(names) / listing.seconds, "many-stat": len(names) / stats.seconds}


def ensure_many(place):
    if not os.path.exists(place.path("many")):
        make_many(place, "many", place.sizes.many)


def remove_many(place):
    ensure_many(place)
    place.settle()
    with Clock(place) as clock:
        place.remove("many")
    expect(os.path.lexists(place.path("many")), False)
    return {"many-remove": place.sizes.many / clock.seconds}


def known_directory(place):
    """Where the files lie whose inodes are to be known, made if need be."""
    if place.sizes.inodes == place.sizes.many:
        ensure_many(place)
        return place.path("many")
    if not os.path.exists(place.path("known")):
        make_many(place, "known", place.sizes.inodes)
    return place.path("known")


def memory_of_inodes(place):
    """On a mount that has just begun: what it holds more once the kernel knows the inodes."""
    if place.pid is None:
        return {}
    directory = known_directory(place)
    idle = idle_bytes(place)
    known = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            os.stat(os.path.join(parent, name))
        known += len(names)
    expect(known, place.sizes.inodes)
    more = machine.resident_bytes(place.pid) - idle
    place.remove("known")
    return {"memory-inode": more / known}


def expect(found, right):
    if found != right:
        raise Failed(f"{found} where {right} is right")

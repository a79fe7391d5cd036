"""What is measured: rows of the result, and the steps that fill them."""

import dataclasses
import typing

from . import rows_commits, rows_daemon, rows_data, rows_tree


@dataclasses.dataclass(frozen=True)
class Row:
    key: str
    title: str
    unit: str
    # What AES-256-GCM is to reach, as a ratio to gocryptfs.
    goal: float | None = None
    more_is_better: bool = True


@dataclasses.dataclass(frozen=True)
class Step:
    """One function that fills some rows. It works in a process of its own, on a mount that other steps have used."""

    run: typing.Callable
    rows: tuple
    # On a mount that has just begun; `before` prepares on the mount before it.
    fresh: bool = False
    before: typing.Callable | None = None


@dataclasses.dataclass(frozen=True)
class Group:
    """Steps in a row on one file system, then the same on the next: what one leaves behind the next may use."""

    name: str
    steps: tuple


def less(key, title, unit):
    return Row(key, title, unit, more_is_better=False)


GROUPS = (
    Group("daemon", (
        Step(rows_daemon.mounted, (less("mount", "time to mount", "ms"),
                                   less("memory-idle", "memory of the daemon, idle", "MiB")), fresh=True),
    )),
    Group("data", (
        Step(rows_data.sequential_write, (Row("write", "sequential write 1 MiB, fsync", "MB/s", 2.0),
                                          less("write-cpu", "processor time of the daemon, written", "s/GiB"))),
        Step(rows_data.sequential_read, (Row("read-cold", "sequential read, cold", "MB/s", 1.6),
                                         Row("read-warm", "sequential read, warm", "MB/s", 2.2),
                                         less("read-cpu", "processor time of the daemon, read", "s/GiB"))),
        Step(rows_data.mapped_read, (Row("read-mmap", "mmap read, cold", "MB/s"),)),
        Step(rows_data.random_read, (Row("random-read", "random read 4 KiB, cold", "MB/s", 1.5),)),
        Step(rows_data.deep_read, (Row("random-read-deep", "random read 16 KiB, 8 threads, cold", "MB/s"),)),
        Step(rows_data.random_write, (Row("random-write", "random write 4 KiB, fsync at the end", "MB/s", 4.0),)),
        Step(rows_data.deep_write, (Row("random-write-deep", "random write 16 KiB, 8 threads, fsync", "MB/s"),)),
        Step(rows_data.overwrite, (Row("overwrite", "overwriting 1 MiB, fsync", "MB/s"),)),
        Step(rows_data.parallel_write, (Row("write-4", "four writers, fsync", "MB/s"),)),
        Step(rows_data.parallel_read, (Row("read-2", "two readers, cold", "MB/s", 1.8),
                                       Row("read-4", "four readers, cold", "MB/s"))),
        Step(rows_data.small_write, (Row("write-4k", "sequential write 4 KiB", "MB/s", 8.0),)),
        Step(rows_data.tiny_write, (Row("write-512", "dd of 512 bytes a write", "MB/s"),)),
    )),
    Group("tree", (
        Step(rows_tree.untar, (Row("untar", "untar of small files", "files/s", 1.5),)),
        Step(rows_tree.stat_tree, (Row("stat", "stat of the tree, cold", "files/s", 1.6),
                                   Row("ls", "ls -lR of the tree, warm", "files/s"))),
        Step(rows_tree.read_tree, (Row("read-tree", "read of the tree, cold", "files/s", 1.3),)),
        Step(rows_tree.copy_tree, (Row("copy", "cp -a of the tree", "files/s", 2.0),)),
        Step(rows_tree.remove_trees, (Row("remove", "rm -rf of two trees", "files/s", 1.5),)),
        Step(rows_tree.git_tree, (Row("git-checkout", "git checkout of the tree", "files/s"),
                                  Row("git-status-cold", "git status, cold", "files/s"),
                                  Row("git-status", "git status, warm", "files/s"))),
    )),
    Group("commits", (
        Step(rows_commits.append, (Row("append", "appending 4 KiB, fsync each", "1/s"),)),
        Step(rows_commits.sqlite_rollback, (Row("sqlite-rollback", "sqlite commits, rollback journal", "1/s", 2.0),)),
        Step(rows_commits.sqlite_wal, (Row("sqlite-wal", "sqlite commits, WAL", "1/s"),)),
    )),
    Group("many", (
        Step(rows_tree.create_many, (Row("many-create", "one large directory: create", "files/s"),)),
        Step(rows_tree.walk_many, (Row("many-list", "one large directory: list, cold", "files/s"),
                                   Row("many-stat", "one large directory: stat each, cold", "files/s"))),
        Step(rows_tree.memory_of_inodes, (less("memory-inode", "memory of the daemon for a known inode", "bytes"),),
             fresh=True, before=rows_tree.known_directory),
        Step(rows_tree.remove_many, (Row("many-remove", "one large directory: remove", "files/s"),)),
    )),
)

STEPS = [step for group in GROUPS for step in group.steps]
ROWS = [row for step in STEPS for row in step.rows]

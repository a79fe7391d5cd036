"""Steps that wait for the disk after little data."""

import os
import sqlite3

from . import content
from .machine import Failed
from .place import Clock


def append(place):
    path, block = place.path("log"), 4096
    size = place.sizes.appends * block
    place.settle()
    with Clock(place) as clock:
        content.write(path, size, block, 0, flags=os.O_CREAT | os.O_APPEND, sync_each=True)
    place.cold()
    content.check(path, size, 0)
    place.remove("log")
    return {"append": place.sizes.appends / clock.seconds}


def sqlite_rollback(place):
    return {"sqlite-rollback": commits(place, "delete")}


def sqlite_wal(place):
    return {"sqlite-wal": commits(place, "wal")}


def commits(place, journal):
    """Commits a second, each of which is on disk before the next begins."""
    path = place.path("database")
    count = place.sizes.commits
    place.settle()
    database = sqlite3.connect(path, isolation_level=None)
    mode = database.execute(f"pragma journal_mode={journal}").fetchone()[0]
    if mode != journal:
        raise Failed(f"sqlite has journal mode {mode} instead")
    database.execute("pragma synchronous=full")
    database.execute("create table t (k integer primary key, v text)")
    with Clock(place) as clock:
        for i in range(count):
            database.execute("insert or replace into t values (?, hex(randomblob(400)))", (i % 200,))
    database.close()
    place.cold()
    database = sqlite3.connect(path)
    rows = database.execute("select count(*) from t").fetchone()[0]
    health = database.execute("pragma integrity_check").fetchone()[0]
    database.close()
    if rows != min(count, 200) or health != "ok":
        raise Failed(f"the database has {rows} rows and is {health}")
    for name in os.listdir(place.point):
        if name.startswith("database"):
            place.remove(name)
    return count / clock.seconds

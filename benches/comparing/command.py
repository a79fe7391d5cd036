"""Arguments, and what is done in which order."""

import argparse
import dataclasses
import json
import os
import re
import signal
import sys
import time

from . import chart, machine, mounts, report, selftest
from .machine import Failed
from .place import Sizes
from .rows import GROUPS, ROWS
from .run import Run

BACKINGS = ["/dev/shm", "/var/tmp"]


def main(arguments, about):
    options = parse(arguments, about)
    if options.self_test:
        return selftest.run_all()
    if options.list:
        print(listing(), end="")
        return 0
    try:
        whole = read_again(options.again) if options.again else measure(options)
    except Failed as error:
        print(f"compare: {error}", file=sys.stderr)
        return 1
    give(whole, options)
    return 0


def parse(arguments, about):
    parser = argparse.ArgumentParser(prog="benches/compare", description=about)
    add = parser.add_argument
    add("--backing", metavar="DIR", action="append",
        help=f"where the data lies; may be given again; default: {' and then '.join(BACKINGS)}")
    add("--rounds", metavar="N", type=int, default=3, help="default: 3")
    add("--quick", action="store_true", help="less of everything: to see that it works, not to compare")
    add("--heavy", action="store_true", help="memory with a million known inodes instead of 100 000")
    add("--rows", metavar="REGEX", default="", help="only rows whose name or title matches (see --list)")
    add("--only", metavar="FS,FS", type=names, help=f"only these of {', '.join(mounts.NAMES)}")
    add("--with", metavar="FS", dest="more", type=names, default=[],
        help=f"also these; there are {', '.join(mounts.OPTIONAL)} and short names without kmsfs-")
    add("--timeout", metavar="SECONDS", type=int, default=600, help="for one step on one file system; default: 600")
    add("--no-install", action="store_true", help="leave out what is missing")
    add("--kmsfs", metavar="FILE", default=os.environ.get("KMSFS"),
        help="the binary; default: $KMSFS, or the release build, which is made first")
    add("--json", metavar="FILE", help="every value")
    add("--markdown", metavar="FILE")
    add("--svg", metavar="FILE", help="the ratios as a chart")
    add("--from", metavar="FILE", dest="again", help="measure nothing: report again from what --json has written")
    add("--list", action="store_true", help="which rows there are")
    add("--self-test", action="store_true", help="test what reports, and measure nothing")
    options = parser.parse_args(arguments)
    try:
        re.compile(options.rows)
    except re.error as error:
        parser.error(f"--rows: {error}")
    if options.rounds < 1:
        parser.error("--rounds: at least one")
    return options


def names(text):
    """File systems by name; kmsfs's own also without the kmsfs-."""
    found = []
    for name in text.split(","):
        if name not in mounts.NAMES and f"kmsfs-{name}" in mounts.NAMES:
            name = f"kmsfs-{name}"
        if name not in mounts.NAMES:
            raise argparse.ArgumentTypeError(f"no {name}: there are {', '.join(mounts.NAMES)}")
        found.append(name)
    return found


def listing():
    lines = []
    for group in GROUPS:
        for row in (row for step in group.steps for row in step.rows):
            goal = f"  (goal {row.goal:g})" if row.goal else ""
            lines.append(f"{row.key:20} {row.title}, {row.unit}{goal}")
    return "\n".join(lines) + "\n"


def measure(options):
    if os.geteuid() != 0:
        raise Failed("root is needed: caches are dropped, and file systems mounted")
    if not os.path.exists("/dev/fuse"):
        raise Failed("there is no /dev/fuse")
    # Ends in order: everything is unmounted and removed.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    machine.install_packages(say, not options.no_install)
    chosen = options.only or [name for name in mounts.NAMES if name not in mounts.OPTIONAL]
    chosen += [name for name in options.more if name not in chosen]
    backings = options.backing or [directory for directory in BACKINGS if os.path.isdir(directory)]
    if absent := [directory for directory in backings if not os.path.isdir(directory)]:
        raise Failed(f"no directory: {absent[0]}")
    sizes = Sizes.quick() if options.quick else Sizes()
    if options.heavy:
        sizes = dataclasses.replace(sizes, inodes=1_000_000)
    start = time.monotonic()
    header = machine.facts()
    with Run(sizes, chosen, wanted(options.rows), options.timeout, say, options.kmsfs) as run:
        header |= {"versions": run.tools.versions(), "rounds": options.rounds, "sizes": sizes.facts()}
        results = [run.measure(backing, options.rounds) for backing in backings]
    header["minutes"] = round((time.monotonic() - start) / 60, 1)
    return report.document(header, results)


def wanted(pattern):
    keys = {row.key for row in ROWS if re.search(pattern, row.key) or re.search(pattern, row.title)}
    if not keys:
        raise Failed("no such row: see --list")
    return lambda row: row.key in keys


def stop(number, frame):
    for again in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(again, signal.SIG_IGN)
    say("ends early: unmounting")
    raise SystemExit(128 + number)


def read_again(path):
    try:
        with open(path) as file:
            return json.load(file)
    except (OSError, ValueError) as error:
        raise Failed(f"{path}: {error}") from None


def give(whole, options):
    # First the files: what was measured for an hour does not depend on a terminal.
    for path, text in [(options.json, report.to_json), (options.markdown, report.to_markdown),
                       (options.svg, chart.to_svg)]:
        if path:
            with open(path, "w") as file:
                file.write(text(whole))
    print(report.to_text(whole), end="")


def say(what):
    print(what, file=sys.stderr, flush=True)

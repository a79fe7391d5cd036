"""Tests of the rooms that measure nothing: report, chart, content, the table of rows, and the process that measures."""

import json
import os
import re
import tempfile
import time
import unittest
import xml.etree.ElementTree

from . import chart, command, content, machine, report, run
from .machine import Failed
from .rows import GROUPS, ROWS


def row(values, more=True, goal=None, errors=None, key="one"):
    return {"key": key, "title": "a row | of two", "unit": "MB/s", "goal": goal, "more is better": more,
            "values": values, "errors": errors or {}}


def whole(*rows, systems=("kmsfs", "gocryptfs", "raw")):
    return {"header": {"cores": 2, "cpu": "A <fast> & small one", "rounds": 3, "versions": {"fio": "3"}},
            "backings": [{"backing": "b", "file system": "tmpfs", "systems": {name: "about" for name in systems},
                          "left out": {"securefs": "not installed"}, "rows": list(rows)}] * 2}


class Reports(unittest.TestCase):
    def test_median_spread_and_ratio(self):
        one = row({"kmsfs": [30, 10, 20], "gocryptfs": [10, 10, 11, 9]})
        self.assertEqual(report.median(one, "kmsfs"), 20)
        self.assertEqual(report.spread(one, "kmsfs"), (10, 30))
        self.assertEqual(report.ratio(one, "kmsfs", "gocryptfs"), 2)
        self.assertIsNone(report.ratio(one, "raw", "gocryptfs"))

    def test_where_less_is_better_the_ratio_is_turned_round(self):
        self.assertEqual(report.ratio(row({"kmsfs": [5], "gocryptfs": [10]}, more=False), "kmsfs", "gocryptfs"), 2)
        self.assertIsNone(report.ratio(row({"kmsfs": [0], "gocryptfs": [10]}, more=False), "kmsfs", "gocryptfs"))

    def test_without_gocryptfs_the_first_is_the_base(self):
        alone = whole(row({"kmsfs": [15], "raw": [10]}, goal=2.0), systems=("raw", "kmsfs"))["backings"][0]
        self.assertEqual(report.base_of(alone), "raw")
        self.assertEqual(report.tables(alone)[0][1], ["a row | of two", "1.00", "1.50", ""])

    def test_rows_below_their_goal_or_below_the_base(self):
        rows = [row({"kmsfs": [15], "gocryptfs": [10]}, goal=2.0), row({"kmsfs": [15], "gocryptfs": [10]}),
                row({"kmsfs": [9], "gocryptfs": [10]}), row({"gocryptfs": [10]}, goal=2.0)]
        self.assertEqual([found[1:] for found in report.below(whole(*rows)["backings"][0])], [(1.5, 2.0), (0.9, 1.0)])

    def test_an_error_is_in_the_table_and_named(self):
        failed = whole(row({"gocryptfs": [10]}, errors={"kmsfs": ["not done", "not done"]}))
        self.assertEqual(report.ratio_cell(failed["backings"][0]["rows"][0], "kmsfs", "gocryptfs"), "error")
        self.assertEqual(report.to_text(failed).count("kmsfs: not done"), 2)

    def test_markdown_has_as_many_cells_in_each_line(self):
        text = report.to_markdown(whole(row({"kmsfs": [15.5], "gocryptfs": [10]}, goal=2.0)))
        for table in re.findall(r"(?:^\|.*\n)+", text, re.M):
            counts = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
            self.assertEqual(len(counts), 1, table)
        self.assertIn("| a row \\| of two | 1.55 | 1.00 | – | ≥ 2 |", text)

    def test_json_can_be_reported_again(self):
        once = whole(row({"kmsfs": [15], "gocryptfs": [10]}))
        again = json.loads(report.to_json(once))
        self.assertEqual(again["backings"][0]["rows"][0]["ratios"]["kmsfs"], 1.5)
        self.assertEqual(report.to_text(again), report.to_text(once))


class Charts(unittest.TestCase):
    def test_svg_is_well_formed_and_has_a_bar_for_each_value(self):
        drawn = chart.to_svg(whole(row({"kmsfs": [15], "gocryptfs": [10], "raw": [900]}, goal=2.0),
                                   row({"gocryptfs": [10]}, errors={"kmsfs": ["no"]}, key="other")))
        root = xml.etree.ElementTree.fromstring(drawn)
        bars = [bar for bar in root.iter("{http://www.w3.org/2000/svg}rect") if len(bar)]
        self.assertEqual([bar.get("class") for bar in bars], ["kmsfs", "raw"] * 2)
        self.assertIn("prefers-color-scheme: dark", drawn)

    def test_the_axis_is_logarithmic_and_holds_everything(self):
        self.assertAlmostEqual(chart.place_on(10, 1, 100), 0.5)
        self.assertEqual(chart.bounds(whole(row({"kmsfs": [0.02], "gocryptfs": [1], "raw": [25]}))), (0.01, 100))
        self.assertEqual(chart.ticks(0.5, 10), [0.5, 1, 2, 5, 10])


class Contents(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory(prefix="kmsfs-compare.")
        self.addCleanup(self.directory.cleanup)
        self.path = os.path.join(self.directory.name, "file")

    def test_what_was_written_is_right_and_anything_else_is_not(self):
        content.write(self.path, 2 << 20, 1 << 20, 3)
        content.check(self.path, 2 << 20, 3)
        self.assertRaises(Failed, content.check, self.path, 2 << 20, 4)
        with open(self.path, "r+b") as file:
            file.seek(1_500_000)
            file.write(b"x" if content.chunk(3, 1_500_000, 1) != b"x" else b"y")
        self.assertRaises(Failed, content.check, self.path, 2 << 20, 3)

    def test_blocks_that_were_overwritten_are_where_they_should_be(self):
        content.write(self.path, 1 << 20, 4096, 3)
        with open(self.path, "r+b") as file:
            file.seek(8192)
            file.write(content.chunk(4, 8192, 4096))
        content.check(self.path, 1 << 20, 3, instead=({8192}, 4))
        self.assertRaises(Failed, content.check, self.path, 1 << 20, 3, ({8192, 12288}, 4))
        self.assertRaises(Failed, content.check, self.path, 1 << 20, 3, content.FIO_PATTERN)

    def test_blocks_differ_from_each_other(self):
        blocks = {bytes(content.chunk(0, offset, 4096)) for offset in range(0, 64 << 20, 1 << 20)}
        self.assertEqual(len(blocks), 64)

    def test_a_tree_has_one_digest(self):
        trees = [os.path.join(self.directory.name, name) for name in "ab"]
        self.assertEqual(content.make_tree(trees[0], 120), content.make_tree(trees[1], 120))
        os.unlink(os.path.join(trees[0], "d0", "e1", "file-110.txt"))
        self.assertNotEqual(content.digest(trees[0]), content.digest(trees[1]))


class Processes(unittest.TestCase):
    def test_a_value_comes_back_and_so_does_a_failure(self):
        child = machine.Child()
        self.assertEqual(child.call(lambda: {"write": 1.5}, 10), {"write": 1.5})
        with self.assertRaisesRegex(Failed, "short of air"):
            child.call(lambda: machine.run("sh", "-c", "echo short of air >&2; exit 1"), 10)

    def test_what_does_not_end_is_ended(self):
        start = time.monotonic()
        with self.assertRaisesRegex(Failed, "not done"):
            machine.Child().call(lambda: machine.run("sleep", "60"), 0.2)
        self.assertLess(time.monotonic() - start, 10)


class Tables(unittest.TestCase):
    def test_names_of_rows_are_unique(self):
        self.assertEqual(len({row.key for row in ROWS}), len(ROWS))
        self.assertEqual(len(command.listing().splitlines()), len(ROWS))
        self.assertEqual(len({group.name for group in GROUPS}), len(GROUPS))

    def test_each_file_system_is_first_in_turn(self):
        self.assertEqual([run.rotated([1, 2, 3], by)[0] for by in range(4)], [1, 2, 3, 1])

    def test_short_names(self):
        self.assertEqual(command.names("kmsfs,fast,raw"), ["kmsfs", "kmsfs-fast", "raw"])
        self.assertRaises(Exception, command.names, "cryfs")

    def test_rows_are_chosen_by_name_or_title(self):
        chosen = command.wanted("^read-cold$|rm -rf")
        self.assertEqual([row.key for row in ROWS if chosen(row)], ["read-cold", "remove"])


def run_all():
    rooms = unittest.defaultTestLoader.loadTestsFromModule(__import__(__name__, fromlist=["_"]))
    result = unittest.TextTestRunner(verbosity=1).run(rooms)
    bad = len(result.failures) + len(result.errors)
    print(f"{result.testsRun - bad} passed, {bad} failed")
    return 1 if bad else 0

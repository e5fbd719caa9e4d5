"""The report: from the file alone, every grouping and format, numbers that add up, crash safety."""

import json
import os
import re
import shutil
import sqlite3

from support import LiveTest, attach, main, run_tmtrace, start_ready
from support.case import TOTALS
from support.environment import fixture
from support.process import Process, wait_until

GROUPS = ("lineno", "filename", "traceback", "function", "module", "thread")
SIZE = r"\d[\d.]* (?:B|KiB|MiB|GiB|TiB)"
TOP_LINE = re.compile(rf"^(.+):(\d+): size={SIZE}, count=\d+, average={SIZE}$", re.M)


class ReportTest(LiveTest):
    def traced_calls(self):
        """A finished report of a fixture whose live blocks are known. The fixture and its binary are gone."""
        copy = shutil.copy(fixture("calls-O2"), self.directory())
        target = Process(self, [copy]).expect_ready()
        trace = attach(self, target.pid)
        target.send()
        ledger, live = target.json(), target.json()
        report = trace.finish_trace()
        target.finish()
        shutil.rmtree(os.path.dirname(copy))
        return report, ledger, live


class Text(ReportTest):
    def test_it_is_tracemallocs_form(self):
        report, ledger, _ = self.traced_calls()
        text = report.run()
        lines = TOP_LINE.findall(text)
        self.assertTrue(0 < len(lines) <= 10, text)
        self.assertTrue(all(line[0].endswith("calls.c") for line in lines), text)
        with open(lines[0][0]) as source:
            self.assertIn(f"    {source.readlines()[int(lines[0][1]) - 1].strip()}\n", text)
        sizes = [statistic["size"] for statistic in report.load("--group-by", "lineno")["statistics"]]
        self.assertEqual(sizes, sorted(sizes, reverse=True))

    def test_totals_are_named(self):
        report, ledger, _ = self.traced_calls()
        text = report.run().lower()
        for word in ("current", "peak", "blocks", "allocations", "frees", "before the trace", "lost"):
            self.assertIn(word, text)
        for number in ("allocations", "frees", "unknown_frees"):
            self.assertRegex(text.replace(",", ""), rf"\b{ledger[number]}\b")

    def test_the_end_of_a_trace_prints_the_same(self):
        report, _, _ = self.traced_calls()
        for line in report.run().strip().splitlines():
            self.assertIn(line, report.printed)

    def test_the_limit(self):
        report, _, _ = self.traced_calls()
        self.assertEqual(len(TOP_LINE.findall(report.run("--limit", 3))), 3)


class Groups(ReportTest):
    def test_groups_add_up_to_the_totals(self):
        report, _, _ = self.traced_calls()
        for group in GROUPS:
            with self.subTest(group):
                statistics = report.load("--group-by", group)["statistics"]
                self.assertEqual(sum(statistic["size"] for statistic in statistics), report.totals["current"])
                self.assertEqual(sum(statistic["count"] for statistic in statistics), report.totals["blocks"])
                self.assertNotEqual(report.run("--group-by", group), "")

    def test_cumulative_gives_main_everything(self):
        report, _, _ = self.traced_calls()
        # Not by filename: there each frame of a file counts, as in tracemalloc.
        for group in ("lineno", "function"):
            with self.subTest(group):
                statistics = report.load("--group-by", group, "--cumulative")["statistics"]
                self.assertEqual(max(statistic["size"] for statistic in statistics), report.totals["current"])

    def test_at_peak_holds_the_peak(self):
        report, _, _ = self.traced_calls()
        for group in GROUPS:
            with self.subTest(group):
                statistics = report.load("--group-by", group, "--at", "peak")["statistics"]
                self.assertEqual(sum(statistic["size"] for statistic in statistics), report.totals["peak"])
                self.assertEqual(sum(statistic["count"] for statistic in statistics), report.totals["peak_blocks"])

    def test_an_unknown_snapshot_names_those_that_exist(self):
        report, _, _ = self.traced_calls()
        done = run_tmtrace("report", report.path, "--at", "noon")
        self.assertEqual(done.returncode, 2)
        self.assertIn("end", done.stderr)

    def test_threads_are_told_apart(self):
        target = start_ready(self, "threads-O2", 8)
        trace = attach(self, target.pid)
        target.send()
        target.json()
        report = trace.finish_trace()
        statistics = report.load("--group-by", "thread")["statistics"]
        threads = {str(tid) for tid in os.listdir(f"/proc/{target.pid}/task")}
        named = {str(statistic.get("thread", statistic.get("tid"))) for statistic in statistics}
        self.assertTrue(named, statistics)
        self.assertTrue(all(any(tid in name for tid in threads) for name in named), (named, threads))
        target.finish()


class Json(ReportTest):
    TOTALS = {*TOTALS, "peak", "peak_blocks", "lost"}

    def test_it_is_designs_object(self):
        report, ledger, live = self.traced_calls()
        data = report.load("--group-by", "traceback")
        self.assertEqual(data["version"], 1)
        self.assertTrue({"pid", "exe", "command", "arch", "ended"} <= data["target"].keys())
        self.assertEqual(data["target"]["arch"], os.uname().machine)
        self.assertEqual(data["target"]["ended"], "detached")
        self.assertTrue(data["target"]["exe"].endswith("/calls-O2"))
        self.assertEqual(data["totals"].keys(), self.TOTALS)
        self.assertEqual(sum(statistic["count"] for statistic in data["statistics"]), len(live))
        for statistic in data["statistics"]:
            self.assertTrue({"size", "count", "domain", "traceback"} <= statistic.keys())
            for frame in statistic["traceback"]:
                self.assertTrue({"filename", "lineno", "function", "module", "offset"} <= frame.keys())

    def test_peak_is_not_less_than_current(self):
        report, ledger, _ = self.traced_calls()
        self.assertGreaterEqual(report.totals["peak"], report.totals["current"])
        self.assertEqual(report.totals["current"], ledger["current"])


class File(ReportTest):
    def test_it_is_one_sqlite_database(self):
        report, _, live = self.traced_calls()
        self.assertEqual(os.listdir(os.path.dirname(report.path)), [os.path.basename(report.path)])
        self.assertEqual(report.query("PRAGMA application_id"), [(0x746D7472,)])
        self.assertEqual(report.query("PRAGMA integrity_check"), [("ok",)])
        self.assertEqual(report.query("PRAGMA journal_mode"), [("delete",)])
        top = report.query("SELECT size, count FROM top LIMIT 1")
        self.assertEqual(top[0][0], max(size for _, size in live))

    def test_it_reads_elsewhere(self):
        # Without the target, its binaries, and from another directory: byte for byte the same.
        report, _, _ = self.traced_calls()
        moved = shutil.move(report.path, os.path.join(self.directory(), "moved.tmt"))
        first = run_tmtrace("report", moved).stdout
        self.assertEqual(first, run_tmtrace("report", os.path.relpath(moved, "/"), cwd="/").stdout)
        self.assertIn("calls.c", first)

    def test_a_reader_may_come_while_it_is_written(self):
        target = start_ready(self, "loop-O2", 2)
        trace = attach(self, target.pid)

        def has_numbers():
            try:
                return trace.report().query("SELECT count(*) FROM timeline")[0][0] > 0
            except sqlite3.OperationalError:
                return False

        wait_until(has_numbers, "a first save", 30)
        self.assertEqual(run_tmtrace("report", trace.path).returncode, 0)
        trace.finish_trace()

    def test_a_killed_tracer_leaves_what_was_saved(self):
        # The target dies with it, as with any debugger (README, limits); the file has what came before the last save.
        target = start_ready(self, "loop-O2", 2)
        trace = attach(self, target.pid)

        def is_saved():
            done = run_tmtrace("report", trace.path, "--format", "json")
            return done.returncode == 0 and json.loads(done.stdout)["totals"]["allocations"] > 0

        wait_until(is_saved, "saved", 30)
        trace.popen.kill()
        trace.wait()
        report = trace.report()
        self.assertGreater(report.totals["allocations"], 0)


del ReportTest

if __name__ == "__main__":
    main()

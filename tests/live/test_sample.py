"""A sample of the native allocations: estimates and their standard errors against a ledger of every call."""

import os
import unittest

from support import LiveTest, attach, main, run_tmtrace, start_ready
from support.environment import fixture

BUILDS = ("sampled-O0", "sampled-O2")
FUNCTIONS = {"make_small": 100000 * 101, "make_large": 20 * 1000003, "grow": 2000 * 3070}
ERRORS = 5  # standard errors that an estimate may be off: fewer than one in a million are


class Sample(LiveTest):
    def trace(self, build, mean):
        target = start_ready(self, build)
        trace = attach(self, target.pid, "--domain", "native", "--sample", mean)
        target.send()
        ledger = target.json(60)
        report = trace.finish_trace()
        target.finish()
        return report, ledger

    def by_function(self, report):
        groups = report.load("--group-by", "function", "--limit", "0")["statistics"]
        return {group["traceback"][0]["function"]: group for group in groups}

    def test_of_every_byte_nothing_is_missing(self):
        """A mean of one byte: each call is in the sample, and stands for itself."""
        for build in BUILDS:
            with self.subTest(build):
                report, ledger = self.trace(build, "1")
                keys = ("allocations", "allocated", "frees", "failed", "blocks", "current")
                for key in keys:  # what pthread_create keeps beside it
                    self.assertLessEqual(ledger[key], report.totals[key])
                    self.assertLessEqual(report.totals[key] - ledger[key], 1000)
                self.assertEqual(report.totals["size_error"], 0)
                groups = self.by_function(report)
                for function, size in FUNCTIONS.items():
                    self.assertEqual(groups[function]["size"], size)

    def test_estimates_lie_within_their_errors(self):
        for build in BUILDS:
            for mean, number in (("16K", 16 << 10), ("300000", 300000)):
                with self.subTest(build, mean=mean):
                    report, ledger = self.trace(build, mean)
                    self.assertEqual(report.json["sample"], number)
                    self.assertEqual(report.json["probe"], "pad")
                    error = report.totals["size_error"]
                    self.assertLess(abs(report.totals["current"] - ledger["current"]), ERRORS * error)
                    self.assertLess(error, (number * ledger["current"]) ** 0.5 * 2, "no worse than the process itself")
                    for function, group in self.by_function(report).items():
                        if function in FUNCTIONS:
                            self.assertLess(abs(group["size"] - FUNCTIONS[function]), ERRORS * group["size_error"] + 1)
                    self.assertEqual(report.totals["lost"], 0)
                    self.assertEqual(report.totals["unknown_frees"], 0)

    def test_most_calls_are_no_records(self):
        """The blocks that are listed are those that were seen, with their own sizes."""
        report, ledger = self.trace("sampled-O2", "300000")
        seen = report.blocks(0)
        self.assertGreater(len(seen), 20)
        self.assertLess(len(seen), ledger["allocations"] / 100)
        self.assertLessEqual({size for _, size in seen} & {101, 1000003, 3070}, {size for _, size in seen})


class Refused(LiveTest):
    def test_what_does_not_go_with_it(self):
        for options, words in ((["--probe", "breakpoint"], "pads that record"), (["--domain", "python"], "--domain python"),
                               (["--sample", "0"], "1 or more")):
            done = run_tmtrace("--sample", "1K", *options, "--", "/bin/true")
            self.assertEqual(done.returncode, 2)
            self.assertIn(words, done.stderr)

    def test_a_target_that_can_have_no_pads(self):
        """Its threads have a seccomp filter: a trace of every call would not be what was asked for."""
        target = start_ready(self, "seccomp-O2", "sandbox")
        path = os.path.join(self.directory(), "none.tmt")
        done = run_tmtrace("--sample", "1K", "--domain", "native", "-o", path, "--attach", target.pid)
        self.assertEqual(done.returncode, 2)
        self.assertIn("seccomp", done.stderr)
        self.assertFalse(os.path.exists(path))


if __name__ == "__main__":
    main()

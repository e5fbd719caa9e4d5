"""The base of all live tests, and how a test file runs."""

import os
import shutil
import tempfile
import unittest

from .environment import TMTRACE, require_ptrace
from .memory import code_of, differences

TOTALS = ("allocations", "allocated", "frees", "unknown_frees", "failed", "blocks", "current")


class LiveTest(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        if not os.access(TMTRACE, os.X_OK):
            raise AssertionError(f"no tmtrace at {TMTRACE}: set TMTRACE")
        require_ptrace()

    def directory(self):
        """A fresh directory that goes with the test; others may enter it (unprivileged users do)."""
        path = tempfile.mkdtemp(prefix="tmtrace-test-")
        self.addCleanup(shutil.rmtree, path, ignore_errors=True)
        os.chmod(path, 0o755)
        return path

    def assert_totals(self, report, ledger, keys=TOTALS):
        """The report's totals are the ledger's, to the last unit, and nothing was lost."""
        self.assertEqual({key: report.totals[key] for key in keys}, {key: ledger[key] for key in keys})
        self.assertEqual(report.totals["lost"], 0)

    def assert_live(self, report, blocks, smallest=10007):
        """Of the large blocks exactly these are live: [[address, size], ...]."""
        self.assertEqual(report.blocks(smallest), {tuple(block) for block in blocks if block[1] >= smallest})

    def assert_code_unchanged(self, pid, before):
        self.assertEqual(differences(before, code_of(pid)), [])

    def assert_untraced(self, pid):
        with open(f"/proc/{pid}/status") as status:
            self.assertIn("TracerPid:\t0\n", status.read())


class CountingResult(unittest.TextTestResult):
    """Counts what passed, which unittest does not."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.passed = 0

    def addSuccess(self, test):
        super().addSuccess(test)
        self.passed += 1


def main():
    """Runs the script's tests; the last line is what tests/summary.py adds up."""
    runner = unittest.TextTestRunner(resultclass=CountingResult, verbosity=2)
    result = unittest.main(module="__main__", exit=False, testRunner=runner).result
    failed = len(result.failures) + len(result.errors) + len(result.unexpectedSuccesses)
    print(f"{result.passed} passed, {failed} failed, {len(result.skipped)} skipped", flush=True)
    raise SystemExit(1 if failed or not result.passed + len(result.skipped) else 0)

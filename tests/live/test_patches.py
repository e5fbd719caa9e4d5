"""Functions that are patched (one stop behind the call): what may happen while a thread is inside one."""

import os
import platform
import unittest

from support import LiveTest, attach, code_of, main, run_tmtrace, start_ready
from support.environment import fixture

BUILDS = ("inside-O0", "inside-O2")


@unittest.skipUnless(platform.machine() == "x86_64", "no function is patched on other machines yet")
class Inside(LiveTest):
    def check(self, mode):
        """The fixture's ledger is the report's; gives the report of each build."""
        reports = []
        for build in BUILDS:
            with self.subTest(build):
                target = start_ready(self, build, mode)
                before = code_of(target.pid)
                trace = attach(self, target.pid)
                self.assertTrue(self.is_patched(target.pid, before), "malloc begins with a jump")
                target.send()
                ledger = target.json(60)
                reports.append(trace.finish_trace())
                self.assert_totals(reports[-1], ledger)
                self.assert_code_unchanged(target.pid, before)
                target.finish()
        return reports

    @staticmethod
    def is_patched(pid, before):
        """Some byte of the program's own code has become the opcode of a jump."""
        now = code_of(pid)
        program = os.readlink(f"/proc/{pid}/exe")
        return any(new == 0xE9 != old
                   for key in before if key[1] == program for old, new in zip(before[key], now[key]))

    def test_a_profilers_walk(self):
        self.check("backtrace")

    def test_fork(self):
        self.check("fork")

    def test_cancellation_runs_the_cleanup_handlers(self):
        self.check("cancel")

    def test_traceback_of_a_handlers_block_passes_the_pad(self):
        for report in self.check("handler"):
            functions = [frame["function"] for frame in report.traceback_of(10009)]
            order = ["call_malloc", "allocate_in_handler", "raise_signal", "malloc", "call_malloc", "interrupted",
                     "main"]
            found = [name for name in functions if name in order]
            self.assertEqual(found, order, functions)
            self.assertEqual([frame for frame in report.traceback_of(10009) if not frame["module"]], [],
                             "no frame is the pad's")
            self.assertEqual(report.query("SELECT count(*) FROM traceback WHERE cut <> ''"), [(0,)])

    def test_detach_while_a_thread_is_inside(self):
        for build in BUILDS:
            with self.subTest(build):
                target = start_ready(self, build, "wait")
                before = code_of(target.pid)
                trace = attach(self, target.pid)
                target.send()
                self.assertEqual(target.line(), "inside")
                self.assertEqual(trace.finish_trace().totals["allocations"], 0)
                self.assert_code_unchanged(target.pid, before)
                target.send()  # it returns through the pad, of which nobody knows any more
                self.assertEqual(target.line(), "outside")
                target.send()
                target.json()
                target.finish()

    def test_a_call_that_outlives_one_trace_belongs_to_the_next(self):
        for build in BUILDS:
            with self.subTest(build):
                target = start_ready(self, build, "wait")
                before = code_of(target.pid)
                trace = attach(self, target.pid)
                target.send()
                self.assertEqual(target.line(), "inside")
                trace.finish_trace()
                trace = attach(self, target.pid)
                target.send()
                self.assertEqual(target.line(), "outside")
                target.send()
                ledger = target.json()
                report = trace.finish_trace()
                self.assert_totals(report, ledger)
                self.assertEqual(report.traceback_of(10007)[0]["function"], "call_malloc")
                self.assert_code_unchanged(target.pid, before)
                target.finish()


@unittest.skipUnless(platform.machine() == "x86_64", "no function is patched on other machines yet")
class Hidden(LiveTest):
    """A signal frame leads back into the bytes that a jump would replace."""

    def check(self, mode):
        for build in BUILDS:
            with self.subTest(build):
                target = start_ready(self, build, mode)
                before = code_of(target.pid)
                trace = attach(self, target.pid, "-v")
                target.send()
                ledger = target.json(60)
                report = trace.finish_trace()
                self.assertRegex(report.printed,
                                 r" malloc at 0x\w+ in \S+inside\S+ keeps breakpoints: a signal handler will return")
                self.assert_totals(report, ledger)
                self.assert_code_unchanged(target.pid, before)
                trace = attach(self, target.pid, "-v")  # the handler has returned meanwhile
                self.assertNotRegex(trace.finish_trace().printed, r" malloc at \S+ in \S+inside\S+ keeps")
                target.finish()

    def test_on_the_threads_own_stack(self):
        self.check("first-bytes")

    def test_on_an_alternate_stack(self):
        self.check("first-bytes-altstack")


@unittest.skipUnless(platform.machine() == "x86_64", "no function is patched on other machines yet")
class Which(LiveTest):
    def test_functions_that_are_not_patched_are_told_with_the_reason(self):
        done = run_tmtrace("-v", "--probe", "breakpoint", "-o", os.path.join(self.directory(), "report.tmt"), "--", fixture("pairs"), 5, 10)
        self.assertRegex(done.stderr, r"realloc at 0x\w+ in \S+ keeps breakpoints: it has an event at its entry")
        self.assertNotRegex(done.stderr, r" malloc at 0x\w+ in \S+ keeps breakpoints")


if __name__ == "__main__":
    main()

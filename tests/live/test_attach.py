"""Attaching to a running program, letting go of it, and how a trace ends: the program is as it was."""

import os
import shutil
import signal
import subprocess
import time

from support import LONG, LiveTest, attach, code_of, main, run_tmtrace, start_ready
from support.environment import TMTRACE, bound, fixture
from support.process import Process, status_field, wait_until

CYCLES = 2000 if LONG else 8


class Cycles(LiveTest):
    def check(self, build, *arguments, cycles=CYCLES):
        """The target checks every block that it owns, all the while."""
        target = start_ready(self, build, *arguments)
        before = code_of(target.pid)
        for _ in range(cycles):
            trace = attach(self, target.pid, "--force", path=os.path.join(self.here, "cycle.tmt"))
            target.send(b"n")
            target.json()
            report = trace.finish_trace()
            self.assertGreater(report.totals["allocations"], 50)
            self.assertEqual(report.totals["lost"], 0)
            self.assert_untraced(target.pid)
            self.assert_code_unchanged(target.pid, before)
        target.send()
        told = target.json()
        self.assertEqual(told["corrupt"], 0)
        self.assertEqual(target.wait(), 0)

    def setUp(self):
        self.here = self.directory()

    def test_one_thread(self):
        self.check("loop-O2", 1)

    def test_eight_threads(self):
        self.check("loop-O2", 8)

    def test_frame_pointer_build(self):
        self.check("loop-O0", 4, cycles=3)

    def test_pads_are_reused_by_the_next_attach(self):
        # What stays mapped in the target after a detach does not grow with the number of attaches.
        target = start_ready(self, "loop-O2", 2)
        counts = []
        for _ in range(100 if LONG else 12):
            trace = attach(self, target.pid, "--force", path=os.path.join(self.here, "pads.tmt"))
            target.send(b"n")
            target.json()
            trace.finish_trace()
            with open(f"/proc/{target.pid}/maps") as maps:
                counts.append(sum("x" in line.split()[1] for line in maps))
        half = len(counts) // 2
        self.assertLessEqual(max(counts[half:]), max(counts[:half]), f"executable mappings: {counts}")
        target.send()
        self.assertEqual(target.wait(), 0)


class Ends(LiveTest):
    """Each end restores the code, saves the report and prints it."""

    def check(self, number, ended="detached", options=(), seconds=60):
        target = start_ready(self, "loop-O2", 4)
        before = code_of(target.pid)
        trace = attach(self, target.pid, *options)
        target.send(b"n")
        target.json()
        report = trace.finish_trace(number, seconds)
        self.assert_untraced(target.pid)
        self.assert_code_unchanged(target.pid, before)
        self.assertEqual(report.json["target"]["ended"], ended)
        self.assertIn("loop.c:", report.printed)
        target.send()
        self.assertEqual(target.json()["corrupt"], 0)
        self.assertEqual(target.wait(), 0)

    def test_ctrl_c(self):
        self.check(signal.SIGINT)

    def test_sigterm(self):
        self.check(signal.SIGTERM)

    def test_sighup(self):
        self.check(signal.SIGHUP)

    def test_duration(self):
        begin = time.monotonic()
        self.check(None, options=["--duration", "0.5"])
        self.assertGreaterEqual(time.monotonic() - begin, 0.5)

    def test_exit_of_the_target(self):
        target = start_ready(self, "loop-O2", 4)
        trace = attach(self, target.pid)
        target.send()
        self.assertEqual(target.wait(), 0)
        report = trace.finish_trace(None)
        self.assertEqual(report.json["target"]["ended"], "exited")

    def test_sigkill_of_the_target(self):
        # Everything up to that moment is in the report: the fixture's ledger stood complete.
        for build in ("calls-O0", "calls-O2"):
            with self.subTest(build):
                target = start_ready(self, build)
                trace = attach(self, target.pid)
                target.send()
                ledger, live = target.json(), target.json()
                target.signal(signal.SIGKILL)
                report = trace.finish_trace(None)
                self.assertEqual(report.json["target"]["ended"], "killed")
                self.assert_totals(report, ledger)
                self.assert_live(report, live)
                self.assertEqual(report.traceback_of(10007)[0]["function"], "plain")

    def test_sigkill_at_any_moment(self):
        for attempt in range(200 if LONG else 6):
            target = start_ready(self, "loop-O2", 8)
            trace = attach(self, target.pid)
            os.sched_yield()
            target.signal(signal.SIGKILL)
            report = trace.finish_trace(None)
            self.assertEqual(report.json["target"]["ended"], "killed")
            self.assertEqual(report.totals["lost"], 0)

    def test_sigkill_of_a_program_whose_files_are_gone(self):
        # Modules were opened when they were found: names are there without target, binary and directory.
        directory = self.directory()
        copy = shutil.copy(fixture("calls-O2"), directory)
        target = Process(self, [copy]).expect_ready()
        trace = attach(self, target.pid)
        target.send()
        target.json()
        os.unlink(copy)
        target.signal(signal.SIGKILL)
        report = trace.finish_trace(None)
        frame = report.traceback_of(10007)[0]
        self.assertEqual((frame["function"], os.path.basename(frame["filename"])), ("plain", "calls.c"))

    def test_attach_to_a_deleted_executable(self):
        directory = self.directory()
        copy = shutil.copy(fixture("calls-O2"), directory)
        target = Process(self, [copy]).expect_ready()
        os.unlink(copy)
        trace = attach(self, target.pid)
        target.send()
        ledger, _ = target.json(), target.json()
        report = trace.finish_trace()
        self.assert_totals(report, ledger)
        self.assertEqual(report.traceback_of(10007)[0]["function"], "plain")
        target.finish()


class Stopped(LiveTest):
    """Group stops work as without us. The test is the target's parent: the kernel tells it of stops."""

    def wait_stopped(self, target):
        wait_until(lambda: self.stopped_by(target.pid) == signal.SIGSTOP, "stopped")

    @staticmethod
    def stopped_by(pid):
        got, status = os.waitpid(pid, os.WUNTRACED | os.WNOHANG)
        return os.WSTOPSIG(status) if got and os.WIFSTOPPED(status) else None

    def test_a_stopped_target_stays_stopped(self):
        target = start_ready(self, "loop-O2", 4)
        before = code_of(target.pid)
        target.signal(signal.SIGSTOP)
        self.wait_stopped(target)
        attach(self, target.pid).finish_trace()
        wait_until(lambda: status_field(target.pid, "State")[0] == "T", "in group stop again")
        self.assert_untraced(target.pid)
        self.assert_code_unchanged(target.pid, before)
        target.signal(signal.SIGCONT)
        target.send()
        self.assertEqual(target.json()["corrupt"], 0)
        self.assertEqual(target.wait(), 0)

    def test_a_stopped_target_is_traced_when_it_goes_on(self):
        target = start_ready(self, "calls-O2")
        target.signal(signal.SIGSTOP)
        self.wait_stopped(target)
        trace = attach(self, target.pid)
        target.send()
        target.signal(signal.SIGCONT)
        ledger, _ = target.json(), target.json()
        self.assert_totals(trace.finish_trace(), ledger)
        target.finish()

    def test_stop_and_continue_while_traced(self):
        target = start_ready(self, "threads-O2", 8, 4000)
        trace = attach(self, target.pid)
        target.send()
        for _ in range(3):
            target.signal(signal.SIGSTOP)
            self.wait_stopped(target)
            target.signal(signal.SIGCONT)
        ledger = target.json(120)
        self.assert_totals(trace.finish_trace(), ledger)
        target.finish()

    def test_detach_while_stopped_leaves_it_stopped(self):
        target = start_ready(self, "loop-O2", 4)
        trace = attach(self, target.pid)
        target.signal(signal.SIGSTOP)
        self.wait_stopped(target)
        trace.finish_trace()
        wait_until(lambda: status_field(target.pid, "State")[0] == "T", "in group stop")
        target.signal(signal.SIGCONT)
        target.send()
        self.assertEqual(target.wait(), 0)


class Command(LiveTest):
    def test_the_default_report_is_named_after_the_target(self):
        target = start_ready(self, "loop-O2", 1)
        directory = self.directory()
        done = run_tmtrace("--attach", target.pid, "--duration", "0.1", cwd=directory)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(os.listdir(directory), [f"tmtrace.loop-O2.{target.pid}.tmt"])
        self.assertEqual(os.stat(os.path.join(directory, os.listdir(directory)[0])).st_mode & 0o777, 0o600)

    def test_the_default_name_of_a_strange_comm_is_clean(self):
        directory = self.directory()
        strange = shutil.copy(fixture("loop-O2"), os.path.join(directory, "a b;\n$(x)"))
        target = Process(self, [strange]).expect_ready()
        output = self.directory()
        done = run_tmtrace("--attach", target.pid, "--duration", "0.1", cwd=output)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(os.listdir(output)[0], r"^tmtrace\.[A-Za-z0-9_.+-]+\.\d+\.tmt$")

    def test_quiet_prints_nothing(self):
        target = start_ready(self, "loop-O2", 1)
        path = os.path.join(self.directory(), "q.tmt")
        done = run_tmtrace("--attach", target.pid, "--duration", "0.1", "--quiet", "-o", path)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))

    def test_a_status_line_on_a_terminal_only(self):
        target = start_ready(self, "loop-O2", 2)
        path = os.path.join(self.directory(), "s.tmt")
        plain = run_tmtrace("--attach", target.pid, "--duration", "1.5", "-o", path)
        self.assertNotIn("events/s", plain.stderr)
        controller, terminal = os.openpty()
        done = subprocess.Popen([TMTRACE, "--attach", str(target.pid), "--duration", "1.5", "--force", "-o", path],
                                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=terminal)
        os.close(terminal)
        shown = b""
        try:
            while piece := os.read(controller, 65536):
                shown += piece
        except OSError:  # EIO: the terminal's other end is closed
            pass
        os.close(controller)
        self.assertEqual(done.wait(bound(30)), 0)
        self.assertRegex(shown.decode(), r"current .* peak .* blocks .*events/s")


if __name__ == "__main__":
    main()

"""Starting a command under trace: its standard streams and its exit status are its own."""

import os
import signal
import subprocess

from support import LiveTest, launch, main, run_tmtrace
from support.environment import fixture
from support.process import status_field, wait_until


class Status(LiveTest):
    def status_of(self, *command):
        return run_tmtrace("-o", os.path.join(self.directory(), "r.tmt"), "--quiet", "--", *command)

    def test_the_exit_status_is_the_commands(self):
        self.assertEqual(self.status_of("/bin/sh", "-c", "exit 7").returncode, 7)
        self.assertEqual(self.status_of("/bin/true").returncode, 0)

    def test_a_signal_is_128_and_its_number(self):
        self.assertEqual(self.status_of("/bin/sh", "-c", "kill -TERM $$").returncode, 128 + signal.SIGTERM)
        self.assertEqual(self.status_of("/bin/sh", "-c", "kill -KILL $$").returncode, 128 + signal.SIGKILL)

    def test_a_command_that_is_not_there_is_127(self):
        done = self.status_of("/nonexistent/command")
        self.assertEqual(done.returncode, 127)
        self.assertIn("/nonexistent/command", done.stderr)

    def test_a_command_that_cannot_be_executed_is_126(self):
        path = os.path.join(self.directory(), "no-program")
        with open(path, "w") as file:
            file.write("text\n")
        self.assertEqual(self.status_of(path).returncode, 126)

    def test_an_exec_failure_leaves_no_report(self):
        path = os.path.join(self.directory(), "r.tmt")
        run_tmtrace("-o", path, "--quiet", "--", "/nonexistent/command")
        self.assertFalse(os.path.exists(path))

    def test_a_command_is_found_by_path(self):
        self.assertEqual(self.status_of("true").returncode, 0)

    def test_two_dashes_may_be_left_out(self):
        done = run_tmtrace("-o", os.path.join(self.directory(), "r.tmt"), "--quiet", "/bin/echo", "-n", "--attach")
        self.assertEqual((done.returncode, done.stdout), (0, "--attach"))


class Streams(LiveTest):
    def test_standard_input_and_output_pass_untouched(self):
        data = bytes(range(256)) * 4000
        trace = launch(self, "/bin/cat", options=["--quiet"])
        trace.send(data)
        trace.popen.stdin.close()
        trace.popen.stdin = None
        trace.finish_trace(None)
        self.assertEqual(trace.out.data, data)
        self.assertEqual(trace.err.data, b"")

    def test_the_report_goes_to_standard_error(self):
        trace = launch(self, fixture("cxx-O2"), "stl")
        report = trace.finish_trace(None)
        self.assertRegex(trace.out.text(), r"^\d+\n$")
        self.assertIn("size=", trace.err.text())
        self.assertEqual(report.json["target"]["command"], [fixture("cxx-O2"), "stl"])

    def test_arguments_and_environment_pass(self):
        path = os.path.join(self.directory(), "r.tmt")
        command = ["/bin/sh", "-c", 'printf "%s|" "$X" "$@"', "sh", "a b", "", "-o"]
        done = run_tmtrace("-o", path, "--quiet", "--", *command, env={**os.environ, "X": "y z"})
        self.assertEqual(done.stdout, "y z|a b||-o|")


    def test_signal_masks_and_timer_slack_pass(self):
        command = ["/bin/sh", "-c", "exec grep -h -e SigBlk -e SigIgn -e '^[0-9]*$' /proc/self/status /proc/self/timerslack_ns"]
        mine = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        done = run_tmtrace("-o", os.path.join(self.directory(), "r.tmt"), "--quiet", "--", *command)
        self.assertIn("SigBlk", mine)
        self.assertEqual(done.stdout, mine)


class FromTheStart(LiveTest):
    def test_constructors_are_traced(self):
        # libstdc++ allocates its emergency pool before main.
        report = launch(self, fixture("cxx-O2"), "stl").finish_trace(None)
        self.assertIn(72704, {size for _, size in report.blocks()})

    def test_static_programs_are_traced(self):
        for build in ("calls-static", "calls-static-pie", "calls-musl-static"):
            with self.subTest(build):
                trace = launch(self, fixture(build))
                trace.expect_ready().send()
                ledger, live = trace.json(), trace.json()
                trace.send()
                report = trace.finish_trace(None)
                self.assertEqual(report.totals["failed"], ledger["failed"])
                self.assertTrue({tuple(block) for block in live} <= report.blocks(10007))
                self.assertEqual(report.totals["unknown_frees"], 0)

    def test_a_command_without_an_allocator_runs(self):
        trace = launch(self, fixture("bare"), options=["--quiet"])
        trace.expect_ready().send()
        report = trace.finish_trace(None)
        self.assertEqual(report.totals["allocations"], 0)

    def test_the_children_of_a_shell_run_untraced(self):
        trace = launch(self, "/bin/sh", "-c", "for i in 1 2 3; do /bin/true | cat; done; echo $(echo done)")
        trace.finish_trace(None)
        self.assertEqual(trace.out.text(), "done\n")


class Interrupts(LiveTest):
    def test_ctrl_c_is_the_commands_too(self):
        # As a terminal does it: to the whole process group. The command decides, and its end ends the trace. (A shell that waits
        # in one long read would sleep over a signal that comes right before it.)
        trace = launch(self, "/bin/sh", "-c", 'trap "echo caught; exit 5" INT; echo ready; while :; do sleep 0.05; done',
                       options=["--quiet"])
        trace.expect_ready()
        os.killpg(trace.pid, signal.SIGINT)
        trace.finish_trace(None, status=5)
        self.assertIn("caught", trace.out.text())

    def test_a_second_ctrl_c_lets_the_command_run_on(self):
        # The command ignores SIGINT; the loop would print its numbers only at a byte on stdin.
        trace = launch(self, "/bin/sh", "-c", f"trap '' INT; exec {fixture('loop-O2')} 2")
        trace.expect_ready()
        pid = trace.command_pid()
        for _ in range(2):
            os.killpg(trace.pid, signal.SIGINT)
            wait_until(lambda: not self.interrupt_is_pending(trace.pid), "taken the signal")
        report = trace.finish_trace(None, status=None, command_runs_on=True)
        self.assertEqual(report.json["target"]["ended"], "detached")
        self.assert_untraced(pid)

    @staticmethod
    def interrupt_is_pending(pid):
        try:
            return int(status_field(pid, "ShdPnd"), 16) & 1 << signal.SIGINT - 1
        except FileNotFoundError:
            return 0


if __name__ == "__main__":
    main()

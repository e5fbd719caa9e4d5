"""Pads that record: what holds while nothing stops. The interpreter survives whatever happens to tmtrace, and no event is lost."""

import os
import signal

from support import LiveTest, attach, code_of, launch, main
from support.environment import LONG
from support.process import Process, wait_until
from test_python import ENVIRONMENT, PYTHON, interpreters

RECORD = (*PYTHON, "--probe", "pad")
DEBIAN = "/usr/bin/python3"
BYTES_HEAD = 33  # of a bytes object, with its NUL
NANOSLEEP = 35  # asm/unistd_64.h

# Allocates without end until its stdin says so; then its own books must be right.
BUSY = r"""
import json, select, sys
text = json.dumps({"a": list(range(50)), "b": [{"c": "d" * i} for i in range(50)]})
print("ready", flush=True)
count = 0
while not select.select([sys.stdin], [], [], 0)[0]:
    for _ in range(200):
        assert json.loads(text)["b"][49]["c"] == "d" * 49
        count += 1
sys.stdin.readline()
print("fine", count, flush=True)
sys.stdin.readline()
"""

# Does `work` when it is told to, as often as it is told to.
COUNTED = r"""
import sys
kept = []
print("ready", flush=True)
for line in sys.stdin:
    for i in range(int(line)):
        kept.append(bytes(10007))
        bytes(10009)
    print("done", flush=True)
"""


def busy(test, script=BUSY, python=DEBIAN):
    return Process(test, [python, "-c", script], env=ENVIRONMENT).expect_ready()


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run_for(pid, seconds):
    """Until the process has worked so much."""
    until = cpu_seconds(pid) + seconds
    wait_until(lambda: cpu_seconds(pid) >= until, "the target works", 60)


class Survives(LiveTest):
    def end(self, target):
        target.send()
        self.assertRegex(target.line(), r"^fine \d+$")
        target.finish()

    def test_kill_of_tmtrace(self):
        target = busy(self)
        for i in range(200 if LONG else 12):
            trace = attach(self, target.pid, *RECORD, "--force", path=os.path.join(self.directory(), "killed.tmt"))
            run_for(target.pid, 0.01 * (i % 4))
            trace.signal(signal.SIGKILL)
            trace.wait()
            run_for(target.pid, 0.02)
        # The pads that were left are used again, and see every event.
        report = attach(self, target.pid, *RECORD).finish_trace()
        self.assertEqual(report.totals["lost"], 0)
        self.end(target)

    def test_attach_and_detach(self):
        target = busy(self)
        before = code_of(target.pid)
        tables = None
        for _ in range(300 if LONG else 50):
            attach(self, target.pid, *RECORD, "--force", path=os.path.join(self.directory(), "cycle.tmt")).finish_trace()
            pages = [line for line in open(f"/proc/{target.pid}/maps") if "memfd" in line or " 00:00 0 \n" in line and "x" in line.split()[1]]
            tables = tables or pages
            self.assertEqual([p.split()[0] for p in pages], [p.split()[0] for p in tables], "one set of inert pages stays, and no ring")
        self.assert_code_unchanged(target.pid, before)
        self.end(target)

    def test_fork_and_exec_meanwhile(self):
        script = r"""
import os, subprocess, sys
print("ready", flush=True)
sys.stdin.readline()
for i in range(30):
    if os.fork() == 0:
        kept = [str(n) * 10 for n in range(2000)]
        os._exit(len(kept) // 100)
    assert os.waitstatus_to_exitcode(os.wait()[1]) == 20
    assert subprocess.run([sys.executable, "-c", "print(6 * 7)"], capture_output=True).stdout == b"42\n"
print("fine 0", flush=True)
sys.stdin.readline()
"""
        target = busy(self, script)
        trace = attach(self, target.pid, *RECORD)
        target.send()
        self.assertEqual(target.line(60), "fine 0")
        report = trace.finish_trace()
        self.assertEqual(report.totals["lost"], 0)
        target.finish()

    def test_the_tracer_is_stopped_for_a_while(self):
        """A full ring makes the interpreter wait, and nothing is lost."""
        target = Process(self, [DEBIAN, "-c", COUNTED], env=ENVIRONMENT).expect_ready()
        trace = attach(self, target.pid, *RECORD)
        trace.signal(signal.SIGSTOP)
        target.send(b"30000\n")
        wait_until(lambda: self.sleeps_in_a_pad(target.pid), "the ring full", 60)
        trace.signal(signal.SIGCONT)
        self.assertEqual(target.line(60), "done")
        report = trace.finish_trace()
        self.assertEqual(report.totals["lost"], 0)
        self.assertEqual(sum(size == 10007 + BYTES_HEAD for _, size in report.blocks(10007)), 30000)
        target.popen.stdin.close()
        self.assertEqual(target.wait(), 0)

    def sleeps_in_a_pad(self, pid):
        with open(f"/proc/{pid}/syscall") as file:
            return file.read().startswith(f"{NANOSLEEP} ")


class Sees(LiveTest):
    def test_a_program_that_ends_before_the_first_look(self):
        path = os.path.join(self.directory(), "short.py")
        with open(path, "w") as file:
            file.write("def make():\n    return bytes(100003)\nkept = make()\nimport os\nos._exit(3)\n")
        for python in interpreters():
            with self.subTest(python=python):
                trace = launch(self, python, path, options=RECORD, env=ENVIRONMENT)
                report = trace.finish_trace(None, status=3)
                held = [s for s in report.load()["statistics"] if s["size"] > 100003]
                self.assertEqual([(s["traceback"][0]["function"], s["traceback"][0]["lineno"]) for s in held], [("make", 2)])

    def test_no_breakpoint_stands_anywhere(self):
        """Two functions begin with jumps: PyTraceMalloc_Track and _Untrack."""
        target = busy(self)
        before = code_of(target.pid)
        trace = attach(self, target.pid, *RECORD)
        run_for(target.pid, 0.1)
        now = code_of(target.pid)
        changed = [(was, is_) for key in before if before[key] != now[key] for was, is_ in zip(before[key], now[key]) if was != is_]
        self.assertTrue(2 <= len(changed) <= 10, changed)
        self.assertNotIn(0xCC, [is_ for _, is_ in changed])
        trace.finish_trace()
        self.assert_code_unchanged(target.pid, before)


if __name__ == "__main__":
    main()

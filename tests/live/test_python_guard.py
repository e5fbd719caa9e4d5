"""--exact where pads record: what holds after tmtrace was killed, and that no breakpoint stands anywhere.

Up to 3.12 the flag of the target's own tracemalloc stays set then, and the functions that would act on it stay patched. The target may do
with its tracemalloc whatever it likes, fork and end; a trace that follows takes over what the one before has left.
"""

import os
import signal

from support import LiveTest, attach, code_of, main
from support.process import Process
import test_python_exact
from test_python import ENVIRONMENT, STEPS
from test_python_exact import EXACT, RECORD, RECYCLED, STOP, versions

INT3 = 0xCC
PATCHED, JUMP_SIZE = 7, 5
OFF, ON = test_python_exact.Steps.OFF, test_python_exact.Steps.ON
# More records than a ring has room for: the recorder finds out that nobody reads them.
MANY = "for i in range(40): [[j] for j in range(2000)]"
# In CPython's own words; from 3.12 on it is not exported.
FLAG = ("import ctypes; assert sys.version_info >= (3, 12) or "
        "(ctypes.c_int * 3).in_dll(ctypes.pythonapi, '_Py_tracemalloc_config')[1] == %d")


class Guard(LiveTest):
    def on_each(self, check):
        for python in versions():
            with self.subTest(python=python):
                check(python)
            self.doCleanups()

    def start(self, python, script=STEPS):
        return Process(self, [python, "-c", script], env=ENVIRONMENT).expect_ready()

    def steps(self, target, lines):
        for line in lines:
            target.send(line.encode() + b"\n")
            self.assertEqual(target.line(60), "done", line)

    def attach(self, target, *options):
        return attach(self, target.pid, *EXACT[:2], "--force", *options, path=os.path.join(self.directory(), "trace.tmt"))

    def kill_one(self, target, *steps):
        """A trace that records exactly, and is killed."""
        trace = self.attach(target, *RECORD, "--exact")
        self.steps(target, steps)
        trace.signal(signal.SIGKILL)
        trace.wait()

    def end(self, target, status=0):
        target.popen.stdin.close()
        if not status:
            self.assertEqual(target.line(), "fine")
        self.assertEqual(target.wait(), status)


class Killed(Guard):
    """What the target does next."""

    def check(self, *after, before=(), meanwhile=()):
        def check(python):
            target = self.start(python)
            self.steps(target, before)
            self.kill_one(target, *meanwhile)
            self.steps(target, after)
            self.end(target)
        self.on_each(check)

    def test_ends(self):
        self.check()

    def test_asks(self):
        self.check(*OFF, "tracemalloc.clear_traces()", *OFF)

    def test_stops_what_is_off(self):
        self.check("tracemalloc.stop()", *OFF, MANY, "tracemalloc.stop()", *OFF)

    def test_starts_and_stops(self):
        self.check("tracemalloc.start(3)", *ON, "tracemalloc.stop()", *OFF, "tracemalloc.start()", *ON)

    def test_was_on(self):
        self.check(*ON, "tracemalloc.stop()", *OFF, before=["tracemalloc.start()"])

    def test_was_switched_on(self):
        self.check(*ON, MANY, *ON, "tracemalloc.stop()", *OFF, meanwhile=["tracemalloc.start()"])

    def test_fails_to_start(self):
        self.check("exec('try: tracemalloc.start(0); assert 0\\nexcept ValueError: pass')", *OFF, MANY, "tracemalloc.stop()", *OFF)

    def test_flag_is_cleared(self):
        self.check(MANY, FLAG % 0, *OFF, MANY, "tracemalloc.stop()", meanwhile=[FLAG % 1])

    def test_memory_of_others(self):
        told = "import ctypes; assert ctypes.pythonapi.PyTraceMalloc_Track(5, ctypes.c_size_t(4096), ctypes.c_size_t(99)) == %d"
        self.check(told % -2, "tracemalloc.start()", told % 0, "tracemalloc.stop()", told % -2, MANY, told % -2)

    FORK = ("import os\npid = os.fork()\nif not pid:\n import tracemalloc\n %s\n os._exit(7)\n"
            "assert os.WEXITSTATUS(os.waitpid(pid, 0)[1]) == 7")

    def test_forks(self):
        children = ("tracemalloc.stop(); assert not tracemalloc.is_tracing()",
                    "x = [str(j) for j in range(9999)]; tracemalloc.start(); y = [[j] for j in range(2000)];"
                    " assert tracemalloc.get_traced_memory()[0] > 50000; tracemalloc.stop()",
                    "sys.exit(7)")
        self.check(*("exec(%r)" % (self.FORK % child) for child in children))

    def test_ends_without_its_tracemalloc(self):
        """Nobody has imported the module: its tables were never made."""
        script = "import sys\nprint('ready', flush=True)\nfor line in sys.stdin: print('done', flush=True)\nprint('fine', flush=True)"

        def check(python):
            target = self.start(python, script)
            self.kill_one(target, "", "")
            self.end(target)
        self.on_each(check)

    def test_ends_in_exit_handlers(self):
        for call in ("stop", "start"):
            self.check("import atexit; atexit.register(tracemalloc.%s)" % call)

    def test_threads(self):
        """Killed while threads make objects, and free them, with and without the lock."""
        script = """
import bz2, sys, threading, tracemalloc
stop = False
def work():
    while not stop:
        bz2.compress(bytes(1000)); [[i] for i in range(300)]; [{i: str(i)} for i in range(100)]
threads = [threading.Thread(target=work) for i in range(3)]
for thread in threads: thread.start()
print("ready", flush=True)
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
stop = True
for thread in threads: thread.join()
print("fine", flush=True)
"""
        def check(python):
            target = self.start(python, script)
            for _ in range(4):
                self.kill_one(target, "[[i] for i in range(1000)]")
            self.steps(target, [*OFF, "tracemalloc.start()", "[[i] for i in range(9999)]", "tracemalloc.stop()", *OFF])
            self.kill_one(target)
            self.end(target)
        self.on_each(check)


class TakenOver(Guard):
    """The traces that follow one that was killed."""

    def follow(self, python, options, *steps):
        target = self.start(python)
        before = code_of(target.pid)
        self.kill_one(target, "[[i] for i in range(100)]")
        trace = self.attach(target, *options)
        self.steps(target, [*OFF, *steps])
        self.assertGreater(trace.finish_trace().totals["allocations"], 300)
        self.assert_code_unchanged(target.pid, before)
        self.steps(target, [FLAG % 0, *OFF, "tracemalloc.stop()", "tracemalloc.start()", *ON, "tracemalloc.stop()"])
        self.assert_code_unchanged(target.pid, before)
        self.end(target)

    def test_by_any_other(self):
        for options in ((*RECORD, "--exact"), (*STOP, "--exact"), RECORD, STOP):
            for steps in ([], ["tracemalloc.start()", *ON, "tracemalloc.stop()", *OFF]):
                self.on_each(lambda python: self.follow(python, options, *steps))

    def test_lines_are_right_again(self):
        def check(python):
            path = os.path.join(self.directory(), "script.py")
            with open(path, "w") as file:
                file.write(RECYCLED)
            target = Process(self, [python, path], env=ENVIRONMENT).expect_ready()
            for _ in range(3):
                self.kill_one(target)
            trace = self.attach(target, *RECORD, "--exact")
            target.send()
            self.assertEqual(target.line(), "done")
            rows = trace.finish_trace().load()["statistics"]
            target.finish()
            self.assertGreaterEqual(sum(row["count"] for row in rows if row["traceback"] and row["traceback"][0]["lineno"] == 6), 120)
        self.on_each(check)

    def test_one_that_runs_is_left_alone(self):
        """tracemalloc was started after the kill: the flag is its own by then."""
        def check(python):
            target = self.start(python)
            self.kill_one(target)
            self.steps(target, ["tracemalloc.start()"])
            trace = self.attach(target, *RECORD, "--exact")
            self.steps(target, ON)
            trace.finish_trace()
            self.steps(target, [*ON, "tracemalloc.stop()", *OFF])
            self.end(target)
        self.on_each(check)


class NoBreakpoint(Guard):
    def test_anywhere(self):
        def check(python):
            target = self.start(python)
            before = code_of(target.pid)
            trace = self.attach(target, *RECORD, "--exact")
            self.steps(target, [""])
            now = code_of(target.pid)
            other = [key for key in before if before[key] != now[key]]
            changed = [(was, is_) for key in other for was, is_ in zip(before[key], now[key]) if was != is_]
            self.assertNotIn(INT3, [is_ for _, is_ in changed])
            self.assertTrue(2 <= len(changed) <= PATCHED * JUMP_SIZE, len(changed))
            trace.finish_trace()
            self.assert_code_unchanged(target.pid, before)
            self.end(target)
        self.on_each(check)


if __name__ == "__main__":
    main()

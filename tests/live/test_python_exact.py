"""--exact, and the life of an interpreter under it: the target must never act on a flag that tmtrace has set.

Up to 3.12 tmtrace sets the flag of the target's own tracemalloc, whose tables were never made: a stop() that acted on it, or an
interpreter that tidied up at its end, would crash. Where pads record, the guard against that is in the target, and outlives tmtrace
(test_python_guard.py).
"""

import os

from support import LiveTest, attach, launch, main, run_tmtrace
from support.process import Process, wait_until
from test_python import BUSY, ENVIRONMENT, STEPS, interpreters, writable_data, holder_of, pads_of
from support.memory import code_of

EXACT = ("--domain", "python", "--exact")
RECORD, STOP = ("--probe", "pad"), ("--probe", "breakpoint")

# Lists have a free list of 80: those of second() are made of blocks that were lists of first().
RECYCLED = """
import sys
def first():
    return [[i] for i in range(200)]
def second():
    return [[i] for i in range(60)]
print("ready", flush=True)
sys.stdin.readline()
kept = first()
kept = None
kept = second()
print("done", flush=True)
sys.stdin.readline()
"""


def versions(highest=13):
    return [python for python in interpreters() if int(os.path.basename(python).split(".")[1]) <= highest]


class Target(LiveTest):
    MODE = RECORD

    def on_each(self, check, highest=13):
        for python in versions(highest):
            with self.subTest(python=python):
                check(python)
            self.doCleanups()  # what a failure left running


class Lines(Target):
    def held(self, python, options):
        """Blocks on the line of second(): 60 lists, and their 60 arrays of items."""
        path = os.path.join(self.directory(), "script.py")
        with open(path, "w") as file:
            file.write(RECYCLED)
        target = Process(self, [python, path], env=ENVIRONMENT).expect_ready()
        trace = attach(self, target.pid, *options)
        target.send()
        self.assertEqual(target.line(), "done")
        report = trace.finish_trace()
        target.finish()
        return sum(row["count"] for row in report.load()["statistics"] if row["traceback"] and row["traceback"][0]["lineno"] == 6)

    def test_a_recycled_block_goes_to_its_new_line(self):
        for mode in (RECORD, STOP):
            self.on_each(lambda python: self.assertGreaterEqual(self.held(python, (*EXACT, *mode)), 120))

    def test_without_exact_it_stays_up_to_3_12(self):
        self.on_each(lambda python: self.assertLess(self.held(python, EXACT[:2]), 80), 12)


class Steps(Target):
    """A target that executes lines, each of which must hold."""

    def start(self, python, environment=ENVIRONMENT, script=STEPS):
        return Process(self, [python, "-c", script], env=environment).expect_ready()

    def steps(self, target, lines):
        for line in lines:
            target.send(line.encode() + b"\n")
            self.assertEqual(target.line(), "done", line)

    def end(self, target):
        target.popen.stdin.close()
        self.assertEqual(target.line(), "fine")
        self.assertEqual(target.wait(), 0)

    def check(self, before, meanwhile, after, environment=ENVIRONMENT):
        for python in versions():
            with self.subTest(python=python):
                target = self.start(python, environment)
                self.steps(target, before)
                for _ in range(2):
                    trace = attach(self, target.pid, *EXACT, *self.MODE)
                    self.steps(target, meanwhile)
                    report = trace.finish_trace()
                    self.assertGreater(report.totals["allocations"], 300)
                    self.assert_untraced(target.pid)
                    self.steps(target, after)
                self.end(target)

    OFF = ["assert not tracemalloc.is_tracing()", "assert tracemalloc.get_traced_memory() == (0, 0)"]
    ON = ["assert tracemalloc.is_tracing()", "assert tracemalloc.get_traced_memory()[0] > 10000",
          "assert len(tracemalloc.take_snapshot().traces) > 100"]

    def test_off_seems_off(self):
        self.check([], self.OFF + ["tracemalloc.clear_traces()", "assert tracemalloc.get_object_traceback(object()) is None"], self.OFF)

    def test_stop_of_what_is_off(self):
        self.check([], ["tracemalloc.stop()", *self.OFF] * 3, self.OFF)

    def test_constants_keep_their_counts(self):
        count = "sys.getrefcount(None), sys.getrefcount(False)"
        work = "before = [%s]; [(tracemalloc.stop(), tracemalloc.is_tracing()) for i in range(3000)]; after = [%s]" % (count, count)
        self.check([], [work, "assert all(abs(a - b) < 500 for a, b in zip(before, after)), (before, after)"], [])

    def test_start_and_stop(self):
        self.check([], [*self.OFF, "tracemalloc.start()", *self.ON, "tracemalloc.stop()", *self.OFF], [*self.OFF, "tracemalloc.start(5)",
                   *self.ON, "tracemalloc.stop()"])

    def test_start_that_fails(self):
        fails = "try: tracemalloc.start(0); assert False\nexcept ValueError: pass".replace("\n", "\\n")
        self.check([], ["exec(%r)" % fails.replace("\\n", "\n"), *self.OFF, "tracemalloc.stop()", *self.OFF], self.OFF)

    def test_on_before(self):
        self.check(["tracemalloc.start(3)"], self.ON, self.ON)

    def test_other_allocators(self):
        for name in ("debug", "malloc", "malloc_debug"):
            self.check([], [*self.OFF, "tracemalloc.start()", *self.ON, "tracemalloc.stop()"], self.OFF, {**ENVIRONMENT, "PYTHONMALLOC": name})

    def test_on_meanwhile_and_left_on(self):
        self.check([], ["tracemalloc.start()", *self.ON], [*self.ON, "tracemalloc.stop()", *self.OFF])

    def test_memory_of_others_is_refused_while_it_is_off(self):
        told = "import ctypes; assert ctypes.pythonapi.PyTraceMalloc_Track(5, ctypes.c_size_t(4096), ctypes.c_size_t(99)) == %d"
        forget = "assert ctypes.pythonapi.PyTraceMalloc_Untrack(5, ctypes.c_size_t(4096)) == %d"
        self.check([], [told % -2, "tracemalloc.start()", told % 0, forget % 0, "tracemalloc.stop()", forget % -2], [told % -2, forget % -2])


class StepsThatStop(Steps):
    MODE = STOP


class Ends(Target):
    """Exits, forks, other programs."""

    def run_under_trace(self, python, script, status):
        target = Process(self, [python, "-c", "import sys\nprint('ready', flush=True)\nsys.stdin.readline()\n" + script], env=ENVIRONMENT)
        target.expect_ready()
        trace = attach(self, target.pid, *EXACT, *self.MODE)
        target.send()
        self.assertEqual(target.wait(), status)
        return trace.finish_trace(None)

    def test_exits(self):
        work = "kept = [[i] for i in range(999)]\n"
        scripts = {
            "end": (work, 0),
            "never imported": (work + "sys.exit(3)", 3),
            "imported": ("import tracemalloc\n" + work + "sys.exit(4)", 4),
            "started": ("import tracemalloc; tracemalloc.start(2)\n" + work + "sys.exit(5)", 5),
            "in an exit handler": ("import atexit, tracemalloc\natexit.register(tracemalloc.start)\n" + work, 0),
            "stopped in an exit handler": ("import atexit, tracemalloc\natexit.register(tracemalloc.stop)\n" + work, 0),
            "in a destructor": ("class A:\n def __del__(self, on=__import__('tracemalloc').is_tracing): assert not on()\n" + work + "a = A()", 0),
            "at once": ("import os\n" + work + "os._exit(6)", 6),
            "killed": ("import os\n" + work + "os.kill(os.getpid(), 15)", -15),
            "threads": ("import threading\n" + work + "for i in range(4): threading.Thread(target=lambda: [[j] for j in range(999)]).start()", 0),
        }
        for python in versions():
            for name, (script, status) in scripts.items():
                with self.subTest(python=python, name=name):
                    report = self.run_under_trace(python, script, status)
                    self.assertGreater(report.totals["allocations"], 100)

    def test_fork(self):
        child = ("import tracemalloc; assert not tracemalloc.is_tracing(); tracemalloc.stop(); tracemalloc.start();"
                 " x = [str(j) for j in range(2000)]; assert tracemalloc.get_traced_memory()[0] > 50000; tracemalloc.stop(); sys.exit(7)")
        script = ("import os\nfor i in range(10):\n pid = os.fork()\n if not pid:\n  " + child +
                  "\n assert os.WEXITSTATUS(os.waitpid(pid, 0)[1]) == 7\n")
        for python in versions():
            with self.subTest(python=python):
                self.run_under_trace(python, script, 0)

    def test_children_that_share_the_memory(self):
        script = ("import subprocess\nfor i in range(10):\n"
                  " assert subprocess.run([sys.executable, '-c', 'import tracemalloc; tracemalloc.start()'], close_fds=False).returncode == 0\n")
        for python in versions():
            with self.subTest(python=python):
                self.run_under_trace(python, script, 0)

    def test_exec_of_another_interpreter(self):
        """The new image is armed when its interpreter is initialised."""
        for python in versions():
            with self.subTest(python=python):
                again = "import tracemalloc; assert not tracemalloc.is_tracing(); x = [[i] for i in range(999)]"
                report = self.run_under_trace(python, "import os\nos.execv(%r, [%r, '-c', %r])" % (python, python, again), 0)
                self.assertEqual(report.query("SELECT name FROM snapshot WHERE name = 'exec-1'"), [("exec-1",)])
                self.assertGreater(report.totals["peak"], 50000)

    def test_exec_of_something_else(self):
        report = self.run_under_trace(versions()[0], "import os\nx = bytes(100003)\nos.execv('/bin/true', ['true'])", 0)
        snapshot = report.load("--at", "exec-1")
        self.assertEqual(len([row for row in snapshot["statistics"] if row["size"] > 100003]), 1)

    def test_launched(self):
        script = "import tracemalloc; assert not tracemalloc.is_tracing(); x = [[i] for i in range(999)]; tracemalloc.stop(); raise SystemExit(9)"
        for python in versions():
            for options in ((), ("-X", "tracemalloc=2")):
                with self.subTest(python=python, options=options):
                    code = script.replace("not ", "") if options else script
                    trace = launch(self, python, *options, "-c", code, options=(*EXACT, *self.MODE), env=ENVIRONMENT)
                    self.assertGreater(trace.finish_trace(None, status=9).totals["allocations"], 900)

    def test_an_interpreter_that_ends_already(self):
        """Its main thread waits for another, within Py_FinalizeEx."""
        script = ("import sys, threading\ndef wait():\n print('ready', flush=True)\n sys.stdin.readline()\n"
                  "threading.Thread(target=wait).start()")
        for python in versions(12):
            with self.subTest(python=python):
                target = Process(self, [python, "-c", script], env=ENVIRONMENT).expect_ready()
                wait_until(lambda: is_in_futex(target.pid), "the main thread's waiting")
                done = run_tmtrace("--attach", target.pid, *EXACT, *self.MODE, "-o", os.path.join(self.directory(), "x.tmt"))
                self.assertEqual(done.returncode, 2)
                self.assertIn("is in Py_FinalizeEx", done.stderr)
                attach(self, target.pid, *EXACT[:2], *self.MODE).finish_trace()
                target.send()
                self.assertEqual(target.wait(), 0)


class EndsThatStop(Ends):
    MODE = STOP


def is_in_futex(pid):
    with open(f"/proc/{pid}/syscall") as file:
        return file.read().startswith("202 ")  # asm/unistd_64.h


def words(pid, path, addresses):
    data = writable_data(pid, path)
    return {address: bytes_[address - start : address - start + 8]
            for start, bytes_ in data.items() for address in addresses if start <= address < start + len(bytes_)}


def slot_pages(pid):
    """Pages of slot pads. (Pads of breakpoints may stand so low that a counter looks like an address in them.)"""
    with open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for start, end in pads_of(pid):
            for page in range(start, end, 4096):
                memory.seek(page)
                if memory.read(13) == b"tmtrace slots":
                    yield page


def slot_addresses(pid, path):
    """Where the interpreter's data point into pads."""
    pages = set(slot_pages(pid))
    return {start + at for start, bytes_ in writable_data(pid, path).items() for at in range(0, len(bytes_) - 7, 8)
            if int.from_bytes(bytes_[at : at + 8], "little") & ~4095 in pages}


class Cycles(Target):
    def check(self, python, threads, cycles):
        target = Process(self, [python, "-c", BUSY, str(threads)], env=ENVIRONMENT).expect_ready()
        code = code_of(target.pid)
        holder = holder_of(target.pid, code)
        before = writable_data(target.pid, holder)
        path = os.path.join(self.directory(), "cycle.tmt")
        for _ in range(cycles):
            trace = attach(self, target.pid, "--force", *EXACT, *self.MODE, path=path)
            slots = slot_addresses(target.pid, holder)
            self.assertGreaterEqual(len(slots), 12)
            target.send()
            target.line()
            trace.finish_trace()
            self.assert_untraced(target.pid)
            self.assertEqual(slot_addresses(target.pid, holder), set())
            for address, word in words(target.pid, holder, slots).items():
                was = [bytes_[address - start :][:8] for start, bytes_ in before.items() if start <= address < start + len(bytes_)]
                self.assertEqual([word], was, hex(address))
        self.assert_code_unchanged(target.pid, code)
        target.popen.stdin.close()
        self.assertEqual(target.line(), "fine")
        self.assertEqual(target.wait(), 0)

    def test_fifty_on_a_busy_interpreter(self):
        self.check(versions(12)[0], 1, 50)

    def test_threads_on_every_version(self):
        for python in versions():
            with self.subTest(python=python):
                self.check(python, 4, 6)


class CyclesThatStop(Cycles):
    MODE = STOP


class Interpreters(Target):
    """Subinterpreters that share the one lock."""

    SCRIPT = """
import sys, gc
try:
    import _xxsubinterpreters as module
    create = lambda: module.create() if sys.version_info < (3, 12) else module.create(isolated=False)
    run, destroy = module.run_string, module.destroy
except ImportError:
    import _interpreters as module
    create = lambda: module.create("legacy")
    run, destroy = module.run_string, module.destroy
kept = create()
print("ready", flush=True)
sys.stdin.readline()
for i in range(3):
    other = create()
    for number in (kept, other):
        run(number, "import sys, json\\nsys.kept = bytes(100003), [json.loads('[%d]' % i) for i in range(500)]\\nimport tracemalloc\\n"
                    "assert not tracemalloc.is_tracing()")
    destroy(other)
print("done", flush=True)
sys.stdin.readline()
destroy(kept)
print("fine", flush=True)
"""

    def test_shared_lock(self):
        for python in versions():
            with self.subTest(python=python):
                target = Process(self, [python, "-c", self.SCRIPT], env=ENVIRONMENT).expect_ready()
                trace = attach(self, target.pid, *EXACT)
                target.send()
                self.assertEqual(target.line(60), "done")
                report = trace.finish_trace()
                self.assertEqual([size for _, size in report.blocks(100003) if size < 100103], [100036])
                target.send()
                self.assertEqual(target.line(), "fine")
                self.assertEqual(target.wait(), 0)


class Told(Target):
    """PyTraceMalloc_Track and _Untrack, by which numpy and others tell of their memory."""

    SCRIPT = """
import ctypes, sys
track, untrack = ctypes.pythonapi.PyTraceMalloc_Track, ctypes.pythonapi.PyTraceMalloc_Untrack
track.argtypes, untrack.argtypes = [ctypes.c_uint, ctypes.c_size_t, ctypes.c_size_t], [ctypes.c_uint, ctypes.c_size_t]
print("ready", flush=True)
sys.stdin.readline()
for i in range(10):
    track(389047, 4096 + i, 1000)
track(7, 4096, 5)
untrack(389047, 4097)
untrack(8, 4096)
track(389047, 4096, 3)
for i in range(COUNT):
    track(100 + i, 4096, 1)
print("done", flush=True)
sys.stdin.readline()
"""

    def observe(self, python, options, count=0):
        target = Process(self, [python, "-c", self.SCRIPT.replace("COUNT", str(count))], env=ENVIRONMENT).expect_ready()
        trace = attach(self, target.pid, "--domain", "python", *options)
        target.send()
        self.assertEqual(target.line(), "done")
        report = trace.finish_trace()
        target.finish()
        return report

    def test_domains(self):
        for python in versions():
            for options in (RECORD, STOP, (*RECORD, "--exact"), (*STOP, "--exact")):
                with self.subTest(python=python, options=options):
                    report = self.observe(python, options)
                    rows = report.query("SELECT domain, lineno, size, count FROM statistic JOIN owner USING (traceback) JOIN frame"
                                        " ON frame = frame.id JOIN snapshot ON snapshot = snapshot.id"
                                        " WHERE name = 'end' AND domain AND count ORDER BY lineno")
                    self.assertEqual(rows, [(389047, 8, 8000, 8), (7, 9, 5, 1), (389047, 12, 3, 1)])
                    domains = {row["domain"]: row for row in report.json["domains"]}
                    told = [domains[389047][key] for key in ("current", "peak", "blocks", "allocations", "frees", "unknown_frees")]
                    self.assertEqual(told, [8003, 10000, 9, 11, 1, 0])
                    self.assertEqual(domains[8]["unknown_frees"], 1)

    def test_more_domains_than_there_is_room_for_are_lost_and_said_so(self):
        report = self.observe(versions()[0], (), 30)
        self.assertGreater(report.totals["lost"], 10)
        self.assertIn("too many domains", report.printed)
        self.assertEqual({row["domain"] for row in report.load()["statistics"]} & {0, 7, 389047, 100}, {0, 7, 389047, 100})

    def test_numpy(self):
        script = "import numpy, sys\nprint('ready', flush=True)\nsys.stdin.readline()\nx = numpy.zeros(100003, dtype='u1')\nprint('done', flush=True)\nsys.stdin.readline()\n"
        for python in versions():
            if os.spawnl(os.P_WAIT, python, python, "-c", "import importlib.util as u, sys; sys.exit(not u.find_spec('numpy'))"):
                continue
            target = Process(self, [python, "-c", script], env=ENVIRONMENT).expect_ready()
            trace = attach(self, target.pid, "--domain", "python")
            target.send()
            self.assertEqual(target.line(), "done")
            report = trace.finish_trace()
            target.finish()
            self.assertIn((389047, 100003, 1), [(row["domain"], row["size"], row["count"]) for row in report.load()["statistics"]])
            return
        self.skipTest("numpy is not installed")


class Refused(LiveTest):
    def test_native(self):
        done = run_tmtrace("--domain", "native", "--exact", "/bin/true")
        self.assertEqual(done.returncode, 2)
        self.assertIn("--exact is about Python objects", done.stderr)


if __name__ == "__main__":
    main()

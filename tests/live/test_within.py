"""--within FUNCTION: only what is allocated while that Python function is on the stack, and the frees of it."""

import os
import signal
import subprocess

from support import LiveTest, attach, launch, main, run_tmtrace
from support.interpreters import ENVIRONMENT, interpreters
from support.process import Process

TUTORIAL = "def some_function():\n    res = [0]\n"
HEADER = 33  # of a bytes object, besides its bytes

STEPS = """
import ctypes, sys, threading
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.realloc.restype, libc.realloc.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_size_t]
kept, natives = {}, []
def allocate(size):
    return bytes(size)
def deep(depth, size):
    return deep(depth - 1, size) if depth else allocate(size)
def wanted(name, size):
    kept[name] = deep(300, size)
def other(name, size):
    kept[name] = deep(300, size)
class Maker:
    def make(self, name):
        kept[name] = [0] * 1000
    def native(self, size):
        natives.append(libc.malloc(size))
def generate(sizes):
    for size in sizes:
        yield allocate(size)
def threads():
    # The one waits inside the function while the other allocates outside of it.
    inside, done = threading.Event(), threading.Event()
    def waiting():
        wait(inside, done)
    thread = threading.Thread(target=waiting)
    thread.start()
    inside.wait()
    kept["outside"] = bytes(50021)
    done.set()
    thread.join()
def wait(inside, done):
    inside.set()
    done.wait()
    kept["inside"] = bytes(60013)
for warm in range(2):
    wanted("warm", 10); other("warm", 10)
print("ready", flush=True)
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""


class Within(LiveTest):
    def script(self, text):
        path = os.path.join(self.directory(), "script.py")
        with open(path, "w") as file:
            file.write(text)
        return path

    def start(self, python, *options):
        self.target = Process(self, [python, self.script(STEPS)], env=ENVIRONMENT).expect_ready()
        return attach(self, self.target.pid, *options)

    def step(self, line):
        self.target.send(line.encode() + b"\n")
        self.assertEqual(self.target.line(), "done")

    def snapshot(self, trace, number):
        trace.signal(signal.SIGUSR1)
        self.assertTrue(trace.err.wait_for(b"snapshot %d taken" % number, 20))

    def large(self, report, at="end", smallest=50000):
        """Sizes of large blocks, by traceback. (Deep recursion takes blocks of its own for frames: tens of KiB up to 3.10.)"""
        return sorted(s["size"] for s in report.load("--at", at, "--group-by", "traceback")["statistics"] if s["size"] > smallest)


class Tutorial(Within):
    def by_tracemalloc(self, python):
        script = "import tracemalloc\n" + TUTORIAL + "tracemalloc.start()\nsome_function()\nprint(*tracemalloc.get_traced_memory())\n"
        done = subprocess.run([python, self.script(script)], env=ENVIRONMENT, capture_output=True, check=True, timeout=60)
        return tuple(map(int, done.stdout.split()))

    def test_the_same_as_get_traced_memory(self):
        cases = [(python, probe) for python in interpreters() for probe in ("pad", "breakpoint")]
        for python, probe in cases:
            with self.subTest(python=python, probe=probe):
                options = ("--within", "some_function", "--probe", probe)
                trace = launch(self, python, self.script(TUTORIAL + "some_function()\n"), options=options, env=ENVIRONMENT)
                report = trace.finish_trace(None)
                totals = report.totals
                self.assertEqual((totals["current"], totals["peak"]), self.by_tracemalloc(python))
                self.assertEqual((totals["current"], totals["peak"], totals["blocks"]), (0, 8, 0))
                self.assertEqual((totals["allocations"], totals["frees"], totals["unknown_frees"]), (1, 1, 0))
                self.assertEqual(report.json["within"], "some_function")
                self.assertIn(", within some_function, exited after ", report.run())

    def test_between_attach_and_detach(self):
        """The same function called once in the process's life: by the time of the trace it has run."""
        script = TUTORIAL + "import sys\nprint('ready', flush=True)\nsys.stdin.readline()\nsome_function()\nprint('done', flush=True)\nsys.stdin.readline()\n"
        for python in interpreters():
            with self.subTest(python=python):
                target = Process(self, [python, self.script(script)], env=ENVIRONMENT).expect_ready()
                trace = attach(self, target.pid, "--within", "some_function")
                target.send()
                self.assertEqual(target.line(), "done")
                totals = trace.finish_trace().totals
                self.assertEqual((totals["current"], totals["peak"], totals["blocks"]), (0, 8, 0))
                target.finish()

    def test_between_two_snapshots(self):
        for python in (interpreters()[0], interpreters()[-1]):
            with self.subTest(python=python):
                trace = self.start(python)
                self.snapshot(trace, 1)
                self.step("wanted('a', 70001)")
                self.snapshot(trace, 2)
                self.step("kept.clear()")
                report = trace.finish_trace()
                self.assertEqual([self.large(report, at) for at in (1, 2, "end")], [[], [70001 + HEADER], []])


class Counted(Within):
    def test_only_what_is_allocated_there(self):
        """However far up the stack the function is, and at one frame a traceback."""
        cases = [(python, probe) for python in interpreters() for probe in ("pad", "breakpoint")]
        for python, probe in cases:
            with self.subTest(python=python, probe=probe):
                trace = self.start(python, "--within", "wanted", "--probe", probe)
                self.step("wanted('a', 70001); other('b', 80021); allocate(90001)")
                self.step("wanted('c', 70009)")
                self.snapshot(trace, 1)
                self.step("del kept['a'], kept['b']")  # outside: the free of a block that counts, and of one that does not
                report = trace.finish_trace()
                self.assertEqual(sum(self.large(report, "1")), 70001 + 70009 + 2 * HEADER)
                self.assertEqual(self.large(report), [70009 + HEADER])
                self.assertEqual(report.totals["unknown_frees"], 0)
                found = [s["traceback"] for s in report.statistics if s["size"] > 70000]
                self.assertEqual([(len(t), t[0]["function"]) for t in found], [(1, "allocate")])

    def test_a_block_that_grows_outside_is_gone(self):
        trace = self.start(interpreters()[0], "--within", "make")
        self.step("Maker().make('a')")
        self.snapshot(trace, 1)
        self.step("kept['a'].extend(range(1000, 9000))")
        report = trace.finish_trace()
        self.assertEqual(self.large(report, "1", 7000), [8000])
        self.assertEqual(self.large(report, "end", 7000), [])

    def test_a_block_that_grows_inside_counts(self):
        trace = self.start(interpreters()[-1], "--within", "grow")
        self.step("def grow():\n  kept['a'].extend(range(1000, 9000))".replace("\n  ", " "))
        self.step("Maker().make('a')")
        self.step("grow()")
        report = trace.finish_trace()
        self.assertEqual(len(self.large(report)), 1)
        self.assertGreater(self.large(report)[0], 8 * 9000)

    def test_a_stack_deeper_than_a_record(self):
        """Stops see all of it; a record has room for 1000 frames, and what is lost is said."""
        for probe, sizes in (("breakpoint", [70001 + HEADER]), ("pad", [])):
            trace = self.start(interpreters()[-1], "--within", "wanted", "--probe", probe)
            self.step("sys.setrecursionlimit(5000)")
            self.step("def wanted(name, size): kept[name] = deep(1500, size)")
            self.step("wanted('a', 70001)")
            report = trace.finish_trace()
            self.assertEqual(self.large(report), sizes)
            self.assertEqual(report.totals["lost"] > 0, probe == "pad")
            self.assertEqual(b"more than 1000 Python frames is lost" in trace.err.data, probe == "pad")

    def test_generators(self):
        """They are on the stack while they run."""
        trace = self.start(interpreters()[-1], "--within", "generate")
        self.step("kept['g'] = generate([70001, 70003]); kept['x'] = next(kept['g']); kept['y'] = allocate(80021); kept['z'] = next(kept['g'])")
        self.assertEqual(sum(self.large(trace.finish_trace())), 70001 + 70003 + 2 * HEADER)

    def test_threads(self):
        """The stack is that of the thread that allocates."""
        for python in interpreters():
            with self.subTest(python=python):
                trace = self.start(python, "--within", "wait")
                self.step("threads()")
                self.assertEqual(self.large(trace.finish_trace()), [60013 + HEADER])

    def test_native_allocations_too(self):
        for python in interpreters():
            with self.subTest(python=python):
                trace = self.start(python, "--domain", "both", "--within", "native")
                self.step("Maker().native(10007); natives.append(libc.malloc(10009)); natives.append(libc.malloc(10011))")
                self.step("libc.realloc(natives[0], 20011)")
                self.step("Maker().native(10013)")
                report = trace.finish_trace()
                native = report.load("--domain", "native", "--group-by", "traceback")
                self.assertEqual(sorted(s["size"] for s in native["statistics"]), [10013])
                totals = {key: native["totals"][key] for key in ("current", "peak", "allocations", "frees", "unknown_frees")}
                self.assertEqual(totals, {"current": 10013, "peak": 10013, "allocations": 2, "frees": 1, "unknown_frees": 0})


class Names(Within):
    SCRIPT = ("class Thing:\n    def method(self):\n        return bytes(70001)\ndef function():\n    return bytes(80021)\n"
              "kept = Thing().method(), function()\nimport os\nos._exit(0)\n")

    def sizes(self, pattern, python=None):
        path = self.script(self.SCRIPT)
        python = python or interpreters()[-1]
        self.trace = launch(self, python, path, options=("--within", pattern.replace("DIRECTORY", os.path.dirname(path))), env=ENVIRONMENT)
        return [size - HEADER for size in self.large(self.trace.finish_trace(None))]

    def test_names(self):
        cases = (("method", [70001]), ("Thing.method", [70001]), ("Thing.*", [70001]), ("*", [70001, 80021]), ("func*", [80021]),
                 ("script.py:function", [80021]), ("DIRECTORY/script.py:function", [80021]), ("*.py:f*", [80021]), ("<module>", [70001, 80021]),
                 ("other.py:function", []), ("unction", []))
        for pattern, sizes in cases:
            with self.subTest(pattern=pattern):
                self.assertEqual(self.sizes(pattern), sizes)
                said = b"nothing was counted: no function " in self.trace.err.data
                self.assertEqual(said, not sizes)

    def test_usage(self):
        for options, words in ((["--within", "f", "--domain", "native"], "goes with --domain python or both"),
                               (["--within", ""], "neither a function's name nor FILE:FUNCTION"),
                               (["--within", "x.py:"], "neither a function's name nor FILE:FUNCTION"),
                               (["--within", "f"], "no CPython interpreter")):
            done = run_tmtrace("-o", os.path.join(self.directory(), "none.tmt"), *options, "--", "/bin/true")
            self.assertEqual((done.returncode, words in done.stderr), (2, True), done.stderr)


del Within

if __name__ == "__main__":
    main()

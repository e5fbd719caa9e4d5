"""The python domain: the oracle is tracemalloc itself.

Two processes do the same work in a window (fixtures/python_window.py): one measures itself by tracemalloc, the other is untouched
and traced from outside. Current, peak and blocks must be equal to the byte, on every interpreter that is found here.
"""

import mmap
import os

from support import LiveTest, attach, code_of, launch, main, run_tmtrace
from support.interpreters import ENVIRONMENT, interpreters
from support.process import Process, wait_until

WINDOW = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../fixtures/python_window.py")
PYTHON = ("--domain", "python")

# Bytes that stand on the line which first made a recycled block (a free list's), as a part of all, where there is no reference tracer:
# up to 3.12 only the totals are tracemalloc's own.
RECYCLED = 0.06


def traces_references(python):
    """From 3.13 every line is equal."""
    return os.path.basename(python) == "python3.13"


class Window:
    """A process of python_window.py, up to the begin of its window."""

    def __init__(self, test, python, mode, work):
        path = os.path.join(test.directory(), "flag")
        with open(path, "wb") as file:
            file.write(b"\0")
        descriptor = os.open(path, os.O_RDWR)
        self.flag = mmap.mmap(descriptor, 1)
        os.close(descriptor)
        # setarch -R: no ASLR, for sets of objects are in the order of addresses
        self.process = Process(test, ["setarch", "-R", python, WINDOW, mode, work, path], env=ENVIRONMENT).expect_ready(60)

    def work(self):
        self.flag[0] = 1
        wait_until(lambda: self.flag[0] == 2 or self.process.popen.poll() is not None, "the work done", 120)

    def end(self):
        self.flag[0] = 3
        if self.process.wait() != 0:
            self.process.fail("did not end cleanly")


def by_tracemalloc(test, python, work):
    window = Window(test, python, "tracemalloc", work)
    window.work()
    told = window.process.json()
    window.end()
    return told


def lines_of(report):
    lines = {}
    for statistic in report.load("--domain", "python")["statistics"]:
        frame = (statistic["traceback"] or [{"filename": "<unknown>", "lineno": 0}])[0]
        lines["%s:%d" % (frame["filename"], frame["lineno"])] = [statistic["size"], statistic["count"]]
    return lines


def from_outside(test, python, work, options=PYTHON):
    window = Window(test, python, "plain", work)
    trace = attach(test, window.process.pid, *options)
    window.work()
    report = trace.finish_trace()
    window.end()
    test.assertEqual(report.totals["lost"], 0)
    return {**report.totals, "lines": lines_of(report)}


def misplaced(ours, theirs):
    """Bytes that are on another line."""
    keys = ours.keys() | theirs.keys()
    return sum(abs(ours.get(key, [0])[0] - theirs.get(key, [0])[0]) for key in keys) / 2


class Equal(LiveTest):
    """Two processes, the same numbers."""

    def check(self, work, check, options=PYTHON):
        for python in interpreters():
            with self.subTest(python=python):
                theirs, ours = by_tracemalloc(self, python, work), from_outside(self, python, work, options)
                check(theirs, ours)
                if traces_references(python) and check == self.exactly:
                    self.assertEqual(ours["lines"], theirs["lines"])

    def test_beside_the_native_domain(self):
        self.check("json", self.exactly, ("--domain", "both"))

    def exactly(self, theirs, ours):
        keys = ("current", "peak", "blocks")
        self.assertEqual({key: ours[key] for key in keys}, {key: theirs[key] for key in keys})
        self.assertLessEqual(misplaced(ours["lines"], theirs["lines"]), RECYCLED * theirs["current"])

    def nearly(self, theirs, ours):
        """Imports list folders and keep weak references, threads meet in any order: two runs of tracemalloc differ as much. That both
        see the same in one process is test_python_oracle.py's."""
        for key in ("current", "peak", "blocks"):
            self.assertAlmostEqual(ours[key] / theirs[key], 1, delta=0.01, msg=key)
        self.assertLessEqual(misplaced(ours["lines"], theirs["lines"]), RECYCLED * theirs["current"])

    def without_filenames(self, theirs, ours):
        """tracemalloc's table of file names keeps a string for each file that was traced, which die without it."""
        self.assertLessEqual(ours["blocks"], theirs["blocks"])
        self.assertLessEqual(theirs["blocks"] - ours["blocks"], 300)
        for line, (_, count) in ours["lines"].items():
            if line.startswith("<made "):
                self.assertLessEqual(abs(count - theirs["lines"][line][1]), 1, line)

    def test_tutorial(self):
        # def some_function(): res = [0]
        def check(theirs, ours):
            self.assertEqual((theirs["current"], theirs["peak"]), (0, 8))
            self.assertEqual((ours["current"], ours["peak"], ours["blocks"]), (0, 8, 0))

        self.check("tutorial", check)

    def test_json(self):
        self.check("json", self.exactly)

    def test_re(self):
        self.check("re", self.exactly)

    def test_ast(self):
        self.check("ast", self.exactly)

    def test_generators(self):
        self.check("generators", self.exactly)

    def test_classes(self):
        self.check("classes", self.exactly)

    def test_threads_that_follow_each_other(self):
        self.check("threads", self.nearly)

    def test_imports(self):
        self.check("imports", self.nearly)

    def test_code_objects_that_follow_each_other_at_an_address(self):
        self.check("code", self.without_filenames)


BUSY = """
import sys, threading
def work(n):
    return [{i: str(i) * 3} for i in range(n)]
def forever():
    while not done:
        work(50)
        counts[threading.current_thread().name] = counts.get(threading.current_thread().name, 0) + 1
counts, done = {}, False
threads = [threading.Thread(target=forever, name="t%d" % i) for i in range(int(sys.argv[1]))]
for thread in threads: thread.start()
print("ready", flush=True)
for line in sys.stdin:
    print(sum(counts.values()), flush=True)
done = True
for thread in threads: thread.join()
assert all(counts.values())
print("fine", flush=True)
"""


def anonymous_code(pid):
    with open(f"/proc/{pid}/maps") as maps:
        return sum("x" in fields[1] and fields[4] == "0" and len(fields) == 5 for fields in map(str.split, maps))


def writable_data(pid, path):
    """The interpreter's own data, where its allocator tables are: {address: bytes} of the file's writable mappings."""
    data = {}
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for fields in map(str.split, maps):
            if "w" in fields[1] and len(fields) > 5 and fields[5] == path:
                start, end = (int(number, 16) for number in fields[0].split("-"))
                memory.seek(start)
                data[start] = memory.read(end - start)
    return data


def holder_of(pid, code):
    """The file that holds the interpreter: a shared library, or the executable itself."""
    libraries = [path for _, path in code if os.path.basename(path).startswith("libpython3.")]
    return libraries[0] if libraries else os.readlink(f"/proc/{pid}/exe")


def slots_of(pid, path, pads):
    """Words in the interpreter's data that point into [pads)."""
    words = []
    for bytes_ in writable_data(pid, path).values():
        for at in range(0, len(bytes_) - 7, 8):
            word = int.from_bytes(bytes_[at : at + 8], "little")
            words += [word] if any(start <= word < end for start, end in pads) else []
    return words


def pads_of(pid):
    """The pages of slot pads. Other pads may stand at low addresses, which any number in the data may look like."""
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for fields in map(str.split, maps):
            if "x" not in fields[1] or fields[4] != "0" or len(fields) != 5:
                continue
            start, end = (int(number, 16) for number in fields[0].split("-"))
            for page in range(start, end, mmap.PAGESIZE):
                memory.seek(page)
                if memory.read(13) == b"tmtrace slots":
                    yield page, page + mmap.PAGESIZE


class Busy(LiveTest):
    """Attaching to an interpreter under load and letting go of it."""

    def start(self, python, threads):
        return Process(self, [python, "-c", BUSY, str(threads)], env=ENVIRONMENT).expect_ready()

    def check(self, python, threads, cycles):
        target = self.start(python, threads)
        before = code_of(target.pid)
        holder = holder_of(target.pid, before)
        pages = []
        for _ in range(cycles):
            path = os.path.join(self.here, "cycle.tmt")
            trace = attach(self, target.pid, "--force", *PYTHON, path=path)
            self.assertEqual(len(slots_of(target.pid, holder, list(pads_of(target.pid)))), 12 + traces_references(python))
            done = self.rounds(target)
            while self.rounds(target) == done:
                pass
            report = trace.finish_trace()
            self.assertGreater(report.totals["allocations"], 20)
            self.assertEqual(report.totals["lost"], 0)
            self.assert_untraced(target.pid)
            self.assert_code_unchanged(target.pid, before)
            self.assertEqual(slots_of(target.pid, holder, list(pads_of(target.pid))), [])
            pages.append(anonymous_code(target.pid))
        self.assertEqual(len(set(pages)), 1, f"the pads of the first trace are used again: {pages}")
        target.popen.stdin.close()
        self.assertEqual(target.line(), "fine")
        self.assertEqual(target.wait(), 0)

    def rounds(self, target):
        target.send()
        return int(target.line())

    def setUp(self):
        self.here = self.directory()

    def test_twenty_cycles(self):
        self.check(interpreters()[0], 1, 20)

    def test_threads_on_every_version(self):
        for python in interpreters():
            with self.subTest(python=python):
                self.check(python, 4, 3)

    def test_fork_under_trace(self):
        script = "import os\nprint('ready', flush=True)\ninput()\n" + (
            "for i in range(20):\n pid = os.fork()\n if not pid:\n  x = [str(j) for j in range(2000)]; os._exit(7)\n"
            " assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7\nprint('fine', flush=True)\n"
        )
        target = Process(self, [interpreters()[-1], "-c", script], env=ENVIRONMENT).expect_ready()
        trace = attach(self, target.pid, *PYTHON)
        target.send()
        self.assertEqual(target.line(), "fine")
        report = trace.finish_trace(None)
        self.assertEqual(report.json["target"]["ended"], "exited")


STEPS = """
import sys, tracemalloc
def work():
    return [{i: str(i) * 3} for i in range(300)]
print("ready", flush=True)
for line in sys.stdin:
    exec(line)
    kept = work()
    print("done", flush=True)
print("fine", flush=True)
"""


class WithTracemalloc(LiveTest):
    """The target's own tracemalloc: its hooks and ours call each other."""

    def check(self, before, meanwhile, after, environment=ENVIRONMENT):
        for python in interpreters():
            with self.subTest(python=python):
                target = Process(self, [python, "-c", STEPS], env=environment).expect_ready()
                self.steps(target, before)
                for _ in range(2):
                    trace = attach(self, target.pid, *PYTHON)
                    self.steps(target, meanwhile)
                    report = trace.finish_trace()
                    self.assertGreater(report.totals["allocations"], 300)
                    self.assertEqual(report.totals["lost"], 0)
                    self.assert_untraced(target.pid)
                    self.steps(target, after)
                target.popen.stdin.close()
                self.assertEqual(target.line(), "fine")
                self.assertEqual(target.wait(), 0)

    def steps(self, target, lines):
        for line in lines:
            target.send(line.encode() + b"\n")
            self.assertEqual(target.line(), "done")

    def test_on_before(self):
        self.check(["tracemalloc.start()"], ["assert tracemalloc.get_traced_memory()[0] > 0"], ["tracemalloc.take_snapshot()"])

    def test_on_before_and_off_meanwhile(self):
        self.check([], ["tracemalloc.start()", "tracemalloc.stop()"], ["tracemalloc.start()"])

    def test_on_meanwhile_and_left_on(self):
        self.check(["pass"], ["tracemalloc.start()"], ["tracemalloc.stop()", "pass"])

    def test_on_meanwhile_and_traced_again(self):
        # Its hooks have our pads for the allocators: the second trace must not put the same pads over them.
        self.check(["pass"], ["tracemalloc.start()"], ["assert tracemalloc.is_tracing()"])

    def test_debug_allocators(self):
        self.check(["pass"], ["pass"], ["pass"], {**ENVIRONMENT, "PYTHONMALLOC": "debug"})

    def test_the_c_library_s_allocators(self):
        self.check(["pass"], ["pass"], ["pass"], {**ENVIRONMENT, "PYTHONMALLOC": "malloc"})


class Start(LiveTest):
    SCRIPT = "def make():\n    return bytes(100003)\nkept = make()\nimport os\nos._exit(3)\n"

    def test_from_the_first_line_of_a_script(self):
        path = os.path.join(self.directory(), "script.py")
        with open(path, "w") as file:
            file.write(self.SCRIPT)
        for python in interpreters():
            with self.subTest(python=python):
                trace = launch(self, python, path, options=PYTHON, env=ENVIRONMENT)
                report = trace.finish_trace(None, status=3)
                held = [s for s in report.load()["statistics"] if s["size"] > 100003]
                self.assertEqual(len(held), 1)
                frame = held[0]["traceback"][0]
                self.assertEqual((frame["filename"], frame["lineno"], frame["function"]), (path, 2, "make"))
                self.assertEqual(frame["source"], "return bytes(100003)")
                self.assertIn("python", frame["module"])

    def test_tracebacks(self):
        path = os.path.join(self.directory(), "script.py")
        with open(path, "w") as file:
            file.write("def outer():\n    return make()\n" + self.SCRIPT.replace("= make", "= outer"))
        for python in interpreters():
            with self.subTest(python=python):
                trace = launch(self, python, path, options=(*PYTHON, "--nframe", "2"), env=ENVIRONMENT)
                report = trace.finish_trace(None, status=3)
                found = [s for s in report.statistics if s["size"] > 100003]
                self.assertEqual([(f["function"], f["lineno"]) for f in found[0]["traceback"]], [("make", 4), ("outer", 2)])
                total = report.query("SELECT max(total_nframe) FROM traceback JOIN frame ON frame = frame.id WHERE function = 'make'")
                self.assertEqual(total, [(3,)])


class Refused(LiveTest):
    def check(self, argv, words):
        path = os.path.join(self.directory(), "none.tmt")
        done = run_tmtrace("-o", path, *PYTHON, "--", *argv)
        self.assertEqual(done.returncode, 2)
        self.assertIn(words, done.stderr)
        self.assertFalse(os.path.exists(path))

    def test_no_interpreter(self):
        self.check(["/bin/true"], "no CPython interpreter")

    def test_seccomp(self):
        """A filter may kill the process for a system call that it does not expect: nothing is injected, nothing changed."""
        script = (
            "import ctypes, sys\nlibc = ctypes.CDLL(None)\nfilter = ctypes.create_string_buffer(b'\\x06\\0\\0\\0\\0\\0\\xff\\x7f')\n"
            "class Program(ctypes.Structure):\n _fields_ = [('count', ctypes.c_ushort), ('filter', ctypes.c_void_p)]\n"
            "program = Program(1, ctypes.addressof(filter))\nassert libc.prctl(38, 1, 0, 0, 0) == 0\n"
            "assert libc.prctl(22, 2, ctypes.byref(program), 0, 0) == 0\nprint('ready', flush=True)\ninput()\nprint('fine')\n"
        )
        target = Process(self, [interpreters()[0], "-c", script], env=ENVIRONMENT).expect_ready()
        before = code_of(target.pid)
        done = run_tmtrace("-o", os.path.join(self.directory(), "none.tmt"), *PYTHON, "--attach", target.pid)
        self.assertEqual(done.returncode, 2)
        self.assertIn("seccomp", done.stderr)
        self.assert_code_unchanged(target.pid, before)
        target.send()
        self.assertEqual(target.line(), "fine")


if __name__ == "__main__":
    main()

"""Tracebacks of native and Python frames in their true order: --domain both --nframe 64."""

from support import LiveTest, attach, main
from support.interpreters import ENVIRONMENT, interpreters
from support.process import Process

NATIVE, PYTHON = 10007, 20011
# The path to leaf: C calls Python calls C ... Each of these C functions is a call of its own on the native stack.
SCRIPT = f"""
import ctypes, functools, sys, threading
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
def leaf(value):
    kept.append((libc.malloc({NATIVE}), bytes({PYTHON} - 33)))
    return value
def key(value):
    return leaf(value)
def compare(first, second):
    return max([second], key=key)
def generate():
    yield sorted([3], key=functools.partial(compare, 2))
class Thing:
    def __init__(self):
        self.items = list(generate())
def outer():
    return Thing()
def recurse(depth):
    return recurse(depth - 1) if depth else outer()
def in_thread():
    thread = threading.Thread(target=outer)
    thread.start()
    thread.join()
kept = []
outer()
print("ready", flush=True)
for line in sys.stdin:
    eval(line)
    print("done", flush=True)
"""
# Most recent first: a Python function, and whether C lies between it and its caller.
OUTER = [("leaf", False), ("key", True), ("compare", True), ("generate", True), ("Thing.__init__", None), ("outer", False)]


class Merged(LiveTest):
    def trace(self, python, call, *options):
        target = Process(self, [python, "-c", SCRIPT], env=ENVIRONMENT).expect_ready()
        trace = attach(self, target.pid, "--domain", "both", *options)
        target.send(call.encode() + b"\n")
        self.assertEqual(target.line(), "done")
        report = trace.finish_trace()
        self.assertEqual(report.totals["lost"], 0)
        return report

    def traceback_of(self, report, domain, size):
        found = [s for s in report.load("--domain", domain, "--group-by", "traceback")["statistics"] if s["size"] == size]
        self.assertEqual(len(found), 1)
        return found[0]

    def is_python(self, frame):
        return frame["filename"] == "<string>" or frame["filename"].endswith(".py")

    def check(self, frames, expected):
        """expected: Python functions, and after which of them C functions stand."""
        functions = []
        for at, frame in enumerate(frames):
            if self.is_python(frame):
                following = frames[at + 1] if at + 1 < len(frames) else None
                functions.append((frame["function"], bool(following and not self.is_python(following))))
        names = [name.rpartition(".")[2] for name, _ in functions]
        self.assertEqual(names[: len(expected)], [name.rpartition(".")[2] for name, _ in expected])
        for (name, has_native), (_, wanted) in zip(functions, expected):
            if wanted:
                self.assertTrue(has_native, f"C between {name} and its caller")
        self.assertNotIn("_PyEval_EvalFrameDefault", [frame["function"] for frame in frames])
        return functions

    def each(self, call, tail, *options):
        for python in interpreters():
            with self.subTest(python=python):
                report = self.trace(python, call, "--nframe", 1000, *options)
                for domain, size in (("native", NATIVE), ("python", PYTHON)):
                    found = self.traceback_of(report, domain, size)
                    frames = found["traceback"]
                    functions = self.check(frames, OUTER + tail)
                    self.assertFalse(self.is_python(frames[0]), "the allocation is in C")
                    self.assertEqual(found["cut"], "")
                    self.assertLessEqual(found["total_nframe"], len(frames), "inlined calls are frames of their own")
                    if "3.11" in python or "3.12" in python or "3.13" in python:
                        # From 3.11 a Python function that is called by Python code needs no C call.
                        self.assertFalse(functions[0][1], "leaf is called by key")

    def test_python_calls_c_calls_python(self):
        self.each("outer()", [("<module>", True)])

    def test_many_frames_of_one_call(self):
        self.each("recurse(40)", [("recurse", None)] * 41 + [("<module>", None)])

    def test_thread(self):
        self.each("in_thread()", [("run", None), ("_bootstrap_inner", None), ("_bootstrap", True)])

    def test_names_of_the_c_functions_between(self):
        """Where the interpreter has symbols."""
        wanted = {"key": ("max", "min_max"), "compare": ("sort",), "generate": ("list",)}
        checked = 0
        for python in interpreters():
            report = self.trace(python, "outer()", "--nframe", 1000)
            frames = self.traceback_of(report, "native", NATIVE)["traceback"]
            if not any("min_max" in (frame["function"] or "") for frame in frames):
                continue
            checked += 1
            for name, words in wanted.items():
                at = [frame["function"].rpartition(".")[2] for frame in frames if self.is_python(frame)].index(name)
                at = [index for index, frame in enumerate(frames) if self.is_python(frame)][at]
                between = []
                for frame in frames[at + 1 :]:
                    if self.is_python(frame):
                        break
                    between.append(frame["function"] or "")
                self.assertTrue(any(word in function for function in between for word in words), (python, name, between))
        if not checked:
            self.skipTest("no interpreter with symbols")

    def test_a_python_allocation_belongs_to_its_python_line(self):
        """Whatever the interpreter does below it; and tracemalloc's limit counts from there."""
        for python in interpreters():
            with self.subTest(python=python):
                line = 1 + SCRIPT[: SCRIPT.index("kept.append(")].count("\n")
                for nframe in (1, 2, 1000):
                    report = self.trace(python, "outer()", "--nframe", nframe)
                    for group in ("lineno", "function"):
                        found = [s for s in report.load("--domain", "python", "--group-by", group)["statistics"] if s["size"] >= PYTHON]
                        self.assertEqual([s["traceback"][0]["function"] for s in found], ["leaf"], (group, nframe))
                    self.assertEqual(found[0]["traceback"][0]["filename"], "<string>")
                    lines = report.load("--domain", "python")["statistics"]
                    self.assertEqual([s["traceback"][0]["lineno"] for s in lines if s["size"] >= PYTHON], [line])
                    whole = [s for s in report.load("--domain", "python", "--group-by", "traceback")["statistics"] if s["size"] >= PYTHON]
                    python_frames = [frame for frame in whole[0]["traceback"] if self.is_python(frame)]
                    self.assertEqual(python_frames[0]["function"], "leaf")
                    if nframe == 1:
                        self.assertEqual(len(whole[0]["traceback"]), 1, "as tracemalloc")
                    top = report.query("SELECT function, lineno FROM top WHERE size >= ? AND filename = '<string>'", PYTHON)
                    self.assertEqual(top, [("leaf", line)])


if __name__ == "__main__":
    main()

"""Which domain is traced, where nobody says it, and both at once."""

import os

from support import LiveTest, attach, code_of, launch, main, run_tmtrace
from support.environment import program
from support.interpreters import ENVIRONMENT, interpreters, one_of
from support.process import Process

SIZE = 100003
SCRIPT = f"""
import sys
def make():
    return bytes({SIZE})
print("ready", flush=True)
for line in sys.stdin:
    kept = make()
    print("done", flush=True)
"""
FREE_THREADED_AT = 16  # in _Py_DebugOffsets, which begins with this:
COOKIE = b"xdebugpy\xf0\x00\x0d\x03"


class Domains(LiveTest):
    def script(self, text):
        path = os.path.join(self.directory(), "script.py")
        with open(path, "w") as file:
            file.write(text)
        return path

    def one_round(self, target):
        target.send()
        self.assertEqual(target.line(), "done")

    def large(self, report, *options):
        return [s for s in report.load("--group-by", "traceback", *options)["statistics"] if s["size"] > SIZE]


class Recognised(Domains):
    """No --domain."""

    def assert_is_python(self, report, function="make"):
        found = self.large(report)
        self.assertEqual([(s["traceback"][0]["function"], s["domain"]) for s in found], [(function, 0)])
        self.assertEqual((report.json["probe"], report.json["nframe"]), ("slot", 1))

    def test_attach(self):
        for python in interpreters():
            with self.subTest(python=python):
                target = Process(self, [python, "-c", SCRIPT], env=ENVIRONMENT).expect_ready()
                trace = attach(self, target.pid)
                self.assertRegex(trace.err.data, rb"tracing \d+ \(python3[.\d]*\): CPython 3\.\d+(\.\d+)? in /")
                self.one_round(target)
                self.assert_is_python(trace.finish_trace())

    def test_launch(self):
        path = self.script(f"def make():\n    return bytes({SIZE})\nkept = make()\nimport os\nos._exit(3)\n")
        for python in interpreters():
            with self.subTest(python=python):
                trace = launch(self, python, path, env=ENVIRONMENT)
                self.assert_is_python(trace.finish_trace(None, status=3))
                self.assertIn(b"CPython 3.", trace.err.data)

    def test_exec_of_an_interpreter(self):
        """What env allocated is no part of the python domain's numbers; the snapshot of its image has it."""
        path = self.script(f"def make():\n    return bytes({SIZE})\nkept = make()\nimport os\nos._exit(0)\n")
        alone = launch(self, interpreters()[-1], path, env=ENVIRONMENT).finish_trace(None)
        report = launch(self, program("env"), "PYTHONHASHSEED=0", interpreters()[-1], path, env=ENVIRONMENT).finish_trace(None)
        self.assert_is_python(report)
        for key in ("allocations", "allocated", "failed", "lost"):
            self.assertAlmostEqual(report.totals[key], alone.totals[key], delta=alone.totals[key] / 50, msg=key)
        before = report.load("--at", "exec-1")
        self.assertGreater(before["totals"]["allocations"], 0)

    def test_other_programs(self):
        trace = launch(self, program("perl"), "-e", "my @kept = map { 'x' x 100 } 1 .. 1000; exit 4")
        report = trace.finish_trace(None, status=4)
        self.assertEqual((report.json["probe"], report.json["nframe"]), ("breakpoint", 64))
        self.assertGreater(report.totals["allocations"], 1000)

    def test_a_program_that_embeds_an_interpreter(self):
        """It does not run one as its own: what it does for itself is what there is to see."""
        report = launch(self, program("gdb"), "--version").finish_trace(None)
        self.assertEqual(report.json["probe"], "breakpoint")
        self.assertGreater(report.totals["allocations"], 100)

    def test_an_interpreter_that_only_tells_its_version(self):
        trace = launch(self, interpreters()[0], "--version")
        report = trace.finish_trace(None)
        self.assertIn(b"warning: nothing was traced", trace.err.data)
        self.assertEqual(report.totals["allocations"], 0)


class Untraceable(Domains):
    """An interpreter that is found, and cannot be traced: said, and traced natively; asked for, refused."""

    def check(self, python, reason, environment=ENVIRONMENT):
        target = Process(self, [python, "-c", SCRIPT], env=environment).expect_ready()
        before = code_of(target.pid)
        for domain in ("python",):
            done = run_tmtrace("-o", os.path.join(self.directory(), "none.tmt"), "--domain", domain, "--attach", target.pid)
            self.assertEqual(done.returncode, 2)
            self.assertIn(reason, done.stderr)
            self.assert_code_unchanged(target.pid, before)
        trace = attach(self, target.pid)
        self.one_round(target)
        report = trace.finish_trace()
        self.assertIn(b"tmtrace: warning: cannot trace the CPython in ", trace.err.data)
        self.assertIn(reason.encode(), trace.err.data)
        self.assertIn(b"; its native allocators are traced\n", trace.err.data)
        self.assertEqual(report.json["probe"], "breakpoint")
        self.assertGreater(len(self.large(report)), 0)
        self.one_round(target)

    def test_a_version_that_is_not_known(self):
        self.check(one_of(7), "its version 3.7 is not known; 3.8 to 3.13 are")

    def test_a_free_threaded_build(self):
        """A copy of 3.13's library that says it were one: nothing but tracers reads that word."""
        python = one_of(13)
        library = os.path.join(os.path.dirname(os.path.realpath(python)), "../lib/libpython3.13.so.1.0")
        if not os.path.exists(library):
            self.skipTest("this CPython 3.13 has no shared library")
        with open(library, "rb") as file:
            image = bytearray(file.read())
        image[image.index(COOKIE) + FREE_THREADED_AT] = 1
        copy = os.path.join(self.directory(), "libpython3.13.so.1.0")
        with open(copy, "wb") as file:
            file.write(image)
        self.check(python, "it is a free-threaded build", {**ENVIRONMENT, "LD_PRELOAD": copy})

    def test_launch(self):
        path = self.script(f"kept = bytes({SIZE})\nimport os\nos._exit(5)\n")
        trace = launch(self, one_of(7), path, env=ENVIRONMENT)
        report = trace.finish_trace(None, status=5)
        self.assertIn(b"its version 3.7 is not known", trace.err.data)
        self.assertGreater(len(self.large(report)), 0)


if __name__ == "__main__":
    main()

"""Which domain is traced, where nobody says it, and both at once."""

import os
import signal

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
        self.assertEqual((report.json["probe"], report.json["nframe"]), ("pad", 64))
        self.assertGreater(report.totals["allocations"], 1000)

    def test_a_program_that_embeds_an_interpreter(self):
        """It does not run one as its own: what it does for itself is what there is to see."""
        report = launch(self, program("gdb"), "--version").finish_trace(None)
        self.assertEqual(report.json["probe"], "pad")
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
        for domain in ("python", "both"):
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
        self.assertIn(report.json["probe"], ("pad", "pad, breakpoint"))
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

    def test_seccomp(self):
        """Every thread has a filter (one that allows everything): no page can be mapped for pads."""
        script = ("import ctypes\nlibc = ctypes.CDLL(None)\nfilter = ctypes.create_string_buffer(b'\\x06\\0\\0\\0\\0\\0\\xff\\x7f')\n"
                  "class Program(ctypes.Structure):\n _fields_ = [('count', ctypes.c_ushort), ('filter', ctypes.c_void_p)]\n"
                  "program = Program(1, ctypes.addressof(filter))\nassert libc.prctl(38, 1, 0, 0, 0) == 0\n"
                  "assert libc.prctl(22, 2, ctypes.byref(program), 0, 0) == 0\n") + SCRIPT
        target = Process(self, [interpreters()[0], "-c", script], env=ENVIRONMENT).expect_ready()
        before = code_of(target.pid)
        trace = attach(self, target.pid)
        self.one_round(target)
        report = trace.finish_trace()
        self.assertIn(b"its native allocators are traced", trace.err.data)
        self.assertGreater(len(self.large(report)), 0)
        self.assert_code_unchanged(target.pid, before)
        self.one_round(target)

    def test_launch(self):
        path = self.script(f"kept = bytes({SIZE})\nimport os\nos._exit(5)\n")
        trace = launch(self, one_of(7), path, env=ENVIRONMENT)
        report = trace.finish_trace(None, status=5)
        self.assertIn(b"its version 3.7 is not known", trace.err.data)
        self.assertGreater(len(self.large(report)), 0)


# A round of each domain's work. Other threads allocate with and without the interpreter's lock (zlib takes its buffers from the raw
# allocator while it is released).
BOTH = """
import ctypes, json, sys, threading, zlib
libc = ctypes.CDLL(None)
for name, arguments in (("malloc", [ctypes.c_size_t]), ("realloc", [ctypes.c_void_p, ctypes.c_size_t]), ("free", [ctypes.c_void_p])):
    getattr(libc, name).restype = ctypes.c_void_p
    getattr(libc, name).argtypes = arguments
def native():
    blocks = [libc.malloc(10007) for _ in range(40)]
    blocks[0] = libc.realloc(blocks[0], 20011)
    for block in blocks[30:]:
        libc.free(block)
    return blocks[:30]
def python():
    text = json.dumps([{"name": str(i), "values": list(range(20))} for i in range(100)])
    return json.loads(text), [bytes(size) for size in range(1, 5000, 50)], zlib.compress(text.encode() * 10)
def forever():
    while True:
        begin.acquire()
        python()
        end.release()
begin, end = threading.Semaphore(0), threading.Semaphore(0)
count = int(sys.argv[1])
for _ in range(count):
    threading.Thread(target=forever, daemon=True).start()
def work():
    for _ in range(count): begin.release()
    result = native(), python()
    for _ in range(count): end.acquire()
    return result
kept = [work()]
print("ready", flush=True)
for line in sys.stdin:
    kept.append(work())
    print("done", flush=True)
"""
NATIVE = {"allocations": 41, "allocated": 40 * 10007 + 20011, "frees": 11, "unknown_frees": 0, "failed": 0, "blocks": 30,
          "current": 29 * 10007 + 20011}


class Both(Domains):
    def start(self, python, threads=0, **environment):
        argv = ["setarch", "-R", python, "-c", BOTH, str(threads)]
        return Process(self, argv, env={**ENVIRONMENT, **environment}).expect_ready()

    def traced_round(self, target, domain, *options):
        trace = attach(self, target.pid, "--domain", domain, *options)
        self.one_round(target)
        report = trace.finish_trace()
        self.assertEqual(report.totals["lost"], 0)
        self.assert_untraced(target.pid)
        return report

    def domains_of(self, report, *options):
        return {domain["name"]: domain for domain in report.load(*options)["domains"]}

    def check_native(self, report):
        totals = self.domains_of(report)["native"]
        self.assertEqual({key: totals[key] for key in NATIVE}, NATIVE)
        self.assertEqual(totals["domain"], 1)

    def test_what_the_interpreter_takes_from_malloc_is_no_native_event(self):
        """With PYTHONMALLOC=malloc every object is a block of malloc."""
        for python in interpreters():
            for allocator in ("malloc", "pymalloc", "malloc_debug") if python == interpreters()[-1] else ("malloc",):
                with self.subTest(python=python, allocator=allocator):
                    target = self.start(python, PYTHONMALLOC=allocator)
                    before = code_of(target.pid)
                    report = self.traced_round(target, "both")
                    self.check_native(report)
                    self.assertGreater(report.totals["allocations"], 500)
                    self.assert_code_unchanged(target.pid, before)
                    self.one_round(target)

    def test_threads(self):
        for python in interpreters():
            with self.subTest(python=python):
                target = self.start(python, 3, PYTHONMALLOC="malloc")
                self.check_native(self.traced_round(target, "both"))

    def test_each_domain_by_itself(self):
        report = self.traced_round(self.start(interpreters()[0]), "both")
        everything = report.load("--group-by", "traceback")
        self.assertEqual([(d["domain"], d["name"]) for d in everything["domains"]], [(0, "python"), (1, "native")])
        self.assertEqual(everything["probe"], "slot, breakpoint")
        for number, name in enumerate(("python", "native")):
            for key in (name, number):
                alone = report.load("--group-by", "traceback", "--domain", key)
                self.assertEqual(alone["statistics"], [s for s in everything["statistics"] if s["domain"] == number])
                self.assertEqual([d["name"] for d in alone["domains"]], [name])
                self.assertEqual(sum(s["size"] for s in alone["statistics"]), alone["totals"]["current"])
                held = report.query("SELECT sum(size) FROM top WHERE domain = ?", number)
                self.assertEqual(held, [(alone["totals"]["current"],)])
        native = report.load("--group-by", "traceback", "--domain", "native")
        self.assertGreater(max(len(s["traceback"]) for s in native["statistics"]), 5, "nframe is 64 there")
        text = report.run("--limit", 3)
        self.assertRegex(text, r"(?s)\nDomain 0, python\nTop 3 lines\n.*\ncurrent: .*\n\nDomain 1, native\nTop 3 lines\n.*\ncurrent: ")
        self.assertNotIn("Domain", report.run("--domain", "native"))
        done = run_tmtrace("report", report.path, "--domain", "perl")
        self.assertEqual((done.returncode, "has no domain 'perl': it has python,native" in done.stderr), (2, True))

    def test_snapshots_have_both(self):
        target = self.start(interpreters()[0])
        trace = attach(self, target.pid, "--domain", "both")
        trace.signal(signal.SIGUSR1)
        self.assertTrue(trace.err.wait_for(b" blocks, native 0 B in 0 blocks\n", 20), trace.err.data)
        self.one_round(target)
        report = trace.finish_trace()
        self.assertEqual(self.domains_of(report, "--at", "1")["native"]["allocations"], 0)
        self.assertEqual(self.domains_of(report, "--at", "peak").keys(), {"python", "native"})
        self.check_native(report)

    def test_launch(self):
        script = self.script("import ctypes, os\nmalloc = ctypes.CDLL(None).malloc\ndef make():\n    return malloc(10007), bytes(10009)\n"
                             "kept = [make() for _ in range(3)]\nos._exit(6)\n")
        for python in interpreters():
            with self.subTest(python=python):
                trace = launch(self, python, script, options=("--domain", "both"), env=ENVIRONMENT)
                report = trace.finish_trace(None, status=6)
                self.assertEqual(report.query("SELECT domain, count(*) FROM block WHERE size = 10007 GROUP BY domain"), [(1, 3)])
                lines = [s for s in report.load("--domain", "python")["statistics"] if s["size"] > 3 * 10009]
                self.assertIn(("make", 4), [(s["traceback"][0]["function"], s["traceback"][0]["lineno"]) for s in lines])

    def test_memory_that_a_library_tells_tracemalloc_of(self):
        """It has domains of its own, and Python frames."""
        script = ("import ctypes, sys\nfunction = ctypes.pythonapi.PyTraceMalloc_Track\nfunction.argtypes = [ctypes.c_uint, ctypes.c_size_t, ctypes.c_size_t]\n"
                  "def make():\n    function(389047, 0x1000, 10007)\nprint('ready', flush=True)\nfor line in sys.stdin:\n    make()\n    print('done', flush=True)\n")
        for nframe in (1, 64):
            target = Process(self, [interpreters()[-1], "-c", script], env=ENVIRONMENT).expect_ready()
            report = self.traced_round(target, "both", "--nframe", nframe)
            told = report.load("--domain", 389047, "--group-by", "traceback")["statistics"]
            self.assertEqual([(s["size"], s["traceback"][0]["function"], s["traceback"][0]["lineno"]) for s in told], [(10007, "make", 5)])

    def test_children(self):
        """A forked child goes on without pads and breakpoints; one that shares the memory until its exec has them till then."""
        script = ("import os, subprocess, sys\nprint('ready', flush=True)\nsys.stdin.readline()\nfor i in range(10):\n pid = os.fork()\n if not pid:\n"
                  "  x = [str(j) * 1000 for j in range(300)]; os._exit(7)\n assert os.WEXITSTATUS(os.waitpid(pid, 0)[1]) == 7\n"
                  " subprocess.run(['/bin/true'], check=True)\nprint('fine', flush=True)\n")
        for python in (interpreters()[0], interpreters()[-1]):
            with self.subTest(python=python):
                target = Process(self, [python, "-c", script], env=ENVIRONMENT).expect_ready()
                trace = attach(self, target.pid, "--domain", "both")
                target.send()
                self.assertEqual(target.line(60), "fine")
                report = trace.finish_trace(None)
                self.assertEqual((report.json["target"]["ended"], report.totals["lost"]), ("exited", 0))
                self.assertEqual(target.wait(), 0)

    def test_cycles_under_load(self):
        script = ("import json, sys, threading, zlib\ndef forever():\n while not done: counts.append(len(zlib.compress(json.dumps([{'a': i} for i in range(50)]).encode())))\n"
                  "counts, done = [], False\nthreads = [threading.Thread(target=forever) for _ in range(3)]\n"
                  "for thread in threads: thread.start()\nprint('ready', flush=True)\n"
                  "for line in sys.stdin:\n print(len(counts), flush=True)\ndone = True\nfor thread in threads: thread.join()\nprint('fine', flush=True)\n")
        for python in (interpreters()[0], interpreters()[-1]):
            with self.subTest(python=python):
                target = Process(self, [python, "-c", script], env=ENVIRONMENT).expect_ready()
                before = code_of(target.pid)
                for _ in range(6):
                    trace = attach(self, target.pid, "--domain", "both")
                    done = self.rounds(target)
                    while self.rounds(target) == done:
                        pass
                    report = trace.finish_trace()
                    self.assertEqual(report.totals["lost"], 0)
                    self.assertGreater(report.totals["allocations"], 0)
                    self.assert_code_unchanged(target.pid, before)
                target.popen.stdin.close()
                self.assertEqual(target.line(60), "fine")
                self.assertEqual(target.wait(), 0)

    def rounds(self, target):
        target.send()
        return int(target.line(60))

    def test_no_interpreter(self):
        done = run_tmtrace("-o", os.path.join(self.directory(), "none.tmt"), "--domain", "both", "/bin/true")
        self.assertEqual(done.returncode, 2)
        self.assertIn("no CPython interpreter", done.stderr)


if __name__ == "__main__":
    main()

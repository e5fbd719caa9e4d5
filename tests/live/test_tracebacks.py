"""Tracebacks: exact functions and lines, the same frames as libdwfl's walk."""

import json
import os
import subprocess

from support import LiveTest, attach, main, start_ready
from support.environment import FIXTURES, bound, fixture, program
from support.process import Process


def matches(frames, expected):
    """Does the traceback begin with the expected [function, lineno]s? ["*", 0]: any frames; lineno 0: any line."""
    if not expected:
        return True
    if expected[0][0] == "*":
        return any(matches(frames[skipped:], expected[1:]) for skipped in range(len(frames) + 1))
    if not frames:
        return False
    function, lineno = expected[0]
    if frames[0]["function"] != function or lineno not in (0, frames[0]["lineno"]):
        return False
    return matches(frames[1:], expected[1:])


def shown(frames):
    return [(frame["function"], frame["lineno"], os.path.basename(frame["module"] or "")) for frame in frames]


class Expected(LiveTest):
    def trace_frames(self, argv, *options):
        """Runs frames under an attached tmtrace: the report, and what the fixture expects {size: frames}."""
        target = Process(self, [*argv, "expected"]).expect_ready()
        trace = attach(self, target.pid, *options)
        target.send()
        expected = {}
        while (line := target.line()) != "end":
            expected |= json.loads(line)
        report = trace.finish_trace()
        target.finish()
        return report, expected

    def check(self, report, expected):
        for size, frames in expected.items():
            with self.subTest(size=size, innermost=frames[0][0]):
                traceback = report.traceback_of(int(size))
                self.assertTrue(matches(traceback, frames), f"{shown(traceback)} is not {frames}")

    def test_each_line_of_known_stacks(self):
        # Inlined calls, callbacks out of libc, signal handlers, frames without CFI, large frames, threads, wrappers.
        for build in ("frames-O0", "frames-O2"):
            report, expected = self.trace_frames([fixture(build)])
            self.check(report, expected)
            self.assertEqual(os.path.basename(report.traceback_of(10007)[0]["filename"]), "frames.c")
            self.assertEqual(report.load()["fp_frames"], 1, "nocfi_call's caller")
            self.assertIn("1 frames passed by the frame pointer", report.run())

    def test_static_and_non_pie_programs(self):
        for build in ("frames-static", "frames-no-pie"):
            self.check(*self.trace_frames([fixture(build)]))

    def test_stacks_end_at_the_outermost_frame(self):
        for build in ("frames-O0", "frames-O2"):
            report, _ = self.trace_frames([fixture(build)])
            for size, last in ((10007, "_start"), (10103, "clone3")):
                functions = [frame["function"] for frame in report.traceback_of(size)]
                self.assertIn(last, functions[-1] or "", functions)
            self.assertEqual(report.query("SELECT count(*) FROM traceback WHERE cut <> ''"), [(0,)])

    def test_a_debug_file_beside_the_program(self):
        self.check(*self.trace_frames([fixture("stripped/frames")]))

    def test_without_debug_information_the_module_is_the_file(self):
        report, _ = self.trace_frames([fixture("stripped/frames-without-debug")])
        frame = report.traceback_of(10007)[0]
        self.assertEqual((frame["lineno"], frame["filename"]), (0, frame["module"]))

    def test_wrappers_do_not_own_a_line(self):
        report, expected = self.trace_frames([fixture("frames-O2")], "--skip", "my_x*")
        lineno = expected["10079"][1][1]
        owners = {(os.path.basename(statistic["traceback"][0]["filename"]), statistic["traceback"][0]["lineno"])
                  for statistic in report.load("--group-by", "lineno")["statistics"] if statistic["size"] == 10079}
        self.assertEqual(owners, {("frames.c", lineno)})
        self.assertTrue(matches(report.traceback_of(10079), expected["10079"]), "traceback shows all")

    def test_cxx_names_and_lines_below_operator_new(self):
        for build in ("cxx-O0", "cxx-O2"):
            with self.subTest(build):
                target = start_ready(self, build, "frames")
                trace = attach(self, target.pid)
                target.send()
                expected = target.json()
                report = trace.finish_trace()
                frames = report.traceback_of(10007)  # operator new is the outermost call: frame 0 is its caller
                self.assertTrue(matches(frames, [expected["10007"]]), shown(frames))
                # The vector's allocation goes through inlined or real functions of libstdc++: they are no wrappers.
                frames = report.traceback_of(10009)
                self.assertTrue(matches(frames, [["*", 0], expected["10009"]]), shown(frames))
                self.assertIn("shop::shelf<char>::fill", str(report.load("--group-by", "lineno")["statistics"]))
                target.finish()

    def test_the_limit_keeps_the_total(self):
        for build in ("frames-O0", "frames-O2"):
            with self.subTest(build):
                target = start_ready(self, build, "deep", 100)
                trace = attach(self, target.pid, "--nframe", 10)
                target.send()
                target.json()
                report = trace.finish_trace()
                self.assertEqual(len(report.traceback_of(10007)), 10)
                # descend 100 times, main, __libc_start_call_main, __libc_start_main, _start
                totals = report.query("SELECT DISTINCT total_nframe FROM traceback WHERE cut = 'limit'")
                self.assertEqual(max(totals), (104,))
                target.finish()

    def test_stacks_deeper_than_a_capture(self):
        target = start_ready(self, "frames-O2", "deep", 5000)
        trace = attach(self, target.pid, "--nframe", 65535)
        target.send()
        target.json()
        traceback = trace.finish_trace().traceback_of(10007)
        self.assertEqual(sum(frame["function"] == "descend" for frame in traceback), 5000)
        target.finish()

    def test_a_debug_file_under_the_targets_own_root(self):
        # By build-id, in a root of its own, where the program has another path than outside.
        if os.geteuid() != 0:
            self.skipTest("chroot: needs root")
        root = self.directory()
        whole = fixture("frames-static")
        build_id = self.build_id(whole)
        debug = os.path.join(root, "usr/lib/debug/.build-id", build_id[:2])
        os.makedirs(debug)
        self.objcopy("--only-keep-debug", whole, f"{debug}/{build_id[2:]}.debug")
        self.objcopy("--strip-all", whole, f"{root}/frames")
        self.check(*self.trace_frames([program("chroot"), root, "/frames"]))

    @staticmethod
    def objcopy(*arguments):
        subprocess.run([program("objcopy"), *arguments], check=True)

    def build_id(self, path):
        directory = self.directory()
        note = os.path.join(directory, "note")
        self.objcopy(f"--dump-section=.note.gnu.build-id={note}", path, os.path.join(directory, "copy"))
        with open(note, "rb") as file:
            return file.read()[16:].hex()


class Walks(LiveTest):
    """Our walk and dwfl_thread_getframes, of every thread, at many moments."""

    def compare(self, pid, moments=50):
        tool = os.path.join(os.path.dirname(FIXTURES), "tests", "compare_walks")
        if not os.path.exists(tool):
            self.fail(f"{tool} is not built")
        done = subprocess.run([tool, str(pid), str(moments)], capture_output=True, text=True, timeout=bound(120))
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        told = json.loads(done.stdout)
        self.assertGreater(told["frames"], 0)
        self.assertEqual(told["differences"], 0, done.stderr)
        self.assertLess(told["oracle_failures"], told["walks"] / 2, done.stderr)

    def test_every_fixture(self):
        plugin = fixture("plugin.so")
        fixtures = (
            ("calls",), ("threads",), ("births",), ("cxx", "operators"), ("leave", "longjmp"), ("signals", "timer"),
            ("follow", "fork"), ("frames", "expected"), ("dlopen", plugin), ("torture", plugin), ("loop",),
            ("seccomp", "sandbox"),
        )
        for name, *arguments in fixtures:
            for build in (f"{name}-O0", f"{name}-O2"):
                with self.subTest(build):
                    target = start_ready(self, build, *arguments)
                    self.compare(target.pid, 5)
                    target.kill()

    def test_a_running_program(self):
        target = start_ready(self, "loop-O2", 4)
        self.compare(target.pid, 100)
        target.send()
        self.assertEqual(target.wait(), 0)

    def test_python(self):
        script = "import json\nprint('ready', flush=True)\nwhile True: json.dumps([1] * 100)"
        target = Process(self, [program("python3"), "-c", script])
        self.compare(target.expect_ready().pid)

    def test_perl(self):
        script = '$| = 1; print "ready\\n"; while (1) { my %h = map { $_, "x" x $_ } 1 .. 100; }'
        target = Process(self, [program("perl"), "-e", script])
        self.compare(target.expect_ready().pid)

    def test_sqlite3(self):
        target = Process(self, [program("sqlite3"), ":memory:"])
        target.send(b"select 'ready';\n")
        target.expect_ready()
        target.send(b"with recursive c(x) as (select 1 union all select x + 1 from c) select count(hex(x)) from c;\n")
        self.compare(target.pid)


if __name__ == "__main__":
    main()

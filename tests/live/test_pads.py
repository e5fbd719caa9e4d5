"""Native pads that record: the same numbers and tracebacks as the breakpoints', nothing lost, nothing stopped, and what is done where they
cannot be.

TM_PROBE names the probe that is tested: pad (without it), auto, or breakpoint, which is the reference: with it these tests test
themselves, with smaller numbers, and what is true of pads alone is skipped. test_pads_torture.py has what is rough.
"""

import collections
import json
import os
import platform
import re
import resource
import signal
import sys
import unittest

from support import LONG, LiveTest, attach, code_of, launch, main, run_tmtrace, start_ready
from support.case import TOTALS
from support.counting import FIXED_LAYOUT, fixed_environment
from support.environment import fixture, program
from support.memory import executable_mappings
from support.process import Process, Target, status_field
from support.tracer import ERROR
from support.uprobe import Uprobe, symbol
from test_totals import PERL, PYTHON, SQL, make_repository

PROBE = os.environ.get("TM_PROBE", "pad")
REFERENCE = "breakpoint"
RECORDS = PROBE != REFERENCE
PROBES = ("pad", REFERENCE, "auto") if RECORDS else (REFERENCE,)
NATIVE = ("--domain", "native", "--probe")
ALL_TOTALS = (*TOTALS, "peak", "peak_blocks")
INT3, RETURN, JUMP, JUMP_SIZE = 0xCC, 0xC3, 0xE9, 5

only_pads = unittest.skipUnless(RECORDS, "true of pads only")
only_x86_64 = unittest.skipUnless(platform.machine() == "x86_64", "the fixture's instructions are x86-64's")


def scaled(count):
    """So many events; fewer where each of them stops its thread."""
    return count if RECORDS else max(count // 500, 4)


def code_of_files(pid):
    """What code_of gives, as the files have it."""
    code = {}
    with open(f"/proc/{pid}/maps") as maps:
        offsets = {int(line.split("-")[0], 16): int(line.split()[2], 16) for line in maps}
    for start, end, path in executable_mappings(pid):
        with open(path, "rb") as file:
            file.seek(offsets[start])
            code[start, path] = file.read(end - start).ljust(end - start, b"\0")
    return code


def replaced(before, now):
    """{address: first byte} of the instructions that stand where others stood. A jump's distance may hold any byte."""
    found = {}
    for key in before.keys() & now.keys():
        if before[key] == now[key]:
            continue
        end = 0
        for at, (old, new) in enumerate(zip(before[key], now[key])):
            if old != new and at >= end:
                found[key[0] + at] = new
                end = at + (JUMP_SIZE if new == JUMP else 1)
    return found


class PadTest(LiveTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        if RECORDS and platform.machine() != "x86_64":
            raise unittest.SkipTest("native calls are not recorded on other machines yet")

    def attach(self, pid, *options, probe=PROBE, **more):
        trace = attach(self, pid, *NATIVE, probe, *options, **more)
        if probe == "pad":
            self.assert_no_breakpoint(pid)
        return trace

    def assert_no_breakpoint(self, pid):
        """But in functions that are too short for a jump, as bump.h's free is."""
        files = code_of_files(pid)
        found = [address for address, byte in replaced(files, code_of(pid)).items() if byte == INT3]
        for (start, path), bytes_of_file in files.items():
            own = [address - start for address in found if 0 <= address - start < len(bytes_of_file)]
            self.assertEqual([hex(at) for at in own if RETURN not in bytes_of_file[at : at + JUMP_SIZE]], [], f"breakpoints in {path}")

    def launch(self, *command, options=(), probe=PROBE, **more):
        return launch(self, *command, options=[*NATIVE, probe, *options], **more)

    def finish(self, trace, *arguments, probe=PROBE, **more):
        """The report: of the probe that was asked for, and nothing is lost."""
        report = trace.finish_trace(*arguments, **more)
        self.assert_probe(report, probe)
        self.assertEqual(report.totals["lost"], 0)
        return report

    def assert_probe(self, report, probe=PROBE):
        """Pads that stopped instead, or were not there at all, would pass every other test."""
        said = report.json["probe"]
        self.assertEqual("pad" in said, probe != REFERENCE, f"--probe {probe}: the report says {said}")

    def assert_code_is_the_files(self, pid):
        self.assert_code_unchanged(pid, code_of_files(pid))

    def assert_live_sizes(self, report, expected):
        """So many live blocks of each size, of those of 10007 bytes and more."""
        found = collections.Counter(size for _, size in report.blocks(10007))
        self.assertEqual(found, collections.Counter({size: count for size, count in expected.items() if count}))


# ---- the same as breakpoints ----

# Each is deterministic, by one thread. What the fixture says last matches the expression.
LAST = re.compile(r'"current"|^end$|"facts"|"depth"|"loads"|"iterations"')
FIXTURES = (
    ("calls",), ("cxx", "operators"), ("frames", "expected"), ("frames", "deep", "100"), ("inside", "backtrace"), ("inside", "handler"),
    ("leave", "longjmp"), ("leave", "realloc"), ("signals", "nested"), ("signals", "altstack"), ("dlopen", "plugin.so"),
    ("dlopen", "plugin-own.so"), ("storm", "mixed", "1", "37", "20"), ("storm", "throws", "1", "20", "10"), ("storm", "tide", "1", "70", "2"),
    ("stacks", "twins"), ("stacks", "shuffled"), ("stacks", "moving"), ("stacks", "below"), ("stacks", "coroutines"),
    ("stacks", "relay", "layer-left.so", "layer-right.so"),
    *([("stacks", "jit")] if platform.machine() == "x86_64" else []),
)


class Same(PadTest):
    """A run under pads and one under breakpoints: every total, and every traceback with what it held at the end and at the peak."""

    def compare(self, run, smallest=1):
        """run(probe) gives a report."""
        ours, reference = run(PROBE), run(REFERENCE)
        self.assert_probe(ours)
        self.assert_probe(reference, REFERENCE)
        self.assertGreaterEqual(reference.totals["allocations"], smallest)
        for report in (ours, reference):
            self.assertEqual(report.totals["lost"], 0)
        self.assertEqual({key: ours.totals[key] for key in ALL_TOTALS}, {key: reference.totals[key] for key in ALL_TOTALS})
        for at in ("end", "peak"):
            self.assert_same_groups(self.groups(ours, at), self.groups(reference, at), at)
        return ours

    @staticmethod
    def groups(report, at):
        """{traceback: (bytes, blocks)}, frame by frame."""
        loaded = report.load("--group-by", "traceback", "--at", at)
        groups = {}
        for group in loaded["statistics"]:
            frames = tuple((frame["module"], frame["offset"], frame["function"], frame["filename"], frame["lineno"])
                           for frame in group["traceback"])
            key = (group["domain"], group["total_nframe"], group["cut"], frames)
            size, count = groups.get(key, (0, 0))
            groups[key] = (size + group["size"], count + group["count"])
        return groups

    def assert_same_groups(self, ours, reference, at):
        """Says one difference of each kind rather than all of both."""
        def shown(keys, groups):
            return [(groups[key], key[1:3], [f"{frame[2]} {os.path.basename(frame[0] or '')}+{frame[1]:#x}" for frame in key[3]])
                    for key in sorted(keys, key=str)[:2]]

        more, fewer = ours.keys() - reference.keys(), reference.keys() - ours.keys()
        if more or fewer:
            self.fail(f"at {at}: {len(more)} tracebacks of {PROBE} alone, first {shown(more, ours)}; "
                      f"{len(fewer)} of {REFERENCE} alone, first {shown(fewer, reference)}")
        other = {key for key in ours if ours[key] != reference[key]}
        if other:
            self.fail(f"at {at}: {len(other)} tracebacks hold something else: {PROBE} {shown(other, ours)}, "
                      f"{REFERENCE} {shown(other, reference)}")

    def compare_fixture(self, name, *arguments, options=(), probe=PROBE):
        def run(how):
            target = Target(self, name, *arguments, prefix=FIXED_LAYOUT, env=fixed_environment()).expect_ready()
            trace = self.attach(target.pid, *options, probe=probe if how == PROBE else how)
            target.send(b"n")
            while not LAST.search(target.line(60)):
                pass
            report = trace.finish_trace()
            self.assert_code_is_the_files(target.pid)
            target.kill()
            return report

        return self.compare(run)

    def compare_program(self, argv, stdin=b"", environment=None):
        def run(probe):
            trace = self.launch(*argv, probe=probe, prefix=FIXED_LAYOUT, env=fixed_environment(**environment or {}), options=["--quiet"])
            trace.send(stdin)
            trace.popen.stdin.close()
            trace.popen.stdin = None
            report = trace.finish_trace(None, 120)
            outputs.append(trace.out.text())
            return report

        outputs = []
        self.compare(run, 100)
        self.assertEqual(outputs[0], outputs[1])

    def test_fixtures_attached(self):
        """Both builds of each; in the short form the frame-pointer build of some."""
        for name, *arguments in FIXTURES:
            arguments = [fixture(word) if word.endswith(".so") else word for word in arguments]
            for build in ("O0", "O2") if LONG or name in ("calls", "cxx", "frames", "storm") else ("O2",):
                with self.subTest(f"{name}-{build}", arguments=arguments):
                    self.compare_fixture(f"{name}-{build}", *arguments)

    def test_other_linkage(self):
        for build in ("calls-static", "calls-static-pie", "calls-no-pie", "frames-static", "frames-no-pie"):
            with self.subTest(build):
                self.compare_fixture(build, *["expected"] * build.startswith("frames"))

    def test_one_frame_and_all_of_them(self):
        for options in (["--nframe", 1], ["--nframe", 65535]):
            self.compare_fixture("frames-O2", "expected", options=options)
            self.compare_fixture("stacks-O2", "below", options=options)

    def test_stacks_deeper_than_a_record(self):
        report = self.compare_fixture("frames-O2", "deep", 5000, options=["--nframe", 65535])
        self.assertEqual(sum(frame["function"] == "descend" for frame in report.traceback_of(10007)), 5000)

    def test_sqlite3(self):
        self.compare_program([program("sqlite3"), ":memory:"], SQL)

    def test_git_log(self):
        path = make_repository(self.directory())
        self.compare_program([program("git"), "-C", path, "--no-pager", "log", "-p"])

    def test_perl(self):
        self.compare_program([program("perl"), "-e", PERL])

    def test_sort(self):
        """In runs that go to files, which are merged."""
        lines = "".join(f"{number * 7919 % 10007} line {number}\n" for number in range(2000))
        self.compare_program([program("sort"), "--parallel=1", "-S", "1k", "--batch-size=3", "-T", self.directory(), "-k", "1n"], lines.encode())

    def test_cmake(self):
        script = os.path.join(self.directory(), "script.cmake")
        with open(script, "w") as file:
            file.write('set(list "")\nforeach(i RANGE 40)\n  list(APPEND list "item ${i}")\nendforeach()\n'
                       'list(SORT list)\nstring(REGEX REPLACE "item ([0-9]+)" "<\\\\1>" text "${list}")\nmessage("${text}")\n')
        self.compare_program([program("cmake"), "-P", script])

    def test_python_on_malloc(self):
        self.compare_program([program("python3"), "-S", "-c", PYTHON], environment={"PYTHONMALLOC": "malloc"})

    def test_operators_of_other_allocators(self):
        """Which have fast paths of their own."""
        for build in ("jemalloc", "tcmalloc"):
            with self.subTest(build):
                self.compare_fixture(f"cxx-{build}", "operators", probe="auto")
                self.compare_fixture(f"storm-{build}", "news", 1, 10, 500, probe="auto")

    def test_cxx_containers_and_exceptions(self):
        for build in ("cxx-O0", "cxx-O2"):
            with self.subTest(build):
                self.compare_program([fixture(build), "stl"])


# ---- not one more, not one less ----


class Exact(PadTest):
    """The fixture counts for itself."""

    def storm(self, build, kind, threads, depth, count, allocations, *options, rounds=2, probe=PROBE):
        """Rounds, each of so many allocations and as many frees."""
        target = start_ready(self, build, kind, threads, depth, count)
        trace = self.attach(target.pid, *options, probe=probe)
        total = collections.Counter()
        for _ in range(rounds):
            target.send(b"n")
            ledger = target.json(120)
            self.assertEqual((ledger["allocations"], ledger["frees"]), (allocations, allocations))
            total.update(ledger)
        report = self.finish(trace)
        self.assert_totals(report, total)
        self.assert_code_is_the_files(target.pid)
        target.finish()
        return report

    def check(self, kind, threads, depth, count, each=1, builds=("O0", "O2"), **more):
        """`count` allocations of all threads together, `each` an iteration."""
        for build in builds:
            with self.subTest(build, kind=kind, threads=threads, depth=depth):
                iterations = count // threads // each
                self.storm(f"storm-{build}", kind, threads, depth, iterations, iterations * threads * each, **more)

    def test_a_million_pairs(self):
        self.check("pairs", 1, 37, scaled(1_000_000))

    def test_a_million_pairs_by_four_threads(self):
        self.check("pairs", 4, 37, scaled(1_000_000))

    def test_deep(self):
        builds = ("O0", "O2") if LONG else ("O2",)  # of a million each
        self.check("pairs", 1, 3000, scaled(1_000_000), builds=builds, rounds=1)
        self.check("pairs", 4, 3000, scaled(1_000_000), builds=builds, rounds=1)

    def test_every_kind_of_call(self):
        self.check("mixed", 1, 37, scaled(1_000_000), each=8)
        self.check("mixed", 4, 37, scaled(1_000_000), each=8)
        self.check("mixed", 4, 3000, scaled(100_000), each=8)

    def test_bad_alloc(self):
        self.check("throws", 1, 37, scaled(100_000) // 10)
        self.check("throws", 4, 37, scaled(100_000) // 10)

    def test_operator_new(self):
        """Where it does not come to malloc: most calls stop nowhere, some do, and some throw."""
        for build in ("O2", "jemalloc", "tcmalloc"):
            with self.subTest(build):
                self.storm(f"storm-{build}", "news", 1, 5, 20_000, 80_000, probe="auto")
                self.storm(f"storm-{build}", "news", 4, 5, 3_000, 48_000, probe="auto")

    def test_a_block_in_each_frame(self):
        """At the peak every depth holds one block; deeper than a recorder's own tables are."""
        for build, depths in (("storm-O0", (100,)), ("storm-O2", (100, 4500))):
            for depth in depths:
                with self.subTest(build, depth=depth):
                    report = self.storm(build, "tide", 1, depth, 2, 2 * depth, "--nframe", 65535)
                    self.assertEqual((report.totals["peak"], report.totals["peak_blocks"]), (87 * depth, depth))
                    rows = report.query("SELECT traceback.depth, traceback.total_nframe, size, count, cut FROM statistic"
                                        " JOIN traceback ON traceback.id = statistic.traceback"
                                        " JOIN snapshot ON snapshot.id = statistic.snapshot AND name = 'peak' ORDER BY 1")
                    first = rows[0][0]
                    self.assertEqual(rows, [(first + number, first + number, 87, 1, "") for number in range(depth)])

    def test_blocks_that_one_thread_makes_and_another_frees(self):
        for build in ("threads-O0", "threads-O2"):
            for threads in (4, 40):
                with self.subTest(build, threads=threads):
                    target = start_ready(self, build, threads, scaled(200_000) // threads)
                    trace = self.attach(target.pid)
                    target.send()
                    ledger = target.json(120)
                    self.assert_totals(self.finish(trace), ledger)
                    target.finish()

    def test_the_target_is_killed(self):
        """What its threads had written is read all the same."""
        for build in ("calls-O0", "calls-O2"):
            with self.subTest(build):
                target = start_ready(self, build)
                trace = self.attach(target.pid)
                target.send()
                ledger, live = target.json(), target.json()
                target.signal(signal.SIGKILL)
                report = self.finish(trace, None)
                self.assertEqual(report.json["target"]["ended"], "killed")
                self.assert_totals(report, ledger)
                self.assert_live(report, live)

    def test_the_target_ends_at_once(self):
        """Before anybody looked at what it wrote: the counts of its last round are there."""
        trace = self.launch(fixture("storm-O2"), "pairs", 1, 5, scaled(10_000))
        trace.send(b"nx")
        report = self.finish(trace, None)
        ledger = json.loads(trace.out.text().splitlines()[1])
        before = report.totals["allocations"] - ledger["allocations"]  # of the C++ library, and a thrown object
        self.assertTrue(0 <= before < 10, before)
        self.assertLessEqual(ledger["frees"], report.totals["frees"])

    def test_a_snapshot_holds_what_was_told_before_it(self):
        for build in ("calls-O0", "calls-O2"):
            with self.subTest(build):
                target = start_ready(self, build)
                trace = self.attach(target.pid)
                target.send()
                ledger, live = target.json(), target.json()
                trace.signal(signal.SIGUSR1)
                if not trace.err.wait_for(b"tmtrace: snapshot 1 taken", 20):
                    trace.fail("took no snapshot")
                report = self.finish(trace)
                held = report.load("--at", 1, "--group-by", "traceback")
                self.assertEqual({key: held["totals"][key] for key in TOTALS}, {key: ledger[key] for key in TOTALS})
                self.assert_live(report, live)
                target.finish()


class Stacks(PadTest):
    """Each traceback, function by function, where a stack changes under a recorder's feet."""

    def check(self, mode, *arguments):
        for build in ("stacks-O0", "stacks-O2"):
            with self.subTest(build):
                target = start_ready(self, build, mode, *arguments)
                trace = self.attach(target.pid)
                target.send()
                expected = []
                while "facts" not in (line := target.json()):
                    expected.append(line)
                self.assertGreater(line["facts"], 30, "what is to be tested came up")
                report = self.finish(trace)
                for one in expected:
                    self.assert_held(report, **one)
                target.finish()

    def assert_held(self, report, size, count, functions):
        """All blocks of a size have one traceback; it is the expected one, but for frames of the system's libraries."""
        groups = [group for group in report.statistics if group["count"] and group["size"] == size * group["count"]]
        self.assertEqual(sum(group["count"] for group in groups), count, f"blocks of {size} bytes")
        for group in groups:
            ours = [frame["function"] for frame in group["traceback"] if "/fixtures/" in (frame["module"] or "")]
            self.assertEqual(ours[: len(functions)], functions, f"traceback of {size} bytes")

    def test_one_return_address_far_above_differs(self):
        self.check("twins")

    def test_stacks_that_cannot_be_guessed(self):
        self.check("shuffled")

    def test_a_frame_far_above_changes_its_size(self):
        self.check("moving")

    def test_stacks_that_grow_and_shrink(self):
        self.check("below")

    @only_x86_64
    def test_code_without_cfi(self):
        self.check("jit")

    def test_stacks_of_the_programs_own(self):
        self.check("coroutines")

    def test_a_library_where_another_one_was(self):
        self.check("relay", fixture("layer-left.so"), fixture("layer-right.so"))


# ---- how it is done ----


class Records(PadTest):
    @only_pads
    def test_no_breakpoint_stands_anywhere(self):
        """Functions begin with jumps, and nothing else is changed: neither at first nor when a library has come."""
        for name, *arguments in (("loop-O2", 4), ("crowd-O2", "load", 5, fixture("plugin.so")), ("cxx-O2", "operators")):
            target = start_ready(self, name, *arguments)
            before = code_of(target.pid)
            trace = self.attach(target.pid)
            target.send(b"n")
            while not LAST.search(target.line(60)):
                pass
            self.assertEqual(set(replaced(before, code_of(target.pid)).values()), {JUMP})
            self.assert_no_breakpoint(target.pid)
            self.finish(trace)
            self.assert_code_unchanged(target.pid, before)
            self.assert_untraced(target.pid)
            target.kill()

    @only_pads
    def test_no_thread_stops(self):
        """A stop is a switch; a full ring is one now and then."""
        def switches():
            return sum(int(status_field(target.pid, f"{kind}_ctxt_switches")) for kind in ("voluntary", "nonvoluntary"))

        pairs = 1_000_000
        target = start_ready(self, "storm-O2", "pairs", 1, 37, pairs)
        trace = self.attach(target.pid)
        before = switches()
        target.send(b"n")
        target.json(120)
        self.assertLess(switches() - before, pairs / 20)
        self.finish(trace)
        target.finish()

    @only_pads
    def test_the_target_maps_its_pads_with_the_recorder(self):
        """Else it would stand still for longer, and nobody would see it. The second trace finds them."""
        target = start_ready(self, "calls-O2")
        said = []
        for _ in range(2):
            trace = self.attach(target.pid, "-v")
            self.finish(trace)
            said.append(re.findall(r"pads: mapped at 0x([0-9a-f]+) with the recorder|pads: using region 0x([0-9a-f]+)", trace.err.text()))
        (mapped, _), (_, used) = said[0][0], said[1][0]
        self.assertEqual([len(first) for first in said], [1, 1], said)
        self.assertEqual(mapped, used)
        self.assert_untraced(target.pid)
        target.kill()

    @only_pads
    def test_stacks_that_come_again_are_told_by_number(self):
        for build in ("storm-O0", "storm-O2"):
            with self.subTest(build):
                target = start_ready(self, build, "mixed", 2, 10, 1000)
                trace = self.attach(target.pid, "-v")
                target.send(b"n")
                target.json()
                trace.finish_trace()
                told = re.search(r"stacks of recorded calls: .*\(([\d.]+) %\) told by number", trace.err.text())
                self.assertGreater(float(told.group(1)), 50)
                target.finish()

    @only_pads
    def test_rings_are_neither_inherited_nor_dumped(self):
        target = start_ready(self, "calls-O2")
        trace = self.attach(target.pid)
        with open(f"/proc/{target.pid}/smaps") as smaps:
            rings = smaps.read().partition("/memfd:tmtrace")[2]
        flags = re.search(r"^VmFlags: (.*)$", rings, re.M).group(1).split()
        self.assertLessEqual({"dc", "dd"}, set(flags), "dontcopy, dontdump")
        trace.finish_trace()
        target.kill()

    @only_pads
    def test_a_target_that_locks_its_memory_does_not_hold_all_of_the_rings(self):
        """MCL_FUTURE: each mapping that comes is touched as a whole. They have gigabytes."""
        lock = "import ctypes, sys; print(ctypes.CDLL(None).mlockall(2), flush=True); sys.stdin.read()"
        target = Process(self, [sys.executable, "-c", lock])
        if target.line(20).strip() != "0":
            self.skipTest("memory may not be locked")
        for _ in range(2):
            trace = self.attach(target.pid)
            self.assertLess(int(status_field(target.pid, "RssShmem").split()[0]), 64 << 10)
            self.finish(trace)
        target.kill()

    def test_the_report_names_the_probe(self):
        for probe in PROBES:
            target = start_ready(self, "calls-O2")
            trace = self.attach(target.pid, probe=probe)
            target.send()
            target.json()
            self.assert_probe(trace.finish_trace(), probe)
            target.finish()

    def test_a_trace_by_the_one_then_by_the_other(self):
        """Each leaves the code as it was, and the next one sees every event."""
        target = start_ready(self, "storm-O2", "mixed", 2, 10, 100)
        for probe in PROBES * 2:
            trace = self.attach(target.pid, probe=probe)
            target.send(b"n")
            ledger = target.json()
            report = trace.finish_trace()
            self.assert_probe(report, probe)
            self.assert_totals(report, ledger)
            self.assert_code_is_the_files(target.pid)
        target.finish()


# ---- where it cannot be ----


class Sandboxed(PadTest):
    """Every thread has a filter that kills the process for mapping memory."""

    def sandboxed(self, check):
        for build in ("seccomp-O0", "seccomp-O2"):
            with self.subTest(build):
                target = start_ready(self, build, "sandbox")
                before = code_of(target.pid)
                check(target)
                self.assert_code_unchanged(target.pid, before)
                target.finish()

    @only_pads
    def test_pads_that_are_asked_for_are_an_error(self):
        def check(target):
            path = os.path.join(self.directory(), "refused.tmt")
            done = run_tmtrace("--attach", target.pid, "--duration", 1, "-o", path, *NATIVE, "pad")
            self.assertEqual(done.returncode, ERROR, done.stderr)
            self.assertIn("seccomp filter", done.stderr)
            self.assertFalse(os.path.exists(path), "a report was left behind")
            self.assert_untraced(target.pid)
            target.send()  # and it works
            self.assertEqual(target.json(60)["allocations"], 1000)

        self.sandboxed(check)

    @only_pads
    def test_else_breakpoints_are_used_and_that_is_said(self):
        def check(target):
            trace = self.attach(target.pid, probe="auto")
            target.send()
            ledger = target.json(60)
            report = trace.finish_trace()
            self.assert_totals(report, ledger)
            self.assert_probe(report, REFERENCE)
            said = [line for line in trace.err.text().splitlines() if "seccomp filter" in line]
            self.assertTrue(said, f"no reason: {trace.err.text()}")
            self.assertRegex("\n".join(said), r"breakpoint|stop", "which way it is done now")

        self.sandboxed(check)

    def test_breakpoints_that_are_asked_for_need_no_excuse(self):
        def check(target):
            trace = self.attach(target.pid, probe=REFERENCE)
            target.send()
            ledger = target.json(60)
            self.assert_totals(trace.finish_trace(), ledger)
            self.assertNotIn("seccomp filter", trace.err.text())

        self.sandboxed(check)


@only_x86_64
class Full(PadTest):
    """The target may open no further file, and so cannot make the rings."""

    @only_pads
    def test_what_it_cannot_make_is_said_and_nothing_is_left_of_the_rest(self):
        target = start_ready(self, "storm-O2", "mixed", 1, 10, 50)
        before = code_of(target.pid)
        limits = resource.prlimit(target.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(target.pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{target.pid}/fd")), limits[1]))
        path = os.path.join(self.directory(), "refused.tmt")
        done = run_tmtrace("--attach", target.pid, "--duration", 1, "-o", path, *NATIVE, "pad")
        self.assertEqual(done.returncode, ERROR, done.stderr)
        self.assertIn("cannot create a memory file for the recorder: Too many open files", done.stderr)
        self.assert_code_unchanged(target.pid, before)
        self.assert_untraced(target.pid)
        resource.prlimit(target.pid, resource.RLIMIT_NOFILE, limits)
        trace = self.attach(target.pid)
        target.send(b"n")
        ledger = target.json()
        self.assert_totals(trace.finish_trace(), ledger)
        target.finish()


class Foreign(PadTest):
    """Somebody else has changed malloc's first bytes: he keeps what he has, and tmtrace says what that means for malloc."""

    PROBE = "auto" if RECORDS else REFERENCE

    def start(self, build, mode):
        target = start_ready(self, build, mode)
        return target, self.attach(target.pid, "-v", probe=self.PROBE)

    def work(self, target):
        target.send()
        told, ledger = target.json(), target.json()
        self.assertEqual(told["hooked"], told["calls"], "the hook sees every call")
        return told, ledger

    def assert_foreign(self, target, told, size):
        """The hook's own bytes stand, behind them malloc's."""
        memory = os.open(f"/proc/{target.pid}/mem", os.O_RDONLY)
        self.addCleanup(os.close, memory)
        self.assertEqual(os.pread(memory, size, told["malloc"]).hex(), told["code"][: 2 * size])

    def after(self, target, before):
        """Nobody traces: the program and its hook go on."""
        told, _ = self.work(target)
        self.assertGreater(told["hooked"], before["hooked"])
        target.finish()

    def test_a_jump(self):
        for build in ("hooked-O0", "hooked-O2"):
            with self.subTest(build):
                target, trace = self.start(build, "jump")
                told, ledger = self.work(target)
                report = trace.finish_trace()
                self.assertRegex(report.printed, r"malloc at 0x\w+ in \S+hooked-O\d keeps breakpoints: ")
                self.assert_totals(report, ledger)
                self.assert_foreign(target, told, 8)
                self.after(target, told)

    def test_a_breakpoint(self):
        """It cannot be shared: malloc is not traced, all else is."""
        for build in ("hooked-O0", "hooked-O2"):
            with self.subTest(build):
                target, trace = self.start(build, "int3")
                told, _ = self.work(target)
                report = trace.finish_trace()
                self.assertRegex(report.printed, r"malloc in \S+hooked-O\d is not traced: somebody else's breakpoint")
                self.assert_live_sizes(report, {10009: 100})
                self.assertEqual(report.totals["unknown_frees"], 100)
                self.assertEqual(report.totals["lost"], 0)
                self.assert_foreign(target, told, 8)
                self.after(target, told)

    def test_a_uprobe(self):
        """The kernel's breakpoint on the C library's malloc: it counts on, and when it is gone malloc is traced."""
        target = start_ready(self, "loop-O2", 1)
        start, path = next((start, path) for start, _, path in executable_mappings(target.pid) if path.endswith("/libc.so.6"))
        offset = symbol(path, "malloc")
        uprobe = Uprobe(path, offset, max(int(tid) for tid in os.listdir(f"/proc/{target.pid}/task")))
        hits = uprobe.hits()
        trace = self.attach(target.pid, "-v", probe=self.PROBE)
        target.send(b"n")
        target.json(60)
        report = trace.finish_trace()
        self.assertRegex(report.printed, r"malloc in \S+/libc\.so\.6 is not traced: somebody else's breakpoint")
        self.assertGreater(uprobe.hits(), hits, "the uprobe counts on")
        changed = replaced(code_of_files(target.pid), code_of(target.pid))
        uprobe.close()
        self.assertEqual(list(changed.values()), [INT3], "the uprobe's, and nothing else")

        trace = self.attach(target.pid, probe=self.PROBE)
        target.send(b"n")
        target.json(60)
        self.assertGreater(trace.finish_trace().totals["allocations"], 50)
        self.assert_code_is_the_files(target.pid)
        target.send()
        self.assertEqual(target.json(60)["corrupt"], 0)
        self.assertEqual(target.wait(), 0)

    def test_a_jump_that_comes_while_ours_stands(self):
        """Up to then every call counts; afterwards malloc's do not, and the hook stays."""
        for build in ("hooked-O0", "hooked-O2"):
            with self.subTest(build):
                target, trace = self.start(build, "late")
                told, _ = self.work(target)
                report = trace.finish_trace()
                self.assertRegex(report.printed, r"1 places of code had been changed by somebody else")
                self.assert_live_sizes(report, {10007: 100, 10009: 200})
                self.assert_foreign(target, told, 5)
                self.after(target, told)


if __name__ == "__main__":
    main()

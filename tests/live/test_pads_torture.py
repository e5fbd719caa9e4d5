"""Native pads that record, where it is rough: signals between any two instructions, jumps out of them, children and threads in numbers,
libraries that come and go, and a tmtrace that is killed, stopped, or comes and goes a thousand times.

TM_PROBE: as in test_pads.py. TM_LONG=1: the long set.
"""

import collections
import json
import os
import signal
import time

from support import LONG, code_of, main, run_tmtrace, start_ready
from support.case import TOTALS
from support.counting import FIXED_LAYOUT, Counter, fixed_environment
from support.environment import fixture, program
from support.process import Failed, status_field, wait_until
from support.stand import stand_at
from test_pads import NATIVE, PROBE, RECORDS, RETURN, PadTest, only_pads, only_x86_64, scaled

READ, WRITE = "0", "1"  # asm/unistd_64.h


class Torture(PadTest):
    def check_ledger(self, target, trace, **more):
        """The fixture works and says its ledger: it is the report."""
        target.send()
        ledger = target.json(120)
        report = self.finish(trace, **more)
        self.assert_totals(report, ledger)
        return report

    def in_both_builds(self, check, name, *arguments, builds=("O0", "O2")):
        for build in builds:
            with self.subTest(f"{name}-{build}", arguments=arguments):
                target = start_ready(self, f"{name}-{build}", *arguments)
                check(target)
                target.kill()


# ---- signals ----


class Signals(Torture):
    """Handlers allocate and free, and keep a block now and then; the fixture counts both sides."""

    def check(self, mode, stack, *arguments, handler):
        def check(target):
            before = code_of(target.pid)
            trace = self.attach(target.pid)
            target.send()
            told, ledger = target.json(300), target.json()
            report = self.finish(trace)
            self.assertGreater(told["kept"], 0)
            self.assert_totals(report, ledger)
            self.assert_live_sizes(report, {10009: told["kept"], 10007: ledger["blocks"] - told["kept"]})
            self.assert_tracebacks(report, 10009, ["keep_in_handler", "allocate_in_handler", handler])
            self.assert_code_unchanged(target.pid, before)
            target.finish()

        self.in_both_builds(check, "stepped", mode, stack, *arguments)

    def assert_tracebacks(self, report, size, functions):
        """Of all blocks of that size; those that are not cut lead to the thread's first function."""
        groups = [group for group in report.statistics if group["size"] == size * group["count"]]
        for group in groups:
            found = [frame["function"] for frame in group["traceback"]]
            self.assertEqual(found[: len(functions)], functions)
            if not group["cut"]:
                self.assertTrue({"main", "calm_thread"} & set(found), found)

    TICKS = 50_000 if LONG else 1000 if RECORDS else 200

    def test_a_timer_of_200_us(self):
        self.check("timer", "own", self.TICKS, handler="on_tick")

    def test_on_an_alternate_stack(self):
        self.check("timer", "alternate", self.TICKS, handler="on_tick")

    def test_beside_three_other_threads(self):
        for stack in ("own", "alternate"):
            self.check("timer", stack, self.TICKS, 4, handler="on_tick")

    @only_x86_64
    def test_behind_every_instruction(self):
        for stack in ("own", "alternate"):
            self.check("steps", stack, 50 if LONG else 1, handler="on_step")


class Leaps(Torture):
    """siglongjmp out of a handler behind the K-th instruction of a call, for each K (in the short form for some), beside another
    thread. The call has happened or it has not: the report says one of them, and everything else is as if nothing had been."""

    AT_MOST = 100_000 if LONG else 12

    def check(self, mode, expect):
        for stack in ("own", "alternate"):
            def check(target):
                trace = self.attach(target.pid)
                target.send()
                told, ledger = target.json(300), target.json()
                report = self.finish(trace)
                live = collections.Counter(size for _, size in report.blocks(10007))
                self.assertGreater(told["leaps"], told["completed"])
                self.assertEqual(live[10007], ledger["blocks"])
                more = expect(told, live)
                self.assertEqual({key: report.totals[key] for key in TOTALS}, {key: ledger[key] + more.get(key, 0) for key in TOTALS})
                for group in report.statistics:  # whatever was left in the middle
                    functions = [frame["function"] for frame in group["traceback"]]
                    if group["size"] == 10007 * group["count"]:
                        self.assertIn(functions[:2], (["keep_calmly", "around"], ["keep_calmly", "until_over"]))
                        self.assertIn("main" if "around" in functions else "calm_thread", functions)
                target.finish()

            builds = ("O0", "O2") if LONG else ("O0",) if stack == "own" else ("O2",)
            self.in_both_builds(check, "stepped", mode, stack, self.AT_MOST, 2, builds=builds)

    @only_x86_64
    def test_out_of_malloc(self):
        def expect(told, live):
            self.assertTrue(told["completed"] <= live[10061] <= told["leaps"])
            return {"allocations": live[10061], "allocated": live[10061] * 10061, "blocks": live[10061], "current": live[10061] * 10061}

        self.check("leap-malloc", expect)

    @only_x86_64
    def test_out_of_free(self):
        def expect(told, live):
            victims, freed = told["leaps"], told["leaps"] - live[10067]
            self.assertGreaterEqual(freed, told["completed"])
            return {"allocations": victims, "allocated": victims * 10067, "frees": freed, "blocks": live[10067], "current": live[10067] * 10067}

        self.check("leap-free", expect)

    @only_x86_64
    def test_out_of_realloc(self):
        def expect(told, live):
            victims, resized = told["leaps"], live[10069]
            self.assertEqual(live[10067] + resized, victims, "each is its old block or its new one")
            self.assertGreaterEqual(resized, told["completed"])
            return {"allocations": victims + resized, "allocated": victims * 10067 + resized * 10069, "frees": resized,
                    "blocks": victims, "current": live[10067] * 10067 + resized * 10069}

        self.check("leap-realloc", expect)

    def leave(self, mode):
        def check(target):
            trace = self.attach(target.pid)
            self.check_ledger(target, trace)
            target.finish()

        self.in_both_builds(check, "leave", mode)

    def test_siglongjmp_out_of_a_handler_within_malloc(self):
        self.leave("siglongjmp")

    def test_longjmp_and_the_ends_of_threads_within_malloc(self):
        for mode in ("longjmp", "realloc", "cancel", "pthread-exit", "thread-exit"):
            self.leave(mode)


# ---- children, threads, libraries, images ----


class Crowd(Torture):
    """Three threads allocate without a pause beside what is tested; theirs is the ledger."""

    def work(self, target, seconds=120):
        """What the fixture says after its work: live blocks, the ledger."""
        live = []
        while (line := target.line(seconds)).startswith("live "):
            live += json.loads(line.removeprefix("live "))
        told = json.loads(line)
        self.assertEqual(told["children"], told["expected"], "children that ran right")
        return live, target.json()

    def check(self, mode, *arguments):
        def check(target):
            before = code_of(target.pid)
            trace = self.attach(target.pid)
            target.send()
            live, ledger = self.work(target)
            report = self.finish(trace)
            self.assert_totals(report, ledger)
            self.assert_live(report, live)
            self.assert_code_unchanged(target.pid, before)
            target.finish()

        self.in_both_builds(check, "crowd", mode, *arguments)

    def test_children_that_fork_and_start_threads(self):
        self.check("fork", 400 if LONG else 24)

    def test_children_in_our_memory(self):
        self.check("spawn", 400 if LONG else 24)

    def check_libraries(self, plugin):
        """The loader's own blocks are in no ledger. A free that was seen without its allocation would be unknown, an allocation
        without its free would be live."""
        def check(target):
            trace = self.attach(target.pid)
            target.send()
            live, ledger = self.work(target)
            report = self.finish(trace)
            self.assert_live(report, live)
            self.assertEqual((report.totals["unknown_frees"], report.totals["failed"]), (0, 0))
            self.assertGreater(report.totals["allocations"], ledger["allocations"])
            frame = report.traceback_of(10007)[0]
            self.assertEqual((frame["function"], os.path.basename(frame["module"])), ("on_load", plugin))
            target.finish()

        self.in_both_builds(check, "crowd", "load", 300 if LONG else 20, fixture(plugin))

    def test_a_library_comes_and_goes(self):
        self.check_libraries("plugin.so")

    def test_an_allocator_comes_and_goes_with_a_library(self):
        self.check_libraries("plugin-own.so")

    def test_modes_of_follow(self):
        """Each has ten children; those of vfork and clone-vm allocate in our memory."""
        for mode in ("vfork", "vfork-exec", "spawn", "clone-vm", "fork-exec"):
            def check(target):
                trace = self.attach(target.pid)
                target.send()
                children, ledger = target.json(60), target.json()
                self.assertEqual(children["children"], children["expected"])
                self.assert_totals(self.finish(trace), ledger)
                target.finish()

            self.in_both_builds(check, "follow", mode)


class Numbers(Torture):
    """Against the counter that is preloaded into the same run."""

    def check(self, name, *arguments, end=b"ab", keys=TOTALS):
        counter = Counter(self, name)
        environment = fixed_environment(**counter.environment())
        trace = self.launch(fixture(name), *arguments, prefix=FIXED_LAYOUT, env=environment)
        trace.expect_ready().send(end)
        report = self.finish(trace, None, seconds=120)
        self.assertGreater(counter.read()["allocations"], 40)
        self.assert_totals(report, counter.read(), keys)
        return report

    # glibc frees the cache of a thread that ends by calls of its own, which the counter does not see.
    def test_threads_are_born_and_die(self):
        """More than can record at a time, one after the other."""
        report = self.check("births-O2", 2500 if LONG else 200, keys=[key for key in TOTALS if key != "unknown_frees"])
        self.assertGreater(report.totals["allocations"], 200 * 8 * 11)

    def test_images_replace_each_other(self):
        images = 200 if LONG else 20
        report = self.check("crowd-O2", "exec", images)
        self.assertEqual(len(report.json["target"]["images"]), images + 1)
        self.assert_live_sizes(report, {10069: 1})
        for name in ("exec-1", f"exec-{images}"):
            held = report.load("--group-by", "traceback", "--at", name)["statistics"]
            self.assertEqual([group["count"] for group in held if group["size"] == 10069], [1])

    def test_exec_by_a_thread_that_is_not_the_leader(self):
        for build in ("follow-O0", "follow-O2"):
            target = start_ready(self, build, "exec-thread")
            trace = self.attach(target.pid)
            target.send()
            children, ledger = target.json(), target.json()
            report = self.finish(trace)
            self.assertEqual(children["children"], children["expected"])
            self.assert_live_sizes(report, {10067: 1})
            self.assertGreaterEqual(report.totals["allocations"], 1 + ledger["allocations"])
            target.finish()

    def test_three_hundred_threads_at_a_time(self):
        target = start_ready(self, "storm-O2", "mixed", 300, 20, scaled(50_000) // 500 or 1)
        trace = self.attach(target.pid)
        target.send(b"n")
        ledger = target.json(120)
        self.assert_totals(self.finish(trace), ledger)
        target.finish()

    def test_more_threads_than_there_are_rings(self):
        """All that they do is there, or it is said that it is not."""
        if not LONG:
            self.skipTest("threads may wait for one another as long as for a full ring: TM_LONG=1")
        target = start_ready(self, "storm-O2", "pairs", 1100, 5, 5)
        trace = self.attach(target.pid)
        target.send(b"n")
        ledger = target.json(120)
        report = trace.finish_trace()
        self.assert_probe(report)
        if report.totals["lost"] == 0:
            self.assert_totals(report, ledger)
        self.assertLessEqual(report.totals["allocations"], ledger["allocations"])
        target.send(b"n")
        target.json(60)
        target.finish()


# ---- a tmtrace that goes ----


class Goes(Torture):
    def loop(self, threads, build="loop-O2"):
        """Allocates until it is told not to, and checks every byte of its blocks."""
        return start_ready(self, build, threads)

    def work(self, target):
        """It goes on: so many allocations more."""
        target.send(b"n")
        return target.json(60)["iterations"]

    def end(self, target):
        target.send()
        self.assertEqual(target.json(60)["corrupt"], 0)
        self.assertEqual(target.wait(), 0)

    def attach_to(self, target):
        """Again and again, with one file. Two frames: the names of more are read in the C library's debug information each time."""
        return self.attach(target.pid, "--force", "--nframe", 2, path=os.path.join(self.here, "again.tmt"))

    def setUp(self):
        self.here = self.directory()

    @staticmethod
    def kill(trace):
        trace.signal(signal.SIGKILL)
        trace.wait()

    def assert_next_trace_is_right(self, target):
        trace = self.attach_to(target)
        self.work(target)
        report = self.finish(trace)
        self.assertGreater(report.totals["allocations"], 50)
        self.assert_code_is_the_files(target.pid)


@only_pads
class Killed(Goes):
    """SIGKILL for tmtrace: no breakpoint stands in the target, which goes on."""

    KILLS = 200 if LONG else 20

    def test_while_it_traces(self):
        for threads in (1, 4):
            target = self.loop(threads)
            for number in range(self.KILLS // 2):
                trace = self.attach_to(target)
                for _ in range(number % 3):
                    self.work(target)
                self.kill(trace)
                self.work(target)
                if number % 5 == 0:
                    self.assert_next_trace_is_right(target)
            self.assert_next_trace_is_right(target)
            self.end(target)

    def test_at_its_calls_of_ptrace(self):
        """From the first one of an attach to the last one of the detach: strace kills it as it makes its N-th call. In the short form
        some of them."""
        self.kill_at("ptrace", 1 if LONG else 5)

    def test_at_its_writes(self):
        """Of code, of pads, of what they share."""
        self.kill_at("pwrite64", 1 if LONG else 10)

    def test_where_it_is_slow(self):
        """So slow that a thread which waits for it gives up, and is sent once more. strace holds one of its calls up for 0.6 s: that which
        lets the thread run to where it waits, and in the long form each in turn."""
        target = self.loop(2)
        calls = os.path.join(self.here, "calls")

        def trace(*options):
            prefix = [program("strace"), "-o", calls, "-e", "trace=ptrace", *options]
            path = os.path.join(self.here, "slow.tmt")
            done = run_tmtrace("-v", "--force", "-o", path, *NATIVE, PROBE, "--duration", "0.01", "--attach", target.pid, prefix=prefix, seconds=60)
            self.assertEqual(done.returncode, 0, done.stderr)
            return done.stderr

        trace()
        with open(calls) as file:
            made = [line for line in file if line.startswith("ptrace(")]
        first = next(number for number, line in enumerate(made, 1) if "PTRACE_CONT" in line)
        for number in range(1, len(made)) if LONG else (first,):
            said = trace("-e", f"inject=ptrace:delay_exit=600000:when={number}")
            if number == first:
                self.assertIn("has waited for long enough: once more", said)
        self.assertTrue(self.goes_on(target))
        self.assert_next_trace_is_right(target)
        self.end(target)

    def kill_at(self, call, step):
        strace = [program("strace"), "-o", "/dev/null", "-e", f"trace={call}"]
        tmtrace = ["-q", "--force", "-o", os.path.join(self.here, "killed.tmt"), *NATIVE, PROBE, "--duration", "0.02"]
        deaths = []
        target = self.loop(2)
        for number in range(1, 5000, step):
            prefix = [*strace, "-e", f"inject={call}:signal=SIGKILL:when={number}"]
            done = run_tmtrace(*tmtrace, "--attach", target.pid, prefix=prefix, seconds=60)
            if done.returncode == 0:  # it makes fewer calls
                break
            self.assertEqual(done.returncode, -signal.SIGKILL, done.stderr)
            if not self.goes_on(target):
                deaths.append(number)
                target = self.loop(2)
        self.assertGreater(number, 10, f"calls of {call}")
        self.assertEqual(deaths, [], f"killed at these of {number} calls of {call}, tmtrace left a target that died")
        self.assert_next_trace_is_right(target)
        self.end(target)

    def goes_on(self, target):
        """Each of its threads does: one that had lost its place would take the others along as soon as it runs."""
        def ran(thread):
            with open(f"/proc/{target.pid}/task/{thread}/schedstat") as file:
                return int(file.read().split()[0])  # ns

        try:
            before = {thread: ran(thread) for thread in os.listdir(f"/proc/{target.pid}/task") if int(thread) != target.pid}
            wait_until(lambda: all(ran(thread) > before[thread] + 1_000_000 for thread in before), "run by all threads")
            self.work(target)  # the main thread answers
        except (Failed, OSError):
            return False
        return target.popen.poll() is None

    def test_the_next_trace_counts_every_event(self):
        """Also where the one before was killed in the middle of many."""
        for build in ("storm-O0", "storm-O2"):
            target = start_ready(self, build, "mixed", 4, 30, 2000)
            for _ in range(3):
                trace = self.attach_to(target)
                target.send(b"n")
                self.kill(trace)
                target.json(60)
                trace = self.attach_to(target)
                target.send(b"n")
                ledger = target.json(60)
                self.assert_totals(self.finish(trace), ledger)
            self.assert_code_is_the_files(target.pid)
            target.finish()

    def test_while_a_thread_waits_for_it(self):
        """A full ring: whoever waits for tmtrace finds out that it is gone."""
        target = start_ready(self, "storm-O2", "pairs", 1, 37, 2_000_000)
        trace = self.attach_to(target)
        trace.signal(signal.SIGSTOP)
        target.send(b"n")
        wait_until(lambda: waits(target.pid), "the ring full", 60)
        self.kill(trace)
        self.assertEqual(target.json(60)["allocations"], 2_000_000)
        trace = self.attach_to(target)
        target.send(b"n")
        ledger = target.json(60)
        self.assert_totals(self.finish(trace), ledger)
        target.finish()

    def test_whatever_the_target_does_next(self):
        """Forks, runs programs, loads libraries, starts threads, takes signals, replaces itself: what has stayed in it is in nobody's way."""
        plugin = fixture("plugin.so")
        for name, *arguments in (
            ("follow", "fork"), ("follow", "fork-threads"), ("follow", "spawn"), ("follow", "vfork"), ("follow", "exec"), ("crowd", "fork", 8),
            ("crowd", "load", 5, plugin), ("dlopen", plugin), ("births", 5), ("stepped", "timer", "own", 100),
            ("stepped", "steps", "own", 1), ("stepped", "leap-malloc", "alternate", 10), ("cxx", "operators"), ("calls",),
        ):
            def check(target):
                trace = self.attach_to(target)
                self.kill(trace)
                target.send()
                line = target.line(60)
                while line.startswith("live "):
                    line = target.line()
                told = json.loads(line)
                if "children" in told and name != "follow":  # follow looks at its code as well, which has stayed patched
                    self.assertEqual(told["children"], told["expected"])
                target.finish()

            self.in_both_builds(check, name, *arguments)


def waits(pid):
    """The main thread sleeps in the middle of its work: in no read of its own, or stopped by its tracer."""
    with open(f"/proc/{pid}/syscall") as file:
        number = file.read().split()[0]
    return number not in (READ, WRITE, "running", "-1") or status_field(pid, "State")[0] == "t"


class Stopped(Goes):
    """SIGSTOP for tmtrace: its target waits for it, then all is there."""

    def storm(self, threads, pairs):
        target = start_ready(self, "storm-O2", "pairs", threads, 37, pairs // threads)
        return target, self.attach_to(target)

    def right(self, target, trace):
        ledger = target.json(120)
        self.assert_totals(self.finish(trace), ledger)
        target.finish()

    def test_until_the_ring_is_full(self):
        target, trace = self.storm(1, scaled(2_000_000))
        trace.signal(signal.SIGSTOP)
        target.send(b"n")
        wait_until(lambda: waits(target.pid), "the ring full", 60)
        trace.signal(signal.SIGCONT)
        self.right(target, trace)

    def test_for_seconds(self):
        for seconds in (1, 2, 3, 4, 5) if LONG else (1,):
            target, trace = self.storm(4, scaled(1_000_000))
            target.send(b"n")
            trace.signal(signal.SIGSTOP)
            time.sleep(seconds)  # this long, whatever happens meanwhile
            trace.signal(signal.SIGCONT)
            self.right(target, trace)

    def test_again_and_again(self):
        target = self.loop(4)
        trace = self.attach_to(target)
        for _ in range(100 if LONG else 10):
            trace.signal(signal.SIGSTOP)
            target.send(b"n")
            trace.signal(signal.SIGCONT)
            target.json(60)
        self.finish(trace)
        self.assert_code_is_the_files(target.pid)
        self.end(target)

    @only_pads
    def test_for_ever(self):
        """The target does not wait for ever, and the report does not pretend to be whole."""
        if not LONG:
            self.skipTest("takes as long as a full ring makes a thread wait: TM_LONG=1")
        target, trace = self.storm(1, 3_000_000)
        trace.signal(signal.SIGSTOP)
        target.send(b"n")
        ledger = target.json(120)
        trace.signal(signal.SIGCONT)
        try:
            report = trace.finish_trace(signal.SIGINT, status=None)
        except ProcessLookupError:  # it has ended by itself
            report = trace.finish_trace(None, status=None)
        self.assertLess(report.totals["allocations"], ledger["allocations"])
        self.assertGreater(report.totals["lost"], 0)
        trace = self.attach_to(target)
        target.send(b"n")
        self.right(target, trace)


class Cycles(Goes):
    """Attached and detached while its threads allocate."""

    CYCLES = 1000 if LONG else 30

    def check(self, threads, cycles=CYCLES):
        target = self.loop(threads)
        mappings = []
        for _ in range(cycles):
            trace = self.attach_to(target)
            self.work(target)
            report = self.finish(trace)
            self.assertGreater(report.totals["allocations"], 50)
            self.assert_untraced(target.pid)
            self.assert_code_is_the_files(target.pid)
            mappings.append(self.mappings_of(target.pid))
        half = cycles // 2
        # The least of each: what a thread was inside of may stay until the next attach.
        self.assertLessEqual(min(mappings[half:]), min(mappings[:half]), f"(mappings, bytes) of a target that itself maps nothing: {mappings}")
        self.end(target)

    @staticmethod
    def mappings_of(pid):
        """How many, and their bytes. The heap's end and those of arenas move; an arena is one mapping with two permissions."""
        with open(f"/proc/{pid}/maps") as maps:
            lines = [line.split() for line in maps if "[heap]" not in line]
        size = sum(end - start for start, end in ((int(word, 16) for word in line[0].split("-")) for line in lines))
        return len(lines), size

    def test_one_thread(self):
        self.check(1)

    def test_four_threads(self):
        self.check(4)

    def test_sixteen_threads(self):
        self.check(16, self.CYCLES if LONG else self.CYCLES // 3)  # they leave tmtrace little of two CPUs

    @only_pads
    def test_a_thread_that_stands_in_the_recorder(self):
        """On its way out, when the next attach comes: it is led out, and the recorder is taken over."""
        target = start_ready(self, "storm-O2", "mixed", 1, 10, 50)
        self.finish(self.attach_to(target))
        ((start, code),) = self.recorders_of(target.pid)
        stand_at(target.pid, start + code.index(RETURN))
        wait_until(lambda: status_field(target.pid, "State").startswith("T"), "stopped")
        trace = self.attach_to(target)
        self.assertEqual([at for at, _ in self.recorders_of(target.pid)], [start])
        os.kill(target.pid, signal.SIGCONT)
        target.send(b"n")
        ledger = target.json()
        self.assert_totals(self.finish(trace), ledger)
        target.finish()

    @staticmethod
    def recorders_of(pid):
        """(address, code) of each: memory of no file that can be executed, and says what it is."""
        found = []
        with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            for line in maps:
                fields = line.split()
                if fields[1] != "r-xp" or len(fields) > 5:
                    continue
                start, end = (int(word, 16) for word in fields[0].split("-"))
                memory.seek(start)
                code = memory.read(end - start)
                if code.startswith(b"tmtrace record"):
                    found.append((start, code))
        return found

    def test_every_cycle_sees_every_event(self):
        for threads in (1, 4):
            target = start_ready(self, "storm-O2", "mixed", threads, 10, 50)
            for _ in range(self.CYCLES // 5):
                trace = self.attach_to(target)
                target.send(b"n")
                ledger = target.json()
                self.assert_totals(self.finish(trace), ledger)
            self.assert_code_is_the_files(target.pid)
            target.finish()


del Torture, Goes, PadTest

if __name__ == "__main__":
    main()

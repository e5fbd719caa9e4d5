"""Totals of deterministic programs, traced from their first instruction, equal independent counters to the last unit.

What is counted where:

tmtrace     outermost allocator calls, from the moment at which the dynamic linker has relocated everything (before
            any library constructor) to the end. The linker's own minimal malloc is no allocator of the program.
counter     fixtures/counter.c, preloaded: the same calls of the SAME process in the same run. Its functions are the
            outermost ones then, glibc's the nested ones: both must see every call once. All totals are compared,
            peak included where one thread makes the calls.
valgrind    `total heap usage` of memcheck, of another run without any counter in it, in the same environment: it
            replaces the same functions of libc and libstdc++ and counts a realloc as one allocation and one free,
            as tmtrace does. --run-libc-freeres=no: else it would free what libc keeps at exit.
"""

import os
import subprocess

from support import LiveTest, launch, main, start_ready, attach
from support.case import TOTALS
from support.counting import FIXED_LAYOUT, Counter, fixed_environment, valgrind_environment, valgrind_totals
from support.environment import fixture, program

SQL = b"""
create table t(a integer primary key, b text);
with recursive c(x) as (select 1 union all select x + 1 from c where x < 3000)
  insert into t select x, hex(zeroblob(x % 50)) from c;
create index i on t(b);
select count(*), sum(length(b)) from t join (select a as z from t) on z = a;
select b, count(*) from t group by b order by 2, 1 limit 3;
"""
PERL = """
my %h; for (1 .. 3000) { $h{$_} = "x" x ($_ % 100); push @a, [$_, $h{$_}]; }
print scalar(keys %h), join(",", sort map { $_->[1] } @a[0 .. 50]);
"""
PYTHON = 'import json, re; print(len(json.dumps([{"a": i, "b": [i] * 5} for i in range(300)])))'


def make_repository(path):
    """A small git repository, the same one every time."""
    fixed = {"PATH": os.environ["PATH"], "HOME": path, "GIT_CONFIG_NOSYSTEM": "1", "TZ": "UTC"}
    for role in ("AUTHOR", "COMMITTER"):
        fixed |= {f"GIT_{role}_NAME": "a", f"GIT_{role}_EMAIL": "a@b", f"GIT_{role}_DATE": "2020-01-01T00:00:00Z"}

    def git(*arguments):
        subprocess.run([program("git"), "-C", path, *arguments], env=fixed, check=True, capture_output=True)

    git("init", "-q", ".")
    for commit in range(1, 21):
        for name, lines in (("f", commit * 37 % 50 + 60), ("g", commit)):
            with open(os.path.join(path, name), "w") as file:
                file.writelines(f"{line}\n" for line in range(lines))
        git("add", ".")
        git("commit", "-qm", f"commit {commit}")
    return path


class ProgramTest(LiveTest):
    """Each method names a program; subclasses say what it is compared with."""

    def compare(self, argv, stdin=b"", **options):
        raise NotImplementedError

    def test_sqlite3_on_an_in_memory_database(self):
        self.compare([program("sqlite3"), ":memory:"], SQL)

    def test_git_log_of_a_small_repository(self):
        path = make_repository(self.directory())
        self.compare([program("git"), "-C", path, "--no-pager", "log", "-p"])

    def test_perl(self):
        self.compare([program("perl"), "-e", PERL])

    def test_python_with_its_own_allocator(self):
        self.compare([program("python3"), "-S", "-c", PYTHON])

    def test_python_on_malloc(self):
        # Reached through CPython's table of function pointers only.
        self.compare([program("python3"), "-S", "-c", PYTHON], environment={"PYTHONMALLOC": "malloc"})

    def test_cxx_containers_and_exceptions(self):
        for build in ("cxx-O0", "cxx-O2"):
            with self.subTest(build):
                self.compare([fixture(build), "stl"])

    def trace(self, argv, stdin, environment):
        """Traces a run; gives its report and its output."""
        trace = launch(self, *argv, prefix=FIXED_LAYOUT, env=environment, options=["--quiet", "--domain", "native"])
        trace.send(stdin)
        trace.popen.stdin.close()
        trace.popen.stdin = None
        return trace.finish_trace(None, 120), trace.out.text()

    def output_of(self, argv, stdin, environment):
        argv = [*FIXED_LAYOUT, *argv]
        return subprocess.run(argv, input=stdin, env=environment, check=True, capture_output=True).stdout.decode()


class SameRun(ProgramTest):
    """Against the counter inside the traced process."""

    def compare(self, argv, stdin=b"", environment=None):
        counter = Counter(self, os.path.basename(argv[0]))
        environment = fixed_environment(**environment or {}, **counter.environment())
        report, output = self.trace(argv, stdin, environment)
        self.assertGreater(counter.read()["allocations"], 100)
        self.assert_totals(report, counter.read())
        self.assertEqual(report.totals["peak"], counter.read()["peak"])
        self.assertEqual(output, self.output_of(argv, stdin, fixed_environment(**{**environment, "LD_PRELOAD": ""})))

    def test_eight_threads(self):
        self.finish_fixture("threads-O2", threads=True)

    def test_threads_born_and_dying(self):
        self.finish_fixture("births-O2", threads=True)

    def test_libraries_loaded_and_unloaded(self):
        self.finish_fixture("dlopen-O2", fixture("plugin.so"))

    def test_libraries_calling_libraries(self):
        # The preloaded malloc is called by libc (strdup), and calls libc's: one event each.
        self.finish_fixture("frames-O2", "expected", threads=True)

    def test_operators_new_and_delete(self):
        self.finish_fixture("cxx-O2", "operators")

    def test_exec_of_itself(self):
        self.finish_fixture("follow-O2", "exec", peak=False)  # the peak is the new image's

    def finish_fixture(self, name, *arguments, threads=False, peak=True):
        """Threads make the calls in any order, so the peak may differ. When a thread ends, glibc empties its cache of
        free chunks by calling its own free (malloc.c, tcache_thread_shutdown): calls that are inside libc, with
        addresses that nobody owns. tmtrace counts them as unknown frees, the counter does not see them."""
        counter = Counter(self, name)
        environment = fixed_environment(**counter.environment())
        trace = launch(self, fixture(name), *arguments, prefix=FIXED_LAYOUT, env=environment)
        trace.expect_ready().send(b"ab")
        report = trace.finish_trace(None)
        self.assert_totals(report, counter.read(), [key for key in TOTALS if not threads or key != "unknown_frees"])
        if peak and not threads:
            self.assertEqual(report.totals["peak"], counter.read()["peak"])


class Valgrind(ProgramTest):
    """Against valgrind's run of the bare program."""

    # CPython makes integers of thread identities, which are addresses: at valgrind's low ones they take 28 bytes
    # instead of 32. Calls are compared there, bytes in SameRun.
    def test_python_on_malloc(self):
        argv, environment = [program("python3"), "-S", "-c", PYTHON], {"PYTHONMALLOC": "malloc"}
        self.compare(argv, environment=environment, keys=("allocations", "frees"))

    def compare(self, argv, stdin=b"", environment=None, keys=("allocations", "frees", "allocated")):
        environment = fixed_environment(**environment or {}, ASAN_OPTIONS="verify_asan_link_order=0")
        expected = valgrind_totals(argv, environment, input=stdin)
        report, _ = self.trace(argv, stdin, valgrind_environment(environment))
        self.assert_totals(report, expected, keys)


class TwoRuns(LiveTest):
    def test_the_same_run_gives_the_same_report(self):
        argv = [program("sqlite3"), ":memory:"]
        reports = []
        for _ in range(2):
            trace = launch(self, *argv, prefix=FIXED_LAYOUT, env=fixed_environment(), options=["--quiet"])
            trace.send(SQL)
            trace.popen.stdin.close()
            trace.popen.stdin = None
            reports.append(trace.finish_trace(None, 120))
        self.assertEqual(reports[0].totals, reports[1].totals)
        self.assertEqual(self.without_threads(reports[0]), self.without_threads(reports[1]))

    @staticmethod
    def without_threads(report):
        """Statistics but for the thread numbers, in an order of their own."""
        return sorted((group["size"], group["count"], str(group["traceback"])) for group in report.statistics)


class Window(LiveTest):
    """A window of a program's life: attached before, detached after. The fixture's own ledger."""

    def test_every_c_function_and_failure(self):
        for build in ("calls-O0", "calls-O2"):
            with self.subTest(build):
                target = start_ready(self, build)
                trace = attach(self, target.pid)
                target.send()
                ledger, live = target.json(), target.json()
                report = trace.finish_trace()
                self.assert_totals(report, ledger)
                self.assert_live(report, live)
                target.finish()


del ProgramTest  # abstract: unittest would run it

if __name__ == "__main__":
    main()

"""Kinds of target on which the known tools fail.

Linkage and allocators stand in test_allocators.py, debug files in test_tracebacks.py.
"""

import os
import shutil
import subprocess

from support import LiveTest, attach, code_of, launch, main, start_ready
from support.counting import FIXED_LAYOUT, Counter, fixed_environment
from support.environment import bound, fixture, program
from support.process import Process

SOURCE = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
struct list { struct list *next; int value; };
static struct list *push(struct list *list, int value) {
  struct list *head = malloc(sizeof(*head)); head->next = list; head->value = value; return head; }
int main(int argc, char **argv) {
  struct list *list = NULL; for (int i = 0; i < argc * 10; i++) list = push(list, i);
  for (; list; list = list->next) printf("%d %s\\n", list->value, argv[0]); return 0; }
"""


class Compiler(LiveTest):
    def test_cc1_compiles_a_file(self):
        # A non-PIE executable whose libraries are more than 2 GB away. Its output and every number are as without us.
        done = subprocess.run([program("gcc"), "-print-prog-name=cc1"], capture_output=True, text=True, check=True)
        cc1 = done.stdout.strip()
        if not os.path.isabs(cc1):
            self.skipTest("gcc here is not the GNU compiler")
        directory = self.directory()
        source = os.path.join(directory, "source.i")
        subprocess.run([program("gcc"), "-E", "-x", "c", "-", "-o", source], input=SOURCE.encode(), check=True)
        outputs = [os.path.join(directory, name) for name in ("plain.s", "traced.s")]
        command = [cc1, "-quiet", "-fpreprocessed", "-O2", source, "-o"]
        subprocess.run([*command, outputs[0]], check=True, timeout=bound(60))
        counter = Counter(self, "cc1")
        environment = fixed_environment(**counter.environment())
        trace = launch(self, *command, outputs[1], prefix=FIXED_LAYOUT, env=environment)
        report = trace.finish_trace(None, 240)
        self.assert_totals(report, counter.read())
        with open(outputs[0]) as plain, open(outputs[1]) as traced:
            self.assertEqual(plain.read(), traced.read())


class Sandboxed(LiveTest):
    def test_a_seccomp_filter_that_kills_at_mmap(self):
        # No page can be mapped into it: it is traced stepping in place, and lives.
        for build in ("seccomp-O0", "seccomp-O2"):
            with self.subTest(build):
                target = start_ready(self, build, "sandbox")
                before = code_of(target.pid)
                trace = attach(self, target.pid)
                target.send()
                ledger = target.json(60)
                report = trace.finish_trace()
                self.assert_totals(report, ledger)
                self.assert_code_unchanged(target.pid, before)
                target.finish()


class Containers(LiveTest):
    """Another mount and PID namespace: modules are opened under the target's own root."""

    def contained(self, root, *command):
        """Starts a command in namespaces and a root of its own; gives its number outside."""
        if os.geteuid() != 0:
            self.skipTest("namespaces: needs root")
        os.makedirs(os.path.join(root, "proc"), exist_ok=True)
        unshare = [program("unshare"), "--mount", "--pid", "--fork", f"--mount-proc={root}/proc"]
        outer = Process(self, [*unshare, program("chroot"), root, *command])
        if outer.line() != "ready":
            self.skipTest("namespaces are not permitted here")
        with open(f"/proc/{outer.pid}/task/{outer.pid}/children") as children:
            return outer, int(children.read().split()[0])

    def copy_with_libraries(self, root, path):
        """A program and what it needs (ldd fails for a static one: nothing), into a root."""
        listed = subprocess.run([program("ldd"), path], capture_output=True, text=True)
        for word in listed.stdout.split():
            if word.startswith("/"):
                os.makedirs(root + os.path.dirname(word), exist_ok=True)
                shutil.copy(word, root + word)
        os.makedirs(os.path.join(root, "inside"), exist_ok=True)
        return os.path.join("/inside", os.path.basename(shutil.copy(path, os.path.join(root, "inside"))))

    def check(self, name):
        root = self.directory()
        inside = self.copy_with_libraries(root, fixture(name))
        self.assertFalse(os.path.exists(inside), "outside there is no such file")
        outer, pid = self.contained(root, inside)
        trace = attach(self, pid)
        outer.send()
        ledger, live = outer.json(), outer.json()
        report = trace.finish_trace()
        self.assert_totals(report, ledger)
        self.assert_live(report, live)
        self.assertEqual(report.traceback_of(10007)[0]["function"], "plain")
        self.assertTrue(report.json["target"]["exe"].endswith(inside))
        outer.finish()

    def test_a_dynamic_program(self):
        self.check("calls-O2")

    def test_a_static_program(self):
        self.check("calls-static")

    def test_a_musl_program(self):
        root = self.directory()
        interpreter = "/lib/ld-musl-x86_64.so.1"
        if not os.path.exists(interpreter):
            self.skipTest("musl is not installed")
        os.makedirs(root + "/lib")
        shutil.copy(os.path.realpath(interpreter), root + interpreter)
        shutil.copy(fixture("calls-musl"), root + "/calls")
        outer, pid = self.contained(root, "/calls")
        trace = attach(self, pid)
        outer.send()
        ledger, live = outer.json(), outer.json()
        report = trace.finish_trace()
        self.assert_totals(report, ledger)
        self.assert_live(report, live)
        outer.finish()


class RealPrograms(LiveTest):
    """Attached in the middle of their work; what they print is right."""

    def check(self, argv, end, expected, environment=None):
        target = Process(self, argv, env={**os.environ, "LC_ALL": "C", **(environment or {})}).expect_ready()
        before = code_of(target.pid)
        for _ in range(3):
            report = attach(self, target.pid, "--domain", "native").finish_trace()
            self.assertEqual(report.totals["lost"], 0)
            self.assert_code_unchanged(target.pid, before)
        target.send(end)
        self.assertEqual(target.line(60), expected)
        self.assertEqual(target.wait(), 0)

    PYTHON = """
import hashlib, json, sys, threading
stop = threading.Event()
def work(result):
    while not stop.is_set():
        data = [{"n": n, "text": "x" * n} for n in range(200)]
        result.add(hashlib.sha256(json.dumps(json.loads(json.dumps(data))).encode()).hexdigest())
result = set()
threads = [threading.Thread(target=work, args=(result,)) for _ in range(3)]
for thread in threads: thread.start()
print("ready", flush=True)
sys.stdin.readline()
stop.set()
for thread in threads: thread.join()
print(len(result))
"""

    def test_python_on_malloc(self):
        self.check([program("python3"), "-c", self.PYTHON], b"\n", "1", {"PYTHONMALLOC": "malloc"})

    def test_python(self):
        self.check([program("python3"), "-c", self.PYTHON], b"\n", "1")

    def test_perl(self):
        script = ('$| = 1; print "ready\\n"; my $vec = ""; vec($vec, 0, 1) = 1; my $bad = 0; my $n = 0; '
                  'until (select(my $out = $vec, undef, undef, 0)) { my %h = map { $_ => "x" x $_ } 1 .. 200; '
                  '$bad++ if length($h{77}) != 77; $n++ } print "bad $bad\\n";')
        self.check([program("perl"), "-e", script], b"\n", "bad 0")


class BehindPointers(LiveTest):
    PYTHON = """
import sys
print("ready", flush=True)
sys.stdin.readline()
kept = [object() for _ in range(50000)]
print("made", flush=True)
sys.stdin.readline()
"""

    def test_an_allocator_reached_through_function_pointers_only(self):
        # With PYTHONMALLOC=malloc every object is one malloc, and no call goes through a PLT of the interpreter.
        argv, environment = [program("python3"), "-c", self.PYTHON], {**os.environ, "PYTHONMALLOC": "malloc"}
        target = Process(self, argv, env=environment).expect_ready()
        trace = attach(self, target.pid, "--domain", "native")
        target.send()
        self.assertEqual(target.line(60), "made")
        report = trace.finish_trace()
        self.assertGreaterEqual(report.totals["blocks"], 50000)
        self.assertGreaterEqual(max(statistic["count"] for statistic in report.statistics), 50000)
        target.send()
        self.assertEqual(target.wait(), 0)


if __name__ == "__main__":
    main()

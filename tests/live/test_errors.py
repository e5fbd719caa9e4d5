"""Errors: exit status 2, a message that names the object and the cure, nothing changed in the target."""

import os
import pwd
import shutil
import subprocess

from support import LiveTest, attach, code_of, main, run_tmtrace, start_ready
from support.environment import TMTRACE, fixture, program, require_root, seize
from support.process import Process
from support.tracer import ERROR

# LeakSanitizer uses ptrace itself, which is forbidden there.
NO_LEAK_CHECK = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
YAMA = "/proc/sys/kernel/yama/ptrace_scope"
YAMA_STAND_IN = f"""
set -e
mount -t tmpfs none /proc/sys/kernel
mkdir {os.path.dirname(YAMA)}
echo "$1" > {YAMA}
shift
exec "$@"
"""


def yama_scope():
    """What this kernel's yama allows, "0" (everything) to "3" (nothing); "0" without one."""
    if not os.path.exists(YAMA):
        return "0"
    with open(YAMA) as file:
        return file.read().strip()


class ErrorTest(LiveTest):
    def refused(self, pid, *words, **options):
        """tmtrace refuses to trace pid, says each of the words, and leaves no report."""
        path = os.path.join(self.open_directory(), "refused.tmt")
        done = run_tmtrace("--attach", pid, "-o", path, **options)
        self.assertEqual(done.returncode, ERROR, done)
        self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)
        for word in words:
            self.assertIn(str(word).lower(), done.stderr.lower())
        self.assertFalse(os.path.exists(path), "a report was left behind")
        return done.stderr

    def open_directory(self):
        path = self.directory()
        os.chmod(path, 0o777)
        return path


class NoTarget(ErrorTest):
    def test_no_such_process(self):
        with open("/proc/sys/kernel/pid_max") as file:
            pid = int(file.read()) - 1
        self.assertFalse(os.path.exists(f"/proc/{pid}"))
        self.refused(pid, pid, "no process")

    def test_a_zombie(self):
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        self.addCleanup(os.waitpid, child, 0)
        self.refused(child, child, "zombie")

    def test_a_kernel_thread(self):
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with open(f"/proc/{pid}/stat") as stat:
                if int(stat.read().rsplit(")", 1)[1].split()[6]) & 0x200000:  # PF_KTHREAD, linux/sched.h
                    self.refused(pid, pid, "kernel thread")
                    return
        self.skipTest("no kernel thread is visible in this container")

    def test_tmtrace_itself_is_no_target(self):
        done = subprocess.run(["/bin/sh", "-c", f"exec {TMTRACE} --attach $$"], capture_output=True, text=True)
        self.assertEqual(done.returncode, ERROR)
        self.assertIn("itself", done.stderr)

    def test_a_32_bit_target(self):
        try:
            target = Process(self, [fixture("bare-i386")])
        except OSError as error:
            self.skipTest(f"this kernel runs no i386 programs: {error}")
        target.expect_ready()
        self.refused(target.pid, target.pid, "32-bit")
        target.finish()

    def test_no_allocator_function(self):
        target = start_ready(self, "bare")
        before = code_of(target.pid)
        self.refused(target.pid, "no allocator function", fixture("bare"))
        self.assert_untraced(target.pid)
        self.assert_code_unchanged(target.pid, before)
        target.finish()

    def test_no_symbols_in_a_stripped_static_program(self):
        target = start_ready(self, "stripped/loop-static", 1)
        self.refused(target.pid, "no allocator function", "stripped/loop-static")
        target.send()
        self.assertEqual(target.wait(), 0)


class AlreadyTraced(ErrorTest):
    def test_by_another_program(self):
        target = start_ready(self, "loop-O2", 1)
        if seize(target.pid):
            self.fail("the test could not trace its own child")
        with open("/proc/self/comm") as comm:
            self.refused(target.pid, "already traced", os.getpid(), comm.read().strip())

    def test_by_another_tmtrace(self):
        target = start_ready(self, "loop-O2", 1)
        trace = attach(self, target.pid)
        self.refused(target.pid, "already traced", trace.pid, "tmtrace")
        trace.finish_trace()
        target.send()
        self.assertEqual(target.wait(), 0)


class OutputFile(ErrorTest):
    def test_it_is_found_out_before_attaching(self):
        # Where attaching is forbidden, the file's error is the one that is reported: it was looked at first.
        target = start_ready(self, "loop-O2", 1)
        prefix = [fixture("seccomp-O2"), "noptrace"]
        for path in ("/nonexistent/directory/x.tmt", "/dev/null/x.tmt"):
            done = run_tmtrace("--attach", target.pid, "-o", path, prefix=prefix, env=NO_LEAK_CHECK)
            self.assertEqual(done.returncode, ERROR)
            self.assertIn(path, done.stderr)
            self.assertNotIn("seccomp", done.stderr)
        target.send()
        self.assertEqual(target.wait(), 0)

    def test_an_existing_file_stays(self):
        target = start_ready(self, "loop-O2", 1)
        path = os.path.join(self.directory(), "kept.tmt")
        with open(path, "w") as file:
            file.write("mine")
        done = run_tmtrace("--attach", target.pid, "--duration", "0.1", "-o", path)
        self.assertEqual(done.returncode, ERROR)
        self.assertIn("--force", done.stderr)
        with open(path) as file:
            self.assertEqual(file.read(), "mine")
        done = run_tmtrace("--attach", target.pid, "--duration", "0.1", "--force", "-o", path)
        self.assertEqual(done.returncode, 0, done.stderr)


class CommandLine(LiveTest):
    def test_usage_errors(self):
        lines = (
            "", "--attach", "--attach x", "--attach 0", "--attach 1 true", "--no-such-option",
            "--attach 1 --duration -1", "--attach 1 --nframe 0", "--attach 1 --nframe 65536", "report", "report --group-by x f",
            "report /nonexistent.tmt", "report /etc/passwd",
        )
        for line in lines:
            with self.subTest(line):
                done = run_tmtrace(*line.split())
                self.assertEqual(done.returncode, ERROR)
                self.assertNotEqual(done.stderr, "")

    def test_help_and_version(self):
        self.assertIn("--attach", run_tmtrace("--help").stdout)
        self.assertRegex(run_tmtrace("--version").stdout, r"\d+\.\d+")


class Permission(ErrorTest):
    """As an unprivileged user, not as root: which of uid, yama, capability, seccomp is in the way."""

    NOBODY = pwd.getpwnam("nobody")

    def setUp(self):
        require_root("becomes another user")
        # The build folder need not be open to everybody.
        directory = self.directory()
        self.tmtrace = shutil.copy(TMTRACE, os.path.join(directory, "tmtrace"))
        self.fixtures = directory
        user, group = self.NOBODY.pw_uid, self.NOBODY.pw_gid
        self.as_nobody = [program("setpriv"), f"--reuid={user}", f"--regid={group}", "--clear-groups"]

    def nobody_target(self, name, *arguments):
        copy = shutil.copy(fixture(name), self.fixtures)
        return Process(self, [*self.as_nobody, copy, *map(str, arguments)]).expect_ready()

    def refused_as_nobody(self, pid, *words, prefix=(), **options):
        return self.refused(pid, *words, prefix=[*prefix, *self.as_nobody], tmtrace=self.tmtrace, **options)

    def test_a_process_of_another_user(self):
        target = start_ready(self, "loop-O2", 1)
        before = code_of(target.pid)
        self.refused_as_nobody(target.pid, "not permitted", "user 0", f"user {self.NOBODY.pw_uid}", "root")
        self.assert_code_unchanged(target.pid, before)
        target.send()
        self.assertEqual(target.wait(), 0)

    def test_an_unprivileged_user_traces_a_process_of_its_own(self):
        self.skip_under_yama()
        target = self.nobody_target("calls-O2")
        path = os.path.join(self.open_directory(), "own.tmt")
        trace = attach(self, target.pid, prefix=self.as_nobody, tmtrace=self.tmtrace, path=path)
        target.send()
        ledger, live = target.json(), target.json()
        report = trace.finish_trace()
        self.assert_totals(report, ledger)
        self.assert_live(report, live)
        target.finish()

    def test_an_unprivileged_user_traces_a_command(self):
        self.skip_under_yama(allowed="1")
        copy = shutil.copy(fixture("cxx-O2"), self.fixtures)
        path = os.path.join(self.open_directory(), "own.tmt")
        done = run_tmtrace("-o", path, "--", copy, "stl", prefix=self.as_nobody, tmtrace=self.tmtrace)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_a_process_that_is_not_dumpable(self):
        # It has the right user, but a capability more: as if it had been started setuid.
        self.skip_under_yama()
        target = self.capable_target()
        self.refused_as_nobody(target.pid, "not permitted", target.pid)
        target.send()
        self.assertEqual(target.wait(), 0)

    def capable_target(self):
        copy = shutil.copy(fixture("loop-O2"), self.fixtures)
        capability = ["--inh-caps=+net_raw", "--ambient-caps=+net_raw"]
        return Process(self, [*self.as_nobody, *capability, copy, "1"]).expect_ready()

    def test_a_seccomp_filter_around_tmtrace(self):
        target = start_ready(self, "loop-O2", 1)
        prefix = [fixture("seccomp-O2"), "noptrace"]
        self.refused(target.pid, "not permitted", "seccomp", prefix=prefix, env=NO_LEAK_CHECK)
        target.send()
        self.assertEqual(target.wait(), 0)

    def test_yama(self):
        allow = "allow it: sysctl kernel.yama.ptrace_scope=0"
        scopes = (("1", allow, "-- COMMAND"), ("2", allow), ("3", "until the machine is started again"))
        target = self.nobody_target("loop-O2", 1)
        for scope, *cures in scopes:
            with self.subTest(scope):
                words = ("not permitted", f"ptrace_scope is {scope}", *cures)
                said = self.refused_as_nobody(target.pid, *words, prefix=self.under_yama(scope), env=NO_LEAK_CHECK)
                self.assertEqual("-- COMMAND" in said, scope == "1")  # 2 forbids PTRACE_TRACEME as well
        target.send()
        self.assertEqual(target.wait(), 0)

    def under_yama(self, scope):
        """What a command stands behind to run under yama: nothing where the kernel's own has this scope. Elsewhere
        a mount namespace shows the file with this scope, and a seccomp filter refuses ptrace with yama's EPERM."""
        if yama_scope() == scope:
            return []
        prefix = [program("unshare"), "--mount", "/bin/sh", "-c", YAMA_STAND_IN, "sh", scope]
        if subprocess.run([*prefix, "true"], capture_output=True).returncode:
            self.skipTest("mount namespaces are not permitted here")
        return [*prefix, fixture("seccomp-O2"), "noptrace"]

    def skip_under_yama(self, allowed="0"):
        if yama_scope() > allowed:
            self.skipTest("yama forbids it")


del ErrorTest

if __name__ == "__main__":
    main()

"""Where things are, and what this machine allows."""

import ctypes
import os
import shutil
import signal
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
TMTRACE = os.path.abspath(os.environ.get("TMTRACE", os.path.join(HERE, "../../../build/tmtrace")))
FIXTURES = os.path.abspath(os.environ.get("TM_FIXTURES", os.path.join(os.path.dirname(TMTRACE), "fixtures")))
LONG = os.environ.get("TM_LONG", "") not in ("", "0")
SCALE = float(os.environ.get("TM_SCALE", "1"))

PTRACE_SEIZE, PTRACE_DETACH, PR_SET_PDEATHSIG = 0x4206, 17, 1
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.restype = ctypes.c_long
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]


def bound(seconds):
    """A time-out in seconds, stretched where the machine or the build is slow."""
    return seconds * SCALE


def die_with_parent():
    """Between fork and exec: a test that is killed takes its processes along."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def seize(pid):
    """Traces pid from this thread, without stopping it; 0 or an errno."""
    return 0 if libc.ptrace(PTRACE_SEIZE, pid, None, None) == 0 else ctypes.get_errno()


def fixture(name):
    """The path of a built fixture; skips the test if it was left out of the build."""
    path = os.path.join(FIXTURES, name)
    if not os.path.exists(path):
        raise unittest.SkipTest(f"fixture {name} is not built: no compiler or library for it here")
    return path


def program(name):
    """The path of an installed program; skips the test if there is none."""
    path = shutil.which(name, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    if not path:
        raise unittest.SkipTest(f"{name} is not installed")
    return path


def require_ptrace():
    """Skips where the kernel or a container forbids ptrace even of one's own child."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writer)
        os.read(reader, 1)  # until the parent closes its end
        os._exit(0)
    error = seize(child)
    os.close(writer)
    os.kill(child, signal.SIGKILL)
    os.close(reader)
    while True:
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status) or os.WIFEXITED(status):
            break
    if error:
        raise unittest.SkipTest(f"ptrace is not permitted here: {os.strerror(error)}")


def require_root(why):
    if os.geteuid() != 0:
        raise unittest.SkipTest(f"{why}: needs root")

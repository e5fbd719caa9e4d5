"""The independent counters, fixtures/counter.c and valgrind; and an environment in which two runs are the same."""

import os
import re
import struct
import subprocess

from .environment import bound, fixture, program

FIELDS = ("pid", "allocations", "allocated", "frees", "unknown_frees", "failed", "blocks", "current", "peak")

# No randomness: no ASLR (setarch -R), fixed hash seeds, no locale, no user's configuration.
FIXED_LAYOUT = ("setarch", "-R")


def fixed_environment(**more):
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC", "HOME": "/nonexistent", "PYTHONHASHSEED": "0",
            "PERL_HASH_SEED": "0", "GIT_CONFIG_NOSYSTEM": "1", **more}


class Counter:
    """The preloaded counter for one process, the first one called `comm`."""

    def __init__(self, test, comm):
        self.path = os.path.join(test.directory(), "counter")
        self.comm = comm
        with open(self.path, "wb") as file:
            file.write(bytes(8 * len(FIELDS)))

    def environment(self):
        # verify_asan_link_order: a sanitizer's tmtrace accepts a library before its runtime.
        return {"LD_PRELOAD": fixture("counter.so"), "TM_COUNTER_FILE": self.path, "TM_COUNTER_COMM": self.comm,
                "ASAN_OPTIONS": "verify_asan_link_order=0"}

    def read(self):
        with open(self.path, "rb") as file:
            return dict(zip(FIELDS, struct.unpack(f"{len(FIELDS)}Q", file.read())))


def valgrind_environment(environment):
    """What valgrind makes of an environment: a run outside of it that gets the same sees the same strings."""
    command = [program("valgrind"), "-q", "/usr/bin/env", "-0"]
    listed = subprocess.run(command, env=environment, capture_output=True, check=True, timeout=bound(60))
    return dict(entry.split("=", 1) for entry in listed.stdout.decode().split("\0") if entry)


def valgrind_totals(argv, environment, **options):
    """allocations, frees and allocated bytes by memcheck's `total heap usage`."""
    valgrind = [*FIXED_LAYOUT, program("valgrind"), "--run-libc-freeres=no", "--run-cxx-freeres=no"]
    done = subprocess.run([*valgrind, *argv], env=environment, capture_output=True, timeout=bound(180), **options)
    numbers = re.search(rb"total heap usage: ([\d,]+) allocs, ([\d,]+) frees, ([\d,]+) bytes", done.stderr)
    if done.returncode != 0 or not numbers:
        raise AssertionError(f"valgrind {argv}: {done.stderr[-1000:]!r}")
    allocations, frees, allocated = (int(number.replace(b",", b"")) for number in numbers.groups())
    return {"allocations": allocations, "frees": frees, "allocated": allocated}

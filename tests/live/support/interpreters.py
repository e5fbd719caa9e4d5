"""The CPython interpreters of this machine."""

import glob
import os
import shutil
import unittest

MINORS = range(8, 14)
# What a test's interpreter sees: nothing of this machine's, the same hashes every time.
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "PYTHONHASHSEED": "0", "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}


def paths_of(minor):
    paths = [shutil.which(f"python3.{minor}", path="/usr/local/bin:/usr/bin")]
    return [path for path in paths if path] + sorted(glob.glob(os.path.expanduser(f"~/.pyenv/versions/3.{minor}.*/bin/python3.{minor}")))


def interpreters():
    """Paths: what the PATH has, and what pyenv has built."""
    found = {}
    for minor in MINORS:
        for path in paths_of(minor):
            found.setdefault(os.path.realpath(path), path)
    if not found:
        raise unittest.SkipTest("no CPython 3.8 to 3.13 is installed")
    return list(found.values())


def one_of(minor):
    """Any interpreter of that version; skips if there is none."""
    paths = paths_of(minor)
    if not paths:
        raise unittest.SkipTest(f"no CPython 3.{minor} is installed")
    return paths[0]

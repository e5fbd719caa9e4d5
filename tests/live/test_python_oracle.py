"""The one-process experiment: tracemalloc and tmtrace watch the same calls, so every number must be equal.

The target (fixtures/python_oracle.py) has tracemalloc on when tmtrace attaches: tmtrace's pads wrap its hooks. Current, peak, blocks,
every file:line and, at nframe 10, every whole traceback are compared, on every interpreter that is found, in both modes. --exact is what
needs it for that up to 3.12.

TM_PYTHON_MODE names the modes to try, of MODES, by commas; default: all.
"""

import glob
import mmap
import os
import shutil
import unittest

from support import LiveTest, attach, main
from support.process import Process, wait_until

ORACLE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../fixtures/python_oracle.py")
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0", "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
MODES = {"stop": ["--probe", "breakpoint"], "record": ["--probe", "pad"]}  # how events are caught -> options
MINORS = range(8, 14)


def modes():
    chosen = os.environ.get("TM_PYTHON_MODE")
    return chosen.split(",") if chosen else list(MODES)


def interpreters(minor):
    paths = [shutil.which(f"python3.{minor}", path="/usr/local/bin:/usr/bin")]
    paths += sorted(glob.glob(os.path.expanduser(f"~/.pyenv/versions/3.{minor}.*/bin/python3.{minor}")))
    return list({os.path.realpath(path): path for path in filter(None, paths)}.values())


class Observed(Process):
    """The target, from its start to what its tracemalloc has found."""

    def __init__(self, test, python, work, nframe):
        path = os.path.join(test.directory(), "flag")
        with open(path, "wb") as file:
            file.write(b"\0")
        descriptor = os.open(path, os.O_RDWR)
        self.flag = mmap.mmap(descriptor, 1)
        os.close(descriptor)
        super().__init__(test, [python, ORACLE, str(nframe), work, path], env=ENVIRONMENT)
        self.expect_ready(60)

    def work(self):
        self.flag[0] = 1
        wait_until(lambda: self.flag[0] == 2 or self.popen.poll() is not None, "the work done", 300)

    def told(self):
        self.flag[0] = 3
        told = self.json(120)
        if self.wait() != 0:
            self.fail("did not end cleanly")
        return told


def encoded(name):
    return name.encode("utf-8", "surrogateescape").hex()


UNKNOWN = ((encoded("<unknown>"), 0),)


def add(rows, key, size, count):
    held = rows.get(key, (0, 0))
    rows[key] = (held[0] + size, held[1] + count)


def their_rows(told):
    """{(domain, ((file, line), ...)): (size, count)}, grouped as tracemalloc groups by traceback."""
    rows = {}
    for domain, frames, _, size, count in told["rows"]:
        add(rows, (domain, tuple(map(tuple, frames))), size, count)
    return rows


def our_rows(report):
    rows = {}
    for row in report.statistics:
        frames = tuple((encoded(frame["filename"]), frame["lineno"]) for frame in row["traceback"]) or UNKNOWN
        add(rows, (row["domain"], frames), row["size"], row["count"])
    return rows


def their_depths(told):
    """{(domain, frames on the stack): (size, count)}"""
    depths = {}
    for domain, _, total, size, count in told["rows"]:
        add(depths, (domain, total), size, count)
    return depths


def our_depths(report):
    rows = report.query("SELECT domain, max(total_nframe, 1), size, count FROM statistic JOIN traceback ON traceback = traceback.id"
                        " JOIN snapshot ON snapshot = snapshot.id WHERE name = 'end' AND count")
    depths = {}
    for domain, total, size, count in rows:
        add(depths, (domain, total), size, count)
    return depths


def readable(key):
    domain, frames = key
    return f"domain {domain}: " + " < ".join("%s:%d" % (os.fsdecode(bytes.fromhex(name)), line) for name, line in frames)


def differences(ours, theirs, name=str):
    return [f"{name(key)}: tmtrace {ours.get(key)}, tracemalloc {theirs.get(key)}"
            for key in sorted(ours.keys() | theirs.keys(), key=str) if ours.get(key) != theirs.get(key)]


class Oracle(LiveTest):
    WORKS = ("json", "re", "ast", "imports", "generators", "coroutines", "code", "classes", "threads", "followers", "names", "recursion", "track",
             "interpreters")

    def observe(self, python, work, nframe, options):
        target = Observed(self, python, work, nframe)
        trace = attach(self, target.pid, "--domain", "python", "--nframe", nframe, *options)
        target.work()
        report = trace.finish_trace()
        return report, target.told()

    ATTEMPTS = 6

    def check_racing(self, python, work, nframe, options):
        """A raw free frees first, and takes tracemalloc's trace away later, without the lock: another thread that is given the address
        meanwhile loses its trace. So its tracemalloc may miss blocks; then it is asked again."""
        for attempt in range(self.ATTEMPTS):
            report, told = self.observe(python, work, nframe, options)
            ours, theirs = our_rows(report), their_rows(told)
            self.assertEqual(report.totals["lost"], 0)
            for key in ours.keys() | theirs.keys():
                (our_size, our_count), (size, count) = ours.get(key, (0, 0)), theirs.get(key, (0, 0))
                self.assertTrue(our_size >= size and our_count >= count, differences(ours, theirs, readable)[:10])
            self.assertGreaterEqual(report.totals["peak"], told["peak"])
            lost = report.totals["blocks"] - sum(count for _, count in theirs.values())
            print(f"    {os.path.realpath(python)} {work} nframe {nframe} {' '.join(options)}: attempt {attempt + 1}, "
                  f"{report.totals['blocks']} blocks, of which tracemalloc lost {lost}", flush=True)
            if ours == theirs:
                self.compare(report, told, ours, theirs)
                return
            self.doCleanups()
        self.fail(f"{self.ATTEMPTS} times another number of blocks than tracemalloc's")

    def check(self, python, work, nframe, options):
        report, told = self.observe(python, work, nframe, options)
        ours, theirs = our_rows(report), their_rows(told)
        self.assertEqual(report.totals["lost"], 0)
        wrong, lines = differences(ours, theirs, readable), len(ours.keys() | theirs.keys())
        print(f"    {os.path.realpath(python)} {work} nframe {nframe} {' '.join(options)}: {lines - len(wrong)} of {lines} equal, "
              f"{report.totals['allocations']} allocations", flush=True)
        self.compare(report, told, ours, theirs)

    def compare(self, report, told, ours, theirs):
        wrong = differences(ours, theirs, readable)
        self.check_sums(report, told, theirs)
        self.assertEqual(wrong[:10], [])
        self.assertGreater(len(ours), 2)
        if told["rows"][0][2] is not None:  # from 3.9
            self.assertEqual(differences(our_depths(report), their_depths(told))[:10], [])

    def check_sums(self, report, told, theirs):
        blocks = sum(count for _, count in theirs.values())
        if len({domain for domain, _ in theirs}) == 1:
            self.assertEqual([report.totals[key] for key in ("current", "peak", "blocks")], [told["current"], told["peak"], blocks])
        else:  # its sums are over all domains
            domains = report.json["domains"]
            self.assertEqual([sum(domain[key] for domain in domains) for key in ("current", "blocks")], [told["current"], blocks])

    def check_python(self, python, minor, mode):
        for work in self.WORKS:
            for nframe in (1, 10):
                if work == "interpreters" and minor < 12:
                    continue  # tracemalloc itself hangs with them
                with self.subTest(mode=mode, python=python, work=work, nframe=nframe):
                    check = self.check_racing if work == "threads" else self.check
                    check(python, work, nframe, MODES[mode] + ["--exact"])
                self.doCleanups()  # a target that failed spins on

    def check_version(self, minor):
        pythons = interpreters(minor)
        if not pythons:
            raise unittest.SkipTest(f"no CPython 3.{minor} is installed")
        for mode in modes():
            for python in pythons:
                self.check_python(python, minor, mode)


for version in MINORS:
    setattr(Oracle, f"test_3_{version}", lambda self, minor=version: self.check_version(minor))


if __name__ == "__main__":
    main()

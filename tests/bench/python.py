"""What tracing Python costs, beside tracemalloc: python3 tests/bench/python.py [ROUNDS [INTERPRETER...]]   (TMTRACE=build/tmtrace)

json, imports, objects, regex and more workloads, each run untraced, under tracemalloc, and with tmtrace attached (the pads that
record; once more with --exact, where that is another thing: up to 3.12), alternated in the same run; medians of the times that the workload measures itself. The added time is what is compared.

Exit status 1 if the geometric mean of tmtrace's added time (without --exact) is more than 0.6 of tracemalloc's. Wants two free CPUs.
"""

import math
import os
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
TMTRACE = os.path.abspath(os.environ.get("TMTRACE", os.path.join(HERE, "../../build/tmtrace")))
GOAL = 0.6
COUNTED = ("json", "imports", "objects", "regex")

# Runs in the interpreter that is measured: a workload by name, its seconds on stdout.
PROGRAM = r'''
import sys, time
name, traced = sys.argv[1:]

def json_():
    import json
    text = json.dumps({"a": [1, 2.5, "x" * 20, {"k": list(range(20))}] * 10})
    for _ in range(4000):
        json.loads(text)

def imports():
    import importlib, sys
    names = ["argparse", "ast", "asyncio", "calendar", "concurrent.futures", "configparser", "csv", "ctypes", "dataclasses", "decimal",
             "difflib", "doctest", "email.message", "fractions", "ftplib", "http.client", "http.server", "inspect", "logging.config",
             "mailbox", "multiprocessing.pool", "optparse", "pdb", "pickle", "plistlib", "pydoc", "shelve", "smtplib", "statistics",
             "tarfile", "timeit", "tokenize", "typing", "unittest.mock", "urllib.request", "uuid", "wave",
             "xml.dom.minidom", "xml.etree.ElementTree", "zipfile"]
    for n in names:
        importlib.import_module(n)

def objects():
    class Node:
        def __init__(self, left, right):
            self.left, self.right = left, right
    def tree(depth):
        return Node(None, None) if depth == 0 else Node(tree(depth - 1), tree(depth - 1))
    for _ in range(12):
        tree(14)

def regex():
    import re
    text = "alpha=1, beta=22; gamma: 333 delta.4444 " * 40
    pattern = re.compile(r"(\w+)\W+(\d+)")
    for _ in range(400):
        pattern.findall(text)
        pattern.sub(lambda m: m.group(2), text)

def ints():
    total = 0
    for i in range(3_000_000):
        total += i * 1_000_003
    return total

def strings():
    for i in range(600_000):
        ("%d-%s" % (i, "x")).upper().split("-")

work = {"json": json_, "imports": imports, "objects": objects, "regex": regex, "ints": ints, "strings": strings}[name]
if name != "imports":
    import json, re
if traced == "tracemalloc":
    import tracemalloc
    tracemalloc.start()
print("ready", flush=True)
sys.stdin.readline()
begin = time.perf_counter()
work()
print(time.perf_counter() - begin, flush=True)
'''


def seconds(python, name, way, folder):
    target = subprocess.Popen([python, "-c", PROGRAM, name, way], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    tracer = None
    try:
        assert target.stdout.readline() == "ready\n"
        if way.startswith("tmtrace"):
            tracer = subprocess.Popen([TMTRACE, "--attach", str(target.pid), "--domain", "python", "--probe", "pad", *way.split()[1:], "--force", "--limit", "0",
                                       "-o", f"{folder}/bench.tmt"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
            said = tracer.stderr.readline()
            assert "tracing" in said, said
        target.stdin.write("\n")
        target.stdin.flush()
        took = float(target.stdout.readline())
        target.stdin.close()
        target.wait(60)
        if tracer:
            tracer.communicate(timeout=60)
            assert tracer.returncode == 0, tracer.returncode
        return took
    finally:
        for process in filter(None, (tracer, target)):
            if process.poll() is None:
                process.kill()


def has_hook(python):
    """Does --exact change anything?"""
    return subprocess.run([python, "-c", "import sys; sys.exit(sys.version_info >= (3, 13))"]).returncode == 0


def bench(python, rounds):
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        for name in (*COUNTED, "ints", "strings"):
            times = {"untraced": [], "tracemalloc": [], "tmtrace": [], "tmtrace --exact": []}
            if not has_hook(python):
                del times["tmtrace --exact"]
            for _ in range(rounds):
                for way, values in times.items():
                    values.append(seconds(python, name, way, folder))
            base, theirs, ours, *exact = (statistics.median(values) for values in times.values())
            ratio = max(ours - base, 1e-6) / max(theirs - base, 1e-6)
            if name in COUNTED:
                ratios.append(ratio)
            also = "".join(f"; --exact {seconds_:.4f} s ({seconds_ / base:.2f}x): {(seconds_ - base) / max(theirs - base, 1e-6):.2f}" for seconds_ in exact)
            print(f"{name:8} untraced {base:.4f} s, tracemalloc {theirs:.4f} s ({theirs / base:.2f}x), tmtrace {ours:.4f} s ({ours / base:.2f}x): "
                  f"added time {ratio:.2f} of tracemalloc's{' MORE THAN TRACEMALLOC' if ratio > 1 else ''}{also}", flush=True)
    mean = math.exp(statistics.fmean(map(math.log, ratios)))
    print(f"geometric mean of {', '.join(COUNTED)}: {mean:.2f}, at most {GOAL}: {'ok' if mean <= GOAL else 'MISSED'}")
    return mean <= GOAL


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    met = True
    for python in sys.argv[2:] or ["/usr/bin/python3"]:
        print(python)
        met = bench(python, rounds) and met
    sys.exit(not met)


if __name__ == "__main__":
    main()

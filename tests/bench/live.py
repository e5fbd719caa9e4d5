"""What tracing costs, on this machine, now: python3 tests/bench/live.py [ROUNDS]   (TMTRACE=build/tmtrace)

pair      a malloc+free pair of one thread at stack depth 5 and 50: untraced, under tmtrace with full tracebacks where every
          call stops (`--probe breakpoint`; pads: native.py), under `ltrace -e malloc+free` without any, alternated in the same
          run; medians, ratios, and the floor of three and two bare stops
attach    to a program with 100 MB of symbols, until its probes are in place and its allocations are seen
detach    from the signal until no thread is traced
memory    of the tracer after five seconds of events: its own (anonymous) pages

Exit status 1 if a goal is missed. Numbers depend on the machine; the ratios hardly.
"""

import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TMTRACE = os.path.abspath(os.environ.get("TMTRACE", os.path.join(HERE, "../../build/tmtrace")))
BUILD = os.path.dirname(TMTRACE)
PAIRS = os.path.join(BUILD, "fixtures", "pairs")
missed = []


def goal(what, value, most, unit):
    verdict = "ok" if value <= most else "MISSED"
    print(f"  goal: {what} {value:.2f} {unit}, at most {most} {unit}: {verdict}")
    if value > most:
        missed.append(what)


def said(command):
    """What a program prints as JSON."""
    return json.loads(subprocess.run(command, capture_output=True, check=True, timeout=300).stdout.splitlines()[0])


def ns_a_pair(prefix, depth, pairs):
    return said([*prefix, PAIRS, str(depth), str(pairs)])["ns"]


def bench_pairs(folder, rounds):
    stop_us = said([os.path.join(BUILD, "tests", "bench_stop")])["us"]
    print(f"one bare stop, registers read and written: {stop_us:.2f} us")
    tmtrace = [TMTRACE, "-q", "--force", "--probe", "breakpoint", "-o", f"{folder}/pairs.tmt", "--"]
    ways = {"untraced": ([], 5_000_000), "tmtrace": (tmtrace, 100_000)}
    if shutil.which("ltrace"):
        ways["ltrace"] = (["ltrace", "-o", "/dev/null", "-e", "malloc+free", "--"], 5_000)
    else:
        print("ltrace is not installed: no comparison with it")
    for depth in (5, 50):
        times = {way: [] for way in ways}
        for _ in range(rounds):
            for way, (prefix, pairs) in ways.items():
                times[way].append(ns_a_pair(prefix, depth, pairs))
        median = {way: statistics.median(values) for way, values in times.items()}
        print_pairs(depth, median, stop_us)


def print_pairs(depth, median, stop_us):
    ours = median["tmtrace"]
    print(f"pair at depth {depth}:", ", ".join(f"{way} {ns / 1000:.3f} us" for way, ns in median.items()))
    stops = ours / 1000 / stop_us
    times = ours / median["untraced"]
    print(f"  tmtrace is {times:.0f} x untraced, {stops / 3:.2f} x three bare stops, {stops / 2:.2f} x two")
    if "ltrace" in median:
        goal("tmtrace / ltrace", ours / median["ltrace"], 1 / 6, "")


def make_many_symbols(folder, megabytes=100):
    """A program that allocates, with a symbol table and string table of so many megabytes."""
    count = megabytes * 1_000_000 // 100  # 24 bytes of Elf64_Sym and 76 of name
    path = os.path.join(folder, "symbols.s")
    with open(path, "w") as file:
        file.write("\t.text\n")
        for number in range(count):
            name = f"symbol_{number:08d}_".ljust(75, "x")
            file.write(f"\t.globl {name}\n\t.type {name}, @function\n{name}:\n\tnop\n\t.size {name}, 1\n")
        file.write('\t.section .note.GNU-stack, "", %progbits\n')
    source = os.path.join(folder, "main.c")
    with open(source, "w") as file:
        file.write("#include <stdlib.h>\n#include <unistd.h>\n#include <poll.h>\n"
                   "int main(void) { struct pollfd in = {0, POLLIN, 0}; write(1, \"ready\\n\", 6);\n"
                   " while (!poll(&in, 1, 0)) { void *volatile block = malloc(10007); free(block); } return 0; }\n")
    program = os.path.join(folder, "many_symbols")
    subprocess.run(["gcc", "-g", "-fno-builtin", source, path, "-o", program], check=True, stderr=subprocess.DEVNULL)
    os.unlink(path)
    return program


def wait_tracing(tracer):
    line = tracer.stderr.readline()
    if b"tracing" not in line:
        raise SystemExit(f"tmtrace did not begin to trace: {line!r} {tracer.stderr.read()!r}")


def is_traced(pid):
    with open(f"/proc/{pid}/status") as status:
        return "TracerPid:\t0\n" not in status.read()


def peak_memory(pid):
    """Peak resident and current anonymous memory, MiB: pages of files that were looked at are not the tracer's own."""
    with open(f"/proc/{pid}/status") as status:
        fields = dict(re.findall(r"(VmHWM|RssAnon):\s+(\d+) kB", status.read()))
    return int(fields["VmHWM"]) / 1024, int(fields["RssAnon"]) / 1024


def attach_and_let_go(target, folder, seconds):
    """Traces for so many seconds: seconds until the probes are in place, of detaching, and the tracer's memory."""
    begin = time.monotonic()
    tracer = subprocess.Popen([TMTRACE, "--attach", str(target.pid), "--force", "-o", f"{folder}/attach.tmt"],
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wait_tracing(tracer)
    attached = time.monotonic() - begin
    threading.Event().wait(seconds)
    memory = peak_memory(tracer.pid)
    begin = time.monotonic()
    tracer.send_signal(signal.SIGINT)
    while is_traced(target.pid):
        pass
    detached = time.monotonic() - begin
    tracer.stderr.read()
    if tracer.wait(60) != 0 or not allocations_in(f"{folder}/attach.tmt"):
        raise SystemExit("tmtrace failed, or saw nothing")
    return attached, detached, memory


def allocations_in(path):
    done = subprocess.run([TMTRACE, "report", "--format", "json", path], capture_output=True, check=True)
    return json.loads(done.stdout)["totals"]["allocations"]


def start(argv):
    target = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    while target.stdout.readline() != b"ready\n":
        if target.poll() is not None:
            raise SystemExit(f"{argv} ended")
    return target


def bench_attach(folder, rounds):
    program = make_many_symbols(folder)
    size = os.path.getsize(program) / 1e6
    target = start([program])
    results = [attach_and_let_go(target, folder, 0.2) for _ in range(rounds)]
    target.communicate(b"\n")
    print(f"attach to a program of {size:.0f} MB with a million symbols:")
    goal("attach", statistics.median(result[0] for result in results), 0.5, "s")
    goal("detach", statistics.median(result[1] for result in results) * 1000, 50, "ms")


def bench_memory(folder):
    target = start([PAIRS, "50", "1000", "attach"])
    results = attach_and_let_go(target, folder, 5)
    target.communicate(b"\n")
    peak, own = results[2]
    print(f"tracer after 5 s of pairs at depth 50: peak resident {peak:.1f} MiB, its own (anonymous) {own:.1f} MiB")
    goal("own memory", own, 40, "MiB")
    goal("detach", results[1] * 1000, 50, "ms")


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as folder:
        bench_pairs(folder, rounds)
        bench_attach(folder, rounds)
        bench_memory(folder)
    print("goals missed: " + ", ".join(missed) if missed else "all goals are met")
    sys.exit(1 if missed else 0)


main()

"""What tracing native allocators costs, beside heaptrack, on this machine, now:

    TMTRACE=build/tmtrace python3 tests/bench/native.py [ROUNDS] [--only NAME,...] [--probe pad|breakpoint] [--size FACTOR]

programs  the wall time of a target from its start to its exit: untraced, under tmtrace, and with heaptrack's library preloaded, which
          writes to heaptrack's interpreter and compressor as its own script has it: that makes it wait while the interpreter reads
          debug information (some 0.2 s if libc6-dbg is installed). tmtrace's is what its report says (duration_ns). `with the
          report`: until the whole tool has ended. The added time is what is compared
memory    of the target and its tracer together (heaptrack: without the compressor), beyond that of the target untraced: the peak of the
          sum of Pss, sampled, so memory that both map counts once; in runs of their own
pair      a malloc(64) and its free at stack depth 37, timed by the loop itself, after half a second of the same
pads      the same at depth 1, in the thread's own time, attached to one process: recording, in a sample of one in 512 KiB, and off
stop      the longest time in which a thread that computes did not run while tmtrace attached to its process, or detached
redis     redis-server under redis-benchmark on the loopback interface, tmtrace attached to it; again when it has detached

All ways alternate in the same run; the numbers are medians of the ROUNDS (3). A goal that is missed is said, and is no failure. Exit status 1
if something did not run right: a target whose output or exit status is not that of the untraced run. Wants two free CPUs. A breakpoint
takes some 10 us an event: --size 0.02 then, which is too small for the redis numbers to mean much.
"""

import argparse
import collections
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TMTRACE = os.path.abspath(os.environ.get("TMTRACE", os.path.join(HERE, "../../build/tmtrace")))
BOUND = 600  # seconds; what runs longer is killed
# The same hashes every time, nothing of the user's.
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "TZ": "UTC", "HOME": "/nonexistent",
               "GIT_CONFIG_NOSYSTEM": "1", "PERL_HASH_SEED": "0", "PYTHONHASHSEED": "0", "PYTHONMALLOC": "malloc"}

options = None
wrong = []

Run = collections.namedtuple("Run", "seconds whole answer report")  # answer: exit status, digest of the output
Heaptrack = collections.namedtuple("Heaptrack", "preload interpreter compressor")


class Failed(Exception):
    """Something did not run right: no number can be given."""


# ---- the programs: how the input of each is made, and its command ----


def write(path, lines):
    with open(path, "w") as file:
        file.writelines(line + "\n" for line in lines)
    return path


def sqlite_script(count):
    yield "CREATE TABLE a(id INTEGER PRIMARY KEY, name TEXT, n INTEGER); CREATE INDEX a_name ON a(name);"
    yield "CREATE TABLE b(id INTEGER PRIMARY KEY, a INTEGER, value TEXT); CREATE INDEX b_a ON b(a);"
    for i in range(count):
        yield f"INSERT INTO a VALUES({i}, 'name {i * 7919 % count:05}', {i % 97});"
        yield f"INSERT INTO b VALUES({i}, {i * 31 % count}, 'value {i}');"
        if i % 2 == 0:
            yield f"SELECT b.value, upper(a.name) FROM a JOIN b ON b.a = a.id WHERE a.name = 'name {i:05}';"
        if i % 20 == 0:
            yield f"SELECT count(*), sum(n) FROM a WHERE n % 7 = {i % 7};"
    yield "SELECT n, count(*), group_concat(upper(name) || printf('%d', a.id)) FROM a JOIN b ON b.a = a.id GROUP BY n;"


def c_source(count):
    """C, and C++ too."""
    yield "struct node { struct node *next; long key, values[8]; };"
    for i in range(count):
        yield f"static long step_{i}(struct node *list, long x) {{ long sum = {i};"
        yield f"for (struct node *n = list; n; n = n->next) {{ switch ((n->key ^ x) % {i % 5 + 4}) {{"
        for case in range(4):
            yield f"case {case}: sum += n->values[{case}] * {i + case} - (x >> {case + 1}); n->values[{(i + case) % 8}] ^= sum; break;"
        yield f"default: for (int k = 0; k < {i % 9 + 2}; k++) sum ^= n->values[k & 7] + (k * x); }} }}"
        yield f"return sum > {i} ? sum {f'+ step_{i - 1}(list, sum)' if i else ''} : x; }}"
        yield f"long call_{i}(struct node *list) {{ return step_{i}(list, {i}) + step_{i}(list->next, list->key); }}"


def git_stream(commits):
    files = [[f"line {line} of file {name}" for line in range(150)] for name in range(30)]
    for commit in range(commits):
        yield f"commit refs/heads/main\ncommitter Nobody <nobody@example.org> {1_600_000_000 + commit} +0000"
        yield f"data <<end\nchange {commit}\n\nwhat it does: {commit * commit}\nend"
        for name in range(len(files)) if commit == 0 else (commit % 30, commit * 7 % 30):
            files[name][commit * 13 % 150] = f"changed by {commit}"
            text = "\n".join(files[name])
            yield f"M 644 inline folder{name % 4}/file{name}.txt\ndata <<end_of_file\n{text}\nend_of_file"


PERL = r"""
my ($count) = @ARGV; my (%seen, @words);
for my $i (1 .. $count) {
    my %record = (name => "name$i", tags => [map { "tag" . ($i * $_ % 101) } 1 .. 5]);
    push @{$seen{$_}}, $record{name} for @{$record{tags}};
    push @words, join "-", map { ucfirst } split /(?<=a)/, $record{name} . join "", @{$record{tags}};
}
(my $text = join " ", sort @words) =~ s/(\w+)-(\w+)/$2$1/g;
print length $text, " ", join(",", map { scalar @{$seen{$_}} } sort keys %seen), "\n";
"""

CMAKE = r"""
foreach(i RANGE ${COUNT})
  string(REPLACE "a" "${i}" text "a;b;a;c;${i}")
  list(APPEND all ${text})
  string(REGEX MATCHALL "[0-9]+" digits "${text}-${i}")
  list(LENGTH digits length)
  math(EXPR modulo "${i} % 50")
  if(modulo EQUAL 0)
    list(REMOVE_DUPLICATES all)
    list(SORT all)
    message(STATUS "${i} ${length} ${text} ${all}")
    set(all)
  endif()
endforeach()
"""

PYTHON = r"""
import hashlib, json, sys
digest = hashlib.sha256()
for n in range(int(sys.argv[1])):
    tree = {"number": n, "list": [n, n / 7, str(n) * 5, {"k%d" % k: list(range(k)) for k in range(15)}]}
    text = json.dumps(json.loads(json.dumps(tree)), sort_keys=True)
    digest.update("-".join(sorted(text.upper().split(", "))).encode())
print(digest.hexdigest())
"""

# Its stacks go through code that is made at run time and has no CFI.
NODE = r"""
const digest = require("crypto").createHash("sha256");
for (let n = 0; n < Number(process.argv[2]); n++) {
	const tree = {number: n, list: [n, n / 7, String(n).repeat(5)], map: [...new Map([[n, {k: Array.from({length: 40}, (_, k) => k * n)}]])]};
	digest.update(JSON.stringify(JSON.parse(JSON.stringify(tree))));
}
console.log(digest.digest("hex"));
"""


def sqlite(folder, count):
    return ["sqlite3", "-batch", ":memory:", f".read {write(f'{folder}/script.sql', sqlite_script(count))}"]


def clang(folder, count):
    # Not -o /dev/stdout: run by root, clang renames its file over that.
    return ["clang", "-O1", "-c", "-w", write(f"{folder}/source.c", c_source(count)), "-o", "-"]


def clang_format(folder, count):
    return ["clang-format", "--style=LLVM", write(f"{folder}/source.cc", c_source(count))]


def git(folder, count):
    subprocess.run(["git", "init", "-q", "--bare", f"{folder}/repository"], env=ENVIRONMENT, check=True, capture_output=True)
    with open(write(f"{folder}/stream", git_stream(count))) as stream:
        subprocess.run(["git", "--git-dir", f"{folder}/repository", "fast-import", "--quiet"], stdin=stream, env=ENVIRONMENT, check=True)
    return ["git", "--git-dir", f"{folder}/repository", "log", "--stat", "main"]


def perl(folder, count):
    return ["perl", write(f"{folder}/program.pl", [PERL]), str(count)]


def cmake(folder, count):
    return ["cmake", f"-DCOUNT={count}", "-P", write(f"{folder}/script.cmake", [CMAKE])]


def python(folder, count):
    return ["/usr/bin/python3", write(f"{folder}/program.py", [PYTHON]), str(count)]


def node(folder, count):
    return ["node", write(f"{folder}/program.js", [NODE]), str(count)]


# The goals: how many times untraced at most (None: any), and tmtrace's part of heaptrack's added time and memory.
Program = collections.namedtuple("Program", "needs make count most_times most_part memory")
PROGRAMS = {
    "sqlite": Program("sqlite3", sqlite, 20_000, 1.2, 0.5, True),
    "clang": Program("clang", clang, 350, 1.5, 0.5, True),
    "git": Program("git", git, 8_000, 2, 0.5, False),
    "perl": Program("perl", perl, 80_000, None, 0.5, False),
    "format": Program("clang-format", clang_format, 800, None, 0.5, False),
    "cmake": Program("cmake", cmake, 40_000, None, 0.5, False),
    "python": Program("/usr/bin/python3", python, 8_000, None, 0.5, False),
    "node": Program("node", node, 100_000, None, None, False),
}

PAIR = r"""
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}
__attribute__((noinline, noclone)) static void pairs(int depth, int count)
{
	if (depth > 1)
		pairs(depth - 1, count);
	else
		while (count--) {
			void *volatile block = malloc(64);
			free(block);
		}
	__asm__ volatile("");
}
static double ns_a_pair(double seconds)
{
	double begin = now(), ns;
	long count = 0;
	do {
		pairs(37, 1000);
		count += 1000;
		ns = now() - begin;
	} while (ns < seconds * 1e9);
	return ns / count;
}
int main(int argc, char **argv)
{
	(void)argc;
	ns_a_pair(0.5); /* the tracers start */
	printf("%.3f\n", ns_a_pair(atof(argv[1])));
	return 0;
}
"""

# Asked by a byte: nanoseconds a pair ('p'), or the longest time in which the first thread did not run since the last
# question ('g'), while the others compute. The threads' number is the argument.
ATTACHED = r"""
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
static double now(clockid_t clock)
{
	struct timespec t;
	clock_gettime(clock, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}
static double ns_a_pair(void)
{
	double begin = now(CLOCK_THREAD_CPUTIME_ID);
	for (int i = 0; i < 5000000; i++) {
		void *volatile block = malloc(64);
		free(block);
	}
	return (now(CLOCK_THREAD_CPUTIME_ID) - begin) / 5e6;
}
/* The longest time in which the first thread did not run, in which none of them did, and when one was last seen to. */
static _Atomic double gap, still, latest;
static void *compute(void *first)
{
	double last = now(CLOCK_MONOTONIC), time;
	for (;; last = time) {
		double seen = latest;
		time = now(CLOCK_MONOTONIC);
		if (first && time - last > gap)
			gap = time - last;
		if (atomic_compare_exchange_strong(&latest, &seen, time > seen ? time : seen) && seen && time - seen > still)
			still = time - seen; /* no other has run meanwhile */
	}
}
int main(int argc, char **argv)
{
	pthread_t thread;
	char question;
	for (int i = atoi(argv[1]); i > 0; i--)
		pthread_create(&thread, NULL, compute, i == 1 ? argv : NULL);
	while (read(0, &question, 1) == 1) {
		double answer = question == 'p' ? ns_a_pair() : atomic_exchange(question == 'g' ? &gap : &still, 0);
		printf("%.3f\n", answer);
		fflush(stdout);
	}
	return argc == 0;
}
"""


# ---- the ways to run a command ----


def wait(process):
    """Its exit status, the moment it has ended: subprocess's own time-out would poll. Nothing of its session outlives an interrupt."""
    timer = threading.Timer(BOUND, os.killpg, (process.pid, signal.SIGKILL))
    timer.start()
    try:
        return process.wait()
    finally:
        timer.cancel()
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)


def start(argv, stdout, **more):
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=stdout, start_new_session=True, env=ENVIRONMENT | more)


def said(folder):
    with open(f"{folder}/output", "rb") as file:
        return file.read()


def answer(status, folder):
    return status, hashlib.sha256(said(folder)).hexdigest()[:12]


class Sampler(threading.Thread):
    """Samples the Pss of processes and their descendants, until they have all ended; `peak` of the sum is in MiB."""

    def __init__(self, *processes):
        super().__init__(daemon=True)
        self.pids = [process.pid for process in processes]
        self.peak = 0
        self.start()

    @staticmethod
    def family(pid):
        found = [pid]
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/children") as children:
                    for child in children.read().split():
                        found += Sampler.family(int(child))
        return found

    @staticmethod
    def pss(pid):
        try:
            with open(f"/proc/{pid}/smaps_rollup") as rollup:
                return int(re.search(r"^Pss:\s+(\d+) kB", rollup.read(), re.M)[1]) / 1024
        except (OSError, TypeError):  # it has ended
            return 0

    def run(self):
        while total := sum(self.pss(pid) for root in self.pids for pid in self.family(root)):
            self.peak = max(self.peak, total)
            time.sleep(0.003)


def run_untraced(argv, folder, sample=lambda *_: None):
    with open(f"{folder}/output", "wb") as output:
        begin = time.monotonic()
        target = start(argv, output)
        sample(target)
        status = wait(target)
        seconds = time.monotonic() - begin
    return Run(seconds, seconds, answer(status, folder), None)


def tmtrace_command(folder, *more):
    probe = ["--probe", options.probe] if options.probe else []
    return [TMTRACE, "--domain", "native", *probe, "--force", "-o", f"{folder}/bench.tmt", *more]


def read_report(folder):
    done = subprocess.run([TMTRACE, "report", f"{folder}/bench.tmt", "--format", "json", "--limit", "1"], capture_output=True)
    if done.returncode != 0:
        raise Failed(f"no report: {done.stderr.decode()}")
    report = json.loads(done.stdout)
    if report["totals"]["lost"]:
        raise Failed(f"{report['totals']['lost']} events are lost")
    return report


def run_tmtrace(argv, folder, sample=lambda *_: None):
    with open(f"{folder}/output", "wb") as output:
        begin = time.monotonic()
        tracer = start(tmtrace_command(folder, "-q", "--", *argv), output)
        sample(tracer)
        status = wait(tracer)
        whole = time.monotonic() - begin
    report = read_report(folder)
    return Run(report["duration_ns"] / 1e9, whole, answer(status, folder), report)


def find_heaptrack():
    script = shutil.which("heaptrack", path=ENVIRONMENT["PATH"])
    folder = script and os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(script))), "lib", "heaptrack")
    found = script and Heaptrack(f"{folder}/libheaptrack_preload.so", f"{folder}/libexec/heaptrack_interpret", shutil.which("zstd") or "gzip")
    if not found or not os.path.exists(found.preload) or not os.path.exists(found.interpreter):
        print("heaptrack is not installed: no comparison with it")
        return None
    return found


@contextlib.contextmanager
def heaptrack_pipe(heaptrack, folder):
    """The interpreter, and what a target needs in its environment. Both ends are open before it starts, so that it waits for neither."""
    pipe = f"{folder}/heaptrack.pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(pipe, os.O_WRONLY)
    os.set_blocking(reader, True)
    with open(f"{folder}/heaptrack.out", "wb") as packed:
        interpreter = subprocess.Popen([heaptrack.interpreter], stdin=reader, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                       start_new_session=True)
        compressor = subprocess.Popen([heaptrack.compressor, "-c"], stdin=interpreter.stdout, stdout=packed, start_new_session=True)
    interpreter.stdout.close()
    os.close(reader)
    try:
        yield interpreter, {"LD_PRELOAD": heaptrack.preload, "DUMP_HEAPTRACK_OUTPUT": pipe}
    finally:
        os.close(writer)
        os.unlink(pipe)
        failed = wait(interpreter) or wait(compressor)
    if failed or os.path.getsize(f"{folder}/heaptrack.out") < 100:  # an empty one has 36
        raise Failed("heaptrack has recorded nothing")


def run_heaptrack(argv, folder, sample=lambda *_: None):
    with open(f"{folder}/output", "wb") as output:
        begin = time.monotonic()
        with heaptrack_pipe(options.heaptrack, folder) as (interpreter, environment):
            start_of_target = time.monotonic()
            target = start(argv, output, **environment)
            sample(target, interpreter)
            status = wait(target)
            seconds = time.monotonic() - start_of_target
        whole = time.monotonic() - begin
    return Run(seconds, whole, answer(status, folder), None)


def ways():
    return {"untraced": run_untraced, "tmtrace": run_tmtrace} | ({"heaptrack": run_heaptrack} if options.heaptrack else {})


def alternate(measure):
    """What measure(run) gives for each way, round by round; {way: [...]}."""
    found = {way: [] for way in ways()}
    for _ in range(options.rounds):
        for way, run in ways().items():
            found[way].append(measure(run))
    return found


def middle(found):
    return {way: statistics.median(values) for way, values in found.items()}


# ---- what is printed ----


def verdict(met):
    return "ok" if met else "MISSED"


def say_added(what, median, most):
    """tmtrace's part of what heaptrack adds; nothing without heaptrack, or where that adds nothing that can be measured."""
    base = median["untraced"]
    theirs = median.get("heaptrack", base) - base
    if theirs <= 0:
        return ""
    part = (median["tmtrace"] - base) / theirs
    goal = f", at most {most:g}: {verdict(part <= most)}" if most else ""
    return f"; added {what} {part:.2f} of heaptrack's{goal}"


def say_ratio(median, most):
    times = median["tmtrace"] / median["untraced"]
    return f"; tmtrace {times:.2f}x, at most {most:g}x: {verdict(times <= most)}" if most else ""


def say_times(median, unit, digits=3):
    base = median["untraced"]
    rest = (f", {way} {value:.{digits}f} {unit} ({value / base:.2f}x)" for way, value in median.items() if way != "untraced")
    return f"untraced {base:.{digits}f} {unit}" + "".join(rest)


# ---- the measurements ----


def check_answers(runs):
    answers = {run.answer for values in runs.values() for run in values}
    if len(answers) > 1 or next(iter(answers))[0] != 0:
        raise Failed("status and output: " + "; ".join(f"{way} {[run.answer for run in values]}" for way, values in runs.items()))


def bench_program(name, program, folder):
    argv = program.make(folder, max(1, int(program.count * options.size)))
    runs = alternate(lambda run: run(argv, folder))
    check_answers(runs)
    median = middle({way: [run.seconds for run in values] for way, values in runs.items()})
    whole = middle({way: [run.whole for run in values] for way, values in runs.items()})
    report = runs["tmtrace"][-1].report
    print(f"{name:8} {say_times(median, 's')}{say_ratio(median, program.most_times)}{say_added('time', median, program.most_part)}")
    print(f"{'':8} {report['totals']['allocations'] / 1e6:.2f} million allocations; probe: {report['probe']}; with the report: "
          + ", ".join(f"{way} {whole[way]:.3f} s" for way in whole if way != "untraced"), flush=True)
    if program.memory:
        bench_memory(argv, folder, program.most_part)


def peak(run, argv, folder):
    samplers = []
    run(argv, folder, lambda *processes: samplers.append(Sampler(*processes)))
    samplers[0].join(BOUND)
    return samplers[0].peak


def bench_memory(argv, folder, most):
    median = middle(alternate(lambda run: peak(run, argv, folder)))
    print(f"{'':8} memory: {say_times(median, 'MiB', 1)}{say_added('memory', median, most)}", flush=True)


def bench_pair(folder):
    write(f"{folder}/pair.c", [PAIR])
    subprocess.run(["gcc", "-O2", "-fno-builtin", f"{folder}/pair.c", "-o", f"{folder}/pair"], check=True)

    def ns(run):
        status, _ = run([f"{folder}/pair", str(0.5 * min(1, options.size))], folder).answer
        if status != 0:
            raise Failed(f"status {status}")
        return float(said(folder))

    median = middle(alternate(ns))
    print(f"{'pair':8} {say_times(median, 'ns', 1)}{say_added('cost', median, 0.1)}", flush=True)


# ---- attached to one process ----


class Asked:
    """A running ATTACHED."""

    def __init__(self, folder, threads):
        write(f"{folder}/attached.c", [ATTACHED])
        subprocess.run(["gcc", "-O2", "-fno-builtin", "-pthread", f"{folder}/attached.c", "-o", f"{folder}/attached"], check=True)
        self.process = subprocess.Popen([f"{folder}/attached", str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, question):
        self.process.stdin.write(question)
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def bench_pads(folder):
    """What a pair costs at depth 1, in the thread's own time: recording, in a sample, and while nothing records (a tracer
    that was killed has left its pads)."""
    found = collections.defaultdict(list)
    for _ in range(options.rounds):
        target = Asked(folder, 0)
        found["untraced"].append(target.ask(b"p"))
        for way, more in (("recording", []), ("sampled", ["--sample", "512K"])):
            with attached(target.process.pid, folder, *more):
                found[way].append(target.ask(b"p"))
        with attached(target.process.pid, folder, kill=True):
            pass
        found["off"].append(target.ask(b"p"))
        target.end()
    median = middle(found)
    added = {way: median[way] - median["untraced"] for way in median}
    print(f"{'pads':8} untraced {median['untraced']:.1f} ns a pair; added: recording {added['recording']:.1f}, in a sample "
          f"{added['sampled']:.1f}, off {added['off']:.1f}, at most 3: {verdict(added['off'] <= 3)}", flush=True)


def bench_stop(folder):
    """For how long a thread that computes does not run while tmtrace attaches, and while it detaches: with more threads than processors
    it waits for the others as well. And for how long none of them runs: that is the stop."""
    for threads, most in ((1, 1), (8, 20)):
        found = collections.defaultdict(list)
        for _ in range(options.rounds):
            target = Asked(folder, threads)
            time.sleep(0.2)
            target.ask(b"g")
            time.sleep(0.5)
            found["untraced"].append(target.ask(b"g") / 1e6)
            target.ask(b"s")
            with attached(target.process.pid, folder, events=0):
                found["attach"].append(target.ask(b"g") / 1e6)
                found["still"].append(target.ask(b"s") / 1e6)
            found["detach"].append(target.ask(b"g") / 1e6)
            target.end()
        median = middle(found)
        print(f"{'stop':8} {threads} busy threads: longest pause untraced {median['untraced']:.2f} ms, at an attach "
              f"{median['attach']:.2f} ms, at most {most}: {verdict(median['attach'] <= most)} (none ran for {median['still']:.2f} ms); "
              f"at a detach {median['detach']:.2f} ms", flush=True)


# ---- redis ----


def ask(port, what):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.sendall(what + b"\r\n")
        return connection.recv(100)


@contextlib.contextmanager
def redis_server(folder, **environment):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    argv = f"redis-server --port {port} --bind 127.0.0.1 --appendonly no --dir {folder} --save".split() + [""]
    server = start(argv, subprocess.DEVNULL, **environment)
    try:
        end = time.monotonic() + 60
        while ask(port, b"PING") != b"+PONG\r\n":
            if server.poll() is not None or time.monotonic() > end:
                raise Failed("redis-server does not answer")
            time.sleep(0.02)
        load(port, 0.2)
        yield server.pid, port
        ask(port, b"SHUTDOWN NOSAVE")
        if wait(server) != 0:
            raise Failed(f"redis-server ended with {server.returncode}")
    finally:
        if server.poll() is None:
            server.kill()
            server.wait()


def load(port, part=1.0):
    """Requests a second."""
    requests = max(5000, int(60_000 * options.size * part))
    argv = f"redis-benchmark -h 127.0.0.1 -p {port} -c 10 -n {requests} -r 10000 -d 100 -t set,get,lpush,lpop --csv".split()
    done = subprocess.run(argv, capture_output=True, text=True, timeout=BOUND, env=ENVIRONMENT)
    rates = [float(rate) for rate in re.findall(r'^"(?:SET|GET|LPUSH|LPOP)","([\d.]+)"', done.stdout, re.M)]
    if done.returncode != 0 or len(rates) != 4:
        raise Failed(f"redis-benchmark: {done.returncode} {done.stdout} {done.stderr}")
    return statistics.harmonic_mean(rates)


@contextlib.contextmanager
def attached(pid, folder, *more, kill=False, events=1000):
    """Not quiet: its first line says that all is in place."""
    tracer = subprocess.Popen(tmtrace_command(folder, "--limit", "1", *more, "--attach", str(pid)), stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
    try:
        line = tracer.stderr.readline()
        if b"tracing" not in line:
            raise Failed(f"tmtrace does not trace: {line!r}")
        yield
        tracer.send_signal(signal.SIGKILL if kill else signal.SIGINT)
        tracer.stderr.read()
        status = wait(tracer)
        if not kill and (status != 0 or read_report(folder)["totals"]["allocations"] < events):
            raise Failed("tmtrace failed, or saw nothing")
    finally:
        if tracer.poll() is None:
            tracer.terminate()  # not SIGKILL: it puts back what it has changed
            wait(tracer)


def redis_round(folder, rates):
    with redis_server(folder) as (pid, port):
        rates["untraced"].append(load(port))
        with attached(pid, folder):
            rates["tmtrace"].append(load(port))
        rates["detached"].append(load(port))
    if options.heaptrack:
        with heaptrack_pipe(options.heaptrack, folder) as (_, environment), redis_server(folder, **environment) as (_, port):
            rates["heaptrack"].append(load(port))


def bench_redis(folder):
    rates = collections.defaultdict(list)
    for _ in range(options.rounds):
        redis_round(folder, rates)
    median = middle(rates)
    kept = {way: 100 * rate / median["untraced"] for way, rate in median.items()}
    part = say_added("time a request", {way: 1 / rate for way, rate in median.items()}, 0.5)
    rest = "".join(f", {way} {kept[way]:.0f} %" for way in ("tmtrace", "heaptrack") if way in kept)
    more = f", more than heaptrack: {verdict(kept['tmtrace'] > kept['heaptrack'])}" if "heaptrack" in kept else ""
    print(f"{'redis':8} untraced {median['untraced']:.0f} requests a second; kept:{rest[1:]}{more}{part}; "
          f"detached {kept['detached']:.0f} %, at least 95: {verdict(kept['detached'] >= 95)}", flush=True)


def bench(name, folder):
    if name == "pair":
        bench_pair(folder)
    elif name == "redis":
        bench_redis(folder)
    elif name == "pads":
        bench_pads(folder)
    elif name == "stop":
        bench_stop(folder)
    else:
        bench_program(name, PROGRAMS[name], folder)


NEEDS = {name: [program.needs] for name, program in PROGRAMS.items()} | {"pair": ["gcc"], "pads": ["gcc"], "stop": ["gcc"], "redis": ["redis-server", "redis-benchmark"]}


def parse():
    parser = argparse.ArgumentParser(usage="native.py [ROUNDS] [--only NAME,...] [--probe pad|breakpoint] [--size FACTOR]")
    parser.add_argument("rounds", nargs="?", type=int, default=3)
    parser.add_argument("--only", type=lambda names: names.split(","), default=list(NEEDS), metavar="NAME,...", help=", ".join(NEEDS))
    parser.add_argument("--probe", choices=("pad", "breakpoint"), help="as tmtrace has it; default: what tmtrace chooses")
    parser.add_argument("--size", type=float, default=1, help="of the inputs; 0.01 for a try of the slow probe")
    parsed = parser.parse_args()
    unknown = set(parsed.only) - set(NEEDS)
    if unknown:
        parser.error(f"{', '.join(unknown)}: there are {', '.join(NEEDS)}")
    return parsed


def main():
    global options
    options = parse()
    if not os.access(TMTRACE, os.X_OK):
        sys.exit(f"no tmtrace at {TMTRACE}: set TMTRACE")
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell has it ignored: what was started is ended
        signal.signal(number, signal.default_int_handler)
    options.heaptrack = find_heaptrack()
    for name in options.only:
        missing = [program for program in NEEDS[name] if not shutil.which(program, path=ENVIRONMENT["PATH"])]
        if missing:
            print(f"{name:8} left out: not installed: {', '.join(missing)}")
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                bench(name, folder)
            except (Failed, OSError, ValueError, subprocess.SubprocessError) as problem:
                print(f"{name:8} DID NOT RUN RIGHT: {problem}", flush=True)
                wrong.append(name)
    sys.exit(f"did not run right: {', '.join(wrong)}" if wrong else 0)


if __name__ == "__main__":
    main()

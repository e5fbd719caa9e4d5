"""Snapshots that the user asks for: SIGUSR1 to tmtrace."""

import json
import re
import signal

from support import LiveTest, attach, main, run_tmtrace
from support.process import Process, wait_until

# Blocks of these sizes are made one by one, each at the test's word. No pymalloc: a block is the C library's as well.
SCRIPT = """
import sys
kept = []
print("ready", flush=True)
for line in sys.stdin:
    kept.append(bytes(int(line)))
    print("done", flush=True)
"""
SIZES = (100003, 200003, 300007)
OBJECT = 33  # of a bytes object, besides its bytes
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "PYTHONMALLOC": "malloc"}
TAKEN = re.compile(rb"tmtrace: snapshot (\S+) taken at [\d.]+ s: [^\n]* in \d+ blocks\n")


class Snapshots(LiveTest):
    def start(self, *options):
        target = Process(self, ["/usr/bin/python3", "-c", SCRIPT], env=ENVIRONMENT).expect_ready()
        return target, attach(self, target.pid, *options)

    def make(self, target, size):
        target.send(b"%d\n" % size)
        self.assertEqual(target.line(), "done")

    def take(self, trace, name):
        trace.signal(signal.SIGUSR1)
        if not trace.err.wait_for(b"tmtrace: snapshot %d taken" % name, 20):
            trace.fail("took no snapshot")

    def check(self, domain):
        target, trace = self.start("--domain", domain)
        for number, size in enumerate(SIZES, 1):
            self.make(target, size)
            self.take(trace, number)
        report = trace.finish_trace()
        names = [s["name"] for s in report.json["snapshots"]]
        self.assertEqual(names[:3], ["1", "2", "3"])
        self.assertEqual(sorted(names[3:]), ["end", "peak"])
        times = [s["time"] for s in report.json["snapshots"]]
        self.assertEqual(times, sorted(times))
        for number in (1, 2, 3):
            held = report.load("--at", number)
            large = sum(SIZES[:number]) + number * OBJECT
            self.assertGreaterEqual(held["totals"]["current"], large)
            self.assertLess(held["totals"]["current"], large + 100000)
            self.assertEqual(sum(s["size"] for s in held["statistics"]), held["totals"]["current"])
            self.assertEqual((held["snapshot"], held["time"]), (str(number), times[number - 1]))
        self.assertRegex(report.run(), r"\nSnapshots \(--at NAME\): 1 at [\d.]+ s, 2 at [\d.]+ s, 3 at [\d.]+ s, peak, end\n")
        self.assertIn("\nSnapshot 2, taken at ", report.run("--at", 2))

    def test_native(self):
        self.check("native")

    def test_python(self):
        self.check("python")

    def test_many_at_once(self):
        """The kernel makes one of signals that come before the first is delivered; each that is delivered is a snapshot."""
        target, trace = self.start("--domain", "native")
        for _ in range(50):
            trace.signal(signal.SIGUSR1)
        self.make(target, SIZES[0])
        report = trace.finish_trace()
        told = [int(name) for name in TAKEN.findall(trace.err.data)]
        self.assertGreater(len(told), 0)
        self.assertEqual(told, list(range(1, len(told) + 1)))
        self.assertEqual({s["name"] for s in report.json["snapshots"]}, {*map(str, told), "end", "peak"})

    def test_a_request_just_before_the_end_is_not_lost(self):
        target, trace = self.start("--domain", "native")
        self.make(target, SIZES[0])
        trace.signal(signal.SIGUSR1)
        trace.signal(signal.SIGTERM)
        report = trace.finish_trace(None)
        self.assertIn("1", {s["name"] for s in report.json["snapshots"]})

    def test_it_can_be_read_while_the_trace_goes_on(self):
        target, trace = self.start("--domain", "native")
        self.make(target, SIZES[0])
        self.take(trace, 1)
        wait_until(lambda: run_tmtrace("report", trace.path, "--at", 1).returncode == 0, "saved", 20)
        shown = json.loads(run_tmtrace("report", trace.path, "--at", 1, "--format", "json").stdout)
        self.assertGreater(shown["totals"]["current"], SIZES[0])
        trace.finish_trace()

    def test_a_name_that_is_not_there(self):
        _, trace = self.start("--domain", "native")
        report = trace.finish_trace()
        done = run_tmtrace("report", report.path, "--at", "1")
        self.assertEqual(done.returncode, 2)
        self.assertIn("has no snapshot '1': it has", done.stderr)
        self.assertNotIn("Snapshots (--at NAME)", report.run())


if __name__ == "__main__":
    main()

"""Everything at once, and at every barrier the fixture's own ledger is the block table."""

import json

from support import LONG, LiveTest, attach, code_of, launch, main, start_ready
from support.environment import fixture

ROUNDS = 100 if LONG else 3
OPERATIONS = 1000 if LONG else 400
BOUND = 120


class Torture(LiveTest):
    def one_round(self, target):
        """The round's live blocks and its last line, after the byte that starts it was sent."""
        live = []
        while (line := target.line(BOUND)).startswith("live "):
            live += json.loads(line.removeprefix("live "))
        told = json.loads(line)
        self.assertEqual(told["live"], len(live))
        return live, told

    def check_attached(self, build):
        target = start_ready(self, build, fixture("plugin.so"), ROUNDS, OPERATIONS)
        before = code_of(target.pid)
        for number in range(ROUNDS):
            if number:
                target.expect_ready()
            trace = attach(self, target.pid)
            target.send()
            live, told = self.one_round(target)
            report = trace.finish_trace()
            self.assert_live(report, live)
            self.assertEqual(report.totals["lost"], 0)
            self.assert_code_unchanged(target.pid, before)
            target.send()
        self.assertGreater(told["signals"], 0)
        self.assertGreater(told["children"], 0)
        self.assertEqual(target.wait(60), 0)

    def test_every_round_in_a_trace_of_its_own(self):
        for build in ("torture-O0", "torture-O2"):
            with self.subTest(build):
                self.check_attached(build)

    def test_all_rounds_from_the_start(self):
        # One trace over everything; the ledger of the last barrier.
        trace = launch(self, fixture("torture-O2"), fixture("plugin.so"), ROUNDS, OPERATIONS)
        for number in range(ROUNDS):
            trace.expect_ready(BOUND).send()
            live, _ = self.one_round(trace)
            if number < ROUNDS - 1:
                trace.send()
        trace.popen.stdin.close()  # end of file at the last barrier: the fixture leaves with its blocks
        trace.popen.stdin = None
        report = trace.finish_trace(None, status=3)
        self.assert_live(report, live)
        self.assertEqual(report.totals["lost"], 0)


if __name__ == "__main__":
    main()

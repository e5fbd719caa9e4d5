"""Children, new images, libraries that come and go."""

from support import LiveTest, attach, code_of, launch, main, start_ready
from support.environment import fixture


class Children(LiveTest):
    def check(self, mode, exact=True, builds=("follow-O0", "follow-O2")):
        """All children run as they should; the ledger of this address space is the report."""
        for build in builds:
            with self.subTest(build):
                target = start_ready(self, build, mode)
                before = code_of(target.pid)
                trace = attach(self, target.pid)
                target.send()
                children, ledger = target.json(60), target.json()
                report = trace.finish_trace()
                self.assertEqual(children["children"], children["expected"])
                if exact:
                    self.assert_totals(report, ledger)
                self.assert_code_unchanged(target.pid, before)
                target.finish()

    def test_a_forked_child_is_clean_and_not_counted(self):
        self.check("fork")

    def test_fork_while_other_threads_allocate(self):
        self.check("fork-threads")

    def test_fork_and_exec(self):
        self.check("fork-exec")

    def test_a_vfork_child_allocates_in_our_memory(self):
        self.check("vfork")

    def test_vfork_and_exec(self):
        self.check("vfork-exec")

    def test_posix_spawn(self):
        self.check("spawn")

    def test_a_clone_vm_child_allocates_in_our_memory(self):
        self.check("clone-vm")


class Exec(LiveTest):
    """The new image is armed afresh: live tables start anew, totals go on, the report says so."""

    def check(self, mode):
        for build in ("follow-O0", "follow-O2"):
            with self.subTest(build):
                target = start_ready(self, build, mode)
                trace = attach(self, target.pid)
                target.send()
                children, ledger = target.json(), target.json()
                report = trace.finish_trace()
                self.assertEqual(children["children"], children["expected"])
                self.assertEqual({size for _, size in report.blocks(10007)}, {10067})
                self.assertEqual(report.totals["blocks"], ledger["blocks"])
                self.assertGreaterEqual(report.totals["allocations"], 1 + ledger["allocations"])
                self.assertEqual(len(report.json["target"]["images"]), 2)
                names = {name for (name,) in report.query("SELECT name FROM snapshot")}
                self.assertIn("exec-1", names)
                before_exec = report.load("--group-by", "traceback", "--at", "exec-1")["statistics"]
                self.assertIn(10007, {statistic["size"] for statistic in before_exec})
                target.finish()

    def test_exec_of_itself(self):
        self.check("exec")

    def test_exec_by_a_thread_that_is_not_the_leader(self):
        self.check("exec-thread")

    def test_a_shell_that_becomes_a_static_program(self):
        trace = launch(self, "/bin/sh", "-c", f"exec {fixture('calls-static')}")
        trace.expect_ready().send()
        ledger, live = trace.json(), trace.json()
        trace.send()
        report = trace.finish_trace(None)
        self.assertGreaterEqual(report.totals["allocations"], ledger["allocations"])
        self.assertTrue({tuple(block) for block in live} <= report.blocks(10007))


class Libraries(LiveTest):
    def check(self, plugin):
        for build in ("dlopen-O0", "dlopen-O2"):
            with self.subTest(build):
                target = start_ready(self, build, fixture(plugin), 10)
                before = code_of(target.pid)
                trace = attach(self, target.pid)
                target.send()
                expected = target.json()
                report = trace.finish_trace()
                self.assert_live(report, expected["live"])
                self.assertGreaterEqual(report.totals["allocations"], expected["calls"])
                self.assert_code_unchanged(target.pid, before)
                traceback = report.traceback_of(10007)
                self.assertEqual(traceback[0]["function"], "on_load")
                self.assertTrue(traceback[0]["module"].endswith(plugin))
                target.finish()

    def test_a_library_allocates_in_its_constructor(self):
        self.check("plugin.so")

    def test_an_allocator_that_comes_with_a_library(self):
        # Its functions are armed before its own constructor runs.
        self.check("plugin-own.so")


if __name__ == "__main__":
    main()

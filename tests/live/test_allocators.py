"""Every allocator and every way to be linked: the fixture's ledger, totals and live blocks alike."""


from support import LiveTest, attach, main, start_ready


class AllocatorTest(LiveTest):
    def check_window(self, build, *arguments, live=False):
        """Attach, let the fixture work, detach: its ledger is the report."""
        target = start_ready(self, build, *arguments)
        trace = attach(self, target.pid)
        target.send()
        ledger = target.json()
        blocks = target.json() if live else None
        report = trace.finish_trace()
        self.assert_totals(report, ledger)
        if live:
            self.assert_live(report, blocks)
        target.finish()
        return report


class Linkage(AllocatorTest):
    def test_static(self):
        self.check_window("calls-static", live=True)
        self.check_window("threads-static")

    def test_static_pie(self):
        self.check_window("calls-static-pie", live=True)
        self.check_window("threads-static-pie")

    def test_non_pie(self):
        self.check_window("calls-no-pie", live=True)
        self.check_window("threads-no-pie")

    def test_musl(self):
        self.check_window("calls-musl", live=True)
        self.check_window("threads-musl")

    def test_musl_static(self):
        self.check_window("calls-musl-static", live=True)
        self.check_window("threads-musl-static")


class Allocators(AllocatorTest):
    def test_jemalloc_as_a_shared_library(self):
        self.check_window("calls-jemalloc", live=True)
        self.check_window("threads-jemalloc")

    def test_jemalloc_inside_the_executable(self):
        self.check_window("calls-jemalloc-archive", live=True)
        self.check_window("threads-jemalloc-archive")

    def test_tcmalloc(self):
        self.check_window("calls-tcmalloc", live=True)
        self.check_window("threads-tcmalloc")

    def test_mimalloc(self):
        self.check_window("calls-mimalloc", live=True)
        self.check_window("threads-mimalloc")

    def test_own_names_of_jemalloc(self):
        self.check_window("own-jemalloc")

    def test_own_names_of_tcmalloc(self):
        self.check_window("own-tcmalloc")

    def test_own_names_of_mimalloc(self):
        self.check_window("own-mimalloc")


class Operators(AllocatorTest):
    """operator new reaches malloc in libstdc++, and has a fast path of its own in tcmalloc and jemalloc."""

    def test_libstdcxx(self):
        for build in ("cxx-O0", "cxx-O2"):
            with self.subTest(build):
                self.check_window(build, "operators")

    def test_jemalloc(self):
        self.check_window("cxx-jemalloc", "operators")

    def test_tcmalloc(self):
        self.check_window("cxx-tcmalloc", "operators")


class Nesting(AllocatorTest):
    def test_realloc_of_null_is_one_event(self):
        # glibc's realloc(NULL, n) jumps into malloc.
        report = self.check_window("calls-O2", live=True)
        self.assertEqual(sum(size == 10069 for _, size in report.blocks(10007)), 1)
        self.assertEqual(report.traceback_of(10069)[0]["function"], "resize_edges")


del AllocatorTest

if __name__ == "__main__":
    main()

"""Threads, signals, and ways to leave an allocator call without returning from it."""


from support import LONG, LiveTest, attach, code_of, main, start_ready


class Ledger(LiveTest):
    def check(self, name, *arguments):
        for build in (f"{name}-O0", f"{name}-O2"):
            with self.subTest(build):
                target = start_ready(self, build, *arguments)
                before = code_of(target.pid)
                trace = attach(self, target.pid)
                target.send()
                ledger = target.json(120)
                self.assert_totals(trace.finish_trace(), ledger)
                self.assert_code_unchanged(target.pid, before)
                target.finish()


class Threads(Ledger):
    def test_eight_threads_allocate_at_once(self):
        self.check("threads", 8, 20000 if LONG else 400)

    def test_forty_threads(self):
        self.check("threads", 40, 2000 if LONG else 40)

    def test_threads_are_born_and_die(self):
        for build in ("births-O0", "births-O2"):
            with self.subTest(build):
                target = start_ready(self, build, 500 if LONG else 25)
                trace = attach(self, target.pid)
                target.send()
                expected = target.json(300)
                report = trace.finish_trace()
                self.assert_live(report, expected["live"])
                self.assertGreaterEqual(report.totals["allocations"], expected["born"] * 11)
                self.assertEqual(report.totals["lost"], 0)
                target.finish()

    def test_attach_while_threads_are_born(self):
        # All threads must be found, whenever they come: the code is compared after each detach.
        target = start_ready(self, "births-O2", 2000)
        before = code_of(target.pid)
        target.send()
        for _ in range(10):
            trace = attach(self, target.pid)
            self.assertEqual(trace.finish_trace().totals["lost"], 0)
            if target.out.data.count(b"\n") > 1:
                break
            self.assert_code_unchanged(target.pid, before)
        target.json(120)
        target.finish()


class Leaving(Ledger):
    """The abandoned call returned nothing and leaves nothing pending."""

    def test_siglongjmp_out_of_a_handler_within_malloc(self):
        self.check("leave", "siglongjmp")

    def test_longjmp_out_of_code_that_malloc_calls(self):
        self.check("leave", "longjmp")

    def test_longjmp_out_of_realloc_keeps_the_old_block(self):
        self.check("leave", "realloc")

    def test_cancellation_within_malloc(self):
        self.check("leave", "cancel")

    def test_pthread_exit_within_malloc(self):
        self.check("leave", "pthread-exit")

    def test_end_of_the_thread_within_malloc(self):
        self.check("leave", "thread-exit")

    def test_bad_alloc_out_of_operator_new(self):
        self.check("cxx", "operators")


class Signals(Ledger):
    def test_a_handler_that_interrupted_malloc_allocates(self):
        self.check("signals", "nested")

    def test_the_same_on_an_alternate_stack(self):
        self.check("signals", "altstack")

    def test_a_signal_every_millisecond(self):
        self.check("signals", "timer")

    def test_signals_arrive_unchanged(self):
        # Queued values, fault addresses, the program's own int3 and SIGTRAP.
        for build in ("signals-O0", "signals-O2"):
            with self.subTest(build):
                target = start_ready(self, build, "values")
                trace = attach(self, target.pid)
                target.send()
                told = target.json()
                report = trace.finish_trace()
                self.assertEqual((told["delivered"], told["wrong"]), (told["expected"], 0))
                self.assertEqual(report.totals["frees"], report.totals["allocations"])
                target.finish()


del Ledger

if __name__ == "__main__":
    main()

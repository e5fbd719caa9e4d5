"""Running tmtrace."""

import os
import signal
import subprocess

from .environment import TMTRACE, bound
from .process import Process
from .report import Report

TRACING = b"tracing"
ERROR = 2  # tmtrace's own exit status for an error of its own


class Trace(Process):
    """A running tmtrace. Under launch it also stands for its command: stdin and stdout are the command's."""

    def __init__(self, test, arguments, prefix=(), path=None, tmtrace=TMTRACE, **options):
        self.path = path or os.path.join(test.directory(), "report.tmt")
        super().__init__(test, [*prefix, tmtrace, "-o", self.path, *map(str, arguments)], **options)

    def wait_tracing(self, seconds=20):
        """All breakpoints are in place."""
        if not self.err.wait_for(TRACING, seconds):
            self.fail("did not begin to trace")
        return self

    def command_pid(self):
        """The launched command's process number."""
        with open(f"/proc/{self.pid}/task/{self.pid}/children") as children:
            return int(children.read())

    def finish_trace(self, number=signal.SIGINT, seconds=60, status=0, command_runs_on=False):
        """Ends the tracing by a signal (None: it ends by itself) and gives the report."""
        if number is not None:
            self.signal(number)
        got = self.wait(seconds)
        if status is not None and got != status:
            self.fail(f"exit status {got}, not {status}")
        if not command_runs_on:  # it would keep the pipes open
            self.out.text(), self.err.text()  # all that was printed has arrived
        return self.report()

    def report(self):
        """The report file as it is now; before the end without what tmtrace prints."""
        return Report(self.path, (self.out.data + self.err.data).decode(errors="replace"))


def attach(test, pid, *options, **more):
    """Traces a running process; returns when it does."""
    return Trace(test, ["--attach", pid, *options], **more).wait_tracing()


def launch(test, *command, options=(), **more):
    """Starts a command under trace. Its stdin and stdout are this object's."""
    return Trace(test, [*options, "--", *command], **more)


def run_tmtrace(*arguments, prefix=(), seconds=30, tmtrace=TMTRACE, **options):
    """Runs tmtrace to its end: a CompletedProcess with text."""
    command = [*prefix, tmtrace, *map(str, arguments)]
    options |= {"stdin": subprocess.DEVNULL, "capture_output": True, "errors": "replace", "timeout": bound(seconds)}
    return subprocess.run(command, **options)

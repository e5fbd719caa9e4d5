"""Processes that a test starts: a reader thread for each output, bounded waits, and death at the test's end."""

import json
import os
import signal
import subprocess
import threading
import time

from .environment import bound, die_with_parent, fixture


class Failed(AssertionError):
    """A wait that came to its bound, or a process that ended otherwise than expected."""


def wait_until(happens, what, seconds=20):
    """Polls the kernel's word on a process, where there is nothing to wait on."""
    deadline = time.monotonic() + bound(seconds)
    while not happens():
        if time.monotonic() > deadline:
            raise Failed(f"in {seconds} s: not {what}")
        os.sched_yield()


def status_field(pid, field):
    with open(f"/proc/{pid}/status") as status:
        for line in status:
            if line.startswith(field + ":"):
                return line.split(None, 1)[1].strip()
    raise KeyError(field)


class Output:
    """Collects what a pipe says; lets one wait for a line or a word."""

    def __init__(self, pipe):
        self.data = b""
        self.taken = 0  # bytes given out by next_line
        self.closed = False
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self._collect, args=(pipe,), daemon=True)
        self.thread.start()

    def _collect(self, pipe):
        with pipe:
            while piece := os.read(pipe.fileno(), 65536):
                with self.changed:
                    self.data += piece
                    self.changed.notify_all()
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    def _wait(self, happened, seconds):
        """The result of happened() once it is not None; None when the pipe closes or the bound is reached."""
        deadline = time.monotonic() + bound(seconds)
        with self.changed:
            while True:
                result = happened()
                if result is not None or self.closed:
                    return result
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                self.changed.wait(left)

    def next_line(self, seconds):
        def take():
            end = self.data.find(b"\n", self.taken)
            if end < 0:
                return None
            line, self.taken = self.data[self.taken : end], end + 1
            return line.decode()

        return self._wait(take, seconds)

    def wait_for(self, word, seconds):
        return self._wait(lambda: True if word in self.data else None, seconds)

    def text(self):
        self.thread.join(bound(10))
        return self.data.decode(errors="replace")


class Process:
    """A process in a session of its own. `test.addCleanup` kills the whole session."""

    def __init__(self, test, argv, stdin=subprocess.PIPE, **options):
        self.argv = argv
        self.popen = subprocess.Popen(
            argv, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
            preexec_fn=die_with_parent, **options)
        self.pid = self.popen.pid
        self.out = Output(self.popen.stdout)
        self.err = Output(self.popen.stderr)
        test.addCleanup(self.kill)

    def kill(self):
        try:
            if self.popen.poll() is None or not os.path.exists(f"/proc/{self.pid}"):  # else the number is another process's by now
                os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.popen.wait()
        if self.popen.stdin:
            try:
                self.popen.stdin.close()
            except BrokenPipeError:
                pass

    def signal(self, number):
        os.kill(self.pid, number)

    def fail(self, what):
        running = self.popen.poll()
        state = "still running" if running is None else f"ended with {running}"
        said = f"stdout: {self.tail(self.out)}\nstderr: {self.tail(self.err)}"
        raise Failed(f"{' '.join(self.argv)}: {what} ({state})\n{said}")

    @staticmethod
    def tail(output):
        """Long enough for what a sanitizer says."""
        return output.data[-8000:].decode(errors="replace")

    def send(self, data=b"\n"):
        try:
            self.popen.stdin.write(data)
            self.popen.stdin.flush()
        except BrokenPipeError:
            self.fail("closed its stdin")

    def line(self, seconds=30):
        line = self.out.next_line(seconds)
        if line is None:
            self.fail("no further line on stdout")
        return line

    def json(self, seconds=30):
        return json.loads(self.line(seconds))

    def expect_ready(self, seconds=30):
        line = self.line(seconds)
        if line != "ready":
            self.fail(f"said {line!r} instead of ready")
        return self

    def wait(self, seconds=30):
        """The exit status: negative is a signal, as subprocess has it."""
        try:
            return self.popen.wait(bound(seconds))
        except subprocess.TimeoutExpired:
            self.fail("does not end")

    def finish(self, seconds=30):
        """Lets a fixture go from its last wait and expects a clean end."""
        self.send()
        status = self.wait(seconds)
        if status != 0:
            self.fail("did not end cleanly")


class Target(Process):
    """A fixture, by name."""

    def __init__(self, test, name, *arguments, prefix=(), **options):
        super().__init__(test, [*prefix, fixture(name), *map(str, arguments)], **options)


def start_ready(test, name, *arguments, **options):
    return Target(test, name, *arguments, **options).expect_ready()

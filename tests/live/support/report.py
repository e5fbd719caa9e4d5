"""Reading a report file: through `tmtrace report`, and its tables through SQLite."""

import json
import sqlite3
import subprocess

from .environment import TMTRACE, bound

EVERYTHING = 1_000_000  # for --limit


class Report:
    def __init__(self, path, printed=""):
        self.path = path
        self.printed = printed  # what tmtrace printed when the trace ended
        self._json = None

    def run(self, *options, seconds=60):
        """Text of `tmtrace report`."""
        done = subprocess.run([TMTRACE, "report", self.path, *map(str, options)], capture_output=True, text=True,
                              errors="replace", timeout=bound(seconds))
        if done.returncode != 0:
            raise AssertionError(f"tmtrace report {self.path} {options}: status {done.returncode}: {done.stderr}")
        return done.stdout

    def load(self, *options):
        return json.loads(self.run("--format", "json", "--limit", EVERYTHING, *options))

    @property
    def json(self):
        if self._json is None:
            self._json = self.load("--group-by", "traceback")
        return self._json

    @property
    def totals(self):
        return self.json["totals"]

    @property
    def statistics(self):
        return self.json["statistics"]

    def query(self, sql, *values):
        connection = sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)
        try:
            return connection.execute(sql, values).fetchall()
        finally:
            connection.close()

    def blocks(self, smallest=0):
        """The live blocks at the end: {(address, size)}. SQLite integers are signed."""
        rows = self.query("SELECT block.address, block.size FROM block JOIN snapshot ON block.snapshot = snapshot.id"
                          " WHERE snapshot.name = 'end' AND block.size >= ?", smallest)
        return {(address & (2**64 - 1), size) for address, size in rows}

    def traceback_of(self, size):
        """The traceback of the one live block of this size, most recent first."""
        found = [statistic for statistic in self.statistics if statistic["size"] == size and statistic["count"] == 1]
        if len(found) != 1:
            raise AssertionError(f"{len(found)} statistics hold one block of {size} bytes, not one")
        return found[0]["traceback"]

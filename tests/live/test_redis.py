"""redis-server (jemalloc in the distribution's build, several threads) under a client's load: attach, trace, detach."""

import os
import socket
import subprocess

from support import LONG, LiveTest, attach, code_of, main
from support.environment import bound, program
from support.process import Process, wait_until

CYCLES = 200 if LONG else 10


class Redis(LiveTest):
    def setUp(self):
        self.folder = self.directory()
        self.socket = os.path.join(self.folder, "redis.sock")
        options = f"--port 0 --unixsocket {self.socket} --dir {self.folder} --appendonly no --io-threads 2"
        self.server = Process(self, [program("redis-server"), *options.split(), "--save", ""])
        wait_until(self.answers, "answering", 30)

    def answers(self):
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(self.socket)
                connection.sendall(b"PING\r\n")
                return connection.recv(16) == b"+PONG\r\n"
        except OSError:
            return False

    def client(self, *arguments):
        command = [program("redis-cli"), "-s", self.socket, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=bound(60)).stdout.strip()

    def load(self):
        options = f"-s {self.socket} -c 8 -n 100000000 -q -d 100 -r 10000 -t set,get,lpush,lpop,sadd,hset"
        return Process(self, [program("redis-benchmark"), *options.split()])

    def check_answers(self, cycle):
        """A value goes in and comes out, its length, a list's order."""
        value = f"value of cycle {cycle} " * 50
        self.assertEqual(self.client("SET", f"key{cycle}", value), "OK")
        self.assertEqual(self.client("GET", f"key{cycle}"), value.strip())
        self.assertEqual(self.client("STRLEN", f"key{cycle}"), str(len(value)))
        self.client("DEL", "list")
        self.assertEqual(self.client("RPUSH", "list", *map(str, range(100))), "100")
        self.assertEqual(self.client("LRANGE", "list", "0", "-1").split(), [str(n) for n in range(100)])

    def test_ten_times_over_under_load(self):
        before = code_of(self.server.pid)
        load = self.load()
        for cycle in range(CYCLES):
            trace = attach(self, self.server.pid)
            self.check_answers(cycle)
            report = trace.finish_trace()
            self.assertGreater(report.totals["allocations"], 100)
            self.assertEqual(report.totals["lost"], 0)
            self.assert_untraced(self.server.pid)
            self.assert_code_unchanged(self.server.pid, before)
            self.check_answers(cycle)
        self.assertIsNone(load.popen.poll(), "the load ended early")
        load.kill()
        self.assertEqual(self.client("PING"), "PONG")
        self.client("SHUTDOWN", "NOSAVE")
        self.assertEqual(self.server.wait(), 0)

    def test_the_allocating_functions_are_named(self):
        trace = attach(self, self.server.pid)
        for number in range(200):
            self.client("SET", f"named{number}", "x" * 1000)
        report = trace.finish_trace()
        functions = {frame["function"] for statistic in report.statistics for frame in statistic["traceback"]}
        self.assertIn("main", functions)
        self.assertTrue(functions & {"zmalloc", "sdsnewlen", "createObject", "setCommand"}, functions)


if __name__ == "__main__":
    main()

"""A kernel uprobe on one process, by perf_event_open(2): what bpftrace, bcc and perf put on functions."""

import ctypes
import os
import struct
import subprocess
import unittest

PMU = "/sys/bus/event_source/devices/uprobe/type"
SYS_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}[os.uname().machine]
PERF_FLAG_FD_CLOEXEC = 8
ATTR_SIZE, TYPE_AT, CONFIG1_AT = 128, 0, 56  # struct perf_event_attr, linux/perf_event.h

libc = ctypes.CDLL(None, use_errno=True)


def symbol(path, name):
    """The address of a dynamic symbol; in Debian's libraries the code's offset in the file as well."""
    for line in subprocess.run(["nm", "-D", "--defined-only", path], capture_output=True, text=True, check=True).stdout.splitlines():
        if line.split()[-1].split("@")[0] == name:
            return int(line.split()[0], 16)
    raise AssertionError(f"{path} does not define {name}")


class Uprobe:
    """Skips the test where the kernel has no uprobes, or does not permit them."""

    def __init__(self, path, offset, pid):
        if not os.path.exists(PMU):
            raise unittest.SkipTest("this kernel has no uprobes (CONFIG_UPROBE_EVENTS)")
        with open(PMU) as kind:
            attr = (ctypes.c_char * ATTR_SIZE)()
            struct.pack_into("<II", attr, TYPE_AT, int(kind.read()), ATTR_SIZE)
        name = ctypes.create_string_buffer(path.encode())
        struct.pack_into("<QQ", attr, CONFIG1_AT, ctypes.addressof(name), offset)
        self.fd = libc.syscall(SYS_PERF_EVENT_OPEN, attr, pid, -1, -1, PERF_FLAG_FD_CLOEXEC)
        if self.fd < 0:
            raise unittest.SkipTest(f"no uprobe may be made here: {os.strerror(ctypes.get_errno())}")

    def hits(self):
        return struct.unpack("<Q", os.read(self.fd, 8))[0]

    def close(self):
        os.close(self.fd)

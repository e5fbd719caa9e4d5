"""A process that waits in a system call is made to stand at another instruction, and goes on from there."""

import ctypes
import os
import signal
import struct

from .environment import PTRACE_DETACH, libc, seize

PTRACE_GETREGS, PTRACE_SETREGS, PTRACE_INTERRUPT, WALL = 12, 13, 0x4207, 0x40000000
REGISTERS = 27  # struct user_regs_struct (sys/user.h)
RAX, ORIG_RAX, RIP, RSP = 10, 15, 16, 19
SYSCALL = b"\x0f\x05"
NO_CALL = 0xFFFF_FFFF_FFFF_FFFF


def request(number, pid, data=None):
    if libc.ptrace(number, pid, None, data) < 0:
        raise OSError(ctypes.get_errno(), "ptrace")


def stand_at(pid, ret):
    """Its thread stands at `ret`, a return instruction, from which it comes back to the call; and the process is stopped (SIGSTOP)."""
    error = seize(pid)
    if error:
        raise OSError(error, "ptrace")
    request(PTRACE_INTERRUPT, pid)
    os.waitpid(pid, WALL)
    registers = (ctypes.c_uint64 * REGISTERS)()
    request(PTRACE_GETREGS, pid, ctypes.addressof(registers))
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
        memory.seek(registers[RIP] - len(SYSCALL))
        if memory.read(len(SYSCALL)) != SYSCALL:
            raise AssertionError(f"process {pid} is in no system call")
        registers[RSP] -= 8
        memory.seek(registers[RSP])
        memory.write(struct.pack("Q", registers[RIP] - len(SYSCALL)))
    registers[RAX], registers[ORIG_RAX], registers[RIP] = registers[ORIG_RAX], NO_CALL, ret
    request(PTRACE_SETREGS, pid, ctypes.addressof(registers))
    os.kill(pid, signal.SIGSTOP)
    request(PTRACE_DETACH, pid)

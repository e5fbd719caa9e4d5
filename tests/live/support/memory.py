"""The code of a process, byte by byte, as the kernel sees it."""

import os


def executable_mappings(pid):
    """(start, end, path) of each file-backed mapping that can be executed."""
    with open(f"/proc/{pid}/maps") as maps:
        for line in maps:
            fields = line.split(None, 5)
            if "x" not in fields[1] or fields[4] == "0":
                continue
            start, end = (int(number, 16) for number in fields[0].split("-"))
            yield start, end, fields[5].strip()


def code_of(pid):
    """{(start, path): bytes} of all file-backed code, read through /proc/PID/mem."""
    code = {}
    memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    try:
        for start, end, path in executable_mappings(pid):
            code[start, path] = os.pread(memory, end - start, start)
    finally:
        os.close(memory)
    return code


def differences(before, after):
    """Addresses whose byte differs, as text; a mapping that is gone or new is no difference."""
    found = []
    for key in before.keys() & after.keys():
        old, new = before[key], after[key]
        if old != new:
            changed = [(at, pair) for at, pair in enumerate(zip(old, new)) if pair[0] != pair[1]]
            found += [f"{key[1]} {key[0] + at:#x}: {was:02x} -> {now:02x}" for at, (was, now) in changed[:20]]
    return found

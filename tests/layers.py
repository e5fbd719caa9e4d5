"""Checks every `#include "` against the layers: layers.py TOP. A folder includes only what the list lets it.

Also: libdw only in src/debuginfo, capstone only in arch/*_insn.c, ptrace( only in src/target/ptrace*.c, SQLite only
in src/report. The check is tested first, on includes that it must refuse and must let pass.
"""

import os
import re
import sys
import tempfile

MAY_INCLUDE = {
    "base": set(),
    "recorder": {"base"},
    "arch": {"base"},
    "model": {"base"},
    "target": {"arch", "base"},
    "debuginfo": {"arch", "model", "base"},
    "unwind": {"debuginfo", "target", "arch", "model", "base"},
    "python": {"recorder", "debuginfo", "target", "arch", "model", "base"},
    "probe": {"recorder", "debuginfo", "target", "arch", "python", "base"},
    "report": {"debuginfo", "model", "base"},
    "session": {"recorder", "probe", "unwind", "python", "debuginfo", "target", "arch", "model", "report", "base"},
    "cli": {"session", "report", "model", "base"},
}

# What stands only in certain files: (what, how it is seen, where it may be).
CONFINED = (
    ("libdw", re.compile(r"#\s*include\s*<(elfutils/.*|dwarf\.h|gelf\.h|libelf\.h)>"), re.compile(r"src/debuginfo/")),
    ("capstone", re.compile(r"#\s*include\s*<capstone/"), re.compile(r"arch/[a-z0-9_]+_insn\.c$")),
    ("ptrace(", re.compile(r"\bptrace\s*\("), re.compile(r"src/target/ptrace[a-z_]*\.[ch]$")),
    ("SQLite", re.compile(r"#\s*include\s*<sqlite3|\bsqlite3_\w+\s*\("), re.compile(r"src/report/")),
)

INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.M)
COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.S)
STRING = re.compile(r'(?<!include )"(?:\\.|[^"\\\n])*"')


def layer_of(path):
    """src/target/ptrace.c -> target, arch/arch.h -> arch."""
    parts = path.split("/")
    return parts[1] if parts[0] == "src" else parts[0]


def sources(top):
    for root in ("src", "arch"):
        for folder, _, names in os.walk(os.path.join(top, root)):
            for name in sorted(names):
                if name.endswith((".c", ".h")):
                    yield os.path.relpath(os.path.join(folder, name), top)


def faults_of(path, text):
    layer = layer_of(path)
    code = COMMENT.sub("", text)
    for included in INCLUDE.findall(code):
        wanted = included.split("/")[0]
        if layer not in MAY_INCLUDE:
            yield f"{path}: the folder {layer} is no layer"
        elif "/" not in included:
            yield f'{path}: "{included}" names no layer: write it with its folder'
        elif wanted != layer and wanted not in MAY_INCLUDE[layer]:
            yield f'{path}: {layer} must not include "{included}"'
    without_strings = STRING.sub('""', code)
    for what, seen, allowed in CONFINED:
        if seen.search(without_strings) and not allowed.search(path):
            yield f"{path}: {what} does not belong here"


def faults(top):
    for path in sources(top):
        with open(os.path.join(top, path)) as file:
            yield from faults_of(path, file.read())


EXAMPLES = (  # (path, text, is there a fault?)
    ("src/model/tracer.c", '#include "base/hash.h"\n', False),
    ("src/model/tracer.c", '#include "target/target.h"\n', True),
    ("src/target/target.c", '  # include "model/tracer.h"\n', True),
    ("src/target/target.c", '/* #include "model/tracer.h" */\n', False),
    ("src/cli/main.c", '#include "commands.h"\n', True),
    ("src/other/x.c", '#include "base/hash.h"\n', True),
    ("src/unwind/unwind.c", '#include "model/traceback.h"\n', False),
    ("src/target/procfs.c", "ptrace(PTRACE_CONT, tid, 0, 0);\n", True),
    ("src/target/ptrace_wait.c", "ptrace(PTRACE_CONT, tid, 0, 0);\n", False),
    ("src/session/session.c", 'say("see ptrace(2)"); /* ptrace(2) */\n', False),
    ("src/unwind/unwind.c", "#include <elfutils/libdw.h>\n", True),
    ("src/debuginfo/cfi.c", "#include <elfutils/libdw.h>\n", False),
    ("arch/x86_64.c", "#include <capstone/capstone.h>\n", True),
    ("arch/x86_64_insn.c", "#include <capstone/capstone.h>\n", False),
    ("src/cli/main.c", "sqlite3_open(path, &db);\n", True),
)


def check_the_check():
    for path, text, faulty in EXAMPLES:
        if bool(list(faults_of(path, text))) != faulty:
            raise SystemExit(f"layers.py itself is wrong about {path}: {text!r}")
    with tempfile.TemporaryDirectory() as top:
        os.makedirs(os.path.join(top, "src/base"))
        with open(os.path.join(top, "src/base/x.h"), "w") as file:
            file.write('#include "model/tracer.h"\n')
        if len(list(faults(top))) != 1:
            raise SystemExit("layers.py itself finds no files")


def main():
    check_the_check()
    found = sorted(set(faults(sys.argv[1])))
    print("\n".join(found))
    print(f"{0 if found else 1} passed, {1 if found else 0} failed, 0 skipped")
    sys.exit(1 if found else 0)


main()

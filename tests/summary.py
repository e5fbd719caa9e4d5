"""Adds up what several runs of ctest said: summary.py [--failed-builds N] JUNIT.xml...

A test program tells how many tests it held: criterion's `Synthesis` line, or `N passed, N failed, N skipped`. One
that told nothing (it crashed, it timed out) counts as one failed test, or as one passed test if ctest says so.
"""

import re
import sys
import xml.etree.ElementTree

CRITERION = re.compile(r"Synthesis: Tested: (\d+) \| Passing: (\d+) \| Failing: \d+ \| Crashing: \d+")
OWN = re.compile(r"^(\d+) passed, (\d+) failed, (\d+) skipped$", re.M)
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def count(output, passed):
    """(passed, failed, skipped) of one test program."""
    output = COLOUR.sub("", output)
    if synthesis := CRITERION.search(output):
        tested, passing = map(int, synthesis.groups())
        counted = [passing, tested - passing, output.count("[SKIP]")]
    elif told := OWN.findall(output):
        counted = list(map(int, told[-1]))
    else:
        counted = [int(passed), 0, 0]
    if not passed and not counted[1]:
        counted[1] = 1
    return counted


def main():
    arguments = sys.argv[1:]
    total = [0, 0, 0]
    if arguments[:1] == ["--failed-builds"]:
        total[1] = int(arguments[1])
        arguments = arguments[2:]
    for path in arguments:
        for case in xml.etree.ElementTree.parse(path).getroot().iter("testcase"):
            counted = count(case.findtext("system-out") or "", case.get("status") == "run")
            if counted[1]:
                build = path.rpartition("/")[2].removesuffix(".xml")
                print(f"FAILED: {build} {case.get('name')}: {counted[1]} failed")
            total = [sum(pair) for pair in zip(total, counted)]
    print("{} passed, {} failed, {} skipped".format(*total))
    sys.exit(1 if total[1] or not total[0] else 0)


main()

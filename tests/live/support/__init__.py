"""What the live tests share: starting targets, running tmtrace, reading its reports.

A test file is a script of its own (ctest runs one entry a file):

    TMTRACE=build/tmtrace python3 tests/live/test_attach.py [Class[.test]]

Nothing here waits on time: a target says `ready`, tmtrace says `tracing`, processes end. Every wait has a bound, and
a wait that reaches it fails the test and kills what the test started. TM_LONG=1 runs the long set; TM_SCALE stretches
the bounds (a sanitizer's build, a loaded machine).
"""

from .case import LiveTest, main
from .environment import LONG
from .memory import code_of
from .process import start_ready
from .tracer import attach, launch, run_tmtrace

__all__ = ["LONG", "LiveTest", "attach", "code_of", "launch", "main", "run_tmtrace", "start_ready"]

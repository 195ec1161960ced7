"""`python toy_cli.py ARGS…`: the command line as a process of its own, over the toy model of `fake_bundle`.

TOY_ANSWER holds the ids that the toy answers, TOY_SLEEP the seconds that a step takes.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from fake_bundle import FakeEngine

from dgemma.cli import main
from dgemma.runtime import session


class Toy(FakeEngine):
    def _call(self, graph: str, feeds: Any) -> Any:
        time.sleep(float(os.environ.get("TOY_SLEEP", "0")))
        return super()._call(graph, feeds)


answer = [int(i) for i in os.environ.get("TOY_ANSWER", "200,201,202").split(",") if i]
session.open_engine = lambda bundle, *_: Toy(bundle, answer)
main(sys.argv[1:])

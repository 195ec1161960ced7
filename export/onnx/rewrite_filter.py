"""Makes onnxscript's optimizer try a rewrite rule only at nodes with the operator that the rule starts from.

Seen with onnxscript 0.7: every rule is tried at every node. A rule with several outputs sorts the graph's nodes by operator
each time before it looks at the node itself, so the time grows with the square of the graph's length.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from onnxscript.rewriter import _basics, _matcher

from dgemma.export.patching import replaced


@contextmanager
def filtered_rules() -> Iterator[None]:
    """Rules are tried where they can match, while it lasts."""
    kind: Any = _matcher.SimplePatternMatcher
    original = kind.match

    def match(matcher: Any, model: Any, graph: Any, node: Any, **options: Any) -> Any:
        if not matcher.pattern.output_nodes[0].op.matches(node.op_type):
            return _basics.MatchResult().fail("another operator")
        return original(matcher, model, graph, node, **options)

    with replaced(kind, "match", match):
        yield

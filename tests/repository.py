"""Where things stand in the checkout, and what its modules say: tests in any folder take them from here."""

import ast
import functools
from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent
ANCHOR_TREE = ROOT / "anchors"
KERNELS = ANCHOR_TREE / "kernels"


@functools.cache
def tree_of(path: Path) -> ast.Module:
    """The syntax tree of a module, which many tests read."""
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def nodes_of(path: Path) -> tuple[ast.AST, ...]:
    """All nodes of the module's tree, in the order of ``ast.walk``, which takes twice as long; without contexts (``Load``)."""
    found: list[ast.AST] = [tree_of(path)]
    for node in found:
        for name in node._fields:
            value = getattr(node, name, None)
            if isinstance(value, list):
                found += [item for item in value if isinstance(item, ast.AST)]
            elif isinstance(value, ast.AST) and name != "ctx":
                found.append(value)
    return tuple(found)

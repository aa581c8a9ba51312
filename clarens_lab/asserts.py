"""Assertions that tell the values they failed on: `assert digits(5) == "3.14"` says what `digits(5)` was."""

import ast
import reprlib

SHOW = "__clarens_shown__"
"""The name under which a test cell finds `shown`."""

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 200
_short.maxlist = _short.maxtuple = _short.maxdict = 12


def explained(code: str, filename: str = "<test>") -> ast.Module:
    """The code with each `assert A OP B` rewritten to raise with the values of A and B; lines stay as they are.

    A and B are evaluated once, as ever. Raises SyntaxError.
    """
    tree = ast.parse(code, filename)
    _Rewriter().visit(tree)
    tree.body = _future_first(tree.body)
    return ast.fix_missing_locations(tree)


def shown(text: str, left: object, right: object) -> str:
    """What a failed comparison is said to be: its source, then the two values."""
    return f"{text} is false: {_short.repr(left)} and {_short.repr(right)}"


def _future_first(body: list[ast.stmt]) -> list[ast.stmt]:
    """Imports `shown` behind the docstring and the `from __future__` lines, which have to stand first."""
    at = 0
    for index, statement in enumerate(body):
        future = isinstance(statement, ast.ImportFrom) and statement.module == "__future__"
        docstring = index == 0 and isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        if not (future or docstring):
            break
        at = index + 1
    wanted = ast.parse(f"from clarens_lab.asserts import shown as {SHOW}").body
    return [*body[:at], *wanted, *body[at:]]


class _Rewriter(ast.NodeTransformer):
    """Rewrites asserts of one comparison that have no message of their own."""

    def __init__(self) -> None:
        self._count = 0

    def visit_Assert(self, node: ast.Assert) -> ast.AST | list[ast.stmt]:
        """One assert."""
        test = node.test
        if node.msg is not None or not isinstance(test, ast.Compare) or len(test.ops) != 1:
            return node
        self._count += 1
        left, right = f"__clarens_left_{self._count}__", f"__clarens_right_{self._count}__"
        keep_left = ast.NamedExpr(ast.Name(left, ast.Store()), test.left)
        keep_right = ast.NamedExpr(ast.Name(right, ast.Store()), test.comparators[0])
        call = ast.Call(
            ast.Name(SHOW, ast.Load()),
            [ast.Constant(ast.unparse(test)), ast.Name(left, ast.Load()), ast.Name(right, ast.Load())],
            [],
        )
        made = ast.Assert(ast.Compare(keep_left, test.ops, [keep_right]), call)
        for part in ast.walk(made):
            if not hasattr(part, "lineno"):
                ast.copy_location(part, node)
        return made

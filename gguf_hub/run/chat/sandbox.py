"""Jinja templates from strangers: what they may do, for how long and with how much.

A GGUF file brings its template from whoever made it. Here it sees plain data only (no attribute
of any object but a list of harmless text methods), changes nothing, and works on a budget:

- Every loop turn, call, operation and output passes through the environment, which looks at the
  CPU clock. Nothing between two looks takes long, because
- every value that a template can build has a cost (characters and entries, nested ones counted
  each time they appear) and is kept under a size, and so is the sum of all of them.

Jinja evaluates constants while it compiles; that is switched off, so that they cost, too.
"""

from __future__ import annotations

import datetime
import html
import json
import re
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, NoReturn

from jinja2 import Undefined, nodes, pass_context
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension
from jinja2.filters import FILTERS
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Cycler, Joiner, Namespace
from jinja2.visitor import NodeTransformer

from gguf_hub.budget import look
from gguf_hub.errors import BudgetError
from gguf_hub.run.chat.costs import ENTRY_COST, cost, spend, spend_on, text_of
from gguf_hub.run.chat.searching import FROM_THE_END

# Compiling takes about 60 us for each expression; published templates have up to some 30,000
# characters and 3,000 nodes.
SOURCE_LIMIT = 48_000
NODE_LIMIT = 6_000

_STR_METHODS = frozenset({
    "capitalize", "casefold", "count", "endswith", "find", "index", "isalnum", "isalpha",
    "isdecimal", "isdigit", "islower", "isnumeric", "isspace", "istitle", "isupper", "join",
    "lower", "lstrip", "partition", "removeprefix", "removesuffix", "replace", "rfind", "rindex",
    "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "swapcase",
    "title", "upper",
})  # fmt: skip
_METHODS: dict[type, frozenset[str]] = {
    str: _STR_METHODS,
    dict: frozenset({"get", "items", "keys", "values"}),
    list: frozenset({"count", "index"}),
    tuple: frozenset({"count", "index"}),
}
_OWN_TYPES = (LoopContext, Namespace, Cycler, Joiner)

# Jinja's filters without those that pad or lay out text at will (center, format, batch, ...).
_FILTERS = (
    "abs", "attr", "capitalize", "count", "d", "default", "dictsort", "first", "float", "groupby",
    "items", "last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr",
    "reverse", "select", "selectattr", "sort", "title", "unique", "upper",
)  # fmt: skip


# Operations and methods whose result can be far larger than their arguments


def _multiply(a: Any, b: Any) -> None:
    for sequence, times in ((a, b), (b, a)):
        if isinstance(sequence, (str, list, tuple)) and isinstance(times, int):
            entry_cost = len(sequence) if isinstance(sequence, str) else cost(sequence)
            spend(max(times, 0) * entry_cost)


def _power(a: Any, b: Any) -> None:
    if isinstance(b, int) and abs(b) > 64:
        raise BudgetError("it raises numbers to powers over 64")


def _modulo(a: Any, b: Any) -> None:
    if isinstance(a, str):
        raise SecurityError("formatting text with % is not supported")


_BEFORE_OPERATION: dict[str, Callable[[Any, Any], None]] = {
    "*": _multiply, "**": _power, "%": _modulo,
}  # fmt: skip


def _replace(s: str, old: str, new: str, count: int | None = None) -> str:
    s, old, new = text_of(s), text_of(old), text_of(new)
    times = s.count(old) if count is None or count < 0 else min(s.count(old), count)
    spend(len(s) + times * len(new))
    return s.replace(old, new, -1 if count is None else count)


def _trim(value: Any, chars: str | None = None) -> str:
    """Take characters off both ends."""
    _check_strip(chars)
    return text_of(value).strip(chars)


def _check_strip(chars: str | None = None) -> None:
    """Refuse a long set of characters: stripping compares each of the text with each of it."""
    if chars is not None and len(chars) > 256:
        raise BudgetError("it strips more than 256 different characters")


def _join(values: Iterable[Any], separator: str = "") -> str:
    parts: list[str] = []
    for value in values:
        parts.append(text_of(value))
        spend(len(parts[-1]) + len(separator))
    return separator.join(parts)


@pass_context
def _join_filter(
    context: Context, value: Iterable[Any], d: str = "", attribute: str | int | None = None
) -> str:
    """Join values, or one attribute of each."""
    if attribute is None:
        return _join(value, d)
    return _join((context.environment.getitem(item, attribute) for item in value), d)


def _tojson(
    value: Any,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
    ensure_ascii: bool = False,
) -> str:
    """Return JSON, without HTML's escapes, as transformers does."""
    if isinstance(value, Undefined):
        raise TemplateError("tojson got a value that is not defined")
    extra = sum(map(len, separators or ())) + (0 if indent is None else int(indent) * _depth(value))
    spend(cost(value) + cost(value) // ENTRY_COST * extra)
    return json.dumps(
        value, indent=indent, separators=separators, sort_keys=sort_keys, ensure_ascii=ensure_ascii
    )


def _depth(value: Any) -> int:
    deepest, stack = 1, [(value, 1)]
    for _ in range(cost(value)):
        if not stack:
            break
        item, depth = stack.pop()
        deepest = max(deepest, depth)
        inside = item.values() if isinstance(item, dict) else item
        if isinstance(inside, Iterable) and not isinstance(inside, str):
            stack += [(entry, depth + 1) for entry in inside]
    return deepest


def _indent(s: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    """Put blanks, or a given text, in front of lines."""
    pad = width if isinstance(width, str) else " " * min(max(width, 0), 1000)
    lines = s.splitlines(keepends=True)
    spend(len(s) + len(lines) * len(pad))
    return "".join(
        pad + line if (i or first) and (blank or line.strip()) else line
        for i, line in enumerate(lines)
    )


def _sum(iterable: Iterable[Any], attribute: str | None = None, start: float = 0) -> float:
    total = start
    for item in iterable:
        value = item[attribute] if attribute is not None else item
        if not isinstance(value, (int, float)):
            raise SecurityError("sum adds numbers only")
        total += value
    return total


def _round(value: float, precision: int = 0, method: str = "common") -> float:
    """Round to at most 15 digits."""
    if method != "common":
        raise SecurityError("round: only the method `common` is supported")
    return round(value, min(max(precision, -15), 15))


def _int(value: Any, default: int = 0, base: int = 10) -> int:
    """Read a whole number of reasonable length."""
    try:
        return int(value[:100], base) if isinstance(value, str) else int(value)
    except (TypeError, ValueError, OverflowError):
        return default


def _strftime_now(pattern: str) -> str:
    """Return the time of now; the pattern takes no widths, which could ask for any length."""
    if len(pattern) > 200 or re.search(r"%[^A-Za-z%-]|%-[^A-Za-z]", pattern):
        raise SecurityError("strftime_now: only plain % letters are supported")
    return datetime.datetime.now().astimezone().strftime(pattern)


def _raise_exception(message: str) -> NoReturn:
    """Let a template refuse a conversation."""
    raise TemplateError(message)


_OWN_FILTERS: dict[str, Callable[..., Any]] = {
    "join": _join_filter, "replace": _replace, "tojson": _tojson, "indent": _indent, "sum": _sum,
    "trim": _trim, "round": _round, "int": _int, "string": text_of, "safe": text_of,
    "e": lambda v: html.escape(text_of(v)), "escape": lambda v: html.escape(text_of(v)),
}  # fmt: skip


def _with_cost(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the filter; it spends the cost of its result."""

    @wraps(function)  # keeps the marks by which jinja passes the environment
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        """Charge the result to the template's budget."""
        return spend_on(function(*args, **kwargs))

    return wrapper


def _with_clock(test: Callable[..., Any]) -> Callable[..., Any]:
    """Return the test; it looks at the clock first, as ``select`` runs it for each entry."""

    @wraps(test)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        """Check the time before each test."""
        look()
        return test(*args, **kwargs)

    return wrapper


class _Instrument(NodeTransformer):
    """Puts a look at the clock into every loop, and spends where no other hook does."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        """Look at the clock each turn."""
        self.generic_visit(node)
        look = nodes.ExprStmt(_call("look", [], node), lineno=node.lineno)
        node.body.insert(0, look)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        """``a ~ b`` becomes a call."""
        self.generic_visit(node)
        return _call("concatenate", node.nodes, node)

    def visit_List(self, node: nodes.List) -> nodes.Node:
        """``[...]`` costs."""
        self.generic_visit(node)
        return _call("checked", [node], node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        """``{...}`` costs."""
        self.generic_visit(node)
        return _call("checked", [node], node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        """``(...)`` costs, unless it is what values are assigned to."""
        self.generic_visit(node)
        return _call("checked", [node], node) if node.ctx == "load" else node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        """``a == b`` and ``a in b`` take as long as texts are."""
        self.generic_visit(node)
        return _call("checked", [node], node)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        """``a[1:]`` costs: it is a copy."""
        self.generic_visit(node)
        return _call("checked", [node], node) if isinstance(node.arg, nodes.Slice) else node


def _call(name: str, args: list[nodes.Expr], at: nodes.Node) -> nodes.Call:
    """Return a call of a method of the environment, which no template can rename."""
    method = nodes.EnvironmentAttribute(name, lineno=at.lineno)
    return nodes.Call(method, args, [], None, None, lineno=at.lineno)


class _Generation(Extension):
    """``{% generation %}``, which marks the assistant's words for training, is ignored."""

    tags = {"generation"}  # noqa: RUF012 - jinja's interface

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Return the block's inside."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja as chat templates know it (transformers' settings), on a budget."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # constants are computed at run time, on the budget
            finalize=self._output,
            extensions=["jinja2.ext.loopcontrols", _Generation],
        )
        filters = {**{name: FILTERS[name] for name in _FILTERS}, **_OWN_FILTERS}
        self.filters = {name: _with_cost(function) for name, function in filters.items()}
        tests: Any = self.tests
        self.tests = {name: _with_clock(test) for name, test in tests.items()}
        self.globals.pop("lipsum")
        self.globals.update(strftime_now=_strftime_now, raise_exception=_raise_exception)

    def template(self, source: str) -> Any:
        """Compile a template.

        Raises:
            TemplateError: It is too long, or has an error.
        """
        if len(source) > SOURCE_LIMIT:
            raise BudgetError(f"it is {len(source):,} characters long, over {SOURCE_LIMIT:,}")
        tree = self.parse(source)
        if sum(1 for _ in tree.find_all(nodes.Node)) > NODE_LIMIT:
            raise BudgetError(f"it has more than {NODE_LIMIT:,} parts")
        tree = _Instrument().visit(tree)
        return self.template_class.from_code(self, self.compile(tree), self.make_globals(None))

    # What compiled templates call

    @staticmethod
    @pass_context  # keeps jinja from printing constants while it compiles
    def _output(context: Context, value: Any) -> str:
        return str(spend_on(text_of(value)))

    @staticmethod
    def concat(parts: Iterable[str]) -> str:
        """Join output, stopping when it grows too long."""
        output: list[str] = []
        for part in parts:
            spend(len(part) + 1)
            output.append(part)
        return str(spend_on("".join(output)))

    @staticmethod
    def look() -> None:
        """Do nothing; ``call``, which calls it each turn of a loop, looks at the clock."""

    @staticmethod
    def checked(value: Any) -> Any:
        """Return a value of the template; ``call``, which calls this, spends its cost."""
        return value

    @staticmethod
    def concatenate(*values: Any) -> str:
        """Join values as text: the operator ``~``."""
        return _join(values)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute, and spend for the result."""
        check = _BEFORE_OPERATION.get(operator)
        if check is not None:
            check(left, right)
        return spend_on(super().call_binop(context, operator, left, right))

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call, and spend for the result."""
        look()
        owner, name = getattr(obj, "__self__", None), getattr(obj, "__name__", "")
        if isinstance(owner, str) and name == "replace":
            return _replace(owner, *args, **kwargs)
        if isinstance(owner, str) and name == "join":
            return spend_on(_join(args[0], owner))
        if isinstance(owner, str) and name in ("strip", "lstrip", "rstrip"):
            _check_strip(*args)
        if isinstance(owner, str) and name in FROM_THE_END:
            return spend_on(FROM_THE_END[name](str(owner), *args, **kwargs))
        return spend_on(super().call(context, obj, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> None:
        """Give ``str.format`` no way around ``is_safe_attribute``: its widths have no bound."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Allow harmless methods of text, dicts and lists, and jinja's own objects."""
        for kind, methods in _METHODS.items():
            if isinstance(obj, kind):
                return attr in methods
        return isinstance(obj, _OWN_TYPES) and super().is_safe_attribute(obj, attr, value)

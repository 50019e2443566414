"""Which tests a run takes: all of them with ``--all``, else those of a quick look at everything.

A quick look leaves out tests marked ``slow``, all tensor types but a few of each kind and all
instruction sets but the CPU's best one, as each has kernels of its own to compile. Of a test with
several parameters it takes as many cases as show each value of each parameter once, not all of
their combinations, and of any test a dozen cases at most, from all over its list. Whoever names
files or a keyword (``-k``) gets all that is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import pytest

from gguf_hub.gguf.types import QuantType as T
from gguf_hub.resources.cpus import usable_cpus
from gguf_hub.run.kernels.build.cpu import ISAS, usable_isas

_TYPES = {T.F32, T.F16, T.Q4_0, T.Q8_0, T.Q4_K, T.Q6_K, T.IQ4_XS}
"""Tensor types of a quick look."""
_MOST_CASES = 12
"""Of each test in a quick look."""
_OTHER_ISAS = {*ISAS} - {usable_isas()[-1]}


def takes_all(config: pytest.Config) -> bool:
    """Tell whether every test that is found runs."""
    named = config.args_source is pytest.Config.ArgsSource.ARGS or config.option.keyword
    return bool(config.option.all or named)


def _tables_of(item: pytest.Item) -> Iterator[list[str]]:
    """Names of parameters, those together that one ``parametrize`` gives values to."""
    for mark in item.iter_markers("parametrize"):
        names = mark.args[0] if mark.args else mark.kwargs["argnames"]
        yield [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)


def _values_of(item: pytest.Item) -> set[tuple[object, ...]]:
    """Values of an item's parameters: (test, parameters, the objects that they are)."""
    params = item.callspec.params if hasattr(item, "callspec") else {}
    tables = list(_tables_of(item))
    tables += [[name] for name in params if not any(name in table for table in tables)]
    test = item.nodeid.partition("[")[0]
    return {(test, *table, *(id(params[name]) for name in table)) for table in tables}


def types_taken(config: pytest.Config, types: Iterable[T]) -> list[T]:
    """Return those of the tensor types that a run takes, as its kernels are compiled at once."""
    return [type_ for type_ in types if config.option.all or type_ in _TYPES]


def _is_left_out(item: pytest.Item) -> bool:
    params = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return item.get_closest_marker("slow") is not None or any(map(_wants_other_kernels, params))


def _wants_other_kernels(param: object) -> bool:
    if isinstance(param, T):
        return param not in _TYPES
    return isinstance(param, str) and param in _OTHER_ISAS


def quick_look(items: Sequence[pytest.Item]) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """Return (items to run, items left out), each in their order."""
    seen: set[tuple[object, ...]] = set()
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        values = _values_of(item)
        shows_nothing_new = values and values <= seen
        if not (shows_nothing_new or _is_left_out(item)):
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
            seen |= values
    taken = {item for each in cases.values() for item in _spread(each)}
    return [item for item in items if item in taken], [item for item in items if item not in taken]


def _spread(cases: list[pytest.Item]) -> list[pytest.Item]:
    """Return a dozen cases from all over a list."""
    n = min(len(cases), _MOST_CASES)
    return [cases[i * len(cases) // n] for i in range(n)]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all", action="store_true",
        help="every test and case; without it, and without files or -k, a quick look at everything",
    )  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: left out of a quick look at everything")
    config.option.all = takes_all(config)  # xdist hands options to its workers


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return how many processes ``-n auto`` takes: tests wait for servers and compilers, too."""
    return len(usable_cpus()) + 1


def pytest_report_header(config: pytest.Config) -> str | None:
    return None if config.option.all else "a quick look at everything; `--all` runs every case"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.option.all:
        items[:], left_out = quick_look(items)
        config.hook.pytest_deselected(items=left_out)

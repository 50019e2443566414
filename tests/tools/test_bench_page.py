"""The tables that ``make bench`` writes, from samples; nothing is measured here."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.all import PAGE, TABLES, Table, rendered, write_page
from benchmarks.regression import checkout

ROW = {"active_bytes": 10**9, "cache_bytes": 0, "read_bytes_per_s": [50e9, 40e9, 60e9]}


def row(
    type_: str, cell: str, ours: list[float], theirs: list[float], n: int = 2
) -> dict[str, Any]:
    samples = {"ours": ours, "plain": theirs, "repack": [0.9 * value for value in theirs]}
    return {**ROW, "type": type_, "cell": cell, "threads": n, "samples": samples}


def record(*rows: dict[str, Any]) -> dict[str, Any]:
    return {"cpu": "a CPU", "date": "2026-12-01", "commit": "abc", "rows": list(rows)}


def test_figures_are_medians_with_ratios_means_and_where_they_are_from() -> None:
    table = Table("t", ("pp256", "tg0"), ("Q4_0", "Q8_0"), isa="avx2")
    text = rendered(
        table,
        record(
            row("Q4_0", "pp256", [90, 100, 120], [50, 50, 50]),
            row("Q4_0", "tg0", [20, 30, 40], [15, 15, 15]),
            row("Q8_0", "pp256", [400, 400, 400], [50, 50, 50]),
            row("Q8_0", "tg0", [10, 10, 10], [20, 20, 20]),
        ),
    )
    lines = text.splitlines()
    assert lines[0] == (
        "a CPU, 2026-12-01, commit abc, both programs held to AVX2; memory gave 40 to 60 GB/s; the"
    )
    assert lines[1] == "samples of a cell spread by 15% (median), 67% at most:"
    assert "python benchmarks/vs_llama_cpp.py --peer PYTHON --threads 2 --cells pp256 tg0" in text
    assert lines[-5:] == [
        "| | prompt 256 | generate |",
        "|---|---|---|",
        "| Q4_0 | 100 / 50 (2.00) | 30 / 15 (2.00), 60% |",
        "| Q8_0 | 400 / 50 (8.00) | 10 / 20 (0.50), 20% |",
        "| geometric mean | 4.00 | 1.00 |",
    ]


def test_threads_are_columns_where_there_are_several() -> None:
    table = Table("t", ("tg8192",), threads=(1, 2), busy=1)
    rows = [row("Q4_0", "tg8192", [n * 10.0], [8.0], n) for n in (1, 2)]
    text = rendered(table, record(*rows))
    assert "| | generate behind 8,192, 1 thread | generate behind 8,192, 2 threads |" in text
    assert ", 1 other busy process;" in text


def test_a_table_takes_the_place_of_the_one_before() -> None:
    page = "a\n<!-- x -->\nold\n<!-- /x -->\nb\n<!-- y -->\n<!-- /y -->\n"
    once = write_page(page, {"x": "new"})
    assert once == "a\n<!-- x -->\n\nnew\n\n<!-- /x -->\nb\n<!-- y -->\n<!-- /y -->\n"
    assert write_page(once, {"x": "new"}) == once
    with pytest.raises(SystemExit, match="expected a place"):
        write_page(page, {"z": "new"})


def test_the_page_has_a_place_for_every_table() -> None:
    write_page(PAGE.read_text("utf-8"), {table.name: "" for table in TABLES})


def test_an_unknown_commit_to_compare_with_is_named() -> None:
    with pytest.raises(SystemExit, match="no-such-tag"):
        checkout("no-such-tag")

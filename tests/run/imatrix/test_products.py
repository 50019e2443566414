"""Which tensors' inputs are found in the programs of every architecture."""

from __future__ import annotations

from pathlib import Path

import pytest

from gguf_hub.gguf.memory.layout import Limits
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.run.imatrix.products import find_products
from gguf_hub.run.model.builder import ProgramBuilder
from gguf_hub.run.model.weights import read_model
from gguf_hub.run.quants.recipes import is_quantisable
from tests.arch_models import write_arch_model
from tests.arch_recipes import RECIPES
from tests.synth import SMALL, write_mixtral

NOT_MULTIPLIED = ("token_embd", "per_layer_token_embd", "conv", "nextn", "altup_proj",
                  "altup_unembd", "_coef")  # fmt: skip
"""Parts of names of matrices that are looked up, convolved with, or not computed with; and of those
that have rows of several streams."""


def products_of(path: Path) -> tuple[GgufFile, list, int]:
    file = GgufFile.open(path)
    config, weights = read_model(file)
    limits = Limits(n_ctx=32, n_batch=8, n_outputs=8, n_threads=1)
    program = ProgramBuilder(config, weights, limits).build()
    return file, find_products(program.steps, program.bounds.tables, file), config.n_layer


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_what_enters_every_matrix_is_found_once(name: str, tmp_path: Path) -> None:
    file, products, n_layer = products_of(write_arch_model(tmp_path / "m.gguf", name))
    found = [product.name for product in products]
    assert len(found) == len(set(found))
    matrices = (spec.name for spec in file.tensors.values() if is_quantisable(spec))
    assert {name for name in matrices if is_multiplied(name, n_layer)} <= set(found)
    for product in products:
        n_in, *rest = file.tensors[product.name].shape
        assert product.rows.width == n_in
        assert product.n_matrices == (rest[1] if len(rest) > 1 else 1)


def is_multiplied(name: str, n_layer: int) -> bool:
    is_behind = name.startswith("blk.") and int(name.split(".")[1]) >= n_layer
    return not is_behind and not any(part in name for part in NOT_MULTIPLIED)


@pytest.mark.parametrize("recipe", ["F16", "Q4_K_M"])
def test_split_experts_are_found_under_merged_names(recipe: str, tmp_path: Path) -> None:
    names = []
    for layout in ("split", "merged"):
        path = write_mixtral(tmp_path / f"{layout}.gguf", SMALL, layout=layout, recipe=recipe)
        names.append({(p.name, p.n_matrices) for p in products_of(path)[1]})
    assert names[0] == names[1]
    assert ("blk.0.ffn_down_exps.weight", 8) in names[0]

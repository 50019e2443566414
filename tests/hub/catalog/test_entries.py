"""The catalog's own figures, and the arithmetic that they must agree with."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gguf_hub.gguf.types import QuantType
from gguf_hub.hub.catalog import CatalogFile, Recipe, bytes_by_role, load_catalog, tensor_groups

CATALOG = load_catalog()
EACH_FILE = pytest.mark.parametrize("file", CATALOG.files, ids=lambda file: file.quant)


def test_holds_the_eight_files_in_the_order_of_the_card() -> None:
    quants = ["Q2_K", "Q3_K_M", "Q4_0", "Q4_K_M", "Q5_0", "Q5_K_M", "Q6_K", "Q8_0"]
    assert [file.quant for file in CATALOG.files] == quants
    assert [file.quant for file in CATALOG.files if file.is_recommended] == ["Q4_K_M", "Q5_K_M"]


def test_describes_the_repository() -> None:
    assert CATALOG.repo_id == "TheBloke/Mixtral-8x7B-v0.1-GGUF"
    assert (CATALOG.revision, CATALOG.license) == ("main", "apache-2.0")
    assert CATALOG.languages == ("fr", "it", "de", "es", "en")
    assert CATALOG.base_model == "mistralai/Mixtral-8x7B-v0.1"
    assert CATALOG.prompt_template.format(prompt="Bonjour") == "Bonjour"
    assert "moderation" in CATALOG.notice


@EACH_FILE
def test_recipe_and_shape_give_the_size_on_the_card(file: CatalogFile) -> None:
    assert file.recipe is not None
    total = sum(bytes_by_role(CATALOG.architecture, file.recipe).values())
    assert total == file.tensor_bytes
    assert abs(total - file.size_bytes) <= 5_000_000  # the card rounds to 0.01 GB


def test_shape_has_the_parameters_of_mixtral() -> None:
    n_weights = sum(group.n_weights for group in tensor_groups(CATALOG.architecture))
    assert n_weights == 46_702_792_704  # "46.7B parameters", as Mistral counts them


def test_shape_has_the_995_tensors_of_the_split_layout() -> None:
    assert sum(group.n_tensors for group in tensor_groups(CATALOG.architecture)) == 995


@EACH_FILE
def test_filename_holds_the_quant(file: CatalogFile) -> None:
    assert file.filename == f"mixtral-8x7b-v0.1.{file.quant}.gguf"
    assert file.bits == int(file.quant[1])


@EACH_FILE
def test_cards_ram_is_the_size_and_two_and_a_half_gb(file: CatalogFile) -> None:
    assert file.max_ram_bytes == file.size_bytes + 2_500_000_000


@EACH_FILE
def test_perplexity_names_its_source(file: CatalogFile) -> None:
    assert file.perplexity is not None
    assert file.perplexity.source
    assert file.perplexity.is_estimated == (file.quant == "Q6_K")


def test_estimate_of_q6_k_is_the_instruct_models_loss_on_the_base_models_q8_0() -> None:
    q6_k, q8_0 = CATALOG.find("Q6_K"), CATALOG.find("Q8_0")
    assert q6_k and q6_k.perplexity and q8_0 and q8_0.perplexity
    instruct_q6_k, instruct_q8_0 = 4.4240, 4.4088
    estimate = q8_0.perplexity.value * instruct_q6_k / instruct_q8_0
    assert q6_k.perplexity.value == pytest.approx(estimate, abs=5e-5)


@pytest.mark.parametrize("quant", ["Q4_K_M", "q4_k_m", "q4_K_m"])
def test_find_takes_any_case(quant: str) -> None:
    found = CATALOG.find(quant)
    assert found is not None
    assert found.quant == "Q4_K_M"


@pytest.mark.parametrize("quant", ["", "Q4_K", "Q4_K_M.gguf", "Q9_K"])
def test_find_knows_no_other_names(quant: str) -> None:
    assert CATALOG.find(quant) is None


def test_dense_model_has_one_ffn_and_no_router() -> None:
    shape = replace(CATALOG.architecture, n_expert=0, n_expert_used=0)
    roles = {group.role: group for group in tensor_groups(shape)}
    assert "ffn_gate_inp" not in roles
    recipe = Recipe(*[QuantType.F16] * 9)
    assert bytes_by_role(shape, recipe)["ffn"] == 32 * 3 * 4096 * 14336 * 2
    assert bytes_by_role(shape, recipe)["ffn_gate_inp"] == 0

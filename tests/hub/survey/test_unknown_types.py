"""Tensors of a type that nobody here knows count with their bytes, and their file is not judged."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguf_hub.errors import GgufError, UnsupportedGgufError
from gguf_hub.gguf.inspection import inspect
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.types import QuantType
from gguf_hub.hub.fit import Constraints, Machine, Verdict, need_of, pick
from gguf_hub.hub.survey.headers import facts_of_file
from gguf_hub.hub.survey.repo import Survey, recall, remember
from gguf_hub.units import GB
from tests.crafted import set_type_ids
from tests.hub_server import HubServer
from tests.synth import SMALL, Shape, write_mixtral

Cli = Callable[..., tuple[int, str, str]]
KNOWN = {int(type) for type in QuantType}
ROOMY = Machine(10**15, 10**15)
unknown_ids = st.one_of(
    st.sampled_from([4, 5, 31, 32, 33, 36, 37, 38, 43, 144, 255, 256, 2**32 - 1]),
    st.integers(0, 2**32 - 1),
).filter(lambda id: id not in KNOWN)


def experts(path: Path) -> list[str]:
    return [name for name in GgufFile.open(path).tensors if ".ffn_" in name and "norm" not in name]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mixtral(tmp_path_factory.mktemp("m") / "m.gguf", SMALL, recipe="Q4_0", sparse=True)


@pytest.mark.slow
@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_no_byte_and_no_weight_is_lost(original: Path, data: st.DataObject) -> None:
    before = facts_of_file(original)
    names = sorted(GgufFile.open(original).tensors)
    chosen = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=9, unique=True))
    ids = {name: data.draw(unknown_ids) for name in chosen}
    path = original.with_name("changed.gguf")
    path.write_bytes(original.read_bytes())
    facts = facts_of_file(set_type_ids(path, ids))
    assert facts.unknown == f"tensor type {', '.join(map(str, sorted(set(ids.values()))))}"
    # up to where the next tensor starts: padding may count as a weight's, never the other way
    assert 0 <= facts.weights_bytes - before.weights_bytes < 32 * len(chosen)
    assert sum(s.n_weights for s in facts.tensors) == sum(s.n_weights for s in before.tensors)
    for engine in ("gguf-hub", "llama.cpp"):
        constraints = Constraints(n_ctx=128, engine=engine, min_tok_per_s=0)
        assert need_of(facts, constraints).total_bytes >= facts.size_bytes
        found = pick([facts], ROOMY, constraints)
        assert (found.chosen, found.fits[0].verdict) == (None, Verdict.UNKNOWN)
        assert (found.fits[0].loss, found.fits[0].speed) == (None, None)
    old, new = (inspect(each.read_bytes(), each.name).summary for each in (original, path))
    assert (new.n_params, new.n_params_active) == (old.n_params, old.n_params_active)
    assert 0 <= new.data_bytes - old.data_bytes < 32 * len(chosen)


def test_a_full_size_file_is_never_picked(gguf_hub: Cli, tmp_path: Path) -> None:
    strange = write_mixtral(tmp_path / "m.IQ4_KS.gguf", Shape(), recipe="Q4_0", sparse=True)
    plain = write_mixtral(tmp_path / "m.Q8_0.gguf", Shape(), recipe="Q8_0", sparse=True)
    set_type_ids(strange, dict.fromkeys(experts(strange), 144))
    for engine in ("gguf-hub", "llama.cpp"):
        args = ("pick", tmp_path, "--ram", "64GB", "--no-probe", "--for", engine)
        data = json.loads(gguf_hub(*args, "--json")[1])
        rows = {row["quant"]: row for row in data["files"]}
        assert data["recommended"] == "Q8_0"
        row = rows["IQ4_KS"]
        assert (row["verdict"], row["unknown"]) == ("unknown", "tensor type 144")
        assert row["need_ram_bytes"] >= strange.stat().st_size
        assert (row["loss"], row["tok_per_s"]) == (None, None)
        assert "unknown: tensor type 144" in gguf_hub(*args)[1]
    plain.unlink()
    code, out, err = gguf_hub("pick", tmp_path, "--ram", "64GB", "--no-probe")
    assert code == 1
    assert "it cannot be judged: IQ4_KS has the unknown tensor type 144" in out
    assert "hint" not in err


@pytest.mark.parametrize(("id", "code"), [(144, 0), (31, 1), (300, 1)])
def test_inspect_counts_what_it_cannot_read(
    gguf_hub: Cli, tmp_path: Path, id: int, code: int
) -> None:
    path = write_mixtral(tmp_path / "m.gguf", Shape(), recipe="Q4_0", sparse=True)
    set_type_ids(path, dict.fromkeys(experts(path), id))
    found, out, err = gguf_hub("inspect", path, "--json")
    data = json.loads(out)
    assert found == code
    assert data["n_params"] == 46_702_792_704
    assert data["n_params_active"] == 12_879_925_248
    assert data["data_bytes"] + data["header_bytes"] == path.stat().st_size
    assert data["types"][0]["name"] == f"type {id}"
    assert "missing" not in err
    loads = {row["name"]: row["loads"] for row in data["compatibility"]}
    assert loads["gguf-hub"] is False
    assert loads["llama.cpp before"] is (None if code == 0 else False)
    _, out, _ = gguf_hub("inspect", path, "--tensors", "blk.0.ffn_gate.0.weight")
    assert f"type {id}" in out


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "FILE", "-p", "a"],
        ["quantize", "FILE", "OUT", "Q8_0"],
        ["upgrade", "FILE", "OUT"],
        ["split", "FILE", "OUT", "--max-tensors", "9"],
        ["edit", "FILE", "-o", "OUT", "--set", "general.name=x"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_what_needs_the_type_refuses_by_its_id(
    gguf_hub: Cli, tmp_path: Path, arguments: list[str]
) -> None:
    path = write_mixtral(tmp_path / "m.gguf", SMALL, recipe="Q4_0")
    set_type_ids(path, {"blk.1.attn_q.weight": 144})
    before = path.read_bytes()
    places = {"FILE": str(path), "OUT": str(tmp_path / "out.gguf")}
    code, _, err = gguf_hub(*(places.get(word, word) for word in arguments))
    assert code != 0
    assert "tensor `blk.1.attn_q.weight`: type 144" in err
    assert path.read_bytes() == before
    assert list(tmp_path.glob("out*")) == []


def test_a_repository_keeps_what_is_unknown(gguf_hub: Cli, hub_server: HubServer, tmp_path: Path):
    strange = write_mixtral(tmp_path / "m.IQ4_KS.gguf", SMALL, recipe="Q4_0")
    plain = write_mixtral(tmp_path / "m.Q8_0.gguf", SMALL, recipe="Q8_0")
    set_type_ids(strange, {"blk.0.attn_q.weight": 144, "output.weight": 146})
    hub_server.add_repo("org/m", {each.name: each.read_bytes() for each in (strange, plain)})
    for _ in range(2):  # read, then recalled
        code, out, _ = gguf_hub("pick", "org/m", "--ram", "1GB", "--no-probe", "--json")
        data = json.loads(out)
        assert (code, data["recommended"]) == (0, "Q8_0")
        unknown = {row["quant"]: row["unknown"] for row in data["files"]}
        assert unknown == {"IQ4_KS": "tensor type 144, 146", "Q8_0": None}


def test_facts_are_recalled_as_they_were(tmp_path: Path) -> None:
    path = write_mixtral(tmp_path / "m.gguf", SMALL)
    set_type_ids(path, {"output.weight": 144})
    survey = Survey("org/m", "a" * 40, (facts_of_file(path),))
    remember(survey)
    assert recall("org/m", "a" * 40) == survey
    assert survey.files[0].obstacles == ("tensor type 144 (`output.weight`)",)


# -- the sum of the tensors against the file -------------------------------------------------


def test_bytes_that_no_tensor_tells_of_count_too(tmp_path: Path) -> None:
    path = write_mixtral(tmp_path / "m.gguf", SMALL, recipe="Q4_0", sparse=True)
    plain = facts_of_file(path)
    assert all(share.n_weights for share in plain.tensors)
    os.truncate(path, path.stat().st_size + 3 * GB)
    facts = facts_of_file(path)
    assert facts.weights_bytes == plain.weights_bytes + 3 * GB
    assert need_of(facts, Constraints(n_ctx=1)).total_bytes >= facts.size_bytes


@pytest.mark.parametrize("id", [2, 144])
def test_a_file_that_is_too_short_is_not_judged(gguf_hub: Cli, tmp_path: Path, id: int) -> None:
    path = write_mixtral(tmp_path / "m.Q4_0.gguf", SMALL, recipe="Q4_0", sparse=True)
    set_type_ids(path, dict.fromkeys(experts(path), id))
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(GgufError, match="the file ends too early"):
        facts_of_file(path)
    other = write_mixtral(tmp_path / "m.Q8_0.gguf", replace(SMALL, n_layer=1), recipe="Q8_0")
    code, out, err = gguf_hub("pick", tmp_path, "--ram", "1GB", "--no-probe")
    assert (code, "Q4_0" in out, "the file ends too early" in err) == (0, False, True)
    other.unlink()
    assert gguf_hub("pick", tmp_path, "--ram", "1GB", "--no-probe")[0] == 1


def test_a_tensor_of_an_unknown_type_cannot_be_opened(tmp_path: Path) -> None:
    path = write_mixtral(tmp_path / "m.gguf", SMALL, recipe="Q4_0")
    with pytest.raises(UnsupportedGgufError, match="type 144"):
        GgufFile.open(set_type_ids(path, {"output.weight": 144}))

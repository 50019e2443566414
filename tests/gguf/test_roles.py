"""Files that are published beside models: known by their headers, sound as what they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from gguf_hub.errors import UnsupportedGgufError
from gguf_hub.gguf.format import Field, TensorSpec
from gguf_hub.gguf.inspection import inspect
from gguf_hub.gguf.roles import Role
from gguf_hub.gguf.types import QuantType
from gguf_hub.gguf.writer import write_gguf
from gguf_hub.hub.download.verify import Verdict, verify_file
from gguf_hub.hub.store import Store
from gguf_hub.hub.survey.headers import facts_of_file
from gguf_hub.run.opening import open_model
from tests.synth import TINY, metadata, write_mixtral

T = tuple[dict[str, str] | dict[str, int], list[str]]
LORA = ["blk.0.attn_q.weight.lora_a", "blk.0.attn_q.weight.lora_b"]
SUMS = ["blk.0.ffn_up.weight.in_sum2", "blk.0.ffn_up.weight.counts"]
LLAMA, CLIP = {"general.architecture": "llama"}, {"general.architecture": "clip"}
EAGLE = {"general.architecture": "eagle3", "general.type": "model"}
FILES: dict[str, tuple[Role, T]] = {
    "adapter": (Role.ADAPTER, ({**LLAMA, "general.type": "adapter"}, LORA)),
    "adapter by its keys": (Role.ADAPTER, ({**LLAMA, "adapter.type": "lora"}, LORA)),
    "projector": (Role.PROJECTOR, ({**CLIP, "general.type": "mmproj"}, ["mm.0.weight"])),
    "projector of 2023": (Role.PROJECTOR, (CLIP, ["mm.0.weight"])),
    "importance matrix": (Role.IMATRIX, ({"general.type": "imatrix"}, SUMS)),
    "importance matrix by its keys": (Role.IMATRIX, ({"imatrix.chunk_count": 3}, SUMS)),
    "head": (Role.DRAFT, (EAGLE, ["fc.weight"])),
}


def written(path: Path, content: T) -> Path:
    fields = {key: Field.of(value) for key, value in content[0].items()}
    specs = [(TensorSpec(name, (32,), QuantType.F32), bytes(128)) for name in content[1]]
    write_gguf(path, fields, specs)
    return path


@pytest.mark.parametrize("name", FILES)
def test_it_is_sound_as_what_it_is_and_refused_as_a_model(tmp_path: Path, name: str) -> None:
    role, content = FILES[name]
    path = written(tmp_path / "model-Q4_K_M.gguf", content)  # the name says otherwise
    seen = inspect(path.read_bytes(), path.name)
    assert seen.summary.role is role
    assert (seen.report.verdict, seen.report.issues) == ("sound", ())
    assert {loader.loads for loader in seen.compatibility.loaders} == {False}
    done = verify_file(path, store=Store(tmp_path / "record"))
    assert (done.verdict, done.role) == (Verdict.UNKNOWN, role)
    for act in (open_model, facts_of_file):
        with pytest.raises(UnsupportedGgufError, match=f"is {role.obstacle}") as caught:
            act(path)
        assert ("gguf-hub run MODEL --lora" in str(caught.value.hint)) is (role is Role.ADAPTER)


@pytest.mark.parametrize("names", [LORA, SUMS])
def test_half_of_a_pair_is_damage(tmp_path: Path, names: list[str]) -> None:
    keys = FILES["adapter" if names is LORA else "importance matrix"][1][0]
    for name, other in (names, names[::-1]):
        seen = inspect(written(tmp_path / "a.gguf", (keys, [name])).read_bytes(), "a")
        assert [issue.code for issue in seen.report.issues] == ["GGUF-PAIR"]
        assert other in str(seen.report.issues[0])


def test_a_vocabulary_has_no_tensors_to_miss(tmp_path: Path) -> None:
    write_gguf(tmp_path / "v.gguf", metadata(TINY), [])
    seen = inspect((tmp_path / "v.gguf").read_bytes(), "v")
    assert (seen.summary.role, seen.report.verdict) == (Role.VOCAB, "sound")


def test_a_model_says_so_whatever_its_name(tmp_path: Path) -> None:
    fields = {"general.type": Field.of("model")}
    path = write_mixtral(tmp_path / "mmproj-mtp-imatrix.gguf", TINY, fields=fields)
    assert inspect(path.read_bytes(), path.name).summary.role is Role.MODEL
    assert facts_of_file(path).obstacles == ()


def test_the_first_shard_of_a_model_is_no_vocabulary(tmp_path: Path) -> None:
    fields = metadata(TINY) | {"split.count": Field.of(2), "split.no": Field.of(0)}
    write_gguf(tmp_path / "m-00001-of-00002.gguf", fields, [])
    seen = inspect((tmp_path / "m-00001-of-00002.gguf").read_bytes(), "m")
    assert seen.summary.role is Role.MODEL

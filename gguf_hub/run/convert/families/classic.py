"""The architectures that are converted: dense models of before 2025."""

from __future__ import annotations

from gguf_hub.run.convert.config import ConfigReader
from gguf_hub.run.convert.families.family import TURNED, Family, Keys

_LAYER_NORM = "attention.layer_norm_epsilon"
_NETWORK = {"ffn_up": "mlp.fc1", "ffn_down": "mlp.fc2"}

ARCEE = Family("arcee", ("ArceeForCausalLM",), TURNED, activations=("relu2",))
STARCODER2 = Family(
    "starcoder2",
    ("Starcoder2ForCausalLM",),
    {"ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"},
    activations=("gelu_pytorch_tanh",),
    epsilon=("norm_epsilon", _LAYER_NORM),
    is_tied=True,
)
PHI2 = Family(
    "phi2",
    ("PhiForCausalLM",),
    {**_NETWORK, "attn_output": "self_attn.dense", "output_norm": "model.final_layernorm"},
    activations=("gelu_new", "gelu_pytorch_tanh"),
    epsilon=("layer_norm_eps", _LAYER_NORM),
    rotary_share=0.5,
)
STABLELM = Family(  # not 12B, whose layers are parallel
    "stablelm",
    ("StableLmForCausalLM",),
    epsilon=("layer_norm_eps", _LAYER_NORM),
    rotary_share=0.25,
)


def _command_r(config: ConfigReader, keys: Keys) -> None:
    keys["logit_scale"] = config.positive("logit_scale", 0.0625)
    keys["rope.scaling.type"] = "none"


COMMAND_R = Family(
    "command-r",
    ("CohereForCausalLM",),
    add_keys=_command_r,
    epsilon=("layer_norm_eps", _LAYER_NORM),
    is_tied=True,
)


def _olmo(config: ConfigReader, keys: Keys) -> None:
    if bound := config.number("clip_qkv"):
        keys["attention.clamp_kqv"] = bound


OLMO = Family(
    "olmo",
    ("OlmoForCausalLM", "OLMoForCausalLM"),
    TURNED,
    _olmo,
    epsilon=("layer_norm_eps", _LAYER_NORM),
    defaults={"layer_norm_eps": 1e-5},  # which no configuration states
)

CLASSIC: tuple[Family, ...] = tuple(
    record for record in list(vars().values()) if isinstance(record, Family)
)

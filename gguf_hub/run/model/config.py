"""What a llama-family model is: the hyper-parameters that the runner computes with.

Knows which of them cannot go together; knows nothing of keys, tensors or arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass

from gguf_hub.errors import UnsupportedGgufError
from gguf_hub.gguf.hparams import ARCHITECTURE, HyperParameters
from gguf_hub.gguf.memory.layout import ModelSizes
from gguf_hub.gguf.runnable import ARCHITECTURES
from gguf_hub.gguf.strings import shown
from gguf_hub.run.model.rope import RopeConfig


@dataclass(frozen=True)
class ModelConfig(ModelSizes):
    """Sizes of a model, and what else the runner computes with."""

    name: str
    n_ctx_train: int
    rms_epsilon: float
    rope: RopeConfig

    @property
    def n_embd_kv(self) -> int:
        """Width of a token's keys (and of its values) in one layer."""
        return self.n_head_kv * self.head_dim


def read_config(hparams: HyperParameters) -> ModelConfig:
    """Return the configuration of a model.

    Raises:
        UnsupportedGgufError: Another architecture, or a key that is missing or makes no sense.
    """
    _check_architecture(hparams)
    config = ModelConfig(
        name=hparams.metadata.text("general.name", "unnamed"),
        n_vocab=hparams.n_vocab,
        n_ctx_train=hparams.n_ctx_train,
        n_layer=hparams.n_layer,
        n_embd=hparams.n_embd,
        n_head=hparams.n_head,
        n_head_kv=hparams.n_head_kv,
        head_dim=hparams.head_dim,
        n_ff=hparams.n_ff,
        n_expert=hparams.n_expert,
        n_expert_used=hparams.n_expert_used,
        rms_epsilon=hparams.rms_epsilon,
        rope=RopeConfig(
            n_rot=hparams.n_rot,
            freq_base=hparams.rope_freq_base,
            scaling=hparams.rope_scaling,
            factor=hparams.rope_factor or 1.0,
            n_ctx_orig=hparams.n_ctx_orig,
            attn_factor=hparams.rope_attn_factor,
            yarn_attn_factor=hparams.yarn_attn_factor,
            ext_factor=hparams.yarn_ext_factor,
            beta_fast=hparams.yarn_beta_fast,
            beta_slow=hparams.yarn_beta_slow,
        ),
    )
    _check(config)
    return config


def _check_architecture(hparams: HyperParameters) -> None:
    name = hparams.metadata.text(ARCHITECTURE, "")
    if name not in ARCHITECTURES:
        raise UnsupportedGgufError(
            f"architecture `{shown(name)}` is not one that runs here: expected "
            + " or ".join(f"`{name}`" for name in ARCHITECTURES),
            hint="llama.cpp runs many other architectures",
        )


def _check(config: ModelConfig) -> None:
    problem = None
    if config.n_head % config.n_head_kv:
        problem = f"{config.n_head} heads cannot share {config.n_head_kv} key/value heads"
    elif config.rope.n_rot % 2 or config.rope.n_rot > config.head_dim:
        problem = (
            f"{HyperParameters.n_rot.name} {config.rope.n_rot}: expected an even number up to the "
            f"head's {config.head_dim}"
        )
    elif config.rope.factor <= 0:
        problem = f"{HyperParameters.rope_factor.name} {config.rope.factor}: expected more than 0"
    elif bool(config.n_expert) != bool(config.n_expert_used) or (
        config.n_expert_used > config.n_expert
    ):
        problem = f"{config.n_expert_used} of {config.n_expert} experts used"
    if problem:
        raise UnsupportedGgufError(f"metadata: {problem}")

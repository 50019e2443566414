"""The Mixtral graph in PyTorch, for training only.

Shapes: B rows, T tokens of a row, N = B*T tokens, D n_embd, H heads, K kv heads, d head_dim,
F n_ff, E experts, A experts used per token, V vocabulary.

Rotary position embedding turns neighbouring pairs (0,1), (2,3), ... as Mistral's own code and GGUF
do, so that no row of Q or K needs to be permuted on export.

Source: Jiang et al., "Mixtral of Experts", 2024, sections 2 and 2.1; Fedus et al., "Switch
Transformers", 2021, section 2.2 (load-balancing loss).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EMBEDDING_STD, WEIGHT_STD, RESIDUAL_STD = 0.5, 0.04, 0.03
OUTPUT_GAIN, COPY_GAIN = 0.15, 4.0


@dataclass(frozen=True)
class Config:
    """The shape of the model, in GGUF's words."""

    n_vocab: int = 1280
    n_ctx: int = 512
    n_embd: int = 256
    n_layer: int = 3
    n_head: int = 8
    n_head_kv: int = 2
    n_ff: int = 256
    n_expert: int = 8
    n_expert_used: int = 2
    rope_freq_base: float = 1e6
    rms_eps: float = 1e-5

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.n_embd // self.n_head


class RMSNorm(nn.Module):
    """Divide by the root mean square, multiply by a learned gain; in float32."""

    def __init__(self, n_embd: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_embd))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` [..., D]."""
        return F.rms_norm(x.float(), (x.shape[-1],), self.weight, self.eps)


class Attention(nn.Module):
    """Causal attention, several query heads per key/value head."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        n_kv = config.n_head_kv * config.head_dim
        self.q = nn.Linear(config.n_embd, config.n_embd, bias=False)
        self.k = nn.Linear(config.n_embd, n_kv, bias=False)
        self.v = nn.Linear(config.n_embd, n_kv, bias=False)
        self.output = nn.Linear(config.n_embd, config.n_embd, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Attend: ``x`` [B, T, D]; ``cos`` and ``sin`` [T, d/2]."""
        b, t, n_embd = x.shape
        d = self.config.head_dim
        q = rotate(self.q(x).view(b, t, -1, d).transpose(1, 2), cos, sin)  # [B, H, T, d]
        k = rotate(self.k(x).view(b, t, -1, d).transpose(1, 2), cos, sin)  # [B, K, T, d]
        v = self.v(x).view(b, t, -1, d).transpose(1, 2)  # [B, K, T, d]
        group = self.config.n_head // self.config.n_head_kv
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)  # [B, H, T, d]
        y = attend(q, k, v)
        return self.output(y.transpose(1, 2).reshape(b, t, n_embd))


def attend(q: Tensor, k: Tensor, v: Tensor, block: int = 128) -> Tensor:
    """Causal attention in blocks of queries, each on only the keys up to its last position.

    On a CPU and at this size, twice as fast as PyTorch's ``scaled_dot_product_attention``.

    Args:
        q: [B, H, T, d]; ``k`` and ``v`` have the same shape.
        k: Keys.
        v: Values.
        block: Queries at a time.

    Returns:
        The weighted values [B, H, T, d].
    """
    t, d = q.shape[-2:]
    future = torch.full((t, t), -torch.inf, dtype=q.dtype).triu(1)  # [T, T]
    outs = []
    for start in range(0, t, block):
        stop = min(start + block, t)
        scores = q[:, :, start:stop] @ k[:, :, :stop].transpose(2, 3) * d**-0.5
        weights = (scores + future[start:stop, :stop]).softmax(-1)
        outs.append(weights.to(v.dtype) @ v[:, :, :stop])
    return torch.cat(outs, 2)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn neighbouring pairs of ``x`` [B, H, T, d] by the angle of their position."""
    even, odd = x[..., 0::2], x[..., 1::2]  # [B, H, T, d/2] each
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2).to(x.dtype)


class Experts(nn.Module):
    """E feed-forward networks, of which a router gives every token A."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.n_used = config.n_expert_used
        shape = (config.n_expert, config.n_ff, config.n_embd)
        self.router = nn.Linear(config.n_embd, config.n_expert, bias=False)
        self.gate = nn.Parameter(torch.empty(shape))  # [E, F, D]
        self.up = nn.Parameter(torch.empty(shape))  # [E, F, D]
        self.down = nn.Parameter(torch.empty(shape[0], shape[2], shape[1]))  # [E, D, F]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Send ``x`` [N, D] through the experts.

        Returns:
            Sum of the chosen experts' outputs [N, D]; the load-balancing loss (1.0 is perfect
            balance); the share of the assignments that each expert got [E].
        """
        with torch.autocast("cpu", enabled=False):
            probs = F.linear(x.float(), self.router.weight).softmax(-1)  # [N, E]
        weights, chosen = probs.topk(self.n_used, -1)  # [N, A]
        weights = weights / weights.sum(-1, keepdim=True)

        # 1) sort the N*A assignments by expert, so that each expert sees one block of rows
        order = chosen.flatten().argsort(stable=True)  # [N*A]
        counts = chosen.flatten().bincount(minlength=probs.shape[1])  # [E]
        rows = order // self.n_used  # token of each sorted assignment
        dtype = torch.bfloat16 if torch.is_autocast_enabled("cpu") else x.dtype
        blocks = x.to(dtype)[rows].split(counts.tolist())

        # 2) every expert on its block
        gate, up, down = (weight.to(dtype) for weight in (self.gate, self.up, self.down))
        outs = [
            F.linear(F.silu(F.linear(block, gate[e])) * F.linear(block, up[e]), down[e])
            for e, block in enumerate(blocks)
        ]

        # 3) weigh, and add up per token
        scaled = torch.cat(outs).float() * weights.flatten()[order, None]
        out = torch.zeros_like(x, dtype=torch.float32).index_add_(0, rows, scaled)
        share = counts / counts.sum()
        balance = probs.shape[1] * (share * probs.mean(0)).sum()
        return out, balance, share


class Block(nn.Module):
    """One layer: attention and experts, each behind a norm and beside a residual."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attn_norm = RMSNorm(config.n_embd, config.rms_eps)
        self.attn = Attention(config)
        self.ffn_norm = RMSNorm(config.n_embd, config.rms_eps)
        self.ffn = Experts(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run the layer on ``x`` [B, T, D]; see `Experts.forward` for what comes with it."""
        x = x + self.attn(self.attn_norm(x), cos, sin)
        out, balance, share = self.ffn(self.ffn_norm(x).flatten(0, 1))
        return x + out.view_as(x), balance, share


@dataclass(frozen=True)
class Output:
    """What a forward pass gives: logits [B, T, V], balance [L], share [L, E]."""

    logits: Tensor
    balance: Tensor
    share: Tensor


class TinyMixtral(nn.Module):
    """Embedding, layers, norm, output."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.token_embd = nn.Embedding(config.n_vocab, config.n_embd)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.output_norm = RMSNorm(config.n_embd, config.rms_eps)
        exponent = torch.arange(0, config.head_dim, 2).double() / config.head_dim  # [d/2]
        position = torch.arange(config.n_ctx).double()
        angle = torch.outer(position, config.rope_freq_base**-exponent)  # [T, d/2]
        self.register_buffer("cos", angle.cos().float(), persistent=False)
        self.register_buffer("sin", angle.sin().float(), persistent=False)

    def init_weights(self, seed: int) -> None:
        """Draw the weights so that to look at a word is to expect it again.

        A story is full of words that come again (names, things, colours), but from small random
        weights a model of this size takes more than five million tokens to notice. So tokens begin
        far apart, and what the heads of the last layer write begins as the output's reading of
        what they look at.
        """
        generator = torch.Generator().manual_seed(seed)
        for name, weight in self.named_parameters():
            if weight.dim() > 1:
                std = RESIDUAL_STD if name.endswith(("attn.output.weight", "down")) else WEIGHT_STD
                std = EMBEDDING_STD if name == "token_embd.weight" else std
                nn.init.normal_(weight, std=std, generator=generator)
        attn = self.blocks[-1].attn
        with torch.no_grad():
            self.output_norm.weight.fill_(OUTPUT_GAIN)
            values = attn.v.weight.unflatten(0, (self.config.n_head_kv, -1))  # [K, d, D]
            group = self.config.n_head // self.config.n_head_kv
            values = values.repeat_interleave(group, 0).flatten(0, 1)  # [H*d, D]
            attn.output.weight.copy_(self._turned(values).T * COPY_GAIN)

    def output_weight(self) -> Tensor:
        """Return the output matrix [V, D]: the embedding, turned by half its width.

        One set of numbers learns both, so that a word that is seen is also a word that can be
        said; the turn keeps a token from predicting itself.
        """
        return self._turned(self.token_embd.weight)

    def _turned(self, rows: Tensor) -> Tensor:
        return rows.roll(self.config.n_embd // 2, dims=-1)

    def forward(self, tokens: Tensor) -> Output:
        """Predict the next token at every position of ``tokens`` [B, T]."""
        t = tokens.shape[1]
        x = self.token_embd(tokens)  # [B, T, D]
        balance, share = [], []
        for block in self.blocks:
            x, layer_balance, layer_share = block(x, self.cos[:t], self.sin[:t])
            balance.append(layer_balance)
            share.append(layer_share)
        logits = F.linear(self.output_norm(x), self.output_weight())
        return Output(logits.float(), torch.stack(balance), torch.stack(share))

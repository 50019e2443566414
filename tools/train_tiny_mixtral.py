"""Train tiny-mixtral from nothing: stories, vocabulary, weights, GGUF.

Run from the project's root, with the extra ``train`` installed::

    python -m tools.train_tiny_mixtral --work build/tiny-mixtral

All that takes time is kept in the work folder: a run that was stopped goes on from its last
checkpoint. The log is one JSON object per line.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import cross_entropy

from tools import stories
from tools.tiny_mixtral import export, text
from tools.tiny_mixtral.model import Config, TinyMixtral


@dataclass(frozen=True)
class Recipe:
    """How to train; the numbers of the shipped model are the defaults."""

    seed: int = 2024
    n_steps: int = 3900
    n_rows: int = 8
    opening_steps: int = 300
    opening_rows: int = 32
    opening_ctx: int = 64
    n_workers: int = 2
    peak_lr: float = 2e-3
    peak_muon_lr: float = 4e-3
    warmup_steps: int = 60
    decay_share: float = 0.3
    weight_decay: float = 0.05
    balance_weight: float = 0.04
    clip_norm: float = 1.0
    log_every: int = 20
    save_every: int = 100

    def lr_share(self, step: int) -> float:
        """Return the share of the peak learning rate: a rise, a plateau, a straight way to zero.

        Unlike a cosine's, the plateau does not know how long the run will be: a run may be
        stopped there and go on with more steps, or with fewer.
        """
        rise = (step + 1) / self.warmup_steps
        fall = (self.n_steps - step) / (self.n_steps * self.decay_share)
        return min(1.0, rise, fall)


class Batches:
    """Rows of ids in the order of the stream: step ``n`` always gets the same rows."""

    def __init__(self, path: Path, n_rows: int, n_ctx: int) -> None:
        self._ids = np.memmap(path, np.uint16, "r")
        self._n_rows, self._n_ctx = n_rows, n_ctx

    def __len__(self) -> int:
        return (len(self._ids) - 1) // (self._n_rows * self._n_ctx)

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets [B, T] of a step."""
        size = self._n_rows * self._n_ctx
        ids = torch.from_numpy(self._ids[step * size : (step + 1) * size + 1].astype(np.int64))
        shape = (self._n_rows, self._n_ctx)
        return ids[:-1].view(shape), ids[1:].view(shape)


class Openings:
    """The first words of one story per row, for the first steps: see `Lessons`."""

    def __init__(self, path: Path, n_rows: int, n_ctx: int) -> None:
        self._ids = np.memmap(path, np.uint16, "r")
        self._n_rows, self._n_ctx = n_rows, n_ctx
        self._starts = np.flatnonzero(self._ids[: -n_ctx - 1] == text.BOS)

    def __len__(self) -> int:
        return len(self._starts) // self._n_rows

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets [B, T] of a step."""
        starts = self._starts[step * self._n_rows : (step + 1) * self._n_rows]
        rows = np.stack([self._ids[start : start + self._n_ctx + 1] for start in starts])
        ids = torch.from_numpy(rows.astype(np.int64))
        return ids[:, :-1], ids[:, 1:]


class Lessons:
    """All steps of a run: openings first, then whole stories.

    In a whole story, a name is one word in two hundred, and it takes millions of tokens to find
    out that it matters. In an opening it is one in thirty: after 200 steps a heroine is "she".
    """

    def __init__(self, path: Path, config: Config, recipe: Recipe) -> None:
        self._n_openings = recipe.opening_steps
        self._openings = Openings(path, recipe.opening_rows, recipe.opening_ctx)
        self._stories = Batches(path, recipe.n_rows, config.n_ctx)

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets [B, T] of a step."""
        if step < self._n_openings:
            return self._openings[step]
        return self._stories[step - self._n_openings]


class Run:
    """One training run in a folder: weights, optimiser, step, log."""

    def __init__(self, work: Path, config: Config, recipe: Recipe, rank: int = 0) -> None:
        self.work, self.config, self.recipe, self.rank = work, config, recipe, rank
        self.model = TinyMixtral(config)
        self.model.init_weights(recipe.seed)
        self.optimisers = _optimisers(self.model, recipe)
        self.step, self.seconds = 0, 0.0
        self.checkpoint = work / "checkpoint.pt"
        if self.checkpoint.exists():
            self._load()

    def train(self, lessons: Lessons, held_out: Batches) -> None:
        """Train to the last step, logging and saving on the way."""
        started = time.perf_counter() - self.seconds
        while self.step < self.recipe.n_steps:
            row = self._one_step(*lessons[self.step])
            self.step += 1
            self.seconds = time.perf_counter() - started
            if self.rank != 0:
                continue
            if self.step % self.recipe.log_every == 0:
                self._log({**row, "seconds": round(self.seconds, 1)})
            if self.step % self.recipe.save_every == 0 or self.step == self.recipe.n_steps:
                self._log({"step": self.step, **evaluate(self.model, held_out)})
                self._save()

    def _one_step(self, inputs: Tensor, targets: Tensor) -> dict[str, Any]:
        share = self.recipe.lr_share(self.step)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["peak_lr"] * share
        mine = slice(self.rank, None, self.recipe.n_workers)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = self.model(inputs[mine])
        loss = cross_entropy(output.logits.flatten(0, 1), targets[mine].flatten())
        balance = output.balance.mean()
        (loss + self.recipe.balance_weight * balance).backward()
        self._average_gradients()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        row = {"loss": loss.item(), "balance": balance.item(), "grad_norm": norm.item()}
        row["lr"] = share * self.recipe.peak_lr
        return {"step": self.step + 1, **{key: round(value, 5) for key, value in row.items()}}

    def _average_gradients(self) -> None:
        """Let every worker go on with the mean of all workers' gradients."""
        if self.recipe.n_workers == 1:
            return
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        flat = torch.cat([grad.flatten() for grad in grads])
        dist.all_reduce(flat)
        flat /= self.recipe.n_workers
        for grad, mean in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
            grad.copy_(mean.view_as(grad))

    def _log(self, row: dict[str, Any]) -> None:
        with (self.work / "log.jsonl").open("a") as log:
            log.write(json.dumps(row) + "\n")

    def _save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "step": self.step,
            "seconds": self.seconds,
        }
        part = self.checkpoint.with_suffix(".part")
        torch.save(state, part)
        part.replace(self.checkpoint)

    def _load(self) -> None:
        state = torch.load(self.checkpoint, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.step, self.seconds = state["step"], state["seconds"]


@torch.no_grad()
def evaluate(model: TinyMixtral, held_out: Batches, n_batches: int = 8) -> dict[str, Any]:
    """Measure the loss on stories never trained on, and each layer's most and least used expert."""
    losses, shares = [], []
    for step in range(min(n_batches, len(held_out))):
        inputs, targets = held_out[step]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model(inputs)
        loss = cross_entropy(output.logits.flatten(0, 1), targets.flatten())
        losses.append(loss.item())
        shares.append(output.share)
    share = torch.stack(shares).mean(0)  # [L, E]
    return {
        "held_out_loss": round(sum(losses) / len(losses), 5),
        "expert_share": [[round(s, 4) for s in layer] for layer in share.tolist()],
    }


def _optimisers(model: TinyMixtral, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of attention, AdamW for everything else (gains are not decayed).

    Muon moves all directions of a matrix equally fast, so that heads also learn what moves few
    words: which name came before. With AdamW alone, and at a higher rate, the model knew all
    sentences after 1,200 steps and still none of its heroes.
    """
    matrices = [p for name, p in model.named_parameters() if ".attn." in name]
    gains = [p for p in model.parameters() if p.dim() == 1]
    known = {id(p) for p in (*matrices, *gains)}
    rest = [p for p in model.parameters() if id(p) not in known]
    groups = [
        {"params": rest, "weight_decay": recipe.weight_decay},
        {"params": gains, "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.98), eps=1e-9, fused=True)
    muon = torch.optim.Muon(
        matrices, lr=1.0, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    for optimiser, peak_lr in ((adamw, recipe.peak_lr), (muon, recipe.peak_muon_lr)):
        for group in optimiser.param_groups:
            group["peak_lr"] = peak_lr
    return [adamw, muon]


def prepare(work: Path, config: Config, recipe: Recipe) -> tuple[Lessons, Batches]:
    """Make the vocabulary and both streams of ids, where they are not there yet."""
    vocabulary = work / "vocabulary.model"
    if not vocabulary.exists():
        text.train_vocabulary(work / "vocabulary", config.n_vocab)
    per_step = recipe.n_rows * config.n_ctx
    wanted = (
        ("train.bin", 0, recipe.n_steps * per_step + 1),
        ("held_out.bin", stories.HELD_OUT, 8 * per_step + 1),
    )
    for name, seed, n_tokens in wanted:
        if not (work / name).exists():
            text.write_tokens(work / name, vocabulary, seed, n_tokens)
    held_out = Batches(work / "held_out.bin", recipe.n_rows, config.n_ctx)
    return Lessons(work / "train.bin", config, recipe), held_out


def work_on(rank: int, work: Path, config: Config, recipe: Recipe) -> None:
    """Train as worker ``rank``: one thread each, gradients averaged after every step.

    Two processes of one thread are faster here than one of two: small operations stay in the cache
    of their core, and nobody waits for a thread that the system has put aside.
    """
    torch.set_num_threads(1)
    meeting = f"file://{(work / 'meeting').resolve()}"
    dist.init_process_group("gloo", meeting, rank=rank, world_size=recipe.n_workers)
    Run(work, config, recipe, rank).train(*prepare(work, config, recipe))
    dist.destroy_process_group()


def main() -> None:
    """Train and export."""
    parser = argparse.ArgumentParser(prog="python -m tools.train_tiny_mixtral")
    parser.add_argument("--work", type=Path, required=True, help="folder for all that takes time")
    parser.add_argument("--out", type=Path, help="GGUF to write at the end")
    parser.add_argument("--steps", type=int, default=Recipe.n_steps, help="training steps")
    parser.add_argument("--lr", type=float, default=Recipe.peak_lr, help="highest learning rate")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    (args.work / "meeting").unlink(missing_ok=True)
    config, recipe = Config(), Recipe(n_steps=args.steps, peak_lr=args.lr)
    prepare(args.work, config, recipe)
    torch.multiprocessing.spawn(work_on, (args.work, config, recipe), nprocs=recipe.n_workers)
    if args.out:
        export.write(args.out, Run(args.work, config, recipe).model, args.work / "vocabulary.model")


if __name__ == "__main__":
    main()

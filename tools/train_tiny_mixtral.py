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
    n_steps: int = 4200
    n_rows: int = 8
    n_workers: int = 2
    peak_lr: float = 3e-3
    warmup_steps: int = 200
    decay_share: float = 0.3
    weight_decay: float = 0.05
    balance_weight: float = 0.04
    clip_norm: float = 1.0
    log_every: int = 20
    save_every: int = 200

    def lr(self, step: int) -> float:
        """Return the learning rate: a rise, a plateau, and a straight way down to zero.

        Unlike a cosine's, the plateau does not know how long the run will be: a run may be
        stopped there and go on with more steps, or with fewer.
        """
        rise = (step + 1) / self.warmup_steps
        fall = (self.n_steps - step) / (self.n_steps * self.decay_share)
        return self.peak_lr * min(1.0, rise, fall)


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


class Run:
    """One training run in a folder: weights, optimiser, step, log."""

    def __init__(self, work: Path, config: Config, recipe: Recipe, rank: int = 0) -> None:
        self.work, self.config, self.recipe, self.rank = work, config, recipe, rank
        self.model = TinyMixtral(config)
        self.model.init_weights(recipe.seed)
        self.optimiser = _optimiser(self.model, recipe)
        self.step, self.seconds = 0, 0.0
        self.checkpoint = work / "checkpoint.pt"
        if self.checkpoint.exists():
            self._load()

    def train(self, batches: Batches, held_out: Batches) -> None:
        """Train to the last step, logging and saving on the way."""
        started = time.perf_counter() - self.seconds
        while self.step < self.recipe.n_steps:
            row = self._one_step(*batches[self.step])
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
        lr = self.recipe.lr(self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        mine = slice(self.rank, None, self.recipe.n_workers)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = self.model(inputs[mine])
        loss = cross_entropy(output.logits.flatten(0, 1), targets[mine].flatten())
        balance = output.balance.mean()
        (loss + self.recipe.balance_weight * balance).backward()
        self._average_gradients()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        row = {"loss": loss.item(), "balance": balance.item(), "grad_norm": norm.item(), "lr": lr}
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
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        part = self.checkpoint.with_suffix(".part")
        torch.save(state, part)
        part.replace(self.checkpoint)

    def _load(self) -> None:
        state = torch.load(self.checkpoint, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
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


def _optimiser(model: TinyMixtral, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW; gains of the norms are not decayed."""
    gains = [p for p in model.parameters() if p.dim() == 1]
    rest = [p for p in model.parameters() if p.dim() > 1]
    groups = [
        {"params": rest, "weight_decay": recipe.weight_decay},
        {"params": gains, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.peak_lr, betas=(0.9, 0.98), eps=1e-9, fused=True)


def prepare(work: Path, config: Config, recipe: Recipe) -> tuple[Batches, Batches]:
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
    train, held_out = (Batches(work / name, recipe.n_rows, config.n_ctx) for name, *_ in wanted)
    return train, held_out


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

"""How much of a story is free choice: the loss that no model can get below.

``python -m tools.stories.entropy [--count 1000]`` prints nats per story. It is an upper bound of
the entropy (two different choices may write the same words); a model's loss per token cannot stay
below the stories' true entropy divided by their tokens.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from random import Random
from typing import Any

from tools import stories


class CountingRandom(Random):
    """Draws as `Random` does and adds up the information of what was drawn.

    Attributes:
        nats: Information so far. Coins with another probability than that of a fair choice
            (``random()``) are not counted; a story has two to four.
    """

    nats = 0.0

    def choice(self, seq: Sequence[Any]) -> Any:  # type: ignore[override]
        """Draw one of ``seq``."""
        self.nats += math.log(len(seq))
        return super().choice(seq)

    def sample(  # type: ignore[override]
        self, population: Sequence[Any], k: int, **more: Any
    ) -> list[Any]:
        """Draw ``k`` different ones in order."""
        self.nats += sum(math.log(len(population) - drawn) for drawn in range(k))
        return super().sample(population, k, **more)


def nats_per_story(first_seed: int, count: int) -> float:
    """Return the mean information of the choices behind ``count`` documents, in nats."""
    total = 0.0
    for seed in range(first_seed, first_seed + count):
        content, form = CountingRandom(seed), CountingRandom(f"form {seed}")
        stories.put(stories.tell(content), form)
        total += content.nats + form.nats
    return total / count


def main() -> None:
    """Print the entropy."""
    parser = argparse.ArgumentParser(prog="python -m tools.stories.entropy")
    parser.add_argument("--count", type=int, default=1000, help="how many stories to tell")
    args = parser.parse_args()
    print(f"{nats_per_story(stories.HELD_OUT, args.count):.1f} nats per story")


if __name__ == "__main__":
    main()

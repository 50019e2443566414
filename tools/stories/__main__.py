"""Print stories: ``python -m tools.stories [--count 5] [--seed 0] [--held-out] [--bare]``."""

from __future__ import annotations

import argparse

from tools.stories import HELD_OUT, document, story


def main() -> None:
    """Print the stories that the arguments ask for, an empty line between two."""
    parser = argparse.ArgumentParser(prog="python -m tools.stories", description=__doc__)
    parser.add_argument("--count", type=int, default=5, help="how many stories")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first one")
    parser.add_argument("--held-out", action="store_true", help="stories never trained on")
    parser.add_argument("--bare", action="store_true", help="without titles and questions")
    args = parser.parse_args()
    first = args.seed + (HELD_OUT if args.held_out else 0)
    for seed in range(first, first + args.count):
        print(story(seed).text if args.bare else document(seed), end="\n\n")


if __name__ == "__main__":
    main()

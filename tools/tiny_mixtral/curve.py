"""Draw the loss curve of a log as SVG: ``python -m tools.tiny_mixtral.curve log.jsonl out.svg``."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 720, 360, 52, 40, 16, 16
TICKS = (0.2, 0.3, 0.5, 1.0, 2.0, 3.0, 5.0)

Point = tuple[float, float]


def read_log(path: Path) -> tuple[list[Point], list[Point]]:
    """Return (step, loss) of training and of held-out stories; later rows win after a resume."""
    train: dict[int, float] = {}
    held_out: dict[int, float] = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        if "loss" in row:
            train[row["step"]] = row["loss"]
        if "held_out_loss" in row:
            held_out[row["step"]] = row["held_out_loss"]
    return sorted(train.items()), sorted(held_out.items())


def draw(train: Sequence[Point], held_out: Sequence[Point]) -> str:
    """Return an SVG with a logarithmic loss axis; it reads well on light and dark pages."""
    points = [*train, *held_out]
    last = max(step for step, _ in points)
    low = math.log(min(loss for _, loss in points) * 0.9)
    high = math.log(max(loss for _, loss in points) * 1.1)

    def place(point: Point) -> str:
        step, loss = point
        x = LEFT + (WIDTH - LEFT - RIGHT) * step / last
        y = TOP + (HEIGHT - TOP - BOTTOM) * (high - math.log(loss)) / (high - low)
        return f"{x:.1f},{y:.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="6" fill="#ffffff"/>',
    ]
    for tick in TICKS:
        if low < math.log(tick) < high:
            y = place((0, tick)).split(",")[1]
            parts.append(f'<path d="M{LEFT} {y}H{WIDTH - RIGHT}" stroke="#dddddd"/>')
            parts.append(f'<text x="{LEFT - 8}" y="{y}" dy="4" text-anchor="end">{tick:g}</text>')
    for quarter in range(5):
        x = place((last * quarter / 4, 1)).split(",")[0]
        label = f"{last * quarter // 4:g}"
        parts.append(f'<text x="{x}" y="{HEIGHT - 22}" text-anchor="middle">{label}</text>')
    line = " ".join(map(place, train))
    parts.append(f'<polyline points="{line}" fill="none" stroke="#e8833a" stroke-width="1.3"/>')
    for point in held_out:
        x, y = place(point).split(",")
        parts.append(f'<circle cx="{x}" cy="{y}" r="3.2" fill="#2b6cb0"/>')
    parts.append(
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 6}" text-anchor="middle">step</text>'
        f'<text x="{WIDTH - 30}" y="34" text-anchor="end">loss per token (nats): '
        '<tspan fill="#e8833a">training</tspan>, <tspan fill="#2b6cb0">held out</tspan></text>'
    )
    return "\n".join([*parts, "</svg>\n"])


def main() -> None:
    """Draw the curve."""
    log, out = (Path(arg) for arg in sys.argv[1:3])
    out.write_text(draw(*read_log(log)))


if __name__ == "__main__":
    main()

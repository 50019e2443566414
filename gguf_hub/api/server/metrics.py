"""Metrics in Prometheus's text format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from gguf_hub.api.server.scheduler import Scheduler


def metrics_text(scheduler: Scheduler, requests: Counter[tuple[str, int]]) -> str:
    """Return the metrics page.

    Args:
        scheduler: Source of the counters.
        requests: (route, status) -> count.
    """
    c = scheduler.counts
    rows: list[tuple[str, str, str, int | float]] = [
        ("prompt_tokens_total", "counter", "Prompt tokens computed.", c.prompt_tokens),
        ("prompt_cached_tokens_total", "counter", "Prompt tokens found in a cache.",
         c.cached_tokens),
        ("generated_tokens_total", "counter", "Tokens generated.", c.generated_tokens),
        ("prompt_seconds_total", "counter", "Seconds spent on prompts.", c.prompt_s),
        ("decode_seconds_total", "counter", "Seconds spent on generating.", c.decode_s),
        ("decode_rounds_total", "counter", "Rounds of one token for every text.", c.rounds),
        ("decode_rows_total", "counter", "Tokens computed in those rounds.", c.decoded_rows),
        ("texts_finished_total", "counter", "Texts written to their end.", c.finished),
        ("texts_cancelled_total", "counter", "Texts whose client went away.", c.cancelled),
        ("texts_failed_total", "counter", "Texts that an error ended.", c.failed),
        ("texts_refused_total", "counter", "Requests refused with 429.", c.refused),
        ("slots", "gauge", "Slots of the cache.", len(scheduler.slots)),
        ("slots_busy", "gauge", "Slots in use.", scheduler.n_busy),
        ("waiting", "gauge", "Requests that wait for a slot.", scheduler.n_waiting),
    ]  # fmt: skip
    return "\n".join(metric_lines(rows) + request_lines(requests)) + "\n"


def metric_lines(rows: Sequence[tuple[str, str, str, int | float]]) -> list[str]:
    """Return the lines of metrics.

    Args:
        rows: (name, ``counter`` or ``gauge``, what it counts, value) of each.
    """
    lines = []
    for name, kind, text, value in rows:
        lines += [f"# HELP gguf_hub_{name} {text}", f"# TYPE gguf_hub_{name} {kind}",
                  f"gguf_hub_{name} {value:g}" if isinstance(value, float)
                  else f"gguf_hub_{name} {value}"]  # fmt: skip
    return lines


def request_lines(requests: Counter[tuple[str, int]]) -> list[str]:
    """Return the lines of (route, status) -> count."""
    lines = ["# HELP gguf_hub_requests_total Requests by route and status.",
             "# TYPE gguf_hub_requests_total counter"]  # fmt: skip
    for (route, status), count in sorted(requests.items()):
        lines.append(f'gguf_hub_requests_total{{route="{route}",status="{status}"}} {count}')
    return lines

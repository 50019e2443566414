"""Steps of mixtures of experts, besides their matrix products (see ``steps``).

T tokens, E experts, A of them for each token; pair p = A t + a is token t with its expert number a.
"""

from __future__ import annotations

import numpy as np
from numba.extending import register_jitable

from gguf_hub.run.kernels.generic.elementary import exp32, sigmoid32, sum_of
from gguf_hub.run.kernels.sharing import share
from gguf_hub.run.kernels.vm.ops import (
    SIGMOID,
    SIGMOID_OF_CHOSEN,
    SOFTMAX,
    SOFTMAX_OF_CHOSEN,
)

_LEAST_SUM = np.float32(6.103515625e-5)  # the smallest normal float16: what a sum is at least
_NEVER = np.float32(-np.inf)

# -- the choice of one token's experts -------------------------------------------------------------


@register_jitable
def _softmax(f, x, n):
    top = f[x]
    for i in range(1, n):
        top = max(top, f[x + i])
    for i in range(n):
        f[x + i] = exp32(f[x + i] - top)
    inverse = np.float32(1) / sum_of(f, x, n)
    for i in range(n):
        f[x + i] *= inverse


@register_jitable
def _choice(f, values, e, bias, has_bias):
    value = f[values + e]
    return value + f[bias + e] if has_bias else value


@register_jitable
def _group_choice(f, values, first, size, bias, has_bias):
    """Return the sum of the two best choices among ``size`` experts from ``first`` on."""
    best = second = _NEVER
    for e in range(first, first + size):
        choice = _choice(f, values, e, bias, has_bias)
        if choice > best:
            best, second = choice, best
        elif choice > second:
            second = choice
    return best + second if size > 1 else best


@register_jitable
def _drop_groups(f, values, n_expert, n_group, n_group_used, bias, has_bias):
    """Make all experts unchoosable but those of the best groups (arXiv 2412.19437, section 2.1.2).

    The worst group goes first; of equal ones, the last.
    """
    size = n_expert // n_group
    for _ in range(n_group - n_group_used):
        worst, lowest = np.int64(-1), _NEVER
        for g in range(n_group):
            if f[values + size * g] == _NEVER:  # is dropped
                continue
            choice = _group_choice(f, values, size * g, size, bias, has_bias)
            if worst < 0 or choice <= lowest:
                worst, lowest = np.int64(g), choice
        if worst >= 0:
            for e in range(size * worst, size * worst + size):
                f[values + e] = _NEVER


@register_jitable
def _choose(n, f, values, n_expert, n_expert_used, expert_ids, weights, bias, has_bias):
    """Write the best experts and their values, without the bias; of equal ones, the first.

    They differ, whatever the values: products have no room for a token that comes twice.
    """
    for a in range(n_expert_used):
        best, highest = np.int64(-1), _NEVER
        for e in range(n_expert):
            choice = _choice(f, values, e, bias, has_bias)
            if best >= 0 and not choice > highest:
                continue
            is_chosen = False
            for b in range(a):
                is_chosen = is_chosen or n[expert_ids + b] == e
            if not is_chosen:
                best, highest = np.int64(e), choice
        n[expert_ids + a] = best
        f[weights + a] = f[values + best]


@register_jitable
def _gate(
    n, f, logits, n_expert, n_expert_used, expert_ids, weights,
    function, bias, has_bias, n_group, n_group_used, is_normalized, scale,
):  # fmt: skip
    """Choose the experts of one token and weigh them; logits are overwritten."""
    if function == SOFTMAX:
        _softmax(f, logits, n_expert)
    elif function == SIGMOID:
        for e in range(n_expert):
            f[logits + e] = sigmoid32(f[logits + e])
    if n_group > 1:
        _drop_groups(f, logits, n_expert, n_group, n_group_used, bias, has_bias)
    _choose(n, f, logits, n_expert, n_expert_used, expert_ids, weights, bias, has_bias)
    if function == SOFTMAX_OF_CHOSEN:
        _softmax(f, weights, n_expert_used)
    elif function == SIGMOID_OF_CHOSEN:
        for a in range(n_expert_used):
            f[weights + a] = sigmoid32(f[weights + a])
    if is_normalized and function != SOFTMAX_OF_CHOSEN:
        total = sum_of(f, weights, n_expert_used)
        total = _LEAST_SUM if total < _LEAST_SUM else total
        for a in range(n_expert_used):
            f[weights + a] /= total
    for a in range(n_expert_used):
        f[weights + a] *= f[scale]


# -- steps -----------------------------------------------------------------------------------------


def top_k_gate(
    tid, nth, n, f, q, kv, w,
    logits, n_expert, n_expert_used, expert_ids, weights, expert_starts, assignments, count,
    function, bias, has_bias, n_group, n_group_used, is_normalized, scale,
):  # fmt: skip
    """Choose experts for every token, then sort the pairs by expert (one thread: it is little).

    With T = 2, A = 2 and choices (5, 1), (1, 7): pairs 0..3 belong to experts 5, 1, 1, 7;
    assignments are 1 2 0 3, those of expert 1 from expert_starts[1] to expert_starts[2]: 1, 2.
    Source: arXiv 2401.04088, section 2.1, and llama.cpp's ``build_moe_ffn``.
    """
    if tid != 0:
        return
    tokens = n[count]
    for t in range(tokens):
        _gate(
            n, f, logits + n_expert * t, n_expert, n_expert_used,
            expert_ids + n_expert_used * t, weights + n_expert_used * t,
            function, bias, has_bias, n_group, n_group_used, is_normalized, scale,
        )  # fmt: skip
    for e in range(n_expert + 1):
        n[expert_starts + e] = 0
    for p in range(tokens * n_expert_used):
        n[expert_starts + n[expert_ids + p] + 1] += 1
    for e in range(n_expert):
        n[expert_starts + e + 1] += n[expert_starts + e]
    for p in range(tokens * n_expert_used):
        e = n[expert_ids + p]
        n[assignments + n[expert_starts + e]] = p
        n[expert_starts + e] += 1
    for e in range(n_expert):  # each start is now that of the next expert: move them back
        n[expert_starts + n_expert - e] = n[expert_starts + n_expert - e - 1]
    n[expert_starts] = 0


def add_expert_bias(tid, nth, n, f, q, kv, w, y, biases, width, n_expert, expert_ids, count):
    """Add to each pair's row the bias of its expert."""
    first, last = share(n[count], tid, nth)
    for p in range(first, last):
        bias = biases + width * n[expert_ids + p]
        for i in range(width):
            f[np.uintp(y + width * p + i)] += f[np.uintp(bias + i)]


def scale_by_expert(tid, nth, n, f, q, kv, w, y, scales, width, n_expert, expert_ids, count):
    """Multiply each pair's row with the factor of its expert."""
    first, last = share(n[count], tid, nth)
    for p in range(first, last):
        factor = f[scales + n[expert_ids + p]]
        for i in range(width):
            f[np.uintp(y + width * p + i)] *= factor


def scale_pairs(tid, nth, n, f, q, kv, w, x, weights, n_expert_used, width, y, count):
    """Write each pair's input times its weight, for experts that are weighted by what they read."""
    first, last = share(n[count] * n_expert_used, tid, nth)
    for p in range(first, last):
        row = x + width * (p // n_expert_used)
        weight = f[weights + p]
        for i in range(width):
            f[np.uintp(y + width * p + i)] = weight * f[np.uintp(row + i)]


def combine(
    tid, nth, n, f, q, kv, w, y, weights, n_expert_used, width, x, count, is_added, is_weighted
):
    """Write the sum of the outputs of a token's experts to x, or add it."""
    first, last = share(width, tid, nth)
    for t in range(n[count]):
        if not is_added:
            for i in range(first, last):
                f[np.uintp(x + width * t + i)] = np.float32(0)
        for a in range(n_expert_used):
            pair = n_expert_used * t + a
            weight = f[weights + pair] if is_weighted else np.float32(1)
            for i in range(first, last):
                f[np.uintp(x + width * t + i)] += weight * f[np.uintp(y + width * pair + i)]

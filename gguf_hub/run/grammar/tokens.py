"""Which tokens of a vocabulary a grammar allows next.

The vocabulary is a trie of bytes, level after level in arrays; a mask is one walk of it, all tokens
at once, through the automaton's rows. Masks are cached by state.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gguf_hub.budget import look
from gguf_hub.errors import BudgetError, GrammarError
from gguf_hub.run.grammar.automaton import DEAD, Automaton
from gguf_hub.run.grammar.gbnf import Node, Token, parse_gbnf
from gguf_hub.run.grammar.limits import (
    MAX_AUTOMATON_BYTES,
    MAX_MASK_BYTES,
    REFILL_CPU_S,
    making,
    token_budget,
    too_ambiguous,
)
from gguf_hub.run.grammar.network import Network
from gguf_hub.run.grammar.schema import LeftOut, schema_to_rules
from gguf_hub.run.grammar.trees import format_gbnf

Mask = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

_MAX_TOKEN_BYTES = 256  # longer tokens are never allowed
_MAX_MASKS = 512
_MIN_MASKS = 16
_MANY = 8  # a level is read whole when so great a part of it is reached


class GrammarVocab(Protocol):
    """What a grammar needs of a tokenizer."""

    @property
    def n_vocab(self) -> int:
        """Number of tokens."""

    @property
    def eog_ids(self) -> frozenset[int]:
        """Ids that end a generation."""

    def token_bytes(self, token_id: int, special: bool = False) -> bytes:
        """Return the bytes that a token prints."""

    def encode(self, text: str, add_bos: bool = True, parse_special: bool = False) -> list[int]:
        """Return the ids of a text."""


class TokenTrie:
    """The tokens of a vocabulary by their bytes; made once, used by every grammar.

    Nodes are numbered level by level, 0 is the root; the children of a node follow each other.
    """

    def __init__(self, vocab: GrammarVocab) -> None:
        self.vocab = vocab
        self.n_vocab = vocab.n_vocab
        texts = [vocab.token_bytes(i) for i in range(self.n_vocab)]
        order = sorted(
            (i for i, t in enumerate(texts) if 0 < len(t) <= _MAX_TOKEN_BYTES),
            key=texts.__getitem__,
        )
        self._build([texts[i] for i in order], np.array(order, dtype=np.int64))

    def _build(self, texts: list[bytes], ids: Ints) -> None:
        lengths = np.array([len(t) for t in texts], dtype=np.int64)
        self.width = width = int(lengths.max(initial=0))
        grid = np.zeros((len(texts), width), dtype=np.uint8)
        for i, text in enumerate(texts):
            grid[i, : len(text)] = np.frombuffer(text, dtype=np.uint8)
        # Sorted, a token shares its first `shared` bytes with the token before: its nodes at
        # depths over `shared` are new.
        n_same = np.logical_and.accumulate(grid[1:] == grid[:-1], axis=1).sum(axis=1)
        shared = np.zeros(len(texts), dtype=np.int64)
        shared[1:] = np.minimum(n_same, np.minimum(lengths[1:], lengths[:-1]))
        parents, values = [np.zeros(1, dtype=np.int64)], [np.zeros(1, dtype=np.int64)]
        starts = [0, 1]  # of levels
        node_of = np.zeros(len(texts), dtype=np.int64)  # node at the depth reached
        n_nodes = 1
        for depth in range(1, width + 1):
            deep = lengths >= depth
            new = deep & (shared < depth)
            parents.append(node_of[new])
            values.append(grid[new, depth - 1])
            numbers = n_nodes + np.cumsum(new) - 1
            node_of = np.where(deep, numbers, node_of)
            n_nodes += int(new.sum())
            starts.append(n_nodes)
        self.byte: Ints = np.concatenate(values)
        self.parent: Ints = np.concatenate(parents)
        self.levels = list(zip(starts, starts[1:], starts[2:], strict=False))
        """(first node of the level above, first node, end) of each level below the root."""
        parent = self.parent
        counts = np.bincount(parent[1:], minlength=n_nodes)
        self.n_children: Ints = counts
        self.first_child: Ints = 1 + np.cumsum(counts) - counts
        self.n_nodes = n_nodes
        self.token_node = np.full(self.n_vocab, n_nodes, dtype=np.int64)  # n_nodes: nowhere
        self.token_node[ids] = node_of

    def children(self, nodes: Ints) -> tuple[Ints, Ints]:
        """Return (positions in ``nodes`` of the parents, the children) of all children."""
        counts = self.n_children[nodes]
        parents = np.repeat(np.arange(len(nodes)), counts)
        offsets = np.arange(len(parents)) - np.repeat(np.cumsum(counts) - counts, counts)
        return parents, self.first_child[nodes][parents] + offsets


class Grammar:
    """A grammar, ready for any vocabulary.

    Args:
        rules: Trees by name.
        root: Name of the rule that the whole output must match.

    Raises:
        GrammarError: A rule begins with itself, or the grammar is too large.
    """

    def __init__(self, rules: Mapping[str, Node], root: str = "root") -> None:
        self.rules = dict(rules)
        self.left_out: tuple[LeftOut, ...] = ()
        """Parts of a JSON schema that the grammar does not hold."""
        self.network = Network(self.rules, root)

    @classmethod
    def from_gbnf(cls, text: str, root: str = "root") -> Grammar:
        """Return the grammar that GBNF describes.

        Raises:
            GrammarError: With line and column of what is wrong.
        """
        with making("grammar"):
            return cls(parse_gbnf(text, root), root)

    @classmethod
    def from_schema(cls, schema: Any, *, strict: bool = True) -> Grammar:
        """Return the grammar of JSON that satisfies a JSON schema.

        Args:
            schema: The schema as data, or as JSON text.
            strict: Refuse what a grammar cannot hold; otherwise ``left_out`` lists it.

        Raises:
            GrammarError: The schema is wrong, cannot be satisfied, or (strict) cannot be held.
        """
        with making("schema"):
            rules, left_out = schema_to_rules(schema, strict=strict)
            grammar = cls(rules)
        grammar.left_out = tuple(left_out)
        return grammar

    def to_gbnf(self) -> str:
        """Return the grammar as GBNF text."""
        with making("grammar"):
            return format_gbnf(self.rules)

    def accepts(self, text: str) -> bool:
        """Return whether a whole text matches."""
        automaton = self._automaton
        state = automaton.start
        for byte in text.encode("utf-8", errors="surrogatepass"):
            state = automaton.next_state(state, byte)
        return automaton.is_accepting(state)

    @cached_property
    def _automaton(self) -> Automaton:
        return Automaton(self.network)


class TokenGrammar:
    """A grammar on a vocabulary; its states and masks are shared by all matchers.

    Args:
        grammar: The grammar.
        trie: The vocabulary.
        max_states: States (1 kB each) after which matchers move on to a fresh automaton.

    Raises:
        GrammarError: The grammar names a token that the vocabulary does not have.
    """

    def __init__(self, grammar: Grammar, trie: TokenTrie, max_states: int = 20_000) -> None:
        self.trie = trie
        self.max_states = max_states
        self.left_out = grammar.left_out
        """See ``Grammar``."""
        self._network = grammar.network
        self._token_ids = {
            token: self._resolve(token)
            for edges in grammar.network.token_edges
            for token, _ in edges
        }
        self._ends = np.array(sorted(trie.vocab.eog_ids), dtype=np.int64)
        self._max_masks = max(_MIN_MASKS, min(_MAX_MASKS, MAX_MASK_BYTES // trie.n_vocab))
        with making("grammar"):
            self.renew()

    @classmethod
    def ready(cls, make: Callable[[], Grammar], trie: TokenTrie) -> TokenGrammar:
        """Make a grammar and its first mask on one budget; a text begins with it at once.

        Raises:
            GrammarError: The grammar is wrong, or costs too much.
        """
        with making("grammar"):
            instance = cls(make(), trie)
            instance.mask(instance.automaton.start)
            return instance

    def renew(self) -> None:
        """Forget all states; existing matchers keep theirs."""
        self.automaton = Automaton(self._network, self.trie.width)
        self._masks: OrderedDict[int, Mask] = OrderedDict()

    @property
    def size_bytes(self) -> int:
        """Estimated memory of states and masks."""
        return self.automaton.size_bytes + len(self._masks) * self.trie.n_vocab

    @property
    def is_grown(self) -> bool:
        """Whether the automaton is so large that a fresh one should replace it."""
        automaton = self.automaton
        return automaton.n_states > self.max_states or automaton.size_bytes > MAX_AUTOMATON_BYTES

    def matcher(self) -> Matcher:
        """Return a matcher at the start of the grammar."""
        return Matcher(self)

    def mask(self, state: int) -> Mask:
        """Return the tokens allowed in a state, bool [V]; not to be written to."""
        state = self.automaton.coarse(state)
        cached = self._masks.get(state)
        if cached is not None:
            self._masks.move_to_end(state)
            return cached
        mask = self._walk(state)
        for token, _ in self.automaton.token_edges(state):
            self._allow(mask, token)
        if self.automaton.is_accepting(state):
            mask[self._ends] = True
        mask.flags.writeable = False
        self._masks[state] = mask
        if len(self._masks) > self._max_masks:
            self._masks.popitem(last=False)
        return mask

    def next_state(self, state: int, token_id: int) -> int:
        """Return the state after a token; ``DEAD`` where it is not allowed."""
        automaton = self.automaton
        after = [
            target
            for token, target in automaton.token_edges(state)
            if (self._token_ids[token] == token_id) != token.negated
        ]
        data = self.trie.vocab.token_bytes(token_id)
        if data and self.trie.token_node[token_id] < self.trie.n_nodes:
            at = state
            for byte in data:
                at = automaton.next_state(at, byte)
            after.append(at)
        return automaton.union(after) if len(after) > 1 else (after[0] if after else DEAD)

    def _walk(self, state: int) -> Mask:
        """Return the tokens whose bytes can be read from a state.

        Level after level: of all its nodes where many are reached, else of those alone.
        """
        trie, automaton = self.trie, self.automaton
        is_alive = np.zeros(trie.n_nodes + 1, dtype=np.bool_)
        nodes, states = np.zeros(1, dtype=np.int64), np.array([state])
        for before, first, end in trie.levels:
            look()
            self._expand(states)
            if len(nodes) * _MANY > first - before:
                level = states
                if len(nodes) < first - before:
                    level = np.full(first - before, DEAD, dtype=states.dtype)
                    level[nodes - before] = states
                places = level.take(trie.parent[first:end] - before)
                nodes = np.arange(first, end)
                states = automaton.rows.reshape(-1).take(places * 256 + trie.byte[first:end])
            else:
                parents, nodes = trie.children(nodes)
                states = automaton.rows[states[parents], trie.byte[nodes]]
            is_alive[nodes] = states != DEAD
            if np.count_nonzero(states) * _MANY <= len(states):
                alive = np.flatnonzero(states)
                nodes, states = nodes[alive], states[alive]
            if len(nodes) == 0:
                break
        mask: Mask = is_alive[trie.token_node]
        return mask

    def _expand(self, states: Ints) -> None:
        """Fill the rows of these states."""
        is_here = np.zeros(self.automaton.n_states, dtype=np.bool_)
        is_here[states] = True
        for unknown in np.flatnonzero(is_here & ~self.automaton.is_expanded[: len(is_here)]):
            self.automaton.expand(int(unknown))

    def _allow(self, mask: Mask, token: Token) -> None:
        if token.negated:
            keep = bool(mask[self._token_ids[token]])
            mask[:] = True
            mask[self._token_ids[token]] = keep
        else:
            mask[self._token_ids[token]] = True

    def _resolve(self, token: Token) -> int:
        if isinstance(token.token, int):
            if token.token >= self.trie.n_vocab:
                raise GrammarError(f"grammar: expected a token id in [0, {self.trie.n_vocab - 1}], "
                                   f"found <[{token.token}]>")  # fmt: skip
            return token.token
        ids = self.trie.vocab.encode(token.token, add_bos=False, parse_special=True)
        if len(ids) != 1:
            raise GrammarError(
                f"grammar: `{token.token}` is no single token of this vocabulary: "
                f"it is {len(ids)} of them"
            )
        return ids[0]


class Matcher:
    """Where one generation is in its grammar; its masks are made on a budget."""

    def __init__(self, grammar: TokenGrammar) -> None:
        self._grammar = grammar
        self._automaton = grammar.automaton
        self._state = self._automaton.start
        self._budget, self._draft_budget = token_budget(), token_budget()
        self._refill_cpu_s = REFILL_CPU_S

    def mask(self) -> Mask:
        """Return the tokens allowed next, bool [V], end tokens where the output may end.

        Raises:
            GrammarError: The grammar leaves too many ways to read what was written.
        """
        try:
            with self._budget:
                self._follow()
                return self._grammar.mask(self._state)
        except BudgetError as exc:
            raise too_ambiguous(exc) from exc

    def accept(self, token_id: int) -> None:
        """Go on by one token.

        Raises:
            GrammarError: The grammar does not allow the token here, or leaves too many ways to
                read it.
        """
        for budget in (self._budget, self._draft_budget):
            budget.refill(self._refill_cpu_s)
        try:
            with self._budget:
                self._accept(token_id)
        except BudgetError as exc:
            raise too_ambiguous(exc) from exc

    def _accept(self, token_id: int) -> None:
        self._follow()
        if token_id in self._grammar.trie.vocab.eog_ids and self.is_complete:
            return
        state = self._grammar.next_state(self._state, token_id)
        if state == DEAD:
            raise GrammarError(f"the grammar does not allow token {token_id} here")
        self._state = state

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """Parts of a JSON schema that the grammar does not hold."""
        return self._grammar.left_out

    @property
    def is_complete(self) -> bool:
        """Whether the output matches the grammar as it stands."""
        return self._automaton.is_accepting(self._state)

    def copy(self) -> Matcher:
        """Return a matcher in the same state."""
        twin = Matcher(self._grammar)
        twin._automaton, twin._state = self._automaton, self._state
        return twin

    def ahead(self) -> Matcher:
        """Return a matcher in the same state for drafted tokens.

        They have a budget of their own, which the text's tokens refill: a text that would go on
        without drafts goes on with them.
        """
        twin = self.copy()
        twin._budget, twin._refill_cpu_s = self._draft_budget, 0.0
        return twin

    def _follow(self) -> None:
        """Move to the grammar's present automaton; make a fresh one when it has grown large."""
        grammar = self._grammar
        if self._automaton is grammar.automaton and grammar.is_grown:
            grammar.renew()
        if self._automaton is not grammar.automaton:
            stacks = self._automaton.stacks(self._state)
            self._automaton = grammar.automaton
            self._state = self._automaton.state_of(stacks)

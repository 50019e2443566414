"""The tensors that together hold one matrix: looked for, and compared with each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from gguf_hub.run.convert.checkpoint import StoredTensor

FLOATS = ("F16", "BF16", "F32")
WORDS = ("I32",)


class Module:
    """What is stored under ``PREFIX.*``, and what is wrong with it.

    Args:
        prefix: Name of the matrix without ``.weight``.
        tensors: Of the checkpoint.
        issues: Problems are added here.
    """

    def __init__(self, prefix: str, tensors: Mapping[str, StoredTensor], issues: list[str]) -> None:
        self.prefix, self.issues = prefix, issues
        self._tensors, self._n_issues = tensors, len(issues)
        self.used: set[str] = set()

    @property
    def name(self) -> str:
        """Name of the matrix as if it were stored as floats."""
        return f"{self.prefix}.weight"

    def is_sound(self) -> bool:
        """Whether nothing was wrong."""
        return len(self.issues) == self._n_issues

    def find(self, suffix: str, dtypes: Sequence[str], n_dims: Sequence[int] = (2,)
             ) -> StoredTensor | None:  # fmt: skip
        """Return a tensor; None where there is none. A wrong type or rank is a problem."""
        name = f"{self.prefix}.{suffix}"
        stored = self._tensors.get(name)
        if stored is None:
            return None
        self.used.add(name)
        if stored.dtype not in dtypes:
            self.issues.append(
                f"tensor `{name}`: expected {' or '.join(dtypes)}, found {stored.dtype}"
            )
            return None
        if len(stored.shape) not in n_dims or 0 in stored.shape:
            ranks = " or ".join(map(str, n_dims))
            self.issues.append(
                f"tensor `{name}`: expected {ranks} dimensions, found shape {list(stored.shape)}"
            )
            return None
        return stored

    def need(self, suffix: str, dtypes: Sequence[str], n_dims: Sequence[int] = (2,)
             ) -> StoredTensor | None:  # fmt: skip
        """Return a tensor that must be there."""
        n_issues = len(self.issues)
        stored = self.find(suffix, dtypes, n_dims)
        if stored is None and len(self.issues) == n_issues:
            self.issues.append(f"missing tensor `{self.prefix}.{suffix}`")
        return stored

    def expect_shape(
        self, stored: StoredTensor | None, shape: tuple[int, ...], source: str
    ) -> None:
        """Note that a tensor has another shape than others or the configuration say."""
        if stored is not None and stored.shape != shape:
            self.issues.append(
                f"tensor `{stored.name}`: expected shape {list(shape)} from {source}, "
                f"found {list(stored.shape)}"
            )

    def expect(self, condition: bool, issue: str) -> None:
        """Note a problem unless a condition holds."""
        if not condition:
            self.issues.append(f"`{self.prefix}`: {issue}")

    def path_of(self, suffix: str) -> Path:
        """Return the file of a tensor."""
        return self._tensors[f"{self.prefix}.{suffix}"].path

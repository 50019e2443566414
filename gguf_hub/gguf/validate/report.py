"""What a validation found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gguf_hub.gguf.header import Header
from gguf_hub.gguf.issues import Issue, Severity

Level = Literal["header", "structure", "deep"]
Verdict = Literal["sound", "unsupported", "damaged"]


@dataclass(frozen=True)
class Report:
    """Everything that was found in one file.

    Attributes:
        path: The file, or what stands for its name.
        level: How closely it was looked at.
        header: As it was read.
        issues: In the order in which they were found.
    """

    path: Path | str
    level: Level
    header: Header
    issues: tuple[Issue, ...]

    @property
    def is_sound(self) -> bool:
        """Whether no error was found; warnings and unsupported things are none."""
        return not self.of(Severity.ERROR)

    @property
    def verdict(self) -> Verdict:
        """The report in one word."""
        if not self.is_sound:
            return "damaged"
        return "unsupported" if self.of(Severity.UNSUPPORTED) else "sound"

    def of(self, severity: Severity) -> tuple[Issue, ...]:
        """Return the issues of one severity."""
        return tuple(issue for issue in self.issues if issue.severity is severity)

    def as_dict(self) -> dict[str, Any]:
        """Return the report for JSON, with stable keys."""
        return {
            "path": str(self.path),
            "size_bytes": self.header.size_bytes,
            "level": self.level,
            "verdict": self.verdict,
            "issues": [
                {
                    "code": issue.code,
                    "severity": issue.severity.value,
                    "place": issue.location,
                    "offset": issue.offset,
                    "message": issue.message,
                }
                for issue in self.issues
            ],
        }

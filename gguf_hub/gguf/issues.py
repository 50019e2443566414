"""Every problem that a GGUF can have: its code, how grave it is, and what it means.

``docs/gguf-checks.md`` is written from this table. Codes are stable: scripts may match on them.

Sources named in the table: "spec" is docs/gguf.md of ggml; "ggml N" is check N of the list in
docs/gguf-checks.md, made from gguf.cpp, llama-model-loader.cpp and llama-model.cpp.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import Enum


class Severity(str, Enum):
    """How grave a problem is."""

    ERROR = "error"
    """The file is damaged, dangerous or breaks the format."""
    UNSUPPORTED = "unsupported"
    """Not damaged, but today's programs cannot use it."""
    WARNING = "warning"
    """Loads, but somebody should look."""


@dataclass(frozen=True)
class Rule:
    """One row of the table.

    Attributes:
        code: Stable name.
        severity: How grave a breach is.
        meaning: One sentence for people.
        source: Where the rule comes from.
        stops_reading: Whether a file that breaks it cannot be opened at all.
    """

    code: str
    severity: Severity
    meaning: str
    source: str
    stops_reading: bool = False


_E, _U, _W = Severity.ERROR, Severity.UNSUPPORTED, Severity.WARNING

GROUPS: dict[str, tuple[Rule, ...]] = {
    "File": (
        Rule("GGUF-FILE-EMPTY", _E, "the file holds no bytes", "ggml 1", True),
        Rule("GGUF-FILE-HTML", _E, "a web page was saved in place of the model", "ggml 1", True),
        Rule(
            "GGUF-FILE-LFS-POINTER",
            _E,
            "a git-lfs pointer, the model itself was not fetched",
            "ggml 1",
            True,
        ),
        Rule(
            "GGUF-FILE-ZEROS",
            _E,
            "the file starts with zeros: a download that never wrote its start",
            "ggml 1",
            True,
        ),
        Rule(
            "GGUF-FILE-IMATRIX",
            _U,
            "an importance matrix of the format before GGUF: nothing of it can be checked",
            "llama.cpp",
            True,
        ),
        Rule("GGUF-MAGIC", _E, "the first four bytes are not `GGUF`", "ggml 1", True),
        Rule("GGUF-VERSION", _E, "no such format version", "ggml 2, 5", True),
        Rule(
            "GGUF-VERSION-OLD",
            _U,
            "version 1, which llama.cpp no longer reads; `gguf-hub upgrade` rewrites it",
            "ggml 4",
        ),
        Rule(
            "GGUF-BIG-ENDIAN",
            _U,
            "written for big-endian machines; `gguf-hub upgrade` rewrites it",
            "ggml 3",
        ),
        Rule(
            "GGUF-TRUNCATED",
            _E,
            "the file ends inside the header",
            "ggml 8, 25; CVE-2024-32878",
            True,
        ),
        Rule(
            "GGUF-COUNT",
            _E,
            "more keys or tensors announced than the file has room for",
            "ggml 6, 7; CVE-2024-23605",
            True,
        ),
        Rule(
            "GGUF-LIMIT",
            _U,
            "a larger header than this reader takes: 65,536 keys, 65,536 tensors, 2,097,152 "
            "strings in arrays, 32 MiB in one string, 64 MiB in all",
            "own bound",
            True,
        ),
        Rule(
            "GGUF-EDIT-UNFINISHED",
            _E,
            "an edit was interrupted: its journal lies beside the file, and fits it; "
            "`gguf-hub edit FILE` finishes it",
            "own",
        ),
        Rule("GGUF-TRAILING-BYTES", _W, "bytes after the last tensor", "spec is silent"),
    ),
    "Keys and values": (
        Rule("GGUF-KEY-EMPTY", _E, "a key without a name", "ggml 12", True),
        Rule("GGUF-KEY-DUPLICATE", _E, "the same key twice", "ggml 13", True),
        Rule("GGUF-KEY-UTF8", _E, "a key that is not UTF-8", "spec: keys are ASCII"),
        Rule("GGUF-KEY-LENGTH", _W, "a key longer than 65,535 bytes", "spec"),
        Rule(
            "GGUF-KEY-NAME", _W, "a key that is not lower_snake_case with dots", "spec"
        ),
        Rule(
            "GGUF-STRING-LENGTH",
            _E,
            "a string longer than the rest of the file",
            "ggml 9; CVE-2024-23496",
            True,
        ),
        Rule("GGUF-STRING-UTF8", _W, "text that is not UTF-8", "spec"),
        Rule("GGUF-STRING-NUL", _W, "text with a NUL, where C programs stop reading", "own"),
        Rule("GGUF-VALUE-TYPE", _E, "no such value type", "ggml 14; CVE-2024-25667", True),
        Rule(
            "GGUF-ARRAY-TYPE",
            _E,
            "an array of arrays, or of no known type",
            "ggml 14; CWE-674",
            True,
        ),
        Rule(
            "GGUF-ARRAY-LENGTH",
            _E,
            "an array longer than the rest of the file",
            "ggml 10; CVE-2024-21836",
            True,
        ),
        Rule("GGUF-BOOL-VALUE", _E, "a truth value that is neither 0 nor 1", "spec"),
        Rule(
            "GGUF-ALIGNMENT",
            _E,
            "`general.alignment` is not a uint32, or not a power of two",
            "ggml 15, 16",
            True,
        ),
        Rule(
            "GGUF-ALIGNMENT-UNUSUAL",
            _W,
            "an alignment below 8 bytes or above 1 MiB",
            "spec: multiple of 8; llama.cpp#24997",
        ),
    ),
    "Tensor table": (
        Rule("GGUF-TENSOR-NAME-DUPLICATE", _E, "the same tensor twice", "ggml 18", True),
        Rule(
            "GGUF-TENSOR-NAME-LENGTH",
            _E,
            "a tensor name of 64 bytes or more",
            "ggml 17; CVE-2024-21802",
        ),
        Rule("GGUF-TENSOR-NAME-UTF8", _E, "a tensor name that is not UTF-8", "spec"),
        Rule("GGUF-TENSOR-NAME-EMPTY", _W, "a tensor without a name", "own"),
        Rule(
            "GGUF-TENSOR-NAME-NUL", _W, "a tensor name with a NUL, where C programs cut it", "own"
        ),
        Rule("GGUF-TENSOR-DIMS", _E, "more than 4 dimensions", "ggml 19; CVE-2024-21802", True),
        Rule("GGUF-TENSOR-SCALAR", _W, "no dimension: a single number", "spec is silent"),
        Rule("GGUF-TENSOR-DIM-NEGATIVE", _E, "a dimension of 2**63 or more", "ggml 20", True),
        Rule(
            "GGUF-TENSOR-DIM-HUGE",
            _W,
            "a dimension above 2**32, which cuts kernels short that count in 32 bits",
            "CVE-2026-53923",
        ),
        Rule(
            "GGUF-TENSOR-DIM-ZERO",
            _W,
            "a tensor of no elements, which divided by zero in older programs",
            "ggml 20; llama.cpp#24263",
        ),
        Rule(
            "GGUF-TENSOR-OVERFLOW",
            _E,
            "more elements or bytes than 63 bits count, padding included",
            "ggml 21, 24, 28, 29, 30; CVE-2025-53630, CVE-2026-33298, CVE-2026-27940",
            True,
        ),
        Rule("GGUF-TENSOR-TYPE", _E, "a removed or impossible tensor type", "ggml 22, 23", True),
        Rule(
            "GGUF-TENSOR-TYPE-UNKNOWN",
            _U,
            "a tensor type newer than this version knows; its size cannot be checked",
            "ggml 22; modelaudit#1632",
            True,
        ),
        Rule(
            "GGUF-OLLAMA-TYPE",
            _U,
            "MXFP4 as Ollama's first files of gpt-oss hold it: `ollama pull` fetches today's",
            "Ollama's ml/backend/ggml",
            True,
        ),
        Rule(
            "GGUF-TENSOR-BLOCK",
            _E,
            "rows that do not fill whole blocks of their type",
            "ggml 23",
            True,
        ),
        Rule(
            "GGUF-TENSOR-ALIGNMENT",
            _E,
            "data that does not start at a multiple of the alignment",
            "ggml 27; spec",
            True,
        ),
        Rule("GGUF-TENSOR-OVERLAP", _E, "two tensors share bytes", "ggml 27", True),
        Rule("GGUF-TENSOR-ORDER", _E, "data that is not in the order of the table", "ggml 27"),
        Rule("GGUF-TENSOR-GAP", _E, "unused bytes between two tensors", "ggml 27"),
        Rule(
            "GGUF-TENSOR-BOUNDS",
            _E,
            "data past the end of the file: a truncated download",
            "ggml 26, 31; CVE-2026-7482",
            True,
        ),
        Rule(
            "GGUF-PARAMS",
            _E,
            "more parameters than the file has bits",
            "huggingface.js",
            True,
        ),
    ),
    "Architecture": (
        Rule("GGUF-ARCH-MISSING", _W, "no `general.architecture`: unknown kind of model", "spec"),
        Rule("GGUF-ARCH-UNKNOWN", _U, "an architecture that gguf-hub has no rules for", "own"),
        Rule(
            "GGUF-PAIR",
            _E,
            "a LoRA matrix without its partner, or sums of an importance matrix without counts",
            "llama.cpp",
        ),
        Rule(
            "GGUF-NOT-RUNNABLE",
            _U,
            "a tensor, key or type that gguf-hub would not compute with, so that it refuses to run",
            "own",
        ),
        Rule(
            "GGUF-OLLAMA-NAMES",
            _W,
            "keys or tensors as Ollama's converter names them; gguf-hub reads them under "
            "llama.cpp's names, llama.cpp does not",
            "Ollama's llama/compat",
        ),
        Rule(
            "GGUF-LEFT-OUT",
            _W,
            "tensors for images, sound or drafts inside of a model's file: gguf-hub runs the text "
            "without them, llama.cpp refuses the file",
            "Ollama's llama/compat",
        ),
        Rule("GGUF-HPARAM-TYPE", _E, "a hyperparameter of the wrong type", "ggml 34"),
        Rule(
            "GGUF-HPARAM-VALUE",
            _E,
            "a number of the position embedding that is not finite, or out of range",
            "own",
        ),
        Rule("GGUF-HPARAM-LENGTH", _E, "not one number for each layer", "llama.cpp"),
        Rule("GGUF-HPARAM-MISSING", _E, "a hyperparameter that every loader needs", "ggml 34"),
        Rule("GGUF-BLOCK-COUNT", _E, "not between 1 and 512 blocks", "ggml 38; llama.cpp#25513"),
        Rule(
            "GGUF-HEAD-COUNT",
            _E,
            "no heads, or heads that do not divide among their keys",
            "ggml 40",
        ),
        Rule(
            "GGUF-EXPERT-COUNT",
            _E,
            "more than 1,024 experts, or more in use than there are",
            "ggml 39; llama.cpp#26051",
        ),
        Rule("GGUF-EMBEDDING", _E, "an embedding length that the heads do not divide", "ggml 40"),
        Rule("GGUF-ROPE-DIM", _E, "rotary dimensions odd, zero or beyond the head", "ggml 40"),
        Rule("GGUF-NORM-EPS", _E, "a norm epsilon that is negative or no number", "own"),
        Rule("GGUF-CONTEXT", _W, "a context length of zero", "own"),
        Rule("GGUF-TENSOR-MISSING", _E, "a tensor that the architecture needs", "ggml 35"),
        Rule(
            "GGUF-TENSOR-SHAPE",
            _E,
            "a shape that the metadata contradicts",
            "ggml 35; CVE-2026-7482",
        ),
        Rule(
            "GGUF-TENSOR-UNUSED",
            _W,
            "a tensor that the architecture has no place for; llama.cpp may refuse the file",
            "ggml 36",
        ),
        Rule(
            "GGUF-EXPERT-LAYOUT",
            _E,
            "experts both split and merged in one block",
            "ggml 35, 36",
        ),
    ),
    "Tokenizer": (
        Rule("GGUF-TOKENIZER-MISSING", _W, "tensors but no vocabulary", "own"),
        Rule("GGUF-TOKENIZER-UNKNOWN", _U, "a tokenizer model that no program knows", "llama.cpp"),
        Rule("GGUF-TOKENIZER-TYPE", _E, "a tokenizer key of the wrong type", "ggml 34; #24910"),
        Rule("GGUF-TOKENIZER-EMPTY", _E, "a vocabulary without tokens", "own"),
        Rule(
            "GGUF-TOKENIZER-LENGTH",
            _E,
            "fewer scores or token types than tokens",
            "lmstudio-bug-tracker#2289",
        ),
        Rule("GGUF-TOKENIZER-SCORES", _W, "scores missing, or not numbers", "own"),
        Rule(
            "GGUF-TOKENIZER-CHARSMAP",
            _E,
            "a damaged map of what is replaced in a text",
            "llama.cpp",
        ),
        Rule("GGUF-TOKENIZER-MERGES", _E, "byte-pair encoding without merges", "llama.cpp"),
        Rule(
            "GGUF-TOKENIZER-PRE",
            _W,
            "byte-pair encoding that does not say how words are cut; llama.cpp guesses",
            "llama.cpp",
        ),
        Rule(
            "GGUF-TOKENIZER-ID",
            _W,
            "a special token outside of the vocabulary: loaders take the usual one, or none",
            "llama.cpp",
        ),
        Rule(
            "GGUF-TOKENIZER-BYTE",
            _E,
            "a byte token that is not `<0x00>` to `<0xFF>`",
            "llama.cpp#25969",
        ),
        Rule(
            "GGUF-TOKENIZER-TOKEN-TWINS",
            _W,
            "two tokens with the same text; llama.cpp refuses the file",
            "llama.cpp",
        ),
        Rule("GGUF-TOKENIZER-TOKEN-EMPTY", _W, "a token without text", "own"),
        Rule(
            "GGUF-TOKENIZER-TOKEN-LONG",
            _W,
            "a token longer than 4,096 bytes",
            "CVE-2025-49847",
        ),
        Rule("GGUF-TOKENIZER-TOKEN-UTF8", _W, "a token that is not UTF-8", "spec"),
        Rule("GGUF-TOKENIZER-VOCAB-SIZE", _W, "vocabulary and `vocab_size` differ", "own"),
        Rule(
            "GGUF-TEMPLATE",
            _W,
            "a chat template that reaches for Python's insides",
            "CVE-2024-34359, CVE-2026-5760",
        ),
    ),
    "Sets of shards": (
        Rule("GGUF-SPLIT-KEY", _E, "split keys of the wrong type, or only some", "ggml 34"),
        Rule("GGUF-SPLIT-NO", _E, "a shard that is not the one its name says", "ggml 33"),
        Rule("GGUF-SPLIT-COUNT", _E, "shards that disagree on how many they are", "ggml 33"),
        Rule("GGUF-SPLIT-TENSORS", _E, "not as many tensors as announced", "ggml 33"),
        Rule("GGUF-SPLIT-DUPLICATE", _E, "one tensor in two shards", "ggml 32"),
        Rule("GGUF-SPLIT-MISSING", _E, "a shard is not there", "llama.cpp"),
    ),
    "Data (deep)": (
        Rule("GGUF-DATA-NAN", _E, "a weight or block scale that is not finite", "ggml 41"),
    ),
}  # fmt: skip

RULES: dict[str, Rule] = {rule.code: rule for group in GROUPS.values() for rule in group}

MOST_PER_CODE = 20
"""Breaches of one rule that are reported in full; more are only counted."""


@dataclass(frozen=True)
class Issue:
    """One problem of one file.

    Attributes:
        code: Stable name, see ``RULES``.
        severity: How grave it is.
        location: Where: a key, a tensor, or an offset, in words.
        message: What was expected and what was found, one sentence.
        offset: Where in the file, in bytes, when that is known.
    """

    code: str
    severity: Severity
    location: str
    message: str
    offset: int | None = None

    def __str__(self) -> str:
        return f"{self.location}: {self.message}"


class Issues:
    """Collects problems; of one kind it keeps the first few and counts the rest."""

    def __init__(self) -> None:
        self._issues: list[Issue] = []
        self._counts: Counter[str] = Counter()

    def add(self, code: str, location: str, message: str, offset: int | None = None) -> None:
        """Note a breach of the rule ``code``."""
        self._counts[code] += 1
        if self._counts[code] <= MOST_PER_CODE:
            self._issues.append(Issue(code, RULES[code].severity, location, message, offset))

    def extend(self, issues: tuple[Issue, ...]) -> None:
        """Add problems that were found elsewhere."""
        self._issues += issues
        self._counts.update(issue.code for issue in issues)

    @property
    def is_sound(self) -> bool:
        """Whether no error was noted."""
        return not any(RULES[code].severity is Severity.ERROR for code in self._counts)

    def collected(self) -> tuple[Issue, ...]:
        """Return all problems, with one line for each kind that was cut short."""
        more = [
            Issue(
                code, RULES[code].severity, "file", f"{count - MOST_PER_CODE:,} more of this kind"
            )
            for code, count in self._counts.items()
            if count > MOST_PER_CODE
        ]
        return (*self._issues, *more)

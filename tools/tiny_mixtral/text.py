"""Text for training: the vocabulary and the stream of token ids.

Every document begins with BOS and ends with EOS. Now and then a story follows the last one after an
empty line instead, so that running text of many stories is nothing new to the model.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import sentencepiece
from numpy.typing import NDArray

from tools import stories

BOS, EOS = 1, 2
RUN_ON_SHARE = 0.03
LETTERS = "àáâäæçèéêëìíîïñòóôöœùúûüßÀÁÄÇÈÉÊÌÍÑÒÓÖÙÚÜ¿¡«»„“”‘’–…€°"


def train_vocabulary(prefix: Path, n_vocab: int, n_stories: int = 30_000) -> None:
    """Train a SentencePiece BPE vocabulary with byte fallback on the first stories.

    Args:
        prefix: Writes ``<prefix>.model`` and ``<prefix>.vocab``.
        n_vocab: Number of pieces: 3 special, 256 bytes, then characters and merges.
        n_stories: How many documents to learn from.
    """
    lines = (line for text in stories.documents(0, n_stories) for line in text.splitlines() if line)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines,
        model_prefix=str(prefix),
        model_type="bpe",
        vocab_size=n_vocab,
        byte_fallback=True,
        character_coverage=1.0,
        required_chars=string.ascii_letters + string.digits + string.punctuation + LETTERS,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        unk_id=0,
        bos_id=BOS,
        eos_id=EOS,
        pad_id=-1,
        num_threads=2,
        minloglevel=2,
    )


def write_tokens(path: Path, vocabulary: Path, first_seed: int, n_tokens: int) -> None:
    """Write at least ``n_tokens`` ids of stories, from ``first_seed`` on, as uint16."""
    with path.open("wb") as out:
        written = 0
        for ids in _chunks(vocabulary, first_seed):
            out.write(ids.tobytes())
            written += len(ids)
            if written >= n_tokens:
                return


def _chunks(vocabulary: Path, seed: int, size: int = 1000) -> Iterator[NDArray[np.uint16]]:
    """Yield the ids of ``size`` documents at a time, without end."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(vocabulary))
    while True:
        rng = Random(f"stream {seed}")
        texts = [""]
        for text in stories.documents(seed, size):
            if texts[-1] and rng.random() < RUN_ON_SHARE:
                texts[-1] += "\n\n" + text
            else:
                texts.append(text)
        rows = processor.encode(texts[1:], add_bos=True, add_eos=True)
        yield np.array([token for row in rows for token in row], np.uint16)
        seed += size

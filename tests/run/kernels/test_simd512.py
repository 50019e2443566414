"""Operations on 512-bit vectors that have several implementations."""

from __future__ import annotations

import numpy as np
import pytest

from gguf_hub.run.kernels.build.cpu import has_feature, usable_isas
from tests.run.kernels.modes import compiled

pytestmark = pytest.mark.skipif(
    "avx512vnni" not in usable_isas(), reason="this CPU has no AVX512-VNNI"
)


@pytest.mark.parametrize("has_gfni", [False, True], ids=["by shifts", "by GFNI"])
@pytest.mark.parametrize(
    ("width", "to_bit", "starts"),
    [
        (4, 0, (0, 0, 4, 4)),
        (4, 0, (0, 4, 0, 4)),
        (2, 0, (0, 2, 4, 6)),
        (2, 4, (4, 4, 6, 6)),
        (1, 2, (6, 6, 7, 7)),
        (1, 4, (0, 0, 1, 1)),
    ],
)
def test_bits_are_taken_out_of_bytes(
    width: int, to_bit: int, starts: tuple[int, int, int, int], has_gfni: bool
) -> None:
    if has_gfni and not has_feature("gfni"):
        pytest.skip("this CPU has no GFNI")
    from gguf_hub.run.kernels.simd.simd512 import bits_of, dpbusd, load_i8x64, sum_of, zeros_i32x16

    bits = bits_of(width, to_bit, has_gfni=has_gfni)
    a, b, c, d = starts

    def byte(source, one_hot):
        """Return the one byte of the result where ``one_hot`` holds a one."""
        value = bits(load_i8x64(source, 0), a, b, c, d)
        return sum_of(dpbusd(zeros_i32x16(), value, load_i8x64(one_hot, 0)))

    source = np.random.default_rng(width + to_bit).integers(0, 256, 64).astype(np.uint8)
    values = [compiled(byte)(source, lane) for lane in np.eye(64, dtype=np.uint8)]
    shifts = np.repeat(starts, 16)
    assert values == (((source >> shifts) & ((1 << width) - 1)) << to_bit).tolist()

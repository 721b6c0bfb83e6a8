"""Operations of the matrix products of HLO: `dot` and `convolution`.

TPUs run every product as a convolution, products with batch axes as one whose window
slides over them; the padded positions of such a window are not counted.
"""

from __future__ import annotations

import math
import re

from rlhf_jax.planning.hlo import Computation, Instruction


def flops(one: Instruction, where: Computation) -> float:
    """Two for each multiply-add of a product; 0 for every other instruction."""
    if one.opcode == "dot":
        left = where.instructions[one.operands[0]].shapes[0].dims
        inner = math.prod(left[axis] for axis in one.numbers("lhs_contracting_dims"))
        return 2.0 * math.prod(one.shapes[0].dims) * inner
    if one.opcode == "convolution":
        return _convolution(one, where)
    return 0.0


def _convolution(one: Instruction, where: Computation) -> float:
    image, kernel, result = re.split("_|->", one.text("dim_labels"))
    left, right = (where.instructions[name].shapes[0].dims for name in one.operands)
    out = one.shapes[0].dims
    features = right[kernel.index("i")]
    total = 2.0 * features * out[result.index("b")] * out[result.index("f")]
    window = _window(one.attributes)
    for axis in sorted(letter for letter in image if letter.isdigit()):
        total *= _positions(
            left[image.index(axis)],
            out[result.index(axis)],
            {key: values[int(axis)] for key, values in window.items()},
        )
    return total


def _window(attributes: str) -> dict[str, list[tuple[int, ...]]]:
    """Fields of `window={size=2x1 pad=1_1x0_0}`: one tuple for each spatial axis."""
    found = re.search(r"window=\{([^}]*)\}", attributes)
    fields = (found.group(1) if found else "").split()
    return {
        key: [tuple(map(int, part.split("_"))) for part in value.split("x")]
        for key, value in (field.split("=") for field in fields)
    }


def _positions(inputs: int, outputs: int, window: dict[str, tuple[int, ...]]) -> int:
    """Pairs of an output and a window position that meet a real input."""
    size = window.get("size", (1,))[0]
    stride = window.get("stride", (1,))[0]
    low = window.get("pad", (0, 0))[0]
    spread, step = (window.get(f"{x}hs_dilate", (1,))[0] for x in "lr")
    end = (inputs - 1) * spread
    count = 0
    for position in range(size):
        offset = position * step - low
        if spread == 1:
            # 0 <= place * stride + offset <= end
            first = max(0, -(offset // stride)) if offset < 0 else 0
            last = min(outputs - 1, (end - offset) // stride)
            count += max(0, last - first + 1)
        else:
            places = range(offset, offset + outputs * stride, stride)
            count += sum(0 <= x <= end and x % spread == 0 for x in places)
    return count

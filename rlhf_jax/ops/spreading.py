"""A vocabulary that many devices read at once: which of them reads what.

Under a mesh (`placement.Placement.active`) a device holds some of the tokens and some
rows of the vocabulary, and computes the logits of the two alone: `N V / devices` of
them. Sums over the vocabulary are merged once, after its chunks. Of a matrix whose
width is split as well each chunk is gathered when it is read, and the gradient of a
chunk is added up where its share is kept, so that no device ever holds its rows whole.

Left to the compiler, the loop over chunks of a split vocabulary moves every chunk to
all devices, and each computes the logits of all of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array

from rlhf_jax import placement
from rlhf_jax.ops import chunks

Axes = tuple[str, ...]


class Spread(NamedTuple):
    """Mesh axes over which each part lies, `()` = whole (static, hashable).

    Attributes:
      mesh: None on one device.
      rows: of the batch.
      columns: of its length.
      vocab: rows of the matrix; none of them splits tokens.
      width: of the matrix; all of them split tokens.
    """

    mesh: Any = None
    rows: Axes = ()
    columns: Axes = ()
    vocab: Axes = ()
    width: Axes = ()

    def parts(self, axes: Axes) -> int:
        """How many devices some axes have."""
        return math.prod(self.mesh.shape[axis] for axis in axes)

    @property
    def specs(self) -> dict[str, PartitionSpec]:
        """Partitions by kind: `tokens` [B T], `states` [B T D], `matrix` [V D],
        `logits` [N V] of flattened tokens, and `number` [], the same everywhere."""
        rows, columns, vocab = self.rows or None, self.columns or None, self.vocab
        return {
            "tokens": PartitionSpec(rows, columns),
            "states": PartitionSpec(rows, columns, None),
            "matrix": PartitionSpec(vocab or None, self.width or None),
            "logits": PartitionSpec(self.rows + self.columns or None, vocab or None),
            "number": PartitionSpec(),
        }

    def arrange(self, states: Array, like: tuple[int, ...]) -> Array:
        """Arrays that lead with tokens `like`, as [B T ...] whose B and T divide."""
        extra = states.shape[len(like) :]
        if self.mesh is None:
            return states.reshape(-1, *extra)
        x = states.reshape(-1, _length(like), *extra)
        sizes = (self.parts(self.rows), self.parts(self.columns))
        added = [(0, -x.shape[axis] % size) for axis, size in enumerate(sizes)]
        return jnp.pad(x, added + [(0, 0)] * len(extra))

    def restore(self, values: Array, like: tuple[int, ...]) -> Array:
        """Values per token, as they were before `arrange`."""
        if self.mesh is None:
            return values.reshape(like)
        length = _length(like)
        return values[: math.prod(like) // length, :length].reshape(like)

    def sizes(self, tokens: Array, matrix: Array) -> tuple[int, int]:
        """Tokens and rows of the vocabulary of one device."""
        parts = self.parts(self.rows + self.columns), self.parts(self.vocab)
        return tokens.size // parts[0], matrix.shape[0] // parts[1]

    def run(
        self, function: Callable[..., Any], given: tuple[str, ...], found: Any
    ) -> Callable[..., Any]:
        """`function` on the share of each device.

        Args:
          function: of arrays.
          given: kind of each argument, a key of `specs`.
          found: a tree of kinds, for its results.
        """
        if self.mesh is None:
            return function
        specs = self.specs
        return jax.shard_map(
            function,
            mesh=self.mesh,
            in_specs=tuple(specs[kind] for kind in given),
            out_specs=jax.tree.map(lambda kind: specs[kind], found),
            check_vma=False,
        )

    # Inside of `run`, on arrays of one device:

    def first(self, matrix: Array) -> Any:
        """Vocabulary id of the first row of a matrix."""
        if not self.vocab:
            return 0
        return jax.lax.axis_index(self.vocab) * matrix.shape[0]

    def read(self, matrix: Array, start: Any, rows: int) -> Array:
        """Rows of a matrix in their whole width, [C D]."""
        part = chunks.read(matrix, start, rows)
        if not self.width:
            return part
        return jax.lax.all_gather(part, self.width, axis=1, tiled=True)

    def write(self, gradient: Array, rows: Array, start: Any) -> Array:
        """The gradient with rows [C D] filled in, added over what splits the width."""
        if self.width:
            rows = jax.lax.psum_scatter(
                rows, self.width, scatter_dimension=1, tiled=True
            )
        return chunks.write(gradient, rows, start)

    def over_tokens(self, gradient: Array) -> Array:
        """A gradient of a matrix, written by `write`, added up over all tokens."""
        rest = tuple(x for x in self.rows + self.columns if x not in self.width)
        return jax.lax.psum(gradient, rest) if rest else gradient

    def over_vocab(self, values: Array) -> Array:
        """What every part of the vocabulary adds to, added up."""
        return jax.lax.psum(values, self.vocab) if self.vocab else values

    def merge(
        self,
        sums: chunks.SoftmaxSums,
        moved: Callable[[chunks.SoftmaxSums, Array], chunks.SoftmaxSums],
    ) -> chunks.SoftmaxSums:
        """Sums over the whole vocabulary; `moved` counts them from another logit."""
        if not self.vocab:
            return sums
        largest = jax.lax.pmax(sums.largest, self.vocab)
        _, total, moment = moved(sums, largest)
        return chunks.SoftmaxSums(
            largest, self.over_vocab(total), self.over_vocab(moment)
        )


def _length(tokens: tuple[int, ...]) -> int:
    """Columns of tokens of this shape; tokens that are not in rows have one each."""
    return tokens[-1] if len(tokens) > 1 else 1


def spread(tokens: tuple[int, ...], *matrices: Array) -> Spread:
    """How the active placement spreads tokens of this shape and some matrices [V D].

    What it cannot spread stays whole: tokens fewer than devices, a vocabulary that does
    not divide, and axes that tokens and vocabulary both claim.
    """
    here = placement.current()
    if here is None:
        return Spread()
    found = Spread(here.mesh)
    length = _length(tokens)

    def fits(name: str, size: int) -> Axes:
        axes = here.split(name)
        return axes if size >= found.parts(axes) else ()

    rows = fits("batch", math.prod(tokens) // max(length, 1))
    columns = fits("length", length)
    shared = set(rows + columns)

    def divides(axes: Axes, axis: int) -> Axes:
        parts = found.parts(axes)
        return axes if all(x.shape[axis] % parts == 0 for x in matrices) else ()

    vocab, width = here.split("vocab"), here.split("embed")
    return Spread(
        here.mesh,
        rows,
        columns,
        divides(vocab, 0) if not shared & set(vocab) else (),
        divides(width, 1) if shared >= set(width) else (),
    )

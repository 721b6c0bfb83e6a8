"""Weighted sums of loss terms, reduced in one place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax import metrics, types
from rlhf_jax.losses import reduction as reductions

Array = jax.Array

LossTerm = Callable[..., tuple[Array, types.Metrics]]
"""`(outputs, batch) -> (values, metrics)`, values unreduced: [B T] or [B]. A term with
a `prepare` step is called `(outputs, batch, prepared)`."""

Number = float | Array
"""A hyper-parameter: known when a program is made, or a float[] argument of it."""

Schedule = Callable[[Any], Any]
"""`step -> number`, as in optax."""


class Preparation(NamedTuple):
    """A preparation step that remembers: running means, controlled coefficients.

    Attributes:
      init: `init() -> state`.
      update: `update(global minibatch, state) -> (extra, state)`.
    """

    init: Callable[[], Any]
    update: Callable[[Any, Any], tuple[Any, Any]]


class Term(NamedTuple):
    """One term of a loss.

    Attributes:
      values: the loss term, see `LossTerm`.
      weight: a number or a schedule of the step. With weight 0 the term still reports
        its metrics but adds exactly 0 to value and gradient, even where it is NaN.
      mask: `mask(batch) -> bool` like the values: restricts the term further; it is
        combined (and) with the support of the batch, so padding cannot come back in.
      reduction: overrides the reduction of the loss.
      prepare: `prepare(global minibatch) -> pytree`, for terms that couple the batch,
        or a `Preparation` where it has state; its result is the third argument of
        `values` in every microbatch.
      support: where the values live, see `losses.support`.
    """

    values: LossTerm
    weight: float | Schedule = 1.0
    mask: Callable[[Any], Array] | None = None
    reduction: reductions.Reduction | None = None
    prepare: Callable[[Any], Any] | Preparation | None = None
    support: Callable[[Any], reductions.Support] = reductions.support


class Prepared(NamedTuple):
    """What one term needs to know of the global minibatch.

    Attributes:
      normalizer: float[], divisor of the reduction.
      total: float[], sum of the scales; a microbatch's part of it is its share.
      weight: float[], the weight where it is a number other than 0, else None.
      extra: what the term's own `prepare` returned, or None.
    """

    normalizer: Array
    total: Array
    weight: Array | None
    extra: Any


class TermState(NamedTuple):
    """What a term carries from minibatch to minibatch.

    A weight is state, and with it an argument of the compiled step: runs that differ
    in the number share one program. A weight of 0 is none: it takes the term's
    gradient out of the program.

    Attributes:
      weight: float[], or None for a schedule and for 0.
      own: state of the term's `Preparation`, or None.
    """

    weight: Array | None
    own: Any


class Loss(NamedTuple):
    """A scalar loss over minibatches that may be cut into microbatches.

    Attributes:
      init: `init() -> state`.
      prepare: `prepare(batch, state) -> (prepared, state)`, once on the GLOBAL
        minibatch.
      apply: `apply(outputs, batch, prepared, step) -> (float[], metrics)` on the
        minibatch or any part of its rows; the parts' values and gradients add up to
        the whole's, and their metrics merge to the whole's. Reports `loss/<name>`, the
        reduced unweighted value of each term, and `loss_weight/<name>` where the weight
        is a schedule.
      weighted: like `apply`, with the dict of the terms' weighted values in the place
        of their sum.
    """

    init: Callable[[], Any]
    prepare: Callable[[Any, Any], tuple[Any, Any]]
    apply: Callable[[Any, Any, Any, Any], tuple[Array, dict[str, Any]]]
    weighted: Callable[[Any, Any, Any, Any], tuple[dict[str, Array], dict[str, Any]]]


def combine(*, reduction: reductions.Reduction, **terms: Term) -> Loss:
    """The weighted sum of terms, `sum_i weight_i(step) * reduce_i(values_i)`.

    Where two terms report a metric of the same name the first one is kept (it is the
    same quantity of the same batch).

    Args:
      reduction: for the terms that name none themselves.
      **terms: by name, in order.

    Example:
      >>> loss = combine(
      ...     policy=Term(clipped_surrogate(clip_eps=0.2)),
      ...     value=Term(clipped_value(clip_eps=0.2), weight=0.1),
      ...     reduction=token_mean,
      ... )
      >>> prepared, state = loss.prepare(minibatch, loss.init())
      >>> value, report = loss.apply(outputs, minibatch, prepared, step)
    """

    def init() -> dict[str, TermState]:
        return {name: _init(term) for name, term in terms.items()}

    def prepare(batch: Any, state: Mapping[str, TermState]):
        prepared, states = {}, {}
        for name, term in terms.items():
            prepared[name], states[name] = _prepare(
                term, term.reduction or reduction, batch, state[name]
            )
        return prepared, states

    def weighted(
        outputs: Any, batch: Any, prepared: Mapping[str, Prepared], step: Any
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        values: dict[str, Array] = {}
        report: dict[str, Any] = {}
        for name, term in terms.items():
            values[name], found = _apply(
                name, term, term.reduction or reduction, outputs, batch, prepared, step
            )
            report = {**found, **report}
        return values, report

    return Loss(init, prepare, _summed(weighted), weighted)


def _summed(weighted: Callable[..., tuple[dict[str, Array], Any]]) -> Any:
    def apply(outputs: Any, batch: Any, prepared: Any, step: Any):
        values, report = weighted(outputs, batch, prepared, step)
        return sum(values.values(), jnp.zeros((), jnp.result_type(float))), report

    return apply


def streams(**losses: Loss) -> Loss:
    """The sum of losses on batches of their own, e.g. PPO and its pretraining mix.

    `batch`, `outputs` and `prepared` are dicts with the names given here; every stream
    may have another number of rows. Metric names must not meet, except that the first
    stream's is kept.
    """

    def init() -> dict[str, Any]:
        return {name: loss.init() for name, loss in losses.items()}

    def prepare(batch: Mapping[str, Any], state: Mapping[str, Any]):
        found = {n: loss.prepare(batch[n], state[n]) for n, loss in losses.items()}
        return {n: f[0] for n, f in found.items()}, {n: f[1] for n, f in found.items()}

    def weighted(outputs: Any, batch: Any, prepared: Any, step: Any):
        values: dict[str, Array] = {}
        report: dict[str, Any] = {}
        for name, loss in losses.items():
            found, shown = loss.weighted(
                outputs[name], batch[name], prepared[name], step
            )
            values |= {f"{name}/{term}": value for term, value in found.items()}
            report = {**shown, **report}
        return values, report

    return Loss(init, prepare, _summed(weighted), weighted)


def _where(term: Term, batch: Any) -> reductions.Support:
    where = term.support(batch)
    mask = where.mask if term.mask is None else where.mask & term.mask(batch)
    if mask.dtype != bool:
        raise TypeError(f"a mask must be boolean, got {mask.dtype}{mask.shape}")
    return where._replace(mask=mask)


def _init(term: Term) -> TermState:
    dynamic = not callable(term.weight) and term.weight != 0
    weight = jnp.asarray(term.weight, jnp.result_type(float)) if dynamic else None
    own = term.prepare.init() if isinstance(term.prepare, Preparation) else None
    return TermState(weight, own)


def _prepare(
    term: Term, reduction: reductions.Reduction, batch: Any, state: TermState
) -> tuple[Prepared, TermState]:
    scale = reduction.scale(_where(term, batch))
    extra, own = None, state.own
    if isinstance(term.prepare, Preparation):
        extra, own = term.prepare.update(batch, own)
    elif term.prepare is not None:
        extra = term.prepare(batch)
    prepared = Prepared(
        reduction.normalizer(scale), jnp.sum(scale), state.weight, extra
    )
    return jax.lax.stop_gradient((prepared, state._replace(own=own)))


def _apply(
    name: str,
    term: Term,
    reduction: reductions.Reduction,
    outputs: Any,
    batch: Any,
    prepared: Mapping[str, Prepared],
    step: Any,
) -> tuple[Array, dict[str, Any]]:
    where = _where(term, batch)
    normalizer, total, dynamic, extra = prepared[name]
    weight = term.weight(step) if callable(term.weight) else term.weight
    weight = weight if dynamic is None else dynamic
    outputs = _quiet_padding(_switch(outputs, weight), term.support(batch).mask)
    arguments = (outputs, batch) if term.prepare is None else (outputs, batch, extra)
    values, found = term.values(*arguments)
    if values.shape != where.mask.shape:
        raise ValueError(
            f"loss term '{name}' returned values of shape {values.shape}, "
            f"its batch has {where.mask.shape}"
        )
    scale = reduction.scale(where)
    reduced = _divide(jnp.sum(jnp.where(scale != 0, values, 0.0) * scale), normalizer)
    report = {**found, f"loss/{name}": _share(reduced, jnp.sum(scale), total)}
    if callable(term.weight):
        report[f"loss_weight/{name}"] = metrics.scalar(weight)
    return jnp.where(jnp.asarray(weight) == 0, 0.0, weight * reduced), report


def _divide(x: Array, by: Array) -> Array:
    """x / by, and 0 for an empty batch."""
    return jnp.where(by != 0, x, 0.0) / jnp.where(by != 0, by, 1.0)


def _share(value: Array, scale: Array, total: Array) -> metrics.Mean:
    """A part of the minibatch's value whose counts add up to one over the parts."""
    return metrics.Mean(
        jax.lax.stop_gradient(value).astype(jnp.float32),
        _divide(scale, total).astype(jnp.float32),
    )


def _switch(outputs: Any, weight: Any) -> Any:
    """Cut the gradient where the weight is 0 (a select, so that NaN cannot pass)."""
    active = jnp.asarray(weight) != 0
    return jax.tree.map(
        lambda x: jnp.where(active, x, jax.lax.stop_gradient(x)), outputs
    )


def _quiet_padding(outputs: Any, mask: Array) -> Any:
    """Zero what the network says outside of the support of the batch.

    The select also makes the gradient there exactly 0, whatever the padding holds. Low
    precision is widened to float32: no term computes in bfloat16.
    """

    def quiet(x: Array) -> Array:
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if x.shape[: mask.ndim] != mask.shape:
            return x
        keep = mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim))
        return jnp.where(keep, x, jnp.zeros((), x.dtype))

    return jax.tree.map(quiet, outputs)

"""Peak memory of log-probs for a large vocabulary, chunked against naive.

    python scripts/memory.py --vocab=150000 --json
    python scripts/memory.py --vocab=256000 --length=2048 --batch=4 --width=2048

Two programs are compiled from abstract shapes (nothing is allocated) in two forms:
`scoring` gives the log-prob, entropy and logsumexp of every token; `update` gives the
gradient of a scalar of these with respect to hidden states and unembedding. The form
`chunked` is `rlhf_jax.ops.logprobs.token_logprobs`; `naive` computes all logits. The
numbers are those of the compiled program (`memory_analysis`): what XLA holds beside
its arguments and results (`temp`), and in all (`peak` = arguments + outputs + temp -
aliased). `largest_array` is the largest array that the compiled program names beside
arguments and gradients, and `holds_all_logits` says whether it has `tokens * vocab`
elements.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from typing import Any

import jax
import jax.numpy as jnp

from rlhf_jax.ops import logprobs


def chunked(hidden, unembedding, targets, chunk_size):
    """The library's form."""
    return logprobs.token_logprobs(hidden, unembedding, targets, chunk_size=chunk_size)


def naive(hidden, unembedding, targets, chunk_size):
    """All logits at once."""
    del chunk_size
    logits = jnp.einsum(
        "btd,vd->btv", hidden, unembedding, preferred_element_type=jnp.float32
    )
    return logprobs.statistics(logits, targets)


FORMS = {"chunked": chunked, "naive": naive}


def programs(form, chunk_size: int | None) -> dict[str, Any]:
    """The two functions of (hidden, unembedding, targets)."""

    def scoring(hidden, unembedding, targets):
        return form(hidden, unembedding, targets, chunk_size)

    def loss(hidden, unembedding, targets):
        found = scoring(hidden, unembedding, targets)
        return -jnp.mean(found.logprobs + 0.01 * found.entropy)

    return {"scoring": scoring, "update": jax.value_and_grad(loss, argnums=(0, 1))}


def measure(function, shapes) -> dict[str, Any]:
    """Bytes of one compiled program."""
    compiled = jax.jit(function).lower(*shapes).compile()
    analysis = compiled.memory_analysis()
    arguments = analysis.argument_size_in_bytes
    outputs, temp = analysis.output_size_in_bytes, analysis.temp_size_in_bytes
    return {
        "temp": temp,
        "arguments": arguments,
        "outputs": outputs,
        "peak": arguments + outputs + temp - analysis.alias_size_in_bytes,
        "largest_array": largest_array(
            compiled.as_text(), beside={shape.shape for shape in shapes}
        ),
    }


def largest_array(program: str, beside: set[tuple[int, ...]]) -> list[int]:
    """Shape of the largest array named in the text of a compiled program, not counting
    the shapes in `beside`."""
    shapes = {
        tuple(int(size) for size in sizes.split(","))
        for sizes in re.findall(r"\b[a-z]+[0-9]+\[([0-9,]+)\]", program)
    }
    return list(max(shapes - beside, key=math.prod, default=()))


def abstract(vocab: int, length: int, batch: int, width: int, dtype: str):
    """Shapes of hidden states, unembedding and targets."""
    return (
        jax.ShapeDtypeStruct((batch, length, width), dtype),
        jax.ShapeDtypeStruct((vocab, width), dtype),
        jax.ShapeDtypeStruct((batch, length), jnp.int32),
    )


def compare(
    vocab: int,
    length: int,
    batch: int,
    width: int,
    dtype: str = "float32",
    chunk_size: int | None = None,
) -> dict[str, Any]:
    """Every form and program, and chunked over naive."""
    shapes = abstract(vocab, length, batch, width, dtype)
    result: dict[str, Any] = {
        "vocab": vocab,
        "length": length,
        "batch": batch,
        "width": width,
        "dtype": dtype,
        "chunk_size": chunk_size,
        "backend": jax.default_backend(),
        "all_logits": 4 * batch * length * vocab,
    }
    logits = batch * length * vocab
    for name in ("scoring", "update"):
        found = {
            form: measure(programs(function, chunk_size)[name], shapes)
            for form, function in FORMS.items()
        }
        for numbers in found.values():
            numbers["holds_all_logits"] = math.prod(numbers["largest_array"]) >= logits
        ratios = {
            f"{key}_ratio": found["chunked"][key] / max(found["naive"][key], 1)
            for key in ("temp", "peak")
        }
        result[name] = {**found, **ratios}
    return result


def table(result: dict[str, Any]) -> str:
    """The comparison for reading."""
    lines = [
        f"{result['batch']} x {result['length']} tokens, vocabulary {result['vocab']}, "
        f"width {result['width']}, {result['dtype']}, {result['backend']}; "
        f"all logits: {result['all_logits'] / 2**20:,.0f} MiB",
        f"{'':10}{'form':10}{'temp MiB':>12}{'peak MiB':>12}  largest array",
    ]
    for name in ("scoring", "update"):
        for form in FORMS:
            found = result[name][form]
            lines.append(
                f"{name:10}{form:10}{found['temp'] / 2**20:12,.1f}"
                f"{found['peak'] / 2**20:12,.1f}  {found['largest_array']}"
            )
        lines.append(
            f"{name:10}{'ratio':10}{result[name]['temp_ratio']:12.1%}"
            f"{result[name]['peak_ratio']:12.1%}"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vocab", type=int, default=150_000)
    parser.add_argument("--length", type=int, default=1024, help="tokens per sequence")
    parser.add_argument("--batch", type=int, default=1, help="sequences")
    parser.add_argument("--width", type=int, default=256, help="of the hidden states")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument(
        "--chunk_size", type=int, help="vocabulary rows per chunk (default: by size)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = vars(parser.parse_args(arguments))
    as_json = options.pop("json")
    result = compare(**options)
    print(json.dumps(result, indent=2) if as_json else table(result))


if __name__ == "__main__":
    main()

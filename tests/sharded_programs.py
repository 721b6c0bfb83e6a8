"""Programs on eight fake devices: equal to one device, and split as far as they say.

`python tests/sharded_programs.py CASE ...` prints `ok CASE` for each.
"""

import os
import sys

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from rlhf_jax import networks, planning, rng, rollout, sharding  # noqa: E402
from rlhf_jax.ops import logprobs  # noqa: E402
from rlhf_jax.placement import Placement  # noqa: E402
from rlhf_jax.types import ModelInputs, PromptBatch  # noqa: E402

VOCAB, WIDTH = 96, 8


def placed(rules=None, names=None, **axes):
    rules = {**sharding.RULES, **(rules or {})}
    return Placement(sharding.mesh(**axes), rules, names or {})


def arrays(rows, length):
    draw = np.random.default_rng(rows + length)

    def normal(*shape):
        return jnp.asarray(draw.normal(size=shape), jnp.float32)

    ids = jnp.asarray(draw.integers(0, VOCAB, (rows, length)), jnp.int32)
    states, matrices = [(rows, length, WIDTH)] * 2, [(VOCAB, WIDTH)] * 2
    return [normal(*x) for x in (*states, *matrices)], ids


def read_vocabulary(chunk_size):
    """Every output of both readings, weighted so that each gradient is its own."""

    def loss(factors, ids):
        p, q, matrix_p, matrix_q = factors
        options = {"temperature": 0.7, "chunk_size": chunk_size}
        found = logprobs.token_logprobs(p, matrix_p, ids, softcap=3.0, **options)
        kl = logprobs.exact_kl(p, matrix_p, q, matrix_q, softcap_q=2.0, **options)
        total = sum(jnp.sum(jnp.cos(i * x)) for i, x in enumerate(found, 1))
        return total + jnp.sum(jnp.sin(kl)), (found, kl)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def vocabulary():
    """Values and gradients of log-probs and exact KL, over meshes that split tokens,
    vocabulary and width, also where tokens do not divide and rules have changed."""
    meshes = (
        placed(data=2, fsdp=2, tensor=2),
        placed(fsdp=2, tensor=2, sequence=2),
        placed(fsdp=2, tensor=4, rules={"vocab": None, "embed": ("fsdp", "tensor")}),
        placed(fsdp=4, tensor=2, rules={"vocab": "fsdp", "embed": None}),
    )
    for rows, length, chunk_size in ((8, 6, 20), (6, 7, None), (1, 5, 16)):
        factors, ids = arrays(rows, length)
        expected = read_vocabulary(chunk_size)(factors, ids)
        for mesh in meshes:
            with mesh.active():
                found = read_vocabulary(chunk_size)(factors, ids)
            for x, y in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
                np.testing.assert_allclose(x, y, 1e-4, 1e-5, err_msg=str(mesh.mesh))


def vocabulary_flops():
    """Products of log-probs and their gradients are split over all devices.

    Three passes of 2 N V D, and one to compute the chunks again.
    """
    rows, length = 8, 32
    for axes in ({"fsdp": 8}, {"fsdp": 2, "tensor": 4}, {"tensor": 4, "sequence": 2}):
        mesh = placed(**axes)

        def array(*names, dtype=jnp.float32, shape=(), mesh=mesh):
            return jax.ShapeDtypeStruct(shape, dtype, sharding=mesh.over(names))

        hidden = array("batch", "length", None, shape=(rows, length, WIDTH))
        matrix = array("vocab", "embed", shape=(VOCAB, WIDTH))
        ids = array("batch", "length", shape=(rows, length), dtype=jnp.int32)

        def loss(hidden, matrix, ids):
            return logprobs.token_logprobs(
                hidden, matrix, ids, chunk_size=8
            ).logprobs.sum()

        with mesh.active():
            step = jax.jit(jax.value_and_grad(loss, (0, 1)))
            compiled = planning.compile_program(step, (hidden, matrix, ids))
        once = 2 * rows * length * VOCAB * WIDTH
        assert compiled.report.total.flops == 4 * once / 8, axes


LONG = networks.presets.llama(
    vocab_size=32, width=16, num_layers=2, num_heads=4, mlp_width=32, max_length=512
)


def long_responses():
    """Temporaries of a device halve with `sequence=2`, within a tenth, and so do its
    products, in a step over long rows, whose weights are small beside them. (Rows as
    one axis with their length would be gathered, and 0.56 of the products done.)"""
    policy = networks.language_model(LONG, scan_layers=True, remat="full")
    held = []
    for sequence in (1, 2):
        devices = jax.devices()[: 2 * sequence]
        names = networks.axis_names(policy)
        mesh = placed(names=names, fsdp=2, sequence=sequence, devices=devices)

        def loss(variables, inputs, policy=policy):
            hidden = policy.apply(variables, inputs).hidden
            head = policy.unembedding(variables)
            found = logprobs.token_logprobs(hidden[:, :-1], head, inputs.tokens[:, 1:])
            return -jnp.mean(found.logprobs)

        shape = jax.ShapeDtypeStruct((4, LONG.max_length), jnp.int32)
        mask = jax.ShapeDtypeStruct(shape.shape, bool)
        read = ModelInputs(shape, mask, shape, shape)
        read = jax.tree.map(
            lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
            read,
            mesh.rows(read),
        )
        variables = mesh.abstract(jax.eval_shape(policy.init, rng.root(0)))
        with mesh.active():
            step = jax.jit(jax.grad(loss))
            compiled = planning.compile_program(step, (variables, read))
        held.append((compiled.memory.temporaries, compiled.report.total.flops))
    (whole, operations), (half, of_half) = held
    assert half < 0.55 * whole and of_half < 0.51 * operations, held


SAMPLED = networks.presets.llama(
    vocab_size=32, width=16, num_layers=2, num_heads=4, mlp_width=64, max_length=16
)


def sampled(rules, axes, variables, prompts):
    """Responses on a mesh, and bytes that its decoding loop gathers on each device."""
    policy = networks.language_model(SAMPLED)
    sampler = rollout.sampler(
        policy, max_length=8, stop_tokens=[1], pad_token=0, temperature=1.0
    )
    program = jax.jit(sampler)
    mesh = placed(rules=rules, names=networks.axis_names(policy), **axes)
    with mesh.active():
        given = (mesh.put(variables), mesh.batch(prompts), rng.root(1))
        compiled = planning.compile_program(program, given, phases=("decode",))
        found = program(*given)
    moved = compiled.report.phases["decode"].collectives
    return found, moved["all-gather"].bytes if "all-gather" in moved else 0


def decode():
    """While responses are sampled no weights are gathered: once for all tokens, unless
    the rules say otherwise; the responses are those of one device.

    The unembedding of a step is split over `tensor`, so that its logits are gathered.
    A compiler may move some of the gathers out of the loop that the rules ask for.
    """
    draw = np.random.default_rng(0)
    prompts = PromptBatch(
        draw.integers(2, 32, (8, 8)).astype(np.int32),
        np.ones((8, 8), bool),
        np.arange(8, dtype=np.int32),
        np.ones(8, np.float32),
    )
    variables = networks.language_model(SAMPLED).init(rng.root(0))
    one = {"devices": jax.devices()[:1]}
    alone, _ = sampled({}, one, variables, prompts)
    for axes in ({"fsdp": 8}, {"fsdp": 2, "data": 2, "tensor": 2}):
        held = []
        for rules in ({}, {"rollout_embed": "fsdp"}):
            found, gathered = sampled(rules, axes, variables, prompts)
            for name in ("tokens", "mask", "logprobs"):
                x, y = getattr(found, name), getattr(alone, name)
                np.testing.assert_allclose(x, y, 1e-4, 1e-5, err_msg=f"{axes} {name}")
            held.append(gathered)
        logits = 7 * 8 * 32 * 4 if "tensor" in axes else 0
        assert held[0] <= logits and held[0] < held[1], (axes, held)


CASES = {f.__name__: f for f in (vocabulary, vocabulary_flops, long_responses, decode)}

if __name__ == "__main__":
    for case in sys.argv[1:]:
        CASES[case]()
        print("ok", case, flush=True)

"""Work of compiled programs against counts by hand and by formula."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import networks, rng
from rlhf_jax.planning import collectives, costs, hlo, products
from rlhf_jax.types import ModelInputs


def report(function, *arguments, **options):
    compiled = jax.jit(function).lower(*arguments).compile()
    return costs.analyze(compiled.as_text(), **options)


def array(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_a_product_counts_two_for_each_multiply_add():
    found = report(lambda a, b: a @ b, array(48, 32), array(32, 80))
    assert found.total.flops == 2 * 48 * 32 * 80
    assert found.total.bytes == 4 * (48 * 32 + 32 * 80 + 48 * 80)


def test_a_scan_counts_every_iteration_and_one_slice_of_its_stack():
    def run(x, stack):
        return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, stack)[0]

    trips, size = 7, 256
    found = report(run, array(64, size), array(trips, size, size))
    assert found.total.flops == trips * 2 * 64 * size * size
    weights = 4 * trips * size * size
    # A weight is read, or copied out of the stack and then read; never the whole stack.
    assert weights < found.total.bytes < trips * weights
    assert not found.unbounded


def test_a_loop_that_may_end_early_counts_with_its_greatest_length():
    def run(x, w):
        def going(state):
            step, h = state
            return (step < 13) & jnp.any(h > 0)

        def step(state):
            return state[0] + 1, state[1] @ w

        return jax.lax.while_loop(going, step, (jnp.int32(3), x))

    found = report(run, array(64, 64), array(64, 64))
    assert found.total.flops == 10 * 2 * 64**3


def test_a_loop_without_a_bound_counts_once_and_is_named():
    def run(x):
        return jax.lax.while_loop(lambda h: jnp.any(h > 0), lambda h: h @ h, x)

    found = report(run, array(64, 64))
    assert found.total.flops == 2 * 64**3
    assert len(found.unbounded) == 1


def test_nested_loops_multiply():
    def run(x, w):
        def outer(_, h):
            return jax.lax.fori_loop(0, 5, lambda _, g: jnp.tanh(g @ w), h)

        return jax.lax.fori_loop(0, 3, outer, x)

    assert report(run, array(64, 64), array(64, 64)).total.flops == 15 * 2 * 64**3


def test_a_branch_counts_with_its_dearest_side():
    def run(flag, x):
        return jax.lax.cond(flag, lambda h: h @ h @ h, lambda h: h + 1.0, x)

    found = report(run, jax.ShapeDtypeStruct((), bool), array(64, 64))
    assert found.total.flops == 2 * 2 * 64**3


def test_phases_are_told_apart_by_scope():
    def run(x, w):
        with jax.named_scope("first"):
            x = x @ w
        with jax.named_scope("second"):
            return jax.lax.fori_loop(0, 4, lambda _, h: jnp.tanh(h @ w), x)

    found = report(
        run, array(64, 64), array(64, 64), phases=("first", "second", "third")
    )
    assert found.phases["first"].flops == 2 * 64**3
    assert found.phases["second"].flops == 4 * 2 * 64**3
    assert "third" not in found.phases


BATCH, LENGTH = 4, 32


@functools.cache
def model(scan, remat="none"):
    config = networks.presets.llama(
        vocab_size=64, width=64, num_layers=3, num_heads=4, tied_embeddings=False
    )
    return networks.language_model(config, scan_layers=scan, remat=remat)


def inputs():
    whole = jax.ShapeDtypeStruct((BATCH, LENGTH), jnp.int32)
    mask = jax.ShapeDtypeStruct((BATCH, LENGTH), bool)
    return ModelInputs(whole, mask, whole, whole)


def forward(network, variables, batch):
    hidden = network.apply(variables, batch).hidden
    return networks.logits(network, variables, hidden)


def multiplied(variables):
    """Parameters that a token is multiplied with: all matrices but the table."""
    layers, head = (variables["params"][x] for x in ("layers", "unembedding"))
    return sum(
        x.size
        for x in jax.tree.leaves((layers, head))
        if len(x.shape) == 3 or x.shape[0] == 64
    )


@pytest.mark.parametrize(("scan", "remat", "factor"), [
    (False, "none", 6), (True, "none", 6), (True, "full", 8)
])  # fmt: skip
def test_a_model_costs_2_n_forward_and_6_n_per_training_step(scan, remat, factor):
    """Within 5 %, beside attention's own 4 L D per token and layer (12 in training);
    full rematerialization repeats the forward pass of the layers."""
    network = model(scan, remat)
    variables = jax.eval_shape(network.init, rng.root(0))
    tokens, count = BATCH * LENGTH, multiplied(variables)
    attention = 4 * LENGTH * 64 * 3 * tokens

    def loss(variables, batch):
        return jnp.sum(jax.nn.logsumexp(forward(network, variables, batch), -1))

    run = functools.partial(forward, network)
    once = report(run, variables, inputs()).total.flops
    assert once == pytest.approx(2 * count * tokens + attention, rel=0.05)
    step = report(jax.grad(loss), variables, inputs()).total.flops
    # The last product of a layer and the head are not needed again.
    once_only = (factor - 6) * (64 * 64 + 3 * 64 * 256)
    expected = (factor * count - once_only) * tokens + factor / 2 * attention
    assert step == pytest.approx(expected, rel=0.05)


def lines(text):
    module = hlo.parse("ENTRY %main (a: f32[2]) -> f32[2] {\n" + text + "\n}\n")
    return module.computations["main"]


def test_a_product_that_tpus_run_as_a_convolution_counts_as_a_product():
    """Operands of the TPU compiler; a batch axis is a window that slides over it."""
    plain = lines(
        "  %a = bf16[512,1024]{1,0} parameter(0)\n"
        "  %b = bf16[4096,1024]{1,0} parameter(1)\n"
        "  ROOT %c = bf16[512,4096]{1,0} convolution(%a, %b), dim_labels=bf_oi->bf"
    )
    assert products.flops(plain.root, plain) == 2 * 512 * 4096 * 1024
    batched = lines(
        "  %a = bf16[8,128,64]{2,1,0} parameter(0)\n"
        "  %b = bf16[8,64,96]{2,1,0} parameter(1)\n"
        "  ROOT %c = f32[8,128,96]{2,1,0} convolution(%a, %b),"
        " window={size=8 stride=7 lhs_dilate=8}, dim_labels=0bf_0io->0bf"
    )
    assert products.flops(batched.root, batched) == 2 * 8 * 128 * 64 * 96


@pytest.mark.parametrize(
    ("size", "stride", "low", "high", "spread", "step"),
    [(3, 1, 0, 0, 1, 1), (3, 2, 1, 2, 1, 1), (4, 3, 0, 0, 4, 1), (2, 1, 3, 3, 1, 2)],
)
def test_window_positions_are_counted_like_a_loop_does(
    size, stride, low, high, spread, step
):
    inputs = 9
    padded = (inputs - 1) * spread + 1 + low + high
    outputs = (padded - (size - 1) * step - 1) // stride + 1
    expected = 0
    for place, position in np.ndindex(outputs, size):
        index = place * stride + position * step - low
        expected += 0 <= index <= (inputs - 1) * spread and index % spread == 0
    window = dict(
        size=(size,), stride=(stride,), pad=(low, high), lhs_dilate=(spread,),
        rhs_dilate=(step,),
    )  # fmt: skip
    assert products._positions(inputs, outputs, window) == expected


@pytest.mark.parametrize(
    ("written", "groups"),
    [
        ("{{0,1},{2,3}}", [[0, 1], [2, 3]]),
        ("[2,2]<=[4]", [[0, 1], [2, 3]]),
        ("[2,2]<=[2,2]T(1,0)", [[0, 2], [1, 3]]),
        ("mesh['a'=2,'b'=2] {'a'}", [[0, 2], [1, 3]]),
        ("mesh['a'=2,'b'=2] {'a','b'}", [[0, 1, 2, 3]]),
        ("mesh['a'=4] {'a':(2)2}", [[0, 1], [2, 3]]),
        ("mesh['a'=4] {'a':(1)2}", [[0, 2], [1, 3]]),
    ],
)
def test_groups_of_a_collective_in_every_form_that_xla_writes(written, groups):
    where = lines(
        "  %a = f32[8,4]{1,0} parameter(0)\n"
        f"  ROOT %c = f32[8,4]{{1,0}} all-reduce(%a), replica_groups={written}"
    )
    assert collectives.groups(where.root) == groups
    kind, size, links, network = collectives.transfer(where.root, where, ())
    members = len(groups[0])
    assert (kind, size, network) == ("all-reduce", 128.0, 0.0)
    assert links == 2 * 128 * (members - 1) / members
    _, _, links, network = collectives.transfer(where.root, where, (0, 0, 1, 1))
    crosses = any(x < 2 for x in groups[0]) and any(x > 1 for x in groups[0])
    assert (links == 0.0) == crosses and (network == 0.0) != crosses


def test_a_gather_is_as_large_as_its_result_and_a_scatter_as_its_operand():
    where = lines(
        "  %a = f32[2,4]{1,0} parameter(0)\n"
        "  %g = (f32[2,4]{1,0}, f32[8,4]{1,0}) all-gather-start(%a),"
        " replica_groups=[1,4]<=[4], dimensions={0}\n"
        "  %b = f32[8,4]{1,0} all-gather-done(%g)\n"
        "  ROOT %s = f32[2,4]{1,0} reduce-scatter(%b), replica_groups=[1,4]<=[4]"
    )
    for name in ("g", "s"):
        found = collectives.transfer(where.instructions[name], where, ())
        assert found[1:3] == (128.0, 96.0)
    assert collectives.transfer(where.instructions["b"], where, ()) is None


def test_of_a_stack_that_a_fusion_slices_the_slice_is_read():
    """As TPUs decode: the slice of a layer is in a fusion inside of the product's."""

    sides = "rhs_contracting_dims={0}"

    def text(inner):
        return f"""HloModule m

%layer (p: bf16[8,64,32]) -> bf16[64,32] {{
  %p = bf16[8,64,32] parameter(0)
  %flat = bf16[8,2048] bitcast(%p)
  {inner}
}}

%product (x: bf16[4,64], stack: bf16[8,64,32]) -> bf16[4,32] {{
  %x = bf16[4,64] parameter(0)
  %stack = bf16[8,64,32] parameter(1)
  %one = bf16[64,32] fusion(%stack), kind=kLoop, calls=%layer
  ROOT %dot = bf16[4,32] dot(%x, %one), lhs_contracting_dims={{1}}, {sides}
}}

ENTRY %main (x: bf16[4,64], stack: bf16[8,64,32]) -> bf16[4,32] {{
  %x = bf16[4,64] parameter(0)
  %stack = bf16[8,64,32] parameter(1)
  ROOT %y = bf16[4,32] fusion(%x, %stack), kind=kOutput, calls=%product
}}
"""

    layer = "%cut = bf16[1,2048] slice(%flat), slice={[3:4], [0:2048]}"
    found = costs.analyze(text(f"{layer}\n  ROOT %w = bf16[64,32] bitcast(%cut)"))
    ends = 2 * (4 * 64 + 4 * 32)
    assert found.total.bytes == ends + 2 * 64 * 32
    whole = "ROOT %w = bf16[64,32] custom(%flat)"
    assert costs.analyze(text(whole)).total.bytes == ends + 2 * 8 * 64 * 32
    passed_on = "ROOT %w = bf16[8,64,32] bitcast(%flat)"
    assert costs.analyze(text(passed_on)).total.bytes == ends + 2 * 8 * 64 * 32


def test_memory_on_the_chip_is_no_traffic():
    text = (
        "ENTRY %main (a: f32[8]) -> f32[8] {{\n"
        "  %a = f32[8]{{0}} parameter(0)\n"
        "  %b = f32[8]{{0{space}}} negate(%a)\n"
        "  ROOT %c = f32[8]{{0}} negate(%b)\n"
        "}}\n"
    )
    assert costs.analyze(text.format(space="")).total.bytes == 128
    assert costs.analyze(text.format(space=":S(1)")).total.bytes == 64


def test_what_goes_to_other_slices_through_the_host_is_on_the_network():
    """TPUs have no other collective between slices; the reduction among three of them
    sends 4/3 of its operand. What goes to the host for anything else is none."""

    def text(attributes):
        return f"""HloModule m

ENTRY %main (a: f32[6,128]) -> token[] {{
  %a = f32[6,128] parameter(0)
  %first = token[] after-all()
  %send = (f32[6,128], u32[], token[]) send(%a, %first), channel_id=3, {attributes}
  ROOT %sent = token[] send-done(%send), channel_id=3, is_host_transfer=true
}}
"""

    named = "_xla_megascale_transfer_type"
    attributes = (
        "is_host_transfer=true, frontend_attributes={"
        '_xla_host_transfer_handler_name="xla_megascale_runtime",'
        f'_xla_megascale_target="{{1:3}}x{{0:3}}",{named}="ALL_REDUCE"}}'
    )
    found = costs.analyze(text(attributes), slices=(0, 0, 1, 1)).total.collectives
    size = 6 * 128 * 4
    assert found == {"all-reduce": costs.Transfer(1.0, size, 0.0, size * 4 / 3)}
    pair = attributes.replace("1:3", "1,2").replace("ALL_REDUCE", "ONE_TO_ONE")
    (other,) = costs.analyze(text(pair)).total.collectives.values()
    assert other.dcn == size and other.ici == 0
    plain = "is_host_transfer=true"
    assert not costs.analyze(text(plain)).total.collectives

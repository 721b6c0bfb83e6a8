"""What waits on the host: where it lies, and that no number changes."""

import jax
import numpy as np
import pytest

from rlhf_jax import (
    algorithms,
    host_memory,
    losses,
    networks,
    optimizers,
    planning,
    rng,
    sharding,
)
from rlhf_jax.errors import UserError
from rlhf_jax.placement import Placement
from rlhf_jax.types import ModelInputs, SequenceBatch

POLICY = networks.language_model(
    networks.presets.llama(vocab_size=16, width=8, num_layers=1, num_heads=2)
)


def learner():
    return algorithms.fine_tuning(
        POLICY,
        initial=POLICY.init,
        loss=losses.combine(
            nll=losses.Term(losses.cross_entropy(), weight=1.0),
            reduction=losses.token_mean,
        ),
        optimizer=optimizers.optimizer("adamw", 1e-2),
    )


def batch():
    tokens = np.random.default_rng(0).integers(2, 16, (4, 6)).astype(np.int32)
    mask = np.ones(tokens.shape, bool)
    places = np.broadcast_to(np.arange(6, dtype=np.int32), tokens.shape)
    read = ModelInputs(tokens, mask, places, np.zeros_like(tokens))
    ones = np.ones(tokens.shape, np.float32)
    return SequenceBatch(read, mask, ones, np.zeros_like(tokens))


def three_steps(placement):
    made = learner()
    with placement.active():
        where = placement.shardings(jax.eval_shape(made.init, rng.root(0)))
        state = jax.jit(made.init, out_shardings=where)(rng.root(0))
        for _ in range(3):
            state, _ = made.update(state, {}, placement.batch(batch()))
    return state


def kinds(tree):
    return {x.sharding.memory_kind for x in jax.tree.leaves(tree)}


def test_moments_wait_on_the_host_and_no_number_changes():
    mesh = sharding.mesh(devices=jax.devices()[:1])
    names = networks.axis_names(POLICY)
    ours = three_steps(Placement(mesh, names=names, host_moments=True))
    theirs = three_steps(Placement(mesh, names=names))
    jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)
    jax.tree.map(np.testing.assert_array_equal, ours.opt_state, theirs.opt_state)
    assert kinds(ours.params) == {"device"}
    for x in jax.tree.leaves(ours.opt_state):
        waits = x.sharding.memory_kind == sharding.HOST
        assert waits == (x.ndim > 0), "moments wait, counts and numbers do not"
    moments = [x for x in jax.tree.leaves(ours.opt_state) if x.ndim]
    held, waiting = (
        f(ours.opt_state) for f in (planning.per_device, planning.per_host)
    )
    assert waiting == sum(x.nbytes for x in moments)
    assert held + waiting == planning.per_device(theirs.opt_state)


def test_devices_without_memory_on_the_host_are_refused(monkeypatch):
    mesh = sharding.mesh(devices=jax.devices()[:1])
    host_memory.check(mesh, "config.mesh.host_moments")
    monkeypatch.setattr(sharding, "HOST", "drum")
    with pytest.raises(
        UserError, match="host_moments=True: .* has no memory of .* drum"
    ):
        host_memory.check(mesh, "config.mesh.host_moments")


@pytest.mark.parametrize("layers", ["scanned", "unrolled"])
def test_a_network_reads_variables_that_wait_on_the_host(layers):
    network = networks.language_model(
        networks.presets.llama(vocab_size=16, width=8, num_layers=2, num_heads=2),
        scan_layers=layers == "scanned",
    )
    names = networks.axis_names(network)
    mesh = sharding.mesh(devices=jax.devices()[:1])
    placement = Placement(mesh, names=names, host_frozen=True)

    @jax.jit
    def logits(variables, inputs):
        hidden = network.apply(variables, inputs).hidden
        return networks.logits(network, variables, hidden)

    with placement.active():
        variables = placement.put(network.init(rng.root(0)))
        away = placement.frozen().put(variables)
        inputs = placement.batch(batch().inputs)
        ours, theirs = logits(away, inputs), logits(variables, inputs)
    assert kinds(variables) == {"device"} and kinds(away) == {sharding.HOST}
    assert kinds(ours) == {"device"}
    np.testing.assert_array_equal(ours, theirs)


def test_what_trains_is_fetched_nowhere():
    """A gradient with respect to variables on the devices passes no transfer."""
    variables = POLICY.init(rng.root(0))
    inputs = jax.device_put(batch().inputs)

    def loss(variables):
        return POLICY.apply(variables, inputs).hidden.sum()

    assert "device_put" not in str(jax.make_jaxpr(jax.grad(loss))(variables))

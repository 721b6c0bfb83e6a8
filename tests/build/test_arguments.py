"""Numbers of parts as arguments: one program, whatever they are."""

import jax
import numpy as np
import pytest
import trajectories

from rlhf_jax import advantages, losses, rewards, training
from rlhf_jax.build import experiment
from rlhf_jax.build.commands import ablating, studying
from rlhf_jax.build.configs import exact_worlds
from rlhf_jax.build.objective import arguments
from rlhf_jax.build.runs import programs
from rlhf_jax.studies import ablation

CHANGES = (
    ("ppo.optimizer.learning_rate", 0.02),
    ("ppo.optimizer.clip_norm", 0.01),
    ("ppo.optimizer.weight_decay", 0.2),
    ("ppo.optimizer.b1", 0.5),
    ("ppo.optimizer.b2", 0.9),
    ("ppo.value_optimizer.eps", 1e-3),
    ("ppo.value_optimizer.learning_rate", 0.01),
    ("ppo.clipped_surrogate.clip_eps", 0.01),
    ("ppo.clipped_surrogate.weight", 0.9),
    ("ppo.clipped_value.clip_eps", 0.05),
    ("ppo.gae.lam", 0.5),
    ("ppo.gae.discount", 0.9),
    ("ppo.length_penalty.coef", 0.3),
    ("ppo.kl_coef", 0.1),
    ("ppo.clipped_surrogate.dual_clip", 1.001),
    ("ppo.adaptive_kl_penalty.horizon", 20.0),
    ("ppo.temperature", 0.8),
)


def study():
    """PPO in E64 and a cell for each change."""
    config = exact_worlds.e64(
        target="tilt",
        beta=0.3,
        kl_coef=0.3,
        rewards=("length_penalty", "score_at_last_token", "adaptive_kl_penalty"),
        length_penalty=dict(coef=0.1),
        adaptive_kl_penalty=dict(target=2.0, horizon=50.0),
        clipped_surrogate=dict(weight=1.0, clip_eps=0.2, dual_clip=1.01),
        estimator=("gae", "whitened"),
        terms=("clipped_surrogate", "clipped_value"),
        value=exact_worlds.critic(),
        epochs=2,
        minibatches=2,
        steps=2,
        batch_size=8,
        eval_every=0,
        eval_prompts=8,
        shown_samples=0,
        term_gradients=dict(every=0, cosines=False),
    )
    for name in ("optimizer", "value_optimizer"):
        config.ppo[name].update(dict(name="adamw", clip_norm=1.0, weight_decay=0.1))
    config.study = dict(
        name="numbers",
        question="Does a number compile?",
        stage="ppo",
        grid="leave_one_out",
        terms=tuple((key, ((key, x),)) for key, x in CHANGES),
        seeds=1,
        seed_kinds=("init", "data", "sampling"),
        metrics=(dict(name="j", path="j", direction="up"),),
        curves=(),
        gold="",
        kl="",
        confidence=0.95,
        test="sign_flip",
    )
    return studying.read(config)


ALL = ablation.Cell("all", dict(CHANGES))


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """(runner, gradient norms by cell, compilations of all cells but the first)."""
    runner = ablating._Runner(
        study(), tmp_path_factory.mktemp("shared"), experiment.Programs()
    )
    first, *others = *runner.study.plan.cells, ALL
    norms = {first.name: runner.run(first, 0).gradients}
    with training.count_compiles() as compiles:
        norms |= {cell.name: runner.run(cell, 0).gradients for cell in others}
    return runner, norms, int(compiles)


def test_a_study_over_numbers_compiles_its_learner_once(shared):
    """Learning rates, clip ranges, discounts, penalties and the temperature are
    arguments: further cells compile no more than the few small operations around a run,
    and neither learner nor sampler anew."""
    runner, norms, compiles = shared
    assert len(norms) == len(CHANGES) + 2
    assert compiles <= 9 * (len(norms) - 1)
    made = runner.programs._made
    steps = [one.learn for one in made.values() if hasattr(one, "learn")]
    samplers = [one for key, one in made.items() if key.startswith('["sampler"')]
    assert [program._cache_size() for program in (*steps, *samplers)] == [1, 1]


def test_every_number_reaches_the_program(shared):
    """No cell has the baseline's gradients, or its number is read by nothing."""
    norms = dict(shared[1])
    baseline = norms.pop("all terms")
    assert [name for name, found in norms.items() if found == baseline] == []


def test_the_shared_program_gives_what_an_own_one_gives(shared, tmp_path):
    """The oracle: a process of its own, whose program has the numbers from the start,
    ends at the same gradients bit for bit."""
    runner, norms, _ = shared
    alone = ablating._Runner(runner.study, tmp_path, experiment.Programs())
    np.testing.assert_array_equal(alone.run(ALL, 0).gradients, norms["all"])


PARTS = {
    "gae": (
        arguments.estimator,
        advantages.gae,
        [dict(discount=0.9, lam=0.8), dict(discount=0.7, lam=0.1, value_lam=1.0)],
    ),
    "monte_carlo": (
        arguments.estimator,
        advantages.monte_carlo,
        [dict(discount=0.9), dict(discount=0.5)],
    ),
    "length_penalty": (
        arguments.link,
        rewards.length_penalty,
        [dict(coef=0.1, start=1), dict(coef=0.7, start=1, limit=0.9)],
    ),
    "missing_eos_penalty": (
        arguments.link,
        rewards.missing_eos_penalty,
        [dict(penalty=1.0), dict(penalty=0.25)],
    ),
}


@pytest.mark.parametrize("name", PARTS)
def test_a_part_with_arguments_is_the_plain_part(name):
    lift, factory, cases = PARTS[name]
    trajectory = trajectories.make()
    given = trajectories.token_rewards(trajectory)
    for keywords in cases:
        lifted, plain = lift(factory, keywords), factory(**keywords)
        found = lifted.update(given, lifted.init(), trajectory)[0]
        wanted = plain.update(given, plain.init(), trajectory)[0]
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
        assert jax.tree.leaves(lifted.init()[0])


def test_what_shapes_a_program_stays_in_its_description():
    """None, a number and a pair are three programs; two numbers are one."""
    forms = [
        arguments.masked(dict(clip_eps=clip, level="token"))
        for clip in (0.2, 0.3, (0.2, 0.3), [0.1, 0.4], None)
    ]
    assert forms[0] == forms[1] and forms[2] == forms[3]
    assert len({repr(form) for form in forms}) == 3
    controlled = [
        arguments.masked(dict(target=target, horizon=100.0)) for target in (6.0, 2.0)
    ]
    assert controlled[0] == controlled[1]
    optimizers = [
        programs.of_optimizers(dict(optimizer=dict(learning_rate=rate, clip_norm=norm)))
        for rate, norm in ((0.1, 1.0), (0.0, 2.0), (0.1, None))
    ]
    assert optimizers[0] == optimizers[1] != optimizers[2]


def test_a_term_that_is_more_than_a_function_has_no_arguments():
    """Its mask would be made from the number too, outside of the program."""
    with pytest.raises(AssertionError, match="lam"):
        arguments.term(
            lambda lam: losses.Term(losses.policy_gradient(), weight=lam), {"lam": 0.5}
        )

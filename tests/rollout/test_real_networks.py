"""The sampler with real decoders: cache against training graph, and `transformers`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlhf_jax import networks, rng, rollout
from rlhf_jax.networks import huggingface, presets

pytestmark = pytest.mark.optimized  # log-probs agree as a user's programs compute them

SIZES = dict(vocab_size=23, width=16, num_layers=2, num_heads=4, max_length=32)
PROMPTS = [[1, 2, 3, 9, 17], [4], [5, 6, 1, 2, 3, 8, 8], [6, 22]]


def configuration(family):
    if family == "llama":
        return presets.llama(**SIZES, num_kv_heads=2)
    return presets.gemma2(**SIZES, num_kv_heads=2, head_dim=8, window=4)


def updated(network, variables, result, steps=3):
    """Policy-gradient steps on the samples, large enough to move the log-probs."""
    optimizer = optax.adam(0.02)

    @jax.jit
    def update(variables, state):
        def loss(variables):
            scored = rollout.response_logprobs(
                network, variables, result, temperature=0.7
            )
            odd = (result.tokens % 2).astype(jnp.float32) - 0.5
            return -jnp.mean(scored.logprobs * odd)

        gradient = jax.grad(loss)(variables)
        changes, state = optimizer.update(gradient, state)
        return optax.apply_updates(variables, changes), state

    state = optimizer.init(variables)
    for _ in range(steps):
        variables, state = update(variables, state)
    return variables


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.identity("C32", "I5", "I14")
def test_cache_and_training_graph_agree_after_updates(family, make_prompts):
    """Left-padded, at T = 0.7, after three updates of the parameters, the sampler's
    log-probs are within 1e-4 of the training graph's; those of the parameters before
    the updates (a sampler that kept stale weights) are not."""
    network = networks.language_model(configuration(family))
    before = network.init(rng.root(0))
    prompts = make_prompts(PROMPTS, 8)
    sample = rollout.sampler(
        network,
        max_length=9,
        stop_tokens=(0,),
        pad_token=0,
        temperature=0.7,
        samples_per_prompt=4,
    )
    after = updated(network, before, sample(before, prompts, rng.root(1)))
    result = sample(after, prompts, rng.root(2))
    score = jax.jit(
        lambda params: (
            rollout.response_logprobs(network, params, result, temperature=0.7).logprobs
        )
    )

    def gauge(params):
        found = rollout.logprob_difference(result.logprobs, score(params), result.mask)
        return found["rollout/logprob_difference"].finish()

    assert gauge(after) < 1e-4
    assert gauge(before) > 0.05


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_greedy_tokens_are_those_of_transformers(family, tmp_path, make_prompts):
    """Token for token, left-padded, up to the first position where the two likeliest
    tokens are closer than 1e-4."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = dict(vocab_size=61, bos_token_id=None, eos_token_id=None)
    if family == "llama":
        theirs = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=64,
                initializer_range=0.3,
                **sizes,
            )
        )
    else:
        theirs = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(
                n_embd=32,
                n_layer=2,
                n_head=4,
                n_positions=64,
                initializer_range=0.3,
                **sizes,
            )
        )
    theirs = theirs.eval()
    theirs.save_pretrained(tmp_path)
    config, variables = huggingface.load(str(tmp_path))
    prompts = make_prompts(PROMPTS, 8)
    sample = rollout.sampler(
        networks.language_model(config),
        max_length=20,
        stop_tokens=(),
        pad_token=0,
        temperature=0.0,
    )
    ours = np.asarray(sample(variables, prompts, rng.root(0)).tokens)
    with torch.no_grad():
        generated = theirs.generate(
            torch.tensor(np.asarray(prompts.tokens)).long(),
            attention_mask=torch.tensor(np.asarray(prompts.mask)).long(),
            max_new_tokens=20,
            do_sample=False,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_logits=True,
        )
    logits = torch.stack(generated.logits, dim=1).numpy()
    best = np.sort(logits, axis=-1)
    clear = np.cumprod(best[..., -1] - best[..., -2] >= 1e-4, axis=1).astype(bool)
    expected = generated.sequences[:, 8:].numpy()
    assert clear.mean() > 0.9 and len(np.unique(ours)) > 10
    np.testing.assert_array_equal(ours[clear], expected[clear])

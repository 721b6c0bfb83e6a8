"""Every family against torch: logits, decoding, and the way back."""

import dataclasses

import jax
import numpy as np
import pytest
import torch
import transformers

from rlhf_jax import networks
from rlhf_jax.networks import huggingface

torch.set_num_threads(1)
transformers.utils.logging.disable_progress_bar()

LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=1e4,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=16,
)
SIZES = dict(
    vocab_size=37,
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=6,
    intermediate_size=20,
    max_position_embeddings=64,
    initializer_range=0.3,
    bos_token_id=None,
    eos_token_id=None,
)
GPT2 = dict(n_embd=24, n_layer=2, n_head=3, n_positions=64, initializer_range=0.3)
NEOX = dict(rope_theta=1e4, rope_type="default")
CASES = {
    # Grouped queries, biases, llama3 rope, untied.
    "llama": dict(
        num_key_value_heads=2,
        attention_bias=True,
        mlp_bias=True,
        rope_parameters=LLAMA3,
    ),
    # Head size of its own, window in every layer, tied.
    "mistral": dict(
        num_key_value_heads=3, sliding_window=4, head_dim=10, tie_word_embeddings=True
    ),
    # A window from the second layer on, odd sizes.
    "qwen2": dict(
        num_key_value_heads=1,
        hidden_size=15,
        num_attention_heads=3,
        head_dim=6,
        intermediate_size=13,
        use_sliding_window=True,
        sliding_window=4,
        max_window_layers=1,
    ),
    # q/k norm, linear rope scaling.
    "qwen3": dict(
        num_key_value_heads=1,
        head_dim=6,
        rope_parameters=dict(rope_type="linear", factor=3.0, rope_theta=5e3),
    ),
    # Soft caps small enough to bite, local then global.
    "gemma2": dict(
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=4,
        query_pre_attn_scalar=11,
        attn_logit_softcapping=3.0,
        final_logit_softcapping=5.0,
    ),
    # Two rope bases, the global one scaled, q/k norm.
    "gemma3_text": dict(
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=4,
        layer_types=["sliding_attention", "full_attention"],
        query_pre_attn_scalar=11,
        rope_parameters=dict(
            sliding_attention=dict(rope_type="default", rope_theta=100.0),
            full_attention=dict(rope_type="linear", factor=2.0, rope_theta=1e5),
        ),
    ),
    "gpt2": GPT2,
    # Partial rotary, parallel residual.
    "gpt_neox": dict(rope_parameters=dict(partial_rotary_factor=0.5, **NEOX)),
    "gpt_neox sequential": dict(
        use_parallel_residual=False,
        attention_bias=False,
        rope_parameters=dict(partial_rotary_factor=1.0, **NEOX),
    ),
}
TOKENS = np.random.default_rng(0).integers(0, 37, (2, 12))
MASK = np.array([[True] * 12, [False] * 5 + [True] * 7])


def make_config(case):
    family, fields = case.split()[0], CASES[case]
    sizes = dict(vocab_size=37) if family == "gpt2" else SIZES
    return transformers.AutoConfig.for_model(family, **{**sizes, **fields})


def make_model(case, auto=transformers.AutoModelForCausalLM, **fields):
    """A random model; what starts as constant is disturbed too."""
    torch.manual_seed(0)
    config = make_config(case)
    for name, value in fields.items():
        setattr(config, name, value)
    model = auto.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.3 * torch.randn_like(parameter)
    return model


def torch_logits(model, tokens, mask):
    positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    with torch.no_grad():
        return model(
            torch.tensor(tokens),
            attention_mask=torch.tensor(mask).long(),
            position_ids=torch.tensor(positions),
        ).logits.numpy()


@pytest.mark.identity("C32")
@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_torch(zoo, case, tmp_path):
    """Forward pass and cached decoding agree with torch, left-padded and not."""
    model = make_model(case)
    model.save_pretrained(tmp_path / "theirs")
    config, variables = huggingface.load(tmp_path / "theirs")
    assert config.family == case.split()[0]
    network = networks.language_model(config)
    wanted = torch_logits(model, TOKENS, MASK)
    inputs = zoo.inputs(TOKENS, MASK)
    found = zoo.logits(network, variables, inputs)
    np.testing.assert_allclose(found[MASK], wanted[MASK], atol=1e-4)
    # The last columns again, from the cache: past the window of 4 tokens.
    step = zoo.jit(lambda v, x, cache: network.apply(v, x, cache))
    prompt = jax.tree.map(lambda x: x[:, :9], inputs)
    cache = step(variables, prompt, network.init_cache(2, 14)).cache
    for column in range(9, 12):
        one = jax.tree.map(lambda x, c=column: x[:, c : c + 1], inputs)
        outputs = step(variables, one, cache)
        cache = outputs.cache
        logits = networks.logits(network, variables, outputs.hidden)[:, 0]
        np.testing.assert_allclose(logits, wanted[:, column], atol=1e-4)
    # And back: torch reads what we write, and computes the same bits.
    huggingface.save(tmp_path / "ours", config, variables)
    again = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", attn_implementation="eager"
    )
    np.testing.assert_array_equal(torch_logits(again.eval(), TOKENS, MASK), wanted)


@pytest.mark.parametrize(
    ("case", "changes"),
    [
        ("llama", {"rope_scaling": None}),
        ("mistral", {"window": None}),
        ("qwen2", {"window_layers": (True, True)}),
        ("qwen3", {"rope_scaling": None}),
        ("gemma2", {"attention_softcap": None}),
        ("gemma2", {"final_softcap": None}),
        ("gemma2", {"attention_scale": None}),
        ("gemma2", {"window_layers": (False, True)}),
        ("gemma3_text", {"rope_local_theta": None}),
        ("gemma3_text", {"rope_theta": 1e4}),
        ("gpt2", {"activation": "gelu"}),
        ("gpt_neox", {"rope_fraction": 1.0}),
        ("gpt_neox", {"parallel_residual": False}),
    ],
)
def test_parity_would_notice(zoo, case, changes):
    """Each special feature changes the logits: parity has something to see."""
    config = huggingface.config_from_huggingface(make_config(case).to_dict())
    network = networks.language_model(config)
    variables = zoo.variables(network)
    inputs = zoo.inputs(TOKENS, MASK)
    wanted = zoo.logits(network, variables, inputs)
    other = networks.language_model(dataclasses.replace(config, **changes))
    found = zoo.logits(other, variables, inputs)
    assert np.abs(found - wanted)[MASK].max() > 5e-4


@pytest.mark.parametrize("case", [c for c in CASES if "sequential" not in c])
def test_scalar_models_are_sequence_classifiers(zoo, case, tmp_path):
    """A reward model opens as a classifier of one label, with the same score."""
    model = make_model(
        case,
        transformers.AutoModelForSequenceClassification,
        num_labels=1,
        pad_token_id=0,
    )
    model.save_pretrained(tmp_path / "theirs")
    config, variables = huggingface.load(tmp_path / "theirs")
    huggingface.save(
        tmp_path / "ours",
        config,
        variables,
        scalar=True,
        extra_fields={"pad_token_id": 0},
    )
    again = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "ours", attn_implementation="eager"
    )
    assert again.config.num_labels == 1
    tokens = np.where(MASK[:, ::-1], np.maximum(TOKENS, 1), 0)
    mask = tokens != 0
    wanted = torch_logits(model, tokens, mask)
    np.testing.assert_array_equal(torch_logits(again.eval(), tokens, mask), wanted)
    network = networks.scalar_model(config)
    forward = zoo.jit(lambda v, x: network.apply(v, x).scalars)
    scalars = np.asarray(forward(variables, zoo.inputs(tokens, mask)))
    last = mask.sum(axis=1) - 1
    np.testing.assert_allclose(scalars[[0, 1], last], wanted[:, 0], atol=1e-4)


@pytest.mark.parametrize("case", ["gemma2", "gpt2", "gpt_neox"])
def test_bfloat16_weights_of_torch_come_back_bit_equal(case, tmp_path):
    """Every tensor that torch wrote is in what torch reads from us, bit for bit."""
    model = make_model(case).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "theirs")
    config, variables = huggingface.load(tmp_path / "theirs", dtype=None)
    dtypes = {leaf.dtype.name for leaf in jax.tree.leaves(variables)}
    assert dtypes == {"bfloat16"}
    huggingface.save(tmp_path / "ours", config, variables)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    wanted, found = model.state_dict(), again.state_dict()
    assert set(wanted) == set(found)
    for name, tensor in wanted.items():
        assert found[name].dtype == torch.bfloat16, name
        assert torch.equal(found[name], tensor), name


def test_greedy_decoding_is_that_of_torch(zoo, tmp_path):
    """Twelve tokens of a left-padded batch, token for token."""
    model = make_model("gemma3_text")
    model.save_pretrained(tmp_path)
    config, variables = huggingface.load(tmp_path)
    network = networks.language_model(config)
    generated = model.generate(
        torch.tensor(TOKENS),
        attention_mask=torch.tensor(MASK).long(),
        max_new_tokens=12,
        do_sample=False,
        pad_token_id=0,
    ).numpy()[:, 12:]
    step = zoo.jit(lambda v, x, cache: network.apply(v, x, cache))
    inputs, cache, found = zoo.inputs(TOKENS, MASK), network.init_cache(2, 24), []
    for i in range(12):
        outputs = step(variables, inputs, cache)
        cache = outputs.cache
        logits = networks.logits(network, variables, outputs.hidden)[:, -1]
        found.append(np.asarray(logits.argmax(-1)))
        one = zoo.inputs(found[-1][:, None])
        inputs = one._replace(positions=one.positions + MASK.sum(1)[:, None] + i)
    np.testing.assert_array_equal(np.stack(found, axis=1), generated)

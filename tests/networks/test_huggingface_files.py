"""Directories: bit-equal round trips, and everything wrong is named."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from rlhf_jax import networks, rng
from rlhf_jax.errors import UserError
from rlhf_jax.networks import huggingface, presets
from rlhf_jax.networks.config import FAMILIES
from rlhf_jax.sharding import mesh, shardings

SIZES = dict(vocab_size=13, width=8, num_layers=2, num_heads=2, mlp_width=6)


def make(family, dtype=jnp.float32, **fields):
    """A config of the family and random variables, drawn without a compiler."""
    own = {} if family in ("gpt2", "gpt_neox") else {"head_dim": 4}
    own |= {"rope_fraction": 0.5} if family == "gpt_neox" else {}
    config = presets.PRESETS[family](**{**SIZES, **own, **fields})
    network = networks.language_model(config, param_dtype=dtype)
    source = np.random.default_rng(0)
    shapes = jax.eval_shape(network.init, rng.root(0))
    return config, jax.tree.map(
        lambda x: jnp.asarray(source.standard_normal(x.shape), x.dtype), shapes
    )


def assert_same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def stored(directory):
    return safetensors.numpy.load_file(directory / "model.safetensors")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_round_trip_is_bit_equal(family, dtype, tmp_path):
    """Saved, loaded and saved again: the same arrays, the same file."""
    config, variables = make(family, dtype)
    huggingface.save(tmp_path / "a", config, variables)
    loaded_config, loaded = huggingface.load(tmp_path / "a", dtype=dtype)
    assert_same(loaded, variables)
    huggingface.save(tmp_path / "b", loaded_config, loaded)
    for name in ("model.safetensors", "config.json"):
        one, other = (tmp_path / part / name for part in "ab")
        assert one.read_bytes() == other.read_bytes()


def test_dtype_is_converted_or_kept(tmp_path):
    config, variables = make("llama", jnp.bfloat16)
    huggingface.save(tmp_path, config, variables)
    _, wide = huggingface.load(tmp_path, dtype=jnp.float32)
    assert_same(wide, jax.tree.map(lambda x: x.astype(jnp.float32), variables))
    _, kept = huggingface.load(tmp_path, dtype=None)
    assert_same(kept, variables)


def test_shards_are_written_and_read(tmp_path):
    config, variables = make("gemma2")
    huggingface.save(tmp_path, config, variables, max_shard_bytes=600)
    shards = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert len(shards) > 3 and shards[0] == f"model-00001-of-{len(shards):05d}." + (
        "safetensors"
    )
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(shards)
    total = sum(x.nbytes for x in jax.tree.leaves(variables))
    assert index["metadata"]["total_size"] == total
    assert_same(huggingface.load(tmp_path)[1], variables)


def test_arrays_are_placed_as_asked(tmp_path):
    config, variables = make("llama")
    huggingface.save(tmp_path, config, variables)
    axes = networks.logical_axes(networks.language_model(config))
    wanted = shardings(mesh(devices=jax.devices()[:1]), axes)
    _, loaded = huggingface.load(tmp_path, shardings=wanted)
    assert_same(loaded, variables)
    matches = jax.tree.map(lambda x, s: x.sharding == s, loaded, wanted)
    assert jax.tree.all(matches)


@pytest.fixture
def checkpoint(tmp_path):
    """A small GPT-2 with its tensors, and a way to write them changed."""
    config, variables = make("gpt2")
    huggingface.save(tmp_path, config, variables)
    tensors = stored(tmp_path)

    def rewrite(**changes):
        kept = {k: v for k, v in {**tensors, **changes}.items() if v is not None}
        safetensors.numpy.save_file(kept, tmp_path / "model.safetensors")
        return huggingface.load(tmp_path)

    return tmp_path, tensors, rewrite, variables


def test_unknown_tensor_is_named(checkpoint):
    _, tensors, rewrite, _ = checkpoint
    name = "transformer.h.2.ln_1.weight"  # a layer that the config does not have
    with pytest.raises(UserError, match=f"unknown tensor '{name}'"):
        rewrite(**{name: tensors["transformer.ln_f.weight"]})


def test_missing_tensor_is_named(checkpoint):
    _, _, rewrite, _ = checkpoint
    name = "transformer.h.1.mlp.c_fc.bias"
    with pytest.raises(UserError, match=f"missing tensor '{name}' \\(1 of "):
        rewrite(**{name: None})


def test_wrong_shape_is_named(checkpoint):
    _, tensors, rewrite, _ = checkpoint
    name = "transformer.h.0.mlp.c_fc.weight"
    turned = np.ascontiguousarray(tensors[name].T)
    with pytest.raises(UserError, match=rf"'{name}' has shape \(6, 8\).*\(8, 6\)"):
        rewrite(**{name: turned})


def test_duplicate_tensor_is_named(checkpoint):
    """With and without the prefix of the trunk, or in two shards."""
    _, tensors, rewrite, _ = checkpoint
    with pytest.raises(UserError, match="duplicate tensor '(transformer.)?wte.weight'"):
        rewrite(**{"wte.weight": tensors["transformer.wte.weight"]})


def test_duplicate_between_shards_is_named(tmp_path):
    config, variables = make("llama")
    huggingface.save(tmp_path, config, variables, max_shard_bytes=600)
    first, second = sorted(tmp_path.glob("*.safetensors"))[:2]
    both = safetensors.numpy.load_file(first) | safetensors.numpy.load_file(second)
    safetensors.numpy.save_file(both, second)
    with pytest.raises(UserError, match="duplicate tensor 'model.embed_tokens.weight'"):
        huggingface.load(tmp_path)


def test_missing_shard_is_named(tmp_path):
    config, variables = make("llama")
    huggingface.save(tmp_path, config, variables, max_shard_bytes=600)
    gone = sorted(tmp_path.glob("*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(UserError, match=gone.name):
        huggingface.load(tmp_path)


def test_checkpoint_of_the_bare_trunk_is_read(checkpoint):
    """Names without prefix, and the causal masks that GPT-2 was published with."""
    path, tensors, _, variables = checkpoint
    bare = {k.removeprefix("transformer."): v for k, v in tensors.items()}
    bare |= {"h.0.attn.bias": np.ones((1, 1, 4, 4), np.float32)}
    safetensors.numpy.save_file(bare, path / "model.safetensors")
    assert_same(huggingface.load(path)[1], variables)


def test_tied_head_must_equal_the_embedding(checkpoint):
    _, tensors, rewrite, variables = checkpoint
    table = tensors["transformer.wte.weight"]
    assert_same(rewrite(**{"lm_head.weight": table})[1], variables)
    with pytest.raises(UserError, match="'lm_head.weight' differs"):
        rewrite(**{"lm_head.weight": table + 1})


def test_missing_files_are_named(tmp_path):
    with pytest.raises(UserError, match="no config.json"):
        huggingface.load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="cannot read .*config.json"):
        huggingface.load(tmp_path)
    raw = huggingface.config_to_huggingface(make("llama")[0])
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(UserError, match="no model.safetensors"):
        huggingface.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match="cannot read .*model.safetensors"):
        huggingface.load(tmp_path)


def test_nothing_is_overwritten(checkpoint):
    path, _, _, variables = checkpoint
    with pytest.raises(UserError, match="already holds config.json"):
        huggingface.save(path, make("gpt2")[0], variables)


def test_save_refuses_adapters_and_missing_arrays(tmp_path):
    config, variables = make("llama")
    with pytest.raises(UserError, match="merge_lora"):
        huggingface.save(tmp_path, config, {**variables, "lora": {}})
    with pytest.raises(UserError, match="no array 'head/kernel'"):
        huggingface.save(tmp_path, config, variables, scalar=True)
    wide = make("llama", width=10, num_heads=5)[1]
    with pytest.raises(UserError, match="embedding/tokens"):
        huggingface.save(tmp_path, config, wide)


def test_classifier_of_more_labels_is_refused():
    raw = {"architectures": ["LlamaForSequenceClassification"]}
    assert huggingface.is_scalar({**raw, "num_labels": 1})
    assert huggingface.is_scalar({**raw, "id2label": {"0": "SCORE"}})
    with pytest.raises(UserError, match="this has 2"):
        huggingface.is_scalar(raw)
    assert not huggingface.is_scalar({"architectures": ["LlamaForCausalLM"]})

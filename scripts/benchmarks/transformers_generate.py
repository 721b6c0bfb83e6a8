"""Worker: sampling with `generate` of Hugging Face transformers."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import torch  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402
from work import Channel, asked  # noqa: E402


def main() -> None:
    _, work, _ = asked()
    channel = Channel()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=work.vocab,
        hidden_size=work.width,
        intermediate_size=work.mlp,
        num_hidden_layers=work.layers,
        num_attention_heads=work.heads,
        num_key_value_heads=work.heads,
        max_position_embeddings=2048,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=None,
    )
    model = LlamaForCausalLM(config).eval()
    tokens = torch.tensor(work.tokens())
    mask = torch.ones_like(tokens)
    lengths = dict(max_new_tokens=work.response, min_new_tokens=work.response)

    @torch.no_grad()
    def once() -> dict[str, float]:
        model.generate(tokens, attention_mask=mask, do_sample=True, top_k=0, **lengths)
        return {}

    channel.ready("torch", "transformers", threads=torch.get_num_threads())
    channel.serve(once)


if __name__ == "__main__":
    main()

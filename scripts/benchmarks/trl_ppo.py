"""Worker: a PPO iteration of TRL's PPOTrainer."""

from __future__ import annotations

import copy
import os
import tempfile
import warnings

os.environ.update(HF_HUB_OFFLINE="1", WANDB_DISABLED="true")
warnings.filterwarnings("ignore")

import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from tokenizers import Tokenizer, models  # noqa: E402
from transformers import (  # noqa: E402
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    TrainerCallback,
)
from trl import PPOConfig, PPOTrainer  # noqa: E402
from work import Channel, Work, asked  # noqa: E402


def networks(work: Work) -> dict[str, torch.nn.Module]:
    """Policy, reference, value network and reward model."""
    config = LlamaConfig(
        vocab_size=work.vocab,
        hidden_size=work.width,
        intermediate_size=work.mlp,
        num_hidden_layers=work.layers,
        num_attention_heads=work.heads,
        num_key_value_heads=work.heads,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
        num_labels=1,
    )
    policy = LlamaForCausalLM(config)
    return dict(
        model=policy,
        ref_model=copy.deepcopy(policy),
        value_model=LlamaForSequenceClassification(config),
        reward_model=LlamaForSequenceClassification(config),
    )


def tokenizer(work: Work) -> PreTrainedTokenizerFast:
    """One word per id."""
    words = {f"t{i}": i for i in range(work.vocab)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="t3")),
        pad_token="t0",
        eos_token="t1",
        bos_token="t2",
        padding_side="left",
    )


def settings(work: Work, most: int, folder: str) -> PPOConfig:
    """The work in TRL's words: no stop token, one minibatch, nothing saved."""
    return PPOConfig(
        output_dir=folder,
        per_device_train_batch_size=work.batch,
        local_rollout_forward_batch_size=work.batch,
        gradient_accumulation_steps=1,
        num_mini_batches=1,
        num_ppo_epochs=work.epochs,
        total_episodes=work.batch * most,
        response_length=work.response,
        stop_token=None,
        missing_eos_penalty=None,
        temperature=1.0,
        learning_rate=1e-5,
        num_sample_generations=0,
        bf16=False,
        fp16=False,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )


def main() -> None:
    _, work, most = asked()
    channel = Channel()
    torch.manual_seed(0)

    class Laps(TrainerCallback):
        """Each step of the trainer is one PPO iteration."""

        def on_step_end(self, *args, **keywords):
            channel.lap()

    rows = Dataset.from_dict({"input_ids": work.tokens() * (most + 2)})
    with tempfile.TemporaryDirectory() as folder:
        trainer = PPOTrainer(
            args=settings(work, most, folder),
            processing_class=tokenizer(work),
            train_dataset=rows,
            eval_dataset=rows.select(range(work.batch)),
            callbacks=[Laps()],
            **networks(work),
        )
        threads = torch.get_num_threads()
        channel.ready("trl", "torch", "transformers", "accelerate", threads=threads)
        channel.lap()
        trainer.train()


if __name__ == "__main__":
    main()

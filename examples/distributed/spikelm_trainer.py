"""transformers.Trainer: a small BERT with bi-spiking neurons learns to fill in characters.

    torchrun --standalone --nproc-per-node 2 -m examples.distributed.spikelm_trainer

All processes take the amplitudes from the first batch of all of them. Trainer keeps its checkpoints
in the folder; a run that was stopped goes on with --resume.
"""

import argparse
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pydoc_data.topics import topics

import torch
from torch.utils.data import Dataset
from transformers import BertConfig, BertLMHeadModel, Trainer, TrainingArguments

from spikeloom import convert

CONTEXT = 32


class Text(Dataset):
    """Stretches of the help texts of Python, as characters."""

    def __init__(self) -> None:
        whole = "\n".join(topics[name] for name in sorted(topics))
        alphabet = {letter: number for number, letter in enumerate(sorted(set(whole)))}
        self.codes = torch.tensor([alphabet[letter] for letter in whole])
        self.letters = len(alphabet)

    def __len__(self) -> int:
        return len(self.codes) // CONTEXT

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        ids = self.codes[number * CONTEXT : (number + 1) * CONTEXT]
        return {"input_ids": ids, "labels": ids}


def spiking_bert(letters: int) -> torch.nn.Module:
    """A causal BERT of 2 layers, width 32, with the neurons of SpikeLM."""
    config = BertConfig(
        vocab_size=letters,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=CONTEXT,
        is_decoder=True,
        use_cache=False,
    )
    return convert.SpikeLM(steps=1).apply(BertLMHeadModel(config))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--folder", default="spikelm")
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    torch.manual_seed(0)
    text = Text()
    trainer = Trainer(
        spiking_bert(text.letters),
        TrainingArguments(
            options.folder,
            max_steps=options.steps,
            per_device_train_batch_size=16,
            learning_rate=2e-3,
            save_steps=max(1, options.steps // 2),
            logging_steps=max(1, options.steps // 4),
            use_cpu=not torch.cuda.is_available(),  # or each process trains by itself
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=text,
    )
    outcome = trainer.train(resume_from_checkpoint=options.resume)
    if trainer.is_world_process_zero():
        print(f"training loss {outcome.training_loss:.3f}")


if __name__ == "__main__":
    main()

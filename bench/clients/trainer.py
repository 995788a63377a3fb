"""Hugging Face's Trainer with a small GPT-2 made from a configuration: python trainer.py STEPS [nodrop] prints seconds and the last loss."""

import sys
import tempfile
import time

import torch
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

torch.set_num_threads(2)
steps, drop = int(sys.argv[1]), 0.0 if "nodrop" in sys.argv else 0.1


class Words(Dataset):
    """Sequences in which a word follows from the one before it, most of the time."""

    def __len__(self) -> int:
        return 10_000

    def __getitem__(self, i: int) -> dict:
        words = torch.arange(64).mul(7).add(i) % 2000
        return {"input_ids": words, "labels": words}


class Seen(TrainerCallback):
    steps = 0

    def on_step_end(self, *args: object, **kwargs: object) -> None:
        self.steps += 1


torch.manual_seed(0)
config = GPT2Config(
    vocab_size=4096, n_positions=64, n_embd=128, n_layer=2, n_head=2, resid_pdrop=drop, embd_pdrop=drop, attn_pdrop=drop
)
model, seen = GPT2LMHeadModel(config), Seen()
with tempfile.TemporaryDirectory() as folder:
    arguments = TrainingArguments(
        folder, max_steps=steps, per_device_train_batch_size=8, gradient_accumulation_steps=2, max_grad_norm=1.0, warmup_steps=5,
        lr_scheduler_type="cosine", learning_rate=1e-3, logging_steps=steps, save_steps=max(steps // 2, 1), report_to=[],
        use_cpu=True, disable_tqdm=True, seed=0, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=Words(), callbacks=[seen])
    begin = time.perf_counter()
    done = trainer.train()
    seconds = time.perf_counter() - begin
    assert seen.steps == steps
    again = Trainer(GPT2LMHeadModel(config), arguments, train_dataset=Words())
    again.train(resume_from_checkpoint=True)  # the optimizer's state is read
print("seconds", seconds, "loss", done.training_loss)

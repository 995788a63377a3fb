"""Lightning's Trainer with a small network: python lightning_module.py STEPS [nodrop] prints seconds and the last loss."""

import logging
import sys
import tempfile
import time
import warnings

import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(2)
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.simplefilter("ignore")
steps, drop = int(sys.argv[1]), 0.0 if "nodrop" in sys.argv else 0.2


class Network(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        layers = []
        for before, width in ((64, 512), (512, 512), (512, 512)):
            layers += [nn.Linear(before, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(drop)]
        self.layers, self.last = nn.Sequential(*layers, nn.Linear(512, 10)), 0.0

    def training_step(self, batch: tuple, index: int) -> torch.Tensor:
        x, labels = batch
        loss = nn.functional.cross_entropy(self.layers(x), labels)
        self.last = loss.item()
        return loss

    def configure_optimizers(self) -> dict:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


torch.manual_seed(0)
x = torch.randn(64 * 100, 64)
data = TensorDataset(x, x[:, :10].argmax(1))
model = Network()
with tempfile.TemporaryDirectory() as folder:
    trainer = lightning.Trainer(
        max_steps=steps, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        gradient_clip_val=1.0, accumulate_grad_batches=2, default_root_dir=folder, enable_checkpointing=True,
    )  # fmt: skip
    loader = DataLoader(data, batch_size=64, shuffle=False)
    begin = time.perf_counter()
    trainer.fit(model, loader)
    print("seconds", time.perf_counter() - begin, "loss", model.last)

"""What the projector of stage two can learn from labels before a picture is drawn."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from macs.data.labels import read_labels
from macs.training.accelerator import TrainingError
from macs.training.feature_store import read_features


class LabelHead(nn.Linear):
    """Tokens (B, M, C) -> logits (B, L): sum_m softmax_m(a_m) v_m, votes v and weights a of each label and token."""

    def forward(self, tokens):
        votes, weights = super().forward(tokens).chunk(2, dim=-1)  # (B, M, L) each
        return (weights.softmax(1) * votes).sum(1)


def warm_up(projector, source_embeds, targets, epochs=10, batch_size=64, lr=2e-3, seed=0, disable_bar=False):
    """Teaches the projector, in place, to make tokens by which the labels of a recording are told apart.

    source_embeds (N, M, D); targets (N, L), 1 where a recording has the label. Returns the LabelHead that learned with
    it, which only shows what can be read off the tokens. The UNet takes no part, so this costs seconds; in the embedded
    world it saved half of the epochs with the UNet. Leaves the global generators as they were.
    """
    device, count = next(projector.parameters()).device, len(source_embeds)
    source_embeds, targets = source_embeds.to(device), targets.to(device, torch.float32)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        head = LabelHead(projector.adapter[-1].normalized_shape[0], 2 * targets.shape[1], device=device)
        model = nn.Sequential(projector, head).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr, weight_decay=0.05)
        steps = epochs * -(-count // batch_size)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
        with tqdm(total=steps, desc="warm-up by labels", disable=disable_bar) as bar:
            for _ in range(epochs):
                for rows in torch.randperm(count).split(batch_size):
                    loss = F.binary_cross_entropy_with_logits(model(source_embeds[rows]), targets[rows])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    schedule.step()
                    bar.update()
            bar.set_postfix(loss=f"{loss.item():.3f}")
    return head


@torch.no_grad()
def label_f1(projector, head, source_embeds, targets):
    """Macro F1 of the labels (N, L) that the head reads off the tokens: what a picture of them could show at best.

    A label that is nowhere, neither in the targets nor read, is left out of the mean. Leaves the projector in training.
    """
    read = head(projector.eval()(source_embeds.to(head.weight.device))).cpu() > 0
    projector.train()
    from sklearn.metrics import f1_score  # a second to import, and few trainings warm up

    return float(f1_score(targets.numpy(), read.numpy(), average="macro", zero_division=np.nan))


def warm_up_by_labels(labels_path, projector, dataset, seed, accelerator):
    """`warm_up` by the labels, in a csv file, of the recordings of a cached dataset. Raises TrainingError."""
    try:
        labels = read_labels(labels_path)
    except (OSError, ValueError) as error:
        raise TrainingError(str(error)) from error
    entries = {pair.clip_id: entry for pair, entry in zip(dataset.pairs, dataset.audio_entries, strict=True)}
    entries = {clip_id: entry for clip_id, entry in entries.items() if labels.get(clip_id)}
    if not entries:
        raise TrainingError(f"{labels_path}: none of the recordings has a label, e.g. {dataset.pairs[0].clip_id}")
    names = sorted({name for clip_id in entries for name in labels[clip_id]})
    targets = torch.tensor([[name in labels[clip_id] for name in names] for clip_id in entries])
    source_embeds = torch.stack([read_features(entry, 0) for entry in entries.values()])
    accelerator.print(f"warm-up by {len(entries)} recordings with {len(names)} different labels")
    disable_bar = not accelerator.is_local_main_process
    held_out = torch.arange(len(entries)) % 20 == 19
    known = source_embeds[~held_out], targets[~held_out]
    head = warm_up(projector.to(accelerator.device), *known, seed=seed, disable_bar=disable_bar)
    if held_out.any():
        found = label_f1(projector, head, source_embeds[held_out], targets[held_out])
        accelerator.print(f"read off the tokens of {held_out.sum()} others: macro F1 {found:.3f}")

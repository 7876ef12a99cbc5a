"""What the projector of stage two can learn from labels before a picture is drawn."""

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from macs.cache import read_features
from macs.data.labels import read_labels
from macs.training import TrainingError


def warm_up(projector, source_embeds, targets, epochs=10, batch_size=64, lr=2e-3, seed=0, disable_bar=False):
    """Teaches the projector, in place, to make tokens by which the labels of a recording are told apart.

    source_embeds (N, M, D); targets (N, L), 1 where a recording has the label. A linear head, thrown away afterwards,
    reads a vote v and its weight a for each label off each token; a recording's logit is sum_m softmax_m(a_m) v_m.
    The UNet takes no part, so this costs seconds; in the embedded world it saved half of the epochs with the UNet.
    Leaves the global generators as they were.
    """
    device, count = next(projector.parameters()).device, len(source_embeds)
    source_embeds, targets = source_embeds.to(device), targets.to(device, torch.float32)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        head = nn.Linear(projector.adapter[-1].normalized_shape[0], 2 * targets.shape[1], device=device)
        model = nn.ModuleList([projector, head]).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr, weight_decay=0.05)
        steps = epochs * -(-count // batch_size)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
        with tqdm(total=steps, desc="warm-up by labels", disable=disable_bar) as bar:
            for _ in range(epochs):
                for rows in torch.randperm(count).split(batch_size):
                    votes, weights = head(projector(source_embeds[rows])).chunk(2, dim=-1)  # (B, M, L) each
                    logits = (weights.softmax(1) * votes).sum(1)
                    loss = F.binary_cross_entropy_with_logits(logits, targets[rows])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    schedule.step()
                    bar.update()
            bar.set_postfix(loss=f"{loss.item():.3f}")


def warm_up_by_labels(args, accelerator, projector, dataset):
    """`warm_up` by the labels, in the file args.labels, of the recordings of a cached dataset. Raises TrainingError."""
    try:
        labels = read_labels(args.labels)
    except (OSError, ValueError) as error:
        raise TrainingError(str(error)) from error
    entries = {pair.clip_id: entry for pair, entry in zip(dataset.pairs, dataset.audio_entries, strict=True)}
    entries = {clip_id: entry for clip_id, entry in entries.items() if labels.get(clip_id)}
    if not entries:
        raise TrainingError(f"{args.labels}: none of the recordings has a label, e.g. {dataset.pairs[0].clip_id}")
    names = sorted({name for clip_id in entries for name in labels[clip_id]})
    targets = torch.tensor([[name in labels[clip_id] for name in names] for clip_id in entries])
    source_embeds = torch.stack([read_features(entry, 0) for entry in entries.values()])
    accelerator.print(f"warm-up by {len(entries)} recordings with {len(names)} different labels")
    disable_bar = not accelerator.is_local_main_process
    warm_up(projector.to(accelerator.device), source_embeds, targets, seed=args.seed, disable_bar=disable_bar)

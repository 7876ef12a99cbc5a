"""The audio attention: every cross-attention attends to the text and, by keys and values of its own, to the M sources.

Its output is text attention + scale · audio attention (paper, stage 2; the decoupled cross-attention of IP-Adapter,
Ye et al. 2023). Asked for nothing more, it is diffusers' `IPAdapterAttnProcessor2_0`. It can weigh the sources, confine
them to regions of the picture, and record how the attention is shared among them.
"""

import contextlib

import torch
import torch.nn.functional as F
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from torch import nn


def layer_sizes(latent_size):
    """{number of places: (height, width)} of the UNet's layers, each of half the size (rounded up) of the one above."""
    height, width = latent_size
    sizes = {height * width: (height, width)}
    while height * width > 1:
        height, width = (height + 1) // 2, (width + 1) // 2
        sizes[height * width] = (height, width)
    return sizes


def check_source_weights(weights, num_sources, num_clips=1):
    """M weights, or (B, M) -> (1 or B, M) float32. Raises ValueError: another length, NaN, infinite or negative."""
    weights = torch.as_tensor(weights, dtype=torch.float32)
    if weights.shape not in [(num_sources,), (num_clips, num_sources)]:
        raise ValueError(
            f"source_weights: expected {num_sources} numbers, one per source, or ({num_clips}, {num_sources}), but got "
            f"shape {tuple(weights.shape)}"
        )
    if not (weights.isfinite() & (weights >= 0)).all():
        raise ValueError(
            f"source_weights: expected finite numbers from 0 (a source left out), but got {weights.tolist()}"
        )
    return weights.reshape(-1, num_sources)


def check_source_masks(masks, num_sources, height, width, num_clips=1):
    """Where each source may draw -> (1 or B, M, height, width) float32 in 0-1, at the picture's size.

    masks: (M, height, width), for every clip its own (B, M, height, width), or {source: (left, top, right, bottom)}
    with source from 0 to M - 1 and the box in shares of the picture's width and height, as (0, 0, 0.5, 1) for its left
    half; sources without a box may draw everywhere. Raises ValueError.
    """
    if isinstance(masks, dict):
        boxes, masks = masks, torch.ones(num_sources, height, width)
        for source, box in boxes.items():
            if source not in range(num_sources):
                raise ValueError(f"source_masks: expected sources from 0 to {num_sources - 1}, but got {source!r}")
            if len(box) != 4 or not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
                raise ValueError(
                    f"source_masks: expected (left, top, right, bottom) in shares of the picture, from 0 to 1 and left "
                    f"before right, top before bottom, but got {box} for source {source}"
                )
            left, right = round(box[0] * width), round(box[2] * width)
            top, bottom = round(box[1] * height), round(box[3] * height)
            masks[source] = 0
            masks[source, top:bottom, left:right] = 1
    masks = torch.as_tensor(masks, dtype=torch.float32)
    shape = (num_sources, height, width)
    if masks.shape not in [shape, (num_clips, *shape)]:
        raise ValueError(
            f"source_masks: expected shape {shape} (sources, the picture's height and width) or {(num_clips, *shape)}, "
            f"but got {tuple(masks.shape)}"
        )
    if not ((masks >= 0) & (masks <= 1)).all():
        raise ValueError("source_masks: expected values from 0 (may not draw here) to 1, but some are outside or NaN")
    return masks.reshape(-1, *shape)


class SourceControl:
    """What all audio attentions of one UNet are asked for; they share it. Nothing outside `with control.during(...)`.

    scale: weight of the audio attention, on top of each layer's own.
    bias: {number of places N or 1: (log-weights, audible)}; log-weights (R, 1, N or 1, M) are added to the attention's
    logits, audible (R, 1, N or 1, 1) is 0 where no source may draw. The batch is a whole number of times R.
    sums: {N: (sum over calls of the last R rows' attention, mean over heads (R, N, M); number of calls)}.
    """

    def __init__(self):
        self.scale, self.bias, self.sums = 1.0, None, None
        self.weights = self.masks = None  # what bias was made from
        self.rows = 0  # number of images; they are the last rows of every batch, behind the unguided ones

    @contextlib.contextmanager
    def during(self, latent_size, rows, scale=1.0, weights=None, masks=None, record=False):
        """Sets all of it for the `with` block.

        latent_size: (height, width). rows: number of images. weights (R, M) and masks (R, M, H, W) as the checks above
        return them, on the UNet's device; R is 1 or rows. record: keep the running sums.
        """
        before = self.__dict__.copy()
        self.scale, self.weights, self.masks, self.rows = scale, weights, masks, rows
        self.bias, self.sums = None, {} if record else None
        if masks is not None:
            masks = masks if weights is None else masks * weights[..., None, None]
            self.bias = {n: _bias(F.interpolate(masks, s, mode="area")) for n, s in layer_sizes(latent_size).items()}
        elif weights is not None:
            self.bias = dict.fromkeys(layer_sizes(latent_size), _bias(weights[..., None, None]))
        try:
            yield self
        finally:
            self.__dict__.update(before)

    @torch.compiler.disable
    def record(self, shares):
        """Adds one call's attention (B, heads, N, M) to the running sums: memory does not grow with the steps."""
        shares = shares[-self.rows :].mean(1)
        total, calls = self.sums.get(shares.shape[1], (0, 0))
        self.sums[shares.shape[1]] = (total + shares, calls + 1)

    def mean_shares(self, latent_size):
        """The mean over calls, layers and heads of what was recorded, (images, M, h, w) at the latents' size."""
        shares, sizes = 0, layer_sizes(latent_size)
        for places, (total, _) in self.sums.items():
            total = total.transpose(1, 2).unflatten(2, sizes[places])
            shares = shares + F.interpolate(total, tuple(latent_size), mode="bilinear")
        return shares / sum(calls for _, calls in self.sums.values())


def _bias(weights):
    """Weights (R, M, h, w) >= 0 -> log-weights (R, 1, h·w, M) and audible (R, 1, h·w, 1); see SourceControl."""
    weights = weights.flatten(2).transpose(1, 2)[:, None]
    audible = weights.sum(-1, keepdim=True) > 0
    # where no source may draw the logits stay as they are: a softmax over -inf alone is NaN
    return torch.where(audible, weights, 1.0).log(), audible.float()


class AudioAttnProcessor(IPAdapterAttnProcessor2_0):
    """The attention of one attn2 of a UNet2DConditionModel. The base class is what diffusers knows IP-Adapters by.

    to_k_ip, to_v_ip: linear layers, cross_attention_dim -> the attention's width. control: the UNet's SourceControl.
    It goes through diffusers' dispatch, so `unet.set_attention_backend` reaches it.
    """

    _attention_backend = None
    _parallel_config = None

    def __init__(self, to_k_ip, to_v_ip, num_sources, control):
        nn.Module.__init__(self)  # the base class's would make layers that are replaced at once
        self.hidden_size, self.cross_attention_dim = to_k_ip.out_features, to_k_ip.in_features
        self.num_tokens, self.scale, self.control = [num_sources], [1.0], control
        self.to_k_ip, self.to_v_ip = nn.ModuleList([to_k_ip]), nn.ModuleList([to_v_ip])

    def __call__(self, attn, hidden_states, encoder_hidden_states, attention_mask=None):
        """hidden_states (B, N, C), encoder_hidden_states (text (B, L, D), [sources (B, 1, M, D)]) -> (B, N, C)."""
        text, (sources,) = encoder_hidden_states
        sources = sources.flatten(1, 2)
        if attention_mask is not None:
            attention_mask = attn.prepare_attention_mask(attention_mask, text.shape[1], len(text))
            attention_mask = attention_mask.view(len(text), attn.heads, -1, attention_mask.shape[-1])
        query = attn.to_q(hidden_states).unflatten(2, (attn.heads, -1))  # (B, N, heads, d), as the dispatch wants it
        key, value = (layer(text).unflatten(2, (attn.heads, -1)) for layer in (attn.to_k, attn.to_v))
        out = self._attend(query, key, value, attention_mask).flatten(2)

        scale = self.scale[0] * self.control.scale
        if scale != 0:
            key, value = (layer[0](sources).unflatten(2, (attn.heads, -1)) for layer in (self.to_k_ip, self.to_v_ip))
            if self.control.bias is None and self.control.sums is None:
                heard = self._attend(query, key, value)
            else:
                heard = self._attend_to_sources(query, key, value)
            out = out + scale * heard.flatten(2)
        return attn.to_out[1](attn.to_out[0](out))  # linear, dropout

    def _attend(self, query, key, value, attention_mask=None):
        return dispatch_attention_fn(
            query, key, value, attention_mask, backend=self._attention_backend, parallel_config=self._parallel_config
        )

    def _attend_to_sources(self, query, key, value):
        """The same attention written out, M being small: with weights and regions, and recorded."""
        query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))  # (B, heads, N or M, d)
        logits = (query @ key.transpose(2, 3)).float() * query.shape[-1] ** -0.5
        if self.control.bias is None:
            shares = logits.softmax(-1)
        else:
            repeat = len(query) // len(self.control.bias[query.shape[2]][0])
            bias, audible = (t.repeat(repeat, 1, 1, 1) for t in self.control.bias[query.shape[2]])
            shares = (logits + bias).softmax(-1) * audible
        if self.control.sums is not None:
            self.control.record(shares)
        return (shares.to(value.dtype) @ value).transpose(1, 2)

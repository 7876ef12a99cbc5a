"""The adapter: M embeddings -> M tokens, and their keys and values in every cross-attention (paper, stage 2).

This is an IP-Adapter in diffusers' sense. It is a component of its own because a UNet saved with IP-Adapter processors
holds names that the stock UNet's `from_pretrained` silently ignores: it is saved by itself and put into the stock UNet
when a pipeline or a training is set up.
"""

import contextlib

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers.models.embeddings import MultiIPAdapterImageProjection
from torch import nn

from macs.attention import AudioAttnProcessor, SourceControl


class AudioProjector(nn.Module):
    """M CLAP embeddings -> M tokens of Stable Diffusion's conditioning space (paper, the MLP).

    num_sources: M. embedding_dim: CLAP's (512). hidden_dim: the MLP's. cross_attention_dim: the UNet's (768).
    """

    def __init__(self, num_sources=6, embedding_dim=512, hidden_dim=2048, cross_attention_dim=768, dropout=0.5):
        super().__init__()
        self.pe = nn.Parameter(0.05 * torch.randn(num_sources, embedding_dim))  # which rank a source has
        self.adapter = nn.Sequential(
            nn.LayerNorm(embedding_dim),
            nn.Linear(embedding_dim, hidden_dim),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_dim, cross_attention_dim),
            nn.LayerNorm(cross_attention_dim),
        )
        for module in self.adapter:
            if isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, embeddings):
        """(B, k, embedding_dim), k <= M: the first k sources -> tokens (B, k, cross_attention_dim)."""
        return self.adapter(embeddings + self.pe[: embeddings.shape[1]])


def cross_attention_sizes(unet):
    """{name of each cross-attention (attn2) of the UNet: its width}, in the UNet's order.

    Motion modules (AnimateDiff) have an attn2, too, which attends to other frames, not to the text: it does not count.
    """
    names = [name.removesuffix(".processor") for name in unet.attn_processors if name.endswith("attn2.processor")]
    names = [name for name in names if ".motion_modules." not in name]
    return {name: unet.get_submodule(name).to_k.out_features for name in names}


def version_name(layers, cross_attention_dim):
    """Which Stable Diffusion has these cross-attentions ({name: width}) and this width of the text, in words."""
    known = {(16, 768): "Stable Diffusion 1.x", (16, 1024): "Stable Diffusion 2.x", (70, 2048): "Stable Diffusion XL"}
    name = known.get((len(layers), cross_attention_dim), "a Stable Diffusion")
    widths = ", ".join(str(width) for width in sorted(set(layers.values())))
    return f"{name} ({len(layers)} cross-attentions of widths {widths}; cross_attention_dim {cross_attention_dim})"


def match_clips(unet, args, kwargs):
    """Forward pre-hook of a UNet: each image of a batch gets its own clip's embeddings.

    diffusers' own pipelines take the embeddings of B clips for one image's and repeat all of them for every image
    (diffusers issue 9813): row r of a batch then comes with B clips, of which one is its own.
    """
    added = kwargs.get("added_cond_kwargs") or {}
    (embeds,) = added.get("image_embeds") or [None]
    sample = args[0] if args else kwargs["sample"]
    rows = len(sample)
    if embeds is None or len(embeds) == rows or sample.ndim != 4:  # the rows of a film's (B, C, F, h, w) are no images
        return None
    # with guidance the first half of the rows hears nothing, and the images are counted from the second half on
    guided = rows % 2 == 0 and not embeds[: len(embeds) // 2].any()
    images = rows // 2 if guided else rows
    clips = len(embeds) // rows
    if len(embeds) % rows or not clips or images % clips:
        raise ValueError(f"expected as many prompts as clips are heard, but got {images} for {clips or len(embeds)}")
    row = torch.arange(rows, device=embeds.device)
    own = embeds.unflatten(0, (rows, clips))[row, row % images // (images // clips)]  # of (rows, clips, 1, M, D)
    return args, kwargs | {"added_cond_kwargs": added | {"image_embeds": [own]}}


class AudioAdapter(ModelMixin, ConfigMixin):
    """Projector and audio keys and values: all that stage two trains (19.2 M + 2.6 M at Stable Diffusion 1.4's size).

    layers: [name, width] of every cross-attention, as `cross_attention_sizes(unet).items()` gives them (a list: JSON
    objects lose their order).
    num_sources, embedding_dim, hidden_dim, cross_attention_dim, dropout: see AudioProjector.
    prediction_type: what the Stable Diffusion that it is made for predicts, as its scheduler says: "epsilon" or
    "v_prediction"; None where that is not known. With `layers` and `cross_attention_dim` it says which version that is.
    """

    @register_to_config
    def __init__(
        self,
        layers,
        num_sources=6,
        embedding_dim=512,
        hidden_dim=2048,
        cross_attention_dim=768,
        dropout=0.5,
        prediction_type=None,
    ):
        super().__init__()
        self.projector = AudioProjector(num_sources, embedding_dim, hidden_dim, cross_attention_dim, dropout)
        self.to_k_ip = nn.ModuleList(nn.Linear(cross_attention_dim, width, bias=False) for _, width in layers)
        self.to_v_ip = nn.ModuleList(nn.Linear(cross_attention_dim, width, bias=False) for _, width in layers)
        self.control = SourceControl()  # of the UNets it is attached to

    @classmethod
    def from_unet(cls, unet, num_sources=6, embedding_dim=512, hidden_dim=2048, dropout=0.5, prediction_type=None):
        """A new adapter for this UNet, in float32; its keys and values start as the text's (paper, stage 2)."""
        # by keyword: diffusers takes positional arguments for defaults, which `from_config` then leaves out
        adapter = cls(
            layers=[list(layer) for layer in cross_attention_sizes(unet).items()],
            num_sources=num_sources,
            embedding_dim=embedding_dim,
            hidden_dim=hidden_dim,
            cross_attention_dim=unet.config.cross_attention_dim,
            dropout=dropout,
            prediction_type=prediction_type,
        )
        for (name, _), to_k, to_v in zip(adapter.config.layers, adapter.to_k_ip, adapter.to_v_ip, strict=True):
            attention = unet.get_submodule(name)
            to_k.load_state_dict(attention.to_k.state_dict())
            to_v.load_state_dict(attention.to_v.state_dict())
        return adapter.to(unet.device)

    def check_unet(self, unet):
        """Raises ValueError where the UNet's cross-attentions are not those the adapter was made for."""
        expected, found = dict(self.config.layers), cross_attention_sizes(unet)
        if found != expected or unet.config.cross_attention_dim != self.config.cross_attention_dim:
            ours = version_name(expected, self.config.cross_attention_dim)
            theirs = version_name(found, unet.config.cross_attention_dim)
            raise ValueError(
                f"this adapter was made for {ours}, but the UNet is of {theirs}; use the adapter with the Stable "
                "Diffusion it was trained on"
            )

    def check_prediction(self, scheduler_config):
        """Raises ValueError where the model of this scheduler predicts something else than the adapter's did."""
        expected, found = self.config.prediction_type, scheduler_config.get("prediction_type", "epsilon")
        if expected not in (None, found):
            raise ValueError(
                f"this adapter was made for a Stable Diffusion with prediction_type {expected}, but the scheduler's is "
                f"{found}; use the adapter with the Stable Diffusion it was trained on"
            )

    def attach(self, unet):
        """Puts the adapter into a stock UNet, in place; the parameters stay shared with the adapter.

        The UNet then takes `added_cond_kwargs={"image_embeds": [embeddings]}`, embeddings (B, 1, M, embedding_dim).
        Raises ValueError as `check_unet`.
        """
        self.check_unet(unet)
        processors = dict(unet.attn_processors)
        for name, to_k, to_v in zip(dict(self.config.layers), self.to_k_ip, self.to_v_ip, strict=True):
            processors[f"{name}.processor"] = AudioAttnProcessor(to_k, to_v, self.config.num_sources, self.control)
        unet.set_attn_processor(processors)
        unet.encoder_hid_proj = MultiIPAdapterImageProjection([self.projector])
        # the attribute alone, as diffusers' IP-Adapters do: a saved config that held it could not be opened
        unet.config.encoder_hid_dim_type = "ip_image_proj"
        if match_clips not in unet._forward_pre_hooks.values():
            unet.register_forward_pre_hook(match_clips, with_kwargs=True)

    def attached(self, unet):
        """Whether every audio attention is in this UNet; methods that set attention processors may have removed it."""
        processors = unet.attn_processors
        return unet.config.encoder_hid_dim_type == "ip_image_proj" and all(
            getattr(processors.get(f"{name}.processor"), "control", None) is self.control
            for name, _ in self.config.layers
        )

    def detach(self, unet):
        """Makes the UNet stock again, in place."""
        names = {f"{name}.processor" for name, _ in self.config.layers}
        unet.set_attn_processor(
            {n: AttnProcessor2_0() if n in names else processor for n, processor in unet.attn_processors.items()}
        )
        unet.encoder_hid_proj = None
        unet.config.encoder_hid_dim_type = None

    @contextlib.contextmanager
    def detached(self, unet):
        """The UNet is stock inside the `with` block, for instance to save it; its processors come back as they were."""
        processors, projection = dict(unet.attn_processors), unet.encoder_hid_proj
        self.detach(unet)
        try:
            yield unet
        finally:
            unet.set_attn_processor(processors)
            unet.encoder_hid_proj = projection
            unet.config.encoder_hid_dim_type = "ip_image_proj"

"""Projector, audio attention and sampling against the reference numbers (tests/reference/generator.npz)."""

import json

import pytest
import torch
from diffusers import UNet2DConditionModel

from conftest import REFERENCE, stock_unet
from macs import AudioAdapter
from macs.adapter import AudioProjector, cross_attention_sizes


@torch.no_grad()
def test_projector_equals_the_reference(adapted, generator_reference):
    _, adapter = adapted
    assert (adapter.projector(generator_reference["embeddings"]) - generator_reference["projected"]).abs().max() < 1e-5
    null = adapter.projector(torch.zeros_like(generator_reference["embeddings"]))
    assert (null - generator_reference["projected_null"]).abs().max() < 1e-5


@pytest.mark.parametrize("loudness, output", [(1, "unet_out"), (0, "unet_out_null_audio")])
@torch.no_grad()
def test_unet_equals_the_reference(adapted, generator_reference, loudness, output):
    unet, _ = adapted
    embeds = [loudness * generator_reference["embeddings"][:, None]]
    noise = unet(
        generator_reference["latents"],
        generator_reference["timesteps"],
        generator_reference["text"],
        added_cond_kwargs={"image_embeds": embeds},
    ).sample
    assert (noise - generator_reference[output]).abs().max() < 1e-5


@torch.no_grad()
def test_scale_zero_is_the_stock_unet_exactly(generator_reference):
    unet = stock_unet()
    inputs = (generator_reference["latents"], generator_reference["timesteps"], generator_reference["text"])
    stock = unet(*inputs).sample
    adapter = AudioAdapter.from_unet(unet).eval()
    adapter.attach(unet)
    condition = {"image_embeds": [generator_reference["embeddings"][:, None]]}
    assert not torch.equal(unet(*inputs, added_cond_kwargs=condition).sample, stock)
    for name, processor in unet.attn_processors.items():
        if name.endswith("attn2.processor"):
            processor.scale = [0.0]
    assert torch.equal(unet(*inputs, added_cond_kwargs=condition).sample, stock)
    adapter.detach(unet)
    assert torch.equal(unet(*inputs).sample, stock)


def test_the_projector_starts_with_xavier_normal_weights_and_biases_of_zero():
    torch.manual_seed(0)
    projector = AudioProjector()
    assert projector.pe.std().item() == pytest.approx(0.05, rel=0.05)
    linears = [module for module in projector.adapter if isinstance(module, torch.nn.Linear)]
    assert len(linears) == 2
    for linear in linears:
        assert linear.weight.std().item() == pytest.approx((2 / sum(linear.weight.shape)) ** 0.5, rel=0.02)
        assert linear.weight.abs().max() > 4 * linear.weight.std()  # a normal distribution, not a uniform one
        assert not linear.bias.any()


def test_keys_and_values_start_as_the_texts():
    unet = stock_unet()
    adapter = AudioAdapter.from_unet(unet)
    for (name, _), to_k, to_v in zip(adapter.config.layers, adapter.to_k_ip, adapter.to_v_ip, strict=True):
        assert torch.equal(to_k.weight, unet.get_submodule(name).to_k.weight)
        assert torch.equal(to_v.weight, unet.get_submodule(name).to_v.weight)
        assert to_k.weight is not unet.get_submodule(name).to_k.weight


def test_round_trip_and_attachment_by_reference(tmp_path):
    unet = stock_unet()
    adapter = AudioAdapter.from_unet(unet)
    adapter.save_pretrained(tmp_path)
    again = AudioAdapter.from_pretrained(tmp_path)
    for name, value in adapter.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    again.attach(unet)
    again.to_k_ip[0].weight.data.zero_()  # the UNet's processor holds the same tensor
    name, _ = again.config.layers[0]
    assert not unet.attn_processors[f"{name}.processor"].to_k_ip[0].weight.any()


def test_another_unet_is_refused():
    config = json.loads((REFERENCE / "small_unet_config.json").read_text())
    adapter = AudioAdapter.from_unet(stock_unet())
    with pytest.raises(ValueError, match="64, 128"):
        adapter.attach(UNet2DConditionModel(**config | {"block_out_channels": [64, 128]}))


def test_size_at_stable_diffusion_1_4():
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, sample_size=64)
        adapter = AudioAdapter([list(layer) for layer in cross_attention_sizes(unet).items()])
    new = sum(p.numel() for p in adapter.parameters()) - sum(p.numel() for p in adapter.projector.parameters())
    assert round(new / 1e6, 1) == 19.2  # million, the paper's new parameters at Stable Diffusion 1.4's size
    assert len(adapter.config.layers) == 16

"""What sound costs beside Stable Diffusion 1.4, in numbers that no machine's noise touches: operations and waits."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import ClapConfig

from macs import AudioAdapter, ClapEncoder, Separator
from macs.adapter import cross_attention_sizes
from macs.attribution import leave_one_out

STEPS, GUIDED = 20, 2
UNET_PASS = 0.8033e12  # operations of one row at 64x64 latents, counted by others; twice the multiply-adds


def operations(function):
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


@pytest.fixture
def generator():
    """(UNet, adapter, arguments of a guided call of the UNet) at Stable Diffusion 1.4's size, without numbers."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768).eval()
        adapter = AudioAdapter(layers=[list(layer) for layer in cross_attention_sizes(unet).items()]).eval()
        text = torch.empty(GUIDED, 77, 768)
        arguments = (torch.empty(GUIDED, 4, 64, 64), torch.empty((), dtype=torch.int64))
        conditions = {"encoder_hidden_states": text, "return_dict": False}
        sound = {"added_cond_kwargs": {"image_embeds": [torch.empty(GUIDED, 1, 6, 512)]}}
    return unet, adapter, arguments, conditions, sound


@pytest.mark.slow
def test_sound_adds_less_than_a_twentieth_of_the_operations(generator):
    unet, adapter, arguments, conditions, sound = generator
    stock = operations(lambda: unet(*arguments, **conditions))
    assert stock == pytest.approx(GUIDED * UNET_PASS, rel=1e-3)
    adapter.attach(unet)
    heard = operations(lambda: unet(*arguments, **conditions, **sound))
    separator, clap = Separator().eval(), ClapEncoder(ClapConfig()).eval()
    audio = operations(lambda: separator(torch.zeros(1, 128000)))
    audio += 6 * operations(lambda: clap.encode_audio(torch.zeros(1, 128000)))
    ratio = (STEPS * heard + audio) / (STEPS * stock)  # the picture's decoding, which both have, left out
    assert 1 < ratio < 1.05


@pytest.mark.parametrize("asked", ["nothing", "weights", "regions", "maps"])
@torch.no_grad()
def test_a_step_never_waits_for_the_device(generator, asked):
    """A tensor without numbers cannot become a Python number or go to the CPU: either would be an error here."""
    unet, adapter, arguments, conditions, sound = generator
    adapter.attach(unet)
    settings = {
        "nothing": {},
        "weights": {"weights": torch.empty(1, 6, device="meta")},
        "regions": {"masks": torch.empty(1, 6, 512, 512, device="meta")},
        "maps": {"record": True},
    }[asked]
    with adapter.control.during((64, 64), 1, **settings) as control:
        drawn = unet(*arguments, **conditions, **sound)[0]
        if asked == "maps":
            assert control.mean_shares((64, 64)).shape == (1, 6, 64, 64)
    assert drawn.shape == (GUIDED, 4, 64, 64)
    with pytest.raises((RuntimeError, NotImplementedError)):
        drawn.sum().item()  # the test can fail


@torch.no_grad()
def test_nor_does_a_step_of_the_influence(generator):
    unet, adapter, arguments, conditions, sound = generator
    adapter.attach(unet)

    class Velocities:
        config = {"prediction_type": "v_prediction"}
        alphas_cumprod = torch.empty(1000, device="meta")

    with adapter.control.during((64, 64), 1), leave_one_out(unet, adapter.control, Velocities()) as changes:
        unet(*arguments, **conditions, **sound)
    assert changes.total.shape == (1, 6, 64, 64)

"""Frames, their noise, the mp4 and AnimateDiff's motion modules."""

import av
import numpy as np
import pytest
import soundfile
import torch
from diffusers import MotionAdapter
from PIL import Image

from macs.adapter import cross_attention_sizes
from macs.audio import AudioError
from macs.film import choose_noise, film_frames, frame_times, motion_drawer, sound_gain, write_film
from macs.noise import wandering_noise
from macs.timeline import Timeline


def test_frames_cover_the_recording():
    assert frame_times(2.0, 4).tolist() == [0.125, 0.375, 0.625, 0.875, 1.125, 1.375, 1.625, 1.875]
    assert len(frame_times(2.1, 4)) == 9 and len(frame_times(0.01, 1)) == 1


def test_noise_is_held_or_wanders():
    times = torch.linspace(0, 30, 61, dtype=torch.float64)
    held = wandering_noise((4, 16, 16), times, seed=3)
    assert (held == held[0]).all() and held.std().item() == pytest.approx(1, abs=0.05)
    assert not torch.equal(held[0], wandering_noise((4, 16, 16), times[:1], seed=4)[0])
    wandering = wandering_noise((4, 16, 16), times, seed=3, wander=10.0)
    assert all(noise.std().item() == pytest.approx(1, abs=0.06) for noise in wandering)
    steps = (wandering[1:] - wandering[:-1]).flatten(1).norm(dim=1) / 32
    assert steps.max() < 0.1 and steps.min() > 0.05  # half a second of a quarter turn in 10 s: 0.0785
    ends = torch.stack([wandering[0], wandering[20], wandering[40]]).flatten(1)
    assert torch.corrcoef(ends).fill_diagonal_(0).abs().max() < 0.12
    assert torch.equal(wandering_noise((4, 16, 16), times[7:8], seed=3, wander=10.0)[0], wandering[7])
    # the noise that comes after ten seconds is the seed's next one
    assert torch.equal(wandering_noise((4, 16, 16), times[:1], seed=3, number=1)[0], wandering[20])


@pytest.mark.parametrize("rate, channels, size", [(44100, 2, (64, 48)), (7000, 1, (33, 51))])
def test_the_mp4_has_picture_and_sound(tmp_path, rate, channels, size):
    t = np.arange(3 * rate) / rate
    tone = 0.5 * np.sin(2 * np.pi * 440 * t)[:, None] * np.ones(channels)
    soundfile.write(tmp_path / "tone.wav", tone, rate)
    frames = [Image.new("RGB", size, (30 * i, 255 - 30 * i, 100)) for i in range(6)]
    write_film(tmp_path / "film.mp4", frames, 2, tmp_path / "tone.wav")
    with av.open(str(tmp_path / "film.mp4")) as film:
        video, audio = film.streams.video[0], film.streams.audio[0]
        assert video.codec_context.name == "h264" and audio.codec_context.name == "aac"
        assert video.codec_context.pix_fmt == "yuv420p" and float(video.average_rate) == 2
        seen = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert len(seen) == 6 and seen[0].shape == (size[1] + size[1] % 2, size[0] + size[0] % 2, 3)
    for picture, frame in zip(seen, frames, strict=True):
        assert np.abs(picture[10:-10, 10:-10].mean((0, 1)) - frame.getpixel((0, 0))).max() < 6
    with av.open(str(tmp_path / "film.mp4")) as film:
        sound = np.concatenate([frame.to_ndarray()[0] for frame in film.decode(audio=0)])
        heard = film.streams.audio[0].rate
    assert len(sound) / heard == pytest.approx(3, abs=0.15)
    spectrum = np.abs(np.fft.rfft(sound[:heard]))
    assert spectrum.argmax() == pytest.approx(440, abs=2)  # 1 s: the bins are Hz


def test_a_film_that_cannot_be_written_leaves_the_old_one(tmp_path):
    (tmp_path / "film.mp4").write_text("mine")
    (tmp_path / "noise.wav").write_text("no audio")
    with pytest.raises(AudioError):
        write_film(tmp_path / "film.mp4", [Image.new("RGB", (8, 8))], 1, tmp_path / "noise.wav")
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["film.mp4", "noise.wav"]
    assert (tmp_path / "film.mp4").read_text() == "mine"


@pytest.fixture(scope="module")
def line(tiny):
    embeds = torch.nn.functional.normalize(torch.randn(3, 6, 256, generator=torch.Generator().manual_seed(0)), dim=-1)
    levels = torch.ones(48, 6)
    levels[24:, 1] = 1e-3
    starts = torch.tensor([0.0, 2.0, 4.0], dtype=torch.float64)
    order = torch.tensor([[0, 1, 2, 3, 4, 5], [1, 0, 2, 3, 4, 5], [1, 0, 2, 3, 5, 4]])
    return Timeline(tiny, 12.0, starts, order, embeds, levels, torch.ones(192), torch.zeros(192, 256))


def pixels(pictures):
    return np.stack([np.array(picture, dtype=float) for picture in pictures])


def test_a_frame_is_that_of_its_moment_in_any_batch(tiny, line):
    settings = {"num_inference_steps": 2, "seed": 5}
    times = torch.tensor([4.0, 5.0, 6.0], dtype=torch.float64)
    together = pixels(film_frames(tiny, line, times, batch_size=3, **settings))
    alone = pixels(film_frames(tiny, line, times[1:2], batch_size=1, **settings))
    assert np.abs(together[1] - alone[0]).max() <= 1
    # in the middle of a window: the pipeline's picture of the window, of the same noise
    latents = wandering_noise((8, 16, 16), times[:1], seed=5)
    expected = tiny(source_embeds=line.rank_embeds[:1], latents=latents, num_inference_steps=2).images
    assert np.abs(together[0] - pixels(expected)[0]).max() <= 2
    assert np.abs(together[0] - together[2]).max() > 3


def test_the_noise_in_whose_pictures_the_sound_is_seen_is_held(tiny):
    embeds = tiny.encode_audio(tiny.prepare_audio(["asset/demo/rain_dog.wav", "asset/demo/stream_cow_bird.wav"]))
    weights, settings = torch.ones(2, 6), {"num_inference_steps": 2}
    latents = torch.randn(2, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    hooks = dict(tiny.unet._forward_pre_hooks)
    gains = sound_gain(tiny, embeds, weights, latents, **settings)
    assert gains.shape == (2,) and gains.abs().min() > 1e-5
    # without the sound there is nothing of it to be seen; and the batch does not matter
    assert sound_gain(tiny, embeds, weights, latents, audio_scale=0.0, **settings).abs().max() == 0
    alone = sound_gain(tiny, embeds[1:], weights[1:], latents[1:], **settings)
    assert alone.item() == pytest.approx(gains[1].item(), abs=1e-5)
    assert tiny.unet._forward_pre_hooks == hooks and tiny.adapter.control.scale == 1

    class Line:
        def heard(self, t):
            return embeds[:1].expand(len(t), -1, -1), weights[:1].expand(len(t), -1)

    times = torch.arange(4, dtype=torch.float64)
    noises = torch.cat([wandering_noise((8, 16, 16), times[:1], seed=5, number=n) for n in range(2)])
    best = sound_gain(tiny, embeds[:1].expand(2, -1, -1), torch.ones(2, 6), noises, **settings).argmax().item()
    for batch_size in (1, 4):
        assert choose_noise(tiny, Line(), times, seed=5, candidates=2, batch_size=batch_size, **settings) == best
    assert choose_noise(tiny, None, times, candidates=1) == choose_noise(tiny, None, times, wander=3.0) == 0


def test_what_is_seen_of_the_sound_does_not_depend_on_what_the_unet_predicts(tiny, monkeypatch):
    embeds = tiny.encode_audio(tiny.prepare_audio(["asset/demo/rain_dog.wav"]))
    latents = torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    settings = {"num_inference_steps": 4}
    gain = sound_gain(tiny, embeds, torch.ones(1, 6), latents, **settings)
    forward, squared = tiny.unet.forward, tiny.scheduler.alphas_cumprod

    def velocity(sample, timestep, *args, **kwargs):
        a, s = squared[int(timestep)].sqrt(), (1 - squared[int(timestep)]).sqrt()
        return ((forward(sample, timestep, *args, **kwargs)[0] - s * sample) / a,)

    monkeypatch.setattr(tiny.unet, "forward", velocity)
    scheduler = type(tiny.scheduler).from_config(tiny.scheduler.config, prediction_type="v_prediction")
    monkeypatch.setattr(tiny, "scheduler", scheduler)
    assert sound_gain(tiny, embeds, torch.ones(1, 6), latents, **settings).item() == pytest.approx(
        gain.item(), abs=1e-3
    )


def motion_adapter(unet, still):
    """A small motion adapter with random weights; a still one adds nothing to its input."""
    torch.manual_seed(0)
    adapter = MotionAdapter(
        block_out_channels=unet.config.block_out_channels, motion_layers_per_block=unet.config.layers_per_block,
        motion_num_attention_heads=2, motion_norm_num_groups=16, motion_max_seq_length=4,
    ).eval()  # fmt: skip
    if still:
        for name, value in adapter.named_parameters():
            if "proj_out" in name:
                torch.nn.init.zeros_(value)
    return adapter


def test_motion_modules_join_the_frames(tiny, line):
    times = torch.tensor([4.0, 6.0, 8.0, 9.0, 9.5], dtype=torch.float64)
    settings = {"num_inference_steps": 2, "seed": 5}
    stills = pixels(film_frames(tiny, line, times, **settings))
    # modules that add nothing: every frame must be the picture of its own embeddings and weights
    still = motion_adapter(tiny.unet, still=True)
    joined = pixels(film_frames(tiny, line, times, motion_adapter=still, **settings))
    assert joined.shape == stills.shape and np.abs(joined - stills).max() <= 2
    moving = pixels(film_frames(tiny, line, times, motion_adapter=motion_adapter(tiny.unet, still=False), **settings))
    assert np.abs(moving - stills).max() > 2
    # and the pipeline is as it was
    assert tiny.adapter.attached(tiny.unet)
    assert np.abs(pixels(film_frames(tiny, line, times, **settings)) - stills).max() <= 1


def test_motion_modules_do_not_count_as_cross_attention(tiny):
    with tiny.adapter.detached(tiny.unet):
        from diffusers import UNetMotionModel

        unet = UNetMotionModel.from_unet2d(tiny.unet, motion_adapter(tiny.unet, still=False))
    assert sum("motion_modules" in name for name in unet.attn_processors) > 0
    assert cross_attention_sizes(unet) == cross_attention_sizes(tiny.unet) == dict(tiny.adapter.config.layers)
    assert callable(motion_drawer(tiny, motion_adapter(tiny.unet, still=False)))

import re

import numpy as np
import pytest
import soundfile
import torch

from bad_recordings import bad_files
from macs.audio import AudioError, duration, fit_length, load_clip, loudest_start, raise_quiet, read_audio, to_waveforms


def tone(seconds, rate, frequency=440.0):
    return np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate).astype(np.float32)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 96000, 192000])
@pytest.mark.parametrize("channels", [1, 2, 8])
def test_any_rate_and_channel_count_becomes_the_same_mono_tone(tmp_path, rate, channels):
    path = tmp_path / "-a#b.wav"
    soundfile.write(path, np.repeat(0.5 * tone(1, rate)[:, None], channels, axis=1), rate)
    waveform = read_audio(path)
    assert waveform.shape == (16000,) and waveform.dtype == torch.float32
    spectrum = np.abs(np.fft.rfft(waveform.numpy()))
    assert spectrum.argmax() == 440  # Hz, as the tone is 1 s long
    assert abs(waveform[4000:12000].abs().max() - 0.5) < 0.01


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_formats(tmp_path, suffix):
    path = tmp_path / f"clip.{suffix}"
    soundfile.write(path, 0.5 * tone(2, 44100), 44100)
    assert np.abs(np.fft.rfft(load_clip(path).numpy())).argmax() == 8 * 440  # 8 s: bins of 1/8 Hz
    assert abs(duration(path) - 2) < 0.1


def test_channels_are_averaged(tmp_path):
    path = tmp_path / "stereo.wav"
    left, right = tone(1, 16000), tone(1, 16000, 1000.0)
    soundfile.write(path, np.stack([left, right], axis=1), 16000, subtype="FLOAT")
    assert np.allclose(read_audio(path), (left + right) / 2, atol=1e-6)


def test_antiphase_takes_the_louder_channel(tmp_path):
    path = tmp_path / "stereo.wav"
    left = 0.5 * tone(10, 16000)
    left[: 5 * 16000] *= 0.1
    soundfile.write(path, np.stack([-0.95 * left, left], axis=1), 16000, subtype="FLOAT")
    with pytest.warns(UserWarning, match="stereo.wav: .*antiphase.*channel 2 of 2"):
        assert np.array_equal(read_audio(path), left)
    assert loudest_start(path) == pytest.approx(2.0)


def test_an_offset_is_removed_and_does_not_steer_the_loudest_part(tmp_path):
    path = tmp_path / "offset.wav"
    sound = 0.1 * tone(20, 16000)
    sound[: 8 * 16000] *= 0.5
    soundfile.write(path, sound + np.float32(0.2), 16000, subtype="FLOAT")
    assert np.allclose(read_audio(path), sound, atol=1e-5)
    assert 7.9 < loudest_start(path) <= 12
    soundfile.write(path, sound + np.float32(0.01), 16000, subtype="FLOAT")  # as sound may have: left alone
    assert np.array_equal(read_audio(path), sound + np.float32(0.01))


CLIP = 0.5 * tone(2, 16000)
FORMS = {
    "array": CLIP, "tensor": torch.from_numpy(CLIP), "list": [CLIP], "double": CLIP.astype(np.float64),
    "int16": (CLIP * 32768).astype(np.int16), "int32": (CLIP.astype(float) * 2**31).astype(np.int32),
    "uint8": (CLIP * 128 + 128).astype(np.uint8), "soundfile (T, 2)": np.stack([CLIP, CLIP], 1),
    "gradio": (16000, np.stack([CLIP, CLIP], 1)), "gradio list": [(16000, (CLIP * 32768).astype(np.int16))],
    "librosa": (np.stack([CLIP, CLIP]), 16000), "torchaudio": (torch.from_numpy(CLIP)[None], 16000),
    "datasets": {"array": CLIP, "sampling_rate": 16000}, "batch": CLIP[None],
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_arrays_as_libraries_hand_them_over(form):
    waveforms = to_waveforms(FORMS[form])
    assert waveforms.shape == (1, 128000) and waveforms.dtype == torch.float32
    assert np.allclose(waveforms[0, :32000], CLIP, atol=0.01) and not waveforms[0, 32000:].any()


def test_arrays_of_another_rate_and_length():
    x = np.concatenate([0.1 * tone(5, 44100), 0.5 * tone(8, 44100, 880.0)])
    waveform = to_waveforms((44100, x))[0].numpy()
    assert waveform.shape == (128000,) and np.abs(np.fft.rfft(waveform)).argmax() == 8 * 880
    assert waveform.std() == pytest.approx(0.5 / np.sqrt(2), rel=0.01)
    assert to_waveforms(np.stack([CLIP, CLIP])).shape == (2, 128000)  # (B, T)


@pytest.mark.parametrize(
    "audio, words",
    [
        ([], "empty list"), ([0.1, 0.2], "list of 2 numbers"), (np.zeros(0), r"\(0,\)"),
        (np.zeros((1, 2, 9)), r"\(1, 2, 9\)"),
        (np.array([0, np.nan]), "NaN"), (np.array([0, 1e30]), "1e.30"), (np.zeros(9, np.int64), "int64"),
        (None, "object"),
        ([np.zeros((2, 99))], "clips or channels"), ((0, CLIP), "sample rate"), ((np.nan, CLIP), "sample rate"),
        (np.zeros(200000), "128000"), ({"bytes": b""}, "bytes"), ((16000, np.zeros((99, 99))), "channels"),
    ],
)  # fmt: skip
def test_other_arrays_are_refused(audio, words):
    with pytest.raises(AudioError, match=words):
        to_waveforms(audio)


def test_part_of_a_file_equals_the_part_of_the_whole(tmp_path):
    path = tmp_path / "noise.wav"
    noise = np.random.default_rng(0).uniform(-1, 1, 16000 * 5).astype(np.float32)
    soundfile.write(path, noise, 16000, subtype="FLOAT")
    assert np.array_equal(read_audio(path, 2.0, 1.5).numpy(), noise[32000:56000])
    assert read_audio(path, 4.0, 9.0).shape == (16000,)


@pytest.mark.parametrize("burst", [0.0, 7.3, 30.0])
def test_longer_clips_are_cut_to_their_loudest_part(tmp_path, burst):
    path = tmp_path / "long.wav"
    samples = 0.01 * np.random.default_rng(0).standard_normal(40 * 8000).astype(np.float32)
    samples[int(burst * 8000) : int((burst + 3) * 8000)] += 0.5 * tone(3, 8000)
    soundfile.write(path, samples, 8000)
    start = loudest_start(path)
    assert start <= burst + 0.1 and burst + 3 <= start + 8.1
    clip = load_clip(path)
    assert clip.shape == (128000,)
    assert clip.square().sum() > 0.95 * read_audio(path).square().sum()
    # a start of one's own
    assert torch.allclose(load_clip(path, start=10.0), read_audio(path, 10.0, 8.0))


def test_quiet_clips_are_raised_and_silence_is_not():
    levels = torch.tensor([0.5, 0.11, 0.09, 1e-3, 1e-5, 0.0])
    raised = raise_quiet(levels[:, None] * torch.from_numpy(tone(0.1, 16000)))
    assert torch.allclose(raised.abs().amax(-1), torch.tensor([0.5, 0.11, 0.42, 0.42, 1e-5, 0.0]), atol=1e-3)


def test_short_clips_are_padded_with_zeros(tmp_path):
    path = tmp_path / "short.wav"
    soundfile.write(path, tone(0.02, 16000), 16000)
    clip = load_clip(path)
    assert clip.shape == (128000,) and clip[:320].abs().max() > 0.9 and not clip[320:].any()


def test_fit_length():
    x = torch.arange(1.0, 4.0)
    assert fit_length(x, 5, offset=1).tolist() == [0, 1, 2, 3, 0]
    assert fit_length(x, 2).tolist() == [1, 2]


def test_bad_files_say_what_is_wrong(tmp_path):
    for name, words in bad_files(tmp_path).items():
        with pytest.raises(AudioError, match=re.escape(words)) as error:
            load_clip(tmp_path / name)
        assert name in str(error.value)


def test_start_behind_the_end(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(1, 16000), 16000)
    with pytest.raises(AudioError, match="1.00 s long"):
        load_clip(tmp_path / "a.wav", start=3.0)

import numpy as np
import pytest
import soundfile
import torch

from bad_recordings import bad_files
from macs.audio import AudioError, duration, fit_length, load_clip, loudest_start, read_audio


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
    left = tone(1, 16000)
    soundfile.write(path, np.stack([left, -left], axis=1), 16000, subtype="FLOAT")
    assert read_audio(path).abs().max() < 1e-6


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
        with pytest.raises(AudioError, match=words) as error:
            load_clip(tmp_path / name)
        assert name in str(error.value)


def test_start_behind_the_end(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(1, 16000), 16000)
    with pytest.raises(AudioError, match="1.00 s long"):
        load_clip(tmp_path / "a.wav", start=3.0)

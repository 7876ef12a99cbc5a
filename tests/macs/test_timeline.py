"""The timeline against windows whose order, strength and embeddings are known."""

import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F

from macs import timeline as timelines
from macs.audio import AudioError, copy_mono, read_audio
from macs.timeline import Timeline, follow, steadied


def made(pipe, signals, embeds, levels, hop=2.0):
    """A Timeline of W windows with the separator's signals (W, M) that the sources are, and levels (T, M)."""
    starts = hop * torch.arange(len(signals), dtype=torch.float64)
    seconds = float(starts[-1]) + 8
    columns = round(seconds * 16)
    return Timeline(
        pipe, seconds, starts, torch.as_tensor(signals), embeds, levels, torch.ones(columns), torch.zeros(columns, 256)
    )


def random_embeds(windows, dim=256, seed=0):
    return F.normalize(torch.randn(windows, 6, dim, generator=torch.Generator().manual_seed(seed)), dim=-1)


def noise(seconds, seed=0):
    return 0.1 * np.random.default_rng(seed).standard_normal(int(seconds * 16000)).astype(np.float32)


def test_sources_are_followed_through_any_order():
    rng = np.random.default_rng(0)
    order = np.array([rng.permutation(6) for _ in range(20)])  # window, source -> signal
    sources = random_embeds(1)[0]
    embeds, powers = torch.empty(20, 6, 256), torch.empty(20, 6, 32)
    correlations = torch.zeros(19, 6, 6)
    for window in range(20):
        embeds[window, order[window]] = F.normalize(sources + 0.03 * torch.randn(6, 256), dim=-1)
        powers[window, order[window]] = torch.rand(6, 32) + 0.1
    for window in range(19):  # the next window's waveforms agree with those of the same sources
        correlations[window, order[window], order[window + 1]] = 0.9
    start = np.argsort(order[0])  # number i is the source that signal i was at first
    expected = order[:, start]
    assert (follow(embeds, powers, correlations).numpy() == expected).all()
    # by the waveforms alone, and by the embeddings alone
    assert (follow(random_embeds(1).expand(20, 6, 256), powers, correlations).numpy() == expected).all()
    assert (follow(embeds, powers, 0 * correlations).numpy() == expected).all()


def test_embeds_are_interpolated_on_the_sphere(tiny):
    embeds = F.normalize(torch.eye(12)[:6][None].repeat(2, 1, 1), dim=-1)
    embeds[1] = torch.eye(12)[6:]  # at right angles
    line = made(tiny, [[0, 1, 2, 3, 4, 5], [1, 0, 2, 3, 4, 5]], embeds, torch.ones(40, 6))
    assert torch.allclose(line.embeds(4.0), embeds[0], atol=1e-4)
    assert torch.equal(line.embeds(4.0), line.embeds(0.0))
    assert torch.allclose(line.embeds(6.0), embeds[1][[1, 0, 2, 3, 4, 5]], atol=1e-4)
    third = line.embeds(torch.tensor([4 + 2 / 3]))[0]
    expected = np.cos(np.pi / 6) * embeds[0] + np.sin(np.pi / 6) * embeds[1][[1, 0, 2, 3, 4, 5]]
    assert torch.allclose(third, expected, atol=1e-4)


def test_what_flickers_becomes_steady_and_what_changes_stays():
    starts = 2 * torch.arange(20, dtype=torch.float64)
    embeds = torch.zeros(20, 1, 64)
    embeds[:10, 0, 0] = embeds[10:, 0, 1] = 1
    noisy = F.normalize(embeds + 0.03 * torch.randn(20, 1, 64, generator=torch.Generator().manual_seed(0)), dim=-1)
    steady = steadied(noisy, starts)
    steps = (noisy[1:] - noisy[:-1]).norm(dim=-1), (steady[1:] - steady[:-1]).norm(dim=-1)
    assert steps[1][:9].mean() < 0.4 * steps[0][:9].mean() and steps[1][10:].mean() < 0.4 * steps[0][10:].mean()
    assert steps[1][9].item() == pytest.approx(2**0.5, abs=0.05)  # nothing of the bell before it rings
    assert torch.equal(steadied(noisy[:1], starts[:1]), noisy[:1])


def test_in_the_middle_of_a_window_the_picture_is_the_windows(tiny):
    embeds = random_embeds(3)
    order = [[0, 1, 2, 3, 4, 5], [3, 1, 0, 2, 5, 4], [5, 4, 3, 2, 1, 0]]
    line = made(tiny, order, embeds, torch.ones(48, 6))
    heard, weights = line.heard(torch.tensor([4.0, 6.0, 8.0]))
    assert (weights == 1).all()
    with torch.no_grad():
        tokens, expected = tiny.adapter.projector(heard), tiny.adapter.projector(embeds)
    for window in range(3):
        # up to what neighbours add whose embeddings are at right angles
        assert torch.allclose(tokens[window], expected[window][order[window]], atol=2e-3)


def test_what_has_gone_is_left_out(tiny):
    levels = torch.full((80, 6), 0.1)
    levels[40:, 2] = 1e-4  # from second 10 on 60 dB weaker
    line = made(tiny, np.tile(np.arange(6), (7, 1)), random_embeds(7), levels)
    weights = line.weights(torch.tensor([2.0, 7.0, 12.0, 18.0]))
    assert (weights[:, [0, 1, 3, 4, 5]] == 1).all()
    assert weights[:3, 2].tolist() == [1, 1, 0] and weights[3, 2] == 1  # at 18 s no window within 4 s knows it louder
    assert line.strength(5.0)[2].item() == pytest.approx(0.1) and line.strength(13.0)[2].item() == pytest.approx(1e-4)
    levels[40:56] = 1e-4  # all of them pause: the last picture stays
    line = made(tiny, np.tile(np.arange(6), (7, 1)), random_embeds(7), levels)
    assert (line.weights(torch.tensor([12.0])) > 0).any()


@pytest.fixture(scope="module")
def heard(tiny, tmp_path_factory):
    """(the recording of 13.1 s, its Timeline, the folder it is kept in)."""
    folder = tmp_path_factory.mktemp("heard")
    path = folder / "long.wav"
    soundfile.write(path, noise(13.1), 16000, subtype="FLOAT")
    return path, tiny.listen(path, hop=4.0, cache_dir=folder / "kept"), folder / "kept"


def test_windows_and_their_numbers(tiny, heard):
    path, line, _ = heard
    assert line.seconds == pytest.approx(13.1)
    assert line.starts.tolist() == [0, 4, 5.25]  # the last one ends with the recording, on the grid of 0.25 s
    samples = torch.from_numpy(noise(13.1))
    for window, start in enumerate(line.starts.tolist()):
        part = samples[round(start * 16000) :][:128000]
        expected = tiny.encode_audio(F.pad(part, (0, 128000 - len(part)))[None])[0]
        assert torch.allclose(line.rank_embeds[window], expected, atol=2e-4)
    # levels: those of the signals of the window whose middle is nearest
    signals = tiny.separate(samples[None, :128000])[0]
    block = signals[line.signals[0]][:, 8000:12000].square().mean(1).sqrt()
    assert torch.allclose(line.levels[2], block, atol=1e-6) and line.levels.shape == (53, 6)
    assert line.peaks.shape == (210,) and line.peaks[3].item() == pytest.approx(samples[3000:4000].abs().max().item())


def test_a_quiet_recording_is_heard_as_a_loud_one_and_stays_quiet(tiny, tmp_path):
    quiet = 0.01 * noise(8)
    soundfile.write(tmp_path / "quiet.wav", quiet, 16000, subtype="FLOAT")
    line = tiny.listen(tmp_path / "quiet.wav")
    gain = 0.42 / np.abs(quiet).max()
    raised = torch.from_numpy(gain * quiet)[None]
    assert torch.allclose(line.rank_embeds[0], tiny.encode_audio(raised)[0], atol=2e-4)
    blocks = tiny.separate(raised)[0][line.signals[0]].unflatten(1, (32, 4000)).square().mean(2).sqrt()
    assert torch.allclose(line.levels, blocks.T / gain, rtol=1e-3)


def test_what_was_heard_is_kept_and_found_by_content(tiny, heard, monkeypatch, tmp_path):
    path, line, kept = heard
    (file,) = kept.iterdir()
    assert file.suffix == ".safetensors"
    copy = tmp_path / "long.wav"
    copy.write_bytes(path.read_bytes())
    monkeypatch.setattr(timelines, "analyse", lambda *_: pytest.fail("analysed again"))
    again = tiny.listen(copy, hop=4.0, cache_dir=kept)
    assert torch.equal(again.window_embeds, line.window_embeds) and torch.equal(again.levels, line.levels)
    with pytest.raises(pytest.fail.Exception):
        tiny.listen(copy, hop=2.0, cache_dir=kept)


def test_shorter_than_a_window_and_silence(tiny, tmp_path):
    soundfile.write(tmp_path / "short.wav", noise(3), 16000)
    line = tiny.listen(tmp_path / "short.wav")
    assert line.seconds == 3 and line.starts.tolist() == [0]
    assert line.embeds(torch.tensor([0.0, 2.9])).shape == (2, 6, 256) and line.weights(1.0).max() == 1
    soundfile.write(tmp_path / "pause.wav", np.concatenate([noise(8), np.zeros(160000, np.float32)]), 16000)
    line = tiny.listen(tmp_path / "pause.wav", hop=4.0)
    for value in line.heard(torch.linspace(0, 18, 10, dtype=torch.float64)):
        assert value.isfinite().all()


def test_bad_recordings(tiny, tmp_path):
    with pytest.raises(ValueError, match="hop: expected one of 0.5, 1, 2, 4 s, but got 3"):
        tiny.listen("anything.wav", hop=3)
    with pytest.raises(AudioError, match="nowhere.wav: no such audio file"):
        tiny.listen(tmp_path / "nowhere.wav")
    with pytest.raises(AudioError, match="nowhere.wav: cannot be read"):
        tiny.listen(tmp_path / "nowhere.wav", cache_dir=tmp_path)


def test_a_copy_in_parts_is_the_recording(tmp_path):
    rng = np.random.default_rng(0)
    stereo = np.cumsum(rng.standard_normal((5 * 44100, 2)), 0)
    stereo = (0.1 * stereo / np.abs(stereo).max()).astype(np.float32)
    soundfile.write(tmp_path / "a.flac", stereo, 44100)
    length = copy_mono(tmp_path / "a.flac", tmp_path / "mono.wav", seconds=0.7)
    samples, rate = soundfile.read(tmp_path / "mono.wav", dtype="float32")
    assert rate == 16000 and length == len(samples) == 80000
    assert np.abs(samples - read_audio(tmp_path / "a.flac").numpy())[100:-100].max() < 1e-3


def test_a_recording_that_ends_in_garbage(tmp_path):
    samples = noise(6)
    samples[70000:] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, 16000, subtype="FLOAT")
    with pytest.warns(UserWarning, match="nan.wav: no sound from 4 s on"):
        assert copy_mono(tmp_path / "nan.wav", tmp_path / "mono.wav", seconds=1) == 96000
    copied, _ = soundfile.read(tmp_path / "mono.wav", dtype="float32")
    assert np.array_equal(copied[:64000], samples[:64000]) and (copied[64000:] == 0).all()
    soundfile.write(tmp_path / "good.flac", noise(6), 16000)
    content = (tmp_path / "good.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(content[: len(content) * 2 // 3] + bytes(rng_bytes()))
    assert 3 * 16000 < copy_mono(tmp_path / "cut.flac", tmp_path / "mono.wav") < 5 * 16000
    soundfile.write(tmp_path / "all.wav", np.full(32000, np.nan, np.float32), 16000, subtype="FLOAT")
    with pytest.warns(UserWarning), pytest.raises(AudioError, match="NaN or infinite"):
        copy_mono(tmp_path / "all.wav", tmp_path / "mono.wav")


def rng_bytes():
    return np.random.default_rng(0).integers(0, 256, 2000, dtype=np.uint8).tobytes()


def test_a_full_disk_is_told_from_a_bad_recording(tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(6), 16000)
    with pytest.raises(OSError, match="/dev/full: cannot be written"):
        copy_mono(tmp_path / "a.wav", "/dev/full")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_recording(tmp_path):
    code = f"""
import resource, soundfile, numpy as np, torch
from types import SimpleNamespace
from macs.timeline import listen
pipe = SimpleNamespace(  # one that costs nothing: six equal parts
    separator=SimpleNamespace(config=SimpleNamespace(num_samples=128000), level=lambda w: w), num_sources=6,
    _execution_device="cpu", separate=lambda w: w[:, None].expand(-1, 6, -1) / 6,
    encode_sources=lambda s: torch.zeros(len(s), 6, 512),
)
peaks = []
for seconds in (60, 900):
    with soundfile.SoundFile("{tmp_path}/long.flac", "w", 16000, 1) as file:
        for _ in range(seconds // 10):
            file.write(np.full(160000, 0.01, np.float32))
    assert len(listen(pipe, "{tmp_path}/long.flac", hop=4.0).starts) == seconds // 4 - 1
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
print(peaks)
assert peaks[1] - peaks[0] < 40, peaks  # MB; the samples alone are 58, the six signals 346
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=900)

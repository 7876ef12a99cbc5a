import subprocess
import warnings

import imageio_ffmpeg
import numpy as np
import pytest
import soundfile

import macs.decoding
from macs.audio import AudioError, duration, find_recordings, load_clip, loudest_start, read_audio
from scripts.fuzz_audio import fuzz

RATE = 44100


def ffmpeg(*arguments):
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True).stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """12 s of a rising tone, at a fifth of the level before 3.5 s: no part of it is like another."""
    path = tmp_path_factory.mktemp("source") / "source.wav"
    t = np.arange(12 * RATE) / RATE
    sound = 0.3 * np.sin(2 * np.pi * (200 * t + 20 * t**2)) * np.where(t < 3.5, 0.2, 1.0)
    soundfile.write(path, sound, RATE)
    return path


def assert_same_sound(path, source, seconds, tolerance=0.0):
    """What is heard has the truth's length, level, wave and position, but for `tolerance` s of the codec's delay."""
    heard, truth = read_audio(path).numpy(), read_audio(source).numpy()[: round(seconds * 16000)]
    assert abs(len(heard) - len(truth)) <= 16000 * (0.03 + tolerance)
    assert duration(path) == pytest.approx(len(heard) / 16000, abs=1e-3)
    size = 2 ** (len(truth) + len(heard)).bit_length()
    products = np.fft.irfft(np.fft.rfft(heard, size) * np.fft.rfft(truth, size).conj())
    lag = int((products.argmax() + size // 2) % size - size // 2)
    assert abs(lag) <= 16000 * tolerance + 1
    heard, truth = heard[max(0, lag) :], truth[max(0, -lag) :]
    length = min(len(heard), len(truth))
    assert np.corrcoef(heard[:length], truth[:length])[0, 1] > 0.98
    assert heard[:length].std() == pytest.approx(truth[:length].std(), rel=0.2)


CODECS = {  # suffix: (FFmpeg's options, delay of the codec in s that the file does not tell)
    "m4a": ([], 0), "mp4": ([], 0), "webm": (["-c:a", "libopus"], 0), "3gp": (["-c:a", "aac"], 0), "mov": ([], 0),
    "mkv": (["-c:a", "aac"], 0), "wma": ([], 0.05), "mp2": ([], 0.02), "au": ([], 0), "caf": ([], 0), "w64": ([], 0),
    "oga": (["-c:a", "libvorbis"], 0), "aac": ([], 0.03), "opus": ([], 0), "ac3": ([], 0.01), "mp3": ([], 0),
    "amr": (["-ar", "8000", "-ac", "1"], 0.01),
}  # fmt: skip


@pytest.mark.parametrize("suffix", CODECS)
def test_formats_of_phones_browsers_and_recorders(source, tmp_path, suffix):
    options, delay = CODECS[suffix]
    path = tmp_path / f"clip.{suffix}"
    ffmpeg("-i", source, *options, path)
    assert_same_sound(path, source, 12, delay)
    assert loudest_start(path) == pytest.approx(3.75, abs=0.4)
    # a part begins at the sample it says; its ends lack what the resampler would hear beyond them
    assert np.allclose(read_audio(path, 7.0, 2.0)[500:-500], read_audio(path)[112500:143500], atol=1e-3)


def test_videos_give_their_sound(source, tmp_path):
    color = ["-f", "lavfi", "-i", "color=size=64x64:rate=5:duration=12"]
    ffmpeg(*color, "-i", source, tmp_path / "film.mp4")
    assert_same_sound(tmp_path / "film.mp4", source, 12)
    ffmpeg(*color, tmp_path / "mute.mp4")
    with pytest.raises(AudioError, match="mute.mp4: there is no sound"):
        load_clip(tmp_path / "mute.mp4")


def test_flac_of_unknown_length(source, tmp_path):
    path = tmp_path / "piped.flac"
    path.write_bytes(ffmpeg("-i", source, "-f", "flac", "-"))
    assert_same_sound(path, source, 12)
    assert np.array_equal(read_audio(path, 5.0, 2.0), read_audio(source, 5.0, 2.0))


@pytest.mark.parametrize("suffix", ["flac", "mp3", "aac"])
@pytest.mark.filterwarnings("ignore:.*are broken and left out")
def test_files_that_break_off_give_what_there_is(source, tmp_path, suffix):
    whole, path = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
    ffmpeg("-i", source, *(["-b:a", "128k"] if suffix == "mp3" else []), whole)
    content = whole.read_bytes()
    path.write_bytes(content[: len(content) * 3 // 4])
    seconds = duration(path)
    assert 8 < seconds < 10
    assert_same_sound(path, source, seconds, 0.03)
    # the loudest part is not silence, nor the last block over and over
    assert loudest_start(path) == pytest.approx(seconds - 8, abs=0.1)
    assert load_clip(path)[80000:].std() > 0.18


def test_mp3_with_a_hole_or_a_tail_of_zeros(source, tmp_path):
    ffmpeg("-i", source, "-b:a", "128k", tmp_path / "whole.mp3")
    content = (tmp_path / "whole.mp3").read_bytes()
    (tmp_path / "tail.mp3").write_bytes(content + bytes(100000))
    assert_same_sound(tmp_path / "tail.mp3", source, 12)
    half = len(content) // 2
    (tmp_path / "hole.mp3").write_bytes(content[:half] + bytes(5000) + content[half + 5000 :])
    with pytest.warns(UserWarning, match="hole.mp3: .* broken and left out"):
        hole = read_audio(tmp_path / "hole.mp3").numpy()
    whole = read_audio(tmp_path / "whole.mp3").numpy()
    assert 11.5 < len(hole) / 16000 < 11.9
    assert np.corrcoef(hole[:80000], whole[:80000])[0, 1] > 0.98
    # behind the hole as well, that much earlier
    end, products = whole[-80000:], np.correlate(hole[-88000:], whole[-80000:], "valid")
    assert products.max() > 0.98 * (end**2).sum()


def test_variable_rate_mp3_without_its_header(source, tmp_path):
    """The quiet beginning needs few bits for a second, from which its header would have the file several times longer
    or shorter than it is."""
    soundfile.write(tmp_path / "noise.wav", np.random.default_rng(0).uniform(-0.02, 0.02, 6 * RATE), RATE)
    options = ["-q:a", "2", "-write_xing", "0", "-id3v2_version", "0"]
    ffmpeg("-i", tmp_path / "noise.wav", *options, tmp_path / "noise.mp3")
    ffmpeg("-i", source, *options, tmp_path / "tone.mp3")
    path = tmp_path / "clip.mp3"
    path.write_bytes((tmp_path / "noise.mp3").read_bytes() + (tmp_path / "tone.mp3").read_bytes())
    assert soundfile.info(path).duration < 12  # the estimate
    assert duration(path) == pytest.approx(18.08, abs=0.03)
    assert loudest_start(path) == pytest.approx(6 + 3.75, abs=0.4)
    # the same instant, whether or not the estimate reaches so far
    tone = read_audio(tmp_path / "tone.mp3").numpy()
    delay = round((duration(path) - duration(tmp_path / "tone.mp3")) * 16000)
    for start in (7.0, 15.0):
        part = read_audio(path, start, 2.0).numpy()
        first = round(start * 16000) - delay
        assert np.corrcoef(part, tone[first : first + len(part)])[0, 1] > 0.98


@pytest.mark.parametrize(
    "suffix, options",
    [
        ("mp3", []),
        ("flac", []),
        ("aac", []),
        ("ogg", ["-c:a", "libvorbis", "-serial_offset"]),  # a recorded web radio's parts have different serial numbers
        ("ogg", ["-c:a", "libvorbis", "-serial_offset", "7"]),
        ("opus", ["-serial_offset", "7"]),
    ],
)
@pytest.mark.filterwarnings("ignore:.*are broken and left out")
def test_joined_files_give_all_their_parts(source, tmp_path, suffix, options):
    parts = []
    for number in (1, 2):
        ffmpeg("-i", source, *options, *[number] * (options[-1:] == ["-serial_offset"]), tmp_path / f"part.{suffix}")
        parts.append((tmp_path / f"part.{suffix}").read_bytes())
    path = tmp_path / f"joined.{suffix}"
    path.write_bytes(b"".join(parts))
    assert duration(path) == pytest.approx(24, abs=0.1)
    whole, part = read_audio(path).numpy(), read_audio(tmp_path / f"part.{suffix}").numpy()
    assert np.corrcoef(whole[: 11 * 16000], part[: 11 * 16000])[0, 1] > 0.98
    assert np.correlate(whole[-11 * 16000 :], part[-10 * 16000 :], "valid").max() > 0.98 * (part[-160000:] ** 2).sum()
    assert loudest_start(path) in (pytest.approx(3.8, abs=0.4), pytest.approx(15.8, abs=0.4))
    assert read_audio(path, 15.0, 2.0).std() == pytest.approx(whole[240000:272000].std(), rel=0.05)


@pytest.mark.parametrize("suffix", ["wav", "aiff", "m4a"])
def test_joined_files_that_give_their_first_part_only_say_so(source, tmp_path, suffix):
    ffmpeg("-i", source, tmp_path / f"part.{suffix}")
    content = (tmp_path / f"part.{suffix}").read_bytes()
    (tmp_path / f"joined.{suffix}").write_bytes(content + content)
    with pytest.warns(UserWarning, match=f"joined.{suffix}: only the first of the recordings joined"):
        assert_same_sound(tmp_path / f"joined.{suffix}", source, 12)
    (tmp_path / f"tail.{suffix}").write_bytes(content + bytes(1000))  # what else may follow is no matter
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same_sound(tmp_path / f"tail.{suffix}", source, 12)


def test_gsm_in_wav_which_cannot_be_seeked(source, tmp_path):
    soundfile.write(tmp_path / "gsm.wav", read_audio(source, sample_rate=8000).numpy(), 8000, subtype="GSM610")
    assert_same_sound(tmp_path / "gsm.wav", source, 12, 0.001)
    assert len(read_audio(tmp_path / "gsm.wav", 4.0, 2.0)) == 32000


@pytest.mark.parametrize("rate", [1, 4, 99])
def test_rates_that_no_recorder_has_are_refused(tmp_path, rate):
    soundfile.write(tmp_path / "slow.wav", np.zeros(5000), rate)
    with pytest.raises(AudioError, match=f"slow.wav: expected a sample rate from 100 .* got {rate}"):
        load_clip(tmp_path / "slow.wav")


def test_names(source, tmp_path):
    for name in (b"\xff\xfe.wav", b"http:a.m4a", "звук 音.m4a".encode(), b"-i.m4a", b"pipe:0.m4a"):
        path = tmp_path / name.decode("utf-8", "surrogateescape")
        ffmpeg("-i", source, "-t", "1", tmp_path / f"plain{path.suffix}")
        (tmp_path / f"plain{path.suffix}").rename(path)
        assert read_audio(path).std() > 0.01


def test_a_playlist_opens_no_other_file(source, tmp_path):
    for name, text in {
        "list.m3u8": f"#EXTM3U\n#EXTINF:12,\n{source}\n#EXT-X-ENDLIST\n",
        "list.wav": f"ffconcat version 1.0\nfile '{source}'\n",
    }.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(AudioError, match=f"{name}: expected audio"):
            load_clip(tmp_path / name)


@pytest.mark.parametrize("suffix", ["", ".mp3", ".wav", ".m4a", ".raw", ".ogg"])
def test_what_is_no_audio(tmp_path, suffix):
    contents = (
        b"hello world, " * 5000,
        np.random.default_rng(0).bytes(200000),
        b"\x89PNG\r\n\x1a\n" + bytes(5000),
        b"\0",
    )
    for number, content in enumerate(contents):
        path = tmp_path / f"{number}{suffix}"
        path.write_bytes(content)
        for read in (load_clip, duration, loudest_start):
            with pytest.raises(AudioError, match=str(path)):
                read(path)


def test_files_that_cannot_be_opened(tmp_path, source, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(macs.decoding, "open", refuse, raising=False)
    with pytest.raises(AudioError, match="source.wav: cannot be read .Permission denied"):
        load_clip(source)


def test_folders_take_or_name_every_recording(tmp_path, source):
    content = source.read_bytes()
    taken = ["a.wav", "b.M4A", "c.mp4", "d", "e.dat", "sub/f.caf"]
    for name in [*taken, ".hidden.wav", ".git/g.wav", "notes.txt", "h.png", "i.csv", "j.wav.part"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "empty.bin").touch()
    (tmp_path / "text.dat").write_text("no sound\n" * 1000)
    assert find_recordings(tmp_path) == ([tmp_path / name for name in taken[:5]], [])
    assert find_recordings(tmp_path, recursive=True) == ([tmp_path / name for name in taken], [])
    paths, problems = find_recordings(tmp_path / ".git" / "..", recursive=False)
    assert len(paths) == 5 and not problems
    (tmp_path / "none").mkdir()
    paths, (problem,) = find_recordings(tmp_path / "none")
    assert not paths and "none: no recordings in this folder" in problem


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.scandir", refuse)
    assert find_recordings(tmp_path) == (
        [], [f"{tmp_path}: this folder cannot be read (Permission denied); check its permissions"]
    )  # fmt: skip


def test_damaged_files_raise_nothing_but_audio_errors(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outcomes, faults, _ = fuzz(tmp_path, 300, seed=1)
    assert not [fault for fault in faults if "took" not in fault]
    assert sum(outcomes.values()) == 300
    assert sum(n for outcome, n in outcomes.items() if outcome.endswith("AudioError")) > 30

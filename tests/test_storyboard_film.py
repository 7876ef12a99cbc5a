"""storyboard.py and film.py as users run them, and the moments and rows of a sheet."""

import base64
import re
import sys

import av
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

import film
import storyboard
from macs.film import write_film
from macs.storyboard import clock, evenly, page, rows, scenes, sheet
from macs.timeline import Timeline


@pytest.fixture
def run(tiny_dir, monkeypatch, capsys):
    """Runs a script's main in this process: (exit code, what it printed)."""

    def run(script, *arguments):
        command = [f"{script.__name__}.py", "--sd_path", tiny_dir, "--steps", 1, *arguments]
        monkeypatch.setattr(sys, "argv", [str(word) for word in command])
        code = 0
        try:
            script.main()
        except SystemExit as end:
            code = end.code
        printed = capsys.readouterr()
        return (1, code) if isinstance(code, str) else (code, printed.out + printed.err)

    return run


@pytest.fixture
def recording(tmp_path):
    path = tmp_path / "a <b> & c.wav"
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(9 * 16000), 16000)
    return path


def a_timeline(pipe, edges, seconds=40):
    """A recording of `seconds` in which another source is heard after each of the edges (s), and nothing else."""
    windows = seconds // 2 - 3
    embeds = torch.eye(6, 256)[None].repeat(windows, 1, 1)
    levels = torch.full((4 * seconds, 6), 1e-4)
    for source, (start, end) in enumerate(zip([0, *edges], [*edges, seconds], strict=True)):
        levels[4 * start : 4 * end, source] = 0.1
    starts = 2 * torch.arange(windows, dtype=torch.float64)
    order = torch.arange(6).repeat(windows, 1)
    columns = 16 * seconds
    return Timeline(pipe, float(seconds), starts, order, embeds, levels, torch.ones(columns), torch.zeros(columns, 256))


def test_scenes_are_cut_where_what_is_heard_changes(tiny):
    line = a_timeline(tiny, [7, 19, 30])
    found = scenes(line, 4)
    assert [round(start) for start, _, _ in found] == [0, 7, 19, 30] and found[-1][1] == 40
    assert all(start <= moment <= end for start, end, moment in found)
    for (start, _, moment), source in zip(found, range(4), strict=True):
        assert line.strength(moment).argmax() == source and start == found[source][0]
    assert len(scenes(line, 40)) == 20 and len(scenes(line, 1)) == 1  # none shorter than 2 s


def test_even_parts(tiny):
    line = a_timeline(tiny, [7])
    assert evenly(line, 20) == [(0, 20, 10), (20, 40.0, 30.0)]
    assert [part[:2] for part in evenly(line, 15)] == [(0, 15), (15, 30), (30, 40.0)]
    assert evenly(line, 300) == [(0, 40.0, 20.0)]


def test_rows_are_sources_or_what_they_are_called(tiny):
    line = a_timeline(tiny, [10])
    bars = rows(line)
    assert [name for name, _ in bars] == ["source 2", "source 1"]  # 30 s and 10 s; the others stay 60 dB below
    assert torch.equal(bars[0][1], line.levels[:, 1])
    named = rows(line, ["rain", "dog"])
    total = sum(strength.square() for _, strength in named)
    assert {name for name, _ in named} <= {"rain", "dog"}
    assert torch.allclose(total, line.levels.square().sum(1), rtol=1e-4)
    names = line.names(["rain", "dog"])
    assert len(names) == 6 and all(sum(source.values()) == pytest.approx(1, abs=1e-4) for source in names)


def test_clock():
    assert [clock(s) for s in (0, 65.2, 3600, 7325)] == ["0:00", "1:05", "1:00:00", "2:02:05"]


def test_page_and_sheet_hold_everything(tiny, tmp_path, recording):
    line = a_timeline(tiny, [10])
    parts, pictures = evenly(line, 20), [Image.new("RGB", (32, 16), color) for color in ("red", "blue")]
    write_film(tmp_path / "sound.mp4", [], 1, recording)
    sound = (tmp_path / "sound.mp4").read_bytes()
    text = page(line, [("<rain>", line.levels[:, 0])], parts, pictures, sound, "a <b> & c")
    assert "a &lt;b&gt; &amp; c" in text and "&lt;rain&gt;" in text and "<b>" not in text and "<rain>" not in text
    assert not re.search(r"(src|href)=[\"'](?!data:)", text)  # nothing from elsewhere
    assert base64.b64decode(re.search(r"data:audio/mp4;base64,([\w+/=]+)", text)[1]) == sound
    with av.open(str(tmp_path / "sound.mp4")) as file:
        assert [stream.codec_context.name for stream in file.streams] == ["aac"]
    # time begins and ends in the sheet where the page takes it to
    figure = sheet(line, rows(line), parts, pictures)
    figure.savefig(tmp_path / "sheet.png", dpi=50)
    lanes = figure.axes[2]
    width = figure.get_figwidth() * figure.dpi
    left, right = re.search(r'"left": ([\d.]+), "right": ([\d.]+)', text).groups()
    assert lanes.transData.transform((0, 0))[0] / width == pytest.approx(float(left), abs=1e-3)
    assert lanes.transData.transform((40, 0))[0] / width == pytest.approx(float(right), abs=1e-3)


def test_storyboard_script(run, recording, tmp_path):
    out = tmp_path / "out"
    code, printed = run(storyboard, "--audio", recording, "--output_dir", out, "--panels", 2)
    assert code == 0 and "written" in printed
    stem = recording.stem
    assert {file.name for file in out.iterdir()} == {f"{stem}.png", f"{stem}.pdf", f"{stem}.html", "heard"}
    assert Image.open(out / f"{stem}.png").width > 1000 and (out / f"{stem}.pdf").read_bytes()[:4] == b"%PDF"
    (out / f"{stem}.png").write_text("mine")
    assert "is there already" in run(storyboard, "--audio", recording, "--output_dir", out)[1]
    assert (out / f"{stem}.png").read_text() == "mine"
    code, message = run(
        storyboard, "--audio", recording, "--output_dir", out, "--every", 1, "--overwrite", "--size", 64
    )
    assert code == 0 and Image.open(out / f"{stem}.png").width > 1000


def test_film_script_goes_on_where_it_was_interrupted(run, recording, tmp_path, monkeypatch):
    out = tmp_path / "out"
    arguments = ("--audio", recording, "--output_dir", out, "--fps", 1, "--size", 64)
    save = Image.Image.save

    def full_disk(image, path, *rest, **settings):
        if len(list(out.glob("frames/*/0*.png"))) == 5:
            raise OSError(28, "No space left on device")
        save(image, path, *rest, **settings)

    monkeypatch.setattr(Image.Image, "save", full_disk)
    code, message = run(film, *arguments)
    assert code == 1 and "No space left" in message and "5 frames are kept" in message
    assert not (out / f"{recording.stem}.mp4").exists()
    monkeypatch.setattr(Image.Image, "save", save)
    monkeypatch.setattr("macs.film.choose_noise", lambda *_, **__: pytest.fail("the noise was chosen twice"))
    frames = sorted(out.glob("frames/*/*.png"))
    before = {frame: frame.stat().st_mtime_ns for frame in frames}
    code, printed = run(film, *arguments)
    assert code == 0 and "9 frames" in printed
    assert {frame: frame.stat().st_mtime_ns for frame in frames} == before
    with av.open(str(out / f"{recording.stem}.mp4")) as file:
        assert sum(1 for _ in file.decode(video=0)) == 9
    assert "is there already" in run(film, *arguments)[1]


@pytest.mark.parametrize(
    "script, arguments, words",
    [
        (film, ["--fps", "0"], "expected a number from 0.1 to 60, but got '0'"),
        (film, ["--size", "65"], "expected a multiple of 8, but got '65'"),
        (film, ["--size", "64", "64", "64"], "--size takes one side"),
        (film, ["--hop", "3"], "invalid choice: 3.0"),
        (film, ["--audio", "nowhere.wav"], "nowhere.wav: no such audio file"),
        (film, ["--output_dir", "/proc/none"], "cannot be written"),
        (storyboard, ["--panels", "0"], "expected a whole number from 1 to 40"),
        (storyboard, ["--labels", "nowhere.txt"], "nowhere.txt"),
        (storyboard, ["--audio", "README.md"], "README.md: expected audio"),
    ],
)
def test_wrong_settings_end_before_anything_is_loaded(run, recording, tmp_path, monkeypatch, script, arguments, words):
    monkeypatch.setattr("inference.open_pipeline", lambda *_: pytest.fail("loaded"))
    code, message = run(script, "--audio", recording, "--output_dir", tmp_path / "out", *arguments)
    assert code != 0 and words in message


def test_a_motion_adapter_that_is_none(run, recording, tmp_path):
    arguments = ("--audio", recording, "--output_dir", tmp_path / "out", "--motion_adapter", tmp_path)
    code, message = run(film, *arguments)
    assert code == 1 and "expected a motion adapter" in message

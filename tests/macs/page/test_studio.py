"""What the page does, without a browser: hearing, drawing, ranking, and the code that draws the same."""

import copy
import io
import shlex
import sys
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import is_dataclass

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

import app
import inference
from bad_recordings import bad_files
from macs.audio import AudioError
from macs.page import views
from macs.page.studio import MAX_SECONDS, Settings, Stopped, Studio, mixed_weights, peaks, ranked, settings_from


@pytest.fixture(scope="module")
def studio(tiny, tiny_dir):
    return Studio(tiny, str(tiny_dir))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clips") / "my <clip>.wav"
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(32000), 16000)
    return path


@pytest.fixture(scope="module")
def heard(studio, clip):
    return studio.hear(clip, shown_path=str(clip))


def test_a_recording_is_heard_once_and_drawn_as_the_command_line_does(studio, heard, clip, tmp_path, monkeypatch):
    assert heard.sources.shape == (6, 128000) and len(heard.names) == 6 and heard.seconds == 2
    settings = Settings(weights=(1, 0, 1, 1, 0.5, 1), prompt="rain; 'x'", seed=3, steps=1, height=128, width=192)
    drawn = studio.draw(heard, settings)
    assert drawn.image.size == (192, 128) and drawn.maps.shape == (6, 128, 192)
    assert (drawn.maps[1] == 0).all()
    words = shlex.split(studio.command_line(heard, settings))
    assert words[:2] == ["python", "inference.py"]
    monkeypatch.setattr(sys, "argv", [*words[1:], "--output_dir", str(tmp_path)])
    with pytest.raises(SystemExit):
        inference.main()
    command = np.array(Image.open(tmp_path / f"{clip.stem}.png"), dtype=int)
    assert np.abs(command - np.array(drawn.image, dtype=int)).max() <= 1
    names = {}
    exec(studio.python_code(heard, settings), names)
    assert np.abs(np.array(names["drawn"].images[0], dtype=int) - command).max() <= 1


def test_a_part_of_a_long_recording_is_heard(studio, tmp_path):
    samples = 0.01 * np.random.default_rng(0).standard_normal(20 * 16000)
    samples[11 * 16000 : 19 * 16000] *= 9
    soundfile.write(tmp_path / "long.wav", samples, 16000)
    heard = studio.hear(tmp_path / "long.wav")
    assert abs(heard.start - 11) < 0.11 and heard.seconds == 20
    assert studio.hear(tmp_path / "long.wav", 99.0).start == 12  # no further than the end
    assert "--clip_start 2.5 " in studio.command_line(studio.hear(tmp_path / "long.wav", 2.5), Settings())
    assert 'max="12.0"' in views.cut_view(heard, 8.0) and views.cut_view(studio.hear(tmp_path / "long.wav"), 20.0) == ""


def test_what_cannot_be_heard_is_a_line_that_names_the_file(studio, tmp_path, monkeypatch):
    problems = bad_files(tmp_path)
    soundfile.write(tmp_path / "silent.wav", np.zeros(16000), 16000)
    monkeypatch.setattr("macs.page.studio.MAX_SECONDS", 1)
    soundfile.write(tmp_path / "long.wav", np.zeros(32000), 16000)
    for name in [*problems, "long.wav", "silent.wav"]:
        with pytest.raises(AudioError) as error:
            studio.hear(tmp_path / name)
        assert name in str(error.value) and str(tmp_path) not in str(error.value) and "\n" not in str(error.value)
    assert MAX_SECONDS == 600


def test_who_drew_a_place():
    maps = torch.full((3, 64, 64), 0.1)
    maps[0] = 0.6  # attended to everywhere
    maps[2, 32:, :32] = 0.5
    ranking = ranked(maps, 0.2, 0.9)
    assert ranking[0][0] == 2 and abs(ranking[0][1] - 0.5) < 1e-6 and abs(ranking[0][2] - 2.5) < 1e-6
    assert [source for source, *_ in ranked(maps, 0.9, 0.1)][-1] == 2
    ranked(maps, 1.0, 1.0), ranked(maps, -1.0, 2.0)  # edges and beyond
    maps[1] = 0
    assert ranked(maps, 0.5, 0.5)[-1] == (1, 0.0, 0.0)


def test_sliders_mute_and_solo():
    off = [False] * 3
    assert mixed_weights([1, 0.5, 9], off, off, 3) == (1, 0.5, 4)
    assert mixed_weights([1, 0.5, 2], [True, False, False], off, 3) == (0, 0.5, 2)
    assert mixed_weights([1, 0.5, 2], [False, True, False], [False, True, True], 3) == (0, 0, 2)
    with pytest.raises(ValueError):
        mixed_weights([1, 1], off, off, 3)


def test_a_form_edited_by_hand_stays_in_range():
    settings = settings_from(prompt=None, negative_prompt="x" * 900, seed=None, steps=10**9, guidance_scale=-1)
    assert (settings.prompt, len(settings.negative_prompt), settings.seed) == ("", 500, 0)
    assert settings.steps == 100 and settings.guidance_scale == 0


def test_peaks_are_the_outline():
    outline = peaks(torch.cat([torch.full((6000,), 0.25), torch.full((6000,), -0.5)]))
    assert len(outline) == 600 and outline[0] == 0.5 and outline[-1] == 1


def test_a_newer_wish_ends_a_drawing_and_a_failure_keeps_the_old(studio, heard, tmp_path):
    visitor = app.Visitor(heard=heard, settings=Settings(steps=3), ticket=1)

    def want_another(done, steps):
        visitor.ticket += done == 1

    assert not app.draw(studio, visitor, want_another) and visitor.drawn is None
    assert app.draw(studio, visitor) and visitor.done == visitor.ticket == 2
    assert not app.draw(studio, visitor)  # nothing new was wanted
    first, visitor.ticket = visitor.drawn, 3
    assert app.draw(studio, visitor) and visitor.before is first
    visitor.path = str(tmp_path / "none.wav")
    with pytest.raises(AudioError):
        app.hear(studio, visitor)
    assert visitor.heard is heard and visitor.drawn is not None
    with pytest.raises(Stopped):
        studio.draw(heard, Settings(steps=1), lambda *_: (_ for _ in ()).throw(Stopped))
    assert studio.draw(heard, Settings(steps=1)).image is not None  # the model's thread goes on


def test_the_model_works_in_one_thread_whoever_asks(studio):
    with ThreadPoolExecutor(2) as visitors:
        threads = list(visitors.map(lambda _: studio.run(threading.get_ident), range(4)))
    assert len(set(threads)) == 1 and threads[0] != threading.get_ident()
    assert studio.run(torch.get_num_threads) == studio.threads
    with pytest.raises(ZeroDivisionError):
        studio.run(lambda: 1 / 0)


def test_sessions_share_what_was_heard_and_gradio_copies_none_of_it(heard):
    visitor = app.Visitor(heard=heard)
    assert copy.deepcopy(visitor).heard is heard
    assert not is_dataclass(visitor)  # Gradio would copy its fields at each event, in a thread of its own


def test_visitors_at_the_same_time_do_not_mix(studio, heard, clip):
    visitors = [app.Visitor(heard=heard, settings=Settings(steps=2, seed=seed), ticket=1) for seed in (0, 1)]
    alone = [studio.draw(heard, visitor.settings).image.tobytes() for visitor in visitors]
    threads = [threading.Thread(target=app.draw, args=(studio, visitor)) for visitor in visitors]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    assert [visitor.drawn.image.tobytes() for visitor in visitors] == alone


def test_names_are_escaped_and_files_written(studio, heard, tmp_path):
    visitor = app.Visitor(heard=heard, settings=Settings(steps=1), ticket=1)
    app.draw(studio, visitor)
    visitor.heard.names[0] = ("<script>alert(1)</script>", 0.5)
    for view in (
        views.mixer_view(visitor.heard),
        views.picture_view(visitor.drawn, visitor.drawn, visitor.heard.names),
        views.ranking_view(ranked(visitor.drawn.maps, 0.5, 0.5), visitor.heard.names),
        views.message_view("<script>", "<script>"),
    ):
        assert "<script" not in view
    paths = app.write_files(studio, visitor, tmp_path)
    with zipfile.ZipFile(tmp_path / "my <clip>_sources.zip") as archive:
        sounds = [soundfile.read(io.BytesIO(archive.read(name)))[0] for name in sorted(archive.namelist())]
    assert np.abs(sum(sounds) - heard.mixture.numpy()).max() < 1e-3  # the signals sum to what was heard
    page = (tmp_path / "my <clip>_report.html").read_text()
    assert len(paths) == 4 and all((tmp_path / path).stat().st_size > 1000 for path in paths)
    assert "<script" not in page and "my &lt;clip&gt;.wav" in page

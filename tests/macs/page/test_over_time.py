"""The storyboard of the page: what a visitor is told, and what comes out."""

import re

import numpy as np
import pytest
import soundfile

from macs.audio import AudioError
from macs.page import over_time
from macs.page.studio import Studio


def test_a_recording_becomes_a_storyboard(tiny, tiny_dir, tmp_path):
    soundfile.write(tmp_path / "long.wav", 0.1 * np.random.default_rng(0).standard_normal(16000 * 14), 16000)
    told, boards = zip(*over_time.storyboard(Studio(tiny, str(tiny_dir)), tmp_path / "long.wav", 3), strict=True)
    assert told == (
        "Listening to 14 s …",
        "Choosing the noise …",
        *(f"Drawing picture {i} of 3 …" for i in (1, 2, 3)),
        "",
    )
    assert boards[:-1] == (None,) * 5
    starts = [float(start) for start in re.findall(r'data-start="([^"]+)"', boards[-1])]
    assert len(starts) == 3 and starts[0] == 0 and starts == sorted(starts)
    assert "http" not in boards[-1]


def test_what_cannot_be_heard_is_told_by_its_name(tiny, tiny_dir, tmp_path, monkeypatch):
    studio = Studio(tiny, str(tiny_dir))
    (tmp_path / "broken.wav").write_text("no sound at all" * 99)
    with pytest.raises(AudioError, match="^broken.wav: expected audio"):
        list(over_time.storyboard(studio, tmp_path / "broken.wav", 3))
    soundfile.write(tmp_path / "long.wav", np.zeros(16000 * 9), 16000)
    monkeypatch.setattr("macs.page.studio.MAX_SECONDS", 8)
    with pytest.raises(AudioError, match="^long.wav: 0 minutes; this page takes 0 at most"):
        list(over_time.storyboard(studio, tmp_path / "long.wav", 3))

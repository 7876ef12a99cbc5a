import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from download import preprocess_audioset, preprocess_llp

STRONG = """segment_id\tstart_time_seconds\tend_time_seconds\tlabel
s9d-2nhuJCQ_30000\t0.000\t10.000\t/m/09x0r
s9d-2nhuJCQ_30000\t2.627\t7.237\t/m/053hz1
s9d-2nhuJCQ_30000\t4.900\t5.050\t/m/0bt9lr
--_a-b_c-d1_0\t1.000\t1.400\t/m/0bt9lr
--_a-b_c-d1_0\t1.500\t1.900\t/m/09x0r
--_a-b_c-d1_0\t6.000\t8.000\t/m/0bt9lr
--_a-b_c-d1_0\t6.500\t8.000\t/m/0bt9lr
--_a-b_c-d1_0\t7.000\t7.000\t/m/053hz1
"""


def test_seconds_in_which_most_events_sound_at_once(tmp_path):
    (tmp_path / "strong.tsv").write_text(STRONG)
    preprocess_audioset.main(["--events", str(tmp_path / "strong.tsv"), "--output", str(tmp_path / "out.json")])
    assert json.loads((tmp_path / "out.json").read_text()) == {
        "s9d-2nhuJCQ": [4, 5],  # three at once from 4.9 to 5.05 s
        "--_a-b_c-d1": [1, 6, 7],  # one after another, the same label twice, no length: all count as one
    }


@pytest.mark.parametrize(
    "text",
    [
        "",
        "segment_id\tonset\toffset\tlabel\n",
        STRONG + "s9d-2nhuJCQ_30000\t1.0\n",
        STRONG + "s9d-2nhuJCQ_40000\t1.0\t2.0\t/m/09x0r\n",
        STRONG + "s9d-2nhuJCQ_30000\tone\t2.0\t/m/09x0r\n",
    ],
)
def test_strong_labels_in_another_form_are_refused(tmp_path, text):
    (tmp_path / "strong.tsv").write_text(text)
    with pytest.raises(ValueError, match=r"strong\.tsv.*expected"):
        preprocess_audioset.read_events(tmp_path / "strong.tsv")


VIDEOS = """filename\tevent_labels
KSRjje7GH44_60_70\tBlender,Speech
4O9rI-FpqLg_10_20\tCheering,Speech,Clapping
-3M-k4nIYIM_30_40\tSpeech
AP0061o0Nvk_101.8_111.8\tCello
"""
AUDIO = """filename\tonset\toffset\tevent_labels
KSRjje7GH44_60_70\t8\t10\tBlender
KSRjje7GH44_60_70\t0\t8\tSpeech
4O9rI-FpqLg_10_20\t0\t10\tCheering
4O9rI-FpqLg_10_20\t0\t3\tSpeech
4O9rI-FpqLg_10_20\t2\t6\tClapping
4O9rI-FpqLg_10_20\t9\t0\tSpeech
-3M-k4nIYIM_30_40\t0\t10\tSpeech
CSWQ_HzQ_10_20\t0\t10\tSpeech
"""
VISUAL = """filename\tonset\toffset\tevent_labels
KSRjje7GH44_60_70\t0\t10\tBlender
4O9rI-FpqLg_10_20\t1\t5\tCheering
4O9rI-FpqLg_10_20\t2\t10\tSpeech
4O9rI-FpqLg_10_20\t2\t10\tClapping
AP0061o0Nvk_101.8_111.8\t0\t10\tCello
"""


def test_llp_counts_are_events_both_heard_and_seen(tmp_path, capsys):
    for name, text in (("videos", VIDEOS), ("audio", AUDIO), ("visual", VISUAL)):
        (tmp_path / name).write_text(text)
    files = {"videos": "videos", "audio_events": "audio", "visual_events": "visual", "output": "out.json"}
    preprocess_llp.main([text for name, file in files.items() for text in (f"--{name}", str(tmp_path / file))])
    assert json.loads((tmp_path / "out.json").read_text()) == {
        "KSRjje7GH44": [0, 0, 0, 0, 0, 0, 0, 0, 1, 1],
        "4O9rI-FpqLg": [0, 1, 3, 2, 2, 1, 0, 0, 0, 0],
        "-3M-k4nIYIM": [0] * 10,
        "AP0061o0Nvk": [0] * 10,
    }
    out = capsys.readouterr().out
    assert "audio: no events of 1 videos" in out and "visual: no events of 1 videos" in out and "in 2 of them" in out


def test_llp_counts_of_predictions(tmp_path):
    audio, visual = np.zeros((2, 10, 25), np.float32), np.zeros((2, 10, 25), np.float32)
    audio[0, 3, :4], visual[0, 3, 2:6] = 0.9, 0.5
    audio[1, :, 7], visual[1, 5:, 7] = 0.6, 0.499
    ids = np.array(["-3M-k4nIYIM_30_40", "AP0061o0Nvk_101.8_111.8"])
    np.savez(tmp_path / "p.npz", ids=ids, audio=audio, visual=visual)
    preprocess_llp.main(["--predictions", str(tmp_path / "p.npz"), "--output", str(tmp_path / "out.json")])
    assert json.loads((tmp_path / "out.json").read_text()) == {
        "-3M-k4nIYIM": [0, 0, 0, 2, 0, 0, 0, 0, 0, 0],
        "AP0061o0Nvk": [0] * 10,
    }
    assert preprocess_llp.counts_of_predictions(tmp_path / "p.npz", 0.4)["AP0061o0Nvk"] == [0] * 5 + [1] * 5


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"ids": ["a"], "audio": np.zeros((1, 10, 25))}, "visual is missing"),
        (
            {"ids": ["a"], "audio": np.zeros((1, 10, 25)), "visual": np.zeros((2, 10, 25))},
            r"expected .*\(1, 10, classes\)",
        ),
        ({"ids": ["a"], "audio": np.full((1, 10, 25), -3.0), "visual": np.zeros((1, 10, 25))}, "logits"),
    ],
)
def test_predictions_in_another_form_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "p.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        preprocess_llp.counts_of_predictions(tmp_path / "p.npz")


def test_annotations_in_another_form_are_refused(tmp_path):
    for text in ("a,b\n", AUDIO + "x_0_10\t0\n", AUDIO + "x_0_10\t0.5\t1\tDog\n"):
        (tmp_path / "audio.csv").write_text(text)
        with pytest.raises(ValueError, match=r"audio\.csv.*expected"):
            preprocess_llp.read_events(tmp_path / "audio.csv")


@pytest.mark.parametrize("script", ["download/download_llp.py", "download/preprocess_audioset.py"])
def test_scripts_run_from_anywhere(tmp_path, script):
    root = Path(__file__).resolve().parents[2]
    result = subprocess.run([sys.executable, root / script, "--help"], cwd=tmp_path, capture_output=True, check=True)
    assert b"usage:" in result.stdout

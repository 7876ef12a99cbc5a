import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from made_videos import FFMPEG, frame_number, make_video
from PIL import Image

from download.journal import read_journal
from scripts import extract_frames, preprocess_audioset, preprocess_llp

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


# Frame files


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
    preprocess_llp.main(
        [
            "--videos",
            str(tmp_path / "videos"),
            "--audio_events",
            str(tmp_path / "audio"),
            "--visual_events",
            str(tmp_path / "visual"),
            "--output",
            str(tmp_path / "out.json"),
        ]
    )
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


def test_frames_files_of_both_kinds_are_told_apart(tmp_path):
    def read(content):
        (tmp_path / "frames.json").write_text(json.dumps(content))
        return extract_frames.read_frames_json(tmp_path / "frames.json")

    assert read({"a": [2] * 10, "b": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]})[1] is True
    assert read({"a": [3], "b": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], "c": []})[1] is False
    for content in ([], {}, {"a": 3}, {"a": ["1"]}):
        with pytest.raises(SystemExit, match=r"frames\.json: expected"):
            read(content)


@pytest.mark.parametrize(
    ("events", "counts", "available", "best"),
    [
        (None, False, range(3), [0, 1, 2]),
        ((2, 2, 1, 2, 0, 0, 0, 0, 0, 0), True, range(10), [0, 1, 3]),
        ((0, 1, 0, 0, 0, 0, 0, 0, 3, 0), True, range(3), [1]),  # 3 s only: the best of what is there
        ((0,) * 10, True, range(10), []),
        ((3, 7), False, range(10), [3, 7]),
        ((3, 7), False, range(5), [3]),
        ((7,), False, range(3), []),
        ((), False, range(3), []),
    ],
)
def test_best_seconds(events, counts, available, best):
    assert extract_frames.best_seconds(events, counts, available) == best


def test_test_part_is_a_tenth_and_keeps_segments_of_a_video_together():
    ids = [f"{random.Random(number).getrandbits(44):011x}" for number in range(5000)]
    share = sum(extract_frames.is_test(id, 0.1) for id in ids) / len(ids)
    assert 0.08 < share < 0.12
    assert all(extract_frames.is_test(f"{id}#4#14", 0.1) == extract_frames.is_test(f"{id}#20#30", 0.1) for id in ids)


# Extraction


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_video(tmp_path_factory.mktemp("source") / "10s.mp4")


def extract(root, *arguments, name="LLP", similarity=None):
    return extract_frames.main(
        ["--data_dir", str(root), "--dataset_name", name, "--split", "train", *arguments],
        *([similarity] if similarity else []),
    )


def videos_in(root, videos, name="LLP"):
    folder = root / name / "download" / "video"
    folder.mkdir(parents=True)
    for id, path in videos.items():
        (folder / f"{id}.mp4").symlink_to(path)
    return folder


def images(root, name="LLP"):
    return {path.stem: frame_number(Image.open(path)) for path in (root / name / "train" / "image").iterdir()}


@pytest.mark.parametrize(
    ("fps", "seconds", "expected"),
    [
        (10, 10.0, [5, 15, 25, 35, 45, 55, 65, 75, 85, 95]),
        (11, 4.0, [5, 16, 27, 38]),  # the picture that shows at 0.5 s began at 5 / 11 s
        (1, 5.0, [0, 1, 2, 3]),  # a slide show: one picture a second
        (10, 3.2, [5, 15, 25]),
    ],
)
def test_the_frame_is_the_picture_in_the_middle_of_its_second(tmp_path, fps, seconds, expected):
    path = make_video(tmp_path / "v.mp4", seconds, fps)
    (tmp_path / "out").mkdir()
    available, length, note = extract_frames.extract(FFMPEG, path, tmp_path / "out")
    assert available == list(range(len(expected))) and not note
    assert [frame_number(Image.open(tmp_path / "out" / f"{n}.jpg"), fps) for n in available] == expected
    assert abs(length - seconds) < 0.03


def pitch_of_second(waveform, second):
    part = waveform[16000 * second + 4000 : 16000 * second + 12000]
    return np.abs(np.fft.rfft(part)).argmax() * 2  # bins of 2 Hz


def test_sound_and_pictures_stay_together(tmp_path, source):
    late = tmp_path / "late.mp4"  # the sound begins 2 s after the pictures
    subprocess.run(
        [
            FFMPEG,
            "-v",
            "error",
            "-i",
            source,
            "-itsoffset",
            "2",
            "-i",
            source,
            "-map",
            "0:v",
            "-map",
            "1:a",
            "-c",
            "copy",
            "-t",
            "10",
            late,
        ],
        check=True,
    )
    for path, delay in ((source, 0), (late, 2)):
        folder = tmp_path / str(delay)
        folder.mkdir()
        extract_frames.extract(FFMPEG, path, folder)
        waveform, rate = soundfile.read(folder / "audio.wav")
        assert rate == 16000 and waveform.ndim == 1
        assert abs(len(waveform) - 160_000) < 1000
        assert np.abs(waveform[: max(16000 * delay - 800, 0)]).max(initial=0) < 1e-3
        assert [pitch_of_second(waveform, second) for second in range(delay, 9)] == [
            200 + 100 * (second - delay) for second in range(delay, 9)
        ]


def test_layout_resume_and_one_decode_for_each_video(tmp_path, source, monkeypatch):
    ids = ["-_gaZzFfzDQ", "--4gqARaEJE", "CI0jX5TMs0Q", "notinthisfile"]
    videos_in(tmp_path, dict.fromkeys(ids, source))
    (tmp_path / "LLP.json").write_text(
        json.dumps(
            {
                "-_gaZzFfzDQ": [0, 0, 2, 0, 2, 0, 0, 0, 0, 0],
                "--4gqARaEJE": [1] * 10,
                "CI0jX5TMs0Q": [0] * 9 + [1],
                "notdownload": [2] * 10,
            }
        )
    )
    decodes = []
    monkeypatch.setattr(
        extract_frames, "run_ffmpeg", lambda *args, run=extract_frames.run_ffmpeg: decodes.append(args) or run(*args)
    )
    arguments = ["--frames_json", str(tmp_path / "LLP.json"), "--choose", "all"]
    assert extract(tmp_path, *arguments) == 0
    assert len(decodes) == 3
    frames = {"-_gaZzFfzDQ": [2, 4], "--4gqARaEJE": list(range(10)), "CI0jX5TMs0Q": [9]}
    assert images(tmp_path) == {f"{id}_frame_{n}": 10 * n + 5 for id, seconds in frames.items() for n in seconds}
    audio = tmp_path / "LLP/train/audio"
    assert {path.name for path in audio.iterdir()} == {f"{id}.wav" for id in frames}
    assert {soundfile.info(path).frames for path in audio.iterdir()} == {160_000}

    (tmp_path / "LLP/train/image/-_gaZzFfzDQ_frame_4.jpg").unlink()
    assert extract(tmp_path, *arguments) == 0
    assert len(decodes) == 4 and len(images(tmp_path)) == 13
    assert extract(tmp_path, *arguments) == 0
    assert len(decodes) == 4

    # frames of another choice do not get mixed in
    with pytest.raises(SystemExit, match="chosen otherwise before"):
        extract(tmp_path, "--frames_json", str(tmp_path / "LLP.json"), "--choose", "random")


def test_random_choice_depends_on_seed_and_video_alone(tmp_path, source):
    ids = [f"{number:011}" for number in range(8)]
    counts = {id: [0, 3, 3, 3, 0, 3, 0, 3, 1, 3] for id in ids}
    (tmp_path / "counts.json").write_text(json.dumps(counts))

    def choose(name, seed, workers, ids):
        root = tmp_path / name
        videos_in(root, dict.fromkeys(ids, source))
        extract(
            root,
            "--frames_json",
            str(tmp_path / "counts.json"),
            "--seed",
            str(seed),
            "--workers",
            str(workers),
            "--num_frames",
            "2",
        )
        return {id: entry["frames"] for id, entry in read_journal(root / "LLP/frames.jsonl")[0].items()}

    one = choose("one", 0, 1, ids)
    assert choose("two", 0, 4, ids[::-1]) == one
    assert choose("few", 0, 1, ids[3:5]) == {id: one[id] for id in ids[3:5]}
    assert choose("other", 1, 1, ids) != one
    assert all(len(set(frames)) == 2 and set(frames) <= {1, 2, 3, 5, 7, 9} for frames in one.values())
    assert len({tuple(frames) for frames in one.values()}) > 2


def test_bad_videos_get_one_line_each_and_the_rest_goes_on(tmp_path, source, capsys):
    made = tmp_path / "made"
    made.mkdir()
    content = source.read_bytes()
    (made / "cut.mp4").write_bytes(content[: len(content) // 2])  # the index comes first: half of it can be decoded
    index_last = made / "last.mp4"
    subprocess.run([FFMPEG, "-v", "error", "-i", source, "-c", "copy", index_last], check=True)
    (made / "noindex.mp4").write_bytes(index_last.read_bytes()[:-20_000])
    (made / "text.mp4").write_text("<html>Not found</html>")
    (made / "empty.mp4").write_bytes(b"")
    paths = {
        "good": source,
        "mute": make_video(made / "mute.mp4", sound=False),
        "blind": make_video(made / "blind.mp4", pictures=False),
        "short": make_video(made / "short.mp4", 3),
        "tiny": make_video(made / "tiny.mp4", 0.6),
        "-cut": made / "cut.mp4",
        "noindex": made / "noindex.mp4",
        "text": made / "text.mp4",
        "empty": made / "empty.mp4",
        "#late": source,
        "unheard": source,
    }
    videos_in(tmp_path, paths)
    counts = dict.fromkeys(paths, [1, 1, 2, 1, 1, 1, 1, 1, 1, 3]) | {"unheard": [0] * 10}
    (tmp_path / "counts.json").write_text(json.dumps(counts))
    assert extract(tmp_path, "--frames_json", str(tmp_path / "counts.json")) == 0
    entries, _ = read_journal(tmp_path / "LLP/frames.jsonl")
    got = {id: entry["frames"] for id, entry in entries.items() if entry["state"] == "done"}
    assert got == {"good": [9], "#late": [9], "short": [2], "-cut": [2]}
    reasons = {id: entry["reason"] for id, entry in entries.items() if entry["reason"]}
    assert reasons["mute"] == "no sound in it" and reasons["blind"] == "no pictures in it"
    assert "too short" in reasons["tiny"] and "damaged" in reasons["-cut"]
    assert reasons["unheard"] == "no second in which enough events are heard and seen"
    assert all("cannot" not in reasons[id] and "can be read" in reasons[id] for id in ("noindex", "text", "empty"))
    out = capsys.readouterr().out
    assert all(out.count(f"\n{id}: ") == 1 for id in reasons)
    assert images(tmp_path)["good_frame_9"] == 95 and images(tmp_path)["-cut_frame_2"] == 25


def test_a_killed_ffmpeg_is_no_reason_to_give_a_video_up(tmp_path, source, monkeypatch):
    killer = tmp_path / "ffmpeg"  # answers -version, and is killed at work
    killer.write_text('#!/bin/sh\n[ "$1" = -version ] || kill -9 $$\n')
    killer.chmod(0o755)
    videos_in(tmp_path, {"-a": source})
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(killer))
    assert extract(tmp_path) == 3
    monkeypatch.delenv("IMAGEIO_FFMPEG_EXE")
    assert extract(tmp_path) == 0 and len(images(tmp_path)) == 1


def test_a_missing_folder_and_a_missing_ffmpeg_are_one_clear_line(tmp_path, capsys, monkeypatch):
    assert extract(tmp_path) != 0
    assert "nothing to extract" in capsys.readouterr().out
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/no/such/ffmpeg")
    with pytest.raises(SystemExit, match="No ffmpeg that runs"):
        extract(tmp_path)


# Choice by CLIP


def test_clip_choice_takes_the_most_similar_and_batches_across_videos(tmp_path, source):
    ids = {"aaaaaaaaaaa": 3, "-bbbbbbbbbb": 8, "ccccccccccc": 1, "#dddddddddd": 9, "eeeeeeeeeee": 5}
    videos_in(tmp_path, dict.fromkeys(ids, source))
    (tmp_path / "LLP.csv").write_text(
        "filename\tevent_labels\n"
        + "".join(f"{id}{'' if '#' in id else '_5_15'}\t{second}\n" for id, second in ids.items())
    )
    batches = []

    class NearestSecond:
        """Finds a picture the more similar to a label the nearer its second is to that number."""

        def __init__(self, model, device):
            assert (model, device) == ("some/clip", "cpu")

        def __call__(self, paths, labels):
            batches.append(len(paths))
            shown = [frame_number(Image.open(path)) // 10 for path in paths]
            return [-abs(second - float(names[0])) for second, names in zip(shown, labels, strict=True)]

    assert (
        extract(
            tmp_path,
            "--choose",
            "clip",
            "--clip_model",
            "some/clip",
            "--labels_csv",
            str(tmp_path / "LLP.csv"),
            "--batch_size",
            "30",
            "--device",
            "cpu",
            "--num_frames",
            "1",
            similarity=NearestSecond,
        )
        == 0
    )
    assert batches == [30, 20]
    assert images(tmp_path) == {f"{id}_frame_{second}": 10 * second + 5 for id, second in ids.items()}
    assert len(list((tmp_path / "LLP/train/audio").iterdir())) == 5


@pytest.mark.slow  # transformers takes its time to load
def test_clip_similarity_is_the_models(tmp_path):
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    letters = [letter + end for letter in "abcdefghijklmnopqrstuvwxyz" for end in ("", "</w>")]
    vocabulary = {token: number for number, token in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])}
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = CLIPModel(
        CLIPConfig(
            projection_dim=8,
            vision_config=tower | {"image_size": 32, "patch_size": 8},
            text_config=tower | {"vocab_size": 54, "bos_token_id": 52, "eos_token_id": 53, "pad_token_id": 53},
        )
    )
    processor = CLIPProcessor(
        CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        CLIPTokenizer(vocab=vocabulary, merges=[]),
    )
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (3, 40, 60, 3), np.uint8)
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path, pixels in zip(paths, noise, strict=True):
        Image.fromarray(pixels).save(path)

    similarity = extract_frames.ClipSimilarity(tmp_path, "cpu")
    scores = similarity(paths, [["dog"], ["baby_cry", "dog"], ["dog"]])
    inputs = processor(
        text=["a photo of dog", "a photo of baby cry"],
        images=[Image.open(path) for path in paths],
        padding=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        result = model.eval()(**inputs)
    cosine = (result.logits_per_image / model.logit_scale.exp()).tolist()
    expected = [cosine[0][0], (cosine[1][0] + cosine[1][1]) / 2, cosine[2][0]]
    assert scores == pytest.approx(expected, abs=1e-5)
    assert len({round(score, 4) for score in scores}) == 3


@pytest.mark.parametrize("script", ["download/download_llp.py", "scripts/preprocess_audioset.py"])
def test_scripts_run_from_anywhere(tmp_path, script):
    root = Path(__file__).resolve().parents[1]
    result = subprocess.run([sys.executable, root / script, "--help"], cwd=tmp_path, capture_output=True, check=True)
    assert b"usage:" in result.stdout

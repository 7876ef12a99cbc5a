import json
import random
import subprocess

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from download import extract_frames
from download.journal import read_journal
from made_videos import FFMPEG, frame_number, make_video

# Choice


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
def test_best_seconds_of_those_that_are_there(events, counts, available, best):
    assert extract_frames.best_available(events, counts, available) == best


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
    inputs = ["-i", source, "-itsoffset", "2", "-i", source]
    maps = ["-map", "0:v", "-map", "1:a", "-c", "copy", "-t", "10"]
    subprocess.run([FFMPEG, "-v", "error", *inputs, *maps, late], check=True)
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
        settings = ["--seed", str(seed), "--workers", str(workers), "--num_frames", "2"]
        extract(root, "--frames_json", str(tmp_path / "counts.json"), *settings)
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

    choice = ["--choose", "clip", "--clip_model", "some/clip", "--labels_csv", str(tmp_path / "LLP.csv")]
    settings = ["--batch_size", "30", "--device", "cpu", "--num_frames", "1"]
    assert extract(tmp_path, *choice, *settings, similarity=NearestSecond) == 0
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

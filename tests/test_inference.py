"""inference.py as users run it: its files, messages and exit codes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

import inference
from bad_recordings import bad_files
from macs.plots import maps_figure

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def run(tiny_dir, run_inference):
    """Runs inference.py in this process: (exit code, what it printed)."""

    def run(*arguments, steps=1):
        return run_inference("--sd_path", tiny_dir, "--steps", steps, *arguments)

    return run


@pytest.fixture
def clips(tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("-_gaZ_517", "CI0j#457#467", "plain"):
        soundfile.write(folder / f"{name}.wav", 0.1 * rng.standard_normal(32000), 16000)
    return folder


def test_an_image_per_clip_named_after_it(run, clips, tmp_path):
    code, printed = run("--audio", clips, "--output_dir", tmp_path / "out", "--num_images", 2)
    assert code == 0 and "6 images written" in printed and "0 problems" in printed
    expected = {f"{clip.stem}{suffix}.png" for clip in clips.iterdir() for suffix in ("", "_1")}
    assert {file.name for file in (tmp_path / "out").iterdir()} == expected
    images = [np.array(Image.open(file)) for file in sorted((tmp_path / "out").iterdir())]
    assert all(image.shape == (128, 128, 3) for image in images)
    assert len({image.tobytes() for image in images}) == 6


def test_images_do_not_depend_on_the_batch(run, clips, tmp_path):
    run("--audio", clips, "--output_dir", tmp_path / "a", "--batch_size", 3)
    run("--audio", clips / "plain.wav", "--output_dir", tmp_path / "b")
    run("--audio", clips / "plain.wav", "--output_dir", tmp_path / "c", "--seed", 1)
    a, b, c = (np.array(Image.open(tmp_path / folder / "plain.png"), dtype=int) for folder in "abc")
    assert np.abs(a - b).max() <= 1 and np.abs(a - c).max() > 10


def test_what_exists_is_kept(run, clips, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "plain.png").write_text("mine")
    (out / "notes.txt").write_text("mine too")
    code, printed = run("--audio", clips, "--output_dir", out)
    assert code == 0 and "2 images written" in printed and "1 clip had theirs already" in printed
    assert (out / "plain.png").read_text() == "mine" and (out / "notes.txt").exists()
    assert "0 images written" in run("--audio", clips, "--output_dir", out)[1]
    run("--audio", clips / "plain.wav", "--output_dir", out, "--overwrite")
    assert Image.open(out / "plain.png").size == (128, 128) and (out / "notes.txt").exists()


def test_bad_clips_do_not_stop_the_others(run, clips, tmp_path):
    problems = bad_files(clips)
    soundfile.write(clips / "silent.wav", np.zeros(16000), 16000)
    soundfile.write(clips / "eight.flac", 0.1 * np.random.default_rng(0).standard_normal((4000, 8)), 8000)
    soundfile.write(clips / "plain.flac", np.zeros(16000), 16000)
    with pytest.warns(UserWarning, match="silent.wav: silence"):
        code, printed = run(
            "--audio", clips, clips / "missing.wav", tmp_path / "nowhere", "--output_dir", tmp_path / "out"
        )
    assert code == 0 and "5 images written" in printed and "9 problems" in printed
    for name, words in problems.items():
        assert any(name in line and words in line for line in printed.splitlines())
    assert "nowhere: no such file or folder" in printed and "rename one of them" in printed
    assert not [file for file in (tmp_path / "out").iterdir() if file.suffix != ".png"]


def test_exit_code_if_nothing_could_be_done(run, clips, tmp_path):
    out = tmp_path / "out"
    assert run("--audio", tmp_path / "nowhere", "--output_dir", out)[0] == 1
    (clips / "plain.wav").write_text("no audio")
    assert run("--audio", clips / "plain.wav", "--output_dir", out)[0] == 1
    (tmp_path / "empty").mkdir()
    code, printed = run("--audio", tmp_path / "empty", "--output_dir", out)
    assert code == 1 and "no recordings in this folder" in printed


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--output_dir", "/proc/none"], "cannot be written"),
        (["--M", "4"], "made for M = 6 sources, but --M is 4"),
        (["--mixed_precision", "fp16"], "needs a GPU"),
        (["--pt_path", "nowhere"], "nowhere: expected an adapter folder"),
    ],
)
def test_wrong_settings_are_one_clear_line(run, clips, tmp_path, arguments, words):
    code, message = run(
        "--audio",
        clips,
        *(arguments if "--output_dir" in arguments else ["--output_dir", tmp_path / "out", *arguments]),
    )
    assert code == 1 and words in message


def test_dataset_folders(run, clips, tmp_path):
    audio = tmp_path / "data" / "Mine" / "test" / "audio"
    audio.parent.mkdir(parents=True)
    clips.rename(audio)
    settings = ["--data_dir", tmp_path / "data", "--output_dir", tmp_path / "out"]
    assert "3 images written" in run("--dataset_name", "Mine", *settings)[1]
    code, printed = run("--dataset_name", "Yours", *settings)
    assert code == 1 and "holds the sets: Mine/test" in printed


def test_save_sources(run, clips, tmp_path):
    run("--audio", clips / "plain.wav", "--output_dir", tmp_path / "out", "--save_sources")
    folder = tmp_path / "out" / "sources"
    sources = np.stack([soundfile.read(folder / f"plain_{rank}.wav")[0] for rank in range(1, 7)])
    mixture, _ = soundfile.read(clips / "plain.wav")
    assert sources.shape == (6, 128000)
    assert np.abs(sources.sum(0)[: len(mixture)] - mixture).max() < 1e-3  # 16-bit files
    assert Image.open(folder / "plain.png").size[0] > 1000


def test_settings_reach_the_pipeline(run, clips, tmp_path):
    def image(name, *arguments):
        run("--audio", clips / "plain.wav", "--output_dir", tmp_path / name, *arguments)
        return np.array(Image.open(tmp_path / name / "plain.png"), dtype=int)

    plain = image("plain")
    for i, arguments in enumerate(
        [["--prompt", "rain"], ["--no-cfg"], ["--audio_scale", "0"], ["--top_sources", "1"], ["--guidance_scale", "3"]]
    ):
        assert np.abs(image(str(i), *arguments) - plain).max() > 1, arguments
    assert image("size", "--size", "64", "96").shape == (64, 96, 3)


def test_quiet_clips_are_raised_for_the_embedded_model(run, clips, tmp_path):
    sound, rate = soundfile.read(clips / "plain.wav")
    soundfile.write(clips / "quiet.wav", 0.01 * sound, rate, subtype="FLOAT")
    settings = ["--audio", clips / "quiet.wav", clips / "plain.wav", "--separate_only"]

    def peaks(name, *option):
        assert run(*settings, "--output_dir", tmp_path / name, *option)[0] == 0
        folder = tmp_path / name / "sources"
        parts = {n: [soundfile.read(folder / f"{n}_{i}.wav")[0] for i in range(1, 7)] for n in ("quiet", "plain")}
        return {n: np.abs(np.sum(part, axis=0)).max() for n, part in parts.items()}

    as_it_is, raised = peaks("off", "--no-raise_quiet"), peaks("on", "--raise_quiet")
    assert as_it_is["quiet"] == pytest.approx(np.abs(0.01 * sound).max(), abs=1e-3)
    assert raised["quiet"] == pytest.approx(0.42, abs=0.01)
    assert raised["plain"] == as_it_is["plain"]  # of a usual level
    assert peaks("default")["quiet"] == raised["quiet"]  # as its separator's config.json says


def test_maps_show_which_source_drew_what(run, clips, tmp_path):
    settings = ["--audio", clips / "plain.wav", "--labels", tmp_path / "names.txt"]
    (tmp_path / "names.txt").write_text("dog\nrain\n")
    for kind in ("attention", "influence"):
        code, printed = run(*settings, "--output_dir", tmp_path / kind, "--save_maps", kind)
        assert code == 0, printed
        assert Image.open(tmp_path / kind / "maps" / "plain.png").width > 1000
    run("--audio", clips / "plain.wav", "--output_dir", tmp_path / "plain")
    plain = np.array(Image.open(tmp_path / "plain" / "plain.png"), dtype=int)
    for kind in ("attention", "influence"):  # looking changes nothing
        assert np.abs(np.array(Image.open(tmp_path / kind / "plain.png"), dtype=int) - plain).max() <= 1


def test_the_figure_of_maps_says_names_and_shares():
    sources = torch.zeros(2, 16000)
    sources[0], sources[1] = 3.0, 4.0
    maps = torch.tensor([0.125, 0.875])[:, None, None].repeat(1, 8, 8)
    maps[0, :, 4:], maps[1, :, 4:] = 0.375, 0.625
    figure = maps_figure(
        sources.sum(0), sources, Image.new("RGB", (8, 8)), maps, "attention", [("dog", 0.9), ("rain", 0.5)]
    )
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[1:3] == ["1: dog 90%", "2: rain 50%"]
    assert titles[4:] == ["36% of energy, 25% of attention", "64% of energy, 75% of attention"]
    veil = [axes.images[1].get_alpha() for axes in figure.axes[4:]]
    # relative to each source's mean: 0.5 and 1.5, 7/6 and 5/6
    assert veil[0].max() == pytest.approx(0.85 * 2 / 3) and veil[0].min() == 0
    assert veil[1].max() == pytest.approx(0.85 * 4 / 9)


def test_interpolation_begins_and_ends_at_the_clips(run, clips, tmp_path):
    ends = [clips / "plain.wav", clips / "CI0j#457#467.wav"]
    code, printed = run("--interpolate", *ends, "--frames", "3", "--output_dir", tmp_path / "out")
    assert code == 0 and "plain-CI0j#457#467.png" in printed
    strip = np.array(Image.open(tmp_path / "out" / "plain-CI0j#457#467.png"), dtype=int)
    assert strip.shape == (128, 3 * 128, 3)
    run("--interpolate", *ends[::-1], "--frames", "2", "--output_dir", tmp_path / "out")
    back = np.array(Image.open(tmp_path / "out" / "CI0j#457#467-plain.png"), dtype=int)
    assert np.abs(strip[:, :128] - back[:, 128:]).max() <= 1 and np.abs(strip[:, 256:] - back[:, :128]).max() <= 1


def test_separate_only_writes_sources_and_no_pictures(run, clips, tiny, tmp_path):
    out = tmp_path / "out"
    code, printed = run("--audio", clips, "--output_dir", out, "--separate_only")
    assert code == 0 and "sources of 3 clips written" in printed
    names = {path.name for path in (out / "sources").iterdir()}
    assert names == {f"{clip.stem}_{rank}.wav" for clip in clips.iterdir() for rank in range(1, 7)}
    assert [path.name for path in out.iterdir()] == ["sources"]
    sources = tiny.separate(tiny.prepare_audio(clips / "plain.wav"))[0].numpy()  # the separator's, in its order
    written = np.stack([soundfile.read(out / "sources" / f"plain_{rank}.wav")[0] for rank in range(1, 7)])
    assert written == pytest.approx(sources, abs=2 / 32768)
    assert "sources of 0 clips" in run("--audio", clips, "--output_dir", out, "--separate_only")[1]


def test_the_report_holds_everything(run, clips, tmp_path):
    (clips / "plain.wav").rename(clips / "<b>&.wav")
    code, _ = run("--audio", clips, "--output_dir", tmp_path / "out", "--report")
    page = (tmp_path / "out" / "report.html").read_text()
    assert code == 0 and not (tmp_path / "out" / "maps").exists()
    assert page.count("<article>") == 3 and page.count("data:audio/mpeg;base64,") == 3 * 7
    assert page.count('class="map"') == 3 * 6 and "<b>&.wav" not in page and "<h2>&lt;b&gt;&amp;</h2>" in page
    assert all(source.startswith("data:") for source in re.findall(r"""(?:src|href)=["']?([^"' >]+)""", page))
    assert page.rstrip().endswith("</html>")


def test_a_second_image_does_not_overwrite_another_clip(run, clips, tmp_path):
    (clips / "CI0j#457#467.wav").rename(clips / "plain_1.wav")
    code, printed = run("--audio", clips, "--output_dir", tmp_path / "out", "--num_images", 2)
    assert code == 0 and "4 images written" in printed and "1 problem" in printed
    assert "plain_1.wav: would overwrite an image of" in printed
    assert len(list((tmp_path / "out").glob("*.png"))) == 4


def test_two_may_write_into_one_folder_at_a_time(run, clips, tmp_path, monkeypatch):
    arguments = ["--audio", clips, "--output_dir", tmp_path / "out", "--save_sources"]
    draw, inner = inference.draw_clips, []

    def interrupted(*rest):  # another run does all of it between this one's look at the folder and its work
        if not inner:
            inner.append(None)
            inner[0] = run(*arguments)
        return draw(*rest)

    monkeypatch.setattr(inference, "draw_clips", interrupted)
    for code, printed in (run(*arguments), inner[0]):
        assert code == 0 and "3 images written" in printed and "0 problems" in printed
    run("--audio", clips, "--output_dir", tmp_path / "alone", "--save_sources")
    names = sorted(path.relative_to(tmp_path / "alone") for path in (tmp_path / "alone").rglob("*"))
    assert names == sorted(path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*"))
    for name in names:
        if (tmp_path / "out" / name).is_file():
            assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


def test_a_name_of_250_bytes(run, clips, tmp_path):
    (clips / "plain.wav").rename(clips / ("n" * 247 + ".wav"))
    assert "3 images written" in run("--audio", clips, "--output_dir", tmp_path / "out")[1]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--steps", "0"], "--steps: expected a whole number of 1 or more, but got '0'"),
        (["--steps", "-1"], "expected a whole number of 1 or more"),
        (["--guidance_scale", "nan"], "--guidance_scale: expected a number of 0 or more, but got 'nan'"),
        (["--audio_scale", "inf"], "expected a number that is finite"),
        (["--size", "100"], "--size/--output_size: expected a multiple of 8, but got '100'"),
        (["--size", "64", "64", "64"], "--size takes one side, or height and width, but got 3 numbers"),
        (["--batch_size", "0"], "--batch_size: expected a whole number of 1 or more"),
        (["--num_images", "0"], "--num_images: expected a whole number of 1 or more"),
        (["--clip_start", "nan"], "--clip_start: expected a number of 0 or more"),
        (["--source_masks", "1:0,0,2,1"], "--source_masks: expected a source from 1 and sides from 0 to 1"),
        (["--source_weights", "-1"], "--source_weights: expected a number of 0 or more"),
    ],
)
def test_arguments_out_of_range_end_before_anything_is_loaded(clips, capsys, arguments, words):
    with pytest.raises(SystemExit) as end:
        inference.parse_args(["--audio", str(clips), *arguments])
    assert end.value.code == 2 and words in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--top_sources", "9"], "top_sources from 1 to 6"),
        (["--source_weights", "1", "0"], "6"),
        (["--source_masks", "7:0,0,1,1"], "sources from 0 to 5"),
        (["--labels", "nowhere.txt", "--save_maps"], "nowhere.txt"),
    ],
)
def test_settings_that_do_not_fit_the_weights_are_one_line(run, clips, tmp_path, arguments, words, monkeypatch):
    if arguments[0] != "--labels":
        monkeypatch.setattr(inference, "open_pipeline", None)  # nothing is loaded
    code, message = run("--audio", clips / "plain.wav", "--output_dir", tmp_path / "out", *arguments)
    assert code == 1 and words in message and "\n" not in message


@pytest.mark.slow
def test_two_processes_share_the_clips(clips, tiny_dir, tmp_path):
    # on CPUs `--cpu` would run one process, `--multi_gpu` runs two
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--main_process_port", "0"]  # a free one
    command += [
        "inference.py",
        "--sd_path",
        str(tiny_dir),
        "--audio",
        str(clips),
        "--output_dir",
        str(tmp_path / "out"),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPROFILEIMPORTTIME": "1"}
    done = subprocess.run([*command, "--steps", "1"], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "2/2" in done.stderr and "3/3" not in done.stderr  # the main process's share
    assert done.stdout.count("3 images written") == 1
    assert len(list((tmp_path / "out").glob("*.png"))) == 3
    imported = set(re.findall(r"^import time:.*\| +(\S+)$", done.stderr, re.MULTILINE))
    assert "diffusers" in imported and not imported & {"matplotlib", "sklearn", "gradio"}  # no figure was asked for


@pytest.mark.slow
def test_three_hours_are_read_in_little_memory(tmp_path):
    path = tmp_path / "long.wav"
    with soundfile.SoundFile(path, "w", 8000, 1) as file:
        for minute in range(180):
            file.write(np.full(8000 * 60, 0.5 if minute == 100 else 0.001))
    code = """
import resource, sys
from macs.audio import load_clip, loudest_start
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB, the highest until now
start = loudest_start(sys.argv[1])
load_clip(sys.argv[1], start)
print(start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, capture_output=True, text=True, check=True)
    start, grown = done.stdout.split()
    assert 6000 <= float(start) <= 6060
    assert int(grown) < 50e3  # the samples are 173 MB, in float32 346 MB

import io
import json
import urllib.error

import numpy as np
import pytest
from PIL import Image, ImageFilter

from macs.evaluation.encoders import SmallImageEncoder
from scripts import evaluate
from soundscapes.scenes import make_scene, write_soundscapes

COSINES = ("ais", "ais_z", "iis", "iis_z")


def make_world(root, train, count):
    """Soundscapes, and generated images for them: other pictures of the same labels, then degraded."""
    write_soundscapes(root / "data", {"train": train, "test": count}, num_workers=2)
    scenes = [make_scene("test", k) for k in range(count)]
    pictures = [make_scene("test", 1000 + k, labels=scene.labels).image for k, scene in enumerate(scenes)]

    def jpeg(picture):
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=1)
        return Image.open(file)

    versions = {
        "good": pictures,
        "blur": [picture.filter(ImageFilter.GaussianBlur(4)) for picture in pictures],
        "jpeg": [jpeg(picture) for picture in pictures],
        "swap": pictures[7:] + pictures[:7],
    }
    for name, images in versions.items():
        (root / name).mkdir()
        for scene, image in zip(scenes, images, strict=True):
            image.save(root / name / f"{scene.id}.png")
    return root


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"), 20, 20)


def run(root, *arguments):
    args = ["--data_dir", str(root / "data"), "--dataset_name", "Soundscapes", "--stand_ins", "--num_workers", "0"]
    args += ["--device", "cpu", "--cache_dir", str(root / "cache"), "--output_dir", str(root / "out"), *arguments]
    evaluate.main(args)
    return json.loads((root / "out" / "results.json").read_text())


@pytest.mark.slow
def test_degradations_move_every_measure(tmp_path, capsys, monkeypatch):
    world = make_world(tmp_path, 120, 150)  # fewer do not separate a swap from chance
    pred = ["--pred", *(f"{name}={world / name}" for name in ("good", "blur", "jpeg", "swap"))]
    report = run(world, *pred)
    value = {name: {m: e["value"] for m, e in model.items()} for name, model in report["models"].items()}
    for name in ("blur", "jpeg"):
        for measure in ("fid", "clip_fid", "kid"):
            assert value[name][measure] > value["good"][measure], (name, measure)
    for name in ("blur", "jpeg", "swap"):
        for measure in COSINES:
            assert value[name][measure] < value["good"][measure], (name, measure)
    for measure in COSINES:  # the wrong picture shows beyond doubt
        low, high = report["differences"]["swap - good"][measure]["interval_95"]
        assert low < high < 0, measure
    assert value["good"]["iis_z"] > 0.2 and value["good"]["ais_z"] > 0.1
    assert abs(value["swap"]["iis_z"]) < 0.25
    assert value["swap"]["fid"] == pytest.approx(value["good"]["fid"], rel=1e-6)  # the same pictures
    text = capsys.readouterr().out
    assert "good" in text and "swap - good" in text
    with Image.open(world / "out" / "table.png") as image:
        image.load()

    monkeypatch.setattr(SmallImageEncoder, "forward", lambda *_: pytest.fail("already encoded"))
    assert run(world, *pred)["models"] == report["models"]


def test_folds_of_the_command(world, capsys):
    report = run(world, "--pred", str(world / "good"), "--folds", "5", "--measures", "ais", "ais_z", "fid")
    entry = report["models"]["good"]["ais"]
    assert list(report["models"]["good"]) == ["fid", "ais", "ais_z"]
    assert len(entry["folds"]) == 5 and entry["value"] == pytest.approx(np.mean(entry["folds"]))
    assert entry["deviation"] == pytest.approx(np.std(entry["folds"], ddof=1)) and "±" in capsys.readouterr().out


def test_bad_images_are_named_and_lose_nothing(world, capsys, tmp_path):
    name = [make_scene("test", k).id for k in range(7)]
    source = [Image.open(world / "good" / f"{i}.png") for i in name]
    source[0].convert("L").save(tmp_path / f"{name[0]}.png")
    Image.fromarray(np.asarray(source[1].convert("L")).astype(np.uint16) * 257).save(tmp_path / f"{name[1]}.png")
    source[2].resize((300, 50)).save(tmp_path / f"{name[2]}.jpg")
    source[3].save(tmp_path / f"{name[3].upper()}.png")
    source[4].save(tmp_path / f"{name[4]}.png")
    source[5].save(tmp_path / f"{name[5]}0.png")  # an id that contains another
    (tmp_path / f"{name[6]}.png").write_bytes(b"")
    report = run(world, "--pred", str(tmp_path))
    model = report["models"][tmp_path.name]
    assert model["ais"]["n"] == 4 and model["fid"]["n"] == 6
    text = capsys.readouterr().out
    assert f"{name[3].upper()} (differs only in case from {name[3]})" in text and f"{name[6]}.png (Unident" in text
    assert "clips' ids without an image: 15" in text


def test_one_image_only(world, capsys, tmp_path):
    scene = make_scene("test", 0)
    scene.image.save(tmp_path / f"{scene.id}.png")
    report = run(world, "--pred", str(tmp_path))
    model = report["models"][tmp_path.name]
    assert model["iis"]["value"] > 0.5 and model["iis_z"]["value"] is None and model["fid"]["value"] is None
    text = capsys.readouterr().out
    assert "IIS-z is undefined" in text and "FID is undefined: it needs two images" in text


def test_nothing_readable_or_nothing_there(world, tmp_path):
    with pytest.raises(SystemExit, match="expected files ending in .*, but there are none"):
        run(world, "--pred", str(tmp_path))
    (tmp_path / "a.png").write_bytes(b"nothing")
    with pytest.raises(SystemExit, match="none of its images could be read"):
        run(world, "--pred", str(tmp_path))
    (tmp_path / "a.jpg").write_bytes(b"nothing")
    with pytest.raises(SystemExit, match=r"a\.\w+ and a\.\w+ have the same id"):
        run(world, "--pred", str(tmp_path))


def test_encoders_that_cannot_be_opened_are_one_line(world, tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("torch.hub.urlopen", offline)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "broken.pt").write_bytes(b"nothing")
    (tmp_path / "clip").mkdir()
    arguments = ["--pred", str(world / "good"), "--data_dir", str(world / "data"), "--dataset_name", "Soundscapes"]
    for measure, option, words in [
        ("fid", [], "--inception was not given: .*could not be downloaded there .Name or service not known"),
        ("ais", ["--clip", "macs.evaluation.encoders:SmallImageEncoder"], "--wav2clip was not given: .*not known"),
        ("fid", ["--inception", str(tmp_path / "none")], "--inception .*none: .*expected clean-fid's"),
        ("iis", ["--clip", str(tmp_path / "clip")], "--clip .*clip: the encoder cannot be opened"),
        ("iis", ["--clip", "no.such.module:x"], "--clip no.such.module:x: the encoder"),
        ("ais", ["--clip", "macs.evaluation.encoders:SmallImageEncoder", "--wav2clip", str(tmp_path / "broken.pt")],
         "--wav2clip .*broken.pt: not the released"),
    ]:  # fmt: skip
        with pytest.raises(SystemExit, match=words) as end:
            evaluate.main([*arguments, "--measures", measure, *option, "--cache_dir", "", "--device", "cpu"])
        assert "\n" not in end.value.code


def test_paper_rows_stand_beside_the_models(world, capsys, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "LLP").symlink_to(world / "data" / "Soundscapes")
    arguments = ["--data_dir", str(tmp_path / "data"), "--dataset_name", "LLP", "--pred", f"mine={world / 'good'}"]
    run(world, *arguments)
    lines = capsys.readouterr().out.splitlines()
    numbers = ["87.09", "20.47", "0.0157", "0.0754", "1.3038", "0.6269", "1.7231"]
    assert [line for line in lines if line.split() == ["MACS", "(paper)", *numbers]]
    assert [line for line in lines if line.startswith("mine  ")]
    assert any("Stand-in encoders" in line for line in lines)
    assert not any("like for like" in line for line in lines)


def test_the_paper_split_landscape_in_another_way(world, capsys, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "Landscape").symlink_to(world / "data" / "Soundscapes")
    run(world, "--data_dir", str(tmp_path / "data"), "--dataset_name", "Landscape", "--pred", f"mine={world / 'good'}")
    text = capsys.readouterr().out
    assert "MACS (paper, other split)" in text and "The split of Landscape is ours" in text

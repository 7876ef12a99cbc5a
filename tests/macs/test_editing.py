"""inference.py with pictures, masks, ControlNets, LoRAs and samplers: what is drawn, and what is refused at once."""

import numpy as np
import pytest
import soundfile
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from PIL import Image

import inference
from macs import MACSPipeline, editing
from stage_two import make_pipeline


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "small"
    make_pipeline(folder)
    return folder


@pytest.fixture
def run(model, run_inference):
    """Runs inference.py in this process: (exit code, what it printed)."""

    def run(*arguments):
        return run_inference("--sd_path", model, "--steps", 2, *arguments)

    return run


@pytest.fixture
def never_opened(monkeypatch):
    monkeypatch.setattr(inference, "open_pipeline", lambda *_: pytest.fail("the model was opened"))


@pytest.fixture
def folder(tmp_path):
    """clips/ a, b and c; pictures/ and masks/ (the left half) of a and b."""
    rng = np.random.default_rng(0)
    for part in ("clips", "pictures", "masks"):
        (tmp_path / part).mkdir()
    for name in "abc":
        soundfile.write(tmp_path / "clips" / f"{name}.wav", 0.1 * rng.standard_normal(16000), 16000)
    for name in "ab":
        picture(sum(name.encode())).save(tmp_path / "pictures" / f"{name}.png")
        mask = Image.new("L", (96, 80), 0)
        mask.paste(255, (0, 0, 48, 80))
        mask.save(tmp_path / "masks" / f"{name}.png")
    return tmp_path


def picture(seed, size=(96, 80)):
    colours = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC)


def pixels(path):
    return np.array(Image.open(path), dtype=int)


def test_clips_and_pictures_go_together_by_name(run, folder):
    out = folder / "out"
    code, printed = run("--audio", folder / "clips", "--init_image", folder / "pictures", "--output_dir", out)
    assert code == 0 and "2 images written" in printed
    assert "c.wav: expected one picture named c in" in printed
    assert pixels(out / "a.png").shape == (64, 64, 3)  # the model's size
    # each from its own picture, whatever the batch
    run("--audio", folder / "clips/b.wav", "--init_image", folder / "pictures/b.png", "--output_dir", folder / "one")
    assert np.abs(pixels(folder / "one/b.png") - pixels(out / "b.png")).max() <= 1
    run("--audio", folder / "clips/b.wav", "--init_image", folder / "pictures/a.png", "--output_dir", folder / "other")
    assert np.abs(pixels(folder / "other/b.png") - pixels(out / "b.png")).max() > 1


def test_outside_of_the_mask_nothing_changes(run, folder):
    code, _ = run(
        "--audio", folder / "clips/a.wav", folder / "clips/b.wav", "--init_image", folder / "pictures",
        "--mask", folder / "masks", "--strength", 1, "--num_images", 2, "--output_dir", folder / "out",
    )  # fmt: skip
    assert code == 0
    for name in "ab":
        before = np.array(Image.open(folder / "pictures" / f"{name}.png").resize((64, 64), Image.LANCZOS), dtype=int)
        for suffix in ("", "_1"):
            change = np.abs(pixels(folder / "out" / f"{name}{suffix}.png") - before).max(2)
            assert change[:, 32:].max() <= 1 and change[:, :32].mean() > 5


def test_a_controlnets_condition(run, folder, model):
    torch.manual_seed(0)
    controlnet = ControlNetModel.from_unet(UNet2DConditionModel.from_pretrained(model / "unet"))
    for parameter in controlnet.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=1.0)
    controlnet.save_pretrained(folder / "controlnet")
    clip = ("--audio", folder / "clips/a.wav")
    for out, extra in (("plain", []), ("a", ["pictures/a.png"]), ("b", ["pictures/b.png"])):
        extra = ["--controlnet", folder / "controlnet", "--control_image", folder / extra[0]] if extra else []
        assert run(*clip, *extra, "--output_dir", folder / out)[0] == 0
    plain, a, b = (pixels(folder / out / "a.png") for out in ("plain", "a", "b"))
    assert np.abs(a - plain).max() > 1 and not np.array_equal(a, b)
    # one made for another model
    other = UNet2DConditionModel.from_pretrained(model / "unet").config | {"cross_attention_dim": 64}
    ControlNetModel.from_unet(UNet2DConditionModel.from_config(other)).save_pretrained(folder / "other")
    extra = ["--controlnet", folder / "other", "--control_image", folder / "pictures/a.png"]
    code, message = run(*clip, *extra, "--output_dir", folder / "none")
    assert code == 1 and "cross_attention_dim 64 where this one has 32" in message


def test_a_lora_and_its_weight(run, folder, model):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules=["to_k", "to_q"], init_lora_weights="gaussian")
    for name, change in (("right", {}), ("wrong", {"cross_attention_dim": 64})):
        torch.manual_seed(0)
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(model / "unet") | change)
        unet.add_adapter(config)
        for key, parameter in unet.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(parameter)
        state = peft.get_peft_model_state_dict(unet)
        MACSPipeline.save_lora_weights(folder / name, unet_lora_layers=state)
    clip = ("--audio", folder / "clips/a.wav")
    for out, extra in (("plain", []), ("one", [":1"]), ("also", [""]), ("none", [":0"])):
        extra = ["--lora", f"{folder}/right/pytorch_lora_weights.safetensors{extra[0]}"] if extra else []
        assert run(*clip, *extra, "--output_dir", folder / out)[0] == 0
    plain, one, also, none = (pixels(folder / out / "a.png") for out in ("plain", "one", "also", "none"))
    assert np.abs(one - plain).max() > 1 and np.array_equal(one, also) and np.abs(none - plain).max() <= 1
    code, message = run(*clip, "--lora", folder / "wrong", "--output_dir", folder / "wrongly")
    assert code == 1 and "wrong: is no LoRA for" in message and "size mismatch" in message


def test_a_lora_may_be_one_file_of_a_repository(tmp_path):
    (tmp_path / "mine.safetensors").touch()
    here = str(tmp_path / "mine.safetensors")
    sources = {
        here: (here, {}),
        "owner/name": ("owner/name", {}),
        "owner/name/four.safetensors": ("owner/name", {"weight_name": "four.safetensors"}),
        "owner/name/sub/four.safetensors": ("owner/name", {"weight_name": "sub/four.safetensors"}),
    }
    assert {path: editing.lora_source(path) for path in sources} == sources
    for path in ("name", "folder/none.safetensors", "owner/name/folder", "/none.safetensors"):
        with pytest.raises(ValueError, match="no such file or folder, and nothing on the hub"):
            editing.lora_source(path)


def test_the_samplers_are_diffusers(run, folder):
    import diffusers

    assert all(hasattr(diffusers, f"{name}Scheduler") for name in editing.SCHEDULERS)
    clip = ("--audio", folder / "clips/a.wav")
    for out, extra in (("own", []), ("ddim", ["--scheduler", "ddim"]), ("whole", ["--scheduler", "DDIMScheduler"])):
        assert run(*clip, *extra, "--output_dir", folder / out)[0] == 0
    own, ddim, whole = (pixels(folder / out / "a.png") for out in ("own", "ddim", "whole"))
    assert np.array_equal(ddim, whole) and not np.array_equal(own, ddim)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--scheduler", "Oiler"], "expected one of DDIM, DDPM"),
        (["--init_image", "nowhere.png"], "nowhere.png: no such file or folder"),
        (["--mask", "masks"], "need --init_image"),
        (["--strength", "0.5"], "need --init_image"),
        (["--init_image", "pictures", "--strength", "1.5"], "from 0 to 1"),
        (["--init_image", "pictures", "--strength", "0.1"], "leaves none"),
        (["--controlnet", "x/y"], "belong together"),
        (["--init_image", "pictures", "--controlnet", "x/y", "--control_image", "pictures"], "choose one"),
        (["--interpolate", "a", "b", "--init_image", "pictures"], "draws from noise"),
        (["--lora", "nowhere.safetensors:0.5"], "nowhere.safetensors: no such file or folder"),
    ],
)
def test_wrong_options_end_before_a_model_is_opened(run, folder, never_opened, monkeypatch, arguments, words):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(editing.importlib.util, "find_spec", lambda name: name)  # as if peft were there
    code, printed = run("--audio", "clips", "--output_dir", "out", *arguments)
    assert code == 2 and words in printed


def test_pictures_that_are_none_cost_their_clips_alone(run, folder):
    (folder / "pictures/a.png").write_text("no picture")
    Image.new("L", (80, 80)).save(folder / "masks/b.png")
    picture(0).save(folder / "pictures/c.png")
    picture(0).save(folder / "masks/c.png")
    code, printed = run(
        "--audio", folder / "clips", "--init_image", folder / "pictures", "--mask", folder / "masks",
        "--output_dir", folder / "out",
    )  # fmt: skip
    assert code == 0 and "1 image written" in printed and "2 problems" in printed
    assert "pictures/a.png: expected a picture" in printed
    assert "masks/b.png: expected a mask of its picture's 96x80 pixels, but got 80x80" in printed

"""What a device cannot do is said in one line: precisions, the compiler, memory; what is quicker draws the same."""

import numpy as np
import pytest
import soundfile
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from torch._inductor import config as inductor
from torch._inductor.utils import fresh_cache

import inference
import train
from macs import MACSPipeline, devices
from stage_two import arguments, make_pipeline, write_pairs


@pytest.fixture
def run(tiny_dir, run_inference, tmp_path):
    """Draws one clip with the given words: (exit code, what was printed)."""
    soundfile.write(tmp_path / "noise.wav", 0.1 * np.random.default_rng(0).standard_normal(16000), 16000)

    def run(*words, out="out"):
        clip = ("--audio", tmp_path / "noise.wav", "--output_dir", tmp_path / out)
        return run_inference("--sd_path", tiny_dir, "--steps", 1, "--size", 64, *clip, *words)

    return run


def test_without_a_compiler_nothing_is_opened(run, monkeypatch):
    monkeypatch.setattr(inference, "open_pipeline", lambda *_: pytest.fail("the model was opened"))
    with fresh_cache(), inductor.patch({"cpp.cxx": (None, "no-such-compiler")}):
        torch._dynamo.reset()
        code, message = run("--compile")
    torch._dynamo.reset()
    assert code == 1 and "--compile: nothing can be compiled for cpu" in message and "g++" in message
    assert "\n" not in message


def picture(path):
    return np.array(Image.open(path), dtype=int)


@pytest.mark.slow
def test_compiled_blocks_draw_the_same(run, tmp_path):
    for out, words in (("plain", []), ("compiled", ["--compile"])):
        assert run(*words, out=out)[0] == 0
    assert np.abs(picture(tmp_path / "plain/noise.png") - picture(tmp_path / "compiled/noise.png")).max() <= 2


@pytest.mark.parametrize("words, fullgraph", [([], True), pytest.param(["--save_maps"], False, marks=pytest.mark.slow)])
def test_blocks_are_compiled_whole_but_where_the_attention_is_recorded(run, tmp_path, monkeypatch, words, fullgraph):
    asked, compile_blocks = [], UNet2DConditionModel.compile_repeated_blocks

    def without_a_compiler(unet, **options):
        asked.append(options)
        compile_blocks(unet, backend="eager", **options)

    monkeypatch.setattr(devices, "check_compiler", lambda device: None)
    monkeypatch.setattr(UNet2DConditionModel, "compile_repeated_blocks", without_a_compiler)
    assert run("--compile", *words)[0] == 0 and asked == [{"fullgraph": fullgraph}]
    torch._dynamo.reset()
    assert run(out="plain")[0] == 0
    assert np.abs(picture(tmp_path / "plain/noise.png") - picture(tmp_path / "out/noise.png")).max() <= 1


def test_what_fills_the_memory_is_named(run, monkeypatch, tmp_path):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(MACSPipeline, "__call__", full)
    code, message = run("--num_images", 2)
    assert code == 1 and "\n" not in message and "a smaller --size" in message
    assert "out of memory on cpu" in message and "--batch_size 1 (now 4), --num_images 1 (now 2)" in message
    assert "--batch_size" not in run("--batch_size", 1)[1]

    def broken(*args, **kwargs):
        raise RuntimeError("something else")

    monkeypatch.setattr(MACSPipeline, "__call__", broken)
    with pytest.raises(RuntimeError, match="something else"):
        inference.main()


def test_training_names_what_needs_less_memory(monkeypatch, tmp_path):
    make_pipeline(tmp_path / "model")
    write_pairs(tmp_path / "data", 2)

    def full(*args, **kwargs):
        return torch.empty(2**60)

    monkeypatch.setattr(train, "denoising_losses", full)
    command = arguments(tmp_path / "model", tmp_path / "data", tmp_path / "out", gradient_checkpointing=True)
    monkeypatch.setattr("sys.argv", ["train.py", *command])
    with pytest.raises(SystemExit) as error:
        train.main()
    message = str(error.value)
    assert "out of memory" in message and "--batch_size 1 --gradient_accumulation_steps 4" in message
    assert "--cache_dir" in message and "--gradient_checkpointing" not in message and "\n" not in message


def test_large_batches_are_decoded_one_by_one(tiny_dir):
    pipe = MACSPipeline.from_pretrained(tiny_dir)
    devices.speed_up(pipe, images=16, size=(512, 512))
    assert pipe.vae.use_slicing
    latents, few = torch.randn(3, 8, 8, 8), MACSPipeline.from_pretrained(tiny_dir)
    devices.speed_up(few, images=4)
    assert not few.vae.use_slicing
    with torch.no_grad():
        assert (pipe.vae.decode(latents).sample - few.vae.decode(latents).sample).abs().max() < 1e-4


def test_a_precision_that_is_no_gain_is_said(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(devices, "has_bf16", lambda: False)
    with pytest.warns(UserWarning, match="no bf16 instructions"):
        devices.check_device(cpu, "bf16")
    with pytest.raises(ValueError, match="fp16 needs a GPU; on a CPU use no or bf16"):
        devices.check_device(cpu, "fp16")

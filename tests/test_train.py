import json
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from diffusers import DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file

import macs.loading
import train
from macs import MACSPipeline, Separator
from macs.data.pairs import Draws
from macs.loading import load_pipeline
from macs.released import export_released, open_generator
from macs.training.adapters import make_adapter
from macs.training.additions import sources_heard
from macs.training.denoiser import Denoiser
from macs.training.frozen_features import FrozenModels
from processes import Script, finish_together
from stage_two import arguments, make_pipeline, write_pair, write_pairs


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    make_pipeline(folder)
    return folder


@pytest.fixture(scope="module")
def shared(tmp_path_factory, model):
    """Sixteen pairs of three shapes and their features."""
    folder = tmp_path_factory.mktemp("shared")
    write_pairs(folder / "data", 16)
    run(arguments(model, folder / "data", folder / "out", cache_dir=folder / "cache"))
    return folder


@pytest.fixture(autouse=True)
def fresh_accelerate():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def run(command):
    train.train(train.parse_args(command))
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def make_denoiser(model, trainable="adapter"):
    unet = UNet2DConditionModel.from_pretrained(model, subfolder="unet", torch_dtype=torch.float32)
    adapter = make_adapter(unet, model, 2, 32, seed=0)
    return Denoiser(unet, adapter, trainable), unet, adapter


def random_batch(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    drawn = [Draws(seed)(0, i, (8, 8)) for i in range(count)]
    batch = {name: torch.stack([torch.as_tensor(d[name]) for d in drawn]) for name in drawn[0]}
    batch["moments"] = torch.randn(count, 8, 8, 8, generator=generator)
    batch["source_embeds"] = torch.nn.functional.normalize(torch.randn(count, 2, 32, generator=generator), dim=-1)
    return batch


@pytest.mark.parametrize("trainable", ["adapter", "unet"])
def test_a_step_changes_exactly_what_is_trained(model, tmp_path, trainable):
    denoiser, unet, adapter = make_denoiser(model, trainable)
    for layer, to_k, to_v in zip(adapter.config.layers, adapter.to_k_ip, adapter.to_v_ip, strict=True):
        attention = unet.get_submodule(layer[0])
        assert torch.equal(to_k.weight, attention.to_k.weight) and torch.equal(to_v.weight, attention.to_v.weight)
    trained = {name for name, p in denoiser.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in unet.named_parameters()}  # the adapter's among them
    optimizer = torch.optim.AdamW([p for p in denoiser.parameters() if p.requires_grad], lr=1e-3)
    noise_scheduler = DDPMScheduler.from_pretrained(model, subfolder="scheduler")
    prompt_embeds = torch.randn(1, 77, 32)
    denoiser.train()
    train.denoising_losses(denoiser, noise_scheduler, random_batch(4), prompt_embeds, 0.18).mean().backward()
    optimizer.step()
    changed = {name for name, p in unet.named_parameters() if not torch.equal(p, before[name])}
    ours = {name for name in before if "_ip." in name or name.startswith("encoder_hid_proj")}
    assert len(ours) == sum(1 for _ in adapter.parameters())
    assert changed == (ours if trainable == "adapter" else set(before))
    assert len(trained) == len(changed)


def test_the_loss_is_the_noise_prediction_error(model, tmp_path):
    batch, seen = random_batch(4), {}
    batch["dropped"] = torch.tensor([False, True, False, False])
    noise_scheduler = DDPMScheduler.from_pretrained(model, subfolder="scheduler")

    def denoiser(latents, timesteps, source_embeds, prompt_embeds):
        seen.update(latents=latents, source_embeds=source_embeds)
        return batch["noise"] + torch.arange(4.0)[:, None, None, None]

    losses = train.denoising_losses(denoiser, noise_scheduler, batch, torch.zeros(1, 77, 32), 0.5)
    assert losses.tolist() == pytest.approx([0, 1, 4, 9], abs=1e-4)
    mean, logvar = batch["moments"].chunk(2, dim=1)
    latents = 0.5 * (mean + (0.5 * logvar).exp() * batch["posterior_noise"])
    alpha = noise_scheduler.alphas_cumprod[batch["timestep"]][:, None, None, None]
    torch.testing.assert_close(seen["latents"], alpha.sqrt() * latents + (1 - alpha).sqrt() * batch["noise"])
    weighted = train.denoising_losses(denoiser, noise_scheduler, batch, torch.zeros(1, 77, 32), 0.5, snr_gamma=0.5)
    snr = (alpha / (1 - alpha)).flatten()
    torch.testing.assert_close(weighted, losses * torch.minimum(snr, torch.tensor(0.5)) / snr)
    assert not seen["source_embeds"][1].any() and torch.equal(seen["source_embeds"][0], batch["source_embeds"][0])


def test_v_prediction_has_its_own_target(model):
    batch = random_batch(4)
    noise_scheduler = DDPMScheduler.from_pretrained(model, subfolder="scheduler", prediction_type="v_prediction")
    mean, logvar = batch["moments"].chunk(2, dim=1)
    latents = 0.5 * (mean + (0.5 * logvar).exp() * batch["posterior_noise"])
    alpha = noise_scheduler.alphas_cumprod[batch["timestep"]][:, None, None, None]
    velocity = alpha.sqrt() * batch["noise"] - (1 - alpha).sqrt() * latents  # Salimans & Ho, 2022

    def denoiser(latents, timesteps, source_embeds, prompt_embeds):
        return velocity + torch.arange(4.0)[:, None, None, None]

    losses = train.denoising_losses(denoiser, noise_scheduler, batch, torch.zeros(1, 77, 32), 0.5)
    assert losses.tolist() == pytest.approx([0, 1, 4, 9], abs=1e-4)
    weighted = train.denoising_losses(denoiser, noise_scheduler, batch, torch.zeros(1, 77, 32), 0.5, snr_gamma=0.5)
    snr = (alpha / (1 - alpha)).flatten()
    torch.testing.assert_close(weighted, losses * torch.minimum(snr, torch.tensor(0.5)) / (snr + 1))


def test_source_dropout_gives_some_steps_the_first_sources_alone(model, shared, tmp_path, monkeypatch):
    counts = np.bincount([sources_heard(6, 0.3, 0, step) for step in range(6000)], minlength=7) / 6000
    assert counts == pytest.approx([0, *[0.05] * 5, 0.75], abs=0.02)
    assert {sources_heard(6, 0, 0, step) for step in range(100)} == {6}
    whole, heard = [], []
    complete, denoising_losses = FrozenModels.complete, train.denoising_losses

    def keep(self, batch):
        whole.append(complete(self, batch)["source_embeds"])
        return batch

    def record(model, noise_scheduler, batch, *rest):
        heard.append(batch["source_embeds"])
        return denoising_losses(model, noise_scheduler, batch, *rest)

    monkeypatch.setattr(FrozenModels, "complete", keep)
    monkeypatch.setattr(train, "denoising_losses", record)
    run(arguments(model, shared / "data", tmp_path, cache_dir=shared / "cache", source_dropout=0.9))
    numbers = [embeds.shape[1] for embeds in heard]
    assert set(numbers) == {1, 2}
    assert numbers[:8:2] == numbers[1:8:2]  # the micro-batches of a step hear alike
    for ours, all_of_them in zip(heard, whole, strict=True):
        assert torch.equal(ours, all_of_them[:, : ours.shape[1]])


def test_with_captions_the_generator_itself_is_the_target(model, tmp_path):
    denoiser, _, adapter = make_denoiser(model)
    teacher = UNet2DConditionModel.from_pretrained(model, subfolder="unet").requires_grad_(False)
    noise_scheduler = DDPMScheduler.from_pretrained(model, subfolder="scheduler")
    generator = torch.Generator().manual_seed(0)
    silence, spoken = torch.randn(1, 77, 32, generator=generator), torch.randn(1, 77, 32, generator=generator)
    batch = random_batch(4) | {"caption_embeds": spoken.repeat(4, 1, 1)}
    batch["dropped"] = torch.tensor([False, True, False, False])
    adapter.to_v_ip.requires_grad_(False)
    for to_v in adapter.to_v_ip:
        to_v.weight.zero_()  # a deaf adapter: the UNet draws what the prompt says

    def losses(prompt_embeds):
        return train.denoising_losses(denoiser, noise_scheduler, batch, prompt_embeds, 0.18, teacher=teacher)

    assert losses(spoken).tolist() == pytest.approx([0] * 4, abs=1e-9)  # and so does the teacher
    heard = losses(silence)
    assert heard[1].item() == pytest.approx(0, abs=1e-9)  # no sound: the empty prompt, not the caption
    assert (heard[[0, 2, 3]] > 1e-6).all()


def test_training_by_captions_and_labels_leaves_out_what_has_none(model, shared, tmp_path, capsys):
    captions, labels = tmp_path / "captions.csv", tmp_path / "labels.csv"
    labels.write_text("filename\tevent_labels\n" + "".join(f"-clip#{i}\tRain,Dog\n" for i in range(12)))
    captions.write_text("filename,caption\n" + "".join(f"-clip#{i},The sound of rain\n" for i in range(15)))
    options = {"cache_dir": shared / "cache", "captions": captions, "labels": labels}
    run(arguments(model, shared / "data", tmp_path / "out", **options))
    output = capsys.readouterr().out
    assert "15 frames to train on" in output and "1 recordings without a caption, left out: -clip#15" in output
    assert "warm-up by 12 recordings with 2 different labels" in output
    loss = json.loads((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()[-1])["train/epoch_loss"]
    noise_loss = json.loads((shared / "out" / "metrics.jsonl").read_text().splitlines()[-1])["train/epoch_loss"]
    assert loss < noise_loss / 2  # a prediction of an untrained UNet is nearer to its own than to the noise


@pytest.mark.slow
def test_sixteen_pairs_are_overfitted(model, tmp_path):
    denoiser, _, _ = make_denoiser(model, "unet")
    noise_scheduler = DDPMScheduler.from_pretrained(model, subfolder="scheduler")
    prompt_embeds = torch.zeros(1, 77, 32)
    pairs = {name: value for name, value in random_batch(16).items() if name in ("moments", "source_embeds")}
    fixed = random_batch(16, seed=1) | pairs  # fixed timesteps and noise: no noise in the comparison
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=2e-3)

    def loss_of(batch):
        return train.denoising_losses(denoiser, noise_scheduler, batch, prompt_embeds, 0.18).mean()

    with torch.no_grad():
        before = loss_of(fixed).item()
    for step in range(100):
        loss_of(random_batch(16, seed=2 + step) | pairs).backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        assert loss_of(fixed).item() < before / 2


def test_training_leaves_an_adapter_that_inference_hears_with(model, shared, tmp_path):
    out = tmp_path / "out"
    run(arguments(model, shared / "data", out, cache_dir=shared / "cache", lr=1e-2, ema=0.5,
                  validation_steps=3, validation_clips=2, gradient_checkpointing=True))  # fmt: skip
    files = {path.name for path in (out / "adapter").iterdir()}
    assert files == {"config.json", "diffusion_pytorch_model.safetensors", "trained_with.json"}
    weights = load_file(out / "adapter" / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float16}
    pictures = sorted(path.name for path in (out / "figures").iterdir())
    # 16 pairs in 3 buckets, 9 batches of 2, 2 to a step
    assert pictures == ["before.png", "step_000003.png", "step_000005.png"]
    assert Image.open(out / "figures" / pictures[1]).width > 700  # four columns: heard, seen, before, now

    # heard with: not as the pipeline's own adapter draws, and not as the one that this training began with
    pipe, sound, images = load_pipeline(model, str(out / "adapter"), "Mine", 2), torch.randn(1, 16000) * 0.1, {}
    with pipe.adapter.detached(pipe.unet):
        start = make_adapter(pipe.unet, model, 2, 32, seed=0)
    own = MACSPipeline.from_pretrained(model).adapter
    pipe.set_progress_bar_config(disable=True)
    trained = {name: value.clone() for name, value in pipe.adapter.state_dict().items()}
    for name, weights in (("trained", trained), ("own", own.state_dict()), ("start", start.state_dict())):
        pipe.adapter.load_state_dict(weights)
        settings = {"num_inference_steps": 1, "generator": torch.Generator().manual_seed(0), "output_type": "pt"}
        images[name] = pipe(sound, **settings).images
    assert (images["trained"] - images["own"]).abs().max() > 1e-3
    assert (images["trained"] - images["start"]).abs().max() > 1e-3


def test_training_the_unet_leaves_a_pipeline(model, shared, tmp_path):
    run(arguments(model, shared / "data", tmp_path / "out", cache_dir=shared / "cache", trainable="unet", lr=1e-2))
    trained, stock = MACSPipeline.from_pretrained(tmp_path / "out" / "pipeline"), MACSPipeline.from_pretrained(model)
    checkpoint = load_file(sorted((tmp_path / "out" / "checkpoints").glob("*/model.safetensors"))[-1])
    weight = trained.unet.conv_in.weight
    torch.testing.assert_close(weight, checkpoint["unet.conv_in.weight"], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(weight, stock.unet.conv_in.weight, atol=1e-3)
    assert torch.equal(trained.vae.quant_conv.weight, stock.vae.quant_conv.weight.half().float())


def test_the_loss_is_the_same_with_the_cache_and_without(model, shared, tmp_path):
    losses = []
    for options in ({"cache_dir": shared / "cache"}, {}):
        out = tmp_path / f"out{len(losses)}"
        run(arguments(model, shared / "data", out, **options))
        losses.append(json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["train/epoch_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_bfloat16_trains(model, shared, tmp_path):
    run(arguments(model, shared / "data", tmp_path / "out", cache_dir=shared / "cache", mixed_precision="bf16"))
    weights = load_file(sorted((tmp_path / "out" / "checkpoints").glob("*/model.safetensors"))[-1])
    assert {value.dtype for value in weights.values()} == {torch.float32}  # what is trained stays in float32
    assert all(value.isfinite().all() for value in weights.values())


def test_the_released_format_and_back(adapted, generator_reference, tmp_path):
    unet, adapter = adapted
    export_released(unet, adapter, tmp_path, "LLP")
    mlp = torch.load(tmp_path / "LLP_mlp.pt", weights_only=True)
    keys = json.loads((Path(__file__).parent / "reference" / "released_mlp.keys.json").read_text())
    assert {name: [list(value.shape), "float32"] for name, value in mlp.items()} == keys
    again, adapter = open_generator(unet.config, tmp_path / "LLP_mlp.pt", tmp_path / "LLP_unet.pt")
    adapter.attach(again)
    reference = generator_reference
    with torch.no_grad():
        output = again(
            reference["latents"], reference["timesteps"], reference["text"],
            added_cond_kwargs={"image_embeds": [reference["embeddings"][:, None]]},
        ).sample  # fmt: skip
    torch.testing.assert_close(output, reference["unet_out"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("ablation, num_sources", [({}, 2), ({"M": 1}, 1), ({"separator": "own", "M": 3}, 3)])
def test_an_adapter_of_stable_diffusion_finds_its_separator(
    model, shared, tmp_path, monkeypatch, ablation, num_sources
):
    macs_pipe = MACSPipeline.from_pretrained(model)
    with macs_pipe.adapter.detached(macs_pipe.unet):
        StableDiffusionPipeline(
            macs_pipe.vae, macs_pipe.text_encoder, macs_pipe.tokenizer, macs_pipe.unet, macs_pipe.scheduler, None, None,
            requires_safety_checker=False,
        ).save_pretrained(tmp_path / "sd")  # fmt: skip
    # the released file has CLAP's full size: another stands in for it
    released = tmp_path / "separator_FSD50K_full.pt"
    released.write_bytes(b"")
    monkeypatch.setattr(macs.loading, "open_separator", lambda path: (macs_pipe.separator, macs_pipe.clap))
    monkeypatch.setattr("macs.training.frozen_features.FrozenModels.embedding_dim", 32)
    if "separator" in ablation:  # one of ours with another M; CLAP still comes from the released file
        Separator(3, 16, num_samples=16000).save_pretrained(tmp_path / "own" / "separator")
        ablation = ablation | {"separator": tmp_path / "own"}
    run(arguments(tmp_path / "sd", shared / "data", tmp_path / "out", pt_path=tmp_path, **ablation))
    pipe = load_pipeline(str(tmp_path / "sd"), str(tmp_path / "out" / "adapter"), "Mine", num_sources)
    assert pipe.separator.config.num_sources == num_sources
    pipe.set_progress_bar_config(disable=True)
    assert pipe(torch.randn(1, 16000), num_inference_steps=1, output_type="pt").images.isfinite().all()


def test_resume_refuses_other_weights_and_takes_the_same_from_elsewhere(model, shared, tmp_path, monkeypatch):
    def command(**options):
        return arguments(
            options.pop("sd", model), shared / "data", tmp_path / "out", cache_dir=shared / "cache", **options
        )

    run(command())
    moved = tmp_path / "moved"
    shutil.copytree(model, moved)
    run(command(sd=moved, resume="latest", num_workers=1))  # nothing is left to do: the run is the same
    separator = Separator.from_pretrained(model, subfolder="separator")
    separator.logit_scale.data += 1
    separator.save_pretrained(tmp_path / "other")
    for options, name in [
        ({"separator": tmp_path / "other"}, "separator"),
        ({"adapter": tmp_path / "out" / "adapter"}, "adapter"),
        ({"clip_grad": 2}, "clip_grad"),
        ({"M": 1}, "M 2 \\(now 1\\)"),
    ]:
        monkeypatch.setattr(sys, "argv", ["train.py", *command(resume="latest", **options)])
        with pytest.raises(SystemExit, match=f"made with other settings: .*{name}"):
            train.main()
        AcceleratorState._reset_state(reset_partial_state=True)
    (moved / "unet" / "config.json").write_text((moved / "unet" / "config.json").read_text() + " ")
    monkeypatch.setattr(sys, "argv", ["train.py", *command(sd=moved, resume="latest")])
    with pytest.raises(SystemExit, match="made with other settings: generator"):
        train.main()


def test_without_separation_the_adapter_hears_the_mixture(model, shared, tmp_path):
    run(arguments(model, shared / "data", tmp_path / "out", M=1))
    pipe = load_pipeline(model, str(tmp_path / "out" / "adapter"))
    waveform = torch.randn(2, 16000, generator=torch.Generator().manual_seed(0))
    assert pipe.num_sources == 1 and torch.equal(pipe.separate(waveform), waveform[:, None])


@pytest.mark.slow
def test_a_killed_run_resumes_bit_for_bit(model, shared, tmp_path):
    def command(out, **options):
        options = {
            "cache_dir": shared / "cache", "epochs": 2, "checkpointing_steps": 3, "ema": 0.9, "source_dropout": 0.5,
        } | options  # fmt: skip
        return ["train.py", *arguments(model, shared / "data", tmp_path / out, **options)]

    whole = Script(*command("whole"))  # 5 steps to an epoch: the checkpoint of step 3 is in its middle
    killed = Script(*command("killed"))
    checkpoint = tmp_path / "killed" / "checkpoints" / "step-00000003"
    while not checkpoint.exists():
        assert killed.process.is_alive(), killed.output()
        time.sleep(0.005)
    killed.kill()
    assert killed.process.exitcode == -signal.SIGKILL
    for later in checkpoint.parent.glob("step-*"):  # the kill may have come a moment late
        if later != checkpoint:
            shutil.rmtree(later)
    output = Script(*command("killed", resume="latest")).finish()
    assert "Resumed from" in output and "step-00000003" in output
    whole.finish()
    for name in ("model.safetensors", "optimizer.bin", "state.pt"):  # the last holds the running average
        ours, theirs = [tmp_path / run / "checkpoints" / "step-00000010" / name for run in ("killed", "whole")]
        load = load_file if name.endswith("safetensors") else torch.load
        torch.testing.assert_close(load(ours), load(theirs), rtol=0, atol=0)
    adapters = [tmp_path / run / "adapter" / "diffusion_pytorch_model.safetensors" for run in ("killed", "whole")]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()


@pytest.mark.slow
def test_two_processes_train_together(model, shared, tmp_path):
    options = {"cache_dir": tmp_path / "cache", "epochs": 2, "validation_steps": 3, "validation_clips": 1}
    output = "".join(finish_together("train.py", *arguments(model, shared / "data", tmp_path / "out", **options)))
    assert output.count("16 frames to train on") == 1  # said by the main process alone
    # 9 batches of 2: 5 for each process, 3 optimizer steps of 2 micro-batches
    metrics = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in metrics] == [3, 6]
    assert load_pipeline(model, str(tmp_path / "out" / "adapter"), "Mine", 2).adapter.config.num_sources == 2
    # the processes shared the files out between them: three shapes of frames, one shard each
    assert len(list((tmp_path / "cache").glob("image-*/*.safetensors"))) == 3
    assert len(list((tmp_path / "cache").glob("audio-*/*.safetensors"))) == 1


@pytest.mark.parametrize(
    "options, message",
    [
        ({"dataset_name": "LLP"}, "LLP/train/audio: no such folder; expected recordings in .* Mine/train"),
        ({"resume": "latest"}, "expected a checkpoint"),
        ({"M": 6}, "expected a separator with M = 6, but it has 2; M belongs to the weights"),
        ({"mixed_precision": "fp16"}, "fp16 needs a GPU"),
        ({"sd_path": "no/such/model"}, "no/such/model: no such folder here"),
        ({"adapter": "ADAPTER"}, "made for M = 3"),
        ({"output_dir": "FILE"}, "FILE: the output folder cannot be made"),
        ({"cache_dir": "FILE"}, "FILE/.*: cannot be written"),
        ({"captions": "FILE"}, "FILE: expected the columns"),
        ({"labels": "OTHERS", "cache_dir": "CACHE"}, "OTHERS: none of the recordings has a label, e.g. -clip#0"),
        ({"captions": "OTHERS"}, "--captions: none of the 2 recordings has a caption, e.g. -clip#0"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_clear_line(model, tmp_path, monkeypatch, options, message):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write_pairs(tmp_path / "data", 2)
    (tmp_path / "FILE").write_text("")
    (tmp_path / "OTHERS").write_text("filename\tevent_labels\nanother clip\tRain,Dog\n")
    unet = UNet2DConditionModel.from_pretrained(model, subfolder="unet")
    macs.AudioAdapter.from_unet(unet, num_sources=3, embedding_dim=32).save_pretrained(tmp_path / "ADAPTER")
    options = {name: tmp_path / v if v in ("FILE", "OTHERS", "ADAPTER", "CACHE") else v for name, v in options.items()}
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments(model, tmp_path / "data", tmp_path / "out", **options)])
    with pytest.raises(SystemExit, match=message) as error:
        train.main()
    assert "\n" not in str(error.value)


def test_bad_files_are_counted_and_training_goes_on(model, tmp_path, capsys):
    folder = write_pairs(tmp_path / "data", 5)
    write_pair(folder, "lonely")
    (folder / "image" / "lonely_frame_0.jpg").unlink()
    write_pair(folder, "mute")
    (folder / "audio" / "mute.wav").unlink()
    broken = folder / "image" / "-clip#1_frame_0.jpg"
    broken.write_bytes(broken.read_bytes()[:-400])
    run(arguments(model, tmp_path / "data", tmp_path / "out"))
    output = capsys.readouterr()
    end = output.out[output.out.index("Trained adapter") :]
    for line in ("1 frames without their recording, left out", "1 recordings without a frame, left out",
                 "1 files that could not be read on the way, left out"):  # fmt: skip
        assert line in end

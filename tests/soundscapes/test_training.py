import re
import shutil
import sys

import numpy as np
import pytest
import soundfile
import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F

from macs import ClapEncoder, Separator
from macs.audio import load_clip
from soundscapes import train_clap, train_decoder, train_judge, train_projection, train_unet, train_vae
from soundscapes.judge import Judge
from soundscapes.real_recordings import levelled
from soundscapes.scenes import CLASSES, PHRASES, make_scene
from soundscapes.train_clap import captioned_clip, clips_per_scene, contrastive_loss, cut_out, naming_loss, separated
from soundscapes.train_decoder import fine_detail, patch_discriminator, perceptual_loss
from soundscapes.train_vae import painting, reconstruction_loss
from soundscapes.training import train


def test_interrupted_training_ends_in_the_same_weights(tmp_path):
    def run(folder, interrupted_at=None):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.5))

        def batches(done):
            for step in range(done, 12):
                if step == interrupted_at:
                    raise KeyboardInterrupt
                yield torch.randn(16, 4, generator=torch.Generator().manual_seed(step))

        train("toy", {"model": model}, batches, lambda x: model(x).square().mean(), 12, 0.05, folder, save_every=5)
        return model.state_dict()

    straight = run(tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "resumed", interrupted_at=8)  # three steps after the last save
    torch.manual_seed(123)
    resumed = run(tmp_path / "resumed")
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    with pytest.raises(SystemExit, match="12 steps, not 20"):
        train("toy", {"model": torch.nn.Linear(4, 8)}, range, None, 20, 0.05, tmp_path / "resumed")


def test_contrastive_loss_is_claps_where_no_classes_repeat():
    audio, text = F.normalize(torch.randn(5, 8), dim=1), F.normalize(torch.randn(5, 8), dim=1)
    scale = torch.tensor(2.0)
    logits = scale.exp() * audio @ text.T
    expected = (F.cross_entropy(logits, torch.arange(5)) + F.cross_entropy(logits.T, torch.arange(5))) / 2
    torch.testing.assert_close(contrastive_loss(audio, text, torch.arange(5), scale), expected)
    # Clips of the same classes are interchangeable: swapping their texts changes nothing.
    classes = torch.tensor([7, 7, 1, 2, 3])
    swapped = contrastive_loss(audio, text[[1, 0, 2, 3, 4]], classes, scale)
    torch.testing.assert_close(contrastive_loss(audio, text, classes, scale), swapped)


def test_naming_loss_asks_for_the_names_of_all_sources():
    named = F.normalize(torch.randn(4, 8), dim=1)  # three classes and noise
    audio, scale = F.normalize(torch.stack([named[0] + named[2], named[3]]), dim=1), torch.tensor(2.0)
    logits = (scale.exp() * audio @ named.T).log_softmax(1)
    expected = -((logits[0, 0] + logits[0, 2]) / 2 + logits[1, 3]) / 2
    torch.testing.assert_close(naming_loss(audio, named, torch.tensor([0b101, 0]), scale), expected)


def test_captioned_clips_are_mixtures_and_what_a_separator_hands_on():
    # what tells in a caption that a class is in it: its name, or its phrases such as "in the rain"
    words = {name: "|".join([name, *phrases]) for name, phrases in PHRASES.items()}
    kinds = set()
    for index in range(90):
        clip, text, classes = captioned_clip(0, index)
        labels, heard = make_scene("train", index // clips_per_scene()).labels, bin(classes).count("1")
        kinds.add("noise" if not classes else "mixture" if heard == len(labels) else "part")
        assert clip.shape == (128000,) and clip.dtype == torch.float32 and 0 < clip.abs().max() <= 1.01
        assert all(classes >> CLASSES.index(name) & 1 == 0 for name in set(CLASSES) - set(labels))
        named = {name for name in CLASSES if re.search(rf"\b({words[name]})\b", text, re.IGNORECASE)}
        assert named == {name for place, name in enumerate(CLASSES) if classes >> place & 1}
        assert (text == "Noise") == (classes == 0)
        assert index % clips_per_scene() or heard == len(labels)
    assert kinds == {"noise", "mixture", "part"}
    assert torch.equal(clip, captioned_clip(0, 89)[0])


def test_what_is_cut_out_is_named_by_what_is_in_it():
    rng = np.random.default_rng(0)
    stems = np.stack([np.sin(np.arange(32000) * 0.3), rng.standard_normal(32000)]).astype(np.float32)
    seen = set()
    for _ in range(40):
        signal, heard = cut_out(stems, rng)
        # the share of a stem's own direction in the signal: high for the one that it is made of
        share = (stems @ signal) ** 2 / (stems**2).sum(1) / (signal**2).sum()
        seen.add(tuple(heard))
        if heard == [0]:
            assert share[0] > 0.6
        elif heard == [1]:
            assert share[0] < 0.4
        else:
            assert 0.05 < share[0] < 0.95
    assert seen == {(0,), (1,), (0, 1)}
    assert cut_out(stems[:1], rng)[1] == [0]


def test_separated_signals_are_the_separators_and_named_by_what_is_in_them(tmp_path):
    torch.manual_seed(0)
    separator = Separator(num_sources=3, channels=16).eval()
    torch.nn.init.normal_(separator.unet.out_conv[-1].weight, std=2.0)  # masks that differ
    separator.save_pretrained(tmp_path)
    for index in range(4):
        scene = make_scene("train", index)
        signals, shares, mixture = separated(tmp_path, 0, index)
        with torch.no_grad():
            expected = separator(torch.from_numpy(signals).sum(0, keepdim=True))[0]  # they sum to what was recorded
        torch.testing.assert_close(torch.from_numpy(signals.sum(0)), torch.from_numpy(mixture), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(torch.from_numpy(signals), expected, atol=1e-5, rtol=1e-4)
        assert np.allclose(shares.sum(1), 1) and shares.shape == (3, len(scene.stems))
        count = clips_per_scene(str(tmp_path))
        classes = [captioned_clip(0, count * index + place, str(tmp_path))[2] for place in range(1, count)]
        heard = [{i for i, name in enumerate(scene.labels) if bits >> CLASSES.index(name) & 1} for bits in classes]
        possible = [set(np.flatnonzero(row >= 0.2)) for row in shares]
        assert all(found in [*possible, set()] for found in heard)  # now and then noise takes a signal's place
    assert len(scene.stems) > 1 and not np.allclose(shares, shares[0], atol=1e-3)


def test_reconstruction_loss_prefers_sharp_outlines():
    image = torch.stack([painting("train", 0, index) for index in range(4)])
    blurred = F.avg_pool2d(F.pad(image, (1, 1, 1, 1), mode="replicate"), 3, 1)
    dimmed = image + (blurred - image).abs().mean()  # as far from the picture, but as sharp
    assert reconstruction_loss(image, image) == 0
    assert reconstruction_loss(blurred, image) > 1.2 * reconstruction_loss(dimmed, image)


def test_fine_detail_is_the_energy_above_a_quarter_of_the_sampling_rate():
    x = torch.arange(128.0)
    waves = [torch.cos(2 * torch.pi * cycles * x / 128).expand(1, 3, 128, 128) for cycles in (31, 33, 63)]
    coarse, fine, finest = (fine_detail(wave) for wave in waves)
    assert coarse < 1e-6 * fine and finest == pytest.approx(fine, rel=1e-3)
    assert fine == pytest.approx((waves[1][0, 0].square().sum() * 128**2).item(), rel=1e-3)  # Parseval
    assert fine_detail(0.5 * waves[1]) == pytest.approx(fine / 4, rel=1e-3)


def test_what_the_decoder_is_led_by():
    judge = Judge(CLASSES, width=4).eval()
    image = torch.stack([painting("train", 0, index) for index in range(2)])
    blurred = F.avg_pool2d(F.pad(image, (2, 2, 2, 2), mode="replicate"), 5, 1)
    assert perceptual_loss(judge, image, image) == 0 < perceptual_loss(judge, blurred, image)
    assert patch_discriminator()(image).shape == (2, 1, 14, 14)


def test_judge_names_classes_and_comes_back_from_disk(tmp_path):
    judge = Judge(CLASSES, width=4).eval()
    judge.save_pretrained(tmp_path)
    again = Judge.from_pretrained(tmp_path)
    images = torch.stack([painting("train", 0, index) for index in range(3)])
    assert torch.equal(judge(images), again(images)) and again.config.classes == CLASSES
    for names, logits in zip(again.recognise(images), again(images), strict=True):
        assert names == [name for name, logit in zip(CLASSES, logits, strict=True) if logit > 0]
    assert judge.features(images).shape == (3, 64)


def run_main(module, monkeypatch, *arguments):
    name = f"{module.__name__.rsplit('.', 1)[-1]}.py"
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments), "--num_workers", "0"])
    module.main()


def changed(before, after):
    """Whether two folders hold weights of the same names with other values."""
    before, after = (load_file(next(folder.glob("*.safetensors"))) for folder in (before, after))
    assert before.keys() == after.keys()
    return any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.slow
def test_the_vae_and_unet_in_the_models_folder_are_the_trained_ones(tiny_dir, tmp_path, monkeypatch, capsys):
    model = shutil.copytree(tiny_dir, tmp_path / "model")
    options = ["--model_dir", model, "--output_dir", tmp_path / "work", "--batch_size", 2]
    monkeypatch.setattr(train_vae, "HELD_OUT", 32)
    monkeypatch.setattr(train_unet, "PICTURES", 8)
    run_main(train_vae, monkeypatch, *options, "--scenes", 4)
    assert "vae: PSNR" in capsys.readouterr().out
    vae = AutoencoderKL.from_pretrained(model, subfolder="vae")
    images = torch.stack([painting("val", 0, index) for index in range(32)])
    with torch.no_grad():
        deviation = vae.encode(images).latent_dist.sample().std()
    assert deviation * vae.config.scaling_factor == pytest.approx(1, abs=0.05)  # the UNet sees unit variance
    assert changed(tiny_dir / "vae", model / "vae")

    run_main(train_unet, monkeypatch, *options, "--scenes", 3, "--steps", 2)
    assert changed(tiny_dir / "unet", model / "unet") and changed(tiny_dir / "text_encoder", model / "text_encoder")
    assert Image.open(tmp_path / "work" / "unet.png").size == (8 * 128, 128)
    assert Image.open(tmp_path / "work" / "vae.png").size == (8 * 128, 4 * 128)
    (latents,) = (tmp_path / "work" / "latents").rglob("*.safetensors")
    mean = vae.encode(painting("train", 0, 2)[None]).latent_dist.mean
    torch.testing.assert_close(load_file(latents)["moments"][2, :8].float(), mean[0].detach(), atol=0.02, rtol=0.02)

    # Of the VAE the decoder alone learns on: the latents, and with them the UNet's, mean what they meant
    monkeypatch.setattr(train_decoder, "HELD_OUT", 8)
    judge = Judge(CLASSES, width=4)
    judge.save_pretrained(tmp_path / "judge")
    before = load_file(model / "vae" / "diffusion_pytorch_model.safetensors")
    run_main(train_decoder, monkeypatch, *options, "--scenes", 4, "--judge", tmp_path / "judge")
    after = load_file(model / "vae" / "diffusion_pytorch_model.safetensors")
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    printed = re.findall("decoder .*", capsys.readouterr().out)
    assert moved == {"decoder"} and len(printed) == 2 and all("fine detail kept" in line for line in printed)
    assert Image.open(tmp_path / "work" / "decoder.png").size == (3 * 128, 8 * 128)
    # Run again, it still compares with the decoder that it began with, not with the one in the model's folder by now
    run_main(train_decoder, monkeypatch, *options, "--scenes", 4, "--judge", tmp_path / "judge")
    assert re.findall("decoder .*", capsys.readouterr().out) == printed
    assert not list(tmp_path.rglob(".partial*"))


@pytest.mark.slow
def test_the_judge_is_saved_with_the_scores_it_prints(tmp_path, monkeypatch, capsys):
    run_main(train_judge, monkeypatch, "--output_dir", tmp_path, "--scenes", 16, "--batch_size", 4, "--held_out", 12)
    judge = Judge.from_pretrained(tmp_path).eval()
    scenes = [make_scene("test", index) for index in range(12)]
    seen = judge.recognise(torch.stack([torch.from_numpy(scene.pixels) for scene in scenes]))
    f1 = []
    for name in CLASSES:
        pairs = [(name in labels, name in scene.labels) for labels, scene in zip(seen, scenes, strict=True)]
        hits, wrong = pairs.count((True, True)), pairs.count((True, False)) + pairs.count((False, True))
        f1.append(2 * hits / (2 * hits + wrong) if hits else 0)
    assert f"macro F1 {np.mean(f1):.4f} on 12 held-out scenes" in capsys.readouterr().out


@pytest.mark.slow
def test_clap_in_the_models_folder_is_the_trained_one(tiny_dir, tmp_path, monkeypatch, capsys):
    rain, dog = make_scene("val", 0, labels=["rain"]), make_scene("val", 0, labels=["dog"])
    monkeypatch.setattr(train_clap, "HELD_OUT", 6)
    monkeypatch.setattr(train_clap, "make_scene", lambda split, index, *_, **__: (rain, dog)[index % 2])
    model = shutil.copytree(tiny_dir, tmp_path / "model")
    options = ["--model_dir", model, "--output_dir", tmp_path / "work", "--batch_size", 3, "--scenes", 2]
    run_main(train_clap, monkeypatch, *options)
    assert re.search(r"names (0|50|100)\.0% of 6 held-out sources", capsys.readouterr().out)  # two different ones
    assert changed(tiny_dir / "clap", model / "clap")
    assert torch.load(tmp_path / "work" / "clap.pt", weights_only=True)["done"] == 2


def write_recordings(folder):
    """Recordings: a hiss called rain, tones called dog and baby (which the world does not know); one for testing."""
    hiss = 0.1 * np.random.default_rng(0).standard_normal(32000)
    tone = 0.3 * np.sin(np.arange(32000) * 0.2)
    lines = ["filename,class,source,author,licence,split"]
    for name, samples in {"rain": hiss, "dog": tone, "baby": tone * np.hanning(32000)}.items():
        soundfile.write(folder / f"{name}.wav", samples, 16000)
        lines.append(f"{name}.wav,{name},source of {name},N. N.,CC0,train")
    soundfile.write(folder / "test.wav", hiss[::-1], 16000)
    lines.append("test.wav,rain,another rain,N. N.,CC0,test")
    (folder / "recordings.csv").write_text("\n".join(lines))
    return str(folder)


def test_what_the_projection_hears(tiny_dir, tmp_path):
    recordings, separator, kinds = write_recordings(tmp_path), str(tiny_dir / "separator"), set()
    for index in range(24 + 3 + 2):
        clips, classes, of_recipes = train_projection.heard(index, 0, 24, separator, recordings)
        assert clips.shape == (7, 128000) and classes.shape == (7, len(CLASSES) + 1)
        torch.testing.assert_close(clips[1:].sum(0), clips[0], atol=1e-4, rtol=1e-3)  # signals sum to the mixture
        torch.testing.assert_close(classes.sum(1), torch.ones(7))
        labels = {CLASSES[i] for i in classes[0, :-1].nonzero()[:, 0]}
        assert {CLASSES[i] for i in classes[1:, :-1].nonzero()[:, 1]} <= labels
        if of_recipes:
            assert labels == set(make_scene("train", index).labels)
        assert not of_recipes or index < 24
        if index >= 27:  # two recordings as they are, of which the world knows both
            assert labels == {"rain", "dog"} and classes[0].max() == 0.5
            stems = [levelled(load_clip(tmp_path / f"{name}.wav")) for name in labels]
            torch.testing.assert_close(clips[0], stems[0] + stems[1])
        elif index >= 24:  # and one
            name = ["rain", "dog", "baby"][index - 24]
            assert labels == {name} - {"baby"} and (classes[:, CLASSES.index(name) if labels else -1] == 1).all()
            assert torch.equal(clips[0], load_clip(tmp_path / f"{name}.wav"))
        else:
            kinds.add(("recipes" if of_recipes else "real", min(len(labels), 2)))
    assert {("recipes", 2), ("real", 0), ("real", 1), ("real", 2)} <= kinds


def test_the_projection_alone_learns_and_features_are_kept(tiny_dir, tmp_path, monkeypatch, capsys):
    (tmp_path / "recordings").mkdir()
    recordings, model = write_recordings(tmp_path / "recordings"), shutil.copytree(tiny_dir, tmp_path / "model")
    monkeypatch.setattr(train_projection, "CHUNK", 3)
    heard, asked = train_projection.heard, []

    def interrupted(index, **settings):
        asked.append(index)
        if len(asked) == 5:
            raise KeyboardInterrupt
        return heard(index, **settings)

    options = ["--model_dir", model, "--output_dir", tmp_path / "work", "--separator", model / "separator"]
    options += ["--recordings", recordings, "--scenes", 5, "--steps", 20, "--batch_size", 8]
    monkeypatch.setattr(train_projection, "heard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_main(train_projection, monkeypatch, *options)
    assert not changed(tiny_dir / "clap", model / "clap")
    run_main(train_projection, monkeypatch, *options)
    assert asked == [*range(5), *range(3, 10)]  # three were kept; 5 scenes, 3 recordings, 2 pairs
    assert re.search(r"names (0|100)\.0% of the test recordings before, (0|100)\.0% after", capsys.readouterr().out)
    before, after = (load_file(folder / "clap" / "model.safetensors") for folder in (tiny_dir, model))
    moved = {name.rsplit(".", 2)[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"audio_projection"}

    # What was kept is what the pipeline hears: CLAP's embeddings of these clips
    kept = torch.load(tmp_path / "work" / "projection_features.pt", weights_only=True)
    assert [len(part["of_recipes"]) for part in kept["parts"]] == [3, 3, 3, 1]
    clap = ClapEncoder.from_pretrained(tiny_dir, subfolder="clap", dtype=torch.float32).eval()
    with torch.no_grad():
        embeds = clap.encode_audio(heard(4, 0, 5, str(model / "separator"), recordings)[0])
        torch.testing.assert_close(kept["parts"][1]["embeds"][1], embeds, atol=1e-4, rtol=1e-3)
        again = F.normalize(clap.audio_projection(kept["parts"][1]["pooled"][1]), dim=-1)
    torch.testing.assert_close(again, embeds, atol=1e-4, rtol=1e-3)
    with pytest.raises(SystemExit, match="remove it to start anew"):
        run_main(train_projection, monkeypatch, *options, "--seed", 1)

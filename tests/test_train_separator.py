import io
import json
import os
import re
import shutil
import signal
import sys
import time
from contextlib import redirect_stderr, redirect_stdout

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import ClapConfig, RobertaTokenizer

import train_separator
from macs import ClapEncoder, Separator
from macs.audio import load_clip
from macs.losses import si_sdr_improvement
from macs.released import CheckpointError, export_separator
from processes import Script, finish_together


@pytest.fixture(scope="session")
def clap_dir(tmp_path_factory):
    """A CLAP of the real architecture, as small as it gets, saved with its tokenizer."""
    folder = tmp_path_factory.mktemp("clap")
    tokenizer = RobertaTokenizer().train_new_from_iterator(["The sound of Noise"], 300, show_progress=False)
    text = {"vocab_size": len(tokenizer), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 16, "max_position_embeddings": 80, "pad_token_id": tokenizer.pad_token_id}  # fmt: skip
    audio = {"patch_embeds_hidden_size": 4, "hidden_size": 16, "depths": [1, 1, 1], "num_attention_heads": [1, 1, 1],
             "patch_size": 8, "patch_stride": [8, 8]}  # fmt: skip
    torch.manual_seed(0)
    ClapEncoder(ClapConfig(text_config=text, audio_config=audio, projection_dim=16)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """DATA_DIR with the set `Tones`: 10 clips of 0.5 s to train (one of them broken), 4 scenes with stems for test."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    t = np.arange(8000) / 16000
    rows = ["filename\tevent_labels"]

    def write(part, name, samples):
        path = root / "Tones" / part / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples, 16000)

    for i in range(10):
        tone = 0.3 * np.sin(2 * np.pi * rng.uniform(200, 4000) * t)
        write("train/audio", f"clip{i}", tone + 0.01 * rng.standard_normal(8000))
        rows.append(f"clip{i}\ttone,Noise")
    (root / "Tones/train/audio/clip3.wav").write_bytes(b"broken")
    for i in range(4):
        stems = [0.3 * np.sin(2 * np.pi * rng.uniform(200, 4000) * t), 0.1 * rng.standard_normal(8000)]
        write("test/audio", f"scene{i}", sum(stems))
        for name, stem in zip(("tone", "noise"), stems, strict=True):
            write("test/stems", f"scene{i}_{name}", stem)
        rows.append(f"scene{i}\ttone,noise")
    (root / "Tones/Tones.csv").write_text("\n".join(rows) + "\n")
    return root


def command(data_dir, clap_dir, output_dir):
    """Command line of a run: 2 epochs of 5 batches, 3 optimizer steps each."""
    return ["--data_dir", data_dir, "--dataset_name", "Tones", "--validation_set", "test", "--clap", clap_dir,
            "--output_dir", output_dir, "--M", 3, "--channels", 16, "--clip_seconds", 0.5, "--epochs", 2,
            "--batch_size", 2, "--num_workers", 0]  # fmt: skip


@pytest.fixture
def options(data_dir, clap_dir, tmp_path):
    return command(data_dir, clap_dir, tmp_path / "run")


@pytest.fixture(scope="module")
def whole(data_dir, clap_dir, tmp_path_factory):
    """(options, folder, what was printed) of a run that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    options, printed = command(data_dir, clap_dir, out), io.StringIO()
    with pytest.MonkeyPatch.context() as monkeypatch, redirect_stdout(printed), redirect_stderr(printed):
        run_here(monkeypatch, *options, "--checkpointing_steps", 2, "--report_to", "tensorboard")
    return options, out, printed.getvalue()


def run_here(monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", ["train_separator.py", *map(str, options)])
    train_separator.main()


@pytest.mark.slow
def test_a_run_trains_validates_draws_and_saves(monkeypatch, whole, data_dir, tmp_path):
    options, out, printed = whole
    assert "10 clips to train, 4 to validate" in printed
    assert "1 recordings could not be decoded" in printed
    assert printed.count("clip3.wav") == 1  # one warning in two epochs
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in metrics] == [1, 2]
    for name in ("mixit", "contrastive", "ranking", "si_sdr_improvement", "si_sdr_improvement_stems"):
        assert all(np.isfinite(line[f"validation/{name}"]) for line in metrics)
    assert sorted(path.name for path in (out / "figures").iterdir()) == ["epoch_001.png", "epoch_002.png"]
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["step-00000004", "step-00000006"]
    assert list((out / "macs").glob("events.out.tfevents.*"))
    separator = Separator.from_pretrained(out / "separator")
    assert (separator.config.num_sources, separator.config.channels, separator.config.num_samples) == (3, 16, 8000)
    assert separator.logit_scale != Separator(3, 16).logit_scale  # CLAP's losses reached the separator's parameters

    # What the last line says of the scenes with stems, once more from the saved weights
    stems = data_dir / "Tones" / "test" / "stems"
    references = torch.stack([
        torch.stack([load_clip(stems / f"scene{i}_{name}.wav", 0.0, 8000) for name in ("noise", "tone")])
        for i in range(4)
    ])  # fmt: skip
    with torch.no_grad():
        improvement = si_sdr_improvement(separator.eval()(references.sum(1)), references).mean().item()
    assert metrics[-1]["validation/si_sdr_improvement_stems"] == pytest.approx(improvement, abs=0.01)
    assert metrics[-1]["validation/signal_1_leads"] in (0, 0.25, 0.5, 0.75, 1)  # of four mixtures
    assert metrics[0]["validation/mixit"] != metrics[1]["validation/mixit"]

    # The result can be trained further, but not as another separator than it is
    finetune = [*options, "--finetune", out, "--epochs", 1, "--output_dir", tmp_path / "further"]
    run_here(monkeypatch, *finetune)
    assert (tmp_path / "further/separator/config.json").is_file()
    with pytest.raises(SystemExit, match="made for M = 3 and 0.5 s, expected M = 4 and 0.5 s"):
        run_here(monkeypatch, *finetune, "--M", 4)

    # A checkpoint belongs to a run of the same settings
    changes = [(["--M", 4], r"M 3 \(now 4\)"), (["--clip_seconds", 1.0], r"clip_seconds 0.5 \(now 1.0\)")]
    for change, message in changes:
        with pytest.raises(SystemExit, match=f"made with other settings: .*{message}"):
            run_here(monkeypatch, *options, *change, "--resume", "latest")
    shutil.copytree(out, tmp_path / "copy")
    (tmp_path / "copy/checkpoints/step-00000006/model.safetensors").write_bytes(b"cut off")
    with pytest.raises(SystemExit, match="step-00000006: the checkpoint cannot be read"):
        run_here(monkeypatch, *options, "--output_dir", tmp_path / "copy", "--resume", "latest")


def test_decorrelation_makes_signals_that_resemble_each_other_less(monkeypatch, capsys, options):
    def correlations(weight):
        run_here(monkeypatch, *options, "--epochs", 1, "--decorrelation", weight)
        shown = re.findall(r"correlation=([\d.]+)", capsys.readouterr().err)
        return [float(value) for value in dict.fromkeys(shown)]  # the bar shows each more than once

    without, with_it = correlations(1e-9), correlations(100)
    assert without[0] == with_it[0] and with_it[-1] < 0.6 * without[-1]
    assert not correlations(0)  # what counts nothing is not computed


def test_a_full_disk_leaves_the_earlier_checkpoint_whole(monkeypatch, options, tmp_path):
    saved = torch.save

    def save(value, file, *args, **kwargs):
        if "step-00000003" in str(file):
            raise OSError(28, "No space left on device")
        saved(value, file, *args, **kwargs)

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(SystemExit, match="step-00000003: .*No space left.*step-00000002 is whole"):
        run_here(monkeypatch, *options, "--epochs", 1, "--checkpointing_steps", 2)
    monkeypatch.setattr(torch, "save", saved)
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-00000002"]
    run_here(monkeypatch, *options, "--epochs", 1, "--checkpointing_steps", 2, "--resume", "latest")
    assert (tmp_path / "run/separator/config.json").is_file()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--dataset_name", "Nothing"], "Nothing/train/audio: no such folder"),
        (["--data_set", "empty"], "empty/audio: expected recordings"),
        (["--labels", "{data_dir}/wrong.csv"], "wrong.csv: expected the columns"),
        (["--labels", "{data_dir}/other.csv"], "there is none for any of the 14"),
        (["--batch_size", 99], "10 training clips, expected at least 99"),
        (["--resume", "latest"], "expected a checkpoint"),
        (["--output_dir", "{data_dir}/Tones/Tones.csv/run"], "the output folder cannot be made"),
    ],
)
def test_bad_input_is_one_clear_error(monkeypatch, options, data_dir, change, message):
    (data_dir / "Tones/empty/audio").mkdir(parents=True, exist_ok=True)
    (data_dir / "wrong.csv").write_text("a,b\n1,2\n")
    (data_dir / "other.csv").write_text("fname,labels\n1,Rain\n")
    with pytest.raises(SystemExit, match=message):
        run_here(monkeypatch, *options, *[str(part).format(data_dir=data_dir) for part in change])


def test_the_mixture_is_embedded_once_and_all_signals_in_one_batch(clap_dir):
    clap = ClapEncoder.from_pretrained(clap_dir).eval().requires_grad_(False)
    torch.manual_seed(0)
    separator = Separator(3, 16, num_samples=8000)
    sizes = []
    encode_audio = clap.encode_audio
    clap.encode_audio = lambda waveforms: sizes.append(len(waveforms)) or encode_audio(waveforms)
    parts = losses_of(separator, clap, torch.randn(4, 8000))
    assert sizes == [4 * 3, 4]
    assert torch.allclose(parts["sources"].sum(1), parts["mixture"], atol=1e-5)
    # CLAP gets no gradients, but the separator gets them through it
    (parts["contrastive"] + parts["ranking"]).backward()
    assert all(parameter.grad is None for parameter in clap.parameters())
    assert separator.unet.out_conv[-1].weight.grad.abs().sum() > 0


def losses_of(separator, clap, waveform, names=train_separator.LOSSES):
    from contextlib import nullcontext

    generator = torch.Generator().manual_seed(len(waveform))
    texts = F.normalize(torch.randn(len(waveform), 2, 16, generator=generator), dim=-1)
    scale = getattr(separator, "module", separator).logit_scale
    mixture_1, mixture_2, mixture, texts = train_separator.mix(waveform, texts)
    sources = separator(mixture)
    losses = train_separator.stage_one_losses(sources, mixture_1, mixture_2, texts, scale, clap, nullcontext, names)
    return losses | {"sources": sources, "mixture": mixture}


def test_losses_that_are_left_share_the_weight_by_the_same_rule():
    alphas = [train_separator.alpha_of(["linear"], epoch, 5) for epoch in range(5)]
    assert alphas == [0, 0.25, 0.5, 0.75, 1] and train_separator.alpha_of(["linear"], 0, 1) == 0
    assert train_separator.alpha_of(["constant", "0.3"], 4, 5) == 0.3
    weights = train_separator.loss_weights
    assert weights(["mixit", "contrastive", "ranking"], 0.25) == {"mixit": 0.75, "contrastive": 0.25, "ranking": 0.25}
    assert weights(["mixit", "ranking"], 0.25) == {"mixit": 0.75, "ranking": 0.25}
    for alone in (["mixit"], ["ranking"], ["contrastive", "ranking"]):
        assert weights(alone, 0.25) == dict.fromkeys(alone, 1)


@pytest.mark.parametrize("alpha", [["constant", "2"], ["constant"], ["cubic"], ["linear", "1"], ["constant", "x"]])
def test_another_rule_of_alpha_is_one_clear_error(alpha, options, capsys):
    with pytest.raises(SystemExit):
        train_separator.parse_args([*map(str, options), "--alpha", *alpha])
    assert "--alpha takes linear, or constant and a number from 0 to 1" in capsys.readouterr().err


def test_losses_that_are_off_are_not_computed(clap_dir):
    torch.manual_seed(0)
    clap = ClapEncoder.from_pretrained(clap_dir).eval().requires_grad_(False)
    separator = Separator(3, 16, num_samples=8000).eval()  # no dropout
    waveform = torch.randn(2, 8000)
    whole = losses_of(separator, clap, waveform)
    assert whole.keys() > {"mixit", "contrastive", "ranking", "similarity"} and "correlation" not in whole
    clap.encode_audio = lambda waveforms: pytest.fail("CLAP was run")
    alone = losses_of(separator, clap, waveform, ["mixit"])
    assert alone.keys() == {"mixit", "sources", "mixture"} and alone["mixit"] == whole["mixit"]


def test_ablations_train(monkeypatch, capsys, options, tmp_path):
    once = [*options, "--epochs", 1, "--validation_clips", 0]
    run_here(monkeypatch, *once, "--losses", "mixit", "ranking", "--alpha", "constant", 0.5)
    shown = capsys.readouterr().err
    assert "ranking=" in shown and "contrastive=" not in shown
    run_here(monkeypatch, *once, "--M", 1, "--output_dir", tmp_path / "one", "--alpha", "constant", 0.5)
    assert Separator.from_pretrained(tmp_path / "one/separator").config.num_sources == 1


def si_sdr(estimate, reference):
    scale = (estimate * reference).sum(-1, keepdim=True) / reference.square().sum(-1, keepdim=True)
    error = scale * reference - estimate
    return 10 * torch.log10((scale * reference).square().sum(-1) / error.square().sum(-1))


def test_si_sdr_improvement_of_a_known_separation():
    generator = torch.Generator().manual_seed(0)
    references = torch.randn(2, 3, 4000, generator=generator, dtype=torch.float64)
    references -= references.mean(-1, keepdim=True)
    leak = 0.1 * references.roll(1, dims=1)
    sources = (references - leak + leak.roll(-1, dims=1)).flip(1)  # in another order
    mixture = sources.sum(1, keepdim=True)
    expected = (si_sdr(sources.flip(1), references) - si_sdr(mixture.expand_as(references), references)).mean(-1)
    assert torch.allclose(si_sdr_improvement(sources, references), expected, atol=0.05)
    assert expected.min() > 10
    assert torch.allclose(si_sdr_improvement(sources, references, single=True), expected, atol=0.05)
    same = mixture.expand(-1, 3, -1) / 3
    for single in (False, True):
        assert si_sdr_improvement(same, references, single).abs().max() < 0.1


def test_the_best_sum_joins_the_halves_of_a_source_that_the_best_signal_has_not():
    generator = torch.Generator().manual_seed(0)
    one, other, noise, error = torch.randn(4, 1, 4000, generator=generator, dtype=torch.float64)
    error *= 0.01
    sources = torch.stack([one / 2 + noise, one / 2 - noise - error, other + error], dim=1)
    references = torch.stack([one, other], dim=1)
    mixture = si_sdr((one + other)[:, None].expand(-1, 2, -1), references)
    for single, one_db in ((False, 40), (True, -6)):
        expected = (torch.tensor([one_db, 40]) - mixture).mean()
        assert torch.allclose(si_sdr_improvement(sources, references, single)[0], expected, atol=1)


def test_export_puts_the_separator_into_a_copy_of_the_released_file(tmp_path):
    released = {f"model.{name.replace('logit_scale', 'tau2')}": value.clone()
                for name, value in Separator(3, 16, num_samples=8000).state_dict().items()}  # fmt: skip
    released["clap.model.logit_scale_a"] = torch.tensor(3.0)
    torch.save(released, tmp_path / "released.pt")
    trained = Separator(3, 16, num_samples=8000)
    trained.logit_scale.data += 1
    export_separator(trained, tmp_path / "released.pt", tmp_path / "mine.pt")
    mine = torch.load(tmp_path / "mine.pt", weights_only=True)
    assert list(mine) == list(released)
    assert mine["clap.model.logit_scale_a"] == 3
    assert torch.equal(mine["model.tau2"], trained.logit_scale)
    for name, value in trained.unet.state_dict().items():
        assert torch.equal(mine[f"model.unet.{name}"], value)
    with pytest.raises(CheckpointError, match="released.pt: entry model.unet.* the file is for another M"):
        export_separator(Separator(4, 16, num_samples=8000), tmp_path / "released.pt", tmp_path / "mine.pt")


@pytest.mark.slow
def test_killed_in_mid_epoch_and_resumed_it_ends_with_the_same_weights(whole, options, tmp_path):
    options, cut = [*options, "--checkpointing_steps", 1], tmp_path / "cut"
    killed = Script("train_separator.py", *options, "--output_dir", cut)
    deadline = time.time() + 200
    while not (cut / "checkpoints/step-00000005").exists() and time.time() < deadline:  # in the middle of epoch 2
        assert killed.process.is_alive(), killed.output()
        time.sleep(0.002)
    killed.kill()
    assert killed.process.exitcode == -signal.SIGKILL
    assert not (cut / "separator").exists()
    for path in (cut / "checkpoints").glob("step-*"):  # whatever it reached while the signal was on its way
        if path.name not in ("step-00000004", "step-00000005"):
            shutil.rmtree(path)

    output = Script("train_separator.py", *options, "--output_dir", cut, "--resume", "latest").finish()
    assert "Resumed from" in output
    weights = [load_file(folder / "separator/diffusion_pytorch_model.safetensors") for folder in (whole[1], cut)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    validations = [(folder / "metrics.jsonl").read_text().splitlines() for folder in (whole[1], cut)]
    assert validations[0] == validations[1]


def test_scikit_learn_is_imported_only_where_it_is_used(tmp_path):
    probe = tmp_path / "probe.py"  # runs in a process that has imported train.py and train_separator.py, and no more
    probe.write_text("import sys; print([name in sys.modules for name in ('train', 'train_separator', 'sklearn')])")
    assert Script(probe).finish() == "[True, True, False]\n"


@pytest.mark.slow
def test_two_processes_train_together(options, tmp_path):
    output = "".join(finish_together("train_separator.py", *options))
    out = tmp_path / "run"
    assert output.count("10 clips to train") == 1
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [(line["epoch"], line["step"]) for line in metrics] == [(1, 1), (2, 2)]  # 10 clips / (2 processes * 2) / 2
    assert {path.name for path in (out / "checkpoints/step-00000002").glob("random_states_*")} == {
        "random_states_0.pkl", "random_states_1.pkl"}  # fmt: skip
    Separator.from_pretrained(out / "separator")


def gradients_of_two_processes(rank, clap_dir, folder):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29537")
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    separator, clap, waveform = models_and_waveform(clap_dir)
    parallel = torch.nn.parallel.DistributedDataParallel(separator)
    parts = losses_of(parallel, clap, waveform.chunk(2)[rank])
    (parts["mixit"] + parts["contrastive"] + parts["ranking"]).backward()
    if rank == 0:
        torch.save({name: p.grad for name, p in separator.named_parameters()}, folder / "gradients.pt")
    del parallel, parts  # before the process group, as in the training itself
    torch.distributed.destroy_process_group()


def models_and_waveform(clap_dir):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    separator = Separator(3, 16, num_samples=8000).eval()  # batch norm by its running statistics, no dropout
    clap = ClapEncoder.from_pretrained(clap_dir).eval().requires_grad_(False)
    return separator, clap, torch.randn(4, 8000)


@pytest.mark.slow
def test_gradients_of_two_processes_equal_those_of_one_on_the_joined_batch(clap_dir, tmp_path):
    torch.multiprocessing.start_processes(
        gradients_of_two_processes, (clap_dir, tmp_path), nprocs=2, start_method="forkserver"
    )
    separator, clap, waveform = models_and_waveform(clap_dir)
    for half in waveform.chunk(2):  # the partners are drawn inside each process's part
        parts = losses_of(separator, clap, half)
        ((parts["mixit"] + parts["contrastive"] + parts["ranking"]) / 2).backward()
    together = torch.load(tmp_path / "gradients.pt", weights_only=True)
    for name, parameter in separator.named_parameters():
        scale = parameter.grad.abs().max()
        assert torch.allclose(together[name], parameter.grad, rtol=1e-4, atol=1e-5 * scale), name

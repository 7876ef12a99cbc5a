"""Resume: exact, refused where the run would be another one, and never unpickling more than tensors and numbers."""

import json
import os
import pickle
import re
import subprocess
import sys

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState

import train
import train_separator
from macs.training.accelerator import TrainingError, make_accelerator, unlock
from macs.training.loop import Run, compared_settings, tensors_fingerprint


@pytest.fixture(autouse=True)
def fresh_accelerate(tmp_path):
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()  # whatever training in this process was interrupted before
    yield
    stop(tmp_path)


def make_run(folder, settings=None, ema=0.5, seed=0):
    """A run of a linear layer with dropout, 4 epochs of 3 batches."""
    accelerator = make_accelerator(folder, mixed_precision="no", gradient_accumulation_steps=1, seed=seed)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    loader = torch.utils.data.DataLoader(
        [{"x": torch.full((4,), float(i))} for i in range(6)], 2, collate_fn=collate, generator=torch.Generator()
    )
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    trained = list(model.parameters())
    settings = {"epochs": 4, "lr": 0.1} | (settings or {})
    run = Run(accelerator, folder, settings, optimizer, trained, epochs=4, batches_per_epoch=3, ema=ema)
    return run, model, optimizer, loader


def collate(items):
    return {"x": torch.stack([item["x"] for item in items]), "skipped": []}


def go_on(run, model, optimizer, loader, epochs):
    for epoch in run.epochs_left():
        for batch in run.batches(loader):
            loss = model(batch["x"]).square().mean()
            run.accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            run.step_done({"loss": loss.item()})
        if epoch + 1 == epochs:
            run.position.epoch, run.position.batch = epoch + 1, 0
            run.save_checkpoint()
            break


def stop(folder):
    unlock(folder)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture
def checkpoint(tmp_path):
    """A run of two epochs; its last checkpoint."""
    go_on(*make_run(tmp_path), epochs=2)
    stop(tmp_path)
    return tmp_path / "checkpoints" / "step-00000006"


def test_a_resumed_run_ends_as_one_that_never_stopped(checkpoint, tmp_path):
    resumed = make_run(tmp_path, seed=0)
    torch.rand(5)  # where the generators stand at the start makes no difference
    resumed[0].resume("latest")
    assert (resumed[0].position.epoch, resumed[0].position.step) == (2, 6)
    go_on(*resumed, epochs=4)
    stop(tmp_path)
    whole = make_run(tmp_path / "whole")
    go_on(*whole, epochs=4)
    unlock(tmp_path / "whole")
    for ours, theirs in zip(resumed[1].parameters(), whole[1].parameters(), strict=True):
        assert torch.equal(ours, theirs)
    for ours, theirs in zip(resumed[0].average.shadow_params, whole[0].average.shadow_params, strict=True):
        assert torch.equal(ours, theirs)
    assert resumed[0].schedule.get_last_lr() == whole[0].schedule.get_last_lr()


FILES = ["model.safetensors", "optimizer.bin", "random_states_0.pkl", "state.pt"]


def test_the_checkpoint_holds_these_files(checkpoint):
    assert {path.name for path in checkpoint.iterdir()} == {*FILES, "settings.json"}


class Planted:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("spoil", ["pickle", "torch.save", "cut", "empty", "missing"])
def test_code_in_a_checkpoint_is_not_run_and_broken_files_are_named(checkpoint, tmp_path, name, spoil):
    path, proof = checkpoint / name, tmp_path / "code was run"
    if spoil == "pickle":
        path.write_bytes(pickle.dumps(Planted(proof)))
    elif spoil == "torch.save":
        torch.save({"position": {}, "random_state": Planted(proof)}, path)
    elif spoil == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: -path.stat().st_size // 3] if spoil == "cut" else b"")
    run, *_ = make_run(tmp_path)
    named = checkpoint if name in ("model.safetensors", "optimizer.bin") else path
    with pytest.raises(TrainingError, match=f"^{re.escape(str(named))}: the checkpoint cannot be read"):
        run.resume("latest")
    assert not proof.exists()


@pytest.mark.parametrize(
    "name", ["custom_checkpoint_0.pkl", "pytorch_model.bin", "scheduler.bin", "sampler.bin", "scaler.pt"]
)
def test_an_alien_file_beside_the_parts_is_not_unpickled(checkpoint, tmp_path, name):
    proof = tmp_path / "code was run"
    (checkpoint / name).write_bytes(pickle.dumps(Planted(proof)))
    run, *_ = make_run(tmp_path)
    if name == "pytorch_model.bin":
        (checkpoint / "model.safetensors").unlink()  # accelerate looks for the other one then
    try:
        run.resume("latest")
    except TrainingError:
        refused = True
    else:
        refused = False
    assert not proof.exists()
    assert refused == (name in ("custom_checkpoint_0.pkl", "pytorch_model.bin"))  # the others belong to no part


def test_settings_that_are_no_json_or_differ_are_refused(checkpoint, tmp_path):
    run, *_ = make_run(tmp_path, {"lr": 0.2, "separator": "abc"})
    with pytest.raises(
        TrainingError, match=r"made with other settings: lr 0.1 \(now 0.2\), separator None \(now abc\)"
    ):
        run.resume("latest")
    stop(tmp_path)
    run, *_ = make_run(tmp_path, {"epochs": 9})
    with pytest.raises(TrainingError, match=r"epochs 4 \(now 9\).*start a new run, with a schedule of its own"):
        run.resume("latest")
    for content in ("{", "[1]"):
        (checkpoint / "settings.json").write_text(content)
        with pytest.raises(TrainingError):
            run.resume("latest")


def test_a_second_training_with_the_same_folder_is_refused_until_the_first_ends(tmp_path):
    code = (
        "import sys, pathlib; from macs.training.accelerator import lock; lock(pathlib.Path(sys.argv[1])); "
        "print('locked', flush=True); sys.stdin.read()"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert first.stdout.readline() == "locked\n"
    with pytest.raises(TrainingError, match="another training writes there now"):
        make_run(tmp_path)
    first.kill()
    first.wait()
    AcceleratorState._reset_state(reset_partial_state=True)
    make_run(tmp_path)


def test_a_loss_that_is_not_finite_ends_the_run_and_is_no_bare_nan_in_the_log(tmp_path):
    run, model, optimizer, loader = make_run(tmp_path)
    run.log({"validation/loss": float("nan"), "epoch": 1})
    line = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(line, parse_constant=lambda name: pytest.fail(f"bare {name}"))["validation/loss"] is None
    for _ in run.batches(loader):
        with pytest.raises(TrainingError, match="the loss is nan in step 1"):
            run.step_done({"loss": float("nan")})
        break


def test_the_fingerprint_of_tensors_sees_every_value_and_name():
    tensors = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(1)}
    same = {"b": torch.tensor(1), "a": torch.arange(6.0).view(2, 3)}
    assert tensors_fingerprint(tensors) == tensors_fingerprint(same)
    changed = same | {"a": same["a"] + torch.eye(2, 3) * 1e-6}
    assert len({tensors_fingerprint(t) for t in (tensors, changed, {"c": tensors["a"], "b": tensors["b"]})}) == 3


# Options of which a result does not depend, or whose files are compared by contents. What is not here is compared.
EXEMPT = {"output_dir", "num_workers", "resume", "checkpointing_steps", "checkpoints_kept", "report_to", "data_dir"}
EXEMPT_TWO = {"sd_path", "pt_path", "cache_dir", "gradient_checkpointing", "export_released", "validation_steps"}
EXEMPT_TWO |= {"validation_clips", "validation_set"}
EXEMPT_ONE = {"labels", "clap", "clap_tokenizer", "finetune", "export_released", "validation_set", "validation_clips"}


@pytest.mark.parametrize("script, exempt", [(train, EXEMPT | EXEMPT_TWO), (train_separator, EXEMPT | EXEMPT_ONE)])
def test_every_argument_is_compared_or_on_the_list(script, exempt):
    arguments = vars(script.parse_args(["--data_dir", "data", "--output_dir", "out"]))
    assert script.NOT_COMPARED == exempt and exempt <= arguments.keys()
    settings = compared_settings(arguments, script.NOT_COMPARED)
    assert settings.keys() == arguments.keys() - exempt
    for name in settings:
        assert compared_settings(arguments | {name: "another"}, script.NOT_COMPARED) != settings

"""Commands as the authors' scripts take them: accepted where they mean the same, else an error that names ours."""

import pytest

import inference
import train
import train_separator
from noted_commands import check_options_are_known, option, run_noting

BOTH = ["--data_dir", "data", "--output_dir", "out", "--dataset_name", "LLP", "--batch_size", "4"]
TRAINING = [*BOTH, "--epochs", "3", "--lr", "0.01", "--gradient_accumulation_steps", "2", "--scheduler", "linear"]
TRAINING += ["--M", "6", "--dataloader_num_workers", "3", "--sr", "16000", "--input_length", "8", "--training"]


@pytest.mark.parametrize(
    ("script", "command"),
    [
        (train_separator, [*TRAINING, "--finetune", "separator_FSD50K_full.pt"]),
        (train, [*TRAINING, "--pt_path", "a", "--sd_path", "b", "--cfg", "--prompt", "", "--negative_prompt", ""]),
        (inference, [*BOTH, "--pt_path", "a", "--sd_path", "b", "--M", "6", "--cfg", "--prompt", "rain",
                     "--negative_prompt", "dog", "--dataloader_num_workers", "3", "--sr", "16000",
                     "--output_size", "512"]),
    ],
)  # fmt: skip
def test_what_means_the_same_is_taken(script, command):
    args = script.parse_args(command)
    assert (args.data_dir, args.output_dir, args.dataset_name, args.batch_size, args.M) == ("data", "out", "LLP", 4, 6)
    if script is inference:
        assert args.size == (512, 512) and args.cfg and (args.prompt, args.negative_prompt) == ("rain", "dog")
    else:
        expected = (3, 0.01, 2, "linear", 3)
        names = ("epochs", "lr", "gradient_accumulation_steps", "scheduler", "num_workers")
        assert tuple(getattr(args, name) for name in names) == expected
    assert not {"sr", "input_length", "training"} & vars(args).keys()  # nothing that could be compared on resume
    assert not {"dataloader_num_workers", "output_size"} & vars(args).keys()


@pytest.mark.parametrize(
    ("script", "option", "ours"),
    [
        (train_separator, ["--pt_path", "weights"], "--clap PT_PATH/separator_FSD50K_full.pt"),
        (train_separator, ["--finetune"], "PT_PATH/separator_FSD50K_full.pt"),
        (train_separator, ["--input_length", "10"], "--clip_seconds"),
        (train, ["--cfg", "false"], "--drop_rate"),
        (train, ["--prompt", "a photo"], "--captions"),
        (train, ["--output_size", "512"], "--resolution"),
        (train, ["--sr", "44100"], "16 kHz"),
        (inference, ["--training"], "--data_set train"),
        (inference, ["--input_length", "10"], "--clip_start"),
    ],
)
def test_what_cannot_mean_the_same_names_ours(script, option, ours, capsys):
    with pytest.raises(SystemExit):
        script.parse_args([*BOTH, *option])
    error = capsys.readouterr().err.splitlines()[-1]
    assert option[0] in error and ours in error


def test_variables_of_the_launchers(tmp_path, monkeypatch):
    variables = {"DATA_DIR": "d", "OUTPUT_DIR": "o", "PT_PATH": "w", "SD_PATH": "s", "DATASET_NAME": "LLP"}
    result, (one,) = run_noting("train_separator.sh", tmp_path, M="4", LOSSES="mixit ranking", **variables)
    assert result.returncode == 0, result.stderr
    assert option(one, "clap") == "w/separator_FSD50K_full.pt" and option(one, "M") == "4"
    assert one[one.index("--losses") + 1 :][:2] == ["mixit", "ranking"] and one[one.index("--losses") + 3][:2] == "--"
    _, (two,) = run_noting("train.sh", tmp_path, M="1", **variables)
    assert (option(two, "M"), option(two, "pt_path"), option(two, "sd_path")) == ("1", "w", "s")
    assert (option(two, "lr"), option(two, "adapter")) == ("1e-4", "")
    for command in (one, two):
        names = ("data_dir", "output_dir", "dataset_name")
        assert [option(command, name) for name in names] == ["d", "o", "LLP"]
    # the trial goes on from the shipped adapter, where that is of the same sources
    for own, adapter, lr in (({}, "asset/macs-tiny/adapter", "1e-3"), ({"M": "1"}, "", "1e-4")):
        _, (_, trial) = run_noting("train.sh", tmp_path, DATA_DIR=str(tmp_path), **own)
        assert (option(trial, "adapter"), option(trial, "lr"), option(trial, "dataset_name")) == (adapter, lr, "Cuckoo")
    _, (plain,) = run_noting("train_separator.sh", tmp_path)
    assert option(plain, "clap") == "laion/clap-htsat-unfused" and "--M" not in plain
    assert plain[plain.index("--losses") + 1 :][:3] == ["mixit", "contrastive", "ranking"]
    check_options_are_known([one, two, plain], monkeypatch)

import json
import multiprocessing
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from download import jobs
from flaky_server import Server
from macs import AudioAdapter
from reference_fill import filled

REFERENCE = Path(__file__).parent / "reference"
os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])  # of the scripts that tests start, installed or not


def pytest_addoption(parser):
    parser.addoption("--start_method", choices=multiprocessing.get_all_start_methods(), help="of worker processes")


def pytest_configure(config):
    if method := config.getoption("--start_method"):
        multiprocessing.set_start_method(method, force=True)


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory):
    """The embedded model's architecture with untrained weights, saved as a pipeline."""
    from soundscapes import make_tiny

    folder = tmp_path_factory.mktemp("macs-tiny")
    arguments, sys.argv = sys.argv, ["make_tiny.py", "--output_dir", str(folder)]
    try:
        make_tiny.main()
    finally:
        sys.argv = arguments
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_dir):
    """That pipeline, opened; tests leave it as it is."""
    from macs import MACSPipeline

    pipe = MACSPipeline.from_pretrained(tiny_dir)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def generators():
    """A function: n generators, number i the same whatever n is."""
    return lambda n, first=0: [torch.Generator().manual_seed(first + i) for i in range(n)]


@pytest.fixture
def no_waiting(monkeypatch):
    """Downloads are tried again at once."""
    monkeypatch.setattr(jobs, "BACKOFF", 0.01)


@pytest.fixture
def server():
    server = Server()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def generator_reference():
    return {name: torch.from_numpy(np.asarray(value)) for name, value in np.load(REFERENCE / "generator.npz").items()}


def stock_unet():
    torch.manual_seed(0)
    return UNet2DConditionModel(**json.loads((REFERENCE / "small_unet_config.json").read_text())).eval()


@pytest.fixture(scope="session")
def adapted():
    """The reference's UNet and adapter, filled under the released names."""
    unet = stock_unet()
    adapter = AudioAdapter.from_unet(unet).eval()
    shapes = {name: tuple(value.shape) for name, value in unet.state_dict().items()}
    for i, (name, _) in enumerate(adapter.config.layers):
        shapes[f"{name}.processor.to_k_ip.weight"] = tuple(adapter.to_k_ip[i].weight.shape)
        shapes[f"{name}.processor.to_v_ip.weight"] = tuple(adapter.to_v_ip[i].weight.shape)
    adapter.attach(unet)
    values = {name.replace("_ip.weight", "_ip.0.weight"): value for name, value in filled(shapes).items()}
    assert not unet.load_state_dict(values, strict=False).unexpected_keys
    mlp = {name: shape for name, (shape, _) in json.loads((REFERENCE / "released_mlp.keys.json").read_text()).items()}
    adapter.projector.load_state_dict(filled(mlp))
    return unet, adapter


@pytest.fixture
def run_inference(monkeypatch, capsys):
    """Runs inference.py in this process with the given words: (exit code, what it printed)."""
    import inference

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["inference.py", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            inference.main()
        printed = capsys.readouterr()
        code = end.value.code
        return (1, code) if isinstance(code, str) else (code, printed.out + printed.err)

    return run

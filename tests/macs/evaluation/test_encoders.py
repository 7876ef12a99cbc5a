import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel

from macs.data.pairs import to_rgb
from macs.evaluation.embedding import encode_files
from macs.evaluation.encoders import (
    ClipImageEncoder,
    Encoder,
    InceptionEncoder,
    SmallAudioEncoder,
    SmallImageEncoder,
    Wav2ClipEncoder,
    load_encoder,
)
from reference_fill import filled, wave

# every 64th element of the embeddings that the release's own package (wav2clip 0.1.0) gives of wave(160000, 1, 16000)
# and wave(40000, 2, 16000), one clip at a time, with the weights of `wav2clip_weights`
WAV2CLIP = [
    [-1.6194886, -0.4943329, 0.6905717, 0.7701011, -0.21732481, -0.31531322, 0.47715464, 0.5290279],
    [-1.5641547, -0.5159137, 0.5883708, 0.68021417, -0.12074482, -0.24717516, 0.3596041, 0.40338612],
]


@pytest.fixture(scope="module")
def wav2clip_weights():
    """A state dict of the release's names and shapes, filled by formula."""
    shapes = json.loads((Path(__file__).parents[2] / "reference/wav2clip.keys.json").read_text())
    kept = {name: torch.hann_window(512) if name.endswith("window") else torch.tensor(0) for name in shapes}
    return {name: kept[name] for name in shapes} | filled({name: tuple(shape) for name, shape in shapes.items()})


@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: weights,  # as released
        lambda weights: {"epoch": 3, "state_dict": weights | {"audio_encoder.fc.weight": torch.zeros(309, 512)}},
    ],
    ids=["released", "training"],
)
def test_wav2clip_equals_the_original(tmp_path, wav2clip_weights, wrap):
    torch.save(wrap(wav2clip_weights), tmp_path / "Wav2CLIP.pt")
    encoder = load_encoder(tmp_path / "Wav2CLIP.pt", Wav2ClipEncoder)
    with torch.inference_mode():
        ours = [encoder(wave(n, seed, 16000)[None])[0, ::64].numpy() for n, seed in ((160000, 1), (40000, 2))]
        np.testing.assert_allclose(ours, WAV2CLIP, atol=1e-5)
        pair = encoder(torch.stack([wave(40000, 2, 16000), 5 * wave(40000, 3, 16000)]))
    np.testing.assert_allclose(pair[0, ::64], WAV2CLIP[1], atol=1e-5)  # whatever its neighbour in the batch
    assert pair.shape == (2, 512)


def test_wav2clip_wrong_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="Wav2CLIP.pt"):
        Wav2ClipEncoder(tmp_path / "missing.pt")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pt")
    torch.save({"state_dict": argparse.Namespace()}, tmp_path / "code.pt")  # a file that would run code is refused
    (tmp_path / "page.pt").write_text("<html>Not found</html>")
    for name in ("other.pt", "code.pt", "page.pt"):
        with pytest.raises(ValueError, match=f"{name}: not the released Wav2CLIP.pt"):
            Wav2ClipEncoder(tmp_path / name)


def pictures(folder, n=5, seed=0):
    """Colour pictures of mixed sizes, one of them grey, as paths."""
    rng = np.random.default_rng(seed)
    paths = []
    for k in range(n):
        size = (40 + 9 * k, 64 - 5 * k)
        values = rng.integers(0, 256, (*size, 3) if k else size, dtype=np.uint8)
        paths.append(folder / f"{k}.png")
        Image.fromarray(values).resize((size[1] * 2, size[0] * 2)).save(paths[-1])
    return paths


def test_clip_equals_transformers(tmp_path):
    torch.manual_seed(0)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = small | {"image_size": 32, "patch_size": 8, "projection_dim": 16}
    model = CLIPModel(CLIPConfig(vision_config=vision, text_config=small, projection_dim=16)).eval()
    model.save_pretrained(tmp_path / "clip")
    paths = pictures(tmp_path)
    ours, errors = encode_files(paths, {"clip": load_encoder(str(tmp_path / "clip"), ClipImageEncoder)})
    assert not errors and ours["clip"].shape == (5, 16)

    # preprocessing as in clean-fid's clip_features and OpenAI's release: PIL bicubic to the short side, centre crop
    for path, row in zip(paths, ours["clip"], strict=True):
        image = to_rgb(Image.open(path))
        scale = 32 / min(image.size)
        image = image.resize([max(32, int(s * scale)) for s in image.size], Image.Resampling.BICUBIC)
        left, top = round((image.width - 32) / 2), round((image.height - 32) / 2)
        pixels = np.asarray(image.crop((left, top, left + 32, top + 32))) / 255.0
        pixels = (pixels - [0.48145466, 0.4578275, 0.40821073]) / [0.26862954, 0.26130258, 0.27577711]
        with torch.inference_mode():
            out = model.get_image_features(torch.tensor(pixels, dtype=torch.float32).permute(2, 0, 1)[None])
        np.testing.assert_allclose(row, getattr(out, "pooler_output", out)[0], atol=1e-5)


class Base(torch.nn.Module):
    """A network with the outward form of clean-fid's TorchScript Inception."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(16), torch.nn.Conv2d(3, 2048, 16))


def test_inception_equals_clean_fid(tmp_path):
    from cleanfid.fid import get_files_features
    from cleanfid.inception_torchscript import InceptionV3W

    with pytest.raises(FileNotFoundError, match="inception-2015-12-05.pt"):
        InceptionEncoder(tmp_path)
    torch.manual_seed(0)
    torch.jit.script(Base()).save(tmp_path / "inception-2015-12-05.pt")
    paths = pictures(tmp_path)
    ours, _ = encode_files(paths, {"inception": load_encoder(tmp_path, InceptionEncoder)}, batch_size=2)
    model = InceptionV3W(str(tmp_path), download=False)
    theirs = get_files_features(paths, model, num_workers=0, device="cpu", mode="clean", verbose=False)
    np.testing.assert_allclose(ours["inception"], theirs, atol=1e-5)


def make_custom():
    return SmallImageEncoder(seed=5)


def test_encoders_of_ones_own():
    assert load_encoder("test_encoders:make_custom", ClipImageEncoder).identity == SmallImageEncoder(5).identity
    with pytest.raises(TypeError, match="expected a macs.evaluation.encoders.Encoder"):
        load_encoder("json:JSONDecoder", ClipImageEncoder)
    assert load_encoder(None, SmallImageEncoder).identity == SmallImageEncoder().identity
    assert SmallImageEncoder(0).identity != SmallImageEncoder(1).identity


class Pixels(Encoder):
    """The pixels themselves."""

    prepare = staticmethod(lambda image: torch.from_numpy(np.array(image)).float())

    def forward(self, images):
        return images.flatten(1)


def test_pictures_are_encoded_as_they_are_seen(tmp_path):
    values = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees, clockwise
    Image.fromarray(values).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(np.rot90(values, -1)).save(tmp_path / "upright.png")
    Image.fromarray(values.astype(np.uint16) * 257).save(tmp_path / "16 bits.png", exif=exif)
    features, errors = encode_files(sorted(tmp_path.iterdir()), {"x": Pixels()}, batch_size=1)
    assert not errors
    expected = np.repeat(np.rot90(values, -1)[..., None], 3, axis=-1).ravel()
    np.testing.assert_array_equal(features["x"], [expected] * 3)


class Counting(Encoder):
    """Mean colour; counts what it encodes, and fails when told to."""

    prepare = SmallImageEncoder.prepare

    def __init__(self, fail_at=None, value=None):
        super().__init__()
        self.calls, self.fail_at, self.value = [], fail_at, value

    def forward(self, images):
        self.calls.append(len(images))
        if self.fail_at is not None and sum(self.calls) > self.fail_at:
            raise KeyboardInterrupt
        rows = images.float().mean((2, 3))
        return rows if self.value is None else rows * self.value


def test_every_content_is_encoded_once_and_kept(tmp_path):
    paths = pictures(tmp_path, 5)
    copy = tmp_path / "copy.png"
    copy.write_bytes(paths[2].read_bytes())
    paths.append(copy)
    broken, missing = tmp_path / "broken.png", tmp_path / "missing.png"
    broken.write_bytes(paths[1].read_bytes()[:60])
    encoder = Counting()
    features, errors = encode_files([*paths, broken, missing], {"x": encoder}, tmp_path / "cache", batch_size=2)
    assert sum(encoder.calls) == 5
    assert np.array_equal(features["x"][2], features["x"][5]) and np.isnan(features["x"][6:]).all()
    assert set(errors) == {broken, missing} and "missing.png" in errors[missing]
    expected = [np.asarray(SmallImageEncoder.prepare(to_rgb(Image.open(path))).float().mean((1, 2))) for path in paths]
    np.testing.assert_allclose(features["x"][:6], expected, rtol=1e-6)

    moved = tmp_path / "renamed.png"  # content counts, not names
    paths[0].rename(moved)
    again, other = Counting(fail_at=0), SmallImageEncoder()
    features, _ = encode_files([moved, *paths[1:]], {"x": again, "y": other}, tmp_path / "cache")
    assert not again.calls and features["y"].shape == (6, 256)
    np.testing.assert_array_equal(features["x"], np.array(expected, np.float32).astype(np.float32))


def test_interrupted_and_damaged_caches(tmp_path):
    paths, cache = pictures(tmp_path, 5), tmp_path / "cache"
    with pytest.raises(KeyboardInterrupt):
        encode_files(paths, {"x": Counting(fail_at=2)}, cache, batch_size=2)
    encoder = Counting()
    whole, _ = encode_files(paths, {"x": encoder}, cache, batch_size=2)
    assert sum(encoder.calls) == 3  # the finished batch was kept

    shards = sorted(cache.rglob("*.safetensors"))
    assert len(shards) == 2 and not list(cache.rglob(".partial*"))
    shards[0].write_bytes(shards[0].read_bytes()[:20])
    encoder = Counting()
    with pytest.warns(UserWarning, match="damaged"):
        repaired, _ = encode_files(paths, {"x": encoder}, cache)
    assert 0 < sum(encoder.calls) < 5
    np.testing.assert_array_equal(repaired["x"], whole["x"])


def test_features_that_are_not_finite(tmp_path):
    with pytest.raises(ValueError, match="0.png: the features of encoder 'x' are not finite"):
        encode_files(pictures(tmp_path, 2), {"x": Counting(value=float("nan"))}, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


@pytest.mark.parametrize("batch_size, workers, devices", [(1, 0, ["cpu"]), (4, 2, ["cpu"]), (2, 0, ["cpu", "cpu"])])
def test_batches_workers_and_devices_do_not_matter(tmp_path, batch_size, workers, devices):
    paths = pictures(tmp_path, 7)
    encoders = {"a": SmallImageEncoder(), "b": SmallImageEncoder(seed=1)}
    expected, _ = encode_files(paths, encoders, batch_size=7)
    features, _ = encode_files(paths, encoders, None, batch_size, workers, devices)
    for name in encoders:
        np.testing.assert_allclose(features[name], expected[name], atol=1e-5)


def test_several_devices_stop_at_an_error(tmp_path):
    with pytest.raises(ValueError, match="not finite"):
        encode_files(pictures(tmp_path, 6), {"x": Counting(value=float("nan"))}, None, 1, 0, ["cpu", "cpu"])


def test_clips_of_any_length_and_rate(tmp_path, wav2clip_weights):
    paths = []
    for k, (seconds, rate) in enumerate([(1.0, 16000), (0.5, 16000), (1.0, 16000), (0.01, 44100)]):
        paths.append(tmp_path / f"{k}.wav")
        soundfile.write(paths[-1], wave(int(seconds * rate), k, rate).numpy(), rate)
    encoder = SmallAudioEncoder().fit(np.random.default_rng(0).normal(size=(20, 193)), np.ones((20, 4)))
    together, errors = encode_files(paths, {"audio": encoder}, batch_size=4)
    alone, _ = encode_files(paths, {"audio": encoder}, batch_size=1)
    assert not errors and together["audio"].shape == (4, 4)
    np.testing.assert_allclose(together["audio"], alone["audio"], atol=1e-5)

    torch.save(wav2clip_weights, tmp_path / "Wav2CLIP.pt")
    features, errors = encode_files(paths, {"audio": Wav2ClipEncoder(tmp_path / "Wav2CLIP.pt")})
    assert np.isfinite(features["audio"][:3]).all() and "needs more than 256" in errors[paths[3]]

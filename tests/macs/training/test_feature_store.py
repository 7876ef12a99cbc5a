import shutil

import pytest
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

import macs.training.feature_store
import train
from macs.data.buckets import BUCKETS, bucket_sizes
from macs.data.pairs import Draws, collate
from macs.loading import audio_model_paths
from macs.training.feature_store import CacheError, FeatureStore
from macs.training.frozen_features import FrozenModels, embed_sources, encode_images, make_dataset
from stage_two import arguments, make_pipeline, write_pair, write_pairs


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    make_pipeline(folder)
    return folder


@pytest.fixture(scope="module")
def accelerator():
    return Accelerator(cpu=True)


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setattr(macs.training.feature_store, "SHARD_FILES", 3)
    write_pairs(tmp_path / "data", 7)
    return tmp_path


class NotToBeLoaded(FrozenModels):
    @property
    def audio(self):
        raise AssertionError("the separator and CLAP were loaded")

    @property
    def vae(self):
        raise AssertionError("the VAE was loaded")

    @property
    def text(self):
        raise AssertionError("the text encoder was loaded")


def frozen_models(args, accelerator, sizes, frozen_class=FrozenModels):
    paths = audio_model_paths(args.sd_path, args.pt_path, args.separator)
    return frozen_class(
        args.sd_path, paths, args.M, sizes, accelerator.device, data_dir=args.data_dir, cache_dir=args.cache_dir,
        num_crops=args.num_crops, num_workers=args.num_workers,
    )  # fmt: skip


def dataset_of(model, data, accelerator, frozen_class=FrozenModels, cache="cache", **options):
    options = {"cache_dir": data / cache} | options if cache else options
    args = train.parse_args(arguments(model, data / "data", data / "out", **options))
    frozen = frozen_models(args, accelerator, bucket_sizes(BUCKETS, 64), frozen_class)
    dataset, problems = make_dataset(frozen, accelerator, args.dataset_name, args.data_set, Draws(0, args.num_crops), 8)
    frozen.prompt_embeds()
    return dataset, problems


def test_cached_features_are_those_computed_on_the_way(model, data, accelerator):
    cached, _ = dataset_of(model, data, accelerator)
    plain, _ = dataset_of(model, data, accelerator, cache="")
    args = train.parse_args(arguments(model, data / "data", data / "out"))
    frozen = frozen_models(args, accelerator, [])
    assert [p.image for p in cached.pairs] == [p.image for p in plain.pairs] and cached.sizes == plain.sizes
    crops = set()
    for index in range(7):
        for epoch in range(3):  # other crops, flips, noise
            theirs, ours = plain[epoch, index], cached[epoch, index]
            expected = embed_sources(*frozen.audio, theirs["waveform"][None])[0]
            torch.testing.assert_close(ours["source_embeds"], expected, rtol=0, atol=1e-3)
            moments = encode_images(frozen.vae, theirs["pixels"][None])[0]
            torch.testing.assert_close(ours["moments"], moments, rtol=2e-3, atol=2e-3)
            assert ours["timestep"] == theirs["timestep"] and torch.equal(ours["noise"], theirs["noise"])
            crops.add(ours["source_embeds"].sum().item())
    assert len(crops) > 7  # the crops differ


def test_with_a_complete_cache_no_frozen_model_is_loaded(model, data, accelerator):
    first, _ = dataset_of(model, data, accelerator)
    second, _ = dataset_of(model, data, accelerator, NotToBeLoaded)
    torch.testing.assert_close(first[0, 3], second[0, 3])


def test_what_workers_read_can_be_sent_to_them(model, data, accelerator):
    """Under the start method spawn all of it is pickled."""
    dataset_of(model, data, accelerator)
    wanted = {}
    for folder, kind in ((data / "cache", "alone"), (data / "by_workers", "workers")):
        dataset, _ = dataset_of(model, data, accelerator, cache=folder.name, num_workers=2 * (kind == "workers"))
        wanted[kind] = [dataset.read(i, 1, False) for i in range(len(dataset))]
    for one, other in zip(*wanted.values(), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    loader = DataLoader(dataset, sampler=[(0, i) for i in range(4)], num_workers=2, collate_fn=collate)
    assert len([batch for batch in loader]) == 4


def test_two_may_fill_one_cache_at_a_time(model, data, accelerator, monkeypatch):
    wanted, _ = dataset_of(model, data, accelerator, cache="alone")
    encode, others = macs.training.frozen_features.encode_images, []

    def interrupted(vae, pixels):  # another run fills the whole cache while this one is at its first frames
        if not others:
            others.append(None)
            others[0] = dataset_of(model, data, accelerator)[0]
        return encode(vae, pixels)

    monkeypatch.setattr(macs.training.frozen_features, "encode_images", interrupted)
    for dataset in (dataset_of(model, data, accelerator)[0], others[0]):
        for i in range(len(wanted)):
            one, other = wanted.read(i, 1, True), dataset.read(i, 1, True)
            assert all(torch.equal(one[name], other[name]) for name in one)
    assert not [path for path in (data / "cache").rglob("*") if path.name.startswith(".")]
    dataset_of(model, data, accelerator, NotToBeLoaded)


def test_after_a_kill_only_what_is_missing_is_computed(model, data, accelerator, monkeypatch):
    encoded, encode = [], macs.training.frozen_features.encode_images

    def counted(vae, pixels):
        encoded.append(len(pixels) // 2)
        if len(encoded) == 2:
            raise KeyboardInterrupt
        return encode(vae, pixels)

    monkeypatch.setattr(macs.training.frozen_features, "encode_images", counted)
    with pytest.raises(KeyboardInterrupt):
        dataset_of(model, data, accelerator)
    done = encoded[0]
    encoded += [0, 0]
    dataset_of(model, data, accelerator)
    assert sum(encoded[4:]) == 7 - done
    assert not list((data / "cache").rglob(".partial*"))


def test_what_was_added_changed_or_damaged_is_computed_anew(model, data, accelerator, monkeypatch):
    dataset_of(model, data, accelerator)
    encoded, encode = [], macs.training.frozen_features.embed_sources
    monkeypatch.setattr(
        macs.training.frozen_features, "embed_sources", lambda *args: encoded.append(len(args[2])) or encode(*args)
    )  # of each crop
    folder = data / "data" / "Mine" / "train"
    write_pair(folder, "new", seed=99)
    dataset, _ = dataset_of(model, data, accelerator)
    assert sum(encoded) == 4 and len(dataset) == 8

    encoded.clear()
    write_pair(folder, "new", seed=100, seconds=0.9)  # one crop only
    changed, _ = dataset_of(model, data, accelerator)
    assert sum(encoded) == 1
    new = [p.clip_id for p in changed.pairs].index("new")
    assert not torch.equal(changed[0, new]["source_embeds"], dataset[0, new]["source_embeds"])

    encoded.clear()
    for shard in (data / "cache").glob("audio-*/*.safetensors"):
        shard.write_bytes(shard.read_bytes()[:-10])
    macs.training.feature_store._shard.cache_clear()
    repaired, _ = dataset_of(model, data, accelerator)
    assert len(repaired) == 8 and sum(encoded) == 7 * 4 + 1
    encoded.clear()
    dataset_of(model, data, accelerator)
    assert not encoded


def test_other_weights_or_settings_begin_another_folder(model, data, accelerator, tmp_path, capsys):
    dataset_of(model, data, accelerator)
    capsys.readouterr()
    three, _ = dataset_of(model, data, accelerator, num_crops=3)
    assert "was made with other weights or settings" in capsys.readouterr().out
    assert len(list((data / "cache").glob("audio-*"))) == 2 and len(list((data / "cache").glob("image-*"))) == 1
    dataset_of(model, data, accelerator, NotToBeLoaded)  # the first is still good

    other = tmp_path / "other"
    shutil.copytree(model, other)
    pipe_vae = macs.training.frozen_features.AutoencoderKL.from_pretrained(other, subfolder="vae")
    with torch.no_grad():
        pipe_vae.quant_conv.bias += 1
    pipe_vae.save_pretrained(other / "vae")
    dataset_of(other, data, accelerator)
    assert len(list((data / "cache").glob("audio-*"))) == 2 and len(list((data / "cache").glob("image-*"))) == 2


def test_what_an_earlier_reader_made_is_made_anew(model, data, accelerator, monkeypatch, capsys):
    dataset_of(model, data, accelerator)
    dataset_of(model, data, accelerator, NotToBeLoaded)
    monkeypatch.setattr(macs.data.pairs, "READER", macs.data.pairs.READER + 1)
    monkeypatch.setattr(macs.audio, "READER", macs.audio.READER + 1)
    capsys.readouterr()
    dataset_of(model, data, accelerator)
    assert capsys.readouterr().out.count("an earlier reader of files") == 2
    assert len(list((data / "cache").glob("audio-*"))) == 2 and len(list((data / "cache").glob("image-*"))) == 2


def test_unreadable_files_are_left_out_and_the_rest_trains(model, data, accelerator):
    folder = data / "data" / "Mine" / "train"
    wavs, jpgs = sorted((folder / "audio").iterdir()), sorted((folder / "image").iterdir())
    wavs[0].write_bytes(b"no audio")
    jpgs[3].write_bytes(b"no picture")
    jpgs[5].write_bytes(jpgs[5].read_bytes()[:-300])  # the header is fine, the picture is not
    dataset, problems = dataset_of(model, data, accelerator)
    assert len(dataset) == 4
    assert {kind: len(messages) for kind, messages in problems.items()} == {
        "recordings that cannot be read": 1, "frames that cannot be read": 1, "frames that cannot be decoded": 1,
    }  # fmt: skip
    assert wavs[0].name in problems["recordings that cannot be read"][0]


def test_a_cache_that_cannot_be_written_is_one_clear_error(model, data, accelerator):
    (data / "cache").write_text("a file")
    with pytest.raises(CacheError, match="cannot be written .* --cache_dir"):
        dataset_of(model, data, accelerator)


def test_shards_are_read_row_by_row(tmp_path):
    paths = [tmp_path / f"{i}.wav" for i in range(5)]
    for i, path in enumerate(paths):
        path.write_text("x" * i)
    store = FeatureStore(tmp_path / "cache", tmp_path, "audio", {"num_crops": 2}, [paths[1]])
    features = torch.randn(5, 2, 3, 4)
    store.make_folder()
    store.write([store.key(path) for path in paths], features, (64, 64))
    store.scan()
    for i, path in enumerate(paths):
        for crop in range(2):
            read = macs.training.feature_store.read_features(store.entry(path), crop)
            assert read.dtype == torch.float32
            torch.testing.assert_close(read, features[i, crop].half().float())
        assert store.group(path) == (64, 64)
    paths[2].write_text("changed")
    assert store.entry(paths[2]) is None and store.entry(tmp_path / "missing") is None

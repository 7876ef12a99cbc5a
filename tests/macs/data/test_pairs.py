import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from macs.data.buckets import BUCKETS, LANDSCAPE, BucketBatchSampler, bucket_sizes, nearest_bucket
from macs.data.pairs import (
    Draws,
    PairedClips,
    PairError,
    collate,
    describe,
    find_pairs,
    image_size,
    read_crop,
    read_image,
    to_rgb,
)
from stage_two import NUM_SAMPLES, write_pair, write_pairs

IDS = ["--4gqARaEJE_0", "CI0jX5TMs0Q#457#467", "a_frame_3", "BjCEufrlXm4_20_30", "ünïcode x"]


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "LLP" / "train"
    for seed, clip_id in enumerate(IDS):
        for frame in (0, 7, 12):
            write_pair(folder, clip_id, frame=frame, seed=seed)
    return folder


def test_every_frame_finds_its_recording(tmp_path, folder):
    pairs, problems = find_pairs(tmp_path, "LLP", "train")
    assert len(pairs) == 15 and problems == {}
    assert {pair.clip_id for pair in pairs} == set(IDS)
    assert all(pair.audio.stem == pair.clip_id and pair.image.stem.startswith(pair.clip_id) for pair in pairs)


def test_frames_may_be_named_as_their_recording(tmp_path, folder):
    Image.new("RGB", (8, 8)).save(folder / "image" / "a_frame_3.png")
    pairs, _ = find_pairs(tmp_path, "LLP", "train")
    assert [p.clip_id for p in pairs if p.image.name == "a_frame_3.png"] == ["a_frame_3"]


def test_what_lacks_its_other_half_is_left_out_and_named(tmp_path, folder):
    Image.new("RGB", (8, 8)).save(folder / "image" / "orphan_frame_0.jpg")
    (folder / "audio" / "silent.mp4").write_bytes(b"")
    (folder / "image" / "._hidden_frame_0.jpg").write_bytes(b"")
    pairs, problems = find_pairs(tmp_path, "LLP", "train")
    assert len(pairs) == 15
    lines = describe(problems)
    assert len(lines) == 2
    assert "1 frames without their recording" in lines[0] and "orphan_frame_0.jpg" in lines[0]
    assert "1 recordings without a frame" in lines[1] and "silent.mp4" in lines[1]


def test_an_unknown_or_empty_set_is_one_clear_error(tmp_path, folder):
    with pytest.raises(PairError, match="LLP/train"):  # names what there is
        find_pairs(tmp_path, "Landscape", "train")
    (tmp_path / "Empty" / "train" / "audio").mkdir(parents=True)
    (tmp_path / "Empty" / "train" / "image").mkdir()
    with pytest.raises(PairError, match="0 recordings"):
        find_pairs(tmp_path, "Empty", "train")


@pytest.mark.parametrize(
    "height, width, bucket",
    [(512, 512, (512, 512)), (720, 1280, (288, 512)), (1280, 720, (512, 288)), (480, 640, (416, 512)),
     (100, 1000, (224, 512)), (600, 590, (512, 512)), (640, 480, (512, 416)), (1080, 1620, (352, 512))],
)  # fmt: skip
def test_nearest_bucket(height, width, bucket):
    assert nearest_bucket(height, width, BUCKETS) == bucket
    assert nearest_bucket(height, width, LANDSCAPE) == (288, 512)


def test_buckets_scale_with_the_resolution():
    assert bucket_sizes(BUCKETS, 512) == list(BUCKETS)
    assert bucket_sizes(LANDSCAPE, 128) == [(72, 128)]
    assert all(side % 8 == 0 for size in bucket_sizes(BUCKETS, 200) for side in size)


@pytest.mark.parametrize("num_processes", [1, 3])
def test_a_batch_holds_one_bucket_and_nothing_is_dropped(num_processes):
    buckets = [(512, 512)] * 37 + [(224, 512)] * 5 + [(512, 416)] * 1
    samplers = [BucketBatchSampler(buckets, 4, 3, num_processes, i) for i in range(num_processes)]
    for epoch in range(2):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        batches = [list(sampler) for sampler in samplers]
        assert len({len(own) for own in batches}) == 1 and len(batches[0]) == len(samplers[0])
        drawn = [key for own in batches for batch in own for key in batch]
        assert {e for e, _ in drawn} == {epoch}
        assert {i for _, i in drawn} == set(range(43))
        assert len(drawn) - 43 <= 4 * (num_processes - 1)  # repeated so that it comes out even
        assert all(len({buckets[i] for _, i in batch}) == 1 for own in batches for batch in own)
        # what an optimizer step takes, of all processes
        sizes = samplers[0].step_sizes(2)
        assert sum(sizes) == len(drawn)
        assert sizes[0] == sum(len(batch) for own in batches for batch in own[:2])


def test_epochs_are_shuffled_anew_and_the_same_in_every_run():
    sampler = BucketBatchSampler([0] * 40, 4, seed=1)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert [[i for _, i in batch] for batch in first] != [[i for _, i in batch] for batch in second]
    again = BucketBatchSampler([0] * 40, 4, seed=1)
    assert list(again) == first
    assert list(BucketBatchSampler([0] * 40, 4, seed=2)) != first


def test_draws_have_the_papers_shares():
    draws = Draws(seed=0)
    drawn = [draws(0, i, (2, 2)) for i in range(4000)]
    assert np.mean([d["dropped"] for d in drawn]) == pytest.approx(0.1, abs=0.02)
    assert np.mean([d["flip"] for d in drawn]) == pytest.approx(0.5, abs=0.03)
    assert np.bincount([d["crop"] for d in drawn]) == pytest.approx([1000] * 4, abs=120)
    timesteps = np.array([d["timestep"] for d in drawn])
    assert timesteps.min() >= 0 and timesteps.max() <= 999 and timesteps.mean() == pytest.approx(500, abs=20)
    noise = torch.stack([d["noise"] for d in drawn])
    assert noise.std() == pytest.approx(1, abs=0.02) and noise.mean() == pytest.approx(0, abs=0.02)
    assert not torch.equal(drawn[0]["noise"], drawn[0]["posterior_noise"])


@pytest.mark.parametrize("batch_size, num_processes, workers", [(3, 1, 2), (2, 2, 0)])
def test_what_is_drawn_does_not_depend_on_batches_processes_and_workers(tmp_path, batch_size, num_processes, workers):
    write_pairs(tmp_path, 7)
    pairs, _ = find_pairs(tmp_path, "Mine")
    sizes = [nearest_bucket(*image_size(pair.image), bucket_sizes(BUCKETS, 64)) for pair in pairs]
    dataset = PairedClips(pairs, sizes, Draws(5), NUM_SAMPLES)
    seen = set()
    for process in range(num_processes):
        sampler = BucketBatchSampler(sizes, batch_size, 0, num_processes, process)
        sampler.set_epoch(3)
        for batch in DataLoader(dataset, batch_sampler=sampler, num_workers=workers, collate_fn=collate):
            for i, index in enumerate(batch["index"].tolist()):
                alone = dataset[3, index]
                for name in ("waveform", "pixels", "noise", "posterior_noise"):
                    torch.testing.assert_close(batch[name][i], alone[name], rtol=0, atol=0)
                assert batch["timestep"][i] == alone["timestep"] and batch["dropped"][i] == alone["dropped"]
                seen.add(index)
    assert seen == set(range(7))


def test_frames_are_cut_around_their_centre(tmp_path):
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, 20:60, 0] = 255  # red in the middle square
    Image.fromarray(pixels).save(tmp_path / "a.png")
    read = read_image(tmp_path / "a.png", (16, 16))
    assert read.shape == (3, 16, 16)
    red = torch.tensor([1.0, -1, -1])[:, None, None].expand(3, 14, 14)
    torch.testing.assert_close(read[:, 1:-1, 1:-1], red, rtol=0, atol=0.02)
    assert image_size(tmp_path / "a.png") == (40, 80)
    turned = Image.fromarray(pixels)
    exif = turned.getexif()
    exif[0x0112] = 6  # shown turned by 90 degrees
    turned.save(tmp_path / "b.jpg", exif=exif)
    assert image_size(tmp_path / "b.jpg") == (80, 40)
    assert np.array(to_rgb(Image.open(tmp_path / "b.jpg"))).shape == (80, 40, 3)


def test_frames_with_16_bits_are_not_white(tmp_path):
    grey = np.tile(np.linspace(1, 211, 64).round().astype(np.uint8), (32, 1))  # its mean is 106
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "a.png")
    Image.fromarray(grey).save(tmp_path / "b.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "I;16"
    read = read_image(tmp_path / "a.png", (32, 64))
    assert ((read + 1) * 127.5).mean() == pytest.approx(106, abs=0.1)
    torch.testing.assert_close(read, read_image(tmp_path / "b.png", (32, 64)))


@pytest.mark.parametrize("mode", ["L", "I;16", "RGBA", "P", "1", "LA", "CMYK"])
def test_every_kind_of_picture_becomes_rgb(tmp_path, mode):
    grey = np.tile(np.arange(256, dtype=np.uint8), (4, 1))
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(np.stack([grey] * 3, -1)).convert(mode)
    path = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    image.save(path)
    values = np.asarray(to_rgb(Image.open(path))).astype(int)
    assert values.shape == (4, 256, 3)
    assert np.abs(values - grey[..., None]).max() <= {"1": 255, "P": 60, "CMYK": 8}.get(mode, 0)
    assert values.mean() == pytest.approx(127.5, abs=6)


def test_crops_are_spread_evenly(tmp_path):
    write_pair(tmp_path, "x", seconds=4)
    whole = read_crop(tmp_path / "audio" / "x.wav", 0, 1, 4 * 16000)
    for crop, start in enumerate([0, 16000, 32000, 48000]):
        part = read_crop(tmp_path / "audio" / "x.wav", crop, 4, 16000)
        torch.testing.assert_close(part, whole[start : start + 16000])
    padded = read_crop(tmp_path / "audio" / "x.wav", 3, 4, 5 * 16000)
    assert padded.shape == (80000,) and not padded[64000:].any() and padded[:64000].any()


@pytest.mark.parametrize("broken", ["audio", "image"])
def test_an_unreadable_pair_is_replaced_and_reported(tmp_path, broken):
    folder = write_pairs(tmp_path, 3, sizes=((64, 64),))
    path = sorted((folder / broken).iterdir())[1]
    path.write_bytes(path.read_bytes()[:30])
    pairs, _ = find_pairs(tmp_path, "Mine")
    dataset = PairedClips(pairs, [(64, 64)] * 3, Draws(), NUM_SAMPLES)
    batch = collate([dataset[0, i] for i in range(3)])
    assert batch["index"].tolist() == [0, 2, 2]
    assert len(batch["skipped"]) == 1 and path.name in batch["skipped"][0]
    for path in (folder / broken).iterdir():
        path.write_bytes(b"")
    with pytest.raises(PairError, match="in a row could not be read"):
        dataset[0, 0]

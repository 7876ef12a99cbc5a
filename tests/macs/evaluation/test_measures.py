import math

import numpy as np
import pytest
import torch
from cleanfid.fid import fid_from_feats, kernel_distance

from macs.evaluation.measures import (
    Embedded,
    _draw_weights,
    evaluate,
    evaluate_folds,
    find_files,
    frechet_distance,
    match_ids,
    similarity,
)
from macs.evaluation.paper import MEASURES

COSINES = ("ais", "ais_z", "iis", "iis_z")


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def plain(query_ids, queries, image_ids, images):
    """Mean cosine and mean z-score, pair by pair, as PAPER.md words them."""
    known = set(query_ids)
    pool = [(i, v) for i, v in zip(image_ids, images, strict=True) if i in known]
    cosines, scores = [], []
    for i, q in zip(query_ids, queries, strict=True):
        own = [cosine(q, v) for j, v in pool if j == i]
        others = [cosine(q, v) for j, v in pool if j != i]
        if own:
            mean = sum(others) / len(others)
            deviation = math.sqrt(sum((c - mean) ** 2 for c in others) / len(others))
            cosines.append(own[0])
            scores.append((own[0] - mean) / deviation)
    return sum(cosines) / len(cosines), sum(scores) / len(scores)


def random_set(seed=0, clips=24, dim=6, ties=True, scale=1.0):
    """Generated images, frames and clips with random features: duplicates, ties, missing partners, several frames."""
    rng = np.random.default_rng(seed)
    ids = [f"-id#{k}" for k in range(clips)]
    mix = rng.normal(size=(dim, dim)) + 0.5
    latent = rng.normal(size=(clips, dim)) @ mix
    images = latent + scale * rng.normal(size=(clips, dim))
    if ties:
        images[3] = images[7]  # the same picture for two clips
        images[5] = 2 * images[7]  # the same direction
    frames = [(i, latent[k] + rng.normal(size=dim)) for k, i in enumerate(ids) for _ in range(1 + k % 3)]
    if ties:
        frames[4] = (frames[4][0], frames[3][1])  # two identical frames of a video
    audio = latent @ rng.normal(size=(dim, dim)) * 0.3 + latent

    def embedded(ids, rows, *encoders):
        rows = np.array(rows)
        return Embedded(list(ids), {encoder: rows + (encoder == "inception") for encoder in encoders})

    missing = (2, 9)
    keep = [k for k in range(clips) if k not in missing[:1]]
    order = rng.permutation(len(frames))
    frames = [frames[k] for k in order if frames[k][0] != ids[missing[1]]] + [("stranger", np.ones(dim))]
    generated = embedded([ids[k] for k in keep], images[keep], "clip", "inception")
    truth = embedded([i for i, _ in frames], [f for _, f in frames], "clip", "inception")
    heard = [k for k in range(clips) if k != 11][::-1]
    return generated, truth, embedded([ids[k] for k in heard], audio[heard], "audio")


@pytest.mark.parametrize("seed", [0, 1])
def test_every_measure_equals_the_plain_version(seed):
    generated, frames, clips = random_set(seed)
    result = evaluate(generated, frames, clips, resamples=5)
    assert tuple(result) == MEASURES
    x, y = generated.features, frames.features
    expected = dict(zip(COSINES[:2], plain(clips.ids, clips.features["audio"], generated.ids, x["clip"]), strict=True))
    expected |= zip(COSINES[2:], plain(frames.ids, y["clip"], generated.ids, x["clip"]), strict=True)
    expected["fid"] = fid_from_feats(x["inception"], y["inception"])
    expected["clip_fid"] = fid_from_feats(x["clip"], y["clip"])
    np.random.seed(0)
    expected["kid"] = kernel_distance(x["inception"], y["inception"])
    for measure, value in expected.items():
        assert result[measure].value == pytest.approx(value, rel=1e-6, abs=1e-6), measure
    assert result["ais"].n == 22 and result["fid"].n == 23
    assert result["iis"].n == sum(i in generated.ids for i in frames.ids)


@pytest.mark.parametrize("n, m, dim", [(40, 60, 100), (300, 250, 12), (30, 200, 50), (1300, 1150, 6)])
def test_fid_and_kid_equal_clean_fid(n, m, dim):
    rng = np.random.default_rng(n)
    mix = rng.normal(size=(dim, dim)) / dim**0.5
    x, y = (rng.gamma(2, size=(k, dim)) @ mix for k in (n, m))
    y = 1.2 * y + 0.1
    generated = Embedded([f"{k}" for k in range(n)], {"inception": x})
    frames = Embedded([f"{k}" for k in range(m)], {"inception": y})
    result = evaluate(generated, frames, None, ("fid", "kid"), resamples=0, seed=7)
    assert result["fid"].value == pytest.approx(fid_from_feats(x, y), rel=1e-6)
    state = np.random.get_state()[1].copy()
    np.random.seed(7)
    assert result["kid"].value == pytest.approx(kernel_distance(x, y), abs=1e-9)
    np.random.set_state(("MT19937", state, 624))
    evaluate(generated, frames, None, ("kid",), resamples=0)
    assert np.array_equal(np.random.get_state()[1], state)  # the caller's generator is left alone


def test_identical_sets_and_shuffled_pairs():
    rng = np.random.default_rng(0)
    ids = [f"{k}" for k in range(400)]
    x = rng.normal(size=(400, 16)) + 0.3
    same = Embedded(ids, {"clip": x, "inception": x})
    result = evaluate(same, same, Embedded(ids, {"audio": x}), resamples=50)
    assert result["fid"].value == pytest.approx(0, abs=1e-9) and result["clip_fid"].value == pytest.approx(0, abs=1e-9)
    assert result["iis"].value == pytest.approx(1, abs=1e-12) and result["iis_z"].value > 2
    assert result["fid"].interval == pytest.approx((0, 0), abs=1e-6)

    shuffled = Embedded(list(rng.permutation(ids)), same.features)
    result = evaluate(same, shuffled, Embedded(shuffled.ids, {"audio": x}), COSINES, resamples=200)
    for measure in ("ais_z", "iis_z"):
        assert abs(result[measure].value) < 4 / 400**0.5
        assert result[measure].interval[0] < 0.1 and result[measure].interval[1] > -0.1


def test_resamples_are_what_evaluating_the_resampled_clips_gives():
    generated, frames, clips = random_set(3)
    shared = set(generated.ids) & set(clips.ids)
    images, queries = generated.take(shared), clips.take(shared)
    ids = sorted(shared)
    weights = _draw_weights(len(ids), 3, seed=0)

    def tensors(embedded, encoder):
        return torch.from_numpy(embedded.features[encoder]), torch.tensor([ids.index(i) for i in embedded.ids])

    mean, z = similarity(*tensors(queries, "audio"), *tensors(images, "clip"), torch.from_numpy(weights), block=50)
    for r in range(4):
        count = dict(zip(ids, weights[r].astype(int), strict=True))
        cosines, scores = [], []
        for i, q in zip(queries.ids, queries.features["audio"], strict=True):
            pool = list(zip(images.ids, images.features["clip"], strict=True))
            own = next(cosine(q, v) for j, v in pool if j == i)
            others = [cosine(q, v) for j, v in pool for _ in range(count[j]) if j != i]  # its own copies left out
            cosines += [own] * count[i]
            scores += [(own - np.mean(others)) / np.std(others)] * count[i]
        assert float(mean[r]) == pytest.approx(np.mean(cosines), abs=1e-9)
        assert float(z[r]) == pytest.approx(np.mean(scores), abs=1e-9)


@pytest.mark.parametrize("n, dim", [(30, 50), (60, 8)])
def test_fid_resamples_are_its_derivative(n, dim):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(n, dim)) @ rng.normal(size=(dim, dim)), 1.5 * rng.normal(size=(n, dim)) + 0.5

    def weighted(w):  # FID of images with weights, the plain way
        stats = []
        for a in (x, y):
            mu = w @ a / w.sum()
            stats.append((mu, (a - mu).T @ ((a - mu) * w[:, None]) / w.sum() * n / (n - 1)))
        (mu, s), (nu, t) = stats
        values, vectors = np.linalg.eigh(s)
        root = vectors * np.sqrt(values.clip(0)) @ vectors.T
        cross = np.sqrt(np.linalg.eigvalsh(root @ t @ root).clip(0)).sum()
        return np.square(mu - nu).sum() + np.trace(s + t) - 2 * cross

    columns = torch.arange(n)
    direction = rng.integers(0, 3, n).astype(float)
    weights = torch.from_numpy(np.stack([np.ones(n), direction]))
    value, linear = frechet_distance(torch.from_numpy(x), columns, torch.from_numpy(y), columns, weights).tolist()
    step = 1e-4
    slope = (weighted(1 + step * (direction - 1)) - weighted(1 - step * (direction - 1))) / (2 * step)
    assert value == pytest.approx(weighted(np.ones(n)), rel=1e-6)
    assert linear - value == pytest.approx(slope, rel=1e-3)


def test_intervals_have_the_width_of_the_spread_between_samples():
    def draw(seed):
        rng = np.random.default_rng(seed)
        ids = [f"{k}" for k in range(80)]
        latent = rng.standard_t(6, size=(80, 8))
        images, audio, frames = (latent + rng.normal(size=(80, 8)) for _ in range(3))
        images = images + 1
        return (
            Embedded(ids, {"clip": images, "inception": images}),
            Embedded(ids, {"clip": frames, "inception": frames}),
            Embedded(ids, {"audio": audio}),
        )

    truth = [evaluate(*draw(seed), resamples=0) for seed in range(1000, 1150)]
    trials = [evaluate(*draw(seed), resamples=200) for seed in range(40)]
    for measure in MEASURES:
        values = [result[measure].value for result in truth]
        widths = [np.subtract(*result[measure].interval[::-1]) for result in trials]
        assert np.median(widths) == pytest.approx(4 * np.std(values), rel=0.35), measure
        inside = [r[measure].interval[0] <= np.mean(values) <= r[measure].interval[1] for r in trials]
        assert np.mean(inside) > 0.8, measure
        assert all(r[measure].interval[0] <= r[measure].value <= r[measure].interval[1] for r in trials)


def test_resamples_are_shared_between_models():
    generated, frames, clips = random_set(0)
    worse = Embedded(generated.ids, {name: x + 0.01 for name, x in generated.features.items()})
    ids = sorted({*generated.ids, *frames.ids, *clips.ids})
    one, two = (evaluate(g, frames, clips, MEASURES, ids, resamples=300) for g in (generated, worse))
    for measure in MEASURES:
        assert np.nanstd(two[measure].resamples - one[measure].resamples) < np.nanstd(one[measure].resamples) / 5
    again = evaluate(generated, frames, clips, MEASURES, ids, resamples=300)
    assert all(np.array_equal(one[m].resamples, again[m].resamples, equal_nan=True) for m in MEASURES)


def test_folds_are_disjoint_and_whole():
    generated, frames, clips = random_set(0, clips=40)
    ids = sorted({*generated.ids, *frames.ids, *clips.ids})
    folds = evaluate_folds(generated, frames, clips, MEASURES, ids, folds=5, seed=1)
    assert len(folds) == 5 and sum(f["fid"].n for f in folds) == len(generated.ids)
    total = evaluate(generated, frames, clips, ("ais",), resamples=0)["ais"]
    assert sum(f["ais"].value * f["ais"].n for f in folds) / total.n == pytest.approx(total.value)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_undefined_measures(n):
    rng = np.random.default_rng(0)
    ids = ["a", "b"][:n]
    x = {name: rng.normal(size=(n, 5)) for name in ("clip", "inception", "audio")}
    result = evaluate(Embedded(ids, x), Embedded(ids, x), Embedded(ids, x), resamples=10)
    defined = {m for m in MEASURES if np.isfinite(result[m].value)}
    assert defined == [set(), {"ais", "iis"}, {"ais", "iis", "fid", "clip_fid", "kid"}][n]
    assert result["iis_z"].interval is None


def test_encoders_must_share_a_space():
    image, audio = Embedded(["a", "b"], {"clip": np.ones((2, 5))}), Embedded(["a", "b"], {"audio": np.ones((2, 4))})
    with pytest.raises(ValueError, match="4 and 5 dimensions. Wav2CLIP goes with CLIP ViT-B/32"):
        evaluate(image, None, audio, ("ais",), resamples=0)


def test_images_all_alike_have_no_z():
    ids, rng = [f"{k}" for k in range(9)], np.random.default_rng(0)
    alike = Embedded(ids, {"clip": np.tile(rng.normal(size=5).astype(np.float32), (9, 1))})
    result = evaluate(alike, Embedded(ids, {"clip": rng.normal(size=(9, 5))}), None, ("iis", "iis_z"))
    assert np.isfinite(result["iis"].value) and np.isnan(result["iis_z"].value)
    odd = Embedded(ids, {"clip": alike.features["clip"].copy()})
    odd.features["clip"][0] *= -1  # for clip 0 the others are alike, for the rest they are not
    result = evaluate(odd, Embedded(ids, {"clip": rng.normal(size=(9, 5))}), None, ("iis_z",), resamples=0)
    assert np.isfinite(result["iis_z"].value)


def test_ids_are_matched_exactly(tmp_path):
    names = ["--abc.png", "-abc.png", "abc.PNG", "abc_frame_1.png", "a.b.png", "CI0#457#467.png", "._abc.png", "x.txt"]
    for name in names:
        (tmp_path / name).touch()
    expected = {"--abc", "-abc", "abc", "abc_frame_1", "a.b", "CI0#457#467"}
    assert set(find_files(tmp_path, (".png",))) == expected
    frames = find_files(tmp_path, (".png",), frames=True)
    assert set(frames) == expected - {"abc_frame_1"}
    assert [p.name for p in frames["abc"]] == ["abc.PNG", "abc_frame_1.png"]
    assert match_ids(["abc", "-abc", "ABC"], ["abc", "--abc"]) == {"-abc": None, "ABC": "abc"}

    (tmp_path / "abc.jpg").touch()
    with pytest.raises(ValueError, match="abc.PNG and abc.jpg have the same id"):
        find_files(tmp_path, (".png", ".jpg"))
    with pytest.raises(FileNotFoundError, match="expected files ending in .webp, but there are none"):
        find_files(tmp_path, (".webp",))
    with pytest.raises(FileNotFoundError, match="expected recordings .*, but there are none"):
        find_files(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        find_files(tmp_path / "none")
    (tmp_path / "clip.mp4").touch()
    assert find_files(tmp_path) == {"clip": [tmp_path / "clip.mp4"]}

"""The seven measures of the paper, their bootstrap intervals and folds, from features to numbers.

FID and KID compare two sets of images (clean-fid's definitions); AIS and IIS are cosines of a clip's audio, or of its
ground-truth frames, with the one image generated for it; the z-scores hold each cosine against those of the same clip
with all the other clips' images. Everything is weighted by clips, so one pass serves the estimate and all resamples.
"""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from macs.audio import find_recordings
from macs.data.pairs import FRAME
from macs.evaluation.paper import MEASURES
from macs.files import visible_files

ENCODERS = {"fid": "inception", "kid": "inception"}  # the other measures compare in CLIP's space
SPREAD = 1e-6  # deviation of cosines below which they are equal up to float32 features, and a z-score is undefined


def find_files(folder, suffixes=None, frames=False):
    """{id: [paths]} of the files in `folder` with one of `suffixes`; the id is the name without its suffix.

    suffixes: None takes the recordings. frames: also without `_frame_<n>`, so one id may have several files. Otherwise
    two files of one id are an error. Raises FileNotFoundError, ValueError.
    """
    wanted = f"files ending in {', '.join(suffixes)}" if suffixes else "recordings (wav, flac, ogg, mp3, ...)"
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; expected {wanted}")
    found = defaultdict(list)
    for path in visible_files(folder, suffixes) if suffixes else find_recordings(folder)[0]:
        match = FRAME.fullmatch(path.stem) if frames else None
        found[match[1] if match else path.stem].append(path)
    if not found:
        raise FileNotFoundError(f"{folder}: expected {wanted}, but there are none")
    for paths in found.values():
        if len(paths) > 1 and not frames:
            raise ValueError(f"{folder}: {' and '.join(p.name for p in paths)} have the same id; keep one of them")
    return dict(found)


def match_ids(ids, others):
    """The ids that are not in `others`, each with the one of `others` that differs from it only in case, or None."""
    folded = {other.casefold(): other for other in others}
    return {i: folded.get(i.casefold()) for i in sorted(set(ids) - set(others))}


@dataclass
class Embedded:
    """Features of n files: ids (n) of their clips, repeated where a clip has several, and {encoder: (n, D) array}."""

    ids: list
    features: dict

    def take(self, ids):
        rows = [row for row, i in enumerate(self.ids) if i in ids]
        return Embedded([self.ids[row] for row in rows], {name: x[rows] for name, x in self.features.items()})


@dataclass
class Estimate:
    """A measure's value, its 95% interval and the resamples behind it (their mean is `value`); n: what it averages."""

    value: float
    n: int
    resamples: np.ndarray

    @property
    def interval(self):
        if not len(self.resamples) or not np.isfinite(self.resamples).any():
            return None
        return tuple(float(v) for v in np.nanquantile(self.resamples, (0.025, 0.975)))


def evaluate(generated, frames=None, clips=None, measures=MEASURES, ids=None, resamples=1000, seed=0, device="cpu"):
    """{measure: Estimate} of one model.

    generated, frames, clips: Embedded of the generated images, the ground-truth frames and the clips' audio; `fid`
    and `kid` use the features "inception", the others "clip", audio is "audio". ids: the clips that are resampled;
    two models evaluated with the same ids and seed see the same resamples, so that their differences are paired.
    """
    # the images of a set are compared whatever their ids; pairs need a partner
    if ids is None:
        ids = sorted({*generated.ids, *(frames.ids if frames else ()), *(clips.ids if clips else ())})
    column = {i: k for k, i in enumerate(ids)}
    weights = torch.from_numpy(_draw_weights(len(ids), resamples, seed)).to(device)  # (1 + R, clips)

    def tensors(embedded, encoder):
        columns = torch.tensor([column[i] for i in embedded.ids], dtype=torch.long, device=device)
        return torch.from_numpy(embedded.features[encoder]).to(device, torch.float64), columns

    result = {}
    for measure in measures:
        if measure in ("fid", "clip_fid", "kid"):
            encoder = ENCODERS.get(measure, "clip")
            function = kernel_distance if measure == "kid" else frechet_distance
            values = function(*tensors(generated, encoder), *tensors(frames, encoder), weights, seed)
            result[measure] = _estimate(values, len(generated.ids))
    for query, name, encoder in ((clips, "ais", "audio"), (frames, "iis", "clip")):
        if {name, f"{name}_z"} & set(measures):
            shared = set(query.ids) & set(generated.ids)
            queries, images = query.take(shared), generated.take(shared)
            mean, z = similarity(*tensors(queries, encoder), *tensors(images, "clip"), weights)
            result |= {name: _estimate(mean, len(queries.ids)), f"{name}_z": _estimate(z, len(queries.ids))}
    return {measure: result[measure] for measure in MEASURES if measure in measures}


def evaluate_folds(generated, frames, clips, measures, ids, folds=5, seed=0, device="cpu"):
    """[{measure: Estimate}] of `folds` disjoint random parts of the clips, each evaluated alone, without resamples."""
    order = np.random.default_rng(seed).permutation(len(ids))
    parts = [{ids[k] for k in part} for part in np.array_split(order, folds)]
    return [
        evaluate(*(e and e.take(part) for e in (generated, frames, clips)), measures, None, 0, seed, device)
        for part in parts
    ]


def _draw_weights(n, resamples, seed):
    """(1 + R, n): ones, then how often each of n clips was drawn in each of R resamples of n with replacement."""
    rng = np.random.default_rng(seed)
    draws = [np.bincount(rng.integers(n, size=n), minlength=n) for _ in range(resamples)]
    return np.stack([np.ones(n), *draws]).astype(np.float64)


def _estimate(values, n):
    """values (1 + R): the estimate and its resamples. These are moved to have the estimate as their mean: drawing
    with replacement repeats clips, which biases the distances upwards (FID by more than its deviation)."""
    values = values.cpu().numpy()
    resampled = values[1:]
    if np.isfinite(resampled).any():
        resampled = resampled - np.nanmean(resampled) + values[0]
    return Estimate(float(values[0]), n, resampled)


def similarity(queries, query_columns, images, image_columns, weights, block=2**24):
    """Mean cosine of each query with its clip's one image, and the mean z-score of these cosines, for all weights.

    queries (Q, D), images (N, D), one per clip; columns: each row's clip, a column of weights (R, clips). A query's
    cosine is standardised by mean and population deviation of its cosines with all the other clips' images. Returns
    two (R) tensors, NaN where undefined: without pairs, or z where the others are fewer than two or all alike.
    Memory: blocks of `block` cosines; work: Q x N x (D + 2 R).
    """
    if len(queries) and queries.shape[1] != images.shape[1]:
        raise ValueError(
            f"the encoders do not share a space: {queries.shape[1]} and {images.shape[1]} dimensions. "
            "Wav2CLIP goes with CLIP ViT-B/32; for another CLIP give an audio encoder of its space, or leave out AIS."
        )
    queries, images = F.normalize(queries, dim=1), F.normalize(images, dim=1)
    rows = {int(c): row for row, c in enumerate(image_columns.tolist())}
    own = torch.tensor([rows[c] for c in query_columns.tolist()], dtype=torch.long, device=images.device)
    center = images.mean(0) if len(images) else images.new_zeros(images.shape[1])
    w = weights[:, image_columns]  # (R, N)
    total = w.sum(1)
    cosine_sum, z_sum, cosine_count, z_count = (torch.zeros_like(total) for _ in range(4))
    size = max(1, block // max(1, max(len(images), len(weights))))
    for start in tqdm(range(0, len(queries), size), desc="Cosines", delay=2, leave=False):
        q, o = queries[start : start + size], own[start : start + size]
        x = q @ (images - center).T  # (q, N): cosines, but for a shift per query
        x_own = x.gather(1, o[:, None])  # (q, 1)
        w_own = w[:, o].T  # (q, R)
        others = (total - w_own).clamp(min=0)
        mean = (x @ w.T - w_own * x_own) / others
        deviation = (((x * x) @ w.T - w_own * x_own**2) / others - mean**2).clamp(min=0).sqrt()
        z = (x_own - mean) / deviation
        defined = (deviation > SPREAD) & (w_own > 0)
        z_sum += torch.where(defined, w_own * z, 0.0).sum(0)
        z_count += torch.where(defined, w_own, 0.0).sum(0)
        cosine_sum += (w_own * (x_own + (q @ center)[:, None])).sum(0)
        cosine_count += w_own.sum(0)
    return cosine_sum / cosine_count, z_sum / z_count


def frechet_distance(x, x_columns, y, y_columns, weights, seed=0):
    """FID of features x (N, D) and y (M, D): |mu_x - mu_y|^2 + Tr(S_x + S_y - 2 (S_x S_y)^(1/2)), clean-fid's (Heusel
    et al., 2017), and its resamples to first order. Returns (R), one value per row of weights (R, clips); the first
    row is ones. NaN if a set has fewer than two images.

    Tr (S_x S_y)^(1/2) is the nuclear norm of X Y^T, X and Y the centred features over sqrt(n - 1): no square root of
    a singular matrix is needed. Its derivative by an image's weight is the row's share in U S U^T, so one
    decomposition gives the influence of every image (the infinitesimal jackknife; Efron, 1982). Redoing the
    decomposition per resample would cost a thousand times as much and, with fewer images than dimensions, overstate
    the deviation by half, because repeated images lower the rank.
    """
    if min(len(x), len(y)) < 2:
        return torch.full((len(weights),), torch.nan, dtype=torch.float64)
    step = x.mean(0) - y.mean(0)
    x, y = ((a - a.mean(0)) / (len(a) - 1) ** 0.5 for a in (x, y))
    # where there are more images than dimensions, decompose the D x D triangles instead of N x M
    (qx, rx), (qy, ry) = (torch.linalg.qr(a) if len(a) > a.shape[1] else (None, a) for a in (x, y))
    u, s, vt = torch.linalg.svd(rx @ ry.T, full_matrices=False)
    u, v = (u if qx is None else qx @ u), (vt.T if qy is None else qy @ vt.T)
    distance = step @ step + x.square().sum() + y.square().sum() - 2 * s.sum()

    influence = torch.zeros_like(weights[0])
    for a, columns, vectors, sign in ((x, x_columns, u, 1), (y, y_columns, v, -1)):
        part = 2 * sign * (a @ step) * (len(a) - 1) ** 0.5 / len(a) + a.square().sum(1) - vectors.square() @ s
        influence.index_add_(0, columns, part - part.mean())
    return distance + (weights - 1) @ influence


def kernel_distance(x, x_columns, y, y_columns, weights, seed=0, max_subset_size=1000, num_subsets=100, block=2**24):
    """KID of features x (N, D) and y (M, D): the unbiased squared MMD with the kernel (x.y / D + 1)^3 (Binkowski et
    al., 2018), as clean-fid draws it: the mean over 100 subsets of up to 1000 images, from numpy's RandomState(seed).
    Returns (R), one value per row of weights (R, clips); all but the first are MMDs of whole resamples. NaN if a set
    has fewer than two images.
    """
    if min(len(x), len(y)) < 2:
        return torch.full((len(weights),), torch.nan, dtype=torch.float64)
    draw, size = np.random.RandomState(seed), min(len(x), len(y), max_subset_size)
    wx, wy = torch.zeros(num_subsets, len(x)), torch.zeros(num_subsets, len(y))
    for k in range(num_subsets):  # clean-fid draws its second set first
        wy[k, draw.choice(len(y), size, replace=False)] = 1
        wx[k, draw.choice(len(x), size, replace=False)] = 1
    wx = torch.cat([wx.to(weights), weights[1:, x_columns]])
    wy = torch.cat([wy.to(weights), weights[1:, y_columns]])

    def kernel_mean(a, wa, b, wb):  # over all pairs, those of an image with itself left out
        total, pairs = 0, wa.sum(1) * wb.sum(1)
        rows = max(1, block // len(b))
        for start in tqdm(range(0, len(a), rows), desc="KID", delay=2, leave=False):
            kernel = (a[start : start + rows] @ b.T / a.shape[1] + 1) ** 3  # (rows, b)
            if a is b:
                kernel[:, start:].fill_diagonal_(0)
            total = total + ((wb @ kernel.T) * wa[:, start : start + rows]).sum(1)
        return total / (pairs - wa.square().sum(1) if a is b else pairs)

    values = kernel_mean(x, wx, x, wx) + kernel_mean(y, wy, y, wy) - 2 * kernel_mean(x, wx, y, wy)
    return torch.cat([values[:num_subsets].mean(0, keepdim=True), values[num_subsets:]])

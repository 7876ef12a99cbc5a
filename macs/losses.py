"""The three losses of stage one, pure functions on tensors: reconstruction, alignment with the labels, ranking."""

import math

import torch
import torch.nn.functional as F


class _CentredGram(torch.autograd.Function):
    """Inner products of zero-mean signals: (B, M, T), K times (B, T) -> (B, M + K, M + K) in float64, of all together.

    SI-SDR needs |reference - sum|², a difference of nearly equal energies, hence float64: float32 would err by 1e-3 dB
    at 30 dB, half precision and TF32 (which leave float64 alone) by far more. Block by block over time, so that the
    float64 copy stays in the cache and neither direction keeps more than the waveforms themselves.
    """

    BLOCK = 8192

    @staticmethod
    def blocks(sources, references, dtype):
        """Yields (slice of time, the signals (B, M + K, length of the slice) in dtype, valid until the next)."""
        batch, num_sources, length = sources.shape
        buffer = sources.new_empty(batch, num_sources + len(references), _CentredGram.BLOCK, dtype=dtype)
        for start in range(0, length, _CentredGram.BLOCK):
            block = slice(start, min(start + _CentredGram.BLOCK, length))
            signals = buffer[..., : block.stop - start]
            signals[:, :num_sources] = sources[..., block]
            for k, reference in enumerate(references, num_sources):
                signals[:, k] = reference[..., block]
            yield block, signals

    @staticmethod
    def forward(ctx, sources, *references):
        gram, total = 0, 0
        dtype = torch.float32 if sources.device.type == "mps" else torch.float64  # MPS has no float64
        for _, signals in _CentredGram.blocks(sources, references, dtype):
            gram = gram + signals @ signals.mT
            total = total + signals.sum(-1, keepdim=True)
        mean = total / sources.shape[-1]
        ctx.save_for_backward(mean, sources, *references)
        return gram - total @ mean.mT

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        mean, sources, *references = ctx.saved_tensors
        num_sources, needed = sources.shape[1], any(ctx.needs_input_grad[1:])
        rows = slice(None) if needed else slice(num_sources)
        grad = (grad + grad.mT)[:, rows]  # d<x_i, x_j> = <dx_i, x_j> + <x_i, dx_j>
        dtype = torch.promote_types(sources.dtype, torch.float32)  # no small difference is left to be taken
        grad, offset = grad.to(dtype), (grad @ mean).to(dtype)
        grads = sources.new_empty(*grad.shape[:2], sources.shape[-1])
        for block, signals in _CentredGram.blocks(sources, references, dtype):
            grads[..., block] = torch.baddbmm(offset, grad, signals, beta=-1)
        if not needed:
            return grads, *(None for _ in references)
        return grads[:, :num_sources], *grads[:, num_sources:].unbind(1)


def assignments(num_sources, num_references, device=None):
    """Every way to give M signals to K references, (K**M, K, M) of 0 and 1; the first gives all to reference 0."""
    owner = torch.cartesian_prod(*[torch.arange(num_references, device=device)] * num_sources)
    return F.one_hot(owner.view(-1, num_sources), num_references).mT


def assignment_si_sdr(sources, references, eps=1e-8):
    """Zero-mean SI-SDR (Le Roux et al., 2019) of every way to share M signals out among K references.

    sources (B, M, T), references (B, K, T) or a sequence of K (B, T). Returns (B, K**M, K) in dB and float64: the
    SI-SDR of each reference with the sum of the signals given to it, in the order of `assignments`: with x the sum, t
    the reference, a = <x, t> / (|t|² + eps), SI-SDR = 10 log10(|at|² / (|x - at|² + eps) + eps). A reference given
    nothing has 10 log10(eps) = -80 dB, so that to leave one unexplained is never the cheapest (in 0 dB it would be).
    The waveforms are read once, for the Gram matrix of all M + K signals; the K**M sums live in that small space.
    """
    references = references.unbind(1) if isinstance(references, torch.Tensor) else tuple(references)
    if sources.ndim != 3 or any(reference.shape != sources.shape[::2] for reference in references):
        raise ValueError(
            f"Expected sources (B, M, T) and references (B, T) of one B and T, got sources {tuple(sources.shape)}, "
            f"references {', '.join(str(tuple(reference.shape)) for reference in references)}."
        )
    num_sources = sources.shape[1]
    gram = _CentredGram.apply(sources, *references)
    source_gram, cross = gram[:, :num_sources, :num_sources], gram[:, num_sources:, :num_sources]
    given = assignments(num_sources, len(references), gram.device).to(gram.dtype)
    estimate_energy = torch.einsum("akm,bmn,akn->bak", given, source_gram, given)
    product = torch.einsum("akm,bkm->bak", given, cross)  # <sum, reference>
    reference_energy = gram.diagonal(dim1=1, dim2=2)[:, None, num_sources:].clamp(min=0)

    scale = product / (reference_energy + eps)
    target = scale**2 * reference_energy
    error = (target - 2 * scale * product + estimate_energy).clamp(min=0)
    return 10 * torch.log10(target / (error + eps) + eps)


def mixit_loss(sources, mixture_1, mixture_2, eps=1e-8):
    """Mixture-invariant SI-SDR loss (Wisdom et al., 2020), exact over all assignments: L_rec.

    sources (B, M, T); mixture_1, mixture_2 (B, T), any unit. Returns min over the assignments of
    -SI-SDR(mixture_1, its sum) - SI-SDR(mixture_2, its sum) in dB, mean over B, in the dtype of the sources.
    Cost: one pass over the waveforms; the 2**M - 1 assignments are scored in M x M Gram space.
    """
    si_sdr = assignment_si_sdr(sources, [mixture_1, mixture_2], eps)
    si_sdr = si_sdr[:, :-1]  # but not the one with nothing for mixture 1
    return -si_sdr.sum(-1).amax(1).mean().to(sources.dtype)


def correlation_loss(sources, eps=1e-8):
    """How much the signals resemble each other: sum over i != j of |<s_i, s_j>|, per energy of their mixture.

    sources (B, M, T) that sum to the mixture. 1 - 1/M where all are alike, 0 where each moment and frequency belongs to
    one signal. MixIT alone likes every source dealt out to several signals, which are all near copies of the mixture
    (Wisdom et al., "Sparse, Efficient, and Semantic Mixture Invariant Training", 2021). A scalar, mean over B.
    """
    gram = sources @ sources.mT
    energy = gram.sum((1, 2)) + eps
    return ((gram.abs().sum((1, 2)) - gram.diagonal(dim1=1, dim2=2).sum(1)) / energy).mean()


def si_sdr_improvement(sources, references, single=False):
    """By how many dB the best assignment of the signals comes closer to the references than the mixture does.

    sources (B, M, T) that sum to the mixture, references (B, K, T). Returns (B,), the mean over the references, each of
    which gets at least one signal; the best assignment is the one with the greatest mean SI-SDR. ValueError for K > M.
    single: instead the best single signal for each reference. Sums say nothing about copies: a source dealt out to all
    signals adds up to itself again.
    """
    num_sources, num_references = sources.shape[1], references.shape[1]
    if num_references > num_sources:
        raise ValueError(f"Expected a signal for each reference, got {num_sources} for {num_references} references.")
    si_sdr = assignment_si_sdr(sources, references)  # (B, K**M, K)
    count = assignments(num_sources, num_references, sources.device).sum(-1)  # (K**M, K): signals given to each
    mixture = si_sdr.masked_fill(count < num_sources, -math.inf).amax(1).mean(-1)  # all signals to each
    if single:
        return si_sdr.masked_fill(count != 1, -math.inf).amax(1).mean(-1) - mixture
    return si_sdr[:, count.all(-1)].mean(-1).amax(1) - mixture


def contrastive_loss(audio, text, logit_scale, assignment_scale=100.0):
    """Aligns every separated signal with its soft label: L_contrastive.

    audio (B, M, D) and text (B, L, D) embeddings of unit norm, logit_scale the logarithm of the scale (log(1/0.07) at
    first, learned). The soft label of a signal is softmax(100 audio textᵀ) text, normalised. Returns the mean of the
    cross entropies over rows and columns of the M x M similarities towards the diagonal: a scalar, mean over B.
    """
    soft_label = F.normalize((assignment_scale * audio @ text.mT).softmax(-1) @ text, dim=-1)  # (B, M, D)
    logits = audio @ soft_label.mT * logit_scale.exp()  # (B, M, M)
    target = torch.arange(audio.shape[1], device=audio.device).expand(audio.shape[:2])
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.mT, target)) / 2


def soft_rank(values, strength=1.0):
    """Differentiable ranks (Blondel et al., 2020, l2): the projection of values / strength on the permutahedron.

    values (B, n) -> (B, n); the greatest value of a row has the rank n, as far as values differ by more than strength.
    Exact: rank = s - isotonic(s - w) with s sorted descending, w = (n, ..., 1); O(n²) memory, made for small n.
    """
    sorted_values, order = (values / strength).sort(dim=-1, descending=True)
    n = values.shape[-1]
    y = sorted_values - torch.arange(n, 0, -1, device=values.device, dtype=values.dtype)
    # non-increasing isotonic fit: v_i = min over j <= i, of max over k >= i, of mean(y_j .. y_k)
    total = F.pad(y.cumsum(-1), (1, 0))
    index = torch.arange(n, device=values.device)
    length = (index[None, :] - index[:, None] + 1).clamp(min=1)  # of y_j .. y_k at [j, k]
    mean = (total[:, None, 1:] - total[:, :-1, None]) / length
    mean = mean.masked_fill(index[None, :] < index[:, None], -math.inf)
    best = mean.flip(-1).cummax(-1).values.flip(-1)  # [j, i]: max over k >= i
    best = best.masked_fill(index[None, :] < index[:, None], math.inf)
    ranks = sorted_values - best.amin(1)
    return torch.zeros_like(ranks).scatter(-1, order, ranks)


def ranking_loss(similarity, eps=1e-4):
    """1 - Spearman correlation of the signals' soft ranks with (M, ..., 1): L_rank, a scalar.

    similarity (B, M): cosine of each signal's embedding with its mixture's; signal 1 shall be the most similar. One
    correlation over all B * M entries, not a mean over rows: rows of near-copies, whose soft ranks hardly differ, would
    otherwise get much greater gradients than well separated ones. eps keeps the gradient finite where all similarities
    are equal, as on silence. 0 for M = 1, where there is nothing to rank.
    """
    if similarity.shape[-1] == 1:
        return 0 * similarity.sum()
    ranks = soft_rank(similarity)
    ranks = ranks - ranks.mean()
    target = torch.arange(similarity.shape[-1], 0, -1, device=ranks.device, dtype=ranks.dtype).expand_as(ranks)
    target = target - target.mean()
    return 1 - (ranks * target).sum() / ((ranks.square().sum() + eps**2).sqrt() * target.norm())

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from macs.losses import assignment_si_sdr, contrastive_loss, correlation_loss, mixit_loss, ranking_loss, soft_rank


@pytest.fixture(scope="module")
def reference():
    path = Path(__file__).parents[1] / "reference/losses.npz"
    return {name: torch.from_numpy(x) for name, x in np.load(path).items()}


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def si_sdr(x, t, eps=1e-8):
    """Zero-mean SI-SDR of waveforms (..., T), written down from the paper's formula; x is measured by t."""
    x, t = x - x.mean(-1, keepdim=True), t - t.mean(-1, keepdim=True)
    alpha = (x * t).sum(-1, keepdim=True) / ((t**2).sum(-1, keepdim=True) + eps)
    signal, error = ((alpha * t) ** 2).sum(-1), ((x - alpha * t) ** 2).sum(-1)
    return 10 * torch.log10(signal / (error + eps) + eps)


def enumerated_mixit(sources, mixture_1, mixture_2):
    """MixIT by its definition: the least of 2**M - 1 assignments, mean over the batch, in float64."""
    losses = []
    for first in itertools.product((True, False), repeat=sources.shape[1]):
        if any(first):
            first = torch.tensor(first)
            sum_1, sum_2 = sources[:, first].sum(1), sources[:, ~first].sum(1)
            losses.append(-si_sdr(sum_1, mixture_1) - si_sdr(sum_2, mixture_2))
    return torch.stack(losses).min(0).values.mean()


def with_gradient(loss, sources, *mixtures):
    sources = sources.clone().requires_grad_()
    value = loss(sources, *mixtures)
    (gradient,) = torch.autograd.grad(value, sources)
    return value.item(), gradient.double()


def mixit_case(name, num_sources):
    """sources (2, M, T), mixture_1, mixture_2 (2, T), float64."""
    clips = randn(2, 2, 9000, seed=1)
    if name == "separated":
        sources = clips[:, torch.arange(num_sources) % 2] / num_sources + 0.05 * randn(2, num_sources, 9000, seed=2)
        return sources, *clips.unbind(1)
    loud, quiet = clips[:, 0], clips[:, 1] / 5
    if name == "a silent clip":
        quiet = torch.zeros_like(quiet)
    share = 1 / num_sources + 1e-3 * randn(2, num_sources, 1, seed=3)
    sources = share * (loud + quiet)[:, None] + 1e-3 * randn(2, num_sources, 9000, seed=4)
    return (sources, quiet, loud) if name == "the quiet clip first" else (sources, loud, quiet)


@pytest.mark.parametrize("num_sources", [1, 2, 8])
@pytest.mark.parametrize("name", ["separated", "near-copies", "the quiet clip first", "a silent clip"])
def test_mixit_and_its_gradient_equal_enumeration(name, num_sources):
    case = mixit_case(name, num_sources)
    expected, expected_gradient = with_gradient(enumerated_mixit, *case)
    assert expected_gradient.norm() > 0.1  # there is something to learn
    for dtype in (torch.float64, torch.float32):
        loss, gradient = with_gradient(mixit_loss, *[part.to(dtype) for part in case])
        assert loss == pytest.approx(expected, abs=1e-2)
        assert (gradient - expected_gradient).norm() < 1e-3 * expected_gradient.norm()


def test_to_leave_a_clip_unexplained_costs_80_db_and_is_not_chosen_for_near_copies():
    sources, loud, quiet = mixit_case("near-copies", 6)
    si_sdr_of_all = assignment_si_sdr(sources, [loud, quiet])
    all_to_the_loud = -si_sdr_of_all[:, 0].sum(-1)
    assert torch.allclose(all_to_the_loud, 80 - si_sdr(sources.sum(1), loud), atol=1e-6)
    assert (si_sdr_of_all[:, :-1].sum(-1).argmax(1) > 0).all()
    assert mixit_loss(sources, loud, quiet) < all_to_the_loud.mean() - 15


def test_mixit_equals_the_reference_with_its_gradient(reference):
    sources = reference["pred"].clone().requires_grad_()
    loss = mixit_loss(sources, reference["m1"][:, 0], reference["m2"][:, 0])
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(reference["mixit"].item(), abs=1e-5)
    assert torch.allclose(sources.grad, reference["mixit_grad"], atol=1e-7)


@pytest.mark.parametrize(("num_sources", "num_references", "length"), [(3, 2, 300), (4, 3, 20_000), (6, 2, 9_000)])
def test_si_sdr_of_every_assignment_equals_direct_enumeration(num_sources, num_references, length):
    sources, references = randn(2, num_sources, length), randn(2, num_references, length, seed=1)
    sources = sources + references[:, torch.arange(num_sources) % num_references] + 0.5  # related, and with an offset
    expected = []
    for owner in itertools.product(range(num_references), repeat=num_sources):
        owner = torch.tensor(owner)
        sums = torch.stack([sources[:, owner == k].sum(1) for k in range(num_references)], dim=1)
        expected.append(si_sdr(sums, references))
    assert torch.allclose(assignment_si_sdr(sources, references), torch.stack(expected, dim=1), atol=1e-6)


def test_a_well_separated_mixture_keeps_its_precision_in_float32():
    sources = randn(1, 2, 128_000)
    mixtures = sources + 1e-4 * randn(1, 2, 128_000, seed=1)  # 80 dB
    exact = mixit_loss(sources, mixtures[:, 0], mixtures[:, 1])
    mixtures = mixtures.float()
    exact_of_rounded = mixit_loss(sources.float().double(), mixtures[:, 0].double(), mixtures[:, 1].double())
    loss = mixit_loss(sources.float(), mixtures[:, 0], mixtures[:, 1])
    assert exact == pytest.approx(-160, abs=0.1)
    assert loss.item() == pytest.approx(exact_of_rounded.item(), abs=1e-3)


def test_mixit_never_leaves_the_first_mixture_without_a_signal():
    mixture, nothing = randn(1, 1000), torch.zeros(1, 1000)
    # the one signal is mixture 2 itself, but it has to go to the silent mixture 1, which leaves both at -80 dB
    assert mixit_loss(mixture[:, None], nothing, mixture).item() == pytest.approx(160)
    perfect = -si_sdr(mixture, mixture) + 80
    assert mixit_loss(mixture[:, None], mixture, nothing).item() == pytest.approx(perfect.item())


def test_correlation_of_copies_of_exclusive_and_of_cancelling_signals():
    a, b = torch.eye(2, dtype=torch.float64).repeat(1, 50)  # orthogonal, of equal energy
    none = torch.zeros_like(a)
    signals = {
        "copies": [(a + b) / 3] * 3,
        "exclusive": [a, b, none],
        "cancelling": [a + b, b, -b],  # <s1, s2>, <s1, s3> and <s2, s3> are half the mixture's energy each
    }
    losses = {name: correlation_loss(100 * torch.stack(rows)[None]).item() for name, rows in signals.items()}
    assert losses == pytest.approx({"copies": 2 / 3, "exclusive": 0, "cancelling": 3})


def test_contrastive_loss_equals_the_reference(reference):
    audio, text = (F.normalize(reference[name], dim=-1) for name in ("audio_emb", "text_emb"))
    loss = contrastive_loss(audio, text, reference["tau2"])
    assert loss.item() == pytest.approx(reference["align"].item(), abs=1e-6)


def test_contrastive_loss_takes_any_number_of_texts_and_trains_its_scale():
    audio, text = (F.normalize(randn(2, n, 8, seed=n), dim=-1) for n in (3, 7))
    scale = torch.tensor(math.log(1 / 0.07), dtype=torch.float64, requires_grad=True)
    each = [contrastive_loss(audio[i : i + 1], text[i : i + 1], scale) for i in range(2)]
    loss = contrastive_loss(audio, text, scale)
    loss.backward()
    assert torch.allclose(loss, torch.stack(each).mean())
    assert scale.grad.abs() > 0


def test_ranking_loss_equals_the_reference_with_its_gradient(reference):
    similarity = reference["similarity"].clone().requires_grad_()
    loss = ranking_loss(similarity)
    loss.backward()
    assert loss.item() == pytest.approx(reference["rank_batch"].item(), abs=1e-5)
    assert (similarity.grad - reference["rank_grad"]).norm() < 1e-3 * reference["rank_grad"].norm()
    for row, expected in zip(reference["similarity"], reference["rank_each"], strict=True):
        assert ranking_loss(row[None]).item() == pytest.approx(expected.item(), abs=1e-5)


def test_rows_of_near_copies_do_not_rule_the_gradient_of_the_ranking():
    similarity = torch.tensor([[0.1, 0.3, 0.5, 0.7, 0.9, 0.8], [0.9, 0.9, 0.9, 0.9, 0.9, 0.9]], dtype=torch.float64)
    similarity[1] += 0.01 * randn(6)
    similarity.requires_grad_()
    ranking_loss(similarity).backward()
    apart, copies = similarity.grad.norm(dim=1)
    assert copies < 10 * apart  # with a correlation for each row 62 times as much


def test_ranking_loss_is_zero_when_the_order_is_right_and_two_when_reversed():
    similarity = torch.tensor([[0.9, 0.7, 0.5, 0.3, 0.1]])
    assert ranking_loss(similarity).item() == pytest.approx(0, abs=1e-6)
    assert ranking_loss(similarity.flip(-1)).item() == pytest.approx(2, abs=1e-6)


def test_one_signal_has_nothing_to_rank():
    similarity = torch.tensor([[0.9], [0.2]], requires_grad=True)
    loss = ranking_loss(similarity)
    loss.backward()
    assert loss.item() == 0 and similarity.grad.tolist() == [[0.0], [0.0]]


def test_soft_rank_equals_the_reference(reference):
    assert torch.allclose(soft_rank(reference["softrank_in"]), reference["softrank_out"], atol=1e-6)


def test_soft_rank_of_values_far_apart_is_the_rank_and_of_close_values_is_linear():
    values = torch.tensor([[30.0, -5.0, 10.0, 2.0]])
    assert torch.equal(soft_rank(values), torch.tensor([[4.0, 1.0, 3.0, 2.0]]))
    close = values / 100
    assert torch.allclose(soft_rank(close), close - close.mean() + 2.5)
    assert torch.allclose(soft_rank(close, strength=0.001), torch.tensor([[4.0, 1.0, 3.0, 2.0]]))


@pytest.mark.parametrize(
    ("loss", "shapes"),
    [
        (mixit_loss, [(2, 3, 40), (2, 40), (2, 40)]),
        (lambda sources, references: assignment_si_sdr(sources, references), [(1, 2, 30), (1, 3, 30)]),
        (contrastive_loss, [(2, 3, 5), (2, 4, 5), ()]),
        (correlation_loss, [(2, 3, 40)]),
        (ranking_loss, [(3, 6)]),
        (soft_rank, [(3, 6)]),
    ],
)
def test_gradients_in_float64(loss, shapes):
    inputs = [randn(*shape, seed=seed).requires_grad_() for seed, shape in enumerate(shapes)]
    assert torch.autograd.gradcheck(loss, inputs)


def test_silence_gives_finite_losses_and_gradients():
    silence, noise = torch.zeros(2, 6, 1000), randn(2, 1000).float()
    for mixture_1, mixture_2 in itertools.product((silence[:, 0], noise), repeat=2):
        sources = silence.clone().requires_grad_()
        loss = mixit_loss(sources, mixture_1, mixture_2) + correlation_loss(sources)
        loss.backward()
        assert loss.isfinite()
        assert sources.grad.isfinite().all()
    similarity = torch.full((2, 6), 0.7, requires_grad=True)  # of six silent, hence equal, signals
    embeddings = torch.zeros(2, 6, 8, requires_grad=True)
    loss = ranking_loss(similarity) + contrastive_loss(embeddings, embeddings, torch.tensor(2.66))
    loss.backward()
    assert loss.isfinite()
    assert similarity.grad.isfinite().all()
    assert embeddings.grad.isfinite().all()


def test_mixit_keeps_its_precision_under_autocast(reference):
    sources, mixtures = reference["pred"].clone().requires_grad_(), (reference["m1"][:, 0], reference["m2"][:, 0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = mixit_loss(sources, *mixtures)
    loss.backward()
    assert loss.item() == pytest.approx(reference["mixit"].item(), abs=1e-5)
    assert torch.allclose(sources.grad, reference["mixit_grad"], atol=1e-7)


def test_waveforms_of_two_lengths_are_an_error():
    with pytest.raises(ValueError, match=r"\(1, 2, 100\).*\(1, 90\)"):
        mixit_loss(torch.zeros(1, 2, 100), torch.zeros(1, 90), torch.zeros(1, 90))

"""The audio attention against diffusers' IP-Adapter processor, and against its formula written out."""

import pytest
import torch
from diffusers.models.attention_processor import Attention, IPAdapterAttnProcessor2_0
from torch import nn

from macs.attention import (
    AudioAttnProcessor,
    SourceControl,
    check_source_masks,
    check_source_weights,
    layer_sizes,
)

SIZE = (6, 4)  # of the layer: 24 places


@pytest.fixture
def layer():
    """(attention, our processor, diffusers' with the same weights, a function that calls it)."""
    torch.manual_seed(0)
    attention = Attention(query_dim=32, cross_attention_dim=16, heads=4, dim_head=8)
    keys, values = (nn.Linear(16, 32, bias=False) for _ in range(2))
    ours = AudioAttnProcessor(keys, values, 6, SourceControl())
    stock = IPAdapterAttnProcessor2_0(32, 16, num_tokens=(6,))
    stock.to_k_ip[0], stock.to_v_ip[0] = keys, values
    hidden, text, sources = torch.randn(2, 24, 32), torch.randn(2, 7, 16), torch.randn(2, 1, 6, 16)

    def run(processor, sources=sources):
        with torch.no_grad():
            return processor(attention, hidden, (text, [sources]))

    return run, ours, stock, sources


def test_off_equals_the_stock_processor_and_goes_through_the_dispatch(layer, monkeypatch):
    run, ours, stock, _ = layer
    assert torch.allclose(run(ours), run(stock), rtol=1e-6, atol=1e-7)
    ours.scale = stock.scale = [0.3]
    assert torch.allclose(run(ours), run(stock), rtol=1e-6, atol=1e-7)
    backends = []
    dispatch = AudioAttnProcessor._attend.__globals__["dispatch_attention_fn"]
    monkeypatch.setitem(
        AudioAttnProcessor._attend.__globals__,
        "dispatch_attention_fn",
        lambda *args, **kwargs: backends.append(kwargs["backend"]) or dispatch(*args, **kwargs),
    )
    ours._attention_backend = "native"  # as set_attention_backend sets it
    run(ours)
    assert backends == ["native", "native"]


def test_weight_zero_leaves_a_source_out_and_one_changes_nothing(layer):
    run, ours, stock, sources = layer
    weights = torch.tensor([[1.0, 0, 1, 1, 0, 1]])
    with ours.control.during(SIZE, 2, weights=weights):
        assert torch.allclose(run(ours), run(stock, sources[:, :, [0, 2, 3, 5]]), rtol=1e-5, atol=1e-6)
    with ours.control.during(SIZE, 2, weights=torch.full((1, 6), 0.5)):  # only the ratio of the weights counts
        assert torch.allclose(run(ours), run(stock), rtol=1e-5, atol=1e-6)
    with ours.control.during(SIZE, 2, weights=torch.tensor([[2.0, 1, 1, 1, 1, 1]])):  # twice there is twice heard
        twice = torch.cat([sources[:, :, :1], sources], dim=2)
        assert torch.allclose(run(ours), run(stock, twice), rtol=1e-5, atol=1e-6)
    stock.scale = [0.0]
    with ours.control.during(SIZE, 2, weights=torch.zeros(1, 6)):
        assert torch.allclose(run(ours), run(stock), rtol=1e-6, atol=1e-7)
    stock.scale = [1.0]
    assert torch.allclose(run(ours), run(stock), rtol=1e-6, atol=1e-7)  # nothing is left behind


def test_masks_confine_each_source_to_its_places(layer):
    run, ours, stock, sources = layer
    masks = check_source_masks({0: (0, 0, 0.5, 1), 1: (0.5, 0, 1, 1)}, 6, 12, 8)
    masks[:, 2:] = 0
    masks[:, :, 10:] = 0  # nobody may draw in the lowest row of the layer
    with ours.control.during(SIZE, 2, masks=masks, record=True):
        out = run(ours).unflatten(1, SIZE)
        shares = ours.control.mean_shares(SIZE)
    left, right = (run(stock, sources[:, :, i : i + 1]).unflatten(1, SIZE) for i in (0, 1))
    stock.scale = [0.0]
    silent = run(stock).unflatten(1, SIZE)
    assert torch.allclose(out[:, :5, :2], left[:, :5, :2], rtol=1e-5, atol=1e-6)
    assert torch.allclose(out[:, :5, 2:], right[:, :5, 2:], rtol=1e-5, atol=1e-6)
    assert torch.allclose(out[:, 5], silent[:, 5], rtol=1e-5, atol=1e-6)
    assert (shares[:, 0, :5, :2] == 1).all() and (shares[:, :, 5] == 0).all()


def test_recorded_shares_are_running_means_of_the_guided_rows(layer):
    run, ours, _, sources = layer
    plain = run(ours)
    with ours.control.during(SIZE, 1, record=True):
        assert torch.allclose(run(ours), plain, rtol=1e-5, atol=1e-6)
        first = ours.control.mean_shares(SIZE)
        run(ours, -sources)
        mean = ours.control.mean_shares(SIZE)
        assert [total.shape for total, _ in ours.control.sums.values()] == [(1, 24, 6)]
    with ours.control.during(SIZE, 1, record=True):
        run(ours, -sources)
        second = ours.control.mean_shares(SIZE)
    assert first.shape == (1, 6, *SIZE) and torch.allclose(first.sum(1), torch.ones(1, *SIZE), atol=1e-5)
    assert torch.allclose(mean, (first + second) / 2, atol=1e-6) and not torch.allclose(first, second, atol=1e-3)


def test_layer_sizes_round_up_as_strided_convolutions_do():
    assert layer_sizes((28, 64)) == {
        1792: (28, 64), 448: (14, 32), 112: (7, 16), 32: (4, 8), 8: (2, 4), 2: (1, 2), 1: (1, 1)
    }  # fmt: skip


@pytest.mark.parametrize(
    "weights", [[1.0] * 5, [1, 1, 1, 1, 1, -0.1], [1, 1, 1, 1, 1, float("nan")], [1, 1, 1, 1, 1, float("inf")]]
)
def test_bad_weights_are_refused(weights):
    with pytest.raises(ValueError, match="source_weights: expected"):
        check_source_weights(weights, 6)


@pytest.mark.parametrize(
    "masks",
    [torch.ones(6, 8, 9), torch.ones(5, 8, 8), 2 * torch.ones(6, 8, 8), torch.full((6, 8, 8), float("nan")),
     {6: (0, 0, 1, 1)}, {0: (0.5, 0, 0.2, 1)}, {0: (0, 0, 64, 64)}, {0: (0, 0, 1)}],
)  # fmt: skip
def test_bad_masks_are_refused(masks):
    with pytest.raises(ValueError, match="source_masks: expected"):
        check_source_masks(masks, 6, 8, 8)

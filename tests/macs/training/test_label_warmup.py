import torch

from macs.adapter import AudioProjector
from macs.training.label_warmup import label_f1, warm_up


def recordings(count, seed):
    """Embeddings (count, 1, 8) and labels (count, 2), which no linear map reads off them: two signs must agree."""
    embeds = torch.randn(count, 1, 8, generator=torch.Generator().manual_seed(seed))
    embeds -= embeds.mean(-1, keepdim=True)  # as the projector's first layer sees them
    return embeds, embeds[:, 0, 0:4:2] * embeds[:, 0, 1:4:2] > 0


def linear_accuracy(tokens, labels, held_out_tokens, held_out_labels):
    """Of a ridge regression on the tokens (N, M, D), fitted to the first set, on the second."""
    design = torch.cat([tokens.flatten(1), torch.ones(len(tokens), 1)], dim=1).double()
    gram = design.mT @ design + torch.eye(design.shape[1])
    weights = torch.linalg.solve(gram, design.mT @ labels.double())
    read = torch.cat([held_out_tokens.flatten(1), torch.ones(len(held_out_tokens), 1)], dim=1).double() @ weights
    return ((read > 0.5) == held_out_labels).double().mean().item()


def test_tokens_tell_labels_apart_that_embeddings_hide():
    torch.manual_seed(0)
    projector = AudioProjector(1, 8, hidden_dim=64, cross_attention_dim=16, dropout=0.1)
    known, held_out = recordings(3000, 1), recordings(1000, 2)

    @torch.no_grad()
    def accuracy():
        projector.eval()
        return linear_accuracy(projector(known[0]), known[1], projector(held_out[0]), held_out[1])

    before, state = accuracy(), torch.get_rng_state()
    head = warm_up(projector, *known, epochs=40, disable_bar=True)
    assert torch.equal(torch.get_rng_state(), state)  # the training after it draws what it would have drawn
    assert before < 0.75
    assert accuracy() > 0.9
    assert label_f1(projector, head, *held_out) > 0.9 > 0.6 > label_f1(projector, head, held_out[0], ~held_out[1])
    assert projector.training

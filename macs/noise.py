"""The noise that a picture is drawn from: by its clip's name, or by the time in a film."""

import hashlib

import numpy as np
import torch


def noise_seed(seed, name, number):
    """The seed of image `number` of a clip: the same in whatever batch, order or process it is made."""
    digest = hashlib.sha256(f"{seed}/{name}/{number}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:7], "big")


def wandering_noise(shape, times, seed=0, wander=0.0, number=0):
    """Noise (N, *shape) float32 of the times (N,) in s: the same in all, or from one to another every `wander` s.

    On the way its parts are weighed by cosine and sine, so that it is normal noise at every time. number: which of the
    seed's noises is that of time 0. It depends on seed, number and time alone.
    """

    def drawn(number):
        return torch.randn(shape, generator=torch.Generator().manual_seed(noise_seed(seed, "film", number)))

    if not wander:
        return drawn(number).expand(len(times), *shape).clone()
    noise = []
    for t in times.tolist():
        place, angle = number + int(t // wander), np.pi / 2 * (t % wander) / wander
        noise.append(np.cos(angle) * drawn(place) + np.sin(angle) * drawn(place + 1))
    return torch.stack(noise)

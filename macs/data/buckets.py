"""Aspect-ratio buckets: frames of like shape are trained together, in batches of one size each (paper, stage 2)."""

import math

import numpy as np
from torch.utils.data import Sampler

# Training sizes (height, width), in pixels at the base resolution of 512
BASE = 512
SIDES = (224, 288, 352, 416)
BUCKETS = ((BASE, BASE), *((side, BASE) for side in SIDES), *((BASE, side) for side in SIDES))
LANDSCAPE = ((288, BASE),)


def bucket_sizes(buckets, resolution=BASE, multiple=8):
    """The buckets' sizes at another base resolution, in pixels, rounded to what the VAE takes."""
    return [tuple(max(multiple, round(side * resolution / BASE / multiple) * multiple) for side in b) for b in buckets]


def nearest_bucket(height, width, sizes):
    """The one of `sizes` [(height, width)] whose aspect ratio is nearest, twice as wide counting as twice as high."""
    return min(sizes, key=lambda size: abs(math.log(height / width) - math.log(size[0] / size[1])))


class BucketBatchSampler(Sampler):
    """Batches of (epoch, index), each of one bucket, shuffled by (seed, epoch); every index comes in every epoch.

    buckets: the bucket of each index (anything hashable). A bucket's last batch is smaller where it has to be.
    Process `process_index` gets every `num_processes`-th batch. Where that does not come out even, the first batches
    of the epoch come twice, so that all processes have equally many.
    """

    def __init__(self, buckets, batch_size, seed=0, num_processes=1, process_index=0):
        self.members = {}
        for index, bucket in enumerate(buckets):
            self.members.setdefault(bucket, []).append(index)
        self.batch_size, self.seed, self.epoch = batch_size, seed, 0
        self.num_processes, self.process_index = num_processes, process_index

    def set_epoch(self, epoch):
        self.epoch = epoch

    def batches(self):
        """The present epoch's batches of all processes, in order: a list of arrays of indices."""
        rng = np.random.default_rng([self.seed, self.epoch])
        batches = []
        for members in self.members.values():
            members = rng.permutation(members)
            batches += np.split(members, range(self.batch_size, len(members), self.batch_size))
        batches = [batches[i] for i in rng.permutation(len(batches))]
        count = len(self) * self.num_processes
        return [batches[i % len(batches)] for i in range(count)]

    def step_sizes(self, accumulation_steps):
        """How many images of all processes each optimizer step of the present epoch takes, (steps,)."""
        sizes = [len(batch) for batch in self.batches()]
        share = self.num_processes * accumulation_steps
        return [sum(sizes[i : i + share]) for i in range(0, len(sizes), share)]

    def __len__(self):
        """Batches of one process in an epoch."""
        batches = sum(-(-len(members) // self.batch_size) for members in self.members.values())
        return -(-batches // self.num_processes)

    def __iter__(self):
        for batch in self.batches()[self.process_index :: self.num_processes]:
            yield [(self.epoch, int(index)) for index in batch]

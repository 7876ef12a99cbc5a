"""The files that inference.py writes."""

from dataclasses import dataclass
from pathlib import Path

import soundfile

from macs.audio import SAMPLE_RATE
from macs.files import write_beside
from macs.plots import maps_figure, sources_figure


@dataclass
class Outputs:
    """What is written of a clip into `folder`: num_images pictures, with separate_only none; all by its name.

    sources: the M signals and a picture of what was heard too. maps: the kind of source maps, written as a picture, or
    None.
    """

    folder: Path
    num_images: int = 1
    separate_only: bool = False
    sources: bool = False
    maps: str | None = None

    def paths(self, name):
        """The files that show that a clip is done: its images, or its first source with separate_only."""
        if self.separate_only:
            return [self.folder / "sources" / f"{name}_1.wav"]
        return [self.folder / (f"{name}_{i}.png" if i else f"{name}.png") for i in range(self.num_images)]

    def share_none(self, clips):
        """({name: path} without clips whose images are another clip's too, as a_1 and the second of a, [problems])."""
        owners, kept, problems = {}, {}, []
        for name, path in clips.items():
            taken = [owners[output] for output in self.paths(name) if output in owners]
            if taken:
                problems.append(f"{path}: would overwrite an image of {clips[taken[0]]}; rename one of them")
                continue
            owners |= dict.fromkeys(self.paths(name), name)
            kept[name] = path
        return kept, problems

    def write(self, name, mixture, sources, images, maps=None, names=None):
        """<name>.png, <name>_1.png, ...; the sources in rank order, sources/<name>_1.wav ..., and sources/<name>.png.

        That picture shows the mixture (T,), its signals (M, T) and the first image; maps/<name>.png also where each
        source drew, by the maps (M, H, W), and what it is called.
        """
        if self.maps and maps is not None:
            with write_beside(self.folder / "maps" / f"{name}.png") as partial:
                maps_figure(mixture, sources, images[0], maps, self.maps, names).savefig(partial, dpi=120)
        for path, image in zip(self.paths(name), images, strict=False):
            with write_beside(path) as partial:
                image.save(partial)
        if not (self.sources or self.separate_only):
            return
        folder = self.folder / "sources"
        for rank in range(len(sources), 0, -1):  # the first one last: it says that all are there
            with write_beside(folder / f"{name}_{rank}.wav") as partial:
                soundfile.write(partial, sources[rank - 1].cpu().numpy(), SAMPLE_RATE)
        if self.sources:
            with write_beside(folder / f"{name}.png") as partial:
                sources_figure(mixture, sources, images[0] if images else None).savefig(partial, dpi=120)

"""The figure of one picture changed by other sounds: python soundscapes/edit_sheet.py --output figs/editing.jpg"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure

from macs import MACSPipeline
from macs.files import write_beside
from macs.options import number
from macs.pipelines import MACSImg2ImgPipeline
from macs.script import run

SOUNDS = ["fire_drum", "wind_bell", "stream_cow_bird", "train"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--sd_path", default="asset/macs-tiny", help="a MACS pipeline")
    parser.add_argument("--start", default="rain_dog", help="the recording in asset/demo whose picture is changed")
    parser.add_argument("--sounds", nargs="+", default=SOUNDS, help="recordings in asset/demo, a column each")
    parser.add_argument("--strengths", type=number(0, 1), nargs="+", default=[0.4, 0.6, 0.75], help="a row each")
    parser.add_argument("--seed", type=int, default=0, help="of the picture and of its changes")
    parser.add_argument("--output", default="figs/editing.jpg", help="the figure")
    args = parser.parse_args()

    pipe = MACSPipeline.from_pretrained(args.sd_path)
    edit = MACSImg2ImgPipeline.from_pipe(pipe)
    for each in (pipe, edit):
        each.set_progress_bar_config(disable=True)
    start = pipe(f"asset/demo/{args.start}.wav", generator=torch.Generator().manual_seed(args.seed)).images[0]
    embeds = pipe.encode_audio(pipe.prepare_audio([f"asset/demo/{name}.wav" for name in args.sounds]))

    figure = Figure((1.5 * (len(args.sounds) + 1), 1.55 * len(args.strengths) + 0.2), layout="constrained")
    axes = figure.subplots(len(args.strengths), len(args.sounds) + 1, squeeze=False)
    for row, strength in zip(axes, args.strengths, strict=True):
        generators = [torch.Generator().manual_seed(args.seed) for _ in args.sounds]
        images = edit(source_embeds=embeds, image=start, strength=strength, generator=generators).images
        for place, image in zip(row[1:], images, strict=True):
            place.imshow(image, interpolation="lanczos")
        row[1].set_ylabel(f"strength {strength:g}")
    for place, name in zip(axes[0], [args.start, *args.sounds], strict=True):
        place.set_title(name.replace("_", ", "), fontsize=10)
    axes[0, 0].imshow(start, interpolation="lanczos")
    for place in axes.flat:
        place.set(xticks=[], yticks=[])
        place.spines[:].set_visible(False)
    for place in axes[1:, 0]:
        place.set_axis_off()
    with write_beside(Path(args.output)) as partial:
        figure.savefig(partial, dpi=110, pil_kwargs={"quality": 85} if partial.suffix in (".jpg", ".jpeg") else {})
    print(f"written: {args.output}")


if __name__ == "__main__":
    run(main)

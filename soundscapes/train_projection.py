"""Teaches the last layers of the embedded model's CLAP to name real recordings:

    python soundscapes/train_projection.py --model_dir asset/macs-tiny --separator asset/macs-tiny/separator \\
        --recordings data/recordings

CLAP's trunk tells real recordings apart better than its embeddings do: its projection was learnt from recipes mostly.
So the projection alone learns on, from what the trunk makes of separated scenes, most of them of recordings, and of
the recordings as they are; the embeddings of recipes are held where they were, for the adapter may know them already.
Making the features takes nearly all of the time; they are kept, and made only once.
"""

from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import AutoTokenizer

from macs import ClapEncoder
from macs.audio import AudioError, load_clip
from macs.files import write_beside
from macs.options import integer, number
from macs.script import run
from soundscapes.real_recordings import levelled, single_recordings
from soundscapes.scenes import CLASS_TEXTS, CLASSES
from soundscapes.sound.recipes import AMBIENCES
from soundscapes.sound.recordings import NOISE, label_of, read_table
from soundscapes.train_clap import opened, parted, scene_of, separated, trained_separator
from soundscapes.training import DEVICE, Items, save_part, train, training_parser

REAL, ALONE = 0.6, 0.55  # share of the scenes with recordings, and of these with one alone
AS_THEY_ARE = 0.5  # share of a batch: recordings as inference takes them, alone and two at once, not augmented
UNKNOWN_WEIGHT = 0.4  # of signals of sounds that the world does not know, which are a third of the recordings alone
CHUNK = 200  # scenes, after which their features are saved


def heard(index, seed, scenes, separator, recordings):
    """The mixture of a scene and its signals (1 + M, 128000), their classes (1 + M, C + 1), and if all is of recipes.

    A class is in a signal if its stem makes up a fifth of the signal's energy; rows sum to 1, the last is "Noise". What
    comes after the `scenes` are the recordings as they are, see `as_they_are`.
    """
    of_recipes = index < scenes and np.random.default_rng([seed, index, 3]).random() >= REAL
    if index < scenes:
        settings = (seed, index, "" if of_recipes else recordings, ALONE)
        labels = scene_of(*settings)[0]
        signals, shares, mixture = map(torch.from_numpy, separated(separator, *settings))
    else:
        labels, stems = as_they_are(index - scenes, seed, recordings)
        model = trained_separator(separator)
        mixture = model.level(stems.sum(0, keepdim=True))[0]
        signals, shares = parted(model, mixture, stems)
    classes = torch.zeros(1 + len(signals), len(CLASS_TEXTS))
    for stem, label in enumerate(labels):
        classes[0, CLASSES.index(label)] = 1
        classes[1:, CLASSES.index(label)] = (shares[:, stem] >= 0.2).float()
    classes[:, -1] = classes.sum(1) == 0
    return torch.cat([mixture[None], signals]), classes / classes.sum(1, keepdim=True), of_recipes


def as_they_are(number, seed, recordings):
    """Labels and stems (S, 128000): first each recording for training alone, then two at once, equally loud.

    The two are of different classes, one at most an ambience; classes of many sources are likelier.
    """
    rows = training_rows(recordings)
    if number < len(rows):
        chosen = [rows[number]]
    else:
        rng, shares = np.random.default_rng([seed, number, 4]), pair_classes(recordings)
        weights, labels = np.array(list(shares.values())), AMBIENCES
        while set(labels) <= set(AMBIENCES):
            labels = rng.choice(list(shares), 2, replace=False, p=weights / weights.sum()).tolist()
        chosen = [rng.choice([row for row in rows if label_of(row) == label]) for label in labels]
    clips = [load_clip(Path(recordings) / row["filename"]) for row in chosen]
    if len(clips) > 1:
        clips = [levelled(clip) for clip in clips]
    return [label_of(row) for row in chosen if label_of(row) != NOISE], torch.stack(clips)


@lru_cache(maxsize=1)
def training_rows(folder):
    return [row for row in read_table(folder) if row["split"] == "train"]


def pair_classes(folder):
    """{class: weight} of the classes of which pairs can be made; none where there are no two, or only ambiences."""
    shares = {label: share for label, share in opened(folder).shares.items() if label != NOISE}
    return shares if len(shares) > 1 and not set(shares) <= set(AMBIENCES) else {}


@torch.no_grad()
def features_of(clap, make, count, num_workers, path, settings):
    """{"pooled" (N, 1 + M, H) of the trunk, "embeds" (N, 1 + M, D), "classes" (N, 1 + M, C + 1), "of_recipes" (N,)}.

    make(index): as `heard`; N is count. Kept in the file `path`, every CHUNK of them: an interrupted run goes on there.
    Raises SystemExit where the file is of other settings.
    """
    kept = {"settings": settings, "parts": []}
    if path.exists():
        kept = torch.load(path, map_location="cpu", weights_only=True)
        if kept["settings"] != settings:
            raise SystemExit(f"{path} was made with {kept['settings']}, not {settings}: remove it to start anew")
    pooled = []
    hook = clap.audio_projection.register_forward_pre_hook(lambda _, inputs: pooled.append(inputs[0]))
    starts = range(CHUNK * len(kept["parts"]), count, CHUNK)
    with tqdm(desc="features", total=count, initial=starts.start, unit="scene", mininterval=1) as progress:
        for start in starts:
            part = []
            items = Items(make, start, min(start + CHUNK, count))
            for clips, classes, of_recipes in DataLoader(items, batch_size=4, num_workers=num_workers):
                embeds = clap.encode_audio(clips.flatten(0, 1).to(DEVICE)).cpu().unflatten(0, clips.shape[:2])
                hidden = pooled.pop().cpu().unflatten(0, clips.shape[:2])
                part.append({"pooled": hidden, "embeds": embeds, "classes": classes, "of_recipes": of_recipes})
                progress.update(len(clips))
            kept["parts"].append(joined(part))
            with write_beside(path) as partial_path:
                torch.save(kept, partial_path)
    hook.remove()
    return joined(kept["parts"])


def joined(parts):
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@torch.no_grad()
def named_right(clap, level, texts, recordings):
    """Share of recordings [(labels, clip (T,))] whose embedding is nearest to the text of their class."""
    known = [(CLASSES.index(labels[0]), level(clip[None]).to(DEVICE)) for labels, clip in recordings if labels]
    nearest = [(clap.encode_audio(clip) @ texts[:-1].T).argmax().item() for _, clip in known]
    return np.mean([name == truth for name, (truth, _) in zip(nearest, known, strict=True)])


def main():
    parser = training_parser(__doc__, trains="clap/", scenes=5000, batch_size=256, lr=1e-3)
    parser.add_argument("--separator", required=True, help="folder of the trained separator")
    parser.add_argument("--recordings", required=True, help="folder made by soundscapes/prepare_recordings.py")
    parser.add_argument("--steps", type=integer(1), default=1500, help="of the projection")
    parser.add_argument("--keep", type=number(0), default=100.0, help="weight of holding embeddings of recipes")
    args = parser.parse_args()
    try:
        opened(args.recordings)
        tests = single_recordings(args.recordings)
    except AudioError as error:
        raise SystemExit(f"--recordings {error}") from None

    clap = ClapEncoder.from_pretrained(args.model_dir, subfolder="clap", dtype=torch.float32).to(DEVICE).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.model_dir, subfolder="clap_tokenizer")
    clap.requires_grad_(False)
    texts = clap.encode_text(CLASS_TEXTS, tokenizer)
    level = trained_separator(args.separator).level
    before = named_right(clap, level, texts, tests)

    make = partial(heard, seed=args.seed, scenes=args.scenes, separator=args.separator, recordings=args.recordings)
    settings = {name: getattr(args, name) for name in ("model_dir", "separator", "recordings", "scenes", "seed")}
    alone = len(training_rows(args.recordings))
    count = args.scenes + alone + (2 * alone // 3 if pair_classes(args.recordings) else 0)
    path = Path(args.output_dir) / "projection_features.pt"
    features = features_of(clap, make, count, args.num_workers, path, settings)
    signals = features["classes"].shape[1]
    features["of_recipes"] = features["of_recipes"][:, None].expand(-1, signals)
    features = {name: values.flatten(0, 1).to(DEVICE) for name, values in features.items()}
    first, end, plain = args.scenes * signals, len(features["embeds"]), round(AS_THEY_ARE * args.batch_size)

    def batches(done):
        for step in range(done, args.steps):
            rng = np.random.default_rng([args.seed, step])
            drawn = np.append(rng.integers(first, size=args.batch_size - plain), rng.integers(first, end, size=plain))
            yield {name: values[drawn] for name, values in features.items()}

    def loss_of(batch):
        embeds = F.normalize(clap.audio_projection(batch["pooled"]).float(), dim=-1)
        naming = F.cross_entropy(clap.logit_scale_t.exp() * embeds @ texts.T, batch["classes"], reduction="none")
        weight = torch.where(batch["classes"][:, -1] == 1, UNKNOWN_WEIGHT, 1.0)
        away = 1 - (embeds * batch["embeds"]).sum(-1)
        return (weight * naming).mean() + args.keep * (batch["of_recipes"] * away).mean()

    projection = {"projection": clap.audio_projection.requires_grad_()}
    train("projection", projection, batches, loss_of, args.steps, args.lr, args.output_dir, args.seed, args.bf16)
    after = named_right(clap, level, texts, tests)
    save_part(clap, args.model_dir, "clap")
    print(f"clap: names {before:.1%} of the test recordings before, {after:.1%} after")


if __name__ == "__main__":
    run(main)

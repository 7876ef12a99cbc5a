"""Collects real recordings for the world: python soundscapes/prepare_recordings.py ESC-50 effects --output_dir DIR

Takes ESC-50's archive (of which only ESC-10, as all but that may not be used commercially), ESC-10's own, and folders
with a csv of their files; copies them to DIR/<class>/ with DIR/recordings.csv, as soundscapes/sound/recordings.py reads
them. What may not be passed on under CC0, CC BY, MIT or as public domain is left out and named.
"""

import argparse
import csv
import re
import shutil
from pathlib import Path

from macs.data.labels import read_csv
from macs.files import write_beside
from macs.script import run
from soundscapes.sound.recordings import COLUMNS

# The classes of ESC-10 by their number in ESC-50, as its own archive names them, and the world's name
ESC10 = {
    0: ("001_dog_bark", "dog"),
    10: ("002_rain", "rain"),
    11: ("003_sea_waves", "sea"),
    20: ("004_baby_cry", "baby"),
    38: ("005_clock_tick", "clock"),
    21: ("006_person_sneeze", "sneeze"),
    40: ("007_helicopter", "helicopter"),
    41: ("008_chainsaw", "chainsaw"),
    1: ("009_rooster", "rooster"),
    12: ("010_fire_crackling", "fire"),
}
# The sounds of Blanket (https://github.com/rafaelmardojai/blanket) as its README credits them
BLANKET = {
    "birds": ("bird", "https://freesound.org/people/kvgarlic/sounds/156826/", "kvgarlic", "CC0"),
    "city": ("traffic", "https://freesound.org/people/gezortenplotz/sounds/44796/", "gezortenplotz", "CC BY"),
    "fireplace": ("fire", "https://soundbible.com/1543-Fireplace.html", "ezwa", "public domain"),
    "rain": ("rain", "https://freesound.org/people/alex36917/sounds/524605/", "alex36917", "CC BY"),
    "storm": ("thunder", "https://freesound.org/people/digifishmusic/sounds/41739/", "Digifish music", "CC BY"),
    "stream": ("stream", "https://freesound.org/people/gluckose/sounds/333987/", "gluckose", "CC0"),
    "summer-night": (
        "crickets",
        "https://soundbible.com/2083-Crickets-Chirping-At-Night.html",
        "Lisa Redfern",
        "public domain",
    ),
    "train": ("train", "https://freesound.org/people/SDLx/sounds/259988/", "SDLx", "CC BY 3.0"),
    "waves": ("sea", "https://freesound.org/people/Luftrum/sounds/48412/", "Luftrum", "CC BY"),
    "wind": ("wind", "https://freesound.org/people/felix.blume/sounds/217506/", "felix.blume", "CC0"),
}
UNKNOWN = ("", "", "not said anywhere")  # source, author and licence of a clip without credit
FREE = re.compile(r"CC0|CC.BY( \d.*)?|MIT\b.*|public domain", re.I)
CREDIT = re.compile(
    r"\[([\w-]+)\.(?:ogg|wav)\].*?derived from \[?(.*?)\]? ?\((http\S*)\) by \*?(.*?)\*? [(\[]+(CC.*?)\]", re.I
)


def credits(path):
    """{name of a clip in lower case: (source, author, licence)} of ESC-10's LICENSES.md or ESC-50's LICENSE."""
    text = path.read_text(encoding="utf-8", errors="replace")
    return {clip.lower(): (f"{title} {url}", *rest) for clip, title, url, *rest in CREDIT.findall(text)}


def esc50(folder):
    licences = credits(folder / "LICENSE")
    for _, entry in read_csv(folder / "meta" / "esc50.csv")[1]:
        if entry["esc10"] == "True":
            clip = entry["filename"].rsplit("-", 1)[0].lower()
            path = folder / "audio" / entry["filename"]
            yield path, ESC10[int(entry["target"])][1], f"fold{entry['fold']}", *licences.get(clip, UNKNOWN)


def esc10(folder):
    licences = credits(folder / "LICENSES.md")
    for directory, label in ESC10.values():
        for path in sorted((folder / directory).glob("*.ogg")):
            yield path, label, f"fold{path.name[0]}", *licences.get(path.stem.lower(), UNKNOWN)


def blanket(folder):
    for name, (label, *credit) in BLANKET.items():
        if (folder / f"{name}.ogg").is_file():
            yield folder / f"{name}.ogg", label, "blanket", *credit


def listed(folder):
    """Files with a csv: the columns file, class, source (the package), licence; a column with «credit», if there is."""
    [table] = folder.glob("*.csv")
    for _, entry in read_csv(table)[1]:
        credit = next((value for column, value in entry.items() if "credit" in column), entry["file"])
        yield (
            folder / entry["file"],
            entry["class"],
            entry["source"],
            f"{entry['source']}: {credit}",
            entry["source"],
            entry["licence"],
        )


def files_of(folder):
    """(path, class, package, source, author, licence) of each file of a folder. SystemExit where nobody knows it."""
    folder = Path(folder)
    if (folder / "meta" / "esc50.csv").is_file():
        return list(esc50(folder))
    if (folder / "001_dog_bark").is_dir():
        return list(esc10(folder))
    if (folder / "summer-night.ogg").is_file():
        return list(blanket(folder))
    if len(list(folder.glob("*.csv"))) == 1:
        return list(listed(folder))
    raise SystemExit(
        f"{folder}: expected ESC-50 (meta/esc50.csv), ESC-10 (001_dog_bark), Blanket's sounds (summer-night.ogg) or "
        "one csv with the columns file, class, source, licence"
    )


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", help="where the recordings are")
    parser.add_argument("--output_dir", type=Path, required=True, help="receives them, by class, and recordings.csv")
    parser.add_argument(
        "--test",
        nargs="*",
        default=["fold5"],
        help="packages kept for testing: folds of ESC-10, blanket, sources in a csv (default: %(default)s)",
    )
    args = parser.parse_args(argv)

    try:
        files = [file for folder in args.folders for file in files_of(folder)]
    except ValueError as error:  # a csv in another encoding
        raise SystemExit(str(error)) from None
    if unknown := sorted(set(args.test) - {package for _, _, package, *_ in files}):
        raise SystemExit(f"--test {unknown[0]}: the packages are {', '.join(sorted({file[2] for file in files}))}")
    rows = []
    for path, label, package, source, author, licence in files:
        if not FREE.match(licence):
            print(f"{path}: left out, its licence is {licence}")
            continue
        name = f"{label}/{package}-{path.name}"
        copy(path, args.output_dir / name)
        rows.append((name, label, source, author, licence, "test" if package in args.test else "train"))
    with write_beside(args.output_dir / "recordings.csv") as partial:
        with open(partial, "w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])
    print(f"{args.output_dir}: {len(rows)} recordings, {sum(row[-1] == 'test' for row in rows)} of them for testing")


def copy(path, target):
    """Copies a file beside its target, then renames; one of the same size that is there is left alone."""
    if not path.is_file():
        raise SystemExit(f"{path}: listed, but there is no such file")
    if not target.is_file() or target.stat().st_size != path.stat().st_size:
        with write_beside(target) as partial:
            shutil.copyfile(path, partial)


if __name__ == "__main__":
    run(main)

"""Labels of the clips: what the metadata files say, and the texts CLAP reads."""

import csv
import io
import re
from pathlib import Path

from macs.files import read_text

ID_COLUMNS = ("fname", "filename")
LABEL_COLUMNS = ("labels", "event_labels")

# Labels of FSD50K that the original leaves out: nodes of the AudioSet ontology that gather sounds more than they name
# one, so that «The sound of <node>» tells CLAP little. Its own list, so that the texts are the same.
DROPPED_LABELS = frozenset(
    {
        "human sounds",
        "human voice",
        "whistling",
        "respiratory sounds",
        "human locomotion",
        "digestive",
        "hands",
        "heart sounds and heartbeat",
        "otoacoustic emission",
        "human group actions",
        "generic impact sounds",
        "surface contact",
        "deformable shell",
        "onomatopoeia",
        "silence",
        "other sourceless",
        "domestic animals and pets",
        "livestock and farm animals and working animals",
        "wild animals",
        "vehicle",
        "domestic sounds and home sounds",
        "mechanisms",
        "tools",
        "miscellaneous sources",
        "specific impact sounds",
        "sound reproduction",
        "acoustic environment",
        "musical instrument",
        "music genre",
        "musical concepts",
        "music role",
        "music mood",
    }
)
PADDING = "Noise"


def label_names(text):
    """The labels in a comma-separated cell, in order: "Domestic animals, pets,Squeak" holds two.

    A comma followed by a space belongs to the label (AudioSet's names contain commas); empty names are left out.
    """
    return [name.strip() for name in re.split(r",(?! )", text) if name.strip()]


def read_csv(path):
    """A csv, or where the first line has tabs a tsv, with a header: (columns, [(line number, {column: cell})]).

    Raises OSError, ValueError: text that is not in UTF-8, a quote that is left open.
    """
    text = read_text(path)
    table = csv.DictReader(io.StringIO(text), delimiter="\t" if "\t" in text.partition("\n")[0] else ",")
    try:
        return table.fieldnames or [], [(table.line_num, row) for row in table]
    except csv.Error as error:
        raise ValueError(f"{path}, after line {table.line_num}: {error}; is a quote left open?") from None


def read_labels(path):
    """Reads a metadata file into {id: [labels]}, in the file's order; an id without labels has an empty list.

    Takes FSD50K's collection_*.csv (fname, labels, mids), AudioSet.csv, and the tab-separated LLP, AVVP and Landscape
    files (filename, event_labels), in any order of columns. An id with several rows (AVVP_eval_*.csv: one row for
    each event) gets the labels of all of them, each once. Raises FileNotFoundError, or ValueError for other columns.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such label file. Expected a CSV with the columns fname and labels, or "
            "filename and event_labels."
        )
    columns, rows = read_csv(path)
    id_column = next((name for name in ID_COLUMNS if name in columns), None)
    label_column = next((name for name in LABEL_COLUMNS if name in columns), None)
    if id_column is None or label_column is None:
        raise ValueError(
            f"{path}: expected the columns fname and labels (FSD50K), or filename and event_labels "
            f"(LLP, AudioSet, Landscape), but the first line has {columns}."
        )
    labels = {}
    for line, row in rows:
        if not row[id_column] or row[label_column] is None:
            raise ValueError(
                f"{path}, line {line}: expected {len(columns)} columns {columns}, "
                f"got {[value for value in row.values() if value is not None]}."
            )
        names = labels.setdefault(row[id_column], [])
        names += [name for name in label_names(row[label_column]) if name not in names]
    return labels


def read_captions(path):
    """Reads {id: caption} from a CSV with the columns filename and caption.

    A label file, as `read_labels` takes it, will do as well: its labels become "dog, rain". Raises what that raises.
    """
    path = Path(path)
    if path.is_file():
        columns, rows = read_csv(path)
        if {"filename", "caption"} <= set(columns):
            return {row["filename"]: row["caption"] for _, row in rows}
    return {clip_id: ", ".join(names) for clip_id, names in read_labels(path).items()}


def label_texts(labels, dataset_name, num_sources=6):
    """The texts of one clip for CLAP, «The sound of <label>», padded with the bare word «Noise» to a fixed number.

    FSD50K: up to 5 labels in lower case, without DROPPED_LABELS. Other sets: the first num_sources // 2 labels (one at
    least), so that the two clips of a mixture have one for each signal. Underscores become spaces.
    """
    names = [label.replace("_", " ") for label in labels]
    count = max(num_sources // 2, 1)
    if dataset_name == "FSD50K":
        names = [name for name in map(str.lower, names) if name not in DROPPED_LABELS]
        count = 5
    texts = [f"The sound of {name}" for name in names[:count]]
    return texts + [PADDING] * (count - len(texts))

"""LLP -> {video: [n_0, ..., n_9]}, n_i the number of events both audible and visible in second i (LLP_*.json).

From the annotations of the validation and test videos (--audio_events, --visual_events, --videos), or, for all videos,
from the probabilities of an audio-visual video parsing model (--predictions).
"""

import argparse
import csv
import io
import sys
from pathlib import Path

import numpy as np

from download.preprocess_audioset import SECONDS, write_json
from macs.data.labels import read_labels
from macs.files import read_text
from macs.options import number
from macs.script import run

COLUMNS = ["filename", "onset", "offset", "event_labels"]


def read_events(path):
    """{video: [set of labels in each second]} of AVVP_eval_{audio,visual}.csv (onset, offset in whole seconds)."""
    events = {}
    rows = csv.reader(io.StringIO(read_text(path)), delimiter="\t")
    if (header := next(rows, [])) != COLUMNS:
        raise ValueError(f"{path}: expected the columns {', '.join(COLUMNS)}, tab-separated, got {header}.")
    for row in rows:
        try:
            video, onset, offset, label = row
            onset, offset = int(onset), int(offset)
        except ValueError:
            raise ValueError(f"{path}, line {rows.line_num}: expected {', '.join(COLUMNS)}, got {row}.") from None
        of_video = events.setdefault(video, [set() for _ in range(SECONDS)])
        for second in range(max(onset, 0), min(offset, SECONDS)):  # onset >= offset: a slip, no second at all
            of_video[second].add(label)
    return events


def counts_of_annotations(videos, audible, visible):
    """{YouTube id: |audible ∩ visible| per second}; a video without annotations on one side has no such second."""
    nothing = [set()] * SECONDS
    return {
        video[:11]: [
            len(heard & seen)
            for heard, seen in zip(audible.get(video, nothing), visible.get(video, nothing), strict=True)
        ]
        for video in videos
    }


def counts_of_predictions(path, threshold=0.5):
    """The same from an npz with `ids` (N,), `audio` and `visual` (N, 10, classes): probabilities for each second."""
    with np.load(path, allow_pickle=False) as arrays:
        if missing := {"ids", "audio", "visual"} - set(arrays.files):
            raise ValueError(
                f"{path}: expected the arrays ids, audio and visual, but {', '.join(sorted(missing))} is missing."
            )
        ids, audio, visual = arrays["ids"], arrays["audio"], arrays["visual"]
    if audio.shape != visual.shape or audio.ndim != 3 or audio.shape[:2] != (len(ids), SECONDS):
        raise ValueError(
            f"{path}: expected audio and visual as ({len(ids)}, {SECONDS}, classes), got {audio.shape} "
            f"and {visual.shape}."
        )
    if not (0 <= min(audio.min(), visual.min()) and max(audio.max(), visual.max()) <= 1):
        raise ValueError(f"{path}: expected probabilities from 0 to 1; are these logits?")
    counts = ((audio >= threshold) & (visual >= threshold)).sum(-1)
    return {str(id)[:11]: row for id, row in zip(ids, counts.tolist(), strict=True)}


def read_annotations(videos_path, audio_events, visual_events):
    """The counts of the annotations in these files; says of which videos there are none."""
    videos = list(read_labels(videos_path))
    audible, visible = read_events(audio_events), read_events(visual_events)
    for path, events in ((audio_events, audible), (visual_events, visible)):
        if missing := [video for video in videos if video not in events]:
            print(
                f"{path}: no events of {len(missing)} videos, so none of their events is both heard and seen: "
                f"{', '.join(missing[:5])} ..."
            )
    return counts_of_annotations(videos, audible, visible)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="the json to write")
    parser.add_argument("--videos", type=Path, help="list of the videos, such as AVVP_test_pd.csv")
    parser.add_argument("--audio_events", type=Path, default="asset/AVVP_eval_audio.csv", help="annotations, heard")
    parser.add_argument("--visual_events", type=Path, default="asset/AVVP_eval_visual.csv", help="annotations, seen")
    parser.add_argument("--predictions", type=Path, help="npz of an AVVP model instead of annotations")
    parser.add_argument("--threshold", type=number(0, 1), default=0.5, help="probability from which an event counts")
    args = parser.parse_args(argv)
    if (args.videos is None) == (args.predictions is None):
        parser.error("give either --videos (for annotations) or --predictions")

    try:
        if args.predictions:
            counts = counts_of_predictions(args.predictions, args.threshold)
        else:
            counts = read_annotations(args.videos, args.audio_events, args.visual_events)
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    write_json(counts, args.output)
    none = sum(max(row) == 0 for row in counts.values())
    print(f"{args.output}: {len(counts)} videos; in {none} of them no event is heard and seen at the same time")


if __name__ == "__main__":
    run(main)

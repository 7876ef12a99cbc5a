"""AudioSet's strong labels -> {video: [seconds in which the most events sound at once]} (audioset_eval_frames.json)."""

import argparse
import csv
import io
import json
import sys
from collections import defaultdict
from pathlib import Path

from macs.files import read_text, write_beside
from macs.script import run

COLUMNS = ["segment_id", "start_time_seconds", "end_time_seconds", "label"]
SECONDS = 10


def read_events(path):
    """{YouTube id: [(onset, offset, label)]}, in s, of a file of strong labels. Raises ValueError for other columns."""
    rows = csv.reader(io.StringIO(read_text(path)), delimiter="\t")
    if (header := next(rows, [])) != COLUMNS:
        raise ValueError(f"{path}: expected the columns {', '.join(COLUMNS)}, tab-separated, got {header}.")
    events, segments = defaultdict(list), {}
    for row in rows:
        try:
            segment, onset, offset, label = row
            onset, offset = float(onset), float(offset)
        except ValueError:
            raise ValueError(f"{path}, line {rows.line_num}: expected {', '.join(COLUMNS)}, got {row}.") from None
        youtube_id = segment.rpartition("_")[0]  # <id>_<start in ms>; ids contain underscores themselves
        if segments.setdefault(youtube_id, segment) != segment:
            raise ValueError(
                f"{path}, line {rows.line_num}: {youtube_id} has two segments, {segment} and "
                f"{segments[youtube_id]}; expected one of each video."
            )
        events[youtube_id].append((onset, offset, label))
    return events


def events_at_once(events, seconds=SECONDS):
    """For each second i, max over t in [i, i + 1) of the number of labels with onset <= t < offset.

    That maximum is reached at t = i or where an event begins.
    """

    def at(time):
        return len({label for onset, offset, label in events if onset <= time < offset})

    return [max(map(at, [i, *(onset for onset, _, _ in events if i < onset < i + 1)])) for i in range(seconds)]


def best_seconds(counts, min_events=1):
    """Those of {second: number of events} with the highest number, in the given order; none if it is too low."""
    most = max(counts.values(), default=0)
    return [second for second, count in counts.items() if count == most >= min_events]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--events", type=Path, default="asset/audioset_eval_strong.tsv", help="the strong labels")
    parser.add_argument("--output", type=Path, required=True, help="the json to write")
    args = parser.parse_args(argv)

    try:
        events_of = read_events(args.events)
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    frames = {video: best_seconds(dict(enumerate(events_at_once(events)))) for video, events in events_of.items()}
    write_json(frames, args.output)
    print(f"{args.output}: {len(frames)} videos, {sum(map(len, frames.values()))} best seconds in all")


def write_json(content, path):
    with write_beside(path) as partial:
        partial.write_text(json.dumps(content))


if __name__ == "__main__":
    run(main)

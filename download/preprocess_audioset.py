"""AudioSet's strong labels -> {video: [seconds in which the most events sound at once]} (audioset_eval_frames.json)."""

import argparse
import csv
import json
import os
import sys
from collections import defaultdict
from pathlib import Path

COLUMNS = ["segment_id", "start_time_seconds", "end_time_seconds", "label"]
SECONDS = 10


def read_events(path):
    """{YouTube id: [(onset, offset, label)]}, in s, of a file of strong labels. Raises ValueError for other columns."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, delimiter="\t")
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


def best_seconds(counts):
    """The seconds with the highest count, ascending; none if nothing sounds at all."""
    return [second for second, count in enumerate(counts) if count == max(counts) > 0]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--events", type=Path, default="asset/audioset_eval_strong.tsv", help="the strong labels")
    parser.add_argument("--output", type=Path, required=True, help="the json to write")
    args = parser.parse_args(argv)

    try:
        events_of = read_events(args.events)
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    frames = {video: best_seconds(events_at_once(events)) for video, events in events_of.items()}
    write_json(frames, args.output)
    print(f"{args.output}: {len(frames)} videos, {sum(map(len, frames.values()))} best seconds in all")


def write_json(content, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    partial.write_text(json.dumps(content))
    os.replace(partial, path)


if __name__ == "__main__":
    main()

import warnings

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader

from macs.audio import AudioError
from macs.data.clips import Clips, audio_folder, collate, find_audio, find_stems, label_files, labels_of, with_labels
from macs.training.loop import EpochSampler


@pytest.fixture
def folder(tmp_path):
    """Recordings of 0.5 s and 3 s (44.1 kHz, stereo), whose samples differ everywhere."""
    rng = np.random.default_rng(0)
    for i in range(6):
        soundfile.write(tmp_path / f"short{i}.wav", rng.uniform(0.1, 0.2, 8000) * rng.choice([-1, 1], 8000), 16000)
        soundfile.write(tmp_path / f"long{i}.wav", 0.1 * rng.standard_normal((132300, 2)), 44100)
    return tmp_path


def clips(folder, seed=0, seconds=1):
    paths = find_audio(folder)
    return Clips(paths, torch.arange(len(paths))[:, None].expand(-1, 2), seconds * 16000, seed)


def batches(dataset, num_workers=0, batch_size=4):
    loader = DataLoader(dataset, batch_size, num_workers=num_workers, collate_fn=collate)
    return torch.cat([batch["waveform"] for batch in loader])


def test_excerpts_depend_on_seed_epoch_and_index_alone(folder):
    dataset = clips(folder)
    first = batches(dataset)
    assert first.shape == (12, 16000)
    assert torch.equal(first, batches(clips(folder), num_workers=2, batch_size=3))
    dataset.set_epoch(1)
    second = batches(dataset)
    assert not any(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    dataset.set_epoch(0)
    assert torch.equal(first, batches(dataset))
    assert not torch.equal(first, batches(clips(folder, seed=1)))


def test_long_recordings_are_cropped_and_short_ones_padded_at_random_offsets(folder):
    dataset = clips(folder)
    starts = []
    for i, path in enumerate(dataset.paths):
        waveform = dataset[i]["waveform"]
        if path.stem.startswith("long"):
            assert (waveform != 0).all()  # no padding
        else:
            (sounding,) = torch.nonzero(waveform, as_tuple=True)
            starts.append(sounding[0].item())
            assert torch.equal(sounding, torch.arange(starts[-1], starts[-1] + 8000))
            whole = torch.from_numpy(soundfile.read(path, dtype="float32")[0])
            assert torch.equal(waveform[sounding], whole)
    assert len(set(starts)) == 6


def test_what_cannot_be_decoded_is_skipped_and_reported(folder):
    (folder / "long1.wav").write_bytes(b"not audio at all")
    (folder / "long2.wav").write_bytes(b"")
    dataset = clips(folder)
    loader = DataLoader(dataset, 4, collate_fn=collate, num_workers=1)
    waveforms = 0
    messages = []
    for batch in loader:
        waveforms += len(batch["waveform"])
        messages += batch["skipped"]
    assert waveforms == 12
    assert {message.split(": ")[0].rsplit("/")[-1] for message in messages} == {"long1.wav", "long2.wav"}
    taken = dataset[1]  # the place of long1 and long2 is taken by long3, with its texts
    assert taken["text_ids"].tolist() == [3, 3]


def test_a_folder_without_any_decodable_recording_is_an_error(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.wav").write_bytes(b"broken")
    with pytest.raises(AudioError, match="3 recordings in a row could not be read"):
        clips(tmp_path)[0]


def test_missing_and_empty_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        find_audio(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("no recording")
    with pytest.raises(FileNotFoundError, match="expected recordings"):
        find_audio(tmp_path)
    for name in ("b.mp4", "a.M4A", ".c.wav"):  # what phones record is taken; hidden files are not
        (tmp_path / name).touch()
    assert find_audio(tmp_path) == [tmp_path / "a.M4A", tmp_path / "b.mp4"]


def test_folders_and_label_files_of_the_sets(tmp_path):
    assert audio_folder(tmp_path, "FSD50K") == tmp_path / "FSD50K"
    assert audio_folder(tmp_path, "LLP", "test") == tmp_path / "LLP/test/audio"
    with pytest.raises(FileNotFoundError, match="collection_dev.csv: no such file; name the set's label files"):
        label_files(tmp_path, "FSD50K")
    (tmp_path / "FSD50K").mkdir()
    for name in ("collection_dev.csv", "collection_eval.csv"):
        (tmp_path / "FSD50K" / name).touch()
    assert len(label_files(tmp_path, "FSD50K")) == 2


def test_labels_are_found_by_name_and_by_youtube_id(tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text(
        "filename\tevent_labels\n-_gaZzFfzDQ\tRain\nBjCEufrlXm4_20_30\tSpeech,Dog\nCI0jX5TMs0Q#457#467\texplosion\n"
        "CI0jX5TMs0Q#1#11\tthunder\n"
    )
    names = ["-_gaZzFfzDQ_517000_527000", "BjCEufrlXm4", "CI0jX5TMs0Q#457#467", "CI0jX5TMs0Q#1#11"]
    paths = [tmp_path / f"{name}.wav" for name in names]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert labels_of(paths, [table]) == [["Rain"], ["Speech", "Dog"], ["explosion"], ["thunder"]]
    with pytest.warns(UserWarning, match="1 of 5 recordings have no row"):
        assert labels_of([*paths, tmp_path / "64760.wav"], [table])[-1] == []
    with pytest.raises(ValueError, match="there is none for any of the 1, such as 64760.wav"):
        labels_of([tmp_path / "64760.wav"], [table])


def test_recordings_without_labels_can_be_left_out(tmp_path):
    (tmp_path / "dev.csv").write_text("fname,labels,mids\n64760,Electric_guitar,/m/02sgy\n192373,,\n")
    (tmp_path / "eval.csv").write_text("fname,labels,mids\n37199,Rain,/m/06mb1\n175151,,\n")
    paths = [tmp_path / f"{name}.wav" for name in ("37199", "175151", "192373", "64760", "1")]  # 1 has no row
    files = [tmp_path / "dev.csv", tmp_path / "eval.csv"]
    assert with_labels(paths, files) == [paths[0], paths[3]]
    with pytest.raises(ValueError, match="none of the 2 has any, such as 175151.wav"):
        with_labels(paths[1:3], files)


def test_stems_belong_to_the_scene_whose_name_they_begin_with(tmp_path):
    (tmp_path / "audio").mkdir()
    (tmp_path / "stems").mkdir()
    for name in ("audio/a.wav", "audio/a_b.wav", "audio/c.wav", "stems/a_dog.wav", "stems/a_car_horn.wav",
                 "stems/a_b_dog.wav", "stems/a_b_car_horn.wav", "stems/a_b_rain.wav", "stems/c_dog.wav"):  # fmt: skip
        (tmp_path / name).touch()
    stems = find_stems(find_audio(tmp_path / "audio"))
    found = {path.stem: sorted(stem.stem for stem in of_it) for path, of_it in stems.items()}
    assert found == {"a": ["a_car_horn", "a_dog"], "a_b": ["a_b_car_horn", "a_b_dog", "a_b_rain"]}  # c has but one


def test_epoch_sampler_draws_every_index_once_and_leaves_the_global_generator_alone():
    sampler = EpochSampler(50, seed=3)
    state = torch.get_rng_state()
    first = list(sampler)
    assert sorted(first) == list(range(50))
    sampler.set_epoch(1)
    assert list(sampler) != first
    sampler.set_epoch(0)
    assert list(sampler) == first == list(EpochSampler(50, seed=3))
    assert torch.equal(state, torch.get_rng_state())

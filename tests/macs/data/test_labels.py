import pytest

from macs.data.labels import label_names, label_texts, read_captions, read_labels

# First rows and the awkward ones of the real files.
FILES = {
    "collection_dev.csv": (
        "fname,labels,mids\n64760,Electric_guitar,/m/02sgy\n"
        '63900,"Walk_and_footsteps,Slam","/m/07pbtc8,/m/07rjzl8"\n192373,,\n',
        {"64760": ["Electric_guitar"], "63900": ["Walk_and_footsteps", "Slam"], "192373": []},
    ),
    "LLP.csv": (
        "filename\tevent_labels\nBjCEufrlXm4_20_30\tSpeech,Dog\n--12UOziMF0_30_40\tFrying_(food)\n",
        {"BjCEufrlXm4_20_30": ["Speech", "Dog"], "--12UOziMF0_30_40": ["Frying_(food)"]},
    ),
    "AudioSet.csv": (
        'filename,event_labels\n--4gqARaEJE,"Domestic animals, pets,Squeak,Dog,Animal"\n--BfvyPmVMo,Hammer\n',
        {"--4gqARaEJE": ["Domestic animals, pets", "Squeak", "Dog", "Animal"], "--BfvyPmVMo": ["Hammer"]},
    ),
    "Landscape.csv": (
        "event_labels\tfilename\nexplosion\tCI0jX5TMs0Q#457#467\n",
        {"CI0jX5TMs0Q#457#467": ["explosion"]},
    ),
    "AVVP_eval_audio.csv": (
        "filename\tonset\toffset\tevent_labels\nKSRjje7GH44_60_70\t8\t10\tBlender\n"
        "KSRjje7GH44_60_70\t0\t8\tSpeech\nKSRjje7GH44_60_70\t9\t10\tBlender\n",
        {"KSRjje7GH44_60_70": ["Blender", "Speech"]},
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_every_metadata_file_reads_into_one_form(tmp_path, name):
    text, expected = FILES[name]
    (tmp_path / name).write_text(text)
    assert read_labels(tmp_path / name) == expected


def test_windows_line_ends_and_byte_order_mark_are_read(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_bytes(b"\xef\xbb\xbffname,labels,mids\r\n1,Rain,/m/06mb1\r\n")
    assert read_labels(path) == {"1": ["Rain"]}


def test_a_comma_followed_by_a_space_belongs_to_the_label():
    assert label_names("Dishes, pots, and pans,Whoosh, swoosh, swish,Dog") == [
        "Dishes, pots, and pans",
        "Whoosh, swoosh, swish",
        "Dog",
    ]
    assert label_names("") == []


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("YTID,start_seconds,positive_labels\na,0,b\n", "expected the columns fname and labels"),
        ("", "expected the columns fname and labels"),
        ("filename\tevent_labels\nabc\n", "line 2: expected 2 columns"),
        ("filename\tevent_labels\n\tDog\n", "line 2: expected 2 columns"),
    ],
)
def test_a_file_with_other_columns_is_one_clear_error(tmp_path, text, complaint):
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=complaint) as error:
        read_labels(path)
    assert str(path) in str(error.value)


def test_captions_are_read_or_made_of_labels(tmp_path):
    path = tmp_path / "captions.csv"
    path.write_text('filename,caption\n-a#1,"A dog barking, far away"\nb,Rain\n')
    assert read_captions(path) == {"-a#1": "A dog barking, far away", "b": "Rain"}
    path.write_text("filename\tevent_labels\na\tDomestic animals, pets,Rain\nb\t\n")
    assert read_captions(path) == {"a": "Domestic animals, pets, Rain", "b": ""}


@pytest.mark.parametrize("read", [read_labels, read_captions])
def test_text_that_is_not_utf_8_names_the_file(tmp_path, read):
    path = tmp_path / "labels.csv"
    text = "filename\tevent_labels\na\tgrüne Frösche\n"
    for encoding in ("latin-1", "utf-16", "utf-16-le"):
        path.write_bytes(text.encode(encoding))
        with pytest.raises(ValueError, match=r"labels\.csv: expected text in UTF-8"):
            read(path)
    path.write_bytes(text.encode("utf-8-sig"))
    assert read_labels(path) == {"a": ["grüne Frösche"]}
    path.write_text('fname,labels\na,"' + "x" * 200_000)  # a quote that never ends
    with pytest.raises(ValueError, match=r"labels\.csv, after line 1: .*is a quote left open"):
        read_labels(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.csv"):
        read_labels(tmp_path / "nowhere.csv")


def test_fsd50k_texts_are_five_in_lower_case_without_the_labels_that_gather_sounds():
    labels = ["Human_voice", "Walk_and_footsteps", "Musical_instrument", "Vehicle", "Human_sounds", "Car"]
    assert label_texts(labels, "FSD50K") == [
        "The sound of walk and footsteps",
        "The sound of car",
        *["Noise"] * 3,  # the bare word
    ]
    assert label_texts(list("abcdefg"), "FSD50K") == [f"The sound of {name}" for name in "abcde"]
    assert label_texts([], "FSD50K") == ["Noise"] * 5
    gathering = ["Domestic_animals_and_pets", "Hands", "Tools", "Whistling", "Domestic_sounds_and_home_sounds"]
    naming = ["Animal", "Music", "Noise"]
    assert label_texts(gathering + naming, "FSD50K") == [
        "The sound of animal",
        "The sound of music",
        "The sound of noise",
        "Noise",
        "Noise",
    ]


@pytest.mark.parametrize("dataset_name", ["LLP", "AudioSet", "Landscape"])
def test_other_sets_give_half_as_many_texts_as_signals(dataset_name):
    labels = ["Domestic animals, pets", "Frying_(food)", "Animal", "Dog"]
    assert label_texts(labels, dataset_name) == [
        "The sound of Domestic animals, pets",
        "The sound of Frying (food)",
        "The sound of Animal",
    ]
    assert label_texts(["Dog", "Rain"], dataset_name, num_sources=1) == ["The sound of Dog"]
    assert label_texts(["Dog"], dataset_name, num_sources=4) == ["The sound of Dog", "Noise"]

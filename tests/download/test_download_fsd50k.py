import hashlib
import io
import json
import random
import shutil
import struct
import subprocess
import zipfile
from pathlib import Path

import pytest

from download import download_assets, download_fsd50k
from download.split_zip import open_split_zip
from flaky_server import md5

pytestmark = pytest.mark.usefixtures("no_waiting")


def split_zip(path, members, num_parts):
    """Writes `members` as a split archive (APPNOTE.TXT 8.5): a marker, then one archive cut into parts, whose entries
    count their offsets from the beginning of the part in which they begin. Returns the parts."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        entries, directory = archive.infolist(), archive.start_dir
    data = bytearray(b"PK\7\x08" + buffer.getvalue())
    starts = [part * (directory // num_parts) for part in range(num_parts)]

    def place(offset):
        part = max(part for part in range(num_parts) if starts[part] <= offset)
        return part, offset - starts[part]

    position = 4 + directory
    for entry in entries:
        part, offset = place(4 + entry.header_offset)
        struct.pack_into("<H", data, position + 34, part)
        struct.pack_into("<L", data, position + 42, offset)
        position += 46 + len(entry.filename)
    part, offset = place(4 + directory)
    struct.pack_into(
        "<4H2L", data, position + 4, num_parts - 1, part, len(entries), len(entries), position - 4 - directory, offset
    )
    pieces = [bytes(data[a:b]) for a, b in zip(starts, [*starts[1:], len(data)], strict=True)]
    names = [path.with_suffix(f".z{number:02}") for number in range(1, num_parts)] + [path.with_suffix(".zip")]
    for name, piece in zip(names, pieces, strict=True):
        name.write_bytes(piece)
    return names


def wav_bytes(number):
    noise = random.Random(number).randbytes(20_000)
    return (
        b"RIFF"
        + struct.pack("<L", 20_036)
        + b"WAVEfmt "
        + struct.pack("<LHHLLHH", 16, 1, 1, 44100, 88200, 2, 16)
        + b"data"
        + struct.pack("<L", 20_000)
        + noise
    )


MEMBERS = {f"FSD50K.dev_audio/{number}.wav": wav_bytes(number) for number in range(12)}


@pytest.mark.parametrize("num_parts", [1, 2, 5])
def test_split_archives_are_read_in_place(tmp_path, num_parts):
    parts = split_zip(tmp_path / "a.zip", MEMBERS, num_parts)
    with open_split_zip(parts) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == MEMBERS
    if num_parts > 1:
        with pytest.raises(zipfile.BadZipFile):
            open_split_zip(parts[1:])


@pytest.mark.skipif(not shutil.which("zip"), reason="needs Info-ZIP's zip")
def test_archives_split_by_info_zip_are_read_in_place(tmp_path):
    for name, data in MEMBERS.items():
        (tmp_path / Path(name).name).write_bytes(data)
    names = [Path(name).name for name in MEMBERS]
    subprocess.run(["zip", "-q", "-s", "64k", "a.zip", *names], cwd=tmp_path, check=True)
    parts = sorted(tmp_path.glob("a.z*"), key=lambda path: (path.suffix == ".zip", path.suffix))
    assert len(parts) > 2
    with open_split_zip(parts) as archive:
        assert {f"FSD50K.dev_audio/{name}": archive.read(name) for name in archive.namelist()} == MEMBERS


def test_fsd50k_from_a_flaky_server_to_wavs(server, tmp_path, capsys):
    archives = [
        *split_zip(tmp_path / "FSD50K.dev_audio.zip", MEMBERS, 3),
        *split_zip(tmp_path / "FSD50K.eval_audio.zip", {"FSD50K.eval_audio/99.wav": wav_bytes(99)}, 2),
        *split_zip(
            tmp_path / "FSD50K.metadata.zip",
            {"FSD50K.metadata/collection/collection_dev.csv": b"fname,labels,mids\n"},
            1,
        ),
        *split_zip(tmp_path / "FSD50K.doc.zip", {"FSD50K.doc/README": b"not needed"}, 1),
    ]
    server.files = {f"/{path.name}": path.read_bytes() for path in archives}
    server.files["/record"] = json.dumps(
        {
            "files": [
                {
                    "key": path.name,
                    "size": path.stat().st_size,
                    "checksum": md5(path.read_bytes()),
                    "links": {"self": f"{server.url}/{path.name}"},
                }
                for path in archives
            ]
        }
    ).encode()
    server.faults = {
        "/FSD50K.dev_audio.z01": ["drop"],
        "/FSD50K.dev_audio.zip": ["garbled"],
        "/FSD50K.eval_audio.zip": [429, 503, 503],
    }
    arguments = ["--data_dir", str(tmp_path), "--interval", "0"]
    root = tmp_path / "FSD50K"

    # an archive that fails this time holds back its own part only
    assert download_fsd50k.main([*arguments, "--retries", "1"], f"{server.url}/record") != 0
    assert {path.stem for path in root.glob("*.wav")} == {str(number) for number in range(12)}
    assert "FSD50K.eval_audio: not all of its parts are in" in capsys.readouterr().out
    (root / "7.wav").write_bytes(b"half")  # as another unpacker may have left it

    assert download_fsd50k.main(arguments, f"{server.url}/record") == 0
    for name, data in (MEMBERS | {"FSD50K.eval_audio/99.wav": wav_bytes(99)}).items():
        assert (root / Path(name).name).read_bytes() == data
    assert (root / "collection_dev.csv").exists() and not (root / "README").exists()
    assert server.asked("/FSD50K.dev_audio.z01")[1].startswith("bytes=")
    assert len(server.asked("/FSD50K.dev_audio.z02")) == 1 and not server.asked("/FSD50K.doc.zip")
    assert not list(root.rglob("*.part"))


def test_fsd50k_leaves_out_what_is_damaged_and_says_so(tmp_path, capsys):
    [part] = split_zip(tmp_path / "FSD50K.dev_audio.zip", MEMBERS, 1)
    data = bytearray(part.read_bytes())
    with open_split_zip([part]) as archive:
        data[archive.getinfo("FSD50K.dev_audio/3.wav").header_offset + 5_000] ^= 255
    part.write_bytes(data)
    assert download_fsd50k.unpack([part], tmp_path) == 1
    assert {path.stem for path in tmp_path.glob("*.wav")} == {str(number) for number in range(12)} - {"3"}
    assert "3.wav" in capsys.readouterr().out


def test_fsd50k_without_a_network_unpacks_what_was_put_there_by_hand(tmp_path, capsys):
    folder = tmp_path / "FSD50K" / "archives"
    folder.mkdir(parents=True)
    split_zip(folder / "FSD50K.dev_audio.zip", MEMBERS, 3)
    assert download_fsd50k.main(["--data_dir", str(tmp_path)], "http://127.0.0.1:9/record") != 0
    assert len(list((tmp_path / "FSD50K").glob("*.wav"))) == 12
    out = capsys.readouterr().out
    assert "Is the network there?" in out and "zenodo.org/records/4060432" in out
    (folder / "FSD50K.dev_audio.z02").unlink()
    assert download_fsd50k.main(["--data_dir", str(tmp_path)], "http://127.0.0.1:9/record") != 0
    assert "expected the last of 3 parts, got 2" in capsys.readouterr().out


def test_assets_are_checked_and_leave_the_users_own_alone(server, tmp_path):
    def listing(folder, files):
        server.files |= {f"/{folder}/{name}": data for name, data in files.items()}
        server.files[f"/{folder}"] = json.dumps(
            [
                {
                    "name": name,
                    "size": len(data),
                    "download_url": f"{server.url}/{folder}/{name}",
                    "sha": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(),
                }
                for name, data in files.items()
            ]
        ).encode()

    listing("macs", {"LLP_test.json": b"{}", "AudioSet.csv": b"filename,event_labels\n", "logo.png": b"png"})
    llp = b"filename\tevent_labels\nBjCEufrlXm4_20_30\tSpeech,Dog\n"
    listing("avvp", {"AVVP_dataset_full.csv": llp})
    server.files |= {f"/audioset/{name}": b"text" for name in download_assets.AUDIOSET_FILES}
    server.faults["/macs/AudioSet.csv"] = ["garbled"]
    (tmp_path / "LLP_test.json").write_text('{"mine": [1, 2]}')
    urls = [f"{server.url}/{name}" for name in ("macs", "avvp", "audioset")]
    assert download_assets.main(["--output_dir", str(tmp_path), "--interval", "0"], *urls) == 0
    assert (tmp_path / "LLP.csv").read_bytes() == llp
    assert (tmp_path / "AudioSet.csv").read_text() == "filename,event_labels\n"
    assert (tmp_path / "LLP_test.json").read_text() == '{"mine": [1, 2]}'
    assert (tmp_path / "eval_segments.csv").exists() and (tmp_path / "audioset_eval_strong.tsv").exists()
    assert not (tmp_path / "logo.png").exists()

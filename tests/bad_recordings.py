"""Recordings that cannot be used, for the tests of reading and of inference."""

import numpy as np
import soundfile


def bad_files(folder):
    """Writes them to a folder; returns {name: words of the message}; missing.wav is not written."""
    (folder / "text.wav").write_text("this is no audio")
    (folder / "empty.wav").touch()
    soundfile.write(folder / "none.wav", np.zeros(0), 16000)
    soundfile.write(folder / "nan.wav", np.array([0.0, np.nan, 0.0], np.float32), 16000, subtype="FLOAT")
    soundfile.write(folder / "inf.wav", np.array([0.0, np.inf, 0.0], np.float32), 16000, subtype="FLOAT")
    soundfile.write(folder / "huge.wav", np.array([0.0, 1e30, 0.0], np.float32), 16000, subtype="FLOAT")
    return {
        "huge.wav": "1e+30",
        "text.wav": "cannot be decoded",
        "empty.wav": "0 bytes",
        "none.wav": "0 samples",
        "nan.wav": "NaN or infinite",
        "inf.wav": "NaN or infinite",
        "missing.wav": "no such",
    }

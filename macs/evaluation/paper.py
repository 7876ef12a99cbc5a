"""The seven measures by name, and the paper's results in them."""

MEASURES = ("fid", "clip_fid", "kid", "ais", "ais_z", "iis", "iis_z")
NAMES = {
    "fid": "FID", "clip_fid": "CLIP-FID", "kid": "KID", "ais": "AIS", "ais_z": "AIS-z", "iis": "IIS", "iis_z": "IIS-z"
}  # fmt: skip
LOWER_IS_BETTER = ("fid", "clip_fid", "kid")

# arXiv 2503.10287, its tables of results, in the order of MEASURES; None where the paper gives no number
PAPER = {
    "LLP": {
        "AudioToken": (143.62, 52.21, 0.0431, 0.0591, 0.6201, 0.4914, 0.6799),
        "Sound2Scene": (105.14, 33.79, 0.0240, 0.0711, 0.8176, 0.5545, 0.7877),
        "CoDi": (116.67, 44.96, 0.0283, 0.0747, 1.1068, 0.5179, 1.4429),
        "MACS": (87.09, 20.47, 0.0157, 0.0754, 1.3038, 0.6269, 1.7231),
    },
    "Landscape": {
        "CoDi": (158.31, 39.97, 0.0180, 0.1094, None, 0.6961, 1.0942),
        "MACS": (147.23, 26.91, 0.0098, 0.1015, None, 0.7422, 1.4805),
    },
}
PAPER = {name: {m: dict(zip(MEASURES, row, strict=True)) for m, row in rows.items()} for name, rows in PAPER.items()}

OWN_SPLITS = {"AudioSet", "Landscape"}  # split into train and test here, since the paper's split is not public

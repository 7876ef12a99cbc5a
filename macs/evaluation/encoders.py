"""Encoders of images and clips for the measures (macs/evaluation.py).

An encoder is any `Encoder`: `load_encoder` takes a file or folder, a hub id, or "module:callable" for one of your own.
"""

import functools
import hashlib
import importlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torchaudio
from torch import nn
from torchvision import transforms
from torchvision.models import resnet18

WAV2CLIP_URL = "https://github.com/descriptinc/lyrebird-wav2clip/releases/download/v0.1.0-alpha/Wav2CLIP.pt"


class Encoder(nn.Module):
    """What the measures ask of an encoder; subclass it for CLAP-, ImageBind- or any other joint embeddings.

    sample_rate   None: it encodes images; a number in Hz: it encodes mono clips at that rate.
    prepare       callable, picklable: one RGB `PIL.Image` or waveform (T,) -> a tensor; runs in the loader's workers.
    forward       (B, ...) prepared tensors of one shape -> (B, D) features. No row may depend on its neighbours.
    version       raise it when `prepare` or `forward` changes what comes out: cached features are then made anew.
    """

    sample_rate = None
    version = 1
    prepare = staticmethod(torch.as_tensor)

    @functools.cached_property
    def identity(self):
        """Name of this encoder's features in the cache: class, version and a hash of all weights and buffers."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return f"{type(self).__name__}-v{self.version}-{digest.hexdigest()[:16]}"


class ClipImageEncoder(Encoder):
    """CLIP's projected image embeddings (B, D), not normalised, as clean-fid's `clip_vit_b_32` takes them.

    path: a folder or hub id of any transformers CLIP; the paper's is openai/clip-vit-base-patch32 (D = 512).
    """

    def __init__(self, path="openai/clip-vit-base-patch32"):
        super().__init__()
        from transformers import CLIPVisionModelWithProjection

        self.model = CLIPVisionModelWithProjection.from_pretrained(path).eval()
        size = self.model.config.image_size
        bicubic = transforms.InterpolationMode.BICUBIC
        self.prepare = transforms.Compose(
            [transforms.Resize(size, bicubic), transforms.CenterCrop(size), transforms.PILToTensor()]
        )
        # every released CLIP was trained with these
        self.normalize = transforms.Normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))

    def forward(self, images):
        return self.model(self.normalize(images.float() / 255)).image_embeds


def _clean_resize(image):
    from cleanfid.resize import build_resizer

    return torch.from_numpy(build_resizer("clean")(np.array(image)).transpose(2, 0, 1).copy())


class InceptionEncoder(Encoder):
    """clean-fid's Inception-v3 features (B, 2048) in its mode "clean".

    path: the folder that holds inception-2015-12-05.pt; None downloads it once into torch.hub's folder.
    """

    prepare = staticmethod(_clean_resize)

    def __init__(self, path=None):
        super().__init__()
        from cleanfid.downloads_helper import inception_url
        from cleanfid.inception_torchscript import InceptionV3W

        file = Path(path or Path(torch.hub.get_dir(), "checkpoints"))
        file = file / Path(inception_url).name if file.suffix != ".pt" else file
        if path is None:
            _download(inception_url, file)
        if file.name != Path(inception_url).name or not file.is_file():
            raise FileNotFoundError(f"{file}: expected clean-fid's Inception weights there; get {inception_url}")
        self.model = InceptionV3W(str(file.parent), download=False)

    def forward(self, images):
        return self.model(images)


def _long_enough(waveform):
    if len(waveform) <= 256:  # the spectrogram reflects that many samples at either end
        raise ValueError(f"the clip has {len(waveform)} samples at 16 kHz; Wav2CLIP needs more than 256")
    return waveform


class Wav2ClipEncoder(Encoder):
    """Wav2CLIP (Wu et al., 2021): a clip's embedding (B, 512) in the space of CLIP ViT-B/32.

    path: the released Wav2CLIP.pt; None downloads it once into torch.hub's folder. Log power spectrogram (n_fft 512,
    hop 353, 16 kHz) as one channel, standardised over the clip, a ResNet-18, a two-layer MLP. The release standardises
    over the whole batch; here, as there with one clip at a time, no clip's embedding depends on its neighbours.
    """

    sample_rate = 16000
    prepare = staticmethod(_long_enough)

    def __init__(self, path=None):
        super().__init__()
        if path is None:
            path = Path(torch.hub.get_dir(), "checkpoints", "Wav2CLIP.pt")
            _download(WAV2CLIP_URL, path)
        self.spectrogram = torchaudio.transforms.Spectrogram(n_fft=512, hop_length=353)
        self.audio_encoder = resnet18(weights=None)
        self.audio_encoder.conv1 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
        self.audio_encoder.fc = nn.Identity()
        self.audio_transform = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Dropout(0.1), nn.Linear(512, 512))
        try:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
            # the file may also hold an unused classifier and what training projected images with
            weights = {
                name.replace("audio_encoder.spectrogram", "spectrogram").replace(".sequential.", "."): tensor
                for name, tensor in checkpoint.get("state_dict", checkpoint).items()
                if name.startswith(("audio_encoder.", "audio_transform.")) and ".fc." not in name
            }
            self.load_state_dict(weights)
        except FileNotFoundError:
            raise FileNotFoundError(f"{path}: no such file; get {WAV2CLIP_URL}") from None
        except Exception as error:
            raise ValueError(f"{path}: not the released Wav2CLIP.pt ({WAV2CLIP_URL}): {error}") from error
        self.eval()

    def forward(self, waveforms):
        x = torch.log(self.spectrogram(waveforms.unsqueeze(1)) + 1e-7)  # (B, 1, 257, frames)
        mean, std = x.mean(dim=(1, 2, 3), keepdim=True), x.std(dim=(1, 2, 3), keepdim=True)
        return self.audio_transform(self.audio_encoder((x - mean) / (std + 1e-9)))


def _download(url, path):
    if Path(path).exists():
        return
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path))
    except OSError as error:
        reason = getattr(error, "reason", None) or error
        raise OSError(f"{path}: {url} could not be downloaded there ({reason}); fetch it by other means") from error


class SmallImageEncoder(Encoder):
    """A stand-in that needs no download: a fixed random convolutional network on 128 x 128 pictures, (B, 256).

    For tests and the embedded world; its numbers say which of two models is better there, and compare with no paper's.
    """

    prepare = transforms.Compose([transforms.Resize((128, 128), antialias=True), transforms.PILToTensor()])

    def __init__(self, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        widths = (3, 16, 32, 64, 64)
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, 2, padding=1) for a, b in pairwise(widths))
        for layer in self.layers:
            nn.init.kaiming_normal_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)

    def forward(self, images):
        x = images.float() / 127.5 - 1
        for layer in self.layers:
            x = torch.relu(layer(x))
        return nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)


class SmallAudioEncoder(Encoder):
    """The stand-in for Wav2CLIP: statistics of a clip's log-mel bands, (B, 193), until `fit` maps them linearly into
    an image encoder's space, (B, D)."""

    sample_rate = 16000

    def __init__(self):
        super().__init__()
        # padded with zeros, which unlike reflection takes clips of any length
        self.mel = torchaudio.transforms.MelSpectrogram(16000, 1024, hop_length=512, n_mels=64, pad_mode="constant")
        self.register_buffer("weight", torch.eye(193))

    def fit(self, statistics, image_features, ridge=1.0):
        """Ridge regression from what unfitted encoding gave for N clips, (N, 193), to their images' features (N, D):
        distillation from images as Wav2CLIP's, in closed form. Returns the encoder."""
        x, y = (torch.as_tensor(a, dtype=torch.float64) for a in (statistics, image_features))
        normal = x.T @ x + ridge * torch.eye(x.shape[1], dtype=x.dtype)
        self.weight = torch.linalg.solve(normal, x.T @ y).float()
        return self

    def forward(self, waveforms):
        x = torch.log(self.mel(waveforms) + 1e-5)  # (B, 64, frames)
        steps = (x[..., 1:] - x[..., :-1]).abs().sum(-1) / max(x.shape[-1] - 1, 1)
        deviation = x.std(-1, correction=0)
        return torch.cat([x.mean(-1), deviation, steps, torch.ones_like(x[:, :1, 0])], dim=1) @ self.weight


def load_encoder(spec, default):
    """An encoder from `spec`: None or "" -> default(); "module:callable" -> what that returns; else default(spec)."""
    if not spec:
        encoder = default()
    elif ":" in str(spec) and not Path(spec).exists():
        module, _, name = str(spec).partition(":")
        encoder = getattr(importlib.import_module(module), name)()
    else:
        encoder = default(spec)
    if not isinstance(encoder, Encoder):
        raise TypeError(f"{spec}: expected a macs.evaluation.encoders.Encoder, got {type(encoder).__name__}")
    return encoder.eval()

"""The separator: a U-Net that masks the mixture's spectrogram into M signals (paper, stage 1)."""

import math

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn

from macs.audio import raise_quiet


class SqueezeExcite(nn.Module):
    """Channel gates from the global maximum: (B, C, F, T) -> (B, C, F, T)."""

    def __init__(self, channels):
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(channels, channels // 16), nn.GELU(), nn.Linear(channels // 16, channels))

    def forward(self, x):
        return x * self.fc(x.amax(dim=(2, 3))).sigmoid()[:, :, None, None]


class ResidualBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            nn.GELU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
        )
        self.senet = SqueezeExcite(channels)

    def forward(self, x):
        return F.gelu(self.senet(x + self.layers(x)))


class UNetBlock(nn.Module):
    """One level: halves the resolution, runs the level below (`submodule`), doubles it, concatenates the input.

    (B, C_in, F, T) -> (B, 2 C_in, F, T). The innermost block has a squeeze-excite in place of a level below.
    """

    def __init__(self, in_channels, channels, submodule=None, dropout=0.5):
        super().__init__()
        innermost = submodule is None
        up_channels = channels if innermost else 2 * channels  # the level below concatenates its input
        self.downconv = nn.Conv2d(in_channels, channels, 4, stride=2, padding=1)
        self.downnorm = nn.BatchNorm2d(channels)
        self.downresblock = ResidualBlock(channels)
        self.dropout = nn.Identity() if innermost else nn.Dropout2d(dropout)
        self.submodule = SqueezeExcite(channels) if innermost else submodule
        self.upresblock = ResidualBlock(up_channels)
        self.upconv = nn.ConvTranspose2d(up_channels, in_channels, 4, stride=2, padding=1)
        self.upnorm = nn.BatchNorm2d(in_channels)

    def forward(self, x):
        y = F.gelu(self.downnorm(self.downconv(x)))
        y = self.submodule(self.dropout(self.downresblock(y)))
        y = F.gelu(self.upnorm(self.upconv(self.upresblock(y))))
        if y.shape[2:] != x.shape[2:]:  # odd sizes lose a row or column on the way down
            y = F.interpolate(y, x.shape[2:], mode="bilinear", align_corners=True)
        return torch.cat([x, y], dim=1)


class PositionEmbedding(nn.Module):
    """Adds a learned vector per frequency row and per time column to (B, M, F, T)."""

    def __init__(self, channels, rows, columns):
        super().__init__()
        self.row_embed = nn.Parameter(0.05 * torch.randn(channels, rows))
        self.col_embed = nn.Parameter(0.05 * torch.randn(channels, columns))

    def forward(self, x):
        return x + self.row_embed[:, :, None] + self.col_embed[:, None, :]


class MaskUNet(nn.Module):
    """Power spectrogram (B, 1, F, T) -> M masks in [0, 1], (B, M, F, T)."""

    def __init__(self, num_sources, channels, rows, columns):
        super().__init__()
        c = channels
        self.in_conv = nn.Sequential(
            nn.Conv2d(1, num_sources, 3, padding=1),
            PositionEmbedding(num_sources, rows, columns),
            nn.BatchNorm2d(num_sources),
            nn.GELU(),
            nn.Conv2d(num_sources, c, 3, padding=1),
            nn.BatchNorm2d(c),
            nn.GELU(),
        )
        block = UNetBlock(8 * c, 8 * c)
        for in_channels, out_channels in [(4 * c, 8 * c), (2 * c, 4 * c), (c, 2 * c), (c, c)]:
            block = UNetBlock(in_channels, out_channels, block)
        self.unet = block
        self.out_conv = nn.Sequential(
            nn.Conv2d(2 * c, c, 3, padding=1),
            nn.BatchNorm2d(c),
            nn.GELU(),
            nn.Conv2d(c, c, 3, padding=1),
            nn.BatchNorm2d(c),
            nn.GELU(),
            nn.Conv2d(c, num_sources, 1),
        )

    def forward(self, power):
        return self.out_conv(self.unet(self.in_conv(power))).sigmoid()


class Separator(ModelMixin, ConfigMixin):
    """Splits a mixture into M signals that sum to it (paper, stage 1; 58.1 M parameters at the default size).

    num_sources: M. channels: the U-Net's width C, a multiple of 16. n_fft, hop_length: STFT, in samples at 16 kHz.
    num_samples: the longest mixture (128000 = 8 s); it fixes the number of time columns, so it is part of the weights.
    raise_quiet: these weights, and the CLAP beside them, know no quiet mixtures; see `level`.
    The parameter names are those of the authors' released file.
    """

    @register_to_config
    def __init__(self, num_sources=6, channels=64, n_fft=400, hop_length=200, num_samples=128000, raise_quiet=False):
        super().__init__()
        self.unet = MaskUNet(num_sources, channels, n_fft // 2 + 1, num_samples // hop_length + 1)
        # log-scale of the contrastive loss: learned with the separator, used by its training alone (paper, tau_2)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        for module in self.unet.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight)
            else:
                continue
            nn.init.zeros_(module.bias)

    def level(self, mixture):
        """Mixtures (B, T) as these weights know them: quiet ones raised if the config says so.

        Whoever goes on to embed the signals calls it before `forward`, for CLAP's embeddings depend on the level too.
        """
        return raise_quiet(mixture) if self.config.raise_quiet else mixture

    def stft(self, waveform):
        """(B, T) -> complex (B, F, T')."""
        # half precision does not hold |X|^2, and FFTs want float32: autocast stops here
        with torch.autocast(waveform.device.type, enabled=False):
            return torch.stft(
                waveform.float(), self.config.n_fft, self.config.hop_length, window=self.window, return_complex=True
            )

    def masks(self, stft):
        """A mixture's STFT (B, F, T') of num_samples -> masks (B, M, F, T') in [0, 1]."""
        return self.unet((stft.real.square() + stft.imag.square())[:, None])

    def apply_masks(self, masks, stft, waveform):
        """Masks (B or 1, M, F, T'), a waveform (B, T) and its STFT -> M signals that sum to the waveform, (B, M, T).

        Linear in the waveform: what a mixture's masks make of its stems adds up to what they make of the mixture.
        """
        with torch.autocast(waveform.device.type, enabled=False):
            masked = (masks.float() * stft[:, None]).flatten(0, 1)  # (B*M, F, T')
            sources = torch.istft(
                masked, self.config.n_fft, self.config.hop_length, window=self.window, length=waveform.shape[-1]
            ).unflatten(0, (len(stft), self.config.num_sources))
            # mixture consistency: the residual is shared out equally
            return sources + (waveform - sources.sum(dim=1))[:, None] / self.config.num_sources

    def forward(self, mixture):
        """mixture (B, T) at 16 kHz, T <= num_samples -> sources (B, M, T) in float32, which sum to the mixture.

        Raises ValueError for longer mixtures.
        """
        length, longest = mixture.shape[-1], self.config.num_samples
        if mixture.ndim != 2 or length > longest:
            raise ValueError(
                f"the separator takes mixtures of shape (B, T) with T <= {longest} samples, "
                f"but got {tuple(mixture.shape)}; cut longer recordings first"
            )
        if self.config.num_sources == 1:
            return mixture[:, None].float()  # what consistency makes of any one signal
        mixture = F.pad(mixture.float(), (0, longest - length))
        stft = self.stft(mixture)
        return self.apply_masks(self.masks(stft), stft, mixture)[..., :length]

"""CLAP embeddings of audio and text, on the device, batched and differentiable.

The model is transformers' ClapModel (LAION's 630k-audioset-best, HTSAT-tiny and RoBERTa, not fused). The mel front end
is ours: `ClapFeatureExtractor` works clip by clip in numpy and strays by up to 26 dB in near-silent bins.
"""

import functools

import torch
import torchaudio.functional as AF
from transformers import (
    ClapModel,
    PreTrainedModel,  # noqa: F401  diffusers looks a component's base class up in its module
)

CLAP_RATE = 48000  # Hz
CLAP_SAMPLES = 10 * CLAP_RATE


@functools.lru_cache(maxsize=8)
def _mel_filters(device):
    return AF.melscale_fbanks(513, 50.0, 14000.0, 64, CLAP_RATE, norm="slaney", mel_scale="slaney").to(device)


@functools.lru_cache(maxsize=8)
def _window(device):
    return torch.hann_window(1024, device=device)


def log_mel(waveforms):
    """Waveforms (N, T) at 48 kHz, T <= 10 s -> CLAP's input (N, 1, 1001, 64), in dB.

    Repeats a clip as often as it fits whole into 10 s, then zero-pads (CLAP's `repeatpad`); longer ones are cut.
    Power spectrogram (n_fft 1024, hop 480, Hann, reflected edges), 64 Slaney mels from 50 to 14000 Hz,
    10 log10(max(x, 1e-10)).
    """
    waveforms = waveforms.float()[:, :CLAP_SAMPLES]
    waveforms = waveforms.repeat(1, CLAP_SAMPLES // waveforms.shape[1])
    waveforms = torch.nn.functional.pad(waveforms, (0, CLAP_SAMPLES - waveforms.shape[1]))
    with torch.autocast(waveforms.device.type, enabled=False):
        stft = torch.stft(waveforms, 1024, 480, window=_window(waveforms.device), return_complex=True)
        power = stft.real.square() + stft.imag.square()  # (N, 513, 1001)
        mel = power.transpose(1, 2) @ _mel_filters(waveforms.device)
        return 10 * mel.clamp(min=1e-10).log10()[:, None]


class ClapEncoder(ClapModel):
    """transformers' ClapModel with waveforms and texts as inputs.

    Saves and loads as a ClapModel does, and opens any unfused one, for instance
    `ClapEncoder.from_pretrained("laion/clap-htsat-unfused")`.
    """

    def encode_audio(self, waveforms, sample_rate=16000):
        """Waveforms (N, T) at `sample_rate` Hz -> unit-norm embeddings (N, D); gradients flow to the waveforms."""
        if sample_rate != CLAP_RATE:
            # autocast stops here: in half precision resampling adds a hiss that CLAP hears
            with torch.autocast(waveforms.device.type, enabled=False):
                waveforms = AF.resample(waveforms.float(), sample_rate, CLAP_RATE)
        return self.get_audio_features(log_mel(waveforms).to(self.dtype)).pooler_output

    def encode_text(self, texts, tokenizer):
        """list of N str -> unit-norm embeddings (N, D). Padded or cut to 77 tokens, as CLAP was trained."""
        tokens = tokenizer(texts, padding="max_length", truncation=True, max_length=77, return_tensors="pt")
        return self.get_text_features(
            tokens.input_ids.to(self.device), tokens.attention_mask.to(self.device)
        ).pooler_output

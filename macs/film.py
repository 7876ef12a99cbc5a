"""Film: a picture for every frame from what is heard at its time, and the recording as sound track."""

from fractions import Fraction

import numpy as np
import torch
from PIL import Image

from macs.attribution import of_last_rows
from macs.audio import CannotWrite
from macs.decoding import decode
from macs.files import write_beside
from macs.noise import wandering_noise

MOMENTS = 8  # of a film, in which its candidates for the noise are compared
NOISED_TO = 0.9  # of the training's timesteps: where a picture's layout is decided
AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)  # Hz


def frame_times(seconds, fps):
    """The middles of a film's frames, in s: (ceil(seconds · fps),) float64."""
    return (torch.arange(max(1, int(np.ceil(seconds * fps - 1e-6))), dtype=torch.float64) + 0.5) / fps


def choose_noise(
    pipe, timeline, times, seed=0, candidates=4, wander=0.0, batch_size=4, motion_adapter=None, **settings
):
    """Which of the first `candidates` noises of a seed suits a film with frames at `times` (N,), in s: its number.

    The layout of a picture is in its noise, and one that has no place for what is heard spoils every frame. Of up to
    MOMENTS moments a picture is drawn from each noise; the noise is taken in whose pictures the sound is seen best
    (`sound_gain`, mean over the moments). Where the noise wanders it is the first. All else as of `film_frames`;
    pictures are drawn one by one where a motion adapter will join them.
    """
    if candidates == 1 or wander:
        return 0
    count = min(MOMENTS, len(times))
    moments = times[((torch.arange(count) + 0.5) * len(times) / count).long()]
    shape, gains = latent_shape(pipe, settings), []
    for number in range(candidates):
        gain = 0
        for part in moments.split(batch_size):
            embeds, weights = timeline.heard(part)
            noise = wandering_noise(shape, part, seed, number=number).to(pipe._execution_device)
            gain += sound_gain(pipe, embeds, weights, noise, **settings).sum().item()
        gains.append(gain)
    return gains.index(max(gains))


def sound_gain(pipe, source_embeds, source_weights, latents, **settings):
    """How well the sound is seen in the pictures (N) that are drawn of it from latents (N, ...): (N,) float32.

    Fresh noise is added to a picture, much of it, and the UNet has to predict it, once with the sound and once without:
    log(error without / error with). A diffusion model is a classifier of its pictures in this way (Li et al. 2023).
    """
    unet, scheduler, control, rows = pipe.unet, pipe.scheduler, pipe.adapter.control, len(latents)
    call = {}  # the keyword arguments of the last step's call of the UNet
    hook = unet.register_forward_pre_hook(lambda module, args, kwargs: call.update(kwargs), with_kwargs=True)
    try:
        sound = {"source_embeds": source_embeds, "source_weights": source_weights}
        drawn = pipe(**sound, latents=latents, output_type="latent", **settings).images
    finally:
        hook.remove()
    timestep = int(NOISED_TO * scheduler.config.num_train_timesteps)
    squared = scheduler.alphas_cumprod[timestep].item()
    signal, sigma = squared**0.5, (1 - squared) ** 0.5
    noise = torch.randn(drawn.shape[1:], generator=torch.Generator().manual_seed(0)).to(drawn)
    noised = signal * drawn + sigma * noise
    targets = {"epsilon": noise, "v_prediction": signal * noise - sigma * drawn, "sample": drawn}
    target = targets[scheduler.config.get("prediction_type", "epsilon")]
    errors = []
    for scale in (0.0, settings.get("audio_scale", 1.0)):
        with torch.no_grad(), control.during(drawn.shape[2:], rows, scale, source_weights.to(drawn.device)):
            predicted = unet(noised, timestep, **of_last_rows(call, rows))[0]
        errors.append((predicted - target).float().square().mean((1, 2, 3)).cpu())
    return (errors[0] / errors[1]).log()


def latent_shape(pipe, settings):
    """(channels, height, width) of the latents of one picture of a call with these settings."""
    height, width = pipe._picture_size(**settings)
    return (pipe.unet.config.in_channels, height // pipe.vae_scale_factor, width // pipe.vae_scale_factor)


def film_frames(pipe, timeline, times, seed=0, wander=0.0, number=0, batch_size=4, motion_adapter=None, **settings):
    """Yields the pictures (PIL) of the times (N,), in s; see `MACSPipeline.film`.

    number: which of the seed's noises, from `choose_noise`. motion_adapter: a diffusers MotionAdapter (AnimateDiff):
    frames are then drawn together, as many at a time as its positions reach. settings: as of a call of the pipeline.
    """
    shape = latent_shape(pipe, settings)
    if motion_adapter is not None:
        draw, batch_size = motion_drawer(pipe, motion_adapter), motion_adapter.config.motion_max_seq_length
    else:
        draw = pipe
    for part in times.split(batch_size):
        embeds, weights = timeline.heard(part)
        latents = wandering_noise(shape, part, seed, wander, number).to(pipe._execution_device)
        yield from draw(source_embeds=embeds, source_weights=weights, latents=latents, **settings).images


def motion_drawer(pipe, motion_adapter):
    """A function like a call of the pipeline that draws its N pictures as N frames of one film, by AnimateDiff.

    The adapter's audio layers are shared with the pipeline's UNet, source weights work as there. The motion UNet itself
    is a copy (`UNetMotionModel.from_unet2d`).
    """
    from diffusers import AnimateDiffPipeline, UNetMotionModel

    with pipe.adapter.detached(pipe.unet):
        unet = UNetMotionModel.from_unet2d(pipe.unet, motion_adapter).to(pipe.unet.device, pipe.unet.dtype).eval()
    pipe.adapter.attach(unet)

    # The stock forward takes one set of embeddings for a whole film; here every frame has its own, so they become
    # tokens before it: text and image embeddings are both (2N or N, ...), one row a frame
    unet.register_to_config(encoder_hid_dim_type=None)

    def to_tokens(module, args, kwargs):
        embeds = kwargs.pop("added_cond_kwargs")["image_embeds"]
        text = kwargs["encoder_hidden_states"]
        return args, kwargs | {"encoder_hidden_states": (text, module.encoder_hid_proj(embeds))}

    unet.register_forward_pre_hook(to_tokens, with_kwargs=True)
    animate = AnimateDiffPipeline(
        pipe.vae, pipe.text_encoder, pipe.tokenizer, unet, motion_adapter, pipe.scheduler, None, None
    )
    animate.set_progress_bar_config(**getattr(pipe, "_progress_bar_config", {}))

    @torch.no_grad()
    def draw(source_embeds, source_weights, latents, audio_scale=1.0, guidance_scale=7.5, prompt="", **settings):
        if settings.get("prompt_embeds") is not None:
            prompt = None
        if source_weights is not None:
            source_weights = None if (source_weights == 1).all() else source_weights.to(latents.device)
        with pipe.adapter.control.during(latents.shape[2:], len(latents), audio_scale, source_weights):
            out = animate(
                prompt=prompt,
                num_frames=len(latents),
                ip_adapter_image_embeds=pipe.audio_condition(source_embeds, guidance_scale > 1),
                latents=latents.to(unet.dtype).transpose(0, 1)[None],
                guidance_scale=guidance_scale,
                **settings,
            )
        out.images = out.frames[0]
        return out

    return draw


def write_film(path, frames, fps, recording):
    """An mp4 (H.264, AAC): the pictures of `frames` (paths or PIL images) at `fps`, `recording` (a path) as its sound.

    Without frames it is sound alone. Written beside and renamed. Raises AudioError, and OSError where the disk is full.
    """
    import av

    def encode(sound):
        try:
            _encode(partial, frames, Fraction(fps).limit_denominator(1001), sound)
        except (av.error.FFmpegError, OSError) as error:
            raise CannotWrite from error

    with write_beside(path) as partial:
        try:
            decode(recording, encode)
        except CannotWrite as error:
            raise OSError(f"{path}: cannot be written ({error.__cause__})") from error


def _encode(path, frames, fps, sound):
    import av

    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as film:
        if frames:
            video = film.add_stream("libx264", rate=fps, options={"crf": "18", "preset": "medium"})
            # H.264 halves the colours' resolution
            video.width, video.height = (side + side % 2 for side in _picture(frames[0]).size)
            video.pix_fmt = "yuv420p"
        rate = sound.rate if sound.rate in AAC_RATES else 48000
        layout = "stereo" if sound.channels == 2 else "mono"
        audio = film.add_stream("aac", rate=rate, layout=layout)
        resampler = av.AudioResampler(format="fltp", layout=layout, rate=rate)
        shown, heard = 0, 0

        def show(until):
            nonlocal shown
            while shown < len(frames) and shown / fps < until:
                picture = np.asarray(_picture(frames[shown]).convert("RGB"))
                height, width = picture.shape[:2]
                picture = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
                frame.pts, frame.time_base = shown, 1 / fps
                film.mux(video.encode(frame))
                shown += 1

        for block in sound.blocks(0, sound.rate):  # a second of each in turn: players want them side by side
            if sound.channels > 2:
                block = block.mean(axis=1, keepdims=True)
            block = np.clip(np.nan_to_num(block), -1, 1).T
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format="fltp", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = sound.rate, heard, Fraction(1, sound.rate)
            heard += block.shape[1]
            for resampled in resampler.resample(frame):
                film.mux(audio.encode(resampled))
            show(heard / sound.rate)
        for resampled in resampler.resample(None):
            film.mux(audio.encode(resampled))
        film.mux(audio.encode(None))
        show(np.inf)
        if frames:
            film.mux(video.encode(None))


def _picture(frame):
    return frame if isinstance(frame, Image.Image) else Image.open(frame)

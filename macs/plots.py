"""Figures of what was heard, and of which source drew what. matplotlib, a second to import, is where one is drawn."""

import torch

from macs.audio import SAMPLE_RATE


def spectrogram_db(waveform, n_fft=512):
    """(T,) at 16 kHz -> (F, T') level in dB, for the eye."""
    window = torch.hann_window(n_fft, device=waveform.device)
    stft = torch.stft(waveform.float(), n_fft, n_fft // 2, window=window, return_complex=True)
    return (10 * stft.abs().square().clamp(min=1e-8).log10()).cpu().numpy()


def draw_spectrogram(axes, waveform, top=None):
    """The spectrogram of a clip (T,) at 16 kHz over seconds and kHz, down to 70 dB below `top` (its own maximum)."""
    level = spectrogram_db(waveform)
    top = float(level.max()) if top is None else top
    extent = (0, len(waveform) / SAMPLE_RATE, 0, SAMPLE_RATE / 2000)
    axes.imshow(level, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=top - 70, vmax=top)


def sources_figure(mixture, sources, image=None):
    """The spectrograms of a mixture (T,) and of its M sources (M, T) in rank order, and the image beside them.

    One colour scale for all, so that what is quiet looks quiet; under each source its share of the energy.
    Returns a matplotlib Figure.
    """
    from matplotlib.figure import Figure

    mixture, sources = mixture.cpu(), sources.cpu()
    rows, columns = 2, (len(sources) + 1) // 2
    ratios = [1.4] + [1] * columns + ([1.6] if image is not None else [])
    figure = Figure(figsize=(2.1 * sum(ratios), 3.6), layout="constrained")
    grid = figure.add_gridspec(rows, len(ratios), width_ratios=ratios)
    top = float(spectrogram_db(mixture).max())
    shares = sources.square().sum(-1) / sources.square().sum().clamp(min=1e-12)

    panels = [(grid[:, 0], mixture, "mixture")] + [
        (grid[i // columns, 1 + i % columns], source, f"source {i + 1} · {shares[i]:.0%}")
        for i, source in enumerate(sources)
    ]
    for place, waveform, title in panels:
        axes = figure.add_subplot(place)
        draw_spectrogram(axes, waveform, top)
        axes.set_title(title, fontsize=8)
        axes.tick_params(labelsize=6)
        if title == "mixture":
            axes.set_xlabel("s", fontsize=7)
            axes.set_ylabel("kHz", fontsize=7)
    if image is not None:
        axes = figure.add_subplot(grid[:, -1])
        axes.imshow(image)
        axes.set_title("image", fontsize=8)
        axes.axis("off")
    return figure


def maps_figure(mixture, sources, image, maps, kind, names=None):
    """Which source drew what: the mixture (T,) and the image, then a column for each of the M sources.

    A column has the source's spectrogram, with its name, its share of the energy and of the maps' sum, and the image
    under its map. maps (M, H, W): kind "attention", the share of the audio attention at each place, or "influence", the
    change where the source is left out; bright is much, on one scale for all sources. Shares are shown relative to each
    source's mean, for some are attended to everywhere (docs/looking.md). names: M pairs (name, probability) or None.
    Returns a matplotlib Figure.
    """
    from matplotlib.figure import Figure

    mixture, sources, maps = mixture.cpu(), sources.cpu(), maps.float().cpu()
    columns = 1 + len(sources)
    figure = Figure(figsize=(2.0 * columns, 4.3), layout="constrained")
    grid = figure.subplots(2, columns)
    top = float(spectrogram_db(mixture).max())
    energy = sources.square().sum(-1) / sources.square().sum().clamp(min=1e-12)
    shares = maps.mean((1, 2)) / maps.mean((1, 2)).sum().clamp(min=1e-12)

    if kind == "attention":
        maps = maps / maps.mean((1, 2), keepdim=True).clamp(min=1e-12)

    draw_spectrogram(grid[0, 0], mixture, top)
    grid[0, 0].set_title("mixture", fontsize=9)
    grid[1, 0].imshow(image)
    grid[1, 0].set_title(f"image; right: {kind}", fontsize=8)
    for i, (source, source_map) in enumerate(zip(sources, maps, strict=True)):
        spectrogram, picture = grid[:, 1 + i]
        draw_spectrogram(spectrogram, source, top)
        title = f"{names[i][0]} {names[i][1]:.0%}" if names else f"source {i + 1}"
        spectrogram.set_title(f"{i + 1}: {title}" if names else title, fontsize=9)
        picture.imshow(image, extent=(0, 1, 0, 1))
        light = (source_map / maps.max().clamp(min=1e-12)).numpy()
        picture.imshow(0 * light, extent=(0, 1, 0, 1), cmap="gray", vmin=0, vmax=1, alpha=0.85 * (1 - light))
        picture.set_title(f"{energy[i]:.0%} of energy, {shares[i]:.0%} of {kind}", fontsize=7)
    for axes in grid.flat:
        axes.axis("off")
    return figure

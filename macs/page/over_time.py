"""The page's tab for long recordings: a storyboard, with the sound's position running over it."""

import html
import tempfile
from functools import partial
from pathlib import Path

import torch

from macs.attribution import own_labels
from macs.audio import AudioError
from macs.film import choose_noise, film_frames, write_film
from macs.page.studio import MAX_SECONDS, allowed_duration
from macs.page.views import message_view
from macs.storyboard import page, rows, scenes


def storyboard(studio, path, panels, seed=0):
    """A recording -> its storyboard, one html (see `macs.storyboard.page`).

    Yields (what happens, None), a line for the visitor, and at last ("", the html). Raises AudioError in words for the
    visitor. The model is taken for the listening and for each picture, so that other visitors are served in between.
    """
    path, pipe = Path(path), studio.pipe
    try:
        yield f"Listening to {allowed_duration(path):.0f} s …", None
        timeline = studio.run(partial(pipe.listen, progress=True), path)
    except (AudioError, OSError) as error:
        raise AudioError(str(error).replace(str(path), path.name)) from None
    parts = studio.run(scenes, timeline, panels)
    labels = own_labels(pipe.name_or_path) if pipe.clap_tokenizer is not None else None
    bars = studio.run(rows, timeline, labels)
    yield "Choosing the noise …", None
    moments = torch.tensor([moment for _, _, moment in parts], dtype=torch.float64)
    number = studio.run(choose_noise, pipe, timeline, moments, seed)
    pictures = []
    for moment in moments.split(1):
        yield f"Drawing picture {len(pictures) + 1} of {len(parts)} …", None
        pictures += studio.run(lambda moment=moment: list(film_frames(pipe, timeline, moment, seed, number=number)))
    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder) / "sound.mp4"
        write_film(sound, [], 1, path)
        yield "", studio.run(page, timeline, bars, parts, pictures, sound.read_bytes(), path.stem)


def build_tab(studio, model):
    """The tab's components and events, inside a gr.Tab. model: the settings of events that need the model."""
    import gradio as gr

    def make(path, panels, progress=gr.Progress(track_tqdm=True)):  # noqa: B008 (Gradio's way)
        """-> message, storyboard, files."""
        if not path:
            yield message_view("Choose a recording first: a file of any length, or record one."), gr.skip(), gr.skip()
            return
        try:
            for happening, board in storyboard(studio, path, int(panels)):
                if board is None:
                    yield message_view(happening), gr.skip(), gr.skip()
        except (AudioError, OSError) as error:
            yield message_view(str(error), "This cannot be heard."), gr.skip(), gr.skip()
            return
        frame = f'<iframe title="Storyboard of {html.escape(Path(path).stem)}" srcdoc="{html.escape(board)}"></iframe>'
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"{Path(path).stem}_storyboard.html"
            file.write_text(board, encoding="utf-8")
            yield message_view(), frame, str(file)  # copied by Gradio before the folder goes

    with gr.Row():
        audio = gr.Audio(
            None, sources=["upload", "microphone"], type="filepath", editable=False, elem_id="long_audio", buttons=[],
            label=f"A recording of up to {MAX_SECONDS // 60} minutes: a file, or record with the microphone",
        )  # fmt: skip
        with gr.Column(min_width=240):
            panels = gr.Slider(2, 12, value=6, step=1, label="Pictures")
            with gr.Row():
                start = gr.Button("Make a storyboard", variant="primary", size="sm", elem_id="make_board")
                stop = gr.Button("Stop", size="sm", min_width=100)
            message = gr.HTML(message_view(), elem_id="board_message", js_on_load=None)
    board = gr.HTML("", elem_id="board", js_on_load=None)
    file = gr.File(label="The storyboard as one html, with the sound in it", interactive=False)
    making = start.click(make, [audio, panels], [message, board, file], show_progress_on=message, **model)
    stop.click(lambda: message_view("Stopped."), None, message, cancels=making, queue=False)

"""A page to play on: record, upload or pick a sound, see its picture, weigh its sources (see app.sh).

It is served to this machine only, unless --host says otherwise, and asks nothing of any other.
"""

import argparse
import os
import sys
import tempfile
import time
import zipfile
from dataclasses import replace
from pathlib import Path

# before Gradio is imported: nothing is counted, nothing is looked up
os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}

from macs.options import add_weight_options, integer
from macs.script import importing, run

EXAMPLES = Path(__file__).parent / "asset" / "demo"
MAX_UPLOAD = "50mb"
INSTALL = 'the page needs Gradio, which is not installed: pip install "gradio>=6,<7"'


def parse_args(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.set_defaults(M=None, raise_quiet=None)  # as of the weights
    add_weight_options(parser)
    add = parser.add_argument_group("page").add_argument
    add("--host", default="127.0.0.1", help="address to serve at; 0.0.0.0 lets others of your network in")
    add("--port", type=integer(1, 65535), default=7860)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    parse_args()  # --help and mistakes end here: what is imported below takes seconds

with importing():
    import torch

    from macs.page.studio import Settings, Stopped, Studio, mixed_weights, ranked, settings_from


class Visitor:
    """What the page keeps of one visitor: recording, part, what was heard and drawn, the settings by now.

    ticket counts what was asked for; a drawing whose ticket is no longer the last is given up. done: the last ticket
    that needs no drawing any more. No dataclass: of those Gradio copies all that they hold at each event.
    """

    def __init__(self, path="", shown_path="", heard=None, settings=Settings(), ticket=0):  # noqa: B008 (frozen)
        self.path, self.shown_path, self.start = path, shown_path, None
        self.heard, self.drawn, self.before = heard, None, None
        self.settings, self.ticket, self.done = settings, ticket, 0


def draw(studio, visitor, on_step=lambda done, steps: None):
    """Draws what the visitor wants by now. False where there is nothing to draw, or where something else was wanted."""
    ticket, settings = visitor.ticket, visitor.settings
    if visitor.heard is None or visitor.done == ticket:
        return False

    def step(done, steps):
        if visitor.ticket != ticket:
            raise Stopped
        on_step(done, steps)

    try:
        drawn = studio.draw(visitor.heard, settings, step)
    except Stopped:
        return False
    visitor.before, visitor.drawn, visitor.done = visitor.drawn, drawn, ticket
    return True


def reporting(progress, seconds=0.5):
    """on_step for Gradio's progress, which the browser redraws each time it is told: so not more often than this."""
    shown = 0.0

    def on_step(done, steps):
        nonlocal shown
        if time.monotonic() - shown >= seconds:
            shown = time.monotonic()
            progress((done, steps), desc="Drawing", unit="steps")

    return on_step


def hear(studio, visitor):
    """Hears the visitor's recording; all weights are 1 again. Raises AudioError, and then keeps what was heard."""
    visitor.heard = studio.hear(visitor.path, visitor.start, visitor.shown_path)
    visitor.settings = replace(visitor.settings, weights=(1.0,) * len(visitor.heard.sources))
    visitor.drawn = visitor.before = None


def write_files(studio, visitor, folder):
    """picture.png, sources.zip, maps.png and report.html of the visitor's picture: their paths."""
    import soundfile

    from macs.audio import SAMPLE_RATE
    from macs.page.report import writing_report
    from macs.plots import maps_figure

    heard, drawn, folder = visitor.heard, visitor.drawn, Path(folder)
    stem = Path(heard.name).stem
    picture, archive, figure, page = (
        folder / f"{stem}{end}" for end in (".png", "_sources.zip", "_maps.png", "_report.html")
    )
    drawn.image.save(picture)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for rank, source in enumerate(heard.sources, start=1):
            wav = folder / f"{stem}_{rank}.wav"
            soundfile.write(wav, source.numpy(), SAMPLE_RATE)
            file.write(wav, wav.name)
    shown = maps_figure(heard.mixture, heard.sources, drawn.image, drawn.maps, "attention", heard.names)
    shown.savefig(figure, dpi=120)
    with writing_report(page, studio.command_line(heard, drawn.settings)) as add:
        add(heard.name, heard.mixture, heard.sources, [drawn.image], drawn.maps, heard.names)
    return [str(path) for path in (picture, archive, figure, page)]


def build_page(studio):
    """The page as a gr.Blocks, with the first example heard and drawn."""
    import gradio as gr

    from macs.audio import SAMPLE_RATE, AudioError
    from macs.page import over_time, views

    length = studio.pipe.separator.config.num_samples / SAMPLE_RATE
    sizes = studio.sizes()
    examples = [path for path in EXAMPLES.iterdir() if path.suffix in (".wav", ".ogg")]
    examples.sort(key=lambda path: (path.stem != "rain_dog", path.suffix, path))  # the real recordings first
    first = Visitor()
    if examples:
        first = Visitor(path=str(examples[0]), shown_path=f"asset/demo/{examples[0].name}", ticket=1)
        hear(studio, first)
        draw(studio, first)

    def picture(visitor):
        if not visitor.drawn:
            return EMPTY
        return studio.run(views.picture_view, visitor.drawn, visitor.before, visitor.heard.names)

    def sounds(visitor):
        if not visitor.heard:
            return "", ""
        return views.cut_view(visitor.heard, length), studio.run(views.mixer_view, visitor.heard)

    def code(visitor):
        if not visitor.heard:
            return "", ""
        settings = visitor.settings
        return studio.python_code(visitor.heard, settings), studio.command_line(visitor.heard, settings)

    def take(visitor, path, shown_path=""):
        visitor.path, visitor.shown_path, visitor.start = path or "", shown_path, None
        visitor.ticket += 1

    def take_part(visitor, event: gr.EventData):
        visitor.start = float(event._data["start"])
        visitor.ticket += 1

    def take_mix(visitor, event: gr.EventData):
        if visitor.heard:
            parts = (event._data[name] for name in ("levels", "muted", "solo"))
            weights = mixed_weights(*parts, len(visitor.heard.sources))
            visitor.settings = replace(visitor.settings, weights=weights)
            visitor.ticket += 1

    def take_form(visitor, prompt, negative_prompt, seed, steps, guidance_scale, size):
        height, width = sizes.get(size, (0, 0))
        settings = settings_from(
            weights=visitor.settings.weights, prompt=prompt, negative_prompt=negative_prompt, seed=seed, steps=steps,
            guidance_scale=guidance_scale, height=height, width=width,
        )  # fmt: skip
        if settings != visitor.settings:
            visitor.settings = settings
            visitor.ticket += 1

    def stop(visitor):
        running = visitor.done != visitor.ticket
        visitor.ticket += 1
        visitor.done = visitor.ticket
        return views.message_view("Stopped; the picture is the one before." if running else "")

    def listen(visitor, progress=gr.Progress()):  # noqa: B008 (Gradio's way)
        """-> message, cut, mixer, picture, ranking, python, command; a picture follows the sources."""
        skip = gr.skip()
        if not visitor.path:
            return
        ticket = visitor.ticket
        yield views.message_view("Separating what sounds …"), skip, skip, skip, skip, skip, skip
        try:
            hear(studio, visitor)
        except AudioError as error:
            if visitor.ticket == ticket:
                visitor.done = ticket
            yield views.message_view(str(error), "This cannot be heard."), skip, skip, skip, skip, skip, skip
            return
        yield views.message_view("Drawing …"), *sounds(visitor), skip, "", *code(visitor)
        if draw(studio, visitor, reporting(progress)):
            yield views.message_view(), skip, skip, picture(visitor), skip, *code(visitor)

    def redraw(visitor, progress=gr.Progress()):  # noqa: B008
        """-> message, picture, ranking, python, command."""
        if not draw(studio, visitor, reporting(progress)):
            return [gr.skip()] * 5
        return views.message_view(), picture(visitor), "", *code(visitor)

    def rank(visitor, event: gr.EventData):
        if not visitor.drawn:
            return ""
        place = ranked(visitor.drawn.maps, float(event._data["x"]), float(event._data["y"]))
        return views.ranking_view(place, visitor.heard.names)

    def files(visitor):
        if not visitor.drawn:
            yield []
            return
        with tempfile.TemporaryDirectory() as folder:
            yield studio.run(write_files, studio, visitor, folder)  # copied by Gradio before the folder goes

    with gr.Blocks(title="MACS: sound to picture", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        visitor = gr.State(first, time_to_live=3600)
        gr.HTML(f"<h1>MACS</h1><p>{INTRODUCTION}</p>", elem_id="title", js_on_load=None)
        model = {"concurrency_limit": 1, "concurrency_id": "model", "trigger_mode": "multiple"}
        with gr.Tabs():
            with gr.Tab("One picture"), gr.Row():
                with gr.Column(min_width=320, elem_id="left"):
                    audio = gr.Audio(
                        first.path or None, sources=["upload", "microphone"], type="filepath", editable=False,
                        label="Your sound: a file, or record with the microphone", elem_id="audio", buttons=[],
                    )  # fmt: skip
                    with gr.Row(elem_id="examples"):
                        buttons = [gr.Button(path.stem.replace("_", " "), size="sm") for path in examples]
                    message = gr.HTML(views.message_view(), elem_id="message", js_on_load=None)
                    part, rows = sounds(first)
                    cut = gr.HTML(part, elem_id="cut", js_on_load=views.script("cut.js"))
                    mixer = gr.HTML(rows, elem_id="mixer", js_on_load=views.script("mixer.js"))
                with gr.Column(min_width=320, elem_id="right"):
                    frame = gr.HTML(picture(first), elem_id="picture", js_on_load=views.script("picture.js"))
                    ranking = gr.HTML("", elem_id="ranking", js_on_load=views.script("ranking.js"))
                    with gr.Row():
                        again = gr.Button("Other noise", size="sm", min_width=100)
                        cancel = gr.Button("Stop", size="sm", min_width=100)
                    prompt = gr.Textbox(
                        label="Prompt", placeholder="text beside the sound; Enter draws", max_length=500
                    )
                    with gr.Accordion("Settings", open=False):
                        negative_prompt = gr.Textbox(label="Negative prompt", max_length=500)
                        with gr.Row():
                            seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=2**31 - 1)
                            size = gr.Dropdown(list(sizes), value=next(iter(sizes)), label="Size", min_width=120)
                        steps = gr.Slider(1, 50, value=20, step=1, label="Steps")
                        guidance_scale = gr.Slider(1, 15, value=7.5, step=0.5, label="Guidance")
                    with gr.Accordion("The same in Python and on the command line", open=False):
                        texts = code(first)
                        python = gr.Code(texts[0], language="python", label="Python", interactive=False)
                        command = gr.Code(texts[1], language="shell", label="Command line", interactive=False)
                    with gr.Accordion("Files: picture, sources, figure, report", open=False):
                        write = gr.Button("Write the files", size="sm")
                        written = gr.File(label="Files", file_count="multiple", interactive=False)
            with gr.Tab("Over time"):
                over_time.build_tab(studio, model)

        at_once = {"queue": False, "trigger_mode": "multiple", "show_progress": "hidden"}
        heard_outputs = [message, cut, mixer, frame, ranking, python, command]
        drawn_outputs = [message, frame, ranking, python, command]
        form = [prompt, negative_prompt, seed, steps, guidance_scale, size]

        def then_listen(event):
            event.then(listen, visitor, heard_outputs, show_progress_on=frame, **model)

        def then_redraw(event):
            event.then(redraw, visitor, drawn_outputs, show_progress_on=frame, **model)

        then_listen(gr.on([audio.upload, audio.stop_recording], take, [visitor, audio], **at_once))
        for button, path in zip(buttons, examples, strict=True):

            def pick(visitor, path=path):
                take(visitor, str(path), f"asset/demo/{path.name}")
                return str(path)

            then_listen(button.click(pick, visitor, audio, **at_once))
        then_listen(cut.release(take_part, visitor, None, **at_once))
        then_redraw(mixer.release(take_mix, visitor, None, **at_once))
        changes = [prompt.submit, negative_prompt.submit, seed.submit, seed.blur, size.change]
        changes += [steps.release, guidance_scale.release]
        then_redraw(gr.on(changes, take_form, [visitor, *form], None, **at_once))
        noise = again.click(lambda seed: (int(seed or 0) + 1) % 2**31, seed, seed, **at_once)
        then_redraw(noise.then(take_form, [visitor, *form], None, **at_once))
        cancel.click(stop, visitor, message, **at_once)
        frame.select(rank, visitor, ranking, **at_once)
        write.click(files, visitor, written)
    page.queue(max_size=32, api_open=False)
    return page


INTRODUCTION = (
    "Every sound in a recording takes part in its picture. Weigh the sources, point at one to see where it drew, click "
    "the picture to see who drew there. Nothing you give leaves the machine that serves this page."
)
# Gradio puts the page's style below its container, and a container that hides what overflows lets nothing stay in sight
HEAD = "<style>.gradio-container { overflow: visible !important; }</style>"
EMPTY = '<div class="stage empty"></div>'


def main():
    args = parse_args()
    with importing():
        try:
            import gradio as gr
        except ImportError:
            sys.exit(f"app.py: {INSTALL}")
        from inference import open_pipeline
        from macs.devices import best_device, check_device
        from macs.page import views

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the model's own thread gets them all, see Studio
    try:
        check_device(best_device(), args.mixed_precision)
        pipe = open_pipeline(args, best_device())
    except ValueError as error:  # a precision or weights that do not fit; the message says which
        sys.exit(f"app.py: {error}")
    fonts = ["system-ui", "sans-serif"]
    page = build_page(Studio(pipe, args.sd_path, args.pt_path, args.dataset_name, threads))
    try:
        page.launch(
            server_name=args.host, server_port=args.port, share=False, quiet=True, max_file_size=MAX_UPLOAD,
            footer_links=[], ssr_mode=False, css=views.script("page.css"), head=HEAD, state_session_capacity=100,
            theme=gr.themes.Default(font=fonts, font_mono=["ui-monospace", "monospace"]), prevent_thread_lock=True,
        )  # fmt: skip
    except OSError as error:
        sys.exit(f"app.py: cannot serve at {args.host}:{args.port} ({error}); choose another --port or --host")
    print(f"The page is at {page.local_url}; Ctrl+C ends it", flush=True)
    page.block_thread()


if __name__ == "__main__":
    run(main)

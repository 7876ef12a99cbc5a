"""The page in a real browser, where Gradio, playwright and Chromium are there; else skipped."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import soundfile

import app

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SECONDS = 300  # that anything may take on a busy machine


def test_without_gradio_a_line_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setattr(sys, "argv", ["app.py"])
    with pytest.raises(SystemExit, match="pip install"):
        app.main()


@pytest.fixture(scope="module")
def address(tiny_dir):
    """The page of the untrained model, served at a free port by a process of its own."""
    pytest.importorskip("gradio")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "app.py", "--sd_path", str(tiny_dir), "--port", str(port)]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=os.environ | {"CI": "1"})
    try:
        line = server.stdout.readline()
        assert "The page is at" in line
        yield re.search(r"http://\S+?/", line)[0]
    finally:
        server.terminate()
        server.wait(30)


@pytest.mark.slow
def test_it_is_served_to_this_machine_and_loads_nothing_from_others(address):
    assert address.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(address, timeout=SECONDS) as response:
        page = response.read().decode()
    loaded = re.findall(r"""<(?:script|link|img)[^>]*(?:src|href)=["'](https?://[^"']+|//[^"']+)""", page)
    assert [url for url in loaded if not url.startswith(address)] == []
    assert '"analytics_enabled":false' in page.replace(" ", "").replace("\\", "")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_the_page_in_chromium(address, tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api")
    (tmp_path / "broken.wav").write_text("no sound at all" * 99)
    samples = 0.1 * np.random.default_rng(0).standard_normal(16000 * 14)
    soundfile.write(tmp_path / "long.wav", samples, 16000)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.set_default_timeout(1000 * SECONDS)
        outside, errors = [], []
        page.on("request", lambda r: None if r.url.startswith((address, "data:", "blob:")) else outside.append(r.url))
        page.on("pageerror", lambda error: errors.append(error))
        page.goto(address)
        picture = page.locator("#picture .picture")
        picture.wait_for()
        page.locator("#mixer .source[data-source='5']").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")  # fits a phone

        def another_picture(act):
            before = picture.get_attribute("src")
            act()
            end = time.monotonic() + SECONDS
            while picture.get_attribute("src") == before:
                assert time.monotonic() < end
                time.sleep(0.1)

        page.focus("#mixer .source[data-source='1'] .level")
        another_picture(lambda: page.keyboard.press("Home"))
        page.get_by_role("button", name="The same in Python").click()
        page.get_by_text("--source_weights 1 0 1 1 1 1").wait_for()
        page.focus("#picture .stage")
        page.keyboard.press("Enter")
        page.locator("#ranking li").nth(5).wait_for()
        another_picture(lambda: page.get_by_role("button", name="sea bird").click())
        page.locator("#audio button[aria-label='Clear']").click()
        page.locator("#audio input[type=file]").wait_for(state="attached")
        page.set_input_files("#audio input[type=file]", tmp_path / "broken.wav")
        page.get_by_text("broken.wav: expected audio").wait_for()

        page.get_by_role("tab", name="Over time").click()
        page.set_input_files("#long_audio input[type=file]", tmp_path / "long.wav")
        page.locator("#long_audio button[aria-label='Play']").wait_for()
        page.locator("#make_board").click()
        board = page.frame_locator("#board iframe")
        board.locator("#parts button").nth(5).wait_for()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        board.locator("#parts button").nth(4).click()  # the sound jumps there, and its part is marked
        board.locator("#parts button.on").nth(0).wait_for()
        start = float(board.locator("#parts button").nth(4).get_attribute("data-start"))
        assert start <= board.locator("#sound").evaluate("sound => sound.currentTime") < start + 30
        assert not outside and not errors
        browser.close()

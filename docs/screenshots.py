"""Pictures of the UI on the study of `influence init`, taken by headless Chromium.

python -m docs.screenshots

Needs the packages selenium and Pillow, which the project itself does not, and Chromium with its driver (Debian's
packages chromium and chromium-driver).
"""

import contextlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

IMAGES = Path(__file__).resolve().parent / "img"
BYTES = 150_000
COLOURS = 64
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
)  # fmt: skip
STARTS_WITHIN_SECONDS = 300
DRAWN_WITHIN_SECONDS = 180
SETTLES_SECONDS = 8
GROUPS = "{ assetNodes { groupName } }"
PLOT = "//tr[.//text()='spectra']//*[contains(text(), 'Show Markdown')]"
MAXIMISED = "(//button[@aria-selected])[3]/following::button[1]"
"""Of a run's page: gives the stages the whole page. It follows the three ways to draw them."""
SUCCEEDED = "//*[starts-with(text(), 'Succeeded')]"
"""Lists the stages by name, with the time that each took."""
RUNS = "{ runsOrError(limit: 1) { ... on Runs { results { runId status } } } }"


def main() -> None:
    """Compute the example, start its UI and take every picture."""
    with tempfile.TemporaryDirectory(prefix="influence-screenshots-") as folder:
        study = Path(folder) / "mystudy"
        influence("init", str(study))
        influence("run", "--study", str(study / "study.yaml"))
        with serving(study / "study.yaml") as address, browsing(Path(folder) / "profile") as browser:
            run_id = ask(address, RUNS)["runsOrError"]["results"][0]["runId"]
            groups = {node["groupName"] for node in ask(address, GROUPS)["assetNodes"]}
            expanded = ",".join(f"global@global:{group}" for group in sorted(groups))
            graph = Page(f"{address}/asset-groups?expanded={expanded}", "ui-graph", (1900, 1900), "influence_details")
            asset = Page(f"{address}/assets/example/curvature", "ui-spectra", (1300, 1000), "spectra", press=(PLOT,))
            run = Page(f"{address}/runs/{run_id}", "ui-run", (1600, 1000), "RUN_SUCCESS", press=(MAXIMISED, SUCCEEDED))
            for page in (run, asset, graph):
                take(browser, page)


@dataclass(frozen=True)
class Page:
    """A page of the UI.

    Args:
        address: Where it is.
        name: The picture's name.
        size: Width and height of the window, in pixels.
        until: Text that the page has once it is drawn.
        press: XPaths of what is pressed, in this order, before the picture is taken.
    """

    address: str
    name: str
    size: tuple[int, int]
    until: str
    press: tuple[str, ...] = ()


def take(browser: webdriver.Chrome, page: Page) -> None:
    """Open a page, wait until it is drawn, and write its picture with few colours.

    Raises:
        TimeoutException: The page is not drawn in time.
        ValueError: The picture is too large for a page of Markdown.
    """
    patience = WebDriverWait(browser, DRAWN_WITHIN_SECONDS)
    browser.set_window_size(*page.size)
    browser.get(page.address)
    patience.until(lambda _: page.until in browser.find_element(By.TAG_NAME, "body").text)
    for place in page.press:
        patience.until(lambda _, place=place: browser.find_elements(By.XPATH, place))
        browser.find_element(By.XPATH, place).click()
    time.sleep(SETTLES_SECONDS)
    picture = Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
    file = IMAGES / f"{page.name}.png"
    picture.quantize(COLOURS).save(file, optimize=True)
    if file.stat().st_size > BYTES:
        raise ValueError(f"{file} has {file.stat().st_size:,} bytes, more than {BYTES:,}")
    print(f"Wrote {file}: {file.stat().st_size:,} bytes")


@contextlib.contextmanager
def serving(study: Path) -> Iterator[str]:
    """Run the UI on a study; yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [executable("influence"), "ui", "--study", str(study), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait(lambda: ask(address, "{ version }"))
            yield address
        finally:
            server.send_signal(signal.SIGINT)


@contextlib.contextmanager
def browsing(profile: Path) -> Iterator[webdriver.Chrome]:
    """Run a browser without a window."""
    options = Options()
    options.binary_location = executable("chromium")
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    browser = webdriver.Chrome(options=options, service=Service(executable("chromedriver")))
    try:
        yield browser
    finally:
        browser.quit()


def ask(address: str, query: str) -> dict[str, Any]:
    """Return the data of a GraphQL query to the UI."""
    request = urllib.request.Request(
        f"{address}/graphql", json.dumps({"query": query}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        data: dict[str, Any] = json.load(answer)["data"]
    return data


def wait(look: Callable[[], object]) -> None:
    """Look again and again until something is there.

    Raises:
        TimeoutError: It does not come.
    """
    end = time.monotonic() + STARTS_WITHIN_SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            if look():
                return
        time.sleep(1)
    raise TimeoutError("the UI did not start")


def influence(*arguments: str) -> None:
    """Run the command."""
    subprocess.run([executable("influence"), *arguments], check=True, stdout=subprocess.DEVNULL)


def executable(name: str) -> str:
    """Return the path of a program, first beside this Python.

    Raises:
        FileNotFoundError: There is none.
    """
    path = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if path is None:
        raise FileNotFoundError(f"{name} is not installed")
    return path


if __name__ == "__main__":
    main()

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
from pathlib import Path
from typing import Any

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

IMAGES = Path(__file__).resolve().parent / "img"
BYTES = 150_000
COLOURS = 64
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
)  # fmt: skip
STARTS_WITHIN_SECONDS = 300
SETTLES_SECONDS = 8
LOCATION = "influence_assets"
GROUPS = "{ assetNodes { groupName } }"
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
            expanded = ",".join(f"{LOCATION}:__repository__:{group}" for group in sorted(groups))
            take(browser, f"{address}/asset-groups?expanded={expanded}", "ui-graph", size=(1900, 1150))
            take(browser, f"{address}/assets/example/curvature", "ui-spectra", size=(1300, 1000), entry="spectra")
            take(browser, f"{address}/runs/{run_id}", "ui-run", size=(1400, 1000))


def take(
    browser: webdriver.Chrome, address: str, name: str, *, size: tuple[int, int], entry: str | None = None
) -> None:
    """Open a page, wait until it is drawn, and write its picture with few colours.

    `entry` is an entry of the asset's metadata that is opened first, such as a plot.

    Raises:
        ValueError: The picture is too large for a page.
    """
    browser.set_window_size(*size)
    browser.get(address)
    time.sleep(SETTLES_SECONDS)
    if entry is not None:
        browser.find_element(By.XPATH, f"//tr[.//text()='{entry}']//*[contains(text(), 'Show Markdown')]").click()
        time.sleep(SETTLES_SECONDS)
    picture = Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
    file = IMAGES / f"{name}.png"
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

"""Makes docs/explain.png: the tape on a page of `calmgrad explain --html`.

    pip install -e '.[browser]'
    calmgrad demo --save-dir runs/demo-1
    python docs/picture.py runs/demo-1

Needs Chromium and its chromedriver on the PATH.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path

HERE = Path(__file__).resolve().parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync --hide-scrollbars --force-prefers-reduced-motion"
    " --window-size=1440,930"
)


def photograph(page: Path, picture: Path, folder: str) -> None:
    """Open the page, go to the tape, and keep what the window shows."""
    binary = next(filter(None, map(shutil.which, BROWSERS)), None)
    if binary is None:
        sys.exit(f"no {', '.join(BROWSERS)} on the PATH")
    chrome = import_module("selenium.webdriver.chrome.webdriver")
    options = import_module("selenium.webdriver.chrome.options").Options()
    service = import_module("selenium.webdriver.chrome.service").Service(
        executable_path=shutil.which("chromedriver")
    )
    options.binary_location = binary
    for flag in (*FLAGS.split(), f"--user-data-dir={folder}/profile"):
        options.add_argument(flag)
    window = chrome.WebDriver(options=options, service=service)
    try:
        window.get(page.as_uri())
        window.execute_script("document.getElementById('tape').scrollIntoView()")
        time.sleep(1)
        window.save_screenshot(str(picture))
    finally:
        window.quit()


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a run directory of `calmgrad demo`")
    parser.add_argument("--sequence", type=int, default=7, help="of its validation data")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "step.html"
        command = [sys.executable, "-m", "calmgrad.cli", "explain", "-m", given.run / "model.cwgt"]
        command += ["-d", given.run / "validation.ctds", "--sequence", given.sequence]
        subprocess.run([*map(str, command), "--html", str(page)], check=True)
        photograph(page, HERE / "explain.png", folder)


if __name__ == "__main__":
    main()

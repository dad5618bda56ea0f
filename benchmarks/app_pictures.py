"""Makes the pictures of docs/export.md: the page of `haloformer app` in Chromium, with simulated lenses.

python benchmarks/app_pictures.py            # docs/images/app_classify.png, app_fit.png, app_simulate.png
"""

import io
import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from haloformer.app import serving
from haloformer.simulation import simulate

IMAGES = Path(__file__).parents[1] / "docs" / "images"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
SEED = 3
COLOURS = 128  # which keeps a picture small


def save(page: Page, name: str) -> None:
    with Image.open(io.BytesIO(page.screenshot())) as picture:
        picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(
            IMAGES / name, optimize=True
        )


def main() -> None:
    browser_path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser_path is None:
        raise SystemExit("no Chromium on this machine")
    with (
        tempfile.TemporaryDirectory() as folder,
        serving("model_i") as url,
        sync_playwright() as driver,
    ):
        lens = Path(folder) / "axion_lens.npy"
        np.save(lens, simulate("model_i", 1, classes=["axion"], seed=SEED).images.numpy()[0, 0])
        browser = driver.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1120, "height": 1000})
        page.set_default_timeout(300_000)
        page.goto(url)
        page.set_input_files("#hf-file input[type=file]", str(lens))
        page.wait_for_selector("#hf-pictures img")
        page.wait_for_timeout(1000)
        save(page, "app_classify.png")
        page.get_by_role("tab", name="Fit").click()
        page.locator("#hf-fit-example").click()
        page.wait_for_selector("#hf-fit-result table")
        page.wait_for_timeout(1000)
        save(page, "app_fit.png")
        page.get_by_role("tab", name="Simulate").click()
        page.locator("#hf-survey input").click()
        page.get_by_role("option", name="hst").click()
        page.locator("#hf-kind").get_by_text("cold dark matter").click()
        page.wait_for_selector("text=halos of")
        page.wait_for_timeout(2000)
        save(page, "app_simulate.png")
        browser.close()


if __name__ == "__main__":
    main()

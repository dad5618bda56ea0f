"""`haloformer app`: a local page that classifies images, fits and simulates lenses, and lists models."""

import contextlib
import functools
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

from haloformer.errors import InputError, how_to_install

__all__ = ["app", "serving"]


def app(
    *,
    model: str = "model_i",
    host: str = "127.0.0.1",
    port: int = 7860,
    leaderboard: str | None = None,
    device: str = "auto",
    allow_hosts: str | None = None,
) -> None:
    """Opens a local page to classify images, to fit and simulate lenses, and to compare models.

    It needs no network, tells nobody that it runs, and keeps nothing that is uploaded. Ctrl-C ends
    it.

    Examples:
        haloformer app
        haloformer app --model runs/x --port 8000 --leaderboard leaderboard/leaderboard.csv
        haloformer app --host 0.0.0.0 --allow_hosts lens.example.org

    Args:
        model: Name of a shipped model, or run folder of a trained one.
        host: Address to listen on; only this machine reaches the default. There is no password:
            think before you give another.
        port: Port to listen on; 0 takes a free one.
        leaderboard: The leaderboard.csv of haloformer benchmark, to be shown instead of published
            AUCs.
        device: ``"auto"`` takes a GPU if there is one.
        allow_hosts: More names under which browsers may ask for the page, separated by commas;
            localhost, 127.0.0.1 and the host are allowed, and with a host that others reach every
            address of numbers. ``*`` allows any name.
    """

    def stop(*_: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    with serving(
        model,
        host=host,
        port=port,
        leaderboard=leaderboard,
        device=device,
        allow_hosts=allow_hosts,
    ) as url:
        signal.signal(signal.SIGTERM, stop)  # so that the folder of uploads is removed then, too
        print(f"haloformer app: {url} (Ctrl-C ends it)", flush=True)
        signal.pause() if hasattr(signal, "pause") else input()


@contextlib.contextmanager
def serving(
    model: str,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    leaderboard: str | None = None,
    device: str = "auto",
    allow_hosts: str | None = None,
    warm: bool = True,
) -> Iterator[str]:
    """Serves the page while the block runs, and yields its address; the options are those of `app`.

    With ``warm``, a thread compiles in the background what the first answers need.
    """
    if not 0 <= port < 2**16:
        raise InputError(f"port {port}: must lie between 0 and 65535")
    with tempfile.TemporaryDirectory(
        prefix="haloformer-app-", ignore_cleanup_errors=True
    ) as folder:
        # Read by gradio when it is imported; uploads go to this folder, which nobody else can read
        os.environ |= {
            "GRADIO_TEMP_DIR": folder,
            "GRADIO_EXAMPLES_CACHE": folder,
            "GRADIO_ANALYTICS_ENABLED": "False",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "DO_NOT_TRACK": "1",
        }
        try:
            import gradio  # noqa: F401
        except ImportError as error:
            raise InputError(f"the app needs gradio: {how_to_install('app')}") from error
        from haloformer.app.answers import warm_up
        from haloformer.app.fits import Fits
        from haloformer.app.known import Models
        from haloformer.app.limits import Uploads, in_background
        from haloformer.app.origins import allowed_hosts
        from haloformer.app.page import KEPT_SECONDS, build, launch

        uploads = Uploads(Path(folder), KEPT_SECONDS)
        models, fits = Models(model, device), Fits(Path(folder))
        page = build(models, leaderboard, uploads, fits)
        warming = (
            in_background(functools.partial(warm_up, models.get(models.first)), "warm-up")
            if warm
            else contextlib.nullcontext()
        )
        with uploads.swept(), warming:
            try:
                hosts = allowed_hosts(host, (allow_hosts or "").split(","))
                yield launch(page, host, port, uploads, hosts)
            finally:
                fits.close()
                page.close(verbose=False)

"""How long does the first visitor of `haloformer app` wait? Seconds to an open page and to the first answers, with and without warm-up.

    python benchmarks/app.py                     # a table, some minutes
    python benchmarks/app.py --out results/measurements/app.md

Each row is a process of its own, on one thread. "First use" begins with an empty cache of compiled kernels, as after an installation;
"later use" finds it filled. The visitor waits some seconds on the open page, drops an image of a lens, and then asks for a drawn one.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from isolated import CHILD, run_isolated, versions

from simulation import hardware, table

PAUSE = 10  # seconds until a person has found a file
SEED = 3


class Visitor:
    """What a browser does with the page, without one."""

    def __init__(self, url: str, timeout: float = 600) -> None:
        self.client = httpx.Client(base_url=url, timeout=timeout)
        self.client.get("/").raise_for_status()
        config = self.client.get("/config").json()
        self.kinds = {part["id"]: part["type"] for part in config["components"]}
        self.defaults = {part["id"]: part["props"].get("value") for part in config["components"]}
        self.calls = config["dependencies"]

    def upload(self, name: str, content: bytes) -> httpx.Response:
        """Sends a file; the answer is a list with its path on the server."""
        return self.client.post("/gradio_api/upload", files=[("files", (name, content))])

    def classify(self, path: str, **changed: Any) -> str:
        """Returns the HTML that answers an uploaded file; ``changed`` are other values of a kind of field, such as ``number``."""
        call = next(call for call in self.calls if self.kinds[call["inputs"][0]] == "file")
        data = [changed.get(self.kinds[part], self.defaults[part]) for part in call["inputs"]]
        data[0] = {"path": path, "meta": {"_type": "gradio.FileData"}}
        return "".join(part for part in self._ask(call["id"], data) if isinstance(part, str))

    def draw(self) -> str:
        """Returns the HTML of the lens that the page opens with."""
        call = next(call for call in self.calls if call["targets"][0][1] == "load")
        return self._ask(call["id"], [self.defaults[part] for part in call["inputs"]])[1]

    def _ask(self, number: int, data: list[Any]) -> list[Any]:
        session = uuid.uuid4().hex
        body = {"data": data, "fn_index": number, "session_hash": session}
        content = json.dumps(body)  # httpx's own writes no NaN
        headers = {"Content-Type": "application/json"}
        self.client.post(
            "/gradio_api/queue/join", content=content, headers=headers
        ).raise_for_status()
        with self.client.stream(
            "GET", "/gradio_api/queue/data", params={"session_hash": session}
        ) as stream:
            for line in stream.iter_lines():
                message = json.loads(line[5:]) if line.startswith("data:") else {}
                if message.get("msg") == "process_completed":
                    if not message["success"]:
                        raise RuntimeError(message["output"]["error"] or "refused")
                    return message["output"]["data"]
        raise RuntimeError("no answer")


def child(task: dict[str, Any]) -> dict[str, float]:
    began = time.perf_counter()
    from haloformer.app import serving

    with serving("model_i", warm=task["warm"]) as url:
        visitor = Visitor(url)
        marks = [time.perf_counter()]
        time.sleep(task["pause"])
        marks.append(time.perf_counter())
        (path,) = visitor.upload("lens.npy", Path(task["lens"]).read_bytes()).json()
        assert "%" in visitor.classify(path)
        marks.append(time.perf_counter())
        assert "<img" in visitor.draw()
        marks.append(time.perf_counter())
    return {"open": marks[0] - began, "classify": marks[2] - marks[1], "draw": marks[3] - marks[2]}


def measure() -> list[list[str]]:
    from haloformer.simulation import simulate

    rows = [
        [
            "compiled kernels",
            "warm-up",
            "start, until the page opens (s)",
            "first answer (s)",
            "then a drawn lens (s)",
        ]
    ]
    with tempfile.TemporaryDirectory() as folder:
        lens = Path(folder) / "lens.npy"
        np.save(lens, simulate("model_i", 1, seed=SEED).images.numpy()[0, 0])
        os.environ |= {
            "NUMBA_CACHE_DIR": f"{folder}/cache",
            "OMP_NUM_THREADS": "1",
            "NUMBA_NUM_THREADS": "1",
        }
        for used in ("first use", "later use"):
            for warm in (False, True):
                if used == "first use":
                    shutil.rmtree(f"{folder}/cache", ignore_errors=True)
                found = run_isolated(
                    __file__, {"warm": warm, "pause": PAUSE, "lens": str(lens)}, 900
                )
                if "error" in found:
                    raise SystemExit(found["error"])
                numbers = [f"{found[name]:.1f}" for name in ("open", "classify", "draw")]
                rows.append([used, "yes" if warm else "no", *numbers])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="Markdown file to write the table to")
    parser.add_argument(CHILD, dest="child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(child(json.loads(arguments.child))))
        return
    text = f"{table(measure())}\n\n{versions()}, {hardware()}, one thread; one run each, {PAUSE} s after the page opened.\n"
    print(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

"""How reliable are the readers? Damaged and hostile files, interrupted commands and uploads, counted.

    python benchmarks/reliability.py mutations --n 140      # damaged files of each kind; minutes
    python benchmarks/reliability.py hostile                # files made to do harm
    python benchmarks/reliability.py kills --n 6            # commands killed at random moments
    python benchmarks/reliability.py uploads --n 60         # damaged files sent to the local page
    python benchmarks/reliability.py table                  # results/measurements/reliability.md of what was counted

Everything is seeded. Counts are kept in ``--state`` kind by kind; what is there already, of the same seed and
number, is not run again. Readers run in worker processes, each under a bound of time and memory: a file that
exceeds one, or ends the process, is counted and named, and the next worker goes on with the next file.
"""

import argparse
import contextlib
import json
import os
import random
import re
import resource
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import hostile
import mutations
import numpy as np
from isolated import versions

from simulation import hardware, table

SECONDS, MiB = 10, 1024
"""What one file may take: of CPU time (and twelve times as long by the clock), and of memory beside that of the process before."""

OUTCOMES = ("read", "refused", "traceback", "over time", "over memory", "crash")
_NAMED = 20  # files that went wrong, of a kind

Job = tuple[str, Callable[[], object]]
"""The name of a file, and what makes and reads it."""


# --- workers ----------------------------------------------------------------------------------------------------------


def outcomes(jobs: list[Job]) -> Iterator[tuple[str, str, str]]:
    """Yields name, outcome and what was said of each job, done by workers that may die."""
    start = 0
    while start < len(jobs):
        for found in _worker(jobs, start):
            start += 1
            yield found


def _worker(jobs: list[Job], start: int) -> Iterator[tuple[str, str, str]]:
    """Yields outcomes until all jobs are done, or one has ended the process."""
    into, out = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(into)
        try:
            _work(jobs[start:], out)
        finally:
            os._exit(0)
    os.close(out)
    with os.fdopen(into, "rb") as reports:
        for name, _ in jobs[start:]:
            line = b""
            if select.select([reports], [], [], 12 * SECONDS)[0]:
                line = reports.readline()
            if line:
                outcome, said = json.loads(line)
                yield name, outcome, said
                continue
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            hung = status == -signal.SIGKILL
            yield name, "over time" if hung else "crash", f"process ended with {status}"
            return
    os.waitpid(child, 0)


def _work(jobs: list[Job], out: int) -> None:
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    signal.signal(signal.SIGPROF, _alarm)
    claimed = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (claimed + 2 * MiB * 2**20,) * 2)
    for _, job in jobs:
        before, began = _peak(), time.process_time()
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            outcome, said = _outcome(job)
        except TimeoutError:
            outcome, said = "over time", ""
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        grown = (_peak() - before) // 2**10
        if time.process_time() - began >= SECONDS:  # a reader may have taken the alarm for damage
            outcome = "over time"
        elif grown > MiB or any(word in said for word in ("MemoryError", "allocate memory")):
            outcome, said = "over memory", f"{grown} MiB {said}"
        # One write, so that the parent never sees half a line and blocks.
        os.write(out, json.dumps([outcome, said]).encode()[:4000] + b"\n")


def _outcome(job: Callable[[], object]) -> tuple[str, str]:
    from haloformer.errors import InputError, brief

    try:
        job()
    except InputError as error:
        return "refused", brief(error)
    except TimeoutError:
        raise
    except MemoryError:
        return "over memory", "MemoryError"
    except BaseException:
        return "traceback", traceback.format_exc(limit=-3)[-500:]
    return "read", ""


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _alarm(*_: object) -> None:
    raise TimeoutError


def counted(jobs: Iterable[Job]) -> dict[str, Any]:
    """Returns how many jobs ended how, with the names of those that ended badly."""
    counts: Counter[str] = Counter()
    bad: list[str] = []
    began = time.monotonic()
    for name, outcome, said in outcomes(list(jobs)):
        counts[outcome] += 1
        if outcome not in OUTCOMES[:2]:
            bad.append(f"{name}: {outcome}: {said}")
            print(bad[-1], file=sys.stderr, flush=True)
    return {
        "counts": {name: counts[name] for name in OUTCOMES},
        "bad": bad[:_NAMED],
        "seconds": round(time.monotonic() - began, 1),
    }


# --- parts ------------------------------------------------------------------------------------------------------------


def damaged(kind: str, seed: int, k: int) -> bytes:
    """Returns damaged file number ``k`` of a kind: always the same of the same seed."""
    number = list(mutations.KINDS).index(kind)
    rng = np.random.default_rng([seed, number, k])
    return mutations.mutated(_valid(kind), rng)


_made: dict[str, bytes] = {}


def _valid(kind: str) -> bytes:
    if kind not in _made:
        _made[kind] = mutations.KINDS[kind][1]()
    return _made[kind]


def run_mutations(options: argparse.Namespace, state: dict[str, Any]) -> None:
    import haloformer.prediction.predictor  # noqa: F401 - once, not in each worker

    done = state.setdefault("mutations", {})
    for kind, (name, _) in mutations.KINDS.items():
        if options.kinds and kind not in options.kinds:
            continue
        key = {"seed": options.seed, "n": options.n}
        if not options.again and {k: done.get(kind, {}).get(k) for k in key} == key:
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = mutations.prepare(Path(folder), name)
            read = hostile.reader_of(name)

            def job(k: int, kind: str = kind, path: Path = path, read: Any = read) -> object:
                path.write_bytes(damaged(kind, options.seed, k))
                return read(path)

            path.write_bytes(_valid(kind))
            read(path)  # the valid file is read
            jobs = [(f"{kind} {k}", lambda k=k: job(k)) for k in range(options.n)]
            done[kind] = {**key, **counted(jobs)}
        print(kind, done[kind]["counts"], done[kind]["seconds"], flush=True)
        save(options, state)


def run_hostile(options: argparse.Namespace, state: dict[str, Any]) -> None:
    import haloformer.prediction.predictor  # noqa: F401

    files = {**hostile.FILES, **hostile.SLOW}
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        made = {name: hostile.make(Path(folder) / str(k), name) for k, name in enumerate(files)}
        os.chdir(folder)
        jobs = [
            (name, lambda path=path: hostile.reader_of(path.name)(path))
            for name, path in made.items()
        ]
        state["hostile"] = counted(jobs)
        if (Path(folder) / "unpickled").exists():
            wrong.append("a pickle was run")
        os.chdir("/")
    state["hostile"]["bad"] += wrong
    print(state["hostile"])


def _commands(folder: Path) -> dict[str, tuple[list[str], Path]]:
    """Returns small commands, each with the file that it writes."""
    base, images = folder / "base.h5", folder / "images"
    run = ["simulate", "model_ii", "--n", "12000", "--seed", "1", "--noise", "original"]
    return {
        "simulate": ([*run, "--out", str(folder / "s.h5")], folder / "s.h5"),
        "convert": (["convert", str(images), "--out", str(folder / "c.h5")], folder / "c.h5"),
        "predict": (
            ["predict", "model_ii", str(base), "--out", str(folder / "p.csv"), "--shard_size", "64", "--batch_size", "64"],
            folder / "p.csv",
        ),
    }  # fmt: skip


def _is_whole(path: Path, n: int) -> bool:
    """Tells whether a table or a dataset holds all that it should."""
    if path.suffix == ".csv":
        return path.read_bytes().count(b"\n") == n + 1
    from haloformer.data import LensDataset

    return len(LensDataset(path)) == n


def run_kills(options: argparse.Namespace, state: dict[str, Any]) -> None:
    rng = random.Random(options.seed)
    done = state.setdefault("kills", {})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _make_inputs(folder)
        for command, (arguments, out) in _commands(folder).items():
            began = time.monotonic()
            _run(arguments)
            whole = time.monotonic() - began
            n = _rows(out)
            counts: Counter[str] = Counter()
            for k in range(options.n):
                _remove(out)
                kind = (signal.SIGKILL, signal.SIGTERM)[k % 2]
                process = _start(arguments)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(rng.uniform(0.3, 1) * whole)
                process.send_signal(kind)
                process.wait()
                counts[
                    "whole"
                    if out.exists() and _is_whole(out, n)
                    else "torn"
                    if out.exists()
                    else "absent"
                ] += 1
                left = {each.name for each in folder.iterdir()} - _allowed(out)
                counts["other files left"] += len(left)
            counts["then completed by the same call"] += (
                int(_run(arguments, check=False) == 0 and _is_whole(out, n))
                if not out.exists()
                else 1
            )
            done[command] = {"n": options.n, "seed": options.seed, "counts": dict(counts)}
            print(command, dict(counts), flush=True)
            save(options, state)


def _allowed(out: Path) -> set[str]:
    return {"base.h5", "images", "s.h5", "c.h5", "p.csv", f"{out.name}.part", f"{out.name}.shards"}


def _make_inputs(folder: Path) -> None:
    _run(["simulate", "model_ii", "--n", "600", "--seed", "2", "--out", str(folder / "base.h5")])
    rng = np.random.default_rng(0)
    for name in ("axion", "cdm"):
        (folder / "images" / name).mkdir(parents=True)
        for k in range(1500):
            image = rng.random((64, 64)).astype(np.float32)
            np.save(folder / "images" / name / f"{k}.npy", image)


def _rows(path: Path) -> int:
    if path.suffix == ".csv":
        return path.read_bytes().count(b"\n") - 1
    from haloformer.data import LensDataset

    return len(LensDataset(path))


def _remove(out: Path) -> None:
    for path in (out, out.with_name(out.name + ".part")):
        path.unlink(missing_ok=True)
    shutil.rmtree(out.with_name(out.name + ".shards"), ignore_errors=True)


def _start(arguments: list[str]) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "haloformer", *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _run(arguments: list[str], *, check: bool = True) -> int:
    code = _start(arguments).wait()
    if check and code:
        raise SystemExit(f"haloformer {shlex.join(arguments)} ended with {code}")
    return code


def run_uploads(options: argparse.Namespace, state: dict[str, Any]) -> None:
    from app import Visitor

    from haloformer.app import serving

    counts: Counter[str] = Counter()
    bad: list[str] = []
    kinds = [kind for kind, (name, _) in mutations.KINDS.items() if name.startswith("x.") and "catalog" not in kind and "survey" not in kind]  # fmt: skip
    with serving("model_ii", warm=False) as url:
        visitor = Visitor(url)
        for k in range(options.n):
            kind = kinds[k % len(kinds)]
            sent = visitor.upload(mutations.KINDS[kind][0], damaged(kind, options.seed, k))
            if sent.status_code != 200:
                counts["refused by the server"] += 1
                continue
            try:
                counts["answered" if visitor.classify(sent.json()[0]) else "no answer"] += 1
            except RuntimeError as error:
                counts["error of the page"] += 1
                bad.append(f"{kind} {k}: {error}")
        sent = visitor.upload("x.npy", mutations.KINDS["npy"][1]())
        assert visitor.classify(sent.json()[0]), "the page no longer answers"
    state["uploads"] = {"n": options.n, "seed": options.seed, "counts": dict(counts), "bad": bad[:_NAMED]}  # fmt: skip
    print(state["uploads"])


# --- the table --------------------------------------------------------------------------------------------------------


HEAD = """# Reliability

What readers of files from outside did with damaged and hostile files, and what interrupted commands
left behind. Every number comes from a command that anyone can rerun.

- **read**: the file was read all the same: its damage lay in the pixels, or in what is not needed.
- **refused**: one line that names the file (`InputError`; the command line ends with exit code 2).
- **traceback**, **over time**, **over memory**, **crash**: faults. A file may take {seconds} s of CPU
  time and {memory} MiB more than the process had before.
"""


def document(state: dict[str, Any], seed: int) -> str:
    """Returns results/measurements/reliability.md."""
    text = [HEAD.format(seconds=SECONDS, memory=MiB)]
    if found := state.get("mutations"):
        rows = [["reader", "files", *OUTCOMES]]
        for kind, part in found.items():
            counts = [part["counts"][name] for name in OUTCOMES]
            rows.append([kind, str(sum(counts)), *map(str, counts)])
        totals = [sum(int(row[k]) for row in rows[1:]) for k in range(1, len(rows[0]))]
        rows.append(["all", *map(str, totals)])
        n = next(iter(found.values()))["n"]
        text.append(
            "## Damaged files\n\nValid files with flipped bits, cut off, spliced, or with other numbers in their headers\n"
            f"(`benchmarks/mutations.py`): `python benchmarks/reliability.py mutations --n {n} --seed {seed}`\n\n"
            + table(rows)
        )
    if found := state.get("hostile"):
        counts = found["counts"]
        rows = [["", "files", *OUTCOMES], ["hostile files", str(sum(counts.values())), *(str(counts[name]) for name in OUTCOMES)]]  # fmt: skip
        text.append(
            "## Hostile files\n\nBombs, deep nesting, files that point elsewhere, pipes and devices, each listed in\n"
            "`benchmarks/hostile.py`: `python benchmarks/reliability.py hostile`. The few that are read are\n"
            "harmless once bounds hold, such as a header that asks for a polynomial of order 10⁸.\n\n"
            + table(rows)
        )
    if found := state.get("kills"):
        names = ("absent", "whole", "torn", "other files left", "then completed by the same call")
        rows = [["command", "kills", *names]]
        for command, part in found.items():
            numbers = [str(part["counts"].get(name, 0)) for name in names[:-1]]
            finished = "yes" if part["counts"].get(names[-1]) else "no"
            rows.append([command, str(part["n"]), *numbers, finished])
        text.append(
            "## Killed commands\n\nSIGKILL and SIGTERM in turn, at random moments: the output is then absent or whole. A `.part` or\n"
            f"`.shards` beside it is left by design, and used up by the next call: `python benchmarks/reliability.py kills --n {part['n']}`\n\n"
            + table(rows)
        )
    if found := state.get("uploads"):
        rows = [["", "uploads", *found["counts"]], ["local page", str(found["n"]), *map(str, found["counts"].values())]]  # fmt: skip
        text.append(
            "## Uploads\n\nDamaged images and datasets sent to the local page, which answers each with a class or with the reason\n"
            f"why not, and an undamaged one in the end: `python benchmarks/reliability.py uploads --n {found['n']}`\n\n"
            + table(rows)
        )
    text.append(f"Measured: {versions()}, {hardware()}, one process at a time.")
    paragraphs = "\n\n".join(part.strip() for part in text).split("\n\n")
    return "\n\n".join(map(_wrapped, paragraphs)) + "\n"


def _wrapped(paragraph: str) -> str:
    """Returns a paragraph in lines of at most 100 characters; tables, lists and headings as they are."""
    if paragraph.startswith(("|", "#", "-")):
        return paragraph
    whole = re.sub("`[^`]*`", lambda code: code[0].replace(" ", "\0"), paragraph)
    filled = textwrap.fill(whole, 100, break_long_words=False, break_on_hyphens=False)
    return filled.replace("\0", " ")


def run_table(options: argparse.Namespace, state: dict[str, Any]) -> None:
    options.out.write_text(document(state, options.seed), encoding="utf-8")
    print(f"wrote {options.out}")


def save(options: argparse.Namespace, state: dict[str, Any]) -> None:
    options.state.parent.mkdir(parents=True, exist_ok=True)
    options.state.write_text(json.dumps(state, indent=1, sort_keys=True) + "\n", encoding="utf-8")


PARTS = {
    "mutations": run_mutations,
    "hostile": run_hostile,
    "kills": run_kills,
    "uploads": run_uploads,
    "table": run_table,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--n", type=int, default=10, help="files of each kind, kills, or uploads")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", nargs="*", help="of mutations; all by default")
    parser.add_argument("--again", action="store_true", help="also run what is counted already")
    parser.add_argument("--state", type=Path, default=root / "results" / "reliability.json")
    parser.add_argument(
        "--out", type=Path, default=root / "results" / "measurements" / "reliability.md"
    )
    options = parser.parse_args()
    options.state = options.state.resolve()
    state = json.loads(options.state.read_text()) if options.state.exists() else {}
    PARTS[options.part](options, state)
    if options.part != "table":
        save(options, state)


if __name__ == "__main__":
    main()

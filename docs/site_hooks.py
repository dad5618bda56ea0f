"""For the site only: links of the documents to files outside ``docs/`` lead to the repository; pictures from there come along.

Docstrings have Sphinx's roles, which other tools show: here names stand without them.
"""

import os
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
REPOSITORY = "https://github.com/haloformer/haloformer/blob/main/"
_ROLE = re.compile(r":(?:class|func|meth|attr|mod|data):(?=<code>)")
_LINK = re.compile(r"\]\((\.\./[^)#\s]+)(#[^)]*)?\)")


def on_files(files, config):
    """Adds the pictures of ``results/``."""
    for path in sorted((ROOT / "results").rglob("*.png")):
        files.append(
            File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path))
        )
    return files


def on_page_markdown(markdown, page, config, files):
    """Rewrites what leads out of ``docs/``."""
    folder = Path("docs") / Path(page.file.src_uri).parent

    def rewritten(match: re.Match) -> str:
        target = os.path.normpath(folder / match[1])
        if target == "docs" or target.startswith("docs/"):
            return match[0]
        if target.endswith(".png"):
            return f"]({os.path.relpath(target, Path(page.file.src_uri).parent)})"
        return f"]({REPOSITORY}{target}{match[2] or ''})"

    return _LINK.sub(rewritten, markdown)


def on_page_content(html, page, config, files):
    """Leaves out the roles of names in docstrings."""
    return _ROLE.sub("", html)

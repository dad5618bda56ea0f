"""Writes docs/citations.md: what to cite, the architectures from the registry's ``paper`` fields.

python benchmarks/citations.py
"""

import os
import re
from pathlib import Path

from haloformer.models import list_models

DOCUMENT = Path(__file__).parents[1] / "docs" / "citations.md"

HEAD = """# What to cite

<!-- Written by benchmarks/citations.py; change that. -->

The package itself: [CITATION.cff](../CITATION.cff). It is under the [MIT licence](../LICENSE). The architectures written here were written from the papers and
compared with their authors' code, none of which is part of this package; those of timm are used through
[timm](https://github.com/huggingface/pytorch-image-models) (Wightman, Apache 2.0). Trained weights that timm downloads have licences of their own.

## The physics and the data

| what | source |
|---|---|
| the surveys, and axion and CDM substructure in them | Alexander et al. 2020, ApJ 893, 15 ([arXiv:1909.07346](https://arxiv.org/abs/1909.07346)), and the data of [DeepLense](https://github.com/ML4SCI/DeepLense) |
| their simulator, which names two papers more | [DeepLenseSim](https://github.com/mwt5345/DeepLenseSim): Alexander et al., *Decoding Dark Matter Substructure without Supervision* ([arXiv:2008.12731](https://arxiv.org/abs/2008.12731)), and *Domain Adaptation for Simulation-Based Dark Matter Searches Using Strong Gravitational Lensing* ([arXiv:2112.12121](https://arxiv.org/abs/2112.12121)) |
| singular isothermal ellipsoid | Kormann, Schneider & Bartelmann 1994, A&A 284, 285; core as in Keeton 2001 ([arXiv:astro-ph/0102341](https://arxiv.org/abs/astro-ph/0102341)) |
| lensing distances, point masses | Schneider, Ehlers & Falco 1992, *Gravitational Lenses*, Springer |
| light of galaxies | Sérsic 1963, BAAA 6, 41; Graham & Driver 2005, PASA 22, 118 ([arXiv:astro-ph/0503176](https://arxiv.org/abs/astro-ph/0503176)) |
| conventions, and the code that ours is checked against | lenstronomy: Birrer & Amara 2018 ([arXiv:1803.09746](https://arxiv.org/abs/1803.09746)) |
| random numbers | Salmon et al. 2011, *Parallel random numbers: as easy as 1, 2, 3*, SC'11 |

## Statistics and explanation

| what | source |
|---|---|
| intervals of AUCs | DeLong, DeLong & Clarke-Pearson 1988, Biometrics 44, 837 |
| calibrated probabilities | Guo et al. 2017 ([arXiv:1706.04599](https://arxiv.org/abs/1706.04599)) |
| intervals of estimated masses | Romano et al. 2019 ([arXiv:1905.03222](https://arxiv.org/abs/1905.03222)); their loss: Seitzer et al. 2022 ([arXiv:2203.09168](https://arxiv.org/abs/2203.09168)) |
| out-of-distribution detection | Lee et al. 2018 ([arXiv:1807.03888](https://arxiv.org/abs/1807.03888)) |
| rollout | Abnar & Zuidema 2020 ([arXiv:2005.00928](https://arxiv.org/abs/2005.00928)) |
| Grad-CAM, integrated gradients | Selvaraju et al. 2017 ([arXiv:1610.02391](https://arxiv.org/abs/1610.02391)); Sundararajan et al. 2017 ([arXiv:1703.01365](https://arxiv.org/abs/1703.01365)) |
| comparison with random weights | Adebayo et al. 2018 ([arXiv:1810.03292](https://arxiv.org/abs/1810.03292)) |

## The architectures

Cite the paper of the one you use; `haloformer models NAME` names it, too.

| family | written in | paper |
|---|---|---|
"""


def linked(paper: str) -> str:
    """The arXiv numbers of a paper's line as links."""
    return re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", paper)


def document() -> str:
    """The page, with a row for every paper of every family in the registry."""
    rows = dict.fromkeys((info.family, info.source, linked(info.paper)) for info in list_models())
    ordered = sorted(rows, key=lambda row: (row[0].lower(), row[1:]))
    return HEAD + "".join(
        f"| {family} | {source} | {paper} |\n" for family, source, paper in ordered
    )


def main() -> None:
    part = DOCUMENT.with_suffix(".part")
    part.write_text(document(), encoding="utf-8")
    os.replace(part, DOCUMENT)
    print(f"wrote {DOCUMENT.name}")


if __name__ == "__main__":
    main()

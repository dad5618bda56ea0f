"""A folder of shards in place of a file: what it is, and what to give."""

import numpy as np
import pytest
from astropy.io import fits

from haloformer.cli import main
from haloformer.data.conversion import open_labelled
from haloformer.data.finding import find_images
from haloformer.data.shards import simulate_shards
from haloformer.errors import InputError
from haloformer.simulation import Simulator
from haloformer.training.config import compose
from haloformer.training.feeds import open_feed


def test_a_folder_of_shards_is_told_as_such(tmp_path):
    folder = tmp_path / "many"
    simulate_shards(Simulator("model_ii"), folder, n=4, shard_size=2, workers=1, progress=False)
    for use in (
        find_images,
        lambda path: open_labelled(path)[0].__enter__(),
        lambda path: open_feed(compose(None, {"data": str(path), "model": "vit_nano"})),
    ):
        with pytest.raises(InputError, match=r"folder of shards.*part-00000\.h5"):
            use(folder)


def test_shards_of_a_camera_whose_file_was_replaced_are_not_taken(tmp_path):
    psf, survey = tmp_path / "psf.fits", tmp_path / "mine.yaml"
    camera = f"{{base: hst_acs_f814w, num_pix: 40, psf_file: {psf}}}"
    survey.write_text(f"base: ladder_1_camera\ninstrument: {camera}\n")

    def shards():
        given = {"n": 4, "shard_size": 2, "workers": 1, "progress": False}
        simulate_shards(Simulator(str(survey)), tmp_path / "many", **given)

    fits.PrimaryHDU(np.full((3, 3), 1 / 9)).writeto(psf)
    shards()
    shards()
    fits.PrimaryHDU(np.full((5, 5), 1 / 25)).writeto(psf, overwrite=True)
    with pytest.raises(InputError, match=r"another configuration \(files"):
        shards()


def test_a_size_of_shards_without_shards_is_told(tmp_path, capsys):
    words = ["simulate", "model_ii", "--n", "3", "--shard_size", "3", "--out"]
    assert main([*words, str(tmp_path / "x.h5")]) == 0
    assert "without --workers it changes nothing" in capsys.readouterr().err


@pytest.mark.parametrize("paired", [True, False])
def test_shards_of_pairs_and_of_others_are_not_mixed(tmp_path, paired):
    def shards(paired):
        given = {"n": 2, "shard_size": 2, "workers": 1, "progress": False}
        simulate_shards(Simulator("ladder_1_camera", paired=paired), tmp_path / "many", **given)

    shards(paired)
    there_and_here = f"paired: {paired} there, {not paired} here"
    with pytest.raises(InputError, match=rf"another configuration \({there_and_here}\)"):
        shards(not paired)
    shards(paired)

"""The network's keywords."""

import pytest

from haloformer.errors import InputError
from haloformer.outputs.layout import Outputs
from haloformer.training.config import compose
from haloformer.training.network import build_network


def network(**options):
    return build_network(
        compose(None, options), (1, 64, 64), Outputs(("axion", "cdm", "no_sub")), pretrained=False
    )


def test_what_is_given_twice_is_refused():
    with pytest.raises(InputError, match=r"drop_rate is given by dropout \(0.5\), too"):
        network(model="vit_nano", dropout=0.5, model_args={"drop_rate": 0.0})
    assert network(model="vit_nano", model_args={"drop_rate": 0.3}).head_drop.p == 0.3


def test_a_regularisation_that_a_network_lacks_is_told_by_its_name():
    with pytest.raises(InputError, match="attention_dropout: resnet_nano has none"):
        network(model="resnet_nano", attention_dropout=0.1)

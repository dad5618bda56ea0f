"""The batch norm before the classifier, without which small transformers do not start to learn."""

import pytest
import torch
from torch import nn

from haloformer.errors import InputError
from haloformer.models import create_model, list_models
from haloformer.models.head import HeadNorm, NormalizedClassifier, classifier_names


def test_small_transformers_have_it_and_papers_variants_do_not():
    assert isinstance(create_model("vit_nano", 64).get_classifier(), NormalizedClassifier)
    assert type(create_model("vit_tiny_patch16_224", 64).get_classifier()) is nn.Linear
    assert type(create_model("vit_nano", 64, head_norm="none").get_classifier()) is nn.Linear
    papers = [info for info in list_models() if info.size == "paper"]
    assert not any("head_norm" in info.kwargs for info in papers)


def test_what_all_images_share_does_not_reach_the_classifier():
    """In training mode, a vector added to the features of every image changes nothing."""
    torch.manual_seed(0)
    head = NormalizedClassifier(nn.Linear(8, 3)).train()
    features, shared = torch.randn(16, 8), 10 * torch.randn(8)
    torch.testing.assert_close(head(features + shared), head(features), atol=1e-5, rtol=1e-5)
    plain = nn.Linear(8, 3)
    assert (plain(features + shared) - plain(features)).abs().max() > 1


def test_every_classifier_of_a_model_with_several_gets_one():
    model = create_model("crossvit_nano", 64)
    names = classifier_names(model)
    assert len(names) == 2
    assert all(isinstance(model.get_submodule(name), NormalizedClassifier) for name in names)


def test_it_works_inside_a_padded_model_and_a_new_classifier_is_plain():
    model = create_model("vit_nano", 67)
    assert isinstance(model.get_classifier(), NormalizedClassifier)
    model.reset_classifier(2)
    assert type(model.get_classifier()) is nn.Linear


def test_training_on_a_single_image_falls_back_on_the_running_statistics():
    norm = HeadNorm(4).train()
    norm.running_mean.fill_(2.0)
    torch.testing.assert_close(norm(torch.full((1, 4), 2.0)), torch.zeros(1, 4))


def test_unknown_kinds_and_models_without_a_linear_classifier_are_refused():
    with pytest.raises(InputError, match="unknown head_norm 'layer'"):
        create_model("vit_nano", 64, head_norm="layer")
    with pytest.raises(InputError, match="needs a linear classifier"):
        create_model("levit_nano", 64, head_norm="batch")

"""On a GPU: the same answers as on a CPU, and images that never leave it. Skipped where there is none."""

import warnings

import numpy as np
import pytest
import torch

from haloformer.data.stream import stream_batches
from haloformer.fitting import fit_smooth
from haloformer.fitting.channels import Residual
from haloformer.fitting.fitted import FittedSimulator
from haloformer.models import create_model
from haloformer.prediction.predictor import load
from haloformer.simulation import Simulator, batches_ahead, simulate
from haloformer.simulation.fused_noise import noisy_pixels
from haloformer.simulation.instruments import central_part
from haloformer.simulation.noise import add_noise
from haloformer.training import train
from haloformer.training.config import compose
from haloformer.training.cuda_graphs import graphed
from haloformer.training.feeds import open_feed

pytestmark = pytest.mark.cuda

GPU = torch.device("cuda:0")


def residual_of(simulator, **options):
    definition = simulator.attributes["survey_definition"]
    return Residual(definition, simulator.noise, **options)


@pytest.mark.parametrize("survey", ["model_i", "model_ii", "model_iii"])
def test_images_without_noise_are_those_of_the_cpu(survey):
    numbers, given = range(9), {"seed": 5, "noise": "none", "dtype": torch.float64}
    cpu = Simulator(survey, backend="torch", **given).batch(numbers)
    gpu = Simulator(survey, device=GPU, **given).batch(numbers)
    assert gpu.images.device == GPU
    assert torch.allclose(cpu.images, gpu.images.cpu(), rtol=1e-9, atol=1e-12)
    assert np.array_equal(cpu.parameters["source_x"], gpu.parameters["source_x"])


@pytest.mark.parametrize(
    ("survey", "twice"), [("model_i", True), ("model_i_fair", True), ("model_ii", False)]
)
def test_noise_is_compiled_and_the_same_in_every_batch(survey, twice):
    noise = "original" if twice else "instrument"
    given = {"seed": 5, "device": GPU, "dtype": torch.float64}
    simulator = Simulator(survey, noise=noise, **given)
    noisy = simulator.batch(range(6)).images
    assert torch.equal(simulator.batch([4]).images[0], noisy[4])
    assert torch.equal(simulator.batch(range(6), side=32).images, central_part(noisy, 32))
    images = Simulator(survey, noise="none", **given).batch(range(6)).images[:, 0]
    words = np.arange(6, dtype=np.uint64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # that it was not compiled
        ours = add_noise(images, words, torch.full((6,), 2000.0), 0.01, twice)
    low = torch.as_tensor(words.astype(np.int64))[:, None]
    pixel = torch.arange(images[0].numel())[None]
    seconds, rms = (
        torch.full((6, 1), 2000.0, dtype=torch.float64),
        torch.tensor(0.01, dtype=torch.float64),
    )
    arguments = (pixel, low, 0 * low, seconds, rms, twice)
    wanted = noisy_pixels(images.cpu().reshape(6, -1), *arguments).reshape(ours.shape)
    # Where a rounding of the last digit decides between two counts, they differ by one.
    assert (~torch.isclose(ours.cpu(), wanted, rtol=1e-9)).double().mean() < 1e-4


@pytest.mark.parametrize(("survey", "noise"), [("model_i", "original"), ("model_ii", "instrument")])
def test_fit_and_detail_are_those_of_the_cpu(survey, noise):
    lenses = simulate(survey, 24, seed=2, noise=noise)
    cpu = fit_smooth(lenses.images, survey, noise=noise, detail=True)
    gpu = fit_smooth(lenses.images.to(GPU), survey, noise=noise, detail=True)
    assert gpu.residual.device == GPU
    both = cpu.converged & gpu.converged.cpu()
    assert both.double().mean() > 0.9
    assert ((cpu.values - gpu.values.cpu()).abs() / cpu.errors)[both].max() < 0.05
    assert (cpu.residual - gpu.residual.cpu())[both].abs().max() < 0.05
    assert (cpu.detail - gpu.detail.cpu())[both].abs().max() < 0.05


@pytest.mark.parametrize("survey", ["model_i_fair", "ladder_3_multipoles", "hst"])
def test_fits_of_lenses_that_vary_are_those_of_the_cpu(survey):
    classes = None if survey == "hst" else ["no_sub"]
    images = Simulator(survey, seed=2, classes=classes).batch(range(12)).images
    cpu = fit_smooth(images, survey, detail=True)
    gpu = fit_smooth(images.to(GPU), survey, detail=True)
    assert gpu.residual.device == gpu.values.device == GPU
    both = cpu.converged & gpu.converged.cpu()
    assert both.double().mean() > (0.2 if survey == "hst" else 0.9)
    near = ((cpu.values - gpu.values.cpu()).abs() / cpu.errors)[both].amax(1) < 0.05
    assert near.double().mean() > 0.8
    assert (cpu.detail - gpu.detail.cpu())[both][near].abs().max() < 0.1


def test_batches_ahead_are_made_on_the_gpu_and_whole_when_they_are_used():
    simulator = Simulator("model_i", seed=1, device=GPU)
    maker = FittedSimulator(simulator, residual_of(simulator, crop=96, detail=True))
    alone = [maker.batch(range(i, i + 32)).images for i in range(0, 128, 32)]
    ahead = batches_ahead(maker, [range(i, i + 32) for i in range(0, 128, 32)], GPU)
    busy = torch.randn(2048, 2048, device=GPU)
    for wanted, batch in zip(alone, ahead, strict=True):
        busy = busy @ busy / 2048  # the caller's stream has work of its own
        assert batch.images.device == GPU
        assert torch.allclose(batch.images, wanted, atol=1e-3)


def test_images_of_the_cpu_arrive_on_the_gpu():
    simulator = Simulator("model_ii", seed=1)
    found = list(stream_batches(simulator, np.arange(48), 16, device=GPU))
    assert all(batch.images.device == GPU for batch in found)
    assert torch.equal(
        torch.cat([b.images for b in found]).cpu(), simulator.batch(range(48)).images
    )


def experiment(out, **options):
    given = {"data": "model_ii", "model": "vit_nano", "out": str(out), "physics": "detail"}
    sizes = {"val_size": 60, "epochs": 2, "epoch_size": 256, "batch_size": 32, "progress": False}
    return {**given, **sizes, "noise": "instrument", "device": "cuda", **options}


@pytest.mark.parametrize("n_images", [None, 300])
def test_training_images_are_on_the_gpu(tmp_path, n_images):
    feed = open_feed(compose(None, experiment(tmp_path / "x", n_images=n_images)))
    for batch in (*feed.epoch(0, 0, (0, 1)), *feed.validation((0, 1))):
        assert all(column.device == GPU for column in batch)
    assert feed.fit.images.device.type == "cpu"


@pytest.mark.parametrize("options", [{}, {"n_images": 300}, {"prepared": "images"}, {"physics": "none", "fresh_noise": "instrument"}, {"task": "both"}])  # fmt: skip
def test_training_prediction_and_export(tmp_path, monkeypatch, options):
    monkeypatch.chdir(tmp_path)
    result = train(**experiment(tmp_path / "run", **options))
    assert np.isfinite(result.metrics["val_macro_auc"])
    images = simulate("model_ii", 12, seed=9, noise="instrument").images
    gpu, cpu = (load(tmp_path / "run", device).predict_logits(images) for device in ("cuda", "cpu"))
    assert torch.allclose(gpu, cpu, atol=0.05)


def test_an_interrupted_training_goes_on(tmp_path):
    given = experiment(tmp_path / "run", epochs=3)
    with pytest.raises(KeyboardInterrupt):
        train(**given, on_epoch=interrupt)
    assert train(**given).epochs == 3


def interrupt(epoch, metrics):
    if epoch == 2:
        raise KeyboardInterrupt
    return False


def small_network(name, **options):
    torch.manual_seed(1)
    return create_model(name, 64, **options).to(GPU)


@pytest.mark.parametrize(
    ("name", "options"),
    [("vit_nano", {}), ("resnet_nano", {}), ("equivariant_c4_nano", {}), ("vit_nano", {"drop_rate": 0.2}), ("coatnet_lens_nano", {"drop_path_rate": 0.2})],
)  # fmt: skip
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_recorded_steps_are_those_of_the_network(name, options, precision):
    network, plain = (small_network(name, **options) for _ in range(2))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    faster, why = graphed(network, torch.randn(16, 1, 64, 64, device=GPU), precision)
    assert faster is not None, why
    assert "CUDA graphs" in why
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert type(network).forward is network.forward.__func__
    steps = [torch.optim.SGD(each.parameters(), lr=1e-3) for each in (network, plain)]
    tolerance = 1e-3 if precision == torch.float32 else 0.1
    for number in range(4):
        torch.manual_seed(number)
        inputs = torch.randn(16, 1, 64, 64, device=GPU)
        labels = torch.arange(16, device=GPU) % 3
        losses = []
        for step, each in zip(steps, (faster, plain.train()), strict=True):
            torch.manual_seed(number)  # of what is dropped
            with torch.autocast("cuda", precision, enabled=precision != torch.float32):
                loss = torch.nn.functional.cross_entropy(each(inputs).float(), labels)
            step.zero_grad()
            loss.backward()
            step.step()
            losses.append(loss.item())
        assert losses[0] == pytest.approx(losses[1], rel=tolerance)
    assert faster(inputs[:3]).shape == (3, 3)  # another size: by the network itself


def test_a_network_that_cannot_be_recorded_is_trained_without():
    class Waiting(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(3, device=GPU))

        def forward(self, images):
            if images.mean().item() > 100:  # waits for the GPU
                return self.weight
            return images.mean((1, 2, 3))[:, None] * self.weight

    network = Waiting()
    faster, why = graphed(network, torch.randn(4, 1, 8, 8, device=GPU), torch.float32)
    assert faster is None
    assert "cannot be recorded" in why
    network(torch.randn(4, 1, 8, 8, device=GPU)).sum().backward()
    assert torch.isfinite(network.weight.grad).all()


def test_a_recording_that_fails_leaves_random_numbers_as_they_should_be():
    class Waiting(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(3, device=GPU))

        def forward(self, images):
            if torch.cuda.is_current_stream_capturing():
                torch.cuda.synchronize()
            return images.mean((1, 2, 3))[:, None] * self.weight

    faster, why = graphed(Waiting(), torch.randn(4, 1, 8, 8, device=GPU), torch.float32)
    assert faster is None
    assert "cannot be recorded" in why
    torch.manual_seed(1)
    drawn = torch.randn(5, device=GPU)
    torch.manual_seed(1)
    assert torch.equal(torch.randn(5, device=GPU), drawn)


def test_images_can_be_those_of_the_cpu(tmp_path):
    given = {"prepared": str(tmp_path / "prepared"), "n_images": 300, "epoch_size": 300}
    options = experiment(tmp_path / "x", **given, simulate_on="cpu")
    on_cpu = open_feed(compose(None, {**options, "device": "cpu"}))
    on_gpu = open_feed(compose(None, options))
    for mine, theirs in zip(on_gpu.epoch(0, 0, (0, 1)), on_cpu.epoch(0, 0, (0, 1)), strict=True):
        assert mine.images.device == GPU
        assert torch.equal(mine.images.cpu(), theirs.images)


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_trainings_with_and_without_graphs_end_alike(tmp_path, capsys, precision):
    found = []
    for graphs in (True, False):
        given = experiment(tmp_path / str(graphs), n_images=512, epoch_size=512, progress=True)
        result = train(**given, cuda_graphs=graphs, precision=precision)
        found.append(result.metrics["train_loss"])
    assert "CUDA graphs" in capsys.readouterr().out
    assert found[0] == pytest.approx(found[1], rel=0.05)

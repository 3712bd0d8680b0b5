import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from mmerc.features.densenet import DenseNet, DenseNetConfig

Array = npt.NDArray[np.float64]
TINY = DenseNetConfig(depth=16, growth_rate=2, classes=3)  # two layers in each block


def ramped(config: DenseNetConfig) -> DenseNet:
    """A network whose weights rise along a ramp, the same in every version of torch."""
    network = DenseNet(config).eval()
    with torch.no_grad():
        for name, values in network.state_dict().items():
            if values.is_floating_point():
                ramp = torch.linspace(-0.4, 0.6, values.numel()).view_as(values)
                values.copy_(1.5 + ramp if name.endswith("running_var") else ramp)
    return network


def pictures(count: int, size: int) -> torch.Tensor:
    return torch.linspace(-2, 3, count * size * size).sin().view(count, 1, size, size)


def test_standard_network_is_the_papers() -> None:
    config = DenseNetConfig()
    assert config.layers == 16
    assert config.widths == [24, 108, 150, 342]
    network = DenseNet(config)
    assert network.width == 342
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) + 1 == config.depth  # with the classifier
    assert [c.kernel_size for c in convolutions].count((3, 3)) == 1 + 3 * 16
    with torch.inference_mode():
        features, logits = network.eval()(torch.zeros(2, 1, 64, 64))
    assert features.shape == (2, 342)
    assert logits.shape == (2, 8)


@pytest.mark.parametrize(
    "config", [DenseNetConfig(), TINY, DenseNetConfig(depth=22, growth_rate=5, compression=0.3, channels=3)]
)
def test_parameters_are_as_many_as_the_paper_has(config: DenseNetConfig) -> None:
    k, width = config.growth_rate, 2 * config.growth_rate
    count = 9 * config.channels * width
    for block in range(config.blocks):
        for _ in range((config.depth - 4) // 6):
            count += 2 * width + width * 4 * k + 2 * 4 * k + 9 * 4 * k * k
            width += k
        if block < config.blocks - 1:
            count += 2 * width + width * int(width * config.compression)
            width = int(width * config.compression)
    count += 2 * width + width * config.classes + config.classes
    assert sum(p.numel() for p in DenseNet(config).parameters()) == count


def test_names_are_those_that_other_implementations_use() -> None:
    names = set(DenseNet().state_dict())
    assert {
        "features.conv0.weight",
        "features.denseblock1.denselayer1.norm1.weight",
        "features.denseblock3.denselayer16.conv2.weight",
        "features.transition2.norm.running_mean",
        "features.transition2.conv.weight",
        "features.norm_final.bias",
        "classifier.bias",
    } <= names


def test_depth_must_fit_the_blocks() -> None:
    for depth in (99, 4, 12):
        with pytest.raises(ValueError, match=f"depth of {depth}"):
            DenseNetConfig(depth=depth)


def plain_network(network: DenseNet, picture: Array) -> tuple[Array, Array]:
    """The paper written out for one picture (channels, H, W)."""
    state = {name: values.double().numpy() for name, values in network.state_dict().items()}
    config = network.config

    def norm_relu(maps: list[Array], name: str) -> list[Array]:
        mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        scale, shift = state[f"{name}.weight"], state[f"{name}.bias"]
        return [
            np.maximum((m - mean[c]) / np.sqrt(variance[c] + config.norm_epsilon) * scale[c] + shift[c], 0)
            for c, m in enumerate(maps)
        ]

    def convolved(maps: list[Array], name: str) -> list[Array]:
        kernels = state[f"{name}.weight"]
        pad = kernels.shape[-1] // 2
        padded = [np.pad(m, pad) for m in maps]
        height, width = maps[0].shape
        result = []
        for kernel in kernels:
            sums = np.zeros((height, width))
            for y in range(height):
                for x in range(width):
                    for c, m in enumerate(padded):
                        sums[y, x] += (kernel[c] * m[y : y + 2 * pad + 1, x : x + 2 * pad + 1]).sum()
            result.append(sums)
        return result

    maps = convolved(list(picture), "features.conv0")
    for block in range(1, config.blocks + 1):
        for layer in range(1, config.layers + 1):
            name = f"features.denseblock{block}.denselayer{layer}"
            narrow = convolved(norm_relu(maps, f"{name}.norm1"), f"{name}.conv1")
            maps = maps + convolved(norm_relu(narrow, f"{name}.norm2"), f"{name}.conv2")
        if block < config.blocks:
            name = f"features.transition{block}"
            maps = convolved(norm_relu(maps, f"{name}.norm"), f"{name}.conv")
            maps = [(m[::2, ::2] + m[1::2, ::2] + m[::2, 1::2] + m[1::2, 1::2]) / 4 for m in maps]
    features = np.array([m.mean() for m in norm_relu(maps, "features.norm_final")])
    return features, state["classifier.weight"] @ features + state["classifier.bias"]


def test_network_computes_what_the_paper_says() -> None:
    network = ramped(TINY)
    batch = pictures(2, 8)
    with torch.inference_mode():
        features, logits = network(batch)
    for i, picture in enumerate(batch):
        plain_features, plain_logits = plain_network(network, picture.double().numpy())
        np.testing.assert_allclose(features[i], plain_features, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(logits[i], plain_logits, rtol=1e-4, atol=1e-4)


def test_golden_values() -> None:
    with torch.inference_mode():
        features, logits = ramped(TINY)(pictures(1, 8))
    golden = [0.073176, 0.0, 0.0, 0.138161, 0.158947, 1.504860, 0.340929, 2.902961]
    np.testing.assert_allclose(features[0], golden, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(logits[0], [-1.102358, 1.178175, 3.458709], rtol=1e-4)

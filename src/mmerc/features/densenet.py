"""DenseNet-BC: every layer reads what all layers before it in its block have made.

Huang, Liu, van der Maaten, Weinberger: Densely Connected Convolutional Networks (CVPR 2017),
https://arxiv.org/abs/1608.06993. The standard configuration is the one behind the 342-d visual features of
MMGCN, MM-DFN and their successors: L = 100, k = 12, θ = 0.5 on grey faces of 64 × 64 pixels, trained on the
eight classes of FER+. Parameters bear the names that PyTorch implementations of the paper commonly use.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from mmerc.errors import FeatureError

BOTTLENECK = 4  # a bottleneck has 4k channels (section 3)


@dataclass(frozen=True)
class DenseNetConfig:
    """Hyper-parameters of a DenseNet-BC, in the paper's letters."""

    depth: int = 100  # L: layers with weights
    growth_rate: int = 12  # k: feature maps that a layer adds
    compression: float = 0.5  # θ: share of the feature maps that a transition keeps
    blocks: int = 3
    channels: int = 1  # of a picture
    classes: int = 8  # of FER+
    norm_epsilon: float = 1e-5

    def __post_init__(self) -> None:
        if self.layers < 1 or self.depth != 2 * self.blocks * self.layers + self.blocks + 1:
            raise ValueError(f"a depth of {self.depth} cannot be shared by {self.blocks} blocks")

    @property
    def layers(self) -> int:
        """Layers of a block, of two convolutions each; the others are the first one, transitions and the
        classifier."""
        return (self.depth - self.blocks - 1) // (2 * self.blocks)

    @property
    def widths(self) -> list[int]:
        """Feature maps that go into each block, and at last those that leave the last one."""
        widths = [2 * self.growth_rate]
        for _ in range(self.blocks - 1):
            widths.append(int(self.compression * (widths[-1] + self.layers * self.growth_rate)))
        return [*widths, widths[-1] + self.layers * self.growth_rate]


class DenseNetOutput(NamedTuple):
    """What the network says of N pictures."""

    features: Tensor  # (N, d), averaged over the picture
    logits: Tensor  # (N, classes)


class DenseNet(nn.Module):
    """Pictures (N, channels, H, W) → features and logits; H and W are multiples of 2^(blocks - 1)."""

    def __init__(self, config: DenseNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or DenseNetConfig()
        self.width = config.widths[-1]
        self.features = nn.Sequential()
        self.features.add_module("conv0", _conv(config.channels, config.widths[0], size=3))
        for i, (width, next_width) in enumerate(pairwise(config.widths), start=1):
            self.features.add_module(f"denseblock{i}", _block(config, width))
            if i < config.blocks:
                grown = width + config.layers * config.growth_rate
                self.features.add_module(
                    f"transition{i}", _Transition(grown, next_width, config.norm_epsilon)
                )
        self.features.add_module("norm_final", nn.BatchNorm2d(self.width, config.norm_epsilon))
        self.classifier = nn.Linear(self.width, config.classes)

    def forward(self, pictures: Tensor) -> DenseNetOutput:
        """Return the features and logits of `pictures` (N, channels, H, W)."""
        features = self.features(pictures).relu().mean((2, 3))
        return DenseNetOutput(features, self.classifier(features))


class _Layer(nn.Module):
    """H_l = BN-ReLU-Conv(1×1)-BN-ReLU-Conv(3×3) of [x_0, …, x_{l-1}], which x_l is appended to (eq. 2)."""

    def __init__(self, width: int, growth_rate: int, epsilon: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(width, epsilon)
        self.conv1 = _conv(width, BOTTLENECK * growth_rate, size=1)
        self.norm2 = nn.BatchNorm2d(BOTTLENECK * growth_rate, epsilon)
        self.conv2 = _conv(BOTTLENECK * growth_rate, growth_rate, size=3)

    def forward(self, maps: Tensor) -> Tensor:
        """maps: (N, width, H, W) → (N, width + k, H, W)."""
        narrow = self.conv1(self.norm1(maps).relu_())
        return torch.cat([maps, self.conv2(self.norm2(narrow).relu_())], dim=1)


class _Transition(nn.Module):
    """BN-ReLU-Conv(1×1) and 2 × 2 averages between two blocks (section 3, pooling layers)."""

    def __init__(self, width: int, next_width: int, epsilon: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width, epsilon)
        self.conv = _conv(width, next_width, size=1)
        self.pool = nn.AvgPool2d(2)

    def forward(self, maps: Tensor) -> Tensor:
        """maps: (N, width, H, W) → (N, next_width, H / 2, W / 2)."""
        pooled: Tensor = self.pool(self.conv(self.norm(maps).relu_()))
        return pooled


def _block(config: DenseNetConfig, width: int) -> nn.Sequential:
    block = nn.Sequential()
    for i in range(config.layers):
        layer = _Layer(width + i * config.growth_rate, config.growth_rate, config.norm_epsilon)
        block.add_module(f"denselayer{i + 1}", layer)
    return block


def _conv(width: int, next_width: int, size: int) -> nn.Conv2d:
    return nn.Conv2d(width, next_width, size, padding=size // 2, bias=False)


class Settings(BaseModel):
    """What the metadata of a weights file may say of how the DenseNet is to be used with them.

    Where they are silent, pixels are standardised as for the papers' features of IEMOCAP.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)
    pixel_mean: float = 131.0754  # of pixels of 0 to 255
    pixel_sd: float = Field(default=47.858177, gt=0)
    norm_epsilon: float = Field(default=1e-5, gt=0)  # of batch normalisation; 1e-3 after TensorFlow


def read_weights(path: Path) -> tuple[DenseNet, Settings]:
    """Return the standard network with the weights of a .safetensors file, and how to use them.

    Raises:
        FeatureError: the file is missing or broken, or holds another network.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise FeatureError(f"{path} is no safetensors file that can be read: {error}") from None
    settings = settings_of(metadata, path)
    network = DenseNet(DenseNetConfig(norm_epsilon=settings.norm_epsilon))
    _fill(network, state, path)
    return network, settings


def _fill(network: DenseNet, state: Mapping[str, Tensor], path: Path) -> None:
    """Load `state`, which may lack the counters of batches: only training reads them."""
    wanted = {n: t for n, t in network.state_dict().items() if not n.endswith("num_batches_tracked")}
    given = {n: t for n, t in state.items() if not n.endswith("num_batches_tracked")}
    faults = {
        "lacks": sorted(wanted.keys() - given.keys()),
        "has the unknown": sorted(given.keys() - wanted.keys()),
        "has in another shape": [
            f"{n} {tuple(given[n].shape)} for {tuple(wanted[n].shape)}"
            for n in sorted(wanted.keys() & given.keys())
            if given[n].shape != wanted[n].shape
        ],
    }
    listed = [
        f"{fault} {names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
        for fault, names in faults.items()
        if names
    ]
    if listed:
        raise FeatureError(
            f"{path} does not hold the weights of DenseNet-BC-100-12 for grey faces and 8 classes: "
            f"it {', '.join(listed)} (docs/expression-models.md)"
        )
    network.load_state_dict(given, strict=False)


def settings_of(metadata: Mapping[str, str], path: Path) -> Settings:
    """Return the settings in the metadata of `path`; FeatureError if they are out of range."""
    try:
        return Settings.model_validate(dict(metadata))
    except ValidationError as error:
        first = error.errors()[0]
        raise FeatureError(
            f"{path}: {'.'.join(map(str, first['loc']))} in its metadata cannot be used: {first['msg']}"
        ) from None

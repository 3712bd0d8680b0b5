import math

import torch
from torch import nn
from torch.nn import functional as F

from mmerc.layers.per_modality import PerModalityLinear, PerModalityMLP

M, N, D, OUT = 3, 5, 4, 2


def test_equals_separate_linear_layers_and_their_gradients() -> None:
    torch.manual_seed(0)
    joint, x = PerModalityLinear(M, D, OUT), torch.randn(M, N, D)
    result = joint(x)
    result.square().sum().backward()
    for m in range(M):
        alone = nn.Linear(D, OUT)
        with torch.no_grad():
            alone.weight.copy_(joint.weight[m].T)
            alone.bias.copy_(joint.bias[m, 0])
        expected = alone(x[m])
        expected.square().sum().backward()
        torch.testing.assert_close(result[m], expected, rtol=1e-5, atol=1e-6)
        assert joint.weight.grad is not None
        assert joint.bias.grad is not None
        torch.testing.assert_close(joint.weight.grad[m].T, alone.weight.grad, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(joint.bias.grad[m, 0], alone.bias.grad, rtol=1e-4, atol=1e-5)


def test_starts_in_the_range_of_a_linear_layer() -> None:
    torch.manual_seed(0)
    bound = 1 / math.sqrt(50)
    layer = PerModalityLinear(M, 50, 40)
    for values in (layer.weight, layer.bias):
        assert bound * 0.9 < values.abs().max() <= bound
        assert abs(values.mean()) < bound / 5


def test_mlp_is_drop_linear_gelu() -> None:
    torch.manual_seed(0)
    mlp, x = PerModalityMLP(M, D, OUT, dropout=0.5), torch.randn(M, N, D)
    mlp.eval()
    torch.testing.assert_close(mlp(x), F.gelu(mlp[1](x)))
    mlp.train()
    torch.manual_seed(1)
    dropped = F.dropout(x, 0.5)
    torch.manual_seed(1)
    torch.testing.assert_close(mlp(x), F.gelu(mlp[1](dropped)))

import pytest
import torch
from torch import nn

from mmerc.layers.padding import Padding
from mmerc.layers.transformer import EncoderLayer


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", [[1], [3, 1, 5]])
def test_encoder_layer_is_the_one_of_torch_dialogue_by_dialogue(lengths: list[int], causal: bool) -> None:
    torch.manual_seed(0)
    layer = EncoderLayer(4, 2, 6, 0.0, causal)
    other = nn.TransformerEncoderLayer(4, 2, 6, 0.0, batch_first=True)
    own = layer.attention.attention
    parts = (own.query, own.key, own.value)
    other.self_attn.in_proj_weight.data = torch.cat([p.weight for p in parts])
    other.self_attn.in_proj_bias.data = torch.cat([p.bias for p in parts])
    other.self_attn.out_proj.load_state_dict(own.out.state_dict())
    pairs = [
        (other.linear1, layer.feed_forward[0]),
        (other.linear2, layer.feed_forward[3]),
        (other.norm1, layer.attention.norm),
        (other.norm2, layer.norm),
    ]
    for theirs, ours in pairs:
        with torch.no_grad():
            for parameter in ours.parameters():
                parameter.add_(torch.randn_like(parameter))
        theirs.load_state_dict(ours.state_dict())
    x = torch.randn(sum(lengths), 4)
    expected = []
    for dialogue in x.split(lengths):
        later = torch.ones(len(dialogue), len(dialogue)).triu(1).bool() if causal else None
        expected.append(other(dialogue[None], src_mask=later)[0])
    encoded = layer(x, Padding.of(torch.tensor(lengths), torch.device("cpu")))
    torch.testing.assert_close(encoded, torch.cat(expected), rtol=0, atol=1e-5)


def test_absent_utterances_are_not_attended_to() -> None:
    torch.manual_seed(0)
    layer, x = EncoderLayer(4, 2, 6, 0.0), torch.randn(3, 4)
    padding = Padding.of(torch.tensor([3]), torch.device("cpu"))
    present = torch.tensor([True, False, True])
    changed = x.clone()
    changed[1] = 100.0
    before, after = layer(x, padding, present), layer(changed, padding, present)
    torch.testing.assert_close(before[present], after[present], rtol=0, atol=0)

"""Which weight of the authors' networks is which of ours: a table for each network.

On the left the name in our network, on the right theirs. What is no plain copy is rearranged: modalities
stand in sorted order here, gates as our cells have them.
"""

import torch
from authors import MODALITIES, Weights
from torch import Tensor

SHORT = {"audio": "a", "text": "t", "visual": "v"}
MOVIE = {"audio": "audio", "text": "text", "visual": "video"}
LANGUAGE = {"audio": "a", "text": "l", "visual": "v"}


def renamed(theirs: Weights, places: dict[str, str]) -> dict[str, Tensor]:
    """Return all weights of the named modules of theirs under our names; a cell is a recurrence's layer 0."""
    return {
        f"{ours}{name.removeprefix(module)}".removesuffix("_l0" if ours.endswith("cell") else ""): weight
        for ours, module in places.items()
        for name, weight in theirs.items()
        if name.startswith(f"{module}.")
    }


def in_order(weight: Tensor, order: str, dim: int = 1) -> Tensor:
    """Return blocks of columns (or rows), one for each modality in the given order, in sorted order."""
    blocks = dict(zip(order.split(), weight.chunk(len(order.split()), dim), strict=True))
    return torch.cat([blocks[name] for name in sorted(blocks)], dim)


def df_erc(w: Weights) -> dict[str, Tensor]:
    """`video` is our visual; layers of the three modalities are one here."""
    ours = renamed(w, {f"projection.linear.{m}": f"{MOVIE[m]}_linear.0" for m in MODALITIES})
    ours |= renamed(w, {"classifier.1": "classifiers"})
    layers = {
        "ddm.modality": "modality",
        "ddm.utterance": "utterance",
        "cfm.teacher": "predict",
        "cfm.student": "confident",
        "crm.relation": "align_linear",
    }
    for place, layer in layers.items():
        names = [f"{MOVIE[m]}_{layer}.linear" for m in MODALITIES]
        ours[f"{place}.1.weight"] = torch.stack([w[f"{name}.weight"].T for name in names])
        ours[f"{place}.1.bias"] = torch.stack([w[f"{name}.bias"][None] for name in names])
    for layer in (0, 1):
        theirs, lstm = f"lstm.provider.lstms.{layer}", "crm.context.rnn"
        for way in ("", "_reverse"):
            ours[f"{lstm}.weight_hh_l{layer}{way}"] = w[f"{theirs}.weight_hh_l0{way}_raw"]
            for kind in ("weight_ih", "bias_ih", "bias_hh"):
                ours[f"{lstm}.{kind}_l{layer}{way}"] = w[f"{theirs}.module.{kind}_l0{way}"]
    return ours


def mm_dfn(w: Weights) -> dict[str, Tensor]:
    """Their `lstm_l` is a GRU."""
    return renamed(
        w,
        {
            **{f"encoder.projection.linear.{m}": f"linear_{LANGUAGE[m]}" for m in MODALITIES},
            "encoder.context.rnn": "lstm_l",
            "encoder.speaker.rnn": "rnn_parties",
            "fusion.input": "graph_model.graph_net.fcs.0",
            "fusion.cell": "graph_model.graph_net.rnn",
            "fusion.convolutions": "graph_model.graph_net.convs",
        },
    ) | {
        "classifier.2.weight": in_order(w["smax_fc.weight"], "audio visual text"),
        "classifier.2.bias": w["smax_fc.bias"],
    }


def mmgcn(w: Weights) -> dict[str, Tensor]:
    """With their classifier, ReLU and one linear map, in place of ours."""
    return renamed(
        w,
        {
            **{f"encoder.projection.linear.{m}": f"linear_{LANGUAGE[m]}" for m in MODALITIES},
            "encoder.context.rnn": "lstm_l",
            "gcn.input": "graph_model.graph_net.fcs.0",
            "gcn.convolutions": "graph_model.graph_net.convs",
        },
    ) | {
        "classifier.1.weight": in_order(w["smax_fc.weight"], "audio visual text"),
        "classifier.1.bias": w["smax_fc.bias"],
    }


def attention(w: Weights, ours: str, theirs: str) -> dict[str, Tensor]:
    """Their query, key and value are one map."""
    found = renamed(w, {f"{ours}.out": f"{theirs}.out_proj"})
    for kind in ("weight", "bias"):
        parts = w[f"{theirs}.in_proj_{kind}"].chunk(3)
        found |= {
            f"{ours}.{k}.{kind}": part for k, part in zip(("query", "key", "value"), parts, strict=True)
        }
    return found


def cfn_esa(w: Weights) -> dict[str, Tensor]:
    """RUME, ACME, fusion, LESM."""
    places = {f"projection.linear.{m}": f"linear_{SHORT[m]}" for m in MODALITIES}
    places |= {"classifier": "smax_fc", "shift.out": "emotion_shift.classify.0"}
    ours = {}
    for layer in (0, 1):
        rume, acme, cross = f"recurrent.copies.0.{layer}", f"acme.layers.{layer}", f"cross.{layer}.cross"
        places |= {
            f"{rume}.gru.rnn": f"rume.layers.{layer}.rnn",
            f"{rume}.out": f"rume.layers.{layer}.linear_rnn",
            f"{rume}.gru_norm": f"rume.layers.{layer}.norm_rnn",
            f"{rume}.feed_forward.0": f"rume.layers.{layer}.fc",
            f"{rume}.feed_forward.3": f"rume.layers.{layer}.fc1",
            f"{rume}.output_norm": f"rume.layers.{layer}.norm_fc",
        }
        for m, short in SHORT.items():
            places |= {
                f"cross.{layer}.own.{m}.norm": f"{acme}.norm_{short}",
                f"{cross}.{m}.attention_norm": f"{acme}.norm_{short}1",
                f"{cross}.{m}.feed_forward.0": f"{acme}.fc_{short}",
                f"{cross}.{m}.feed_forward.3": f"{acme}.fc_{short}1",
                f"{cross}.{m}.output_norm": f"{acme}.norm_{short}2",
            }
            ours |= attention(w, f"cross.{layer}.own.{m}.attention", f"{acme}.self_att_{short}")
        ours |= attention(w, f"{cross}.text.attention.audio", f"{acme}.cross_att_ta")
        ours |= attention(w, f"{cross}.text.attention.visual", f"{acme}.cross_att_tv")
        ours |= attention(w, f"{cross}.audio.attention.text", f"{acme}.cross_att_a")
        ours |= attention(w, f"{cross}.visual.attention.text", f"{acme}.cross_att_v")
        ours[f"{cross}.text.merge.weight"] = in_order(w[f"{acme}.linear_cat.weight"], "visual audio")
        ours[f"{cross}.text.merge.bias"] = w[f"{acme}.linear_cat.bias"]
    ours["fusion.0.weight"] = in_order(w["linear_cat.weight"], "text visual audio")
    ours["fusion.0.bias"] = w["linear_cat.bias"]
    ours["shift.first.weight"], ours["shift.second.weight"] = w["emotion_shift.fc.0.weight"].chunk(2, dim=1)
    ours["shift.first.bias"] = w["emotion_shift.fc.0.bias"]
    return ours | renamed(w, places)


def identity_projection(w: Weights, first: str) -> dict[str, Tensor]:
    """The authors' network got what tanh makes of the inputs: our projection does that and no more."""
    width = w[first].shape[1] // len(MODALITIES)
    eye = {f"projection.linear.{m}.weight": torch.eye(width) for m in MODALITIES}
    return eye | {f"projection.linear.{m}.bias": torch.zeros(width) for m in MODALITIES}


def dialogue_rnn(w: Weights) -> dict[str, Tensor]:
    """Our cells stand side by side, party before global, their inputs apart: u, and what a step computes."""
    cell = {way: f"dialog_rnn_{way}.dialogue_cell" for way in "fr"}
    width = w[f"{cell['f']}.attention.transform.weight"].shape[1]
    ours = identity_projection(w, f"{cell['f']}.attention.transform.weight")
    ours |= renamed(w, {"hidden": "linear", "classifier": "smax_fc"})
    ours["match.weight"] = w["matchatt.transform.weight"]

    def cells(place: str, names: list[str]) -> dict[str, Tensor]:
        return {
            f"{place}.inner": torch.stack([w[f"{name}.weight_ih"][:, width:].T for name in names]),
            f"{place}.state": torch.stack([w[f"{name}.weight_hh"].T for name in names]),
            f"{place}.bias": torch.stack([w[f"{name}.bias_hh"][None] for name in names]),
        }

    ours |= cells("parties.cells", [f"{cell[way]}.{k}_cell" for k in "pg" for way in "fr"])
    listener = f"{cell['f']}.l_cell.bias_ih" in w
    if listener:
        ours |= cells("parties.listeners.weights", [f"{cell[way]}.l_cell" for way in "fr"])
    for number, theirs in enumerate(cell.values()):
        ours[f"parties.query.{number}.weight"] = w[f"{theirs}.attention.transform.weight"]
        for place, kinds in {"drive": "pg", "drive_listeners": "l" if listener else ""}.items():
            if kinds:
                ours[f"parties.{place}.{number}.weight"] = torch.cat(
                    [w[f"{theirs}.{k}_cell.weight_ih"][:, :width] for k in kinds]
                )
                ours[f"parties.{place}.{number}.bias"] = torch.cat(
                    [w[f"{theirs}.{k}_cell.bias_ih"] for k in kinds]
                )
        for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            ours[f"emotion.{number}.{kind}_l0"] = w[f"{theirs}.e_cell.{kind}"]
    return ours


def dialogue_crn(w: Weights) -> dict[str, Tensor]:
    """They have no map W_g, which is the identity then, and one map to begin both reasonings with."""
    ours = identity_projection(w, "rnn.weight_ih_l0")
    ours |= renamed(w, {"situation.rnn": "rnn", "speaker.rnn": "rnn_parties"})
    for number, kind in enumerate(("situation", "speaker")):
        ours |= renamed(
            w,
            {
                f"{kind}_reasoning.start": "cognition_net.fc",
                f"{kind}_reasoning.cell": f"cognition_net.reason_modules.{number}.lstm",
            },
        )
        width = w["cognition_net.fc.weight"].shape[1]
        ours[f"{kind}_reasoning.memory.weight"] = torch.eye(width)
        ours[f"{kind}_reasoning.memory.bias"] = torch.zeros(width)
    ours["classifier.1.weight"] = in_order(w["cognition_net.smax_fc.weight"], "speaker situation")
    ours["classifier.1.bias"] = w["cognition_net.smax_fc.bias"]
    return ours


def tfn(w: Weights) -> dict[str, Tensor]:
    """The axes of their tensor are audio, visual, text, with the 1 in front."""
    places = {
        f"embeddings.{m}.{k}.0": f"{MOVIE[m]}_subnet.linear_{k + 1}" for m in MODALITIES for k in range(3)
    }
    ours = renamed(w, {**places, "inference.1.0": "post_fusion_layer_2", "classifier": "post_fusion_layer_3"})
    sizes = [len(w[f"{MOVIE[m]}_subnet.linear_1.bias"]) + 1 for m in ("audio", "visual", "text")]
    tensor = w["post_fusion_layer_1.weight"].unflatten(1, sizes).roll((-1, -1, -1), (1, 2, 3))
    ours["inference.0.0.weight"] = tensor.transpose(2, 3).flatten(1)
    ours["inference.0.0.bias"] = w["post_fusion_layer_1.bias"]
    return ours


def mfn(w: Weights) -> dict[str, Tensor]:
    """Their views are text, audio, visual; their gates input, forget, cell, output, with two biases."""

    def gates(weight: Tensor) -> Tensor:  # ours: forget, input, output, cell
        take, keep, proposal, show = weight.chunk(4)
        return torch.cat([keep, take, show, proposal])

    def memories(weight: Tensor, dim: int = 1) -> Tensor:  # before and after the step
        return torch.cat([in_order(part, "text audio visual", dim) for part in weight.chunk(2, dim)], dim)

    ours = {}
    for m in MODALITIES:
        lstm = f"lstm_{LANGUAGE[m]}"
        ours[f"lstms.gates.linear.{m}.weight"] = gates(w[f"{lstm}.weight_ih"])
        ours[f"lstms.gates.linear.{m}.bias"] = gates(w[f"{lstm}.bias_ih"] + w[f"{lstm}.bias_hh"])
    recurrent = [gates(w[f"lstm_{LANGUAGE[m]}.weight_hh"]).T for m in MODALITIES]
    ours["lstms.recurrent"] = torch.stack(recurrent)
    width = w["att1_fc1.weight"].shape[1]
    for place, theirs in {
        "attention.score": "att1",
        "memory.propose": "att2",
        "memory.retain": "gamma1",
        "memory.update": "gamma2",
    }.items():
        ours[f"{place}.0.weight"] = memories(w[f"{theirs}_fc1.weight"][:, :width])
        ours |= {f"{place}.0.bias": w[f"{theirs}_fc1.bias"]} | renamed(w, {f"{place}.3": f"{theirs}_fc2"})
    for kind in ("weight", "bias"):
        ours[f"attention.score.3.{kind}"] = memories(w[f"att1_fc2.{kind}"], dim=0)
    hidden = width // 2
    ours |= renamed(w, {"classifier.0": "out_fc1", "classifier.3": "out_fc2"})
    states, memory = w["out_fc1.weight"].tensor_split([hidden], dim=1)
    ours["classifier.0.weight"] = torch.cat([in_order(states, "text audio visual"), memory], dim=1)
    return ours

"""Flower's side of ``cloister bench simulation``: a ClientApp as its examples have it, run by Ray's actors.

Kinds of clients, all with the same rows, optimizer and start as ours:

- ``example``: builds its model for every message, as Flower's examples do;
- ``cached``: keeps the model in the actor between messages;
- ``head``: the same, and trains nothing but the head, the frozen encoder in front of it;
- ``features``: trains the head on features that are there already, without an encoder.

The model is placed by our own code, which costs no more than PEFT's and gives the same parameters.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import cache
from pathlib import Path

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cloister.client.learn.adapters import Classifier, place
from cloister.client.learn.model import SCALE, load_encoder
from cloister.simulations.bench.simulation_work import ADAPTER_RATE, ALPHA, HEAD_RATE, Rows, Work

app = ClientApp()


@cache
def _rows(folder: str) -> tuple[Work, Rows]:
    torch.set_num_threads(1)
    return Work.load(Path(folder)), Rows.load(Path(folder))


def _built(work: Work) -> Classifier:
    base = _base(work)
    return place(load_encoder(base), work.layout(base), ALPHA)


_base = cache(lambda work: work.base)  # the digest of its files is not Flower's work
_kept = cache(_built)


@app.train()
def train(message: Message, context: Context) -> Message:
    """One step from the model that came; all trained tensors go back."""
    config = message.content.config_records["config"]
    kind, folder = str(config["kind"]), str(config["folder"])
    work, rows = _rows(folder)
    client = int(context.node_config["partition-id"])
    state = message.content.array_records["arrays"].to_torch_state_dict()
    classes = torch.from_numpy(rows.classes[client])
    if kind == "features":
        _head_step(state, torch.from_numpy(rows.features[client]), classes)
    else:
        classifier = _built(work) if kind == "example" else _kept(work)
        _step(classifier, state, torch.from_numpy(rows.ids[client]), classes)
        state = OrderedDict((name, classifier.trained[name].detach()) for name in state)
    answer = RecordDict(
        {"arrays": ArrayRecord(state), "metrics": MetricRecord({"num-examples": len(classes)})}
    )
    return Message(content=answer, reply_to=message)


def _step(classifier: Classifier, state: OrderedDict[str, Tensor], ids: Tensor, classes: Tensor) -> None:
    with torch.no_grad():
        for name, parameter in classifier.trained.items():
            parameter.copy_(state[name])
    head = [value for name, value in classifier.trained.items() if name.startswith("head.")]
    others = [value for name, value in classifier.trained.items() if not name.startswith("head.")]
    groups = [{"params": head, "lr": HEAD_RATE}]
    if others:
        groups.append({"params": others, "lr": ADAPTER_RATE})
    optimizer = torch.optim.SGD(groups)
    optimizer.zero_grad()
    torch.autograd.backward(cross_entropy(classifier(ids, torch.ones_like(ids)), classes))
    optimizer.step()


def _head_step(state: OrderedDict[str, Tensor], features: Tensor, classes: Tensor) -> None:
    parameters = {name: nn.Parameter(value) for name, value in state.items()}
    optimizer = torch.optim.SGD(parameters.values(), lr=HEAD_RATE)
    logits = SCALE * features @ parameters["head.weight"].T + parameters["head.bias"]
    torch.autograd.backward(cross_entropy(logits, classes))
    optimizer.step()
    state.update((name, value.detach()) for name, value in parameters.items())

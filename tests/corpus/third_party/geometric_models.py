"""Graph networks from PyTorch Geometric."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch_geometric.nn import (
    GATConv,
    GCNConv,
    GPSConv,
    GraphUNet,
    RGCNConv,
    SchNet,
    TransformerConv,
    models,
)

from tests.corpus.subject import Builder, Subject

NODES, EDGES, FEATURES, WIDTH = 40, 160, 16, 64


def _draw_edges() -> torch.Tensor:
    return torch.randint(0, NODES, (2, EDGES))


def _of_nodes(build: Callable[[], nn.Module]) -> Builder:
    return lambda: Subject(build(), (torch.randn(NODES, FEATURES), _draw_edges()))


def _basic(kind: type[nn.Module], **options: object) -> Builder:
    return _of_nodes(lambda: kind(FEATURES, WIDTH, num_layers=6, out_channels=7, **options))


class _Stack(nn.Module):
    """Convolutions with ReLU between them, as the examples of the library have it."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, nodes: torch.Tensor, *edges: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            nodes = layer(nodes, *edges).relu_()
        return nodes


def _relational() -> Subject:
    model = _Stack(*(RGCNConv(n, 32, num_relations=3) for n in (FEATURES, 32, 32)))
    return Subject(
        model, (torch.randn(NODES, FEATURES), _draw_edges(), torch.randint(0, 3, (EDGES,)))
    )


def _general() -> Subject:
    model = _Stack(*(GPSConv(WIDTH, GCNConv(WIDTH, WIDTH), heads=4) for _ in range(3)))
    return Subject(model, (torch.randn(NODES, WIDTH), _draw_edges()))


def _pna() -> Subject:
    model = models.PNA(
        FEATURES,
        WIDTH,
        num_layers=4,
        aggregators=["mean", "max", "std"],
        scalers=["identity", "amplification"],
        deg=torch.tensor([0, 5, 10, 15, 10]),
    )
    return Subject(model, (torch.randn(NODES, FEATURES), _draw_edges()))


class _AllPairs(nn.Module):
    """Stands for a neighbour search, which needs a compiled extension."""

    def forward(self, pos: torch.Tensor, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        close = (batch[:, None] == batch).fill_diagonal_(False)
        edges = close.nonzero().T
        return edges, (pos[edges[0]] - pos[edges[1]]).norm(dim=-1)


def _schnet() -> Subject:
    model = SchNet(
        hidden_channels=WIDTH, num_filters=WIDTH, num_interactions=3, interaction_graph=_AllPairs()
    )
    atoms = torch.randint(1, 9, (12,)), torch.randn(12, 3), torch.arange(12) // 6
    return Subject(model, atoms)


MODELS: dict[str, Builder] = {
    "GCN": _basic(models.GCN),
    "GAT": _basic(models.GAT, heads=4),
    "GATv2": _basic(models.GAT, heads=4, v2=True),
    "GraphSAGE": _basic(models.GraphSAGE, jk="cat"),
    "GIN": _basic(models.GIN, norm="batch_norm"),
    "EdgeCNN": _basic(models.EdgeCNN, dropout=0.2),
    "PNA": _pna,
    "GraphUNet": _of_nodes(lambda: GraphUNet(FEATURES, WIDTH, 7, depth=2)),
    "RGCN": _relational,
    "GPS": _general,
    "Transformer": _of_nodes(lambda: _Stack(*(TransformerConv(16, 4, heads=4) for _ in range(4)))),
    "GAT (stack)": _of_nodes(lambda: _Stack(*(GATConv(16, 4, heads=4) for _ in range(4)))),
    "SchNet": _schnet,
}

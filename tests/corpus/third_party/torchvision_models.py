"""Classification, detection, segmentation, video and optical flow from torchvision."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torchvision import models
from torchvision.models import detection, optical_flow, segmentation, video

from tests.corpus.subject import Builder, Subject

FEW_PROPOSALS = {
    "rpn_pre_nms_top_n_train": 60,
    "rpn_post_nms_top_n_train": 20,
    "box_batch_size_per_image": 16,
}
"""RoI pooling in plain torch holds every sample of every proposal in memory."""


def _classify(build: Callable[..., nn.Module], size: int = 64, **options: object) -> Builder:
    return lambda: Subject(build(weights=None, **options), (torch.randn(4, 3, size, size),))


def _segment(build: Callable[..., nn.Module]) -> Builder:
    def subject() -> Subject:
        model = build(weights=None, weights_backbone=None, num_classes=5)
        return Subject(model, (torch.randn(2, 3, 64, 64),))

    return subject


def _detect(build: Callable[..., nn.Module], **options: object) -> Builder:
    def subject() -> Subject:
        model = build(
            weights=None, weights_backbone=None, num_classes=5, min_size=96, max_size=96, **options
        )
        images = [torch.rand(3, 96, 96) for _ in range(2)]
        targets = [_draw_objects() for _ in images]
        return Subject(model, (images, targets))

    return subject


def _draw_objects() -> dict[str, torch.Tensor]:
    low = torch.rand(3, 2) * 40
    boxes = torch.cat([low, low + 20 + torch.rand(3, 2) * 30], dim=1)
    masks = torch.zeros(3, 96, 96, dtype=torch.uint8)
    masks[:, 20:60, 20:60] = 1
    return {"boxes": boxes, "labels": torch.randint(1, 5, (3,)), "masks": masks}


def _detect_single_shot() -> Subject:
    model = detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=5
    )
    images = [torch.rand(3, 96, 96) for _ in range(2)]
    return Subject(model, (images, [_draw_objects() for _ in images]))


def _detect_at_inference() -> Subject:
    model = detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=5, min_size=96, max_size=96
    )
    return Subject(model.eval(), ([torch.rand(3, 96, 96)],))


def _estimate_flow() -> Subject:
    frames = torch.rand(1, 3, 128, 128), torch.rand(1, 3, 128, 128)
    return Subject(optical_flow.raft_small(weights=None), frames, {"num_flow_updates": 2})


def _classify_video() -> Subject:
    return Subject(video.r3d_18(weights=None, num_classes=5), (torch.randn(1, 3, 4, 32, 32),))


MODELS: dict[str, Builder] = {
    "resnet18": _classify(models.resnet18),
    "densenet121": _classify(models.densenet121),
    "mobilenet_v2": _classify(models.mobilenet_v2),
    "mobilenet_v3_small": _classify(models.mobilenet_v3_small),
    "shufflenet_v2": _classify(models.shufflenet_v2_x0_5),
    "squeezenet1_1": _classify(models.squeezenet1_1),
    "googlenet": _classify(models.googlenet, init_weights=True),
    "efficientnet_b0": _classify(models.efficientnet_b0),
    "convnext_tiny": _classify(models.convnext_tiny, size=32),
    "fasterrcnn": _detect(detection.fasterrcnn_mobilenet_v3_large_320_fpn, **FEW_PROPOSALS),
    "fasterrcnn (eval)": _detect_at_inference,
    "maskrcnn": _detect(detection.maskrcnn_resnet50_fpn, **FEW_PROPOSALS),
    "fcos": _detect(detection.fcos_resnet50_fpn),
    "ssdlite": _detect_single_shot,
    "deeplabv3": _segment(segmentation.deeplabv3_mobilenet_v3_large),
    "lraspp": _segment(segmentation.lraspp_mobilenet_v3_large),
    "fcn_resnet50": _segment(segmentation.fcn_resnet50),
    "raft_small": _estimate_flow,
    "r3d_18": _classify_video,
}

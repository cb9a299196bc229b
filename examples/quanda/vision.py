"""Lets quanda be imported where torchvision's compiled operators do not load. Nothing here looks at pictures.

quanda imports torchvision for its benchmarks of pictures. torchvision's operators load only beside the build of torch
that they were compiled with: not beside a build for CPUs, where torchvision is one for CUDA. Its import then fails,
because it describes two operators that nobody has declared. Declaring them is enough; they have no implementation.
"""

import torch

OPERATORS = ("nms", "qnms")

try:
    import torchvision
except RuntimeError as failure:
    if "torchvision::" not in str(failure):
        raise
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in OPERATORS:
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision  # noqa: F401

"""Chooses the fastest libraries by measuring them: once on each machine, for the widths of the layers at hand."""

import math
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from influence_assets.durable.caches import read_cache, replace_cache
from influence_assets.maths.ekfac import eigendecomposition
from influence_assets.maths.kernels import Kernels, choose, chosen
from influence_assets.maths.products import columnwise, product

WORTH_MEASURING = 512
"""The width of a factor from which a choice can save more time than measuring takes."""

WIDEST_MEASURED = 768
"""Wider factors are measured at this width, where a decomposition takes a fraction of a second."""

ROWS = 1024
"""Rows of the products that are measured, about those of a batch."""

REPETITIONS = 3
"""The best of so many turns counts, which other processes disturb least."""


def use_fastest(cache: Path, shapes: Iterable[tuple[int, int]]) -> None:
    """Choose the libraries that are fastest on this machine for layers of these shapes.

    Without a layer of at least `WORTH_MEASURING`, nothing is measured and nothing changes.

    Args:
        cache: the file in which choices are kept, by machine.
        shapes: d_out and d_in of the layers.
    """
    distinct = sorted(set(shapes))
    if max((width for shape in distinct for width in shape), default=0) < WORTH_MEASURING:
        return
    machine = f"{_processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    layers = ", ".join(f"{d_out}×{d_in}" for d_out, d_in in distinct)
    known = read_cache(cache) or {}
    described = known.get(machine, {}).get(layers)
    if described is None:
        described = asdict(measured(distinct))
        known.setdefault(machine, {})[layers] = described
        replace_cache(cache, known)
    choose(Kernels(**described))


def measured(shapes: Iterable[tuple[int, int]]) -> Kernels:
    """Return the fastest libraries for layers of these shapes, [d_out, d_in], by the best of a few turns of each."""
    before = chosen()
    distinct = list(shapes)
    widest = min(WIDEST_MEASURED, max(width for shape in distinct for width in shape))
    x = torch.randn(2 * widest, widest, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    factor = x.T @ x
    operands = [(torch.randn(ROWS, d_in), columnwise(torch.randn(d_in, d_out))) for d_out, d_in in distinct]
    try:
        eigenvectors = _fastest(
            lambda: eigendecomposition(factor), [Kernels("scipy", before.products), Kernels("torch", before.products)]
        ).eigenvectors
        products = _fastest(
            lambda: [product(rows, weight) for rows, weight in operands],
            [Kernels(eigenvectors, "onednn"), Kernels(eigenvectors, "torch")],
        ).products
        return Kernels(eigenvectors, products)
    finally:
        choose(before)


def _fastest(run: Callable[[], object], candidates: Sequence[Kernels]) -> Kernels:
    """Return the choice with the shortest turn; all take turns, so that none has a quieter moment."""
    best = dict.fromkeys(candidates, math.inf)
    for _ in range(REPETITIONS):
        for kernels in candidates:
            choose(kernels)
            best[kernels] = min(best[kernels], _seconds(run))
    return min(candidates, key=best.__getitem__)


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    with torch.no_grad():
        run()
    return time.perf_counter() - started


def _processor() -> str:
    """Return the processor's name, as Linux knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())

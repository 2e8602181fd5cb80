"""What the benches of training, loss and sampling share: options, the peak of the device, FLOP/s."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import torch

from sedd_cli.bench.compare import BenchOptions, BenchResult
from sedd_cli.core.graphs import Graph
from sedd_cli.core.schedules import Schedule
from sedd_cli.errors import RequestError
from sedd_cli.models.precision import autocast_dtype, native_bf16, precision_name
from sedd_cli.models.timing import now
from sedd_cli.recipe import Recipe
from sedd_cli.recipe.assemble import check_recipe, expected_vocab_size, make_graph
from sedd_cli.system.distributed import pick_device
from sedd_cli.training.flops import known_peak

#: No further product of one size begins after so many seconds.
PEAK_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class ModelBenchOptions(BenchOptions):
    """The recipe's network with fresh weights, `batch` sequences of random tokens, on `device`."""

    recipe: Recipe
    batch: int = 2
    device: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch < 1:
            raise RequestError(f"batch must be at least 1, found {self.batch}")
        self.vocab_size()

    def vocab_size(self) -> int:
        """The vocabulary size of the recipe. RequestError if it depends on the corpus."""
        from sedd_cli.data.corpora import find_corpus
        from sedd_cli.data.prepared import PrepareOptions

        data = self.recipe.data
        size = expected_vocab_size(data.tokenizer or find_corpus(PrepareOptions(corpus=data.corpus)).tokenizer)
        if size is None:
            raise RequestError("the recipe's vocabulary is known only once its corpus is prepared; name another recipe")
        return size

    def parts(self) -> tuple[Graph, Schedule, torch.device]:
        """The recipe's graph and schedule, and the device. RequestError where its parts do not go together."""
        check_recipe(self.recipe, report=False)
        return make_graph(self.recipe, self.vocab_size()), self.recipe.noise.make(), pick_device(self.device)

    def tokens(self, device: torch.device) -> torch.Tensor:
        """Random token ids [B, L]."""
        shape = self.batch, self.recipe.model.length
        generator = torch.Generator().manual_seed(0)
        return torch.randint(self.vocab_size(), shape, generator=generator).to(device)

    def facts(self, peak: float, flops: float) -> dict[str, Any]:
        """What is measured, for the report. peak: `matmul_peak`; flops: useful FLOPs per token."""
        shape = {"recipe": self.recipe.name, "batch": self.batch, "length": self.recipe.model.length}
        device = pick_device(self.device)
        low = autocast_dtype(self.recipe.train.precision, device) is not None
        shape |= {"precision": precision_name(low, device), "network": asdict(self.recipe.model)}
        kind = "bf16" if peak_dtype(device) == torch.bfloat16 else "fp32"
        return shape | {"matmul_peak": peak, "matmul_peak_precision": kind, "useful_flops_per_token": flops}


def baselines(device: torch.device) -> dict[str, torch.dtype | None]:
    """The plain paths by name, with the dtype of their autocast: float32, and bf16 where the device multiplies it."""
    return {"plain": None} | ({"plain, bf16 autocast": torch.bfloat16} if native_bf16(device) else {})


def peak_dtype(device: torch.device) -> torch.dtype:
    """What the peak is measured in: bf16 where the device multiplies it natively, else float32."""
    return torch.bfloat16 if native_bf16(device) else torch.float32


def matmul_peak(device: torch.device) -> float:
    """Measured FLOP/s of the fastest of some large products in `peak_dtype`; at most some seconds of them."""
    best, dtype = 0.0, peak_dtype(device)
    for size in (4096, 8192) if device.type == "cuda" else (1024, 2048, 4096):
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        ends = time.perf_counter() + PEAK_SECONDS
        for repeat in range(12):
            began = now(device)
            if repeat and began > ends:
                break
            torch.matmul(a, b)
            best = max(best, 2 * size**3 / (now(device) - began))
    return best


def with_flops(result: BenchResult, device: torch.device) -> BenchResult:
    """Add each path's useful FLOP/s, and its share of the device's peak, measured (before and after) and nominal."""
    measured = max(result.facts["matmul_peak"], matmul_peak(device))
    known = known_peak(device)
    details = {}
    for name, path in result.paths.items():
        useful = path.details.get("useful_flops_per_token") or result.facts["useful_flops_per_token"]
        flops = path.tokens_per_second * useful
        details[name] = {"flops": flops, "share_of_measured_peak": flops / measured}
        if known:
            details[name]["mfu"] = flops / known
    return result.with_details(details, matmul_peak=measured)

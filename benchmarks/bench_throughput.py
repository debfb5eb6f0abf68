"""The same contenders under pytest-benchmark: ``pytest benchmarks/bench_throughput.py``."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.contenders import CONTENDERS, available, combinations
from benchmarks.workloads import DTYPES, WORKLOADS


@pytest.mark.parametrize("workload", WORKLOADS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.filterwarnings("ignore")
def test_throughput(benchmark: Any, workload: str, dtype: str, contender: str) -> None:
    if not available(contender, WORKLOADS[workload]):
        pytest.skip(f"{contender} is not installed")
    call = CONTENDERS[contender](WORKLOADS[workload], DTYPES[dtype])
    benchmark.group = f"{workload} {dtype}"
    benchmark.extra_info["combinations"] = combinations(contender, WORKLOADS[workload])
    benchmark.pedantic(call, rounds=5, warmup_rounds=1)

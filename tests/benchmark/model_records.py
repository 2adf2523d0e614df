"""Records of models, as `benchmark throughput` and `preflight` write them."""

from lambda_keras.benchmark.records import Record

GPU = {"kind": "GPU", "name": "NVIDIA L4", "count": 1}
CPU = {"kind": "CPU", "name": "a processor", "count": 2}
TPU = {"kind": "TPU", "name": "TPU v3", "count": 1}
VERSIONS = {"python": "3.11", "keras": "3.15"}


def record(benchmark, name, values, batch_size, device, settings, **given):
    return Record(
        benchmark=benchmark,
        name=name,
        unit="images/s",
        values=tuple(values),
        batch_size=batch_size,
        settings={"mode": "train", "precision": "bf16", **settings},
        device=device,
        versions=VERSIONS,
        **{"date": "2026-11-22T10:00:00+00:00", **given},
    )


def measured(name, *rates, batch_size=64, device=GPU, date=None, **settings):
    """A record for each repeat, of three steps each, the median `rate`."""
    settings = {
        "engine": "jax",
        "strategy": "none",
        "kind": "measure",
        "flops_per_image": 2e9,
        "peak_memory_bytes": 3_000_000_000,
        "input": None,
        **settings,
    }
    given = {"date": date} if date else {}
    return [
        record(
            "throughput",
            name,
            (0.9 * rate, rate, 1.2 * rate),
            batch_size,
            device,
            {"repeat": repeat, "compile_seconds": 40.0 + repeat, **settings},
            **given,
        )
        for repeat, rate in enumerate(rates)
    ]


def failed(name, batch_size, error="out of memory", device=GPU, **settings):
    settings = {
        "engine": "jax",
        "strategy": "none",
        "kind": "ladder",
        "repeat": 0,
        "input": None,
        **settings,
    }
    return record(
        "throughput", name, (), batch_size, device, settings, error=error
    )


def estimated(name, rate, batch_size=32, cores=1, **settings):
    """The record of a compilation; no rate if there is no estimate."""
    settings = {
        "estimate": True,
        "engine": "jax",
        "topology": f"v3-{cores}",
        "flops": 4e12,
        "peak_memory_bytes": 5_000_000_000,
        "compile_seconds": 80.0,
        **settings,
    }
    return record(
        "preflight",
        name,
        () if rate is None else (rate,),
        batch_size,
        {**TPU, "count": cores},
        settings,
        error="no estimate" if rate is None else None,
    )

"""Models that are measured together."""

from typing import NamedTuple

from lambda_keras.benchmark import paper_curve
from lambda_keras.benchmark.paper_curve import EFFICIENTNET
from lambda_keras.benchmark.paper_curve import LAMBDA_RESNET
from lambda_keras.benchmark.settings import SUITES

# What a TPU v3 core with its 16 GB trains on at once, by the compiler's word.
_V3_BATCHES = {
    "lambda_resnet_50@128": 64,
    "lambda_resnet_50@160": 64,
    "lambda_resnet_101@160": 64,
    "lambda_resnet_350@288": 16,
    "lambda_resnet_350@320": 16,
    "lambda_resnet_420@320": 16,
    "efficientnet_b0@224": 64,
    "efficientnet_b1@240": 64,
    "efficientnet_b2@260": 64,
    "efficientnet_b6@528": 16,
    "efficientnet_b7@600": 16,
}
_V3_BATCH = 32

# A training step of either takes two cores a few seconds.
_QUICK_BATCH = 4


class SuiteRow(NamedTuple):
    """A model of a suite.

    Attributes:
        model: The candidate, as `lambda_resnet_50@160`.
        batch_size: Images per device and step to begin with; None for what
            fits.
    """

    model: str
    batch_size: int | None


def find_suite(name: str) -> tuple[SuiteRow, ...]:
    """Returns the models of a suite.

    Args:
        name: `"paper"`: the LambdaResNets and EfficientNets of the paper's
            speed-accuracy curve. `"matched"`: each EfficientNet of it, and
            after it the LambdaResNet that takes the least time by the paper
            of those of at least its accuracy. `"quick"`: the first of these
            pairs.

    Raises:
        ValueError: If there is no such suite.

    Example:

    >>> [row.model for row in find_suite("quick")]
    ['efficientnet_b0@224', 'lambda_resnet_50@128']
    """
    if name == "paper":
        families = (LAMBDA_RESNET, EFFICIENTNET)
        return tuple(
            SuiteRow(
                point.candidate, _V3_BATCHES.get(point.candidate, _V3_BATCH)
            )
            for point in paper_curve.CURVE
            if point.family in families
        )
    pairs = [
        tuple(point.candidate for point in pair)
        for pair in paper_curve.matched()
    ]
    if name == "matched":
        # One LambdaResNet may be a match for several.
        models = dict.fromkeys(model for pair in pairs for model in pair)
        return tuple(SuiteRow(model, None) for model in models)
    if name == "quick":
        return tuple(SuiteRow(model, _QUICK_BATCH) for model in pairs[0])
    raise ValueError(
        f"`suite` must be one of: {', '.join(SUITES)}. Received: suite={name}"
    )

"""The paper's speed-accuracy curve, read off its figure, as data.

Source: Bello, LambdaNetworks (arXiv 2102.08602), the figure of seconds per
training step for 1,024 images, on 8 TPUv3 cores, against top-1 accuracy on
ImageNet. Seconds were read to about 0.02 and accuracies to about 0.03 %; those
of the EfficientNets are given to 0.1 %.
"""

import dataclasses
from collections.abc import Mapping

IMAGES, CORES = 1024, 8
SECONDS_ERROR, TOP_1_ERROR = 0.02, 0.03

LAMBDA_RESNET, EFFICIENTNET = "LambdaResNet", "EfficientNet"
RESNET_RS_SE, RESNET_RS = "ResNet-RS with SE", "ResNet-RS without SE"

# How well it is known which depth and image size a point belongs to.
PRINTED, INFERRED, UNKNOWN = "printed beside it", "inferred", "unknown"


@dataclasses.dataclass(frozen=True)
class PaperPoint:
    """A point of the paper's figure.

    Attributes:
        candidate: The model as `lambda_resnet_152@224`; None if unknown.
        family: The curve that it is on.
        seconds: Of a training step of 1,024 images on 8 TPUv3 cores.
        top_1: Accuracy on ImageNet, in percent.
        label: How well the candidate is known: `PRINTED`, `INFERRED` (from
            the order on the curve and the sizes that ResNet-RS has) or
            `UNKNOWN`.
    """

    candidate: str | None
    family: str
    seconds: float
    top_1: float
    label: str = PRINTED

    @property
    def images_per_second(self) -> float:
        """On all 8 cores together."""
        return IMAGES / self.seconds


CURVE: tuple[PaperPoint, ...] = (
    PaperPoint("lambda_resnet_50@128", LAMBDA_RESNET, 0.054, 77.4, INFERRED),
    PaperPoint("lambda_resnet_50@160", LAMBDA_RESNET, 0.080, 79.2, INFERRED),
    PaperPoint("lambda_resnet_101@160", LAMBDA_RESNET, 0.144, 80.8, INFERRED),
    PaperPoint("lambda_resnet_101@192", LAMBDA_RESNET, 0.200, 81.85, INFERRED),
    PaperPoint("lambda_resnet_152@192", LAMBDA_RESNET, 0.282, 82.5, INFERRED),
    PaperPoint("lambda_resnet_152@224", LAMBDA_RESNET, 0.378, 83.2),
    # Read twice, as 0.48 and as 0.49.
    PaperPoint("lambda_resnet_152@256", LAMBDA_RESNET, 0.485, 83.75),
    PaperPoint("lambda_resnet_270@256", LAMBDA_RESNET, 0.908, 84.24),
    PaperPoint("lambda_resnet_350@256", LAMBDA_RESNET, 1.165, 84.38),
    PaperPoint("lambda_resnet_350@288", LAMBDA_RESNET, 1.48, 84.46),
    PaperPoint("lambda_resnet_350@320", LAMBDA_RESNET, 1.91, 84.68),
    PaperPoint("lambda_resnet_420@320", LAMBDA_RESNET, 2.25, 84.85),
    PaperPoint("efficientnet_b0@224", EFFICIENTNET, 0.091, 77.1),
    PaperPoint("efficientnet_b1@240", EFFICIENTNET, 0.149, 79.1),
    PaperPoint("efficientnet_b2@260", EFFICIENTNET, 0.210, 80.1),
    PaperPoint("efficientnet_b3@300", EFFICIENTNET, 0.34, 81.6),
    PaperPoint("efficientnet_b4@380", EFFICIENTNET, 0.71, 82.9),
    PaperPoint("efficientnet_b5@456", EFFICIENTNET, 1.51, 83.7),
    PaperPoint("efficientnet_b6@528", EFFICIENTNET, 3.02, 84.0),
    PaperPoint("efficientnet_b7@600", EFFICIENTNET, 6.03, 84.7),
    PaperPoint(None, RESNET_RS_SE, 1.38, 83.96, UNKNOWN),
    PaperPoint(None, RESNET_RS_SE, 2.07, 84.22, UNKNOWN),
    PaperPoint(None, RESNET_RS, 0.73, 83.23, UNKNOWN),
    PaperPoint(None, RESNET_RS, 1.24, 83.60, UNKNOWN),
    PaperPoint(None, RESNET_RS, 1.83, 84.04, UNKNOWN),
)

# Written into the figure. That of B6 is to the LambdaResNets' curve at B6's
# accuracy, between two points; that of B7 is to 350@320.
ANNOTATED_SPEED_UPS = {"efficientnet_b6@528": 4.4, "efficientnet_b7@600": 3.2}


@dataclasses.dataclass(frozen=True)
class PseudoLabelRow:
    """A row of the paper's table of training with extra, pseudo-labelled data.

    The abstract says 86.7 % and 9.5 times EfficientNet's training speed; the
    images per second, on 8 TPUv3 cores, are quoted at second hand and agree
    with it.

    Attributes:
        model: The model, in the paper's words.
        train_images_per_second: In training.
        infer_images_per_second: In inference.
        top_1: Accuracy on ImageNet, in percent.
    """

    model: str
    train_images_per_second: float
    infer_images_per_second: float
    top_1: float


PSEUDO_LABEL_ROWS = (
    PseudoLabelRow("LambdaResNet-152", 1620, 6100, 86.7),
    PseudoLabelRow("EfficientNet-B7", 170, 980, 86.7),
    PseudoLabelRow("ViT-L/16", 180, 640, 87.1),
)

_POINTS = {point.candidate: point for point in CURVE if point.candidate}


def find_point(candidate: object) -> PaperPoint | None:
    """Finds a model's point in the paper's figure.

    Args:
        candidate: A `Candidate` or its text, as `lambda_resnet_152@224`.

    Returns:
        The `PaperPoint`, or None if the figure has none of this size.

    Example:

    >>> find_point("lambda_resnet_152@224").top_1
    83.2
    """
    return _POINTS.get(str(candidate))


def top_1(candidate: object) -> float | None:
    """Returns the paper's accuracy in percent, if its figure has the model."""
    point = find_point(candidate)
    return point.top_1 if point else None


def paper_images_per_second(candidate: object) -> float | None:
    """Returns what the paper trains on 8 TPUv3 cores, if it has the model."""
    point = find_point(candidate)
    return point.images_per_second if point else None


def matched(
    seconds: Mapping[str, float] | None = None,
) -> list[tuple[PaperPoint, PaperPoint]]:
    """Pairs each EfficientNet with the LambdaResNet to compare it with.

    That is the one which takes the least time of those that reach at least
    its accuracy in the paper's figure. What cannot be told apart there counts
    as reached: the paper itself compares B7 (84.7) with 350@320 (84.68).

    Args:
        seconds: For an image, by candidate; others are left out. By default
            those of the paper.

    Returns:
        EfficientNets, each with its LambdaResNet; without those that none of
        the LambdaResNets reaches.

    Example:

    >>> efficientnet, lambda_resnet = matched()[-1]
    >>> round(efficientnet.seconds / lambda_resnet.seconds, 1)
    3.2
    """
    if seconds is None:
        seconds = {name: point.seconds for name, point in _POINTS.items()}
    points = [point for name, point in _POINTS.items() if name in seconds]
    pairs = []
    for efficientnet in points:
        if efficientnet.family != EFFICIENTNET:
            continue
        reaching = [
            point
            for point in points
            if point.family == LAMBDA_RESNET
            and point.top_1 >= efficientnet.top_1 - TOP_1_ERROR
        ]
        if reaching:
            fastest = min(reaching, key=lambda point: seconds[point.candidate])
            pairs.append((efficientnet, fastest))
    return pairs

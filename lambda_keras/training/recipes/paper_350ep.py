r"""The LambdaResNets, 350 epochs of ImageNet.

    lambda-keras train --recipe=paper_350ep --model=lambda_resnet_152 \
        --image_size=224 --data_dir=gs://BUCKET/tfds

The paper's own table of these settings (its appendix E.2) is in no source that
we could read. What stands here is the recipe of ResNet-RS, by the same author
and on the same base (https://arxiv.org/abs/2103.07579, and
`models/official/resnet/resnet_rs` of https://github.com/tensorflow/tpu): 350
epochs of 4,096 images a step, SGD with momentum 0.9, 0.1 per 256 images after 5
epochs of warm-up and then a cosine, weight decay 4e-5, label smoothing 0.1,
RandAugment of 2 layers, an average of the weights with 0.9999, in which the
batch statistics are averaged too (their own momentum is then 0), bfloat16.

What depends on the model is `adapt`. It is that of ResNet-RS for the sizes that
ResNet-RS has; for others (50 and 101 layers at 224, 350 at 288) the nearest of
its rows. It was not run here on ImageNet.
"""

import re
from typing import Any

from lambda_keras.training.recipe import Recipe

RECIPE = Recipe(
    model="lambda_resnet_50",
    dataset="tfds:imagenet2012",
    epochs=350,
    batch_size=4096,
    optimizer="sgd",
    momentum=0.9,
    learning_rate=0.1,
    reference_batch_size=256,
    warmup_share=5 / 350,
    weight_decay=4e-5,
    label_smoothing=0.1,
    randaugment_layers=2,
    average_momentum=0.9999,
    batch_norm_momentum=0.0,
    precision="mixed_bfloat16",
    image_dtype="bfloat16",
    checkpoint_seconds=600.0,
    tensorboard=True,
)

# The models' own image sizes by depth, where the run does not set another.
IMAGE_SIZES = {
    50: 224,
    101: 224,
    152: 256,
    200: 256,
    270: 256,
    350: 320,
    420: 320,
}


def adapt(model: str, image_size: int | None) -> dict[str, Any]:
    """Returns the regularization of ResNet-RS for a depth and image size.

    | depth and size | RandAugment | dropout | stochastic depth |
    |---|---|---|---|
    | 50, 101 at 160 | 10 | 0.25 | 0 |
    | 101 at 192; 152 at 192, 224, 256 | 15 | 0.25 | 0 |
    | 200, 270, 350 at 256 | 15 | 0.25 | 0.1 |
    | 350, 420 at 320 | 15 | 0.4 | 0.1 |
    """
    match = re.search(r"resnet_?(?:v1_?)?(\d+)", model.lower())
    depth = int(match[1]) if match else None
    if depth not in IMAGE_SIZES:
        raise ValueError(
            "`model` must be a ResNet of one of these depths for this recipe: "
            f"{', '.join(map(str, IMAGE_SIZES))}. Received: model={model}"
        )
    size = image_size or IMAGE_SIZES[depth]
    return {
        "randaugment_magnitude": 10.0 if size <= 160 else 15.0,
        "dropout_rate": 0.4 if size >= 320 else 0.25,
        "drop_path_rate": 0.1 if depth >= 200 else 0.0,
    }

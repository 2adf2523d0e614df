r"""From trained weights to classes of one's own.

    lambda-keras train --recipe=finetune --model=lambda_resnet_50 \
        --weights=best.keras --dataset=folder:photos

The classifier starts anew where the number of classes differs; everything else
starts from the weights and is trained with a tenth of the learning rate of
training from scratch, briefly and with milder crops, since the weights need
little. These are starting values of our own; of all settings the learning rate
and the number of epochs are worth trying others of.
"""

from lambda_keras.training.recipe import Recipe

RECIPE = Recipe(
    model="lambda_resnet_50",
    weights="best.keras",
    dataset="folder:photos",
    epochs=20,
    batch_size=64,
    optimizer="sgd",
    momentum=0.9,
    learning_rate=0.01,
    reference_batch_size=256,
    warmup_share=0.05,
    weight_decay=4e-5,
    clip_norm=1.0,
    crop_area_min=0.25,
    average_momentum=0.999,
)

r"""From trained weights to classes of one's own.

    lambda-keras train --recipe=finetune --dataset=folder:photos
    lambda-keras train --recipe=finetune --model=lambda_resnet_50 \
        --weights=best.keras --dataset=folder:photos

The first starts from timm's ImageNet weights, the second from a file of yours.
The classifier starts anew where the number of classes differs; everything else
starts from the weights and is trained with a tenth of the learning rate of
training from scratch, briefly and with milder crops, since the weights need
little. `--freeze=backbone` trains the classifier alone, at less than half the
cost; what that has trained is then a file to start from without it.

The learning rate of 0.01 and the momentum of 0.9 are those that most who
fine-tune ResNets leave as they are, by the survey in
https://arxiv.org/abs/2002.11770, which also finds that the best ones depend on
how like ImageNet the images are. The rest are starting values of our own; of
all settings the learning rate and the number of epochs are worth trying others
of. On timm's weights they were not tried here.
"""

from lambda_keras.training.recipe import Recipe

RECIPE = Recipe(
    model="lambda_resnet_26t",
    weights="imagenet",
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

"""The paper's ResNet-50 with lambda layers, 90 epochs of ImageNet.

    lambda-keras train --recipe=paper_resnet50_90ep --data_dir=gs://BUCKET/tfds

These are the settings behind its tables 3 and 4 and the ablations: 78.4 %
top-1 with lambda layers in all stages, 76.9 % with convolutions
(`--model=resnet_v1_50`). They are quoted by a reproduction
(https://github.com/joigalcar3/LambdaNetworks): 4,096 images a step on 32 TPU v3
cores, 90 epochs, 0.1 per 256 images after 5 epochs of linear warm-up and then a
cosine, weight decay 1e-4, label smoothing 0.1, moving statistics with 0.9999,
crops and flips and nothing else. The optimizer is not quoted; SGD with momentum
0.9 is that of the code the paper is built on. bfloat16 is our choice: the
paper's precision in training is not known to us.

On fewer devices give a smaller `--batch_size`: the learning rate follows. By
the TPU compiler's estimate 128 images per core, as the paper had, do not fit
the 16 GB of a v3 core or a v5e chip with lambda layers in all stages; 32 do. It
was not run here on ImageNet.
"""

from lambda_keras.training.recipe import Recipe

RECIPE = Recipe(
    model="lambda_resnet_v1_50",
    dataset="tfds:imagenet2012",
    epochs=90,
    batch_size=4096,
    optimizer="sgd",
    momentum=0.9,
    learning_rate=0.1,
    reference_batch_size=256,
    warmup_share=5 / 90,
    weight_decay=1e-4,
    label_smoothing=0.1,
    batch_norm_momentum=0.9999,
    precision="mixed_bfloat16",
    image_dtype="bfloat16",
    checkpoint_seconds=600.0,
    tensorboard=True,
)

"""What is trained on one device and on several, to be compared.

    python -m tests.training.scenarios OUT.npz SCENARIOS STRATEGY \
        [COORDINATOR COUNT ID]

runs some of it in a process of its own, for what a process can do but once.
"""

import os
import sys
import tempfile

import keras
import numpy as np

from lambda_keras.data.dataset import Split
from lambda_keras.data.pipeline import evaluation_batches
from lambda_keras.data.pipeline import training_batches
from lambda_keras.data.preprocessing import Preprocessing
from lambda_keras.layers import BatchNormalization
from lambda_keras.layers import Dropout
from lambda_keras.training.averages import WeightAverages
from lambda_keras.training.optimization import SGD
from lambda_keras.training.optimization import LossScaleOptimizer
from lambda_keras.training.optimization import build_optimizer
from lambda_keras.training.recipe import Recipe
from lambda_keras.training.strategy import create_distribution

CLASSES, STEPS, EPOCHS, VALIDATION_STEPS = 3, 4, 2, 5


def images(count) -> Split:
    """Images that get brighter, so that replicas differ in their statistics."""
    rng = np.random.default_rng(count)
    brightness = np.linspace(0.2, 1, count).reshape(-1, 1, 1, 1)
    pixels = rng.integers(0, 256, (count, 6, 6, 1)) * brightness
    labels = (pixels.mean(axis=(1, 2, 3)) // 40).astype(int)
    return Split(pixels.astype("uint8"), labels % CLASSES)


# Of the last batch of eight, one example is real.
TRAIN, VALIDATION = images(16 * STEPS), images(33)


def training(shard):
    return training_batches(
        TRAIN, Preprocessing(), 16, CLASSES, seed=1, shard=shard
    )


def validation(shard):
    return evaluation_batches(
        VALIDATION, Preprocessing(), 8, CLASSES, shard=shard
    )


def make_model(optimizer, synchronized=True, **arguments) -> keras.Model:
    """In float64, so that only a mistake makes a difference."""
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Rescaling(1 / 128, offset=-1, dtype="float64"),
            layers.Conv2D(4, 3, dtype="float64"),
            BatchNormalization(
                momentum=0.5, synchronized=synchronized, dtype="float64"
            ),
            layers.Activation("relu", dtype="float64"),
            layers.GlobalAveragePooling2D(dtype="float64"),
            layers.Dense(CLASSES, activation="softmax", dtype="float64"),
        ]
    )
    model.compile(
        optimizer,
        keras.losses.CategoricalCrossentropy(
            label_smoothing=0.1, dtype="float64"
        ),
        weighted_metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
        **arguments,
    )
    model.optimizer.build(model.trainable_variables)
    return model


def recipe_optimizer(name):
    recipe = Recipe(
        optimizer=name,
        learning_rate=0.3 if name == "sgd" else 0.01,
        weight_decay=0.01,
        clip_norm=0.5,
        epochs=EPOCHS,
    )
    return build_optimizer(recipe, STEPS)


def saved_and_loaded(model):
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "model.keras")
        model.save(path)
        return keras.saving.load_model(path)


def exact_evaluation(model) -> dict[str, float]:
    """Loss and accuracy of the 33 examples, without Keras."""
    x = VALIDATION.images.astype("float32")
    outputs = keras.ops.convert_to_numpy(model(x, training=False))
    labels = 0.9 * np.eye(CLASSES)[VALIDATION.labels] + 0.1 / CLASSES
    hits = outputs.argmax(axis=1) == VALIDATION.labels
    return {
        "exact_loss": -(labels * np.log(outputs)).sum(axis=1).mean(),
        "exact_accuracy": hits.mean(),
    }


def trained(distribution, name, **arguments) -> dict[str, np.ndarray]:
    """A whole fit: what was logged, weights, averages, the saved model."""
    keras.utils.set_random_seed(0)
    with distribution.scope():
        model = make_model(recipe_optimizer(name), **arguments)
        averages = WeightAverages(0.9)
        history = model.fit(
            distribution.distribute(training),
            epochs=EPOCHS,
            steps_per_epoch=STEPS,
            validation_data=distribution.distribute(validation),
            validation_steps=VALIDATION_STEPS,
            callbacks=[averages],
            shuffle=False,
            verbose=0,
        ).history
    if distribution.is_chief:
        # Other processes need not take part.
        with averages.applied():
            saved_and_loaded(model)
    with averages.applied():
        loaded = saved_and_loaded(model)
    results = {**history, **exact_evaluation(loaded)}
    pairs = zip(model.weights, averages.get_state(), strict=True)
    for index, (weight, average) in enumerate(pairs):
        results[f"weight {index} {weight.name}"] = weight.numpy()
        results[f"average {index} {weight.name}"] = average
    return results


def clipped_step(distribution) -> dict[str, np.ndarray]:
    """How far a step goes whose length is the norm of the gradient."""
    keras.utils.set_random_seed(0)
    with distribution.scope():
        model = make_model(SGD(learning_rate=1.0, clip_norm=0.125))
        before = [np.array(w.numpy()) for w in model.trainable_weights]
        model.fit(
            distribution.distribute(training),
            steps_per_epoch=1,
            shuffle=False,
            verbose=0,
        )
    moved = [
        np.sum((w.numpy() - value) ** 2)
        for w, value in zip(model.trainable_weights, before, strict=True)
    ]
    return {"norm": np.sqrt(np.sum(moved))}


def own_statistics(distribution) -> dict[str, np.ndarray]:
    """Evaluation, as it was and of the saved model, without synchronizing."""
    keras.utils.set_random_seed(0)
    with distribution.scope():
        model = make_model(SGD(learning_rate=0.1), synchronized=False)
        model.fit(
            distribution.distribute(training),
            steps_per_epoch=STEPS,
            shuffle=False,
            verbose=0,
        )
        loss, _ = model.evaluate(
            distribution.distribute(validation),
            steps=VALIDATION_STEPS,
            verbose=0,
        )
    return {"loss": loss, **exact_evaluation(saved_and_loaded(model))}


def masks(distribution) -> dict[str, np.ndarray]:
    """Two steps of dropout on each replica of a `tf.distribute` strategy."""
    import tensorflow as tf

    with distribution.scope():
        layer = Dropout(0.5, seed=1)

    @tf.function
    def two_steps():
        x = tf.ones((64,))
        return distribution.strategy.run(
            lambda: [layer(x, training=True) for _ in range(2)]
        )

    steps = map(distribution.strategy.experimental_local_results, two_steps())
    states = distribution.strategy.experimental_local_results(
        layer.seed_generator.state.value
    )
    return {
        "masks": np.array(
            [mask.numpy() > 0 for step in steps for mask in step]
        ),
        "states": np.array([state.numpy() for state in states]),
    }


def overflow(distribution) -> dict[str, np.ndarray]:
    """Weights after a step in which only the last replica overflows."""
    import tensorflow as tf

    def make(shard):
        x = np.ones((distribution.num_replicas, 1), "float32")
        x[-1] = np.inf
        data = tf.data.Dataset.from_tensor_slices((x, np.zeros_like(x)))
        return data.batch(1, drop_remainder=True).repeat()

    with distribution.scope():
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        model.compile(LossScaleOptimizer(SGD(learning_rate=0.1)), "mse")
        model.optimizer.build(model.trainable_variables)
        before = model.get_weights()
        model.fit(
            distribution.distribute(make),
            steps_per_epoch=1,
            shuffle=False,
            verbose=0,
        )
    return {
        "before": np.ravel(before[0]),
        "after": np.ravel(model.get_weights()[0]),
        "scale": model.optimizer.dynamic_scale.numpy(),
        "steps": model.optimizer.iterations.numpy(),
    }


SCENARIOS = {
    "sgd": lambda distribution: trained(distribution, "sgd"),
    "adamw": lambda distribution: trained(distribution, "adamw"),
    "clipped_step": clipped_step,
    "own_statistics": own_statistics,
    "masks": masks,
    "overflow": overflow,
}


def main(path, names, strategy, coordinator=None, count=0, number=0) -> None:
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration()] * 4,
        )
    processes = ()
    if coordinator:
        processes = (None, coordinator, int(count), int(number))
    distribution = create_distribution(strategy, *processes)
    results = {"replicas": distribution.num_replicas}
    for name in names.split(","):
        for key, value in SCENARIOS[name](distribution).items():
            results[f"{name}/{key}"] = value
    np.savez(path, **results)


def load(path) -> dict[str, dict[str, np.ndarray]]:
    """Reads what `main` wrote: the results of each scenario."""
    results: dict[str, dict[str, np.ndarray]] = {}
    with np.load(path) as file:
        for key in file:
            name, _, part = key.partition("/")
            results.setdefault(name, {})[part] = file[key]
    return results


if __name__ == "__main__":
    main(*sys.argv[1:])

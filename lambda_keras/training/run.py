"""One training run: fitted, from wherever it got to, and evaluated."""

import dataclasses
import zipfile
from collections.abc import Callable
from pathlib import Path

import keras

from lambda_keras import provenance
from lambda_keras.training.averages import WeightAverages
from lambda_keras.training.callbacks import BestModel
from lambda_keras.training.callbacks import Bookkeeper
from lambda_keras.training.callbacks import Checkpoints
from lambda_keras.training.callbacks import HistoryFile
from lambda_keras.training.callbacks import Record
from lambda_keras.training.callbacks import save_model
from lambda_keras.training.checkpoints import CheckpointError
from lambda_keras.training.checkpoints import newest_checkpoint
from lambda_keras.training.optimization import build_schedule
from lambda_keras.training.preparation import Prepared
from lambda_keras.training.processes import broadcast
from lambda_keras.training.processes import gather
from lambda_keras.training.progress import ProfileWindow
from lambda_keras.training.progress import Progress
from lambda_keras.training.progress import ProgressBar
from lambda_keras.training.progress import Scalars
from lambda_keras.training.stopping import StopRequest


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What training leaves behind.

    Args:
        model: The best model, read back from its file.
        record: What the run has done.
        test: The best model's loss and metrics on the test images.
        images_per_second: The speed of a device, or None if all steps were
            the first of their epoch.
    """

    model: keras.Model
    record: Record
    test: dict[str, float]
    images_per_second: float | None

    @property
    def history(self) -> dict[str, list[float]]:
        """Losses and accuracies per epoch, as `Model.fit` returns them."""
        rows = self.record.history
        return {name: [row[name] for row in rows] for name in rows[0]}


def fit(
    prepared: Prepared,
    directory: Path,
    verbose: int = 1,
    say: Callable[[str], None] = print,
) -> Fitted | None:
    """Trains the model, from where an earlier process got to, if one did.

    Args:
        prepared: As from `prepare`.
        directory: Where `best.keras`, `last.keras`, `history.csv` and
            `checkpoints` go.
        verbose: As in `Model.fit`.
        say: Called with a line for the checkpoint that the run goes on from,
            and for each one that cannot be read.

    Returns:
        A `Fitted`; None in a process that does not write.

    Raises:
        BadImagesError: If more images than allowed cannot be read.
        FloatingPointError: If the loss or a weight becomes NaN or infinite.
        Stopped: At SIGTERM or SIGINT, when the state is saved.
    """
    recipe, model = prepared.recipe, prepared.model
    is_chief = prepared.distribution.is_chief
    record, averages = Record(), None
    if recipe.average_momentum:
        averages = WeightAverages(recipe.average_momentum)
    stop = StopRequest()
    books = Bookkeeper(
        record,
        recipe.batch_size / prepared.distribution.num_replicas,
        build_schedule(recipe, prepared.steps),
    )
    checkpoints = Checkpoints(
        directory / "checkpoints",
        books,
        seconds=recipe.checkpoint_seconds,
        keep=recipe.keep_checkpoints,
        facts=lambda: {
            "recipe": vars(recipe),
            "class_names": prepared.dataset.class_names,
            "image_shape": prepared.model.input_shape[1:],
            "images": prepared.count_images(),
            "bad_images": prepared.bad_names(),
            "versions": provenance.versions(),
        },
        averages=averages,
        stop=stop,
        writes=is_chief,
    )
    callbacks = _callbacks(
        prepared, directory, verbose, books, checkpoints, averages
    )
    # `Model.fit` would, but may have nothing left to do.
    checkpoints.set_model(model)
    with prepared.distribution.scope(), stop.listening():
        _restore(prepared, directory, record, checkpoints, averages, say)
        with prepared.reading():
            _fit(prepared, record, callbacks, verbose)
        checkpoints.save()
        # As training left it, with the optimizer's state, not its averages.
        save_model(model, directory / "last.keras", writes=is_chief)
        stop.agree()
        stop.raise_if_agreed()
    best = None
    if is_chief:
        best = keras.saving.load_model(directory / "best.keras")
    with prepared.distribution.scope(), prepared.reading():
        # All devices of all processes get the best weights.
        source = model if best is None else best
        model.set_weights(broadcast(source.get_weights()))
        test = model.evaluate(
            prepared.evaluation_data("test"),
            steps=prepared.evaluation_steps("test"),
            return_dict=True,
            verbose=0,
        )
    if best is None:
        return None
    return Fitted(best, record, test, books.images_per_second())


def _callbacks(prepared, directory, verbose, books, checkpoints, averages):
    recipe, record = prepared.recipe, books.record
    is_chief = prepared.distribution.is_chief
    callbacks = [books]
    if averages:
        callbacks.append(averages)
    callbacks += [
        checkpoints,
        BestModel(directory / "best.keras", record, averages, is_chief),
    ]
    if is_chief:
        callbacks += [
            HistoryFile(directory / "history.csv", record),
            Progress(
                books,
                prepared.steps * recipe.epochs,
                within_epochs=verbose != 1,
            ),
        ]
    if is_chief and recipe.tensorboard:
        callbacks.append(Scalars(directory / "tensorboard", books))
    if is_chief and recipe.profile_steps:
        callbacks.append(
            ProfileWindow(
                directory / "tensorboard", books, recipe.profile_steps
            )
        )
    if is_chief and verbose:
        callbacks.append(ProgressBar(recipe.epochs, prepared.steps))
    return callbacks


def _restore(prepared, directory, record, checkpoints, averages, say):
    """Goes back to the newest checkpoint, if there is one."""
    found = newest_checkpoint(directory / "checkpoints", say)
    steps = gather(found[1].step if found else 0)
    if len(set(steps)) > 1:
        raise CheckpointError(
            "`output_dir` must be a directory that all processes see: they "
            f"found checkpoints of different steps there. Received: {steps}"
        )
    if found is None:
        return
    path, checkpoint = found
    counts = prepared.count_images()
    if checkpoint.facts["images"] != counts:
        # Which images are in which split has changed with their number.
        raise CheckpointError(
            "A run that is continued must still have its images: "
            f"{checkpoint.facts['images']}. Received: {counts}"
        )
    if prepared.distribution.is_chief:
        total = prepared.steps * prepared.recipe.epochs
        say(f"Goes on after step {checkpoint.step:,} of {total:,}: {path}")
    for name, value in checkpoint.facts["record"].items():
        setattr(record, name, value)
    record.resumed += 1
    best = directory / "best.keras"
    if prepared.distribution.is_chief and record.best_epoch:
        if not zipfile.is_zipfile(best):
            raise CheckpointError(
                "A run that is continued must still have its best model. "
                f"Received: {best}, which is not there or not whole"
            )
    checkpoint.assign("model", prepared.model.variables)
    checkpoint.assign("optimizer", prepared.model.optimizer.variables)
    if averages:
        averages.set_model(prepared.model)
        averages.set_state(checkpoint.arrays["averages"])
    checkpoints.restore_metrics(checkpoint)
    for name, bad in checkpoint.facts["bad_images"].items():
        prepared.bad_images[name].names.update(dict.fromkeys(bad))


def _fit(prepared, record, callbacks, verbose):
    """Runs what is left: the rest of an epoch, if one is under way, and more.

    The batches of a step are a function of its number, so that nothing is
    read that was read before.
    """
    recipe, steps = prepared.recipe, prepared.steps
    validation = prepared.evaluation_data("validation")
    while record.epoch < recipe.epochs:
        left = (record.epoch + 1) * steps - record.step
        if left == 0:
            _end_epoch(prepared, record.epoch, validation, callbacks, verbose)
            continue
        prepared.model.fit(
            prepared.training_data(record.step),
            initial_epoch=record.epoch,
            epochs=recipe.epochs if left == steps else record.epoch + 1,
            steps_per_epoch=left,
            validation_data=validation,
            validation_steps=prepared.evaluation_steps("validation"),
            callbacks=callbacks,
            # The pipeline has shuffled already; Keras warns when it is to.
            shuffle=False,
            verbose=verbose,
        )


def _end_epoch(prepared, epoch, validation, callbacks, verbose):
    """Does what `Model.fit` does after the last step of an epoch."""
    model = prepared.model
    callbacks = keras.callbacks.CallbackList(
        callbacks, model=model, steps=prepared.steps, verbose=verbose
    )
    callbacks.on_train_begin()
    callbacks.on_epoch_begin(epoch)
    logs = {
        name: float(value) for name, value in model.get_metrics_result().items()
    }
    measured = model.evaluate(
        validation,
        steps=prepared.evaluation_steps("validation"),
        callbacks=callbacks,
        return_dict=True,
        verbose=0,
    )
    logs |= {f"val_{name}": value for name, value in measured.items()}
    callbacks.on_epoch_end(epoch, logs)
    callbacks.on_train_end(logs)

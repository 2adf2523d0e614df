"""SavedModels as they are exported, once for all tests of a process."""

import pytest

from tests.serving.image_files import MAX_PIXELS


@pytest.fixture(scope="session")
def version(tmp_path_factory):
    """The directory of an exported version, for photographs of 32 pixels."""
    from lambda_keras.serving.export import export_version
    from lambda_keras.serving.images import RequestPreprocessing
    from tests.serving.models import CLASS_NAMES
    from tests.serving.models import tiny_classifier

    shape = (32, 32, 3)
    return export_version(
        tiny_classifier(shape, receptive_field=7),
        tmp_path_factory.mktemp("models") / "photographs",
        preprocessing=RequestPreprocessing(shape, max_pixels=MAX_PIXELS),
        class_names=CLASS_NAMES,
    )

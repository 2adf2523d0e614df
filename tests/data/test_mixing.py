import numpy as np
import pytest

pytestmark = pytest.mark.tf_data

BATCH, SIZE = 400, 16


def mix(images, labels, weights, seed=(0, 0), **kwargs):
    from lambda_keras.data.mixing import mix

    images, labels = mix(
        np.float32(images),
        np.float32(labels),
        np.float32(weights),
        np.int64(seed),
        **kwargs,
    )
    return np.array(images), np.array(labels)


def numbered(count=BATCH, size=SIZE):
    """Images that are all of one level, their number; a class for each."""
    numbers = np.arange(count, dtype="float32")
    images = np.broadcast_to(
        numbers[:, None, None, None], (count, size, size, 1)
    )
    return images, np.eye(count), np.ones(count)


@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.0])
def test_shares_are_from_the_beta_distribution(alpha):
    from lambda_keras.data.mixing import sample_beta

    count = 20_000
    drawn = np.sort(sample_beta(count, [3, 4], alpha).numpy())
    assert drawn[0] >= 0 and drawn[-1] <= 1
    assert np.mean(drawn) == pytest.approx(0.5, abs=0.01)
    variance = 1 / (4 * (2 * alpha + 1))
    assert np.var(drawn) == pytest.approx(variance, rel=0.03)
    # Kolmogorov-Smirnov with a second sample; one in ten thousand is farther.
    other = np.random.default_rng(0).beta(alpha, alpha, count)
    points = np.concatenate([drawn, other])
    distance = np.abs(
        np.searchsorted(drawn, points, "right") / count
        - np.searchsorted(np.sort(other), points, "right") / count
    ).max()
    assert distance < 2.2 * np.sqrt(2 / count)


def test_a_tiny_alpha_is_a_coin():
    from lambda_keras.data.mixing import sample_beta

    drawn = sample_beta(10_000, [1, 1], 0.01).numpy()
    assert np.isfinite(drawn).all()
    assert np.mean((drawn < 1e-6) | (drawn > 1 - 1e-6)) > 0.75
    assert np.mean(drawn) == pytest.approx(0.5, abs=0.02)


def test_nothing_is_mixed_unless_asked():
    images, labels, weights = numbered(8)
    mixed, soft = mix(images, labels, weights)
    np.testing.assert_array_equal(mixed, images)
    np.testing.assert_array_equal(soft, labels)


@pytest.mark.parametrize(
    "alphas",
    [
        {"mixup_alpha": 0.4},
        {"cutmix_alpha": 1.0},
        {"mixup_alpha": 0.4, "cutmix_alpha": 1.0},
    ],
)
def test_labels_say_what_the_images_show(alphas):
    images, labels, weights = numbered()
    mixed, soft = mix(images, labels, weights, **alphas)
    assert mixed.shape == images.shape and soft.shape == labels.shape
    np.testing.assert_allclose(soft.sum(axis=1), 1, rtol=1e-5)
    # Each image is the number of its class: the mean shows the shares.
    np.testing.assert_allclose(
        mixed.mean((1, 2, 3)), soft @ np.arange(BATCH), rtol=1e-4, atol=1e-2
    )
    own = np.diag(soft)
    others = np.sum((soft > 0) & (labels == 0), axis=1)
    assert others.max() == 1
    # Each example has its own share, and nearly all have a partner.
    assert len(np.unique(own)) > BATCH / 8
    assert own.min() < 0.2 and own.max() > 0.9
    assert np.mean(own < 1) > 0.8


def test_mixup_adds_whole_images():
    images, labels, weights = numbered()
    mixed, _ = mix(images, labels, weights, mixup_alpha=1.0)
    assert np.all(mixed == mixed[:, :1, :1])


def test_cutmix_puts_in_a_box():
    images, labels, weights = numbered()
    mixed, soft = mix(images, labels, weights, cutmix_alpha=1.0)
    sizes = []
    for number, (image, label) in enumerate(zip(mixed[..., 0], soft)):
        inside = image != number
        rows, columns = (
            np.flatnonzero(inside.any(1)),
            np.flatnonzero(inside.any(0)),
        )
        if not len(rows):
            continue
        # One box, of one partner, and its share is its area after clipping.
        box = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert box.size == inside.sum()
        (partner,) = np.unique(box)
        assert label[int(partner)] == pytest.approx(box.size / SIZE**2)
        sizes.append((rows[0], rows[-1], columns[0], columns[-1]))
    sizes = np.array(sizes)
    # They reach every border, and are not all at one.
    assert sizes.min() == 0 and sizes.max() == SIZE - 1
    assert np.mean(sizes[:, 0] == 0) < 0.7


def test_the_area_of_a_box_is_what_the_share_leaves(monkeypatch):
    import tensorflow as tf

    from lambda_keras.data import mixing

    monkeypatch.setattr(
        mixing, "sample_beta", lambda count, *_: tf.fill((count,), 0.75)
    )
    images, labels, weights = numbered(size=64)
    _, soft = mix(images, labels, weights, cutmix_alpha=1.0)
    inside = 1 - np.diag(soft)[np.diag(soft) < 1]
    # A quarter of 64 x 64, less where it is cut off at the border.
    assert inside.max() == pytest.approx(0.25)
    # Along an axis 7/16 of it is inside, in the mean over all centres.
    assert inside.mean() == pytest.approx((7 / 16) ** 2, rel=0.1)


def test_with_both_a_fair_coin_decides_for_each_example():
    images, labels, weights = numbered()
    mixed, soft = mix(
        images, labels, weights, mixup_alpha=1.0, cutmix_alpha=1.0
    )
    has_partner = np.diag(soft) < 1
    is_even = np.all(mixed == mixed[:, :1, :1], axis=(1, 2, 3))[has_partner]
    # CutMix is even, too, in the few cases in which a box covers everything.
    assert abs(is_even.mean() - 0.5) < 4 * 0.5 / np.sqrt(BATCH)


@pytest.mark.parametrize(
    "alphas", [{"mixup_alpha": 0.4}, {"cutmix_alpha": 1.0}]
)
def test_an_unreadable_image_is_nobodys_partner(alphas):
    images, labels, weights = numbered()
    weights[::2] = 0
    mixed, soft = mix(images, labels, weights, **alphas)
    good = weights > 0
    # No label, and no pixel, of those without weight gets into the others.
    assert not np.any(soft[np.ix_(good, ~good)])
    numbers = soft[good] @ np.arange(BATCH)
    np.testing.assert_allclose(
        mixed[good].mean((1, 2, 3)), numbers, rtol=1e-4, atol=1e-2
    )
    # Half of the examples find a partner of weight 0 and stay as they are.
    alone = np.diag(soft)[good] == 1
    assert 0.3 < alone.mean() < 0.7


def test_the_seed_decides():
    batch = numbered(64)
    both = {"mixup_alpha": 0.4, "cutmix_alpha": 1.0}
    first = mix(*batch, (1, 2), **both)
    for one, again in zip(first, mix(*batch, (1, 2), **both)):
        np.testing.assert_array_equal(one, again)
    assert not np.array_equal(first[0], mix(*batch, (1, 3), **both)[0])
    assert not np.array_equal(first[0], mix(*batch, (2, 2), **both)[0])


def test_images_of_integers_become_float32():
    import tensorflow as tf

    from lambda_keras.data.mixing import mix

    images = tf.zeros((4, 8, 8, 3), tf.uint8)
    for alpha in (0.0, 0.2):
        mixed, _ = mix(images, tf.eye(4), tf.ones(4), [0, 0], mixup_alpha=alpha)
        assert mixed.dtype == tf.float32
        assert mixed.shape == (4, 8, 8, 3)

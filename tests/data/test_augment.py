"""Views: finite, seeded by their key alone, one policy for each image; weak views only move pixels."""

import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as tv

from stssl.data import augment, operations
from stssl.data.augment import ViewConfig, Views
from stssl.data.store import ImageStore

RGB = ("B04", "B03", "B02")


def make(channels: int = 3, size: int = 32, mean: float = 2000, std: float = 800, bands=None, **config) -> Views:
    bands = bands or tuple(f"x{i}" for i in range(channels))
    return Views(ViewConfig(**config), torch.full((channels,), mean), torch.full((channels,), std), bands, size, "cpu")


def noise(batch: int = 16, channels: int = 3, size: int = 32, dtype: str = "uint16") -> torch.Tensor:
    high = 256 if dtype == "uint8" else 4000
    return torch.from_numpy(np.random.default_rng(0).integers(0, high, (batch, channels, size, size)).astype(dtype))


@pytest.fixture
def two_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 2, 3, 13])
@pytest.mark.parametrize("size", [16, 24, 40])
def test_shapes_and_range(dtype: str, channels: int, size: int) -> None:
    images = noise(6, channels, 24, dtype)
    before = images.clone()
    views = make(channels, size, mean=100, std=70)
    for view in (views.normalise(images), views.weak(images, (1, 2)), views.strong(images, (1, 2))):
        assert view.shape == (6, channels, size, size) and view.dtype == torch.float32
        assert torch.isfinite(view).all() and view.abs().max() <= 2
    np.testing.assert_array_equal(images.numpy(), before.numpy())


def test_normalise_formula() -> None:
    images = torch.tensor([0, 400, 1200, 2000, 2800, 3600, 60000]).to(torch.uint16).view(1, 1, 1, 7).expand(1, 1, 7, 7)
    row = make(1, 7).normalise(images)[0, 0, 0]
    assert row.tolist() == pytest.approx([-2, -2, -1, 0, 1, 2, 2])


def test_resize_is_antialiased() -> None:
    board = (torch.arange(64)[:, None] + torch.arange(64)[None]) % 2 * 4000
    view = make(1, 16).normalise(board.to(torch.uint16).view(1, 1, 64, 64))
    assert view[..., 2:-2, 2:-2].abs().max() < 0.05  # a checkerboard becomes grey


def test_weak_only_moves_pixels() -> None:
    views, size = make(1, 16, crop_ratio=0.75), 16
    ramp = torch.arange(size * size, dtype=torch.float32).view(1, 1, size, size) * 12 + 450
    plain = views.normalise(ramp.expand(64, 1, size, size))
    weak = views.weak(ramp.expand(64, 1, size, size), (5,))
    assert set(weak.flatten().tolist()) <= set(plain.flatten().tolist())
    assert len({tuple(image.flatten().tolist()) for image in weak}) > 40
    padded = torch.nn.functional.pad(plain[:1], (4, 4, 4, 4), mode="reflect")[0, 0]
    crops = {
        tuple(flipped.flatten().tolist())
        for top in range(9)
        for left in range(9)
        for crop in (padded[top : top + 16, left : left + 16],)
        for flipped in (crop, crop.flip(0), crop.flip(1), crop.flip(0, 1))
    }
    assert {tuple(image.flatten().tolist()) for image in weak} <= crops


def test_nothing_to_do() -> None:
    images = noise()
    still = make(crop_ratio=1, flips=False, strong_ops=0)
    assert torch.equal(still.weak(images, (0,)), still.normalise(images))
    assert torch.equal(still.strong(images, (0,)), still.normalise(images))


def test_key_decides() -> None:
    images, views = noise(), make()
    torch.manual_seed(1)
    first = views.strong(images, (1, 2, 3))
    views.weak(images, (9,))
    torch.manual_seed(2)
    assert torch.equal(first, views.strong(images, (1, 2, 3)))
    for view in (views.weak, views.strong):
        outputs = [view(images, key) for key in ((1, 2, 3), (1, 2, 4), (0, 2, 3), (1, 2))]
        assert all(not torch.equal(a, b) for i, a in enumerate(outputs) for b in outputs[:i])


def test_each_image_has_its_own_policy() -> None:
    images = noise(1).expand(64, 3, 32, 32)
    views = make(crop_ratio=1, flips=False, strong_ops=1, strong_magnitude=10)
    changed = views.strong(images, (0,))
    assert len({tuple(image.flatten().tolist()) for image in changed}) > 40
    weaker = make(crop_ratio=1, flips=False, strong_ops=1, strong_magnitude=1).strong(images, (0,))
    plain = views.normalise(images)
    assert (weaker - plain).abs().mean() < (changed - plain).abs().mean()


def test_does_not_depend_on_the_neighbours() -> None:
    """Operations are batched; an image comes out as if it had gone through alone."""
    images, views = noise(12, 4), make(4, strong_ops=3, strong_magnitude=10)
    together = views.strong(images, (7,))
    other = images.clone().to(torch.int32)
    other[1:] = 4000 - other[1:]
    assert torch.equal(views.strong(other.to(torch.uint16), (7,))[0], together[0])


@pytest.mark.parametrize(("channels", "before", "size"), [(3, 100, 120), (13, 24, 24), (1, 48, 16)])
@pytest.mark.usefixtures("two_threads")
def test_how_work_is_divided_does_not_show(channels: int, before: int, size: int, monkeypatch) -> None:
    """Neither the number of images at a time, nor of threads, nor that two views share their beginning."""
    images = noise(14, channels, before)
    views = make(channels, size, bands=RGB if channels == 3 else None, strong_ops=4, strong_magnitude=10)
    expected = (views.normalise(images), views.weak(images, (1,)), views.strong(images, (2,)))
    for at_a_time, threads in ((1, 1), (5 * channels * size**2, 2), (1 << 30, 2)):
        monkeypatch.setitem(augment._AT_A_TIME, "cpu", at_a_time)
        torch.set_num_threads(threads)
        seen = (views.normalise(images), *views.pair(images, (1,), (2,)))
        assert all(torch.equal(a, b) for a, b in zip(seen, expected, strict=True))


def test_pair_draws_from_two_streams() -> None:
    """One key for both views moves them differently, as the two calls do."""
    views = make(strong_ops=0)
    weak, strong = views.pair(noise(), (3,), (3,))
    assert not torch.equal(weak, strong)
    assert torch.equal(weak, views.weak(noise(), (3,))) and torch.equal(strong, views.strong(noise(), (3,)))


@pytest.mark.parametrize("size", [16, 24, 40])
def test_layout_does_not_show(size: int) -> None:
    """Tensors need not be contiguous: rows of a larger one, channels last, one image expanded."""
    images, views = noise(8, 3, 24), make(3, size)
    wide = torch.zeros(8, 5, 30, 40, dtype=torch.int32).to(torch.uint16)
    wide[:, 1:4, 3:27, 8:32] = images
    for other in (wide[:, 1:4, 3:27, 8:32], images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)):
        assert not other.is_contiguous() and torch.equal(views.strong(other, (1,)), views.strong(images, (1,)))
    one = images[:1].float()
    assert torch.equal(views.strong(one.expand(8, 3, 24, 24), (1,)), views.strong(one.repeat(8, 1, 1, 1), (1,)))


def test_autocast_does_not_show() -> None:
    images, views = noise(), make(3, 40, strong_ops=6)
    plain = views.pair(images, (1,), (2,))
    with torch.autocast("cpu", torch.bfloat16):
        assert all(torch.equal(a, b) for a, b in zip(views.pair(images, (1,), (2,)), plain, strict=True))


@settings(max_examples=60, deadline=None)
@given(
    dtype=st.sampled_from(["uint8", "uint16", "float32"]),
    batch=st.integers(1, 9),
    channels=st.integers(1, 13),
    height=st.integers(2, 24),
    width=st.integers(2, 24),
    size=st.integers(2, 24),
    crop_ratio=st.floats(0.5, 1),
    ops=st.integers(0, 8),
    magnitude=st.floats(0, 10),
    std=st.sampled_from([0.0, 1e-3, 70.0, 1e4]),
    seed=st.integers(0, 2**32),
)
def test_always_finite_seeded_in_range(
    dtype, batch, channels, height, width, size, crop_ratio, ops, magnitude, std, seed
) -> None:
    random = np.random.default_rng(seed)
    high = {"uint8": 256, "uint16": 65536, "float32": 300}[dtype]
    images = torch.from_numpy((random.random((batch, channels, height, width)) * high).astype(dtype))
    views = make(
        channels,
        size,
        mean=100,
        std=std,
        bands=RGB if channels == 3 else None,
        crop_ratio=crop_ratio,
        strong_ops=ops,
        strong_magnitude=magnitude,
    )
    weak, strong = views.pair(images, (seed, 1), (seed, 2))
    for view in (weak, strong):
        assert view.shape == (batch, channels, size, size) and view.is_contiguous()
        assert torch.isfinite(view).all() and view.abs().max() <= 2
    assert torch.equal(weak, views.weak(images, (seed, 1))) and torch.equal(strong, views.strong(images, (seed, 2)))


@pytest.mark.parametrize("value", [0, 2000, 65535])
@pytest.mark.parametrize("std", [0.0, 800.0])
def test_constant_images(value: int, std: float) -> None:
    images = torch.full((64, 3, 8, 8), value, dtype=torch.int32).to(torch.uint16)
    views = make(3, 16, std=std, bands=RGB, strong_ops=8, strong_magnitude=10)
    for view in (views.normalise(images), views.weak(images, (0,)), views.strong(images, (0,))):
        assert torch.isfinite(view).all() and view.abs().max() <= 2
        assert (view.amax((2, 3)) - view.amin((2, 3))).max() < 1e-5  # constant it stays
    if std == 0 and value == 2000:
        assert views.normalise(images).abs().max() == 0


def test_colour_only_for_rgb() -> None:
    images = noise(64)
    for bands, more in ((RGB, 1), (("R", "G", "B"), 1), (("B02", "B03", "B04"), 0)):
        assert len(make(bands=bands)._pointwise) == len(operations.POINTWISE) + more
    assert not torch.equal(make(bands=RGB).strong(images, (0,)), make(bands=("B02", "B03", "B04")).strong(images, (0,)))


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_operations_keep_the_range(channels: int) -> None:
    x = torch.rand(9, channels, 12, 12)
    strength = torch.linspace(-1, 1, 9).view(-1, 1, 1, 1)
    colour = (operations.COLOUR,) if channels == 3 else ()
    for operation, signed in (*operations.POINTWISE, *colour):
        before, amount = x.clone(), strength if signed else strength.abs()
        y = operation(x, amount)
        assert torch.equal(x, before)  # the image may still be wanted
        assert y.shape == x.shape and y.dtype == x.dtype and torch.isfinite(y).all()
        assert y.min() >= 0 and y.max() <= 1 and not torch.equal(x, y)
        if operation not in (operations.autocontrast, operations.equalize):
            none = operation(x.clone(), torch.zeros(9, 1, 1, 1))
            torch.testing.assert_close(none, x, atol=1 / 255 if operation is operations.posterize else 1e-6, rtol=0)


@pytest.mark.parametrize(("channels", "size"), [(3, 120), (13, 64), (1, 33)])
@pytest.mark.usefixtures("two_threads")
def test_operations_do_not_see_the_neighbours(channels: int, size: int) -> None:
    x, strength = torch.rand(6, channels, size, size), torch.linspace(0.1, 1, 6).view(-1, 1, 1, 1)
    theta = torch.from_numpy(operations.matrices(np.arange(6) % 5, np.linspace(-1, 1, 6)))
    colour = (operations.COLOUR,) if channels == 3 else ()
    everything = [(operation, strength) for operation, _ in (*operations.POINTWISE, *colour)]
    for operation, amount in (*everything, (operations.affine, theta)):
        parts = [operation(x[i : i + 1], amount[i : i + 1]) for i in range(6)]
        assert torch.equal(torch.cat(parts), operation(x, amount))


def test_operations_against_torchvision() -> None:
    x = torch.rand(2, 3, 16, 16)
    factor, strength = 1 + 0.9 * 0.5, torch.full((2, 1, 1, 1), 0.5)
    torch.testing.assert_close(operations.brightness(x, strength), tv.adjust_brightness(x, factor))
    torch.testing.assert_close(operations.saturation(x, strength), tv.adjust_saturation(x, factor), atol=1e-3, rtol=0)
    inside = (..., slice(1, -1), slice(1, -1))  # torchvision leaves the border unsharpened
    torch.testing.assert_close(operations.sharpness(x, strength)[inside], tv.adjust_sharpness(x, factor)[inside])
    kept = (operations.posterize(x, torch.ones(2, 1, 1, 1)) * 15).round()
    torch.testing.assert_close(kept, (tv.posterize((x * 255.999).to(torch.uint8), 4) >> 4).float())
    torch.testing.assert_close(operations.solarize(x, strength), tv.solarize(x, 0.5))


@pytest.mark.parametrize("size", [4, 17, 32, 64])
@pytest.mark.parametrize("levels", [2, 5, 40, 256])
def test_equalize_is_torchvisions(size: int, levels: int) -> None:
    """Bit for bit on 8 bits, also where so few pixels are not of the highest level that nothing happens."""
    random = np.random.default_rng(size * levels)
    image = np.sort(random.integers(0, 256, levels))[random.integers(0, levels, (5, 4, size, size)) ** 2 // levels]
    image[0, 0] = 7
    image[0, 1, :, 1:] = 255
    pixels = torch.from_numpy(image.astype(np.uint8))
    ours = (operations.equalize(pixels.float() / 255, torch.ones(5, 1, 1, 1)) * 255).round().to(torch.uint8)
    for band in range(4):
        assert torch.equal(ours[:, band : band + 1], tv.equalize(pixels[:, band : band + 1]))


def test_affine_against_torch() -> None:
    x, theta = torch.rand(10, 3, 21, 34), operations.matrices(np.arange(10) % 5, np.linspace(-1, 1, 10))
    grid = F.affine_grid(torch.from_numpy(theta), [10, 3, 21, 34], align_corners=False)
    expected = F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
    torch.testing.assert_close(operations.affine(x, torch.from_numpy(theta)), expected, atol=2e-5, rtol=0)


def test_affine_against_plain_shifts() -> None:
    x = torch.rand(1, 2, 20, 20)
    shift = operations.affine(x, torch.from_numpy(operations.matrices(np.array([3]), np.array([0.5]))))  # 0.15 x 20 = 3
    torch.testing.assert_close(shift[..., :17], x[..., 3:], atol=1e-5, rtol=0)
    torch.testing.assert_close(shift[..., 17:], x.flip(3)[..., :3], atol=1e-5, rtol=0)  # reflected
    names = np.arange(len(operations.AFFINE))
    still = operations.affine(x.expand(5, 2, 20, 20), torch.from_numpy(operations.matrices(names, np.zeros(5))))
    torch.testing.assert_close(still, x.expand(5, 2, 20, 20), atol=1e-5, rtol=0)
    turned = operations.affine(x, torch.from_numpy(operations.matrices(np.array([0]), np.array([1.0]))))
    torch.testing.assert_close(
        turned[..., 6:14, 6:14], tv.rotate(x, 30, tv.InterpolationMode.BILINEAR)[..., 6:14, 6:14]
    )


def test_real_patches(store: ImageStore) -> None:
    mean, std = torch.tensor(store.card.mean), torch.tensor(store.card.std)
    views = Views(ViewConfig(), mean, std, store.card.bands, 32, "cpu")
    images = store.images[:32]
    for view in (views.normalise(images), views.weak(images, (0,)), views.strong(images, (0,))):
        assert view.shape == (32, 13, 32, 32) and torch.isfinite(view).all() and view.std() > 0.3


def test_quick_enough() -> None:
    """Some 5 ms on one core; fifty would starve a small network, and mean that batching broke."""
    images, views = noise(32), make(bands=RGB)
    times = []
    for step in range(10):
        start = time.process_time()
        views.strong(images, (step,))
        times.append(time.process_time() - start)
    assert min(times) < 0.05


def test_near_constant_stays_flat() -> None:
    """Rounding noise is no contrast: a cloud or a lake must not turn into static."""
    x = 0.5 + torch.rand(4, 3, 16, 16) * 1e-6
    for operation in (operations.autocontrast, operations.equalize):
        assert torch.equal(operation(x, torch.ones(4, 1, 1, 1)), x)
    moved = operations.affine(
        torch.full((5, 1, 16, 16), 0.3), torch.from_numpy(operations.matrices(np.arange(5), np.ones(5)))
    )
    assert moved.unique().numel() == 1

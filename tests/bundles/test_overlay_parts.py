"""What overlays of bundles/unet make of the networks, losses, transforms, inferers and optimizers."""

import numpy as np
import pytest
import torch
from overlays import SIZE, merged, names, settings, small
from scipy import ndimage

from pipeline.inferers.overlap_tile import OverlapTileInferer
from pipeline.inferers.sliding_window import SlidingWindow
from pipeline.networks.attention import Context, GlobalAttention, SeparateAttention


def network(*overlays, **overrides):
    """The network of an overlay at full size, without memory for its weights."""
    with torch.device("meta"):
        return merged(*overlays, **overrides).get_parsed_content("network_def")


def filters(net):
    """Channels of each level, from full resolution down."""
    return [net.first.conv1.out_channels, *(down.block.conv2.out_channels for down in net.downs)]


def test_the_papers_network_is_that_of_figure_1():
    net = network("net_paper.yaml")
    assert sum(weight.numel() for weight in net.parameters()) == 31_030_658
    assert net(torch.empty(1, 1, 572, 572, device="meta")).shape == (1, 2, 388, 388)
    assert filters(net) == [64, 128, 256, 512, 1024]
    assert not [layer for layer in net.modules() if "Norm" in type(layer).__name__]
    drops = [down.block.dropout.p for down in net.downs if isinstance(down.block.dropout, torch.nn.Dropout)]
    assert drops == [0.5, 0.5]  # the two lowest levels end the contracting path
    config = settings("net_paper.yaml")
    assert net.output_size(config["crop_size"]) == (388, 388)
    assert config["tiling"]["tile_size"] == 388
    assert config["batch_size"] == 1


def test_the_compact_network_gives_one_channel_of_the_images_size():
    net = network("net_compact.yaml")
    assert net(torch.empty(1, 1, 224, 224, device="meta")).shape == (1, 1, 224, 224)
    assert filters(net) == [8, 16, 32, 64, 128]
    for up in net.ups:
        deconvolution, norm = up.upsample
        assert isinstance(deconvolution, torch.nn.ConvTranspose2d)
        assert isinstance(norm, torch.nn.BatchNorm2d)


def test_the_three_level_network_takes_colour_and_enlarges_by_nearest_neighbour():
    net = network("net_keras3.yaml")
    assert net(torch.empty(1, 3, 64, 64, device="meta")).shape == (1, 1, 64, 64)
    assert filters(net) == [64, 128, 256]
    assert [layer.mode for layer in net.modules() if isinstance(layer, torch.nn.Upsample)] == ["nearest"] * 2


def test_the_context_network_sees_7_pixels_first_and_corrects_every_level():
    net = network("net_context.yaml")
    assert filters(net) == [32, 64, 128]
    assert net.first.conv1.kernel_size == (7, 7)
    assert {layer.kernel_size for layer in net.modules() if isinstance(layer, torch.nn.Conv2d)} >= {(3, 3)}
    assert len([layer for layer in net.modules() if isinstance(layer, Context)]) == 3


@pytest.mark.parametrize(
    ("name", "kind"), [("net_global_attention", GlobalAttention), ("net_separate_attention", SeparateAttention)]
)
def test_attention_is_on_the_lowest_level_alone(name, kind):
    net = network(f"{name}.yaml")
    found = [path for path, layer in net.named_modules() if type(layer) is kind]
    assert found == ["downs.2.block.refine.attention"]


@pytest.mark.parametrize("data", [(), ("data_isbi2012.yaml",)], ids=names)
@pytest.mark.parametrize("augmentation", ["aug_elastic", "aug_monai", "aug_none"])
def test_weights_and_labels_go_the_same_way(augmentation, data, data_of):
    overlays = (*data, "loss_border.yaml", f"{augmentation}.yaml")
    options = small(overlays, data_of(overlays)) | {"crop_size": [40, 40]}
    dataset = merged(*overlays, **options).get_parsed_content("train#dataset")
    labels = merged(*overlays, **options).get_parsed_content("validate#preprocessing")
    for seed in range(6):
        case = seed % len(dataset)
        item, whole = dataset[case, seed], np.asarray(labels(dataset.data[case])["label"])
        label, weight = (np.asarray(item[key])[0] for key in ("label", "weight"))
        assert item["image"].shape == (1, 40, 40) == (1, *weight.shape)
        # Deep inside a cell the weight is that of its class, pixels / (2 classes * pixels of the cells), and it is
        # another one everywhere else.
        inside = ndimage.binary_erosion(label, iterations=3)
        assert inside.any()
        np.testing.assert_allclose(weight[inside], whole.size / (2 * np.count_nonzero(whole)), rtol=1e-2)
        outside = ndimage.binary_erosion(label == 0, iterations=3, border_value=1)
        background = whole.size / (2 * np.count_nonzero(whole == 0))
        assert weight[outside].min() == pytest.approx(background, rel=1e-2)
    (step,) = settings(*overlays)["weight_steps"]
    assert (step["w0"], step["sigma"]) == (10.0, 5.0)


@pytest.mark.parametrize("augmentation", ["aug_elastic", "aug_monai", "aug_none"])
def test_a_sample_follows_from_its_seed(augmentation, data_of):
    overlays = (f"{augmentation}.yaml",)
    dataset = merged(*overlays, **small(overlays, data_of(overlays))).get_parsed_content("train#dataset")
    first, again, other = (dataset[0, seed]["image"] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("name", "lambda_dice", "lambda_ce", "weighted"),
    [
        ("loss_ce", 0, 1, False),
        ("loss_dice", 1, 0, False),
        ("loss_border", 0, 1, True),
        ("loss_border_dice", 1, 1, True),
    ],
)
def test_what_a_loss_adds_up(name, lambda_dice, lambda_ce, weighted):
    parser = merged(f"{name}.yaml")
    loss = parser.get_parsed_content("loss")
    assert (loss.lambda_dice, loss.lambda_ce) == (lambda_dice, lambda_ce)
    assert bool(parser.config["weight_steps"]) is weighted
    default = merged().get_parsed_content("loss")
    assert (default.lambda_dice, default.lambda_ce) == (1, 1)


def test_crops_of_the_papers_network_let_it_learn_the_images_border(data_of):
    overlays = ("net_paper.yaml", "aug_none.yaml")
    parser = merged(*overlays, **small(overlays, data_of(overlays)))
    dataset = parser.get_parsed_content("train#dataset")
    crop = parser.get_parsed_content("spatial_augmentation")
    starts = np.array([(dataset[0, seed], crop.start)[1] for seed in range(100)])
    # 44 pixels are seen and the 28 in their middle predicted: from the image's first pixel to its last, 48 - 28 = 20.
    assert (starts + 8).min(axis=0).tolist() == [0, 0]
    assert (starts + 8).max(axis=0).tolist() == [20, 20]


@pytest.mark.parametrize(("name", "versions"), [("infer_rotations7", 7), ("infer_dihedral8", 8)])
@pytest.mark.parametrize("net", [(), ("net_paper.yaml",), ("net_compact.yaml",)], ids=names)
@pytest.mark.parametrize("file", ["train.json", "inference.json"])
def test_averaging_is_put_around_the_tiles(name, versions, net, file):
    parser = merged(f"{name}.yaml", *net, file=file, **{"network_def#channels": [4, 8]})
    inferer, network = (parser.get_parsed_content(key) for key in ("inferer", "network_def"))
    tiles = inferer.inferer
    assert isinstance(tiles, OverlapTileInferer if net == ("net_paper.yaml",) else SlidingWindow)
    calls = []
    inferer.inferer = lambda image, net: calls.append(image.shape) or tiles(image, net)
    with torch.no_grad():
        logits = inferer(torch.rand(1, 1, SIZE, SIZE), network.eval())
    assert logits.shape == (1, network.out_channels, SIZE, SIZE)
    assert len(calls) == versions


def test_what_the_recipes_say():
    for name, kind, momentum, nesterov in (
        ("opt_sgd99", torch.optim.SGD, 0.99, False),
        ("opt_nnunet", torch.optim.SGD, 0.99, True),
        ("opt_adam", torch.optim.Adam, None, None),
    ):
        parser = merged(f"{name}.yaml", device="cpu")
        optimizer = parser.get_parsed_content("optimizer")
        (group,) = optimizer.param_groups
        assert type(optimizer) is kind
        assert (group.get("momentum"), group.get("nesterov")) == (momentum, nesterov)
        assert parser.config["batch_size"] == (1 if name == "opt_sgd99" else settings()["batch_size"])
        assert parser.config["patience"] == (10 if name == "opt_adam" else None)
        assert parser.get_parsed_content("network_def").deep_supervision is (name == "opt_nnunet")

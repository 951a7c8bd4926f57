"""Channels are chosen among all layers, tied ones die together, and removing them changes nothing."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from dlas.compression.channel import make_permanent, mask_channels, pruned_channels_fraction, shrink
from dlas.errors import ModelError, UsageError
from dlas.models.loading import load
from dlas.values import ModelSpec, Weights

CIFAR = {"resnet18": "resnet", "vgg16": "vgg", "mobilenetv1": "mobilenet", "mobilenetv2": "mobilenet"}
IMAGENET = ("resnet50", "mobilenetv2", "efficientnetb0")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def cifar(name: str, width: int = 16) -> ModelSpec:
    factory = f"dlas.models.{CIFAR[name]}:{name}"
    return ModelSpec(name, factory, (2, 3, 32, 32), (("width", width),))


def imagenet(name: str) -> ModelSpec:
    return ModelSpec(name, f"dlas.models.imagenet:{name}", (2, 3, 64, 64), (("classes", 10),))


def loaded(spec: ModelSpec) -> tuple[nn.Module, Tensor]:
    model = load(spec, Weights("untrained"))
    return model.module, torch.from_numpy(model.input)


def predict(module: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return module.eval()(x)


def set_filters(conv: nn.Conv2d, *values: float) -> nn.Conv2d:
    """Give each filter one value, which then is its score."""
    with torch.no_grad():
        for filter_, value in zip(conv.weight, values, strict=True):
            filter_.fill_(value)
    return conv


def dead(values: Tensor) -> list[int]:
    return [i for i, value in enumerate(values) if not value.any()]


def normed(conv: nn.Conv2d) -> nn.Sequential:
    """With a batch norm that would make something of a zero."""
    norm = nn.BatchNorm2d(conv.out_channels)
    with torch.no_grad():
        norm.bias.fill_(0.3)
        norm.running_mean.fill_(0.7)
    return nn.Sequential(conv, norm)


class Toy(nn.Module):
    """Four prunable channels of a first convolution, with something in between, and a last convolution."""

    def __init__(self, *scores: float) -> None:
        super().__init__()
        self.first = normed(set_filters(nn.Conv2d(1, len(scores), 1), *scores))
        self.last = nn.Conv2d(len(scores), 2, 1)

    def between(self, x: Tensor) -> Tensor:
        return torch.relu(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self.first(x)))


X = torch.linspace(-1, 2, 2 * 3 * 3).reshape(2, 1, 3, 3)


def check_shrinks(module: nn.Module, x: Tensor = X) -> nn.Module:
    """The masked network and the smaller one compute the same, within rounding."""
    expected = predict(module, x)
    small = shrink(module, x)
    assert (predict(small, x) - expected).abs().max() <= 1e-5 * expected.abs().max()
    return small


def test_the_lowest_of_all_layers_are_masked_with_bias_and_batch_norm_and_removed() -> None:
    toy = Toy(0.5, -0.1, 0.4, 0.2)
    mask_channels(toy, X, 0.5)
    conv, norm = toy.first
    for values in (conv.weight, conv.bias, norm.weight, norm.bias):
        assert dead(values) == [1, 3]
    assert not hasattr(toy.last, "weight_mask"), "the outputs of the network are not prunable"
    assert pruned_channels_fraction(toy, X) == 0.5
    small = check_shrinks(toy)
    conv, norm = small.first
    assert (conv.out_channels, norm.num_features, small.last.in_channels) == (2, 2, 2)
    assert [len(t) for t in (conv.weight, conv.bias, norm.weight, norm.bias, norm.running_var)] == [2] * 5
    assert conv.weight.flatten().tolist() == pytest.approx([0.5, 0.4])


def test_layers_of_different_fan_in_compete_and_each_keeps_its_best() -> None:
    narrow, wide = nn.Conv2d(1, 3, 1), nn.Conv2d(3, 4, 3, padding=1)
    network = nn.Sequential(
        set_filters(narrow, 0.9, 0.8, 0.7), nn.ReLU(), set_filters(wide, 0.4, 0.3, 0.2, 0.1), nn.ReLU()
    ).append(nn.Conv2d(4, 1, 1))
    mask_channels(network, X, 0.3)  # 2 of 7
    assert (dead(narrow.weight), dead(wide.weight)) == ([], [2, 3])
    make_permanent(network)
    mask_channels(network, X, 0.85)  # 6 of 7, but wide keeps one
    assert (dead(narrow.weight), dead(wide.weight)) == ([1, 2], [1, 2, 3])
    assert pruned_channels_fraction(network, X) == pytest.approx(5 / 7)
    check_shrinks(network)


def test_equal_scores_go_in_the_order_of_the_network() -> None:
    toy = Toy(0.2, 0.2, 0.2, 0.2)
    mask_channels(toy, X, 0.5)
    assert dead(toy.first[0].weight) == [0, 1]


class Residual(Toy):
    def __init__(self) -> None:
        super().__init__(0.1, 0.5, 0.3)
        self.branch = normed(set_filters(nn.Conv2d(3, 3, 1), 0.9, 0.2, 0.2))

    def between(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.branch(x))


def test_a_residual_ties_channels_into_one_class_with_the_mean_score() -> None:
    residual = Residual()  # classes of 0.5, 0.35 and 0.25
    mask_channels(residual, X, 0.34)
    assert dead(residual.first[0].weight) == dead(residual.branch[0].weight) == [2]
    assert dead(residual.branch[1].bias) == [2]
    assert pruned_channels_fraction(residual, X) == pytest.approx(1 / 3)
    assert check_shrinks(residual).branch[0].weight.shape == (2, 2, 1, 1)


class Concatenation(Toy):
    """As in DenseNet: a batch norm over what two convolutions made, one of which another one reads too."""

    def __init__(self) -> None:
        super().__init__(0.1, 0.5, 0.3)
        self.more = set_filters(nn.Conv2d(3, 2, 1), 0.4, 0.2)
        self.norm = normed(nn.Conv2d(1, 5, 1))[1]
        self.last = nn.Conv2d(5, 2, 1)

    def between(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(torch.cat([x, self.more(x)], 1)))


def test_every_batch_norm_that_sees_a_channel_loses_it() -> None:
    network = Concatenation()
    mask_channels(network, X, 0.4)
    assert dead(network.first[0].weight) == dead(network.first[1].bias) == [0]
    assert dead(network.more.weight) == [1]
    assert dead(network.norm.weight) == dead(network.norm.bias) == [0, 4]
    small = check_shrinks(network)
    assert (small.norm.num_features, small.last.in_channels, small.more.in_channels) == (3, 3, 2)


class SqueezeAndExcitation(Toy):
    def __init__(self) -> None:
        super().__init__(0.1, 0.5, 0.3)
        self.squeeze = set_filters(nn.Conv2d(3, 2, 1), 0.7, 0.8)
        self.excite = set_filters(nn.Conv2d(2, 3, 1), 0.9, 0.3, 0.3)

    def between(self, x: Tensor) -> Tensor:
        scale = self.excite(torch.relu(self.squeeze(x.mean((2, 3), keepdim=True))))
        return x * torch.sigmoid(scale)


def test_a_scale_is_tied_to_what_it_scales() -> None:
    network = SqueezeAndExcitation()  # classes of 0.5, 0.4 and 0.3, then 0.7 and 0.8
    mask_channels(network, X, 0.2)
    assert dead(network.first[0].weight) == dead(network.excite.weight) == dead(network.excite.bias) == [2]
    assert dead(network.squeeze.weight) == []
    assert check_shrinks(network).squeeze.in_channels == 2


class Depthwise(Toy):
    def __init__(self) -> None:
        super().__init__(0.1, 0.5, 0.3)
        self.depthwise = normed(set_filters(nn.Conv2d(3, 3, 3, padding=1, groups=3), 9.0, 0.1, 0.1))

    def between(self, x: Tensor) -> Tensor:
        return nn.functional.silu(self.depthwise(torch.relu(x)))


def test_a_depthwise_filter_follows_its_channel_and_has_no_vote() -> None:
    network = Depthwise()
    mask_channels(network, X, 0.34)
    assert dead(network.first[0].weight) == dead(network.depthwise[0].weight) == [0]
    conv = check_shrinks(network).depthwise[0]
    assert (conv.groups, conv.in_channels, conv.out_channels) == (2, 2, 2)
    make_permanent(network)
    mask_channels(network, X, 0.67)
    assert check_shrinks(network).depthwise[0].groups == 1


@pytest.mark.parametrize("flatten", [nn.Flatten(), None], ids=["flatten", "view"])
def test_a_linear_layer_loses_every_position_of_a_channel(flatten: nn.Module | None) -> None:
    class Flat(Toy):
        def between(self, x: Tensor) -> Tensor:
            return flatten(x) if flatten else x.view(x.shape[0], -1)

    network = Flat(0.1, 0.5, 0.3)
    network.last = nn.Linear(27, 2)
    mask_channels(network, X, 0.34)
    assert dead(network.first[0].weight) == [0]
    small = check_shrinks(network)
    assert small.last.in_features == 18
    assert torch.equal(small.last.weight, network.last.weight[:, 9:])


class Protected(Toy):
    """The first convolution may not be pruned, for one of many reasons; the last but one may."""

    def __init__(self, why: str) -> None:
        super().__init__(0.1, 0.2)
        self.why = why
        self.inner = set_filters(nn.Conv2d(2, 2, 1), 0.5, 0.6)
        self.factor = nn.Parameter(torch.ones(2, 1, 1))
        self.grouped = nn.Conv2d(2, 4, 1, groups=2)
        self.ungrouped = nn.Conv2d(4, 2, 1)
        self.norm = nn.BatchNorm2d(2, affine=False)
        self.linear = nn.Linear(2, 2)
        self.flat = nn.Linear(18, 18)
        self.layer_norm = nn.GroupNorm(1, 2)

    def between(self, x: Tensor) -> Tensor:
        match self.why:
            case "unknown operator":
                return self.layer_norm(x)
            case "permuted":
                return x.permute(0, 1, 3, 2)
            case "parts":
                return torch.cat(x.split(1, 1), 1)
            case "a size written down":
                return x.reshape(-1, 2, 3, 3)
            case "a length written down":
                return self.flat(x.reshape(-1, 18)).reshape(-1, 2, 3, 3)
            case "sigmoid of zero":
                return torch.sigmoid(x)
            case "sigmoid in place":
                torch.sigmoid_(x.unsqueeze(2))
                return x
            case "a number added":
                return x + 1
            case "clamped above zero":
                return x.clamp(0.5, 2)
            case "padded with ones":
                return nn.functional.pad(x, (1, 1, 1, 1), value=1.0)
            case "a parameter of each channel":
                return x * self.factor
            case "one map added":
                return x + x.mean(1, keepdim=True)
            case "batch norm without factors":
                return self.norm(x)
            case "linear over another axis":
                return self.linear(x[..., :2])
            case "groups":
                return self.ungrouped(self.grouped(x))
            case "used twice":
                return self.inner(x)
        raise ValueError(self.why)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.inner(self.between(self.first(x)))))


@pytest.mark.parametrize(
    "why",
    [
        *("unknown operator", "permuted", "parts", "a size written down"),
        *("sigmoid of zero", "a length written down"),
        *("sigmoid in place", "a number added", "clamped above zero", "padded with ones"),
        *("a parameter of each channel", "one map added", "batch norm without factors"),
        *("linear over another axis", "groups"),
    ],
)
def test_what_cannot_be_pruned_safely_is_not(why: str) -> None:
    network = Protected(why)
    mask_channels(network, X, 0.9)
    assert dead(network.first[0].weight) == [], "protected"
    make_permanent(network)
    if why != "groups":
        assert dead(network.inner.weight) == [0], "prunable, but for its best"
    check_shrinks(network)


def test_a_module_that_is_used_twice_keeps_its_channels() -> None:
    network = Protected("used twice")
    mask_channels(network, X, 0.9)
    assert pruned_channels_fraction(network, X) == 0
    assert not any(name.endswith("_mask") for name in network.state_dict())


@pytest.mark.parametrize("fraction", [0, 1, -0.1, float("nan")])
def test_a_level_is_a_share(fraction: float) -> None:
    with pytest.raises(UsageError, match="is not between 0 and 1"):
        mask_channels(Toy(0.1, 0.2), X, fraction)


def test_weights_that_are_not_finite_are_named() -> None:
    with pytest.raises(ModelError, match=r"^first\.0\.weight has NaN or infinity.*; "):
        mask_channels(Toy(0.1, float("nan")), X, 0.5)


def test_a_network_that_cannot_be_traced_is_named() -> None:
    class Undecided(Toy):
        def between(self, x: Tensor) -> Tensor:
            return torch.relu(x) if float(x.sum()) > 0 else x

    with pytest.raises(ModelError, match="cannot export Undecided: "):
        mask_channels(Undecided(0.1, 0.2), X, 0.5)


def test_code_that_counts_channels_is_found_out() -> None:
    class Counting(Toy):
        def between(self, x: Tensor) -> Tensor:
            return x * (1 / x.shape[1])

    network = Counting(0.1, 0.2, 0.3)
    mask_channels(network, X, 0.34)
    with pytest.raises(ModelError, match="Counting computes something else with fewer channels; "):
        shrink(network, X)


def test_zeros_stay_zero_in_training_and_the_rest_learns() -> None:
    torch.manual_seed(0)
    network, x = loaded(cifar("mobilenetv1", 8))
    mask_channels(network, x, 0.3)
    masked = {name: value.clone() for name, value in network.named_buffers() if name.endswith("_mask")}
    before = copy.deepcopy(network.state_dict())
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=1e-2)
    network.train()
    for _ in range(2):
        optimizer.zero_grad()
        network(x).square().sum().backward()
        optimizer.step()
    assert pruned_channels_fraction(network, x) == pytest.approx(0.3, abs=0.01)
    assert network.training
    make_permanent(network)
    assert masked
    state = network.state_dict()
    assert not any(name.endswith(("_mask", "_orig")) for name in state)
    for name, mask in masked.items():
        values = state[name.removesuffix("_mask")]
        assert not values[mask == 0].any(), name
        assert not torch.equal(values[mask == 1], before[name.removesuffix("mask") + "orig"][mask == 1]), name
    check_shrinks(network, x)


def test_levels_only_ever_add_to_the_dead() -> None:
    network, x = loaded(cifar("resnet18", 8))
    earlier: dict[str, Tensor] = {}
    for level in (0.05, 0.1, 0.5):
        mask_channels(network, x, level)
        make_permanent(network)
        assert pruned_channels_fraction(network, x) == pytest.approx(level, abs=0.01)
        for name, zeros in earlier.items():
            assert not network.get_parameter(name)[zeros].any()
        check_shrinks(network, x)
        earlier = {name: value == 0 for name, value in network.named_parameters()}
    mask_channels(network, x, 0.1)  # below what is dead already, which is masked all the same
    assert pruned_channels_fraction(network, x) == pytest.approx(0.5, abs=0.01)
    masks = {name: mask == 0 for name, mask in network.named_buffers() if name.endswith("_mask")}
    assert all(earlier[name.removesuffix("_mask")].equal(zeros) for name, zeros in masks.items())
    assert sum(zeros.sum() for zeros in masks.values()) > 0.2 * count(network)


def test_a_choice_depends_on_the_weights_alone() -> None:
    network, x = loaded(cifar("mobilenetv1", 8))
    other = copy.deepcopy(network).to(memory_format=torch.channels_last)
    mask_channels(network, x, 0.4)
    mask_channels(other, torch.zeros(1, 3, 16, 16), 0.4)
    masks = [dict(each.named_buffers()) for each in (network, other)]
    assert masks[0].keys() == masks[1].keys()
    assert all(torch.equal(mask, masks[1][name]) for name, mask in masks[0].items() if name.endswith("_mask"))
    small = check_shrinks(other, x)
    assert small.features[0].weight.is_contiguous(memory_format=torch.channels_last)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("spec", [*map(cifar, CIFAR), *map(imagenet, IMAGENET)], ids=lambda s: s.factory)
def test_every_network_computes_the_same_without_its_dead_channels(spec: ModelSpec) -> None:
    network, x = loaded(spec)
    dense = predict(network, x)
    mask_channels(network, x, 0.3)
    masked = predict(network, x)
    assert not torch.allclose(masked, dense, rtol=1e-2)
    assert not torch.allclose(masked[0], masked[1], rtol=1e-2), "still tells images apart"
    assert count(check_shrinks(network, x)) < 0.85 * count(network)


def test_densenet161_too() -> None:
    network, x = loaded(imagenet("densenet161"))
    mask_channels(network, x, 0.3)
    small = check_shrinks(network, x)
    assert count(small) < 0.7 * count(network)


def test_a_smaller_network_is_one_of_its_own_and_can_be_exported() -> None:
    network, x = loaded(cifar("resnet18"))
    mask_channels(network, x, 0.3)
    small = shrink(network, x)
    own = {tensor.data_ptr() for tensor in itertools.chain(small.parameters(), small.buffers())}
    assert own.isdisjoint(t.data_ptr() for t in itertools.chain(network.parameters(), network.buffers()))
    assert any(name.endswith("_mask") for name in network.state_dict()), "it stays as it is"
    assert not any(name.endswith(("_mask", "_orig")) for name in small.state_dict())
    exported = torch.export.export(small.eval(), (x,)).module()
    assert torch.allclose(exported(x), predict(network, x), rtol=1e-4, atol=1e-4)

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dlas import sweepfile
from dlas.compression import notation
from dlas.errors import SweepError, UsageError
from dlas.models import recipe
from dlas.sweeptables import Budget, Training
from dlas.values import ModelSpec

SWEEP = """
description = "a sweep on a desk"

[axes]
dataset = ["cifar10"]
model = ["resnet18", "narrow", "mine"]
compression = ["dense"]
precision = ["fp32"]
format = ["dense"]
algorithm = ["direct", "gemm"]
tuning = ["scheduled"]
target = ["x86"]

[models.narrow]
factory = "resnet18"
arguments = { width = 16 }

[models.mine]
factory = "nets.edge:tiny"
input_shape = [1, 3, 96, 96]
arguments = { wide = true, depth = 3 }

[[exclude]]
model = "mi*"
algorithm = "gemm"

[[include]]
algorithm = "spatial_pack"

[[invalid]]
model = "narrow"
reason = "too narrow for the board"
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "desk_sweep.toml"
    path.write_text(SWEEP)
    return path


def test_a_sweep_of_ones_own(path: Path) -> None:
    sweep = sweepfile.load(str(path))
    assert (sweep.name, sweep.description) == ("desk_sweep", "a sweep on a desk")
    assert sweep.axes == {
        "model": ("resnet18", "narrow", "mine"),
        "dataset": ("cifar10",),
        "compression": ("dense",),
        "precision": ("fp32",),
        "format": ("dense",),
        "algorithm": ("direct", "gemm"),
        "tuning": ("scheduled",),
        "target": ("x86_avx",),
    }
    assert sweep.exclude == ({"model": "mi*", "algorithm": "gemm"},)
    assert sweep.include == ({"algorithm": "spatial_pack"},)
    assert sweep.invalid == (({"model": "narrow"}, "too narrow for the board"),)


def test_models_are_the_built_in_and_the_own(path: Path) -> None:
    models = sweepfile.load(str(path)).models
    assert models["resnet18"] == ModelSpec("resnet18", "resnet18", ())
    assert models["narrow"] == ModelSpec("narrow", "resnet18", (), (("width", 16),))
    assert models["mine"] == ModelSpec(
        "mine", "nets.edge:tiny", (1, 3, 96, 96), (("depth", 3), ("wide", True))
    )


def test_the_built_in_factories_exist() -> None:
    for name, factory in {
        (k, f) for k, definitions in sweepfile.FACTORIES.items() for f in definitions.values()
    }:
        module, _, function = factory.partition(":")
        source = Path(sweepfile.__file__).parents[1] / (module.replace(".", "/") + ".py")
        assert function == name
        assert f"\ndef {function}(" in source.read_text()


def test_without_a_target_it_is_this_machine(path: Path) -> None:
    path.write_text(SWEEP.replace('target = ["x86"]', ""))
    assert sweepfile.load(str(path)).axes["target"] == ("x86_avx",)


def test_a_network_is_what_its_dataset_makes_it() -> None:
    narrow = ModelSpec("narrow", "mobilenetv2", (), (("width", 16),))
    small = replace(narrow, factory="dlas.models.mobilenet:mobilenetv2", input_shape=(1, 3, 32, 32))
    assert sweepfile.define(narrow, "digits") == sweepfile.define(narrow, "cifar10") == small
    large = replace(narrow, factory="dlas.models.imagenet:mobilenetv2", input_shape=(1, 3, 224, 224))
    assert sweepfile.define(narrow, "imagenet") == large
    mine = ModelSpec("mine", "nets.edge:tiny", (1, 3, 64, 64))
    assert sweepfile.define(mine, "imagenet") == mine
    with pytest.raises(SweepError) as caught:
        sweepfile.define(ModelSpec("vgg16", "vgg16", ()), "imagenet")
    assert str(caught.value) == (
        "vgg16 has no definition for imagenet, only for cifar10, digits; "
        "exclude it, or choose another network"
    )


def test_training_and_weights_are_found_from_the_sweeps_folder(path: Path) -> None:
    shipped = sweepfile.tomlfile.shipped(recipe.FOLDER)["digits"]
    (path.parent / "mine.toml").write_text(shipped.read_text())
    (path.parent / "more.toml").write_text((recipe.FOLDER / "digits_finetune.toml").read_text())
    (path.parent / "mine.pt").write_bytes(b"weights")
    text = SWEEP.replace('factory = "nets.edge:tiny"', 'factory = "nets.edge:tiny"\nweights = "mine.pt"')
    path.write_text(
        text + '[training.cifar10]\nrecipe = "mine.toml"\ntrain = true\nfinetuning = "more.toml"\n'
    )
    loaded = sweepfile.load(str(path))
    assert loaded.models["mine"].weights == str(path.parent / "mine.pt")
    files = [str(path.parent / name) for name in ("mine.toml", "more.toml")]
    assert loaded.training == {"cifar10": Training(files[0], True, files[1])}


def test_finetuning_and_elbow_may_be_left_out(path: Path) -> None:
    path.write_text(SWEEP + '[training.cifar10]\nrecipe = "paper"\ntrain = true\n[elbow]\n')
    loaded = sweepfile.load(str(path))
    assert loaded.training == {"cifar10": Training("paper", True, "")}
    assert loaded.max_drop_fraction == 0.01


def test_how_long_a_search_may_be(path: Path) -> None:
    assert sweepfile.load(str(path)).budget == Budget(20_000, 1000)
    path.write_text(SWEEP + "[tuning]\ntrials = 8\n")
    assert sweepfile.load(str(path)).budget == Budget(8, 1000)
    path.write_text(SWEEP + "[tuning]\nearly_stop = 0\n")
    assert sweepfile.load(str(path)).budget == Budget(20_000, 0)


def test_a_sweep_narrowed_to_some_values(path: Path) -> None:
    found = sweepfile.narrow(sweepfile.load(str(path)), {"model": ("mine",), "tuning": ("tuned",)})
    assert (found.axes["model"], found.axes["tuning"]) == (("mine",), ("tuned",))
    assert (found.axes["algorithm"], found.include, found.exclude) == (("direct", "gemm"), (), ())
    with pytest.raises(SweepError, match=r"--model has unknown 'narow', allowed: .*; did you mean narrow\?"):
        sweepfile.narrow(found, {"model": ("narow",)})


def test_what_the_elbow_may_cost(path: Path) -> None:
    path.write_text(SWEEP + "[elbow]\nmax_drop_fraction = 0\n")
    assert sweepfile.load(str(path)).max_drop_fraction == 0


def test_compressions_and_precisions(path: Path) -> None:
    text = SWEEP.replace(
        '["dense"]\nprecision = ["fp32"]', '["weight07", "channel@elbow_shrunk"]\nprecision = ["int8"]'
    )
    path.write_text(text.replace('model = "mi*"', 'compression = "*_shrunk"'))
    loaded = sweepfile.load(str(path))
    assert loaded.axes["compression"] == ("weight07", "channel@elbow_shrunk")
    assert loaded.axes["precision"] == ("int8",)
    assert loaded.exclude == ({"compression": "*_shrunk", "algorithm": "gemm"},)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[training.cifar]\n",
            "[training.cifar] is for no dataset, allowed: cifar10, digits, imagenet; did you mean cifar10?",
        ),
        (
            "[training.cifar10]\n",
            "[training.cifar10] recipe is missing, the keys are recipe, train, finetuning; add it",
        ),
        ("[training]\ncifar10 = 1\n", "[training.cifar10] is not a table; write it as [training.cifar10]"),
        (
            '[training.cifar10]\nrecipe = "paper"\ntrain = "yes"\n',
            "[training.cifar10] train is 'yes', allowed are true and false; correct the file",
        ),
        (
            '[training.imagenet]\nrecipe = "paper"\ntrain = true\n',
            "[training.imagenet] train is true, imagenet has no training images here; set it to false",
        ),
        (
            '[training.cifar10]\nrecipe = "gone.toml"\ntrain = true\n',
            "[training.cifar10] recipe: {folder}/gone.toml is no file; "
            "paths are relative to the sweep's file",
        ),
        (
            '[training.cifar10]\nrecipe = "paper"\ntrain = true\nfinetuning = 1\n',
            "[training.cifar10] finetuning is 1, allowed is a recipe's name or its file; correct the file",
        ),
        (
            '[training.cifar10]\nrecipe = "paper"\ntrain = true\nfinetuning = "gone.toml"\n',
            "[training.cifar10] finetuning: {folder}/gone.toml is no file; "
            "paths are relative to the sweep's file",
        ),
        ("[[elbow]]\n", "[elbow] is not a table; write it as [elbow]"),
        (
            "[elbow]\nmax_drop = 0.01\n",
            "[elbow] unknown key 'max_drop', allowed: max_drop_fraction",
        ),
        *(
            (
                f"[elbow]\nmax_drop_fraction = {written}\n",
                f"[elbow] max_drop_fraction is {shown}, allowed is a share from 0 to below 1; "
                "correct the file",
            )
            for written, shown in (("1.0", "1.0"), ("-0.01", "-0.01"), ("nan", "nan"), ("true", "True"))
        ),
        ("[[tuning]]\n", "[tuning] is not a table; write it as [tuning]"),
        (
            "[tuning]\ntrails = 1\n",
            "[tuning] unknown key 'trails', allowed: trials, early_stop; did you mean trials?",
        ),
        *(
            (
                f"[tuning]\n{key} = {written}\n",
                f"[tuning] {key} is {shown}, allowed is a number from {least} on; correct the file",
            )
            for key, written, shown, least in (
                ("trials", "0", "0", 1),
                ("early_stop", "-1", "-1", 0),
                ("trials", "1.5", "1.5", 1),
                ("early_stop", "true", "True", 0),
            )
        ),
        (
            '[models.yours]\nfactory = "resnet18"\nweights = "gone.pt"\n',
            "[models.yours] weights: {folder}/gone.pt is no file; paths are relative to the sweep's file",
        ),
    ],
)
def test_malformed_training_is_refused(path: Path, text: str, message: str) -> None:
    path.write_text(SWEEP + text)
    with pytest.raises(SweepError) as caught:
        sweepfile.load(str(path))
    assert str(caught.value) == f"{path}: {message.format(folder=path.parent)}"


def test_an_unknown_recipe_is_found_at_once(path: Path) -> None:
    path.write_text(SWEEP + '[training.cifar10]\nrecipe = "papre"\ntrain = true\n')
    with pytest.raises(
        UsageError, match=r"unknown recipe 'papre', known are digits, paper; did you mean paper\?"
    ):
        sweepfile.load(str(path))


def test_an_unknown_finetuning_is_found_at_once(path: Path) -> None:
    path.write_text(
        SWEEP + '[training.cifar10]\nrecipe = "paper"\ntrain = true\nfinetuning = "paper_finetun"\n'
    )
    with pytest.raises(
        UsageError, match=r"unknown recipe 'paper_finetun', .*; did you mean paper_finetune\?"
    ):
        sweepfile.load(str(path))


@pytest.mark.parametrize("name", ["smoke", "cifar", "digits", "imagenet"])
def test_shipped_sweeps_load(name: str) -> None:
    assert sweepfile.load(name).name == name


TOP_KEYS = "description, axes, include, exclude, invalid, models, training, elbow, tuning"
NETWORKS = "resnet18, mobilenetv1, mobilenetv2, vgg16, densenet161, efficientnetb0, resnet50"
TARGETS = (
    "hikey, hikey970_neon, hikey970_opencl, host, opencl_pocl, pocl, x86, x86_avx, xavier, xavier_cpu, "
    "xavier_cuda, xavier_neon"
)
AXES = "model, dataset, compression, precision, format, algorithm, tuning, target"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            '["direct", "gemm"]',
            '["direct", "gem"]',
            "[axes] algorithm has unknown 'gem', allowed: direct, gemm, spatial_pack; did you mean gemm?",
        ),
        (
            '["scheduled"]',
            '["tunned"]',
            "[axes] tuning has unknown 'tunned', allowed: minimal, scheduled, tuned; did you mean tuned?",
        ),
        (
            'compression = ["dense"]',
            'compression = ["weigth90"]',
            f"[axes] compression: unknown compression 'weigth90', allowed: {notation.RULE}; "
            "did you mean weight90?",
        ),
        (
            "[[include]]",
            '[[include]]\ncompression = "weight*"',
            f"[[include]] 1 compression: unknown compression 'weight*', allowed: {notation.RULE}; "
            "write one of them",
        ),
        (
            'precision = ["fp32"]',
            'precision = ["int16"]',
            "[axes] precision has unknown 'int16', allowed: fp32, fp16, int8, int8_ort_default; "
            "did you mean int8?",
        ),
        (
            '["resnet18", "narrow", "mine"]',
            '["lenet"]',
            f"[axes] model has unknown 'lenet', allowed: {NETWORKS}, narrow, mine; "
            "declare a network of your own as [models.NAME]",
        ),
        (
            '["resnet18", "narrow", "mine"]',
            '["resnet_18"]',
            f"[axes] model has unknown 'resnet_18', allowed: {NETWORKS}, narrow, mine; "
            "did you mean resnet18?",
        ),
        ('["direct", "gemm"]', '["gemm", "gemm"]', "[axes] algorithm has 'gemm' twice; name each value once"),
        (
            '["direct", "gemm"]',
            "[]",
            "[axes] algorithm is [], allowed is a list of one or more strings; correct the file",
        ),
        (
            '["direct", "gemm"]',
            '"gemm"',
            "[axes] algorithm is 'gemm', allowed is a list of one or more strings; correct the file",
        ),
        ('["direct", "gemm"]', "[1]", "[axes] algorithm has 1, allowed is a string; correct the file"),
        ('precision = ["fp32"]', "", f"[axes] precision is missing, the keys are {AXES}; add it"),
        (
            'precision = ["fp32"]',
            'precison = ["fp32"]',
            f"[axes] unknown key 'precison', allowed: {AXES}; did you mean precision?",
        ),
        ('description = "a sweep on a desk"', "", f"description is missing, the keys are {TOP_KEYS}; add it"),
        ('"a sweep on a desk"', "7", "description is 7, allowed is a string; correct the file"),
        (
            "[[exclude]]",
            "[[excludes]]",
            f"unknown key 'excludes', allowed: {TOP_KEYS}; did you mean exclude?",
        ),
        (
            "[[exclude]]",
            "[exclude]",
            "exclude is not a list of tables; write each as [[exclude]]",
        ),
        (
            'target = ["x86"]',
            'target = ["x87"]',
            f"[axes] target: unknown target 'x87', known are {TARGETS}; did you mean x86?",
        ),
        (
            'target = ["x86"]',
            'target = ["x86", "x86_avx"]',
            "[axes] target has 'x86_avx' twice; name each value once",
        ),
        (
            'target = ["x86"]',
            'target = ["boards/desk.toml"]',
            "[axes] target has 'boards/desk.toml', allowed are names and aliases; give a path with --target",
        ),
        (
            'model = "mi*"',
            'model = "mo*"',
            "[[exclude]] 1 model: 'mo*' matches none of resnet18, narrow, mine; correct the file",
        ),
        (
            'model = "mi*"\nalgorithm = "gemm"',
            'algorithm = "spatial_pack"',
            "[[exclude]] 1 algorithm: 'spatial_pack' matches none of direct, gemm; correct the file",
        ),
        (
            'model = "mi*"',
            'model = "narow"',
            "[[exclude]] 1 model: 'narow' matches none of resnet18, narrow, mine; did you mean narrow?",
        ),
        (
            'model = "mi*"',
            'target = "hikey970_noen"',
            f"[[exclude]] 1 target: unknown target 'hikey970_noen', known are {TARGETS}; "
            "did you mean hikey970_neon?",
        ),
        ('model = "mi*"', "model = 5", "[[exclude]] 1 model is 5, allowed is a string; correct the file"),
        (
            'model = "mi*"',
            'modle = "mi*"',
            f"[[exclude]] 1 unknown key 'modle', allowed: {AXES}; did you mean model?",
        ),
        (
            "[[exclude]]",
            "[[exclude]]\n[[exclude]]",
            f"[[exclude]] 1 names no axis, allowed: {AXES}; correct the file",
        ),
        (
            'algorithm = "spatial_pack"',
            'algorithm = "spatial*"',
            "[[include]] 1 algorithm has unknown 'spatial*', allowed: direct, gemm, spatial_pack; "
            "did you mean spatial_pack?",
        ),
        (
            'reason = "too narrow for the board"',
            "",
            f"[[invalid]] 1 reason is missing, the keys are {AXES}, reason; add it",
        ),
        (
            'reason = "too narrow for the board"',
            'reason = ""',
            "[[invalid]] 1 reason is '', allowed is a string that says why; correct the file",
        ),
        ('model = "narrow"\n', "", f"[[invalid]] 1 names no axis, allowed: {AXES}; correct the file"),
        (
            "[models.narrow]",
            "[models.vgg16]",
            "[models.vgg16] is the name of a built-in model; choose another name",
        ),
        (
            "[models.narrow]",
            '[models."Narrow-16"]',
            "[models.Narrow-16] names the model 'Narrow-16', allowed: small letters, digits, underscores; "
            "correct the file",
        ),
        (
            'factory = "resnet18"',
            'factory = "resnet"',
            f"[models.narrow] factory is 'resnet', allowed: package.module:function, {NETWORKS}; "
            "did you mean resnet50?",
        ),
        (
            'factory = "resnet18"',
            'factory = ["resnet18"]',
            f"[models.narrow] factory is ['resnet18'], allowed: package.module:function, {NETWORKS}; "
            "did you mean resnet18?",
        ),
        (
            'factory = "nets.edge:tiny"',
            'factory = "nets/edge.py"',
            f"[models.mine] factory is 'nets/edge.py', allowed: package.module:function, {NETWORKS}; "
            "correct the file",
        ),
        (
            'factory = "nets.edge:tiny"',
            "",
            "[models.mine] factory is missing, the keys are factory, input_shape, arguments, weights; add it",
        ),
        (
            "input_shape = [1, 3, 96, 96]",
            "",
            "[models.mine] input_shape is missing, the keys are factory, input_shape, arguments, weights; "
            "add it",
        ),
        (
            "input_shape = [1, 3, 96, 96]",
            "input_shape = [3, 96, 96]",
            "[models.mine] input_shape is [3, 96, 96], allowed are 4 sizes, as in [1, 3, 32, 32]; "
            "correct the file",
        ),
        (
            "input_shape = [1, 3, 96, 96]",
            "input_shape = [1, 3, 0, 96]",
            "[models.mine] input_shape is [1, 3, 0, 96], allowed are 4 sizes, as in [1, 3, 32, 32]; "
            "correct the file",
        ),
        (
            "arguments = { width = 16 }",
            "arguments = { width = [16] }",
            "[models.narrow] arguments is {'width': [16]}, allowed is a table of strings, numbers and "
            "booleans by parameter; correct the file",
        ),
        ("[axes]", "[[axes]]", "[axes] is not a table; write it as [axes]"),
        (
            "[axes]",
            "[axes",
            "not TOML: Expected ']' at the end of a table declaration (at line 4, column 6); "
            "correct the file",
        ),
    ],
)
def test_malformed_files_are_refused_by_name(path: Path, old: str, new: str, message: str) -> None:
    assert old in SWEEP
    path.write_text(SWEEP.replace(old, new))
    with pytest.raises(SweepError) as caught:
        sweepfile.load(str(path))
    assert str(caught.value) == f"{path}: {message}"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifra", "unknown sweep 'cifra', known are cifar, digits, imagenet, smoke; did you mean cifar?"),
        (
            "x",
            "unknown sweep 'x', known are cifar, digits, imagenet, smoke; "
            "give one of them, or a path that ends in .toml",
        ),
        ("no/x.toml", "no/x.toml: no such file; give a sweep's name or the path of its file"),
    ],
)
def test_unknown_sweeps(name: str, message: str) -> None:
    with pytest.raises(SweepError) as caught:
        sweepfile.load(name)
    assert str(caught.value) == message


def test_a_name_of_the_file_that_cannot_be_a_folder(path: Path) -> None:
    path = path.rename(path.with_name("my sweep.toml"))
    with pytest.raises(SweepError) as caught:
        sweepfile.load(str(path))
    assert str(caught.value) == (
        f"{path}: names the sweep 'my sweep', allowed: small letters, digits, underscores; rename the file"
    )

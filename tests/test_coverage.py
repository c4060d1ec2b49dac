"""The page that compares names and arguments is what the generator writes today, and no difference is unexplained."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "coverage.md").read_text()

# What users of PyTorch and OneFlow reach for; every one must have a row.
LOSSES = """L1Loss MSELoss SmoothL1Loss HuberLoss CrossEntropyLoss NLLLoss BCELoss BCEWithLogitsLoss KLDivLoss MarginRankingLoss
    TripletMarginLoss CosineEmbeddingLoss HingeEmbeddingLoss SoftMarginLoss MultiMarginLoss MultiLabelMarginLoss
    MultiLabelSoftMarginLoss PoissonNLLLoss GaussianNLLLoss CTCLoss CombinedMarginLoss"""
OPTIMIZERS = """SGD Adam AdamW Adagrad Adadelta Adamax NAdam RAdam RMSprop Rprop ASGD LAMB LARS Adafactor Muon Lion Ftrl LBFGS
    EMA"""
SCHEDULES = """StepLR MultiStepLR ExponentialLR ConstantLR LinearLR CosineAnnealingLR CosineAnnealingWarmRestarts CosineDecayLR
    PolynomialLR CyclicLR OneCycleLR WarmupLR SequentialLR ChainedScheduler LambdaLR MultiplicativeLR ReduceLROnPlateau"""
LAYERS = """Linear Bilinear Identity Flatten Unflatten Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d
    MaxPool1d MaxPool2d MaxPool3d AvgPool1d AvgPool2d AvgPool3d AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d
    BatchNorm1d BatchNorm2d BatchNorm3d LayerNorm GroupNorm InstanceNorm1d InstanceNorm2d InstanceNorm3d RMSNorm
    Dropout Dropout2d Embedding RNN LSTM GRU MultiheadAttention TransformerEncoderLayer PixelShuffle Upsample ELU CELU
    SELU GELU QuickGELU ReLU ReLU6 LeakyReLU PReLU RReLU Hardtanh Hardsigmoid Hardswish Hardshrink Softshrink
    Tanhshrink Softplus Softsign SiLU Mish GLU LogSigmoid LogSoftmax Softmax Softmin Threshold SquareReLU"""
INITS = """uniform_ normal_ trunc_normal_ xavier_uniform_ xavier_normal_ kaiming_uniform_ kaiming_normal_ orthogonal_ constant_
    ones_ zeros_ eye_ dirac_ sparse_"""


def test_page_is_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "docs" / "generate_coverage.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"run python docs/generate_coverage.py\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize(("prefix", "names"), [("nn.", LOSSES), ("optim.", OPTIMIZERS), ("lr_scheduler.", SCHEDULES),
                                               ("nn.", LAYERS), ("nn.init.", INITS)],
                         ids=["losses", "optimizers", "schedules", "layers", "inits"])
def test_every_promised_name_has_a_row(prefix: str, names: str) -> None:
    assert [n for n in names.split() if f"| `{prefix}{n}(" not in PAGE] == []


def test_what_is_equal_and_what_differs_is_told() -> None:
    """Rows whose truth is known from elsewhere: the reading of signatures itself is what is tested."""
    row = {line.split("`")[1].split("(")[0]: [c.strip() for c in line.strip("|").split("|")]
           for line in PAGE.splitlines() if line.startswith("| `") and "(" in line}
    assert row["nn.CrossEntropyLoss"][1:3] == ["=", "="]
    assert row["nn.LSTM"][1:3] == ["=", "there"]  # PyTorch's own signature says *args
    assert row["nn.functional.conv2d"][1] == "="  # read from the first line of a documentation
    assert row["nn.functional.scaled_dot_product_attention"][1] == "="
    assert row["optim.AdamW"][1].startswith("also `do_bias_correction`")
    assert "`weight_decay` is 0 there" in row["optim.AdamW"][2]
    assert "lacks `max_norm`" in row["nn.Embedding"][1] and "not in PyTorch" in row["optim.Lion"][1]
    assert row["round"][1] == "lacks `decimals`"

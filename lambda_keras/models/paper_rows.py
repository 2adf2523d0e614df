"""What the paper prints about configurations that are among our specs.

All rows are ImageNet models. Rows without parameters are ones whose count the
paper does not print. Where the builder's count is not the printed one, the row
says so in `misfit`; every other row is reproduced to the last printed digit.

Source: Bello, LambdaNetworks (arXiv 2102.08602). "Table 3", "Table 4" and
"Table 12" are numbered as on arXiv; the other two are named by their subject.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class PaperRow:
    """One row of a table of the paper.

    Attributes:
        table: The table.
        row: The row's label, in the paper's words.
        parameters_m: The printed number of parameters, in millions.
        top_1: The printed top-1 accuracy on ImageNet, in percent.
        misfit: Why the printed number of parameters is not ours; empty if it
            is.
    """

    table: str
    row: str
    parameters_m: float | None
    top_1: float
    misfit: str = ""


_COMPARISON = "Table 3 (layers)"
_EFFICIENCY = "Table 4 (memory and speed)"
_STAGES = "Table 12 (stages)"
_SIZES = "ablation of key depth, heads and intra-depth"
_SQUEEZE = "squeeze-and-excitation against lambda layers, 350 epochs"

# What public recounts of the paper's layer give as well: the sizes of
# projections, embeddings and normalizations leave no freedom to fit these.
_NO_FIT = "No reading of key depth and heads gives the printed count."
_NO_STAGE_FIT = (
    "The neighbouring rows fit and fix what each stage adds; the printed "
    "count is less than their sum."
)
# Tried: stem, key depth, heads, intra-depth, window, strided blocks left as
# convolutions. Intra-depth 4 with a 7x7 window comes closest.
_NO_HYBRID_FIT = (
    "No choice of intra-depth and window gives both depths' printed counts "
    "with the printed number of lambda layers in c4 and all of c5."
)
_NO_FULL_FIT = (
    "No choice of intra-depth and window gives both depths' printed counts "
    "with lambda layers in every block."
)

PAPER_ROWS: dict[str, tuple[PaperRow, ...]] = {
    "resnet_v1_50": (
        PaperRow(_COMPARISON, "Conv", 25.6, 76.9),
        PaperRow(_STAGES, "C-C-C-C", 25.6, 76.9),
        PaperRow(_SIZES, "baseline", 25.6, 76.9),
    ),
    "se_resnet_v1_50": (
        PaperRow(_COMPARISON, "Conv + channel attention", 28.1, 77.6),
    ),
    "lambda_resnet_v1_50": (
        PaperRow(_COMPARISON, "Lambda layer", 15.0, 78.4),
        PaperRow(_EFFICIENCY, "Lambda layer", None, 78.4),
        PaperRow(_STAGES, "L-L-L-L", 15.0, 78.4),
        PaperRow(_SIZES, "k=16, h=4, u=1", 15.0, 78.4),
    ),
    "lambda_resnet_v1_50_k16_h4_u4": (
        PaperRow(_COMPARISON, "Lambda layer, u=4", 16.0, 78.9),
        PaperRow(_SIZES, "k=16, h=4, u=4", 16.0, 78.9),
    ),
    "lambda_resnet_v1_50_lccc": (PaperRow(_STAGES, "L-C-C-C", 25.5, 77.3),),
    "lambda_resnet_v1_50_llcc": (PaperRow(_STAGES, "L-L-C-C", 25.0, 77.2),),
    "lambda_resnet_v1_50_lllc": (PaperRow(_STAGES, "L-L-L-C", 21.7, 77.8),),
    "lambda_resnet_v1_50_clll": (PaperRow(_STAGES, "C-L-L-L", 15.1, 78.3),),
    "lambda_resnet_v1_50_ccll": (
        PaperRow(_STAGES, "C-C-L-L", 15.4, 78.3, _NO_STAGE_FIT),
    ),
    "lambda_resnet_v1_50_cccl": (PaperRow(_STAGES, "C-C-C-L", 18.8, 77.3),),
    "lambda_resnet_v1_50_k8_h2_u1": (
        PaperRow(_SIZES, "k=8, h=2, u=1", 14.8, 77.2, _NO_FIT),
    ),
    "lambda_resnet_v1_50_k8_h16_u1": (
        PaperRow(_SIZES, "k=8, h=16, u=1", 15.6, 77.9, _NO_FIT),
    ),
    "lambda_resnet_v1_50_k2_h4_u1": (
        PaperRow(_SIZES, "k=2, h=4, u=1", 14.7, 77.4, _NO_FIT),
    ),
    "lambda_resnet_v1_50_k4_h4_u1": (
        PaperRow(_SIZES, "k=4, h=4, u=1", 14.7, 77.6),
    ),
    "lambda_resnet_v1_50_k8_h4_u1": (
        PaperRow(_SIZES, "k=8, h=4, u=1", 14.8, 77.9),
        PaperRow(_EFFICIENCY, "Lambda layer, k=8", None, 77.9),
    ),
    "lambda_resnet_v1_50_k32_h4_u1": (
        PaperRow(_SIZES, "k=32, h=4, u=1", 15.4, 78.4),
    ),
    "lambda_resnet_v1_50_k2_h8_u1": (
        PaperRow(_SIZES, "k=2, h=8, u=1", 14.7, 77.8, _NO_FIT),
    ),
    "lambda_resnet_v1_50_k4_h8_u1": (
        PaperRow(_SIZES, "k=4, h=8, u=1", 14.7, 77.7, _NO_FIT),
    ),
    "lambda_resnet_v1_50_k8_h8_u1": (
        PaperRow(_SIZES, "k=8, h=8, u=1", 14.7, 77.9),
    ),
    "lambda_resnet_v1_50_k16_h8_u1": (
        PaperRow(_SIZES, "k=16, h=8, u=1", 15.1, 78.1),
    ),
    "lambda_resnet_v1_50_k32_h8_u1": (
        PaperRow(_SIZES, "k=32, h=8, u=1", 15.7, 78.5, _NO_FIT),
    ),
    "lambda_resnet_v1_50_k8_h8_u4": (
        PaperRow(_SIZES, "k=8, h=8, u=4", 15.3, 78.4),
    ),
    "lambda_resnet_v1_50_k8_h8_u8": (
        PaperRow(_SIZES, "k=8, h=8, u=8", 16.0, 78.6),
    ),
    "axial_attention_resnet_v1_50": (
        PaperRow(_EFFICIENCY, "Axial self-attention", None, 77.5),
    ),
    "local_attention_resnet_v1_50": (
        PaperRow(
            _COMPARISON,
            "Local relative self-attention (Ramachandran et al.)",
            18.0,
            77.4,
        ),
        PaperRow(_EFFICIENCY, "Local self-attention 7x7", None, 77.4),
    ),
    "resnet_101": (PaperRow(_SQUEEZE, "ResNet-101, 224", 44.6, 81.3),),
    "se_resnet_101": (PaperRow(_SQUEEZE, "ResNet-101 + SE", 63.6, 81.8),),
    "lambda_resnet_101_u4": (
        PaperRow(_SQUEEZE, "ResNet-101 + 3 lambda", 36.9, 82.3, _NO_HYBRID_FIT),
    ),
    "lambda_resnet_101_llll_u4": (
        PaperRow(_SQUEEZE, "ResNet-101 + all lambda", 26.0, 82.6, _NO_FULL_FIT),
    ),
    "resnet_152": (PaperRow(_SQUEEZE, "ResNet-152, 256", 60.2, 82.5),),
    "se_resnet_152": (PaperRow(_SQUEEZE, "ResNet-152 + SE", 86.6, 83.0),),
    "lambda_resnet_152_u4": (
        PaperRow(_SQUEEZE, "ResNet-152 + 6 lambda", 51.4, 83.4, _NO_HYBRID_FIT),
    ),
    "lambda_resnet_152_llll_u4": (
        PaperRow(_SQUEEZE, "ResNet-152 + all lambda", 35.1, 83.4, _NO_FULL_FIT),
    ),
}

"""Named models, built from specs."""

from lambda_keras.models.flops import count_flops
from lambda_keras.models.flops import count_parameters
from lambda_keras.models.imagenet import decode_predictions
from lambda_keras.models.imagenet import preprocess_input
from lambda_keras.models.lambda_resnet import AxialAttentionResNet50
from lambda_keras.models.lambda_resnet import AxialAttentionResNet101
from lambda_keras.models.lambda_resnet import AxialAttentionResNet152
from lambda_keras.models.lambda_resnet import GlobalAttentionResNet50
from lambda_keras.models.lambda_resnet import GlobalAttentionResNet101
from lambda_keras.models.lambda_resnet import GlobalAttentionResNet152
from lambda_keras.models.lambda_resnet import LambdaResNet26RPT
from lambda_keras.models.lambda_resnet import LambdaResNet26T
from lambda_keras.models.lambda_resnet import LambdaResNet50
from lambda_keras.models.lambda_resnet import LambdaResNet50TS
from lambda_keras.models.lambda_resnet import LambdaResNet101
from lambda_keras.models.lambda_resnet import LambdaResNet152
from lambda_keras.models.lambda_resnet import LambdaResNet200
from lambda_keras.models.lambda_resnet import LambdaResNet270
from lambda_keras.models.lambda_resnet import LambdaResNet350
from lambda_keras.models.lambda_resnet import LambdaResNet420
from lambda_keras.models.lambda_resnet import LocalAttentionResNet50
from lambda_keras.models.lambda_resnet import LocalAttentionResNet101
from lambda_keras.models.lambda_resnet import LocalAttentionResNet152
from lambda_keras.models.lambda_resnet import ResNet50
from lambda_keras.models.lambda_resnet import ResNet101
from lambda_keras.models.lambda_resnet import ResNet152
from lambda_keras.models.lambda_resnet import ResNet200
from lambda_keras.models.lambda_resnet import ResNet270
from lambda_keras.models.lambda_resnet import ResNet350
from lambda_keras.models.lambda_resnet import ResNet420
from lambda_keras.models.lambda_resnet import SEResNet50
from lambda_keras.models.lambda_resnet import SEResNet101
from lambda_keras.models.lambda_resnet import SEResNet152
from lambda_keras.models.lambda_resnet import SEResNet200
from lambda_keras.models.lambda_resnet import SEResNet270
from lambda_keras.models.lambda_resnet import SEResNet350
from lambda_keras.models.lambda_resnet import SEResNet420
from lambda_keras.models.resnet import build_model
from lambda_keras.models.specs import MODEL_SPECS
from lambda_keras.models.specs import ModelSpec
from lambda_keras.models.specs import get_spec

__all__ = [
    "MODEL_SPECS",
    "AxialAttentionResNet50",
    "AxialAttentionResNet101",
    "AxialAttentionResNet152",
    "GlobalAttentionResNet50",
    "GlobalAttentionResNet101",
    "GlobalAttentionResNet152",
    "LambdaResNet26RPT",
    "LambdaResNet26T",
    "LambdaResNet50",
    "LambdaResNet50TS",
    "LambdaResNet101",
    "LambdaResNet152",
    "LambdaResNet200",
    "LambdaResNet270",
    "LambdaResNet350",
    "LambdaResNet420",
    "LocalAttentionResNet50",
    "LocalAttentionResNet101",
    "LocalAttentionResNet152",
    "ModelSpec",
    "ResNet50",
    "ResNet101",
    "ResNet152",
    "ResNet200",
    "ResNet270",
    "ResNet350",
    "ResNet420",
    "SEResNet50",
    "SEResNet101",
    "SEResNet152",
    "SEResNet200",
    "SEResNet270",
    "SEResNet350",
    "SEResNet420",
    "build_model",
    "count_flops",
    "count_parameters",
    "decode_predictions",
    "get_spec",
    "preprocess_input",
]

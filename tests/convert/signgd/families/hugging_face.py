"""Families that the library transformers has, at their depth but narrow."""

import transformers


def _model(name, **sizes):
    # Larger weights than at initialisation where no batch norm follows, so that branches matter.
    sizes = {"initializer_range": 0.15, "num_labels": 10, **sizes}
    config = getattr(transformers, f"{name}Config")(**sizes)
    return getattr(transformers, f"{name}ForImageClassification")(config)


def resnet(layer_type, depths):
    widths = [16, 32, 64, 128] if layer_type == "bottleneck" else [8, 16, 32, 64]
    return _model(
        "ResNet", embedding_size=8, hidden_sizes=widths, depths=depths, layer_type=layer_type
    )


def regnet():
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16, 32, 64], "depths": [1, 2, 7, 12]}
    return _model("RegNet", groups_width=4, layer_type="x", **sizes)


def mobilenet_v2():
    return _model("MobileNetV2", image_size=32, depth_multiplier=0.35)


def efficientnet():
    return _model("EfficientNet", image_size=32, width_coefficient=0.25, depth_coefficient=1.0,
                  hidden_dim=320)  # fmt: skip


def convnext():
    return _model(
        "ConvNext", image_size=32, patch_size=2, hidden_sizes=[8, 16, 32, 64], depths=[3, 3, 9, 3]
    )


def vit():
    sizes = {"hidden_size": 32, "num_hidden_layers": 12, "num_attention_heads": 4}
    return _model("ViT", image_size=32, patch_size=4, intermediate_size=128, **sizes)


def swin():
    sizes = {"embed_dim": 16, "depths": [2, 2, 6], "num_heads": [2, 4, 8]}
    return _model("Swin", image_size=32, patch_size=2, window_size=4, **sizes)

"""The model: a backbone with heads."""

from dataclasses import dataclass

import torch
from torch import Tensor

from aigc_cli.model.backbone import Backbone
from aigc_cli.model.heads import ResidualHeads
from aigc_cli.runtime.saved import Freezing


@dataclass
class Model:
    """A backbone with heads: it computes scores from an image and its prompt.

    Attributes:
        freezing: the freeze boundary of training.
        kept: the boundary after which weights are saved; it is lower where a start model was trained further down.
    """

    backbone: Backbone
    heads: ResidualHeads
    freezing: Freezing
    kept: Freezing

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return next(self.heads.parameters()).device

    def collect_trained(self) -> dict[str, Tensor]:
        """All tensors of the heads and those of the backbone after the boundary `kept`, with buffers; not copies."""
        image, text = self.backbone.image, self.backbone.text
        trained = image.find_trainable_ids(self.kept.image) | text.find_trainable_ids(self.kept.text)
        backbone = self.backbone.modules().state_dict(prefix="backbone.", keep_vars=True)
        kept = {name: tensor for name, tensor in backbone.items() if id(tensor) in trained}
        kept |= self.heads.state_dict(prefix="heads.")
        return {name: tensor.detach() for name, tensor in kept.items()}

    def copy_trained(self) -> dict[str, Tensor]:
        """Copies of what `collect_trained` returns."""
        return {name: tensor.clone() for name, tensor in self.collect_trained().items()}

    def load_trained(self, tensors: dict[str, Tensor]) -> None:
        """Copies the tensors that `copy_trained` returned back into the model."""
        with torch.no_grad():
            own = self.backbone.modules().state_dict(prefix="backbone.", keep_vars=True)
            own |= self.heads.state_dict(prefix="heads.", keep_vars=True)
            for name, tensor in tensors.items():
                own[name].copy_(tensor)

    def count_trainable(self) -> int:
        """The number of trainable parameters."""
        modules = (self.heads, self.backbone.modules())
        return sum(p.numel() for module in modules for p in module.parameters() if p.requires_grad)

    def eval(self) -> None:
        """Sets eval mode for backbone and heads."""
        self.backbone.eval()
        self.heads.eval()

"""A backbone with trained heads: what training changes and what scores."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from aigc_cli.model.backbone import Backbone, Freezing
from aigc_cli.model.heads import ResidualHeads


@dataclass
class Judge:
    """A backbone with trained heads: everything that turns an image and its prompt into scores."""

    backbone: Backbone
    heads: ResidualHeads
    freezing: Freezing

    def learnt(self) -> dict[str, Tensor]:
        """The heads' tensors and the backbone's that are not frozen, buffers included: themselves, not copies."""
        learnt: set[int] = set()
        for tower, boundary in ((self.backbone.image, self.freezing.image), (self.backbone.text, self.freezing.text)):
            for part in tower.trainable_parts(boundary):
                tensors = [*part.parameters(), *part.buffers()] if isinstance(part, nn.Module) else [part]
                learnt |= {id(tensor) for tensor in tensors}
        backbone = self.backbone.modules().state_dict(prefix="backbone.", keep_vars=True)
        kept = {name: tensor for name, tensor in backbone.items() if id(tensor) in learnt}
        kept |= self.heads.state_dict(prefix="heads.")
        return {name: tensor.detach() for name, tensor in kept.items()}

    def state(self) -> dict[str, Tensor]:
        """Copies of what `learnt` returns."""
        return {name: tensor.clone() for name, tensor in self.learnt().items()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Puts back what `state` returned."""
        with torch.no_grad():
            own = self.backbone.modules().state_dict(prefix="backbone.", keep_vars=True)
            own |= self.heads.state_dict(prefix="heads.", keep_vars=True)
            for name, tensor in state.items():
                own[name].copy_(tensor)

    def trainable(self) -> int:
        """How many parameters are trained."""
        modules = (self.heads, self.backbone.modules())
        return sum(p.numel() for module in modules for p in module.parameters() if p.requires_grad)

    def eval(self) -> None:
        """Eval mode throughout."""
        self.backbone.eval()
        self.heads.eval()

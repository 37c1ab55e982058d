"""A BERT-style sentence encoder from PyTorch's own layers: the text tower of `mini`."""

from torch import Tensor, nn
from torch.nn import functional as F

from aigc_cli.runtime.tokenizer import PAD


class SentenceEncoder(nn.Module):
    """A mean-pooled BERT with a linear projection.

    Reimers and Gurevych, Sentence-BERT, EMNLP 2019 (arXiv:1908.10084), over the post-norm transformer of Devlin et al.,
    NAACL 2019. A prompt is one segment, so the position embeddings include the token type embedding.
    """

    def __init__(
        self, vocab_size: int, width: int, heads: int, layers: int, mlp_width: int, context_length: int, embed_dim: int
    ) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.position_embedding = nn.Embedding(context_length, width)
        self.ln_embedding = nn.LayerNorm(width, eps=1e-12)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, mlp_width, dropout=0.0, activation="gelu", layer_norm_eps=1e-12, batch_first=True
            )
            for _ in range(layers)
        )
        self.projection = nn.Linear(width, embed_dim)

    def run_stem(self, tokens: Tensor) -> Tensor:
        """The input of the first block (B, L, width), from token ids (B, L)."""
        positions = self.position_embedding.weight[: tokens.shape[1]]
        return self.ln_embedding(self.token_embedding(tokens) + positions)  # type: ignore[no-any-return]

    def run_tail(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """Text embeddings (B, embed_dim), not normalised, from the last block's output (B, L, width)."""
        mask = (tokens != PAD).unsqueeze(-1)
        pooled = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
        return self.projection(F.normalize(pooled, dim=-1))  # type: ignore[no-any-return]

    def forward(self, tokens: Tensor) -> Tensor:
        """Text embeddings (B, embed_dim), not normalised, from token ids (B, L)."""
        hidden = self.run_stem(tokens)
        for block in self.blocks:
            hidden = block(hidden, src_key_padding_mask=tokens == PAD)
        return self.run_tail(hidden, tokens)

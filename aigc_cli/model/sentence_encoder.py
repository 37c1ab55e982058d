"""A BERT-style sentence encoder made of PyTorch's own layers: the text tower of `mini`."""

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

PAD = 0


class SentenceTokenizer:
    """WordPiece tokens of fixed width, the end token kept when a prompt is cut.

    Args:
        path: a `tokenizer.json` as the `tokenizers` library writes it.
        context_length: tokens a prompt may have, the two special ones included.
    """

    def __init__(self, path: Path, context_length: int) -> None:
        self.context_length = context_length
        self._tokenizer = Tokenizer.from_file(str(path))
        self._tokenizer.enable_truncation(context_length)
        self._tokenizer.enable_padding(pad_id=PAD)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Token ids, int64, shape (len(texts), L); L is the longest of these texts, padded with `PAD`."""
        return torch.tensor([encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))])

    def truncates(self, text: str) -> bool:
        """Whether a part of `text` does not fit into the context."""
        return bool(self._tokenizer.encode(text).overflowing)


class SentenceEncoder(nn.Module):
    """Mean-pooled BERT followed by a linear projection.

    Reimers and Gurevych, Sentence-BERT, EMNLP 2019 (arXiv:1908.10084), over the post-norm transformer of Devlin et al.,
    NAACL 2019. Token type embeddings are folded into the position embeddings, since a prompt is one segment.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        width: int,
        heads: int,
        layers: int,
        mlp_width: int,
        context_length: int,
        embed_dim: int,
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

    def stem(self, tokens: Tensor) -> Tensor:
        """Embeddings entering the first block, shape (B, L, width), for token ids (B, L)."""
        positions = self.position_embedding.weight[: tokens.shape[1]]
        return self.ln_embedding(self.token_embedding(tokens) + positions)  # type: ignore[no-any-return]

    def tail(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """Text embeddings (B, embed_dim), not normalised, from the last block's output (B, L, width)."""
        mask = (tokens != PAD).unsqueeze(-1)
        pooled = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
        return self.projection(F.normalize(pooled, dim=-1))  # type: ignore[no-any-return]

    def forward(self, tokens: Tensor) -> Tensor:
        """Text embeddings (B, embed_dim), not normalised, for token ids (B, L)."""
        hidden = self.stem(tokens)
        for block in self.blocks:
            hidden = block(hidden, src_key_padding_mask=tokens == PAD)
        return self.tail(hidden, tokens)

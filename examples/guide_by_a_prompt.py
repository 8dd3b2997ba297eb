"""Guide by a prompt, with CLIP: python examples/guide_by_a_prompt.py RUN "a red car" grid.png

CLIP comes with the package open_clip_torch, which fetches weights at first. From the command line, in examples/:
python ../scripts/sample.py --diffusion RUN --out samples --guidance.function guide_by_a_prompt:Prompt \
    --guidance.function_options '{text: a red car}' --guidance.function_scale 2
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from guided_diffusion import GuidedDiffusion, through_network
from guided_diffusion.data.pictures import write_png
from guided_diffusion.diffusion.images import grid


@through_network
class Prompt(nn.Module):
    """CLIP's logit of a text for images: 100 cos(text, image), a log-density but for its constant."""

    def __init__(self, text: str, name: str = "ViT-B-32", weights: str = "openai") -> None:
        super().__init__()
        try:
            import open_clip  # pyright: ignore[reportMissingImports]  # the user's to install
        except ImportError:
            raise ImportError("guiding by a prompt needs CLIP: pip install open_clip_torch") from None
        self.clip, self.words = open_clip.create_model(name, weights), open_clip.get_tokenizer(name)([text])

    def forward(self, x_0: Tensor) -> Tensor:
        x = F.interpolate((x_0.expand(-1, 3, -1, -1) + 1) / 2, (224, 224), mode="bicubic", antialias=True)
        x = (x - x.new_tensor([0.481, 0.458, 0.408]).reshape(-1, 1, 1)) / 0.27  # CLIP's own normalisation, nearly
        return 100 * F.cosine_similarity(self.clip.encode_image(x), self.clip.encode_text(self.words.to(x.device)))


if __name__ == "__main__":
    pipeline = GuidedDiffusion.load(sys.argv[1], function=through_network(Prompt, text=sys.argv[2]))
    write_png(Path(sys.argv[3]), grid(torch.from_numpy(pipeline.sample(num_samples=16)).permute(0, 3, 1, 2), columns=4))

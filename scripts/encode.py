"""Images to DDIM's latents and back: python scripts/encode.py --diffusion RUN --data.path DIR --out DIR"""

from guided_diffusion.config import run_script
from guided_diffusion.generation.encoding import EncodeConfig, encode

if __name__ == "__main__":
    run_script(EncodeConfig, encode)

"""Images to DDIM's latents and back: python scripts/encode.py --diffusion RUN --data.path DIR --out DIR"""

from guided_diffusion.commands.encode import main

if __name__ == "__main__":
    main()

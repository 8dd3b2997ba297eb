"""Make parts of images anew: python scripts/inpaint.py --diffusion RUN --data.path DIR --mask mask.png --out DIR"""

from guided_diffusion.commands.inpaint import main

if __name__ == "__main__":
    main()

"""Write a diffusion model as a pipeline of diffusers: python scripts/export_diffusers.py runs/adm64 --out adm64"""

from guided_diffusion.commands.export_diffusers import main

if __name__ == "__main__":
    main()

"""Make a run directory of a pipeline of diffusers: python scripts/import_diffusers.py FOLDER --out runs/adm64"""

from guided_diffusion.commands.import_diffusers import main

if __name__ == "__main__":
    main()

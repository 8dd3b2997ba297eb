"""Make a run directory of a published file: python scripts/import_openai.py 64x64_diffusion.pt --out runs/adm64"""

from guided_diffusion.commands.import_openai import main

if __name__ == "__main__":
    main()

"""Write a checkpoint in the published layout: python scripts/export_openai.py runs/adm64 --out adm64.pt"""

from guided_diffusion.commands.export_openai import main

if __name__ == "__main__":
    main()

"""Write a checkpoint in the published layout: python scripts/export_openai.py runs/adm64 --out adm64.pt"""

import sys

from guided_diffusion.config import run_script
from guided_diffusion.openai.files import ExportConfig, export_openai, with_file_named

if __name__ == "__main__":
    run_script(ExportConfig, export_openai, with_file_named("run", sys.argv[1:]))

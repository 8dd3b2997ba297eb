"""Make a run directory of a published file: python scripts/import_openai.py 64x64_diffusion.pt --out runs/adm64"""

import sys

from guided_diffusion.config import run_script
from guided_diffusion.openai.files import ImportConfig, import_openai, with_file_named

if __name__ == "__main__":
    run_script(ImportConfig, import_openai, with_file_named("file", sys.argv[1:]))

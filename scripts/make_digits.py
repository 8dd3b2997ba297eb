"""Write scikit-learn's handwritten digits as class folders: python scripts/make_digits.py --out runs/demo/digits"""

from guided_diffusion.commands.make_digits import main

if __name__ == "__main__":
    main()
